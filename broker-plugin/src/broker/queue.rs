//! One queue: what waits, who takes from it, who waits to be granted more.

use super::ledger::{Amount, Ledger};
use super::unsettled::Unsettled;
use crate::config::QueueSettings;
use std::collections::VecDeque;
use std::time::Duration;
use underlay::driver::ConnectionId;
use underlay::message::Message;
use underlay::pool::{Pool, Segment};
use underlay::proto::LinkId;
use underlay::sabotage::{self, Bug};
use underlay::time::Timestamp;

/// Messages in the order of their arrival, and the links of both sides.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) name: String,
    /// In the order of their numbers.
    pub(super) entries: VecDeque<Entry>,
    /// What the next one that comes is numbered.
    next_number: u64,
    /// What its consumers were given and have not settled. The ledger counts it as stored.
    pub(super) unsettled: u64,
    /// The most of that for one consumer.
    pub(super) unsettled_max: u64,
    /// A message that has cost so many consumers is dropped the next time.
    pub(super) redeliveries_max: u64,
    pub(super) ledger: Ledger,
    /// Consumers that may have credit, the next one first. The others come back with their `Writable` event.
    pub(super) ready: VecDeque<usize>,
    /// Producers that have less than they could use because this queue had no more to give.
    pub(super) short: VecDeque<usize>,
    pub(super) consumers: u64,
    pub(super) consumers_max: u64,
    pub(super) counts: QueueCounts,
}

/// What happened at a queue so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct QueueCounts {
    pub(super) messages_in: u64,
    pub(super) delivered: u64,
    pub(super) settled: u64,
    pub(super) queued: u64,
    pub(super) full_pushes: u64,
    pub(super) depth_max: u64,
}

impl Queue {
    pub(super) fn new(settings: &QueueSettings, window: Amount) -> Self {
        let capacity = Amount::new(settings.messages_max, settings.bytes_max);
        Self {
            name: settings.name.clone(),
            entries: VecDeque::new(),
            next_number: 0,
            unsettled: 0,
            unsettled_max: settings.unsettled_max,
            redeliveries_max: settings.redeliveries_max,
            ledger: Ledger::new(capacity, settings.producers_max, window),
            ready: VecDeque::new(),
            short: VecDeque::new(),
            consumers: 0,
            consumers_max: settings.consumers_max,
            counts: QueueCounts::default(),
        }
    }

    /// Numbers a message that comes to it for the first time.
    pub(super) fn number(&mut self, entry: &mut Entry) {
        entry.number = self.next_number;
        self.next_number += 1;
    }

    /// Appends what no consumer takes now.
    pub(super) fn store(&mut self, mut entry: Entry, pool: &mut Pool) {
        entry.compact(pool);
        self.ledger.store(entry.amount());
        self.entries.push_back(entry);
        self.counts.queued += 1;
        self.counts.depth_max = self.counts.depth_max.max(self.entries.len() as u64);
    }

    /// Takes the first one out; its room is free.
    pub(super) fn take_first(&mut self) -> Option<Entry> {
        let is_wrong = sabotage::strikes(Bug::ReorderQueue);
        let entry = if is_wrong { self.entries.pop_back()? } else { self.entries.pop_front()? };
        self.ledger.release(entry.amount());
        Some(entry)
    }

    /// Puts back what could not be delivered after all.
    pub(super) fn put_back(&mut self, entry: Entry) {
        self.ledger.store(entry.amount());
        if self.entries.front().is_none_or(|front| entry.number < front.number) {
            self.entries.push_front(entry);
        } else {
            self.put_back_all(vec![entry]);
        }
    }

    /// Puts back what was delivered and is not settled, in the order of numbers, which is also how it was given: each
    /// goes to its place, so that neither what was given back before nor what still waits is overtaken. The ledger
    /// has kept their room.
    pub(super) fn put_back_all(&mut self, mut returned: Vec<Entry>) {
        let Some(last) = returned.last().map(|entry| entry.number) else { return };
        let ahead = self.entries.partition_point(|entry| entry.number < last);
        let mut ahead: Vec<_> = self.entries.drain(..ahead).collect();
        loop {
            let is_later = match (ahead.last(), returned.last()) {
                (None, None) => break,
                (Some(waiting), Some(back)) => waiting.number > back.number,
                (waiting, _) => waiting.is_some(),
            };
            let later = if is_later { ahead.pop() } else { returned.pop() };
            later.into_iter().for_each(|entry| self.entries.push_front(entry));
        }
        self.counts.depth_max = self.counts.depth_max.max(self.entries.len() as u64);
    }
}

/// A message and since when it has been here.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) message: Message,
    pub(super) since: Timestamp,
    /// When it came to its queue, in the order of all that did.
    pub(super) number: u64,
    /// So often its consumer went other than in order.
    pub(super) redeliveries: u32,
}

