//! One end of a session: its connections, and when it is over.

use super::reconnect::Reconnect;
use super::terms::Terms;
use super::{Common, SessionConfig};
use crate::connection::{CloseReason, Connection, ConnectionConfig, ConnectionEvent, Streams};
use crate::packing::PackingStats;
use crate::pool::{GatherList, Pool, PoolError, Segment};
use crate::proto::control::{CloseCode, RefusalCode};
use crate::proto::handshake::{LocalFault, Negotiated, Proposal};
use crate::proto::hello::{Capabilities, ProcessIdentity, SessionTerms};
use crate::proto::{PeerMisbehaved, STREAMS, SessionId, SessionToken};
use crate::time::Timestamp;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Connections that a session can have at a time: one in use, one that comes up, and those in whose place there is a
/// newer one. When there are more of those, the oldest is ended at once.
pub const PATHS_MAX: usize = 4;

/// One end of a session, from the first byte of its first connection to its end.
///
/// Its connections are its *paths*, numbered from 0 to [`PATHS_MAX`]; a number is used again when the path is gone.
/// Nothing allocates on the way of a message once the queues have grown to what the load needs.
#[derive(Debug)]
pub struct Session {
    common: Arc<Common>,
    streams: Option<Streams>,
    paths: [Option<Path>; PATHS_MAX],
    /// How many of them there are.
    path_count: usize,
    /// The path that sends.
    current: Option<usize>,
    events: VecDeque<ConnectionEvent>,
    state: State,
    terms: Option<Terms>,
    peer: Option<ProcessIdentity>,
    reconnect: Option<Reconnect>,
    /// Closed here, for this reason; what waits is sent first.
    closing: Option<(CloseCode, String)>,
    progress: Progress,
    counts: SessionCounts,
}

#[derive(Debug)]
struct Path {
    connection: Connection,
    /// Its handshake is done, and it is in use, or was.
    is_open: bool,
    /// Of a server: the peer was told of the next token on it. The first frame that arrives on it is the sign that it
    /// knows.
    gave_token: bool,
    /// There is a newer one in its place, and this end closes it then.
    retired_at: Timestamp,
}

#[derive(Debug)]
enum State {
    /// The first handshake is not done.
    Opening,
    Live,
    /// Without a connection, since then and for this reason.
    Interrupted {
        since: Timestamp,
        loss: String,
    },
    Ended,
}

/// Whether resuming brings the session on.
#[derive(Debug, Default)]
struct Progress {
    /// What the peer expected when it was last resumed.
    positions: [u64; STREAMS],
    /// How often that has not changed, although something waited for it.
    in_vain: u32,
}

/// What happened to a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionCounts {
    /// It lost its last connection.
    pub interrupted: u64,
    /// It went on over another connection after that.
    pub resumed: u64,
    /// It went over to another connection from one that was in use.
    pub moved: u64,
    /// Records that came twice and were dropped.
    pub duplicates: u64,
}

impl SessionCounts {
    /// Adds another session's figures.
    pub fn add(&mut self, other: &Self) {
        self.interrupted += other.interrupted;
        self.resumed += other.resumed;
        self.moved += other.moved;
        self.duplicates += other.duplicates;
    }
}

/// Its beginning, and its paths.
impl Session {
    /// The end that connects, to a peer with so many addresses, the best first. The first connection is coming up.
    pub fn client(common: Arc<Common>, addresses: usize, seed: u64, now: Timestamp) -> Self {
        let mut reconnect = Reconnect::new(addresses, &common.session, seed);
        reconnect.begin(0, now);
        Self::new(common, Some(reconnect))
    }

    /// The end that was connected to. `packet_bytes` is what the path carries whole. Its path has the number 0.
    ///
    /// # Errors
    /// [`LocalFault`] if the configuration cannot be said in a hello.
    pub fn server(common: Arc<Common>, packet_bytes: u32, now: Timestamp) -> Result<Self, LocalFault> {
        let connection = Connection::server(common.connection.clone(), &common.identity, packet_bytes, now)?;
        let mut session = Self::new(common, None);
        session.add_path(connection);
        Ok(session)
    }

    fn new(common: Arc<Common>, reconnect: Option<Reconnect>) -> Self {
        Self {
            common,
            streams: None,
            paths: [const { None }; PATHS_MAX],
            path_count: 0,
            current: None,
            events: VecDeque::new(),
            state: State::Opening,
            terms: None,
            peer: None,
            reconnect,
            closing: None,
            progress: Progress::default(),
            counts: SessionCounts::default(),
        }
    }

