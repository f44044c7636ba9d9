//! Reply addresses: where the replies of a process go, whichever connection it is on.
//!
//! An address costs an entry of a map while its process is attached, and nothing before or after. The process proves
//! that it is its own by the secret that the address is derived from, so of two that attach the later one is the same
//! process on a new connection, and wins; the earlier link is detached. A reply is for nobody when nobody is attached.
//!
//! A connection may answer as many requests as it was given: what goes beyond that is unsolicited, and dropped. So a
//! process cannot be sent replies by anybody but those that were asked something, and its service is never blamed for
//! a requester that is gone.

use super::Broker;
use super::queue::Entry;
use super::tables::{LinkUse, Slab};
use std::collections::{HashMap, VecDeque};
use underlay::connection::{LinkRoom, SendError};
use underlay::driver::{ConnectionId, Core};
use underlay::proto::control::DetachCode;
use underlay::proto::{LinkId, ReplyAddress};

/// The addresses that are attached.
#[derive(Debug)]
pub(super) struct Replies {
    by_address: HashMap<ReplyAddress, usize>,
    destinations: Slab<Destination>,
}

/// Where the replies to one address go.
#[derive(Debug)]
struct Destination {
    address: ReplyAddress,
    connection: ConnectionId,
    link: LinkId,
    /// Replies for which its link had no credit.
    held: VecDeque<Entry>,
}

impl Replies {
    pub(super) fn new() -> Self {
        Self { by_address: HashMap::new(), destinations: Slab::new() }
    }

    /// Whether a reply waits for somebody to take it.
    pub(super) fn any_held(&self) -> bool {
        self.destinations.iter().any(|destination| !destination.held.is_empty())
    }
}

impl Broker {
    pub(super) fn attach_reply(
        &mut self,
        core: &mut Core,
        connection: ConnectionId,
        link: LinkId,
        address: ReplyAddress,
    ) {
        if core.accept_link(connection, link, LinkRoom { messages: 0, bytes: 0 }).is_err() {
            return;
        }
        let held = self.take_over(core, address);
        let place = self.replies.destinations.insert(Destination { address, connection, link, held });
        self.replies.by_address.insert(address, place);
        self.peers.set_link(connection, link, LinkUse::Reply(place));
        self.flush_held(core, place);
    }

    /// Ends the link that has an address now, if there is one; returns what was held for it.
    fn take_over(&mut self, core: &mut Core, address: ReplyAddress) -> VecDeque<Entry> {
        let place = self.replies.by_address.remove(&address);
        let Some(old) = place.and_then(|place| self.replies.destinations.remove(place)) else {
            return VecDeque::new();
        };
        super::count(&mut self.stats.takeovers, |takeovers| {
            tracing::info!(connection = %old.connection, takeovers, "a reply address was taken over by a later link");
        });
        self.peers.take_link(old.connection, old.link);
        let text = "another link has attached to this reply address";
        core.detach_link(old.connection, old.link, DetachCode::AddressInUse, text);
        old.held
    }

    pub(super) fn forget_reply(&mut self, place: usize) {
        let Some(destination) = self.replies.destinations.remove(place) else { return };
        self.replies.by_address.remove(&destination.address);
        destination.held.iter().for_each(|_| self.count_for_nobody());
    }

    pub(super) fn route_reply(&mut self, core: &mut Core, from: ConnectionId, entry: Entry) {
        let Some(peer) = self.peers.find(from).filter(|peer| peer.owed_replies > 0) else {
            super::count(&mut self.stats.replies_unsolicited, |dropped| {
                tracing::warn!(connection = %from, peer = core.peer(from), dropped, "a reply was dropped: nothing had been asked");
            });
            return;
        };
        peer.owed_replies -= 1;
        let address = entry.message.head.reply_address;
        let place = address.and_then(|address| self.replies.by_address.get(&address).copied());
        let Some((place, destination)) =
            place.and_then(|place| Some((place, self.replies.destinations.at_mut(place)?)))
        else {
            self.count_for_nobody();
            return;
        };
        if !destination.held.is_empty() {
            self.hold(core, place, entry);
        } else if let Err(entry) = self.send_reply(core, place, entry) {
            self.hold(core, place, entry);
        }
    }

    /// Sends what is held, as far as its link takes it.
    pub(super) fn flush_held(&mut self, core: &mut Core, place: usize) {
        loop {
            let destination = self.replies.destinations.at_mut(place);
            let Some(entry) = destination.and_then(|it| it.held.pop_front()) else { return };
            if let Err(entry) = self.send_reply(core, place, entry) {
                if let Some(destination) = self.replies.destinations.at_mut(place) {
                    destination.held.push_front(entry);
                }
                return;
            }
        }
    }

    fn hold(&mut self, core: &mut Core, place: usize, entry: Entry) {
        let held_max = self.rules.held_replies_max;
        let Some(destination) = self.replies.destinations.at_mut(place) else { return };
        let connection = destination.connection;
        if destination.held.len() < held_max {
            destination.held.push_back(entry);
            self.stats.replies_held += 1;
            return;
        }
        super::count(&mut self.stats.replies_overflowed, |dropped| {
            let peer = core.peer(connection);
            tracing::warn!(%connection, peer, held_max, dropped, "a reply was dropped: too many are held (held_replies_max)");
        });
    }

    /// Hands a reply to its requester's connection, or drops it if that can never be done.
    ///
    /// # Errors
    /// The reply, if it cannot be taken now.
    #[allow(clippy::result_large_err)] // it is held, whole
    fn send_reply(&mut self, core: &mut Core, place: usize, mut entry: Entry) -> Result<(), Entry> {
        let Some(destination) = self.replies.destinations.at(place) else { return Err(entry) };
        let (connection, link) = (destination.connection, destination.link);
        if !entry.pass_time(core.now()) {
            super::count(&mut self.stats.expired, |dropped| {
                tracing::info!(%connection, dropped, "a reply was dropped: its deadline was over");
            });
            return Ok(());
        }
        entry.message.head.link = Some(link);
        match core.send(connection, entry.message) {
            Ok(()) => {
                self.stats.replies_routed += 1;
                self.watch(core, connection);
                Ok(())
            }
            Err((error @ (SendError::BodyTooLong { .. } | SendError::HeadTooLong { .. }), _)) => {
                super::count(&mut self.stats.replies_too_long, |dropped| {
                    tracing::warn!(%connection, peer = core.peer(connection), dropped, "a reply was dropped: {error}");
                });
                Ok(())
            }
            Err((error, message)) => {
                // Without credit its Writable event follows; for anything else it is looked at in the next turns.
                if !matches!(error, SendError::Link(_) | SendError::NotOpen) {
                    self.retry_later(core, connection);
                }
                entry.message = message;
                Err(entry)
            }
        }
    }

    fn count_for_nobody(&mut self) {
        super::count(&mut self.stats.replies_for_nobody, |dropped| {
            tracing::info!(dropped, "a reply was dropped: nobody has its address");
        });
    }
}
