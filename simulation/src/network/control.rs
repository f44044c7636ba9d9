//! Channels: listening, connecting, closing.

use super::weather::{Effect, Way};
use super::{End, EndRef, EndState, Event, Far, HostId, HostWire, Incoming, Piece, Slot, State, What};
use std::collections::VecDeque;
use std::io;
use underlay::backend::{Channel, ChannelEnd, ListenError, Listener, Listening, WireKind};

impl State {
    pub(super) fn listen(
        &mut self,
        host: HostId,
        kind: WireKind,
        address: &str,
    ) -> Result<Listening, ListenError> {
        if self.listener(kind, address).is_some() {
            return Err(ListenError::InUse { address: address.to_owned() });
        }
        let wire = self.wire(host, kind);
        let listener = Listener(wire.listeners_made);
        wire.listeners_made += 1;
        wire.listeners.push((listener, address.to_owned()));
        Ok(Listening { listener, address: address.to_owned() })
    }

    fn listener(&self, kind: WireKind, address: &str) -> Option<(HostId, Listener)> {
        self.hosts.iter().enumerate().filter(|(_, host)| host.is_up).find_map(|(place, host)| {
            let found = host.wires[kind.index()].listeners.iter().find(|(_, its)| its == address)?;
            Some((HostId(place), found.0))
        })
    }

    pub(super) fn connect(&mut self, host: HostId, kind: WireKind, address: &str) -> Channel {
        let from = self.new_end(host, kind, EndState::Connecting);
        self.trace(from, What::Connects, 0);
        let far = self.listener(kind, address).map_or(host, |(far, _)| far);
        let way = Way { kind, hosts: [host, far], now: self.now };
        let arrival = self.now + self.weather.latency(way);
        if self.weather.until(way, Effect::Refuses).is_some() {
            self.at(arrival, Event::Break { end: from, why: "connection refused" });
        } else if let Some(until) =
            self.weather.until(way, Effect::Holds).max(self.weather.until(way, Effect::Hangs))
        {
            // The kernel tries again for a while, and gives up in the end; nobody here waits so long.
            self.at(until + 30 * super::SECOND, Event::Break { end: from, why: "connection timed out" });
        } else {
            self.at(arrival, Event::Knock { from, address: address.to_owned() });
        }
        self.ends[from.place].channel
    }

    pub(super) fn knock(&mut self, from: EndRef, address: &str) {
        let Some(&mut End { host: near, kind, .. }) = self.end(from) else { return };
        let Some((host, listener)) = self.listener(kind, address) else {
            let way = Way { kind, hosts: [near, near], now: self.now };
            let heard = self.now + self.weather.latency(way);
            return self.at(heard, Event::Break { end: from, why: "connection refused" });
        };
        let to = self.new_end(host, kind, EndState::Open);
        self.ends[to.place].far = Far::There(from);
        self.ends[from.place].far = Far::There(to);
        let heard = self.now + self.weather.latency(self.way(to));
        // Nothing that the accepting end says is heard before that it has accepted.
        self.ends[to.place].last_arrival = heard + 1;
        if let Some(cut) = self.ambush.take() {
            let speaker = if self.random.once_in(2) { from } else { to };
            self.ends[speaker.place].cut = Some(cut);
        }
        let (channel, peer) = (self.ends[to.place].channel, self.hosts[near.0].name.clone());
        self.trace(to, What::Accepted, near.0 as u64);
        self.wire(host, kind).inbox.push_back(Incoming::Accepted { listener, channel, peer });
        let peer = self.hosts[host.0].name.clone();
        self.at(heard, Event::Welcome { end: from, peer });
    }

    pub(super) fn welcome(&mut self, end: EndRef, peer: String) {
        let Some(found) = self.end(end) else { return };
        found.state = EndState::Open;
        let (host, kind, channel) = (found.host, found.kind, found.channel);
        self.trace(end, What::Connected, 0);
        self.wire(host, kind).inbox.push_back(Incoming::Connected { channel, peer });
    }

    /// A driver closes its end. What the wire has taken still arrives, and of a send that is not done, a part.
    pub(super) fn close(&mut self, host: HostId, kind: WireKind, channel: Channel) {
        let Some(from) = self.find(host, kind, channel) else { return };
        if self.end(from).is_none() {
            return;
        }
        self.trace(from, What::Closes, 0);
        let (far, is_sending) = (self.ends[from.place].far, self.ends[from.place].is_sending);
        if let Far::There(to) = far {
            let way = self.way(from);
            if is_sending {
                self.truncate(to, self.ends[from.place].flight_bytes);
            }
            let due = self.ends[from.place].last_arrival.max(self.now + self.weather.latency(way));
            if self.end(to).is_some() {
                let far = &mut self.ends[to.place];
                far.far = Far::Lost { host, says_so: true };
                far.pieces.push_back((due, Piece::End));
                self.at(due, Event::Arrive(to));
            }
        }
        self.end_with(from, ChannelEnd::Local);
    }