    /// The address to which another channel is to be opened now, if one is; it counts as being tried from then on,
    /// until [`Session::channel_open`] or [`Session::channel_failed`].
    pub fn poll_connect(&mut self, now: Timestamp) -> Option<usize> {
        let is_interrupted = match self.state {
            State::Interrupted { .. } => true,
            State::Live => false,
            State::Opening | State::Ended => return None,
        };
        if self.closing.is_some() || self.terms.is_none() || self.candidate().is_some() {
            return None;
        }
        self.reconnect.as_mut()?.poll(is_interrupted, &self.common.session, now)
    }

    /// Has the session move to an address, of those that it was made with, as soon as a connection there is up. False
    /// if it cannot now: it is not live, or is about to move already.
    pub fn begin_move(&mut self, address: usize, now: Timestamp) -> bool {
        let can = matches!(self.state, State::Live)
            && self.closing.is_none()
            && self.terms.is_some()
            && self.candidate().is_none();
        let Some(reconnect) = self.reconnect.as_mut().filter(|reconnect| can && !reconnect.is_trying())
        else {
            return false;
        };
        reconnect.begin(address, now);
        true
    }

    /// One more address of the peer, behind the others, or before them as the best; where it stands.
    pub fn add_address(&mut self, is_best: bool, now: Timestamp) -> Option<usize> {
        self.reconnect.as_mut().map(|reconnect| reconnect.add_address(now, is_best))
    }

    /// The channel that was asked for is open: the path that it is from now on, or `None` if it is not wanted any more.
    ///
    /// # Errors
    /// [`LocalFault`] if the configuration cannot be said in a hello.
    pub fn channel_open(&mut self, packet_bytes: u32, now: Timestamp) -> Result<Option<usize>, LocalFault> {
        if matches!(self.state, State::Ended) || self.closing.is_some() || !self.make_room(now) {
            self.attempt_failed(now);
            return Ok(None);
        }
        let (mut config, terms) = (self.common.connection.clone(), self.hello_terms());
        if terms.session.is_some() {
            config.handshake_timeout = config.handshake_timeout.min(self.common.session.attempt_timeout);
        }
        let connection = Connection::client(config, &self.common.identity, packet_bytes, terms, now)?;
        Ok(self.add_path(connection))
    }

    /// The channel that was asked for did not come up, or was given up. Ends a session that never had another one.
    pub fn channel_failed(&mut self, reason: CloseReason, now: Timestamp) {
        match self.state {
            State::Opening => self.end(reason, now),
            State::Live | State::Interrupted { .. } => self.attempt_failed(now),
            State::Ended => {}
        }
    }

    /// Whether a channel that is coming up for it is to be given up: the attempt has lasted for too long, or nobody
    /// waits for it any more.
    pub fn is_attempt_overdue(&self, now: Timestamp) -> bool {
        match self.state {
            State::Opening => false,
            State::Live | State::Interrupted { .. } => {
                self.reconnect.as_ref().is_some_and(|it| it.is_overdue(&self.common.session, now))
            }
            State::Ended => true,
        }
    }

    /// Puts a new connection in a free place, if there is one.
    fn add_path(&mut self, connection: Connection) -> Option<usize> {
        let index = self.paths.iter().position(Option::is_none)?;
        self.paths[index] = Some(Path::new(connection));
        self.path_count += 1;
        Some(index)
    }

    /// Whether there is room for another connection. If not, those that were retired are ended, for the next attempt.
    fn make_room(&mut self, now: Timestamp) -> bool {
        let has_room = self.has_room();
        if !has_room {
            for path in self.paths.iter_mut().flatten().filter(|path| path.retired_at != Timestamp::NEVER) {
                path.connection.let_go_of_channel(now);
            }
        }
        has_room
    }

    /// Whether there is room for another connection.
    fn has_room(&self) -> bool {
        self.paths.iter().any(Option::is_none)
    }

    /// A path that is coming up.
    fn candidate(&self) -> Option<usize> {
        self.paths
            .iter()
            .position(|path| path.as_ref().is_some_and(|path| !path.is_open && !path.connection.is_ended()))
    }

