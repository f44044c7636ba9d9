//! By what both ends know a session: its name, its epoch, its tokens.

use crate::proto::hello::SessionTerms;
use crate::proto::{SessionId, SessionProof, SessionToken};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// Numbers that nobody can guess who does not know the seed: SHA-256 of the seed and a count.
///
/// For names and tokens, a few for each connection. The seed is its owner's to draw.
#[derive(Debug, Clone)]
pub struct Random {
    seed: [u8; 32],
    drawn: u64,
}

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: [u8; 32]) -> Self {
        Self { seed, drawn: 0 }
    }

    /// Thirty-two bytes.
    pub fn bytes(&mut self) -> [u8; 32] {
        self.drawn += 1;
        Sha256::new().chain_update(self.seed).chain_update(self.drawn.to_le_bytes()).finalize().into()
    }

    /// Eight of them, as a number.
    pub fn number(&mut self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// A name for a session.
    pub fn session_id(&mut self) -> SessionId {
        loop {
            let bytes = self.bytes();
            let mut name = [0; 16];
            name.copy_from_slice(&bytes[..16]);
            // Zeros are no session; they come once in 2^128 times.
            if let Some(id) = SessionId::new(name) {
                return id;
            }
        }
    }

    /// A token.
    pub fn token(&mut self) -> SessionToken {
        SessionToken(self.bytes())
    }
}

/// The session as its two ends have agreed on it.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) id: SessionId,
    pub(super) epoch: u32,
    pub(super) expiry: Duration,
    /// What resumes it next.
    token: SessionToken,
    /// Of a server: what it has given since, and has no sign yet that the client knows it.
    given: Option<SessionToken>,
}

impl Terms {
    /// What a handshake has settled; `None` if nothing outlives the connection.
    pub(super) fn settled(terms: &SessionTerms) -> Option<Self> {
        let (Some(id), Some(token), expiry_ms @ 1..) = (terms.session, terms.token, terms.expiry_ms) else {
            return None;
        };
        let expiry = Duration::from_millis(expiry_ms.into());
        Some(Self { id, epoch: terms.epoch, expiry, token, given: None })
    }

    /// The token that a client shows the proof of, if it may: the one that holds, or the one that was given last.
    pub(super) fn shown(&self, proof: Option<SessionProof>) -> Option<SessionToken> {
        let proof = proof?;
        let mut tokens = std::iter::once(self.token).chain(self.given);
        tokens.find(|token| is_same(&proof, &token.client_proof()))
    }

    /// A server gives the next token to a client that has shown this one.
    pub(super) fn give(&mut self, shown: SessionToken, next: SessionToken) {
        self.token = shown;
        self.given = Some(next);
    }

    /// The client has spoken after it was given a token: the one before is void.
    pub(super) fn confirm(&mut self) {
        if let Some(given) = self.given.take() {
            self.token = given;
        }
    }

    /// What a client shows, and what it expects to be shown.
    pub(super) fn proofs(&self) -> (SessionProof, SessionProof) {
        (self.token.client_proof(), self.token.server_proof())
    }

    /// A client was given the next token.
    pub(super) fn renew(&mut self, terms: &SessionTerms) {
        self.epoch = terms.epoch;
        if let Some(token) = terms.token {
            self.token = token;
        }
    }
}

/// Compares proofs in a time that does not tell how much of a wrong one was right.
fn is_same(shown: &SessionProof, right: &SessionProof) -> bool {
    let differing =
        shown.0.iter().zip(&right.0).fold(0, |differing, (shown, right)| differing | (shown ^ right));
    std::hint::black_box(differing) == 0
}
