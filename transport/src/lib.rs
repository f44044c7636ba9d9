//! Underlay moves messages between processes over the fastest path that both ends share, behind one API with one set
//! of guarantees. It is the layer beneath a message broker: it knows connections, links, credit and lanes, and leaves
//! to whoever stands on it what a queue is.
//!
//! A service and a client that calls it, without a broker in between:
//!
//! ```
//! use std::time::Duration;
//! use underlay::driver::Address;
//! use underlay::rpc::{BackgroundService, Client};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let service = BackgroundService::listen(
//!     &Address::tcp("127.0.0.1:0"),
//!     "shout",
//!     Default::default(),
//!     |request| request.reply(&request.body().to_vec().to_ascii_uppercase()),
//! )?;
//! let mut client = Client::connect(service.address(), Default::default())?;
//! let reply = client.call("shout", b"hello", Duration::from_secs(1))?;
//! assert_eq!(&reply.to_bytes()[..], b"HELLO");
//! # Ok(())
//! # }
//! ```
//!
//! # Layers
//!
//! From the top:
//!
//! - [`rpc`]: requests and replies. One reply destination for the whole process; calls as futures, for any executor,
//!   or blocking; services.
//! - [`driver`]: one thread's loop. It polls the wires, feeds the connections, calls a [`driver::Handler`] and decides
//!   how to wait. A broker is a handler; so are the client and the service of `rpc`.
//! - [`session`]: what outlives a connection. Streams that are replayed over the next one, the pace at which ends find
//!   each other again, changes of wire.
//! - [`connection`]: one end of a connection as a state machine: handshake, links and their credit, keep-alive, close.
//! - [`packing`]: messages to frames and back, as full as the network's packets allow, long ones in chunks between
//!   which urgent ones pass.
//! - [`proto`]: the bytes of the protocol and the arithmetic of its credit. Whatever a peer can do wrong has a name
//!   in [`proto::PeerMisbehaved`].
//! - [`backend`]: the wires. `tcp` on io_uring, or on epoll where that is missing or forbidden; `inproc` within a
//!   process. One conformance suite holds for all of them.
//! - [`pool`]: buffers, segments and bodies. A body crosses a process as the segments in which it arrived.
//!
//! [`message::Message`] is what travels through all of them. `session`, `connection`, `packing` and `proto` do no I/O and read no
//! clock ([`time`]), which is why they are tested against each other in virtual time.
//!
//! # What it promises
//!
//! Messages of a lane arrive in order and once between two processes that live, whatever happens to the connections
//! between them (`docs/sessions.md` says how far). A call ends exactly once: with a reply, with
//! the service's own error, or with an [`rpc::CallError`] that says whether the request may have been handled. Every
//! queue, table and text has a bound, and what is refused for it is refused by its name. A peer that breaks the
//! protocol loses its own connection and touches no other.
//!
//! # Where to go next
//!
//! In the repository: `docs/architecture.md` says how it is built and why, `docs/protocol.md` gives the bytes on the
//! wire, `docs/testing.md` tells how a claim is proved, `docs/benchmarking.md` what it costs, and `transport/examples`
//! has programs to begin with. To stand on the layer itself, begin at [`driver::Handler`].

// Test suites of this crate that its unit tests include, too.
#[cfg(test)]
extern crate self as underlay;

pub mod backend;
pub mod connection;
pub mod driver;
#[doc(hidden)]
pub mod lane_turns;
pub mod message;
pub mod packing;
pub mod pool;
pub mod proto;
pub mod rpc;
#[doc(hidden)]
pub mod sabotage;
pub mod session;
mod sync;
pub mod time;

pub use sync::Wakeup;

/// The example of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// The examples of the page about sessions, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../docs/sessions.md")]
struct Sessions;
