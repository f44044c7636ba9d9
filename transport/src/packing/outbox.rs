//! What waits to be sent, and how it is packed when the channel is free.

use super::{PackingRules, PackingStats};
use crate::message::Message;
use crate::pool::{
    BUFFER_BYTES_MAX, Body, BufferMut, COPY_BREAK_BYTES, GATHER_SEGMENTS_MAX, GatherList, Pool, PoolError,
};
use crate::proto::credit::SendWindow;
use crate::proto::frame::{FrameHeader, FrameKind};
use crate::proto::record::{ChunkHead, MessageHead, padded_head_bytes};
use crate::proto::serial::shorten;
use crate::proto::{
    CHUNK_HEAD_BYTES, FRAME_HEADER_BYTES, LANES, LINE_BYTES, Lane, record_aligned, whole_lines,
};
use std::collections::VecDeque;
use thiserror::Error;

/// Entries of the gather list that one frame takes at most. What bulk has more of makes shorter chunks; any other
/// body with more is joined first ([`Outbox::takes_as_it_is`]).
const SEGMENTS_IN_FRAME_MAX: usize = GATHER_SEGMENTS_MAX / 2;

/// Heads are written into buffers of this size, one behind the other.
const HEAD_BUFFER_BYTES: usize = 16_384;

/// What one frame writes at most into the buffer for heads, whatever the packet's size: its header, heads, short
/// bodies and all zeros. The header, and the zeros of the last line, come on top.
const HEADS_IN_FRAME_MAX: usize = BUFFER_BYTES_MAX - FRAME_HEADER_BYTES - LINE_BYTES;

/// One gather list carries at most about this much, so that one connection does not keep the others waiting.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// What the peer has granted to this end.
#[derive(Debug)]
pub struct Windows {
    /// Frames.
    pub frames: SendWindow,
    /// Chunks of bulk.
    pub chunks: SendWindow,
}

/// What every frame says of this end's receiving side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Announcement {
    /// The peer may send frames numbered below this.
    pub frame_limit: u64,
    /// The peer may have sent so many chunks.
    pub chunk_limit: u64,
    /// The next sequence number expected, by lane. Each frame carries one of them, in turn.
    pub acknowledged: [u64; LANES],
}

/// A lane's queue is full.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error(
    "the lane's send queue holds {messages} messages and {bytes} bytes; the limits are {messages_max} and {bytes_max}"
)]
pub struct OutboxFull {
    /// Messages that wait in the lane.
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
    messages_max: usize,
    bytes_max: u64,
    lanes: [LaneQueue; LANES],
    control: ControlQueue,
    /// Heads are written here; what was handed out as segments stays where it is.
    heads: Option<BufferMut>,
    next_ack_lane: usize,
    stats: PackingStats,
}

#[derive(Debug, Default)]
struct LaneQueue {
    messages: VecDeque<Message>,
    /// What its messages count against the limit.
    waiting_bytes: u64,
    next_sequence: u64,
    /// How much of the first message's body has left in chunks; its head has left if this is not zero.
    chunked_bytes: usize,
}

/// Control records, encoded, in order.
#[derive(Debug, Default)]
struct ControlQueue {
    /// Records one behind the other; those before `start` have left.
    bytes: Vec<u8>,
    start: usize,
    lengths: VecDeque<usize>,
    /// Behind these, those that wait for messages.
    behind: VecDeque<Behind>,
}

/// A control record that must not overtake the messages that were queued before it.
#[derive(Debug)]
struct Behind {
    /// By lane, the sequence number that the lane comes to when they have left.
    positions: [u64; LANES],
    record: Box<[u8]>,
}

/// What goes into the next frame.
#[derive(Debug, Default)]
struct Plan {
    control_records: usize,
    control_bytes: usize,
    /// Messages that share the frame, by lane.
    shared: [usize; LANES],
    /// A message or chunk that travels alone, of this lane.
    alone: Option<Lane>,
    /// Bytes of all records so far.
    record_bytes: usize,
    /// Of these, what is written into the buffer for heads: all but the bodies that go by reference.
    written_bytes: usize,
    records: usize,
    /// Entries of the gather list so far.
    segments: usize,
}

