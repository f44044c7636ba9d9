//! Writing extensions.

use super::{
    Extension, ExtensionScope, HEAD_BYTES, MUST_UNDERSTAND, TraceContext, WireOffer, hello_kind, record_kind,
    value,
};
use crate::proto::hello::SecurityKind;
use crate::proto::text::Name;
use crate::proto::{EncodeError, PeerMisbehaved, record_aligned};

/// Writes the extensions of one record or hello into a place of the caller's, without allocation.
///
/// They must be added in ascending order of their types. What does not fit or would be refused leaves
/// what was written before as it was.
#[derive(Debug)]
pub struct ExtensionWriter<'a> {
    out: &'a mut [u8],
    written: usize,
    previous: u16,
    scope: ExtensionScope,
}

impl<'a> ExtensionWriter<'a> {
    /// Writes extensions of a record to the beginning of `out`.
    pub const fn new(out: &'a mut [u8]) -> Self {
        Self { out, written: 0, previous: 0, scope: ExtensionScope::Record }
    }

    /// Writes extensions of an offered message to the beginning of `out`.
    pub const fn of_offer(out: &'a mut [u8]) -> Self {
        Self { out, written: 0, previous: 0, scope: ExtensionScope::OfferedRecord }
    }

    pub(in crate::proto) const fn of_hello(out: &'a mut [u8]) -> Self {
        Self { out, written: 0, previous: 0, scope: ExtensionScope::Hello }
    }

    /// Bytes written, a multiple of 8: the extensions for
    /// [`crate::proto::record::MessageHead::encode_into`] are so much of the place.
    pub const fn written(&self) -> usize {
        self.written
    }

    /// The name of the destination.
    ///
    /// # Errors
    /// [`EncodeError::NoRoom`]; [`EncodeError::Extension`] if a later type was written before.
    pub fn destination(&mut self, name: Name<'_>) -> Result<&mut Self, EncodeError> {
        self.put(record_kind::DESTINATION, [name.as_str().as_bytes()])
    }

    /// The trace that the message belongs to.
    ///
    /// # Errors
    /// As [`ExtensionWriter::destination`], and [`EncodeError::Extension`] if the context is invalid.
    pub fn trace_context(&mut self, context: &TraceContext) -> Result<&mut Self, EncodeError> {
        self.put(record_kind::TRACE_CONTEXT, [context.encode().as_slice()])
    }

    /// The application's headers. Keys have 1 to 255 bytes without control characters; values are
    /// bytes.
    ///
    /// # Errors
    /// As [`ExtensionWriter::destination`], and [`EncodeError::Extension`] if a key or a value is
    /// beyond its bounds.
    pub fn application_headers<'h, I>(&mut self, headers: I) -> Result<&mut Self, EncodeError>
    where
        I: IntoIterator<Item = (&'h str, &'h [u8])>,
    {
        self.list(record_kind::APPLICATION_HEADERS, |body, kind| {
            for (key, value) in headers {
                let key_bytes = u8::try_from(key.len()).map_err(|_| too_long(kind, key.len()))?;
                let value_bytes = u16::try_from(value.len()).map_err(|_| too_long(kind, value.len()))?;
                body.push(&[key_bytes])?;
                body.push(key.as_bytes())?;
                body.push(&value_bytes.to_le_bytes())?;
                body.push(value)?;
            }
            Ok(())
        })
    }

    /// The error that a failed reply reports.
    ///
    /// # Errors
    /// As [`ExtensionWriter::destination`].
    pub fn error(&mut self, code: u32, text: &str) -> Result<&mut Self, EncodeError> {
        self.put(record_kind::ERROR, [code.to_le_bytes().as_slice(), text.as_bytes()])
    }

    /// Where the body of an offered message can be read, behind everything else. The writer must have
    /// been made by [`ExtensionWriter::of_offer`].
    ///
    /// # Errors
    /// As [`ExtensionWriter::destination`], and [`EncodeError::Extension`] if the descriptor is empty
    /// or too long.
    pub fn offer(&mut self, descriptor: &[u8]) -> Result<&mut Self, EncodeError> {
        self.put(record_kind::OFFER | MUST_UNDERSTAND, [descriptor])
    }

