//! Bodies that the peer offers and that this end reads, and what waits behind them.
//!
//! A message whose body is offered is taken over when the body is here. Until then later messages of its lane wait
//! behind it, and so does the end of a link on which one of those came; other lanes and other control records pass.
//!
//! What waits is bounded: a message with a link by the credit of its link, which it took when it arrived; messages
//! without one, and the bodies that are being read or were and wait for their turn, by `message_bytes_max` in total
//! (one body or message more, as nothing is too long for any bound). Beyond that no further read starts, or nothing
//! further is taken from the connection, until a read is done. A peer that is kept waiting by that for longer than its
//! `send_timeout` gives the connection up.
//!
//! Only the newest connection of a session reads. When it is superseded, what waits on it is dropped, and it comes anew
//! over the newer one. Else one connection could bring a message that the other is reading: the peer would be told that
//! it is held, and end an access that is in use.

use crate::message::Message;
use crate::packing::Descriptor;
use crate::pool::Body;
use crate::proto::{LANES, Lane, LinkId, OFFERS_MAX, PeerMisbehaved};
use crate::time::Timestamp;
use std::collections::VecDeque;

/// What a message without a link counts beside its bytes, so that empty ones are bounded, too.
const MESSAGE_OVERHEAD_BYTES: u64 = 256;

/// The offers of the peer on one connection, and what waits behind them.
#[derive(Debug)]
pub(super) struct Reads {
    /// `message_bytes_max`.
    bytes_max: u64,
    /// Offers whose messages were not taken, in the order of their arrival.
    offers: Vec<Offer>,
    next_number: u64,
    /// By lane: a message whose body is offered, and what came behind it.
    parked: [VecDeque<Parked>; LANES],
    /// Bytes of parked messages without a link, those of offered bodies apart.
    unlinked_bytes: u64,
    /// The end of a link for which messages are parked. Nothing behind it is looked at.
    held_detach: Option<(LinkId, Box<[u8]>)>,
    /// There is a newer connection.
    is_superseded: bool,
    /// So something was dropped, and nothing is taken any more.
    is_abandoned: bool,
}

#[derive(Debug)]
struct Offer {
    number: u64,
    lane: Lane,
    sequence: u64,
    bytes: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Wanted(Descriptor),
    Reading { descriptor: Descriptor, since: Timestamp },
    Done,
}

#[derive(Debug)]
struct Parked {
    message: Message,
    was_offered: bool,
    /// Its body is here.
    is_whole: bool,
}

/// What waited and goes on.
pub(super) struct Ready {
    pub(super) message: Message,
    pub(super) was_offered: bool,
}

impl Reads {
    pub(super) fn new(message_bytes_max: u64) -> Self {
        Self {
            bytes_max: message_bytes_max,
            offers: Vec::with_capacity(OFFERS_MAX),
            next_number: 0,
            parked: Default::default(),
            unlinked_bytes: 0,
            held_detach: None,
            is_superseded: false,
            is_abandoned: false,
        }
    }

    /// There is a newer connection in place of this one: nothing is read here any more.
    pub(super) fn supersede(&mut self) {
        self.is_superseded = true;
        if !self.offers.is_empty() {
            self.abandon();
        }
    }

    /// Whether something was left to a newer connection, and with it everything behind it.
    #[inline]
    pub(super) fn is_abandoned(&self) -> bool {
        self.is_abandoned
    }

    fn abandon(&mut self) {
        self.is_abandoned = true;
        self.offers.clear();
        self.parked.iter_mut().for_each(VecDeque::clear);
        (self.unlinked_bytes, self.held_detach) = (0, None);
    }

    /// Takes a message whose body is offered.
    pub(super) fn offer(&mut self, message: Message, descriptor: Descriptor) -> Result<(), PeerMisbehaved> {
        if self.is_superseded {
            self.abandon();
            return Ok(());
        }
        if self.offers.len() >= OFFERS_MAX {
            return Err(PeerMisbehaved::OfferOverrun { offers: self.offers.len() + 1, limit: OFFERS_MAX });
        }
        let (lane, sequence) = (message.head.lane, message.head.lane_sequence);
        let (number, bytes) = (self.next_number, message.head.total_body_bytes);
        self.next_number += 1;
        self.offers.push(Offer { number, lane, sequence, bytes, state: State::Wanted(descriptor) });
        self.parked[lane.index()].push_back(Parked { message, was_offered: true, is_whole: false });
        Ok(())
    }

    /// Whether a message of this lane has to wait.
    #[inline]
    pub(super) fn parks(&self, lane: Lane) -> bool {
        !self.parked[lane.index()].is_empty()
    }

    /// Has a message wait behind those that came before it in its lane.
    pub(super) fn park(&mut self, message: Message) {
        self.unlinked_bytes += unlinked_bytes(&message);
        self.parked[message.head.lane.index()].push_back(Parked {
            message,
            was_offered: false,
            is_whole: true,
        });
    }

