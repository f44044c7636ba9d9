//! An outbox and, beside it, queues of what was pushed. Every frame that leaves is read by the protocol's own parser
//! and compared with what may leave at that moment.

use super::pieces::{Spec, numbered};
use crate::message::Message;
use crate::packing::{Announcement, Offers, Outbox, PackingRules, PackingStats, Windows};
use crate::pool::{COPY_BREAK_BYTES, GatherList, Pool};
use crate::proto::credit::SendWindow;
use crate::proto::extension::Extensions;
use crate::proto::frame::{FrameHeader, FrameKind, Records};
use crate::proto::record::{ChunkHead, MessageHead, Record};
use crate::proto::serial::{Received, shorten};
use crate::proto::{
    FRAME_HEADER_BYTES, LANES, LINE_BYTES, Lane, Limits, Parameters, record_aligned, whole_lines,
};
use crate::proto::{PeerMisbehaved, Stream};
use std::collections::VecDeque;

/// A message as it was pushed.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) head: MessageHead,
    pub(super) extensions: Vec<u8>,
    pub(super) body: Vec<u8>,
    /// Address and length of the body's segments.
    places: Vec<(usize, usize)>,
}

impl Expected {
    fn of(message: &Message) -> Self {
        Self {
            head: message.head,
            extensions: message.extensions().as_bytes().to_vec(),
            body: message.body.to_vec(),
            places: message.body.segments().map(|part| (part.as_ptr() as usize, part.len())).collect(),
        }
    }

    /// Bytes of header and record if it travelled whole and alone: worked out here from the rules as they are written.
    fn whole_bytes(&self, rules: &PackingRules) -> usize {
        let head_bytes = self.head.extensions_at() + self.extensions.len();
        let aligned = whole_lines(FRAME_HEADER_BYTES + head_bytes) - FRAME_HEADER_BYTES;
        let worth_it = self.body.len() >= 1024 && aligned <= rules.head_bytes_max;
        let head_bytes = if worth_it { aligned } else { record_aligned(head_bytes) };
        FRAME_HEADER_BYTES + record_aligned(head_bytes + self.body.len())
    }

    fn fits_packet(&self, rules: &PackingRules) -> bool {
        whole_lines(self.whole_bytes(rules)) <= rules.packet_bytes
    }

    /// The head as it arrives.
    pub(super) fn head_with(&self, lane_sequence: u64, body_bytes: u32) -> MessageHead {
        MessageHead { lane_sequence, body_bytes, total_body_bytes: self.body.len() as u64, ..self.head }
    }
}

/// What every frame says of the receiving side.
#[derive(Debug, Clone, Default)]
pub(super) struct Says {
    pub(super) frame_limit: u64,
    pub(super) chunk_limit: u64,
    pub(super) received: Received,
}

impl Says {
    pub(super) fn announcement(&mut self) -> Announcement<'_> {
        let Self { frame_limit, chunk_limit, received } = self;
        Announcement { frame_limit: *frame_limit, chunk_limit: *chunk_limit, received }
    }
}

pub(super) struct Sender {
    parameters: Parameters,
    limits: Limits,
    pub(super) rules: PackingRules,
    pub(super) outbox: Outbox,
    pub(super) windows: Windows,
    pub(super) says: Says,
    /// What the frames that are looked at shall say, one after the other.
    expected: Says,
    gather: GatherList,
    /// What waits, by lane.
    queues: [VecDeque<Expected>; LANES],
    controls: VecDeque<Vec<u8>>,
    /// How much of each lane's first body has left in chunks.
    chunked: [usize; LANES],
    sequences: [u64; LANES],
    numbers: u64,
    /// All bytes that left.
    pub(super) stream: Vec<u8>,
    pub(super) frames: u64,
    pub(super) chunks: u64,
    /// What left whole, by lane, and all control records in order.
    pub(super) sent: [Vec<Expected>; LANES],
    pub(super) sent_controls: Vec<Vec<u8>>,
    pub(super) stats: PackingStats,
}

impl Sender {
    pub(super) fn announce(&mut self, says: Says) {
        (self.says, self.expected) = (says.clone(), says);
    }

