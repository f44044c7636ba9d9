//! One thread's loop over its wires.

#[cfg_attr(any(not(test), loom), expect(dead_code, reason = "the loop is wired to it next"))]
pub(crate) mod timers;
