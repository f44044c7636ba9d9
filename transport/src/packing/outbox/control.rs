//! The control records of a session: those that wait, and those that have left and are kept until the peer has them.

use crate::proto::LANES;
use std::collections::VecDeque;

/// Control records, encoded, in the order in which they leave, with a cursor as in a lane.
#[derive(Debug, Default)]
pub(super) struct ControlQueue {
    /// All records one behind the other; those before `start` are forgotten.
    bytes: Vec<u8>,
    start: usize,
    records: VecDeque<Entry>,
    /// The sequence number of the first of `records`.
    first: u64,
    /// How many of them have left since the last rewind, and their bytes.
    cursor: usize,
    cursor_bytes: usize,
    /// How many of them have ever left, and their bytes.
    left: usize,
    left_bytes: usize,
    /// The peer holds every record before this, as far as it was told of.
    held: u64,
    /// Behind these, those that wait for messages.
    behind: VecDeque<Behind>,
    /// What the last of these had to wait for.
    barrier: [u64; LANES],
}

#[derive(Debug)]
struct Entry {
    bytes: u32,
    /// By lane, the position that the lane must have come to before it leaves.
    after: [u64; LANES],
    /// By lane, the position that the lane had when it left. A replay keeps to it: the messages from there on may need
    /// what this record has brought about.
    left_at: [u64; LANES],
}

/// A record that must not overtake the messages that were queued before it.
#[derive(Debug)]
struct Behind {
    after: [u64; LANES],
    record: Box<[u8]>,
}

/// The next record that may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextRecord {
    /// It has so many bytes.
    Bytes(usize),
    /// It waits for messages to leave before it.
    Blocked,
    None,
}

impl ControlQueue {
    pub(super) fn push(&mut self, record: &[u8], after: [u64; LANES]) {
        self.bytes.extend_from_slice(record);
        self.records.push_back(Entry { bytes: record.len() as u32, after, left_at: [0; LANES] });
    }

    /// Behind everything that waits for messages, and behind these positions of the lanes.
    pub(super) fn push_behind(&mut self, record: &[u8], after: [u64; LANES]) {
        self.barrier = after;
        self.behind.push_back(Behind { after, record: record.into() });
    }

    /// Behind everything that waits for messages, or has waited, and for the same messages: neither now nor after a
    /// rewind does it overtake one of these. The lanes are at `positions`.
    pub(super) fn push_behind_those(&mut self, record: &[u8], positions: [u64; LANES]) {
        let after = self.barrier;
        if self.behind.is_empty() && reached(&after, &positions) {
            self.push(record, after);
        } else {
            self.push_behind(record, after);
        }
    }

    /// Queues what waited for messages that have left: the lanes are at `positions`.
    pub(super) fn release(&mut self, positions: [u64; LANES]) {
        while let Some(behind) = self.behind.pop_front_if(|behind| reached(&behind.after, &positions)) {
            self.push(&behind.record, behind.after);
        }
    }

    /// Whether any record is at the cursor.
    #[inline]
    pub(super) fn has_ready(&self) -> bool {
        self.cursor < self.records.len()
    }

    /// Whether any record waits for messages.
    #[inline]
    pub(super) fn has_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    /// Records that wait.
    #[inline]
    pub(super) fn waiting(&self) -> usize {
        self.records.len() - self.cursor + self.behind.len()
    }

    /// Records that have left and are kept.
    pub(super) fn kept(&self) -> usize {
        self.cursor
    }

    /// Bytes of what has never left, and of what has and is kept.
    pub(super) fn sizes(&self) -> (usize, usize) {
        let behind =
            if self.behind.is_empty() { 0 } else { self.behind.iter().map(|it| it.record.len()).sum() };
        (self.bytes.len() - self.start - self.left_bytes + behind, self.left_bytes)
    }

