//! Two ends of a session, channels between them that come and go, and what a wire with one-sided reads would do.

use crate::connection::{
    ChannelTraits, CloseReason, ConnectionConfig, ConnectionEvent, Identity, LinkRoom, OneSidedTask,
};
use crate::message::Message;
use crate::packing::Descriptor;
use crate::pool::{Body, GatherList, Pool, PoolConfig, Segment};
use crate::proto::control::{Address, LinkRole};
use crate::proto::hello::ProcessIdentity;
use crate::proto::record::MessageKind;
use crate::proto::text::Name;
use crate::proto::{Incarnation, Lane, LinkId, Origin, Parameters, ProcessId};
use crate::session::{Common, PATHS_MAX, Random, Session, SessionConfig};
use crate::time::Timestamp;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub(super) const CLIENT: usize = 0;
pub(super) const SERVER: usize = 1;
pub(super) const AMPLE: LinkRoom = LinkRoom { messages: 1 << 40, bytes: 1 << 50 };
const LATENCY: Duration = Duration::from_micros(10);

/// What becomes of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    DoneAfter(Duration),
    /// It is done at once, and told of after this time: what becomes of the peer's memory meanwhile does not matter.
    ToldAfter(Duration),
    /// Some of its buffers are filled by then.
    FailsAfter(Duration),
    /// It brings a byte less than it should.
    ShortAfter(Duration),
    Never,
}

pub(super) struct End {
    pub(super) session: Option<Session>,
    pub(super) pool: Pool,
    common: Arc<Common>,
    /// The channel of each path.
    paths: [Option<usize>; PATHS_MAX],
    /// What arrived, by its lane and tag; every body is checked.
    pub(super) received: Vec<(Lane, u64)>,
    pub(super) attached: Vec<LinkId>,
    pub(super) detached: Vec<(LinkId, usize)>,
    pub(super) interrupted: Vec<CloseReason>,
    pub(super) closed: Vec<CloseReason>,
    /// What is granted for each message that arrives.
    pub(super) room: LinkRoom,
    random: Random,
}

/// One channel, and what lies between its ends.
pub(super) struct Channel {
    traits: ChannelTraits,
    pub(super) is_gone: bool,
    pub(super) latency: Duration,
    streams: [VecDeque<(Timestamp, Vec<u8>)>; 2],
    /// Of the end that was connected to, until it is known whose the channel is.
    greeting: Option<Session>,
    /// By end: what it has exposed, by the numbers.
    pub(super) exposed: [BTreeMap<u64, Vec<Segment>>; 2],
    /// By end, how many it ever exposed, and had at a time.
    pub(super) exposures: [usize; 2],
    pub(super) exposures_most: usize,
    reads: Vec<Read>,
    pub(super) reads_begun: usize,
    pub(super) bytes_carried: u64,
}

struct Read {
    end: usize,
    number: u64,
    exposure: u64,
    buffers: Vec<Segment>,
    due: Timestamp,
    fate: Fate,
}

pub(super) struct Rig {
    pub(super) now: Timestamp,
    pub(super) ends: [End; 2],
    pub(super) channels: Vec<Channel>,
    /// The traits of the next channel.
    pub(super) next_traits: ChannelTraits,
    /// What becomes of each read, by its number among all.
    pub(super) fate: Box<dyn FnMut(usize) -> Fate>,
    /// The wire exposes a body only if this agrees.
    pub(super) exposes: Box<dyn FnMut(usize) -> bool>,
    reads: usize,
    /// What the server sends is lost.
    pub(super) drops_from_server: bool,
    /// So many reads cannot start at first.
    pub(super) postponed: usize,
    pub(super) link: Option<LinkId>,
}

pub(super) fn traits(exposures_max: usize) -> ChannelTraits {
    ChannelTraits { packet_bytes: 4096, exposures_max }
}

pub(super) fn content(tag: u64, bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|at| (tag.wrapping_mul(31).wrapping_add(at * 7) >> 2) as u8).collect()
}

pub(super) fn config() -> (ConnectionConfig, SessionConfig) {
    let parameters = Parameters { message_bytes_max: 1 << 20, ..Parameters::default() };
    let connection =
        ConnectionConfig { parameters, bulk_timeout: Duration::from_secs(2), ..Default::default() };
    let session =
        SessionConfig { expiry: Duration::from_secs(60), connection_age: None, ..Default::default() };
    (connection, session)
}

