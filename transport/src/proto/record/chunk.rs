//! Chunks: how a body goes on that does not travel in one record.

use super::{CHUNK_KIND, RecordKind, RecordPeek, check_flags, check_reserved_u16};
use crate::proto::bytes::{check_zero, put, u16_at, u32_at, u64_at};
use crate::proto::limits::CHUNK_HEAD_BYTES_MAX;
use crate::proto::{CHUNK_HEAD_BYTES, EncodeError, Lane, Limits, LinkId, PeerMisbehaved, RECORD_ALIGN_BYTES};

const LAST: u16 = 1 << 0;

/// The head of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHead {
    /// The lane of the message that it continues.
    pub lane: Lane,
    /// No chunk of this body follows.
    pub last: bool,
    /// Bytes of body in this chunk, never zero.
    pub body_bytes: u32,
    /// The link of the message that it continues; none if that is a reply without one.
    pub link: Option<LinkId>,
    /// The number in its lane of the message that it continues. A chunk has no number of its own.
    pub lane_sequence: u64,
    /// Where in the body it belongs.
    pub body_offset: u64,
}

impl ChunkHead {
    /// Parses the whole head.
    ///
    /// # Errors
    /// Whatever the head breaks.
    pub fn parse(head: &[u8], limits: &Limits) -> Result<Self, PeerMisbehaved> {
        let peek = RecordPeek::of_head(head, limits)?;
        if peek.kind != RecordKind::Chunk {
            return Err(PeerMisbehaved::RecordKindUnknown { kind: peek.kind.value() });
        }
        let flags = u16_at(head, 2);
        check_flags(CHUNK_KIND, flags, LAST)?;
        check_reserved_u16(head, 6)?;
        check_zero(&head[CHUNK_HEAD_BYTES..], CHUNK_HEAD_BYTES)?;
        let chunk = Self {
            lane: Lane::parse(head[1])?,
            last: flags & LAST != 0,
            body_bytes: u32_at(head, 8),
            link: LinkId::new(u32_at(head, 12)),
            lane_sequence: u64_at(head, 16),
            body_offset: u64_at(head, 24),
        };
        chunk.check(limits)?;
        Ok(chunk)
    }

    fn check(&self, limits: &Limits) -> Result<(), PeerMisbehaved> {
        if self.body_bytes == 0 {
            return Err(PeerMisbehaved::ChunkEmpty);
        }
        if self.body_bytes > limits.chunk_bytes_max {
            let (body_bytes, limit) = (self.body_bytes, limits.chunk_bytes_max);
            return Err(PeerMisbehaved::BodyTooLong { body_bytes, limit });
        }
        if self.end() > limits.message_bytes_max {
            let (body_bytes, limit) = (self.end(), limits.message_bytes_max);
            return Err(PeerMisbehaved::MessageTooLong { body_bytes, limit });
        }
        Ok(())
    }

    /// Where in the body it ends.
    pub const fn end(&self) -> u64 {
        self.body_offset.saturating_add(self.body_bytes as u64)
    }

    /// Writes a head of `head_bytes` to the beginning of `out`, and returns `head_bytes`.
    ///
    /// # Errors
    /// [`EncodeError::HeadBytes`] if `head_bytes` is not a multiple of 8 from 32 to 96,
    /// [`EncodeError::NoRoom`].
    pub fn encode_into(&self, head_bytes: usize, out: &mut [u8]) -> Result<usize, EncodeError> {
        let (min, max) = (CHUNK_HEAD_BYTES, CHUNK_HEAD_BYTES_MAX);
        if !(min..=max).contains(&head_bytes) || !head_bytes.is_multiple_of(RECORD_ALIGN_BYTES) {
            return Err(EncodeError::HeadBytes { head_bytes, min, max });
        }
        let room = out.len();
        let head = out.get_mut(..head_bytes).ok_or(EncodeError::NoRoom { needed: head_bytes, room })?;
        head.fill(0);
        put(head, 0, [CHUNK_KIND, self.lane as u8]);
        put(head, 2, if self.last { LAST } else { 0 }.to_le_bytes());
        put(head, 4, (head_bytes as u16).to_le_bytes());
        put(head, 8, self.body_bytes.to_le_bytes());
        put(head, 12, self.link.map_or(0, LinkId::value).to_le_bytes());
        put(head, 16, self.lane_sequence.to_le_bytes());
        put(head, 24, self.body_offset.to_le_bytes());
        Ok(head_bytes)
    }
}

/// How much of a body has arrived whose head said that chunks follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyProgress {
    received: u64,
    total: u64,
}

impl BodyProgress {
    /// After the record that opened it, which held `received` of `total` bytes.
    pub const fn new(received: u64, total: u64) -> Self {
        Self { received, total }
    }

    /// Bytes that have arrived.
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// Takes the next chunk; says whether the body is complete.
    ///
    /// # Errors
    /// [`PeerMisbehaved::ChunkOutOfPlace`], [`PeerMisbehaved::ChunkPastEnd`],
    /// [`PeerMisbehaved::ChunkLastMark`].
    pub const fn accept(&mut self, chunk: &ChunkHead) -> Result<bool, PeerMisbehaved> {
        let (end, total_body_bytes) = (chunk.end(), self.total);
        if chunk.body_offset != self.received {
            return Err(PeerMisbehaved::ChunkOutOfPlace {
                expected: self.received,
                found: chunk.body_offset,
            });
        }
        if end > total_body_bytes {
            return Err(PeerMisbehaved::ChunkPastEnd { end, total_body_bytes });
        }
        if chunk.last != (end == total_body_bytes) {
            return Err(PeerMisbehaved::ChunkLastMark { end, total_body_bytes });
        }
        self.received = end;
        Ok(chunk.last)
    }
}
