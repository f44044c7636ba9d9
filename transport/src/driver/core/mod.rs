//! What a driver has beside its handler: wires, sessions, buffers, time.
//!
//! A [`Core`] knows nothing of what its handler is for. It promises that a session is named from its first connection
//! to its end by one [`ConnectionId`], whatever channels it uses meanwhile, and never by another's.
//!
//! Here is what a handler uses. `channels` is what the driver's loop does with it: it brings channels and sessions
//! together, and hands on what passes between them; `table` says which session uses which channel.

mod channels;
mod one_sided;
mod table;

use super::DriverConfig;
use super::address::Address;
use super::handler::Resumed;
use super::stats::DriverStats;
use super::timers::Timers;
use super::wires::{Wires, WiresError};
use crate::backend::{ConnectError, ListenError, Listener, Listening};
use crate::connection::{CloseReason, Connection, Identity, LinkError, LinkRoom, SendError};
use crate::message::Message;
use crate::packing::PackingStats;
use crate::pool::{GatherList, Pool, PoolError};
use crate::proto::control::{Address as LinkAddress, CloseCode, DetachCode, LinkRole};
use crate::proto::handshake::LocalFault;
use crate::proto::hello::SessionTerms;
use crate::proto::{LinkId, MessageNumber, SessionId};
use crate::session::{Common, Random, Session, SessionCounts};
use crate::sync::Wakeup;
use crate::time::{Clock, Timestamp};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use table::{ChannelUser, ChannelUsers, ComingChannel, Entry, UsedChannel};
use thiserror::Error;

pub use table::ConnectionId;
pub(super) use table::find;

