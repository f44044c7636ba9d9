//! Two connections, and the stream between them, in virtual time.

use super::single::Single;
use crate::connection::{
    AttachRequest, CloseReason, ConnectionConfig, ConnectionEvent, Deliveries, Identity, LinkRoom,
};
use crate::message::Message;
use crate::pool::{GatherList, Pool, PoolConfig};
use crate::proto::control::{Address, DetachCode, LinkRole, Outcome};
use crate::proto::handshake::Negotiated;
use crate::proto::hello::ProcessIdentity;
use crate::proto::record::MessageKind;
use crate::proto::text::Name;
use crate::proto::{Incarnation, Lane, LinkId, Origin, Parameters, ProcessId};
use crate::time::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// The end that connects, and the end that it connects to.
pub(super) const CLIENT: usize = 0;
pub(super) const SERVER: usize = 1;

/// As much as anybody could want.
pub(super) const AMPLE: LinkRoom = LinkRoom { messages: 1 << 40, bytes: 1 << 50 };

/// What the stream in one direction does to what is sent.
#[derive(Debug, Clone)]
pub(super) struct Knobs {
    pub(super) latency: Duration,
    /// Until the sender hears that the wire needs its segments no more.
    pub(super) sent_delay: Duration,
    /// What arrives comes in pieces of 1 to so many bytes.
    pub(super) piece_bytes_max: usize,
    /// The sender's send never ends, and nothing arrives.
    pub(super) is_stuck: bool,
    /// What is sent counts as sent, and never arrives.
    pub(super) is_lost: bool,
    /// The channel breaks for both ends when so many bytes have arrived.
    pub(super) cut_after_bytes: Option<u64>,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            latency: Duration::from_micros(10),
            sent_delay: Duration::from_micros(1),
            piece_bytes_max: usize::MAX,
            is_stuck: false,
            is_lost: false,
            cut_after_bytes: None,
        }
    }
}

/// One end, what it said and got, and the stream towards the other.
pub(super) struct End {
    pub(super) connection: Single,
    pub(super) pool: Pool,
    pub(super) knobs: Knobs,
    pub(super) opened: Option<Box<Negotiated>>,
    pub(super) requested: Vec<AttachRequest>,
    pub(super) attached: Vec<LinkId>,
    pub(super) detached: Vec<(LinkId, DetachCode, String)>,
    pub(super) writable: Vec<LinkId>,
    pub(super) messages: VecDeque<Message>,
    pub(super) settled: Vec<(Deliveries, Outcome)>,
    pub(super) leaving: Vec<(Duration, String)>,
    pub(super) closed: Vec<CloseReason>,
    /// Links that the peer asks for are granted with this, and given as much again with each message.
    pub(super) grants: Option<LinkRoom>,
    /// Messages are checked and dropped as they come.
    pub(super) drops_messages: bool,
    pub(super) sends: u64,
    pub(super) bytes_sent: u64,
    pub(super) bytes_arrived: u64,
    stream: VecDeque<(Timestamp, Vec<u8>)>,
    sending: Option<(Timestamp, GatherList)>,
    /// The channel has ended for this end.
    is_cut: bool,
    gather: GatherList,
}

pub(super) struct Pair {
    pub(super) now: Timestamp,
    pub(super) ends: [End; 2],
    random: Random,
}

/// Numbers that look random, the same for the same seed.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 0 to `limit - 1`.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 16) % limit as u64) as usize
    }
}

pub(super) fn pool() -> Pool {
    Pool::new(PoolConfig { bytes_max: 64 << 20, slab_bytes: 64 << 10, huge_pages: false }).unwrap()
}

pub(super) fn identity(number: u8) -> Identity {
    let process = ProcessIdentity {
        process: ProcessId([number; 16]),
        incarnation: Incarnation(1),
        origin: Origin(number.into()),
    };
    Identity { process, name: format!("end-{number}") }
}

