//! Extensions: what a record or a hello carries beside its fixed fields.
//!
//! Each is a type, a length and a value, padded to 8 bytes. Types ascend, so that each occurs at most
//! once and a reader finds the destination first. Bit 15 of the type marks what must be understood: an
//! unknown extension with the mark is a violation, one without is kept byte for byte and forwarded.

mod value;
mod writer;

pub(super) use value::process_name;
pub use value::{ApplicationHeaders, ServiceError, TraceContext, WireOffer, WireOffers};
pub use writer::ExtensionWriter;

use super::bytes::{check_zero, u16_at};
use super::text::Name;
use super::{PeerMisbehaved, record_aligned};

pub(super) const HEAD_BYTES: usize = 4;

/// Bytes that an offer with a descriptor of so many bytes adds to the extensions of a message.
pub const fn offer_extension_bytes(descriptor_bytes: usize) -> usize {
    record_aligned(HEAD_BYTES + descriptor_bytes)
}

pub(super) const MUST_UNDERSTAND: u16 = 1 << 15;

/// What of a record's extensions version 1 knows.
pub mod record_kind {
    /// The name of the destination.
    pub const DESTINATION: u16 = 1;
    /// The trace that the message belongs to.
    pub const TRACE_CONTEXT: u16 = 2;
    /// The application's own headers.
    pub const APPLICATION_HEADERS: u16 = 3;
    /// The error that a failed reply reports.
    pub const ERROR: u16 = 4;
    /// Where the body of an offered message can be read. The highest type that there is, so that it
    /// comes last: a connection appends it and takes it off without touching what stands before it.
    /// It must be understood.
    pub const OFFER: u16 = 0x7fff;
}

/// What of a hello's extensions version 1 knows.
pub mod hello_kind {
    /// The securities that the sender offers, or the one that the server chose.
    pub const SECURITY: u16 = 1;
    /// The wires that the sender could change to.
    pub const WIRES: u16 = 2;
    /// The name of the process, for people.
    pub const PROCESS_NAME: u16 = 3;
    /// That the sender knows the token of the session that is resumed: 32 bytes.
    pub const SESSION_PROOF: u16 = 4;
    /// From a server: the token by which the session is resumed next time, 32 bytes.
    pub const SESSION_TOKEN: u16 = 5;
}

/// The kinds of wires, as offers name them.
pub mod wire_kind {
    /// TCP.
    pub const TCP: u16 = 1;
    /// RDMA.
    pub const RDMA: u16 = 2;
    /// Shared memory.
    pub const SHM: u16 = 3;
    /// Rings within one process.
    pub const INPROC: u16 = 4;
}

/// Where extensions stand, which decides what their types mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtensionScope {
    /// In the head of a message.
    Record,
    /// In the head of a message whose body is offered for a one-sided read.
    OfferedRecord,
    /// In a hello.
    Hello,
}

/// One extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension<'a> {
    /// Its type, without the mark.
    pub kind: u16,
    /// Whether an end that does not know it must refuse it.
    pub must_understand: bool,
    /// Its value.
    pub value: &'a [u8],
}

/// A list of extensions whose structure and known values have been checked.
///
/// It covers the entries only, without the zeros behind them; [`Extensions::as_bytes`] can go into
/// another head as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions<'a> {
    entries: &'a [u8],
}

impl<'a> Extensions<'a> {
    /// Checks a whole area of extensions. `offset` is that of its first byte, for reports.
    ///
    /// # Errors
    /// An `Extension...` variant, [`PeerMisbehaved::PaddingNotZero`], or what a known value breaks.
    pub fn parse(area: &'a [u8], offset: usize, scope: ExtensionScope) -> Result<Self, PeerMisbehaved> {
        let mut at = 0;
        let mut previous = 0;
        while let Some(entry) = Entry::at(&area[at..])? {
            if entry.extension.kind <= previous {
                return Err(PeerMisbehaved::ExtensionOrder { kind: entry.extension.kind, previous });
            }
            previous = entry.extension.kind;
            let value_end = at + HEAD_BYTES + entry.extension.value.len();
            check_zero(&area[value_end..at + entry.bytes], offset + value_end)?;
            value::check(scope, &entry.extension)?;
            at += entry.bytes;
        }
        check_zero(&area[at..], offset + at)?;
        Ok(Self { entries: &area[..at] })
    }

