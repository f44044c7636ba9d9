//! The deadlines of one driver, cheap to move and to forget.
//!
//! Nearly every deadline that a driver sets is moved or cleared long before it is due: a request's when its reply
//! comes, a connection's with every sign of life. So the queue is touched as rarely as possible. Each key has its
//! deadline in a table, and one entry in a heap that is due *no later* than that. Moving a deadline back writes the
//! table only; when the entry comes up it is put back at the deadline that holds by then. Clearing writes the table
//! only, too. Just a deadline that is earlier than the key's entry needs a new entry, and the old one is then
//! recognized as stale when it comes up, or is swept out when the heap has grown to two entries a key.
//!
//! With timeouts of equal length, setting and clearing therefore cost a store and a comparison, and each key moves
//! through the heap once a timeout. Memory is taken only when a key is used that is larger than all before it.

use crate::sabotage::{self, Bug};
use crate::time::Timestamp;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// At most this many entries are in the heap for each key of the table: one that counts, and one that is stale. It
/// also says how often a sweep is due: not before as many entries were added as there are keys, so that its cost is
/// a constant for each of them.
const ENTRIES_PER_KEY_MAX: usize = 2;

/// One deadline for each key. Keys are small dense numbers, such as places in a table: memory grows with the largest.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    keys: Vec<Key>,
    heap: BinaryHeap<Reverse<Entry>>,
}

/// A deadline in the heap: first by time, then by key, so that one run is like the other.
type Entry = (Timestamp, usize);

#[derive(Debug, Clone, Copy)]
struct Key {
    /// When it is due; `NEVER` if it is not set.
    deadline: Timestamp,
    /// When its entry in the heap comes up, which is no later; `NEVER` if it has none. Its other entries are stale.
    queued: Timestamp,
}

impl Timers {
    /// No deadlines.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Sets the deadline of `key`, in place of the one that it had; [`Timestamp::NEVER`] clears it.
    ///
    /// Allocates only if `key` is larger than every key before.
    #[inline]
    pub(crate) fn set(&mut self, key: usize, deadline: Timestamp) {
        if key >= self.keys.len() {
            self.grow(key);
        }
        if sabotage::strikes(Bug::ForgetDeadline) {
            return;
        }
        let timer = &mut self.keys[key];
        timer.deadline = deadline;
        if deadline < timer.queued {
            self.queue(key, deadline);
        }
    }

    /// The deadline of `key`; `NEVER` if it has none.
    #[inline]
    pub(crate) fn deadline(&self, key: usize) -> Timestamp {
        self.keys.get(key).map_or(Timestamp::NEVER, |timer| timer.deadline)
    }

    /// Forgets the deadline of `key`, if it has one.
    #[inline]
    pub(crate) fn clear(&mut self, key: usize) {
        if let Some(timer) = self.keys.get_mut(key) {
            timer.deadline = Timestamp::NEVER;
        }
    }

