//! How a session goes on from connection to connection.

use super::{Session, State};
use crate::connection::{CloseReason, ConnectionEvent, Streams};
use crate::proto::control::RefusalCode;
use crate::proto::handshake::Negotiated;
use crate::proto::hello::Capabilities;
use crate::proto::{PeerMisbehaved, STREAMS};
use crate::session::terms::Terms;
use crate::time::Timestamp;
use std::time::Duration;

impl Session {
    /// The handshake of a path is done.
    pub(super) fn opened(&mut self, index: usize, negotiated: Box<Negotiated>, now: Timestamp) {
        if matches!(self.state, State::Ended) {
            return;
        }
        if self.streams.is_none() {
            return self.begin(index, negotiated, now);
        }
        if let Err(violation) = self.check_resumed(&negotiated) {
            return self.fail_candidate(index, violation, now);
        }
        let Some(streams) = &mut self.streams else { return };
        let resumed =
            streams.resume(&negotiated.parameters, &negotiated.send_from, &negotiated.receive_from, now);
        if let Err(violation) = resumed {
            return self.fail_candidate(index, violation, now);
        }
        if let (Some(terms), Some(reconnect)) = (&mut self.terms, &mut self.reconnect) {
            terms.renew(&negotiated.session);
            reconnect.succeeded(&self.common.session, now);
        }
        if self.is_in_vain(&negotiated.send_from) {
            let times = self.progress.in_vain;
            return self.end(CloseReason::ResumedInVain(times), now);
        }
        self.shortest_timeout = self.common.connection.shortest_timeout(&negotiated.parameters);
        self.go_on(index, now);
    }

    /// The first handshake is done.
    fn begin(&mut self, index: usize, negotiated: Box<Negotiated>, now: Timestamp) {
        let is_client = self.reconnect.is_some();
        self.terms = Terms::settled(&negotiated.session);
        let (config, outlives) = (&self.common.connection, self.terms.is_some());
        let may_settle = negotiated.capabilities.contains(Capabilities::SETTLEMENT);
        self.streams = Some(Streams::new(config, negotiated.parameters, is_client, outlives, may_settle));
        self.peer = Some(negotiated.peer);
        self.shortest_timeout = config.shortest_timeout(&negotiated.parameters);
        self.use_path(index);
        self.state = State::Live;
        if let Some(path) = self.paths[index].as_mut().filter(|_| !outlives) {
            path.connection.forbid_offers();
        }
        if let Some(reconnect) = &mut self.reconnect {
            reconnect.succeeded(&self.common.session, now);
        }
        self.events.push_back(ConnectionEvent::Opened(negotiated));
    }

    fn use_path(&mut self, index: usize) {
        self.current = Some(index);
        if let Some(path) = &mut self.paths[index] {
            path.is_open = true;
        }
    }

    /// Whether what a server has answered is the session that was asked for. Its own server's end is checked before it
    /// answers.
    fn check_resumed(&self, negotiated: &Negotiated) -> Result<(), PeerMisbehaved> {
        let Some(terms) = &self.terms else { return Err(PeerMisbehaved::SessionUnproven) };
        if self.reconnect.is_none() {
            return Ok(());
        }
        let (_, expected) = terms.proofs();
        let is_same = negotiated.session.session == Some(terms.id);
        if !is_same || negotiated.session.proof != Some(expected) {
            return Err(PeerMisbehaved::SessionUnproven);
        }
        Ok(())
    }

    /// A connection that came up is not one of this session.
    fn fail_candidate(&mut self, index: usize, violation: PeerMisbehaved, now: Timestamp) {
        if let Some(path) = &mut self.paths[index] {
            path.connection.abort(violation.into(), now);
        }
    }

    /// Counts how often it was resumed at the same positions although something waits for the peer.
    fn is_in_vain(&mut self, positions: &[u64; STREAMS]) -> bool {
        let waits = self
            .streams
            .as_ref()
            .is_some_and(|streams| streams.outbox.waiting_messages() + streams.outbox.waiting_control() > 0);
        let is_same = *positions == self.progress.positions;
        self.progress.positions = *positions;
        self.progress.in_vain = if is_same && waits { self.progress.in_vain + 1 } else { 0 };
        self.progress.in_vain > self.common.session.resumes_max
    }

