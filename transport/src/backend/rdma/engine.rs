//! The wire over whatever is behind the seam: what it holds, and the order in which a poll does things.

use super::config::RdmaConfig;
use super::credit::{Incoming, Outgoing, Shares};
use super::memory::{Budget, Memory};
use super::one_sided::{Sides, Windows};
use super::receives::Receives;
use super::releasing::Lingering;
use super::removal::Removal;
use super::sending::{Flight, SendQueue, Sending};
use super::verbs::{Completion, Device, DeviceLimits, Event, Identifier, Part, QueuePair, Verbs};
use crate::backend::slots::Slots;
use crate::backend::{Channel, ChannelEnd, Listener, Path, WireEvent};
use crate::pool::{GATHER_SEGMENTS_MAX, Pool, Segment};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use std::vec;

/// The most completions that one poll takes of a device.
const COMPLETIONS_PER_POLL: usize = 256;

/// So many are taken with one call.
pub(super) const COMPLETIONS_PER_CALL: usize = 32;

/// After so many polls without a sleep the connection manager is asked, which takes a system call. While a channel
/// comes up or goes down it is asked in every poll.
const POLLS_UNTIL_LOOK: u32 = 256;

/// The longest sleep while receive requests wait for buffers.
const SHORT_SLEEP_MAX: Duration = Duration::from_millis(2);

/// The longest sleep while queue pairs linger: another user of their device may take the event that ends it.
const LINGERING_SLEEP_MAX: Duration = Duration::from_millis(100);

/// How long a wire that is dropped waits for what it has posted.
const DROP_WAIT: Duration = Duration::from_millis(200);

/// One thread's channels and listeners over one access to RDMA.
#[derive(Debug)]
pub(super) struct Engine<V: Verbs> {
    // First, so that it is dropped first: no device touches the buffers below any more when they are.
    pub(super) verbs: V,
    pub(super) config: RdmaConfig,
    pub(super) budget: Budget,
    pub(super) channels: Slots<State>,
    pub(super) listeners: Vec<(Listener, Identifier, SocketAddr)>,
    pub(super) listeners_made: u32,
    /// Whose an identifier is, by its number.
    pub(super) owners: Vec<Option<Owner>>,
    pub(super) devices: Vec<DeviceState>,
    pub(super) removal: Removal,
    /// What the next poll reports.
    pub(super) events: Vec<WireEvent>,
    /// Channels to look at in the next poll: with something to send, or with credit to tell of.
    pub(super) busy: Vec<Channel>,
    /// Channels that come up or go down.
    pub(super) unsettled: usize,
    /// Channels that wait for what is posted, and since when, the longest first. They may have ended since.
    pub(super) closing: VecDeque<(Instant, Channel)>,
    /// What the connection manager has told and nobody has looked at.
    pub(super) pending: VecDeque<Event>,
    /// For what bodies in many pieces are described by; made when the first one is.
    pub(super) tables: Option<Pool>,
    /// Channels whose peer has left. They end when what had arrived before is taken.
    pub(super) leaving: Vec<Channel>,
    /// Queue pairs that outlive their channels, in the order in which these ended.
    pub(super) lingering: Vec<Lingering>,
    /// The parts of the sends that are being posted; kept for its memory.
    pub(super) parts: Vec<Part>,
    polls_until_look: u32,
    /// The last poll had news, and left to the next one what follows from it.
    has_put_off: bool,
}

/// Whose an identifier is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Listener(Listener),
    Channel(Channel),
}

/// What the channels of a device share.
#[derive(Debug)]
pub(super) struct DeviceState {
    pub(super) device: Device,
    pub(super) limits: DeviceLimits,
    pub(super) memory: Memory,
    pub(super) receives: Receives,
    pub(super) shares: Shares,
    pub(super) windows: Windows,
    /// What queue pairs are asked to take inline.
    pub(super) inline_bytes: u32,
    pub(super) queue_pairs: HashMap<u32, Channel, BuildHasherDefault<NumberHasher>>,
    pub(super) queue_pairs_max: usize,
    /// Receive requests wait for buffers, and that was said.
    pub(super) is_short: bool,
    /// It has said of a queue pair that this has let go of the receive requests.
    pub(super) says_last_receive: bool,
    /// Completions that were taken and not looked at.
    pub(super) unseen: VecDeque<Completion>,
    /// Where completions are taken to; kept, because filling it anew would be half of a poll that finds nothing.
    pub(super) taken: Box<[Completion; COMPLETIONS_PER_CALL]>,
    /// Its completions cannot be taken any more. It stays so: what was posted on it is never known to be done.
    pub(super) is_broken: bool,
    /// It goes away, has no channels any more, and is given back at the end of the poll.
    pub(super) is_gone: bool,
}

