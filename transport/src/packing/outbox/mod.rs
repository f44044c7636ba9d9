//! What waits to be sent, and how it is packed when the channel is free.
//!
//! An outbox belongs to a session and outlives its connections. What has left is kept until the peer has acknowledged
//! it, and leaves again, in the same order, when the session goes on over another connection: each of its streams is a
//! queue with a cursor (`lane`, `control`), and a replay only sets the cursors back. `plan` decides what goes into the
//! next frame, `write` writes it; `short` does both for the frame that most sends are.

mod control;
mod lane;
mod plan;
mod short;
mod write;

use super::{Offers, PackingRules, PackingStats};
use crate::message::Message;
use crate::pool::{Body, BufferMut, COPY_BREAK_BYTES, GATHER_SEGMENTS_MAX, GatherList, Pool, PoolError};
use crate::proto::credit::SendWindow;
use crate::proto::serial::Received;
use crate::proto::{LANES, Lane, OFFER_BYTES_MAX, PeerMisbehaved, STREAMS, Stream};
use control::ControlQueue;
use lane::LaneQueue;
use plan::Plan;
use thiserror::Error;

/// Entries of the gather list that one frame takes at most. What bulk has more of makes shorter chunks; any other
/// body with more is joined first ([`Outbox::takes_as_it_is`]).
const SEGMENTS_IN_FRAME_MAX: usize = GATHER_SEGMENTS_MAX / 2;

/// Heads are written into buffers of this size, one behind the other.
const HEAD_BUFFER_BYTES: usize = 16_384;

/// One gather list carries at most about this much, so that one connection does not keep the others waiting.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// What the peer has granted to this end.
#[derive(Debug)]
pub struct Windows {
    /// Frames.
    pub frames: SendWindow,
    /// Chunks of bulk.
    pub chunks: SendWindow,
    /// Bodies that may be, and are, offered for one-sided reads.
    pub offers: Offers,
}

/// What every frame says of this end's receiving side.
#[derive(Debug)]
pub struct Announcement<'a> {
    /// The peer may send frames numbered below this.
    pub frame_limit: u64,
    /// The peer may have sent so many chunks.
    pub chunk_limit: u64,
    /// What is held of each stream. Each frame says it of one of them.
    pub received: &'a mut Received,
}

/// A lane's queue is full.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error(
    "the lane's send queue holds {messages} messages and {bytes} bytes that wait or are not acknowledged; the limits are {messages_max} (send_queue_messages_max) and {bytes_max} (send_queue_bytes_max)"
)]
pub struct OutboxFull {
    /// Messages in the lane that wait, or that the peer has not acknowledged.
    pub messages: usize,
    /// Their bytes.
    pub bytes: u64,
    /// `send_queue_messages_max`.
    pub messages_max: usize,
    /// `send_queue_bytes_max`.
    pub bytes_max: u64,
}

/// Queues messages by lane and packs them.
///
/// Taking a message in and packing it allocate nothing once the queues have grown to what the load needs.
#[derive(Debug)]
pub struct Outbox {
    rules: PackingRules,
    /// What has left is kept until it is acknowledged.
    keeps: bool,
    messages_max: usize,
    bytes_max: u64,
    lanes: [LaneQueue; LANES],
    control: ControlQueue,
    /// Heads are written here; what was handed out as segments stays where it is.
    heads: Option<BufferMut>,
    stats: PackingStats,
}

impl Outbox {
    /// An empty outbox that holds up to `messages_max` messages in each lane, and about `bytes_max` bytes of them.
    ///
    /// Each lane has the limits to itself: one that is full of bulk must not keep an urgent message out.
    pub fn new(rules: PackingRules, messages_max: usize, bytes_max: u64) -> Self {
        Self {
            rules,
            keeps: true,
            messages_max,
            bytes_max,
            lanes: Default::default(),
            control: ControlQueue::default(),
            heads: None,
            stats: PackingStats::default(),
        }
    }

    /// Keeps nothing that has left: there will be no other connection over which it could leave again.
    pub fn forget_what_left(&mut self) {
        self.keeps = false;
    }

