//! The calling end and the service, each with a peer that does what a test says, on one thread over `inproc`: every
//! turn of either end is the test's own, so it sees each stage of a call, and nothing depends on who is quicker.
//!
//! `rig` is that pair of ends for calls, `brokers` a client with several peers; the others are named by what they prove. What an application sees, over all
//! wires and with threads, is in `tests/request_reply`.

mod brokers;
mod dropping;
mod failover;
mod links;
mod outcomes;
mod racing;
mod rig;
mod services;
mod serving;
mod sharing;
