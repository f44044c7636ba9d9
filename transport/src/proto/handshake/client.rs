//! The connecting end.

use super::{CheckedEnd, LocalEnd, LocalFault, Negotiated, is_resumed};
use crate::proto::hello::{
    ClientHello, HelloBody, HelloRole, Prefix, Refusal, SecurityKind, ServerHello, SessionTerms, VersionRange,
};
use crate::proto::{Parameter, PeerMisbehaved, STREAMS};

/// A client that has proposed and waits for the answer.
#[derive(Debug)]
pub struct AwaitServerHello {
    hello: ClientHello,
}

/// Why a client has no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectFailed {
    /// The server said why it does not want this client.
    #[error("the server refuses ({:?}): {}", .0.code, .0.text())]
    Refused(Refusal),
    /// The server broke the protocol.
    #[error(transparent)]
    Misbehaved(#[from] PeerMisbehaved),
}

impl AwaitServerHello {
    /// Begins a handshake: the state, and the hello to be sent.
    ///
    /// # Errors
    /// [`LocalFault`] if `local` cannot be said in a hello.
    pub fn start(local: LocalEnd, session: SessionTerms) -> Result<(Self, Vec<u8>), LocalFault> {
        let local = CheckedEnd::new(local)?;
        let extensions = local.extensions(&local.end.securities)?.with_session(&session)?;
        let end = local.end;
        let body = HelloBody {
            capabilities: end.capabilities,
            process: end.process,
            session,
            parameters: end.parameters,
            extensions,
        };
        let hello = ClientHello { versions: VersionRange::SUPPORTED, body };
        let bytes = hello.encode();
        Ok((Self { hello }, bytes))
    }

    /// How many bytes the answer has, as soon as it shows; to be asked whenever more have arrived.
    ///
    /// # Errors
    /// What is wrong with the answer as soon as it shows.
    pub fn answer_bytes(&self, received: &[u8]) -> Result<Option<usize>, PeerMisbehaved> {
        let prefix = Prefix::check(received)?;
        if let Some(Prefix { role: HelloRole::Client, .. }) = prefix {
            return Err(PeerMisbehaved::HelloRole { role: HelloRole::Client as u8 });
        }
        Ok(prefix.map(|prefix| usize::from(prefix.hello_bytes)))
    }

    /// Takes the whole answer and nothing else.
    ///
    /// # Errors
    /// [`ConnectFailed`].
    pub fn handle(self, answer: &[u8]) -> Result<Negotiated, ConnectFailed> {
        if let Some(Prefix { role: HelloRole::Refusal, .. }) = Prefix::check(answer)? {
            return Err(ConnectFailed::Refused(Refusal::parse(answer)?));
        }
        let server = ServerHello::parse(answer)?;
        let security = self.check(&server)?;
        self.check_session(&server.body.session)?;
        let resumed = is_resumed(&self.hello.body.session, &server.body.session);
        let position = |resume| if resumed { resume } else { [0; STREAMS] };
        Ok(Negotiated {
            version: server.version,
            capabilities: server.body.capabilities,
            parameters: server.body.parameters,
            security,
            session: server.body.session,
            send_from: position(server.body.session.resume),
            receive_from: position(self.hello.body.session.resume),
            peer: server.body.process,
            peer_extensions: server.body.extensions,
        })
    }

    /// Whether the answer keeps to the proposal; the security that was chosen.
    fn check(&self, server: &ServerHello) -> Result<SecurityKind, PeerMisbehaved> {
        let (versions, offer, answer) = (self.hello.versions, &self.hello.body, &server.body);
        if versions.newest_common(VersionRange::only(server.version)).is_none() {
            return Err(PeerMisbehaved::VersionNotOffered {
                version: server.version,
                min: versions.min(),
                max: versions.max(),
            });
        }
        if !offer.capabilities.contains(answer.capabilities) {
            let (found, offered) = (answer.capabilities.0, offer.capabilities.0);
            return Err(PeerMisbehaved::CapabilitiesNotOffered { found, offered });
        }
        if let Some((parameter, value, limit)) = answer.parameters.exceeds(&offer.parameters) {
            return Err(PeerMisbehaved::ParameterExceedsProposal { parameter, value, limit });
        }
        let (value, limit) = (answer.session.expiry_ms.into(), offer.session.expiry_ms.into());
        if value > limit {
            return Err(PeerMisbehaved::ParameterExceedsProposal {
                parameter: Parameter::ExpiryMs,
                value,
                limit,
            });
        }
        self.check_security(answer)
    }

    /// A session that is resumed keeps its epoch; one that outlives the connection has a token for the next time.
    /// Whether the server's proof is right, only the session can tell.
    fn check_session(&self, answer: &SessionTerms) -> Result<(), PeerMisbehaved> {
        let asked = &self.hello.body.session;
        if is_resumed(asked, answer) && answer.epoch != asked.epoch {
            return Err(PeerMisbehaved::SessionEpoch { found: answer.epoch, expected: asked.epoch });
        }
        if answer.session.is_some() && answer.expiry_ms > 0 && answer.token.is_none() {
            return Err(PeerMisbehaved::SessionTokenMissing);
        }
        Ok(())
    }

    fn check_security(&self, answer: &HelloBody) -> Result<SecurityKind, PeerMisbehaved> {
        let mut chosen = answer.extensions.securities();
        let (Some(security), None) = (chosen.next(), chosen.next()) else {
            let count = answer.extensions.securities().count() as u16;
            return Err(PeerMisbehaved::SecurityNotChosen { count });
        };
        if !self.hello.body.extensions.securities().any(|offered| offered == security) {
            return Err(PeerMisbehaved::SecurityNotOffered { kind: security.0 });
        }
        Ok(security)
    }
}
