//! Positions: numbers that only grow, and their short forms on the wire.
//!
//! Both ends count frames, chunks, records and acknowledgements in 64 bits, which never wrap. A frame's
//! header carries some of them as their low 32 bits, which [`expand`] completes, as QUIC does with its
//! packet numbers (RFC 9000, appendix A.3).

use super::{LANES, Lane, PeerMisbehaved};

/// The position nearest to `near` whose low 32 bits are `low`.
///
/// Right as long as the true position lies less than 2^31 from `near`. Of two that are equally near it
/// takes the larger; near either end of the range, the one that exists.
pub const fn expand(low: u32, near: u64) -> u64 {
    // The signed distance in 32 bits, from -2^31 to 2^31 - 1.
    let ahead = low.wrapping_sub(near as u32) as i32;
    if ahead == i32::MIN {
        return match near.checked_add(1 << 31) {
            Some(above) => above,
            None => near - (1 << 31),
        };
    }
    match near.checked_add_signed(ahead as i64) {
        Some(position) => position,
        // Past an end: the one that exists is a whole turn of the low half away.
        None if ahead < 0 => near + (1 << 32) - ahead.unsigned_abs() as u64,
        None => near - ((1 << 32) - ahead as u64),
    }
}

/// The low 32 bits of a position, as a frame's header carries them.
pub const fn shorten(position: u64) -> u32 {
    position as u32
}

/// The frames of one direction of a connection arrive numbered from zero without a gap.
///
/// A stream keeps its order by itself; the number finds frames that a wire lost or repeated, and is
/// what a sealed frame's nonce is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameOrder {
    next: u64,
}

impl FrameOrder {
    /// The number of the next frame.
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Takes the next frame's number, and returns it in full.
    ///
    /// # Errors
    /// [`PeerMisbehaved::FrameOutOfSequence`] if it is not the next one.
    pub fn accept(&mut self, frame_number: u32) -> Result<u64, PeerMisbehaved> {
        let found = expand(frame_number, self.next);
        if found != self.next {
            return Err(PeerMisbehaved::FrameOutOfSequence { expected: self.next, found });
        }
        self.next = self.next.wrapping_add(1);
        Ok(found)
    }
}

/// The message records of each lane arrive numbered without a gap, from the position at which the
/// session was resumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneOrder {
    next: [u64; LANES],
}

impl LaneOrder {
    /// Starts at these positions: zeros for a new session.
    pub const fn resuming(positions: [u64; LANES]) -> Self {
        Self { next: positions }
    }

    /// The next sequence number of a lane: what this end acknowledges once it holds all before it.
    pub const fn next(&self, lane: Lane) -> u64 {
        self.next[lane.index()]
    }

    /// Takes the next record's sequence number.
    ///
    /// # Errors
    /// [`PeerMisbehaved::LaneOutOfSequence`] if it is not the next one of its lane.
    pub fn accept(&mut self, lane: Lane, found: u64) -> Result<(), PeerMisbehaved> {
        let next = &mut self.next[lane.index()];
        if found != *next {
            return Err(PeerMisbehaved::LaneOutOfSequence { lane, expected: *next, found });
        }
        *next = next.wrapping_add(1);
        Ok(())
    }
}

/// What a sender has sent on a lane, and what of it the peer has acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    sent: u64,
    acknowledged: u64,
}

impl Acknowledged {
    /// Starts at the position from which a session is resumed: zero for a new one.
    pub const fn resuming(position: u64) -> Self {
        Self { sent: position, acknowledged: position }
    }

    /// The sequence number for the next record.
    pub fn send(&mut self) -> u64 {
        let sequence = self.sent;
        self.sent = self.sent.wrapping_add(1);
        sequence
    }

    /// The sequence number that the next record will have.
    pub const fn sent(&self) -> u64 {
        self.sent
    }

    /// Everything before this has been taken over by the peer process.
    pub const fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Records that the peer has not yet acknowledged.
    pub const fn outstanding(&self) -> u64 {
        self.sent.wrapping_sub(self.acknowledged)
    }

    /// Takes an acknowledgement, and returns how many records it newly covers. One that is older than
    /// what is known covers none and does no harm.
    ///
    /// # Errors
    /// [`PeerMisbehaved::AcknowledgedUnsent`] if it covers a record that was never sent.
    pub fn acknowledge(&mut self, lane: Lane, position: u64) -> Result<u64, PeerMisbehaved> {
        if position > self.sent {
            return Err(PeerMisbehaved::AcknowledgedUnsent { lane, found: position, limit: self.sent });
        }
        let newly = position.saturating_sub(self.acknowledged);
        self.acknowledged += newly;
        Ok(newly)
    }
}
