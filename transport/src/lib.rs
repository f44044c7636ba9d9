//! Underlay.

pub mod backend;
pub mod connection;
pub mod driver;
pub mod message;
pub mod packing;
pub mod pool;
pub mod proto;
mod sync;
pub mod time;

pub use sync::Wakeup;
