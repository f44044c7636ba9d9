//! The channels of a wire by slot and generation.

use super::CHANNELS_MAX;
use super::duct::DuctEnd;
use super::endpoint::Bell;
use crate::backend::{Channel, ChannelEnd};
use crate::pool::Segment;
use std::collections::VecDeque;

/// All slots of a wire; at most [`CHANNELS_MAX`].
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    /// True while the slot is in the wire's queue of slots to look at.
    scheduled: bool,
    state: State,
}

/// Where a channel stands.
#[derive(Debug)]
pub(super) enum State {
    /// The slot has no channel.
    Free,
    /// The listener has not answered.
    Connecting(DuctEnd),
    /// Segments may flow.
    Open(Box<Open>),
    /// It has ended, and its event is due.
    Ended(ChannelEnd),
}

/// An open channel.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) end: DuctEnd,
    pub(super) bell: Bell,
    pub(super) flight: Flight,
    /// What did not fit into the ring.
    pub(super) unsent: VecDeque<Segment>,
}

/// The one send that may be in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flight {
    /// There is none.
    Idle,
    /// Some of it waits for room.
    Blocked,
    /// It is done, and its event is due.
    Done,
}

impl Open {
    pub(super) fn new(end: DuctEnd, bell: Bell) -> Box<Self> {
        Box::new(Self { end, bell, flight: Flight::Idle, unsent: VecDeque::new() })
    }
}

impl Table {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// A new channel in `state`, unless all slots are taken.
    pub(super) fn insert(&mut self, state: State) -> Option<Channel> {
        if let Some(slot) = self.free.pop() {
            let entry = &mut self.slots[slot as usize];
            entry.state = state;
            return Some(Channel { slot, generation: entry.generation });
        }
        if self.is_full() {
            return None;
        }
        self.slots.push(Slot { generation: 0, scheduled: false, state });
        Some(Channel { slot: self.slots.len() as u32 - 1, generation: 0 })
    }

    /// True if there was never a channel.
    #[inline]
    pub(super) fn is_unused(&self) -> bool {
        self.slots.is_empty()
    }

    /// True when no slot is left.
    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() == CHANNELS_MAX
    }

    /// The state of the channel that has this very name.
    #[inline]
    pub(super) fn state_mut(&mut self, channel: Channel) -> Option<&mut State> {
        let entry = self.slots.get_mut(channel.slot as usize)?;
        (entry.generation == channel.generation).then_some(&mut entry.state)
    }

    /// Whatever channel is in a slot now.
    #[inline]
    pub(super) fn present_mut(&mut self, slot: u32) -> Option<(Channel, &mut State)> {
        let entry = self.slots.get_mut(slot as usize)?;
        Some((Channel { slot, generation: entry.generation }, &mut entry.state))
    }

    /// Empties a slot, whose channel's name means nothing from now on.
    pub(super) fn remove(&mut self, slot: u32) -> State {
        let Some(entry) = self.slots.get_mut(slot as usize) else { return State::Free };
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(slot);
        std::mem::replace(&mut entry.state, State::Free)
    }

    /// Marks a slot as scheduled; true if it was not yet.
    #[inline]
    pub(super) fn schedule(&mut self, slot: u32) -> bool {
        self.slots.get_mut(slot as usize).is_some_and(|entry| !std::mem::replace(&mut entry.scheduled, true))
    }

    /// Unmarks it.
    #[inline]
    pub(super) fn unschedule(&mut self, slot: u32) {
        if let Some(entry) = self.slots.get_mut(slot as usize) {
            entry.scheduled = false;
        }
    }

    /// Takes all channels out, to end them.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = State> {
        self.free.clear();
        self.slots.drain(..).map(|entry| entry.state)
    }
}
