//! The sessions of a driver, and the channels that they use.

use crate::backend::{Channel, WireKind};
use crate::driver::address::Address;
use crate::session::{PATHS_MAX, Session};
use std::fmt;

/// Names a session of one driver, from its first connection to its end, whatever connections it uses. A name that is
/// out of date means no other session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

impl ConnectionId {
    /// Its place in the driver's table: small, dense, used again by later sessions.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

/// A place for a session.
#[derive(Default)]
pub(in crate::driver) struct Entry {
    pub(super) generation: u32,
    pub(super) session: Option<Box<Session>>,
    /// Its channels, by path.
    pub(super) channels: [Option<UsedChannel>; PATHS_MAX],
    /// The channel that is coming up for it.
    pub(super) coming: Option<ComingChannel>,
    /// Of the end that connected: where the peer is, the best first.
    pub(super) addresses: Vec<Address>,
    /// Where the peer is on the channel that is in use, or was last, for logs.
    pub(super) peer: String,
    pub(super) is_dirty: bool,
    pub(super) is_stalled: bool,
}

pub(super) struct UsedChannel {
    pub(super) wire: WireKind,
    pub(super) channel: Channel,
    pub(super) peer: String,
    pub(super) is_sending: bool,
    /// Its wire has one-sided reads.
    pub(super) has_one_sided_reads: bool,
    /// It has ended, and what arrived before may still wait for buffers.
    pub(super) is_gone: bool,
}

impl UsedChannel {
    pub(super) fn new(wire: WireKind, channel: Channel, peer: String) -> Self {
        Self { wire, channel, peer, is_sending: false, has_one_sided_reads: false, is_gone: false }
    }
}

/// A channel that is coming up, unless this end has given it up.
pub(super) struct ComingChannel {
    pub(super) wire: WireKind,
    pub(super) channel: Channel,
    pub(super) is_given_up: bool,
}

/// Who uses a channel, by its wire and slot.
///
/// A wire may use a slot again while the end of the channel that had it is still to be heard of, in the same batch of
/// events: such a channel is found among those that were displaced.
#[derive(Debug, Default)]
pub(super) struct ChannelUsers {
    by_slot: [Vec<Option<(u32, ChannelUser)>>; WireKind::COUNT],
    displaced: Vec<(WireKind, Channel, ChannelUser)>,
}

/// A session, and the path that the channel is for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChannelUser {
    pub(super) index: u32,
    pub(super) path: u8,
}

impl ChannelUser {
    /// In place of a path: the channel is coming up.
    pub(super) const COMING: u8 = u8::MAX;
}

impl ChannelUsers {
    pub(super) fn set(&mut self, wire: WireKind, channel: Channel, index: u32, path: u8) {
        let slots = &mut self.by_slot[wire.index()];
        if slots.len() <= channel.slot as usize {
            slots.resize(channel.slot as usize + 1, None);
        }
        let before = slots[channel.slot as usize].replace((channel.generation, ChannelUser { index, path }));
        if let Some((generation, user)) = before.filter(|(generation, _)| *generation != channel.generation) {
            self.displaced.push((wire, Channel { generation, ..channel }, user));
        }
    }

    pub(super) fn clear(&mut self, wire: WireKind, channel: Channel) {
        let user = self.by_slot[wire.index()].get_mut(channel.slot as usize);
        if user.and_then(|user| user.take_if(|(generation, _)| *generation == channel.generation)).is_none() {
            self.displaced.retain(|(its_wire, its, _)| (*its_wire, *its) != (wire, channel));
        }
    }

    #[inline]
    pub(super) fn of(&self, wire: WireKind, channel: Channel) -> Option<ChannelUser> {
        match self.by_slot[wire.index()].get(channel.slot as usize)? {
            Some((generation, user)) if *generation == channel.generation => Some(*user),
            _ => self.displaced(wire, channel),
        }
    }

    #[cold]
    fn displaced(&self, wire: WireKind, channel: Channel) -> Option<ChannelUser> {
        let found = self.displaced.iter().find(|(its_wire, its, _)| (*its_wire, *its) == (wire, channel));
        found.map(|(_, _, user)| *user)
    }
}

/// The session of this name, if its name is not out of date.
#[inline]
pub(in crate::driver) fn find(entries: &mut [Entry], id: ConnectionId) -> Option<&mut Session> {
    let entry = entries.get_mut(id.index()).filter(|entry| entry.generation == id.generation)?;
    entry.session.as_deref_mut()
}