    /// The channel of a path is gone, and everything that had arrived was looked at.
    pub fn remove_path(&mut self, path: usize) {
        self.path_count -= usize::from(self.paths[path].take().is_some());
    }

    /// Whether a path is there.
    pub fn has_path(&self, path: usize) -> bool {
        self.paths[path].is_some()
    }

    /// Whether nothing is left of it: it has ended, and so have its paths.
    pub fn is_gone(&self) -> bool {
        matches!(self.state, State::Ended) && self.paths.iter().all(Option::is_none)
    }
}

/// The handshake of the end that was connected to.
impl Session {
    /// What the client of a path proposes that waits for a decision.
    pub fn proposal(&self, path: usize) -> Option<&Proposal> {
        self.paths[path].as_ref()?.connection.proposal()
    }

    /// Accepts a new session, under this name and with this token for its next connection. With neither, or if the
    /// client wants none, nothing outlives the connection.
    pub fn accept(&mut self, path: usize, id: SessionId, token: SessionToken) {
        let Some(path) = &mut self.paths[path] else { return };
        let Some(proposal) = path.connection.proposal() else { return };
        let wanted = proposal.client().body.session;
        let expiry_ms = expiry_ms(&self.common.session).min(wanted.expiry_ms);
        let terms = if expiry_ms == 0 {
            SessionTerms::default()
        } else {
            let epoch = wanted.epoch;
            SessionTerms {
                session: Some(id),
                epoch,
                expiry_ms,
                token: Some(token),
                ..SessionTerms::default()
            }
        };
        path.connection.accept(terms);
    }

    /// Refuses the client of a path.
    pub fn refuse(&mut self, path: usize, code: RefusalCode, text: &str, now: Timestamp) {
        if let Some(path) = &mut self.paths[path] {
            path.connection.refuse(code, text, now);
        }
    }

    /// Takes a path out, to be a connection of another session.
    pub(crate) fn take_path(&mut self, path: usize) -> Option<Connection> {
        let path = self.paths[path].take()?;
        self.path_count -= 1;
        Some(path.connection)
    }

    /// Whether the session may go on over the connection of a client that proposes this; with the token that it has
    /// shown, if so.
    ///
    /// # Errors
    /// A code and a text for the client. Whoever does not know the token learns no more than that.
    pub fn check_resume(&self, proposal: &Proposal) -> Result<SessionToken, (RefusalCode, String)> {
        let unknown = || (RefusalCode::SessionUnknown, SESSION_UNKNOWN.to_owned());
        let (asked, peer) = (&proposal.client().body.session, proposal.client().body.process);
        let (Some(terms), Some(streams)) = (&self.terms, &self.streams) else { return Err(unknown()) };
        let is_peer = self
            .peer
            .is_some_and(|known| (known.process, known.incarnation) == (peer.process, peer.incarnation));
        if matches!(self.state, State::Ended | State::Opening) || self.closing.is_some() || !is_peer {
            return Err(unknown());
        }
        let token = terms.shown(asked.proof).ok_or_else(unknown)?;
        if !self.has_room() {
            let text =
                format!("the session has {PATHS_MAX} connections; try again when one of them has ended");
            return Err((RefusalCode::ResourceLimit, text));
        }
        if asked.epoch <= terms.epoch {
            let text = format!("epoch {} is over; the session is in epoch {}", asked.epoch, terms.epoch);
            return Err((RefusalCode::MalformedHello, text));
        }
        let checked = streams.check_resume(&proposal.parameters(), &asked.resume);
        checked.map(|()| token).map_err(|violation| (RefusalCode::MalformedHello, violation.to_string()))
    }

    /// Goes on over the connection of a client whose proposal was checked; `next` is the token for the time after. Says
    /// which path it is, unless there was no room. The switch comes with the next [`Session::poll_event`].
    pub(crate) fn resume(
        &mut self,
        mut connection: Connection,
        shown: SessionToken,
        next: SessionToken,
    ) -> Option<usize> {
        if let (Some(terms), Some(streams), Some(proposal)) =
            (&mut self.terms, &mut self.streams, connection.proposal())
        {
            streams.received.hold_back();
            terms.epoch = proposal.client().body.session.epoch;
            terms.give(shown, next);
            let answer = SessionTerms {
                session: Some(terms.id),
                epoch: terms.epoch,
                expiry_ms: millis(terms.expiry),
                resume: streams.received.positions(),
                proof: Some(shown.server_proof()),
                token: Some(next),
            };
            connection.accept(answer);
        }
        // Only what the newest hello gave counts from now on.
        self.paths.iter_mut().flatten().for_each(|path| path.gave_token = false);
        let index = self.add_path(connection)?;
        if let Some(path) = &mut self.paths[index] {
            path.gave_token = true;
        }
        Some(index)
    }

