//! The wires under test.

pub(crate) mod inproc;
pub(crate) mod tcp;