    /// Ends everything on a wire whose driver is gone.
    pub(super) fn close_wire(&mut self, host: HostId, kind: WireKind) {
        for place in 0..self.ends.len() {
            let end = &self.ends[place];
            if end.host == host && end.kind == kind && end.state != EndState::Free {
                let channel = end.channel;
                // What the wire was given is the kernel's, and outlives whoever gave it.
                self.ends[place].is_sending = false;
                self.close(host, kind, channel);
                self.free_slot(host, kind, channel);
            }
        }
        let wire = self.wire(host, kind);
        wire.inbox.clear();
        wire.listeners.clear();
    }

    pub(super) fn peer_closed(&mut self, end: EndRef) {
        self.trace(end, What::PeerClosed, 0);
        // A connection that was accepted and closed before the other end heard of it never came up for that one.
        let reason = match self.ends[end.place].state {
            EndState::Connecting => ChannelEnd::ConnectFailed(io::ErrorKind::ConnectionReset.into()),
            _ => ChannelEnd::Peer,
        };
        self.end_with(end, reason);
    }

    pub(super) fn break_end(&mut self, end: EndRef, why: &'static str) {
        let Some(found) = self.end(end) else { return };
        let reason = match found.state {
            EndState::Connecting => ChannelEnd::ConnectFailed(io::Error::other(why)),
            _ => ChannelEnd::Broken(io::Error::other(why)),
        };
        self.trace(end, What::Broken, 0);
        self.end_with(end, reason);
    }

    /// Ends an end, and has its driver told. Its peer hears nothing of it.
    fn end_with(&mut self, end: EndRef, reason: ChannelEnd) {
        let found = &mut self.ends[end.place];
        found.state = EndState::Ended;
        found.flight.clear();
        found.pieces.clear();
        found.exposures.clear();
        found.reads.clear();
        let (host, kind, channel, far) = (found.host, found.kind, found.channel, found.far);
        if let Far::There(far) = far
            && let Some(far) = self.end(far)
            && matches!(far.far, Far::There(_))
        {
            far.far = Far::Lost { host, says_so: true };
        }
        self.wire(host, kind).inbox.push_back(Incoming::Closed { channel, reason });
    }

    pub(super) fn new_end(&mut self, host: HostId, kind: WireKind, state: EndState) -> EndRef {
        let place = self.free_ends.pop().unwrap_or(self.ends.len());
        let wire = self.wire(host, kind);
        let slot = wire.free.pop().unwrap_or(wire.slots.len() as u32);
        match wire.slots.get_mut(slot as usize) {
            Some(free) => free.end = place,
            None => wire.slots.push(Slot { generation: 0, end: place }),
        }
        let channel = Channel { slot, generation: wire.slots[slot as usize].generation };
        let generation = self.ends.get(place).map_or(0, |free| free.generation);
        let end = End {
            generation,
            host,
            kind,
            channel,
            state,
            far: Far::Unknown,
            flight: Vec::new(),
            flight_bytes: 0,
            is_sending: false,
            is_blocked: false,
            in_the_air: 0,
            last_arrival: 0,
            cut: None,
            pieces: VecDeque::new(),
            exposures: Vec::new(),
            reads: Vec::new(),
        };
        match self.ends.get_mut(place) {
            // Its lists stay, so that a run allocates little.
            Some(free) => {
                let (flight, pieces) = (std::mem::take(&mut free.flight), std::mem::take(&mut free.pieces));
                *free = End { flight, pieces, ..end };
            }
            None => self.ends.push(end),
        }
        EndRef { place, generation }
    }

    pub(super) fn free_end(&mut self, place: usize) {
        let end = &mut self.ends[place];
        end.state = EndState::Free;
        end.generation += 1;
        end.flight.clear();
        end.pieces.clear();
        end.exposures.clear();
        end.reads.clear();
        self.free_ends.push(place);
    }

    /// The driver has heard of the end of a channel: its slot may be used again.
    pub(super) fn free_slot(&mut self, host: HostId, kind: WireKind, channel: Channel) {
        let Some(found) = self.find(host, kind, channel) else { return };
        let slot = &mut self.wire(host, kind).slots[channel.slot as usize];
        slot.generation += 1;
        self.wire(host, kind).free.push(channel.slot);
        self.free_end(found.place);
    }

    pub(super) fn find(&self, host: HostId, kind: WireKind, channel: Channel) -> Option<EndRef> {
        let slot = self.hosts[host.0].wires[kind.index()].slots.get(channel.slot as usize)?;
        (slot.generation == channel.generation)
            .then(|| EndRef { place: slot.end, generation: self.ends[slot.end].generation })
    }

    pub(super) fn wire(&mut self, host: HostId, kind: WireKind) -> &mut HostWire {
        &mut self.hosts[host.0].wires[kind.index()]
    }
}
