//! The engine over the fake network: what a real device cannot be made to do on demand.
//!
//! A [`Rig`] has ends, each with an engine and a pool of its own, and moves nothing by itself. Here is what all tests
//! need; what the engine promises is tested by subject: `sending`, `coming_up`, `going_down`, queue pairs that are
//! `lingering`, `devices` that fail and are `returning`, `one_sided_faults`, `peers` that misbehave, `memory`, what a
//! message `costs`, and `traffic` by seeds, with ends that sleep.
//!
//! What it must never know: how the fake does what it does.

#[path = "../../../../tests/support/allocations.rs"]
mod allocations;
mod coming_up;
mod costs;
mod devices;
mod going_down;
mod lingering;
mod memory;
mod one_sided_faults;
mod peers;
mod returning;
mod sending;
mod traffic;
mod watched;
mod without_windows;

use super::RdmaConfig;
use super::engine::{Engine, State};
use super::verbs::Identifier;
use super::verbs::fake::{EndName, FakeNetwork};
use crate::backend::{Channel, ChannelEnd, Listener, SendRefused, WireEvent};
use crate::pool::{GatherList, Pool, PoolConfig, Segment};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use watched::{Asked, Watched};

const ADDRESSES: [&str; 3] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];

/// Rounds after which a test gives up.
const ROUNDS_MAX: usize = 3_000;

/// Small, so that it has the fewest receive requests that are worth something.
fn pool_config() -> PoolConfig {
    PoolConfig { bytes_max: 4 << 20, slab_bytes: 64 << 10, huge_pages: false }
}

/// With no second try for a send that finds no receive request.
fn config() -> RdmaConfig {
    RdmaConfig { receiver_not_ready_retry_count: 0, ..RdmaConfig::default() }
}

/// Several ends of one network.
struct Rig {
    network: FakeNetwork,
    ends: Vec<End>,
}

/// One engine, and what it has said.
struct End {
    // First, as in a driver: it holds buffers of the pool.
    engine: Option<Engine<Watched>>,
    asked: Rc<RefCell<Asked>>,
    name: EndName,
    address: &'static str,
    pool: Pool,
    said: Vec<WireEvent>,
}

impl Rig {
    fn new(network: FakeNetwork, count: usize) -> Self {
        Self::with(network, &vec![config(); count])
    }

    fn with(network: FakeNetwork, configs: &[RdmaConfig]) -> Self {
        let ends = configs.iter().zip(ADDRESSES).map(|(config, address)| {
            let verbs = network.end(&[address]);
            let name = verbs.name();
            let (verbs, asked) = Watched::new(verbs);
            let engine = Some(Engine::new(verbs, config.clone()));
            let pool = Pool::new(pool_config()).unwrap();
            End { engine, asked, name, address, pool, said: Vec::new() }
        });
        Self { ends: ends.collect(), network }
    }

    /// Two ends with an open channel: its names at the first, which connected, and at the second.
    fn connected() -> (Self, Channel, Channel) {
        let mut rig = Self::new(FakeNetwork::in_turn(), 2);
        let place = rig.ends[1].listen().1;
        let (near, far) = rig.connect(0, 1, &place);
        (rig, near, far)
    }

    /// A new channel from one end to another, which listens there.
    fn connect(&mut self, from: usize, to: usize, place: &str) -> (Channel, Channel) {
        let near = self.ends[from].engine().connect(place).unwrap();
        let is_connected =
            |event: &WireEvent| matches!(event, WireEvent::Connected { channel, .. } if *channel == near);
        let is_accepted = |event: &WireEvent| matches!(event, WireEvent::Accepted { .. });
        self.until(|rig| {
            rig.ends[from].said.iter().any(is_connected) && rig.ends[to].said.iter().any(is_accepted)
        });
        self.ends[from].said.retain(|event| !is_connected(event));
        let place = self.ends[to].said.iter().position(is_accepted).unwrap();
        let WireEvent::Accepted { channel: far, .. } = self.ends[to].said.remove(place) else {
            unreachable!()
        };
        (near, far)
    }

    /// Polls all ends, and lets everything happen in between.
    fn round(&mut self) {
        for end in &mut self.ends {
            end.poll();
        }
        self.network.run_until_quiet();
    }

    fn rounds(&mut self, count: usize) {
        (0..count).for_each(|_| self.round());
    }

    /// Goes on until something is so.
    #[track_caller]
    fn until(&mut self, mut is_so: impl FnMut(&Self) -> bool) {
        for _ in 0..ROUNDS_MAX {
            if is_so(self) {
                return;
            }
            self.round();
        }
        let said: Vec<_> = self.ends.iter().map(|end| &end.said).collect();
        panic!("it does not happen; the ends have said {said:?}");
    }

    /// Goes on until no queue pair has outlived its channel.
    #[track_caller]
    fn until_nothing_lingers(&mut self) {
        self.until(|rig| {
            rig.ends.iter().all(|end| end.engine.as_ref().is_none_or(|engine| engine.lingering.is_empty()))
        });
    }

    /// Sends from one end and waits until it has arrived at the other.
    #[track_caller]
    fn pass(&mut self, (from, near): (usize, Channel), (to, far): (usize, Channel), bytes: &[u8]) {
        let before = self.ends[to].received(far).len();
        self.ends[from].send(near, bytes).unwrap();
        self.until(|rig| {
            rig.ends[to].received(far).len() >= before + bytes.len() && rig.ends[from].has_sent(near)
        });
        assert_eq!(&self.ends[to].received(far)[before..], bytes);
        self.ends[from].forget_sent(near);
    }

