//! What became of deliveries, from the end that took them to the end that sent them; and the wish to be left.
//!
//! Both ends count the deliveries of a link by lane, since lanes overtake each other and only within one is the order of
//! sending that of arriving. The receiver settles by these positions. What it settles in one turn of its driver is
//! collected here, neighbours with one outcome in one record, and leaves with whatever leaves next.

use super::ConnectionEvent;
use super::links::{Link, LinkError, LinkState, Links};
use crate::message::Message;
use crate::proto::control::{LinkRole, Outcome, Settle};
use crate::proto::{Lane, LinkId, PeerMisbehaved};
use std::ops::Range;

/// Settlements are joined to one of the last so many that wait. More than the lanes of a few links find no use for it.
const LOOKED_BACK: usize = 8;

/// Deliveries of one link that came in one lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deliveries {
    /// The link.
    pub link: LinkId,
    /// The lane.
    pub lane: Lane,
    /// Their positions: how many came before each on this link in this lane.
    pub positions: Range<u64>,
}

impl Deliveries {
    /// The delivery that a message is which arrived; `None` if it came without a link.
    pub fn of(message: &Message) -> Option<Self> {
        let (lane, position) = (message.head.lane, message.position);
        message.head.link.map(|link| Self { link, lane, positions: position..position + 1 })
    }
}

/// What the peer is still to be told of.
#[derive(Debug, Default)]
pub(crate) struct Settlements {
    due: Vec<Settle>,
}

impl Settlements {
    fn add(&mut self, settle: Settle) {
        let recent = self.due.iter_mut().rev().take(LOOKED_BACK);
        if !recent.into_iter().any(|waiting| join(waiting, &settle)) {
            self.due.push(settle);
        }
    }
}

/// Takes `more` into a settlement that is about the same and that it touches; false if it does not.
fn join(waiting: &mut Settle, more: &Settle) -> bool {
    let is_alike = (waiting.link, waiting.lane, waiting.outcome) == (more.link, more.lane, more.outcome);
    let joins = is_alike && more.from <= waiting.to && waiting.from <= more.to;
    if joins {
        (waiting.from, waiting.to) = (waiting.from.min(more.from), waiting.to.max(more.to));
    }
    joins
}

/// At the end that receives.
impl Links {
    /// Counts a whole message that arrived, and writes its position into it. False for one that is not to be handed
    /// on: it came on a link that settles and was detached here meanwhile, so that it can be settled no more, and its
    /// sender has it still. One that had begun in a part was counted against its link's credit then.
    #[inline]
    pub(super) fn arrived(&mut self, message: &mut Message, had_begun: bool) -> Result<bool, PeerMisbehaved> {
        let Some(link) = message.head.link else { return Ok(true) };
        let entry = if had_begun {
            // The end of a link comes behind its messages.
            self.find(link).ok_or(PeerMisbehaved::LinkUnknown { link })?
        } else {
            self.received(link, message.head.total_body_bytes)?
        };
        message.position = entry.count(message.head.lane);
        Ok(entry.role != LinkRole::SettlingConsumer || entry.state != LinkState::Detaching)
    }

    /// Notes what became of deliveries.
    pub(crate) fn settle(&mut self, deliveries: &Deliveries, outcome: Outcome) -> Result<(), LinkError> {
        let Deliveries { link, lane, ref positions } = *deliveries;
        let is_ours = self.is_ours(link);
        let settles = |entry: &&mut Link| {
            is_ours && entry.role == LinkRole::SettlingConsumer && entry.state == LinkState::Attached
        };
        let Some(entry) = self.find(link).filter(settles) else { return Err(LinkError::NotSettled(link)) };
        let delivered = entry.delivered[lane.index()];
        if positions.end > delivered {
            return Err(LinkError::NotDelivered { link, position: positions.end - 1, delivered });
        }
        if !positions.is_empty() {
            self.settlements.add(Settle { link, lane, outcome, from: positions.start, to: positions.end });
        }
        Ok(())
    }

    /// Whether the peer is still to be told of something.
    pub(super) fn has_settlements(&self) -> bool {
        !self.settlements.due.is_empty()
    }

    /// What the peer is to be told now.
    pub(super) fn take_settlements(&mut self, announce: impl FnMut(Settle)) {
        self.settlements.due.drain(..).for_each(announce);
    }
}

/// At the end that sends.
impl Links {
    /// Takes what the peer says became of what was sent to it. What is settled twice, or late, after the link was
    /// detached here, is said all the same: whoever keeps the messages knows which it still has.
    pub(super) fn settled(&mut self, settle: &Settle) -> Result<ConnectionEvent, PeerMisbehaved> {
        let Settle { link, lane, outcome, from, to } = *settle;
        if !self.may_settle {
            return Err(PeerMisbehaved::SettlementNotNegotiated { link });
        }
        let is_ours = self.is_ours(link);
        let Some(entry) = self.find(link) else { return Err(PeerMisbehaved::LinkUnknown { link }) };
        if is_ours || entry.role != LinkRole::SettlingConsumer {
            return Err(PeerMisbehaved::LinkNotSettled { link });
        }
        let limit = entry.delivered[lane.index()];
        if to > limit {
            return Err(PeerMisbehaved::SettledUndelivered { link, lane, to, limit });
        }
        Ok(ConnectionEvent::Settled { deliveries: Deliveries { link, lane, positions: from..to }, outcome })
    }
}

impl Link {
    /// Counts one more message of a lane, and says how many there were before it.
    #[inline]
    pub(super) fn count(&mut self, lane: Lane) -> u64 {
        let delivered = &mut self.delivered[lane.index()];
        *delivered += 1;
        *delivered - 1
    }
}