    /// Queues a message in its lane. Its head must fit ([`Outbox::head_fits`]), and its body must be within the
    /// connection's `message_bytes_max`.
    ///
    /// # Errors
    /// [`OutboxFull`] with the message, when its lane has reached a limit. A lane that is empty always takes one,
    /// however long.
    #[allow(clippy::result_large_err)] // the message goes back to its owner, whole
    pub fn push(&mut self, message: Message) -> Result<(), (OutboxFull, Message)> {
        if let Err(full) = self.check_room(message.head.lane) {
            return Err((full, message));
        }
        self.push_checked(message);
        Ok(())
    }

    /// As [`Outbox::push`], of a message whose lane has room for it ([`Outbox::check_room`]).
    #[inline]
    pub(crate) fn push_checked(&mut self, message: Message) {
        self.lanes[message.head.lane.index()].push(message);
    }

    /// False for a message whose head, with its extensions, is longer than this connection allows: a peer would end
    /// the connection over it. One that arrived on another connection may be, so whoever forwards asks first.
    pub fn head_fits(&self, message: &Message) -> bool {
        let extension_bytes = message.extensions.as_ref().map_or(0, |extensions| extensions.len());
        message.head.head_bytes_needed(extension_bytes) <= self.rules.head_bytes_max
    }

    /// False for a body that is in too many pieces to leave in one frame and too short to leave in chunks: it will be
    /// joined, a counted copy, before it leaves.
    pub fn takes_as_it_is(&self, body: &Body) -> bool {
        self.rules.is_bulk(body.len() as u64) || gather_entries(body) <= SEGMENTS_IN_FRAME_MAX
    }

    /// Queues an encoded control record, whose length is a multiple of 8.
    pub fn push_control(&mut self, record: &[u8]) {
        self.control.push(record, [0; LANES]);
    }

    /// As [`Outbox::push_control`], but the record leaves only when all messages have left that are queued now.
    pub fn push_control_behind_messages(&mut self, record: &[u8]) {
        let after = self.lanes.each_ref().map(LaneQueue::end_sequence);
        self.control.push_behind(record, after);
    }

    /// As [`Outbox::push_control`], but the record does not overtake those that wait for messages.
    pub fn push_control_behind_control(&mut self, record: &[u8]) {
        self.control.push_behind_those(record, self.positions());
    }

    /// Control records that wait.
    pub fn waiting_control(&self) -> usize {
        self.control.waiting()
    }

    /// Whether bulk is what a lane has to send next.
    pub fn bulk_is_next(&self) -> bool {
        let is_bulk = |message: &Message| self.rules.is_bulk(message.body.len() as u64);
        self.lanes.iter().any(|lane| lane.front().is_some_and(is_bulk))
    }

    /// Bytes of control records that have never left, and of those that have and that the peer has not acknowledged.
    pub fn control_bytes(&self) -> (usize, usize) {
        self.control.sizes()
    }

    /// Messages that wait, the one that is leaving in chunks included.
    pub fn waiting_messages(&self) -> usize {
        self.lanes.iter().map(LaneQueue::waiting).sum()
    }

    /// Whether all that waits, and a few short control records, certainly fit into one frame.
    pub fn fits_one_frame(&self) -> bool {
        /// What a head has at most beside its extensions, which count as waiting bytes, with its padding; and what is
        /// left for control records.
        const RECORD_BYTES: u64 = 192;
        const CONTROL_BYTES: u64 = 512;
        let messages = self.waiting_messages() as u64;
        let bytes = self.waiting_bytes() + messages * RECORD_BYTES + CONTROL_BYTES;
        messages == 0 || bytes <= self.rules.packet_bytes as u64
    }

    /// By stream added up, up to where the peer has acknowledged: progress, if it has risen.
    pub fn acknowledged(&self) -> u64 {
        Stream::ALL.into_iter().map(|stream| self.acknowledgeable(stream).0).sum()
    }

