//! Writing: the planned frame.

use super::plan::Plan;
use super::{Announcement, HEAD_BUFFER_BYTES, Outbox, SEGMENTS_IN_FRAME_MAX, Windows, leaves_by_reference};
use crate::message::Message;
use crate::packing::Offers;
use crate::pool::{BUFFER_BYTES_MAX, BufferMut, COPY_BREAK_BYTES, GatherList, Pool, PoolError};
use crate::proto::extension::ExtensionWriter;
use crate::proto::frame::{FrameHeader, FrameKind};
use crate::proto::record::{ChunkHead, MessageHead};
use crate::proto::serial::shorten;
use crate::proto::{CHUNK_HEAD_BYTES, FRAME_HEADER_BYTES, LINE_BYTES, Lane, record_aligned, whole_lines};

impl Outbox {
    pub(super) fn write(
        &mut self,
        plan: &Plan,
        windows: &mut Windows,
        announcement: &mut Announcement<'_>,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<(), PoolError> {
        match plan.alone {
            Some(lane) if self.rules.is_bulk(self.first_body_bytes(lane)) => {
                self.write_chunk(lane, windows, announcement, pool, gather)
            }
            Some(lane) => self.write_alone(lane, windows, announcement, pool, gather),
            None => self.write_shared(plan, windows, announcement, pool, gather),
        }
    }

    fn first_body_bytes(&self, lane: Lane) -> u64 {
        self.lanes[lane.index()].front().map_or(0, |message| message.body.len() as u64)
    }

    fn write_shared(
        &mut self,
        plan: &Plan,
        windows: &mut Windows,
        announcement: &mut Announcement<'_>,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<(), PoolError> {
        let mut heads = self.take_heads(FRAME_HEADER_BYTES + plan.written_bytes + LINE_BYTES, pool)?;
        let data = plan.records > plan.control_records;
        let kind = if data { FrameKind::Data } else { FrameKind::Control };
        let header = self.header(kind, plan.records, plan.record_bytes, windows, announcement);
        heads.put_slice(&header.encode());
        if plan.control_records > 0 {
            heads.put_slice(self.control.next_bytes(plan.control_bytes));
            self.control.advance(plan.control_records, plan.control_bytes, self.positions(), self.keeps);
        }
        let mut offset = FRAME_HEADER_BYTES + plan.control_bytes;
        for lane in plan.turns.lanes() {
            for _ in 0..plan.shared[lane.index()] {
                offset += if !windows.offers.is_off() && self.rules.is_bulk(self.first_body_bytes(lane)) {
                    self.write_offer(lane, &mut windows.offers, &mut heads)
                } else {
                    self.write_front(lane, offset, &mut heads, gather)
                };
            }
        }
        if data {
            self.stats.packed_frames += 1;
            self.stats.packed_bytes += offset as u64;
        }
        self.finish_frame(&header, heads, gather);
        Ok(())
    }

    /// Writes a control frame with a record that does not wait in the queue.
    pub(super) fn write_record(
        &mut self,
        record: &[u8],
        windows: &mut Windows,
        announcement: &mut Announcement<'_>,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<(), PoolError> {
        let mut heads = self.take_heads(FRAME_HEADER_BYTES + record.len() + LINE_BYTES, pool)?;
        let header = self.header(FrameKind::Control, 1, record.len(), windows, announcement);
        heads.put_slice(&header.encode());
        heads.put_slice(record);
        self.finish_frame(&header, heads, gather);
        Ok(())
    }

    fn write_alone(
        &mut self,
        lane: Lane,
        windows: &mut Windows,
        announcement: &mut Announcement<'_>,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<(), PoolError> {
        let Some(message) = self.lanes[lane.index()].front() else { return Ok(()) };
        let record_bytes = self.rules.record_bytes(message, FRAME_HEADER_BYTES);
        let mut heads =
            self.take_heads(self.rules.head_bytes_max + COPY_BREAK_BYTES + 2 * LINE_BYTES, pool)?;
        let header = self.header(FrameKind::Data, 1, record_bytes, windows, announcement);
        heads.put_slice(&header.encode());
        self.write_front(lane, FRAME_HEADER_BYTES, &mut heads, gather);
        self.count_outgrown(record_bytes);
        self.finish_frame(&header, heads, gather);
        Ok(())
    }

