//! The limit of file descriptors, which bounds the connections of a process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors beside those of connections: standard streams, listeners, the ring, the wakeup.
const OTHERS: u64 = 64;

/// Raises this process's limit as far as it may and as `connections_max` needs, and warns if that is not enough.
pub(crate) fn make_room(connections_max: u64) {
    let needed = connections_max + OTHERS;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft >= needed {
        return;
    }
    let raised = needed.min(hard);
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, raised, hard) {
        Ok(()) => raised,
        Err(_) => soft,
    };
    if limit < needed {
        tracing::warn!(
            limit,
            needed,
            connections_max,
            "the limit of file descriptors allows about {} connections; raise it (ulimit -n, LimitNOFILE=) or lower \
             connections_max",
            limit.saturating_sub(OTHERS)
        );
    }
}
