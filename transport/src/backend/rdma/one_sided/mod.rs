//! Bodies that their receiver fetches itself: the reads of one side from the memory of the other.
//!
//! The exposing end opens a type 2 memory window on each piece of a body, bound to the queue pair of the peer that may
//! read it, and closes it before the memory is used for anything else; the reading end reads straight into its own
//! buffers, several requests at a time. `descriptor` is what the one tells the other.
//!
//! What it promises: nobody reads but that peer, nothing but that body, and not after it was withdrawn. On a device whose
//! windows do not check their bounds (soft-RoCE's do not), each has a region of its own beneath it that does. Where there
//! are no windows at all, queue pairs `beside` the channel's own, in a protection domain of that peer's, do the same.
//!
//! What it must never know: what a body is for, and who is told of its descriptor.

mod beside;
mod descriptor;
mod exposing;
mod reading;
#[cfg(all(test, not(loom)))]
mod tests;

use super::engine::{DeviceState, Engine, State};
use super::memory::Budget;
use super::verbs::{QueuePairName, Verbs};
use crate::backend::{Channel, Descriptor, ExposeRefused, OneSided, ReadRefused};
use crate::pool::{Body, Pool};
use exposing::{EXPOSURES_MAX, Exposures};
use reading::Readings;
use std::collections::VecDeque;

pub(super) use exposing::{Remains, Windows};

/// The one-sided part of a channel.
#[derive(Debug, Default)]
pub(super) struct Sides {
    exposures: Exposures,
    /// How many bodies may be exposed at a time.
    exposures_max: usize,
    readings: Readings,
    /// Reads in the send queue, or in that of the queue pair beside, in its order: position and number. What is flushed
    /// leaves only the latter, for the former knows by itself what it has.
    posted: VecDeque<(u32, u64)>,
    /// Queue pairs beside the channel's own, if this end made them.
    pub(super) beside: Option<QueuePairsBeside>,
    /// They are connected, and what is read goes over them.
    reads_beside: bool,
}

/// The queue pairs beside a channel's own at one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueuePairsBeside {
    /// By which that end reads.
    pub(super) reading: QueuePairName,
    /// By which it is read.
    pub(super) answering: QueuePairName,
    pub(super) reads: ReadsAtOnce,
}

impl Sides {
    /// The ends have told each other how many reads they start and answer at a time on this channel.
    pub(super) fn agree(&mut self, ours: ReadsAtOnce, theirs: ReadsAtOnce) {
        self.readings.in_flight_max = ours.started.min(theirs.answered).into();
        let can_be_read = ours.answered > 0 && theirs.started > 0;
        self.exposures_max = if can_be_read { EXPOSURES_MAX } else { 0 };
    }

    /// The queue pairs beside the channel's own are connected, for so many reads at a time that this end has under way and
    /// that it answers.
    fn agree_beside(&mut self, started: u8, answered: u8) {
        self.reads_beside = true;
        self.readings.in_flight_max = started.into();
        self.exposures_max = if answered > 0 { EXPOSURES_MAX } else { 0 };
    }

    /// Whether something waits for room in the send queue.
    pub(super) fn waits(&self) -> bool {
        self.readings.can_go_on() || self.exposures.has_withdrawn()
    }

    /// Whether the queue pair beside the channel's own has reads that have not come back.
    pub(super) fn has_reads_beside(&self) -> bool {
        self.reads_beside && !self.posted.is_empty()
    }

    /// A read by that queue pair has come back, done or not: its number.
    pub(super) fn take_beside(&mut self, position: u16) -> Option<u64> {
        // In the order in which they were posted, each with a completion.
        let (_, read) = self.posted.pop_front_if(|(expected, _)| *expected as u16 == position)?;
        Some(read)
    }

    /// Whether regions go with the queue pair, and after it.
    pub(super) fn has_regions(&self) -> bool {
        self.exposures.has_regions()
    }

    /// Gives back what the device has for the exposures of a channel that has ended, before its queue pair is destroyed;
    /// returns what can go when it is.
    pub(super) fn free(
        &mut self,
        device: &mut DeviceState,
        verbs: &mut impl Verbs,
        budget: &mut Budget,
    ) -> Vec<Remains> {
        self.exposures.free(device, verbs, budget)
    }
}

/// Reads that an end can have under way on one queue pair: its own, and of the peer's those that it answers. Without windows
/// it answers none on the channel's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadsAtOnce {
    pub(super) started: u8,
    pub(super) answered: u8,
}

impl<V: Verbs> Engine<V> {
    /// Requests up to a position are done, those of one side among them.
    pub(super) fn one_sided_done(&mut self, channel: Channel) {
        while let Some(State { link: Some(link), .. }) = self.channels.at(channel)
            && let Some(&(position, read)) = link.one_sided.posted.front()
            && link.queue.is_done(position)
        {
            link.one_sided.posted.pop_front();
            self.read_done(channel, read);
        }
        self.windows_closed(channel);
        self.make_busy(channel);
    }

    /// A read by the queue pair beside the channel's own is done.
    pub(super) fn read_beside_done(&mut self, channel: Channel, read: u64) {
        self.read_done(channel, read);
        self.make_busy(channel);
    }

    /// Lets go of what exposures have left.
    pub(super) fn forget_remains(&mut self, device: usize, remains: Vec<Remains>) {
        for exposure in remains {
            exposure.forget(&mut self.devices[device].memory, &mut self.verbs, &mut self.budget);
        }
    }
}

impl<V: Verbs> OneSided for Engine<V> {
    fn exposures_max(&mut self, channel: Channel) -> usize {
        match self.channels.at(channel) {
            Some(State { link: Some(link), .. }) => link.one_sided.exposures_max,
            _ => 0,
        }
    }

    fn expose(&mut self, channel: Channel, exposure: u64, body: &Body) -> Result<Descriptor, ExposeRefused> {
        self.expose_body(channel, exposure, body)
    }

    fn withdraw(&mut self, channel: Channel, exposure: u64) {
        self.withdraw_body(channel, exposure);
    }

    fn read(
        &mut self,
        channel: Channel,
        read: u64,
        descriptor: &[u8],
        bytes: u64,
        pool: &mut Pool,
    ) -> Result<(), ReadRefused> {
        self.begin_reading(channel, read, descriptor, bytes, pool)
    }
}