/// Why a driver does not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DriverError {
    /// No buffers.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// No wires.
    #[error(transparent)]
    Wires(#[from] WiresError),
    /// The kernel gave no descriptor to wake it by.
    #[error("no eventfd: {0}; raise the limit of file descriptors (ulimit -n, LimitNOFILE=)")]
    Wakeup(#[source] std::io::Error),
    /// Its parameters cannot be said in a hello.
    #[error(transparent)]
    Local(#[from] LocalFault),
    /// The kernel gave no random numbers.
    #[error("the kernel gave no random numbers: {0}")]
    Random(String),
}

/// What a core takes from outside and a simulation replaces: time, and what is drawn at random.
pub(super) struct Surroundings {
    pub(super) clock: Clock,
    /// Everything that this driver draws at random follows from it.
    pub(super) seed: [u8; 32],
}

/// Everything that a [`Handler`](super::Handler) may use.
///
/// A name of a connection that has ended is answered as one that is not open, never with another connection.
pub struct Core {
    pub(super) config: DriverConfig,
    common: Arc<Common>,
    clock: Clock,
    now: Timestamp,
    pub(super) pool: Pool,
    pub(super) wires: Wires,
    pub(super) entries: Vec<Entry>,
    free: Vec<u32>,
    open_entries: usize,
    users: ChannelUsers,
    /// Sessions that were accepted here and can be resumed, by their names.
    sessions: HashMap<SessionId, u32>,
    random: Random,
    /// Sessions that may have something to send.
    dirty: VecDeque<u32>,
    /// Sessions whose parsing waits for buffers.
    stalled: Vec<u32>,
    gather: GatherList,
    pub(super) connection_timers: Timers,
    pub(super) handler_timers: Timers,
    next_message_number: u64,
    packing_of_closed: PackingStats,
    counts_of_closed: SessionCounts,
    pub(super) stats: DriverStats,
    pub(super) is_stopping: bool,
}

impl Core {
    pub(super) fn new(
        config: DriverConfig,
        identity: Identity,
        surroundings: Surroundings,
        open_wires: impl FnOnce(&DriverConfig, &mut Pool) -> Result<Wires, WiresError>,
    ) -> Result<Self, DriverError> {
        let Surroundings { clock, seed } = surroundings;
        let mut pool = Pool::new(config.pool)?;
        let wires = open_wires(&config, &mut pool)?;
        // Made once and thrown away, so that a configuration that cannot work is refused before anything listens.
        let terms = SessionTerms::default();
        Connection::client(config.connection.clone(), &identity, 4096.into(), terms, Timestamp::ZERO)?;
        let common =
            Common { connection: config.connection.clone(), session: config.session.clone(), identity };
        Ok(Self {
            config,
            common: Arc::new(common),
            clock,
            now: Timestamp::ZERO,
            pool,
            wires,
            entries: Vec::new(),
            free: Vec::new(),
            open_entries: 0,
            users: ChannelUsers::default(),
            sessions: HashMap::new(),
            random: Random::new(seed),
            dirty: VecDeque::new(),
            stalled: Vec::new(),
            gather: GatherList::new(),
            connection_timers: Timers::new(),
            handler_timers: Timers::new(),
            next_message_number: 0,
            packing_of_closed: PackingStats::default(),
            counts_of_closed: SessionCounts::default(),
            stats: DriverStats::default(),
            is_stopping: false,
        })
    }

    /// The time of the present turn.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The driver's buffers.
    pub fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    /// Who this process is.
    pub fn identity(&self) -> &Identity {
        &self.common.identity
    }

    /// By which other threads end the driver's sleep, after they published what it shall find.
    pub fn wakeup(&self) -> &Arc<Wakeup> {
        self.wires.wakeup()
    }

    /// The number for a message that this process sends first.
    pub fn next_message_number(&mut self) -> MessageNumber {
        self.next_message_number += 1;
        MessageNumber(self.next_message_number)
    }

    /// What the driver did so far.
    pub fn stats(&self) -> DriverStats {
        let mut stats = self.stats.clone();
        stats.packing = self.packing_of_closed;
        stats.sessions = self.counts_of_closed;
        for session in self.entries.iter().filter_map(|entry| entry.session.as_deref()) {
            stats.packing.add(&session.packing_stats());
            stats.sessions.add(&session.counts());
        }
        stats.pool = self.pool.stats();
        stats.connections = self.open_entries as u64;
        stats
    }

    /// Which engine drives TCP, and why it is not the better one.
    pub fn tcp_engine(&self) -> (crate::backend::tcp::Engine, Option<&str>) {
        self.wires.tcp_engine()
    }

    /// Ends [`super::Driver::run`] after the present turn.
    pub fn stop(&mut self) {
        self.is_stopping = true;
    }

    /// Calls [`super::Handler::timer`] with `key` at `at`, in place of an earlier setting; [`Timestamp::NEVER`]
    /// clears it. Keys are small dense numbers of the handler's choice.
    pub fn set_timer(&mut self, key: usize, at: Timestamp) {
        self.handler_timers.set(key, at);
    }
}

/// Listening and connecting.
impl Core {
    /// Listens; the result is where, with the port that the system chose if 0 was asked for. Blocks while a host's name
    /// is resolved; an address in numbers never does.
    ///
    /// # Errors
    /// [`ListenError`], which names the address and what to do.
    pub fn listen(&mut self, address: &Address) -> Result<(Listener, Address), ListenError> {
        let Listening { listener, address: place } = self.wires.listen(address)?;
        Ok((listener, address.at(place)))
    }

    /// Stops listening at an address that [`Core::listen`] was given; connections that were accepted stay.
    pub fn stop_listening(&mut self, address: &Address, listener: Listener) {
        self.wires.stop_listening(address.wire(), listener);
    }

    /// Begins a session with the peer at an address. Blocks while a host's name is resolved; an address in numbers never
    /// does. [`super::Handler::opened`] or [`super::Handler::closed`] follows.
    ///
    /// # Errors
    /// [`ConnectError`] for what is known at once.
    pub fn connect(&mut self, address: &Address) -> Result<ConnectionId, ConnectError> {
        self.connect_by(std::slice::from_ref(address))
    }

    /// Begins a session with a peer that can be reached at each of these addresses, the best first. The first
    /// connection is made to the first of them; the others are for when it is lost.
    ///
    /// # Errors
    /// [`ConnectError`] for what is known at once of the first.
    ///
    /// # Panics
    /// Without an address.
    pub fn connect_by(&mut self, addresses: &[Address]) -> Result<ConnectionId, ConnectError> {
        let first = &addresses[0];
        let channel = self.wires.connect(first)?;
        let seed = self.random.number();
        let session = Session::client(self.common.clone(), addresses.len(), seed, self.now);
        let id = self.insert(Box::new(session), first.to_string());
        let entry = &mut self.entries[id.index()];
        entry.addresses = addresses.to_vec();
        entry.coming = Some(ComingChannel { wire: first.wire(), channel, is_given_up: false });
        self.users.set(first.wire(), channel, id.index, ChannelUser::COMING);
        self.connection_timers.set(id.index(), self.now + self.config.connection.handshake_timeout);
        Ok(id)
    }

    /// Has a session that was begun here go over to another address of its peer. It goes on over the connection that it
    /// has until the new one is up, and afterwards if that does not come up; [`super::Handler::resumed`] says when it
    /// has moved. False if it is interrupted, ended, or about to move already.
    ///
    /// # Errors
    /// [`ConnectError`] for what is known at once.
    pub fn move_to(&mut self, connection: ConnectionId, address: &Address) -> Result<bool, ConnectError> {
        let now = self.now;
        let known = |entry: &Entry| entry.addresses.iter().position(|known| known == address);
        let Some(entry) = self.entries.get(connection.index()) else { return Ok(false) };
        let place = known(entry);
        let Some(session) = find(&mut self.entries, connection) else { return Ok(false) };
        let place = place.unwrap_or_else(|| session.addresses());
        if !session.begin_move(place, now) {
            return Ok(false);
        }
        if place == session.addresses() {
            session.add_address(false, now);
            self.entries[connection.index()].addresses.push(address.clone());
        }
        self.open_channel(connection, place).map(|()| true)
    }

    /// Whether a session has no connection at present.
    pub fn is_interrupted(&mut self, connection: ConnectionId) -> bool {
        find(&mut self.entries, connection).is_some_and(|session| session.is_interrupted())
    }

    /// Connections in any state.
    pub fn connections(&self) -> usize {
        self.open_entries
    }

    /// The peer's address, for logs.
    pub fn peer(&self, connection: ConnectionId) -> &str {
        match self.entries.get(connection.index()) {
            Some(entry) if entry.generation == connection.generation => &entry.peer,
            _ => "",
        }
    }

    /// Closes every connection in order, with this reason.
    pub fn close_all(&mut self, code: CloseCode, text: &str) {
        for index in 0..self.entries.len() as u32 {
            let id = self.id(index);
            self.close(id, code, text);
        }
    }
}

/// One connection.
impl Core {
    /// Queues a message on its link. Neither allocates nor makes a system call; it leaves at the end of the turn.
    ///
    /// # Errors
    /// [`SendError`], with the message as it was.
    #[allow(clippy::result_large_err)] // the message goes back to its owner, whole
    pub fn send(&mut self, connection: ConnectionId, message: Message) -> Result<(), (SendError, Message)> {
        match find(&mut self.entries, connection) {
            None => return Err((SendError::NotOpen, message)),
            Some(found) => found.send(message, &mut self.pool)?,
        }
        self.stats.messages_sent += 1;
        self.mark_dirty(connection.index);
        Ok(())
    }

    /// Asks for a link; a consumer grants `room` from the start. [`super::Handler::attached`] or
    /// [`super::Handler::detached`] follows.
    ///
    /// # Errors
    /// [`SendError::NotOpen`], or [`SendError::Link`] when there are too many.
    pub fn attach(
        &mut self,
        connection: ConnectionId,
        role: LinkRole,
        address: LinkAddress<'_>,
        room: LinkRoom,
    ) -> Result<LinkId, SendError> {
        let found = find(&mut self.entries, connection).ok_or(SendError::NotOpen)?;
        let link = found.attach(role, address, room)?;
        self.mark_dirty(connection.index);
        Ok(link)
    }

    /// Grants a link that the peer asked for; a producer may send `room` at once.
    ///
    /// # Errors
    /// [`LinkError::NotAttached`] if it does not wait for an answer.
    pub fn accept_link(
        &mut self,
        connection: ConnectionId,
        link: LinkId,
        room: LinkRoom,
    ) -> Result<(), LinkError> {
        self.with_link(connection, link, |connection| connection.accept_link(link, room))
    }

    /// Refuses a link that the peer asked for.
    ///
    /// # Errors
    /// [`LinkError::NotAttached`] if it does not wait for an answer.
    pub fn refuse_link(
        &mut self,
        connection: ConnectionId,
        link: LinkId,
        code: DetachCode,
        text: &str,
    ) -> Result<(), LinkError> {
        self.with_link(connection, link, |connection| connection.refuse_link(link, code, text))
    }

    /// Ends a link. What the peer sent on it before it heard of that still arrives.
    pub fn detach_link(&mut self, connection: ConnectionId, link: LinkId, code: DetachCode, text: &str) {
        if let Some(found) = find(&mut self.entries, connection) {
            found.detach_link(link, code, text);
            self.mark_dirty(connection.index);
        }
    }

    /// Says how much more a receiving link can take from now on.
    ///
    /// # Errors
    /// [`LinkError::NotAttached`] if it does not receive.
    pub fn set_link_room(
        &mut self,
        connection: ConnectionId,
        link: LinkId,
        room: LinkRoom,
    ) -> Result<(), LinkError> {
        let found = find(&mut self.entries, connection).ok_or(LinkError::NotAttached(link))?;
        found.set_link_room(link, room)?;
        // Mostly the peer has enough, and is told nothing.
        if found.has_due_grants() {
            self.mark_dirty(connection.index);
        }
        Ok(())
    }

    /// Whether a message could be sent on a link now. If not, [`super::Handler::writable`] follows when it can.
    pub fn is_writable(&mut self, connection: ConnectionId, link: LinkId) -> bool {
        find(&mut self.entries, connection).is_some_and(|found| found.is_writable(link))
    }

    /// Messages and control records that were sent and that the peer has not acknowledged.
    pub fn unacknowledged(&mut self, connection: ConnectionId) -> usize {
        find(&mut self.entries, connection).map_or(0, |session| session.unacknowledged())
    }

    /// Messages and bytes that wait to be sent on a connection.
    pub fn waiting(&mut self, connection: ConnectionId) -> (usize, u64) {
        find(&mut self.entries, connection).map_or((0, 0), |found| found.waiting())
    }

    /// Closes a session in order: what was queued is sent first. [`super::Handler::closed`] follows.
    pub fn close(&mut self, connection: ConnectionId, code: CloseCode, text: &str) {
        let now = self.now;
        if let Some(session) = find(&mut self.entries, connection) {
            session.close(code, text, now);
            let reason = || CloseReason::Local { code, text: text.to_owned() };
            self.give_up_coming(connection, reason);
            self.mark_dirty(connection.index);
        }
    }

    /// Ends a session at once because a bound of this end was reached; what was queued for it is dropped.
    pub fn abort(&mut self, connection: ConnectionId, reason: CloseReason) {
        let now = self.now;
        if let Some(session) = find(&mut self.entries, connection) {
            session.abort(reason.clone(), now);
            self.give_up_coming(connection, || reason);
            self.mark_dirty(connection.index);
        }
    }

    pub(super) fn with_link(
        &mut self,
        connection: ConnectionId,
        link: LinkId,
        act: impl FnOnce(&mut Session) -> Result<(), LinkError>,
    ) -> Result<(), LinkError> {
        let found = find(&mut self.entries, connection).ok_or(LinkError::NotAttached(link))?;
        act(found)?;
        self.mark_dirty(connection.index);
        Ok(())
    }
}

/// How long a driver sleeps at most while something waits for buffers.
const STALLED_SLEEP: Duration = Duration::from_millis(1);

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Core({} connections at {})", self.open_entries, self.now)
    }
}
