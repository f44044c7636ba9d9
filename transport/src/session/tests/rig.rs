//! Two sessions and the channels between them, in virtual time.

use crate::connection::{
    AttachRequest, CloseReason, ConnectionConfig, ConnectionEvent, Deliveries, Identity, LinkRoom, SendError,
};
use crate::message::Message;
use crate::pool::{GatherList, Pool, PoolConfig};
use crate::proto::control::{Outcome, RefusalCode};
use crate::proto::handshake::{AwaitClientHello, LocalEnd};
use crate::proto::hello::{Capabilities, ProcessIdentity, SessionTerms};
use crate::proto::record::MessageKind;
use crate::proto::{Incarnation, LANES, Lane, LinkId, Origin, Parameters, ProcessId, SessionToken};
use crate::session::{Common, PATHS_MAX, Random, SESSION_UNKNOWN, Session, SessionConfig};
use crate::time::Timestamp;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// The end that connects, and the end that it connects to.
pub(super) const CLIENT: usize = 0;
pub(super) const SERVER: usize = 1;

pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);

/// As much as anybody could want.
pub(super) const AMPLE: LinkRoom = LinkRoom { messages: 1 << 40, bytes: 1 << 50 };

/// One of the ways to the server, and what becomes of the next channel over it.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    pub(super) latency: Duration,
    /// What arrives comes in pieces of 1 to so many bytes.
    pub(super) piece_bytes_max: usize,
    pub(super) up: Up,
    pub(super) answer: Answer,
    /// The next channel, and no other, breaks when so many bytes have arrived at this end.
    pub(super) cut: Option<(usize, u64)>,
    /// By end, when it notices that a channel has broken; `None` for never.
    pub(super) notices_after: [Option<Duration>; 2],
}

/// Whether a channel comes up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Up {
    After(Duration),
    Fails,
    Never,
}

/// What a false server says: it is told what was asked for, and the token that holds.
pub(super) type Craft = fn(SessionTerms, SessionToken) -> SessionTerms;

/// Who answers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    /// The server.
    Server,
    /// Something that takes the channel and says nothing.
    Nobody,
    /// A server that says this, whatever was asked for.
    Crafted(Craft),
    /// Another process, which has never heard of the session.
    Stranger,
}

impl Default for Wire {
    fn default() -> Self {
        Self {
            latency: Duration::from_micros(10),
            piece_bytes_max: usize::MAX,
            up: Up::After(Duration::from_micros(30)),
            answer: Answer::Server,
            cut: None,
            notices_after: [Some(Duration::ZERO); 2],
        }
    }
}

/// One process: its sessions, and what they said and got. The first is the one that matters.
pub(super) struct End {
    pub(super) sessions: Vec<Option<Session>>,
    pub(super) common: Arc<Common>,
    pub(super) pool: Pool,
    pub(super) opened: usize,
    pub(super) interrupted: Vec<CloseReason>,
    pub(super) resumed: Vec<Duration>,
    pub(super) closed: Vec<CloseReason>,
    /// Why others were refused.
    pub(super) refused: Vec<CloseReason>,
    pub(super) requested: Vec<AttachRequest>,
    pub(super) attached: Vec<LinkId>,
    pub(super) detached: Vec<LinkId>,
    pub(super) settled: Vec<(Deliveries, Outcome)>,
    /// Links that the peer asks for are granted with this, and given as much again with each message.
    pub(super) grants: Option<LinkRoom>,
    /// Deliveries on links of this end are settled as they come.
    pub(super) settles: bool,
    /// By lane, how many messages this end has queued, and got.
    pub(super) queued: [u64; LANES],
    pub(super) got: [u64; LANES],
    /// Gather lists that it sent.
    pub(super) sends: u64,
}

/// A channel of two ends.
pub(super) struct Channel {
    pub(super) address: usize,
    wire: Wire,
    opened_at: Timestamp,
    is_up: bool,
    halves: [Half; 2],
    fake: Option<Vec<u8>>,
    /// Who closed it first.
    pub(super) closed_first: Option<(usize, Timestamp)>,
    is_broken: bool,
    /// What the client sends is lost.
    is_deaf: bool,
}

