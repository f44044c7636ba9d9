//! One-sided reads of a session: on which of its connections, and when it does without.

use super::{Session, SessionConfig};
use crate::connection::{ChannelTraits, CloseReason, Connection, OneSidedTask};
use crate::packing::Descriptor;
use crate::pool::Body;
use crate::proto::hello::Capabilities;
use crate::proto::{LANES, Lane, Stream};
use crate::time::Timestamp;

/// A session does without one-sided reads when it has lost so many connections to them in a row. The first may be the
/// fault of that connection; what fails on the next one, too, is likely to go on failing, and each costs the time that
/// it takes to connect anew.
const LOSSES_MAX: u32 = 2;

/// How many connections were lost to one-sided reads.
#[derive(Debug, Default)]
pub(super) struct ReadLosses {
    /// By lane: how many in a row, and what it had come to. One that has come on since does not count.
    of_reads: [(u32, u64); LANES],
    /// To a peer that did not take what was offered to it.
    of_offers: u32,
}

impl ReadLosses {
    /// Whether to do without one-sided reads from now on.
    fn are_too_many(&self) -> bool {
        self.of_offers >= LOSSES_MAX || self.of_reads.iter().any(|&(count, _)| count >= LOSSES_MAX)
    }

    fn count_read(&mut self, lane: Lane, position: u64) {
        let (count, known) = &mut self.of_reads[lane.index()];
        *count = if *known == position { *count + 1 } else { 1 };
        *known = position;
    }
}

/// What its wires are to do, and have done.
impl Session {
    /// Whether [`Session::poll_one_sided`] would find something.
    #[inline]
    pub fn wants_one_sided(&self, path: usize) -> bool {
        let is_current = self.current == Some(path);
        let path = self.paths[path].as_ref();
        path.is_some_and(|path| path.connection.wants_one_sided(self.streams.as_ref(), is_current))
    }

    /// The next thing that the wire of a path is to do. The answer to it is due before the next call:
    /// [`Session::exposed`] for an exposure, [`Session::postpone_read`] or [`Session::handle_read`] for a read that does
    /// not start.
    pub fn poll_one_sided(&mut self, path: usize, now: Timestamp) -> Option<OneSidedTask<'_>> {
        let is_current = self.current == Some(path);
        self.paths[path].as_mut()?.connection.poll_one_sided(self.streams.as_ref(), is_current, now)
    }

    /// A body that was to be exposed on a path can be read where `descriptor` says; without one, it cannot be exposed
    /// and leaves in chunks.
    pub fn exposed(&mut self, path: usize, exposure: u64, descriptor: Option<Descriptor>) {
        if let Some(path) = &mut self.paths[path] {
            path.connection.exposed(exposure, descriptor);
        }
    }

    /// A read could not be started now, for want of buffers: it is asked for again.
    pub fn postpone_read(&mut self, path: usize, read: u64) {
        if let Some(path) = &mut self.paths[path] {
            path.connection.postpone_read(read);
        }
    }

    /// A read on a path is done, or has failed for a reason that is for people. Events may follow.
    pub fn handle_read(&mut self, path: usize, read: u64, outcome: Result<Body, String>, now: Timestamp) {
        if let Some(path) = &mut self.paths[path] {
            path.connection.handle_read(read, outcome, now);
        }
    }
}

/// When it does without.
impl Session {
    /// What a new connection says of its channel.
    pub(super) fn traits(&self, channel: ChannelTraits) -> ChannelTraits {
        let does_without = self.read_losses.are_too_many();
        if does_without { ChannelTraits { exposures_max: 0, ..channel } } else { channel }
    }

    /// Has a connection that is about to be accepted do without, if this session does.
    pub(super) fn withhold_reads(&self, connection: &mut Connection) {
        if self.read_losses.are_too_many() {
            connection.withhold(Capabilities::ONE_SIDED_READS);
        }
    }

    /// Counts the connection that was in use and ended for this reason.
    pub(super) fn count_read_loss(&mut self, reason: &CloseReason) {
        match (reason, &self.streams) {
            (CloseReason::ReadFailed { lane, .. }, Some(streams)) => {
                self.read_losses.count_read(*lane, streams.received.next(Stream::Lane(*lane)));
            }
            (CloseReason::OffersNotTaken(_), _) => self.read_losses.of_offers += 1,
            _ => {}
        }
    }
}

/// Only a session that outlives its connections has one-sided reads: it sends anew what could not be read, where another
/// one would have to end.
pub(super) fn lasting(config: &SessionConfig, channel: ChannelTraits) -> ChannelTraits {
    if config.expiry.is_zero() { ChannelTraits { exposures_max: 0, ..channel } } else { channel }
}