/// One channel.
#[derive(Debug)]
pub(super) struct State {
    pub(super) identifier: Option<Identifier>,
    pub(super) phase: Phase,
    /// From when there is a queue pair.
    pub(super) link: Option<Box<Link>>,
    /// Whether anybody knows of it: an accepted channel is reported when it is open.
    pub(super) is_known: bool,
    /// The connection manager said that the peer has left.
    pub(super) peer_has_left: bool,
}

/// Where a channel stands.
#[derive(Debug)]
pub(super) enum Phase {
    /// It is asked for, with other addresses to fall back on.
    Connecting(vec::IntoIter<SocketAddr>),
    /// It is accepted, and the peer has not been heard of yet.
    Accepting(Listener),
    /// Bytes may flow.
    Open,
    /// This end has closed it, and waits until what it had sent is done.
    Flushing,
    /// It has ended, and what is posted comes back.
    Draining(ChannelEnd),
}

/// A queue pair and what goes over it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) device: usize,
    pub(super) queue_pair: QueuePair,
    /// The most bytes of one send to the peer; 0 until it has said.
    pub(super) slot_bytes: u32,
    pub(super) outgoing: Outgoing,
    pub(super) incoming: Incoming,
    pub(super) queue: SendQueue,
    pub(super) sending: Sending,
    pub(super) one_sided: Sides,
    /// What arrived before the connection manager said that the channel is open.
    pub(super) early: Vec<Segment>,
    /// In the list of busy channels.
    pub(super) is_busy: bool,
    /// The request behind which nothing more comes is posted.
    pub(super) is_last_posted: bool,
    /// A receive request came back with an error, and so it has none any more.
    pub(super) is_last_received: bool,
    /// It was accepted, or the connection manager has taken the peer's answer: what the peer sends is received, whether
    /// or not anybody here has looked at what it says of itself.
    pub(super) may_receive: bool,
}

/// Whether whoever sees nothing else may sleep.
fn is_no_news(event: &WireEvent) -> bool {
    matches!(event, WireEvent::Sent { .. })
}

impl State {
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }
}

impl<V: Verbs> Engine<V> {
    pub(super) fn new(verbs: V, config: RdmaConfig) -> Self {
        let budget = Budget { bytes_max: config.pinned_bytes_max, pinned_bytes: 0 };
        Self {
            verbs,
            config,
            budget,
            channels: Slots::new(),
            listeners: Vec::new(),
            listeners_made: 0,
            owners: Vec::new(),
            devices: Vec::new(),
            removal: Removal::default(),
            events: Vec::new(),
            busy: Vec::new(),
            unsettled: 0,
            closing: VecDeque::new(),
            pending: VecDeque::new(),
            tables: None,
            leaving: Vec::new(),
            lingering: Vec::new(),
            parts: Vec::with_capacity(GATHER_SEGMENTS_MAX),
            polls_until_look: 0,
            has_put_off: false,
        }
    }

    /// One poll, as [`crate::backend::Wire::poll`] has it.
    pub(super) fn poll(&mut self, pool: &mut Pool, events: &mut Vec<WireEvent>) -> io::Result<()> {
        // A sleep may follow, for which nothing must be left behind.
        let is_thorough = self.polls_until_look == 0;
        if self.unsettled > 0 || is_thorough || !self.pending.is_empty() {
            self.take_connection_events(pool)?;
            self.polls_until_look = POLLS_UNTIL_LOOK;
            self.end_lingering();
            self.close_gone_devices();
            self.look_for_devices();
            self.forget_abandoned_memory();
        }
        self.polls_until_look -= 1;
        if !self.closing.is_empty() {
            self.end_overdue();
        }
        if std::mem::take(&mut self.has_put_off) {
            self.catch_up(pool);
        }
        for device in 0..self.devices.len() {
            self.take_completions(device, is_thorough, pool)?;
        }
        self.end_leaving(pool)?;
        // News is handed on before anything else is done: what the user makes of it is what its peer waits for, and
        // may carry the credit that an empty send would have to. Whoever gets news polls again before a sleep.
        self.has_put_off = !self.events.iter().all(is_no_news);
        if !self.has_put_off {
            self.catch_up(pool);
        }
        events.append(&mut self.events);
        Ok(())
    }

