//! The values of the extensions that version 1 knows.

use super::{Extension, ExtensionScope, hello_kind, record_kind};
use crate::proto::bytes::{array_at, u16_at};
use crate::proto::text::{self, Name, PROCESS_NAME_BYTES_MAX, TextField};
use crate::proto::{HEAD_BYTES_MAX, OFFER_BYTES_MAX, PeerMisbehaved};

const TRACE_CONTEXT_BYTES: usize = 26;

/// Checks the value of a known extension, and the mark of an unknown one.
pub(super) fn check(scope: ExtensionScope, extension: &Extension<'_>) -> Result<(), PeerMisbehaved> {
    let Extension { kind, value, must_understand } = *extension;
    match (scope, kind) {
        (ExtensionScope::Record, record_kind::OFFER) => Err(PeerMisbehaved::OfferUnmarked),
        (ExtensionScope::OfferedRecord, record_kind::OFFER) => {
            if (1..=OFFER_BYTES_MAX).contains(&value.len()) { Ok(()) } else { Err(wrong_length(kind, value)) }
        }
        (ExtensionScope::Record | ExtensionScope::OfferedRecord, _) => {
            check_of_record(kind, value, must_understand)
        }
        (ExtensionScope::Hello, _) => check_of_hello(kind, value, must_understand),
    }
}

fn check_of_record(kind: u16, value: &[u8], must_understand: bool) -> Result<(), PeerMisbehaved> {
    match kind {
        record_kind::DESTINATION => Name::parse(value).map(drop),
        record_kind::TRACE_CONTEXT => TraceContext::parse(value).map(drop),
        record_kind::APPLICATION_HEADERS => ApplicationHeaders::check(value),
        record_kind::ERROR => ServiceError::parse(value).map(drop),
        _ => check_unknown(kind, must_understand),
    }
}

fn check_of_hello(kind: u16, value: &[u8], must_understand: bool) -> Result<(), PeerMisbehaved> {
    match kind {
        hello_kind::SECURITY => check_securities(value),
        hello_kind::WIRES => WireOffers::check(value),
        hello_kind::PROCESS_NAME => process_name(value).map(drop),
        hello_kind::SESSION_PROOF | hello_kind::SESSION_TOKEN => {
            if value.len() == 32 {
                Ok(())
            } else {
                Err(wrong_length(kind, value))
            }
        }
        _ => check_unknown(kind, must_understand),
    }
}

fn check_unknown(kind: u16, must_understand: bool) -> Result<(), PeerMisbehaved> {
    if must_understand { Err(PeerMisbehaved::ExtensionNotUnderstood { kind }) } else { Ok(()) }
}

/// A value whose length is none that this extension can have. Extensions fit a head or a hello, so
/// their lengths fit 16 bits.
fn wrong_length(kind: u16, value: &[u8]) -> PeerMisbehaved {
    PeerMisbehaved::ExtensionValue { kind, bytes: value.len() as u16 }
}

/// The trace that a message belongs to, as in the `traceparent` header of W3C Trace Context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The version of the format; 255 is none.
    pub version: u8,
    /// The trace; not all zero.
    pub trace_id: [u8; 16],
    /// The sender's span within it; not all zero.
    pub span_id: [u8; 8],
    /// Bit 0: sampled.
    pub flags: u8,
}

impl TraceContext {
    pub(super) fn parse(value: &[u8]) -> Result<Self, PeerMisbehaved> {
        let bytes: &[u8; TRACE_CONTEXT_BYTES] =
            value.try_into().map_err(|_| wrong_length(record_kind::TRACE_CONTEXT, value))?;
        let context = Self {
            version: bytes[0],
            trace_id: array_at(bytes, 1),
            span_id: array_at(bytes, 17),
            flags: bytes[25],
        };
        // Section 2.2 of the recommendation: these make a traceparent invalid.
        if context.version == u8::MAX || context.trace_id == [0; 16] || context.span_id == [0; 8] {
            return Err(PeerMisbehaved::TraceContextInvalid);
        }
        Ok(context)
    }

    pub(super) fn encode(&self) -> [u8; TRACE_CONTEXT_BYTES] {
        let mut out = [0; TRACE_CONTEXT_BYTES];
        out[0] = self.version;
        out[1..17].copy_from_slice(&self.trace_id);
        out[17..25].copy_from_slice(&self.span_id);
        out[25] = self.flags;
        out
    }
}

