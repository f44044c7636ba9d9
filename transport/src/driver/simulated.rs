//! A driver that a simulation turns: its wires, its time and its randomness come from outside.
//!
//! It opens no socket and no ring, reads no clock and draws nothing from the kernel, so the same calls with the same
//! arguments do the same. It is never run, only turned: whoever simulates sets its time and calls [`Driver::turn`] when
//! a wire has an event for it, or when [`Driver::next_due`] is there.

use super::core::Surroundings;
use super::wires::{SimulatedWires, Wires};
use super::{Driver, DriverConfig, DriverError, Handler};
use crate::connection::Identity;
use crate::sync::Wakeup;
use crate::time::{Clock, Timestamp};
use std::sync::Arc;

impl<H: Handler> Driver<H> {
    /// A driver on these wires, whose clock stands still at `now` until it is set, and whose random choices all follow
    /// from `seed`. [`DriverConfig::tcp`] and [`DriverConfig::wait`] mean nothing to it.
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn simulated(
        config: DriverConfig,
        identity: Identity,
        wires: SimulatedWires,
        now: Timestamp,
        seed: [u8; 32],
        handler: H,
    ) -> Result<Self, DriverError> {
        let wakeup = Arc::new(Wakeup::new().map_err(DriverError::Wakeup)?);
        Self::simulated_with_wakeup(config, identity, wires, (now, seed), wakeup, handler)
    }

    /// As [`Driver::simulated`], woken by this wakeup, which others may have had before it.
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn simulated_with_wakeup(
        config: DriverConfig,
        identity: Identity,
        wires: SimulatedWires,
        (now, seed): (Timestamp, [u8; 32]),
        wakeup: Arc<Wakeup>,
        handler: H,
    ) -> Result<Self, DriverError> {
        let surroundings = Surroundings { clock: Clock::simulated(now), seed };
        Self::surrounded(config, identity, surroundings, handler, |_, _| Ok(Wires::simulated(wires, wakeup)))
    }

    /// Sets the time of a driver on simulated wires. It never goes back, and may jump ahead as far as it likes. On real
    /// wires it does nothing.
    pub fn set_time(&mut self, now: Timestamp) {
        self.core.set_clock(now);
    }

    /// When the driver has something to do even if no wire has an event for it; [`Timestamp::NEVER`] if nothing waits
    /// for time to pass. Maybe earlier than needed, and later than the present after a turn that found nothing.
    pub fn next_due(&self) -> Timestamp {
        self.core.next_due()
    }
}
