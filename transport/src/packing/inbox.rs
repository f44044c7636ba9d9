//! What has arrived, and how messages are cut out of it.

use super::{Descriptor, PackingRules};
use crate::message::Message;
use crate::pool::{BUFFER_BYTES_MAX, Body, Pool, PoolError, Segment, join_short_segments};
use crate::proto::frame::{FrameBudget, FrameHeader, check_padding};
use crate::proto::record::{BodyProgress, ChunkHead, MessageHead, RecordKind, RecordPeek};
use crate::proto::{FRAME_HEADER_BYTES, HEAD_BYTES_MAX, LANES, Lane, Limits, PeerMisbehaved};
use crate::sabotage::{self, Bug};
use std::collections::VecDeque;
use thiserror::Error;

/// So many segments may wait for the rest of a frame, or for the last chunk of a message, before those that are short
/// are joined. A peer that sends a byte at a time would else keep a receive buffer alive with each of them.
const SEGMENTS_BEFORE_JOINING: usize = 256;

/// Shorter segments are joined then. With the usual receive buffers of 16 KiB they keep less than a quarter alive.
const SHORT_BELOW_BYTES: usize = 4096;

/// Takes segments as they arrive and gives the frames' content, in order.
///
/// A frame is looked at when all of it is there, so what it holds is bounded by `frame_bytes_max` for the frame and
/// `message_bytes_max` for each lane's unfinished bulk message. Bodies are slices of the segments that arrived, unless
/// these were so short that they had to be joined, which is counted at the pool.
#[derive(Debug)]
pub struct Inbox {
    limits: Limits,
    rules: PackingRules,
    segments: VecDeque<Segment>,
    /// Bytes in `segments`.
    available: usize,
    /// So many segments wait before short ones are joined.
    join_at_segments: usize,
    /// The frame that is being taken apart.
    frame: Option<OpenFrame>,
    unfinished: [Option<Unfinished>; LANES],
    /// Heads that lie across two segments, and control records.
    scratch: Vec<u8>,
    /// Where the body is that was offered last.
    descriptor: Descriptor,
}

#[derive(Debug)]
struct OpenFrame {
    budget: FrameBudget,
    padding_bytes: usize,
    /// Where in the frame the next record begins, for reports.
    offset: u32,
}

/// A bulk message of which chunks are missing.
#[derive(Debug)]
struct Unfinished {
    message: Message,
    progress: BodyProgress,
    /// Its body has so many segments before short ones are joined.
    join_at_segments: usize,
}

/// A piece of what arrived.
#[derive(Debug)]
pub enum Parsed {
    /// A frame begins; all of it is there.
    Frame(FrameHeader),
    /// A control record: [`Inbox::control_record`] has its bytes until the next call.
    Control,
    /// A whole message has arrived.
    Message {
        /// Its body took chunk credit.
        is_bulk: bool,
        /// It began in an earlier record, which was reported as [`Parsed::Part`].
        had_begun: bool,
    },
    /// A message has arrived whose body is not here but offered for a one-sided read: [`Inbox::descriptor`] says where,
    /// until the next call. Its head says how long it is, and no more that it was offered.
    Offer,
    /// A part of a bulk message, which takes chunk credit.
    Part {
        /// The lane of the message, if it begins here: [`Inbox::unfinished_head`] is its head.
        begins: Option<Lane>,
        /// Bytes that are still missing.
        missing_bytes: u64,
    },
    /// The frame is done with; its slot can be used again.
    FrameEnd,
}

