//! One queue: what waits, who takes from it, who waits to be granted more.

use super::ledger::{Amount, Ledger};
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
    pub(super) entries: VecDeque<Entry>,
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
            ledger: Ledger::new(capacity, settings.producers_max, window),
            ready: VecDeque::new(),
            short: VecDeque::new(),
            consumers: 0,
            consumers_max: settings.consumers_max,
            counts: QueueCounts::default(),
        }
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
        self.entries.push_front(entry);
    }
}

/// A message and since when it has been here.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) message: Message,
    pub(super) since: Timestamp,
}

impl Entry {
    pub(super) fn new(message: Message, since: Timestamp) -> Self {
        Self { message, since }
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
}