impl End {
    fn new(number: u8, (connection, session): (ConnectionConfig, SessionConfig)) -> Self {
        let process = ProcessIdentity {
            process: ProcessId([number; 16]),
            incarnation: Incarnation(1),
            origin: Origin(number.into()),
        };
        let identity = Identity { process, name: format!("end-{number}") };
        let config = PoolConfig { bytes_max: 64 << 20, slab_bytes: 64 << 10, huge_pages: false };
        Self {
            session: None,
            pool: Pool::new(config).unwrap(),
            common: Arc::new(Common { connection, session, identity }),
            paths: [None; PATHS_MAX],
            received: Vec::new(),
            attached: Vec::new(),
            detached: Vec::new(),
            interrupted: Vec::new(),
            closed: Vec::new(),
            room: AMPLE,
            random: Random::new([number; 32]),
        }
    }

    pub(super) fn session(&mut self) -> &mut Session {
        self.session.as_mut().unwrap()
    }

    /// Takes every event that there is.
    fn pull(&mut self, now: Timestamp) {
        let Some(session) = &mut self.session else { return };
        let mut arrived = None;
        while let Some(event) = session.poll_event(now, &mut self.pool, &mut arrived).unwrap() {
            match event {
                ConnectionEvent::Message => {
                    let message = arrived.take().unwrap();
                    let tag = message.head.correlation_id.0;
                    assert!(message.body == content(tag, message.body.len())[..], "{tag} was changed");
                    assert!(!message.head.offered && message.extensions().offer().is_none());
                    if let Some(link) = message.head.link {
                        let _ = session.set_link_room(link, self.room);
                    }
                    self.received.push((message.head.lane, tag));
                }
                ConnectionEvent::AttachRequested(request) => {
                    session.accept_link(request.link, self.room).unwrap();
                }
                ConnectionEvent::Attached { link } => self.attached.push(link),
                ConnectionEvent::Detached { link, .. } => self.detached.push((link, self.received.len())),
                ConnectionEvent::Interrupted(reason) => self.interrupted.push(reason),
                ConnectionEvent::Closed(reason) => self.closed.push(reason),
                _ => {}
            }
        }
    }

    pub(super) fn send(&mut self, lane: Lane, link: Option<LinkId>, tag: u64, bytes: usize) {
        let kind = if link.is_some() { MessageKind::Message } else { MessageKind::Reply };
        let mut message = Message::new(kind, self.pool.copy_body(&content(tag, bytes)).unwrap());
        (message.head.lane, message.head.link) = (lane, link);
        message.head.correlation_id.0 = tag;
        self.session.as_mut().unwrap().send(message, &mut self.pool).map_err(|(error, _)| error).unwrap();
    }
}

impl Rig {
    pub(super) fn new(exposures_max: usize) -> Self {
        Self::with(exposures_max, config())
    }

    pub(super) fn with(exposures_max: usize, config: (ConnectionConfig, SessionConfig)) -> Self {
        let now = Timestamp::from_nanoseconds(1_000_000);
        let mut ends = [End::new(1, config.clone()), End::new(2, config)];
        ends[CLIENT].session = Some(Session::client(ends[CLIENT].common.clone(), 1, 1, now));
        let mut rig = Self {
            now,
            ends,
            channels: Vec::new(),
            next_traits: traits(exposures_max),
            fate: Box::new(|_| Fate::DoneAfter(Duration::from_micros(50))),
            exposes: Box::new(|_| true),
            reads: 0,
            drops_from_server: false,
            postponed: 0,
            link: None,
        };
        rig.open_channel();
        rig.run_for(Duration::from_millis(1));
        rig
    }

    /// With a link on which the client sends.
    pub(super) fn linked(exposures_max: usize) -> Self {
        let mut rig = Self::new(exposures_max);
        rig.link = Some(rig.attach());
        rig
    }

    pub(super) fn attach(&mut self) -> LinkId {
        let name = Address::Named(Name::new("queue").unwrap());
        let room = LinkRoom { messages: 0, bytes: 0 };
        let link = self.ends[CLIENT].session().attach(LinkRole::Producer, name, room).unwrap();
        self.run_for(Duration::from_millis(1));
        assert!(self.ends[CLIENT].attached.contains(&link));
        link
    }

