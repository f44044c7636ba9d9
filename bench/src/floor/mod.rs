//! The floor: what this machine allows.
//!
//! Bare programs that pass messages over plain TCP sockets, client - relay - service - relay - client,
//! each a process of its own. They share no code with Underlay, use nothing but the standard library
//! and `ppoll`, and do nothing that a message broker needs: no routing, no credit, no acknowledgement.
//! A hop reads a whole message and writes it on. Whatever Underlay takes longer than the better of them
//! is what Underlay costs.
//!
//! Two ways of waiting ([`Waiting`]): blocking calls, and polling that yields the core between polls
//! for a while before it sleeps. Which is better depends on placement, load and machine; a report takes
//! the better one at each size.
//!
//! What it promises: the same bodies and the same check of each reply as every other system
//! ([`crate::payload`]), replies in order, clear errors when a process is gone.
//!
//! What it must never know: the crate `underlay`.

pub mod client;
pub mod framing;
pub mod relay;
pub mod service;
pub mod subject;
pub mod waiting;

use std::io::Write;
use std::net::{SocketAddr, TcpListener};

use crate::error::BenchError;

pub use subject::FloorSubject;
pub use waiting::Waiting;

/// Listens at `address` and says so on standard output, in the one line that a starter waits for:
/// `ready HOST:PORT`.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, BenchError> {
    let refused = |source| BenchError::Listen { address: address.to_string(), source };
    let listener = TcpListener::bind(address).map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    let mut output = std::io::stdout();
    writeln!(output, "ready {bound}")
        .and_then(|()| output.flush())
        .map_err(BenchError::io("print the ready line"))?;
    Ok(listener)
}