    /// Its name, if it outlives its connections.
    pub fn id(&self) -> Option<SessionId> {
        self.terms.as_ref().map(|terms| terms.id)
    }
}

/// What a client is told that asks for a session which is not here, or which is not its own.
pub const SESSION_UNKNOWN: &str = "no session of this name can be resumed with this proof";

/// What comes in, and what goes out.
impl Session {
    /// Takes bytes that arrived on a path. What they mean is asked of [`Session::poll_event`].
    #[inline]
    pub fn handle_segment(&mut self, path: usize, segment: Segment, now: Timestamp) {
        if let Some(path) = &mut self.paths[path] {
            path.connection.handle_segment(segment, now);
        }
    }

    /// The send in flight on a path is done.
    #[inline]
    pub fn handle_sent(&mut self, path: usize) {
        if let Some(path) = &mut self.paths[path] {
            path.connection.handle_sent();
        }
    }

    /// The channel of a path has ended by itself. What arrived before is still given, and then what comes of it.
    pub fn handle_channel_end(&mut self, path: usize, reason: &str, now: Timestamp) {
        if let Some(path) = &mut self.paths[path] {
            path.connection.handle_channel_end(reason, now);
        }
    }

    /// The next event, or `None` until more has arrived.
    ///
    /// # Errors
    /// As [`Pool::buffer`]: nothing is lost, and the same call may succeed when buffers have come back.
    #[inline]
    pub fn poll_event(
        &mut self,
        now: Timestamp,
        pool: &mut Pool,
    ) -> Result<Option<ConnectionEvent>, PoolError> {
        if let Some(index) = self.only_path()
            && self.events.is_empty()
            && let Some(path) = &mut self.paths[index]
        {
            // Nearly everything comes this way, and is moved as rarely as possible.
            let polled = path.connection.poll_event(self.streams.as_mut(), now, pool);
            if !matches!(&polled, Ok(Some(ConnectionEvent::Opened(_) | ConnectionEvent::Closed(_)))) {
                return polled;
            }
            if let Ok(Some(event)) = polled {
                self.path_event(index, event, now);
            }
        }
        self.poll_all(now, pool)
    }

    /// The path that sends, if there is no other one, and nothing is to be found out about it.
    #[inline]
    pub fn only_path(&self) -> Option<usize> {
        let index = self.current.filter(|_| self.path_count == 1)?;
        let has_spoken = self.paths[index].as_ref().is_some_and(|path| !path.gave_token);
        has_spoken.then_some(index)
    }