/// What one end sees of a channel.
#[derive(Default)]
struct Half {
    /// The session and its path.
    user: Option<(usize, usize)>,
    /// On its way to the other end.
    stream: VecDeque<(Timestamp, Vec<u8>)>,
    sending: Option<(Timestamp, GatherList)>,
    bytes_arrived: u64,
    /// When it hears of the end.
    ends_at: Option<Timestamp>,
    is_over: bool,
}

pub(super) struct Rig {
    pub(super) now: Timestamp,
    pub(super) ends: [End; 2],
    pub(super) wires: Vec<Wire>,
    pub(super) channels: Vec<Channel>,
    /// The channel that is coming up for the client.
    coming: Option<usize>,
    pub(super) secrets: Random,
    /// The token that the server gave last.
    pub(super) token: SessionToken,
    random: u64,
}

pub(super) fn identity(number: u8) -> Identity {
    let process = ProcessIdentity {
        process: ProcessId([number; 16]),
        incarnation: Incarnation(1),
        origin: Origin(number.into()),
    };
    Identity { process, name: format!("end-{number}") }
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
        keep_alive_ms: 5_000,
        idle_timeout_ms: 20_000,
        links_max: 16,
        head_bytes_max: 512,
    }
}

pub(super) fn common(number: u8, parameters: Parameters, session: SessionConfig) -> Common {
    let connection = ConnectionConfig { parameters, ..ConnectionConfig::default() };
    Common { connection, session, identity: identity(number) }
}

pub(super) fn local_end(identity: &Identity, parameters: Parameters) -> LocalEnd {
    LocalEnd {
        capabilities: Capabilities::SETTLEMENT,
        process: identity.process,
        parameters,
        securities: Vec::new(),
        wires: Vec::new(),
        name: None,
    }
}

/// A body that only `tag` and its length decide.
pub(super) fn content(tag: u64, bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|at| (tag.wrapping_mul(31).wrapping_add(at * 7) >> 2) as u8).collect()
}

impl End {
    fn new(common: Common) -> Self {
        let config = PoolConfig { bytes_max: 64 << 20, slab_bytes: 64 << 10, huge_pages: false };
        Self {
            sessions: Vec::new(),
            common: Arc::new(common),
            pool: Pool::new(config).unwrap(),
            opened: 0,
            interrupted: Vec::new(),
            resumed: Vec::new(),
            closed: Vec::new(),
            refused: Vec::new(),
            requested: Vec::new(),
            attached: Vec::new(),
            detached: Vec::new(),
            settled: Vec::new(),
            grants: Some(AMPLE),
            settles: true,
            queued: [0; LANES],
            got: [0; LANES],
            sends: 0,
        }
    }

    /// The session that matters.
    pub(super) fn session(&mut self) -> &mut Session {
        self.sessions[0].as_mut().unwrap()
    }

    pub(super) fn pull(&mut self, slot: usize, now: Timestamp) {
        loop {
            let Some(session) = &mut self.sessions[slot] else { return };
            let mut arrived = None;
            let Some(event) = session.poll_event(now, &mut self.pool, &mut arrived).unwrap() else { return };
            if slot == 0 {
                self.handle(event, arrived);
            } else if let ConnectionEvent::Closed(reason) = event {
                self.refused.push(reason);
            }
        }
    }

    fn handle(&mut self, event: ConnectionEvent, arrived: Option<Message>) {
        assert!(self.closed.is_empty(), "{event:?} after the end");
        match event {
            ConnectionEvent::Opened(_) => self.opened += 1,
            ConnectionEvent::Interrupted(reason) => self.interrupted.push(reason),
            ConnectionEvent::Resumed { interrupted_for, .. } => self.resumed.push(interrupted_for),
            ConnectionEvent::Closed(reason) => self.closed.push(reason),
            ConnectionEvent::AttachRequested(request) => {
                if let Some(room) = self.grants {
                    self.session().accept_link(request.link, room).unwrap();
                }
                self.requested.push(*request);
            }
            ConnectionEvent::Attached { link } => self.attached.push(link),
            ConnectionEvent::Detached { link, .. } => self.detached.push(link),
            ConnectionEvent::Message => self.take(&arrived.unwrap()),
            ConnectionEvent::Settled { deliveries, outcome } => self.settled.push((deliveries, outcome)),
            ConnectionEvent::Writable { .. } | ConnectionEvent::Leaving { .. } => {}
        }
    }

