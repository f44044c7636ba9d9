//! The way of a message: from the link that it came on to its queues, and from a queue to a consumer.

use super::Broker;
use super::ledger::Amount;
use super::queue::Entry;
use super::settlement::Ending;
use super::tables::LinkUse;
use underlay::connection::SendError;
use underlay::driver::{ConnectionId, Core};
use underlay::message::Message;
use underlay::proto::control::DetachCode;
use underlay::proto::record::MessageKind;

/// In.
impl Broker {
    #[inline]
    pub(super) fn take_message(&mut self, core: &mut Core, connection: ConnectionId, message: Message) {
        // Once made, it is passed on: a message is long.
        let mut entry = Entry::new(message, core.now());
        let message = &mut entry.message;
        self.stats.messages_in += 1;
        let producer = match message.head.link.map(|link| self.peers.link(connection, link)) {
            Some(LinkUse::Producer(place)) => Some(place),
            _ => None,
        };
        if let Some(place) = producer {
            self.charge(place, Amount::of_message(message.body.len() as u64));
        }
        let is_reply = message.head.kind == MessageKind::Reply;
        if self.passes_hop(core, connection, message) {
            if is_reply {
                self.route_reply(core, connection, entry);
            } else {
                self.route(core, connection, producer, entry);
            }
        }
        if let Some(place) = producer {
            self.replenish(core, place);
        }
    }

    /// Counts this hop; false if there were too many before it.
    fn passes_hop(&mut self, core: &Core, connection: ConnectionId, message: &mut Message) -> bool {
        let hops_max = self.rules.hops_max;
        if message.head.hop_count >= hops_max {
            super::count(&mut self.stats.hop_limit, |dropped| {
                let peer = core.peer(connection);
                tracing::warn!(%connection, peer, hops_max, dropped, "a message has too many hops behind it (hops_max)");
            });
            return false;
        }
        message.head.hop_count += 1;
        true
    }

    /// Gives a message to each queue of its route; all but the last get a share of the same body.
    fn route(&mut self, core: &mut Core, connection: ConnectionId, producer: Option<usize>, entry: Entry) {
        let Some(route) = producer.and_then(|place| self.producers.at(place)).map(|it| it.route) else {
            super::count(&mut self.stats.late, |dropped| {
                tracing::info!(dropped, "a message came on a link that had ended");
            });
            return;
        };
        self.learn_requester(connection, &entry.message.head);
        let last = self.catalog.route(route).len() - 1;
        for step in 0..last {
            let index = self.catalog.route(route)[step];
            match entry.share(core.pool()) {
                Some(shared) => self.offer(core, index, shared),
                None => super::count(&mut self.stats.shares_dropped, |dropped| {
                    let queue = &self.queues[index].name;
                    tracing::warn!(
                        queue,
                        dropped,
                        "a message's share was dropped: the pool is empty (pool_bytes_max)"
                    );
                }),
            }
        }
        let index = self.catalog.route(route)[last];
        self.offer(core, index, entry);
    }

    /// A message for a queue: to a consumer if one can take it and nothing is before it, else to the end.
    fn offer(&mut self, core: &mut Core, index: usize, mut entry: Entry) {
        let queue = &mut self.queues[index];
        queue.counts.messages_in += 1;
        queue.number(&mut entry);
        if !self.queues[index].entries.is_empty() {
            return self.queues[index].store(entry, core.pool());
        }
        match self.deliver(core, index, entry) {
            Ok(()) => self.stats.delivered_at_once += 1,
            Err(entry) => self.queues[index].store(entry, core.pool()),
        }
    }
}

/// Out.
impl Broker {
    /// A consumer can take more: it stands in its queue's ring again, and gets what waits.
    pub(super) fn consumer_ready(&mut self, core: &mut Core, place: usize) {
        let Some(consumer) = self.consumers.at_mut(place) else { return };
        let index = consumer.queue;
        if !consumer.is_ready {
            consumer.is_ready = true;
            self.queues[index].ready.push_back(place);
        }
        self.pump(core, index);
    }

    /// Gives out what waits in a queue, as far as its consumers take it, and the room that this makes.
    pub(super) fn pump(&mut self, core: &mut Core, index: usize) {
        while !self.queues[index].ready.is_empty() {
            let Some(entry) = self.queues[index].take_first() else { break };
            if let Err(entry) = self.deliver(core, index, entry) {
                self.queues[index].put_back(entry);
                break;
            }
        }
        self.grant_short(core, index);
    }