impl Outbox {
    /// An empty outbox that holds up to `messages_max` messages in each lane, and about `bytes_max` bytes of them.
    ///
    /// Each lane has the limits to itself: one that is full of bulk must not keep an urgent message out.
    pub fn new(rules: PackingRules, messages_max: usize, bytes_max: u64) -> Self {
        Self {
            rules,
            messages_max,
            bytes_max,
            lanes: Default::default(),
            control: ControlQueue::default(),
            heads: None,
            next_ack_lane: 0,
            stats: PackingStats::default(),
        }
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
        let queue = &mut self.lanes[message.head.lane.index()];
        queue.waiting_bytes += message.charged_bytes();
        queue.messages.push_back(message);
        Ok(())
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
        self.control.bytes.extend_from_slice(record);
        self.control.lengths.push_back(record.len());
    }

    /// As [`Outbox::push_control`], but the record leaves only when all messages have left that are queued now.
    pub fn push_control_behind_messages(&mut self, record: &[u8]) {
        if self.waiting_messages() == 0 {
            return self.push_control_behind_control(record);
        }
        let positions = self.lanes.each_ref().map(|lane| lane.next_sequence + lane.messages.len() as u64);
        self.control.behind.push_back(Behind { positions, record: record.into() });
    }

    /// As [`Outbox::push_control`], but the record does not overtake those that wait for messages.
    pub fn push_control_behind_control(&mut self, record: &[u8]) {
        if self.control.behind.is_empty() {
            return self.push_control(record);
        }
        self.control.behind.push_back(Behind { positions: [0; LANES], record: record.into() });
    }

    /// Control records that wait.
    pub fn waiting_control(&self) -> usize {
        self.control.lengths.len() + self.control.behind.len()
    }

    /// Whether bulk is what a lane has to send next.
    pub fn bulk_is_next(&self) -> bool {
        let is_bulk = |message: &Message| self.rules.is_bulk(message.body.len() as u64);
        self.lanes.iter().any(|lane| lane.messages.front().is_some_and(is_bulk))
    }

    /// Bytes of control records that wait.
    pub fn waiting_control_bytes(&self) -> usize {
        self.control.waiting_bytes()
    }

    /// Messages that wait, the one that is leaving in chunks included.
    pub fn waiting_messages(&self) -> usize {
        self.lanes.iter().map(|queue| queue.messages.len()).sum()
    }

    /// Whether anything waits, be it allowed to leave now or not. Cheaper than a plan that comes to nothing, which
    /// every send would end with.
    #[inline]
    fn has_waiting(&self) -> bool {
        let control = &self.control;
        !control.lengths.is_empty()
            || !control.behind.is_empty()
            || self.lanes.iter().any(|queue| !queue.messages.is_empty())
    }

    /// Bytes that wait.
    pub fn waiting_bytes(&self) -> u64 {
        self.lanes.iter().map(|queue| queue.waiting_bytes).sum()
    }