    /// Writes the record of a lane's next message, with its whole body; returns its bytes.
    fn write_front(
        &mut self,
        lane: Lane,
        offset: usize,
        heads: &mut BufferMut,
        gather: &mut GatherList,
    ) -> usize {
        let queue = &mut self.lanes[lane.index()];
        let lane_sequence = queue.next_sequence();
        let Some(message) = queue.front() else { return 0 };
        let body_bytes = message.body.len();
        let head_bytes = self.rules.head_bytes(message, offset);
        let head = MessageHead {
            body_bytes: body_bytes as u32,
            total_body_bytes: body_bytes as u64,
            lane_sequence,
            offered: false,
            ..message.head
        };
        write_message_head(&head, message, head_bytes, heads);
        if !leaves_by_reference(&message.body) {
            for segment in message.body.segments() {
                heads.put_slice(segment);
            }
            self.stats.bodies_beside_head += u64::from(body_bytes > 0);
        } else {
            gather.push(heads.split());
            message.body.segments().for_each(|segment| gather.push(segment.clone()));
            self.stats.bodies_by_reference += 1;
        }
        queue.advance(self.keeps);
        let record_bytes = record_aligned(head_bytes + body_bytes);
        heads.put_zeros(record_bytes - head_bytes - body_bytes);
        self.stats.messages += 1;
        record_bytes
    }

    /// Writes the record of a lane's next message, whose body is offered; returns its bytes.
    fn write_offer(&mut self, lane: Lane, offers: &mut Offers, heads: &mut BufferMut) -> usize {
        let queue = &mut self.lanes[lane.index()];
        let lane_sequence = queue.next_sequence();
        // The plan has found both.
        let (Some(message), Some(descriptor)) = (queue.front(), offers.leave(lane, lane_sequence)) else {
            return 0;
        };
        let Some(head_bytes) = self.rules.offer_bytes(message, descriptor.len()) else { return 0 };
        let total_body_bytes = message.body.len() as u64;
        let head =
            MessageHead { body_bytes: 0, total_body_bytes, lane_sequence, offered: true, ..message.head };
        let extension_bytes = message.extensions.as_ref().map_or(0, |bytes| bytes.len());
        let offer_at = heads.written().len() + head.extensions_at() + extension_bytes;
        write_message_head(&head, message, head_bytes, heads);
        let end = heads.written().len();
        let mut extensions = ExtensionWriter::of_offer(&mut heads.written_mut()[offer_at..end]);
        let fits = extensions.offer(&descriptor).is_ok();
        debug_assert!(fits, "an offer was planned that cannot be written");
        queue.advance(self.keeps);
        self.stats.messages += 1;
        self.stats.offers += 1;
        head_bytes
    }

    /// Writes the first message's next chunk, which is its head too if nothing of it has left yet.
    fn write_chunk(
        &mut self,
        lane: Lane,
        windows: &mut Windows,
        announcement: &mut Announcement<'_>,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<(), PoolError> {
        let mut heads = self.take_heads(self.rules.head_bytes_max + 2 * LINE_BYTES, pool)?;
        let queue = &self.lanes[lane.index()];
        let Some(message) = queue.front() else { return Ok(()) };
        let (from, total) = (queue.chunked_bytes, message.body.len());
        let body_bytes = message.body.bytes_in(from, self.rules.chunk_bytes_max, SEGMENTS_IN_FRAME_MAX);
        let head_bytes =
            if from == 0 { self.rules.head_bytes(message, FRAME_HEADER_BYTES) } else { CHUNK_HEAD_BYTES };
        let record_bytes = record_aligned(head_bytes + body_bytes);
        let sequence = queue.next_sequence();
        let header = self.header(FrameKind::Data, 1, record_bytes, windows, announcement);
        heads.put_slice(&header.encode());
        let Some(message) = self.lanes[lane.index()].front() else { return Ok(()) };
        if from == 0 {
            let (body_bytes, total_body_bytes) = (body_bytes as u32, total as u64);
            let head = MessageHead {
                body_bytes,
                total_body_bytes,
                lane_sequence: sequence,
                offered: false,
                ..message.head
            };
            write_message_head(&head, message, head_bytes, &mut heads);
        } else {
            let head = ChunkHead {
                lane,
                last: from + body_bytes == total,
                body_bytes: body_bytes as u32,
                link: message.head.link,
                lane_sequence: sequence,
                body_offset: from as u64,
            };
            // The head has room: the buffer was asked for with more.
            put_encoded(head_bytes, &mut heads, |out| head.encode_into(head_bytes, out).is_ok());
        }
        gather.push(heads.split());
        message.body.slices(from, body_bytes).for_each(|segment| gather.push(segment));
        heads.put_zeros(record_bytes - head_bytes - body_bytes);
        // Planned only with credit.
        windows.chunks.take(1);
        self.stats.chunks += 1;
        self.lanes[lane.index()].chunked_bytes = from + body_bytes;
        if from + body_bytes == total {
            self.finish_bulk(lane);
        }
        self.finish_frame(&header, heads, gather);
        Ok(())
    }