pub(super) fn with(parameters: Parameters) -> ConnectionConfig {
    ConnectionConfig { parameters, ..ConnectionConfig::default() }
}

/// What tests settle that do not care, whatever the defaults are: their sizes and counts go by these.
pub(super) fn usual() -> Parameters {
    Parameters {
        packet_bytes: 4096,
        frame_bytes_max: 64 << 10,
        eager_bytes_max: 16 << 10,
        chunk_bytes_max: 32 << 10,
        message_bytes_max: 64 << 20,
        frame_slots: 64,
        control_slots: 8,
        keep_alive_ms: 5_000,
        idle_timeout_ms: 20_000,
        links_max: 4096,
        head_bytes_max: 4096,
    }
}

/// The smallest of everything that can be negotiated.
pub(super) fn least() -> Parameters {
    Parameters {
        packet_bytes: 256,
        frame_bytes_max: 1024,
        eager_bytes_max: 256,
        chunk_bytes_max: 256,
        message_bytes_max: 1 << 20,
        frame_slots: 8,
        control_slots: 4,
        links_max: 16,
        head_bytes_max: 512,
        ..usual()
    }
}

/// A body that only `tag` and its length decide.
pub(super) fn content(tag: u64, bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|at| (tag.wrapping_mul(31).wrapping_add(at * 7) >> 2) as u8).collect()
}

pub(super) fn message(
    kind: MessageKind,
    lane: Lane,
    link: Option<LinkId>,
    tag: u64,
    bytes: usize,
    pool: &mut Pool,
) -> Message {
    let mut message = Message::new(kind, pool.copy_body(&content(tag, bytes)).unwrap());
    message.head.lane = lane;
    message.head.link = link;
    message.head.correlation_id.0 = tag;
    message
}

impl End {
    fn new(connection: Single) -> Self {
        Self {
            connection,
            pool: pool(),
            knobs: Knobs::default(),
            opened: None,
            requested: Vec::new(),
            attached: Vec::new(),
            detached: Vec::new(),
            writable: Vec::new(),
            messages: VecDeque::new(),
            settled: Vec::new(),
            leaving: Vec::new(),
            closed: Vec::new(),
            grants: Some(AMPLE),
            drops_messages: false,
            sends: 0,
            bytes_sent: 0,
            bytes_arrived: 0,
            stream: VecDeque::new(),
            sending: None,
            is_cut: false,
            gather: GatherList::new(),
        }
    }

    /// Takes every event that there is, and does what its knobs say.
    pub(super) fn pull(&mut self, now: Timestamp) {
        let mut arrived = None;
        while let Ok(Some(event)) = self.connection.poll_event(now, &mut self.pool, &mut arrived) {
            assert!(self.closed.is_empty(), "{event:?} after the end");
            match event {
                ConnectionEvent::Opened(negotiated) => {
                    assert!(self.opened.replace(negotiated).is_none(), "opened twice")
                }
                ConnectionEvent::AttachRequested(request) => {
                    if let Some(room) = self.grants {
                        self.connection.accept_link(request.link, room).unwrap();
                    }
                    self.requested.push(*request);
                }
                ConnectionEvent::Attached { link } => self.attached.push(link),
                ConnectionEvent::Detached { link, code, text, .. } => self.detached.push((link, code, text)),
                ConnectionEvent::Writable { link } => self.writable.push(link),
                ConnectionEvent::Message => self.take(arrived.take().unwrap()),
                ConnectionEvent::Settled { deliveries, outcome } => self.settled.push((deliveries, outcome)),
                ConnectionEvent::Leaving { within, text } => self.leaving.push((within, text)),
                ConnectionEvent::Closed(reason) => self.closed.push(reason),
                other => panic!("{other:?} without a session"),
            }
        }
    }

