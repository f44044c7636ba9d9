//! Requests and replies as an application sees them, over TCP by both engines and within the process.

mod background;
mod calling;
mod connecting;
mod ending;
mod support;
