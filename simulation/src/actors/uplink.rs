//! How a process keeps a session with its broker: it connects, and again after it was cut off.

use crate::coverage::Transition;
use crate::oracle::{ActorId, Oracle};
use crate::random::Random;
use std::time::Duration;
use underlay::backend::WireKind;
use underlay::connection::CloseReason;
use underlay::driver::{Address, ConnectionId, Core, Resumed};
use underlay::proto::control::CloseCode;
use underlay::time::Timestamp;

/// The timer by which it connects again.
pub(crate) const RECONNECT_TIMER: usize = 0;

/// The way of a process to its broker.
#[derive(Debug)]
pub(crate) struct Uplink {
    pub(crate) me: ActorId,
    pub(crate) broker: ActorId,
    pub(crate) oracle: Oracle,
    addresses: [Address; 2],
    attempts: usize,
    random: Random,
    connection: Option<ConnectionId>,
    is_open: bool,
    wire: Option<WireKind>,
    is_stopped: bool,
}

impl Uplink {
    pub(crate) fn new(me: ActorId, broker: ActorId, oracle: Oracle, mut random: Random) -> Self {
        let addresses = super::addresses_of(broker);
        let attempts = random.place(2);
        let (connection, is_open, wire, is_stopped) = (None, false, None, false);
        Self { me, broker, oracle, addresses, attempts, random, connection, is_open, wire, is_stopped }
    }

    /// Connects now. The wires are tried in turn.
    pub(crate) fn connect(&mut self, core: &mut Core) {
        if self.is_stopped || self.connection.is_some() {
            return;
        }
        self.addresses.rotate_left(self.attempts % 2);
        self.attempts += 1;
        self.wire = Some(self.addresses[0].wire());
        match core.connect_by(&self.addresses) {
            Ok(connection) => self.connection = Some(connection),
            Err(error) => self.oracle.ledger().fail(format!("connecting was not even tried: {error}")),
        }
    }

    /// The session, if it is open.
    pub(crate) fn session(&self) -> Option<ConnectionId> {
        self.connection.filter(|_| self.is_open)
    }

    pub(crate) fn opened(&mut self) {
        self.is_open = true;
        self.oracle.ledger().opened(self.me, self.broker);
    }

    /// The session has ended: tries again in a while.
    pub(crate) fn closed(&mut self, core: &mut Core, reason: &CloseReason) {
        let with = Some(self.broker).filter(|_| self.is_open);
        let mut ledger = self.oracle.ledger();
        ledger.closed(self.me, with, reason);
        ledger.closing(self.me, self.broker, false);
        drop(ledger);
        self.connection = None;
        self.is_open = false;
        let wait = Duration::from_micros(self.random.within(1_000..200_000));
        core.set_timer(RECONNECT_TIMER, core.now() + wait);
    }

    pub(crate) fn interrupted(&mut self, reason: &CloseReason) {
        self.oracle.ledger().lost_connection(self.me, reason);
    }

    pub(crate) fn resumed(&mut self, resumed: &Resumed) {
        let mut ledger = self.oracle.ledger();
        ledger.transition(self.me, Transition::Resumed);
        if self.wire.replace(resumed.wire).is_some_and(|before| before != resumed.wire) {
            ledger.transition(self.me, Transition::Moved);
        }
    }

    /// The peer asks to be left. There is no other to go to.
    pub(crate) fn leaving(&mut self) {
        self.oracle.ledger().transition(self.me, Transition::Leaving);
    }

    /// The peer has ended what this session is for: gives it up.
    pub(crate) fn give_up(&mut self, core: &mut Core, why: &str) {
        if let Some(connection) = self.connection {
            self.oracle.ledger().closing(self.me, self.broker, true);
            core.close(connection, CloseCode::Normal, why);
        }
    }

    /// Connects no more.
    pub(crate) fn stop(&mut self) {
        self.is_stopped = true;
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped
    }
}

/// So much later.
pub(crate) fn after(core: &Core, nanoseconds: u64) -> Timestamp {
    core.now() + Duration::from_nanos(nanoseconds)
}
