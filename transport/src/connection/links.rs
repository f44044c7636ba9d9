//! The links of one connection, and their credit.

use super::settlement::Settlements;
use crate::proto::control::{Address, Attach, LinkCredit, LinkRole};
use crate::proto::{LANES, Lane, LinkId, PeerMisbehaved, ReplyAddress};
use thiserror::Error;

/// What the peer wants to attach to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A destination, by its name.
    Named(String),
    /// A reply address; the peer has shown the secret that it is derived from.
    Reply(ReplyAddress),
}

/// The peer asks for a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    /// The number that the peer gave it.
    pub link: LinkId,
    /// What the peer wants to do on it: to produce, to consume, or to consume and settle.
    pub role: LinkRole,
    /// Where.
    pub target: Target,
}

/// How much more a link's receiver can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkRoom {
    /// Messages beyond those that have arrived.
    pub messages: u64,
    /// Bytes beyond those that have arrived. A message may begin while one byte is left, so that none is too long for
    /// any credit; the excess is bounded by `message_bytes_max`.
    pub bytes: u64,
}

/// Why nothing was done about a link.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkError {
    /// There is no such link, or it does not carry messages in this direction.
    #[error("link {0} is not attached for this")]
    NotAttached(LinkId),
    /// The link's credit is used up; a `Writable` event follows when there is more.
    #[error("link {0} has no credit left; wait for its Writable event")]
    NoCredit(LinkId),
    /// The peer does not take settlements, so nothing can be consumed from it that is to be settled.
    #[error("the peer does not take settlements (capability SETTLEMENT); attach as a plain consumer")]
    NoSettlement,
    /// Its deliveries are not settled, or not any more.
    #[error("link {0} is not attached as a consumer that settles")]
    NotSettled(LinkId),
    /// What was to be settled has not arrived.
    #[error("delivery {position} of link {link} has not arrived; {delivered} of its lane have")]
    NotDelivered {
        /// The link.
        link: LinkId,
        /// The last position that was to be settled.
        position: u64,
        /// How many have arrived in that lane.
        delivered: u64,
    },
    /// As many links as were negotiated are in use.
    #[error("all {links_max} links of this connection are in use (links_max)")]
    LinkLimit {
        /// The negotiated limit.
        links_max: u32,
    },
}

/// All links of a connection. The connecting end numbers the links that it asks for 1, 3, 5..., the accepting end 2,
/// 4, 6..., so both may ask at once.
#[derive(Debug)]
pub(crate) struct Links {
    is_client: bool,
    links_max: u32,
    /// By half their number, those asked for here and those asked for by the peer.
    ours: Vec<Option<Link>>,
    theirs: Vec<Option<Link>>,
    /// Places in `ours` that were used and are free again.
    free: Vec<u32>,
    /// Links whose receivers have more room than the peer was told.
    due: Vec<LinkId>,
    /// What became of deliveries, as far as the peer has not been told.
    pub(super) settlements: Settlements,
    /// It was negotiated that deliveries may be settled.
    pub(super) may_settle: bool,
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(super) role: LinkRole,
    pub(super) state: LinkState,
    /// Sent or received so far, depending on the direction.
    messages: u64,
    bytes: u64,
    /// The same messages by lane, those that have begun to arrive not counted.
    pub(super) delivered: [u64; LANES],
    /// The longest message received so far.
    longest_bytes: u64,
    /// The limit that holds: granted by the peer, or announced to it.
    limit: LinkCredit,
    /// The limit that this end would announce now, if it receives.
    target: LinkCredit,
    is_due: bool,
    /// A send was refused for want of credit.
    was_short: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkState {
    /// Asked for, not answered.
    Requested,
    Attached,
    /// Detached here; the peer's detach ends it.
    Detaching,
}

impl Links {
    pub(crate) fn new(is_client: bool, links_max: u32, may_settle: bool) -> Self {
        Self {
            is_client,
            links_max,
            ours: Vec::new(),
            theirs: Vec::new(),
            free: Vec::new(),
            due: Vec::new(),
            settlements: Settlements::default(),
            may_settle,
        }
    }

