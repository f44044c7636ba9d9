//! Underlay.

pub mod backend;
mod driver;
pub mod pool;
mod sync;
pub mod time;

pub use sync::Wakeup;
