//! The wires under test.

pub(crate) mod inproc;
