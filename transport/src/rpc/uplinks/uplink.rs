//! What is known of one broker.

use super::{AddressFailure, Pace};
use crate::driver::{Address, ConnectionId};
use crate::proto::LinkId;
use crate::session::Backoff;
use crate::time::Timestamp;

#[derive(Debug)]
pub(super) struct Uplink {
    pub(super) address: Address,
    pub(super) stage: Stage,
    backoff: Backoff,
    /// It is not tried before.
    pub(super) retry_at: Timestamp,
    /// When and why there was no session any more, or none yet.
    failed: Option<(Timestamp, String)>,
    /// The session has no connection since then.
    pub(super) interrupted_at: Option<Timestamp>,
    /// What may be sent twice was already moved away from the interrupted session.
    pub(super) is_resent: bool,
    /// What was in flight when it was interrupted does not wait for it any more.
    pub(super) is_given_up: bool,
    /// The broker asked to be left.
    pub(super) is_leaving: bool,
    /// Not needed any longer, but for what is in flight on it.
    pub(super) is_draining: bool,
    pub(super) in_flight: usize,
}

/// How far its session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Idle,
    /// The handshake is not done.
    Connecting {
        connection: ConnectionId,
        since: Timestamp,
    },
    /// The peer was asked for the link that makes it useful.
    Attaching {
        connection: ConnectionId,
        link: LinkId,
        since: Timestamp,
    },
    Open {
        connection: ConnectionId,
        link: LinkId,
        since: Timestamp,
    },
    /// Closed from here, and not ended yet.
    Closing {
        connection: ConnectionId,
        /// It was of no use, rather than not needed.
        has_failed: bool,
    },
}

impl Uplink {
    pub(super) fn new(address: Address, backoff: Backoff) -> Self {
        Self {
            address,
            stage: Stage::Idle,
            backoff,
            retry_at: Timestamp::ZERO,
            failed: None,
            interrupted_at: None,
            is_resent: false,
            is_given_up: false,
            is_leaving: false,
            is_draining: false,
            in_flight: 0,
        }
    }

    #[inline]
    pub(super) fn connection(&self) -> Option<ConnectionId> {
        match self.stage {
            Stage::Idle => None,
            Stage::Connecting { connection, .. }
            | Stage::Attaching { connection, .. }
            | Stage::Open { connection, .. }
            | Stage::Closing { connection, .. } => Some(connection),
        }
    }

    /// Whether new calls can go by it.
    pub(super) fn is_usable(&self) -> bool {
        matches!(self.stage, Stage::Open { .. }) && self.interrupted_at.is_none()
    }

    /// Since when it has been coming up.
    pub(super) fn coming_up_since(&self) -> Option<Timestamp> {
        match self.stage {
            Stage::Connecting { since, .. } | Stage::Attaching { since, .. } => Some(since),
            Stage::Idle | Stage::Open { .. } | Stage::Closing { .. } => None,
        }
    }

    /// When it failed last.
    pub(super) fn failed_at(&self) -> Option<Timestamp> {
        self.failed.as_ref().map(|(at, _)| *at)
    }

    pub(super) fn failure(&self) -> AddressFailure {
        let reason = match (&self.stage, &self.failed) {
            (Stage::Open { .. }, Some((_, reason))) if self.interrupted_at.is_some() => {
                format!("interrupted: {reason}")
            }
            (Stage::Open { .. }, _) => "it is connected".to_owned(),
            (_, Some((_, reason))) => reason.clone(),
            (Stage::Attaching { .. }, None) => "the peer has not agreed to the link".to_owned(),
            (Stage::Connecting { .. }, None) => "the peer has not answered".to_owned(),
            (Stage::Idle | Stage::Closing { .. }, None) => "not tried yet".to_owned(),
        };
        AddressFailure { address: self.address.clone(), reason }
    }

    pub(super) fn opened(&mut self, now: Timestamp) {
        if let Stage::Attaching { connection, link, .. } = self.stage {
            self.stage = Stage::Open { connection, link, since: now };
        }
    }

    pub(super) fn interrupted(&mut self, now: Timestamp, reason: &str) {
        self.interrupted_at.get_or_insert(now);
        // It is left, if it is still not needed, when it is back.
        self.is_draining = false;
        self.failed = Some((now, reason.to_owned()));
    }

    pub(super) fn resumed(&mut self) {
        self.interrupted_at = None;
        (self.is_resent, self.is_given_up) = (false, false);
    }

    pub(super) fn closing(&mut self, reason: Option<&str>, now: Timestamp) {
        let Some(connection) = self.connection() else { return };
        self.stage = Stage::Closing { connection, has_failed: reason.is_some() };
        if let Some(reason) = reason {
            self.failed = Some((now, reason.to_owned()));
        }
    }

    pub(super) fn ended(&mut self, reason: &str, now: Timestamp, pace: &Pace) {
        let stage = std::mem::replace(&mut self.stage, Stage::Idle);
        let was_leaving = std::mem::take(&mut self.is_leaving);
        self.interrupted_at = None;
        (self.is_resent, self.is_given_up, self.is_draining) = (false, false, false);
        if let Stage::Open { since, .. } = stage
            && now.since(since) >= pace.reconnect_max
        {
            // One that opens only to end at once does not count as a success.
            self.backoff.reset();
        }
        match stage {
            // In order, and what it is left for takes its time.
            Stage::Closing { has_failed: false, .. } if was_leaving => {
                self.failed = Some((now, "it asked to be left".to_owned()));
                self.retry_at = now + pace.return_after;
            }
            Stage::Closing { has_failed: false, .. } => self.retry_at = now,
            _ => {
                if !matches!(stage, Stage::Closing { .. }) {
                    self.failed = Some((now, reason.to_owned()));
                }
                self.retry_at = now + self.backoff.next_delay();
            }
        }
    }
}