    /// Takes bytes that [`Extensions::parse`] has accepted before, without checking them again: for a
    /// head that was kept and is looked at later. With other bytes its answers are wrong, or empty.
    pub const fn already_checked(bytes: &'a [u8]) -> Self {
        Self { entries: bytes }
    }

    /// The entries as they are on the wire, known and unknown, without the zeros behind them.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.entries
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All of them, in their order.
    pub const fn iter(&self) -> ExtensionIter<'a> {
        ExtensionIter { rest: self.entries }
    }

    /// The value of the extension of this type.
    pub fn value(&self, kind: u16) -> Option<&'a [u8]> {
        self.iter().find(|extension| extension.kind == kind).map(|extension| extension.value)
    }

    /// The name of the destination.
    pub fn destination(&self) -> Option<Name<'a>> {
        Name::parse(self.value(record_kind::DESTINATION)?).ok()
    }

    /// The trace that the message belongs to.
    pub fn trace_context(&self) -> Option<TraceContext> {
        TraceContext::parse(self.value(record_kind::TRACE_CONTEXT)?).ok()
    }

    /// The application's headers; none if it sent none.
    pub fn application_headers(&self) -> ApplicationHeaders<'a> {
        ApplicationHeaders::of(self.value(record_kind::APPLICATION_HEADERS).unwrap_or_default())
    }

    /// Where the body of an offered message can be read; `None` unless it comes last and must be
    /// understood.
    pub fn offer(&self) -> Option<&'a [u8]> {
        let last = self.iter().last()?;
        (last.kind == record_kind::OFFER && last.must_understand).then_some(last.value)
    }

    /// All but what only concerns the connection on which they came.
    pub fn without_offer(&self) -> Self {
        let Some(offer) = self.offer() else { return *self };
        let offer_bytes = record_aligned(HEAD_BYTES + offer.len());
        Self { entries: &self.entries[..self.entries.len() - offer_bytes] }
    }

    /// The error that a failed reply reports.
    pub fn error(&self) -> Option<ServiceError<'a>> {
        ServiceError::parse(self.value(record_kind::ERROR)?).ok()
    }
}

impl<'a> IntoIterator for Extensions<'a> {
    type Item = Extension<'a>;
    type IntoIter = ExtensionIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Goes through [`Extensions`].
#[derive(Clone, Debug)]
pub struct ExtensionIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for ExtensionIter<'a> {
    type Item = Extension<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = Entry::at(self.rest).ok().flatten()?;
        self.rest = &self.rest[entry.bytes..];
        Some(entry.extension)
    }
}

/// One extension and how many bytes it takes, padding included.
struct Entry<'a> {
    extension: Extension<'a>,
    bytes: usize,
}

impl<'a> Entry<'a> {
    /// The entry at the beginning of `rest`; none at its end or before its zeros.
    fn at(rest: &'a [u8]) -> Result<Option<Self>, PeerMisbehaved> {
        let Some(head) = rest.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let tag = u16_at(head, 0);
        if tag == 0 {
            return Ok(None);
        }
        let value_end = HEAD_BYTES + usize::from(u16_at(head, 2));
        let bytes = record_aligned(value_end);
        if bytes > rest.len() {
            return Err(PeerMisbehaved::ExtensionPastEnd { bytes: bytes as u32, left: rest.len() as u32 });
        }
        let extension = Extension {
            kind: tag & !MUST_UNDERSTAND,
            must_understand: tag & MUST_UNDERSTAND != 0,
            value: &rest[HEAD_BYTES..value_end],
        };
        Ok(Some(Self { extension, bytes }))
    }
}
