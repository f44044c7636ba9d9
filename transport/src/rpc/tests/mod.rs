//! The calling end and the service, each with a peer that does what a test says, on one thread over `inproc`.

mod dropping;
mod links;
mod outcomes;
mod rig;
mod services;
mod sharing;
