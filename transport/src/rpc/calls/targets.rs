//! The destinations that are called: the link to each, and the calls that wait for it.

use super::records::Records;
use crate::proto::{LANES, Lane, LinkId};
use crate::sync::Correlation;
use std::collections::{HashMap, VecDeque};

/// Ends that were not taken out of a queue yet are swept out when there are more of them than this, and than of others.
const ENDED_MIN: usize = 32;

/// By place, by name and by link.
///
/// A destination that refused, or that ended its link, is forgotten, so there are never more of them than links on
/// the connection (`links_max`), whatever names are called.
#[derive(Debug, Default)]
pub(super) struct Targets {
    entries: Vec<Option<Target>>,
    free: Vec<usize>,
    by_name: HashMap<Box<str>, usize>,
    by_link: HashMap<LinkId, usize>,
}

/// A destination that was called.
#[derive(Debug)]
struct Target {
    name: Box<str>,
    link: TargetLink,
    /// Calls that wait for the link, or for its credit, and some that have ended meanwhile.
    waiting: [VecDeque<Correlation>; LANES],
    /// How many of these have ended.
    ended: usize,
}

/// The way to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TargetLink {
    /// Not asked for.
    None,
    /// Asked for, not granted.
    Requested(LinkId),
    /// There.
    Attached(LinkId),
}

impl Targets {
    /// The place of a name that was called before.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// A place for a name that was not called before.
    pub(super) fn insert(&mut self, name: &str) -> usize {
        let target =
            Target { name: name.into(), link: TargetLink::None, waiting: Default::default(), ended: 0 };
        let place = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        self.entries[place] = Some(target);
        self.by_name.insert(name.into(), place);
        place
    }

    pub(super) fn name(&self, place: usize) -> &str {
        self.entry(place).map_or("", |target| &target.name)
    }

    pub(super) fn link(&self, place: usize) -> TargetLink {
        self.entry(place).map_or(TargetLink::None, |target| target.link)
    }

    pub(super) fn set_link(&mut self, place: usize, link: TargetLink) {
        let Some(target) = self.entries.get_mut(place).and_then(Option::as_mut) else { return };
        target.link = link;
        if let TargetLink::Requested(link) = link {
            self.by_link.insert(link, place);
        }
    }

    /// The destination that a link leads to.
    pub(super) fn of_link(&self, link: LinkId) -> Option<usize> {
        self.by_link.get(&link).copied()
    }

    /// Every place that is in use.
    pub(super) fn places(&self) -> impl Iterator<Item = usize> + use<> {
        let used: Vec<usize> = (0..self.entries.len()).filter(|&place| self.entry(place).is_some()).collect();
        used.into_iter()
    }

    /// Adds a call to those that wait.
    pub(super) fn push(&mut self, place: usize, lane: Lane, correlation: Correlation) {
        if let Some(target) = self.entries.get_mut(place).and_then(Option::as_mut) {
            target.waiting[lane.index()].push_back(correlation);
        }
    }

    /// The first call of a lane that waits.
    pub(super) fn front(&mut self, place: usize, lane: Lane, records: &Records) -> Option<Correlation> {
        let target = self.entries.get_mut(place)?.as_mut()?;
        let queue = &mut target.waiting[lane.index()];
        while let Some(&correlation) = queue.front() {
            if records.is_waiting(correlation) {
                return Some(correlation);
            }
            queue.pop_front();
            target.ended = target.ended.saturating_sub(1);
        }
        None
    }

    /// Takes out the first call of a lane, which was sent.
    pub(super) fn pop(&mut self, place: usize, lane: Lane) {
        if let Some(target) = self.entries.get_mut(place).and_then(Option::as_mut) {
            target.waiting[lane.index()].pop_front();
        }
    }

    /// A call has ended while it waited. It is taken out in passing, or with others of its kind, so that what waits
    /// in vain takes no more room than what waits.
    pub(super) fn note_ended(&mut self, place: usize, records: &Records) {
        let Some(target) = self.entries.get_mut(place).and_then(Option::as_mut) else { return };
        target.ended += 1;
        let queued: usize = target.waiting.iter().map(VecDeque::len).sum();
        if target.ended > ENDED_MIN.max(queued / 2) {
            target.waiting.iter_mut().for_each(|queue| queue.retain(|&call| records.is_waiting(call)));
            target.ended = 0;
        }
    }

    /// How many calls wait.
    pub(super) fn waiting(&self, place: usize) -> usize {
        self.entry(place).map_or(0, |target| {
            target.waiting.iter().map(VecDeque::len).sum::<usize>().saturating_sub(target.ended)
        })
    }

    /// Forgets a destination: its name, and the calls that waited for it.
    pub(super) fn remove(
        &mut self,
        place: usize,
    ) -> Option<(Box<str>, impl Iterator<Item = Correlation> + use<>)> {
        let target = self.entries.get_mut(place)?.take()?;
        self.by_name.remove(&target.name);
        if let TargetLink::Requested(link) | TargetLink::Attached(link) = target.link {
            self.by_link.remove(&link);
        }
        self.free.push(place);
        Some((target.name, target.waiting.into_iter().flatten()))
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Entries of all queues, ended ones included.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.entries.iter().flatten().flat_map(|target| &target.waiting).map(VecDeque::len).sum()
    }

    fn entry(&self, place: usize) -> Option<&Target> {
        self.entries.get(place)?.as_ref()
    }
}
