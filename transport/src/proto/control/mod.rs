//! Control records: links, their credit, what became of deliveries, and the end of a connection.
//!
//! They have no number in a lane and no body: what they say is either absolute, so that saying it
//! twice does no harm, or answered. Kinds that version 1 defines carry no flags, since every end knows
//! them; a later kind may be marked as one that must be understood.

mod codes;
mod leave;
mod link;
mod settle;

pub use codes::{CloseCode, DetachCode, RefusalCode};
pub use leave::Leave;
pub use link::{Address, Attach, Attached, Detach, Flow, LinkCredit, LinkRole};
pub use settle::{Outcome, Settle};

use super::bytes::{check_reserved, check_zero, put, u16_at};
use super::record::RecordPeek;
use super::text::ReasonText;
use super::{EncodeError, Limits, LinkId, PeerMisbehaved, record_aligned};

/// Kinds of records from here on are control records.
pub const FIRST_CONTROL_KIND: u8 = 0x40;

/// The longest control record of version 1: an attach with the longest name.
pub const CONTROL_BYTES_MAX: usize = record_aligned(32 + super::text::NAME_BYTES_MAX);

const ATTACH: u8 = 0x40;
const ATTACHED: u8 = 0x41;
const DETACH: u8 = 0x42;
const FLOW: u8 = 0x43;
const CLOSE: u8 = 0x44;
const SETTLE: u8 = 0x45;
const LEAVE: u8 = 0x46;

const MUST_UNDERSTAND: u16 = 1 << 0;

/// A control record of version 1. Texts and names are borrowed from the bytes that were parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control<'a> {
    /// Asks for a link.
    Attach(Attach<'a>),
    /// Grants one, with its first credit.
    Attached(Attached),
    /// Refuses a link, or ends it.
    Detach(Detach<'a>),
    /// Grants credit of a link.
    Flow(Flow),
    /// Ends the connection in order.
    Close(Close<'a>),
    /// Settles deliveries; only where that capability was negotiated.
    Settle(Settle),
    /// Asks the peer to go elsewhere.
    Leave(Leave<'a>),
}

/// The end of a connection, with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close<'a> {
    /// Why.
    pub code: CloseCode,
    /// For people.
    pub text: ReasonText<'a>,
}

impl<'a> Control<'a> {
    /// Parses a whole control record; `None` is one of an unknown kind that need not be understood.
    ///
    /// # Errors
    /// Whatever the record breaks.
    pub fn parse(record: &'a [u8], limits: &Limits) -> Result<Option<Self>, PeerMisbehaved> {
        let peek = RecordPeek::of_head(record, limits)?;
        let kind = peek.kind.value();
        if kind < FIRST_CONTROL_KIND {
            return Err(PeerMisbehaved::RecordKindUnknown { kind });
        }
        check_reserved(record, 1, 1)?;
        check_reserved(record, 6, 2)?;
        let flags = u16_at(record, 2);
        if !(ATTACH..=LEAVE).contains(&kind) {
            return skip_unknown(kind, flags);
        }
        if flags != 0 {
            return Err(PeerMisbehaved::ControlFlags { kind, flags });
        }
        Ok(Some(match kind {
            ATTACH => Self::Attach(Attach::parse(record)?),
            ATTACHED => Self::Attached(Attached::parse(record)?),
            DETACH => Self::Detach(Detach::parse(record)?),
            FLOW => Self::Flow(Flow::parse(record)?),
            CLOSE => Self::Close(Close::parse(record)?),
            SETTLE => Self::Settle(Settle::parse(record)?),
            _ => Self::Leave(Leave::parse(record)?),
        }))
    }

    /// Its kind on the wire.
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Attach(_) => ATTACH,
            Self::Attached(_) => ATTACHED,
            Self::Detach(_) => DETACH,
            Self::Flow(_) => FLOW,
            Self::Close(_) => CLOSE,
            Self::Settle(_) => SETTLE,
            Self::Leave(_) => LEAVE,
        }
    }

    /// Bytes of the whole record, a multiple of 8, at most [`CONTROL_BYTES_MAX`].
    pub const fn encoded_bytes(&self) -> usize {
        record_aligned(match self {
            Self::Attach(attach) => attach.bytes(),
            Self::Attached(_) | Self::Flow(_) | Self::Settle(_) => 32,
            Self::Detach(detach) => 16 + detach.text.as_str().len(),
            Self::Close(close) => 12 + close.text.as_str().len(),
            Self::Leave(leave) => Leave::TEXT_AT + leave.text.as_str().len(),
        })
    }

    /// Writes the record to the beginning of `out`, and returns its bytes.
    ///
    /// # Errors
    /// [`EncodeError::NoRoom`].
    pub fn encode_into(&self, out: &mut [u8]) -> Result<usize, EncodeError> {
        let (needed, room) = (self.encoded_bytes(), out.len());
        let out = out.get_mut(..needed).ok_or(EncodeError::NoRoom { needed, room })?;
        out.fill(0);
        out[0] = self.kind();
        put(out, 4, (needed as u16).to_le_bytes());
        match self {
            Self::Attach(attach) => attach.write(out),
            Self::Attached(attached) => attached.write(out),
            Self::Detach(detach) => detach.write(out),
            Self::Flow(flow) => flow.write(out),
            Self::Close(close) => close.write(out),
            Self::Settle(settle) => settle.write(out),
            Self::Leave(leave) => leave.write(out),
        }
        Ok(needed)
    }

    /// The link that it is about; a close and a leave are about none.
    pub const fn link(&self) -> Option<LinkId> {
        match self {
            Self::Attach(attach) => Some(attach.link),
            Self::Attached(attached) => Some(attached.link),
            Self::Detach(detach) => Some(detach.link),
            Self::Flow(flow) => Some(flow.link),
            Self::Settle(settle) => Some(settle.link),
            Self::Close(_) | Self::Leave(_) => None,
        }
    }
}

