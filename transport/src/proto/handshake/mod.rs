//! The handshake: two hellos, and what they settle.
//!
//! The client proposes ([`AwaitServerHello::start`]); the server merges the proposal with its own
//! ([`AwaitClientHello::handle`]), lets the session layer decide, and answers ([`Proposal::accept`]);
//! the client checks that the answer keeps to what it proposed ([`AwaitServerHello::handle`]). Each
//! step consumes the state before it, so none can be taken twice or left out, and each ends either in
//! [`Negotiated`] or with a reason that has a name. Timeouts are the caller's.

mod client;
mod server;

pub use client::{AwaitServerHello, ConnectFailed};
pub use server::{AwaitClientHello, Proposal, RefusalReason, Refused};

use super::extension::WireOffer;
use super::hello::{Capabilities, HelloExtensions, ProcessIdentity, SecurityKind, SessionTerms};
use super::{EncodeError, Limits, ParameterFault, Parameters, STREAMS, SessionProof, SessionToken};

/// What this end brings to a handshake.
#[derive(Clone, Debug)]
pub struct LocalEnd {
    /// What it can do beyond the least.
    pub capabilities: Capabilities,
    /// Which process it is.
    pub process: ProcessIdentity,
    /// Its sizes and times; each is negotiated to the smaller of both ends'.
    pub parameters: Parameters,
    /// The securities that it accepts, the best first. Empty means [`SecurityKind::NONE`] only.
    pub securities: Vec<SecurityKind>,
    /// The wires that it could change to, each with its kind and data.
    pub wires: Vec<(u16, Vec<u8>)>,
    /// Its name, for people: 1 to 64 bytes without control characters.
    pub name: Option<String>,
}

/// Why this end cannot shake hands with anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocalFault {
    /// Its own parameters cannot work.
    #[error("impossible parameters: {0}")]
    ImpossibleParameters(#[from] ParameterFault),
    /// Its name or its offers cannot be said in a hello.
    #[error("the hello cannot be written: {0}")]
    Hello(#[from] EncodeError),
}

/// What a handshake has settled. Both ends have the same values where they are not marked as the
/// peer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The version of the protocol.
    pub version: u16,
    /// What both ends can do beyond the least.
    pub capabilities: Capabilities,
    /// Sizes and times.
    pub parameters: Parameters,
    /// How frames are protected.
    pub security: SecurityKind,
    /// The session that holds, as the server said; its positions are the server's.
    pub session: SessionTerms,
    /// By stream, where this end goes on sending: zeros unless the session was resumed.
    pub send_from: [u64; STREAMS],
    /// By stream, where this end goes on receiving: zeros unless the session was resumed.
    pub receive_from: [u64; STREAMS],
    /// The peer's process.
    pub peer: ProcessIdentity,
    /// The peer's name and the wires it offered.
    pub peer_extensions: HelloExtensions,
}

impl Negotiated {
    /// What the parser of frames and records needs.
    pub const fn limits(&self) -> Limits {
        self.parameters.limits()
    }
}

/// A [`LocalEnd`] whose parameters have been found possible.
#[derive(Clone, Debug)]
struct CheckedEnd {
    end: LocalEnd,
}

impl CheckedEnd {
    fn new(mut end: LocalEnd) -> Result<Self, LocalFault> {
        end.parameters.check()?;
        if end.securities.is_empty() {
            end.securities.push(SecurityKind::NONE);
        }
        let checked = Self { end };
        // A server says one security instead of the list: what fits with the list fits without.
        let longest = SessionTerms {
            proof: Some(SessionProof([0; 32])),
            token: Some(SessionToken([0; 32])),
            ..SessionTerms::default()
        };
        checked.extensions(&checked.end.securities)?.with_session(&longest)?;
        Ok(checked)
    }

    fn extensions(&self, securities: &[SecurityKind]) -> Result<HelloExtensions, EncodeError> {
        let wires: Vec<_> = self
            .end
            .wires
            .iter()
            .map(|(wire, data)| WireOffer { wire: *wire, data: data.as_slice() })
            .collect();
        HelloExtensions::new(securities, &wires, self.end.name.as_deref())
    }
}

/// Where both directions go on: only a session that both hellos name is resumed.
fn is_resumed(asked: &SessionTerms, answered: &SessionTerms) -> bool {
    asked.session.is_some() && asked.session == answered.session
}
