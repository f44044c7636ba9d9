//! Underlay.

pub mod backend;
pub mod message;
pub mod packing;
pub mod pool;
pub mod proto;
mod sync;

pub use sync::Wakeup;
