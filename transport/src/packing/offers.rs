//! Bodies that a connection offers for one-sided reads.
//!
//! A body is exposed on the channel, its message leaves as a record that says where it can be read, and when the peer
//! has acknowledged the message the exposure is withdrawn. All of that belongs to one connection: the message itself
//! stays in its lane until it is acknowledged, and another connection offers it anew, or sends it in chunks.

use crate::proto::{LANES, Lane, OFFER_BYTES_MAX};
use arrayvec::ArrayVec;

/// Where a peer can read a body, in the words of its wire: opaque to everybody else.
pub type Descriptor = ArrayVec<u8, OFFER_BYTES_MAX>;

/// So far behind the next message of a lane bodies are exposed before their turn: enough that bulk leaves in batches,
/// and that no exposure lies open for the sake of a message that is far from leaving.
const LOOKED_AHEAD: u64 = 64;

/// What a connection offers, of which `offers_max` at most are not acknowledged.
///
/// Each offer has a number that names its exposure to the wire. It is used once in a connection.
#[derive(Debug, Default)]
pub struct Offers {
    /// 0 where the connection has no one-sided reads.
    offers_max: usize,
    entries: Vec<Entry>,
    /// Exposures that are not needed any more, to be withdrawn.
    withdrawn: Vec<u64>,
    next_number: u64,
    /// By lane, the number of the first message that was not looked at, and up to where the peer holds it.
    looked_at: [u64; LANES],
    acknowledged: [u64; LANES],
    /// Offers that were acknowledged.
    taken: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    lane: Lane,
    sequence: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// To be exposed.
    Wanted,
    /// The wire is being asked.
    Asked,
    Exposed(Descriptor),
    /// The wire cannot: the message leaves in chunks.
    Refused,
    /// Its message has left.
    Left,
}

/// What is known of the body of a message that is to be offered.
pub(super) enum Offer<'a> {
    Exposed(&'a Descriptor),
    Refused,
    /// It is not exposed yet.
    Pending,
}

impl Offers {
    /// Those of a connection that may have so many.
    pub fn new(offers_max: usize) -> Self {
        Self { offers_max, ..Self::default() }
    }

    /// Whether nothing is ever offered here.
    #[inline]
    pub fn is_off(&self) -> bool {
        self.offers_max == 0
    }

    /// Messages that have left as offers and are not acknowledged.
    pub fn outstanding(&self) -> usize {
        self.entries.iter().filter(|entry| matches!(entry.state, State::Left)).count()
    }

    /// Offers that were acknowledged so far.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// The next body that is to be exposed: the number of its exposure, its lane and its sequence number. It counts as
    /// asked for until [`Offers::answer`].
    pub fn ask(&mut self) -> Option<(u64, Lane, u64)> {
        let entry = self.entries.iter_mut().find(|entry| matches!(entry.state, State::Wanted))?;
        entry.state = State::Asked;
        Some((entry.number, entry.lane, entry.sequence))
    }

    /// The wire has exposed a body that it was asked for, or cannot.
    pub fn answer(&mut self, number: u64, descriptor: Option<Descriptor>) {
        let asked = |entry: &&mut Entry| entry.number == number && matches!(entry.state, State::Asked);
        match (self.entries.iter_mut().find(asked), descriptor) {
            (Some(entry), Some(descriptor)) => entry.state = State::Exposed(descriptor),
            (Some(entry), None) => entry.state = State::Refused,
            // Nobody wants it any more.
            (None, Some(_)) => self.withdrawn.push(number),
            (None, None) => {}
        }
    }

    /// The next exposure that is to be withdrawn.
    pub fn withdraw(&mut self) -> Option<u64> {
        self.withdrawn.pop()
    }

    /// The connection has ended: nothing is offered any more, and everything is to be withdrawn.
    pub fn end(&mut self) {
        for entry in self.entries.drain(..) {
            if matches!(entry.state, State::Exposed(_) | State::Left) {
                self.withdrawn.push(entry.number);
            }
        }
        self.offers_max = 0;
    }