/// A service's own error, as its reply brings it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceError<'a> {
    /// The service's code.
    pub code: u32,
    /// The service's text. It is the application's, so it may hold any character: escape it before
    /// printing.
    pub text: &'a str,
}

impl<'a> ServiceError<'a> {
    pub(super) fn parse(value: &'a [u8]) -> Result<Self, PeerMisbehaved> {
        let (code, text) =
            value.split_first_chunk::<4>().ok_or_else(|| wrong_length(record_kind::ERROR, value))?;
        let text = text::utf8(TextField::ErrorText, text, 0, HEAD_BYTES_MAX)?;
        Ok(Self { code: u32::from_le_bytes(*code), text })
    }
}

/// Goes through the application's headers: key and value of each.
#[derive(Clone, Debug)]
pub struct ApplicationHeaders<'a> {
    list: &'a [u8],
    at: usize,
}

impl<'a> ApplicationHeaders<'a> {
    pub(super) const fn of(list: &'a [u8]) -> Self {
        Self { list, at: 0 }
    }

    fn check(list: &'a [u8]) -> Result<(), PeerMisbehaved> {
        let mut headers = Self::of(list);
        while headers.advance()?.is_some() {}
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<(&'a str, &'a [u8])>, PeerMisbehaved> {
        let rest = &self.list[self.at..];
        let Some((&key_bytes, rest)) = rest.split_first() else { return Ok(None) };
        let broken =
            PeerMisbehaved::ExtensionList { kind: record_kind::APPLICATION_HEADERS, offset: self.at as u16 };
        let (key, rest) = rest.split_at_checked(usize::from(key_bytes)).ok_or(broken)?;
        let (value_bytes, rest) = rest.split_first_chunk::<2>().ok_or(broken)?;
        let value_bytes = usize::from(u16::from_le_bytes(*value_bytes));
        let value = rest.get(..value_bytes).ok_or(broken)?;
        let key = text::printable(TextField::HeaderKey, key, 1, usize::from(u8::MAX))?;
        self.at += 1 + key.len() + 2 + value_bytes;
        Ok(Some((key, value)))
    }
}

impl<'a> Iterator for ApplicationHeaders<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().ok().flatten()
    }
}

fn check_securities(value: &[u8]) -> Result<(), PeerMisbehaved> {
    if value.is_empty() || !value.len().is_multiple_of(2) {
        return Err(wrong_length(hello_kind::SECURITY, value));
    }
    Ok(())
}

pub(in crate::proto) fn process_name(value: &[u8]) -> Result<&str, PeerMisbehaved> {
    text::printable(TextField::ProcessName, value, 1, PROCESS_NAME_BYTES_MAX)
}

/// A wire that an end could change to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireOffer<'a> {
    /// Which kind of wire.
    pub wire: u16,
    /// What the wire itself needs to know; only that kind of wire reads it.
    pub data: &'a [u8],
}

/// Goes through the wires that a hello offers.
#[derive(Clone, Debug)]
pub struct WireOffers<'a> {
    list: &'a [u8],
    at: usize,
}

impl<'a> WireOffers<'a> {
    pub(in crate::proto) const fn of(list: &'a [u8]) -> Self {
        Self { list, at: 0 }
    }

    fn check(list: &'a [u8]) -> Result<(), PeerMisbehaved> {
        let mut offers = Self::of(list);
        while offers.advance()?.is_some() {}
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<WireOffer<'a>>, PeerMisbehaved> {
        let rest = &self.list[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let broken = PeerMisbehaved::ExtensionList { kind: hello_kind::WIRES, offset: self.at as u16 };
        let head = rest.first_chunk::<4>().ok_or(broken)?;
        let data_bytes = usize::from(u16_at(head, 2));
        let data = rest.get(4..4 + data_bytes).ok_or(broken)?;
        self.at += 4 + data_bytes;
        Ok(Some(WireOffer { wire: u16_at(head, 0), data }))
    }
}

impl<'a> Iterator for WireOffers<'a> {
    type Item = WireOffer<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().ok().flatten()
    }
}