    /// Looks at everything.
    #[inline(never)]
    fn poll_all(&mut self, now: Timestamp, pool: &mut Pool) -> Result<Option<ConnectionEvent>, PoolError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            // First a connection that has come up: that needs no buffers, and nothing may be sent on the one before.
            if let Some(index) = self.candidate().filter(|&index| self.path_has_events(index)) {
                match self.poll_path(index, now, pool)? {
                    Polled::Event(event) => return Ok(Some(event)),
                    Polled::Again | Polled::Nothing => continue,
                }
            }
            match self.poll_paths(now, pool)? {
                Polled::Event(event) => return Ok(Some(event)),
                Polled::Again => {}
                Polled::Nothing => return Ok(None),
            }
        }
    }

    /// Looks at the path that sends, and then at the others.
    fn poll_paths(&mut self, now: Timestamp, pool: &mut Pool) -> Result<Polled, PoolError> {
        let first = self.current.unwrap_or_default();
        for ahead in 0..PATHS_MAX {
            match self.poll_path((first + ahead) % PATHS_MAX, now, pool)? {
                Polled::Nothing => {}
                found => return Ok(found),
            }
        }
        Ok(Polled::Nothing)
    }

    fn poll_path(&mut self, index: usize, now: Timestamp, pool: &mut Pool) -> Result<Polled, PoolError> {
        let Some(path) = &mut self.paths[index] else { return Ok(Polled::Nothing) };
        let polled = path.connection.poll_event(self.streams.as_mut(), now, pool)?;
        if path.gave_token && path.connection.has_received_frame() {
            path.gave_token = false;
            if let Some(terms) = &mut self.terms {
                terms.confirm();
            }
        }
        Ok(match polled {
            None => Polled::Nothing,
            Some(event) => self.path_event(index, event, now).map_or(Polled::Again, Polled::Event),
        })
    }

    /// What a path has found: what is the session's own affair comes to nothing here.
    fn path_event(
        &mut self,
        index: usize,
        event: ConnectionEvent,
        now: Timestamp,
    ) -> Option<ConnectionEvent> {
        match event {
            ConnectionEvent::Opened(negotiated) => self.opened(index, negotiated, now),
            ConnectionEvent::Closed(reason) => self.path_closed(index, reason, now),
            // What was found before the end came is nobody's any more.
            _ if matches!(self.state, State::Ended) => {}
            event => return Some(event),
        }
        None
    }

    /// Appends what may be sent now on a path to `gather`; true if there is anything. To be called when no send is in
    /// flight on it; a true result starts one, which [`Session::handle_sent`] ends.
    ///
    /// # Errors
    /// As [`Pool::buffer`]; what was appended may be sent, the rest stays queued.
    pub fn poll_transmit(
        &mut self,
        index: usize,
        now: Timestamp,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<bool, PoolError> {
        let is_current = self.current == Some(index);
        match &mut self.paths[index] {
            Some(path) => path.connection.poll_transmit(self.streams.as_mut(), is_current, now, pool, gather),
            None => Ok(false),
        }
    }

    /// Whether [`Session::poll_transmit`] would find something, as far as can be known without trying.
    #[inline]
    pub fn wants_transmit(&self, index: usize) -> bool {
        let is_current = self.current == Some(index);
        let path = self.paths[index].as_ref();
        path.is_some_and(|path| path.connection.wants_transmit(self.streams.as_ref(), is_current))
    }

    /// True when nothing more is to be sent or received on a path: its channel may be closed.
    #[inline]
    pub fn is_path_finished(&self, path: usize) -> bool {
        self.paths[path].as_ref().is_some_and(|path| path.connection.is_finished())
    }

    /// Whether there are events for which nothing that arrived has to be looked at.
    #[inline]
    pub fn has_events(&self) -> bool {
        let mut paths = match self.only_path() {
            Some(index) => index..index + 1,
            None => 0..PATHS_MAX,
        };
        !self.events.is_empty() || paths.any(|index| self.path_has_events(index))
    }

    #[inline]
    fn path_has_events(&self, index: usize) -> bool {
        self.paths[index].as_ref().is_some_and(|path| path.connection.has_events())
    }

    /// The path that sends.
    pub fn current(&self) -> Option<usize> {
        self.current
    }
}

/// What a look at a path has come to.
#[allow(clippy::large_enum_variant)] // for what is rare: messages do not come this way
enum Polled {
    Event(ConnectionEvent),
    /// The session has changed: look again.
    Again,
    Nothing,
}

/// How it goes on from connection to connection.
impl Session {
    /// The handshake of a path is done.
    fn opened(&mut self, index: usize, negotiated: Box<Negotiated>, now: Timestamp) {
        if matches!(self.state, State::Ended) {
            return;
        }
        if self.streams.is_none() {
            return self.begin(index, negotiated, now);
        }
        if let Err(violation) = self.check_resumed(&negotiated) {
            return self.fail_candidate(index, violation, now);
        }
        let Some(streams) = &mut self.streams else { return };
        let resumed =
            streams.resume(&negotiated.parameters, &negotiated.send_from, &negotiated.receive_from, now);
        if let Err(violation) = resumed {
            return self.fail_candidate(index, violation, now);
        }
        if let (Some(terms), Some(reconnect)) = (&mut self.terms, &mut self.reconnect) {
            terms.renew(&negotiated.session);
            reconnect.succeeded(&self.common.session, now);
        }
        if self.is_in_vain(&negotiated.send_from) {
            let times = self.progress.in_vain;
            return self.end(CloseReason::ResumedInVain(times), now);
        }
        self.go_on(index, now);
    }

