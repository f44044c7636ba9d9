//! Time as the state machines see it: a number that whoever drives them supplies.
//!
//! Nothing above the drivers reads a clock. A [`Timestamp`] counts nanoseconds from an instant that only its
//! [`Clock`] knows, so a simulation can supply any time it likes; timestamps of two clocks mean nothing to each other,
//! and none of them ever travels over a wire (deadlines travel as time remaining).

use std::fmt;
use std::ops::Add;
use std::time::{Duration, Instant};

/// A point in time: nanoseconds since its clock's start, enough for 584 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The start of every clock.
    pub const ZERO: Self = Self(0);

    /// A time that no clock reaches: as a deadline, none.
    pub const NEVER: Self = Self(u64::MAX);

    /// The point this many nanoseconds after the clock's start.
    #[must_use]
    pub const fn from_nanoseconds(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds since the clock's start.
    #[must_use]
    pub const fn nanoseconds(self) -> u64 {
        self.0
    }

    /// How much later this is than `earlier`; zero if it is not later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Saturates at [`Timestamp::NEVER`], so that a deadline too far away to be counted is none.
impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        // In 64 bits: this is done for each timeout of each connection in each turn.
        let nanoseconds = later.as_secs().saturating_mul(1_000_000_000);
        Self(self.0.saturating_add(nanoseconds).saturating_add(later.subsec_nanos().into()))
    }
}

/// Seconds with all nine places, or `never`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NEVER {
            return f.pad("never");
        }
        write!(f, "{}.{:09} s", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

/// A monotonic clock: the real one, which starts at [`Timestamp::ZERO`] when it is made, or one that a simulation sets.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Source);

#[derive(Debug, Clone, Copy)]
enum Source {
    /// The machine's, counted from here.
    Machine(Instant),
    /// Whatever it was set to.
    #[cfg(feature = "simulation")]
    Simulated(Timestamp),
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn new() -> Self {
        Self(Source::Machine(Instant::now()))
    }

    /// A clock that stands still until it is set.
    #[cfg(feature = "simulation")]
    #[must_use]
    pub fn simulated(now: Timestamp) -> Self {
        Self(Source::Simulated(now))
    }

    /// Sets a simulated clock. It never goes back, as a monotonic clock does not, but may jump ahead as far as it
    /// likes. The machine's clock cannot be set.
    #[cfg(feature = "simulation")]
    pub fn set(&mut self, now: Timestamp) {
        if let Source::Simulated(time) = &mut self.0 {
            *time = now.max(*time);
        }
    }

    /// What time it is; never earlier than what it said before, on whichever thread.
    #[must_use]
    #[inline]
    pub fn now(&self) -> Timestamp {
        match self.0 {
            Source::Machine(start) => Timestamp::ZERO + start.elapsed(),
            #[cfg(feature = "simulation")]
            Source::Simulated(now) => now,
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let second = Timestamp::ZERO + Duration::from_secs(1);
        assert_eq!(second.nanoseconds(), 1_000_000_000);
        assert_eq!(second.since(Timestamp::from_nanoseconds(1)), Duration::from_nanos(999_999_999));
        assert_eq!(Timestamp::ZERO.since(second), Duration::ZERO);
        assert_eq!(second + Duration::MAX, Timestamp::NEVER);
        assert_eq!(second + Duration::from_nanos(u64::MAX), Timestamp::NEVER);
    }

    #[test]
    fn a_timestamp_reads_as_seconds() {
        assert_eq!(Timestamp::from_nanoseconds(12_000_000_345).to_string(), "12.000000345 s");
        assert_eq!(Timestamp::NEVER.to_string(), "never");
    }

    #[test]
    fn a_clock_starts_at_zero_and_never_goes_back() {
        let before = Instant::now();
        let clock = Clock::new();
        let first = clock.now();
        let second = clock.now();
        assert!(first <= second);
        assert!(second.since(Timestamp::ZERO) <= before.elapsed());
    }

    #[cfg(feature = "simulation")]
    #[test]
    fn a_simulated_clock_says_what_it_was_told_and_never_goes_back() {
        let at = Timestamp::from_nanoseconds;
        let mut clock = Clock::simulated(at(5));
        clock.set(at(9));
        clock.set(at(7));
        assert_eq!(clock.now(), at(9));
        let mut real = Clock::new();
        real.set(Timestamp::NEVER);
        assert_ne!(real.now(), Timestamp::NEVER);
    }
}
