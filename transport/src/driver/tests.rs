//! Drivers against each other over the `inproc` wire, all on the test's thread.
//!
//! `stage` holds the drivers, their handlers and what those were told; every turn of a driver is the test's own, so
//! nothing depends on who is quicker. The others are named by what they prove: how connections live and end, messages
//! that are relayed, and what happens when room runs short.

mod lives;
mod relay;
mod shortage;
mod stage;
