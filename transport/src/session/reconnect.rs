//! The end that connected: when it connects again, and where.

use super::{Backoff, SessionConfig};
use crate::time::Timestamp;
use std::time::Duration;

/// The attempts of a session at another connection.
#[derive(Debug)]
pub(super) struct Reconnect {
    /// How many addresses the peer has, the best first.
    addresses: usize,
    backoff: Backoff,
    /// The address of the connection that is in use, or was last.
    current: usize,
    /// The address of the next attempt, and when it is due.
    next: usize,
    due: Timestamp,
    /// Attempts since the connection was lost.
    tries: usize,
    /// The attempt that is under way, and since when.
    attempt: Option<(usize, Timestamp)>,
    /// Since when there has been a connection.
    connected_at: Timestamp,
    /// When the connection has come to its age; when better addresses are tried again.
    age_due: Timestamp,
    return_due: Timestamp,
}

impl Reconnect {
    pub(super) fn new(addresses: usize, config: &SessionConfig, seed: u64) -> Self {
        Self {
            addresses,
            backoff: Backoff::new(config.reconnect_min, config.reconnect_max, seed),
            current: 0,
            next: 0,
            due: Timestamp::NEVER,
            tries: 0,
            attempt: None,
            connected_at: Timestamp::ZERO,
            age_due: Timestamp::NEVER,
            return_due: Timestamp::NEVER,
        }
    }

    /// The first connection is coming up, or another one by wish of the application.
    pub(super) fn begin(&mut self, address: usize, now: Timestamp) {
        self.attempt = Some((address, now));
    }

    pub(super) fn is_trying(&self) -> bool {
        self.attempt.is_some()
    }

    pub(super) fn addresses(&self) -> usize {
        self.addresses
    }

    /// One more address, the best of all or the last; where it stands.
    pub(super) fn add_address(&mut self, now: Timestamp, is_best: bool) -> usize {
        self.addresses += 1;
        if is_best {
            self.current += 1;
            self.next += 1;
            if let Some((address, _)) = &mut self.attempt {
                *address += 1;
            }
            self.return_due = now;
            return 0;
        }
        self.addresses - 1
    }

    /// The attempt that is under way has lasted for too long.
    pub(super) fn is_overdue(&self, config: &SessionConfig, now: Timestamp) -> bool {
        self.attempt.is_some_and(|(_, since)| now >= since + config.attempt_timeout)
    }

    /// An attempt has come to a connection that is in use now.
    pub(super) fn succeeded(&mut self, config: &SessionConfig, now: Timestamp) {
        if let Some((address, _)) = self.attempt.take() {
            self.current = address;
        }
        self.connected_at = now;
        self.due = Timestamp::NEVER;
        self.next = 0;
        self.age_due =
            config.connection_age.map_or(Timestamp::NEVER, |age| now + self.backoff.between(age / 2, age));
        let is_best = self.current == 0;
        self.return_due = if is_best { Timestamp::NEVER } else { now + self.between_half(config) };
    }

    /// An attempt has failed. Without a connection the next address is next; with one, it is tried again later.
    pub(super) fn failed(&mut self, is_interrupted: bool, config: &SessionConfig, now: Timestamp) {
        let Some((address, _)) = self.attempt.take() else { return };
        if is_interrupted {
            self.next = (address + 1) % self.addresses.max(1);
            self.tries += 1;
            // All addresses are tried one behind the other; one round waits after the other.
            let is_round_over = self.tries.is_multiple_of(self.addresses.max(1));
            self.due = if is_round_over { now + self.backoff.next_delay() } else { now };
        } else if self.age_due <= now {
            self.age_due = now + config.return_after;
        }
    }

    /// The last connection was lost. The first attempt is at its address, but at the next one `if_silent`: one that has
    /// fallen silent would let the attempt wait, too. After a connection that was short the delays go on doubling, so
    /// that a peer which accepts and lets go is not asked at full speed.
    pub(super) fn interrupted(&mut self, if_silent: bool, config: &SessionConfig, now: Timestamp) {
        self.next = if if_silent { (self.current + 1) % self.addresses.max(1) } else { self.current };
        self.tries = 0;
        let mut delay = self.backoff.between(Duration::ZERO, config.reconnect_spread);
        if now.since(self.connected_at) >= config.reconnect_max {
            self.backoff.reset();
        } else {
            delay += self.backoff.next_delay();
        }
        self.due = now + delay;
    }

    /// When something is to be done, with a connection or without.
    pub(super) fn next_timeout(&self, is_interrupted: bool, config: &SessionConfig) -> Timestamp {
        match self.attempt {
            Some((_, since)) => since + config.attempt_timeout,
            None if is_interrupted => self.due,
            None => self.age_due.min(self.return_due),
        }
    }

    /// The address to be connected to now, if one is.
    pub(super) fn poll(
        &mut self,
        is_interrupted: bool,
        config: &SessionConfig,
        now: Timestamp,
    ) -> Option<usize> {
        if self.attempt.is_some() {
            return None;
        }
        let address = if is_interrupted {
            if now < self.due {
                return None;
            }
            self.next
        } else if now >= self.return_due {
            // Each better address in its turn.
            let address = self.next.min(self.current.saturating_sub(1));
            self.next = if address + 1 < self.current { address + 1 } else { 0 };
            self.return_due = now + self.between_half(config);
            address
        } else if now >= self.age_due {
            self.current
        } else {
            return None;
        };
        self.attempt = Some((address, now));
        Some(address)
    }

    fn between_half(&mut self, config: &SessionConfig) -> Duration {
        self.backoff.between(config.return_after / 2, config.return_after)
    }
}