    /// The client sends on its link.
    pub(super) fn send(&mut self, lane: Lane, tag: u64, bytes: usize) {
        let link = self.link;
        self.ends[CLIENT].send(lane, link, tag, bytes);
    }

    fn open_channel(&mut self) {
        let index = self.channels.len();
        let now = self.now;
        let client = &mut self.ends[CLIENT];
        let Some(path) = client.session().channel_open(self.next_traits, now).unwrap() else { return };
        client.paths[path] = Some(index);
        let greeting = Session::server(self.ends[SERVER].common.clone(), self.next_traits, now).unwrap();
        self.channels.push(Channel {
            traits: self.next_traits,
            is_gone: false,
            latency: LATENCY,
            streams: Default::default(),
            greeting: Some(greeting),
            exposed: Default::default(),
            exposures: [0; 2],
            exposures_most: 0,
            reads: Vec::new(),
            reads_begun: 0,
            bytes_carried: 0,
        });
    }

    /// Lets so much time pass, with everything that comes due in it.
    pub(super) fn run_for(&mut self, time: Duration) {
        let (until, mut in_vain) = (self.now + time, 0);
        loop {
            self.turn();
            let next = self.next_due();
            if next > until {
                self.now = until;
                return;
            }
            in_vain = if next > self.now { 0 } else { in_vain + 1 };
            assert!(in_vain < 100, "something is due that does not move");
            self.now = next.max(self.now);
        }
    }

    fn next_due(&self) -> Timestamp {
        let arrivals = self.channels.iter().flat_map(|channel| &channel.streams).filter_map(|it| it.front());
        let reads = self.channels.iter().flat_map(|channel| &channel.reads).map(|read| read.due);
        let sessions = self.ends.iter().filter_map(|end| end.session.as_ref()).map(Session::next_timeout);
        arrivals.map(|(at, _)| *at).chain(reads).chain(sessions).min().unwrap_or(Timestamp::NEVER)
    }

    /// Does everything that is due now.
    fn turn(&mut self) {
        for end in &mut self.ends {
            if let Some(session) = end.session.as_mut().filter(|session| session.next_timeout() <= self.now) {
                session.handle_timeout(self.now);
                end.pull(self.now);
            }
        }
        loop {
            let mut found = false;
            for index in 0..self.channels.len() {
                found |= self.deliver(index);
                found |= self.finish_reads(index);
            }
            for end in [CLIENT, SERVER] {
                self.ends[end].pull(self.now);
                for path in 0..PATHS_MAX {
                    found |= self.transmit(end, path);
                }
            }
            if self.ends[CLIENT].session().poll_connect(self.now).is_some() {
                self.open_channel();
                found = true;
            }
            if !found {
                return;
            }
        }
    }

    fn path(&self, end: usize, channel: usize) -> Option<usize> {
        self.ends[end].paths.iter().position(|&it| it == Some(channel))
    }

    fn deliver(&mut self, index: usize) -> bool {
        let (now, mut found) = (self.now, false);
        for from in [CLIENT, SERVER] {
            let to = 1 - from;
            while let Some((_, bytes)) = self.channels[index].streams[from].pop_front_if(|(at, _)| *at <= now)
            {
                found = true;
                for piece in bytes.chunks(30_000) {
                    let mut buffer = self.ends[to].pool.buffer(piece.len()).unwrap();
                    buffer.put_slice(piece);
                    self.handle(to, index, buffer.split());
                }
            }
        }
        found
    }

    fn handle(&mut self, end: usize, index: usize, segment: Segment) {
        let now = self.now;
        if let Some(greeting) = self.channels[index].greeting.as_mut().filter(|_| end == SERVER) {
            greeting.handle_segment(0, segment, now);
            if greeting.proposal(0).is_some() {
                self.accept(index);
            }
        } else if let Some(path) = self.path(end, index) {
            self.ends[end].session().handle_segment(path, segment, now);
        }
        self.ends[end].pull(now);
    }

