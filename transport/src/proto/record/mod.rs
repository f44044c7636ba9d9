//! Records: the messages, chunks and control records of which a frame consists.
//!
//! Each begins with its kind, and has the length of its head at offset 4, so that a reader needs eight
//! bytes ([`RecordPeek`]) to know how many more belong to the head. What a hop may change stands at
//! fixed offsets ([`HopChange`]): a broker patches a head in place and forwards it, extensions and
//! body untouched.

mod chunk;
mod message;

pub use chunk::{BodyProgress, ChunkHead};
pub use message::{HopChange, MessageHead, padded_head_bytes};

use super::bytes::{check_reserved, u16_at};
use super::control::{Control, FIRST_CONTROL_KIND};
use super::extension::Extensions;
use super::limits::CHUNK_HEAD_BYTES_MAX;
use super::{CHUNK_HEAD_BYTES, Limits, MESSAGE_HEAD_BYTES, PeerMisbehaved, RECORD_ALIGN_BYTES};

/// A priority class with its own order and its own credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Lane {
    /// Overtakes everything that is not yet on its way.
    Urgent = 0,
    /// The usual one.
    Normal = 1,
    /// Gives way to the others; at most two chunks of it are ever unacknowledged.
    Bulk = 2,
}

impl Lane {
    /// All lanes, the most urgent first.
    pub const ALL: [Self; super::LANES] = [Self::Urgent, Self::Normal, Self::Bulk];

    /// Its place in arrays by lane.
    pub const fn index(self) -> usize {
        self as usize
    }

    pub(super) const fn parse(lane: u8) -> Result<Self, PeerMisbehaved> {
        match lane {
            0 => Ok(Self::Urgent),
            1 => Ok(Self::Normal),
            2 => Ok(Self::Bulk),
            _ => Err(PeerMisbehaved::LaneUnknown { lane }),
        }
    }
}

/// What a message record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MessageKind {
    /// A message that expects no reply.
    Message = 1,
    /// A request: its reply goes to its reply address.
    Request = 2,
    /// A reply, or one of several.
    Reply = 3,
}

pub(super) const CHUNK_KIND: u8 = 4;

/// The first byte of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A message, a request or a reply.
    Message(MessageKind),
    /// The continuation of a body.
    Chunk,
    /// A control record, known or not: 0x40 and above.
    Control(u8),
}

impl RecordKind {
    const fn parse(kind: u8) -> Result<Self, PeerMisbehaved> {
        match kind {
            1 => Ok(Self::Message(MessageKind::Message)),
            2 => Ok(Self::Message(MessageKind::Request)),
            3 => Ok(Self::Message(MessageKind::Reply)),
            CHUNK_KIND => Ok(Self::Chunk),
            FIRST_CONTROL_KIND.. => Ok(Self::Control(kind)),
            _ => Err(PeerMisbehaved::RecordKindUnknown { kind }),
        }
    }

    /// The byte on the wire.
    pub const fn value(self) -> u8 {
        match self {
            Self::Message(kind) => kind as u8,
            Self::Chunk => CHUNK_KIND,
            Self::Control(kind) => kind,
        }
    }

    /// The shortest and the longest head of this kind.
    fn head_range(self, limits: &Limits) -> (u16, u16) {
        match self {
            Self::Message(_) => (MESSAGE_HEAD_BYTES as u16, limits.head_bytes_max),
            Self::Chunk => (CHUNK_HEAD_BYTES as u16, CHUNK_HEAD_BYTES_MAX as u16),
            Self::Control(_) => (RECORD_ALIGN_BYTES as u16, limits.head_bytes_max),
        }
    }
}

/// What the first eight bytes of a record say: its kind, and how long its head is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordPeek {
    /// What it is.
    pub kind: RecordKind,
    /// Bytes of its head: a multiple of 8, within what the kind and the negotiated limit allow.
    pub head_bytes: u16,
}

impl RecordPeek {
    /// Looks at the beginning of a record.
    ///
    /// # Errors
    /// [`PeerMisbehaved::RecordKindUnknown`], [`PeerMisbehaved::HeadBytes`],
    /// [`PeerMisbehaved::HeadBytesUnaligned`].
    pub fn parse(first: &[u8; 8], limits: &Limits) -> Result<Self, PeerMisbehaved> {
        let kind = RecordKind::parse(first[0])?;
        let head_bytes = u16_at(first, 4);
        let (min, max) = kind.head_range(limits);
        if !(min..=max).contains(&head_bytes) {
            let kind = kind.value();
            return Err(PeerMisbehaved::HeadBytes { kind, head_bytes: head_bytes.into(), min, max });
        }
        if !usize::from(head_bytes).is_multiple_of(RECORD_ALIGN_BYTES) {
            return Err(PeerMisbehaved::HeadBytesUnaligned { head_bytes });
        }
        Ok(Self { kind, head_bytes })
    }

    /// As [`RecordPeek::parse`], and checks that `head` is exactly as long as it says.
    pub(super) fn of_head(head: &[u8], limits: &Limits) -> Result<Self, PeerMisbehaved> {
        let length = |min, max| PeerMisbehaved::HeadBytes {
            kind: head.first().copied().unwrap_or(0),
            head_bytes: head.len() as u32,
            min,
            max,
        };
        let first = head.first_chunk().ok_or(length(8, limits.head_bytes_max))?;
        let peek = Self::parse(first, limits)?;
        if head.len() != usize::from(peek.head_bytes) {
            return Err(length(peek.head_bytes, peek.head_bytes));
        }
        Ok(peek)
    }
}

/// The head of any record, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A message, request or reply, with its extensions. Its body follows.
    Message(MessageHead, Extensions<'a>),
    /// More of a body, which follows.
    Chunk(ChunkHead),
    /// A control record of version 1. No body.
    Control(Control<'a>),
    /// A control record of this kind that is unknown and need not be understood. No body.
    Unknown(u8),
}

impl<'a> Record<'a> {
    /// Parses the whole head of a record, and nothing of its body.
    ///
    /// # Errors
    /// Whatever the head breaks.
    pub fn parse(head: &'a [u8], limits: &Limits) -> Result<Self, PeerMisbehaved> {
        match RecordPeek::of_head(head, limits)?.kind {
            RecordKind::Message(_) => {
                MessageHead::parse(head, limits).map(|(head, extensions)| Self::Message(head, extensions))
            }
            RecordKind::Chunk => ChunkHead::parse(head, limits).map(Self::Chunk),
            RecordKind::Control(kind) => {
                Ok(Control::parse(head, limits)?.map_or(Self::Unknown(kind), Self::Control))
            }
        }
    }

    /// Bytes of body behind the head.
    pub const fn body_bytes(&self) -> u32 {
        match self {
            Self::Message(head, _) => head.body_bytes,
            Self::Chunk(head) => head.body_bytes,
            Self::Control(_) | Self::Unknown(_) => 0,
        }
    }
}

fn check_flags(kind: u8, flags: u16, known: u16) -> Result<(), PeerMisbehaved> {
    if flags & !known != 0 {
        return Err(PeerMisbehaved::FlagsUnknown { kind, flags: flags & !known });
    }
    Ok(())
}

fn check_reserved_u16(head: &[u8], at: usize) -> Result<(), PeerMisbehaved> {
    check_reserved(head, at, 2)
}
