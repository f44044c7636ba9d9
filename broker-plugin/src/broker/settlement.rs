//! Settlement: a message is kept until its consumer says what became of it.
//!
//! Only for consumers that say on attaching that they settle; for any other, what was handed to its connection is done
//! with. What is kept is the message itself, a share of the body that was sent. It counts against its queue's bounds as
//! if it waited there still, and a consumer is given no more than `unsettled_max` at a time, nor more than a few times as many
//! while it leaves an early one open.
//!
//! - *Accepted*: it is gone. *Rejected*: it is gone, and counted.
//! - *Released*: it goes back to its place in the queue, which is before all that was never delivered, and is marked.
//! - The consumer's link or session ends: the same, and if it did not end in order, an attempt is counted. One that has
//!   cost `redeliveries_max` consumers more than the first is dropped, counted and logged: a message that kills whoever
//!   takes it must not go on for ever. Who says that it goes was not killed, so restarts of services cost no message.
//!
//! A deadline goes on running meanwhile, and decides when the message is about to be delivered again. A request that
//! goes back is owed an answer no more by who had it.

use super::Broker;
use super::queue::Entry;
use super::tables::LinkUse;
use super::unsettled::Unsettled;
use std::time::Duration;
use underlay::connection::CloseReason;
use underlay::driver::{ConnectionId, Core, Settled};
use underlay::proto::control::{CloseCode, DetachCode, Outcome};
use underlay::proto::record::MessageKind;
use underlay::time::Timestamp;

/// So long an unsettled message may keep a receive buffer alive of which it uses little.
const COMPACT_AFTER: Duration = Duration::from_millis(100);

/// How a consumer came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It said that it goes, or this broker ended its link: none of its messages is to blame.
    InOrder,
    /// It died, was cut off for longer than its session lives, or met a fault: any of its messages may be why.
    Broken,
}

impl Ending {
    /// Of a link that the peer ended.
    pub(super) fn of_link(code: DetachCode) -> Self {
        match code {
            DetachCode::Normal | DetachCode::ShuttingDown => Self::InOrder,
            _ => Self::Broken,
        }
    }

    /// Of a session. It makes no difference which end closed it in order.
    pub(super) fn of_session(reason: &CloseReason) -> Self {
        match reason {
            CloseReason::Peer { code: CloseCode::Normal | CloseCode::ShuttingDown, .. }
            | CloseReason::Local { code: CloseCode::Normal | CloseCode::ShuttingDown, .. } => Self::InOrder,
            _ => Self::Broken,
        }
    }
}

/// What a consumer says.
impl Broker {
    pub(super) fn settle(&mut self, core: &mut Core, connection: ConnectionId, settled: Settled) {
        // Late, if the broker has ended the link: what was on it is on its way to another.
        let LinkUse::Consumer(place) = self.peers.link(connection, settled.link) else { return };
        let Some(consumer) = self.consumers.at_mut(place) else { return };
        let index = consumer.queue;
        let Some(unsettled) = &mut consumer.unsettled else { return };
        let Settled { lane, positions, outcome, .. } = settled;
        let queue = &mut self.queues[index];
        let before = unsettled.messages();
        let was_full = unsettled.is_full(queue.unsettled_max);
        let has_room;
        if outcome == Outcome::Accepted {
            queue.ledger.release(unsettled.accept(lane, positions));
            has_room = !unsettled.is_full(queue.unsettled_max);
            let settled = before - unsettled.messages();
            queue.counts.settled += settled;
            queue.unsettled -= settled;
        } else {
            let refused = unsettled.take(lane, positions);
            has_room = !unsettled.is_full(queue.unsettled_max);
            queue.unsettled -= refused.len() as u64;
            self.refused(core, connection, index, refused, outcome);
        }
        if was_full && has_room {
            self.consumer_ready(core, place);
        } else if !self.queues[index].short.is_empty() {
            self.grant_short(core, index);
        }
        self.pump_returned(core);
    }

    /// Messages that their consumer did not want.
    fn refused(
        &mut self,
        core: &mut Core,
        connection: ConnectionId,
        index: usize,
        mut entries: Vec<Entry>,
        outcome: Outcome,
    ) {
        self.forget_owed(connection, &entries);
        let queue = &mut self.queues[index];
        if outcome == Outcome::Released {
            self.stats.released += entries.len() as u64;
            entries.iter_mut().for_each(|entry| {
                entry.message.head.redelivered = true;
                entry.compact(core.pool());
            });
            return self.put_back_all(index, entries);
        }
        for entry in entries {
            queue.ledger.release(entry.amount());
            super::count(&mut self.stats.rejected, |dropped| {
                let (queue, peer) = (&queue.name, core.peer(connection));
                tracing::warn!(queue, %connection, peer, dropped, "a message was dropped: its consumer rejected it");
            });
        }
    }