    /// When to look again: no deadline is due earlier than this. `None` if there is none at all.
    ///
    /// It is a lower bound: a deadline that was moved back or cleared may still be counted at its old time, once.
    /// After [`Timers::pop_expired`] has returned `None` it is later than the time that was given there.
    #[inline]
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.heap.peek().map(|&Reverse((due, _))| due)
    }

    /// Takes one key whose deadline is at or before `now`, the earliest first, and clears its deadline. Call it until
    /// it returns `None`; between the calls deadlines may be set, but a key that is set to `now` or before comes
    /// again at once.
    #[inline]
    pub(crate) fn pop_expired(&mut self, now: Timestamp) -> Option<usize> {
        if self.next().is_none_or(|due| due > now) {
            return None;
        }
        self.pop_due(now)
    }

    fn pop_due(&mut self, now: Timestamp) -> Option<usize> {
        while let Some(&Reverse((due, key))) = self.heap.peek() {
            if due > now {
                return None;
            }
            self.heap.pop();
            let timer = &mut self.keys[key];
            if timer.queued != due {
                continue;
            }
            timer.queued = Timestamp::NEVER;
            let deadline = timer.deadline;
            if deadline == due {
                timer.deadline = Timestamp::NEVER;
                return Some(key);
            }
            // Even if it is due by now: others may be due before it.
            if deadline != Timestamp::NEVER {
                self.queue(key, deadline);
            }
        }
        None
    }

    /// Puts the key's entry in front of the one it may have, which becomes stale.
    fn queue(&mut self, key: usize, due: Timestamp) {
        if self.heap.len() >= ENTRIES_PER_KEY_MAX * self.keys.len() {
            self.sweep();
            // The sweep has queued every key at its deadline, this one too.
            return;
        }
        self.keys[key].queued = due;
        self.heap.push(Reverse((due, key)));
    }

    /// Starts the heap again, with one entry for each deadline.
    #[cold]
    fn sweep(&mut self) {
        let mut entries = std::mem::take(&mut self.heap).into_vec();
        entries.clear();
        for (key, timer) in self.keys.iter_mut().enumerate() {
            timer.queued = timer.deadline;
            if timer.deadline != Timestamp::NEVER {
                entries.push(Reverse((timer.deadline, key)));
            }
        }
        self.heap = BinaryHeap::from(entries);
    }

    /// Takes memory for `key` and for all entries that can ever be queued with it.
    #[cold]
    fn grow(&mut self, key: usize) {
        self.keys.resize(key + 1, Key { deadline: Timestamp::NEVER, queued: Timestamp::NEVER });
        self.heap.reserve(ENTRIES_PER_KEY_MAX * self.keys.len() - self.heap.len());
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const KEYS: usize = 6;

    fn at(nanoseconds: u64) -> Timestamp {
        Timestamp::from_nanoseconds(nanoseconds)
    }

    fn expired(timers: &mut Timers, now: u64) -> Vec<usize> {
        std::iter::from_fn(|| timers.pop_expired(at(now))).collect()
    }

    #[test]
    fn deadlines_come_up_in_their_order_wherever_they_were_moved() {
        let mut timers = Timers::new();
        assert_eq!((timers.next(), timers.pop_expired(at(u64::MAX - 1))), (None, None));
        for (key, deadline) in [(0, 50), (1, 20), (2, 30), (3, 40), (0, 10), (1, 45), (3, 30)] {
            timers.set(key, at(deadline));
        }
        timers.clear(9);
        assert_eq!(expired(&mut timers, 9), []);
        assert_eq!(expired(&mut timers, 44), [0, 2, 3], "ties by key");
        assert_eq!(timers.next(), Some(at(45)));
        assert_eq!(expired(&mut timers, 1_000), [1]);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn a_deadline_may_be_set_again_while_others_are_taken() {
        let mut timers = Timers::new();
        timers.set(0, at(1));
        timers.set(1, at(2));
        assert_eq!(timers.pop_expired(at(5)), Some(0));
        timers.set(0, at(5));
        assert_eq!(timers.pop_expired(at(5)), Some(1));
        assert_eq!(timers.pop_expired(at(5)), Some(0));
        assert_eq!(timers.pop_expired(at(5)), None);
    }

    #[test]
    fn moving_back_and_clearing_do_not_touch_the_heap() {
        let mut timers = Timers::new();
        timers.set(0, at(10));
        for deadline in 11..10_000 {
            timers.set(0, at(deadline));
            assert_eq!(timers.heap.len(), 1);
        }
        timers.set(0, Timestamp::NEVER);
        assert_eq!(timers.next(), Some(at(10)), "a lower bound");
        assert_eq!(expired(&mut timers, 20_000), []);
        assert_eq!(timers.next(), None, "forgotten for good");
    }

    /// Deadlines that alternate between late and early, and ever earlier ones, on every key: what grows a lazy heap.
    #[test]
    fn the_heap_is_bounded_and_allocates_only_for_a_new_key() {
        let mut timers = Timers::new();
        timers.set(KEYS - 1, at(1));
        let capacity = timers.heap.capacity();
        for round in 0..10_000_u64 {
            for key in 0..KEYS {
                timers.set(key, at(1_000_000 - round * 7 - key as u64));
                timers.set(key, at(2_000_000 + round));
                timers.set(key, at(500_000 - round));
                timers.clear(key);
                timers.set(key, at(500_000 - round - 1));
                assert!(timers.heap.len() <= ENTRIES_PER_KEY_MAX * KEYS);
            }
        }
        assert_eq!(timers.heap.capacity(), capacity);
        assert_eq!(expired(&mut timers, 489_999), [], "the last round set 490,000");
        assert_eq!(expired(&mut timers, 490_000).len(), KEYS);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Set(usize, u64),
        Clear(usize),
        Advance(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..KEYS, 0..40_u64).prop_map(|(key, after)| Step::Set(key, after)),
            2 => (0..KEYS, prop_oneof![Just(0_u64), Just(1_000)]).prop_map(|(key, after)| Step::Set(key, after)),
            1 => (0..KEYS).prop_map(Step::Clear),
            2 => (0..20_u64).prop_map(Step::Advance),
        ]
    }

    proptest! {
        /// Against a map from keys to deadlines: the same keys expire in the same order, whatever was set and cleared
        /// before; `next` is never too late, nor so early that a driver would look for nothing again and again.
        #[test]
        fn timers_are_like_a_sorted_map(steps in prop::collection::vec(step(), 1..400)) {
            let mut timers = Timers::new();
            let mut oracle = BTreeMap::new();
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Set(key, after) => {
                        timers.set(key, at(now + after));
                        oracle.insert(key, now + after);
                    }
                    Step::Clear(key) => {
                        timers.clear(key);
                        oracle.remove(&key);
                    }
                    Step::Advance(by) => {
                        now += by;
                        let due: BTreeSet<_> =
                            oracle.iter().filter(|(_, due)| **due <= now).map(|(key, due)| (*due, *key)).collect();
                        oracle.retain(|_, due| *due > now);
                        let due: Vec<_> = due.into_iter().map(|(_, key)| key).collect();
                        prop_assert_eq!(expired(&mut timers, now), due);
                        prop_assert!(timers.next().is_none_or(|next| next > at(now)));
                    }
                }
                prop_assert!(timers.heap.len() <= ENTRIES_PER_KEY_MAX * timers.keys.len());
                if let Some(earliest) = oracle.values().min() {
                    prop_assert!(timers.next().is_some_and(|next| next <= at(*earliest)));
                }
            }
        }
    }
}
