//! What is known of each call in flight, by its slot.

use crate::pool::{Body, Pool, PoolError};
use crate::rpc::options::CallOptions;
use crate::sync::Correlation;
use crate::time::Timestamp;
use std::time::Duration;

/// The calls that the driver knows of. Memory grows with the largest slot, and so up to `calls_max`.
#[derive(Debug, Default)]
pub(super) struct Records {
    records: Vec<Option<Record>>,
}

#[derive(Debug)]
pub(super) struct Record {
    correlation: Correlation,
    pub(super) timeout: Duration,
    pub(super) stage: Stage,
}

/// How far a call has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// It waits for its destination's link, or for credit. It will be sent once.
    Waiting(Request),
    /// The session with this broker has it; whether the broker has, nobody knows.
    Sent(u8),
    /// A call of which more than one copy may be sent, wherever they are; what is sent is kept until it ends.
    Kept(Kept),
}

/// What is to be sent.
#[derive(Debug)]
pub(super) struct Request {
    /// The place of the destination.
    pub(super) target: usize,
    pub(super) body: Body,
    pub(super) options: CallOptions,
    pub(super) deadline: Timestamp,
    /// Which attempt the next copy is.
    pub(super) attempt: u8,
}

/// A call of which more than one copy may be sent.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) request: Request,
    /// By the broker that is current, or was when it was sent.
    pub(super) first: Leg,
    /// Of a gold call: by another one.
    pub(super) second: Leg,
    /// A copy that was sent was lost with its session.
    pub(super) is_in_doubt: bool,
}

/// Where one copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leg {
    /// Not wanted, refused, or lost.
    None,
    Waiting,
    /// The session with this broker has it.
    Sent(u8),
}

/// Which of the two copies: by the current broker, or by the one beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    First,
    Second,
}

/// What was taken in order to be sent.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) body: Body,
    pub(super) options: CallOptions,
    pub(super) deadline: Timestamp,
    pub(super) attempt: u8,
}

impl Records {
    /// Remembers a call; the one that had the slot before, if the driver has not heard of its end yet.
    pub(super) fn insert(
        &mut self,
        correlation: Correlation,
        request: Request,
        second: Leg,
    ) -> Option<Record> {
        let slot = correlation.slot();
        if self.records.len() <= slot {
            self.records.resize_with(slot + 1, || None);
        }
        let timeout = request.options.timeout;
        let stage = if request.options.may_repeat() {
            Stage::Kept(Kept { request, first: Leg::Waiting, second, is_in_doubt: false })
        } else {
            Stage::Waiting(request)
        };
        self.records[slot].replace(Record { correlation, timeout, stage })
    }

    /// Forgets a call, unless it has ended before.
    pub(super) fn remove(&mut self, correlation: Correlation) -> Option<Record> {
        self.records.get_mut(correlation.slot())?.take_if(|record| record.correlation == correlation)
    }

    /// Whether a reply to this attempt cannot be one to the call, because so many were not made. Of a call that is not
    /// known here, because it has ended or is another client's, nothing is known.
    pub(super) fn is_unheard_of(&self, correlation: Correlation, attempt: u8) -> bool {
        self.find(correlation).is_some_and(|record| attempt > record.attempts())
    }

    /// A call, unless it has ended.
    pub(super) fn get(&self, correlation: Correlation) -> Option<&Record> {
        self.find(correlation)
    }

    /// The call that has this slot.
    pub(super) fn at(&self, slot: usize) -> Option<Correlation> {
        Some(self.records.get(slot)?.as_ref()?.correlation)
    }

    /// Whether a call waits to be sent this way.
    pub(super) fn is_waiting(&self, correlation: Correlation, way: Way) -> bool {
        self.find(correlation).is_some_and(|record| record.is_waiting(way))
    }

    /// The calls of which this broker's session has a copy.
    pub(super) fn sent_by(&self, uplink: usize) -> Vec<Correlation> {
        let sent = self.records.iter().flatten().filter(|record| record.is_sent_by(uplink));
        sent.map(|record| record.correlation).collect()
    }

    /// Takes what is to be sent by this broker, which counts as sent unless it is put back. `None` if nothing of the
    /// call waits, or if this broker has a copy already.
    ///
    /// # Errors
    /// [`PoolError`] if a body that is kept cannot be shared now; nothing is taken then.
    pub(super) fn take_request(
        &mut self,
        correlation: Correlation,
        way: Way,
        uplink: u8,
        pool: &mut Pool,
    ) -> Result<Option<Taken>, PoolError> {
        let Some(record) = self.find_mut(correlation) else { return Ok(None) };
        match &mut record.stage {
            Stage::Sent(_) => Ok(None),
            Stage::Waiting(request) => {
                let body = std::mem::take(&mut request.body);
                let taken = request.taken(body);
                record.stage = Stage::Sent(uplink);
                Ok(Some(taken))
            }
            Stage::Kept(kept) => kept.take(way, uplink, pool),
        }
    }

