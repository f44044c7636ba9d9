//! The head of a message, a request or a reply.

use super::{MessageKind, RecordKind, RecordPeek, check_flags};
use crate::proto::bytes::{array_at, put, u16_at, u32_at, u64_at};
use crate::proto::extension::{ExtensionScope, Extensions};
use crate::proto::{
    CorrelationId, EncodeError, HEAD_BYTES_MAX, Incarnation, Lane, Limits, LinkId, MESSAGE_HEAD_BYTES,
    MessageNumber, Origin, PeerMisbehaved, RECORD_ALIGN_BYTES, ReplyAddress, record_aligned, whole_lines,
};

const REDELIVERED: u16 = 1 << 0;
const REPLY_ADDRESS: u16 = 1 << 1;
const MORE: u16 = 1 << 2;
const FAILURE: u16 = 1 << 3;
const DEADLINE: u16 = 1 << 4;
const COPIES: u16 = 1 << 5;
const OFFERED: u16 = 1 << 6;
const FLAGS: u16 = REDELIVERED | REPLY_ADDRESS | MORE | FAILURE | DEADLINE | COPIES | OFFERED;

const REPLY_ADDRESS_BYTES: usize = 16;

/// All that the head of a message says beside its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageHead {
    /// Message, request or reply.
    pub kind: MessageKind,
    /// Its priority class. Its order and its acknowledgement are those of this lane.
    pub lane: Lane,
    /// It may have been delivered before.
    pub redelivered: bool,
    /// Other copies of this message may be on their way, by other brokers or as other attempts; they are told apart by
    /// origin and message number.
    pub copies: bool,
    /// Its body is not in the record but offered for a one-sided read, on this hop: the last extension says where it
    /// is. Always false of a message in memory.
    pub offered: bool,
    /// A reply that reports a failure; the error is in its extensions, its body, or both.
    pub failure: bool,
    /// Where the reply goes.
    pub reply_address: Option<ReplyAddress>,
    /// Hops behind it. A hop adds one.
    pub hop_count: u8,
    /// Which attempt at the request this is, or answers.
    pub attempt: u8,
    /// Bytes of body in this record.
    pub body_bytes: u32,
    /// The link that carries it, on this hop. Only a reply may have none.
    pub link: Option<LinkId>,
    /// Its number in its lane, on this hop.
    pub lane_sequence: u64,
    /// Where it was first sent from.
    pub origin: Origin,
    /// The number that its origin gave it.
    pub message_number: MessageNumber,
    /// What matches a reply to its request.
    pub correlation_id: CorrelationId,
    /// Microseconds that remain when it is sent; a hop subtracts how long it kept the message.
    pub deadline_us: Option<u32>,
    /// The life of the requesting process; a reply echoes it.
    pub incarnation: Incarnation,
    /// Bytes of the whole body. More than `body_bytes` says that chunks follow, or that it is offered.
    pub total_body_bytes: u64,
}