    /// Does what follows from what was taken: new receive requests, sends that have room now, credit to tell of.
    fn catch_up(&mut self, pool: &mut Pool) {
        for device in 0..self.devices.len() {
            self.post_receives(device, pool);
        }
        self.serve_busy(pool);
    }

    /// Makes the descriptor readable when something happens from now on; the caller polls once more afterwards, and
    /// sleeps no longer than [`Engine::sleep_max`] says.
    pub(super) fn arm(&mut self) {
        // What the connection manager had to tell before the sleep, or tells during it, is looked at afterwards.
        self.polls_until_look = 0;
        for place in 0..self.devices.len() {
            let state = &self.devices[place];
            if !state.is_broken
                && let Err(error) = self.verbs.arm(state.device)
            {
                self.device_broke(place, &error);
            }
        }
    }

    /// How long a sleep may last, if something waits that wakes nobody: buffers come back on any thread, and a device
    /// that has refused a request does not say when it would take it. It holds until the next call of anything here.
    pub(super) fn sleep_max(&self) -> Option<Duration> {
        // Something was done since the last poll, and the next one has to tell of it.
        if !self.events.is_empty() || self.has_put_off || !self.pending.is_empty() {
            return Some(Duration::ZERO);
        }
        let is_waiting = !self.busy.is_empty() || self.devices.iter().any(|device| device.is_short);
        if is_waiting {
            return Some(SHORT_SLEEP_MAX);
        }
        let lingers = (!self.lingering.is_empty()).then_some(LINGERING_SLEEP_MAX);
        let left = |(since, _): &(Instant, _)| self.config.close_timeout.saturating_sub(since.elapsed());
        let closes = self.closing.front().map(left);
        [lingers, closes, self.removal.sleep_max()].into_iter().flatten().min()
    }

    /// Lets go of slabs whose pools are gone. Nobody tells of these.
    fn forget_abandoned_memory(&mut self) {
        for state in &mut self.devices {
            state.memory.forget_abandoned(&mut self.verbs, &mut self.budget);
        }
    }

    fn take_completions(&mut self, device: usize, is_thorough: bool, pool: &mut Pool) -> io::Result<()> {
        let mut taken = 0;
        // Whoever sees no news may sleep: then everything was looked at.
        while taken < COMPLETIONS_PER_POLL || self.events.iter().all(is_no_news) {
            let count = self.fetch_completions(device);
            taken += self.look_at_completions(device, pool)?;
            if count == 0 || count < COMPLETIONS_PER_CALL && !is_thorough {
                break;
            }
        }
        Ok(())
    }

    /// Looks at what was taken; says how much it was.
    #[inline]
    fn look_at_completions(&mut self, device: usize, pool: &mut Pool) -> io::Result<usize> {
        let mut count = 0;
        while let Some(completion) = self.devices[device].unseen.pop_front() {
            self.completed(device, &completion, pool)?;
            count += 1;
        }
        Ok(count)
    }

    /// Ends the channels whose peer has left, when all that came from it is seen.
    fn end_leaving(&mut self, pool: &mut Pool) -> io::Result<()> {
        while let Some(channel) = self.leaving.pop() {
            let link = self.channels.at(channel).and_then(|state| state.link.as_ref());
            if let Some(device) = link.map(|link| link.device) {
                while self.fetch_completions(device) > 0 {
                    self.look_at_completions(device, pool)?;
                }
            }
            self.drain_with(channel, ChannelEnd::Peer);
            for device in 0..self.devices.len() {
                self.look_at_completions(device, pool)?;
            }
        }
        Ok(())
    }

    /// Takes completions with one call, to be looked at; says how many.
    #[inline]
    pub(super) fn fetch_completions(&mut self, device: usize) -> usize {
        let state = &mut self.devices[device];
        if state.is_broken {
            return 0;
        }
        match self.verbs.take_completions(state.device, &mut *state.taken) {
            Ok(count) => {
                state.unseen.extend(&state.taken[..count]);
                count
            }
            Err(error) => {
                self.device_broke(device, &error);
                0
            }
        }
    }