    /// The first handshake is done.
    fn begin(&mut self, index: usize, negotiated: Box<Negotiated>, now: Timestamp) {
        let is_client = self.reconnect.is_some();
        self.terms = Terms::settled(&negotiated.session);
        let (config, outlives) = (&self.common.connection, self.terms.is_some());
        let may_settle = negotiated.capabilities.contains(Capabilities::SETTLEMENT);
        self.streams = Some(Streams::new(config, negotiated.parameters, is_client, outlives, may_settle));
        self.peer = Some(negotiated.peer);
        self.use_path(index);
        self.state = State::Live;
        if let Some(reconnect) = &mut self.reconnect {
            reconnect.succeeded(&self.common.session, now);
        }
        self.events.push_back(ConnectionEvent::Opened(negotiated));
    }

    fn use_path(&mut self, index: usize) {
        self.current = Some(index);
        if let Some(path) = &mut self.paths[index] {
            path.is_open = true;
        }
    }

    /// Whether what a server has answered is the session that was asked for. Its own server's end is checked before it
    /// answers.
    fn check_resumed(&self, negotiated: &Negotiated) -> Result<(), PeerMisbehaved> {
        let Some(terms) = &self.terms else { return Err(PeerMisbehaved::SessionUnproven) };
        if self.reconnect.is_none() {
            return Ok(());
        }
        let (_, expected) = terms.proofs();
        let is_same = negotiated.session.session == Some(terms.id);
        if !is_same || negotiated.session.proof != Some(expected) {
            return Err(PeerMisbehaved::SessionUnproven);
        }
        Ok(())
    }

    /// A connection that came up is not one of this session.
    fn fail_candidate(&mut self, index: usize, violation: PeerMisbehaved, now: Timestamp) {
        if let Some(path) = &mut self.paths[index] {
            path.connection.abort(violation.into(), now);
        }
    }

    /// Counts how often it was resumed at the same positions although something waits for the peer.
    fn is_in_vain(&mut self, positions: &[u64; STREAMS]) -> bool {
        let waits = self
            .streams
            .as_ref()
            .is_some_and(|streams| streams.outbox.waiting_messages() + streams.outbox.waiting_control() > 0);
        let is_same = *positions == self.progress.positions;
        self.progress.positions = *positions;
        self.progress.in_vain = if is_same && waits { self.progress.in_vain + 1 } else { 0 };
        self.progress.in_vain > self.common.session.resumes_max
    }

    /// From now on the streams are sent on this path.
    fn go_on(&mut self, index: usize, now: Timestamp) {
        let is_client = self.reconnect.is_some();
        let grace = self.common.connection.close_timeout;
        for (other, path) in self.paths.iter_mut().enumerate() {
            let Some(path) = path.as_mut().filter(|path| other != index && path.is_open) else { continue };
            if path.retired_at != Timestamp::NEVER {
                continue;
            }
            // The end that connected has the other one close first, so that no port of its own is kept for it.
            if is_client {
                path.connection.retire(now);
            }
            path.retired_at = if is_client { now } else { now + grace };
        }
        self.use_path(index);
        // A close that was under way on the connection before goes on here, behind what is sent again.
        if let (Some((code, text)), Some(path)) = (&self.closing, &mut self.paths[index]) {
            path.connection.close(*code, text, now);
        }
        let interrupted_for = match std::mem::replace(&mut self.state, State::Live) {
            State::Interrupted { since, .. } => {
                self.counts.resumed += 1;
                now.since(since)
            }
            _ => {
                self.counts.moved += 1;
                Duration::ZERO
            }
        };
        self.events.push_back(ConnectionEvent::Resumed { path: index, interrupted_for });
        if let Some(streams) = &mut self.streams {
            let events = &mut self.events;
            streams.links.take_writable(|link| events.push_back(ConnectionEvent::Writable { link }));
        }
    }

    /// A connection has ended.
    fn path_closed(&mut self, index: usize, reason: CloseReason, now: Timestamp) {
        if matches!(self.state, State::Ended) {
            return;
        }
        if matches!(self.state, State::Opening) {
            return self.end(reason, now);
        }
        if self.current != Some(index) {
            let was_candidate = self.paths[index].as_ref().is_some_and(|path| !path.is_open);
            // One that was retired is missed by nobody.
            return if was_candidate {
                self.candidate_closed(&reason, now)
            };
        }
        self.current = None;
        if self.closing.is_some() || self.terms.is_none() || !reason.is_loss() {
            return self.end(reason, now);
        }
        self.interrupt(reason, now);
    }

