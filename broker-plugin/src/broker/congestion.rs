//! Connections that take less than is sent to them.
//!
//! One of them counts as congested when more waits to be sent to it than a mark. It gets no more deliveries from
//! queues, and its own producers get no more credit: a client that asks and never reads the answers stops itself and
//! nobody else. It is relieved when half of the mark is left, which is looked at in each turn; when it takes nothing
//! for too long, its connection ends by itself.

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

    /// Looks at a connection that something was sent to.
    pub(super) fn watch(&mut self, core: &mut Core, connection: ConnectionId) {
        if !waiting(core, connection).is_within(self.rules.congestion) {
            self.set_congested(core, connection);
        }
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
        while let Some(&connection) = self.congested.get(at) {
            if self.peers.find(connection).is_none() {
                self.congested.swap_remove(at);
            } else if waiting(core, connection).is_within(self.rules.congestion.half()) {
                self.congested.swap_remove(at);
                self.resume(core, connection);
                relieved = true;
            } else {
                at += 1;
            }
        }
        relieved
    }

    /// Gives a connection that is not congested any more what it has missed.
    fn resume(&mut self, core: &mut Core, connection: ConnectionId) {
        if let Some(peer) = self.peers.find(connection) {
            peer.is_congested = false;
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
