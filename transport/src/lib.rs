//! Underlay.

pub mod backend;
pub mod pool;
mod sync;

pub use sync::Wakeup;
