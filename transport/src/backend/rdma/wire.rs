//! The wire as the rest of the library sees it: an engine over the real device.

use super::engine::Engine;
use super::verbs::Verbs;
use super::verbs::real::RealVerbs;
use super::{RdmaConfig, RdmaDevice, RdmaOpenError};
use crate::backend::{
    Channel, ConnectError, ListenError, Listener, Listening, OneSided, SendRefused, Wire, WireEvent, WireKind,
};
use crate::pool::{GatherList, Pool};
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// One thread's channels and listeners over the RDMA devices of this machine.
///
/// Addresses have the form `host:port`, as on the TCP wire, of IP addresses that belong to RDMA devices: on RoCE and
/// soft-RoCE those of the network interface beneath, on InfiniBand those of IPoIB. A host name is looked up by the
/// system's resolver, which may block for seconds. Ports are the connection manager's: they are apart from TCP's.
///
/// It stays on the thread that opened it. Dropping it lets what was sent leave, for 200 ms at most, and ends all
/// channels without events.
#[derive(Debug)]
pub struct RdmaWire {
    engine: Engine<RealVerbs>,
}

impl RdmaWire {
    /// Opens the connection manager. Devices are opened when a connection first needs them.
    ///
    /// # Errors
    /// [`RdmaOpenError`]: a value that cannot work, or a machine without RDMA, with what is missing.
    pub fn open(config: RdmaConfig) -> Result<Self, RdmaOpenError> {
        config.validate()?;
        Ok(Self { engine: Engine::new(RealVerbs::open()?, config) })
    }

    /// What a wait point has to watch: readable when there is something to poll for, once [`Wire::arm`] was called.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.engine.verbs.descriptor()
    }

    /// The device that listening takes is not there: the connection manager itself would listen at `0.0.0.0` without
    /// any, and would find out about a device that must be used with the first connection.
    fn missing_device(&self) -> Option<String> {
        if let Some(reason) = RdmaDevice::none_because() {
            return Some(reason);
        }
        let wanted = self.engine.config.device.as_deref()?;
        // Where the kernel's list cannot be read nothing is known.
        let devices = RdmaDevice::all().ok()?;
        let names: Vec<&str> = devices.iter().map(|device| &*device.name).collect();
        let is_there = names.is_empty() || names.contains(&wanted);
        let others = names.join(", ");
        (!is_there)
            .then(|| format!("there is no RDMA device '{wanted}', which must be used: there is {others}"))
    }
}

impl Wire for RdmaWire {
    fn listen(&mut self, address: &str) -> Result<Listening, ListenError> {
        if let Some(reason) = self.missing_device() {
            return Err(ListenError::NoWire { address: address.to_owned(), wire: WireKind::Rdma, reason });
        }
        self.engine.listen(address)
    }

    fn connect(&mut self, address: &str) -> Result<Channel, ConnectError> {
        self.engine.connect(address)
    }

    #[inline]
    fn send(&mut self, channel: Channel, gather: &mut GatherList) -> Result<(), SendRefused> {
        self.engine.send(channel, gather)
    }

    fn close(&mut self, channel: Channel) {
        self.engine.close(channel);
    }

    fn stop_listening(&mut self, listener: Listener) {
        self.engine.stop_listening(listener);
    }

    #[inline]
    fn poll(&mut self, pool: &mut Pool, events: &mut Vec<WireEvent>) -> io::Result<()> {
        self.engine.poll(pool, events)
    }

    fn arm(&mut self) -> io::Result<()> {
        self.engine.arm();
        Ok(())
    }

    fn sleep_max(&self) -> Option<Duration> {
        self.engine.sleep_max()
    }

    fn one_sided(&mut self) -> Option<&mut dyn OneSided> {
        Some(&mut self.engine)
    }
}
