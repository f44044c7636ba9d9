//! What outlives a connection: the relation of two processes.
//!
//! A [`Session`] owns the streams, the links and what was received (`connection::Streams`), and up to a few connections
//! at a time, of which the newest sends. It takes what happens on their channels and time, gives events, gather lists
//! and the wish for another channel, and decides when a session is interrupted, goes on, or is over. `reconnect` is the
//! end that connected: when it tries, where, and how often; `terms` is what both ends know of the session by name,
//! epoch and token; [`Backoff`] is the pace at which ends that lost each other try again.
//!
//! What it promises: between two ends that live, what is sent arrives once and in the order of its stream, whatever
//! happens to connections; a session ends with exactly one [`ConnectionEvent::Closed`](crate::connection::ConnectionEvent::Closed).
//!
//! What it must never know: which wire carries it, what a destination is, what time it is, and where its random numbers
//! come from.

mod backoff;
mod links;
mod one_sided;
mod reconnect;
mod state;
mod terms;

pub use backoff::Backoff;
pub use state::{PATHS_MAX, SESSION_UNKNOWN, Session, SessionCounts};
pub use terms::Random;

use crate::connection::{ConnectionConfig, Identity};
use std::time::Duration;

/// How long a session outlives its connections, and how it finds another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionConfig {
    /// A session ends when it has had no connection for this time; the smaller of both ends' holds. With zero it ends
    /// with its connection. Default 10 s, at most 49 days.
    pub expiry: Duration,
    /// The first attempt to connect again is made within this time, drawn at random, so that many that were cut off
    /// together do not come back together. Default 100 ms.
    pub reconnect_spread: Duration,
    /// The next attempts follow after delays that double from this... Default 50 ms.
    pub reconnect_min: Duration,
    /// ...to this. Default 2 s.
    pub reconnect_max: Duration,
    /// An attempt that has not come to a connection after this time is given up. Default 1 s.
    pub attempt_timeout: Duration,
    /// A session that is not on the first of its addresses tries the better ones again after this time. Default 5 s.
    pub return_after: Duration,
    /// A connection is replaced by a new one at an age between half of this and all of it. Default one hour; `None`
    /// for never.
    pub connection_age: Option<Duration>,
    /// A session that was resumed so many times in a row, while something waited for the peer and it took nothing, is
    /// given up. Default 16.
    pub resumes_max: u32,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            expiry: Duration::from_secs(10),
            reconnect_spread: Duration::from_millis(100),
            reconnect_min: Duration::from_millis(50),
            reconnect_max: Duration::from_secs(2),
            attempt_timeout: Duration::from_secs(1),
            return_after: Duration::from_secs(5),
            connection_age: Some(Duration::from_secs(3600)),
            resumes_max: 16,
        }
    }
}

impl SessionConfig {
    /// A session that ends with its connection.
    pub fn none() -> Self {
        Self { expiry: Duration::ZERO, ..Self::default() }
    }
}

/// What all sessions of a driver have in common.
#[derive(Debug, Clone)]
pub struct Common {
    /// Each connection.
    pub connection: ConnectionConfig,
    /// Each session.
    pub session: SessionConfig,
    /// Who this end is.
    pub identity: Identity,
}

#[cfg(all(test, not(loom)))]
mod offers_tests;
#[cfg(all(test, not(loom)))]
mod tests;
