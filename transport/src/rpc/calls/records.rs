//! What is known of each call in flight, by its slot.

use crate::pool::{Body, Pool, PoolError};
use crate::rpc::options::CallOptions;
use crate::sync::Correlation;
use crate::time::Timestamp;

/// The calls that the driver knows of. Memory grows with the largest slot, and so up to `calls_max`.
#[derive(Debug, Default)]
pub(super) struct Records {
    records: Vec<Option<Record>>,
}

#[derive(Debug)]
struct Record {
    correlation: Correlation,
    /// Until it is sent; of a call of which more than one copy may be sent, until it ends.
    body: Body,
    course: Course,
}

/// How a call is to go, and how far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Course {
    /// The place of the destination. Good for as long as a copy waits, or may be sent again.
    pub(super) target: usize,
    pub(super) options: CallOptions,
    pub(super) deadline: Timestamp,
    /// Which attempt the next copy is, or the last one was.
    pub(super) attempt: u8,
    /// The copy by the broker that is current, or was when it was sent. Most calls have no other.
    pub(super) first: Leg,
    /// Of a gold call: the copy by another broker.
    pub(super) second: Leg,
    /// A copy that was sent was lost with its session.
    pub(super) is_in_doubt: bool,
}

/// Where one copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leg {
    /// Not wanted, refused, or lost.
    None,
    /// It waits for its destination's link, or for credit.
    Waiting,
    /// The session with this broker has it; whether the broker has, nobody knows.
    Sent(u8),
}

/// Which of the two copies: by the current broker, or by the one beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    First,
    Second,
}

impl Records {
    /// Remembers a call; says what became of the one that had the slot before, if the driver has not heard of its end.
    pub(super) fn insert(&mut self, correlation: Correlation, body: Body, course: Course) -> Option<Course> {
        let slot = correlation.slot();
        if self.records.len() <= slot {
            self.records.resize_with(slot + 1, || None);
        }
        let before = self.records[slot].as_ref().map(|record| record.course);
        self.records[slot] = Some(Record { correlation, body, course });
        before
    }

    /// Forgets a call, unless it has ended before.
    #[inline]
    pub(super) fn remove(&mut self, correlation: Correlation) -> Option<Course> {
        let record = self.records.get_mut(correlation.slot())?;
        let course = record.as_ref().filter(|record| record.correlation == correlation)?.course;
        *record = None;
        Some(course)
    }

    /// Whether a reply to this attempt cannot be one to the call, because so many were not made. Of a call that is not
    /// known here, because it has ended or is another client's, nothing is known.
    #[inline]
    pub(super) fn is_unheard_of(&self, correlation: Correlation, attempt: u8) -> bool {
        self.get(correlation).is_some_and(|course| attempt > course.attempt)
    }

    /// The call that has this slot.
    pub(super) fn at(&self, slot: usize) -> Option<Correlation> {
        Some(self.records.get(slot)?.as_ref()?.correlation)
    }

    /// A call, unless it has ended.
    #[inline]
    pub(super) fn get(&self, correlation: Correlation) -> Option<&Course> {
        let record = self.records.get(correlation.slot())?.as_ref();
        record.filter(|record| record.correlation == correlation).map(|record| &record.course)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, correlation: Correlation) -> Option<&mut Course> {
        self.record(correlation).map(|record| &mut record.course)
    }

    /// Whether a copy of a call waits to be sent this way.
    #[inline]
    pub(super) fn is_waiting(&self, correlation: Correlation, way: Way) -> bool {
        self.get(correlation).is_some_and(|course| course.leg(way) == Leg::Waiting)
    }

    /// The calls of which this broker's session has a copy.
    pub(super) fn sent_by(&self, uplink: usize) -> Vec<Correlation> {
        let is_sent_by = |record: &&Record| record.course.sent_by().any(|by| by == uplink);
        self.records.iter().flatten().filter(is_sent_by).map(|record| record.correlation).collect()
    }

    /// Takes what is to be sent by this broker, which counts as sent unless it is put back: its bytes go to `body`.
    /// `None` if nothing of the call waits, or if this broker has a copy already.
    ///
    /// # Errors
    /// [`PoolError`] if a body that is kept cannot be shared now; nothing is taken then.
    #[inline]
    pub(super) fn take_request(
        &mut self,
        correlation: Correlation,
        way: Way,
        uplink: u8,
        pool: &mut Pool,
        body: &mut Body,
    ) -> Result<Option<Course>, PoolError> {
        let Some(record) = self.record(correlation) else { return Ok(None) };
        let course = &mut record.course;
        if course.leg(way) != Leg::Waiting {
            return Ok(None);
        }
        if !course.options.may_repeat() {
            std::mem::swap(body, &mut record.body);
        } else if course.sent_by().any(|by| by == usize::from(uplink)) {
            *course.leg_mut(way) = Leg::None;
            return Ok(None);
        } else {
            *body = record.body.share(pool)?;
        }
        *course.leg_mut(way) = Leg::Sent(uplink);
        Ok(Some(*course))
    }

    /// Puts back what could not be sent.
    pub(super) fn put_back(&mut self, correlation: Correlation, way: Way, body: Body) {
        let Some(record) = self.record(correlation) else { return };
        *record.course.leg_mut(way) = Leg::Waiting;
        if !record.course.options.may_repeat() {
            record.body = body;
        }
    }

    /// Forgets all calls.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (Correlation, Course)> + use<> {
        let records = std::mem::take(&mut self.records).into_iter().flatten();
        records.map(|record| (record.correlation, record.course))
    }

    #[inline]
    fn record(&mut self, correlation: Correlation) -> Option<&mut Record> {
        self.records.get_mut(correlation.slot())?.as_mut().filter(|record| record.correlation == correlation)
    }
}

impl Course {
    /// Whether a peer may have a copy.
    pub(super) fn was_sent(&self) -> bool {
        self.is_in_doubt || self.attempt > 0 || self.sent_by().next().is_some()
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

    pub(super) fn leg(&self, way: Way) -> Leg {
        match way {
            Way::First => self.first,
            Way::Second => self.second,
        }
    }

    pub(super) fn leg_mut(&mut self, way: Way) -> &mut Leg {
        match way {
            Way::First => &mut self.first,
            Way::Second => &mut self.second,
        }
    }
}
