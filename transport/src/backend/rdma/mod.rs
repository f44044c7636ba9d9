//! The `rdma` wire: InfiniBand, RoCE and soft-RoCE, by verbs.
//!
//! Channels are reliably connected queue pairs that the connection manager (`rdma_cm`) brings up. What is sent goes out
//! as two-sided sends straight from the pool's buffers, which the device knows; what arrives comes into buffers of the
//! pool, from a receive queue that all channels of a device share. `docs/rdma.md` has the design and every parameter.
//!
//! What it promises beyond the contract of all wires:
//!
//! - A gather list of up to 17 KiB, and so a frame with a message of up to 16 KiB, is one send and takes one receive
//!   request.
//! - Nothing is ever sent for which the peer has no receive request: `credit` sees to it, and a peer that does it
//!   loses its connection.
//! - [`WireEvent::Sent`](super::WireEvent::Sent) is reported when the device needs the memory no more: with the next poll
//!   for what travels inside its work request, and else when the peer's device has acknowledged it.
//! - While it polls it makes no system call but one in 256 polls, and one in each poll while a channel comes up or goes
//!   down.
//! - What was posted before a close leaves before it, also where `Sent` was not reported yet; what waits for credit then
//!   does not.
//! - No receive request is lost with a queue pair where the device says what it has in hand (`releasing`), and nobody
//!   waits for it.
//! - Memory goes back to its pool only when no device can reach it: what a device does not let go of is kept, and counted,
//!   until the device is closed.
//!
//! `verbs` is the seam to the device; `engine` the wire over it, with its control path in `control` and its data path
//! in `data` and, for bodies that their receiver fetches itself, `one_sided`; `credit`, `sending`, `receives` and `memory`
//! are what these keep account of; `ending` is how channels end, `releasing` how one gives back what it had, `removal` is
//! for devices that go.
//!
//! What it must never know: what a frame or a message is. It measures time only where nobody tells it of anything: how
//! often to look for a device that was removed, how long a queue pair lingers on a device that may never say that it is
//! done, and how long to wait for what was posted when a channel ends or the wire is dropped.

mod config;
#[cfg(feature = "rdma")]
mod control;
#[cfg(feature = "rdma")]
mod credit;
#[cfg(feature = "rdma")]
mod data;
mod devices;
#[cfg(feature = "rdma")]
mod ending;
#[cfg(feature = "rdma")]
mod engine;
#[cfg(all(test, feature = "rdma", not(loom)))]
mod engine_tests;
#[cfg(feature = "rdma")]
mod greeting;
#[cfg(feature = "rdma")]
mod memory;
#[cfg(feature = "rdma")]
mod one_sided;
#[cfg(feature = "rdma")]
mod receives;
#[cfg(feature = "rdma")]
mod releasing;
#[cfg(feature = "rdma")]
mod removal;
#[cfg(feature = "rdma")]
mod sending;
#[cfg(feature = "rdma")]
mod verbs;
#[cfg(feature = "rdma")]
mod work;

#[cfg(not(feature = "rdma"))]
mod absent;
#[cfg(feature = "rdma")]
mod wire;

#[cfg(not(feature = "rdma"))]
pub use absent::RdmaWire;
pub use config::{RdmaConfig, RdmaConfigError, RdmaOpenError};
pub use devices::RdmaDevice;
#[cfg(feature = "rdma")]
pub use wire::RdmaWire;