    /// Each lane brings its messages in order, each once, and as they were.
    fn take(&mut self, message: &Message) {
        let (tag, bytes, lane) =
            (message.head.correlation_id.0, message.body.len(), message.head.lane.index());
        assert_eq!(tag, self.got[lane], "the next of lane {lane}");
        self.got[lane] += 1;
        assert!(message.body == content(tag, bytes)[..], "message {tag} of {bytes} bytes was changed");
        if let (Some(room), Some(link)) = (self.grants, message.head.link) {
            // A link that was detached here meanwhile takes no room.
            let _ = self.session().set_link_room(link, room);
        }
        if let (true, Some(deliveries)) = (self.settles, Deliveries::of(message)) {
            // Of links that do not settle, nothing is settled.
            let _ = self.session().settle(&deliveries, Outcome::Accepted);
        }
    }

    /// Queues the next message of a lane.
    pub(super) fn try_send(
        &mut self,
        lane: Lane,
        link: Option<LinkId>,
        bytes: usize,
    ) -> Result<(), SendError> {
        let tag = self.queued[lane.index()];
        let kind = if link.is_some() { MessageKind::Message } else { MessageKind::Reply };
        let mut message = Message::new(kind, self.pool.copy_body(&content(tag, bytes)).unwrap());
        (message.head.lane, message.head.link) = (lane, link);
        message.head.correlation_id.0 = tag;
        let Some(session) = &mut self.sessions[0] else { return Err(SendError::NotOpen) };
        session.send(message, &mut self.pool).map_err(|(error, _)| error)?;
        self.queued[lane.index()] += 1;
        Ok(())
    }

    pub(super) fn send(&mut self, lane: Lane, bytes: usize) {
        self.try_send(lane, None, bytes).unwrap();
    }
}

impl Rig {
    pub(super) fn new(client: Common, server: Common, wires: Vec<Wire>) -> Self {
        let now = Timestamp::from_nanoseconds(1_000_000_000);
        let mut ends = [End::new(client), End::new(server)];
        let session = Session::client(ends[CLIENT].common.clone(), wires.len(), 7, now);
        ends[CLIENT].sessions.push(Some(session));
        let mut rig = Self {
            now,
            ends,
            wires,
            channels: Vec::new(),
            coming: None,
            secrets: Random::new([7; 32]),
            token: SessionToken([0; 32]),
            random: 1,
        };
        rig.open_channel(0);
        rig
    }

    /// With the smallest of everything, one address, and sessions that outlive connections.
    pub(super) fn small() -> Self {
        Self::of(least(), SessionConfig::default(), vec![Wire::default()])
    }

    pub(super) fn of(parameters: Parameters, config: SessionConfig, wires: Vec<Wire>) -> Self {
        Self::new(common(1, parameters, config.clone()), common(2, parameters, config), wires)
    }

    /// Runs until both ends have shaken hands.
    pub(super) fn opened(mut self) -> Self {
        self.run_for(MILLISECOND);
        assert_eq!((self.ends[CLIENT].opened, self.ends[SERVER].opened), (1, 1));
        self
    }

    pub(super) fn client(&mut self) -> &mut End {
        &mut self.ends[CLIENT]
    }

