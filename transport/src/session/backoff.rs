//! How long to wait before the next attempt.

use std::time::Duration;

/// Delays that double from a smallest to a largest interval, each drawn from the upper half of its interval.
///
/// The upper half keeps a first attempt from coming at once and the pace from losing its doubling; the drawing keeps
/// ends that were cut off together from coming back together. The same seed gives the same delays.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    interval: Duration,
    random: u64,
}

impl Backoff {
    /// Delays of at most `min` at first and of at most `max` in the end. A `max` below `min` counts as `min`.
    pub fn new(min: Duration, max: Duration, seed: u64) -> Self {
        Self { min, max: max.max(min), interval: min, random: seed }
    }

    /// The next delay: at least half of its interval and at most all of it. The interval doubles.
    pub fn next_delay(&mut self) -> Duration {
        let interval = self.interval;
        self.interval = interval.saturating_mul(2).clamp(self.min, self.max);
        self.between(interval / 2, interval)
    }

    /// A time drawn from `least` to `most`, both included. The interval stays.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let spread = u64::try_from(most.saturating_sub(least).as_nanos()).unwrap_or(u64::MAX);
        // The high half of a product spreads 64 random bits evenly enough over any range, without a division.
        let drawn = (u128::from(self.draw()) * (u128::from(spread) + 1)) >> 64;
        least + Duration::from_nanos(drawn as u64)
    }

    /// The next delay is of the smallest interval again: an attempt has succeeded, and for long enough to count.
    pub fn reset(&mut self) {
        self.interval = self.min;
    }

    /// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): any seed will do, zero too.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIN: Duration = Duration::from_millis(10);
    const MAX: Duration = Duration::from_secs(1);

    #[test]
    fn intervals_double_up_to_the_largest_and_begin_again() {
        let mut backoff = Backoff::new(MIN, MAX, 7);
        for _ in 0..2 {
            for interval in [10, 20, 40, 80, 160, 320, 640, 1000, 1000].map(Duration::from_millis) {
                let delay = backoff.next_delay();
                assert!(delay >= interval / 2 && delay <= interval, "{delay:?} of {interval:?}");
            }
            backoff.reset();
        }
    }

    /// A thousand ends that were cut off at once: each tenth of the interval gets its share of their first attempts.
    #[test]
    fn delays_of_different_seeds_are_spread_out() {
        let mut tenths = [0_u32; 10];
        for seed in 0..1000 {
            let above_half = Backoff::new(MAX, MAX, seed).next_delay() - MAX / 2;
            tenths[(above_half.as_millis() / 50).min(9) as usize] += 1;
        }
        assert!(tenths.iter().all(|&count| (60..150).contains(&count)), "{tenths:?}");
    }

    proptest! {
        #[test]
        fn every_delay_is_within_its_interval_and_the_seed_decides(
            min_ns in 0_u64..10_000_000_000,
            max_ns: u64,
            seed: u64,
            resets in proptest::collection::vec(any::<bool>(), 1..100),
        ) {
            let (min, max) = (Duration::from_nanos(min_ns), Duration::from_nanos(max_ns));
            let mut backoff = Backoff::new(min, max, seed);
            let mut again = backoff.clone();
            let mut interval = min;
            for reset in resets {
                if reset {
                    backoff.reset();
                    again.reset();
                    interval = min;
                }
                let delay = backoff.next_delay();
                prop_assert!(delay >= interval / 2 && delay <= interval);
                prop_assert_eq!(delay, again.next_delay());
                interval = (interval * 2).min(max.max(min));
            }
        }
    }
}
