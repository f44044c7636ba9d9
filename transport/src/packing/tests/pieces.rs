//! What the tests are made of: parameters, messages and cuttings, all of them small values that proptest can shrink.

use crate::message::Message;
use crate::packing::{Inbox, InboxError, PackingRules, Parsed};
use crate::pool::{BUFFER_BYTES_MAX, Body, BufferMut, COPY_BREAK_BYTES, Pool, PoolConfig, Segment};
use crate::proto::extension::ExtensionWriter;
use crate::proto::record::{MessageHead, MessageKind};
use crate::proto::text::Name;
use crate::proto::{
    CorrelationId, FRAME_HEADER_BYTES, HEAD_BYTES_MAX, Incarnation, Lane, LinkId, MESSAGE_HEAD_BYTES,
    MessageNumber, Origin, Parameters, ReplyAddress,
};
use proptest::prelude::*;
use std::sync::LazyLock;

/// A pool without huge pages, in slabs of `slab_bytes`.
pub(super) fn pool(bytes_max: usize) -> Pool {
    let slab_bytes = (4 * BUFFER_BYTES_MAX).min(bytes_max);
    Pool::new(PoolConfig { bytes_max, slab_bytes, huge_pages: false }).unwrap()
}

/// Bytes that tell a wrong offset from a right one, and one message from another.
pub(super) fn numbered(bytes: usize, seed: u64) -> Vec<u8> {
    static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
        (0..2_u64 << 20).map(|index| (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
    });
    let from = seed as usize * 331 % (1 << 20);
    PATTERN[from..from + bytes].to_vec()
}

/// Any set of sizes that two ends can agree on.
pub(super) fn parameters() -> impl Strategy<Value = Parameters> {
    let frame_lines = prop_oneof![4 => 16u32..=128, 4 => 129u32..=1024, 1 => 1025u32..=6000];
    (frame_lines, any::<u16>(), any::<u32>(), any::<u32>(), any::<u32>(), prop_oneof![Just(4), 4u16..40])
        .prop_map(|(frame_lines, head, eager, chunk, packet, control_slots)| {
            let frame_bytes_max = frame_lines * 64;
            let head_max = (frame_bytes_max - FRAME_HEADER_BYTES as u32 - 256).min(HEAD_BYTES_MAX as u32);
            let head_bytes_max = ((512 + u32::from(head) % (head_max - 511)) & !7) as u16;
            let body_max = frame_bytes_max - FRAME_HEADER_BYTES as u32 - u32::from(head_bytes_max);
            let within = |value: u32, max: u32| 256 + value % (max - 255);
            let parameters = Parameters {
                packet_bytes: within(packet, frame_bytes_max),
                frame_bytes_max,
                eager_bytes_max: within(eager, body_max),
                chunk_bytes_max: within(chunk, body_max),
                head_bytes_max,
                control_slots,
                frame_slots: 1000,
                ..settled()
            };
            parameters.check().unwrap();
            parameters
        })
}

/// How long a body is, in terms of the rules.
#[derive(Debug, Clone, Copy)]
pub(super) enum BodySize {
    Exactly(usize),
    AroundCopyBreak(usize),
    AroundPacket(usize),
    AroundEager(usize),
    Chunks(usize, usize),
}

impl BodySize {
    pub(super) fn bytes(self, rules: &PackingRules) -> usize {
        match self {
            Self::Exactly(bytes) => bytes,
            Self::AroundCopyBreak(past) => COPY_BREAK_BYTES - 8 + past,
            Self::AroundPacket(past) => (rules.packet_bytes + past).saturating_sub(168),
            Self::AroundEager(past) => rules.eager_bytes_max + past - 8,
            Self::Chunks(chunks, past) => rules.eager_bytes_max.max(chunks * rules.chunk_bytes_max) + past,
        }
    }
}

fn body_size() -> impl Strategy<Value = BodySize> {
    prop_oneof![
        1 => Just(BodySize::Exactly(0)),
        6 => (1usize..200).prop_map(BodySize::Exactly),
        2 => (900usize..1200).prop_map(BodySize::Exactly),
        2 => (0usize..16).prop_map(BodySize::AroundCopyBreak),
        4 => (0usize..180).prop_map(BodySize::AroundPacket),
        2 => (0usize..16).prop_map(BodySize::AroundEager),
        3 => (0usize..4, 0usize..40).prop_map(|(chunks, past)| BodySize::Chunks(chunks, past)),
    ]
}

