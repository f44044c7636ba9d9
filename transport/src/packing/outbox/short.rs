//! The frame that nearly every send is: short messages of one lane, and nothing else that waits.
//!
//! It is what `plan` and `write` would make as well, byte for byte (a test compares them). Knowing that nothing goes by
//! reference, and that neither control records nor other lanes want a place, it is planned in one look at each message
//! and written at once.

use super::plan::HEADS_IN_FRAME_MAX;
use super::{Announcement, Outbox, Windows, leaves_by_reference};
use crate::lane_turns::Turns;
use crate::pool::{BufferMut, GatherList, Pool, PoolError};
use crate::proto::frame::FrameKind;
use crate::proto::{FRAME_HEADER_BYTES, Lane, record_aligned, whole_lines};

/// What goes into such a frame.
pub(super) struct Short {
    lane: Lane,
    messages: usize,
    record_bytes: usize,
}

impl Outbox {
    /// The next frame, if it is one of these.
    #[inline]
    pub(super) fn plan_short(&self, windows: &Windows) -> Option<Short> {
        if windows.frames.available() == 0 || self.control.waiting() > 0 || !Turns::are_constant() {
            return None;
        }
        let lane = self.only_waiting_lane()?;
        let room = (self.rules.packet_bytes - FRAME_HEADER_BYTES).min(HEADS_IN_FRAME_MAX);
        let (mut messages, mut record_bytes) = (0, 0);
        for message in self.lanes[lane.index()].iter() {
            if leaves_by_reference(&message.body) || self.rules.is_bulk(message.body.len() as u64) {
                return None;
            }
            let bytes = self.rules.record_bytes(message, FRAME_HEADER_BYTES + record_bytes);
            if record_bytes + bytes > room {
                break;
            }
            record_bytes += bytes;
            messages += 1;
        }
        // One that outgrows the packet travels alone, which is another frame.
        (messages > 0).then_some(Short { lane, messages, record_bytes })
    }

    /// The lane in which messages wait, if there is just one.
    #[inline]
    fn only_waiting_lane(&self) -> Option<Lane> {
        let [urgent, normal, bulk] = &self.lanes;
        match (urgent.waiting() > 0, normal.waiting() > 0, bulk.waiting() > 0) {
            (true, false, false) => Some(Lane::Urgent),
            (false, true, false) => Some(Lane::Normal),
            (false, false, true) => Some(Lane::Bulk),
            _ => None,
        }
    }

    /// Writes it.
    pub(super) fn write_short(
        &mut self,
        short: &Short,
        windows: &mut Windows,
        announcement: &mut Announcement<'_>,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<(), PoolError> {
        let Short { lane, messages, record_bytes } = *short;
        let frame_bytes = whole_lines(FRAME_HEADER_BYTES + record_bytes);
        let mut heads = self.take_heads(frame_bytes, pool)?;
        let header = self.header(FrameKind::Data, messages, record_bytes, windows, announcement);
        heads.put_slice(&header.encode());
        let mut offset = FRAME_HEADER_BYTES;
        for _ in 0..messages {
            offset += self.write_record_at(lane, offset, &mut heads);
        }
        if offset < frame_bytes {
            heads.put_zeros(frame_bytes - offset);
        }
        gather.push(heads.split());
        self.heads = Some(heads);
        self.stats.packed_frames += 1;
        self.stats.packed_bytes += (FRAME_HEADER_BYTES + record_bytes) as u64;
        self.stats.messages += messages as u64;
        self.stats.frames += 1;
        self.stats.frame_bytes += frame_bytes as u64;
        Ok(())
    }

    /// Writes the record of a lane's next message, with its body, behind what `heads` has; returns its bytes.
    #[inline]
    fn write_record_at(&mut self, lane: Lane, offset: usize, heads: &mut BufferMut) -> usize {
        let queue = &mut self.lanes[lane.index()];
        let sequence = queue.next_sequence();
        let Some(message) = queue.front() else { return 0 };
        let body_bytes = message.body.len();
        let head_bytes = self.rules.head_bytes(message, offset);
        let extensions = message.extensions.as_deref().unwrap_or(&[]);
        // There is room: the buffer was asked for with so much.
        let fits = heads.lend_zeros(head_bytes).is_some_and(|head| {
            message.head.encode_whole_into(sequence, body_bytes as u32, extensions, head).is_ok()
        });
        debug_assert!(fits, "a head was planned that cannot be written");
        for segment in message.body.segments() {
            heads.put_slice(segment);
        }
        queue.advance(self.keeps);
        self.stats.bodies_beside_head += u64::from(body_bytes > 0);
        let record_bytes = record_aligned(head_bytes + body_bytes);
        if record_bytes > head_bytes + body_bytes {
            heads.put_zeros(record_bytes - head_bytes - body_bytes);
        }
        record_bytes
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