    /// A new link of this end.
    pub(crate) fn request(&mut self, role: LinkRole, credit: LinkCredit) -> Result<LinkId, LinkError> {
        if role == LinkRole::SettlingConsumer && !self.may_settle {
            return Err(LinkError::NoSettlement);
        }
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.ours.len() < self.links_max as usize => {
                self.ours.push(None);
                self.ours.len() as u32 - 1
            }
            None => return Err(LinkError::LinkLimit { links_max: self.links_max }),
        };
        self.ours[place as usize] = Some(Link::new(role, credit));
        Ok(self.id(place, true))
    }

    /// A link that the peer asks for; `None` if there are as many as were negotiated.
    pub(crate) fn offered(&mut self, attach: &Attach<'_>) -> Result<Option<AttachRequest>, PeerMisbehaved> {
        let link = attach.link;
        if self.is_ours(link) {
            return Err(PeerMisbehaved::LinkUnknown { link });
        }
        if attach.role == LinkRole::SettlingConsumer && !self.may_settle {
            return Err(PeerMisbehaved::SettlementNotNegotiated { link });
        }
        let place = (link.value() - 1) / 2;
        if place >= self.links_max {
            return Ok(None);
        }
        let place = place as usize;
        if self.theirs.len() <= place {
            self.theirs.resize_with(place + 1, || None);
        }
        if self.theirs[place].is_some() {
            return Err(PeerMisbehaved::LinkInUse { link });
        }
        self.theirs[place] = Some(Link::new(attach.role, attach.credit));
        let target = match &attach.address {
            Address::Named(name) => Target::Named(name.as_str().to_owned()),
            Address::Reply(secret) => Target::Reply(ReplyAddress::of(secret)),
        };
        Ok(Some(AttachRequest { link, role: attach.role, target }))
    }

    /// Answers a request of the peer; `credit` is its first if it produces.
    pub(crate) fn accept(&mut self, link: LinkId, credit: LinkCredit) -> Result<LinkCredit, LinkError> {
        let Some(entry) = self.find(link).filter(|entry| entry.state == LinkState::Requested) else {
            return Err(LinkError::NotAttached(link));
        };
        entry.state = LinkState::Attached;
        if entry.role.consumes() {
            return Ok(LinkCredit::default());
        }
        (entry.limit, entry.target) = (credit, credit);
        Ok(credit)
    }

    /// The peer has granted a link that this end asked for; false if it was detached here meanwhile.
    pub(crate) fn attached(&mut self, link: LinkId, credit: LinkCredit) -> Result<bool, PeerMisbehaved> {
        let is_ours = self.is_ours(link);
        match self.find(link).filter(|_| is_ours) {
            Some(entry) if entry.state == LinkState::Requested => {
                entry.state = LinkState::Attached;
                if entry.role == LinkRole::Producer {
                    (entry.limit, entry.target) = (credit, credit);
                }
                self.note_due(link);
                Ok(true)
            }
            Some(entry) if entry.state == LinkState::Detaching => Ok(false),
            _ => Err(PeerMisbehaved::LinkUnknown { link }),
        }
    }

    /// This end detaches a link; false if there is nothing to tell the peer.
    pub(crate) fn detach(&mut self, link: LinkId) -> bool {
        match self.find(link) {
            Some(entry) if entry.state != LinkState::Detaching => {
                entry.state = LinkState::Detaching;
                true
            }
            _ => false,
        }
    }

    /// The peer refuses or detaches a link. Says what it was, and whether the peer wants an answer. It may detach what
    /// it has asked for before it hears that this end has refused and forgotten that: `None`.
    pub(crate) fn detached(&mut self, link: LinkId) -> Result<Option<DetachedLink>, PeerMisbehaved> {
        let is_ours = self.is_ours(link);
        let Some(entry) = self.find(link) else {
            return if is_ours { Err(PeerMisbehaved::LinkUnknown { link }) } else { Ok(None) };
        };
        let (role, state) = (entry.role, entry.state);
        self.forget(link);
        Ok(Some(DetachedLink {
            role,
            is_news: state != LinkState::Detaching,
            // A refusal, or the answer to a detach, is not answered.
            wants_answer: state == LinkState::Attached || (state == LinkState::Requested && !is_ours),
        }))
    }

    /// Forgets a link that the peer asked for and that is refused.
    pub(crate) fn refuse(&mut self, link: LinkId) -> Result<(), LinkError> {
        match self.find(link) {
            Some(entry) if entry.state == LinkState::Requested => {
                self.forget(link);
                Ok(())
            }
            _ => Err(LinkError::NotAttached(link)),
        }
    }