    /// Puts back what could not be sent.
    pub(super) fn put_back(&mut self, correlation: Correlation, way: Way, target: usize, taken: Taken) {
        let Some(record) = self.find_mut(correlation) else { return };
        match &mut record.stage {
            Stage::Kept(kept) => *kept.leg(way) = Leg::Waiting,
            stage => {
                let Taken { body, options, deadline, attempt } = taken;
                *stage = Stage::Waiting(Request { target, body, options, deadline, attempt });
            }
        }
    }

    /// A call of which more than one copy may be sent.
    pub(super) fn kept(&mut self, correlation: Correlation) -> Option<&mut Kept> {
        match &mut self.find_mut(correlation)?.stage {
            Stage::Kept(kept) => Some(kept),
            Stage::Waiting(_) | Stage::Sent(_) => None,
        }
    }

    /// Forgets all calls.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (Correlation, Record)> + use<> {
        std::mem::take(&mut self.records).into_iter().flatten().map(|record| (record.correlation, record))
    }

    #[inline]
    fn find(&self, correlation: Correlation) -> Option<&Record> {
        self.records.get(correlation.slot())?.as_ref().filter(|record| record.correlation == correlation)
    }

    #[inline]
    fn find_mut(&mut self, correlation: Correlation) -> Option<&mut Record> {
        self.records.get_mut(correlation.slot())?.as_mut().filter(|record| record.correlation == correlation)
    }
}

impl Record {
    /// Whether a peer may have the request.
    pub(super) fn was_sent(&self) -> bool {
        match &self.stage {
            Stage::Waiting(_) => false,
            Stage::Sent(_) => true,
            Stage::Kept(kept) => kept.was_sent(),
        }
    }

    /// The number of the last attempt.
    fn attempts(&self) -> u8 {
        match &self.stage {
            Stage::Waiting(_) | Stage::Sent(_) => 0,
            Stage::Kept(kept) => kept.request.attempt,
        }
    }

    fn is_waiting(&self, way: Way) -> bool {
        match (&self.stage, way) {
            (Stage::Waiting(_), Way::First) => true,
            (Stage::Kept(kept), Way::First) => kept.first == Leg::Waiting,
            (Stage::Kept(kept), Way::Second) => kept.second == Leg::Waiting,
            _ => false,
        }
    }

    fn is_sent_by(&self, uplink: usize) -> bool {
        match &self.stage {
            Stage::Waiting(_) => false,
            Stage::Sent(by) => usize::from(*by) == uplink,
            Stage::Kept(kept) => kept.sent_by().any(|by| by == uplink),
        }
    }
}

impl Request {
    fn taken(&self, body: Body) -> Taken {
        Taken { body, options: self.options, deadline: self.deadline, attempt: self.attempt }
    }
}

impl Kept {
    /// Whether a peer may have a copy.
    pub(super) fn was_sent(&self) -> bool {
        self.is_in_doubt || self.request.attempt > 0 || self.sent_by().next().is_some()
    }

    /// Whether a copy is on its way, or waits for that.
    pub(super) fn is_alive(&self) -> bool {
        self.first != Leg::None || self.second != Leg::None
    }

    /// The brokers whose sessions have a copy.
    pub(super) fn sent_by(&self) -> impl Iterator<Item = usize> + use<> {
        let by = |leg| match leg {
            Leg::Sent(by) => Some(usize::from(by)),
            Leg::None | Leg::Waiting => None,
        };
        by(self.first).into_iter().chain(by(self.second))
    }

    pub(super) fn leg(&mut self, way: Way) -> &mut Leg {
        match way {
            Way::First => &mut self.first,
            Way::Second => &mut self.second,
        }
    }

    fn take(&mut self, way: Way, uplink: u8, pool: &mut Pool) -> Result<Option<Taken>, PoolError> {
        if *self.leg(way) != Leg::Waiting {
            return Ok(None);
        }
        if self.sent_by().any(|by| by == usize::from(uplink)) {
            *self.leg(way) = Leg::None;
            return Ok(None);
        }
        let taken = self.request.taken(self.request.body.share(pool)?);
        *self.leg(way) = Leg::Sent(uplink);
        Ok(Some(taken))
    }
}
