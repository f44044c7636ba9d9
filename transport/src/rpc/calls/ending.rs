//! How calls end: by a reply, by their time, or because nobody can answer them any more.

use super::records::{Course, Leg, Way};
use super::{Calls, TargetLink, timer_of};
use crate::driver::{ConnectionId, Core};
use crate::message::Message;
use crate::rpc::destination::Outcome;
use crate::rpc::error::{CallError, ServiceError};
use crate::rpc::events::Event;
use crate::rpc::future::Reply;
use crate::rpc::uplinks;
use crate::sync::Correlation;
use crate::time::Timestamp;

impl Calls {
    /// Forgets a call; `None` if it had ended before.
    #[inline]
    pub(super) fn take(&mut self, core: &mut Core, correlation: Correlation) -> Option<Course> {
        let course = self.records.remove(correlation)?;
        core.set_timer(timer_of(correlation.slot()), Timestamp::NEVER);
        self.let_go(core, &course);
        Some(course)
    }

    /// Undoes what a call that is not recorded any more has counted for.
    #[inline]
    pub(super) fn let_go(&mut self, core: &mut Core, course: &Course) {
        for leg in [course.first, course.second] {
            match leg {
                Leg::None => {}
                Leg::Waiting => self.targets.note_ended(course.target, &self.records),
                Leg::Sent(uplink) => self.landed(core, usize::from(uplink)),
            }
        }
        if course.options.may_repeat() {
            self.targets.release(course.target);
        }
    }

    #[inline]
    fn landed(&mut self, core: &mut Core, uplink: usize) {
        if self.uplinks.landed(uplink) {
            self.leave_drained(core);
        }
    }

    /// Ends a call that was never recorded, or was not sent.
    pub(super) fn refuse(&mut self, correlation: Correlation, error: CallError) {
        // Nobody waits for it if it was dropped meanwhile.
        if self.shard.slots.complete(correlation, Err(error)).is_ok() {
            self.stats.not_sent += 1;
        }
    }

    /// Ends a call that may have been handled.
    pub(super) fn end_unknown(&mut self, correlation: Correlation, reason: &str) {
        let error = CallError::OutcomeUnknown { reason: reason.to_owned() };
        // Nobody waits for it if it was dropped, or if its reply came over another client's connection.
        if self.shard.slots.complete(correlation, Err(error)).is_ok() {
            self.stats.outcome_unknown += 1;
        }
    }

    /// A reply: to a call of this shard, or of another one of the same process.
    pub(super) fn reply(&mut self, core: &mut Core, connection: ConnectionId, message: Message) {
        let head = &message.head;
        let correlation = Correlation::unpack(head.correlation_id.0);
        let is_ours = head.incarnation == self.destination.process().incarnation
            && !self.records.is_unheard_of(correlation, head.attempt);
        if !is_ours {
            self.stats.late_replies += 1;
            return;
        }
        let outcome = outcome(message);
        let course = self.take(core, correlation);
        if self.has_raced
            && let Some(course) = course
        {
            self.note_race(connection, correlation, &course);
        }
        if self.destination.complete(correlation, outcome) {
            self.stats.replies += 1;
        } else if self.has_raced && self.races.take(correlation) {
            self.stats.race_duplicates += 1;
        } else {
            self.stats.late_replies += 1;
        }
    }

    /// Of a gold call of which two copies are out: whoever answered has won, and the other answer is to come.
    fn note_race(&mut self, connection: ConnectionId, correlation: Correlation, course: &Course) {
        if course.sent_by().count() < 2 {
            return;
        }
        self.stats.races += 1;
        self.races.insert(correlation);
        if let Some(winner) = self.uplinks.of(connection) {
            self.tell(Event::RaceWon { address: self.uplinks.address(winner) });
        }
    }

    pub(super) fn expired(&mut self, core: &mut Core, correlation: Correlation) {
        let Some(course) = self.records.get(correlation) else { return };
        let reason = if course.was_sent() { None } else { Some(self.why_waiting(course.target)) };
        let timeout = course.options.timeout;
        self.take(core, correlation);
        match reason {
            Some(reason) => self.refuse(correlation, CallError::NotSentInTime { timeout, reason }),
            None => {
                let outcome = Err(CallError::TimedOut(timeout));
                if self.shard.slots.complete(correlation, outcome).is_ok() {
                    self.stats.timed_out += 1;
                }
            }
        }
    }

