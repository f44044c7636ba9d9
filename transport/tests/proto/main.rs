//! The wire protocol against its document, its vectors, and everything that a peer might send.

mod credit;
mod handshake;
mod properties;
mod support;
mod vector_file;
mod vectors;
mod violations;