impl MessageHead {
    /// Parses the whole head, extensions included, and nothing of the body.
    ///
    /// # Errors
    /// Whatever the head or its extensions break.
    pub fn parse<'a>(head: &'a [u8], limits: &Limits) -> Result<(Self, Extensions<'a>), PeerMisbehaved> {
        Self::parse_peeked(RecordPeek::of_head(head, limits)?, head, limits)
    }

    /// As [`MessageHead::parse`], of a head that was peeked at, and is as long as that has said.
    #[inline(always)] // a head is long: it is to be written to where it stays
    pub(crate) fn parse_peeked<'a>(
        peek: RecordPeek,
        head: &'a [u8],
        limits: &Limits,
    ) -> Result<(Self, Extensions<'a>), PeerMisbehaved> {
        let RecordKind::Message(kind) = peek.kind else {
            return Err(PeerMisbehaved::RecordKindUnknown { kind: peek.kind.value() });
        };
        let flags = u16_at(head, 2);
        check_flags(kind as u8, flags, FLAGS)?;
        let parsed = Self {
            kind,
            lane: Lane::parse(head[1])?,
            redelivered: flags & REDELIVERED != 0,
            copies: flags & COPIES != 0,
            offered: flags & OFFERED != 0,
            failure: flags & FAILURE != 0,
            reply_address: reply_address(head, flags, peek.head_bytes)?,
            hop_count: head[6],
            attempt: head[7],
            body_bytes: u32_at(head, 8),
            link: LinkId::new(u32_at(head, 12)),
            lane_sequence: u64_at(head, 16),
            origin: Origin(u64_at(head, 24)),
            message_number: MessageNumber(u64_at(head, 32)),
            correlation_id: CorrelationId(u64_at(head, 40)),
            deadline_us: deadline(u32_at(head, 48), flags)?,
            incarnation: Incarnation(u32_at(head, 52)),
            total_body_bytes: u64_at(head, 56),
        };
        parsed.check(flags & MORE != 0, limits)?;
        let at = parsed.extensions_at();
        if parsed.offered {
            return parsed.with_offer(&head[at..], at);
        }
        let area = &head[at..];
        if area.is_empty() {
            return Ok((parsed, Extensions::already_checked(area)));
        }
        Ok((parsed, Extensions::parse(area, at, ExtensionScope::Record)?))
    }

    /// The extensions of a message whose body is offered: the last says where.
    fn with_offer(self, area: &[u8], at: usize) -> Result<(Self, Extensions<'_>), PeerMisbehaved> {
        let extensions = Extensions::parse(area, at, ExtensionScope::OfferedRecord)?;
        if extensions.offer().is_none() {
            return Err(PeerMisbehaved::OfferWithoutDescriptor);
        }
        Ok((self, extensions))
    }

    #[inline]
    fn check(&self, marked_more: bool, limits: &Limits) -> Result<(), PeerMisbehaved> {
        let Self { kind, body_bytes, total_body_bytes, .. } = *self;
        if self.failure && kind != MessageKind::Reply {
            return Err(PeerMisbehaved::FailureNotReply { kind: kind as u8 });
        }
        if self.link.is_none() && kind != MessageKind::Reply {
            return Err(PeerMisbehaved::LinkMissing { kind: kind as u8 });
        }
        if self.offered && (body_bytes > 0 || marked_more) {
            return Err(PeerMisbehaved::OfferWithBody { body_bytes });
        }
        let missing = total_body_bytes.checked_sub(u64::from(body_bytes));
        if missing.is_none_or(|missing| (missing > 0) != (marked_more || self.offered)) {
            return Err(PeerMisbehaved::BodyTotal { body_bytes, total_body_bytes });
        }
        if total_body_bytes > limits.message_bytes_max {
            let limit = limits.message_bytes_max;
            return Err(PeerMisbehaved::MessageTooLong { body_bytes: total_body_bytes, limit });
        }
        // A message that fits into a packet is never split, however short the eager limit; so the bound is the chunk.
        let limit = limits.chunk_bytes_max.max(limits.eager_bytes_max);
        if body_bytes > limit {
            return Err(PeerMisbehaved::BodyTooLong { body_bytes, limit });
        }
        Ok(())
    }

    /// Whether the body goes on in chunks.
    pub const fn more(&self) -> bool {
        self.total_body_bytes > self.body_bytes as u64 && !self.offered
    }

    /// Where the extensions begin in the head: at 64, or at 80 behind a reply address.
    pub const fn extensions_at(&self) -> usize {
        MESSAGE_HEAD_BYTES + if self.reply_address.is_some() { REPLY_ADDRESS_BYTES } else { 0 }
    }

    /// Bytes of the shortest head with so many bytes of extensions.
    pub const fn head_bytes_needed(&self, extension_bytes: usize) -> usize {
        record_aligned(self.extensions_at() + extension_bytes)
    }

    /// Writes a head of `head_bytes` to the beginning of `out`: the fields, the extensions as they
    /// are, and zeros. Returns `head_bytes`. Whoever writes the extensions answers for them; those of
    /// an [`Extensions`] or an [`crate::proto::extension::ExtensionWriter`] are right.
    ///
    /// # Errors
    /// [`EncodeError::HeadBytes`] if `head_bytes` is not a multiple of 8, less than
    /// [`MessageHead::head_bytes_needed`] or more than any head may have; [`EncodeError::NoRoom`].
    pub fn encode_into(
        &self,
        extensions: &[u8],
        head_bytes: usize,
        out: &mut [u8],
    ) -> Result<usize, EncodeError> {
        let min = self.head_bytes_needed(extensions.len());
        if head_bytes < min || head_bytes > HEAD_BYTES_MAX || !head_bytes.is_multiple_of(RECORD_ALIGN_BYTES) {
            return Err(EncodeError::HeadBytes { head_bytes, min, max: HEAD_BYTES_MAX });
        }
        let room = out.len();
        let head = out.get_mut(..head_bytes).ok_or(EncodeError::NoRoom { needed: head_bytes, room })?;
        let (fixed, rest) =
            head.split_first_chunk_mut().ok_or(EncodeError::NoRoom { needed: head_bytes, room })?;
        let Self { lane_sequence, body_bytes, total_body_bytes, offered, .. } = *self;
        let numbers = Numbers { lane_sequence, body_bytes, total_body_bytes, offered };
        self.put_fixed_part(&numbers, head_bytes as u16, fixed);
        self.put_rest(extensions, rest);
        Ok(head_bytes)
    }

    /// As [`MessageHead::encode_into`] of a head that fills all of `out`, for a whole message with this number and a body
    /// of so many bytes: nothing has to be copied to say that.
    #[inline]
    pub(crate) fn encode_whole_into(
        &self,
        lane_sequence: u64,
        body_bytes: u32,
        extensions: &[u8],
        out: &mut [u8],
    ) -> Result<(), EncodeError> {
        let head_bytes = out.len();
        let min = self.head_bytes_needed(extensions.len());
        let refused = EncodeError::HeadBytes { head_bytes, min, max: HEAD_BYTES_MAX };
        if head_bytes < min || head_bytes > HEAD_BYTES_MAX || !head_bytes.is_multiple_of(RECORD_ALIGN_BYTES) {
            return Err(refused);
        }
        let (fixed, rest) = out.split_first_chunk_mut().ok_or(refused)?;
        let whole =
            Numbers { lane_sequence, body_bytes, total_body_bytes: body_bytes.into(), offered: false };
        self.put_fixed_part(&whole, head_bytes as u16, fixed);
        self.put_rest(extensions, rest);
        Ok(())
    }

    #[inline]
    fn put_fixed_part(&self, numbers: &Numbers, head_bytes: u16, out: &mut [u8; MESSAGE_HEAD_BYTES]) {
        put(out, 0, [self.kind as u8, self.lane as u8]);
        put(out, 2, self.flags(numbers).to_le_bytes());
        put(out, 4, head_bytes.to_le_bytes());
        put(out, 6, [self.hop_count, self.attempt]);
        put(out, 8, numbers.body_bytes.to_le_bytes());
        put(out, 12, self.link.map_or(0, LinkId::value).to_le_bytes());
        put(out, 16, numbers.lane_sequence.to_le_bytes());
        put(out, 24, self.origin.0.to_le_bytes());
        put(out, 32, self.message_number.0.to_le_bytes());
        put(out, 40, self.correlation_id.0.to_le_bytes());
        put(out, 48, self.deadline_us.unwrap_or(0).to_le_bytes());
        put(out, 52, self.incarnation.0.to_le_bytes());
        put(out, 56, numbers.total_body_bytes.to_le_bytes());
    }

    /// What is behind the fixed part: the reply address, the extensions, and zeros.
    #[inline]
    fn put_rest(&self, extensions: &[u8], rest: &mut [u8]) {
        let mut at = 0;
        if let Some(address) = &self.reply_address {
            put(rest, 0, address.0);
            at = REPLY_ADDRESS_BYTES;
        }
        let (written, padding) = rest[at..].split_at_mut(extensions.len());
        if !extensions.is_empty() {
            written.copy_from_slice(extensions);
        }
        if !padding.is_empty() {
            padding.fill(0);
        }
    }

    #[inline]
    fn flags(&self, numbers: &Numbers) -> u16 {
        let flag = |set: bool, bit: u16| u16::from(set) * bit;
        let more = numbers.total_body_bytes > u64::from(numbers.body_bytes) && !numbers.offered;
        flag(self.redelivered, REDELIVERED)
            | flag(self.reply_address.is_some(), REPLY_ADDRESS)
            | flag(more, MORE)
            | flag(self.failure, FAILURE)
            | flag(self.deadline_us.is_some(), DEADLINE)
            | flag(self.copies, COPIES)
            | flag(numbers.offered, OFFERED)
    }
}