    /// A client has said which session it wants.
    fn accept(&mut self, index: usize) {
        let server = &mut self.ends[SERVER];
        let mut greeting = self.channels[index].greeting.take().unwrap();
        let proposal = greeting.proposal(0).unwrap();
        let path = if proposal.client().body.session.session.is_none() {
            greeting.accept(0, server.random.session_id(), server.random.token());
            server.session = Some(greeting);
            Some(0)
        } else {
            let session = server.session.as_mut().unwrap();
            let shown = session.check_resume(proposal).unwrap();
            session.resume(greeting.take_path(0).unwrap(), shown, server.random.token())
        };
        server.paths[path.unwrap()] = Some(index);
    }

    fn transmit(&mut self, end: usize, path: usize) -> bool {
        let Some(index) = self.ends[end].paths[path] else { return false };
        let mut found = self.do_one_sided(end, path, index);
        let (now, place) = (self.now, &mut self.ends[end]);
        let session = place.session.as_mut().unwrap();
        let mut gather = GatherList::new();
        while session.wants_transmit(path)
            && session.poll_transmit(path, now, &mut place.pool, &mut gather).unwrap()
        {
            let latency = self.channels[index].latency;
            let bytes: Vec<u8> = gather.segments().iter().flat_map(|part| part.iter().copied()).collect();
            gather.clear();
            session.handle_sent(path);
            self.channels[index].bytes_carried += bytes.len() as u64;
            let is_lost = self.channels[index].is_gone || (self.drops_from_server && end == SERVER);
            if !is_lost {
                self.channels[index].streams[end].push_back((now + latency, bytes));
            }
            found = true;
        }
        if session.is_path_finished(path) && !self.channels[index].is_gone {
            // What was sent before arrives before the end.
            while self.channels[index].streams[end].front().is_some() {
                self.channels[index].streams[end].iter_mut().for_each(|(at, _)| *at = now);
                self.deliver(index);
            }
            self.cut(index);
            found = true;
        }
        found
    }

    /// Ends a channel for both ends: what is on its way is lost, and so are its reads and exposures.
    pub(super) fn cut(&mut self, index: usize) {
        let channel = &mut self.channels[index];
        channel.is_gone = true;
        channel.streams = Default::default();
        channel.reads.clear();
        channel.exposed = Default::default();
        channel.greeting = None;
        for end in [CLIENT, SERVER] {
            if let Some(path) = self.path(end, index) {
                self.ends[end].session().handle_channel_end(path, "cut by the test", self.now);
                self.ends[end].pull(self.now);
                self.ends[end].session().remove_path(path);
                self.ends[end].paths[path] = None;
                self.ends[end].pull(self.now);
            }
        }
    }

    /// What an end brings to all its sessions.
    pub(super) fn common(&self, end: usize) -> Arc<Common> {
        self.ends[end].common.clone()
    }

    /// The channel that was opened last.
    pub(super) fn last(&self) -> usize {
        self.channels.len() - 1
    }
}

/// The wire's part.
impl Rig {
    fn do_one_sided(&mut self, end: usize, path: usize, index: usize) -> bool {
        let (now, mut found) = (self.now, false);
        let End { session, pool, .. } = &mut self.ends[end];
        let (session, channel) = (session.as_mut().unwrap(), &mut self.channels[index]);
        assert!(channel.traits.exposures_max > 0 || !session.wants_one_sided(path));
        while let Some(task) = session.poll_one_sided(path, now) {
            found = true;
            match task {
                OneSidedTask::Expose { exposure, body } => {
                    let agrees = (self.exposes)(channel.exposures[end]);
                    channel.exposures[end] += 1;
                    let descriptor =
                        agrees.then(|| exposure.to_le_bytes()[..].iter().copied().collect::<Descriptor>());
                    if agrees {
                        let known = channel.exposed[end].insert(exposure, body.segments().cloned().collect());
                        assert!(known.is_none(), "a number that was used before");
                    }
                    channel.exposures_most = channel.exposures_most.max(channel.exposed[end].len());
                    session.exposed(path, exposure, descriptor);
                }
                OneSidedTask::Withdraw { exposure } => {
                    assert!(channel.exposed[end].remove(&exposure).is_some(), "it was not exposed");
                }
                OneSidedTask::Read { read, .. } if self.postponed > 0 => {
                    self.postponed -= 1;
                    session.postpone_read(path, read);
                }
                OneSidedTask::Read { read, descriptor, bytes } => {
                    let exposure = u64::from_le_bytes(descriptor[..].try_into().unwrap());
                    let fate = (self.fate)(self.reads);
                    self.reads += 1;
                    channel.reads_begun += 1;
                    channel.reads.push(begin_read(
                        end,
                        read,
                        &channel.exposed[1 - end],
                        exposure,
                        bytes,
                        fate,
                        now,
                        pool,
                    ));
                }
            }
        }
        assert!(!session.wants_one_sided(path));
        found
    }