    /// Waits until a channel of an end has ended, and says how.
    #[track_caller]
    fn end_of(&mut self, end: usize, channel: Channel) -> ChannelEnd {
        self.until(|rig| rig.ends[end].said.iter().any(|event| is_closed(event, channel)));
        self.ends[end].take_closed(channel).unwrap()
    }

    /// Nothing is left but receive requests, and no program did what it may not.
    #[track_caller]
    fn assert_clean(&mut self) {
        self.network.assert_clean();
        for end in &mut self.ends {
            end.said.clear();
            if end.engine.is_none() {
                assert_eq!(end.buffers_out(), 0, "buffers at {}", end.address);
                continue;
            }
            let held: usize = end.engine().devices.iter().map(|device| device.receives.buffers()).sum();
            let out = end.buffers_out();
            assert_eq!(out, held, "buffers at {} that no receive request has", end.address);
        }
    }

    /// All channels are gone, and with the wires all buffers come back.
    #[track_caller]
    fn assert_empty(mut self) {
        self.until_nothing_lingers();
        for end in &mut self.ends {
            if let Some(engine) = &mut end.engine {
                assert_eq!((engine.channels.len(), engine.unsettled), (0, 0), "channels at {}", end.address);
                assert!(engine.devices.iter().all(|device| device.queue_pairs.is_empty()));
                assert_eq!(self.network.left(end.name).queue_pairs, 0);
            }
        }
        self.assert_clean();
        for end in &mut self.ends {
            end.engine = None;
        }
        self.assert_clean();
    }
}

impl End {
    fn engine(&mut self) -> &mut Engine<Watched> {
        self.engine.as_mut().expect("it is not dropped")
    }

    /// Its wire is not asked; that is what a killed process is.
    fn kill(&mut self) {
        let mut engine = std::mem::ManuallyDrop::new(self.engine.take().expect("it lives"));
        // SAFETY: it is read once, and the rest of the engine is never used or dropped again.
        drop(unsafe { std::ptr::read(&raw mut engine.verbs) });
    }

    fn listen(&mut self) -> (Listener, String) {
        let address = format!("{}:0", self.address);
        let listening = self.engine().listen(&address).unwrap();
        (listening.listener, listening.address)
    }

    fn poll(&mut self) {
        if let Some(engine) = &mut self.engine {
            engine.poll(&mut self.pool, &mut self.said).unwrap();
        }
    }

    /// Arms it; how long a sleep may last then.
    fn arm(&mut self) -> Option<Duration> {
        self.engine().arm();
        self.engine().sleep_max()
    }

    fn segments(&mut self, bytes: &[u8]) -> GatherList {
        let mut gather = GatherList::new();
        for part in bytes.chunks(16 << 10) {
            gather.push(self.segment(part));
        }
        gather
    }

    fn segment(&mut self, bytes: &[u8]) -> Segment {
        let mut buffer = self.pool.buffer(bytes.len()).unwrap();
        assert_eq!(buffer.put_slice(bytes), bytes.len());
        buffer.split()
    }

    fn send(&mut self, channel: Channel, bytes: &[u8]) -> Result<(), SendRefused> {
        let mut gather = self.segments(bytes);
        self.engine().send(channel, &mut gather)
    }

    /// What has arrived and was not taken.
    fn received(&self, of: Channel) -> Vec<u8> {
        let of_it = |event: &WireEvent| match event {
            WireEvent::Received { channel, segment } if *channel == of => Some(segment.to_vec()),
            _ => None,
        };
        self.said.iter().filter_map(of_it).flatten().collect()
    }

    fn has_sent(&self, of: Channel) -> bool {
        self.said.iter().any(|event| matches!(event, WireEvent::Sent { channel } if *channel == of))
    }

    fn forget_sent(&mut self, of: Channel) {
        self.said.retain(|event| !matches!(event, WireEvent::Sent { channel } if *channel == of));
    }

    fn take_closed(&mut self, channel: Channel) -> Option<ChannelEnd> {
        let place = self.said.iter().position(|event| is_closed(event, channel))?;
        match self.said.remove(place) {
            WireEvent::Closed { reason, .. } => Some(reason),
            _ => None,
        }
    }

    fn buffers_out(&mut self) -> usize {
        self.pool.reclaim();
        self.pool.stats().buffers_out
    }

    fn identifier(&mut self, channel: Channel) -> Identifier {
        self.state(channel).identifier.unwrap()
    }

    fn state(&mut self, channel: Channel) -> &mut State {
        self.engine().channels.at(channel).unwrap()
    }
}

fn is_closed(event: &WireEvent, of: Channel) -> bool {
    matches!(event, WireEvent::Closed { channel, .. } if *channel == of)
}

/// Bytes that are nowhere the same.
fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|place| (place ^ (place >> 8).wrapping_mul(37)) as u8).collect()
}

#[track_caller]
fn assert_broken(reason: &ChannelEnd, word: &str) {
    let ChannelEnd::Broken(error) = reason else { panic!("it ended otherwise: {reason:?}") };
    assert!(error.to_string().contains(word), "{error}");
}

#[track_caller]
fn assert_not_connected(reason: &ChannelEnd, word: &str) {
    let ChannelEnd::ConnectFailed(error) = reason else { panic!("it ended otherwise: {reason:?}") };
    assert!(error.to_string().contains(word), "{error}");
}
