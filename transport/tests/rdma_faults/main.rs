//! Faults of the link and its devices, of peers and of the system, on real RDMA devices: each ends in a named error
//! within the configured time, and nothing is lost or what is in doubt is named.
//!
//! Two drivers exchange numbered messages over sessions on the `rdma` wire while something is done to them. Each test
//! ends with a [`ledger`], which is printed and has to add up. Where a process has to die, stop or be poor, it is this
//! test binary, started again as a [`part`].
//!
//! They take links down and remove devices, as root. So they run only in a machine that is theirs, which `ci/soft-roce`
//! boots: elsewhere they are skipped, by name, unless `UNDERLAY_REQUIRE_WIRES` has `rdma`.

#![cfg(feature = "rdma")]

mod devices;
mod ends;
mod ledger;
mod link;
mod machine;
mod pair;
mod part;
mod processes;
mod storm;
mod timeouts;
