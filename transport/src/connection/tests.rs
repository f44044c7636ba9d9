//! Connections against each other in virtual time, and against peers that do not keep to the protocol.
//!
//! `pair` is two connections and the stream between them, with its latency and its faults; `fake` is one connection and
//! a peer that says whatever a test has it say. Neither knows a socket, a thread or a clock: time is moved by the test,
//! and what is random comes from a seed, so every run of a test is the same. The others are named by what they prove.

mod ending;
mod exhaustion;
mod fake;
mod flow;
mod handshake;
mod links;
mod pair;
mod settlement;
mod single;
mod time;
mod traffic;
mod violations;
