//! Time, and the end of a session.

use super::{Session, State, expiry_ms};
use crate::connection::{CloseReason, ConnectionEvent};
use crate::proto::control::CloseCode;
use crate::proto::hello::SessionTerms;
use crate::time::Timestamp;
use std::time::Duration;

impl Session {
    /// When [`Session::handle_timeout`] wants to be called.
    pub fn next_timeout(&self) -> Timestamp {
        if let Some(index) = self.only_path()
            && let Some(path) = &self.paths[index]
        {
            let next = path.connection.next_timeout(self.streams.as_ref());
            return match &self.reconnect {
                Some(reconnect) if self.terms.is_some() && self.closing.is_none() => {
                    next.min(reconnect.next_timeout(false, &self.common.session))
                }
                _ => next,
            };
        }
        let mut next = Timestamp::NEVER;
        for (index, path) in self.paths.iter().enumerate() {
            if let Some(path) = path {
                let streams = self.streams.as_ref().filter(|_| Some(index) == self.current);
                next = next.min(path.connection.next_timeout(streams));
                if !path.connection.is_ended() {
                    next = next.min(path.retired_at);
                }
            }
        }
        let is_interrupted = match &self.state {
            State::Opening | State::Ended => return next,
            State::Live => false,
            State::Interrupted { since, .. } => {
                next = next.min(*since + self.expiry());
                true
            }
        };
        match &self.reconnect {
            // While a connection is coming up, it has its own time.
            Some(reconnect)
                if self.terms.is_some() && self.closing.is_none() && self.candidate().is_none() =>
            {
                next.min(reconnect.next_timeout(is_interrupted, &self.common.session))
            }
            _ => next,
        }
    }

    /// Does what is due. What comes of it is asked by [`Session::poll_event`] and [`Session::poll_connect`].
    pub fn handle_timeout(&mut self, now: Timestamp) {
        for (index, path) in self.paths.iter_mut().enumerate() {
            if let Some(path) = path {
                let streams = self.streams.as_ref().filter(|_| Some(index) == self.current);
                path.connection.handle_timeout(streams, now);
                if now >= path.retired_at && !path.connection.is_ended() {
                    path.connection.retire(now);
                }
            }
        }
        if let State::Interrupted { since, loss } = &self.state
            && now >= *since + self.expiry()
        {
            let (after, loss) = (self.expiry(), loss.clone());
            self.end(CloseReason::Expired { after, loss }, now);
        }
    }

    /// Closes the session in order: what was queued is sent, then the reason. Without a connection it ends at once.
    pub fn close(&mut self, code: CloseCode, text: &str, now: Timestamp) {
        if matches!(self.state, State::Ended) || self.closing.is_some() {
            return;
        }
        self.closing = Some((code, text.to_owned()));
        let opening = matches!(self.state, State::Opening).then(|| self.candidate()).flatten();
        match self.current.or(opening).and_then(|index| self.paths[index].as_mut()) {
            Some(path) => path.connection.close(code, text, now),
            None => self.end(CloseReason::Local { code, text: text.to_owned() }, now),
        }
    }

    /// Ends the session at once, for a bound of this end's own.
    pub fn abort(&mut self, reason: CloseReason, now: Timestamp) {
        self.end(reason, now);
    }

    /// Gives the one `Closed` event, and ends all connections. One that is in use tells its peer why.
    pub(super) fn end(&mut self, reason: CloseReason, now: Timestamp) {
        if matches!(self.state, State::Ended) {
            return;
        }
        self.state = State::Ended;
        self.current = None;
        if let Some(streams) = &mut self.streams {
            self.counts.duplicates = streams.duplicates;
            streams.outbox.clear();
        }
        for path in self.paths.iter_mut().flatten() {
            path.connection.abort(reason.clone(), now);
        }
        self.events.push_back(ConnectionEvent::Closed(reason));
    }

    fn expiry(&self) -> Duration {
        self.terms.as_ref().map_or(Duration::ZERO, |terms| terms.expiry)
    }

    /// What the hello of the next connection says.
    pub(super) fn hello_terms(&mut self) -> SessionTerms {
        let expiry_ms = expiry_ms(&self.common.session);
        match (&mut self.terms, &mut self.streams) {
            (Some(terms), Some(streams)) => {
                // Each attempt has an epoch of its own, so that one which arrives late is not taken for the newest.
                terms.epoch = terms.epoch.saturating_add(1);
                // Until it is answered or given up, the peer must not let go of more than this says.
                streams.received.hold_back();
                SessionTerms {
                    session: Some(terms.id),
                    epoch: terms.epoch,
                    expiry_ms,
                    resume: streams.received.positions(),
                    proof: Some(terms.proofs().0),
                    token: None,
                }
            }
            _ => SessionTerms { expiry_ms, ..SessionTerms::default() },
        }
    }
}
