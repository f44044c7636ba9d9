//! The end that was connected to.

use super::{CheckedEnd, LocalEnd, LocalFault, Negotiated, is_resumed};
use crate::proto::control::RefusalCode;
use crate::proto::hello::{
    Capabilities, ClientHello, HelloBody, HelloExtensions, HelloRole, Prefix, Refusal, SecurityKind,
    ServerHello, SessionTerms, VersionRange,
};
use crate::proto::{Parameters, PeerMisbehaved, STREAMS};

/// A server that waits for a client's hello.
#[derive(Clone, Debug)]
pub struct AwaitClientHello {
    local: CheckedEnd,
}

/// A client's hello that this server can work with. What is left to decide is the session, and
/// whether this process is welcome.
#[derive(Debug)]
pub struct Proposal {
    local: CheckedEnd,
    version: u16,
    security: SecurityKind,
    extensions: HelloExtensions,
    client: ClientHello,
}

/// A client that is not accepted: why, and what to tell it before the connection is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// Why, for the log and the counters.
    pub reason: RefusalReason,
    /// The bytes to be sent. Empty if the peer does not speak this protocol at all.
    pub reply: Vec<u8>,
}

/// Why a client is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefusalReason {
    /// Its hello broke the protocol.
    #[error(transparent)]
    Misbehaved(#[from] PeerMisbehaved),
    /// No version in common.
    #[error("the client speaks version {client}, this end version {server}")]
    UnsupportedVersion {
        /// What the client speaks.
        client: VersionRange,
        /// What this end speaks.
        server: VersionRange,
    },
    /// No security in common.
    #[error("the client offers none of the securities that this end accepts ({accepted:?})")]
    NoCommonSecurity {
        /// What this end accepts.
        accepted: Vec<SecurityKind>,
    },
    /// Decided above this layer.
    #[error("{text}")]
    Policy {
        /// The code that was told.
        code: RefusalCode,
        /// The text that was told.
        text: String,
    },
}

impl RefusalReason {
    /// The code that the client is told.
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::Misbehaved(PeerMisbehaved::ImpossibleParameters(_) | PeerMisbehaved::LaneCount { .. }) => {
                RefusalCode::ImpossibleParameters
            }
            Self::Misbehaved(_) => RefusalCode::MalformedHello,
            Self::UnsupportedVersion { .. } => RefusalCode::UnsupportedVersion,
            Self::NoCommonSecurity { .. } => RefusalCode::NoCommonSecurity,
            Self::Policy { code, .. } => *code,
        }
    }
}

impl From<RefusalReason> for Refused {
    fn from(reason: RefusalReason) -> Self {
        // What is not this protocol gets no answer in it.
        let silent = matches!(reason, RefusalReason::Misbehaved(PeerMisbehaved::NotUnderlay { .. }));
        let refusal = Refusal::new(VersionRange::SUPPORTED, reason.code(), &reason.to_string());
        let reply = if silent { Vec::new() } else { refusal.encode() };
        Self { reason, reply }
    }
}

impl From<PeerMisbehaved> for Refused {
    fn from(violation: PeerMisbehaved) -> Self {
        RefusalReason::Misbehaved(violation).into()
    }
}

impl AwaitClientHello {
    /// A server that brings `local` to each handshake.
    ///
    /// # Errors
    /// [`LocalFault`] if `local` cannot be said in a hello.
    pub fn new(local: LocalEnd) -> Result<Self, LocalFault> {
        CheckedEnd::new(local).map(|local| Self { local })
    }

    /// How many bytes the hello has, as soon as it shows; to be asked whenever more have arrived.
    ///
    /// # Errors
    /// What is wrong with the hello as soon as it shows: a wrong magic at its first wrong byte, a
    /// version or a length that cannot be served after 16 bytes.
    pub fn hello_bytes(&self, received: &[u8]) -> Result<Option<usize>, Refused> {
        let Some(prefix) = Prefix::check(received)? else { return Ok(None) };
        if prefix.role != HelloRole::Client {
            return Err(PeerMisbehaved::HelloRole { role: prefix.role as u8 }.into());
        }
        common_version(prefix.versions)?;
        Ok(Some(usize::from(prefix.hello_bytes)))
    }