    /// Posts the receive requests that were used, as far as there are buffers for them.
    fn post_receives(&mut self, device: usize, pool: &mut Pool) {
        let state = &mut self.devices[device];
        if !state.receives.has_idle() || state.is_broken {
            return;
        }
        let outcome =
            state.receives.post(state.device, &mut self.verbs, &mut state.memory, &mut self.budget, pool);
        let (count, outcome) = outcome;
        state.shares.posted(count);
        match outcome {
            Ok(()) => state.is_short = false,
            // Buffers may come back that the device knows, and a pool may go that it knows too.
            Err(error) => {
                if !std::mem::replace(&mut state.is_short, true) {
                    tracing::warn!(%error, device = state.limits.name, "receive requests wait for memory");
                }
            }
        }
    }

    /// Lists a channel for the next look at busy ones.
    #[inline]
    pub(super) fn make_busy(&mut self, channel: Channel) {
        if let Some(State { link: Some(link), .. }) = self.channels.at(channel)
            && !std::mem::replace(&mut link.is_busy, true)
        {
            self.busy.push(channel);
        }
    }

    /// Sends what can be sent on each busy channel, and tells of credit where nothing else does.
    fn serve_busy(&mut self, pool: &mut Pool) {
        let mut busy = std::mem::take(&mut self.busy);
        for channel in busy.drain(..) {
            if let Some(State { link: Some(link), .. }) = self.channels.at(channel) {
                link.is_busy = false;
                if link.sending.flight == Flight::Done {
                    link.sending.flight = Flight::Idle;
                    self.events.push(WireEvent::Sent { channel });
                }
            }
            // Before anything takes the room that there is: what was withdrawn can be read until then.
            self.close_windows(channel);
            self.send_more(channel);
            self.finish_readings(channel, pool);
            self.tell_credit(channel);
            self.flush(channel);
        }
        // What was listed meanwhile came into a new list; the memory of the longer one is kept.
        busy.append(&mut self.busy);
        self.busy = busy;
    }

    pub(super) fn owner(&self, identifier: Identifier) -> Option<Owner> {
        self.owners.get(identifier.0 as usize).copied().flatten()
    }

    pub(super) fn set_owner(&mut self, identifier: Identifier, owner: Option<Owner>) {
        let place = identifier.0 as usize;
        if self.owners.len() <= place {
            self.owners.resize(place + 1, None);
        }
        self.owners[place] = owner;
    }

    /// What is known of the way to a channel's peer.
    pub(super) fn path(&mut self, identifier: Identifier) -> Path {
        let peer = self.verbs.peer(identifier).map_or_else(|| "unknown".to_owned(), |peer| peer.to_string());
        let packet_bytes = self.verbs.packet_bytes(identifier).unwrap_or(1024);
        Path { peer, packet_bytes }
    }
}

/// A wire that is dropped lets what it has sent leave, as TCP does, but not for long.
impl<V: Verbs> Drop for Engine<V> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for channel in self.channels.names() {
            self.close(channel);
        }
        let began = Instant::now();
        while self.channels.len() > 0 && began.elapsed() < DROP_WAIT {
            self.drain();
            std::thread::yield_now();
        }
        // The receive requests that they may have go with their queue.
        (0..self.devices.len()).for_each(|device| while self.hurry_lingering(device) {});
    }
}

impl<V: Verbs> Engine<V> {
    /// Takes completions of what was sent, and nothing else.
    fn drain(&mut self) {
        for device in 0..self.devices.len() {
            self.fetch_completions(device);
            while let Some(completion) = self.devices[device].unseen.pop_front() {
                self.send_completed(&completion);
            }
        }
        for channel in std::mem::take(&mut self.busy) {
            if let Some(State { link: Some(link), .. }) = self.channels.at(channel) {
                link.is_busy = false;
            }
            self.flush(channel);
        }
    }
}

/// For queue pairs' numbers, which their device has made different already.
#[derive(Debug, Default)]
pub(super) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.0 = self.0 << 8 | u64::from(byte));
    }

    fn write_u32(&mut self, number: u32) {
        // The table looks at the highest bits as well as at the lowest.
        self.0 = u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}