/// A message to be.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    pub(super) kind: MessageKind,
    pub(super) lane: Lane,
    pub(super) size: BodySize,
    /// The body comes in pieces of this size that are no neighbours; zero is as few pieces as possible.
    pub(super) piece_bytes: usize,
    pub(super) reply_address: bool,
    pub(super) deadline_us: Option<u32>,
    /// Of 255, how much of the room for extensions is used.
    pub(super) extensions: u8,
}

impl Spec {
    pub(super) fn new(lane: Lane, bytes: usize) -> Self {
        Self {
            kind: MessageKind::Message,
            lane,
            size: BodySize::Exactly(bytes),
            piece_bytes: 0,
            reply_address: false,
            deadline_us: None,
            extensions: 0,
        }
    }

    /// The message, its `number` in every field that can hold it.
    pub(super) fn build(&self, rules: &PackingRules, number: u64, pool: &mut Pool) -> Message {
        let bytes = numbered(self.size.bytes(rules), number);
        let body = body_in_pieces(&bytes, self.piece_bytes, pool);
        let mut message = Message::new(self.kind, body);
        message.head = MessageHead {
            lane: self.lane,
            redelivered: number.is_multiple_of(3),
            copies: number.is_multiple_of(5),
            failure: self.kind == MessageKind::Reply && number.is_multiple_of(2),
            reply_address: self.reply_address.then_some(ReplyAddress([number as u8; 16])),
            hop_count: number as u8,
            attempt: !number as u8,
            link: LinkId::new(1 + number as u32),
            origin: Origin(number << 7),
            message_number: MessageNumber(number),
            correlation_id: CorrelationId(!number),
            deadline_us: self.deadline_us,
            incarnation: Incarnation(number as u32 + 9),
            ..message.head
        };
        let room = rules.head_bytes_max - MESSAGE_HEAD_BYTES - 16;
        message.extensions = extensions(room * usize::from(self.extensions) / 255, pool);
        message
    }
}

/// A destination, and headers if that is not enough: at most `bytes` bytes. None if they hold nothing.
fn extensions(bytes: usize, pool: &mut Pool) -> Option<Segment> {
    let mut area = vec![0; bytes & !7];
    let mut writer = ExtensionWriter::new(&mut area);
    let name = "d".repeat((bytes & !7).saturating_sub(4).min(252));
    writer.destination(Name::new(&name).ok()?).ok()?;
    let left = (bytes & !7) - writer.written();
    // Type and length, the key's length, a key of one byte, the value's length.
    if let Some(value) = left.checked_sub(4 + 1 + 1 + 2) {
        writer.application_headers([("k", &*vec![7; value])]).unwrap();
    }
    let written = writer.written();
    let mut buffer = pool.buffer(written).unwrap();
    buffer.put_slice(&area[..written]);
    Some(buffer.split())
}

/// A body in pieces that no pool can join, at most a thousand.
pub(super) fn body_in_pieces(bytes: &[u8], piece_bytes: usize, pool: &mut Pool) -> Body {
    if piece_bytes == 0 {
        return pool.copy_body(bytes).unwrap();
    }
    let mut cutter = Cutter::new(pool);
    let mut body = Body::new();
    for piece in bytes.chunks(piece_bytes.max(bytes.len() / 1000)) {
        cutter.cut(piece, pool, |segment, pool| body.push(segment, pool).unwrap());
    }
    body
}

/// Copies pieces into two buffers in turn, so that no two pieces lie side by side.
pub(super) struct Cutter {
    buffers: [BufferMut; 2],
    next: usize,
}

impl Cutter {
    pub(super) fn new(pool: &mut Pool) -> Self {
        Self { buffers: [0, 1].map(|_| pool.buffer(BUFFER_BYTES_MAX).unwrap()), next: 0 }
    }