/// Why nothing more can be taken out of an inbox.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum InboxError {
    /// The peer broke the protocol: the connection is over.
    #[error(transparent)]
    Peer(#[from] PeerMisbehaved),
    /// The pool is empty: try again when buffers have come back. Nothing was lost.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// What [`Inbox::next`] finds. What finds a record says it in the same words, so that nothing is moved from one into the
/// other.
type Next = Result<Option<Parsed>, InboxError>;

impl Inbox {
    /// An empty inbox.
    pub fn new(rules: PackingRules, limits: Limits) -> Self {
        Self {
            limits,
            rules,
            segments: VecDeque::new(),
            available: 0,
            join_at_segments: SEGMENTS_BEFORE_JOINING,
            frame: None,
            unfinished: Default::default(),
            scratch: Vec::with_capacity(HEAD_BYTES_MAX),
            descriptor: Descriptor::new(),
        }
    }

    /// Takes bytes that arrived.
    #[inline]
    pub fn push(&mut self, segment: Segment) {
        self.available += segment.len();
        if !self.segments.back_mut().is_some_and(|last| last.try_join(&segment)) {
            self.segments.push_back(segment);
        }
    }

    /// True while a part of a frame has arrived and the rest has not.
    pub fn is_mid_frame(&self) -> bool {
        self.frame.is_none() && self.available > 0
    }

    /// True while chunks of a bulk message are missing.
    pub fn has_unfinished(&self) -> bool {
        self.unfinished.iter().any(Option::is_some)
    }

    /// The next piece, or `None` until more has arrived. A message is written to `arrived`, at its place: it is long,
    /// and whoever hands a result on would move it once more.
    ///
    /// # Errors
    /// [`InboxError::Peer`] ends it for good; after [`InboxError::Pool`] the same call may succeed later.
    #[inline(always)] // into the one loop that matters: its results are long, and are looked at right there
    pub fn next(&mut self, pool: &mut Pool, arrived: &mut Option<Message>) -> Next {
        match &self.frame {
            None if self.available < FRAME_HEADER_BYTES => Ok(None),
            None => Ok(self.begin_frame(pool)?.map(Parsed::Frame)),
            Some(frame) if frame.budget.records_left() == 0 => {
                self.end_frame()?;
                Ok(Some(Parsed::FrameEnd))
            }
            Some(_) => {
                let taken = self.take_record(pool, arrived);
                if let Err(InboxError::Pool(PoolError::TooManySegments { .. })) = taken {
                    return self.join_and_take_record(pool, arrived);
                }
                taken
            }
        }
    }

    #[cold]
    fn join_and_take_record(&mut self, pool: &mut Pool, arrived: &mut Option<Message>) -> Next {
        self.join_all(pool)?;
        self.take_record(pool, arrived)
    }

    /// Makes bodies nameable that arrived in more pieces than a list can hold.
    fn join_all(&mut self, pool: &mut Pool) -> Result<(), PoolError> {
        join_short_segments(&mut self.segments, BUFFER_BYTES_MAX / 2, pool);
        for unfinished in self.unfinished.iter_mut().flatten() {
            unfinished.message.body.join_short(BUFFER_BYTES_MAX / 2, pool)?;
        }
        Ok(())
    }

    /// The bytes of the control record that was reported last.
    pub fn control_record(&self) -> &[u8] {
        &self.scratch
    }

    /// The head of a lane's bulk message of which chunks are missing.
    pub fn unfinished_head(&self, lane: Lane) -> Option<&MessageHead> {
        self.unfinished[lane.index()].as_ref().map(|unfinished| &unfinished.message.head)
    }

    /// Where the body can be read that was reported last as offered.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    #[inline(always)] // as `next`
    fn begin_frame(&mut self, pool: &mut Pool) -> Result<Option<FrameHeader>, PeerMisbehaved> {
        if self.available < FRAME_HEADER_BYTES {
            return Ok(None);
        }
        let limits = self.limits;
        let Some(bytes) = self.peek(FRAME_HEADER_BYTES).first_chunk() else { return Ok(None) };
        let header = FrameHeader::parse(bytes, &limits)?;
        if self.available < header.frame_bytes() as usize {
            self.join_waiting(pool);
            return Ok(None);
        }
        self.join_at_segments = SEGMENTS_BEFORE_JOINING;
        self.consume(FRAME_HEADER_BYTES);
        sabotage::strikes_below(Bug::TrustLaneOrder, None);
        let budget = FrameBudget::new(&header);
        let padding_bytes = header.padding_bytes() as usize;
        self.frame = Some(OpenFrame { budget, padding_bytes, offset: FRAME_HEADER_BYTES as u32 });
        Ok(Some(header))
    }

    /// Joins short segments while a frame is awaited and many wait; what the pool has no room for stays as it is.
    #[cold]
    #[inline(never)]
    fn join_waiting(&mut self, pool: &mut Pool) {
        if self.segments.len() >= self.join_at_segments {
            join_short_segments(&mut self.segments, SHORT_BELOW_BYTES, pool);
            // Twice as many where joining did not help, so that it stays cheap when it cannot.
            self.join_at_segments = SEGMENTS_BEFORE_JOINING.max(2 * self.segments.len());
        }
    }

    #[inline]
    fn end_frame(&mut self) -> Result<(), PeerMisbehaved> {
        let Some(frame) = self.frame.take() else { return Ok(()) };
        if frame.padding_bytes > 0 {
            check_padding(self.peek(frame.padding_bytes), frame.offset)?;
            self.consume(frame.padding_bytes);
        }
        Ok(())
    }

    #[inline]
    fn take_record(&mut self, pool: &mut Pool, arrived: &mut Option<Message>) -> Next {
        const PEEK_BYTES: u32 = 8;
        let limits = self.limits;
        let Some(frame) = &self.frame else { return Ok(Some(Parsed::FrameEnd)) };
        let budget = frame.budget;
        // The records before may have used up what the header's check left for this one.
        let left = budget.bytes_left();
        if left < PEEK_BYTES {
            return Err(PeerMisbehaved::RecordPastFrame { bytes: PEEK_BYTES.into(), left }.into());
        }
        // The whole frame is there.
        let first = self.peek(PEEK_BYTES as usize).first_chunk().copied().unwrap_or_default();
        let peek = RecordPeek::parse(&first, &limits)?;
        budget.check_head(&peek)?;
        match peek.kind {
            RecordKind::Control(_) => self.take_control(peek.head_bytes, budget),
            RecordKind::Chunk => self.take_chunk(peek.head_bytes, budget, pool, arrived),
            RecordKind::Message(_) => match self.take_in_one_piece(peek, budget, arrived)? {
                None => self.take_message(peek.head_bytes, budget, pool, arrived),
                taken => Ok(taken),
            },
        }
    }

    #[inline(never)]
    fn take_control(&mut self, bytes: u16, mut budget: FrameBudget) -> Next {
        budget.take(bytes, 0)?;
        self.copy_to_scratch(bytes.into());
        self.finish_record(budget, bytes, 0, 0)?;
        Ok(Some(Parsed::Control))
    }

    /// A whole message that lies in the first segment, as nearly all do. `None`, and nothing is taken, of any other.
    #[inline(always)] // as `next`
    fn take_in_one_piece(
        &mut self,
        peek: RecordPeek,
        mut budget: FrameBudget,
        arrived: &mut Option<Message>,
    ) -> Result<Option<Parsed>, PeerMisbehaved> {
        let head_bytes = peek.head_bytes;
        let (Some(front), Some(frame)) = (self.segments.front_mut(), &mut self.frame) else {
            return Ok(None);
        };
        // The last record of a frame is all that is left of it.
        if budget.records_left() == 1 && front.len() < budget.bytes_left() as usize {
            return Ok(None);
        }
        let Some(bytes) = front.get(..head_bytes.into()) else { return Ok(None) };
        let (mut head, extensions) = MessageHead::parse_peeked(peek, bytes, &self.limits)?;
        if head.offered || head.more() || self.unfinished[head.lane.index()].is_some() {
            return Ok(None);
        }
        let padding = budget.take(head_bytes, head.body_bytes)?;
        let body_at = usize::from(head_bytes);
        let padding_at = body_at + head.body_bytes as usize;
        let end = padding_at + padding;
        if front.len() < end {
            return Ok(None);
        }
        let offset = frame.offset + padding_at as u32;
        if padding > 0 {
            check_padding(&front[padding_at..end], offset)?;
        }
        let extensions_at = head.extensions_at();
        let extensions_at = extensions_at..extensions_at + extensions.as_bytes().len();
        let extensions = (!extensions_at.is_empty()).then(|| front.slice(extensions_at));
        let body =
            if padding_at > body_at { Body::from(front.slice(body_at..padding_at)) } else { Body::new() };
        frame.budget = budget;
        frame.offset = offset + padding as u32;
        self.available -= end;
        if front.len() == end {
            self.segments.pop_front();
        } else {
            front.advance(end);
        }
        if sabotage::strikes_below(Bug::TrustLaneOrder, Some(head.lane.index())) {
            head.lane = Lane::Bulk;
        }
        let is_bulk = self.rules.is_bulk(head.total_body_bytes);
        *arrived = Some(Message { head, extensions, body, position: 0 });
        Ok(Some(Parsed::Message { is_bulk, had_begun: false }))
    }

    /// A message that is longer, or lies in pieces.
    #[inline(never)]
    fn take_message(
        &mut self,
        head_bytes: u16,
        budget: FrameBudget,
        pool: &mut Pool,
        arrived: &mut Option<Message>,
    ) -> Next {
        let limits = self.limits;
        let (mut head, extensions) = MessageHead::parse(self.peek(head_bytes.into()), &limits)?;
        let lane = head.lane;
        if head.offered {
            return self.take_offer(head_bytes, budget, pool, arrived);
        }
        let extensions_at = head.extensions_at()..head.extensions_at() + extensions.as_bytes().len();
        if self.unfinished[lane.index()].is_some() {
            return Err(PeerMisbehaved::MessageBetweenChunks { lane }.into());
        }
        let mut after = budget;
        let padding = after.take(head_bytes, head.body_bytes)?;
        let body = self.body_at(head_bytes.into(), head.body_bytes as usize, pool)?;
        let extensions = self.cut_extensions(head_bytes.into(), extensions_at, pool)?;
        self.finish_record(after, head_bytes, head.body_bytes, padding)?;
        if sabotage::strikes_below(Bug::TrustLaneOrder, Some(lane.index())) {
            head.lane = Lane::Bulk;
        }
        let is_bulk = self.rules.is_bulk(head.total_body_bytes);
        if !head.more() {
            *arrived = Some(Message { head, extensions, body, position: 0 });
            return Ok(Some(Parsed::Message { is_bulk, had_begun: false }));
        }
        let message = Message { head, extensions, body, position: 0 };
        let progress = BodyProgress::new(head.body_bytes.into(), head.total_body_bytes);
        let missing_bytes = head.total_body_bytes - progress.received();
        self.unfinished[lane.index()] =
            Some(Unfinished { message, progress, join_at_segments: SEGMENTS_BEFORE_JOINING });
        Ok(Some(Parsed::Part { begins: Some(lane), missing_bytes }))
    }

    /// A message whose body is offered. What only concerns this connection is taken out of its head.
    #[inline(never)] // rare, and no business of the others
    fn take_offer(
        &mut self,
        head_bytes: u16,
        budget: FrameBudget,
        pool: &mut Pool,
        arrived: &mut Option<Message>,
    ) -> Next {
        let limits = self.limits;
        let (head, extensions) = MessageHead::parse(self.peek(head_bytes.into()), &limits)?;
        let mut descriptor = Descriptor::new();
        // Parsed, so it is there and fits.
        let _ = descriptor.try_extend_from_slice(extensions.offer().unwrap_or_default());
        let at = head.extensions_at();
        let extensions_at = at..at + extensions.without_offer().as_bytes().len();
        if self.unfinished[head.lane.index()].is_some() {
            return Err(PeerMisbehaved::MessageBetweenChunks { lane: head.lane }.into());
        }
        let mut after = budget;
        let padding = after.take(head_bytes, 0)?;
        let extensions = self.cut_extensions(head_bytes.into(), extensions_at, pool)?;
        self.finish_record(after, head_bytes, 0, padding)?;
        self.descriptor = descriptor;
        let head = MessageHead { offered: false, ..head };
        *arrived = Some(Message { head, extensions, body: Body::new(), position: 0 });
        Ok(Some(Parsed::Offer))
    }

    #[inline(never)]
    fn take_chunk(
        &mut self,
        head_bytes: u16,
        budget: FrameBudget,
        pool: &mut Pool,
        arrived: &mut Option<Message>,
    ) -> Next {
        let limits = self.limits;
        let chunk = ChunkHead::parse(self.peek(head_bytes.into()), &limits)?;
        let mut after = budget;
        let padding = after.take(head_bytes, chunk.body_bytes)?;
        let body = self.body_at(head_bytes.into(), chunk.body_bytes as usize, pool)?;
        let complete = self.append_chunk(&chunk, &body, pool)?;
        self.finish_record(after, head_bytes, chunk.body_bytes, padding)?;
        let slot = &mut self.unfinished[chunk.lane.index()];
        match slot.take_if(|_| complete) {
            Some(Unfinished { message, .. }) => {
                *arrived = Some(message);
                Ok(Some(Parsed::Message { is_bulk: true, had_begun: true }))
            }
            None => {
                let missing = |unfinished: &Unfinished| {
                    unfinished.message.head.total_body_bytes - unfinished.progress.received()
                };
                Ok(Some(Parsed::Part { begins: None, missing_bytes: slot.as_ref().map_or(0, missing) }))
            }
        }
    }

    /// Appends a chunk to the message that it continues; says whether that is complete.
    fn append_chunk(&mut self, chunk: &ChunkHead, body: &Body, pool: &mut Pool) -> Result<bool, InboxError> {
        let lane = chunk.lane;
        let Some(unfinished) = &mut self.unfinished[lane.index()] else {
            return Err(PeerMisbehaved::ChunkWithoutMessage { lane }.into());
        };
        let head = &unfinished.message.head;
        if chunk.lane_sequence != head.lane_sequence || chunk.link != head.link {
            return Err(PeerMisbehaved::ChunkOfAnother {
                lane,
                expected: head.lane_sequence,
                found: chunk.lane_sequence,
            }
            .into());
        }
        let mut progress = unfinished.progress;
        let complete = progress.accept(chunk)?;
        unfinished.join_if_sparse(pool)?;
        unfinished.message.body.append(body, pool)?;
        unfinished.progress = progress;
        Ok(complete)
    }

    /// The bytes of a body that lies `skip` bytes ahead.
    #[inline]
    fn body_at(&self, skip: usize, bytes: usize, pool: &mut Pool) -> Result<Body, PoolError> {
        match self.segments.front() {
            // As it mostly is: a receive buffer holds many short messages.
            Some(front) if front.len() >= skip + bytes => Ok(Body::from(front.slice(skip..skip + bytes))),
            _ => self.body_across(skip, bytes, pool),
        }
    }

    /// As [`Inbox::body_at`], of a body that does not lie in the first segment.
    fn body_across(&self, skip: usize, bytes: usize, pool: &mut Pool) -> Result<Body, PoolError> {
        let mut body = Body::new();
        let (mut skip, mut rest) = (skip, bytes);
        for segment in &self.segments {
            let start = skip.min(segment.len());
            let end = segment.len().min(start + rest);
            if end > start {
                body.push(segment.slice(start..end), pool)?;
            }
            (skip, rest) = (skip - start, rest - (end - start));
            if rest == 0 {
                break;
            }
        }
        Ok(body)
    }

    /// The extensions of the head that comes next, as a segment.
    fn cut_extensions(
        &mut self,
        head_bytes: usize,
        at: std::ops::Range<usize>,
        pool: &mut Pool,
    ) -> Result<Option<Segment>, PoolError> {
        if at.is_empty() {
            return Ok(None);
        }
        if let Some(front) = self.segments.front().filter(|front| front.len() >= at.end) {
            return Ok(Some(front.slice(at)));
        }
        let mut buffer = pool.buffer(at.len())?;
        buffer.put_slice(&self.peek(head_bytes)[at]);
        Ok(Some(buffer.split()))
    }

    /// Lets go of a record, and of the zeros behind it.
    fn finish_record(
        &mut self,
        budget: FrameBudget,
        head_bytes: u16,
        body_bytes: u32,
        padding: usize,
    ) -> Result<(), PeerMisbehaved> {
        self.consume(usize::from(head_bytes) + body_bytes as usize);
        let Some(frame) = &mut self.frame else { return Ok(()) };
        frame.budget = budget;
        frame.offset += u32::from(head_bytes) + body_bytes;
        let offset = frame.offset;
        frame.offset += padding as u32;
        if padding > 0 {
            check_padding(self.peek(padding), offset)?;
            self.consume(padding);
        }
        Ok(())
    }

    /// The next bytes in one piece, copied only if they lie across segments. There must be so many.
    #[inline]
    fn peek(&mut self, bytes: usize) -> &[u8] {
        if self.segments.front().is_none_or(|front| front.len() < bytes) {
            self.copy_to_scratch(bytes);
            return &self.scratch;
        }
        &self.segments[0][..bytes]
    }

    #[cold]
    #[inline(never)]
    fn copy_to_scratch(&mut self, bytes: usize) {
        self.scratch.clear();
        for segment in &self.segments {
            let missing = bytes - self.scratch.len();
            if missing == 0 {
                break;
            }
            self.scratch.extend_from_slice(&segment[..segment.len().min(missing)]);
        }
    }

    #[inline]
    fn consume(&mut self, bytes: usize) {
        self.available -= bytes;
        let mut rest = bytes;
        while rest > 0 {
            let Some(front) = self.segments.front_mut() else { return };
            if front.len() > rest {
                front.advance(rest);
                return;
            }
            rest -= front.len();
            self.segments.pop_front();
        }
    }
}

impl Unfinished {
    /// Joins short segments if there are many and they keep less than a quarter of their buffers alive.
    fn join_if_sparse(&mut self, pool: &mut Pool) -> Result<(), PoolError> {
        let body = &mut self.message.body;
        if body.segment_count() >= self.join_at_segments {
            if body.held_bytes() > 4 * body.len() {
                body.join_short(SHORT_BELOW_BYTES, pool)?;
            }
            self.join_at_segments = SEGMENTS_BEFORE_JOINING.max(2 * body.segment_count());
        }
        Ok(())
    }
}