impl<'a> Close<'a> {
    const TEXT_AT: usize = 12;

    fn parse(record: &'a [u8]) -> Result<Self, PeerMisbehaved> {
        expect_at_least(record, 16)?;
        let code = CloseCode::of(u16_at(record, 8));
        let text = trailing(record, Self::TEXT_AT, u16_at(record, 10))?;
        Ok(Self { code, text: ReasonText::parse(text)? })
    }

    fn write(&self, out: &mut [u8]) {
        put(out, 8, self.code.value().to_le_bytes());
        put(out, 10, (self.text.as_str().len() as u16).to_le_bytes());
        put_trailing(out, Self::TEXT_AT, self.text.as_str().as_bytes());
    }
}

fn skip_unknown<'a>(kind: u8, flags: u16) -> Result<Option<Control<'a>>, PeerMisbehaved> {
    if flags & MUST_UNDERSTAND != 0 {
        return Err(PeerMisbehaved::ControlNotUnderstood { kind });
    }
    Ok(None)
}

/// The bytes of variable length at the end of a record, which must take all of it but the zeros that
/// round it up to 8.
fn trailing(record: &[u8], at: usize, bytes: u16) -> Result<&[u8], PeerMisbehaved> {
    let end = at + usize::from(bytes);
    expect_exactly(record, record_aligned(end))?;
    check_zero(&record[end..], end)?;
    Ok(&record[at..end])
}

fn put_trailing(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

fn expect_at_least(record: &[u8], expected: usize) -> Result<(), PeerMisbehaved> {
    if record.len() < expected { Err(wrong_bytes(record, expected)) } else { Ok(()) }
}

fn expect_exactly(record: &[u8], expected: usize) -> Result<(), PeerMisbehaved> {
    if record.len() != expected { Err(wrong_bytes(record, expected)) } else { Ok(()) }
}

fn wrong_bytes(record: &[u8], expected: usize) -> PeerMisbehaved {
    let kind = record.first().copied().unwrap_or(0);
    PeerMisbehaved::ControlBytes { kind, head_bytes: record.len() as u32, expected: expected as u32 }
}