    /// A connection has ended that never came to be in use.
    fn candidate_closed(&mut self, reason: &CloseReason, now: Timestamp) {
        let is_interrupted = matches!(self.state, State::Interrupted { .. });
        if let Some(streams) = &mut self.streams {
            streams.received.tell_all();
        }
        self.attempt_failed(now);
        if let CloseReason::Refused(refusal) = reason
            && refusal.code == RefusalCode::SessionUnknown
            && is_interrupted
        {
            self.end(CloseReason::SessionUnknown(refusal.text().to_owned()), now);
        }
    }

    fn attempt_failed(&mut self, now: Timestamp) {
        let is_interrupted = matches!(self.state, State::Interrupted { .. });
        if let Some(reconnect) = &mut self.reconnect {
            reconnect.failed(is_interrupted, &self.common.session, now);
        }
    }

    fn interrupt(&mut self, reason: CloseReason, now: Timestamp) {
        let is_silent = !matches!(reason, CloseReason::Channel(_) | CloseReason::Peer { .. });
        if let Some(reconnect) = self.reconnect.as_mut().filter(|reconnect| !reconnect.is_trying()) {
            reconnect.interrupted(is_silent, &self.common.session, now);
        }
        // The peer has gone on to the one that was lost, or is to: it shall not wait on one before.
        for path in self.paths.iter_mut().flatten().filter(|path| path.is_open) {
            path.connection.retire(now);
        }
        self.counts.interrupted += 1;
        self.state = State::Interrupted { since: now, loss: reason.to_string() };
        self.events.push_back(ConnectionEvent::Interrupted(reason));
    }
}

/// Time, and the end.
impl Session {
    /// When [`Session::handle_timeout`] wants to be called.
    pub fn next_timeout(&self) -> Timestamp {
        if let Some(index) = self.only_path()
            && let Some(path) = &self.paths[index]
        {
            let next = path.connection.next_timeout(self.streams.as_ref());
            return match &self.reconnect {
                Some(reconnect) if self.terms.is_some() => {
                    next.min(reconnect.next_timeout(false, &self.common.session))
                }
                _ => next,
            };
        }
        let mut next = Timestamp::NEVER;
        for (index, path) in self.paths.iter().enumerate() {
            if let Some(path) = path {
                let streams = self.streams.as_ref().filter(|_| Some(index) == self.current);
                next = next.min(path.connection.next_timeout(streams));
                if !path.connection.is_ended() {
                    next = next.min(path.retired_at);
                }
            }
        }
        let is_interrupted = match &self.state {
            State::Opening | State::Ended => return next,
            State::Live => false,
            State::Interrupted { since, .. } => {
                next = next.min(*since + self.expiry());
                true
            }
        };
        match &self.reconnect {
            // While a connection is coming up, it has its own time.
            Some(reconnect)
                if self.terms.is_some() && self.closing.is_none() && self.candidate().is_none() =>
            {
                next.min(reconnect.next_timeout(is_interrupted, &self.common.session))
            }
            _ => next,
        }
    }

    /// Does what is due. What comes of it is asked by [`Session::poll_event`] and [`Session::poll_connect`].
    pub fn handle_timeout(&mut self, now: Timestamp) {
        for (index, path) in self.paths.iter_mut().enumerate() {
            if let Some(path) = path {
                let streams = self.streams.as_ref().filter(|_| Some(index) == self.current);
                path.connection.handle_timeout(streams, now);
                if now >= path.retired_at && !path.connection.is_ended() {
                    path.connection.retire(now);
                }
            }
        }
        if let State::Interrupted { since, loss } = &self.state
            && now >= *since + self.expiry()
        {
            let (after, loss) = (self.expiry(), loss.clone());
            self.end(CloseReason::Expired { after, loss }, now);
        }
    }

    /// Closes the session in order: what was queued is sent, then the reason. Without a connection it ends at once.
    pub fn close(&mut self, code: CloseCode, text: &str, now: Timestamp) {
        if matches!(self.state, State::Ended) || self.closing.is_some() {
            return;
        }
        self.closing = Some((code, text.to_owned()));
        let opening = matches!(self.state, State::Opening).then(|| self.candidate()).flatten();
        match self.current.or(opening).and_then(|index| self.paths[index].as_mut()) {
            Some(path) => path.connection.close(code, text, now),
            None => self.end(CloseReason::Local { code, text: text.to_owned() }, now),
        }
    }