    /// The next sequence number of a lane: what the peer can have acknowledged at most.
    pub fn next_sequence(&self, lane: Lane) -> u64 {
        self.lanes[lane.index()].next_sequence
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
        announcement: &Announcement,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<usize, PoolError> {
        let mut frames = 0;
        while self.has_waiting()
            && gather.len() < BATCH_BYTES_MAX
            && gather.room() > SEGMENTS_IN_FRAME_MAX + 2
        {
            self.release_control();
            let plan = self.plan(windows);
            if plan.records == 0 {
                break;
            }
            if self.join_scattered(&plan, pool)? {
                continue;
            }
            self.write(&plan, windows, announcement, pool, gather)?;
            frames += 1;
        }
        Ok(frames)
    }

    /// Appends one control frame, even if no record waits: it carries the announcement. False if no slot is left.
    ///
    /// # Errors
    /// As [`Outbox::fill`].
    pub fn fill_keep_alive(
        &mut self,
        windows: &mut Windows,
        announcement: &Announcement,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<bool, PoolError> {
        if windows.frames.available_with_reserve() == 0 || gather.room() < 2 {
            return Ok(false);
        }
        self.write(&Plan::default(), windows, announcement, pool, gather)?;
        Ok(true)
    }

    /// Whether a lane would take another message.
    ///
    /// # Errors
    /// [`OutboxFull`] if not.
    pub fn check_room(&self, lane: Lane) -> Result<(), OutboxFull> {
        let queue = &self.lanes[lane.index()];
        let (messages, bytes) = (queue.messages.len(), queue.waiting_bytes);
        let (messages_max, bytes_max) = (self.messages_max, self.bytes_max);
        if messages >= messages_max || (messages > 0 && bytes >= bytes_max) {
            return Err(OutboxFull { messages, bytes, messages_max, bytes_max });
        }
        Ok(())
    }

    /// Queues the control records that waited for messages which have left.
    fn release_control(&mut self) {
        while let Some(behind) = self.control.behind.pop_front() {
            let has_left = |(lane, &position): (&LaneQueue, &u64)| lane.next_sequence >= position;
            if !self.lanes.iter().zip(&behind.positions).all(has_left) {
                return self.control.behind.push_front(behind);
            }
            self.push_control(&behind.record);
        }
    }

    /// Drops the messages that wait, and the control records that wait for them; the others stay. The connection is
    /// ending.
    pub fn clear(&mut self) {
        self.control.behind.clear();
        for lane in &mut self.lanes {
            lane.messages.clear();
            (lane.waiting_bytes, lane.chunked_bytes) = (0, 0);
        }
    }

    /// Drops everything that waits.
    pub fn clear_all(&mut self) {
        self.clear();
        self.control = ControlQueue::default();
    }

    /// Joins the body that is to travel alone if one gather list cannot name its pieces; true if it did.
    fn join_scattered(&mut self, plan: &Plan, pool: &mut Pool) -> Result<bool, PoolError> {
        let Some(message) = plan.alone.and_then(|lane| self.lanes[lane.index()].messages.front_mut()) else {
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

/// Planning: what goes into the next frame. Changes nothing.
impl Outbox {
    fn plan(&self, windows: &Windows) -> Plan {
        let mut plan = Plan::default();
        if windows.frames.available_with_reserve() == 0 {
            return plan;
        }
        self.plan_control(&mut plan);
        // Where not all control records fit, no shorter message overtakes one: it may need the link that one grants.
        let all_control = plan.control_records == self.control.lengths.len();
        if all_control && windows.frames.available() > 0 {
            for lane in Lane::ALL {
                if self.lanes[lane.index()].messages.is_empty() {
                    continue;
                }
                if !self.plan_lane(lane, windows, &mut plan) {
                    break;
                }
            }
        }
        plan
    }

    fn plan_control(&self, plan: &mut Plan) {
        for &length in &self.control.lengths {
            if plan.records > 0 && !self.has_room(plan, length, length) {
                break;
            }
            plan.control_records += 1;
            plan.control_bytes += length;
            plan.add(length, length);
        }
    }

    /// Plans as much of a lane as fits; false when the frame is complete.
    fn plan_lane(&self, lane: Lane, windows: &Windows, plan: &mut Plan) -> bool {
        let queue = &self.lanes[lane.index()];
        for (index, message) in queue.messages.iter().enumerate() {
            if self.rules.is_bulk(message.body.len() as u64) {
                // Without credit the lane waits, and the others pass.
                let allowed = windows.chunks.available() > 0;
                let alone = allowed && plan.records == 0;
                if alone {
                    plan.alone = Some(lane);
                    plan.records = 1;
                }
                return !allowed;
            }
            let bytes = self.record_bytes(message, FRAME_HEADER_BYTES + plan.record_bytes);
            let written = if leaves_by_reference(&message.body) { bytes - message.body.len() } else { bytes };
            let segments = plan.segments + gather_entries(&message.body);
            let fits = self.has_room(plan, bytes, written) && segments <= SEGMENTS_IN_FRAME_MAX;
            if !fits {
                if plan.records == 0 {
                    plan.alone = Some(lane);
                    plan.records = 1;
                }
                return false;
            }
            plan.shared[lane.index()] = index + 1;
            plan.segments = segments;
            plan.add(bytes, written);
        }
        true
    }

    /// Whether a planned frame has room for a record of so many bytes, of which `written` go into the buffer for heads.
    fn has_room(&self, plan: &Plan, bytes: usize, written: usize) -> bool {
        FRAME_HEADER_BYTES + plan.record_bytes + bytes <= self.rules.packet_bytes
            && plan.written_bytes + written <= HEADS_IN_FRAME_MAX
    }

    /// Bytes of a whole message's record that begins at `offset` of its frame.
    fn record_bytes(&self, message: &Message, offset: usize) -> usize {
        record_aligned(self.head_bytes(message, offset) + message.body.len())
    }

    fn head_bytes(&self, message: &Message, offset: usize) -> usize {
        let needed =
            message.head.head_bytes_needed(message.extensions.as_ref().map_or(0, |bytes| bytes.len()));
        padded_head_bytes(offset, needed, message.body.len(), self.rules.head_bytes_max)
    }
}

/// Writing: the planned frame.
impl Outbox {
    fn write(
        &mut self,
        plan: &Plan,
        windows: &mut Windows,
        announcement: &Announcement,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<(), PoolError> {
        match plan.alone {
            Some(lane) if self.rules.is_bulk(self.first_body_bytes(lane)) => {
                self.write_chunk(lane, windows, announcement, pool, gather)
            }
            Some(lane) => self.write_alone(lane, windows, announcement, pool, gather),
            None => self.write_shared(plan, windows, announcement, pool, gather),
        }
    }

    fn first_body_bytes(&self, lane: Lane) -> u64 {
        self.lanes[lane.index()].messages.front().map_or(0, |message| message.body.len() as u64)
    }

    fn write_shared(
        &mut self,
        plan: &Plan,
        windows: &mut Windows,
        announcement: &Announcement,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<(), PoolError> {
        let mut heads = self.take_heads(FRAME_HEADER_BYTES + plan.written_bytes + LINE_BYTES, pool)?;
        let data = plan.records > plan.control_records;
        let kind = if data { FrameKind::Data } else { FrameKind::Control };
        let header = self.header(kind, plan.records, plan.record_bytes, windows, announcement);
        heads.put_slice(&header.encode());
        heads.put_slice(self.control.first(plan.control_bytes));
        self.control.remove(plan.control_records, plan.control_bytes);
        let mut offset = FRAME_HEADER_BYTES + plan.control_bytes;
        for lane in Lane::ALL {
            for _ in 0..plan.shared[lane.index()] {
                let Some(message) = self.take_first(lane) else { break };
                offset += self.write_whole(&message, lane, offset, &mut heads, gather);
            }
        }
        if data {
            self.stats.packed_frames += 1;
            self.stats.packed_bytes += offset as u64;
        }
        self.finish_frame(&header, heads, gather);
        Ok(())
    }

    fn write_alone(
        &mut self,
        lane: Lane,
        windows: &mut Windows,
        announcement: &Announcement,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<(), PoolError> {
        let Some(message) = self.lanes[lane.index()].messages.front() else { return Ok(()) };
        let record_bytes = self.record_bytes(message, FRAME_HEADER_BYTES);
        let mut heads =
            self.take_heads(self.rules.head_bytes_max + COPY_BREAK_BYTES + 2 * LINE_BYTES, pool)?;
        let header = self.header(FrameKind::Data, 1, record_bytes, windows, announcement);
        heads.put_slice(&header.encode());
        if let Some(message) = self.take_first(lane) {
            self.write_whole(&message, lane, FRAME_HEADER_BYTES, &mut heads, gather);
            self.count_outgrown(record_bytes);
        }
        self.finish_frame(&header, heads, gather);
        Ok(())
    }

    /// Writes a record with its whole body; returns its bytes.
    fn write_whole(
        &mut self,
        message: &Message,
        lane: Lane,
        offset: usize,
        heads: &mut BufferMut,
        gather: &mut GatherList,
    ) -> usize {
        let head_bytes = self.head_bytes(message, offset);
        let head = MessageHead {
            body_bytes: message.body.len() as u32,
            total_body_bytes: message.body.len() as u64,
            lane_sequence: self.take_sequence(lane),
            ..message.head
        };
        write_message_head(&head, message, head_bytes, heads);
        let body_bytes = message.body.len();
        if !leaves_by_reference(&message.body) {
            for segment in message.body.segments() {
                heads.put_slice(segment);
            }
            self.stats.bodies_beside_head += u64::from(body_bytes > 0);
        } else {
            gather.push(heads.split());
            message.body.segments().for_each(|segment| gather.push(segment.clone()));
            self.stats.bodies_by_reference += 1;
        }
        let record_bytes = record_aligned(head_bytes + body_bytes);
        heads.put_zeros(record_bytes - head_bytes - body_bytes);
        self.stats.messages += 1;
        record_bytes
    }

    /// Writes the first message's next chunk, which is its head too if nothing of it has left yet.
    fn write_chunk(
        &mut self,
        lane: Lane,
        windows: &mut Windows,
        announcement: &Announcement,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<(), PoolError> {
        let mut heads = self.take_heads(self.rules.head_bytes_max + 2 * LINE_BYTES, pool)?;
        let queue = &self.lanes[lane.index()];
        let Some(message) = queue.messages.front() else { return Ok(()) };
        let (from, total) = (queue.chunked_bytes, message.body.len());
        let body_bytes = message.body.bytes_in(from, self.rules.chunk_bytes_max, SEGMENTS_IN_FRAME_MAX);
        let head_bytes =
            if from == 0 { self.head_bytes(message, FRAME_HEADER_BYTES) } else { CHUNK_HEAD_BYTES };
        let record_bytes = record_aligned(head_bytes + body_bytes);
        let sequence = queue.next_sequence;
        let header = self.header(FrameKind::Data, 1, record_bytes, windows, announcement);
        heads.put_slice(&header.encode());
        let message = &self.lanes[lane.index()].messages[0];
        if from == 0 {
            let (body_bytes, total_body_bytes) = (body_bytes as u32, total as u64);
            let head = MessageHead { body_bytes, total_body_bytes, lane_sequence: sequence, ..message.head };
            write_message_head(&head, message, head_bytes, &mut heads);
        } else {
            let head = ChunkHead {
                lane,
                last: from + body_bytes == total,
                body_bytes: body_bytes as u32,
                link: message.head.link,
                lane_sequence: sequence,
                body_offset: from as u64,
            };
            // The head has room: the buffer was asked for with more.
            put_encoded(head_bytes, &mut heads, |out| head.encode_into(head_bytes, out).is_ok());
        }
        gather.push(heads.split());
        message.body.slices(from, body_bytes).for_each(|segment| gather.push(segment));
        heads.put_zeros(record_bytes - head_bytes - body_bytes);
        // Planned only with credit.
        windows.chunks.take(1);
        self.stats.chunks += 1;
        self.lanes[lane.index()].chunked_bytes = from + body_bytes;
        if from + body_bytes == total {
            self.finish_bulk(lane);
        }
        self.finish_frame(&header, heads, gather);
        Ok(())
    }

    fn finish_bulk(&mut self, lane: Lane) {
        self.lanes[lane.index()].chunked_bytes = 0;
        let Some(message) = self.take_first(lane) else { return };
        self.take_sequence(lane);
        self.stats.messages += 1;
        self.stats.bodies_by_reference += 1;
        self.count_outgrown(self.record_bytes(&message, FRAME_HEADER_BYTES));
    }

    /// Zeros up to a whole line, and the rest of the frame into the gather list.
    fn finish_frame(&mut self, header: &FrameHeader, mut heads: BufferMut, gather: &mut GatherList) {
        heads.put_zeros(header.padding_bytes() as usize);
        gather.push(heads.split());
        self.heads = Some(heads);
        self.stats.frames += 1;
        self.stats.frame_bytes += u64::from(header.frame_bytes());
    }

    fn header(
        &mut self,
        kind: FrameKind,
        records: usize,
        record_bytes: usize,
        windows: &mut Windows,
        announcement: &Announcement,
    ) -> FrameHeader {
        // Planned only with a slot left; the last `control_slots` of them only for control.
        let number = windows.frames.take_with_reserve(1).unwrap_or_default();
        let ack_lane = Lane::ALL[self.next_ack_lane];
        self.next_ack_lane = (self.next_ack_lane + 1) % LANES;
        FrameHeader {
            kind,
            ack_lane,
            records: records as u16,
            frame_number_low: shorten(number),
            frame_limit_low: shorten(announcement.frame_limit),
            chunk_limit_low: shorten(announcement.chunk_limit),
            record_bytes: record_bytes as u32,
            ack_sequence: announcement.acknowledged[ack_lane.index()],
        }
    }

    /// The buffer for heads, with room for `bytes` more.
    fn take_heads(&mut self, bytes: usize, pool: &mut Pool) -> Result<BufferMut, PoolError> {
        if let Some(mut heads) = self.heads.take()
            && (heads.restart() || heads.spare() >= bytes)
            && heads.spare() >= bytes
        {
            return Ok(heads);
        }
        pool.buffer(bytes.clamp(HEAD_BUFFER_BYTES, BUFFER_BYTES_MAX))
    }

    fn take_first(&mut self, lane: Lane) -> Option<Message> {
        let queue = &mut self.lanes[lane.index()];
        let message = queue.messages.pop_front()?;
        queue.waiting_bytes -= message.charged_bytes();
        Some(message)
    }

    fn take_sequence(&mut self, lane: Lane) -> u64 {
        let queue = &mut self.lanes[lane.index()];
        queue.next_sequence += 1;
        queue.next_sequence - 1
    }

    /// Counts a message that did not share a packet, by the frame that it would fill alone and whole.
    fn count_outgrown(&mut self, record_bytes: usize) {
        let frame_bytes = whole_lines(FRAME_HEADER_BYTES + record_bytes);
        self.stats.outgrew += 1;
        self.stats.outgrew_bytes += frame_bytes.saturating_sub(self.rules.packet_bytes) as u64;
    }
}

impl Plan {
    fn add(&mut self, record_bytes: usize, written_bytes: usize) {
        self.record_bytes += record_bytes;
        self.written_bytes += written_bytes;
        self.records += 1;
    }
}

impl ControlQueue {
    fn first(&self, bytes: usize) -> &[u8] {
        &self.bytes[self.start..self.start + bytes]
    }

    /// Forgets the first records. No byte moves until all are gone, or more than half of the memory is.
    fn remove(&mut self, records: usize, bytes: usize) {
        self.lengths.drain(..records);
        self.start += bytes;
        if self.start * 2 >= self.bytes.len() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    /// Bytes of all that waits.
    fn waiting_bytes(&self) -> usize {
        let behind: usize = self.behind.iter().map(|behind| behind.record.len()).sum();
        self.bytes.len() - self.start + behind
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

fn write_message_head(head: &MessageHead, message: &Message, head_bytes: usize, heads: &mut BufferMut) {
    let extensions = message.extensions.as_deref().unwrap_or(&[]);
    // The plan has made room for exactly this head.
    put_encoded(head_bytes, heads, |out| head.encode_into(extensions, head_bytes, out).is_ok());
}

fn put_encoded(bytes: usize, heads: &mut BufferMut, encode: impl FnOnce(&mut [u8]) -> bool) {
    let at = heads.written().len();
    heads.put_zeros(bytes);
    let fits = encode(&mut heads.written_mut()[at..]);
    debug_assert!(fits, "a head was planned that cannot be written");
}