    /// Takes credit for a message of `bytes` bytes to be sent.
    pub(crate) fn take_credit(&mut self, link: LinkId, lane: Lane, bytes: u64) -> Result<(), LinkError> {
        let is_ours = self.is_ours(link);
        let Some(entry) = self.find(link).filter(|entry| entry.sends(is_ours)) else {
            return Err(LinkError::NotAttached(link));
        };
        if !entry.has_credit() {
            entry.was_short = true;
            return Err(LinkError::NoCredit(link));
        }
        entry.messages += 1;
        entry.bytes = entry.bytes.saturating_add(bytes);
        entry.count(lane);
        Ok(())
    }

    /// Whether a message could be sent on a link now.
    pub(crate) fn has_credit(&mut self, link: LinkId) -> bool {
        let is_ours = self.is_ours(link);
        self.find(link).is_some_and(|entry| entry.sends(is_ours) && entry.has_credit())
    }

    /// Asks for a `Writable` event at the next grant, as a refused send does.
    pub(crate) fn note_short(&mut self, link: LinkId) {
        if let Some(entry) = self.find(link) {
            entry.was_short = true;
        }
    }

    /// Takes a grant of the peer; says whether a sender has waited for it.
    pub(crate) fn granted(&mut self, link: LinkId, credit: LinkCredit) -> Result<bool, PeerMisbehaved> {
        let is_ours = self.is_ours(link);
        let Some(entry) = self.find(link) else { return Err(PeerMisbehaved::LinkUnknown { link }) };
        if !entry.sends(is_ours) {
            // Late for a link that was detached here; a fault for one that sends the other way.
            let late = entry.state == LinkState::Detaching;
            return if late { Ok(false) } else { Err(PeerMisbehaved::GrantByProducer { link }) };
        }
        entry.limit.message_limit = entry.limit.message_limit.max(credit.message_limit);
        entry.limit.byte_limit = entry.limit.byte_limit.max(credit.byte_limit);
        let writable = entry.was_short && entry.has_credit();
        entry.was_short &= !writable;
        Ok(writable)
    }

    /// Counts a message that arrives, and says on which link. One for a link that was detached here is still counted:
    /// the peer sent it before it knew.
    #[inline]
    pub(super) fn received(&mut self, link: LinkId, bytes: u64) -> Result<&mut Link, PeerMisbehaved> {
        let is_ours = self.is_ours(link);
        let receives =
            |entry: &&mut Link| entry.state != LinkState::Requested && entry.role.consumes() == is_ours;
        let list = if is_ours { &mut self.ours } else { &mut self.theirs };
        let entry = list.get_mut(place(link)).and_then(Option::as_mut);
        let Some(entry) = entry.filter(receives) else {
            return Err(PeerMisbehaved::LinkUnknown { link });
        };
        if entry.messages >= entry.limit.message_limit {
            let limit = entry.limit.message_limit;
            return Err(PeerMisbehaved::MessageCreditOverrun { link, position: entry.messages + 1, limit });
        }
        // The sender begins a message while a byte is left, and only the last one may reach beyond the limit. But lanes
        // overtake each other, so any one may be that: all but the longest must lie within.
        let position = entry.bytes.saturating_add(bytes);
        entry.longest_bytes = entry.longest_bytes.max(bytes);
        if bytes > 0 && position - entry.longest_bytes >= entry.limit.byte_limit {
            return Err(PeerMisbehaved::ByteCreditOverrun { link, position, limit: entry.limit.byte_limit });
        }
        entry.messages += 1;
        entry.bytes = position;
        if !entry.is_due && entry.is_worth_telling() {
            entry.is_due = true;
            self.due.push(link);
        }
        Ok(entry)
    }

    /// Says how much a receiving link can take from now on. The peer is told when it is worth a record.
    pub(crate) fn set_room(&mut self, link: LinkId, room: LinkRoom) -> Result<(), LinkError> {
        let is_ours = self.is_ours(link);
        let receives = |entry: &&mut Link| entry.role.consumes() == is_ours;
        let Some(entry) = self.find(link).filter(receives) else { return Err(LinkError::NotAttached(link)) };
        entry.set_target(room);
        self.note_due(link);
        Ok(())
    }