    /// Drops what is over at the front of a queue. For one that nobody takes from while producers wait.
    pub(super) fn drop_expired(&mut self, core: &mut Core, index: usize) {
        let now = core.now();
        while self.queues[index].entries.front().is_some_and(|entry| entry.deadline() <= now) {
            drop(self.queues[index].take_first());
            self.count_expired(index);
        }
        self.grant_short(core, index);
    }

    /// Hands a message to the next consumer that can take it. One whose deadline is over is dropped, which is as good.
    ///
    /// # Errors
    /// The message, if no consumer can take it now.
    #[allow(clippy::result_large_err)] // it goes back to its queue, whole
    fn deliver(&mut self, core: &mut Core, index: usize, mut entry: Entry) -> Result<(), Entry> {
        while let Some(&place) = self.queues[index].ready.front() {
            let Some(consumer) = self.consumers.at(place) else {
                self.queues[index].ready.pop_front();
                continue;
            };
            let (connection, link) = (consumer.connection, consumer.link);
            if consumer.is_full(self.queues[index].unsettled_max)
                || !self.takes_deliveries(connection)
                || !core.is_writable(connection, link)
            {
                self.set_unready(index, place);
                continue;
            }
            if !entry.pass_time(core.now()) {
                self.count_expired(index);
                return Ok(());
            }
            entry.message.head.link = Some(link);
            if !self.keep(core, index, place, &entry) {
                self.set_unready(index, place);
                self.retry_later(core, connection);
                continue;
            }
            let owes_reply = entry.owes_reply();
            match core.send(connection, entry.message) {
                Ok(()) => {
                    self.queues[index].ready.rotate_left(1);
                    self.queues[index].counts.delivered += 1;
                    self.delivered(core, connection, owes_reply);
                    return Ok(());
                }
                Err((error, message)) => {
                    entry.message = message;
                    self.forget_kept(index, place, &entry);
                    self.set_unready(index, place);
                    self.not_taken(core, place, &error);
                    let front = self.queues[index].entries.front();
                    if front.is_some_and(|front| front.number < entry.number) {
                        // What that consumer had not settled comes first.
                        return Err(entry);
                    }
                }
            }
        }
        Err(entry)
    }

    #[inline]
    fn delivered(&mut self, core: &mut Core, connection: ConnectionId, owes_reply: bool) {
        self.stats.delivered += 1;
        if let Some(peer) = self.peers.find(connection) {
            peer.owed_replies += u64::from(owes_reply);
        }
        self.watch(core, connection);
    }

    /// Takes a consumer out of the ring, of which it is the first.
    fn set_unready(&mut self, index: usize, place: usize) {
        self.queues[index].ready.pop_front();
        if let Some(consumer) = self.consumers.at_mut(place) {
            consumer.is_ready = false;
        }
    }

    /// A consumer's connection did not take a message: sees to it that the consumer comes back, or is gone.
    fn not_taken(&mut self, core: &mut Core, place: usize, error: &SendError) {
        let Some((connection, link)) = self.consumers.at(place).map(|it| (it.connection, it.link)) else {
            return;
        };
        match error {
            // Its Writable or its Closed event follows.
            SendError::Link(_) | SendError::NotOpen => {}
            SendError::BodyTooLong { .. } | SendError::HeadTooLong { .. } => {
                super::count(&mut self.stats.consumers_too_small, |detached| {
                    let peer = core.peer(connection);
                    tracing::warn!(%connection, peer, %link, detached, "a consumer was detached: {error}");
                });
                core.detach_link(connection, link, DetachCode::ResourceLimit, &error.to_string());
                self.peers.take_link(connection, link);
                self.forget_consumer(core, place, Ending::InOrder);
            }
            // The send queue is full, or the pool is empty.
            _ => self.retry_later(core, connection),
        }
    }

    fn count_expired(&mut self, index: usize) {
        let queue = &self.queues[index].name;
        super::count(&mut self.stats.expired, |dropped| {
            tracing::info!(queue, dropped, "a message was dropped: its deadline was over");
        });
    }
}
