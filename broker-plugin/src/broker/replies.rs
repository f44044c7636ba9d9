//! Replies: to a link of their address, whichever connection it is on.
//!
//! An address costs an entry of a map while its process is attached, and nothing before or after. The process proves
//! that it is its own by the secret that the address is derived from, so all links of one address are one process:
//! its clients, or a connection that has died without a word and its successor. None of them is ended for another; a
//! reply goes to the one that asked, as far as that is known, else to the newest. It is for nobody when none is left.
//!
//! A connection may answer as many requests as it was given: what goes beyond that is unsolicited, and dropped. So a
//! process cannot be sent replies by anybody but those that were asked something, and its service is never blamed for
//! a requester that is gone.
//!
//! What a link cannot take now is held for it. That is bounded in messages and in bytes, for each address and for
//! each connection, and counts into the congestion of the connection, so that who asks and does not take the answers
//! is given no more credit to ask.

use super::Broker;
use super::addresses::ADDRESS_LINKS_MAX;
use super::attach::Refusal;
use super::ledger::Amount;
use super::queue::Entry;
use super::tables::LinkUse;
use underlay::connection::{LinkRoom, SendError};
use underlay::driver::{ConnectionId, Core};
use underlay::proto::control::DetachCode;
use underlay::proto::record::{MessageHead, MessageKind};
use underlay::proto::{LinkId, ReplyAddress};

/// Links.
impl Broker {
    pub(super) fn attach_reply(
        &mut self,
        core: &mut Core,
        connection: ConnectionId,
        link: LinkId,
        address: ReplyAddress,
    ) -> Result<(), Refusal> {
        let others = self.addresses.links_of(&address);
        if others >= ADDRESS_LINKS_MAX {
            let text = format!("this reply address has {others} links, the most that one may have");
            return Err(Refusal(DetachCode::ResourceLimit, text));
        }
        if core.accept_link(connection, link, LinkRoom { messages: 0, bytes: 0 }).is_err() {
            // The connection has ended meanwhile.
            return Ok(());
        }
        self.stats.addresses_shared += u64::from(others > 0);
        let place = self.addresses.attach(address, connection, link);
        self.peers.set_link(connection, link, LinkUse::Reply(place));
        if let Some(peer) = self.peers.find(connection) {
            peer.reply_link = Some(place);
        }
        Ok(())
    }

    /// A link has ended: what it held goes to another of its address, if there is one.
    pub(super) fn forget_reply(&mut self, core: &mut Core, place: usize) {
        let Some((connection, held)) = self.addresses.detach(place) else { return };
        if let Some(peer) = self.peers.find(connection) {
            peer.reply_link = peer.reply_link.filter(|it| *it != place);
            peer.held = held.iter().fold(peer.held, |rest, entry| rest.less(entry.held_amount()));
        }
        for entry in held {
            self.pass_on(core, entry);
        }
    }

    /// Learns from a request by which link its reply is best sent.
    #[inline]
    pub(super) fn learn_requester(&mut self, connection: ConnectionId, head: &MessageHead) {
        if head.kind == MessageKind::Request
            && let Some(address) = &head.reply_address
            && let Some(place) = self.peers.find(connection).and_then(|peer| peer.reply_link)
        {
            self.addresses.learn(place, address, head.correlation_id);
        }
    }
}

/// The way of a reply.
impl Broker {
    pub(super) fn route_reply(&mut self, core: &mut Core, from: ConnectionId, entry: Entry) {
        let Some(peer) = self.peers.find(from).filter(|peer| peer.owed_replies > 0) else {
            super::count(&mut self.stats.replies_unsolicited, |dropped| {
                tracing::warn!(connection = %from, peer = core.peer(from), dropped, "a reply was dropped: nothing had been asked");
            });
            return;
        };
        peer.owed_replies -= 1;
        let is_held = self.pass_on(core, entry);
        self.stats.replies_held += u64::from(is_held);
    }

    /// To a link of its address, at once or when that takes it; true if it waits.
    fn pass_on(&mut self, core: &mut Core, entry: Entry) -> bool {
        let head = &entry.message.head;
        let address = head.reply_address.as_ref();
        let place = address.and_then(|address| self.addresses.choose(address, head.correlation_id));
        let Some(place) = place else {
            self.count_for_nobody();
            return false;
        };
        if self.addresses.holds(place) {
            return self.hold(core, place, entry);
        }
        match self.send_reply(core, place, entry) {
            Ok(()) => false,
            Err(entry) => self.hold(core, place, entry),
        }
    }

    /// Sends what is held, as far as its link takes it.
    pub(super) fn flush_held(&mut self, core: &mut Core, place: usize) {
        let Some(connection) = self.addresses.link(place).map(|link| link.connection) else { return };
        while let Some(entry) = self.addresses.pop_front(place) {
            self.change_held(connection, entry.held_amount(), Amount::less);
            if let Err(entry) = self.send_reply(core, place, entry) {
                self.change_held(connection, entry.held_amount(), Amount::plus);
                self.addresses.push_front(place, entry);
                return;
            }
        }
    }

    /// Keeps a reply for its link; false if there is too much already, and it was dropped.
    fn hold(&mut self, core: &mut Core, place: usize, mut entry: Entry) -> bool {
        let Some(connection) = self.addresses.link(place).map(|link| link.connection) else { return false };
        let (amount, most) = (entry.held_amount(), self.rules.held_max);
        let of_connection = self.peers.find(connection).map_or(most, |peer| peer.held);
        let of_address = self.addresses.held_for_address(place);
        if !of_connection.admits(amount, most) || !of_address.admits(amount, most) {
            super::count(&mut self.stats.replies_overflowed, |dropped| {
                let (peer, Amount { messages, bytes }) = (core.peer(connection), of_address);
                tracing::warn!(%connection, peer, messages, bytes, dropped, "a reply was dropped: too many are held (held_replies_max, held_reply_bytes_max)");
            });
            return false;
        }
        entry.compact(core.pool());
        self.change_held(connection, amount, Amount::plus);
        self.addresses.push_back(place, entry);
        self.watch(core, connection);
        true
    }

    fn change_held(&mut self, connection: ConnectionId, by: Amount, how: impl Fn(Amount, Amount) -> Amount) {
        if let Some(peer) = self.peers.find(connection) {
            peer.held = how(peer.held, by);
        }
    }

    /// Hands a reply to its requester's connection, or drops it if that can never be done.
    ///
    /// # Errors
    /// The reply, if it cannot be taken now.
    #[allow(clippy::result_large_err)] // it is held, whole
    fn send_reply(&mut self, core: &mut Core, place: usize, mut entry: Entry) -> Result<(), Entry> {
        let Some(link) = self.addresses.link(place) else { return Err(entry) };
        let (connection, link) = (link.connection, link.link);
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

impl Entry {
    /// What it takes while it is held: its body and its extensions.
    pub(super) fn held_amount(&self) -> Amount {
        let extensions = self.message.extensions.as_ref().map_or(0, |extensions| extensions.len());
        Amount::of_message((self.message.body.len() + extensions) as u64)
    }
}

impl Amount {
    /// Whether one more fits beside what is held. A single one always fits in bytes: a reply longer than all that may
    /// be held must not be lost only because its link was without credit for a moment.
    fn admits(self, more: Self, most: Self) -> bool {
        let fits = self.bytes == 0 || self.bytes.saturating_add(more.bytes) <= most.bytes;
        self.messages < most.messages && fits
    }
}