    /// From now on the streams are sent on this path.
    fn go_on(&mut self, index: usize, now: Timestamp) {
        let is_client = self.reconnect.is_some();
        let grace = self.common.connection.close_timeout;
        for (other, path) in self.paths.iter_mut().enumerate() {
            let Some(path) = path.as_mut().filter(|path| other != index && path.is_open) else { continue };
            if path.retired_at != Timestamp::NEVER {
                continue;
            }
            path.connection.supersede();
            // The end that connected has the other one close first, so that no port of its own is kept for it.
            if is_client {
                path.connection.retire(now);
            }
            path.retired_at = if is_client { now } else { now + grace };
        }
        self.use_path(index);
        // A close that was under way on the connection before goes on here, behind what is sent again.
        if let (Some((code, text)), Some(path)) = (&self.closing, &mut self.paths[index]) {
            path.connection.close(*code, text, now);
        }
        let interrupted_for = match std::mem::replace(&mut self.state, State::Live) {
            State::Interrupted { since, .. } => {
                self.counts.resumed += 1;
                now.since(since)
            }
            _ => {
                self.counts.moved += 1;
                Duration::ZERO
            }
        };
        self.events.push_back(ConnectionEvent::Resumed { path: index, interrupted_for });
        if let Some(streams) = &mut self.streams {
            let events = &mut self.events;
            streams.links.take_writable(|link| events.push_back(ConnectionEvent::Writable { link }));
        }
    }

    /// A connection has ended.
    pub(super) fn path_closed(&mut self, index: usize, reason: CloseReason, now: Timestamp) {
        if matches!(self.state, State::Ended) {
            return;
        }
        if matches!(self.state, State::Opening) {
            return self.end(reason, now);
        }
        if self.current != Some(index) {
            let was_candidate = self.paths[index].as_ref().is_some_and(|path| !path.is_open);
            // One that was retired is missed by nobody.
            return if was_candidate {
                self.candidate_closed(&reason, now)
            };
        }
        self.current = None;
        self.count_read_loss(&reason);
        if self.closing.is_some() || self.terms.is_none() || !reason.is_loss() {
            return self.end(reason, now);
        }
        self.interrupt(reason, now);
    }

    /// A connection has ended that never came to be in use.
    fn candidate_closed(&mut self, reason: &CloseReason, now: Timestamp) {
        let is_interrupted = matches!(self.state, State::Interrupted { .. });
        if let Some(streams) = &mut self.streams {
            streams.received.tell_all();
        }
        self.attempt_failed(now);
        if let CloseReason::Refused(refusal) = reason
            && refusal.code == RefusalCode::SessionUnknown
            && is_interrupted
        {
            self.end(CloseReason::SessionUnknown(refusal.text().to_owned()), now);
        }
    }

    pub(super) fn attempt_failed(&mut self, now: Timestamp) {
        let is_interrupted = matches!(self.state, State::Interrupted { .. });
        if let Some(reconnect) = &mut self.reconnect {
            reconnect.failed(is_interrupted, &self.common.session, now);
        }
    }

    fn interrupt(&mut self, reason: CloseReason, now: Timestamp) {
        let is_silent = !matches!(
            reason,
            CloseReason::Channel(_) | CloseReason::Peer { .. } | CloseReason::ReadFailed { .. }
        );
        if let Some(reconnect) = self.reconnect.as_mut().filter(|reconnect| !reconnect.is_trying()) {
            reconnect.interrupted(is_silent, &self.common.session, now);
        }
        // The peer has gone on to the one that was lost, or is to: it shall not wait on one before.
        for path in self.paths.iter_mut().flatten().filter(|path| path.is_open) {
            path.connection.retire(now);
        }
        self.counts.interrupted += 1;
        self.state = State::Interrupted { since: now, loss: reason.to_string() };
        self.events.push_back(ConnectionEvent::Interrupted(reason));
    }
}
