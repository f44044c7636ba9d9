//! What the driver's loop does with sessions and channels.

use super::one_sided::do_one_sided;
use super::{
    ChannelUser, ComingChannel, ConnectionId, Core, Entry, Resumed, STALLED_SLEEP, UsedChannel, find,
};
use crate::backend::{Channel, ConnectError, Path, SendRefused, WireKind};
use crate::connection::{CloseReason, ConnectionEvent};
use crate::message::Message;
use crate::pool::Segment;
use crate::proto::control::RefusalCode;
use crate::session::{PATHS_MAX, SESSION_UNKNOWN, Session};
use crate::time::Timestamp;
use std::time::Duration;

/// Beyond `connections_max`, so many connections may be there whose clients have not said yet what they want: they may
/// come back to a session that counts already.
const GREETINGS_MAX: usize = 64;

/// Channels: how they come up and go.
impl Core {
    /// A channel that was accepted or connected is open.
    pub(in crate::driver) fn channel_open(
        &mut self,
        wire: WireKind,
        channel: Channel,
        path: Path,
        accepted: bool,
    ) {
        if accepted {
            return self.channel_accepted(wire, channel, path);
        }
        let Some((id, ChannelUser::COMING)) = self.user(wire, channel) else { return };
        let entry = &mut self.entries[id.index()];
        if entry.coming.as_ref().is_none_or(|coming| coming.is_given_up) {
            // Given up while it came up; the channel's end follows.
            return;
        }
        let Some(session) = entry.session.as_deref_mut() else { return };
        // The configuration was checked when the driver started.
        let traits = self.wires.traits(wire, channel, &path);
        let opened = session.channel_open(traits, self.now).ok().flatten();
        let Some(index) = opened else {
            self.give_up_coming(id, || CloseReason::Channel("not wanted any more".to_owned()));
            return;
        };
        entry.coming = None;
        self.use_channel(id, index, UsedChannel::new(wire, channel, path.peer));
    }

    fn channel_accepted(&mut self, wire: WireKind, channel: Channel, path: Path) {
        let traits = self.wires.traits(wire, channel, &path);
        let Ok(mut session) = Session::server(self.common.clone(), traits, self.now) else {
            // It cannot happen: the configuration was checked when the driver started.
            return self.wires.close(wire, channel);
        };
        // A client that comes back to its session is let in; which one it is shows in its hello.
        if self.open_entries >= self.config.connections_max + GREETINGS_MAX {
            session.refuse(0, RefusalCode::ResourceLimit, &self.too_many(), self.now);
        }
        let id = self.insert(Box::new(session), path.peer.clone());
        self.use_channel(id, 0, UsedChannel::new(wire, channel, path.peer));
    }

    fn too_many(&self) -> String {
        format!("{} sessions are open (connections_max)", self.open_entries)
    }

    /// From now on a channel is this path of this session.
    fn use_channel(&mut self, id: ConnectionId, path: usize, used: UsedChannel) {
        self.users.set(used.wire, used.channel, id.index, path as u8);
        let mut used = used;
        used.has_one_sided_reads = self.wires.one_sided(used.wire).is_some();
        let entry = &mut self.entries[id.index()];
        if entry.channels.iter().all(Option::is_none) {
            entry.peer.clone_from(&used.peer);
        }
        entry.channels[path] = Some(used);
        self.mark_dirty(id.index);
    }

    /// Starts to open another channel for a session, to the address at this place of its list.
    pub(super) fn open_channel(&mut self, id: ConnectionId, place: usize) -> Result<(), ConnectError> {
        let entry = &mut self.entries[id.index()];
        let Some(address) = entry.addresses.get(place) else { return Ok(()) };
        let wire = address.wire();
        match self.wires.connect(address) {
            Ok(channel) => {
                entry.coming = Some(ComingChannel { wire, channel, is_given_up: false });
                self.users.set(wire, channel, id.index, ChannelUser::COMING);
                Ok(())
            }
            Err(error) => {
                if let Some(session) = entry.session.as_deref_mut() {
                    session.channel_failed(CloseReason::Channel(error.to_string()), self.now);
                }
                Err(error)
            }
        }
    }

