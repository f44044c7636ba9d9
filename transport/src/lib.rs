//! Underlay.

pub mod proto;
