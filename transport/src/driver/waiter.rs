//! How to wait: the one component that decides between polling, yielding the core and sleeping.
//!
//! Waking a thread that sleeps on another core costs 40 to 100 us on the virtual machines this was measured on, ten
//! times what a polled message takes; but a thread that polls in vain keeps the core from the one that it waits for.
//! So after a poll that found nothing the waiter goes through stages: *spin* (poll again at once), for some
//! microseconds and only while that has helped lately; *yield* (let others run between polls), up to a budget; then
//! *sleep*. Whether the yielding stage is worth entering at all is learnt: the waiter remembers how the last
//! [`HISTORY`] waits ended, and polls only if most of them ended within the budget. A process that is asked something
//! a thousand times a second then sleeps in between, at the cost of plain blocking; one that is asked every 30 us
//! does not sleep at all.
//!
//! It sees no clock and makes no system call: it is told the time and says what to do, so its decisions are tested
//! without waiting.

use crate::time::Timestamp;
use std::time::Duration;

/// How many waits are remembered.
const HISTORY: u32 = 32;

/// The waiter yields if so many of the last [`HISTORY`] waits ended within the budget.
const WORTH_YIELDING: u32 = 24;

/// How a driver waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WaitMode {
    /// Poll while that pays, else sleep.
    #[default]
    Adaptive,
    /// Never sleep. The lowest latency on a core of its own; costs all of that core.
    Spin,
    /// Sleep as soon as nothing is there. The least CPU time; each message pays for a wakeup.
    Sleep,
}

/// The settings of a [`Waiter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitConfig {
    /// Default adaptive.
    pub mode: WaitMode,
    /// How long polling without yielding may last. Default 3 us; more only pays on a core of one's own.
    pub spin_us_max: u32,
    /// How long polling with yielding may last. Default 500 us. It pays if it exceeds the gap between messages, and
    /// costs at most that much CPU time in each of the few waits that end up in a sleep all the same.
    pub yield_us_max: u32,
}

impl Default for WaitConfig {
    fn default() -> Self {
        Self { mode: WaitMode::Adaptive, spin_us_max: 3, yield_us_max: 500 }
    }
}

/// What to do after a poll that found nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitStep {
    /// Poll again at once.
    Poll,
    /// Let another thread run, then poll.
    Yield,
    /// Arm every source, poll once more, then sleep.
    Sleep,
}

/// What a waiter has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaitStats {
    /// Waits: times that a poll found nothing after one that had found something.
    pub waits: u64,
    /// Waits that a sleep ended.
    pub sleeps: u64,
    /// Calls that gave the core away.
    pub yields: u64,
}

/// Decides how to wait.
#[derive(Debug)]
pub struct Waiter {
    config: WaitConfig,
    /// When the present wait began.
    began: Option<Timestamp>,
    /// A bit for each of the last waits, the newest lowest: it ended within the yield budget.
    within_yield: u32,
    /// The same for the spin budget.
    within_spin: u32,
    stats: WaitStats,
}

impl Waiter {
    /// A waiter that expects polling to pay, until it learns better.
    pub fn new(config: WaitConfig) -> Self {
        Self { config, began: None, within_yield: u32::MAX, within_spin: 0, stats: WaitStats::default() }
    }

    /// A poll found something: the wait, if there was one, is over, and is learnt from.
    #[inline]
    pub fn found(&mut self, now: Timestamp) {
        if let Some(began) = self.began.take() {
            let waited = now.since(began);
            let bit = |budget_us: u32| u32::from(waited <= Duration::from_micros(budget_us.into()));
            self.within_yield = self.within_yield << 1 | bit(self.config.yield_us_max);
            self.within_spin = self.within_spin << 1 | bit(self.config.spin_us_max);
        }
    }

    /// A poll found nothing: what to do.
    #[inline]
    pub fn found_nothing(&mut self, now: Timestamp) -> WaitStep {
        let began = *self.began.get_or_insert_with(|| {
            self.stats.waits += 1;
            now
        });
        let waited_us = now.since(began).as_micros();
        let step = match self.config.mode {
            WaitMode::Spin => WaitStep::Poll,
            WaitMode::Sleep => WaitStep::Sleep,
            WaitMode::Adaptive if !self.yields() => WaitStep::Sleep,
            WaitMode::Adaptive if self.spins() && waited_us < self.config.spin_us_max.into() => {
                WaitStep::Poll
            }
            WaitMode::Adaptive if waited_us < self.config.yield_us_max.into() => WaitStep::Yield,
            WaitMode::Adaptive => WaitStep::Sleep,
        };
        match step {
            WaitStep::Poll => {}
            WaitStep::Yield => self.stats.yields += 1,
            WaitStep::Sleep => self.stats.sleeps += 1,
        }
        step
    }