    fn take(&mut self, message: Message) {
        let (tag, bytes) = (message.head.correlation_id.0, message.body.len());
        assert!(message.body == content(tag, bytes)[..], "message {tag} of {bytes} bytes was changed");
        if let (Some(room), Some(link)) = (self.grants, message.head.link) {
            // A link that was detached here meanwhile takes no room.
            let _ = self.connection.set_link_room(link, room);
        }
        if !self.drops_messages {
            self.messages.push_back(message);
        }
    }

    pub(super) fn send(&mut self, lane: Lane, link: Option<LinkId>, tag: u64, bytes: usize) {
        let kind = if link.is_some() { MessageKind::Message } else { MessageKind::Reply };
        let message = message(kind, lane, link, tag, bytes, &mut self.pool);
        self.connection.send(message, &mut self.pool).map_err(|(error, _)| error).unwrap();
    }

    /// Asks for a link to the destination `queue`.
    pub(super) fn attach(&mut self, role: LinkRole, room: LinkRoom) -> LinkId {
        self.connection.attach(role, Address::Named(Name::new("queue").unwrap()), room).unwrap()
    }

    /// Starts a send if none is in flight; true if it did.
    fn transmit(&mut self, now: Timestamp) -> bool {
        if self.sending.is_some() || self.is_cut || !self.connection.wants_transmit() {
            return false;
        }
        // What the pool has no room for stays queued.
        let _ = self.connection.poll_transmit(now, &mut self.pool, &mut self.gather);
        if self.gather.is_empty() {
            return false;
        }
        self.sends += 1;
        self.bytes_sent += self.gather.len() as u64;
        let bytes: Vec<u8> = self.gather.segments().iter().flat_map(|part| part.iter().copied()).collect();
        let done = if self.knobs.is_stuck { Timestamp::NEVER } else { now + self.knobs.sent_delay };
        if !self.knobs.is_lost && !self.knobs.is_stuck {
            self.stream.push_back((now + self.knobs.latency, bytes));
        }
        self.sending = Some((done, std::mem::take(&mut self.gather)));
        true
    }

    fn end_channel(&mut self, reason: &str, now: Timestamp) {
        if !std::mem::replace(&mut self.is_cut, true) {
            self.sending = None;
            self.connection.handle_channel_end(reason, now);
            self.pull(now);
        }
    }

    /// Its counters of what has not been sent.
    pub(super) fn waiting(&self) -> usize {
        self.connection.waiting().0
    }
}

impl Pair {
    pub(super) fn new(client: ConnectionConfig, server: ConnectionConfig) -> Self {
        Self::seeded(client, server, 1)
    }

    pub(super) fn seeded(client: ConnectionConfig, server: ConnectionConfig, seed: u64) -> Self {
        let now = Timestamp::from_nanoseconds(1_000_000);
        let client = Single::client(client, &identity(1), 1 << 20, now).unwrap();
        let server = Single::server(server, &identity(2), 1 << 20, now).unwrap();
        Self { now, ends: [End::new(client), End::new(server)], random: Random::new(seed) }
    }

    /// Both ends have shaken hands.
    pub(super) fn open(config: ConnectionConfig) -> Self {
        let mut pair = Self::new(config.clone(), config);
        pair.settle();
        assert!(pair.ends.iter().all(|end| end.opened.is_some() && end.connection.is_open()));
        pair
    }

    /// A link on which `producer` sends, asked for by it.
    pub(super) fn link(&mut self, producer: usize) -> LinkId {
        let link = self.ends[producer].attach(LinkRole::Producer, LinkRoom { messages: 0, bytes: 0 });
        self.settle();
        assert!(self.ends[producer].attached.contains(&link));
        link
    }

    pub(super) fn client(&mut self) -> &mut End {
        &mut self.ends[CLIENT]
    }

    pub(super) fn server(&mut self) -> &mut End {
        &mut self.ends[SERVER]
    }