    /// The next message that waits for nothing any more.
    pub(super) fn next_ready(&mut self) -> Option<Ready> {
        let lane = self.parked.iter_mut().find(|lane| lane.front().is_some_and(|first| first.is_whole))?;
        let Parked { message, was_offered, .. } = lane.pop_front()?;
        if was_offered {
            let taken = (message.head.lane, message.head.lane_sequence);
            self.offers.retain(|offer| (offer.lane, offer.sequence) != taken);
        } else {
            self.unlinked_bytes -= unlinked_bytes(&message);
        }
        Some(Ready { message, was_offered })
    }

    /// Holds the end of a link back if messages of the link wait; false if none does.
    pub(super) fn hold_detach(&mut self, link: LinkId, record: &[u8]) -> bool {
        let waits = self.has_parked(link);
        if waits {
            self.held_detach = Some((link, record.into()));
        }
        waits
    }

    /// The end of a link that was held back, when the last of its messages has gone on.
    pub(super) fn release_detach(&mut self) -> Option<Box<[u8]>> {
        let (link, _) = self.held_detach.as_ref()?;
        if self.has_parked(*link) { None } else { self.held_detach.take().map(|(_, record)| record) }
    }

    fn has_parked(&self, link: LinkId) -> bool {
        self.parked.iter().flatten().any(|parked| parked.message.head.link == Some(link))
    }

    /// Whether nothing further is to be looked at.
    pub(super) fn is_full(&self) -> bool {
        self.held_detach.is_some() || self.unlinked_bytes >= self.bytes_max
    }

    /// Whether a read is to be started.
    pub(super) fn wants_wire(&self) -> bool {
        self.next_wanted().is_some()
    }

    /// The next read to be started: its number, where, and how long. It counts as started.
    pub(super) fn start(&mut self, now: Timestamp) -> Option<(u64, Descriptor, u64)> {
        let index = self.next_wanted()?;
        let offer = &mut self.offers[index];
        let State::Wanted(descriptor) = &mut offer.state else { return None };
        let descriptor = std::mem::take(descriptor);
        offer.state = State::Reading { descriptor: descriptor.clone(), since: now };
        Some((offer.number, descriptor, offer.bytes))
    }

    /// A read could not be started now; it is tried again.
    pub(super) fn postpone(&mut self, number: u64) {
        if let Some(offer) = self.offers.iter_mut().find(|offer| offer.number == number)
            && let State::Reading { descriptor, .. } = &mut offer.state
        {
            offer.state = State::Wanted(std::mem::take(descriptor));
        }
    }

    /// The first offer that is not read yet, if there is room for its body. Those behind it wait with it: the reads
    /// that hold the room are then always of messages before it, and one of them is the next of its lane.
    fn next_wanted(&self) -> Option<usize> {
        let index = self.offers.iter().position(|offer| matches!(offer.state, State::Wanted(_)))?;
        let is_held = |offer: &&Offer| !matches!(offer.state, State::Wanted(_));
        let held: u64 = self.offers.iter().filter(is_held).map(|offer| offer.bytes).sum();
        (held == 0 || held.saturating_add(self.offers[index].bytes) <= self.bytes_max).then_some(index)
    }

    /// Whose read this is: its lane, and how many bytes it is to bring. `None` if it is nobody's any more.
    pub(super) fn reading(&self, number: u64) -> Option<(Lane, u64)> {
        let is_it = |offer: &&Offer| offer.number == number && matches!(offer.state, State::Reading { .. });
        self.offers.iter().find(is_it).map(|offer| (offer.lane, offer.bytes))
    }

    /// A body is here.
    pub(super) fn done(&mut self, number: u64, body: Body) {
        let Some(offer) = self.offers.iter_mut().find(|offer| offer.number == number) else { return };
        offer.state = State::Done;
        let lane = &mut self.parked[offer.lane.index()];
        // Within a connection the numbers of a lane ascend.
        if let Ok(index) =
            lane.binary_search_by_key(&offer.sequence, |parked| parked.message.head.lane_sequence)
        {
            lane[index].message.body = body;
            lane[index].is_whole = true;
        }
    }

    /// The read that has been in flight for longest: its lane, and since when.
    pub(super) fn oldest(&self) -> Option<(Lane, Timestamp)> {
        let since = |offer: &Offer| match offer.state {
            State::Reading { since, .. } => Some((offer.lane, since)),
            _ => None,
        };
        self.offers.iter().filter_map(since).min_by_key(|&(_, since)| since)
    }
}

fn unlinked_bytes(message: &Message) -> u64 {
    if message.head.link.is_some() { 0 } else { MESSAGE_OVERHEAD_BYTES + message.charged_bytes() }
}