impl Entry {
    pub(super) fn new(message: Message, since: Timestamp) -> Self {
        Self { message, since, number: 0, redeliveries: 0 }
    }

    /// The same message once more, without a copy of its body; `None` when the pool has no buffer for its list.
    pub(super) fn share(&self, pool: &mut Pool) -> Option<Self> {
        let body = self.message.body.share(pool).ok()?;
        let Message { head, ref extensions, position, .. } = self.message;
        let message = Message { head, extensions: extensions.clone(), body, position };
        Some(Self { message, since: self.since, number: self.number, redeliveries: self.redeliveries })
    }

    /// What it takes of its queue's room: what its link was charged.
    pub(super) fn amount(&self) -> Amount {
        Amount::of_message(self.message.body.len() as u64)
    }

    /// When it expires.
    pub(super) fn deadline(&self) -> Timestamp {
        let remaining = self.message.head.deadline_us.map(u64::from);
        remaining.map_or(Timestamp::NEVER, |microseconds| self.since + Duration::from_micros(microseconds))
    }

    /// Takes the time that it has been here off its deadline; false if nothing remains.
    pub(super) fn pass_time(&mut self, now: Timestamp) -> bool {
        let Some(remaining_us) = self.message.head.deadline_us else { return true };
        let here_us = now.since(self.since).as_micros().min(u32::MAX.into()) as u32;
        if here_us >= remaining_us {
            return false;
        }
        self.message.head.deadline_us = Some(remaining_us - here_us);
        self.since = self.since + Duration::from_micros(here_us.into());
        true
    }

    /// Lets go of receive buffers of which it uses little. Without a free buffer it stays as it is.
    pub(super) fn compact(&mut self, pool: &mut Pool) {
        // The error says that the pool is empty, which is no reason to lose a message.
        let _ = self.message.body.compact(pool);
        if let Some(extensions) = &mut self.message.extensions
            && extensions.len() * 4 < extensions.held_bytes()
            && let Some(compact) = copied(extensions, pool)
        {
            *extensions = compact;
        }
    }
}

fn copied(bytes: &Segment, pool: &mut Pool) -> Option<Segment> {
    let mut buffer = pool.buffer(bytes.len()).ok()?;
    buffer.put_slice(bytes);
    Some(buffer.split())
}

/// A link on which a peer sends.
#[derive(Debug)]
pub(super) struct Producer {
    pub(super) connection: ConnectionId,
    pub(super) link: LinkId,
    /// A place in the catalogue's routes.
    pub(super) route: usize,
    /// What it was granted and has not sent.
    pub(super) held: Amount,
    /// It is granted more when it holds no more than this.
    pub(super) refill_at: Amount,
    /// It stands in a queue's list of those that are short.
    pub(super) is_short: bool,
    /// It was counted as left without credit, and has not been granted any since.
    pub(super) is_starved: bool,
}

/// A link on which a peer takes from a queue.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) connection: ConnectionId,
    pub(super) link: LinkId,
    pub(super) queue: usize,
    /// It stands in its queue's ring.
    pub(super) is_ready: bool,
    /// What it has not settled, if it settles.
    pub(super) unsettled: Option<Unsettled>,
}

impl Consumer {
    /// Whether it has as much unsettled as it may. It comes back when it settles what makes room.
    pub(super) fn is_full(&self, unsettled_max: u64) -> bool {
        self.unsettled.as_ref().is_some_and(|unsettled| unsettled.is_full(unsettled_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use underlay::pool::Body;
    use underlay::proto::record::MessageKind;

    fn entry(number: u64) -> Entry {
        let message = Message::new(MessageKind::Message, Body::new());
        Entry { number, ..Entry::new(message, Timestamp::ZERO) }
    }

    /// Whatever was given to whom, and comes back when: the queue is in the order in which it was filled.
    #[test]
    fn what_comes_back_goes_to_its_place() {
        let window = Amount::new(10, 10);
        let mut queue = Queue::new(&QueueSettings::named("q"), window);
        let numbers = |queue: &Queue| queue.entries.iter().map(|entry| entry.number).collect::<Vec<_>>();
        queue.entries.extend([8, 9].map(entry));
        queue.put_back_all([1, 4, 5].map(entry).into());
        assert_eq!(numbers(&queue), [1, 4, 5, 8, 9]);
        queue.put_back_all([0, 2, 3, 6].map(entry).into());
        assert_eq!(numbers(&queue), [0, 1, 2, 3, 4, 5, 6, 8, 9]);
        queue.put_back(entry(7));
        queue.put_back_all(Vec::new());
        assert_eq!(numbers(&queue), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let first = queue.take_first().unwrap();
        queue.put_back(first);
        assert_eq!(numbers(&queue)[0], 0);
    }
}
