//! Dense tables: places that are used again, found by an index.

use super::ledger::Amount;
use underlay::driver::ConnectionId;
use underlay::proto::LinkId;

/// Things by small numbers that are used again. Taking one out and putting one in allocate only when it grows.
#[derive(Debug)]
pub(super) struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    pub(super) fn insert(&mut self, value: T) -> usize {
        match self.free.pop() {
            Some(place) => {
                self.places[place] = Some(value);
                place
            }
            None => {
                self.places.push(Some(value));
                self.places.len() - 1
            }
        }
    }

    pub(super) fn remove(&mut self, place: usize) -> Option<T> {
        let value = self.places.get_mut(place)?.take()?;
        self.free.push(place);
        Some(value)
    }

    #[inline]
    pub(super) fn at(&self, place: usize) -> Option<&T> {
        self.places.get(place)?.as_ref()
    }

    #[inline]
    pub(super) fn at_mut(&mut self, place: usize) -> Option<&mut T> {
        self.places.get_mut(place)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places.iter_mut().flatten()
    }
}

/// What a link of a peer is for; the number is a place in the slab of its kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum LinkUse {
    #[default]
    Unused,
    Producer(usize),
    Consumer(usize),
    Reply(usize),
}

/// What the broker knows of a connection.
#[derive(Debug, Default)]
pub(super) struct Peer {
    id: Option<ConnectionId>,
    /// By half their number: peers number their links 1, 3, 5...
    links: Vec<LinkUse>,
    /// Requests that were delivered to it and not answered.
    pub(super) owed_replies: u64,
    /// Its links that consume from queues.
    pub(super) consumers: u64,
    /// Its reply link; of several, the newest.
    pub(super) reply_link: Option<usize>,
    /// Replies that its links could not be given yet.
    pub(super) held: Amount,
    /// More waits for it than the mark says.
    pub(super) is_congested: bool,
    /// Its session has no connection: it is given nothing from queues until it has.
    pub(super) is_interrupted: bool,
    /// Something was not sent to it for another reason than credit, and no event says when that is over.
    pub(super) is_retried: bool,
}

/// The connections, by their places in the driver's table, checked against their whole names.
#[derive(Debug, Default)]
pub(super) struct Peers {
    table: Vec<Peer>,
}

impl Peers {
    pub(super) fn open(&mut self, id: ConnectionId) {
        if self.table.len() <= id.index() {
            self.table.resize_with(id.index() + 1, Peer::default);
        }
        let peer = &mut self.table[id.index()];
        let mut links = std::mem::take(&mut peer.links);
        links.clear();
        *peer = Peer { id: Some(id), links, ..Peer::default() };
    }

    pub(super) fn close(&mut self, id: ConnectionId) {
        if let Some(peer) = self.find(id) {
            peer.id = None;
            peer.owed_replies = 0;
        }
    }

    #[inline]
    pub(super) fn find(&mut self, id: ConnectionId) -> Option<&mut Peer> {
        self.table.get_mut(id.index()).filter(|peer| peer.id == Some(id))
    }

    #[inline]
    pub(super) fn link(&mut self, id: ConnectionId, link: LinkId) -> LinkUse {
        self.find(id).and_then(|peer| peer.links.get(place(link)).copied()).unwrap_or_default()
    }

    /// The link at a place of a connection, for walking over all of them; `None` behind the last.
    pub(super) fn link_at(&mut self, id: ConnectionId, place: usize) -> Option<LinkUse> {
        self.find(id)?.links.get(place).copied()
    }

    pub(super) fn set_link(&mut self, id: ConnectionId, link: LinkId, what: LinkUse) {
        let Some(peer) = self.find(id) else { return };
        if peer.links.len() <= place(link) {
            peer.links.resize(place(link) + 1, LinkUse::Unused);
        }
        peer.links[place(link)] = what;
    }

    /// Forgets a link, and says what it was for.
    pub(super) fn take_link(&mut self, id: ConnectionId, link: LinkId) -> LinkUse {
        let entry = self.find(id).and_then(|peer| peer.links.get_mut(place(link)));
        entry.map(std::mem::take).unwrap_or_default()
    }

    /// The same for a place.
    pub(super) fn take_link_at(&mut self, id: ConnectionId, place: usize) -> Option<LinkUse> {
        self.find(id)?.links.get_mut(place).map(std::mem::take)
    }

    /// Whether replies are still to be waited for. Not from one that has ended its last consuming link: it may answer
    /// what it was given, and has its right to, but it has said that it is going, and perhaps never will.
    pub(super) fn any_reply_awaited(&self) -> bool {
        self.table.iter().any(|peer| peer.owed_replies > 0 && peer.consumers > 0)
    }
}

fn place(link: LinkId) -> usize {
    (link.value() as usize - 1) / 2
}