    fn finish_reads(&mut self, index: usize) -> bool {
        let now = self.now;
        let due = |read: &mut Read| read.due <= now;
        let Some(mut read) = self.channels[index].reads.extract_if(.., due).next() else { return false };
        let Some(path) = self.path(read.end, index) else { return true };
        let End { session, pool, .. } = &mut self.ends[read.end];
        let is_exposed = self.channels[index].exposed[1 - read.end].contains_key(&read.exposure);
        let is_exposed = is_exposed || matches!(read.fate, Fate::ToldAfter(_));
        let outcome = match read.fate {
            _ if !is_exposed => Err("the access was ended while it was in use".to_owned()),
            Fate::FailsAfter(_) => Err("the peer's memory is not there".to_owned()),
            _ => {
                let mut body = Body::new();
                read.buffers.drain(..).for_each(|segment| body.push(segment, pool).unwrap());
                Ok(body)
            }
        };
        session.as_mut().unwrap().handle_read(path, read.number, outcome, now);
        self.ends[read.end].pull(now);
        true
    }
}

/// What it reads is what is exposed when it begins; what is not exposed fails.
#[allow(clippy::too_many_arguments)] // a test's
fn begin_read(
    end: usize,
    number: u64,
    exposed: &BTreeMap<u64, Vec<Segment>>,
    exposure: u64,
    bytes: u64,
    fate: Fate,
    now: Timestamp,
    pool: &mut Pool,
) -> Read {
    let Some(segments) = exposed.get(&exposure) else {
        let fate = Fate::FailsAfter(LATENCY);
        return Read { end, number, exposure, buffers: Vec::new(), due: now + LATENCY, fate };
    };
    let mut content: Vec<u8> = segments.iter().flat_map(|segment| segment.iter().copied()).collect();
    assert_eq!(content.len() as u64, bytes);
    let (after, kept) = match fate {
        Fate::DoneAfter(after) | Fate::ToldAfter(after) => (Some(after), content.len()),
        Fate::FailsAfter(after) => (Some(after), content.len() / 2),
        Fate::ShortAfter(after) => (Some(after), content.len() - 1),
        Fate::Never => (None, content.len()),
    };
    content.truncate(kept);
    let buffers = content.chunks(16 << 10).map(|piece| {
        let mut buffer = pool.buffer(piece.len()).unwrap();
        buffer.put_slice(piece);
        buffer.split()
    });
    let due = after.map_or(Timestamp::NEVER, |after| now + after);
    Read { end, number, exposure, buffers: buffers.collect(), due, fate }
}

/// Between the ends' sessions and their ends.
impl Rig {
    /// The client goes over to another channel; false if it cannot just now.
    pub(super) fn begin_move(&mut self) -> bool {
        let now = self.now;
        let begins = self.ends[CLIENT].session().begin_move(0, now);
        if begins {
            self.open_channel();
        }
        begins
    }

    /// Everything that was sent is acknowledged, nothing is exposed, and all buffers but those that the ends go on
    /// writing into have come back.
    pub(super) fn assert_nothing_held(&mut self) {
        assert!(
            self.channels.iter().flat_map(|it| &it.exposed).all(BTreeMap::is_empty),
            "something is exposed"
        );
        for channel in &mut self.channels {
            // Reads that never end are ended with their channels.
            assert!(channel.reads.is_empty() || !channel.is_gone);
        }
        for end in &mut self.ends {
            assert_eq!(end.session().unacknowledged(), 0);
            end.pool.reclaim();
            let held = end.pool.stats().buffers_out;
            assert!(held <= 2, "{held} buffers are held");
        }
    }
}
