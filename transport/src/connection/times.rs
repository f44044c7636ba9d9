//! Since when a connection waits for what.

use super::ConnectionConfig;
use crate::time::Timestamp;
use std::time::Duration;

/// What the timeouts of a connection count from.
#[derive(Debug)]
pub(super) struct Times {
    pub(super) started: Timestamp,
    /// When something last arrived, and when something was last given to the wire.
    pub(super) received: Timestamp,
    pub(super) sent: Timestamp,
    /// When the send began that is in flight.
    pub(super) send_began: Option<Timestamp>,
    /// The number of the frame that is not complete, and when its first byte was seen.
    unfinished: Option<(u64, Timestamp)>,
    /// Something waits to be sent, and the peer grants no frames, or no chunks.
    frames: Starvation,
    chunks: Starvation,
    /// A bulk message has begun to arrive, and its next chunk has not.
    bulk: Starvation,
    /// What the peer has taken is not acknowledged.
    acknowledgements: Starvation,
    /// Bodies are offered to the peer, which has not acknowledged them.
    offers: Starvation,
}

/// Since when something waits for a limit of the peer to rise.
#[derive(Debug, Default)]
struct Starvation {
    since: Option<Timestamp>,
    limit: u64,
}

impl Times {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            started: now,
            received: now,
            sent: now,
            send_began: None,
            unfinished: None,
            frames: Starvation::default(),
            chunks: Starvation::default(),
            bulk: Starvation::default(),
            acknowledgements: Starvation::default(),
            offers: Starvation::default(),
        }
    }

    /// Everything that arrived was looked at. If a part of frame `number` is left, its time runs from when its first
    /// byte was left over: the time of the frames before it does not count.
    pub(super) fn note_unfinished(&mut self, number: Option<u64>, now: Timestamp) {
        self.unfinished = number.map(|number| match self.unfinished {
            Some((same, began)) if same == number => (number, began),
            _ => (number, now),
        });
    }

    /// Whether something waits for frames at their present `limit`.
    pub(super) fn note_frames(&mut self, is_starved: bool, limit: u64, now: Timestamp) {
        self.frames.note(is_starved, limit, now);
    }

    /// Whether something waits for chunks at their present `limit`.
    pub(super) fn note_chunks(&mut self, is_starved: bool, limit: u64, now: Timestamp) {
        self.chunks.note(is_starved, limit, now);
    }

    /// Whether a bulk message is unfinished after so many `chunks` of the connection.
    pub(super) fn note_bulk(&mut self, is_unfinished: bool, chunks: u64, now: Timestamp) {
        self.bulk.note(is_unfinished, chunks, now);
    }

    /// Whether offers are outstanding after so many were acknowledged.
    pub(super) fn note_offers(&mut self, are_outstanding: bool, taken: u64, now: Timestamp) {
        self.offers.note(are_outstanding, taken, now);
    }

    /// When the peer has acknowledged no offer for `timeout`.
    pub(super) fn offers_due(&self, timeout: Duration) -> Timestamp {
        self.offers.since.map_or(Timestamp::NEVER, |since| since + timeout)
    }

    /// When something has not gone on for too long; mostly there is nothing that should.
    #[inline]
    pub(super) fn trouble_due(&self, config: &ConnectionConfig) -> Timestamp {
        let Self { unfinished, send_began, frames, chunks, bulk, acknowledgements, .. } = self;
        let unacknowledged =
            acknowledgements.since.map_or(Timestamp::NEVER, |since| since + acknowledge_timeout(config));
        if unfinished.is_none()
            && send_began.is_none()
            && frames.since.is_none()
            && chunks.since.is_none()
            && bulk.since.is_none()
        {
            return unacknowledged;
        }
        self.frame_due(config.frame_timeout)
            .min(self.bulk_due(config.bulk_timeout))
            .min(self.progress_due(config.send_timeout))
            .min(unacknowledged)
    }

    /// Whether something that has left is kept until the peer acknowledges it, which it has done up to so much.
    #[inline]
    pub(super) fn note_acknowledged(&mut self, is_kept: bool, acknowledged: u64, now: Timestamp) {
        self.acknowledgements.note(is_kept, acknowledged, now);
    }

    /// When the peer has acknowledged nothing for `timeout`.
    pub(super) fn acknowledged_due(&self, timeout: Duration) -> Timestamp {
        self.acknowledgements.since.map_or(Timestamp::NEVER, |since| since + timeout)
    }

    /// When an unfinished bulk message has not gone on for `timeout`.
    pub(super) fn bulk_due(&self, timeout: Duration) -> Timestamp {
        self.bulk.since.map_or(Timestamp::NEVER, |since| since + timeout)
    }

    /// When the unfinished frame has lasted for `timeout`.
    pub(super) fn frame_due(&self, timeout: Duration) -> Timestamp {
        self.unfinished.map_or(Timestamp::NEVER, |(_, began)| began + timeout)
    }

    /// When the peer has taken nothing for `timeout`: the wire did not finish a send, or a limit did not rise.
    pub(super) fn progress_due(&self, timeout: Duration) -> Timestamp {
        [self.send_began, self.frames.since, self.chunks.since]
            .into_iter()
            .flatten()
            .min()
            .map_or(Timestamp::NEVER, |since| since + timeout)
    }
}

/// A peer that takes what is sent to it, and acknowledges nothing for so long, is given up: what it has taken would be
/// kept for ever. More than a send may take, since what has left may still be on its way.
pub(super) fn acknowledge_timeout(config: &ConnectionConfig) -> Duration {
    3 * config.send_timeout
}

impl Starvation {
    /// A limit that has risen is progress, even if all of it is used up again: its time starts anew.
    #[inline]
    fn note(&mut self, is_starved: bool, limit: u64, now: Timestamp) {
        if !is_starved {
            self.since = None;
            return;
        }
        let went_on = self.since.filter(|_| self.limit == limit);
        self.since = Some(went_on.unwrap_or(now));
        self.limit = limit;
    }
}
