//! An end asks to be left.

use super::{expect_at_least, put_trailing, trailing};
use crate::proto::PeerMisbehaved;
use crate::proto::bytes::{check_reserved, put, u16_at, u32_at};
use crate::proto::text::ReasonText;

/// Asks the peer to go elsewhere. The speaker serves as before until then, and closes by itself; said again, the later
/// one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave<'a> {
    /// So long the speaker still waits.
    pub within_ms: u32,
    /// For people.
    pub text: ReasonText<'a>,
}

impl<'a> Leave<'a> {
    pub(super) const TEXT_AT: usize = 16;

    pub(super) fn parse(record: &'a [u8]) -> Result<Self, PeerMisbehaved> {
        expect_at_least(record, Self::TEXT_AT)?;
        check_reserved(record, 14, 2)?;
        let text = trailing(record, Self::TEXT_AT, u16_at(record, 12))?;
        Ok(Self { within_ms: u32_at(record, 8), text: ReasonText::parse(text)? })
    }

    pub(super) fn write(&self, out: &mut [u8]) {
        put(out, 8, self.within_ms.to_le_bytes());
        put(out, 12, (self.text.as_str().len() as u16).to_le_bytes());
        put_trailing(out, Self::TEXT_AT, self.text.as_str().as_bytes());
    }
}
