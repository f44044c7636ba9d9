//! Clients, brokers and services of Underlay in one thread, on virtual time, over a network that fails.
//!
//! Everything follows from one number, the seed: who there is, what they send, when the network loses what, who dies.
//! So a run that went wrong goes wrong again, and can be read line by line. The processes are the real ones, on the real
//! driver; only their wires, their clock and their randomness are of this crate.
//!
//! - [`network`] is the network: hosts, channels, and what breaks.
//! - [`oracle`] knows what must be true, and shares nothing with the code under test.
//! - `actors` are the processes, [`world`] puts them together and runs them through a seed.
//! - [`coverage`] counts what was met, [`runner`] runs many seeds.

#![forbid(unsafe_code)]

mod actors;
pub mod coverage;
pub mod network;
pub mod oracle;
pub mod random;
pub mod runner;
pub mod trace;
pub mod world;
