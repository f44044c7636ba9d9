//! What a driver counts.

use super::waiter::WaitStats;
use crate::connection::CloseReason;
use crate::packing::PackingStats;
use crate::pool::PoolStats;
use crate::session::SessionCounts;
use std::collections::BTreeMap;

/// What a driver did since it started, over all its connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DriverStats {
    /// Connections there are, in any state.
    pub connections: u64,
    /// Connections there have been.
    pub connections_opened: u64,
    /// Connections that ended, by [`CloseReason::name`].
    pub closed: BTreeMap<&'static str, u64>,
    /// Messages that handlers were given.
    pub messages_received: u64,
    /// Messages that handlers sent.
    pub messages_sent: u64,
    /// Sends that were given to a wire, each with one or more frames.
    pub sends: u64,
    /// Tries, once or twice a turn, for which the pool was empty while something waited for it.
    pub pool_stalls: u64,
    /// Times that a listener could not accept.
    pub accepts_failed: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// What happened to sessions.
    pub sessions: SessionCounts,
    /// What packing did.
    pub packing: PackingStats,
    /// What the pool did.
    pub pool: PoolStats,
    /// How the driver waited.
    pub wait: WaitStats,
}

impl DriverStats {
    pub(super) fn count_closed(&mut self, reason: &CloseReason) {
        *self.closed.entry(reason.name()).or_default() += 1;
    }
}
