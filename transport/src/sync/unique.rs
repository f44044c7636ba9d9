//! Numbers that this process uses once.

// The standard library's also under loom: it is a counter and orders nothing, and loom's cannot be in a static.
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that nobody in this process had before.
pub(crate) fn unique_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // Relaxed: it orders nothing.
    NEXT.fetch_add(1, Ordering::Relaxed)
}