    fn forget_owed(&mut self, connection: ConnectionId, entries: &[Entry]) {
        let requests = entries.iter().filter(|entry| entry.owes_reply()).count() as u64;
        if let Some(peer) = self.peers.find(connection) {
            // One that was answered and then given back is not owed any more.
            peer.owed_replies = peer.owed_replies.saturating_sub(requests);
        }
    }
}

/// What is kept.
impl Broker {
    /// Keeps a message that is about to be sent to a consumer, if that settles; false if it cannot be kept, since the
    /// pool has no buffer for the list of a long body.
    #[inline]
    pub(super) fn keep(&mut self, core: &mut Core, index: usize, place: usize, entry: &Entry) -> bool {
        let consumer = self.consumers.at_mut(place);
        let Some(unsettled) = consumer.and_then(|consumer| consumer.unsettled.as_mut()) else { return true };
        if !unsettled.keep(entry, core.now(), core.pool()) {
            return false;
        }
        let queue = &mut self.queues[index];
        queue.ledger.store(entry.amount());
        queue.unsettled += 1;
        if !self.is_compacting {
            self.compact_later(core);
        }
        true
    }

    /// It was not sent after all.
    pub(super) fn forget_kept(&mut self, index: usize, place: usize, entry: &Entry) {
        let consumer = self.consumers.at_mut(place);
        let Some(unsettled) = consumer.and_then(|consumer| consumer.unsettled.as_mut()) else { return };
        unsettled.forget_last(entry.message.head.lane);
        let queue = &mut self.queues[index];
        queue.ledger.release(entry.amount());
        queue.unsettled -= 1;
    }

    fn compact_later(&mut self, core: &mut Core) {
        self.is_compacting = true;
        core.set_timer(self.compaction_timer(), core.now() + COMPACT_AFTER);
    }

    /// Has what is unsettled for long let go of receive buffers, which the next messages need.
    pub(super) fn compact_unsettled(&mut self, core: &mut Core) {
        let until = Timestamp::from_nanoseconds(
            core.now().nanoseconds().saturating_sub(COMPACT_AFTER.as_nanos() as u64),
        );
        let all = self.consumers.iter_mut().filter_map(|consumer| consumer.unsettled.as_mut());
        let is_left = all.fold(false, |left, unsettled| unsettled.compact(until, core.pool()) | left);
        self.is_compacting = false;
        if is_left {
            self.compact_later(core);
        }
    }
}

/// What comes back.
impl Broker {
    /// A consumer is gone, and what it had not settled goes to the others, as soon as [`Broker::pump_returned`] is
    /// called: there may be more of the same queue to come back before.
    pub(super) fn take_back(
        &mut self,
        core: &mut Core,
        connection: ConnectionId,
        index: usize,
        unsettled: Unsettled,
        ending: Ending,
    ) {
        let mut entries = unsettled.into_entries();
        self.forget_owed(connection, &entries);
        let queue = &mut self.queues[index];
        queue.unsettled -= entries.len() as u64;
        let (name, redeliveries_max) = (&queue.name, queue.redeliveries_max);
        entries.retain_mut(|entry| {
            entry.message.head.redelivered = true;
            entry.compact(core.pool());
            if ending == Ending::InOrder {
                return true;
            }
            entry.redeliveries += 1;
            let is_kept = u64::from(entry.redeliveries) <= redeliveries_max;
            if !is_kept {
                queue.ledger.release(entry.amount());
                let (head, peer) = (&entry.message.head, core.peer(connection));
                let (origin, number) = (head.origin.0, head.message_number.0);
                super::count(&mut self.stats.redeliveries_exhausted, |dropped| {
                    tracing::warn!(queue = name, peer, origin, number, redeliveries_max, dropped, "a message was dropped: so many consumers more than the first were lost with it (redeliveries_max)");
                });
            }
            is_kept
        });
        self.stats.redelivered += entries.len() as u64;
        self.put_back_all(index, entries);
    }

    fn put_back_all(&mut self, index: usize, entries: Vec<Entry>) {
        self.queues[index].put_back_all(entries);
        self.returned.push(index);
    }

    /// Gives out again what has come back; true if anything had.
    pub(super) fn pump_returned(&mut self, core: &mut Core) -> bool {
        let mut any = false;
        while let Some(index) = self.returned.pop() {
            any = true;
            self.pump(core, index);
        }
        any
    }
}

impl Entry {
    /// Whether who takes it owes a reply.
    pub(super) fn owes_reply(&self) -> bool {
        let head = &self.message.head;
        head.kind == MessageKind::Request && head.reply_address.is_some()
    }
}
