//! The calling end and the service, each with a peer that does what a test says, on one thread over `inproc`: every
//! turn of either end is the test's own, so it sees each stage of a call, and nothing depends on who is quicker.
//!
//! `rig` is that pair of ends for calls; the others are named by what they prove. What an application sees, over all
//! wires and with threads, is in `tests/request_reply`.

mod dropping;
mod links;
mod outcomes;
mod rig;
mod services;
mod sharing;
