//! Positions: numbers that only grow, and their short forms on the wire.
//!
//! Both ends count frames, chunks, records and acknowledgements in 64 bits, which never wrap. A frame's
//! header carries some of them as their low 32 bits, which [`expand`] completes, as QUIC does with its
//! packet numbers (RFC 9000, appendix A.3).

use super::{LANES, Lane, PeerMisbehaved, STREAMS, Stream};

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

/// What a session has received: the position up to which it holds each stream, and what of that the peer was told.
///
/// It outlives connections. Where a session has just gone over to another connection, both bring records for a while,
/// and some of them twice; the number of each says whether it is the next, or one that is held already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    next: [u64; STREAMS],
    told: [u64; STREAMS],
    /// The peer is to be told of nothing beyond this for now.
    held_back: Option<[u64; STREAMS]>,
    /// The stream that was told last.
    turn: usize,
}

/// What a record is to its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The next of its stream.
    Next,
    /// One that is held already.
    Duplicate,
}

impl Received {
    /// Holds each stream up to these positions, of which the peer was told nothing.
    pub const fn holding(positions: [u64; STREAMS]) -> Self {
        Self { next: positions, told: [0; STREAMS], held_back: None, turn: 0 }
    }

    /// By stream, the number of the next record: what this end says when it resumes.
    pub const fn positions(&self) -> [u64; STREAMS] {
        self.next
    }

    /// The number of the next record of a stream: all before it are held.
    #[inline]
    pub const fn next(&self, stream: Stream) -> u64 {
        self.next[stream.index()]
    }

    /// What a record of a lane is. Nothing is counted yet.
    ///
    /// # Errors
    /// [`PeerMisbehaved::LaneOutOfSequence`] if one before it is missing.
    #[inline]
    pub fn check(&self, lane: Lane, found: u64) -> Result<Arrival, PeerMisbehaved> {
        let expected = self.next[lane.index()];
        match found.cmp(&expected) {
            std::cmp::Ordering::Equal => Ok(Arrival::Next),
            std::cmp::Ordering::Less => Ok(Arrival::Duplicate),
            std::cmp::Ordering::Greater => Err(PeerMisbehaved::LaneOutOfSequence { lane, expected, found }),
        }
    }

    /// The next record of a stream is held.
    #[inline]
    pub const fn take(&mut self, stream: Stream) {
        self.next[stream.index()] += 1;
    }

    /// Whether the peer may be told of more than it was.
    #[inline]
    pub fn has_news(&self) -> bool {
        *self.tellable() != self.told
    }

    /// Whether the peer was told of all that is held of a stream.
    #[inline]
    pub const fn is_told(&self, stream: Stream) -> bool {
        self.told[stream.index()] == self.next[stream.index()]
    }

    /// Whether the peer was told of all that is held.
    #[inline]
    pub fn is_all_told(&self) -> bool {
        self.told == self.next
    }

    /// From now on the peer is told of nothing beyond what is held now, until [`Received::told`] or
    /// [`Received::tell_all`].
    ///
    /// This end has just said in a hello from where it goes on. A peer that read of more on another connection before
    /// that hello has dropped what the hello asks for.
    pub const fn hold_back(&mut self) {
        self.held_back = Some(self.next);
    }

    /// Nothing is held back any more.
    pub const fn tell_all(&mut self) {
        self.held_back = None;
    }

    #[inline]
    fn tellable(&self) -> &[u64; STREAMS] {
        self.held_back.as_ref().unwrap_or(&self.next)
    }

    /// What the next frame says: a stream, and up to where it is held. One with news, in turn, if there is any.
    #[inline]
    pub fn tell(&mut self) -> (Stream, u64) {
        let tellable = *self.tellable();
        let mut index = (self.turn + 1) % STREAMS;
        for _ in 1..STREAMS {
            if tellable[index] != self.told[index] {
                break;
            }
            index = (index + 1) % STREAMS;
        }
        self.turn = index;
        self.told[index] = tellable[index];
        (Stream::ALL[index], tellable[index])
    }

    /// The peer goes by these positions, which a hello told it. Nothing is held back any more.
    pub const fn told(&mut self, positions: [u64; STREAMS]) {
        self.told = positions;
        self.held_back = None;
    }
}

/// The records of each lane arrive on one connection with ascending numbers. Between two connections of a session that
/// is all that holds: what the peer has learnt to be held already is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneOrder {
    next: [u64; LANES],
}

impl From<[u64; LANES]> for LaneOrder {
    /// Starts at these numbers.
    fn from(next: [u64; LANES]) -> Self {
        Self { next }
    }
}

impl LaneOrder {
    /// The least number that the next record of a lane may have.
    pub const fn next(&self, lane: Lane) -> u64 {
        self.next[lane.index()]
    }

    /// Takes the next record's number.
    ///
    /// # Errors
    /// [`PeerMisbehaved::LaneOutOfSequence`] if one like it, or behind it, came before.
    #[inline]
    pub const fn accept(&mut self, lane: Lane, found: u64) -> Result<(), PeerMisbehaved> {
        let expected = self.next[lane.index()];
        if found < expected {
            return Err(PeerMisbehaved::LaneOutOfSequence { lane, expected, found });
        }
        self.next[lane.index()] = found.wrapping_add(1);
        Ok(())
    }
}
