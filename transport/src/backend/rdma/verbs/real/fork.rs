//! What a fork of the process does to memory that a device uses, and what is done about it, once a process.
//!
//! A fork makes pages copy-on-write. Were a registered page copied for the parent when it writes to it, the device would
//! go on with the old one, and the two would drift apart without a word. Linux 5.12 and later copies pinned pages for
//! the *child* while it forks, and nothing is left to do. Before that, `ibv_fork_init(3)` keeps registered pages out of
//! children altogether: they cost a system call per registration, and a child that touches the pool's memory dies. Wrong
//! data is worse, so that is what is done there.
//!
//! In either case, a child must not use what its parent opened: queues are memory that is mapped from the kernel for one
//! process. It opens its own.

use rdma_sys::{IBV_FORK_DISABLED, ibv_fork_init, ibv_is_fork_initialized};
use std::io;
use std::sync::Once;

/// To be called before the first device is opened: `ibv_fork_init` refuses when memory was registered already.
pub(super) fn make_safe() {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        // SAFETY: both functions take nothing; nobody else of this crate calls them meanwhile.
        let outcome = unsafe {
            match ibv_is_fork_initialized() {
                IBV_FORK_DISABLED => Some(ibv_fork_init()),
                _ => None,
            }
        };
        match outcome {
            None => {}
            Some(0) => tracing::info!("this kernel does not copy pinned pages at fork: children will not have the pool's memory"),
            Some(number) => tracing::warn!(
                error = %io::Error::from_raw_os_error(number),
                "RDMA is not safe against a fork of this process: something else registered memory before it could be made so"
            ),
        }
    });
}
