//! Messages to frames and back, aware of what the network carries whole.
//!
//! Here live the [`Outbox`], which queues messages by lane and packs them into frames when the channel is free, and
//! the [`Inbox`], which cuts what arrives, in whatever pieces, back into the same messages. The rules:
//!
//! - Messages that wait together share frames of up to `packet_bytes`; nothing waits for company. One that fits into
//!   a packet is never split.
//! - One that outgrows the packet travels alone in a larger frame, up to `eager_bytes_max`; beyond that it is *bulk*
//!   and leaves in chunks, of which the peer grants two at a time.
//! - Urgent goes before normal, and normal before bulk, whenever a frame begins; within a lane order is kept. A lane
//!   that waits for chunk credit lets the others pass.
//! - Where the connection has one-sided reads, bulk leaves as a record of its head that says where the body can be read
//!   ([`Offers`]), and what is behind it in its lane goes on.
//! - A body of [`COPY_BREAK_BYTES`](crate::pool::COPY_BREAK_BYTES) or more is passed on by reference.
//!
//! No descriptor, no clock, no thread. Both report what they did ([`PackingStats`]), so that a user sees what smaller
//! messages would buy. They must never know what a link or a destination means.

mod inbox;
mod offers;
mod outbox;

pub use inbox::{Inbox, InboxError, Parsed};
pub use offers::{Descriptor, Offers};
pub use outbox::{Announcement, Outbox, OutboxFull, Windows};

use crate::message::Message;
use crate::proto::extension::offer_extension_bytes;
use crate::proto::record::padded_head_bytes;
use crate::proto::{FRAME_HEADER_BYTES, LINE_BYTES, MESSAGE_HEAD_BYTES, Parameters, record_aligned};

/// What packing did, for one direction of one connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PackingStats {
    /// Frames of any kind.
    pub frames: u64,
    /// Bytes of all frames, headers and padding included.
    pub frame_bytes: u64,
    /// Frames whose messages share a packet or could have, if more had waited: not those of one message that outgrew
    /// it, of a chunk, or of nothing but control records.
    pub packed_frames: u64,
    /// Bytes of these, without the zeros behind their records.
    pub packed_bytes: u64,
    /// Messages of any size.
    pub messages: u64,
    /// Messages that outgrew the packet.
    pub outgrew: u64,
    /// By how many bytes, in total: for each, what a frame with all of it has beyond the packet.
    pub outgrew_bytes: u64,
    /// Chunks of bulk.
    pub chunks: u64,
    /// Bodies that left as offers, for one-sided reads.
    pub offers: u64,
    /// Bodies that were passed on by reference, in whole or in chunks.
    pub bodies_by_reference: u64,
    /// Bodies that were copied beside their heads, being shorter than the copy break. Empty ones are not counted.
    pub bodies_beside_head: u64,
}

impl PackingStats {
    /// Messages in each frame that shared a packet; 0 before the first.
    pub fn messages_per_frame(&self) -> f64 {
        ratio(self.messages.saturating_sub(self.outgrew), self.packed_frames)
    }

    /// How full packets were, from 0 to 1, for packets of `packet_bytes`.
    pub fn fill(&self, packet_bytes: u32) -> f64 {
        ratio(self.packed_bytes, self.packed_frames * u64::from(packet_bytes))
    }

    /// Adds another connection's figures.
    pub fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.frame_bytes += other.frame_bytes;
        self.packed_frames += other.packed_frames;
        self.packed_bytes += other.packed_bytes;
        self.messages += other.messages;
        self.outgrew += other.outgrew;
        self.outgrew_bytes += other.outgrew_bytes;
        self.chunks += other.chunks;
        self.offers += other.offers;
        self.bodies_by_reference += other.bodies_by_reference;
        self.bodies_beside_head += other.bodies_beside_head;
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The sizes that packing goes by, the same at both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackingRules {
    /// What a shared frame aims at: whole lines, at most what was negotiated.
    pub packet_bytes: usize,
    /// The longest part of a body in one record.
    pub chunk_bytes_max: usize,
    /// The longest head.
    pub head_bytes_max: usize,
    /// A body above this is bulk.
    pub eager_bytes_max: usize,
}

impl PackingRules {
    /// The rules that follow from what the handshake settled.
    pub fn new(parameters: &Parameters) -> Self {
        const HEADS_BYTES: usize = FRAME_HEADER_BYTES + MESSAGE_HEAD_BYTES;
        let (chunk, eager) = (parameters.chunk_bytes_max as usize, parameters.eager_bytes_max as usize);
        // What fits into a packet is never split. So the packet that is aimed at ends where one record's body must...
        let packet = (parameters.packet_bytes as usize).min(HEADS_BYTES + chunk.max(eager));
        // ...and at a whole line, since the frame is padded to one...
        let packet = packet - packet % LINE_BYTES;
        Self {
            packet_bytes: packet,
            chunk_bytes_max: chunk,
            head_bytes_max: parameters.head_bytes_max.into(),
            // ...and bulk begins beyond it, even where packets are longer than the eager limit.
            eager_bytes_max: eager.max(packet - HEADS_BYTES),
        }
    }

    /// Bytes of a whole message's record that begins at `offset` of its frame.
    fn record_bytes(&self, message: &Message, offset: usize) -> usize {
        record_aligned(self.head_bytes(message, offset) + message.body.len())
    }

    /// Bytes of its head.
    #[inline]
    fn head_bytes(&self, message: &Message, offset: usize) -> usize {
        let extension_bytes = message.extensions.as_ref().map_or(0, |bytes| bytes.len());
        let needed = message.head.head_bytes_needed(extension_bytes);
        padded_head_bytes(offset, needed, message.body.len(), self.head_bytes_max)
    }

    /// Bytes of the record of a message whose body is offered with a descriptor of so many bytes; `None` if its head
    /// would be too long.
    fn offer_bytes(&self, message: &Message, descriptor_bytes: usize) -> Option<usize> {
        let extension_bytes = message.extensions.as_ref().map_or(0, |bytes| bytes.len());
        let offer_bytes = offer_extension_bytes(descriptor_bytes);
        let bytes = message.head.head_bytes_needed(extension_bytes + offer_bytes);
        (bytes <= self.head_bytes_max).then_some(bytes)
    }

    /// Whether a body of this size takes chunk credit.
    pub fn is_bulk(&self, body_bytes: u64) -> bool {
        body_bytes > self.eager_bytes_max as u64
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