    /// Has a receiving link's limit announced if that is worth a record.
    fn note_due(&mut self, link: LinkId) {
        if let Some(entry) = self.find(link).filter(|entry| !entry.is_due && entry.is_worth_telling()) {
            entry.is_due = true;
            self.due.push(link);
        }
    }

    /// Whether a grant waits to be announced.
    pub(crate) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// The grants that are to be announced now; they count as announced.
    pub(crate) fn take_due(&mut self, mut announce: impl FnMut(LinkId, LinkCredit)) {
        let mut due = std::mem::take(&mut self.due);
        for link in due.drain(..) {
            // The link may have ended meanwhile, or the room may have shrunk again.
            if let Some(entry) = self.find(link) {
                entry.is_due = false;
                if entry.is_worth_telling() {
                    entry.limit = entry.target;
                    announce(link, entry.target);
                }
            }
        }
        self.due = due;
    }

    /// The links whose senders have waited and may go on: those that ran out of credit and have it again, after a time
    /// in which nobody could send.
    pub(crate) fn take_writable(&mut self, mut tell: impl FnMut(LinkId)) {
        for ours in [true, false] {
            let count = if ours { self.ours.len() } else { self.theirs.len() };
            for place in 0..count as u32 {
                let link = self.id(place, ours);
                if let Some(entry) = self.find(link)
                    && entry.was_short
                    && entry.sends(ours)
                    && entry.has_credit()
                {
                    entry.was_short = false;
                    tell(link);
                }
            }
        }
    }

    pub(super) fn find(&mut self, link: LinkId) -> Option<&mut Link> {
        let list = if self.is_ours(link) { &mut self.ours } else { &mut self.theirs };
        list.get_mut(place(link))?.as_mut()
    }

    fn forget(&mut self, link: LinkId) {
        let place = (link.value() - 1) / 2;
        if self.is_ours(link) {
            self.ours[place as usize] = None;
            self.free.push(place);
        } else {
            self.theirs[place as usize] = None;
        }
    }

    pub(super) fn is_ours(&self, link: LinkId) -> bool {
        link.value().is_multiple_of(2) != self.is_client
    }

    fn id(&self, place: u32, ours: bool) -> LinkId {
        let number = 2 * place + if ours == self.is_client { 1 } else { 2 };
        // Never zero: the smallest is 1.
        LinkId::new(number).unwrap_or(LinkId::FIRST)
    }
}

/// Where a link is in its list.
fn place(link: LinkId) -> usize {
    (link.value() - 1) as usize / 2
}

/// A link that the peer has ended.
pub(crate) struct DetachedLink {
    pub(crate) role: LinkRole,
    /// It was not detached here before.
    pub(crate) is_news: bool,
    pub(crate) wants_answer: bool,
}

impl Link {
    fn new(role: LinkRole, credit: LinkCredit) -> Self {
        Self {
            role,
            state: LinkState::Requested,
            messages: 0,
            bytes: 0,
            delivered: [0; LANES],
            longest_bytes: 0,
            limit: credit,
            target: credit,
            is_due: false,
            was_short: false,
        }
    }

    /// Whether this end sends on it now.
    fn sends(&self, is_ours: bool) -> bool {
        self.state == LinkState::Attached && (self.role == LinkRole::Producer) == is_ours
    }

    fn has_credit(&self) -> bool {
        self.messages < self.limit.message_limit && self.bytes < self.limit.byte_limit
    }

    /// What was announced stands; what was not is replaced.
    fn set_target(&mut self, room: LinkRoom) {
        let messages = self.messages.saturating_add(room.messages);
        let bytes = self.bytes.saturating_add(room.bytes);
        self.target.message_limit = self.limit.message_limit.max(messages);
        self.target.byte_limit = self.limit.byte_limit.max(bytes);
    }

    /// A grant is worth a record when the peer has no more than half of what it could have.
    fn is_worth_telling(&self) -> bool {
        let worth = |limit: u64, target: u64, used: u64| {
            target > limit && limit.saturating_sub(used) <= target.saturating_sub(used) / 2
        };
        self.state == LinkState::Attached
            && (worth(self.limit.message_limit, self.target.message_limit, self.messages)
                || worth(self.limit.byte_limit, self.target.byte_limit, self.bytes))
    }
}
