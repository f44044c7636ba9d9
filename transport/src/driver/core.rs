//! What a driver has beside its handler: wires, connections, buffers, time.

use super::DriverConfig;
use super::address::Address;
use super::stats::DriverStats;
use super::timers::Timers;
use super::wires::{Wires, WiresError};
use crate::backend::inproc::InprocNetwork;
use crate::backend::{Channel, ConnectError, ListenError, Listener, Listening, Path, SendRefused, WireKind};
use crate::connection::{CloseReason, Connection, ConnectionEvent, Identity, LinkError, LinkRoom, SendError};
use crate::message::Message;
use crate::packing::PackingStats;
use crate::pool::{GatherList, Pool, PoolError, Segment};
use crate::proto::control::{Address as LinkAddress, CloseCode, DetachCode, LinkRole, RefusalCode};
use crate::proto::handshake::LocalFault;
use crate::proto::{LinkId, MessageNumber};
use crate::sync::Wakeup;
use crate::time::{Clock, Timestamp};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// Names a connection of one driver. A name that is out of date means no other connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    index: u32,
    generation: u32,
}

impl ConnectionId {
    /// Its place in the driver's table: small, dense, used again by later connections.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

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

/// Everything that a [`Handler`](super::Handler) may use.
///
/// A name of a connection that has ended is answered as one that is not open, never with another connection.
pub struct Core {
    pub(super) config: DriverConfig,
    identity: Identity,
    clock: Clock,
    now: Timestamp,
    pub(super) pool: Pool,
    pub(super) wires: Wires,
    pub(super) entries: Vec<Entry>,
    free: Vec<u32>,
    open_entries: usize,
    /// By wire and slot of the channel, the connection.
    by_channel: [Vec<u32>; WireKind::COUNT],
    /// Connections that may have something to send.
    dirty: VecDeque<u32>,
    /// Connections whose parsing waits for buffers.
    stalled: Vec<u32>,
    gather: GatherList,
    pub(super) connection_timers: Timers,
    pub(super) handler_timers: Timers,
    next_message_number: u64,
    packing_of_closed: PackingStats,
    pub(super) stats: DriverStats,
    pub(super) is_stopping: bool,
}

pub(super) struct Entry {
    generation: u32,
    state: EntryState,
    wire: WireKind,
    channel: Channel,
    peer: String,
    is_sending: bool,
    is_dirty: bool,
    is_stalled: bool,
    /// The channel has ended, and what arrived before waits for buffers.
    is_gone: bool,
}

enum EntryState {
    Free,
    /// The channel is coming up, unless this end has given it up for this reason.
    Connecting(Option<CloseReason>),
    Connected(Box<Connection>),
}

impl Core {
    pub(super) fn new(
        config: DriverConfig,
        identity: Identity,
        network: InprocNetwork,
        wakeup: Arc<Wakeup>,
    ) -> Result<Self, DriverError> {
        let mut pool = Pool::new(config.pool)?;
        let wires = Wires::open(config.tcp.clone(), network, wakeup, &mut pool)?;
        // Made once and thrown away, so that a configuration that cannot work is refused before anything listens.
        Connection::client(config.connection.clone(), &identity, 4096, Timestamp::ZERO)?;
        Ok(Self {
            config,
            identity,
            clock: Clock::new(),
            now: Timestamp::ZERO,
            pool,
            wires,
            entries: Vec::new(),
            free: Vec::new(),
            open_entries: 0,
            by_channel: Default::default(),
            dirty: VecDeque::new(),
            stalled: Vec::new(),
            gather: GatherList::new(),
            connection_timers: Timers::new(),
            handler_timers: Timers::new(),
            next_message_number: 0,
            packing_of_closed: PackingStats::default(),
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
        &self.identity
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
        for entry in &self.entries {
            if let EntryState::Connected(connection) = &entry.state {
                stats.packing.add(&connection.packing_stats());
            }
        }
        stats.pool = self.pool.stats();
        stats.connections = self.open_entries as u64;
        stats
    }

    /// Which engine drives TCP, and why it is not the better one.
    pub fn tcp_engine(&self) -> (crate::backend::tcp::Engine, Option<&str>) {
        (self.wires.tcp.engine(), self.wires.tcp.engine_reason())
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

    /// Starts to connect. Blocks while a host's name is resolved; an address in numbers never does.
    /// [`super::Handler::opened`] or [`super::Handler::closed`] follows.
    ///
    /// # Errors
    /// [`ConnectError`] for what is known at once.
    pub fn connect(&mut self, address: &Address) -> Result<ConnectionId, ConnectError> {
        let channel = self.wires.connect(address)?;
        let id = self.insert(address.wire(), channel, address.to_string(), EntryState::Connecting(None));
        self.connection_timers.set(id.index(), self.now + self.config.connection.handshake_timeout);
        Ok(id)
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

    /// Ends a link. What the peer sent on it before it heard of that still arrives, unless it was attached as a consumer
    /// that settles: then it can be settled no more, and the peer has it still.
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
        self.with_link(connection, link, |connection| connection.set_link_room(link, room))
    }

    /// Whether a message could be sent on a link now. If not, [`super::Handler::writable`] follows when it can.
    pub fn is_writable(&mut self, connection: ConnectionId, link: LinkId) -> bool {
        find(&mut self.entries, connection).is_some_and(|found| found.is_writable(link))
    }

    /// Messages and bytes that wait to be sent on a connection.
    pub fn waiting(&mut self, connection: ConnectionId) -> (usize, u64) {
        find(&mut self.entries, connection).map_or((0, 0), |found| found.waiting())
    }

    /// Closes a connection in order: what was queued is sent first. [`super::Handler::closed`] follows.
    pub fn close(&mut self, connection: ConnectionId, code: CloseCode, text: &str) {
        let Some(entry) = self.entries.get_mut(connection.index()) else { return };
        if entry.generation != connection.generation {
            return;
        }
        match &mut entry.state {
            EntryState::Connected(found) => found.close(code, text, self.now),
            EntryState::Connecting(given_up) => {
                given_up.get_or_insert(CloseReason::Local { code, text: text.to_owned() });
                self.wires.close(entry.wire, entry.channel);
            }
            EntryState::Free => return,
        }
        self.mark_dirty(connection.index);
    }

    /// Ends a connection at once because a bound of this end was reached; what was queued for it is dropped.
    pub fn abort(&mut self, connection: ConnectionId, reason: CloseReason) {
        let Some(entry) = self.entries.get_mut(connection.index()) else { return };
        if entry.generation != connection.generation {
            return;
        }
        match &mut entry.state {
            EntryState::Connected(found) => found.abort(reason, self.now),
            EntryState::Connecting(given_up) => {
                given_up.get_or_insert(reason);
                self.wires.close(entry.wire, entry.channel);
            }
            EntryState::Free => return,
        }
        self.mark_dirty(connection.index);
    }

    pub(super) fn with_link(
        &mut self,
        connection: ConnectionId,
        link: LinkId,
        act: impl FnOnce(&mut Connection) -> Result<(), LinkError>,
    ) -> Result<(), LinkError> {
        let found = find(&mut self.entries, connection).ok_or(LinkError::NotAttached(link))?;
        act(found)?;
        self.mark_dirty(connection.index);
        Ok(())
    }
}

/// What the driver's loop does with it.
impl Core {
    pub(super) fn read_clock(&mut self) {
        self.now = self.clock.now();
    }

    /// A channel that was accepted or connected is open.
    pub(super) fn channel_open(&mut self, kind: WireKind, channel: Channel, path: Path, accepted: bool) {
        let config = self.config.connection.clone();
        if !accepted {
            let Some(id) = self.by_channel(kind, channel) else { return };
            if let EntryState::Connecting(Some(_)) = &self.entries[id.index()].state {
                // Given up while it came up; the channel's end follows.
                return;
            }
            // The configuration was checked when the driver started.
            if let Ok(connection) = Connection::client(config, &self.identity, path.packet_bytes, self.now) {
                let entry = &mut self.entries[id.index()];
                entry.state = EntryState::Connected(Box::new(connection));
                entry.peer = path.peer;
                self.mark_dirty(id.index);
            }
            return;
        }
        let Ok(mut connection) = Connection::server(config, &self.identity, path.packet_bytes, self.now)
        else {
            // It cannot happen: the configuration was checked when the driver started.
            return self.wires.close(kind, channel);
        };
        if self.open_entries >= self.config.connections_max {
            let text = format!("{} connections are open (connections_max)", self.open_entries);
            connection.refuse(RefusalCode::ResourceLimit, &text, self.now);
        }
        let id = self.insert(kind, channel, path.peer, EntryState::Connected(Box::new(connection)));
        self.mark_dirty(id.index);
    }

    pub(super) fn received(&mut self, id: ConnectionId, segment: Segment) {
        if let Some(connection) = find(&mut self.entries, id) {
            connection.handle_segment(segment, self.now);
        }
    }

    pub(super) fn sent(&mut self, id: ConnectionId) {
        let entry = &mut self.entries[id.index()];
        entry.is_sending = false;
        if let EntryState::Connected(connection) = &mut entry.state {
            connection.handle_sent();
        }
        self.mark_dirty(id.index);
    }

    /// The next event of a connection. When buffers are short it is remembered, and asked again later.
    pub(super) fn poll_event(&mut self, id: ConnectionId) -> Option<ConnectionEvent> {
        let connection = find(&mut self.entries, id)?;
        connection.poll_event(self.now, &mut self.pool).unwrap_or_else(|_| {
            self.note_stalled(id);
            None
        })
    }

    /// Whether a connection has made events of its own, without anything having arrived.
    pub(super) fn has_events(&mut self, id: ConnectionId) -> bool {
        find(&mut self.entries, id).is_some_and(|connection| connection.has_events())
    }

    /// All events of a connection were pulled: its timer is set anew, and its sending is to be looked at.
    pub(super) fn pulled(&mut self, id: ConnectionId) {
        if let Some(connection) = find(&mut self.entries, id) {
            self.connection_timers.set(id.index(), connection.next_timeout());
            if connection.wants_transmit() || connection.is_finished() {
                self.mark_dirty(id.index);
            }
        }
    }

    fn note_stalled(&mut self, id: ConnectionId) {
        self.stats.pool_stalls += 1;
        let entry = &mut self.entries[id.index()];
        if !entry.is_stalled {
            entry.is_stalled = true;
            self.stalled.push(id.index);
        }
    }

    /// Whether something waits for buffers.
    pub(super) fn is_stalled(&self) -> bool {
        !self.stalled.is_empty()
    }

    /// Moves those that wait for buffers to `stalled`; they are to be tried again.
    pub(super) fn take_stalled(&mut self, stalled: &mut Vec<ConnectionId>) {
        while let Some(index) = self.stalled.pop() {
            self.entries[index as usize].is_stalled = false;
            stalled.push(self.id(index));
        }
    }

    /// A connection whose sending is to be looked at.
    pub(super) fn next_dirty(&mut self) -> Option<ConnectionId> {
        let index = self.dirty.pop_front()?;
        self.entries[index as usize].is_dirty = false;
        Some(self.id(index))
    }

    /// Starts the next send of a connection, or closes its channel when nothing more is to be sent.
    pub(super) fn transmit(&mut self, id: ConnectionId) {
        let entry = &mut self.entries[id.index()];
        let EntryState::Connected(connection) = &mut entry.state else { return };
        if entry.is_sending || entry.is_gone {
            return;
        }
        let mut stalls = false;
        if connection.wants_transmit() {
            // When the pool is empty, what was packed leaves, and the rest is tried again later.
            stalls = connection.poll_transmit(self.now, &mut self.pool, &mut self.gather).is_err();
            if !self.gather.is_empty() {
                let outcome = self.wires.send(entry.wire, entry.channel, &mut self.gather);
                entry.is_sending = outcome != Err(SendRefused::NotOpen);
                self.gather.clear();
                self.stats.sends += 1;
            }
        }
        if connection.is_finished() {
            self.wires.close(entry.wire, entry.channel);
        }
        self.connection_timers.set(id.index(), connection.next_timeout());
        if stalls {
            self.note_stalled(id);
        }
    }

    pub(super) fn expired(&mut self, index: usize) -> ConnectionId {
        let id = self.id(index as u32);
        let entry = &mut self.entries[index];
        match &mut entry.state {
            EntryState::Connected(connection) => {
                connection.handle_timeout(self.now);
                if connection.is_finished() && !entry.is_gone {
                    self.wires.close(entry.wire, entry.channel);
                }
                self.connection_timers.set(index, connection.next_timeout());
            }
            EntryState::Connecting(given_up) => {
                let timeout = self.config.connection.handshake_timeout;
                given_up.get_or_insert(CloseReason::HandshakeTimeout(timeout));
                self.wires.close(entry.wire, entry.channel);
            }
            EntryState::Free => {}
        }
        self.mark_dirty(index as u32);
        id
    }

    /// A channel has ended. Says what to report, unless its connection does.
    pub(super) fn channel_closed(&mut self, id: ConnectionId, reason: &str) -> Option<CloseReason> {
        let entry = &mut self.entries[id.index()];
        entry.is_gone = true;
        self.by_channel[entry.wire.index()][entry.channel.slot as usize] = NONE;
        match &mut entry.state {
            EntryState::Connected(connection) => {
                connection.handle_channel_end(reason, self.now);
                None
            }
            EntryState::Connecting(given_up) => {
                Some(given_up.take().unwrap_or_else(|| CloseReason::Channel(reason.to_owned())))
            }
            EntryState::Free => None,
        }
    }

    /// Forgets a connection whose channel is gone, once everything that had arrived was handed on.
    pub(super) fn remove_if_gone(&mut self, id: ConnectionId) {
        let entry = &self.entries[id.index()];
        if entry.generation == id.generation && entry.is_gone && !entry.is_stalled {
            self.remove(id);
        }
    }

    /// The end of a connection was reported to the handler.
    pub(super) fn reported_closed(&mut self, reason: &CloseReason) {
        self.stats.count_closed(reason);
    }

    fn remove(&mut self, id: ConnectionId) {
        let entry = &mut self.entries[id.index()];
        if let EntryState::Connected(connection) = &entry.state {
            self.packing_of_closed.add(&connection.packing_stats());
        }
        entry.state = EntryState::Free;
        entry.generation = entry.generation.wrapping_add(1);
        entry.peer = String::new();
        entry.is_gone = false;
        self.connection_timers.clear(id.index());
        self.free.push(id.index);
        self.open_entries -= 1;
    }

    pub(super) fn by_channel(&self, kind: WireKind, channel: Channel) -> Option<ConnectionId> {
        let index = *self.by_channel[kind.index()].get(channel.slot as usize)?;
        let entry = self.entries.get(index as usize)?;
        (entry.channel == channel).then_some(ConnectionId { index, generation: entry.generation })
    }

    pub(super) fn id(&self, index: u32) -> ConnectionId {
        ConnectionId { index, generation: self.entries[index as usize].generation }
    }

    fn insert(&mut self, wire: WireKind, channel: Channel, peer: String, state: EntryState) -> ConnectionId {
        let index = self.free.pop().unwrap_or(self.entries.len() as u32);
        let generation = self.entries.get(index as usize).map_or(0, |entry| entry.generation);
        // A place that is used again may still be in the list of those to be looked at.
        let is_dirty = self.entries.get(index as usize).is_some_and(|free| free.is_dirty);
        let (is_sending, is_stalled, is_gone) = (false, false, false);
        let entry =
            Entry { generation, state, wire, channel, peer, is_sending, is_dirty, is_stalled, is_gone };
        match self.entries.get_mut(index as usize) {
            Some(free) => *free = entry,
            None => self.entries.push(entry),
        }
        let slots = &mut self.by_channel[wire.index()];
        if slots.len() <= channel.slot as usize {
            slots.resize(channel.slot as usize + 1, NONE);
        }
        slots[channel.slot as usize] = index;
        self.open_entries += 1;
        self.stats.connections_opened += 1;
        ConnectionId { index, generation }
    }

    pub(super) fn mark_dirty(&mut self, index: u32) {
        if let Some(entry) = self.entries.get_mut(index as usize).filter(|entry| !entry.is_dirty) {
            entry.is_dirty = true;
            self.dirty.push_back(index);
        }
    }
}

/// No connection has this place.
const NONE: u32 = u32::MAX;

/// The connection of this name, if it has come up and its name is not out of date.
pub(super) fn find(entries: &mut [Entry], id: ConnectionId) -> Option<&mut Connection> {
    match entries.get_mut(id.index()) {
        Some(Entry { generation, state: EntryState::Connected(connection), .. })
            if *generation == id.generation =>
        {
            Some(connection)
        }
        _ => None,
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Core({} connections at {})", self.open_entries, self.now)
    }
}