    /// Any extension as it is, known or not.
    ///
    /// # Errors
    /// As [`ExtensionWriter::destination`], and [`EncodeError::Extension`] if a peer of version 1
    /// would refuse it; an unknown one with the mark, however, is for a peer that knows it.
    pub fn extension(&mut self, extension: &Extension<'_>) -> Result<&mut Self, EncodeError> {
        let mark = if extension.must_understand { MUST_UNDERSTAND } else { 0 };
        self.put(extension.kind | mark, [extension.value])
    }

    pub(in crate::proto) fn securities(&mut self, kinds: &[SecurityKind]) -> Result<&mut Self, EncodeError> {
        self.list(hello_kind::SECURITY, |body, _| {
            kinds.iter().try_for_each(|kind| body.push(&kind.0.to_le_bytes()))
        })
    }

    pub(in crate::proto) fn wires(&mut self, offers: &[WireOffer<'_>]) -> Result<&mut Self, EncodeError> {
        self.list(hello_kind::WIRES, |body, kind| {
            for offer in offers {
                let data_bytes =
                    u16::try_from(offer.data.len()).map_err(|_| too_long(kind, offer.data.len()))?;
                body.push(&offer.wire.to_le_bytes())?;
                body.push(&data_bytes.to_le_bytes())?;
                body.push(offer.data)?;
            }
            Ok(())
        })
    }

    pub(in crate::proto) fn process_name(&mut self, name: &str) -> Result<&mut Self, EncodeError> {
        self.put(hello_kind::PROCESS_NAME, [name.as_bytes()])
    }

    fn put<const N: usize>(&mut self, tag: u16, parts: [&[u8]; N]) -> Result<&mut Self, EncodeError> {
        self.list(tag, |body, _| parts.iter().try_for_each(|part| body.push(part)))
    }

    /// Writes one entry whose value `fill` pushes piece by piece.
    fn list(
        &mut self,
        tag: u16,
        fill: impl FnOnce(&mut Body<'_>, u16) -> Result<(), EncodeError>,
    ) -> Result<&mut Self, EncodeError> {
        let kind = tag & !MUST_UNDERSTAND;
        if kind <= self.previous {
            let previous = self.previous;
            return Err(EncodeError::Extension(PeerMisbehaved::ExtensionOrder { kind, previous }));
        }
        let start = self.written;
        let mut body = Body { out: self.out, end: start };
        body.push(&tag.to_le_bytes())?;
        body.push(&[0; 2])?;
        fill(&mut body, kind)?;
        let value_end = body.end;
        let length = value_end - start - HEAD_BYTES;
        let value_bytes = u16::try_from(length).map_err(|_| too_long(kind, length))?;
        body.push(&[0; 7][..record_aligned(value_end) - value_end])?;
        let end = body.end;
        self.out[start + 2..start + HEAD_BYTES].copy_from_slice(&value_bytes.to_le_bytes());
        // The mark is for the peer: what this end does not know it may still write.
        let value = &self.out[start + HEAD_BYTES..value_end];
        let extension = Extension { kind, must_understand: false, value };
        value::check(self.scope, &extension).map_err(EncodeError::Extension)?;
        self.written = end;
        self.previous = kind;
        Ok(self)
    }
}

/// The place, and how far it is written with the entry that is being added.
struct Body<'a> {
    out: &'a mut [u8],
    end: usize,
}

impl Body<'_> {
    fn push(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        let (needed, room) = (self.end + bytes.len(), self.out.len());
        let place = self.out.get_mut(self.end..needed).ok_or(EncodeError::NoRoom { needed, room })?;
        place.copy_from_slice(bytes);
        self.end = needed;
        Ok(())
    }
}

fn too_long(kind: u16, bytes: usize) -> EncodeError {
    let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
    EncodeError::Extension(PeerMisbehaved::ExtensionValue { kind, bytes })
}
