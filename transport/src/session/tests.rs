//! Two ends of a session, and any number of channels between them, in virtual time.
//!
//! `rig` is the ends, the wires and their faults; `script` a conversation with everything in it that a session carries.
//! Time is moved by the test, and what is random comes from a seed, so every run of a test is the same. The others are
//! named by what they prove.

mod away;
mod hostile;
mod moving;
mod resuming;
mod rig;
mod script;
mod storm;
mod time;
