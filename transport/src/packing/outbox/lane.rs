//! One lane's messages: those that wait, and those that have left and are kept until the peer holds them.

use crate::message::Message;
use crate::sabotage::{self, Bug};
use std::collections::VecDeque;

/// A queue with a cursor. Replaying is setting the cursor back: what is sent again is what was sent, by reference.
#[derive(Debug, Default)]
pub(super) struct LaneQueue {
    /// Those before the cursor have left.
    messages: VecDeque<Message>,
    /// The sequence number of the first.
    first: u64,
    /// How many have left.
    cursor: usize,
    /// The most that ever had left, as a sequence number: what the peer can have acknowledged at most.
    sent: u64,
    /// The peer holds every message before this, as far as it was told of.
    held: u64,
    /// How much of the message at the cursor has left in chunks; its head has left if this is not zero.
    pub(super) chunked_bytes: usize,
    /// What the messages behind the cursor, and what all of them count against the limits.
    waiting_bytes: u64,
    bytes: u64,
}

impl LaneQueue {
    /// How many messages there are, kept ones included, and what they count.
    #[inline]
    pub(super) fn size(&self) -> (usize, u64) {
        (self.messages.len(), self.bytes)
    }

    /// How many wait, and what they count.
    #[inline]
    pub(super) fn waiting(&self) -> usize {
        self.messages.len() - self.cursor
    }

    pub(super) fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// How many have left and are kept.
    pub(super) fn kept(&self) -> usize {
        self.cursor
    }

    /// The sequence number of the next to leave.
    #[inline]
    pub(super) fn next_sequence(&self) -> u64 {
        self.first + self.cursor as u64
    }

    /// The sequence number behind the last.
    pub(super) fn end_sequence(&self) -> u64 {
        self.first + self.messages.len() as u64
    }

    /// Everything before this is held by the peer; nothing from the other on was ever sent.
    pub(super) fn acknowledgeable(&self) -> (u64, u64) {
        (self.first.max(self.held), self.sent)
    }

    #[inline]
    pub(super) fn push(&mut self, message: Message) {
        let bytes = message.charged_bytes();
        self.waiting_bytes += bytes;
        self.bytes += bytes;
        self.messages.push_back(message);
    }

    /// The next to leave.
    #[inline]
    pub(super) fn front(&self) -> Option<&Message> {
        self.messages.get(self.cursor)
    }

    pub(super) fn front_mut(&mut self) -> Option<&mut Message> {
        self.messages.get_mut(self.cursor)
    }

    /// The one of this number, be it kept or waiting.
    pub(super) fn at(&self, sequence: u64) -> Option<&Message> {
        self.messages.get(sequence.checked_sub(self.first)? as usize)
    }

    /// Those that wait, in order.
    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Message> {
        self.messages.range(self.cursor..)
    }

    /// The one at the cursor has left, whole; it is kept if it may have to leave again.
    #[inline]
    pub(super) fn advance(&mut self, is_kept: bool) {
        let Some(message) = self.messages.get(self.cursor) else { return };
        self.waiting_bytes -= message.charged_bytes();
        self.cursor += 1;
        self.chunked_bytes = 0;
        self.sent = self.sent.max(self.next_sequence());
        if !is_kept {
            self.held = self.sent;
        }
        self.forget_held();
    }

    /// The peer holds everything before `position`, which was sent. An older position changes nothing.
    #[inline]
    pub(super) fn acknowledge(&mut self, position: u64) {
        self.held = self.held.max(position);
        self.forget_held();
    }

    #[inline]
    fn forget_held(&mut self) {
        let mut count = self.held.saturating_sub(self.first) as usize;
        // A replay may not have come so far again when the peer acknowledges, by what had come over the connection
        // before. What is leaving in chunks leaves to its end all the same: the peer has begun to put it together.
        if count > self.cursor {
            if self.chunked_bytes > 0 {
                count = self.cursor;
            }
            let skipped: u64 = self.messages.range(self.cursor..count).map(Message::charged_bytes).sum();
            self.waiting_bytes -= skipped;
        }
        if count == 0 {
            return;
        }
        if count == 1 && self.cursor > 0 {
            // As it is in a conversation.
            if let Some(message) = self.messages.front() {
                self.bytes -= message.charged_bytes();
            }
            drop(self.messages.pop_front());
            self.first += 1;
            self.cursor -= 1;
            return;
        }
        self.bytes -= self.messages.range(..count).map(Message::charged_bytes).sum::<u64>();
        self.messages.drain(..count);
        self.first += count as u64;
        self.cursor = self.cursor.saturating_sub(count);
    }

    /// The peer expects `position` next: what lies before it is dropped, the rest is sent again.
    pub(super) fn rewind(&mut self, position: u64) {
        self.chunked_bytes = 0;
        self.acknowledge(position);
        self.cursor = 0;
        if sabotage::strikes(Bug::ForgetReplay) && self.first < self.sent {
            self.messages.pop_front().inspect(|message| self.bytes -= message.charged_bytes());
        }
        self.waiting_bytes = self.bytes;
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        let (first, sent, held) = (self.next_sequence(), self.sent, self.held);
        *self = Self { messages: std::mem::take(&mut self.messages), first, sent, held, ..Self::default() };
        self.messages.clear();
    }
}