    /// Whether a poll that finds nothing would be followed by a sleep in any case.
    #[inline]
    pub fn sleeps_at_once(&self) -> bool {
        match self.config.mode {
            WaitMode::Spin => false,
            WaitMode::Sleep => true,
            WaitMode::Adaptive => !self.yields(),
        }
    }

    /// What it has done.
    pub fn stats(&self) -> WaitStats {
        self.stats
    }

    fn yields(&self) -> bool {
        self.within_yield.count_ones() >= WORTH_YIELDING
    }

    /// Half is enough: spinning in vain costs microseconds.
    fn spins(&self) -> bool {
        self.within_spin.count_ones() >= HISTORY / 2
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Drives a waiter through a wait of `us` microseconds in steps of one; says how many it yielded before it slept.
    fn wait(waiter: &mut Waiter, now_us: &mut u64, us: u64) -> (u64, bool) {
        let mut yielded = 0;
        let mut slept = false;
        for _ in 0..us {
            match waiter.found_nothing(Timestamp::from_nanoseconds(*now_us * 1000)) {
                WaitStep::Poll => {}
                WaitStep::Yield => yielded += 1,
                WaitStep::Sleep => slept = true,
            }
            *now_us += 1;
        }
        waiter.found(Timestamp::from_nanoseconds(*now_us * 1000));
        (yielded, slept)
    }

    #[test]
    fn frequent_messages_are_polled_for() {
        let (mut waiter, mut now) = (Waiter::new(WaitConfig::default()), 0);
        for _ in 0..100 {
            let (yielded, slept) = wait(&mut waiter, &mut now, 30);
            assert!(yielded > 0 && !slept);
        }
    }

    #[test]
    fn rare_messages_are_slept_for_and_learnt_within_some_waits() {
        let (mut waiter, mut now) = (Waiter::new(WaitConfig::default()), 0);
        let in_vain: u64 = (0..100).map(|_| wait(&mut waiter, &mut now, 1000).0).sum();
        assert!(in_vain <= 500 * u64::from(HISTORY - WORTH_YIELDING + 1), "yielded {in_vain} us in vain");
        assert_eq!(wait(&mut waiter, &mut now, 1000), (0, true));
    }

    #[test]
    fn a_wait_that_alternates_with_a_long_one_is_slept_for() {
        let (mut waiter, mut now) = (Waiter::new(WaitConfig::default()), 0);
        for _ in 0..HISTORY {
            wait(&mut waiter, &mut now, 50);
            wait(&mut waiter, &mut now, 950);
        }
        assert_eq!(wait(&mut waiter, &mut now, 50).0, 0, "as cheap as blocking at a thousand a second");
    }

    #[test]
    fn polling_comes_back_when_it_would_pay_again() {
        let (mut waiter, mut now) = (Waiter::new(WaitConfig::default()), 0);
        for _ in 0..HISTORY {
            wait(&mut waiter, &mut now, 5000);
        }
        // Asleep, the same exchange takes 200 us for a wait, wakeups included; that is within the budget.
        let slept = (0..HISTORY).filter(|_| wait(&mut waiter, &mut now, 200).1).count();
        assert_eq!(slept as u32, WORTH_YIELDING);
        assert!(!wait(&mut waiter, &mut now, 200).1);
    }

    #[test]
    fn spinning_is_for_waits_of_microseconds() {
        let (mut waiter, mut now) = (Waiter::new(WaitConfig::default()), 0);
        for _ in 0..HISTORY {
            wait(&mut waiter, &mut now, 2);
        }
        assert_eq!(wait(&mut waiter, &mut now, 2), (0, false));
        for _ in 0..HISTORY {
            wait(&mut waiter, &mut now, 20);
        }
        assert_eq!(wait(&mut waiter, &mut now, 20), (20, false), "it yields from the first poll on");
    }

    #[test]
    fn the_mode_pins_the_decision() {
        let config = |mode| WaitConfig { mode, ..WaitConfig::default() };
        let mut now = 0;
        assert_eq!(wait(&mut Waiter::new(config(WaitMode::Spin)), &mut now, 5000), (0, false));
        assert_eq!(wait(&mut Waiter::new(config(WaitMode::Sleep)), &mut now, 1), (0, true));
    }
}
