//! What outlives a connection.
//!
//! Here is the pace at which ends that lost each other try again ([`Backoff`]).
//!
//! What it promises: no clock and no randomness of its own; whoever drives it supplies both.
//!
//! What it must never know: which wire carries it, and what messages are for.

mod backoff;

pub use backoff::Backoff;
