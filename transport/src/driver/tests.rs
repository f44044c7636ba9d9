//! Drivers against each other over the `inproc` wire, all on the test's thread.

mod lives;
mod relay;
mod shortage;
mod stage;