/// What a hop says anew in the head of each message that it sends.
struct Numbers {
    lane_sequence: u64,
    body_bytes: u32,
    total_body_bytes: u64,
    offered: bool,
}

/// How long a head of `needed` bytes should be made, if it begins `frame_offset` bytes into its frame:
/// so long that a body of at least 1024 bytes begins at a whole line of the frame.
///
/// The padding costs at most 56 bytes, far less than a badly aligned copy of such a body. It is the
/// sender's choice; nobody checks it. Where the padded head would exceed `head_bytes_max`, it stays
/// as it is.
pub const fn padded_head_bytes(
    frame_offset: usize,
    needed: usize,
    body_bytes: usize,
    head_bytes_max: usize,
) -> usize {
    const WORTH_ALIGNING_BYTES: usize = 1024;
    let needed = record_aligned(needed);
    let padded = whole_lines(frame_offset + needed) - frame_offset;
    if body_bytes < WORTH_ALIGNING_BYTES || padded > head_bytes_max { needed } else { padded }
}

/// What a hop changes in a head that it forwards; everything else stays byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HopChange {
    /// The link on the next hop; only a reply may have none.
    pub link: Option<LinkId>,
    /// The number in its lane on the next hop.
    pub lane_sequence: u64,
    /// Hops behind it, this one included.
    pub hop_count: u8,
    /// What remains of the deadline. Taken only by a head that has one.
    pub deadline_us: u32,
    /// Marks the message as redelivered. The mark is never taken off.
    pub redelivered: bool,
}