    fn why_waiting(&self, target: usize) -> String {
        let name = self.targets.name(target);
        let Some((uplink, _)) = self.uplinks.current() else {
            return format!("no broker is connected: {}", uplinks::list(&self.uplinks.failures()));
        };
        match self.targets.link(target, uplink) {
            TargetLink::Attached(_) => format!("destination '{name}' had no room for it"),
            TargetLink::None | TargetLink::Requested(_) => format!("destination '{name}' had not answered"),
        }
    }

    /// One way is closed to a call that waited for it; it ends unless another copy of it is alive.
    pub(super) fn leg_refused(
        &mut self,
        core: &mut Core,
        way: Way,
        correlation: Correlation,
        error: CallError,
    ) {
        let Some(course) = self.records.get_mut(correlation) else { return };
        *course.leg_mut(way) = Leg::None;
        let (is_alive, target) = (course.is_alive(), course.target);
        self.targets.note_ended(target, &self.records);
        if is_alive {
            return;
        }
        let Some(course) = self.take(core, correlation) else { return };
        if course.was_sent() {
            self.end_unknown(correlation, &format!("{error}, after an earlier attempt was lost"));
        } else {
            self.refuse(correlation, error);
        }
    }

    /// The session with a broker has ended, or is not waited for any longer: so end the calls that were sent on it,
    /// but for those of which another copy is alive or may be sent.
    pub(super) fn lose_sent(&mut self, core: &mut Core, uplink: usize, reason: &str) {
        for correlation in self.records.sent_by(uplink) {
            self.lose_copy(core, uplink, correlation, reason);
        }
    }

    /// A copy was lost. What is left of the call is another copy, or another attempt if it may be repeated.
    fn lose_copy(&mut self, core: &mut Core, uplink: usize, correlation: Correlation, reason: &str) {
        let Some(course) = self.records.get_mut(correlation) else { return };
        course.is_in_doubt = true;
        for way in [Way::First, Way::Second] {
            if course.leg(way) == Leg::Sent(uplink as u8) {
                *course.leg_mut(way) = Leg::None;
            }
        }
        // A second copy that was not sent yet may have no broker to wait for any more: it takes the first one's place.
        let was_waiting = course.first == Leg::None && course.second == Leg::Waiting;
        if was_waiting {
            course.second = Leg::None;
        }
        let is_repeated = !was_waiting && !course.is_alive() && course.options.idempotent;
        let (target, lane) = (course.target, course.options.class.lane());
        if was_waiting || is_repeated {
            course.first = Leg::Waiting;
            course.attempt = course.attempt.saturating_add(u8::from(is_repeated));
            self.stats.resent += u64::from(is_repeated);
            self.targets.push(target, lane, correlation);
        }
        let ends = !self.records.get(correlation).is_some_and(Course::is_alive);
        if was_waiting {
            self.targets.note_ended(target, &self.records);
        }
        self.landed(core, uplink);
        if ends {
            self.take(core, correlation);
            self.end_unknown(correlation, reason);
        }
    }

    /// What may be repeated goes by the current broker at once, and not only when the interrupted session has ended.
    /// An answer to the earlier attempt is as good.
    pub(super) fn resend(&mut self, core: &mut Core, uplink: usize) {
        let reason = "its session was interrupted";
        for correlation in self.records.sent_by(uplink) {
            if self.records.get(correlation).is_some_and(|course| course.options.idempotent) {
                self.lose_copy(core, uplink, correlation, reason);
            }
        }
    }

    /// Ends all calls: the client is gone.
    pub(super) fn end_all(&mut self, reason: &str) {
        for (correlation, course) in self.records.drain() {
            if course.was_sent() {
                self.end_unknown(correlation, reason);
            } else {
                self.refuse(correlation, CallError::NotConnected { reason: reason.to_owned() });
            }
        }
    }
}

/// What a reply says: its body, or the service's error.
fn outcome(message: Message) -> Outcome {
    if !message.head.failure {
        return Ok(Reply::new(message));
    }
    let error = message.extensions().error();
    let (code, text) = error.map_or((0, "the service gave no reason"), |error| (error.code, error.text));
    Err(CallError::Service(ServiceError { code, text: text.to_owned() }))
}