    /// Goes on until nothing is on its way and nothing can leave; no timeout comes due, so time hardly passes.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000_000_u64 {
            self.turn();
            match self.next_arrival() {
                Some(next) => self.now = next.max(self.now),
                None => return,
            }
        }
        panic!("the ends never come to rest");
    }

    /// Lets so much time pass, with the timeouts that come due in it.
    pub(super) fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            self.turn();
            let timeout = self.ends.iter().map(|end| end.connection.next_timeout()).min().unwrap();
            let next = self.next_arrival().unwrap_or(Timestamp::NEVER).min(timeout);
            if next > until {
                self.now = until;
                return;
            }
            self.now = next.max(self.now);
            for end in &mut self.ends {
                if end.connection.next_timeout() <= self.now {
                    end.connection.handle_timeout(self.now);
                    assert!(end.connection.next_timeout() > self.now, "a timeout that does not move");
                    end.pull(self.now);
                }
            }
        }
    }

    fn next_arrival(&self) -> Option<Timestamp> {
        let arrivals = self.ends.iter().filter_map(|end| end.stream.front().map(|(at, _)| *at));
        let sent = self.ends.iter().filter_map(|end| end.sending.as_ref().map(|(at, _)| *at));
        arrivals.chain(sent).min().filter(|at| *at != Timestamp::NEVER)
    }

    /// Does everything that is due now.
    pub(super) fn turn(&mut self) {
        loop {
            let mut found = false;
            for index in [CLIENT, SERVER] {
                found |= self.deliver(index);
                let (now, end) = (self.now, &mut self.ends[index]);
                if end.sending.take_if(|(at, _)| *at <= now).is_some() {
                    end.connection.handle_sent();
                    found = true;
                }
                found |= end.transmit(now);
                end.pull(now);
            }
            found |= self.close_finished();
            if !found {
                return;
            }
        }
    }

    /// Hands on what is due of what `from` has sent.
    fn deliver(&mut self, from: usize) -> bool {
        let now = self.now;
        let Some((_, bytes)) = self.ends[from].stream.pop_front_if(|(at, _)| *at <= now) else {
            return false;
        };
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let knobs = &self.ends[from].knobs;
            let most = knobs.piece_bytes_max.min(rest.len()).min(60_000);
            let cut = knobs.cut_after_bytes.map(|cut| cut - self.ends[1 - from].bytes_arrived);
            if cut == Some(0) {
                self.cut("cut by the test");
                return true;
            }
            let count =
                1 + if knobs.piece_bytes_max == usize::MAX { most - 1 } else { self.random.below(most) };
            let count = cut.map_or(count, |cut| count.min(cut as usize));
            let (piece, behind) = rest.split_at(count);
            rest = behind;
            let to = &mut self.ends[1 - from];
            if to.is_cut {
                return true;
            }
            to.bytes_arrived += count as u64;
            let mut buffer = to.pool.buffer(count).unwrap();
            buffer.put_slice(piece);
            to.connection.handle_segment(buffer.split(), now);
            to.pull(now);
        }
        if self.ends[from].knobs.cut_after_bytes == Some(self.ends[1 - from].bytes_arrived) {
            self.cut("cut by the test");
        }
        true
    }

    /// Ends the channel for both.
    pub(super) fn cut(&mut self, reason: &str) {
        for end in &mut self.ends {
            end.stream.clear();
            end.end_channel(reason, self.now);
        }
    }

    /// Ends the channels of connections that are finished; the peer hears of it behind what is on its way to it.
    fn close_finished(&mut self) -> bool {
        let mut found = false;
        for index in [CLIENT, SERVER] {
            if self.ends[index].connection.is_finished() && !self.ends[index].is_cut {
                self.ends[index].end_channel("closed by this end", self.now);
                found = true;
            }
            if self.ends[index].is_cut && self.ends[index].stream.is_empty() && !self.ends[1 - index].is_cut {
                self.ends[1 - index].stream.clear();
                self.ends[1 - index].end_channel("closed by the peer", self.now);
                found = true;
            }
        }
        found
    }
}
