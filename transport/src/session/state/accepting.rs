//! The handshake of the end that was connected to.

use super::{Session, State, expiry_ms, millis};
use crate::connection::Connection;
use crate::proto::control::RefusalCode;
use crate::proto::handshake::Proposal;
use crate::proto::hello::{Capabilities, SessionTerms};
use crate::proto::{PeerMisbehaved, SessionId, SessionToken};
use crate::session::PATHS_MAX;
use crate::time::Timestamp;

impl Session {
    /// What the client of a path proposes that waits for a decision.
    pub fn proposal(&self, path: usize) -> Option<&Proposal> {
        self.paths[path].as_ref()?.connection.proposal()
    }

    /// Accepts a new session, under this name and with this token for its next connection. With neither, or if the
    /// client wants none, nothing outlives the connection.
    pub fn accept(&mut self, path: usize, id: SessionId, token: SessionToken) {
        let Some(path) = &mut self.paths[path] else { return };
        let Some(proposal) = path.connection.proposal() else { return };
        let wanted = proposal.client().body.session;
        let expiry_ms = expiry_ms(&self.common.session).min(wanted.expiry_ms);
        let terms = if expiry_ms == 0 {
            path.connection.withhold(Capabilities::ONE_SIDED_READS);
            SessionTerms::default()
        } else {
            let epoch = wanted.epoch;
            SessionTerms {
                session: Some(id),
                epoch,
                expiry_ms,
                token: Some(token),
                ..SessionTerms::default()
            }
        };
        path.connection.accept(terms);
    }

    /// Refuses the client of a path.
    pub fn refuse(&mut self, path: usize, code: RefusalCode, text: &str, now: Timestamp) {
        if let Some(path) = &mut self.paths[path] {
            path.connection.refuse(code, text, now);
        }
    }

    /// Takes a path out, to be a connection of another session.
    pub(crate) fn take_path(&mut self, path: usize) -> Option<Connection> {
        let path = self.paths[path].take()?;
        self.path_count -= 1;
        Some(path.connection)
    }

    /// Whether the session may go on over the connection of a client that proposes this; with the token that it has
    /// shown, if so.
    ///
    /// # Errors
    /// A code and a text for the client. Whoever does not know the token learns no more than that.
    pub fn check_resume(&self, proposal: &Proposal) -> Result<SessionToken, (RefusalCode, String)> {
        let unknown = || (RefusalCode::SessionUnknown, SESSION_UNKNOWN.to_owned());
        let (asked, peer) = (&proposal.client().body.session, proposal.client().body.process);
        let (Some(terms), Some(streams)) = (&self.terms, &self.streams) else { return Err(unknown()) };
        let is_peer = self
            .peer
            .is_some_and(|known| (known.process, known.incarnation) == (peer.process, peer.incarnation));
        if matches!(self.state, State::Ended | State::Opening) || self.closing.is_some() || !is_peer {
            return Err(unknown());
        }
        let token = terms.shown(asked.proof).ok_or_else(unknown)?;
        if !self.has_room() {
            let text =
                format!("the session has {PATHS_MAX} connections; try again when one of them has ended");
            return Err((RefusalCode::ResourceLimit, text));
        }
        if asked.epoch <= terms.epoch {
            let text = format!("epoch {} is over; the session is in epoch {}", asked.epoch, terms.epoch);
            return Err((RefusalCode::Overtaken, text));
        }
        let checked = streams.check_resume(&proposal.parameters(), &asked.resume);
        checked.map(|()| token).map_err(|violation| match violation {
            // It has acknowledged more since it said this: it has given the attempt up.
            PeerMisbehaved::ResumePosition { found, acknowledged, .. } if found < acknowledged => {
                (RefusalCode::Overtaken, violation.to_string())
            }
            _ => (RefusalCode::MalformedHello, violation.to_string()),
        })
    }

    /// Goes on over the connection of a client whose proposal was checked; `next` is the token for the time after. Says
    /// which path it is, unless there was no room. The switch comes with the next [`Session::poll_event`].
    pub(crate) fn resume(
        &mut self,
        mut connection: Connection,
        shown: SessionToken,
        next: SessionToken,
    ) -> Option<usize> {
        if let (Some(terms), Some(streams), Some(proposal)) =
            (&mut self.terms, &mut self.streams, connection.proposal())
        {
            streams.received.hold_back();
            terms.epoch = proposal.client().body.session.epoch;
            terms.give(shown, next);
            let answer = SessionTerms {
                session: Some(terms.id),
                epoch: terms.epoch,
                expiry_ms: millis(terms.expiry),
                resume: streams.received.positions(),
                proof: Some(shown.server_proof()),
                token: Some(next),
            };
            self.withhold_reads(&mut connection);
            connection.accept(answer);
        }
        // Only what the newest hello gave counts from now on.
        self.paths.iter_mut().flatten().for_each(|path| path.gave_token = false);
        let index = self.add_path(connection)?;
        if let Some(path) = &mut self.paths[index] {
            path.gave_token = true;
        }
        Some(index)
    }

    /// Its name, if it outlives its connections.
    pub fn id(&self) -> Option<SessionId> {
        self.terms.as_ref().map(|terms| terms.id)
    }
}

/// What a client is told that asks for a session which is not here, or which is not its own.
pub const SESSION_UNKNOWN: &str = "no session of this name can be resumed with this proof";
