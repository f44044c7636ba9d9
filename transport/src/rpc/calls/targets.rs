//! The destinations that are called: the link to each by each broker, and the calls that wait for it.

use super::records::{Records, Way};
use crate::proto::{LANES, Lane, LinkId};
use crate::sync::Correlation;
use std::collections::{HashMap, VecDeque};

/// Ends that were not taken out of a queue yet are swept out when there are more of them than this, and than of others.
const ENDED_MIN: usize = 32;

/// By place, by name and by link.
///
/// A destination that has no link and no call left is forgotten. So there are never more of them than links on the
/// sessions (`links_max`) and calls in flight, whatever names are called.
#[derive(Debug, Default)]
pub(super) struct Targets {
    /// How many brokers there are.
    uplinks: usize,
    entries: Vec<Option<Target>>,
    free: Vec<usize>,
    by_name: HashMap<Box<str>, usize>,
    /// By broker and link.
    by_link: HashMap<(usize, LinkId), usize>,
}

/// A destination that was called.
#[derive(Debug)]
struct Target {
    name: Box<str>,
    /// By broker.
    links: Box<[TargetLink]>,
    /// Calls that wait for the link by the current broker, or for its credit, and some that have ended meanwhile.
    waiting: [VecDeque<Correlation>; LANES],
    /// Gold calls whose second copy waits for the other broker's.
    second: VecDeque<Correlation>,
    /// How many of all these have ended.
    ended: usize,
    /// Calls that may be sent here again, wherever they are.
    holds: usize,
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
    /// For so many brokers.
    pub(super) fn new(uplinks: usize) -> Self {
        Self { uplinks, ..Self::default() }
    }

