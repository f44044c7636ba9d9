//! Bounded text: the only strings that the protocol carries.
//!
//! A [`Name`] or a [`ReasonText`] exists only if it meets its bounds, so encoding one cannot fail, and
//! printing what a hostile peer sent cannot move a terminal's cursor or forge a line of a log.

use std::fmt;

use super::PeerMisbehaved;

/// The longest name of a destination, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// The longest text that goes with a code, in bytes.
pub const REASON_BYTES_MAX: usize = 255;

/// The longest name of a process, in bytes.
pub const PROCESS_NAME_BYTES_MAX: usize = 64;

/// Which text a violation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextField {
    /// The name of a destination.
    Destination,
    /// The name of a process.
    ProcessName,
    /// The text beside a code.
    Reason,
    /// The text of a service's error.
    ErrorText,
    /// The key of an application's header.
    HeaderKey,
}

impl fmt::Display for TextField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Destination => "a destination",
            Self::ProcessName => "a process name",
            Self::Reason => "a reason",
            Self::ErrorText => "an error's text",
            Self::HeaderKey => "a header's key",
        })
    }
}

/// The name of a destination: 1 to 255 bytes of UTF-8 without control characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name<'a>(&'a str);

impl<'a> Name<'a> {
    /// Checks the bounds of a name.
    ///
    /// # Errors
    /// One of the `Text...` variants, when the name is empty, too long or has a control character.
    pub fn new(name: &'a str) -> Result<Self, PeerMisbehaved> {
        Self::parse(name.as_bytes())
    }

    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, PeerMisbehaved> {
        printable(TextField::Destination, bytes, 1, NAME_BYTES_MAX).map(Self)
    }

    /// The name.
    pub const fn as_str(self) -> &'a str {
        self.0
    }
}

/// What a person reads beside a code: up to 255 bytes of UTF-8 without control characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReasonText<'a>(&'a str);

impl<'a> ReasonText<'a> {
    /// As much of the text as fits, cut before the first control character.
    pub fn of(text: &'a str) -> Self {
        let printable_end = text.find(char::is_control).unwrap_or(text.len());
        Self(&text[..text[..printable_end].floor_char_boundary(REASON_BYTES_MAX)])
    }

    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, PeerMisbehaved> {
        printable(TextField::Reason, bytes, 0, REASON_BYTES_MAX).map(Self)
    }

    /// The text.
    pub const fn as_str(self) -> &'a str {
        self.0
    }
}

/// Text within bounds and without control characters.
pub(super) fn printable(
    field: TextField,
    bytes: &[u8],
    bytes_min: usize,
    bytes_max: usize,
) -> Result<&str, PeerMisbehaved> {
    let text = utf8(field, bytes, bytes_min, bytes_max)?;
    match text.find(char::is_control) {
        None => Ok(text),
        Some(offset) => Err(PeerMisbehaved::TextControlCharacter { field, offset: offset as u32 }),
    }
}

/// Text within bounds, whatever its characters.
pub(super) fn utf8(
    field: TextField,
    bytes: &[u8],
    bytes_min: usize,
    bytes_max: usize,
) -> Result<&str, PeerMisbehaved> {
    if bytes.len() < bytes_min {
        return Err(PeerMisbehaved::TextEmpty { field });
    }
    if bytes.len() > bytes_max {
        return Err(PeerMisbehaved::TextTooLong {
            field,
            bytes: bytes.len() as u32,
            limit: bytes_max as u32,
        });
    }
    std::str::from_utf8(bytes)
        .map_err(|error| PeerMisbehaved::TextNotUtf8 { field, offset: error.valid_up_to() as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_bounds() {
        assert!(Name::new("orders.eu").is_ok());
        assert!(Name::new(&"x".repeat(255)).is_ok());
        assert!(matches!(Name::new(""), Err(PeerMisbehaved::TextEmpty { .. })));
        assert!(matches!(Name::new(&"x".repeat(256)), Err(PeerMisbehaved::TextTooLong { bytes: 256, .. })));
        assert!(matches!(Name::new("a\nb"), Err(PeerMisbehaved::TextControlCharacter { offset: 1, .. })));
    }

    #[test]
    fn a_reason_is_cut_at_a_character_and_before_control_characters() {
        let long = "é".repeat(200);
        assert_eq!(ReasonText::of(&long).as_str().len(), 254);
        assert_eq!(ReasonText::of("one\ntwo").as_str(), "one");
        assert_eq!(ReasonText::of("").as_str(), "");
    }
}
