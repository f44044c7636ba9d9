//! Connections that take less than is sent to them.
//!
//! One of them counts as congested when more waits for it than a mark: in its connection, to be sent, or here, as
//! replies that its links have no credit for. Half of the replies that may be held for it are such a mark, too, so
//! that what its producers have in hand when they are stopped still finds a place. A congested connection gets no more
//! deliveries from queues, and its own producers get no more credit: a client that asks and never reads the answers
//! stops itself and nobody else. It is relieved when half of each mark is left, which is looked at in each turn; when
//! it takes nothing of what is sent to it for too long, its connection ends by itself.

use super::Broker;
use super::ledger::Amount;
use super::tables::LinkUse;
use std::time::Duration;
use underlay::driver::{ConnectionId, Core};

/// How long to wait for buffers that other threads or the kernel hold.
const RETRY: Duration = Duration::from_millis(1);

impl Broker {
    pub(super) fn is_congested(&mut self, connection: ConnectionId) -> bool {
        self.peers.find(connection).is_none_or(|peer| peer.is_congested)
    }

    /// Whether a connection is given messages from queues.
    pub(super) fn takes_deliveries(&mut self, connection: ConnectionId) -> bool {
        self.peers.find(connection).is_some_and(|peer| !peer.is_congested && !peer.is_interrupted)
    }

    /// A session has lost its connection, or has one again. What it was given stays its own meanwhile; what comes goes
    /// to others.
    pub(super) fn set_interrupted(
        &mut self,
        core: &mut Core,
        connection: ConnectionId,
        is_interrupted: bool,
    ) {
        let Some(peer) = self.peers.find(connection) else { return };
        peer.is_interrupted = is_interrupted;
        if !is_interrupted && !peer.is_congested {
            self.resume(core, connection);
        }
    }

    /// Looks at a connection that something was sent to.
    pub(super) fn watch(&mut self, core: &mut Core, connection: ConnectionId) {
        let held = self.held(connection);
        let total = waiting(core, connection).plus(held);
        if !total.is_within(self.rules.congestion) || !held.is_within(self.rules.held_max.half()) {
            self.set_congested(core, connection);
        }
    }

    fn held(&mut self, connection: ConnectionId) -> Amount {
        self.peers.find(connection).map_or(Amount::default(), |peer| peer.held)
    }

    pub(super) fn set_congested(&mut self, core: &Core, connection: ConnectionId) {
        let Some(peer) = self.peers.find(connection).filter(|peer| !peer.is_congested) else { return };
        peer.is_congested = true;
        self.congested.push(connection);
        super::count(&mut self.stats.congestions, |times| {
            let peer = core.peer(connection);
            tracing::info!(%connection, peer, times, "congested: it takes less than is sent to it");
        });
    }

    /// A connection did not take a message for want of room or of buffers: what it misses is tried again when some of
    /// what waits on it has left, and not at once, as buffers that others hold come back without an event.
    pub(super) fn retry_later(&mut self, core: &mut Core, connection: ConnectionId) {
        self.set_congested(core, connection);
        if let Some(peer) = self.peers.find(connection) {
            peer.is_retried = true;
        }
        self.retry_at = core.now() + RETRY;
        core.set_timer(self.retry_timer(), self.retry_at);
    }

    /// Looks at all that are congested; true if one of them is not any more.
    pub(super) fn relieve(&mut self, core: &mut Core) -> bool {
        if self.congested.is_empty() || core.now() < self.retry_at {
            return false;
        }
        let mut relieved = false;
        let mut at = 0;
        // Each at most once: one that is still full, or finds the pool still empty, is in the list again at once.
        for _ in 0..self.congested.len() {
            let Some(&connection) = self.congested.get(at) else { break };
            if self.peers.find(connection).is_none() {
                self.congested.swap_remove(at);
                continue;
            }
            self.retry_held(core, connection);
            if self.is_relieved(core, connection) {
                self.congested.swap_remove(at);
                self.resume(core, connection);
                relieved = true;
            } else {
                at += 1;
            }
        }
        relieved
    }

    fn is_relieved(&mut self, core: &mut Core, connection: ConnectionId) -> bool {
        let held = self.held(connection);
        let total = waiting(core, connection).plus(held);
        total.is_within(self.rules.congestion.half()) && held.is_within(self.rules.held_max.half().half())
    }

    /// Replies that were held for want of buffers or of room, and not of credit, have no event that brings them back,
    /// and would keep their connection congested themselves: they are tried again when what waits before them has left.
    fn retry_held(&mut self, core: &mut Core, connection: ConnectionId) {
        let is_clear = waiting(core, connection).is_within(self.rules.congestion.half());
        let Some(peer) = self.peers.find(connection).filter(|peer| is_clear && peer.is_retried) else {
            return;
        };
        peer.is_retried = false;
        let mut place = 0;
        while let Some(what) = self.peers.link_at(connection, place) {
            place += 1;
            if let LinkUse::Reply(reply) = what {
                self.flush_held(core, reply);
            }
        }
    }

    /// Gives a connection that is not congested any more what it has missed.
    fn resume(&mut self, core: &mut Core, connection: ConnectionId) {
        if let Some(peer) = self.peers.find(connection) {
            peer.is_congested = false;
            peer.is_retried = false;
        }
        let mut place = 0;
        while let Some(what) = self.peers.link_at(connection, place) {
            place += 1;
            match what {
                LinkUse::Producer(producer) => self.grant_if_low(core, producer),
                LinkUse::Consumer(consumer) => self.consumer_ready(core, consumer),
                LinkUse::Reply(reply) => self.flush_held(core, reply),
                LinkUse::Unused => {}
            }
        }
    }

    fn grant_if_low(&mut self, core: &mut Core, place: usize) {
        if self.producers.at(place).is_some_and(|it| it.held.is_at_most_in_one(it.refill_at) && !it.is_short)
        {
            self.grant(core, place);
        }
    }
}

impl Amount {
    /// At most `mark` in both respects.
    fn is_within(self, mark: Self) -> bool {
        self.messages <= mark.messages && self.bytes <= mark.bytes
    }
}

/// What waits to be sent on a connection.
fn waiting(core: &mut Core, connection: ConnectionId) -> Amount {
    let (messages, bytes) = core.waiting(connection);
    Amount::new(messages as u64, bytes)
}
