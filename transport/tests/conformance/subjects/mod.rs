//! The wires under test.

pub(crate) mod inproc;
pub(crate) mod rdma;
pub(crate) mod tcp;
