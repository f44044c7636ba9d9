//! A wire that does what another does, but for what a test changes.

use std::io;
use std::time::Duration;
use underlay::backend::{
    Channel, ConnectError, Descriptor, ExposeRefused, ListenError, Listener, Listening, OneSided,
    ReadRefused, SendRefused, Wire, WireEvent,
};
use underlay::pool::{Body, GatherList, Pool};

/// What a test changes about a wire: each call is done by the wire itself, unless it is done here.
pub(crate) trait Change<W: Wire + ?Sized> {
    fn listen(&mut self, wire: &mut W, address: &str) -> Result<Listening, ListenError> {
        wire.listen(address)
    }

    fn connect(&mut self, wire: &mut W, address: &str) -> Result<Channel, ConnectError> {
        wire.connect(address)
    }

    fn poll(&mut self, wire: &mut W, pool: &mut Pool, events: &mut Vec<WireEvent>) -> io::Result<()> {
        wire.poll(pool, events)
    }

    fn exposures_max(&mut self, wire: &mut W, channel: Channel) -> usize {
        one_sided(wire).exposures_max(channel)
    }

    fn expose(
        &mut self,
        wire: &mut W,
        channel: Channel,
        exposure: u64,
        body: &Body,
    ) -> Result<Descriptor, ExposeRefused> {
        one_sided(wire).expose(channel, exposure, body)
    }

    fn withdraw(&mut self, wire: &mut W, channel: Channel, exposure: u64) {
        one_sided(wire).withdraw(channel, exposure);
    }

    fn read(
        &mut self,
        wire: &mut W,
        channel: Channel,
        read: u64,
        descriptor: &[u8],
        bytes: u64,
        pool: &mut Pool,
    ) -> Result<(), ReadRefused> {
        one_sided(wire).read(channel, read, descriptor, bytes, pool)
    }

    /// When the wire is dropped, before it.
    fn end(&mut self, _wire: &mut W) {}
}

/// The one-sided part of a wire that has one.
pub(crate) fn one_sided<W: Wire + ?Sized>(wire: &mut W) -> &mut dyn OneSided {
    wire.one_sided().expect("a wire with one-sided reads")
}

/// The wire with the change.
pub(crate) struct Changed<W: Wire + ?Sized, C: Change<W>> {
    wire: Box<W>,
    change: C,
}

impl<W: Wire + ?Sized, C: Change<W>> Changed<W, C> {
    pub(crate) fn new(wire: Box<W>, change: C) -> Self {
        Self { wire, change }
    }
}

impl<W: Wire + ?Sized, C: Change<W>> Drop for Changed<W, C> {
    fn drop(&mut self) {
        self.change.end(&mut self.wire);
    }
}

impl<W: Wire + ?Sized, C: Change<W>> Wire for Changed<W, C> {
    fn listen(&mut self, address: &str) -> Result<Listening, ListenError> {
        self.change.listen(&mut self.wire, address)
    }

    fn connect(&mut self, address: &str) -> Result<Channel, ConnectError> {
        self.change.connect(&mut self.wire, address)
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
        self.change.poll(&mut self.wire, pool, events)
    }

    fn arm(&mut self) -> io::Result<()> {
        self.wire.arm()
    }

    fn sleep_max(&self) -> Option<Duration> {
        self.wire.sleep_max()
    }

    fn one_sided(&mut self) -> Option<&mut dyn OneSided> {
        Some(self)
    }
}

impl<W: Wire + ?Sized, C: Change<W>> OneSided for Changed<W, C> {
    fn exposures_max(&mut self, channel: Channel) -> usize {
        self.change.exposures_max(&mut self.wire, channel)
    }

    fn expose(&mut self, channel: Channel, exposure: u64, body: &Body) -> Result<Descriptor, ExposeRefused> {
        self.change.expose(&mut self.wire, channel, exposure, body)
    }

    fn withdraw(&mut self, channel: Channel, exposure: u64) {
        self.change.withdraw(&mut self.wire, channel, exposure);
    }

    fn read(
        &mut self,
        channel: Channel,
        read: u64,
        descriptor: &[u8],
        bytes: u64,
        pool: &mut Pool,
    ) -> Result<(), ReadRefused> {
        self.change.read(&mut self.wire, channel, read, descriptor, bytes, pool)
    }
}
