//! What happened, as one number to compare runs by, and as lines to read.

use std::fmt;

/// Folds every event of a run into a hash; prints it, too, when somebody wants to read along.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    events: u64,
    is_printed: bool,
}

impl Trace {
    /// A trace of nothing.
    pub fn new(is_printed: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, events: 0, is_printed }
    }

    /// An event: when, who, what, and a number that belongs to it. `describe` is called only for a reader.
    #[inline]
    pub fn event(&mut self, now: u64, who: u64, what: u64, number: u64, describe: impl FnOnce() -> String) {
        self.events += 1;
        for value in [now, who << 32 | what, number] {
            self.hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
        }
        if self.is_printed {
            println!("{} {}", Moment(now), describe());
        }
    }

    /// A line for the reader alone.
    #[inline]
    pub fn say(&self, now: u64, describe: impl FnOnce() -> String) {
        if self.is_printed {
            println!("{} {}", Moment(now), describe());
        }
    }

    /// The hash of everything until now.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.events
    }
}

/// A moment of the simulated network, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Moment(pub u64);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>3}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}
