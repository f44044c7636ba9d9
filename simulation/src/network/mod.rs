//! The simulated network: what carries bytes between simulated processes, late, in pieces, or not at all.
//!
//! A [`Network`] has hosts. Each host has one wire of each kind, which a driver uses like a real one; the network decides
//! when what was sent arrives, and how it is cut. Whatever it decides follows from its seed and from the calls that were
//! made, so a run can be repeated.
//!
//! What it promises, because the wires that it stands for do: the bytes of a channel arrive in order, unchanged and
//! once, or the channel is broken; each channel ends with one event at each end that lives. What it does not promise,
//! because they do not either: that both ends hear of the end, at the same time or at all; that anything which was sent
//! arrives.
//!
//! `weather` says how the ways between hosts are at present, `control` brings channels up and down, `passage` moves
//! bytes, `reads` lets one end read from the other, `damage` breaks things, `wire` is what a driver sees.
//!
//! What it must never know: what a frame is, and who is right.

mod control;
mod damage;
mod passage;
mod reads;
mod weather;
mod wire;

pub use damage::{Cut, Damage};
pub use reads::{Reading, Reads};
pub use weather::{Climate, Effect, Weather};

use crate::random::Random;
use crate::trace::Trace;
use damage::ArmedCut;
use reads::{Exposure, Fate, PendingRead, Reader};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use underlay::backend::{Channel, ChannelEnd, Listener, WireKind};
use underlay::driver::SimulatedWires;
use underlay::pool::{Body, Segment};

/// A millionth of a second, in the nanoseconds that everything is counted in.
pub const MICROSECOND: u64 = 1_000;
/// A thousandth of a second.
pub const MILLISECOND: u64 = 1_000_000;
/// A second.
pub const SECOND: u64 = 1_000_000_000;
/// Later than anything.
pub const NEVER: u64 = u64::MAX;

/// A network; clones are the same one.
///
/// The wires of a driver must be able to move to another thread, so it sits behind a lock, which is never contended:
/// one thread simulates all of it.
#[derive(Debug, Clone)]
pub struct Network(Arc<Mutex<State>>);

/// Names a host: small and dense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostId(pub usize);

#[derive(Debug)]
struct State {
    now: u64,
    random: Random,
    trace: Trace,
    weather: Weather,
    reader: Reader,
    hosts: Vec<Host>,
    ends: Vec<End>,
    free_ends: Vec<usize>,
    /// What is to happen, by time and then in the order in which it was decided.
    agenda: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<Event>>,
    free_events: Vec<usize>,
    decided: u64,
    damage: Damage,
    /// The next channel that comes up is cut in its first bytes.
    ambush: Option<ArmedCut>,
}

#[derive(Debug)]
struct Host {
    name: String,
    /// Rises when its process dies; wires of an earlier life do nothing any more.
    life: u32,
    is_up: bool,
    wires: [HostWire; WireKind::COUNT],
}

/// What the network keeps of a wire.
#[derive(Debug, Default)]
struct HostWire {
    inbox: VecDeque<Incoming>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    listeners: Vec<(Listener, String)>,
    listeners_made: u32,
    /// The pool had no buffer; nothing is tried before this.
    starved_until: u64,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    end: usize,
}

/// What the wire is to tell its driver.
#[derive(Debug)]
enum Incoming {
    Accepted { listener: Listener, channel: Channel, peer: String },
    Connected { channel: Channel, peer: String },
    Bytes { channel: Channel, from: EndRef, segment: Segment },
    Sent { channel: Channel },
    Read { channel: Channel, read: u64, outcome: Result<Box<Body>, &'static str> },
    Closed { channel: Channel, reason: ChannelEnd },
}

/// One end of a channel.
#[derive(Debug)]
struct End {
    generation: u32,
    host: HostId,
    kind: WireKind,
    channel: Channel,
    state: EndState,
    far: Far,
    /// What is being sent, until the wire lets go of it.
    flight: Vec<Segment>,
    flight_bytes: usize,
    is_sending: bool,
    /// The send is done but for the peer, which has taken too little.
    is_blocked: bool,
    /// Bytes that this end has sent and the peer's driver has not been given.
    in_the_air: usize,
    /// Nothing that is sent later arrives earlier than this.
    last_arrival: u64,
    cut: Option<ArmedCut>,
    /// On the way to this end, in order.
    pieces: VecDeque<(u64, Piece)>,
    exposures: Vec<Exposure>,
    reads: Vec<PendingRead>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndState {
    Free,
    Connecting,
    Open,
    /// Its end is in its host's inbox.
    Ended,
}

/// What is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Far {
    /// Nobody yet.
    Unknown,
    There(EndRef),
    /// Nobody any more, and this end does not know. A host that lives says so when it is sent something.
    Lost {
        host: HostId,
        says_so: bool,
    },
}

#[derive(Debug)]
enum Piece {
    Bytes(Segment),
    /// The peer has closed in order.
    End,
}

/// Names an end; one that is out of date means no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct EndRef {
    place: usize,
    generation: u32,
}

