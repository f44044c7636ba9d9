//! Planning: what goes into the next frame. Changes nothing.

use super::control::NextRecord;
use super::{Outbox, SEGMENTS_IN_FRAME_MAX, Windows, gather_entries, leaves_by_reference};
use crate::lane_turns::Turns;
use crate::message::Message;
use crate::packing::offers::Offer;
use crate::pool::BUFFER_BYTES_MAX;
use crate::proto::{FRAME_HEADER_BYTES, LANES, LINE_BYTES, Lane};

/// What one frame writes at most into the buffer for heads, whatever the packet's size: its header, heads, short
/// bodies and all zeros. The header, and the zeros of the last line, come on top.
pub(super) const HEADS_IN_FRAME_MAX: usize = BUFFER_BYTES_MAX - FRAME_HEADER_BYTES - LINE_BYTES;

/// What goes into the next frame.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) control_records: usize,
    pub(super) control_bytes: usize,
    /// Messages that share the frame, by lane.
    pub(super) shared: [usize; LANES],
    /// A message or chunk that travels alone, of this lane.
    pub(super) alone: Option<Lane>,
    /// The lanes in the order in which they come in the frame.
    pub(super) turns: Turns,
    /// Bytes of all records so far.
    pub(super) record_bytes: usize,
    /// Of these, what is written into the buffer for heads: all but the bodies that go by reference.
    pub(super) written_bytes: usize,
    pub(super) records: usize,
    /// Entries of the gather list so far.
    pub(super) segments: usize,
}

/// How a bulk message leaves.
enum Leaves {
    /// In this frame, as an offer.
    Offered,
    /// As an offer, for which this frame has no room.
    InNextFrame,
    /// When it is exposed: the others pass.
    Later,
    InChunks,
}

impl Plan {
    fn add(&mut self, record_bytes: usize, written_bytes: usize) {
        self.record_bytes += record_bytes;
        self.written_bytes += written_bytes;
        self.records += 1;
    }
}

impl Outbox {
    pub(super) fn plan(&self, windows: &Windows) -> Plan {
        let mut plan = Plan::default();
        if windows.frames.available_with_reserve() == 0 {
            return plan;
        }
        let may_go_on = self.plan_control(&mut plan);
        if may_go_on && windows.frames.available() > 0 {
            let limits = self.control.replay_limits(plan.control_records);
            plan.turns = Turns::of_next_frame(|| self.fits_one_frame());
            for lane in plan.turns.lanes() {
                if self.lanes[lane.index()].waiting() == 0 {
                    continue;
                }
                let limit = limits.map_or(u64::MAX, |limits| limits[lane.index()]);
                if !self.plan_lane(lane, limit, windows, &mut plan) {
                    break;
                }
            }
            plan.turns.taken(&plan.shared);
        }
        plan
    }

    /// Plans the control records that fit. Where not all of them do, no shorter message overtakes one: it may need the
    /// link that one grants. False then; a record that waits for messages itself keeps none of those back.
    fn plan_control(&self, plan: &mut Plan) -> bool {
        if !self.control.has_ready() {
            return true;
        }
        let positions = self.positions();
        loop {
            match self.control.peek(plan.control_records, &positions) {
                NextRecord::None | NextRecord::Blocked => return true,
                NextRecord::Bytes(bytes) => {
                    if plan.records > 0 && !self.has_room(plan, bytes, bytes) {
                        return false;
                    }
                    plan.control_records += 1;
                    plan.control_bytes += bytes;
                    plan.add(bytes, bytes);
                }
            }
        }
    }

    /// Plans as much of a lane, up to the position `limit`, as fits; false when the frame is complete.
    fn plan_lane(&self, lane: Lane, limit: u64, windows: &Windows, plan: &mut Plan) -> bool {
        let queue = &self.lanes[lane.index()];
        let allowed = limit.saturating_sub(queue.next_sequence()).min(plan.turns.messages_max(lane));
        for (index, message) in queue.iter().enumerate() {
            if index as u64 >= allowed {
                return true;
            }
            if self.rules.is_bulk(message.body.len() as u64) {
                match self.plan_offer(lane, index, message, windows, plan) {
                    Leaves::Offered => continue,
                    Leaves::InNextFrame => return false,
                    Leaves::Later => return true,
                    Leaves::InChunks => {}
                }
                // Without credit the lane waits, and the others pass.
                let allowed = windows.chunks.available() > 0;
                let alone = allowed && plan.records == 0;
                if alone {
                    plan.alone = Some(lane);
                    plan.records = 1;
                }
                return !allowed;
            }
            let bytes = self.rules.record_bytes(message, FRAME_HEADER_BYTES + plan.record_bytes);
            let written = if leaves_by_reference(&message.body) { bytes - message.body.len() } else { bytes };
            let segments = plan.segments + gather_entries(&message.body);
            let fits = self.has_room(plan, bytes, written) && segments <= SEGMENTS_IN_FRAME_MAX;
            if !fits {
                if plan.records == 0 {
                    plan.alone = Some(lane);
                    plan.records = 1;
                }
                return false;
            }
            plan.shared[lane.index()] = index + 1;
            plan.segments = segments;
            plan.add(bytes, written);
        }
        true
    }

    /// Plans a bulk message that stands `index` behind the next of its lane as an offer, if it is one.
    fn plan_offer(
        &self,
        lane: Lane,
        index: usize,
        message: &Message,
        windows: &Windows,
        plan: &mut Plan,
    ) -> Leaves {
        let queue = &self.lanes[lane.index()];
        if windows.offers.is_off() || (index == 0 && queue.chunked_bytes > 0) {
            return Leaves::InChunks;
        }
        let bytes = match windows.offers.of(lane, queue.next_sequence() + index as u64) {
            Some(Offer::Refused) => return Leaves::InChunks,
            Some(Offer::Exposed(descriptor)) => self.rules.offer_bytes(message, descriptor.len()),
            _ => return Leaves::Later,
        };
        // It was found to fit with the longest descriptor.
        let Some(bytes) = bytes else { return Leaves::InChunks };
        if plan.records > 0 && !self.has_room(plan, bytes, bytes) {
            return Leaves::InNextFrame;
        }
        plan.shared[lane.index()] = index + 1;
        plan.add(bytes, bytes);
        Leaves::Offered
    }

    /// Whether a planned frame has room for a record of so many bytes, of which `written` go into the buffer for heads.
    fn has_room(&self, plan: &Plan, bytes: usize, written: usize) -> bool {
        FRAME_HEADER_BYTES + plan.record_bytes + bytes <= self.rules.packet_bytes
            && plan.written_bytes + written <= HEADS_IN_FRAME_MAX
    }
}