    /// Takes the whole hello and nothing else.
    ///
    /// # Errors
    /// [`Refused`], with what to tell the client.
    pub fn handle(self, hello: &[u8]) -> Result<Proposal, Refused> {
        self.hello_bytes(hello)?;
        let client = ClientHello::parse(hello)?;
        let version = common_version(client.versions)?;
        let local = self.local;
        let accepted = &local.end.securities;
        let offered: Vec<_> = client.body.extensions.securities().collect();
        let Some(security) = accepted.iter().copied().find(|security| offered.contains(security)) else {
            return Err(RefusalReason::NoCommonSecurity { accepted: accepted.clone() }.into());
        };
        let extensions = match local.extensions(&[security]) {
            Ok(extensions) => extensions,
            Err(error) => return Err(policy(RefusalCode::InternalError, &error.to_string())),
        };
        Ok(Proposal { local, version, security, extensions, client })
    }

    /// Refuses whoever is there, whatever it has said.
    pub fn refuse(self, code: RefusalCode, text: &str) -> Refused {
        policy(code, text)
    }
}

impl Proposal {
    /// What the client said.
    pub const fn client(&self) -> &ClientHello {
        &self.client
    }

    /// The sizes and times that an acceptance would settle.
    pub fn parameters(&self) -> Parameters {
        self.local.end.parameters.smaller_of(&self.client.body.parameters)
    }

    /// The capabilities that an acceptance would settle.
    pub const fn capabilities(&self) -> Capabilities {
        self.local.end.capabilities.common(self.client.body.capabilities)
    }

    /// Does not take these capabilities, whatever the client offers.
    pub fn withhold(&mut self, capabilities: Capabilities) {
        self.local.end.capabilities = self.local.end.capabilities.without(capabilities);
    }

    /// Accepts: what is settled, and the hello to be sent.
    ///
    /// `session` resumes the client's session by naming it. Its expiry is reduced to what the client
    /// proposed; its positions are left out unless it resumes.
    pub fn accept(self, session: SessionTerms) -> (Negotiated, Vec<u8>) {
        let asked = self.client.body.session;
        let resumed = is_resumed(&asked, &session);
        let position = |resume| if resumed { resume } else { [0; STREAMS] };
        let session = SessionTerms {
            expiry_ms: session.expiry_ms.min(asked.expiry_ms),
            resume: position(session.resume),
            ..session
        };
        let (parameters, capabilities) = (self.parameters(), self.capabilities());
        let process = self.local.end.process;
        // Room for a proof and a token was checked with the rest of what this end says.
        let extensions = self.extensions.with_session(&session).unwrap_or(self.extensions);
        let body = HelloBody { capabilities, process, session, parameters, extensions };
        let hello = ServerHello { version: self.version, body };
        let negotiated = Negotiated {
            version: self.version,
            capabilities,
            parameters,
            security: self.security,
            session,
            send_from: position(asked.resume),
            receive_from: session.resume,
            peer: self.client.body.process,
            peer_extensions: self.client.body.extensions,
        };
        (negotiated, hello.encode())
    }

    /// Refuses a client whose hello was right.
    pub fn refuse(self, code: RefusalCode, text: &str) -> Refused {
        policy(code, text)
    }
}

fn common_version(client: VersionRange) -> Result<u16, RefusalReason> {
    let server = VersionRange::SUPPORTED;
    client.newest_common(server).ok_or(RefusalReason::UnsupportedVersion { client, server })
}

fn policy(code: RefusalCode, text: &str) -> Refused {
    RefusalReason::Policy { code, text: text.to_owned() }.into()
}