#[derive(Debug)]
enum Event {
    /// The next pieces for an end may have arrived.
    Arrive(EndRef),
    /// The send of an end is done, as far as the wire goes.
    SendDone(EndRef),
    /// A connection that was asked for reaches the host that listens.
    Knock { from: EndRef, address: String },
    /// It was accepted.
    Welcome { end: EndRef, peer: String },
    /// An end hears that its channel is broken, or never came up.
    Break { end: EndRef, why: &'static str },
    /// A one-sided read of an end is over.
    ReadEnds { end: EndRef, read: u64, fate: Fate },
}

impl Network {
    /// A network without hosts.
    pub fn new(seed: u64, climate: Climate, is_printed: bool) -> Self {
        let mut random = Random::new(seed);
        Self(Arc::new(Mutex::new(State {
            now: 0,
            // One that nobody else draws from: a network without reads goes as if there were none.
            reader: Reader::new(climate.reading.clone(), Random::new(!seed)),
            weather: Weather::new(climate, random.fork()),
            random,
            trace: Trace::new(is_printed),
            hosts: Vec::new(),
            ends: Vec::new(),
            free_ends: Vec::new(),
            agenda: BinaryHeap::with_capacity(256),
            events: Vec::with_capacity(256),
            free_events: Vec::new(),
            decided: 0,
            damage: Damage::default(),
            ambush: None,
        })))
    }

    /// One more host, up and without a process.
    pub fn host(&self, name: &str) -> HostId {
        let mut state = self.state();
        let wires = Default::default();
        state.hosts.push(Host { name: name.to_owned(), life: 0, is_up: true, wires });
        HostId(state.hosts.len() - 1)
    }

    /// The wires for a process on this host, which must not have another one.
    pub fn wires(&self, host: HostId) -> SimulatedWires {
        let life = self.state().hosts[host.0].life;
        let wire = |kind| Box::new(wire::SimulatedWire::new(self.clone(), host, life, kind));
        SimulatedWires { tcp: wire(WireKind::Tcp), inproc: wire(WireKind::Inproc) }
    }

    /// When the network has something to do next.
    pub fn next_due(&self) -> u64 {
        let state = self.state();
        let agenda = state.agenda.peek().map_or(NEVER, |Reverse((due, ..))| *due);
        let starved = state.hosts.iter().flat_map(|host| &host.wires);
        let starved = starved.filter(|wire| !wire.inbox.is_empty() && wire.starved_until > state.now);
        starved.map(|wire| wire.starved_until).fold(agenda, u64::min)
    }

    /// Does everything that is due at `now`; says which hosts have news, as bits.
    pub fn advance(&self, now: u64) -> u64 {
        let mut state = self.state();
        state.now = state.now.max(now);
        while let Some(&Reverse((due, _, place))) = state.agenda.peek()
            && due <= now
        {
            state.agenda.pop();
            state.free_events.push(place);
            if let Some(event) = state.events[place].take() {
                state.happen(event);
            }
        }
        state.news()
    }

    /// Which hosts have news, as bits.
    pub fn news(&self) -> u64 {
        self.state().news()
    }

    /// The hash of everything that happened on it, and how many events that were.
    pub fn trace(&self) -> (u64, u64) {
        let state = self.state();
        (state.trace.hash(), state.trace.events())
    }

    /// How many channel ends are not free.
    pub fn ends(&self) -> usize {
        let state = self.state();
        state.ends.len() - state.free_ends.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive(end) => self.arrive(end),
            Event::SendDone(end) => self.send_done(end),
            Event::Knock { from, address } => self.knock(from, &address),
            Event::Welcome { end, peer } => self.welcome(end, peer),
            Event::Break { end, why } => self.break_end(end, why),
            Event::ReadEnds { end, read, fate } => self.read_ends(end, read, fate),
        }
    }

    /// Decides that something will happen. Time never stands still for it.
    fn at(&mut self, due: u64, event: Event) {
        let place = self.free_events.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.decided += 1;
        self.agenda.push(Reverse((due.max(self.now + 1), self.decided, place)));
    }

    fn news(&self) -> u64 {
        let has_news = |wire: &HostWire| !wire.inbox.is_empty() && wire.starved_until <= self.now;
        let mut bits = 0;
        for (place, host) in self.hosts.iter().enumerate() {
            bits |= u64::from(host.wires.iter().any(has_news)) << place;
        }
        bits
    }

    fn end(&mut self, end: EndRef) -> Option<&mut End> {
        self.ends.get_mut(end.place).filter(|found| {
            found.generation == end.generation && !matches!(found.state, EndState::Free | EndState::Ended)
        })
    }

    fn trace(&mut self, end: EndRef, what: What, number: u64) {
        let Self { trace, ends, hosts, now, .. } = self;
        let found = &ends[end.place];
        let who =
            (found.host.0 as u64) << 16 | (found.kind.index() as u64) << 15 | u64::from(found.channel.slot);
        trace.event(*now, who, what as u64, number, || {
            let Channel { slot, generation } = found.channel;
            format!("{:<9} {:<6} {slot}.{generation} {what:?} {number}", hosts[found.host.0].name, found.kind)
        });
    }
}

/// The events of the network's trace.
#[derive(Debug, Clone, Copy)]
enum What {
    Connects = 1,
    Accepted,
    Connected,
    Sends,
    Arrived,
    Closes,
    PeerClosed,
    Broken,
    Cut,
    Exposes,
    Reads,
    ReadEnds,
}
