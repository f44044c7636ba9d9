//! Packing against a plain oracle: what was pushed, and the bytes that left, read by the protocol's own parser.
//!
//! `model` is that oracle: it parses each frame as a peer would and holds it against what was pushed. `properties` has
//! it follow random sequences of calls; the others are named by what they prove about sending and receiving. Nothing
//! here knows a wire or a clock: a frame is a list of segments.

mod exhaustion;
mod model;
mod pieces;
mod properties;
mod receiving;
mod sending;
mod violations;
