//! Wire protocol version 1: byte layouts, the handshake, and the arithmetic of order and credit.
//!
//! **What lives here.** Everything that two ends must agree on to the byte: the hello by which a
//! connection begins ([`hello`], [`handshake`]), frames and the records in them ([`frame`],
//! [`record`], [`control`]), extensions ([`extension`]), and the counters that both ends keep
//! ([`serial`], [`credit`]). `docs/protocol.md` describes the same layouts with the reason of each
//! rule; its examples are this module's test vectors.
//!
//! **What it promises.** Bytes from a peer are parsed once, into types that cannot be wrong; whatever
//! cannot be parsed is one named variant of [`PeerMisbehaved`]. No input makes it panic. Each value
//! has exactly one encoding, given the length of its head, so what was parsed encodes to the same
//! bytes. Nothing on the data path allocates: it parses from `&[u8]` and writes to `&mut [u8]`.
//!
//! **What it must never know.** File descriptors, clocks, threads, randomness, buffers of the pool,
//! which wire carries it, and what a destination means. Which messages share a frame is decided by
//! packing; what becomes of a violation is decided by the connection.

#![forbid(unsafe_code)]

mod bytes;
pub mod control;
pub mod credit;
mod error;
pub mod extension;
pub mod frame;
pub mod handshake;
pub mod hello;
mod identity;
mod limits;
pub mod record;
pub mod serial;
mod stream;
pub mod text;

pub use error::{EncodeError, PeerMisbehaved};
pub use identity::{
    CorrelationId, Incarnation, LinkId, MessageNumber, Origin, ProcessId, ReplyAddress, ReplySecret,
    SessionId, SessionProof, SessionToken,
};
pub use limits::{
    CHUNK_HEAD_BYTES_MAX, FRAME_BYTES_MAX, FRAME_BYTES_MIN, FRAME_SLOTS_MAX, Limits, Parameter,
    ParameterFault, Parameters,
};
pub use record::Lane;
pub use stream::{STREAMS, Stream};

/// The version of the protocol that this module speaks.
pub const VERSION: u16 = 1;

/// Frames and hellos are a whole number of lines of this many bytes.
///
/// A stream that consists of whole lines keeps the offset of a body in the stream, in the receive
/// buffer and in its page equal modulo 64; a copy whose ends lie a few bytes apart modulo the page
/// costs twenty times one whose ends agree.
pub const LINE_BYTES: usize = 64;

/// Bytes of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 32;

/// Bytes of the fixed part of a message's head.
pub const MESSAGE_HEAD_BYTES: usize = 64;

/// Bytes of the fixed part of a chunk's head.
pub const CHUNK_HEAD_BYTES: usize = 32;

/// The longest head of any record, whatever is negotiated.
pub const HEAD_BYTES_MAX: usize = 4096;

/// Every record begins at a multiple of this many bytes, and so does everything inside a head.
pub const RECORD_ALIGN_BYTES: usize = 8;

/// Lanes of a session: urgent, normal and bulk.
pub const LANES: usize = 3;

/// The chunk limit that each end holds before the first frame arrives, and the most chunks of bulk
/// that are ever unacknowledged (a message record whose body goes on counts as one): an urgent message waits behind two of them at worst.
pub const CHUNKS_IN_FLIGHT_MAX: u64 = 2;

/// The most bodies that an end offers for one-sided reads and that the peer has not acknowledged.
///
/// Each costs its sender an exposure and its receiver a read in flight. Sixteen of the shortest bulk
/// (16 KiB) keep a wire of 100 Gbit/s busy for 20 us, which is more than a round trip there.
pub const OFFERS_MAX: usize = 16;

/// The longest descriptor of an offered body. What a wire needs to find it: for RDMA, an address, a
/// length and a key, of a few pieces at most.
pub const OFFER_BYTES_MAX: usize = 64;

/// Rounds up to whole lines.
pub const fn whole_lines(bytes: usize) -> usize {
    // A power of two.
    (bytes + (LINE_BYTES - 1)) & !(LINE_BYTES - 1)
}

/// Rounds up to the alignment of records.
pub const fn record_aligned(bytes: usize) -> usize {
    (bytes + (RECORD_ALIGN_BYTES - 1)) & !(RECORD_ALIGN_BYTES - 1)
}