    pub(super) fn new(parameters: Parameters, frame_limit: u64) -> Self {
        let rules = PackingRules::new(&parameters);
        assert!(rules.packet_bytes <= parameters.packet_bytes as usize);
        let frames = SendWindow::new(frame_limit, parameters.control_slots.into());
        Self {
            parameters,
            limits: parameters.limits(),
            rules,
            outbox: Outbox::new(rules, 10_000, u64::MAX),
            windows: Windows { frames, chunks: SendWindow::new(2, 0), offers: Offers::default() },
            says: Says::default(),
            expected: Says::default(),
            gather: GatherList::new(),
            queues: Default::default(),
            controls: VecDeque::new(),
            chunked: [0; LANES],
            sequences: [0; LANES],
            numbers: 0,
            stream: Vec::new(),
            frames: 0,
            chunks: 0,
            sent: Default::default(),
            sent_controls: Vec::new(),
            stats: PackingStats::default(),
        }
    }

    pub(super) fn push(&mut self, spec: &Spec, pool: &mut Pool) {
        self.numbers += 1;
        let mut message = spec.build(&self.rules, self.numbers, pool);
        if !self.outbox.takes_as_it_is(&message.body) {
            message.body.join(pool).unwrap();
        }
        self.queues[spec.lane.index()].push_back(Expected::of(&message));
        self.outbox.push(message).unwrap();
    }

    /// A control record of this many bytes, of a kind that nobody has to understand.
    pub(super) fn push_control(&mut self, bytes: usize) {
        self.numbers += 1;
        let mut record = numbered(bytes, self.numbers);
        record[..8].copy_from_slice(&[0x7e, 0, 0, 0, bytes as u8, (bytes >> 8) as u8, 0, 0]);
        self.outbox.push_control(&record);
        self.controls.push_back(record);
    }

    pub(super) fn grant_frames(&mut self, more: u64) {
        self.windows.frames.grant(self.windows.frames.limit() + more);
    }

    /// Acknowledges all but `2 - free` chunks.
    pub(super) fn grant_chunks(&mut self, free: u64) {
        self.windows.chunks.grant(self.chunks + free);
    }

    pub(super) fn keep_alive(&mut self, pool: &mut Pool) {
        let due = self.windows.frames.available_with_reserve() > 0;
        let (windows, mut says) = (&mut self.windows, self.says.announcement());
        let sent = self.outbox.fill_keep_alive(windows, &mut says, pool, &mut self.gather).unwrap();
        assert_eq!(sent, due);
        self.take_batch();
    }

    /// Fills until nothing more may leave, and checks that nothing waits without a reason.
    pub(super) fn fill(&mut self, pool: &mut Pool) {
        while self.fill_once(pool) > 0 {}
        let frames = self.windows.frames;
        assert!(self.controls.is_empty() || frames.available_with_reserve() == 0);
        for lane in Lane::ALL {
            assert!(self.is_held_up(lane) || frames.available() == 0, "{lane:?} waits for nothing");
        }
    }

    pub(super) fn fill_once(&mut self, pool: &mut Pool) -> usize {
        let (windows, mut says) = (&mut self.windows, self.says.announcement());
        let frames = self.outbox.fill(windows, &mut says, pool, &mut self.gather).unwrap();
        let before = self.frames;
        self.take_batch();
        assert_eq!(self.frames, before + frames as u64);
        frames
    }

    /// Nothing waits in the lane, or its first message is bulk and may not go on.
    fn is_held_up(&self, lane: Lane) -> bool {
        self.queues[lane.index()].front().is_none_or(|first| self.is_bulk(first) && !self.may_send_chunk())
    }

    fn is_bulk(&self, message: &Expected) -> bool {
        self.rules.is_bulk(message.body.len() as u64)
    }

    fn may_send_chunk(&self) -> bool {
        self.chunks < self.windows.chunks.limit()
    }

