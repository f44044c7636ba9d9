//! Packing against a plain oracle: what was pushed, and the bytes that left, read by the protocol's own parser.

mod exhaustion;
mod model;
mod pieces;
mod properties;
mod receiving;
mod sending;
mod violations;