    /// The record that stands `ahead` of the cursor, with the lanes at `positions`.
    #[inline]
    pub(super) fn peek(&self, ahead: usize, positions: &[u64; LANES]) -> NextRecord {
        match self.records.get(self.cursor + ahead) {
            None => NextRecord::None,
            Some(entry) if reached(&entry.after, positions) => NextRecord::Bytes(entry.bytes as usize),
            Some(_) => NextRecord::Blocked,
        }
    }

    /// While records are replayed: the positions that the lanes may not pass before the record has left that stands
    /// `ahead` of the cursor.
    #[inline]
    pub(super) fn replay_limits(&self, ahead: usize) -> Option<&[u64; LANES]> {
        let index = self.cursor + ahead;
        (index < self.left).then(|| &self.records[index].left_at)
    }

    /// The bytes of the next records.
    #[inline]
    pub(super) fn next_bytes(&self, bytes: usize) -> &[u8] {
        let from = self.start + self.cursor_bytes;
        &self.bytes[from..from + bytes]
    }

    /// The next `records` have left, while the lanes were at `positions`; they are kept if they may have to leave again.
    #[inline]
    pub(super) fn advance(&mut self, records: usize, bytes: usize, positions: [u64; LANES], is_kept: bool) {
        for index in self.cursor..self.cursor + records {
            if index >= self.left {
                self.records[index].left_at = positions;
            }
        }
        self.cursor += records;
        self.cursor_bytes += bytes;
        self.left = self.left.max(self.cursor);
        self.left_bytes = self.left_bytes.max(self.cursor_bytes);
        if !is_kept {
            self.held = self.first + self.cursor as u64;
        }
        self.forget_held();
    }

    /// Everything before this is held by the peer; nothing from the other on was ever sent.
    pub(super) fn acknowledgeable(&self) -> (u64, u64) {
        (self.first.max(self.held), self.first + self.left as u64)
    }

    /// The peer has taken every record before `position`, which was sent. An older position changes nothing.
    #[inline]
    pub(super) fn acknowledge(&mut self, position: u64) {
        self.held = self.held.max(position);
        self.forget_held();
    }

    /// Forgets what the peer has. What a replay has not come to again yet leaves once more: records have no numbers of
    /// their own, so none may be left out.
    #[inline]
    fn forget_held(&mut self) {
        let count = (self.held.saturating_sub(self.first) as usize).min(self.cursor);
        if count > 0 {
            self.cursor -= count;
            self.cursor_bytes -= self.forget(count);
        }
    }

    /// Forgets the first records; returns their bytes.
    fn forget(&mut self, count: usize) -> usize {
        let bytes: usize = self.records.drain(..count).map(|entry| entry.bytes as usize).sum();
        self.first += count as u64;
        self.left -= count;
        self.left_bytes -= bytes;
        self.start += bytes;
        // No byte moves until all are gone, or more than half of the memory is.
        if self.start * 2 >= self.bytes.len() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        bytes
    }

    /// The peer expects `position` next. What never left and waits for messages that now are to leave again waits
    /// with them, so that it keeps no later record back.
    pub(super) fn rewind(&mut self, position: u64) {
        (self.cursor, self.cursor_bytes) = (0, 0);
        self.held = self.held.max(position);
        self.forget(position.saturating_sub(self.first) as usize);
        let fresh: Vec<_> = self.records.drain(self.left..).collect();
        let tail = self.bytes.split_off(self.start + self.left_bytes);
        let mut at = 0;
        let mut barred = VecDeque::new();
        for entry in fresh {
            let record = &tail[at..at + entry.bytes as usize];
            at += entry.bytes as usize;
            if entry.after == [0; LANES] {
                self.push(record, entry.after);
            } else {
                barred.push_back(Behind { after: entry.after, record: record.into() });
            }
        }
        barred.append(&mut self.behind);
        self.behind = barred;
    }
}

/// Whether each lane has come so far.
#[inline]
fn reached(after: &[u64; LANES], positions: &[u64; LANES]) -> bool {
    after.iter().zip(positions).all(|(after, position)| position >= after)
}
