//! The extensions of a hello, owned: a handshake keeps them for as long as it needs them.

use super::{FIXED_BYTES, HELLO_BYTES_MAX, SessionTerms};
use crate::proto::extension::{
    Extension, ExtensionScope, ExtensionWriter, Extensions, WireOffer, WireOffers, hello_kind, process_name,
};
use crate::proto::{EncodeError, PeerMisbehaved, SessionProof, SessionToken};

/// A way of protecting a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SecurityKind(pub u16);

impl SecurityKind {
    /// No protection: frames travel as they are.
    pub const NONE: Self = Self(0);

    /// Frames sealed one by one. Reserved: version 1 has the number, so that an end can offer it and
    /// be understood, and no implementation yet.
    pub const SEALED_FRAMES: Self = Self(1);
}

/// The extensions of a hello as they are on the wire, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HelloExtensions {
    entries: Vec<u8>,
}

impl HelloExtensions {
    /// Puts together what version 1 knows. An empty list of securities offers none, as
    /// [`SecurityKind::NONE`] does; so does an empty list of wires.
    ///
    /// # Errors
    /// [`EncodeError::HelloTooLong`] if they do not fit a hello of 4096 bytes;
    /// [`EncodeError::Extension`] if the name is not 1 to 64 bytes without control characters.
    pub fn new(
        securities: &[SecurityKind],
        wires: &[WireOffer<'_>],
        name: Option<&str>,
    ) -> Result<Self, EncodeError> {
        Self::write(|writer| {
            if !securities.is_empty() {
                writer.securities(securities)?;
            }
            if !wires.is_empty() {
                writer.wires(wires)?;
            }
            if let Some(name) = name {
                writer.process_name(name)?;
            }
            Ok(())
        })
    }

    /// These, and one more of a type behind all of them.
    ///
    /// # Errors
    /// As [`HelloExtensions::new`], and [`EncodeError::Extension`] if its type comes too early.
    pub fn with(&self, extension: &Extension<'_>) -> Result<Self, EncodeError> {
        Self::write(|writer| {
            for earlier in self.all() {
                writer.extension(&earlier)?;
            }
            writer.extension(extension).map(drop)
        })
    }

    /// These, and what a session's terms say beside their fixed fields.
    ///
    /// # Errors
    /// As [`HelloExtensions::new`].
    pub fn with_session(&self, terms: &SessionTerms) -> Result<Self, EncodeError> {
        let extension = |kind, value| Extension { kind, must_understand: false, value };
        let mut all = self.clone();
        if let Some(proof) = &terms.proof {
            all = all.with(&extension(hello_kind::SESSION_PROOF, &proof.0))?;
        }
        if let Some(token) = &terms.token {
            all = all.with(&extension(hello_kind::SESSION_TOKEN, &token.0))?;
        }
        Ok(all)
    }

    fn write(
        fill: impl FnOnce(&mut ExtensionWriter<'_>) -> Result<(), EncodeError>,
    ) -> Result<Self, EncodeError> {
        let mut entries = vec![0; HELLO_BYTES_MAX - FIXED_BYTES];
        let mut writer = ExtensionWriter::of_hello(&mut entries);
        fill(&mut writer).map_err(|error| match error {
            EncodeError::NoRoom { needed, .. } => EncodeError::HelloTooLong { bytes: FIXED_BYTES + needed },
            other => other,
        })?;
        let written = writer.written();
        entries.truncate(written);
        Ok(Self { entries })
    }

    pub(super) fn parse(area: &[u8], offset: usize) -> Result<Self, PeerMisbehaved> {
        let extensions = Extensions::parse(area, offset, ExtensionScope::Hello)?;
        Ok(Self { entries: extensions.as_bytes().to_vec() })
    }

    /// The entries as they are on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.entries
    }

    /// All of them, unknown ones included.
    pub const fn all(&self) -> Extensions<'_> {
        Extensions::already_checked(self.entries.as_slice())
    }

    /// The securities that are offered, or the one that was chosen. A hello that says nothing says
    /// [`SecurityKind::NONE`].
    pub fn securities(&self) -> impl Iterator<Item = SecurityKind> {
        const ONLY_NONE: &[u8] = &[0, 0];
        let list = self.all().value(hello_kind::SECURITY).unwrap_or(ONLY_NONE);
        let (kinds, _) = list.as_chunks();
        kinds.iter().map(|kind| SecurityKind(u16::from_le_bytes(*kind)))
    }

    /// The wires that its sender could change to.
    pub fn wires(&self) -> WireOffers<'_> {
        WireOffers::of(self.all().value(hello_kind::WIRES).unwrap_or_default())
    }

    /// That the speaker knows the token of the session.
    pub(super) fn session_proof(&self) -> Option<SessionProof> {
        self.all().value(hello_kind::SESSION_PROOF)?.try_into().ok().map(SessionProof)
    }

    /// By what the session is resumed next time.
    pub(super) fn session_token(&self) -> Option<SessionToken> {
        self.all().value(hello_kind::SESSION_TOKEN)?.try_into().ok().map(SessionToken)
    }

    /// The name of the process, for people.
    pub fn process_name(&self) -> Option<&str> {
        process_name(self.all().value(hello_kind::PROCESS_NAME)?).ok()
    }
}
