//! What a driver sees of the network.

use super::{HostId, Incoming, MILLISECOND, Network, State};
use std::io;
use underlay::backend::{
    Channel, ConnectError, ListenError, Listener, Listening, OneSided, Path, SendRefused, Wire, WireEvent,
    WireKind,
};
use underlay::pool::{GatherList, Pool, Segment};

/// The most bytes of several pieces that are handed over in one buffer, as the kernel joins what has arrived.
const JOINED_BYTES_MAX: usize = 16_384;

/// One kind of wire of one life of a host's process.
#[derive(Debug)]
pub(super) struct SimulatedWire {
    network: Network,
    host: HostId,
    life: u32,
    kind: WireKind,
}

impl SimulatedWire {
    pub(super) fn new(network: Network, host: HostId, life: u32, kind: WireKind) -> Self {
        Self { network, host, life, kind }
    }

    /// The network, while the process that this wire belongs to lives.
    pub(super) fn alive<T>(&self, act: impl FnOnce(&mut State) -> T) -> Option<T> {
        let mut state = self.network.state();
        let host = &state.hosts[self.host.0];
        (host.is_up && host.life == self.life).then(|| act(&mut state))
    }

    pub(super) fn place(&self) -> (HostId, WireKind) {
        (self.host, self.kind)
    }
}

impl Wire for SimulatedWire {
    fn listen(&mut self, address: &str) -> Result<Listening, ListenError> {
        let (host, kind) = (self.host, self.kind);
        let dead = || ListenError::InUse { address: address.to_owned() };
        self.alive(|state| state.listen(host, kind, address)).ok_or_else(dead)?
    }

    fn connect(&mut self, address: &str) -> Result<Channel, ConnectError> {
        let (host, kind) = (self.host, self.kind);
        self.alive(|state| state.connect(host, kind, address)).ok_or_else(|| ConnectError::System {
            address: address.to_owned(),
            error: io::Error::other("this process is dead"),
        })
    }

    fn send(&mut self, channel: Channel, gather: &mut GatherList) -> Result<(), SendRefused> {
        let (host, kind) = (self.host, self.kind);
        self.alive(|state| state.send(host, kind, channel, gather)).unwrap_or(Err(SendRefused::NotOpen))
    }

    fn close(&mut self, channel: Channel) {
        let (host, kind) = (self.host, self.kind);
        self.alive(|state| state.close(host, kind, channel));
    }

    fn stop_listening(&mut self, listener: Listener) {
        let (host, kind) = (self.host, self.kind);
        self.alive(|state| {
            state.hosts[host.0].wires[kind.index()].listeners.retain(|(other, _)| *other != listener);
        });
    }

    fn poll(&mut self, pool: &mut Pool, events: &mut Vec<WireEvent>) -> io::Result<()> {
        let (host, kind) = (self.host, self.kind);
        self.alive(|state| {
            while let Some(incoming) = state.hosts[host.0].wires[kind.index()].inbox.pop_front() {
                if !state.hand_over((host, kind), incoming, pool, events) {
                    break;
                }
            }
        });
        Ok(())
    }

    fn one_sided(&mut self) -> Option<&mut dyn OneSided> {
        let kind = self.kind.index();
        let is_there = self.network.state().reader.reading.is_there[kind];
        is_there.then_some(self as &mut dyn OneSided)
    }
}

/// A driver is gone: as where a process ends, its channels are closed, and what they have taken still arrives.
impl Drop for SimulatedWire {
    fn drop(&mut self) {
        let (host, kind) = (self.host, self.kind);
        self.alive(|state| state.close_wire(host, kind));
    }
}

impl State {
    /// Turns news into an event of the wire; false when the pool has no buffer for it.
    fn hand_over(
        &mut self,
        (host, kind): (HostId, WireKind),
        incoming: Incoming,
        pool: &mut Pool,
        events: &mut Vec<WireEvent>,
    ) -> bool {
        let packet_bytes = if kind == WireKind::Tcp { 1448 } else { 65_536 };
        match incoming {
            Incoming::Accepted { listener, channel, peer } => {
                events.push(WireEvent::Accepted { listener, channel, path: Path { peer, packet_bytes } });
            }
            Incoming::Connected { channel, peer } => {
                events.push(WireEvent::Connected { channel, path: Path { peer, packet_bytes } });
            }
            Incoming::Sent { channel } => events.push(WireEvent::Sent { channel }),
            Incoming::Read { channel, read, outcome } => {
                let outcome = outcome.map_err(io::Error::other);
                events.push(WireEvent::Read { channel, read, outcome });
            }
            Incoming::Closed { channel, reason } => {
                self.free_slot(host, kind, channel);
                events.push(WireEvent::Closed { channel, reason });
            }
            // Within a process references are handed over; from anywhere else bytes come into buffers of one's own.
            Incoming::Bytes { channel, from, segment } if kind == WireKind::Inproc => {
                self.taken(from, segment.len());
                events.push(WireEvent::Received { channel, segment });
            }
            Incoming::Bytes { channel, from, segment } => {
                let Some(joined) = self.copied((host, kind), &segment, channel, pool) else {
                    let wire = &mut self.hosts[host.0].wires[kind.index()];
                    wire.inbox.push_front(Incoming::Bytes { channel, from, segment });
                    wire.starved_until = self.now + MILLISECOND;
                    return false;
                };
                self.taken(from, joined.len());
                events.push(WireEvent::Received { channel, segment: joined });
            }
        }
        true
    }

    /// A piece in a buffer of the pool, together with those behind it that fit.
    fn copied(
        &mut self,
        (host, kind): (HostId, WireKind),
        first: &Segment,
        channel: Channel,
        pool: &mut Pool,
    ) -> Option<Segment> {
        let inbox = &mut self.hosts[host.0].wires[kind.index()].inbox;
        let follows = |incoming: &&Incoming| matches!(incoming, Incoming::Bytes { channel: other, .. } if *other == channel);
        let mut bytes = first.len();
        let mut count = 0;
        for incoming in inbox.iter().take_while(follows) {
            let Incoming::Bytes { segment, .. } = incoming else { break };
            if bytes + segment.len() > JOINED_BYTES_MAX {
                break;
            }
            bytes += segment.len();
            count += 1;
        }
        let mut buffer = pool.buffer(bytes).ok()?;
        buffer.put_slice(first);
        for incoming in inbox.drain(..count) {
            if let Incoming::Bytes { segment, .. } = incoming {
                buffer.put_slice(&segment);
            }
        }
        Some(buffer.split())
    }
}
