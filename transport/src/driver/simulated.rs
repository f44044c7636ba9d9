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
use std::cell::RefCell;
use std::sync::Arc;

/// What a driver is given in place of the machine's.
#[derive(Debug)]
pub struct Simulated {
    /// Its wires.
    pub wires: SimulatedWires,
    /// Its time, until it is set.
    pub now: Timestamp,
    /// What all its random choices follow from.
    pub seed: [u8; 32],
}

thread_local! {
    static NEXT: RefCell<Option<Simulated>> = const { RefCell::new(None) };
}

impl Simulated {
    /// Calls `make`; the first driver that is made in it, however deep within and whatever owns it, is a simulated one.
    /// So a client or a service is simulated by making it here, and knows nothing of it.
    pub fn during<T>(self, make: impl FnOnce() -> T) -> T {
        NEXT.set(Some(self));
        let made = make();
        NEXT.set(None);
        made
    }

    /// The seed of the driver that is to be made, for what is drawn before it is.
    pub(crate) fn seed_of_next() -> Option<[u8; 32]> {
        NEXT.with_borrow(|next| next.as_ref().map(|simulated| simulated.seed))
    }

    /// For the driver that is being made.
    pub(super) fn take() -> Option<Self> {
        NEXT.take()
    }
}

impl<H: Handler> Driver<H> {
    /// A driver on simulated wires. [`DriverConfig::tcp`] and [`DriverConfig::wait`] mean nothing to it.
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn simulated(
        config: DriverConfig,
        identity: Identity,
        simulated: Simulated,
        handler: H,
    ) -> Result<Self, DriverError> {
        let wakeup = Arc::new(Wakeup::new().map_err(DriverError::Wakeup)?);
        Self::assemble_simulated(config, identity, simulated, wakeup, handler)
    }

    pub(super) fn assemble_simulated(
        config: DriverConfig,
        identity: Identity,
        simulated: Simulated,
        wakeup: Arc<Wakeup>,
        handler: H,
    ) -> Result<Self, DriverError> {
        let Simulated { wires, now, seed } = simulated;
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
