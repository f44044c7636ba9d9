//! One end of a session: its connections, and when it is over.
//!
//! `accepting` is the handshake of the end that was connected to, `changing` how it goes on from connection to
//! connection, `ending` its timeouts and its end. What lies here is its paths, and what comes in and goes out on them.
//!
//! An ended session stays ended, whatever still comes up for it; of several paths exactly one sends while it is live.

mod accepting;
mod changing;
mod ending;

pub use accepting::SESSION_UNKNOWN;

use super::one_sided::{ReadLosses, lasting};
use super::reconnect::Reconnect;
use super::terms::Terms;
use super::{Common, SessionConfig};
use crate::connection::{ChannelTraits, CloseReason, Connection, ConnectionConfig, ConnectionEvent, Streams};
use crate::message::Message;
use crate::packing::PackingStats;
use crate::pool::{GatherList, Pool, PoolError, Segment};
use crate::proto::STREAMS;
use crate::proto::control::CloseCode;
use crate::proto::handshake::LocalFault;
use crate::proto::hello::ProcessIdentity;
use crate::time::Timestamp;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Connections that a session can have at a time: one in use, one that comes up, and those in whose place there is a
/// newer one. A client that needs room for another ends those at once; a server refuses it until their grace is over.
pub const PATHS_MAX: usize = 4;

/// One end of a session, from the first byte of its first connection to its end.
///
/// Its connections are its *paths*, numbered from 0 to [`PATHS_MAX`]; a number is used again when the path is gone.
/// Nothing allocates on the way of a message once the queues have grown to what the load needs.
#[derive(Debug)]
pub struct Session {
    common: Arc<Common>,
    pub(super) streams: Option<Streams>,
    pub(super) paths: [Option<Path>; PATHS_MAX],
    /// How many of them there are.
    path_count: usize,
    /// The path that sends.
    pub(super) current: Option<usize>,
    events: VecDeque<ConnectionEvent>,
    state: State,
    terms: Option<Terms>,
    peer: Option<ProcessIdentity>,
    reconnect: Option<Reconnect>,
    /// Closed here, for this reason; what waits is sent first.
    closing: Option<(CloseCode, String)>,
    progress: Progress,
    /// Nothing that happens on its only connection makes a timeout that is due earlier than this.
    shortest_timeout: Duration,
    pub(super) read_losses: ReadLosses,
    counts: SessionCounts,
}

#[derive(Debug)]
pub(super) struct Path {
    pub(super) connection: Connection,
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

    /// The end that was connected to, on a channel of these traits, or that carries so many bytes whole. Its path has
    /// the number 0.
    ///
    /// # Errors
    /// [`LocalFault`] if the configuration cannot be said in a hello.
    pub fn server(
        common: Arc<Common>,
        channel: impl Into<ChannelTraits>,
        now: Timestamp,
    ) -> Result<Self, LocalFault> {
        let channel = lasting(&common.session, channel.into());
        let connection = Connection::server(common.connection.clone(), &common.identity, channel, now)?;
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
            shortest_timeout: Duration::ZERO,
            read_losses: ReadLosses::default(),
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

    /// The channel that was asked for is open, with these traits, or carrying so many bytes whole: the path that it is
    /// from now on, or `None` if it is not wanted any more.
    ///
    /// # Errors
    /// [`LocalFault`] if the configuration cannot be said in a hello.
    pub fn channel_open(
        &mut self,
        channel: impl Into<ChannelTraits>,
        now: Timestamp,
    ) -> Result<Option<usize>, LocalFault> {
        if matches!(self.state, State::Ended) || self.closing.is_some() || !self.make_room(now) {
            self.attempt_failed(now);
            return Ok(None);
        }
        let (mut config, terms) = (self.common.connection.clone(), self.hello_terms());
        if terms.session.is_some() {
            config.handshake_timeout = config.handshake_timeout.min(self.common.session.attempt_timeout);
        }
        let channel = self.traits(lasting(&self.common.session, channel.into()));
        let connection = Connection::client(config, &self.common.identity, channel, terms, now)?;
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

    /// The next event, or `None` until more has arrived. With [`ConnectionEvent::Message`] the message is in `arrived`.
    ///
    /// # Errors
    /// As [`Pool::buffer`]: nothing is lost, and the same call may succeed when buffers have come back.
    #[inline]
    pub fn poll_event(
        &mut self,
        now: Timestamp,
        pool: &mut Pool,
        arrived: &mut Option<Message>,
    ) -> Result<Option<ConnectionEvent>, PoolError> {
        if let Some(index) = self.only_path()
            && self.events.is_empty()
            && let Some(path) = &mut self.paths[index]
        {
            // Nearly everything comes this way.
            let polled = path.connection.poll_event(self.streams.as_mut(), now, pool, arrived);
            if !matches!(&polled, Ok(Some(ConnectionEvent::Opened(_) | ConnectionEvent::Closed(_)))) {
                return polled;
            }
            if let Ok(Some(event)) = polled {
                self.path_event(index, event, now);
            }
        }
        self.poll_all(now, pool, arrived)
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
    fn poll_all(
        &mut self,
        now: Timestamp,
        pool: &mut Pool,
        arrived: &mut Option<Message>,
    ) -> Result<Option<ConnectionEvent>, PoolError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            // First a connection that has come up: that needs no buffers, and nothing may be sent on the one before.
            if let Some(index) = self.candidate().filter(|&index| self.path_has_events(index)) {
                match self.poll_path(index, now, pool, arrived)? {
                    Polled::Event(event) => return Ok(Some(event)),
                    Polled::Again | Polled::Nothing => continue,
                }
            }
            match self.poll_paths(now, pool, arrived)? {
                Polled::Event(event) => return Ok(Some(event)),
                Polled::Again => {}
                Polled::Nothing => return Ok(None),
            }
        }
    }

    /// Looks at the path that sends, and then at the others.
    fn poll_paths(
        &mut self,
        now: Timestamp,
        pool: &mut Pool,
        arrived: &mut Option<Message>,
    ) -> Result<Polled, PoolError> {
        let first = self.current.unwrap_or_default();
        for ahead in 0..PATHS_MAX {
            match self.poll_path((first + ahead) % PATHS_MAX, now, pool, arrived)? {
                Polled::Nothing => {}
                found => return Ok(found),
            }
        }
        Ok(Polled::Nothing)
    }

    fn poll_path(
        &mut self,
        index: usize,
        now: Timestamp,
        pool: &mut Pool,
        arrived: &mut Option<Message>,
    ) -> Result<Polled, PoolError> {
        let Some(path) = &mut self.paths[index] else { return Ok(Polled::Nothing) };
        let polled = path.connection.poll_event(self.streams.as_mut(), now, pool, arrived)?;
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

    /// Nothing that happens on its only connection ([`Session::only_path`]) makes a timeout that is due earlier than
    /// this time from then.
    #[inline]
    pub fn shortest_timeout(&self) -> Duration {
        self.shortest_timeout
    }

    /// The path that sends.
    pub fn current(&self) -> Option<usize> {
        self.current
    }
}

/// What a look at a path has come to.
#[allow(clippy::large_enum_variant)] // looked at where it is returned, and never kept
enum Polled {
    Event(ConnectionEvent),
    /// The session has changed: look again.
    Again,
    Nothing,
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