    fn take_batch(&mut self) {
        let gather = std::mem::take(&mut self.gather);
        let mut at = self.stream.len();
        let mut batch = Batch { first: at, places: Vec::new() };
        for segment in gather.segments() {
            batch.places.push((at, segment.as_ptr() as usize, segment.len()));
            self.stream.extend_from_slice(segment);
            at += segment.len();
        }
        let stream = std::mem::take(&mut self.stream);
        let mut rest = batch.first;
        while rest < stream.len() {
            let frame_bytes = u32::from_le_bytes(stream[rest..rest + 4].try_into().unwrap()) as usize;
            self.check_frame(&stream[rest..rest + frame_bytes], rest, &batch);
            rest += frame_bytes;
        }
        self.stream = stream;
        assert_eq!(self.outbox.stats(), self.stats);
        assert_eq!(self.outbox.waiting_messages(), self.queues.iter().map(VecDeque::len).sum::<usize>());
        assert_eq!(self.outbox.waiting_control(), self.controls.len());
        for lane in Lane::ALL {
            let (sent, stream) = (self.sequences[lane.index()], Stream::Lane(lane));
            let unsent = PeerMisbehaved::AcknowledgedUnsent { stream, found: sent + 1, limit: sent };
            assert_eq!(self.outbox.acknowledge(stream, sent + 1), Err(unsent));
        }
    }

    fn check_frame(&mut self, frame: &[u8], at: usize, batch: &Batch) {
        let (header, records) = Records::parse(frame, &self.limits).unwrap();
        self.check_header(&header, frame.len());
        let mut in_frame = FRAME_HEADER_BYTES;
        let mut alone = false;
        for record in records {
            let (record, body) = record.unwrap();
            let head_bytes = usize::from(u16::from_le_bytes([frame[in_frame + 4], frame[in_frame + 5]]));
            let body_at = in_frame + head_bytes;
            match record {
                Record::Message(head, extensions) => {
                    self.check_line(body_at, head_bytes, &head);
                    alone |= self.take_message(&head, extensions, body, at + body_at, batch);
                }
                Record::Chunk(chunk) => {
                    self.take_chunk(&chunk, body, at + body_at, batch);
                    alone = true;
                }
                Record::Unknown(_) => {
                    let control = self.controls.pop_front().unwrap();
                    assert_eq!(control, frame[in_frame..body_at]);
                    self.sent_controls.push(control);
                }
                Record::Control(control) => panic!("{control:?} was never pushed"),
            }
            in_frame = record_aligned(body_at + body.len());
        }
        assert!(!alone || header.records == 1, "what outgrows the packet travels alone");
        if header.kind == FrameKind::Data && !alone {
            assert!(
                frame.len() <= self.parameters.packet_bytes as usize,
                "{header:?} is longer than a packet"
            );
            self.stats.packed_frames += 1;
            self.stats.packed_bytes += FRAME_HEADER_BYTES as u64 + u64::from(header.record_bytes);
        }
    }

    fn check_header(&mut self, header: &FrameHeader, frame_bytes: usize) {
        let frames = self.windows.frames;
        assert_eq!(header.frame_number_low, shorten(self.frames));
        assert!(self.frames < frames.limit());
        let reserved = u64::from(self.parameters.control_slots);
        assert!(header.kind == FrameKind::Control || self.frames < frames.limit() - reserved);
        assert!(
            frame_bytes.is_multiple_of(LINE_BYTES) && frame_bytes <= self.limits.frame_bytes_max as usize
        );
        assert_eq!(header.frame_limit_low, shorten(self.expected.frame_limit));
        assert_eq!(header.chunk_limit_low, shorten(self.expected.chunk_limit));
        let told = self.expected.received.tell();
        assert_eq!((header.ack_stream, header.ack_sequence), told, "each in turn, those with news first");
        self.frames += 1;
        self.stats.frames += 1;
        self.stats.frame_bytes += frame_bytes as u64;
    }

    /// A body that is worth it begins at a whole line, unless the head may not be that long.
    fn check_line(&self, body_at: usize, head_bytes: usize, head: &MessageHead) {
        let aligned = body_at.is_multiple_of(LINE_BYTES);
        assert!(head_bytes <= self.rules.head_bytes_max);
        let too_long = head_bytes + LINE_BYTES > self.rules.head_bytes_max;
        assert!(aligned || head.total_body_bytes < 1024 || too_long, "{head:?} at {body_at}");
    }

