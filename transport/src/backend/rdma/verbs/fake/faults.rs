//! What can be made to go wrong, each by its name.

use super::super::{Beside, Status};
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
    /// The next completion finds its queue full: it is lost, and with it each queue pair of the device, as their
    /// completions can be told no more. What was in the queue can still be taken, then taking fails with `EIO`.
    CompletionsOverflow,
    /// Taking completions fails with this error, and loses none.
    TakeCompletionsFails(i32),
    /// Arming a queue fails with this error (`EIO`: the device is gone).
    ArmFails(i32),
    /// The next completion that should wake an armed end does not.
    NotificationLost,
    /// Registering memory fails with this error (`ENOMEM`: the limit of locked memory).
    RegisterFails(i32),
    /// Deregistering memory fails with this error, and changes nothing.
    DeregisterFails(i32),
    /// Making a queue pair fails with this error.
    CreateQueuePairFails(i32),
    /// Making a queue pair of this kind beside another fails with this error.
    CreateBesideFails(Beside, i32),
    /// Connecting one fails with this error.
    ConnectBesideFails(i32),
    /// Setting how long acknowledgements are waited for fails with this error: `ENOSYS` before Linux 5.2.
    AcknowledgementTimeoutFails(i32),
    /// Opening a device fails with this error.
    DeviceFails(i32),
    /// The next queue pair has room for fewer inline bytes than it was asked for.
    InlineSmaller { bytes: u32 },
    /// Allocating a window fails with this error.
    WindowFails(i32),
    /// Listening, resolving or connecting fails at once with this error.
    ConnectionManagerFails(i32),
    /// Resolving an address ends in [`Event::Failed`](super::super::Event::Failed) with this error: `EHOSTUNREACH`,
    /// `ETIMEDOUT`.
    AddressFails(i32),
    /// Resolving a route does: `ETIMEDOUT`.
    RouteFails(i32),
    /// Asking the peer does, which never learns of it: `ETIMEDOUT`.
    ConnectFails(i32),
    /// The request is rejected with this status on its way, and without a reason: 10 is a stale connection.
    ConnectRejected(i32),
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
