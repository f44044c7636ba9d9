//! A set of small numbers that any thread may add to and that its owner empties.

use super::{AtomicU64, Ordering};

/// Says which of a fixed number of places have something to look at.
///
/// A bit for each place: adding a place twice is adding it once, so the set never fills up, and adding costs one atomic
/// operation on each of two words whoever else does it. Emptying looks at one word, and then only at those that it names.
#[derive(Debug)]
pub(crate) struct ReadySet {
    /// A bit for each of `words` that may not be empty.
    filled: AtomicU64,
    words: Box<[AtomicU64]>,
}

impl ReadySet {
    /// The most places that a set can have.
    const PLACES_MAX: usize = 64 * 64;

    /// An empty set of places below `places`.
    ///
    /// # Panics
    /// With more than 4,096 places.
    pub(crate) fn new(places: usize) -> Self {
        assert!(places <= Self::PLACES_MAX, "a ready set has up to {} places", Self::PLACES_MAX);
        let words = (0..places.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { filled: AtomicU64::new(0), words }
    }

    /// Adds a place, from any thread, after its work was published. A place that the set does not have is ignored.
    #[inline]
    pub(crate) fn add(&self, place: u32) {
        if let Some(word) = self.words.get(place as usize / 64) {
            // Release: pairs with the Acquire of `take`. Other additions to the word in between are read-modify-write
            // operations too, so they continue the release sequence.
            word.fetch_or(1 << (place % 64), Ordering::Release);
            // After the place, so that who finds this finds the place. Who empties the word in between leaves this to be
            // found for nothing.
            self.filled.fetch_or(1 << (place / 64), Ordering::Release);
        }
    }

    /// Empties the set and calls `each` with every place that was in it, in ascending order. Only the owner calls this.
    ///
    /// The owner sees what was published before a place was added; work that is published later adds it again.
    #[inline]
    pub(crate) fn take(&self, mut each: impl FnMut(u32)) {
        // Relaxed: only a guess that saves the exchange, which would pull the line away from the other threads. A place
        // that is missed here was added after the caller's own fence (see `Wakeup`), whose waker then sees the caller
        // about to sleep; or the caller looks again anyway.
        if self.filled.load(Ordering::Relaxed) == 0 {
            return;
        }
        for_each_bit(self.filled.swap(0, Ordering::Acquire), |word| {
            let places = self.words[word as usize].swap(0, Ordering::Acquire);
            for_each_bit(places, |bit| each(64 * word + bit));
        });
    }
}

/// Calls `each` with the numbers of the bits that are set, in ascending order.
#[inline]
fn for_each_bit(mut bits: u64, mut each: impl FnMut(u32)) {
    while bits != 0 {
        each(bits.trailing_zeros());
        bits &= bits - 1;
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use crate::sync::AtomicUsize;
    use loom::sync::Arc;

    /// Two threads publish work for two places: the owner finds each place, and its work with it.
    fn no_place_is_lost(places: [u32; 2]) {
        loom::model(move || {
            let shared = Arc::new((ReadySet::new(128), [AtomicUsize::new(0), AtomicUsize::new(0)]));
            let threads: Vec<_> = (0..2)
                .map(|thread| {
                    let shared = shared.clone();
                    loom::thread::spawn(move || {
                        // Relaxed: the set has to order it.
                        shared.1[thread].store(7, Ordering::Relaxed);
                        shared.0.add(places[thread]);
                    })
                })
                .collect();
            let mut found = [0, 0];
            let mut look = || {
                shared.0.take(|place| {
                    let thread = usize::from(place == places[1]);
                    assert_eq!(shared.1[thread].load(Ordering::Relaxed), 7);
                    found[thread] += 1;
                });
            };
            look();
            for thread in threads {
                thread.join().unwrap();
            }
            look();
            assert_eq!(found, [1, 1]);
        });
    }

    #[test]
    fn loom_no_place_of_one_word_is_lost() {
        no_place_is_lost([0, 1]);
    }

    #[test]
    fn loom_no_place_of_two_words_is_lost() {
        no_place_is_lost([1, 64]);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn places_come_out_once_and_in_order() {
        let set = ReadySet::new(130);
        for place in [129, 3, 64, 3, 0, 192] {
            set.add(place);
        }
        let mut taken = Vec::new();
        set.take(|place| taken.push(place));
        assert_eq!(taken, [0, 3, 64, 129], "192 is beyond the last word");
        set.take(|place| panic!("{place} was taken already"));
    }
}
