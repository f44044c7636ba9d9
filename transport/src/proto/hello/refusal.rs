//! The refusal: what a server says instead of its hello. Its layout never changes.

use super::{HelloRole, Prefix, VersionRange};
use crate::proto::bytes::{check_zero, put, u16_at};
use crate::proto::control::RefusalCode;
use crate::proto::text::ReasonText;
use crate::proto::{PeerMisbehaved, whole_lines};

const TEXT_AT: usize = 20;

/// Why a server does not accept a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The versions that the server speaks.
    pub versions: VersionRange,
    /// Why.
    pub code: RefusalCode,
    text: String,
}

impl Refusal {
    /// A refusal with as much of the text as fits.
    pub fn new(versions: VersionRange, code: RefusalCode, text: &str) -> Self {
        Self { versions, code, text: ReasonText::of(text).as_str().to_owned() }
    }

    /// What there is to say beside the code: up to 255 bytes without control characters.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Parses a whole refusal.
    ///
    /// # Errors
    /// Whatever it breaks.
    pub fn parse(hello: &[u8]) -> Result<Self, PeerMisbehaved> {
        let prefix = Prefix::of_whole(hello, HelloRole::Refusal)?;
        let text_end = TEXT_AT + usize::from(u16_at(hello, 18));
        let hello_bytes = prefix.hello_bytes;
        let needed = whole_lines(text_end);
        if needed > hello.len() {
            return Err(PeerMisbehaved::HelloLength { hello_bytes, found: needed as u32 });
        }
        if needed < hello.len() {
            return Err(PeerMisbehaved::HelloLinesSpare { hello_bytes, needed: needed as u16 });
        }
        check_zero(&hello[text_end..], text_end)?;
        let text = ReasonText::parse(&hello[TEXT_AT..text_end])?.as_str().to_owned();
        Ok(Self { versions: prefix.versions, code: RefusalCode::of(u16_at(hello, 16)), text })
    }

    /// The refusal as it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let text_end = TEXT_AT + self.text.len();
        let mut out = vec![0; whole_lines(text_end)];
        let prefix =
            Prefix { role: HelloRole::Refusal, hello_bytes: out.len() as u16, versions: self.versions };
        prefix.write(&mut out);
        put(&mut out, 16, self.code.value().to_le_bytes());
        put(&mut out, 18, (self.text.len() as u16).to_le_bytes());
        out[TEXT_AT..text_end].copy_from_slice(self.text.as_bytes());
        out
    }
}