    /// The channel that is coming up for a session is not wanted any more. For the session that is its end; until the
    /// wire has let go of it there is no other one.
    pub(super) fn give_up_coming(&mut self, id: ConnectionId, reason: impl FnOnce() -> CloseReason) {
        let Some(entry) = self.entries.get_mut(id.index()) else { return };
        let coming = entry.coming.as_mut().filter(|coming| !coming.is_given_up);
        if let (Some(coming), Some(session)) = (coming, &mut entry.session) {
            coming.is_given_up = true;
            self.wires.close(coming.wire, coming.channel);
            session.channel_failed(reason(), self.now);
            self.mark_dirty(id.index);
        }
    }

    /// A channel has ended. Whose it was, if anybody's.
    pub(in crate::driver) fn channel_closed(
        &mut self,
        wire: WireKind,
        channel: Channel,
        reason: &str,
    ) -> Option<ConnectionId> {
        let (id, path) = self.user(wire, channel)?;
        self.users.clear(wire, channel);
        let entry = &mut self.entries[id.index()];
        let session = entry.session.as_deref_mut()?;
        if path == ChannelUser::COMING {
            if entry.coming.take().is_some_and(|coming| !coming.is_given_up) {
                session.channel_failed(CloseReason::Channel(reason.to_owned()), self.now);
            }
        } else {
            if let Some(used) = &mut entry.channels[usize::from(path)] {
                used.is_gone = true;
            }
            session.handle_channel_end(usize::from(path), reason, self.now);
        }
        Some(id)
    }
}

/// What arrives.
impl Core {
    /// Bytes have arrived. Whose they are, if anybody's: events are to be pulled.
    #[inline]
    pub(in crate::driver) fn received(
        &mut self,
        wire: WireKind,
        channel: Channel,
        segment: Segment,
    ) -> Option<ConnectionId> {
        let (id, path) = self.user(wire, channel)?;
        let path = usize::from(path);
        let session = self.entries[id.index()].session.as_deref_mut()?;
        session.handle_segment(path, segment, self.now);
        if session.current().is_none() && session.proposal(path).is_some() {
            return Some(self.decide(id, path));
        }
        Some(id)
    }

    /// A client has said which session it wants: a new one, or one that is here. Says of which session its connection
    /// is from now on.
    fn decide(&mut self, id: ConnectionId, path: usize) -> ConnectionId {
        let Some(session) = self.entries[id.index()].session.as_deref_mut() else { return id };
        let Some(proposal) = session.proposal(path) else { return id };
        let Some(wanted) = proposal.client().body.session.session else {
            // This one is counted already.
            if self.open_entries > self.config.connections_max {
                let text = format!("{} sessions are open (connections_max)", self.open_entries - 1);
                session.refuse(path, RefusalCode::ResourceLimit, &text, self.now);
                return id;
            }
            session.accept(path, self.random.session_id(), self.random.token());
            return id;
        };
        let known = self.sessions.get(&wanted).copied();
        let unknown = Err((RefusalCode::SessionUnknown, SESSION_UNKNOWN.to_owned()));
        let [here, there] = [Some(id.index), known]
            .map(|index| index.and_then(|index| self.entries[index as usize].session.as_deref()));
        let checked = match (here.and_then(|session| session.proposal(path)), there) {
            (Some(proposal), Some(session)) => session.check_resume(proposal),
            _ => unknown,
        };
        match (checked, known) {
            (Ok(shown), Some(index)) => {
                let found = self.id(index);
                let token = self.random.token();
                let connection =
                    self.entries[id.index()].session.as_deref_mut().and_then(|it| it.take_path(path));
                let channel = self.entries[id.index()].channels[path].take();
                let session = self.entries[index as usize].session.as_deref_mut();
                if let (Some(session), Some(connection), Some(channel)) = (session, connection, channel)
                    && let Some(path) = session.resume(connection, shown, token)
                {
                    self.use_channel(found, path, channel);
                }
                // It never was a session, and nobody has heard of it.
                self.remove(id);
                found
            }
            (Err((code, text)), _) => {
                let peer = &self.entries[id.index()].peer;
                tracing::info!(connection = %id, peer, ?code, "a session was not resumed: {text}");
                let now = self.now;
                if let Some(session) = self.entries[id.index()].session.as_deref_mut() {
                    session.refuse(path, code, &text, now);
                }
                id
            }
            (Ok(_), None) => id,
        }
    }