    /// Ends the session at once, for a bound of this end's own.
    pub fn abort(&mut self, reason: CloseReason, now: Timestamp) {
        self.end(reason, now);
    }

    /// Gives the one `Closed` event, and ends all connections. One that is in use tells its peer why.
    fn end(&mut self, reason: CloseReason, now: Timestamp) {
        if matches!(self.state, State::Ended) {
            return;
        }
        self.state = State::Ended;
        self.current = None;
        if let Some(streams) = &mut self.streams {
            self.counts.duplicates = streams.duplicates;
            streams.outbox.clear();
        }
        for path in self.paths.iter_mut().flatten() {
            path.connection.abort(reason.clone(), now);
        }
        self.events.push_back(ConnectionEvent::Closed(reason));
    }

    fn expiry(&self) -> Duration {
        self.terms.as_ref().map_or(Duration::ZERO, |terms| terms.expiry)
    }

    /// What the hello of the next connection says.
    fn hello_terms(&mut self) -> SessionTerms {
        let expiry_ms = expiry_ms(&self.common.session);
        match (&mut self.terms, &mut self.streams) {
            (Some(terms), Some(streams)) => {
                // Each attempt has an epoch of its own, so that one which arrives late is not taken for the newest.
                terms.epoch = terms.epoch.saturating_add(1);
                // Until it is answered or given up, the peer must not let go of more than this says.
                streams.received.hold_back();
                SessionTerms {
                    session: Some(terms.id),
                    epoch: terms.epoch,
                    expiry_ms,
                    resume: streams.received.positions(),
                    proof: Some(terms.proofs().0),
                    token: None,
                }
            }
            _ => SessionTerms { expiry_ms, ..SessionTerms::default() },
        }
    }
}

/// What there is to know of it.
impl Session {
    /// What lives on from connection to connection, while messages may be sent.
    #[inline]
    pub(super) fn running(&mut self) -> Option<&mut Streams> {
        if self.is_open() { self.streams.as_mut() } else { None }
    }

    /// True from the first handshake to the end, interruptions included.
    #[inline]
    pub fn is_open(&self) -> bool {
        match &self.state {
            State::Live if self.terms.is_none() => {
                // Its channel may have ended while something that arrived is still to be looked at.
                let current = self.current.and_then(|index| self.paths[index].as_ref());
                current.is_some_and(|path| path.connection.is_open()) && self.closing.is_none()
            }
            State::Live | State::Interrupted { .. } => self.closing.is_none(),
            State::Opening | State::Ended => false,
        }
    }

    /// Whether it has no connection at present.
    pub fn is_interrupted(&self) -> bool {
        matches!(self.state, State::Interrupted { .. })
    }

    /// What packing did.
    pub fn packing_stats(&self) -> PackingStats {
        self.streams.as_ref().map_or_else(PackingStats::default, |streams| streams.outbox.stats())
    }

    /// What happened to it.
    pub fn counts(&self) -> SessionCounts {
        let duplicates = self.streams.as_ref().map_or(0, |streams| streams.duplicates);
        SessionCounts { duplicates, ..self.counts }
    }

    /// Messages and bytes that wait to be sent.
    pub fn waiting(&self) -> (usize, u64) {
        let outbox = self.streams.as_ref().map(|streams| &streams.outbox);
        outbox.map_or((0, 0), |outbox| (outbox.waiting_messages(), outbox.waiting_bytes()))
    }

    /// Messages and control records that were sent and are kept until the peer has acknowledged them.
    pub fn unacknowledged(&self) -> usize {
        self.streams.as_ref().map_or(0, |streams| streams.outbox.unacknowledged())
    }

    /// The limits of each connection.
    pub fn connection_config(&self) -> &ConnectionConfig {
        &self.common.connection
    }

    /// How many addresses of the peer it knows.
    pub fn addresses(&self) -> usize {
        self.reconnect.as_ref().map_or(0, Reconnect::addresses)
    }
}

impl Path {
    fn new(connection: Connection) -> Self {
        Self { connection, is_open: false, gave_token: false, retired_at: Timestamp::NEVER }
    }
}

fn expiry_ms(config: &SessionConfig) -> u32 {
    millis(config.expiry)
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
