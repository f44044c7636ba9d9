//! Reply addresses: which links a process has attached to each, and what is held for them.
//!
//! A process has one address and may have several clients at one broker, each on a connection of its own, so an
//! address has a short list of links. All of them lead to the same process, which knows its calls by their
//! correlation whichever connection brings the reply; but a client that is not being polled delays what it is
//! brought for others. So the table learns a *hint*: which link's connection last asked with which high byte of the
//! correlation (there a client keeps its shard). Nobody but the requester may read a meaning into a correlation, and
//! this does not: a hint is a preference among links that are all right, and a wrong one costs a hop between threads.
//!
//! It must never know how a reply is sent.

use super::ledger::Amount;
use super::queue::Entry;
use super::tables::Slab;
use std::collections::{HashMap, VecDeque};
use underlay::driver::ConnectionId;
use underlay::proto::{CorrelationId, LinkId, ReplyAddress};

/// Links that one address may have. Finding the right one looks at each in turn.
pub(super) const ADDRESS_LINKS_MAX: usize = 64;

/// The addresses that are attached.
#[derive(Debug)]
pub(super) struct Addresses {
    by_address: HashMap<ReplyAddress, usize>,
    destinations: Slab<Destination>,
    links: Slab<ReplyLink>,
}

/// One address.
#[derive(Debug)]
struct Destination {
    address: ReplyAddress,
    /// Places of its links, the newest last. Never empty.
    links: Vec<usize>,
    /// What all of them hold.
    held: Amount,
}

/// A link on which a process takes its replies.
#[derive(Debug)]
pub(super) struct ReplyLink {
    destination: usize,
    pub(super) connection: ConnectionId,
    pub(super) link: LinkId,
    /// The high byte of the correlation of the last request that came on its connection.
    hint: Option<u8>,
    /// Replies that it could not be given yet.
    held: VecDeque<Entry>,
}

impl Addresses {
    pub(super) fn new() -> Self {
        Self { by_address: HashMap::new(), destinations: Slab::new(), links: Slab::new() }
    }

    /// Whether a reply waits for somebody to take it.
    pub(super) fn any_held(&self) -> bool {
        self.destinations.iter().any(|destination| destination.held != Amount::default())
    }

    /// How many links an address has.
    pub(super) fn links_of(&self, address: &ReplyAddress) -> usize {
        let destination = self.by_address.get(address).and_then(|&it| self.destinations.at(it));
        destination.map_or(0, |destination| destination.links.len())
    }

    /// One more link of an address; its place.
    pub(super) fn attach(&mut self, address: ReplyAddress, connection: ConnectionId, link: LinkId) -> usize {
        let destination = *self.by_address.entry(address).or_insert_with(|| {
            self.destinations.insert(Destination { address, links: Vec::new(), held: Amount::default() })
        });
        let held = VecDeque::new();
        let place = self.links.insert(ReplyLink { destination, connection, link, hint: None, held });
        if let Some(destination) = self.destinations.at_mut(destination) {
            destination.links.push(place);
        }
        place
    }

    /// Forgets a link, and its address with its last one; what was held for it is the caller's.
    pub(super) fn detach(&mut self, place: usize) -> Option<(ConnectionId, VecDeque<Entry>)> {
        let link = self.links.remove(place)?;
        if let Some(destination) = self.destinations.at_mut(link.destination) {
            destination.held =
                link.held.iter().fold(destination.held, |held, it| held.less(it.held_amount()));
            destination.links.retain(|other| *other != place);
            if destination.links.is_empty() {
                self.by_address.remove(&destination.address);
                self.destinations.remove(link.destination);
            }
        }
        Some((link.connection, link.held))
    }

    #[inline]
    pub(super) fn link(&self, place: usize) -> Option<&ReplyLink> {
        self.links.at(place)
    }

    /// A request that wants its reply at this address came on the connection of this link.
    pub(super) fn learn(&mut self, place: usize, address: &ReplyAddress, correlation: CorrelationId) {
        let Some(link) = self.links.at_mut(place) else { return };
        let learnt = Some(hint_of(correlation));
        if link.hint == learnt {
            return;
        }
        let Some(destination) = self.destinations.at(link.destination) else { return };
        if destination.address != *address {
            return;
        }
        link.hint = learnt;
        for &other in destination.links.iter().filter(|other| **other != place) {
            if let Some(other) = self.links.at_mut(other).filter(|other| other.hint == learnt) {
                other.hint = None;
            }
        }
    }

    /// The link for a reply: the one that asked, as far as that is known, else the newest.
    pub(super) fn choose(&self, address: &ReplyAddress, correlation: CorrelationId) -> Option<usize> {
        let links = &self.destinations.at(*self.by_address.get(address)?)?.links;
        let asked = Some(hint_of(correlation));
        let hinted = links.iter().copied().find(|&it| self.links.at(it).is_some_and(|it| it.hint == asked));
        hinted.or_else(|| links.last().copied())
    }

    /// What is held for all links of the address that this one belongs to.
    pub(super) fn held_for_address(&self, place: usize) -> Amount {
        let destination = self.links.at(place).and_then(|link| self.destinations.at(link.destination));
        destination.map_or(Amount::default(), |destination| destination.held)
    }

    pub(super) fn holds(&self, place: usize) -> bool {
        self.links.at(place).is_some_and(|link| !link.held.is_empty())
    }

    pub(super) fn push_back(&mut self, place: usize, entry: Entry) {
        self.charge(place, entry.held_amount());
        if let Some(link) = self.links.at_mut(place) {
            link.held.push_back(entry);
        }
    }

    pub(super) fn push_front(&mut self, place: usize, entry: Entry) {
        self.charge(place, entry.held_amount());
        if let Some(link) = self.links.at_mut(place) {
            link.held.push_front(entry);
        }
    }

    pub(super) fn pop_front(&mut self, place: usize) -> Option<Entry> {
        let link = self.links.at_mut(place)?;
        let entry = link.held.pop_front()?;
        if let Some(destination) = self.destinations.at_mut(link.destination) {
            destination.held = destination.held.less(entry.held_amount());
        }
        Some(entry)
    }

    fn charge(&mut self, place: usize, amount: Amount) {
        let Some(link) = self.links.at(place) else { return };
        if let Some(destination) = self.destinations.at_mut(link.destination) {
            destination.held = destination.held.plus(amount);
        }
    }
}

fn hint_of(correlation: CorrelationId) -> u8 {
    (correlation.0 >> (u64::BITS - u8::BITS)) as u8
}
