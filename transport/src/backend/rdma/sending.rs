//! What one channel is sending: a gather list on its way into work requests, and the send queue's account.

use super::memory::PinError;
use super::verbs::{Part, QueuePairSizes};
use crate::pool::{GATHER_SEGMENTS_MAX, GatherList, Segment};
use std::ops::Range;

/// Work requests that are kept for the end of a channel: one behind its last send, one behind its last flush.
const KEPT: u32 = 2;

/// The account of a send queue. The device holds a request until the completion of it or of a later one was taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct SendQueue {
    capacity: u32,
    posted: u32,
    retired: u32,
    signaled: u32,
}

impl SendQueue {
    pub(super) fn new(capacity: u32) -> Self {
        Self { capacity, posted: 0, retired: 0, signaled: 0 }
    }

    /// How many requests may be posted.
    #[inline]
    pub(super) fn room(&self) -> u32 {
        self.capacity
            - KEPT.min(self.capacity)
            - (self.posted.wrapping_sub(self.retired)).min(self.capacity - KEPT)
    }

    /// Whether the request at a position must have a completion, so that the queue is known to empty again.
    #[inline]
    pub(super) fn must_signal(&self, position: u32) -> bool {
        position.wrapping_sub(self.signaled) >= self.capacity / 2
    }

    /// The position of the next request but `ahead`.
    #[inline]
    pub(super) fn position(&self, ahead: u32) -> u32 {
        self.posted.wrapping_add(ahead + 1)
    }

    #[inline]
    pub(super) fn posted(&mut self, count: u32) {
        self.posted = self.posted.wrapping_add(count);
    }

    #[inline]
    pub(super) fn signaled(&mut self, position: u32) {
        self.signaled = position;
    }

    /// The request at a position, of which the low bits are given, is done, and all before it.
    #[inline]
    pub(super) fn retire(&mut self, position: u16) {
        let count = position.wrapping_sub(self.retired as u16);
        // Positions within one queue are at most its capacity apart; one that is not is of the past.
        if u32::from(count) <= self.posted.wrapping_sub(self.retired) {
            self.retired = self.retired.wrapping_add(count.into());
        }
    }

    /// Whether the request at a position is known to be done.
    #[inline]
    pub(super) fn is_done(&self, position: u32) -> bool {
        self.retired.wrapping_sub(position) as i32 >= 0
    }

    /// Whether anything is posted that is not known to be done.
    pub(super) fn is_empty(&self) -> bool {
        self.posted == self.retired
    }

    pub(super) fn last_position(&self) -> u32 {
        self.posted
    }
}

/// The one gather list that is in flight.
#[derive(Debug)]
pub(super) struct Sending {
    segments: Vec<Segment>,
    /// The first byte that is not posted: of which segment, and where in it.
    segment: usize,
    offset: usize,
    unposted_bytes: usize,
    pub(super) flight: Flight,
}

/// Where the gather list stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flight {
    /// There is none.
    Idle,
    /// Some of it waits for credit, or for room in the send queue.
    Waiting,
    /// All of it is posted, and done when the request at this position is.
    Posted(u32),
    /// The device needs it no more, and the next poll says so.
    Done,
}

/// One send, before it is a work request.
#[derive(Debug, Clone, Default)]
pub(super) struct Planned {
    /// Which of the planned parts.
    pub(super) parts: Range<usize>,
    pub(super) is_inline: bool,
    /// The bytes of its parts.
    bytes: usize,
}

impl Sending {
    pub(super) fn new() -> Self {
        Self {
            segments: Vec::with_capacity(GATHER_SEGMENTS_MAX),
            segment: 0,
            offset: 0,
            unposted_bytes: 0,
            flight: Flight::Idle,
        }
    }

    pub(super) fn begin(&mut self, gather: &mut GatherList) {
        self.unposted_bytes = gather.len();
        self.segments.extend(gather.drain());
        (self.segment, self.offset) = (0, 0);
        self.flight = Flight::Waiting;
    }

    /// Lets go of everything, and stands there then.
    pub(super) fn end(&mut self, flight: Flight) {
        self.segments.clear();
        self.unposted_bytes = 0;
        self.flight = flight;
    }

    /// Whether a byte is posted already.
    #[inline]
    pub(super) fn is_begun(&self) -> bool {
        self.segment > 0 || self.offset > 0
    }

    /// Whether these sends are all that is left.
    #[inline]
    pub(super) fn is_covered_by(&self, planned: &[Planned]) -> bool {
        planned.iter().map(|planned| planned.bytes).sum::<usize>() == self.unposted_bytes
    }

    /// Whether a byte is not posted yet.
    #[inline]
    pub(super) fn has_more(&self) -> bool {
        self.unposted_bytes > 0
    }