    #[inline]
    pub(in crate::driver) fn sent(&mut self, wire: WireKind, channel: Channel) {
        let Some((id, path)) = self.user(wire, channel) else { return };
        let entry = &mut self.entries[id.index()];
        let path = usize::from(path);
        if let Some(used) = entry.channels.get_mut(path).and_then(Option::as_mut) {
            used.is_sending = false;
        }
        let Some(session) = entry.session.as_deref_mut() else { return };
        session.handle_sent(path);
        if session.wants_transmit(path) || session.is_path_finished(path) {
            self.mark_dirty(id.index);
        }
    }

    /// The next event of a session; a message is written to `arrived`. When buffers are short the session is remembered,
    /// and asked again later.
    #[inline]
    pub(in crate::driver) fn poll_event(
        &mut self,
        id: ConnectionId,
        arrived: &mut Option<Message>,
    ) -> Option<ConnectionEvent> {
        let session = find(&mut self.entries, id)?;
        session.poll_event(self.now, &mut self.pool, arrived).unwrap_or_else(|_| {
            self.note_stalled(id);
            None
        })
    }

    /// Whether a session has made events of its own, without anything having arrived.
    #[inline]
    pub(in crate::driver) fn has_events(&mut self, id: ConnectionId) -> bool {
        find(&mut self.entries, id).is_some_and(|session| session.has_events())
    }

    /// All events of a session were pulled: at the end of the turn its sending is looked at, and its timer set anew.
    #[inline]
    pub(in crate::driver) fn pulled(&mut self, id: ConnectionId) {
        let Some(session) = find(&mut self.entries, id) else { return };
        match session.only_path() {
            Some(path)
                if !session.wants_transmit(path)
                    && !session.wants_one_sided(path)
                    && !session.is_path_finished(path) =>
            {
                self.set_session_timer(id);
            }
            _ => self.mark_dirty(id.index),
        }
    }

    /// Opens another channel if the session wants one.
    fn advance(&mut self, id: ConnectionId) {
        let now = self.now;
        let Some(session) = find(&mut self.entries, id) else { return };
        if session.is_attempt_overdue(now) && self.entries[id.index()].coming.is_some() {
            let timeout = self.config.session.attempt_timeout;
            self.give_up_coming(id, || CloseReason::HandshakeTimeout(timeout));
        }
        let is_coming = self.entries[id.index()].coming.is_some();
        if let Some(session) = find(&mut self.entries, id).filter(|_| !is_coming)
            && let Some(place) = session.poll_connect(now)
        {
            // What fails at once is tried again later, like what fails later.
            let _ = self.open_channel(id, place);
        }
    }

    /// Sets the timer of a session, and does before what is due as to its channels.
    ///
    /// A timer that comes up sooner than anything can that happens now is left as it is: what it finds then is what the
    /// session waits for by then. So under traffic nothing is computed for each message.
    #[inline]
    fn set_session_timer(&mut self, id: ConnectionId) {
        let Some(entry) = self.entries.get(id.index()) else { return };
        let Some(session) = &entry.session else { return };
        let set = self.connection_timers.deadline(id.index());
        if session.only_path().is_some() && set > self.now && set <= self.now + session.shortest_timeout() {
            return;
        }
        let next = session.next_timeout();
        if next > self.now && entry.coming.is_none() {
            self.connection_timers.set(id.index(), next);
        } else {
            self.set_timer_of_channels(id);
        }
    }

