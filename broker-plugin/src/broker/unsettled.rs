//! What a consumer was given and has not settled.

use super::ledger::Amount;
use super::queue::Entry;
use std::collections::VecDeque;
use std::ops::Range;
use underlay::message::Message;
use underlay::pool::Pool;
use underlay::proto::{LANES, Lane};
use underlay::time::Timestamp;

/// The deliveries of one link that settles, by lane and position, until they are settled.
///
/// Putting one in and taking it out allocate nothing once the lists have grown to what the consumer is given at a time.
/// What is settled behind one that is not leaves an empty place until that is settled, too, so places are bounded as
/// well as messages: or else one that stays open would have the list grow for ever.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    lanes: [LaneOfUnsettled; LANES],
    messages: u64,
    /// The lengths of all lists, empty places included.
    places: u64,
}

/// So many places there may be for each message that there may be. With one place for each, a consumer that takes long
/// for one message would soon be held up with all others.
const PLACES_PER_MESSAGE: u64 = 4;

#[derive(Debug, Default)]
struct LaneOfUnsettled {
    /// The position of the first place in `entries`.
    first: u64,
    /// Those behind the first that is unsettled; settled ones among them are gone. The first place is never empty.
    entries: VecDeque<Option<Entry>>,
    /// Those before this position have let go of what they do not need.
    compacted: u64,
}

impl Unsettled {
    /// How many there are.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// Whether there are as many as there may be, or as many places. In the second case only settling the first of a
    /// lane makes room.
    #[inline]
    pub(super) fn is_full(&self, messages_max: u64) -> bool {
        self.messages >= messages_max || self.places >= messages_max.saturating_mul(PLACES_PER_MESSAGE)
    }

    /// Keeps what is about to be sent on the link; false if the pool has no buffer for the list of a long body.
    #[inline]
    pub(super) fn keep(&mut self, entry: &Entry, now: Timestamp, pool: &mut Pool) -> bool {
        let Ok(body) = entry.message.body.share(pool) else { return false };
        let Message { head, ref extensions, .. } = entry.message;
        // With a deadline, it says until when that is counted.
        let since = if head.deadline_us.is_some() { entry.since } else { now };
        // Made where it stays: it is long, and there is one for each message.
        self.lanes[head.lane.index()].entries.push_back(Some(Entry {
            message: Message { head, extensions: extensions.clone(), body, position: 0 },
            since,
            number: entry.number,
            redeliveries: entry.redeliveries,
        }));
        self.messages += 1;
        self.places += 1;
        true
    }

    /// Forgets the last one of a lane, which was not sent after all.
    pub(super) fn forget_last(&mut self, lane: Lane) {
        let forgotten = u64::from(self.lanes[lane.index()].entries.pop_back().is_some());
        self.messages -= forgotten;
        self.places -= forgotten;
    }

    /// Lets go of those of these positions that are there still; what they took of their queue's room. It costs no more
    /// than there are places, whatever the range.
    pub(super) fn accept(&mut self, lane: Lane, positions: Range<u64>) -> Amount {
        let mut amount = Amount::default();
        self.visit(lane, positions, |place| {
            if let Some(entry) = place {
                amount = amount.plus(entry.amount());
                *place = None;
            }
        });
        amount
    }

    /// Takes out those of these positions that are there still, at the same cost.
    pub(super) fn take(&mut self, lane: Lane, positions: Range<u64>) -> Vec<Entry> {
        let mut entries = Vec::new();
        self.visit(lane, positions, |place| entries.extend(place.take()));
        entries
    }

    /// Empties places of a lane.
    #[inline]
    fn visit(&mut self, lane: Lane, positions: Range<u64>, mut empty: impl FnMut(&mut Option<Entry>)) {
        let lane = &mut self.lanes[lane.index()];
        let place =
            |position: u64| position.saturating_sub(lane.first).min(lane.entries.len() as u64) as usize;
        for place in lane.entries.range_mut(place(positions.start)..place(positions.end)) {
            self.messages -= u64::from(place.is_some());
            empty(place);
        }
        while let Some(None) = lane.entries.front() {
            lane.entries.pop_front();
            lane.first += 1;
            self.places -= 1;
        }
    }

    /// All of them, in the order in which they came to their queue.
    pub(super) fn into_entries(self) -> Vec<Entry> {
        let mut entries: Vec<_> =
            self.lanes.into_iter().flat_map(|lane| lane.entries.into_iter().flatten()).collect();
        entries.sort_unstable_by_key(|entry| entry.number);
        entries
    }

    /// Has those that were sent before `until` let go of receive buffers of which they use little; true if younger
    /// ones are left to be looked at later.
    pub(super) fn compact(&mut self, until: Timestamp, pool: &mut Pool) -> bool {
        self.lanes.iter_mut().fold(false, |left, lane| lane.compact(until, pool) | left)
    }
}