    /// Plans the next send from byte `ahead` of what is not posted: its parts are appended to `parts`. `None` when
    /// there is nothing more.
    pub(super) fn plan(
        &self,
        cursor: &mut Cursor,
        sizes: &Sizes,
        parts: &mut Vec<Part>,
        mut key: impl FnMut(&Segment) -> Result<u32, PinError>,
    ) -> Result<Option<Planned>, PinError> {
        if cursor.left == 0 {
            return Ok(None);
        }
        let is_inline =
            cursor.left <= sizes.inline_bytes && self.segments.len() - cursor.segment <= sizes.parts;
        let from = parts.len();
        let mut bytes = 0;
        while bytes < sizes.slot_bytes && parts.len() - from < sizes.parts && cursor.left > 0 {
            let segment = &self.segments[cursor.segment];
            let count = (segment.len() - cursor.offset).min(sizes.slot_bytes - bytes);
            let key = if is_inline { 0 } else { key(segment)? };
            let address = segment[cursor.offset..].as_ptr() as u64;
            parts.push(Part { address, bytes: count as u32, key });
            bytes += count;
            cursor.left -= count;
            cursor.offset += count;
            if cursor.offset == segment.len() {
                cursor.segment += 1;
                cursor.offset = 0;
            }
        }
        Ok(Some(Planned { parts: from..parts.len(), is_inline, bytes }))
    }

    /// Where the next plan begins.
    pub(super) fn cursor(&self) -> Cursor {
        Cursor { segment: self.segment, offset: self.offset, left: self.unposted_bytes }
    }

    /// A planned send was posted.
    pub(super) fn posted(&mut self, planned: &Planned) {
        let mut bytes = planned.bytes;
        self.unposted_bytes -= bytes;
        while bytes > 0 {
            let here = (self.segments[self.segment].len() - self.offset).min(bytes);
            bytes -= here;
            self.offset += here;
            if self.offset == self.segments[self.segment].len() {
                self.segment += 1;
                self.offset = 0;
            }
        }
    }
}

/// How far planning has got.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    segment: usize,
    offset: usize,
    left: usize,
}

/// What bounds one send.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) slot_bytes: usize,
    pub(super) parts: usize,
    pub(super) inline_bytes: usize,
}

impl Sizes {
    pub(super) fn new(slot_bytes: u32, queue_pair: &QueuePairSizes) -> Self {
        Self {
            slot_bytes: slot_bytes as usize,
            parts: queue_pair.parts as usize,
            inline_bytes: queue_pair.inline_bytes as usize,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::pool::{Pool, PoolConfig};
    use proptest::prelude::*;

    proptest! {
        /// Whatever the sizes: what is planned covers the list, in order, within the limits.
        #[test]
        fn a_list_is_cut_into_sends_that_fit(
            lengths in prop::collection::vec(1_usize..9_000, 1..40),
            slot_bytes in 256_usize..20_000,
            most_parts in 1_usize..5,
            inline_bytes in 0_usize..600,
        ) {
            let mut pool = Pool::new(PoolConfig::edge()).unwrap();
            let mut gather = GatherList::new();
            let mut content = Vec::new();
            for (number, length) in lengths.iter().enumerate() {
                let bytes = vec![number as u8; *length];
                let mut buffer = pool.buffer(*length).unwrap();
                buffer.put_slice(&bytes);
                gather.push(buffer.split());
                content.extend(bytes);
            }
            let mut sending = Sending::new();
            sending.begin(&mut gather);
            let sizes = Sizes { slot_bytes, parts: most_parts, inline_bytes };
            let mut sent = Vec::new();
            while sending.has_more() {
                let mut parts = Vec::new();
                let mut cursor = sending.cursor();
                let planned = sending.plan(&mut cursor, &sizes, &mut parts, |_| Ok(7)).unwrap().unwrap();
                prop_assert!((1..=most_parts).contains(&parts.len()) && planned.parts == (0..parts.len()));
                let bytes: u32 = parts.iter().map(|part| part.bytes).sum();
                prop_assert!(bytes > 0 && bytes as usize <= slot_bytes);
                prop_assert!(!planned.is_inline || bytes as usize <= inline_bytes);
                prop_assert!(parts.iter().all(|part| (part.key == 0) == planned.is_inline));
                for part in &parts {
                    // SAFETY: the parts point into the segments, which the list holds.
                    sent.extend_from_slice(unsafe {
                        std::slice::from_raw_parts(part.address as *const u8, part.bytes as usize)
                    });
                }
                sending.posted(&planned);
            }
            prop_assert_eq!(sent, content);
        }

        #[test]
        fn the_account_of_a_queue_is_right(capacity in 16_u32..200, start: u16) {
            let mut queue = SendQueue::new(capacity);
            queue.posted = start.into();
            queue.retired = start.into();
            queue.signaled = start.into();
            prop_assert_eq!(queue.room(), capacity - 2);
            queue.posted(capacity - 2);
            prop_assert_eq!(queue.room(), 0);
            let half = u32::from(start).wrapping_add(capacity / 2);
            prop_assert!(queue.must_signal(half) && !queue.must_signal(half - 1));
            queue.retire(half as u16);
            prop_assert_eq!(queue.room(), capacity / 2);
            prop_assert!(queue.is_done(half) && !queue.is_done(half + 1));
            // A completion that is out of date changes nothing.
            queue.retire((half - 1) as u16);
            prop_assert_eq!(queue.room(), capacity / 2);
            queue.retire(queue.last_position() as u16);
            prop_assert!(queue.is_empty());
        }
    }
}