    /// Whether a wire is to be asked for something.
    pub fn wants_wire(&self) -> bool {
        !self.withdrawn.is_empty() || self.entries.iter().any(|entry| matches!(entry.state, State::Wanted))
    }

    /// The body of a message that is to be offered; `None` as long as there is no room for another one.
    pub(super) fn of(&self, lane: Lane, sequence: u64) -> Option<Offer<'_>> {
        let is_it = |entry: &&Entry| entry.lane == lane && entry.sequence == sequence;
        match &self.entries.iter().find(is_it)?.state {
            State::Exposed(descriptor) => Some(Offer::Exposed(descriptor)),
            State::Refused => Some(Offer::Refused),
            State::Wanted | State::Asked | State::Left => Some(Offer::Pending),
        }
    }

    /// A message leaves; where its body can be read.
    pub(super) fn leave(&mut self, lane: Lane, sequence: u64) -> Option<Descriptor> {
        let is_it = |entry: &&mut Entry| entry.lane == lane && entry.sequence == sequence;
        let entry = self.entries.iter_mut().find(is_it)?;
        match std::mem::replace(&mut entry.state, State::Left) {
            State::Exposed(descriptor) => Some(descriptor),
            state => {
                entry.state = state;
                None
            }
        }
    }

    /// Whether [`super::Outbox::review_offers`] would change anything: by lane, up to where the peer holds it, and where
    /// what waits begins and ends.
    pub(super) fn wants_review(&self, acknowledged: &[u64; LANES], waiting: &[(u64, u64); LANES]) -> bool {
        !self.is_off()
            && ((self.acknowledged != *acknowledged && !self.entries.is_empty())
                || (self.has_room()
                    && self.looked_at.iter().zip(waiting).any(|(&looked_at, &(next, end))| {
                        looked_at.max(next) < end.min(next + LOOKED_AHEAD)
                    })))
    }

    /// By lane, the peer holds everything before the first of these, and everything before the other has left.
    pub(super) fn settle(&mut self, acknowledged: &[u64; LANES], next: &[u64; LANES]) {
        self.acknowledged = *acknowledged;
        let (withdrawn, taken) = (&mut self.withdrawn, &mut self.taken);
        self.entries.retain(|entry| {
            let index = entry.lane.index();
            let has_left_in_chunks = matches!(entry.state, State::Refused) && entry.sequence < next[index];
            let is_done = entry.sequence < acknowledged[index] || has_left_in_chunks;
            if is_done {
                *taken += u64::from(matches!(entry.state, State::Left));
                if matches!(entry.state, State::Exposed(_) | State::Left) {
                    withdrawn.push(entry.number);
                }
            }
            !is_done
        });
    }

    /// Notes which of a lane's messages, from the next to leave on, are to be offered, as long as there is room.
    /// `is_offered` says it of the message of a number, if there is one.
    pub(super) fn look_at(&mut self, lane: Lane, from: u64, is_offered: impl Fn(u64) -> Option<bool>) {
        let looked_at = self.looked_at[lane.index()].max(from);
        let mut sequence = looked_at;
        while self.has_room() && sequence < from + LOOKED_AHEAD {
            let Some(is_offered) = is_offered(sequence) else { break };
            if is_offered {
                let number = self.next_number;
                self.next_number += 1;
                self.entries.push(Entry { number, lane, sequence, state: State::Wanted });
            }
            sequence += 1;
        }
        self.looked_at[lane.index()] = sequence;
    }

    /// Whether another body may be exposed. What the wire refused is none.
    fn has_room(&self) -> bool {
        let exposed = |entry: &&Entry| !matches!(entry.state, State::Refused);
        self.entries.iter().filter(exposed).count() < self.offers_max
    }
}