    /// Passes on `piece` as one segment, as several if it is longer than a buffer.
    pub(super) fn cut(&mut self, piece: &[u8], pool: &mut Pool, mut then: impl FnMut(Segment, &mut Pool)) {
        for part in piece.chunks(BUFFER_BYTES_MAX) {
            let buffer = &mut self.buffers[self.next];
            if buffer.spare() < part.len() && !buffer.restart() {
                *buffer = pool.buffer(BUFFER_BYTES_MAX).unwrap();
            }
            buffer.put_slice(part);
            then(buffer.split(), pool);
            self.next ^= 1;
        }
    }
}

pub(super) fn spec() -> impl Strategy<Value = Spec> {
    (
        prop_oneof![Just(MessageKind::Message), Just(MessageKind::Request), Just(MessageKind::Reply)],
        prop_oneof![Just(Lane::Urgent), Just(Lane::Normal), Just(Lane::Bulk)],
        body_size(),
        prop_oneof![3 => Just(0usize), 2 => 1usize..100, 1 => 100usize..3000],
        any::<bool>(),
        any::<Option<u32>>(),
        prop_oneof![2 => Just(0u8), 1 => any::<u8>(), 1 => 250u8..],
    )
        .prop_map(|(kind, lane, size, piece_bytes, reply_address, deadline_us, extensions)| Spec {
            kind,
            lane,
            size,
            piece_bytes,
            reply_address,
            deadline_us,
            extensions,
        })
}

/// What an inbox gave, without the frames around it.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    pub(super) messages: Vec<Message>,
    /// Messages whose bodies are offered, and where.
    pub(super) offers: Vec<(Message, Vec<u8>)>,
    pub(super) controls: Vec<Vec<u8>>,
    pub(super) frames: u64,
    /// Chunk credit that the records took.
    pub(super) chunks: u64,
    open: Option<bool>,
}

impl Arrived {
    /// Takes all that the inbox can give now.
    pub(super) fn take_all(&mut self, inbox: &mut Inbox, pool: &mut Pool) -> Result<(), InboxError> {
        let mut arrived = None;
        while let Some(parsed) = inbox.next(pool, &mut arrived)? {
            self.take(parsed, arrived.take(), inbox);
        }
        Ok(())
    }

    /// Takes the next piece, which must be there.
    pub(super) fn take_one(&mut self, inbox: &mut Inbox, pool: &mut Pool) {
        let mut arrived = None;
        let parsed = inbox.next(pool, &mut arrived).unwrap().unwrap();
        self.take(parsed, arrived, inbox);
    }

    fn take(&mut self, parsed: Parsed, arrived: Option<Message>, inbox: &Inbox) {
        match parsed {
            Parsed::Frame(_) => {
                assert_ne!(self.open.replace(true), Some(true), "a frame within a frame");
                self.frames += 1;
            }
            Parsed::Control => self.controls.push(inbox.control_record().to_vec()),
            Parsed::Message { is_bulk, had_begun } => {
                assert!(is_bulk || !had_begun);
                self.chunks += u64::from(is_bulk);
                self.messages.push(arrived.unwrap());
            }
            Parsed::Offer => {
                self.offers.push((arrived.unwrap(), inbox.descriptor().to_vec()));
            }
            Parsed::Part { missing_bytes, .. } => {
                assert!(missing_bytes > 0);
                self.chunks += 1;
            }
            Parsed::FrameEnd => assert_ne!(self.open.replace(false), Some(false), "the end of no frame"),
        }
    }
}

/// Gives a stream to an inbox in pieces of these sizes, over and over, and returns what came out.
pub(super) fn receive(stream: &[u8], cuts: &[usize], inbox: &mut Inbox, pool: &mut Pool) -> Arrived {
    let mut arrived = Arrived::default();
    let mut cutter = Cutter::new(pool);
    let mut rest = stream;
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, behind) = rest.split_at((*cut).min(rest.len()));
        cutter.cut(piece, pool, |segment, _| inbox.push(segment));
        arrived.take_all(inbox, pool).unwrap();
        rest = behind;
    }
    assert_ne!(arrived.open, Some(true), "the last frame has ended");
    arrived
}

/// Parameters small enough that short tests reach every rule: a packet of one page, chunks of eight.
pub(super) fn settled() -> Parameters {
    Parameters {
        packet_bytes: 4096,
        frame_bytes_max: 64 << 10,
        eager_bytes_max: 16 << 10,
        chunk_bytes_max: 32 << 10,
        frame_slots: 64,
        ..Parameters::default()
    }
}