    /// Takes a message's record; says whether it must have its frame to itself.
    fn take_message(
        &mut self,
        head: &MessageHead,
        extensions: Extensions<'_>,
        body: &[u8],
        at: usize,
        batch: &Batch,
    ) -> bool {
        self.check_turn(head.lane);
        let lane = head.lane.index();
        assert_eq!(self.chunked[lane], 0, "a message between chunks");
        let expected = self.queues[lane].front().unwrap();
        assert_eq!(*head, expected.head_with(self.sequences[lane], body.len() as u32));
        assert_eq!(extensions.as_bytes(), expected.extensions);
        assert_eq!(body, &expected.body[..body.len()]);
        let fits = expected.fits_packet(&self.rules);
        if self.is_bulk(expected) {
            assert!(!fits, "what fits a packet is no bulk");
            self.take_part(head.lane, body.len(), at, batch);
            return true;
        }
        assert!(!head.more());
        if body.len() >= COPY_BREAK_BYTES {
            batch.check_by_reference(at, &expected.places, 0, body.len());
            self.stats.bodies_by_reference += 1;
        } else if !body.is_empty() {
            self.stats.bodies_beside_head += 1;
        }
        self.finish_message(lane);
        !fits
    }

    fn take_chunk(&mut self, chunk: &ChunkHead, body: &[u8], at: usize, batch: &Batch) {
        self.check_turn(chunk.lane);
        let lane = chunk.lane.index();
        let (from, sequence) = (self.chunked[lane], self.sequences[lane]);
        let expected = self.queues[lane].front().unwrap();
        let end = from + body.len();
        assert!(from > 0 && (chunk.body_offset, chunk.lane_sequence) == (from as u64, sequence));
        assert_eq!((chunk.link, chunk.last), (expected.head.link, end == expected.body.len()));
        assert_eq!(body, &expected.body[from..end]);
        assert!(at.is_multiple_of(LINE_BYTES));
        self.take_part(chunk.lane, body.len(), at, batch);
    }

    /// Takes a part of a bulk message.
    fn take_part(&mut self, lane: Lane, bytes: usize, at: usize, batch: &Batch) {
        assert!(self.may_send_chunk(), "a chunk without credit");
        assert!(bytes <= self.rules.chunk_bytes_max);
        let lane = lane.index();
        let expected = &self.queues[lane][0];
        batch.check_by_reference(at, &expected.places, self.chunked[lane], bytes);
        let few_pieces = expected.places.len() < 100;
        let complete = self.chunked[lane] + bytes == expected.body.len();
        assert!(complete || !few_pieces || bytes == self.rules.chunk_bytes_max, "a chunk of {bytes}");
        self.chunks += 1;
        self.stats.chunks += 1;
        self.chunked[lane] += bytes;
        if complete {
            self.chunked[lane] = 0;
            self.stats.bodies_by_reference += 1;
            self.finish_message(lane);
        }
    }

    fn finish_message(&mut self, lane: usize) {
        let Some(message) = self.queues[lane].pop_front() else { return };
        self.stats.messages += 1;
        if !message.fits_packet(&self.rules) {
            self.stats.outgrew += 1;
            let past = whole_lines(message.whole_bytes(&self.rules)) - self.rules.packet_bytes;
            self.stats.outgrew_bytes += past as u64;
        }
        self.sequences[lane] += 1;
        self.sent[lane].push(message);
    }

    /// Whatever leaves of a lane, nothing of a more urgent one could have left instead.
    fn check_turn(&self, lane: Lane) {
        for urgent in Lane::ALL.into_iter().take_while(|&urgent| urgent < lane) {
            assert!(self.is_held_up(urgent), "{lane:?} before {urgent:?}");
        }
    }
}

/// Where the bytes of one gather list lie: their place in the stream, their address, their number.
struct Batch {
    first: usize,
    places: Vec<(usize, usize, usize)>,
}

impl Batch {
    fn address_of(&self, at: usize) -> usize {
        let place = self.places.partition_point(|&(first, ..)| first <= at) - 1;
        let (first, address, bytes) = self.places[place];
        assert!(at - first < bytes);
        address + at - first
    }

    /// The stream from `at` on consists of the body's own bytes, at the addresses where its owner has them.
    fn check_by_reference(&self, at: usize, places: &[(usize, usize)], from: usize, bytes: usize) {
        let (mut skip, mut rest, mut at) = (from, bytes, at);
        for &(address, piece_bytes) in places {
            let start = skip.min(piece_bytes);
            let part = (piece_bytes - start).min(rest);
            if part > 0 {
                assert_eq!(self.address_of(at), address + start, "a body was copied");
                assert_eq!(self.address_of(at + part - 1), address + start + part - 1);
            }
            (skip, rest, at) = (skip - start, rest - part, at + part);
        }
    }
}
