//! `rdma`, between the RDMA devices whose addresses `UNDERLAY_RDMA_ADDRESSES` names. They may be one and the same.

#[path = "../../support/addresses.rs"]
mod addresses;

use crate::subject::{Subject, WireUnderTest};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;
use underlay::Wakeup;
use underlay::backend::inproc::InprocWaitPoint;
use underlay::backend::rdma::{RdmaConfig, RdmaWire};
use underlay::backend::{
    Channel, ConnectError, ListenError, Listener, Listening, SendRefused, WaitPoint, Wire, WireEvent,
};
use underlay::pool::{GatherList, Pool, PoolConfig};

pub(crate) struct Rdma {
    hosts: Result<[IpAddr; 2], String>,
}

impl Subject for Rdma {
    type Wire = RdmaEnd;
    const NAME: &'static str = "rdma";
    const PASSES_REFERENCES: bool = false;
    const BAD_ADDRESSES: &'static [&'static str] =
        &["", "127.0.0.1", "127.0.0.1:70000", ":7400", "::1:7400", "[::1:7400"];

    fn new() -> Self {
        Self { hosts: addresses::of_devices() }
    }

    fn open(&self, _pool: &mut Pool) -> Result<RdmaEnd, String> {
        self.hosts.clone()?;
        // A send that finds no receive request is to break a test and not to hide.
        let config = RdmaConfig { receiver_not_ready_retry_count: 0, ..RdmaConfig::default() };
        let wire = RdmaWire::open(config).map_err(|error| error.to_string())?;
        let wakeup = Arc::new(Wakeup::new().map_err(|error| error.to_string())?);
        let mut wait = InprocWaitPoint::new(wakeup);
        wait.watch(wire.descriptor()).map_err(|error| error.to_string())?;
        Ok(RdmaEnd { wire, wait })
    }

    fn addresses(&self) -> [String; 2] {
        self.hosts.clone().map_or_else(
            |_| Default::default(),
            |[left, right]| [right, left].map(|host| SocketAddr::new(host, 0).to_string()),
        )
    }

    fn nobody(&self) -> String {
        // Below what is given out for port 0, and nothing of ours listens there.
        self.hosts
            .clone()
            .map_or_else(|_| String::new(), |[_, right]| SocketAddr::new(right, 1023).to_string())
    }

    /// Half of it is for receive requests, of which 24 connections have 16 of 17 KiB each.
    fn pool(&self) -> PoolConfig {
        PoolConfig { bytes_max: 16 << 20, slab_bytes: 64 << 10, huge_pages: false }
    }
}

/// The wire with its wait point.
pub(crate) struct RdmaEnd {
    wire: RdmaWire,
    wait: InprocWaitPoint,
}

impl WireUnderTest for RdmaEnd {
    fn about_to_sleep(&mut self) {
        self.wire.arm().expect("the devices can be armed");
    }
}

impl Wire for RdmaEnd {
    fn listen(&mut self, address: &str) -> Result<Listening, ListenError> {
        self.wire.listen(address)
    }

    fn connect(&mut self, address: &str) -> Result<Channel, ConnectError> {
        self.wire.connect(address)
    }

    fn send(&mut self, channel: Channel, gather: &mut GatherList) -> Result<(), SendRefused> {
        self.wire.send(channel, gather)
    }

    fn close(&mut self, channel: Channel) {
        self.wire.close(channel);
    }

    fn stop_listening(&mut self, listener: Listener) {
        self.wire.stop_listening(listener);
    }

    fn poll(&mut self, pool: &mut Pool, events: &mut Vec<WireEvent>) -> io::Result<()> {
        self.wire.poll(pool, events)
    }
}

impl WaitPoint for RdmaEnd {
    fn watch(&mut self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.wait.watch(descriptor)
    }

    fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.wait.sleep([timeout, self.wire.sleep_max()].into_iter().flatten().min())
    }
}
