//! One-sided reads: from what a session wants to what a wire does, and back.

use super::{ConnectionId, Core};
use crate::backend::{Channel, OneSided, ReadRefused, WireKind};
use crate::connection::OneSidedTask;
use crate::pool::{Body, Pool, PoolError};
use crate::session::Session;
use crate::time::Timestamp;
use std::io;

impl Core {
    /// A read is done. Whose it was, if anybody's: events are to be pulled.
    pub(in crate::driver) fn read_done(
        &mut self,
        wire: WireKind,
        channel: Channel,
        read: u64,
        outcome: Result<Box<Body>, io::Error>,
    ) -> Option<ConnectionId> {
        let (id, path) = self.user(wire, channel)?;
        let now = self.now;
        let session = self.entries[id.index()].session.as_deref_mut()?;
        let outcome = outcome.map(|body| *body).map_err(|error| error.to_string());
        session.handle_read(usize::from(path), read, outcome, now);
        Some(id)
    }
}

/// Has a wire do what a session wants of it on a path. True if a read waits for buffers, or for others to be done.
#[inline(never)] // rare, and no business of paths without one-sided reads
pub(super) fn do_one_sided(
    session: &mut Session,
    path: usize,
    wire: &mut dyn OneSided,
    channel: Channel,
    pool: &mut Pool,
    now: Timestamp,
) -> bool {
    while let Some(task) = session.poll_one_sided(path, now) {
        match task {
            OneSidedTask::Expose { exposure, body } => {
                // What cannot be exposed leaves in chunks.
                let descriptor = wire.expose(channel, exposure, body).ok();
                session.exposed(path, exposure, descriptor);
            }
            OneSidedTask::Withdraw { exposure } => wire.withdraw(channel, exposure),
            OneSidedTask::Read { read, descriptor, bytes } => {
                match wire.read(channel, read, &descriptor, bytes, pool) {
                    Ok(()) => {}
                    Err(refused) if may_start_later(&refused) => {
                        session.postpone_read(path, read);
                        return true;
                    }
                    Err(refused) => session.handle_read(path, read, Err(refused.to_string()), now),
                }
            }
        }
    }
    false
}

fn may_start_later(refused: &ReadRefused) -> bool {
    match refused {
        ReadRefused::Busy => true,
        // No waiting would help.
        ReadRefused::Pool(PoolError::TooManySegments { .. } | PoolError::TooLarge { .. }) => false,
        ReadRefused::Pool(_) => true,
        ReadRefused::NotOpen | ReadRefused::Descriptor { .. } => false,
    }
}