impl LaneOfUnsettled {
    fn compact(&mut self, until: Timestamp, pool: &mut Pool) -> bool {
        self.compacted = self.compacted.max(self.first);
        let from = (self.compacted - self.first) as usize;
        for entry in self.entries.iter_mut().skip(from) {
            if let Some(entry) = entry {
                if entry.since > until {
                    return true;
                }
                entry.compact(pool);
            }
            self.compacted += 1;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use underlay::pool::{Body, PoolConfig};
    use underlay::proto::record::MessageKind;

    fn entry(lane: Lane, number: u64) -> Entry {
        let mut message = Message::new(MessageKind::Message, Body::new());
        message.head.lane = lane;
        Entry { number, ..Entry::new(message, Timestamp::ZERO) }
    }

    fn pool() -> Pool {
        Pool::new(PoolConfig { slab_bytes: 64 << 10, ..PoolConfig::edge() }).unwrap()
    }

    fn keep(unsettled: &mut Unsettled, lane: Lane, number: u64) {
        assert!(unsettled.keep(&entry(lane, number), Timestamp::ZERO, &mut pool()));
    }

    fn taken(unsettled: &mut Unsettled, lane: Lane, positions: Range<u64>) -> Vec<u64> {
        unsettled.take(lane, positions).iter().map(|entry| entry.number).collect()
    }

    #[test]
    fn each_is_taken_once_in_whatever_order() {
        let mut unsettled = Unsettled::default();
        (0..6).for_each(|number| keep(&mut unsettled, Lane::Normal, number));
        (6..8).for_each(|number| keep(&mut unsettled, Lane::Urgent, number));
        assert_eq!(taken(&mut unsettled, Lane::Normal, 2..4), [2, 3]);
        assert_eq!(unsettled.accept(Lane::Normal, 3..5), Amount::of_message(0));
        assert_eq!(taken(&mut unsettled, Lane::Bulk, 0..9), []);
        assert_eq!(taken(&mut unsettled, Lane::Normal, 0..2), [0, 1]);
        // Its first places are gone; positions go on.
        keep(&mut unsettled, Lane::Normal, 9);
        unsettled.forget_last(Lane::Normal);
        keep(&mut unsettled, Lane::Normal, 8);
        assert_eq!(taken(&mut unsettled, Lane::Normal, 0..5), []);
        assert_eq!(taken(&mut unsettled, Lane::Normal, 6..7), [8]);
        assert_eq!(unsettled.messages(), 3);
        let left: Vec<_> = unsettled.into_entries().iter().map(|entry| entry.number).collect();
        assert_eq!(left, [5, 6, 7], "over all lanes, in the order of their queue");
    }

    /// A range that is longer than time is no work.
    #[test]
    fn a_range_costs_no_more_than_there_are() {
        let mut unsettled = Unsettled::default();
        keep(&mut unsettled, Lane::Normal, 1);
        assert_eq!(taken(&mut unsettled, Lane::Normal, 0..u64::MAX), [1]);
        assert_eq!(taken(&mut unsettled, Lane::Normal, 0..u64::MAX), []);
        assert_eq!(unsettled.messages(), 0);
    }

    /// Whatever is settled behind it, one that stays open bounds what the list grows to; in all lanes together.
    #[test]
    fn empty_places_are_bounded() {
        let mut unsettled = Unsettled::default();
        keep(&mut unsettled, Lane::Urgent, 0);
        keep(&mut unsettled, Lane::Normal, 1);
        let mut position = 1;
        while !unsettled.is_full(3) {
            keep(&mut unsettled, Lane::Normal, 1 + position);
            unsettled.accept(Lane::Normal, position..position + 1);
            position += 1;
            assert!(position < 100, "it grows for ever");
        }
        assert_eq!((unsettled.messages(), unsettled.places), (2, 3 * PLACES_PER_MESSAGE));
        unsettled.accept(Lane::Normal, 1..u64::MAX);
        assert!(unsettled.is_full(3), "they were settled before");
        unsettled.accept(Lane::Urgent, 0..1);
        assert_eq!((unsettled.is_full(3), unsettled.places), (false, 3 * PLACES_PER_MESSAGE - 1));
        unsettled.accept(Lane::Normal, 0..1);
        assert_eq!((unsettled.messages(), unsettled.places), (0, 0));
    }

    /// What is short and keeps a large buffer alive lets go of it when it is old enough, each once.
    #[test]
    fn what_is_old_lets_go_of_its_receive_buffer() {
        let mut pool = pool();
        let mut unsettled = Unsettled::default();
        let at = |milliseconds: u64| Timestamp::from_nanoseconds(milliseconds * 1_000_000);
        for number in 0..4 {
            let mut buffer = pool.buffer(16_384).unwrap();
            buffer.put_slice(&[7; 300]);
            let mut entry = entry(Lane::Normal, number);
            entry.message.body.push(buffer.split(), &mut pool).unwrap();
            assert!(unsettled.keep(&entry, at(number), &mut pool));
        }
        assert!(unsettled.compact(at(1), &mut pool), "two are younger");
        assert_eq!(pool.stats().compactions, 2);
        assert_eq!(taken(&mut unsettled, Lane::Normal, 0..1), [0]);
        assert!(!unsettled.compact(at(3), &mut pool));
        assert_eq!(pool.stats().compactions, 4);
        assert!(!unsettled.compact(at(9), &mut pool), "nothing is left to be looked at");
        assert_eq!(pool.stats().compactions, 4);
    }
}
