//! What the two ends of a channel share: a ring for each direction, and how each end has ended.

use super::RING_SEGMENTS;
use crate::backend::ChannelEnd;
use crate::pool::Segment;
use crate::sync::SleepFlag;
use crossbeam_queue::ArrayQueue;
use std::io;
use std::sync::{Arc, OnceLock};

/// One end's hold of a channel. Dropping it ends the channel; whoever does that rings the peer's bell.
#[derive(Debug)]
pub(super) struct DuctEnd {
    duct: Arc<Duct>,
    side: usize,
}

#[derive(Debug)]
struct Duct {
    /// What each side has sent.
    lanes: [Lane; 2],
    /// How each side has ended; set last, after everything that it has sent.
    ended: [OnceLock<EndedBy>; 2],
}

#[derive(Debug)]
struct Lane {
    /// Several threads may take from it: an end that closes clears both directions.
    ring: ArrayQueue<Segment>,
    /// Up while the sender has more than fits.
    sender_waits: SleepFlag,
}

/// How an end has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndedBy {
    /// It was closed.
    Close,
    /// Its wire was dropped.
    Drop,
    /// Its wire was dropped by a panic.
    Panic,
}

impl From<EndedBy> for ChannelEnd {
    fn from(ended: EndedBy) -> Self {
        let reason = match ended {
            EndedBy::Close => return ChannelEnd::Peer,
            EndedBy::Drop => "the peer's wire was dropped while the channel was open",
            EndedBy::Panic => "the peer's thread panicked",
        };
        ChannelEnd::Broken(io::Error::new(io::ErrorKind::ConnectionAborted, reason))
    }
}

impl DuctEnd {
    /// Both ends of a new channel. Allocates the rings.
    pub(super) fn pair() -> [DuctEnd; 2] {
        let lane = || Lane { ring: ArrayQueue::new(RING_SEGMENTS), sender_waits: SleepFlag::new() };
        let duct = Arc::new(Duct { lanes: [lane(), lane()], ended: [OnceLock::new(), OnceLock::new()] });
        [DuctEnd { duct: duct.clone(), side: 0 }, DuctEnd { duct, side: 1 }]
    }

    /// Moves a segment into the ring. If it is full the segment comes back, and the peer will ring when there is room.
    #[inline]
    pub(super) fn push(&self, segment: Segment) -> Result<(), Segment> {
        let lane = &self.duct.lanes[self.side];
        lane.ring.push(segment).or_else(|segment| {
            // The second look pairs with `made_room`, as in `Wakeup`: either it finds the room, or the peer that
            // made it finds the flag.
            lane.sender_waits.raise();
            lane.ring.push(segment)
        })
    }

    /// The next segment from the peer.
    #[inline]
    pub(super) fn pop(&self) -> Option<Segment> {
        self.duct.lanes[1 - self.side].ring.pop()
    }

    /// Call it after [`DuctEnd::pop`] took something: true if the peer waits for that and must be rung.
    #[inline]
    pub(super) fn made_room(&self) -> bool {
        self.duct.lanes[1 - self.side].sender_waits.lower()
    }

    /// How the peer has ended. Look at this *before* taking from the ring: if it had ended and the ring is then found
    /// empty, nothing more can come.
    #[inline]
    pub(super) fn peer_ended(&self) -> Option<EndedBy> {
        self.duct.ended[1 - self.side].get().copied()
    }

    /// Ends this end: what the peer has sent is let go of; what this end has sent stays for the peer, unless that has
    /// ended too.
    pub(super) fn end(&self, by: EndedBy) {
        // The first ending counts: a drop after a close changes nothing.
        let _ = self.duct.ended[self.side].set(by);
        self.clear(1 - self.side);
        if self.peer_ended().is_some() {
            self.clear(self.side);
        }
    }

    fn clear(&self, side: usize) {
        while self.duct.lanes[side].ring.pop().is_some() {}
    }
}

impl Drop for DuctEnd {
    fn drop(&mut self) {
        self.end(if std::thread::panicking() { EndedBy::Panic } else { EndedBy::Drop });
    }
}