    /// Messages and control records that have left and that the peer has not acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.lanes.iter().map(LaneQueue::kept).sum::<usize>() + self.control.kept()
    }

    /// Whether anything waits, be it allowed to leave now or not. Cheaper than a plan that comes to nothing, which
    /// every send would end with.
    #[inline]
    fn has_waiting(&self) -> bool {
        self.control.waiting() > 0 || self.lanes.iter().any(|queue| queue.waiting() > 0)
    }

    /// Bytes that wait.
    pub fn waiting_bytes(&self) -> u64 {
        self.lanes.iter().map(LaneQueue::waiting_bytes).sum()
    }

    /// By lane, the sequence number of the next to leave.
    #[inline]
    fn positions(&self) -> [u64; LANES] {
        self.lanes.each_ref().map(LaneQueue::next_sequence)
    }

    /// Brings the offers of a connection up to date: which bodies they are for is known from what waits, and which may
    /// be withdrawn from what is acknowledged. Only with `may_offer` further ones are wanted.
    pub(crate) fn review_offers(&self, offers: &mut Offers, may_offer: bool) {
        offers.settle(&self.lanes.each_ref().map(|lane| lane.acknowledgeable().0), &self.positions());
        for lane in Lane::ALL.into_iter().filter(|_| may_offer) {
            let queue = &self.lanes[lane.index()];
            let is_offered = |message: &Message| {
                self.rules.is_bulk(message.body.len() as u64)
                    && self.rules.offer_bytes(message, OFFER_BYTES_MAX).is_some()
            };
            // What is leaving in chunks goes on so.
            let from = queue.next_sequence() + u64::from(queue.chunked_bytes > 0);
            offers.look_at(lane, from, |sequence| queue.at(sequence).map(is_offered));
        }
    }

    /// Whether there are messages that [`Outbox::review_offers`] has not looked at.
    pub(crate) fn wants_review(&self, offers: &Offers, may_offer: bool) -> bool {
        if offers.is_off() {
            return false;
        }
        let lanes = self.lanes.each_ref();
        let waiting = lanes.map(|lane| {
            let next = lane.next_sequence();
            (next, if may_offer { lane.end_sequence() } else { next })
        });
        offers.wants_review(&lanes.map(|lane| lane.acknowledgeable().0), &waiting)
    }

    /// A message that waits, or that has left and is kept.
    pub(crate) fn message(&self, lane: Lane, sequence: u64) -> Option<&Message> {
        self.lanes[lane.index()].at(sequence)
    }

    /// What packing did so far.
    pub fn stats(&self) -> PackingStats {
        self.stats
    }

    /// Appends frames to `gather` until nothing is left that may go, or the list is full. Says how many frames.
    ///
    /// # Errors
    /// As [`Pool::buffer`]: frames that were appended before are whole, the rest stays queued.
    pub fn fill(
        &mut self,
        windows: &mut Windows,
        announcement: &mut Announcement<'_>,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<usize, PoolError> {
        let mut frames = 0;
        while self.has_waiting()
            && gather.len() < BATCH_BYTES_MAX
            && gather.room() > SEGMENTS_IN_FRAME_MAX + 2
        {
            let packed = match self.plan_short(windows) {
                Some(short) => self.write_short(&short, windows, announcement, pool, gather).map(|()| true),
                None => self.fill_planned(windows, announcement, pool, gather),
            };
            if !packed? {
                break;
            }
            frames += 1;
        }
        Ok(frames)
    }

    /// Appends one frame of any kind; false if nothing may go.
    #[inline(never)] // apart from the frame that most sends are, which would carry the weight of all others
    fn fill_planned(
        &mut self,
        windows: &mut Windows,
        announcement: &mut Announcement<'_>,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<bool, PoolError> {
        loop {
            if self.control.has_behind() {
                self.control.release(self.positions());
            }
            let plan = self.plan(windows);
            if plan.records == 0 {
                return Ok(false);
            }
            if !self.join_scattered(&plan, pool)? {
                self.write(&plan, windows, announcement, pool, gather)?;
                return Ok(true);
            }
        }
    }

    /// Appends one control frame, even if no record waits: it carries the announcement. False if no slot is left.
    ///
    /// # Errors
    /// As [`Outbox::fill`].
    pub fn fill_keep_alive(
        &mut self,
        windows: &mut Windows,
        announcement: &mut Announcement<'_>,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<bool, PoolError> {
        if windows.frames.available_with_reserve() == 0 || gather.room() < 2 {
            return Ok(false);
        }
        self.write(&Plan::default(), windows, announcement, pool, gather)?;
        Ok(true)
    }

    /// Appends one control frame with this record, which belongs to the connection and not to the session: it is not
    /// numbered, and not kept. False if no slot is left.
    ///
    /// # Errors
    /// As [`Outbox::fill`].
    pub fn fill_record(
        &mut self,
        record: &[u8],
        windows: &mut Windows,
        announcement: &mut Announcement<'_>,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<bool, PoolError> {
        if windows.frames.available_with_reserve() == 0 || gather.room() < 2 {
            return Ok(false);
        }
        self.write_record(record, windows, announcement, pool, gather)?;
        Ok(true)
    }

    /// Whether a lane would take another message.
    ///
    /// # Errors
    /// [`OutboxFull`] if not.
    #[inline]
    pub fn check_room(&self, lane: Lane) -> Result<(), OutboxFull> {
        let (messages, bytes) = self.lanes[lane.index()].size();
        let (messages_max, bytes_max) = (self.messages_max, self.bytes_max);
        if messages >= messages_max || (messages > 0 && bytes >= bytes_max) {
            return Err(OutboxFull { messages, bytes, messages_max, bytes_max });
        }
        Ok(())
    }

    /// The peer holds every record of a stream before `position`. An older position changes nothing.
    ///
    /// # Errors
    /// [`PeerMisbehaved::AcknowledgedUnsent`] if a record before it was never sent.
    #[inline]
    pub fn acknowledge(&mut self, stream: Stream, position: u64) -> Result<(), PeerMisbehaved> {
        let (_, limit) = self.acknowledgeable(stream);
        if position > limit {
            return Err(PeerMisbehaved::AcknowledgedUnsent { stream, found: position, limit });
        }
        match stream {
            Stream::Lane(lane) => self.lanes[lane.index()].acknowledge(position),
            Stream::Control => self.control.acknowledge(position),
        }
        Ok(())
    }

    /// Whether the session can go on from what the peer expects of each stream.
    ///
    /// # Errors
    /// [`PeerMisbehaved::ResumePosition`] if the peer has acknowledged more than that, or was never sent so much.
    pub fn check_resume(&self, positions: &[u64; STREAMS]) -> Result<(), PeerMisbehaved> {
        for stream in Stream::ALL {
            let (acknowledged, sent) = self.acknowledgeable(stream);
            let found = positions[stream.index()];
            if !(acknowledged..=sent).contains(&found) {
                return Err(PeerMisbehaved::ResumePosition { stream, found, acknowledged, sent });
            }
        }
        Ok(())
    }

    /// Goes on over another connection, where these rules hold, from what the peer expects of each stream, which was
    /// checked ([`Outbox::check_resume`]).
    pub fn resume(&mut self, rules: PackingRules, positions: &[u64; STREAMS]) {
        self.rules = rules;
        for lane in Lane::ALL {
            self.lanes[lane.index()].rewind(positions[lane.index()]);
        }
        self.control.rewind(positions[Stream::Control.index()]);
    }

    /// Up to where a stream was acknowledged, and up to where it was sent.
    fn acknowledgeable(&self, stream: Stream) -> (u64, u64) {
        match stream {
            Stream::Lane(lane) => self.lanes[lane.index()].acknowledgeable(),
            Stream::Control => self.control.acknowledgeable(),
        }
    }

    /// Drops everything that waits or is kept: the session has ended.
    pub fn clear(&mut self) {
        self.lanes.iter_mut().for_each(LaneQueue::clear);
        self.control = ControlQueue::default();
    }

    /// Joins the body that is to travel alone if one gather list cannot name its pieces; true if it did.
    fn join_scattered(&mut self, plan: &Plan, pool: &mut Pool) -> Result<bool, PoolError> {
        let Some(message) = plan.alone.and_then(|lane| self.lanes[lane.index()].front_mut()) else {
            return Ok(false);
        };
        let leaves_whole = !self.rules.is_bulk(message.body.len() as u64);
        let scattered = leaves_whole && gather_entries(&message.body) > SEGMENTS_IN_FRAME_MAX;
        if scattered {
            message.body.join(pool)?;
        }
        Ok(scattered)
    }
}

/// Entries of the gather list that a whole body takes, its head included; none if it is copied beside its head.
fn gather_entries(body: &Body) -> usize {
    if leaves_by_reference(body) { body.segment_count() + 1 } else { 0 }
}

/// Whether a whole body is named in the gather list, rather than copied beside its head.
fn leaves_by_reference(body: &Body) -> bool {
    body.len() >= COPY_BREAK_BYTES
}

#[cfg(all(test, not(loom)))]
mod tests;
