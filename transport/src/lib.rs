//! Underlay.

pub mod backend;
pub mod connection;
pub mod driver;
pub mod message;
pub mod packing;
pub mod pool;
pub mod proto;
pub mod rpc;
mod sync;
pub mod time;

pub use sync::Wakeup;
