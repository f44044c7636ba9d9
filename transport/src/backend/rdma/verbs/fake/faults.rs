//! What can be made to go wrong, each by its name.

use super::super::Status;
use super::state::State;

/// Happens once, at the next opportunity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend::rdma) enum Fault {
    /// The next list of requests is refused with `ENOMEM` after so many, whatever room there is.
    PostRefused { after: usize },
    /// The next list of receive requests is.
    ReceivesRefused { after: usize },
    /// The next request that is carried out fails with this status.
    CompletionFails(Status),
    /// The next completion that should wake an armed end does not.
    NotificationLost,
    /// Registering memory fails with this error (`ENOMEM`: the limit of locked memory).
    RegisterFails(i32),
    /// Making a queue pair does.
    CreateQueuePairFails(i32),
    /// Opening a device does.
    DeviceFails(i32),
    /// The next queue pair has room for fewer inline bytes than it was asked for.
    InlineSmaller { bytes: u32 },
    /// Allocating a window fails with this error.
    WindowFails(i32),
    /// Listening, resolving or connecting fails at once with this error.
    ConnectionManagerFails(i32),
}

impl State {
    /// The first fault that is of the kind asked for, once.
    pub(super) fn take_fault<T>(&mut self, end: usize, of: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        let faults = &mut self.ends[end].faults;
        let (index, found) =
            faults.iter().enumerate().find_map(|(index, fault)| Some((index, of(fault)?)))?;
        faults.remove(index);
        Some(found)
    }

    pub(super) fn is_disturbed(&mut self) -> bool {
        let one_in = self.disturbed_one_in;
        self.random.one_in(one_in)
    }
}
