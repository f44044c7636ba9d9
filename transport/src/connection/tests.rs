//! Connections against each other in virtual time, and against peers that do not keep to the protocol.

mod ending;
mod exhaustion;
mod fake;
mod flow;
mod handshake;
mod links;
mod pair;
mod time;
mod traffic;
mod violations;
