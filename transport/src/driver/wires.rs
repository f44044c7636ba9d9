//! All wires of one driver.

use super::address::Address;
use crate::backend::inproc::{InprocNetwork, InprocWire};
use crate::backend::tcp::{OpenError, TcpConfig, TcpWire};
use crate::backend::{
    Channel, ConnectError, ListenError, Listener, Listening, SendRefused, WaitPoint, Wire, WireEvent,
    WireKind,
};
use crate::pool::{GatherList, Pool};
use crate::sync::Wakeup;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The wires, and the place where the driver sleeps, which is that of the TCP wire.
pub(super) struct Wires {
    pub(super) tcp: TcpWire,
    inproc: InprocWire,
    wakeup: Arc<Wakeup>,
}

impl Wires {
    pub(super) fn open(
        tcp: TcpConfig,
        network: InprocNetwork,
        wakeup: Arc<Wakeup>,
        pool: &mut Pool,
    ) -> Result<Self, WiresError> {
        let mut tcp = TcpWire::open(tcp, pool)?;
        tcp.watch(wakeup.descriptor()).map_err(WiresError::Watch)?;
        Ok(Self { tcp, inproc: InprocWire::new(network, wakeup.clone()), wakeup })
    }

    pub(super) fn listen(&mut self, address: &Address) -> Result<Listening, ListenError> {
        self.of(address.wire()).listen(address.place())
    }

    pub(super) fn stop_listening(&mut self, kind: WireKind, listener: Listener) {
        self.of(kind).stop_listening(listener);
    }

    pub(super) fn connect(&mut self, address: &Address) -> Result<Channel, ConnectError> {
        self.of(address.wire()).connect(address.place())
    }

    pub(super) fn send(
        &mut self,
        kind: WireKind,
        channel: Channel,
        gather: &mut GatherList,
    ) -> Result<(), SendRefused> {
        self.of(kind).send(channel, gather)
    }

    pub(super) fn close(&mut self, kind: WireKind, channel: Channel) {
        self.of(kind).close(channel);
    }

    pub(super) fn poll(
        &mut self,
        kind: WireKind,
        pool: &mut Pool,
        events: &mut Vec<WireEvent>,
    ) -> io::Result<()> {
        self.of(kind).poll(pool, events)
    }

    /// Sleeps until a wire has something to tell, the wakeup is signalled, or the time is over.
    pub(super) fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.tcp.sleep(timeout)
    }

    pub(super) fn wakeup(&self) -> &Arc<Wakeup> {
        &self.wakeup
    }

    fn of(&mut self, kind: WireKind) -> &mut dyn Wire {
        match kind {
            WireKind::Tcp => &mut self.tcp,
            WireKind::Inproc => &mut self.inproc,
        }
    }
}

/// Why a driver has no wires.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WiresError {
    /// The TCP wire does not open.
    #[error(transparent)]
    Tcp(#[from] OpenError),
    /// The wakeup descriptor cannot be watched.
    #[error("watching the wakeup descriptor failed: {0}")]
    Watch(#[source] io::Error),
}