    fn finish_bulk(&mut self, lane: Lane) {
        let queue = &mut self.lanes[lane.index()];
        let Some(message) = queue.front() else { return };
        let record_bytes = self.rules.record_bytes(message, FRAME_HEADER_BYTES);
        queue.advance(self.keeps);
        self.stats.messages += 1;
        self.stats.bodies_by_reference += 1;
        self.count_outgrown(record_bytes);
    }

    /// Zeros up to a whole line, and the rest of the frame into the gather list.
    fn finish_frame(&mut self, header: &FrameHeader, mut heads: BufferMut, gather: &mut GatherList) {
        heads.put_zeros(header.padding_bytes() as usize);
        gather.push(heads.split());
        self.heads = Some(heads);
        self.stats.frames += 1;
        self.stats.frame_bytes += u64::from(header.frame_bytes());
    }

    #[inline]
    pub(super) fn header(
        &mut self,
        kind: FrameKind,
        records: usize,
        record_bytes: usize,
        windows: &mut Windows,
        announcement: &mut Announcement<'_>,
    ) -> FrameHeader {
        // Planned only with a slot left; the last `control_slots` of them only for control.
        let number = windows.frames.take_with_reserve(1).unwrap_or_default();
        let (ack_stream, ack_sequence) = announcement.received.tell();
        FrameHeader {
            kind,
            ack_stream,
            records: records as u16,
            frame_number_low: shorten(number),
            frame_limit_low: shorten(announcement.frame_limit),
            chunk_limit_low: shorten(announcement.chunk_limit),
            record_bytes: record_bytes as u32,
            ack_sequence,
        }
    }

    /// The buffer for heads, with room for `bytes` more.
    #[inline]
    pub(super) fn take_heads(&mut self, bytes: usize, pool: &mut Pool) -> Result<BufferMut, PoolError> {
        if let Some(mut heads) = self.heads.take()
            && (heads.restart() || heads.spare() >= bytes)
            && heads.spare() >= bytes
        {
            return Ok(heads);
        }
        pool.buffer(bytes.clamp(HEAD_BUFFER_BYTES, BUFFER_BYTES_MAX))
    }

    /// Counts a message that did not share a packet, by the frame that it would fill alone and whole.
    fn count_outgrown(&mut self, record_bytes: usize) {
        let frame_bytes = whole_lines(FRAME_HEADER_BYTES + record_bytes);
        self.stats.outgrew += 1;
        self.stats.outgrew_bytes += frame_bytes.saturating_sub(self.rules.packet_bytes) as u64;
    }
}

fn write_message_head(head: &MessageHead, message: &Message, head_bytes: usize, heads: &mut BufferMut) {
    let extensions = message.extensions.as_deref().unwrap_or(&[]);
    // The plan has made room for exactly this head.
    put_encoded(head_bytes, heads, |out| head.encode_into(extensions, head_bytes, out).is_ok());
}

fn put_encoded(bytes: usize, heads: &mut BufferMut, encode: impl FnOnce(&mut [u8]) -> bool) {
    let at = heads.written().len();
    heads.put_zeros(bytes);
    let fits = encode(&mut heads.written_mut()[at..]);
    debug_assert!(fits, "a head was planned that cannot be written");
}