impl HopChange {
    /// Patches the fixed part of a head in place. Not for one whose body is offered: that and the descriptor belong to
    /// the connection on which it came.
    pub fn apply(&self, head: &mut [u8; MESSAGE_HEAD_BYTES]) {
        let mut flags = u16_at(head, 2);
        if self.redelivered {
            flags |= REDELIVERED;
            put(head, 2, flags.to_le_bytes());
        }
        head[6] = self.hop_count;
        put(head, 12, self.link.map_or(0, LinkId::value).to_le_bytes());
        put(head, 16, self.lane_sequence.to_le_bytes());
        if flags & DEADLINE != 0 {
            put(head, 48, self.deadline_us.to_le_bytes());
        }
    }
}

fn reply_address(head: &[u8], flags: u16, head_bytes: u16) -> Result<Option<ReplyAddress>, PeerMisbehaved> {
    if flags & REPLY_ADDRESS == 0 {
        return Ok(None);
    }
    let min = MESSAGE_HEAD_BYTES + REPLY_ADDRESS_BYTES;
    if usize::from(head_bytes) < min {
        let (head_bytes, min) = (u32::from(head_bytes), min as u16);
        return Err(PeerMisbehaved::HeadBytes { kind: head[0], head_bytes, min, max: HEAD_BYTES_MAX as u16 });
    }
    Ok(Some(ReplyAddress(array_at(head, MESSAGE_HEAD_BYTES))))
}

fn deadline(deadline_us: u32, flags: u16) -> Result<Option<u32>, PeerMisbehaved> {
    match (flags & DEADLINE != 0, deadline_us) {
        (true, _) => Ok(Some(deadline_us)),
        (false, 0) => Ok(None),
        (false, _) => Err(PeerMisbehaved::DeadlineUnannounced { deadline_us }),
    }
}
