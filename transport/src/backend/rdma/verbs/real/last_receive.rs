//! Which queue pairs have let go of the shared receive requests, as their devices say (`QP_LAST_WQE_REACHED`).
//!
//! The events of a device are those of its context, which all threads of the process share: whoever looks first takes an
//! event, also another one's. So what they say is kept for the process, by the queue pair's address. An address means
//! something here from when its queue pair is made until just before it is destroyed, so it is never an earlier one's; and
//! of queue pairs that somebody else in this process has made nothing is kept.

use rdma_sys::ibv_qp;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// By address: whether it has.
static QUEUE_PAIRS: Mutex<BTreeMap<usize, bool>> = Mutex::new(BTreeMap::new());

fn queue_pairs() -> MutexGuard<'static, BTreeMap<usize, bool>> {
    // Nothing is done under the lock that could leave it half done.
    QUEUE_PAIRS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A queue pair was made.
pub(super) fn expect_of(queue_pair: NonNull<ibv_qp>) {
    queue_pairs().insert(queue_pair.addr().get(), false);
}

/// Its device says that it has.
pub(super) fn reached(queue_pair: *mut ibv_qp) {
    if let Some(has_reached) = queue_pairs().get_mut(&queue_pair.addr()) {
        *has_reached = true;
    }
}

pub(super) fn has_reached(queue_pair: NonNull<ibv_qp>) -> bool {
    queue_pairs().get(&queue_pair.addr().get()).copied().unwrap_or(false)
}

/// It is to be destroyed.
pub(super) fn forget(queue_pair: NonNull<ibv_qp>) {
    queue_pairs().remove(&queue_pair.addr().get());
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_kept_for_the_queue_pair_that_it_was_said_of() {
        // Never looked at: only the addresses are of interest.
        let [ours, other] =
            [8, 16].map(|address| NonNull::new(std::ptr::without_provenance_mut(address)).unwrap());
        reached(other.as_ptr());
        expect_of(ours);
        expect_of(other);
        assert!(!has_reached(ours) && !has_reached(other), "it was said of one that is gone");
        reached(ours.as_ptr());
        assert!(has_reached(ours) && !has_reached(other));
        forget(ours);
        forget(other);
        expect_of(ours);
        assert!(!has_reached(ours), "it was said of one at the same address");
        forget(ours);
    }
}