    /// The place of a name that was called before.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// A place for a name that was not called before.
    pub(super) fn insert(&mut self, name: &str) -> usize {
        let target = Target {
            name: name.into(),
            links: vec![TargetLink::None; self.uplinks].into(),
            waiting: Default::default(),
            second: VecDeque::new(),
            ended: 0,
            holds: 0,
        };
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

    #[inline]
    pub(super) fn link(&self, place: usize, uplink: usize) -> TargetLink {
        self.entry(place).map_or(TargetLink::None, |target| target.links[uplink])
    }

    pub(super) fn set_link(&mut self, place: usize, uplink: usize, link: TargetLink) {
        let Some(target) = self.entries.get_mut(place).and_then(Option::as_mut) else { return };
        let before = std::mem::replace(&mut target.links[uplink], link);
        match (before, link) {
            (TargetLink::None, TargetLink::Requested(link)) => {
                self.by_link.insert((uplink, link), place);
            }
            (TargetLink::Requested(link) | TargetLink::Attached(link), TargetLink::None) => {
                self.by_link.remove(&(uplink, link));
            }
            _ => {}
        }
    }

    /// The destination that a link leads to.
    pub(super) fn of_link(&self, uplink: usize, link: LinkId) -> Option<usize> {
        self.by_link.get(&(uplink, link)).copied()
    }

    /// Every place that is in use.
    pub(super) fn places(&self) -> impl Iterator<Item = usize> + use<> {
        let used: Vec<usize> = (0..self.entries.len()).filter(|&place| self.entry(place).is_some()).collect();
        used.into_iter()
    }

    /// A broker's session has ended, and all its links with it.
    pub(super) fn forget_links(&mut self, uplink: usize) {
        self.by_link.retain(|&(its, _), _| its != uplink);
        for place in self.places() {
            if let Some(target) = &mut self.entries[place] {
                target.links[uplink] = TargetLink::None;
            }
            self.forget_if_unused(place);
        }
    }

    /// Adds a call to those that wait for the current broker.
    pub(super) fn push(&mut self, place: usize, lane: Lane, correlation: Correlation) {
        if let Some(target) = self.entries.get_mut(place).and_then(Option::as_mut) {
            target.waiting[lane.index()].push_back(correlation);
        }
    }

    /// Adds a call to those whose second copy waits.
    pub(super) fn push_second(&mut self, place: usize, correlation: Correlation) {
        if let Some(target) = self.entries.get_mut(place).and_then(Option::as_mut) {
            target.second.push_back(correlation);
        }
    }

    /// A call that may be sent again keeps its destination's place.
    pub(super) fn hold(&mut self, place: usize) {
        if let Some(target) = self.entries.get_mut(place).and_then(Option::as_mut) {
            target.holds += 1;
        }
    }

    /// Such a call has ended.
    pub(super) fn release(&mut self, place: usize) {
        if let Some(target) = self.entries.get_mut(place).and_then(Option::as_mut) {
            target.holds = target.holds.saturating_sub(1);
        }
        self.forget_if_unused(place);
    }

    /// The first call of a lane that waits.
    pub(super) fn front(&mut self, place: usize, lane: Lane, records: &Records) -> Option<Correlation> {
        let target = self.entries.get_mut(place)?.as_mut()?;
        let (queue, ended) = (&mut target.waiting[lane.index()], &mut target.ended);
        front(queue, ended, |correlation| records.is_waiting(correlation, Way::First))
    }

    /// The first call whose second copy waits.
    pub(super) fn front_second(&mut self, place: usize, records: &Records) -> Option<Correlation> {
        let target = self.entries.get_mut(place)?.as_mut()?;
        front(&mut target.second, &mut target.ended, |correlation| {
            records.is_waiting(correlation, Way::Second)
        })
    }

    /// Takes out the first call of a lane, which was sent.
    pub(super) fn pop(&mut self, place: usize, lane: Lane) {
        if let Some(target) = self.entries.get_mut(place).and_then(Option::as_mut) {
            target.waiting[lane.index()].pop_front();
        }
    }

    /// Takes out the first call whose second copy waited, and was sent.
    pub(super) fn pop_second(&mut self, place: usize) {
        if let Some(target) = self.entries.get_mut(place).and_then(Option::as_mut) {
            target.second.pop_front();
        }
    }

    /// A call has ended while it waited, or one of its copies has. It is taken out in passing, or with others of its
    /// kind, so that what waits in vain takes no more room than what waits.
    pub(super) fn note_ended(&mut self, place: usize, records: &Records) {
        let Some(target) = self.entries.get_mut(place).and_then(Option::as_mut) else { return };
        target.ended += 1;
        let queued = target.queued();
        if target.ended > ENDED_MIN.max(queued / 2) {
            let is_waiting = |way| move |call: &Correlation| records.is_waiting(*call, way);
            target.waiting.iter_mut().for_each(|queue| queue.retain(is_waiting(Way::First)));
            target.second.retain(is_waiting(Way::Second));
            target.ended = 0;
        }
        self.forget_if_unused(place);
    }

    /// How many calls wait.
    pub(super) fn waiting(&self, place: usize) -> usize {
        self.entry(place).map_or(0, |target| target.queued().saturating_sub(target.ended))
    }

    /// The calls that wait one way.
    pub(super) fn waiting_calls(&self, place: usize, way: Way, records: &Records) -> Vec<Correlation> {
        let Some(target) = self.entry(place) else { return Vec::new() };
        let is_waiting = |call: &Correlation| records.is_waiting(*call, way);
        match way {
            Way::First => target.waiting.iter().flatten().copied().filter(is_waiting).collect(),
            Way::Second => target.second.iter().copied().filter(is_waiting).collect(),
        }
    }

    /// Forgets a destination that nothing leads to and nothing waits for.
    pub(super) fn forget_if_unused(&mut self, place: usize) {
        let is_unused = self.entry(place).is_some_and(|target| {
            target.holds == 0
                && target.queued() <= target.ended
                && target.links.iter().all(|link| *link == TargetLink::None)
        });
        if is_unused && let Some(target) = self.entries[place].take() {
            self.by_name.remove(&target.name);
            self.free.push(place);
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Entries of all queues, ended ones included.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.entries.iter().flatten().map(Target::queued).sum()
    }

    #[inline]
    fn entry(&self, place: usize) -> Option<&Target> {
        self.entries.get(place)?.as_ref()
    }
}

impl Target {
    fn queued(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum::<usize>() + self.second.len()
    }
}

/// The first of a queue that waits; those that have ended before it are taken out.
#[inline]
fn front(
    queue: &mut VecDeque<Correlation>,
    ended: &mut usize,
    is_waiting: impl Fn(Correlation) -> bool,
) -> Option<Correlation> {
    while let Some(&correlation) = queue.front() {
        if is_waiting(correlation) {
            return Some(correlation);
        }
        queue.pop_front();
        *ended = ended.saturating_sub(1);
    }
    None
}