    pub(super) fn server(&mut self) -> &mut End {
        &mut self.ends[SERVER]
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.random >> 33) % limit as u64) as usize
    }

    /// The channels that are not over for both ends.
    pub(super) fn open_channels(&self) -> usize {
        self.channels.iter().filter(|channel| channel.halves.iter().any(|half| !half.is_over)).count()
    }

    /// The channel that the client's session sends on.
    pub(super) fn current(&mut self) -> Option<usize> {
        let path = self.client().session().current()?;
        self.channels.iter().rposition(|channel| channel.halves[CLIENT].user == Some((0, path)))
    }

    pub(super) fn begin_move(&mut self, address: usize) -> bool {
        let now = self.now;
        let can = self.client().session().begin_move(address, now);
        if can {
            self.open_channel(address);
        }
        can
    }

    fn open_channel(&mut self, address: usize) {
        let wire = Wire { cut: self.wires[address].cut.take(), ..self.wires[address].clone() };
        assert_eq!(self.coming.replace(self.channels.len()), None);
        self.channels.push(Channel {
            address,
            wire,
            opened_at: self.now,
            is_up: false,
            halves: Default::default(),
            fake: None,
            closed_first: None,
            is_broken: false,
            is_deaf: false,
        });
    }

    /// Lets so much time pass, with what comes due in it.
    pub(super) fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        self.run_until(until, |_| false);
    }

    /// Goes on until it is so, or the time is there; whether it is so. `is_done` is asked at each moment at which
    /// something happens, and may do something.
    pub(super) fn run_until(&mut self, until: Timestamp, mut is_done: impl FnMut(&mut Self) -> bool) -> bool {
        for _ in 0..10_000_000_u64 {
            self.turn();
            if is_done(self) {
                return true;
            }
            self.turn();
            let next = self.next_happening();
            if next > until {
                self.now = until;
                return false;
            }
            self.now = next.max(self.now);
            for index in [CLIENT, SERVER] {
                self.time_out(index);
            }
        }
        panic!("the ends never come to rest");
    }

    fn time_out(&mut self, index: usize) {
        let (now, end) = (self.now, &mut self.ends[index]);
        for slot in 0..end.sessions.len() {
            // Once more for what only comes due by what the first call has brought about.
            for _ in 0..2 {
                if let Some(session) = &mut end.sessions[slot]
                    && session.next_timeout() <= now
                {
                    session.handle_timeout(now);
                    end.pull(slot, now);
                }
            }
        }
        self.advance_client();
        for session in self.ends[index].sessions.iter().flatten() {
            let next = session.next_timeout();
            assert!(next > now, "a timeout of end {index} that does not move: {next} at {now}");
        }
    }

    fn next_happening(&self) -> Timestamp {
        let timeouts =
            self.ends.iter().flat_map(|end| end.sessions.iter().flatten().map(Session::next_timeout));
        let channels = self.channels.iter().flat_map(|channel| {
            let coming = match channel.wire.up {
                Up::After(delay) if !channel.is_up && !channel.halves[CLIENT].is_over => {
                    channel.opened_at + delay
                }
                _ => Timestamp::NEVER,
            };
            let halves = channel.halves.iter().flat_map(|half| {
                let arrival = half.stream.front().map(|(at, _)| *at);
                [arrival, half.sending.as_ref().map(|(at, _)| *at), half.ends_at].into_iter().flatten()
            });
            halves.chain([coming])
        });
        timeouts.chain(channels).fold(Timestamp::NEVER, Timestamp::min)
    }

    /// Does everything that is due now.
    fn turn(&mut self) {
        for _ in 0..1_000_000 {
            let mut found = self.advance_client();
            for end in &mut self.ends {
                (0..end.sessions.len()).for_each(|slot| end.pull(slot, self.now));
            }
            for index in 0..self.channels.len() {
                found |= self.bring_up(index);
                for from in [CLIENT, SERVER] {
                    found |= self.deliver(index, from);
                    found |= self.transmit(index, from);
                    found |= self.close_finished(index, from);
                    found |= self.end_half(index, from);
                }
            }
            if !found {
                return;
            }
        }
        panic!("a turn never ends");
    }

    /// What the driver does for the end that connects.
    fn advance_client(&mut self) -> bool {
        let now = self.now;
        let session = self.ends[CLIENT].session();
        if let Some(coming) = self.coming {
            let fails = self.channels[coming].wire.up == Up::Fails;
            if fails || session.is_attempt_overdue(now) {
                session.channel_failed(CloseReason::Channel("nobody there".to_owned()), now);
                self.coming = None;
                self.channels[coming].halves.iter_mut().for_each(|half| half.is_over = true);
                self.ends[CLIENT].pull(0, now);
                return true;
            }
            return false;
        }
        match session.poll_connect(now) {
            Some(address) => {
                self.open_channel(address);
                true
            }
            None => false,
        }
    }

    fn bring_up(&mut self, index: usize) -> bool {
        let (now, channel) = (self.now, &mut self.channels[index]);
        let Up::After(delay) = channel.wire.up else { return false };
        if channel.is_up || channel.halves[CLIENT].is_over || now < channel.opened_at + delay {
            return false;
        }
        channel.is_up = true;
        self.coming = None;
        let path = self.ends[CLIENT].session().channel_open(1 << 20, now).unwrap();
        let Some(path) = path else {
            self.channels[index].halves.iter_mut().for_each(|half| half.is_over = true);
            return true;
        };
        self.channels[index].halves[CLIENT].user = Some((0, path));
        match self.channels[index].wire.answer {
            Answer::Server | Answer::Stranger => {
                let common = match self.channels[index].wire.answer {
                    Answer::Server => self.ends[SERVER].common.clone(),
                    _ => Arc::new(Common { identity: identity(9), ..(*self.ends[SERVER].common).clone() }),
                };
                let session = Session::server(common, 1 << 20, now).unwrap();
                self.ends[SERVER].sessions.push(Some(session));
                self.channels[index].halves[SERVER].user = Some((self.ends[SERVER].sessions.len() - 1, 0));
            }
            Answer::Nobody | Answer::Crafted(_) => self.channels[index].fake = Some(Vec::new()),
        }
        true
    }

    /// Hands on what is due of what `from` has sent.
    fn deliver(&mut self, index: usize, from: usize) -> bool {
        let (now, to) = (self.now, 1 - from);
        let channel = &mut self.channels[index];
        if channel.halves[from].sending.take_if(|(at, _)| *at <= now).is_some()
            && let Some((slot, path)) = channel.halves[from].user
            && let Some(session) = &mut self.ends[from].sessions[slot]
        {
            session.handle_sent(path);
        }
        let channel = &mut self.channels[index];
        let Some((_, bytes)) = channel.halves[from].stream.pop_front_if(|(at, _)| *at <= now) else {
            return false;
        };
        let mut rest = &bytes[..];
        while !rest.is_empty() && !self.channels[index].halves[to].is_over {
            let (most, piece_bytes_max) = (rest.len().min(60_000), self.channels[index].wire.piece_bytes_max);
            let count = if piece_bytes_max >= most { most } else { 1 + self.below(piece_bytes_max) };
            let cut = self.channels[index].wire.cut.filter(|(end, _)| *end == to);
            let left = cut.map(|(_, at)| (at - self.channels[index].halves[to].bytes_arrived) as usize);
            let count = left.map_or(count, |left| count.min(left));
            let (piece, behind) = rest.split_at(count);
            rest = behind;
            self.channels[index].halves[to].bytes_arrived += count as u64;
            if count > 0 {
                self.arrive(index, to, piece);
            }
            if left == Some(count) {
                self.break_channel(index);
                break;
            }
        }
        true
    }

    fn arrive(&mut self, index: usize, to: usize, piece: &[u8]) {
        let now = self.now;
        if let (SERVER, Some(_)) = (to, &self.channels[index].fake) {
            return self.answer_falsely(index, piece);
        }
        let Some((slot, path)) = self.channels[index].halves[to].user else { return };
        let end = &mut self.ends[to];
        let mut buffer = end.pool.buffer(piece.len()).unwrap();
        buffer.put_slice(piece);
        let Some(session) = &mut end.sessions[slot] else { return };
        session.handle_segment(path, buffer.split(), now);
        if to == SERVER && session.current().is_none() && session.proposal(path).is_some() {
            let is_stranger = matches!(self.channels[index].wire.answer, Answer::Stranger);
            let user = self.decide(slot, path, is_stranger);
            self.channels[index].halves[SERVER].user = user;
        }
        if let Some((slot, _)) = self.channels[index].halves[to].user {
            self.ends[to].pull(slot, now);
        }
    }

    /// As the driver decides; whose path it is from now on.
    pub(super) fn decide(&mut self, slot: usize, path: usize, is_stranger: bool) -> Option<(usize, usize)> {
        let now = self.now;
        let sessions = &mut self.ends[SERVER].sessions;
        let session = sessions[slot].as_mut()?;
        let wanted = session.proposal(path)?.client().body.session.session;
        let Some(wanted) = wanted else {
            self.token = self.secrets.token();
            session.accept(path, self.secrets.session_id(), self.token);
            if slot > 0 && sessions[0].is_none() {
                sessions.swap(0, slot);
                return Some((0, path));
            }
            return Some((slot, path));
        };
        let mine = |session: &&Session| session.id() == Some(wanted) && !is_stranger;
        let here = self.ends[SERVER].sessions[slot].as_ref()?.proposal(path)?;
        let unknown = || (RefusalCode::SessionUnknown, SESSION_UNKNOWN.to_owned());
        let known = self.ends[SERVER].sessions[0].as_ref().filter(mine);
        let checked = known.ok_or_else(unknown).and_then(|session| session.check_resume(here));
        match checked {
            Ok(shown) => {
                self.token = self.secrets.token();
                let connection = self.ends[SERVER].sessions[slot].take()?.take_path(path)?;
                let path = self.ends[SERVER].session().resume(connection, shown, self.token)?;
                Some((0, path))
            }
            Err((code, text)) => {
                self.ends[SERVER].sessions[slot].as_mut()?.refuse(path, code, &text, now);
                Some((slot, path))
            }
        }
    }

    fn answer_falsely(&mut self, index: usize, piece: &[u8]) {
        let channel = &mut self.channels[index];
        let (Some(received), Answer::Crafted(craft)) = (&mut channel.fake, channel.wire.answer) else {
            return;
        };
        received.extend_from_slice(piece);
        let parameters = self.ends[SERVER].common.connection.parameters;
        let state = AwaitClientHello::new(local_end(&identity(2), parameters)).unwrap();
        let whole = state.hello_bytes(received).unwrap();
        if whole != Some(received.len()) {
            return;
        }
        let proposal = state.handle(received).unwrap();
        let terms = craft(proposal.client().body.session, self.token);
        let (_, answer) = proposal.accept(terms);
        let at = self.now + channel.wire.latency;
        channel.halves[SERVER].stream.push_back((at, answer));
    }

    /// Starts a send if none is in flight; true if it did.
    fn transmit(&mut self, index: usize, from: usize) -> bool {
        let (now, channel) = (self.now, &mut self.channels[index]);
        let half = &mut channel.halves[from];
        let (false, None, Some((slot, path))) = (half.is_over, &half.sending, half.user) else {
            return false;
        };
        let end = &mut self.ends[from];
        let Some(session) = end.sessions[slot].as_mut().filter(|it| it.wants_transmit(path)) else {
            return false;
        };
        let mut gather = GatherList::new();
        session.poll_transmit(path, now, &mut end.pool, &mut gather).unwrap();
        if gather.is_empty() {
            return false;
        }
        end.sends += 1;
        let bytes: Vec<u8> = gather.segments().iter().flat_map(|part| part.iter().copied()).collect();
        let is_lost = channel.is_broken || (channel.is_deaf && from == CLIENT);
        if !is_lost {
            half.stream.push_back((now + channel.wire.latency, bytes));
        }
        half.sending = Some((now + Duration::from_micros(1), gather));
        end.pull(slot, now);
        true
    }

    /// What one end says from now on is lost, and the other hears it in its own time.
    pub(super) fn break_channel(&mut self, index: usize) {
        let (now, channel) = (self.now, &mut self.channels[index]);
        channel.is_broken = true;
        for (half, notices) in channel.halves.iter_mut().zip(channel.wire.notices_after) {
            half.stream.clear();
            half.ends_at = notices.map(|after| now + after);
        }
    }

    /// Breaks the one that the client sends on.
    pub(super) fn cut(&mut self) {
        let index = self.current().expect("a channel to be cut");
        self.break_channel(index);
    }

    /// One end closes its channel when nothing is left to be done on it; the other hears of it behind what is on its way.
    fn close_finished(&mut self, index: usize, who: usize) -> bool {
        let (now, channel) = (self.now, &mut self.channels[index]);
        let (false, Some((slot, path))) = (channel.halves[who].is_over, channel.halves[who].user) else {
            return false;
        };
        let Some(session) = &self.ends[who].sessions[slot] else { return false };
        if !session.is_path_finished(path) || channel.halves[who].ends_at == Some(now) {
            return false;
        }
        if channel.closed_first.is_none() && !channel.is_broken {
            channel.closed_first = Some((who, now));
        }
        channel.halves[who].ends_at = Some(now);
        let last = channel.halves[who].stream.back().map_or(now, |(at, _)| *at);
        let behind = last.max(now + channel.wire.latency);
        let other = &mut channel.halves[1 - who];
        if !channel.is_broken && other.ends_at.is_none() {
            other.ends_at = Some(behind);
        }
        true
    }

    fn end_half(&mut self, index: usize, who: usize) -> bool {
        let now = self.now;
        let half = &mut self.channels[index].halves[who];
        if half.is_over || half.ends_at.is_none_or(|at| at > now) {
            half.ends_at = half.ends_at.filter(|_| !half.is_over);
            return false;
        }
        (half.is_over, half.ends_at, half.sending) = (true, None, None);
        if let Some((slot, path)) = half.user
            && let Some(session) = &mut self.ends[who].sessions[slot]
        {
            session.handle_channel_end(path, "the channel broke", now);
            self.ends[who].pull(slot, now);
            if let Some(session) = &mut self.ends[who].sessions[slot] {
                session.remove_path(path);
                if session.is_gone() && slot > 0 {
                    self.ends[who].sessions[slot] = None;
                }
            }
        }
        true
    }

    /// Both ends have got all that the other has queued, and know it.
    pub(super) fn is_at_rest(&mut self) -> bool {
        let queued = [CLIENT, SERVER].map(|index| self.ends[index].queued);
        let rests = |end: &mut End| {
            let session = end.session();
            session.unacknowledged() == 0 && session.waiting() == (0, 0)
        };
        queued == [self.ends[SERVER].got, self.ends[CLIENT].got] && self.ends.iter_mut().all(rests)
    }

    /// Runs until [`Rig::is_at_rest`].
    pub(super) fn rest(&mut self) {
        let until = self.now + 30 * SECOND;
        let rests = self.run_until(until, Self::is_at_rest);
        let [client, server] = &mut self.ends;
        assert!(
            rests,
            "client queued {:?} got {:?} keeps {} closed {:?}; server queued {:?} got {:?} keeps {} closed {:?}",
            client.queued,
            client.got,
            client.sessions[0].as_ref().unwrap().unacknowledged(),
            client.closed,
            server.queued,
            server.got,
            server.sessions[0].as_ref().unwrap().unacknowledged(),
            server.closed,
        );
    }

    /// The paths that are left at the end of a test: one at each end.
    pub(super) fn paths(&mut self) -> [usize; 2] {
        [CLIENT, SERVER].map(|index| {
            let session = self.ends[index].session();
            (0..PATHS_MAX).filter(|&path| session.has_path(path)).count()
        })
    }
}

impl Rig {
    pub(super) fn bytes_arrived(&self, channel: usize) -> [u64; 2] {
        self.channels[channel].halves.each_ref().map(|half| half.bytes_arrived)
    }

    pub(super) fn seed(&mut self, seed: u64) {
        self.random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    }
}

impl Rig {
    /// As [`Rig::opened`], over a wire that takes longer.
    pub(super) fn opened_by(mut self, time: Duration) -> Self {
        self.run_for(time);
        self.opened()
    }

    /// Whether another move could begin; nothing is opened.
    pub(super) fn begin_move_again(&mut self, address: usize) -> bool {
        let now = self.now;
        self.client().session().begin_move(address, now)
    }

    /// What the client sends over this channel from now on arrives never.
    pub(super) fn deafen(&mut self, channel: usize) {
        self.channels[channel].is_deaf = true;
    }
}