    #[cold]
    fn set_timer_of_channels(&mut self, id: ConnectionId) {
        self.advance(id);
        let entry = &self.entries[id.index()];
        let Some(session) = &entry.session else { return };
        let next = session.next_timeout();
        match &entry.coming {
            // While the first channel of all comes up, there is nothing in the session that has a time of its own.
            Some(_) if next == Timestamp::NEVER && entry.channels.iter().all(Option::is_none) => {}
            // What is due waits for the end of a channel that was given up, which brings it here again.
            Some(_) if next <= self.now => self.connection_timers.clear(id.index()),
            _ => self.connection_timers.set(id.index(), next),
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
    pub(in crate::driver) fn is_stalled(&self) -> bool {
        !self.stalled.is_empty()
    }

    /// Moves those that wait for buffers to `stalled`; they are to be tried again.
    pub(in crate::driver) fn take_stalled(&mut self, stalled: &mut Vec<ConnectionId>) {
        while let Some(index) = self.stalled.pop() {
            self.entries[index as usize].is_stalled = false;
            stalled.push(self.id(index));
        }
    }

    /// What the handler is told of a session that goes on over another path.
    pub(in crate::driver) fn resumed(
        &mut self,
        id: ConnectionId,
        path: usize,
        interrupted_for: Duration,
    ) -> Option<Resumed> {
        let entry = self.entries.get_mut(id.index())?;
        let used = entry.channels.get(path)?.as_ref()?;
        entry.peer.clone_from(&used.peer);
        Some(Resumed { wire: used.wire, peer: used.peer.clone(), interrupted_for })
    }

    /// A session is open: from now on it can be resumed.
    pub(in crate::driver) fn opened(&mut self, id: ConnectionId) {
        let is_server = self.entries[id.index()].addresses.is_empty();
        if let Some(name) = find(&mut self.entries, id).and_then(|session| session.id())
            && is_server
        {
            self.sessions.insert(name, id.index);
        }
    }
}

/// What leaves.
impl Core {
    /// A session whose sending is to be looked at.
    #[inline]
    pub(in crate::driver) fn next_dirty(&mut self) -> Option<ConnectionId> {
        let index = self.dirty.pop_front()?;
        self.entries[index as usize].is_dirty = false;
        Some(self.id(index))
    }

    /// Starts the next send on each path of a session, and closes the channels on which nothing more is to be sent.
    pub(in crate::driver) fn transmit(&mut self, id: ConnectionId) {
        let only = self.entries[id.index()].session.as_deref().and_then(Session::only_path);
        let stalls = match only {
            Some(path) => self.transmit_path(id, path),
            None => (0..PATHS_MAX).fold(false, |stalls, path| stalls | self.transmit_path(id, path)),
        };
        self.set_session_timer(id);
        if stalls {
            self.note_stalled(id);
        }
    }

    /// True if the pool was empty.
    #[inline]
    fn transmit_path(&mut self, id: ConnectionId, path: usize) -> bool {
        let entry = &mut self.entries[id.index()];
        let (Some(session), Some(used)) = (&mut entry.session, &mut entry.channels[path]) else {
            return false;
        };
        if used.is_gone {
            return false;
        }
        let mut stalls = false;
        if used.has_one_sided_reads
            && session.wants_one_sided(path)
            && let Some(wire) = self.wires.one_sided(used.wire)
        {
            stalls = do_one_sided(session, path, wire, used.channel, &mut self.pool, self.now);
        }
        if used.is_sending {
            return stalls;
        }
        // When the pool is empty, what was packed leaves, and the rest is tried again later.
        stalls |= session.poll_transmit(path, self.now, &mut self.pool, &mut self.gather).is_err();
        if !self.gather.is_empty() {
            let outcome = self.wires.send(used.wire, used.channel, &mut self.gather);
            used.is_sending = outcome != Err(SendRefused::NotOpen);
            self.gather.clear();
            self.stats.sends += 1;
        }
        if session.is_path_finished(path) {
            self.wires.close(used.wire, used.channel);
        }
        stalls
    }
}

/// Time, and the end.
impl Core {
    pub(in crate::driver) fn read_clock(&mut self) {
        self.now = self.clock.now();
    }

    #[cfg(feature = "simulation")]
    pub(in crate::driver) fn set_clock(&mut self, now: Timestamp) {
        self.clock.set(now);
    }

    /// When something is due that no wire tells of: a timer, or another look for buffers that other threads give back,
    /// which wakes nobody. Maybe earlier than that, never later.
    pub(in crate::driver) fn next_due(&self) -> Timestamp {
        let timers = [&self.connection_timers, &self.handler_timers];
        let due = timers.iter().filter_map(|timers| timers.next()).fold(Timestamp::NEVER, Timestamp::min);
        if self.is_stalled() { due.min(self.now + STALLED_SLEEP) } else { due }
    }

    pub(in crate::driver) fn expired(&mut self, index: usize) -> ConnectionId {
        let id = self.id(index as u32);
        let timeout = self.config.connection.handshake_timeout;
        let entry = &mut self.entries[index];
        if let Some(session) = entry.session.as_deref_mut() {
            session.handle_timeout(self.now);
            let is_first = entry.channels.iter().all(Option::is_none) && !session.is_open();
            for path in 0..PATHS_MAX {
                if let Some(used) = entry.channels[path].as_ref().filter(|used| !used.is_gone)
                    && session.is_path_finished(path)
                {
                    self.wires.close(used.wire, used.channel);
                }
            }
            if is_first {
                self.give_up_coming(id, || CloseReason::HandshakeTimeout(timeout));
            }
        }
        self.mark_dirty(index as u32);
        id
    }

    /// Forgets the paths of a session whose channels are gone, once everything that had arrived was handed on, and the
    /// session with the last of them when it has ended.
    pub(in crate::driver) fn remove_if_gone(&mut self, id: ConnectionId) {
        let entry = &mut self.entries[id.index()];
        if entry.generation != id.generation || entry.is_stalled {
            return;
        }
        let Some(session) = entry.session.as_deref_mut() else { return };
        for path in 0..PATHS_MAX {
            if entry.channels[path].as_ref().is_some_and(|used| used.is_gone) {
                entry.channels[path] = None;
                session.remove_path(path);
            }
        }
        if entry.coming.is_none() && session.is_gone() && !session.has_events() {
            self.remove(id);
        }
    }

    /// The end of a session was reported to the handler.
    pub(in crate::driver) fn reported_closed(&mut self, reason: &CloseReason) {
        self.stats.count_closed(reason);
    }

    pub(super) fn remove(&mut self, id: ConnectionId) {
        let entry = &mut self.entries[id.index()];
        if let Some(session) = entry.session.take() {
            self.packing_of_closed.add(&session.packing_stats());
            self.counts_of_closed.add(&session.counts());
            if let Some(name) = session.id()
                && self.sessions.get(&name) == Some(&id.index)
            {
                self.sessions.remove(&name);
            }
        }
        let (generation, is_dirty) = (entry.generation.wrapping_add(1), entry.is_dirty);
        // A place that is used again may still be in the list of those to be looked at.
        *entry = Entry { generation, is_dirty, ..Entry::default() };
        self.connection_timers.clear(id.index());
        self.free.push(id.index);
        self.open_entries -= 1;
    }

    pub(super) fn insert(&mut self, session: Box<Session>, peer: String) -> ConnectionId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry::default());
            self.entries.len() as u32 - 1
        });
        let entry = &mut self.entries[index as usize];
        (entry.session, entry.peer) = (Some(session), peer);
        self.open_entries += 1;
        self.stats.connections_opened += 1;
        ConnectionId { index, generation: entry.generation }
    }

    /// Who uses a channel, and as which path.
    #[inline]
    pub(super) fn user(&self, wire: WireKind, channel: Channel) -> Option<(ConnectionId, u8)> {
        let ChannelUser { index, path } = self.users.of(wire, channel)?;
        let generation = self.entries.get(index as usize)?.generation;
        Some((ConnectionId { index, generation }, path))
    }

    pub(in crate::driver) fn id(&self, index: u32) -> ConnectionId {
        ConnectionId { index, generation: self.entries[index as usize].generation }
    }

    pub(in crate::driver) fn mark_dirty(&mut self, index: u32) {
        if let Some(entry) = self.entries.get_mut(index as usize).filter(|entry| !entry.is_dirty) {
            entry.is_dirty = true;
            self.dirty.push_back(index);
        }
    }
}
