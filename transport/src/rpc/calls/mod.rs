//! The calling end on a driver's thread: what answers the driver's events for a client.
//!
//! `records` knows the calls in flight by their slots, `targets` the destinations and who waits for them, `sending`
//! gets requests out, `ending` ends calls, `connecting` keeps sessions with brokers and moves calls between them, `races`
//! remembers which gold calls have a second answer to come. This file begins calls and answers events.
//!
//! What it promises: whatever is kept for a call goes when the call ends, however it ends; a call that was handed to no
//! session is never reported as one that may have been sent; a call is sent again only if its caller allowed that. A
//! call counts as sent once its session has taken it, although it may still wait there. If the session ends before it
//! has left, it ends as *outcome unknown*, although nobody can have handled it.

mod connecting;
mod ending;
mod races;
mod records;
mod sending;
mod targets;

use super::destination::{ReplyDestination, Shard};
use super::error::CallError;
use super::events::{Event, EventListener};
use super::options::{CallOptions, Class};
use super::uplinks::Uplinks;
use crate::connection::{AttachRequest, CloseReason, LinkRoom};
use crate::driver::{ConnectionId, Core, DetachedByPeer, Handler, Leaving, Resumed};
use crate::message::Message;
use crate::pool::Body;
use crate::proto::LinkId;
use crate::proto::control::DetachCode;
use crate::proto::handshake::Negotiated;
use crate::proto::record::MessageKind;
use crate::proto::text::Name;
use crate::sync::{Correlation, Submissions};
use races::Races;
use records::{Course, Leg, Records, Way};
use targets::{TargetLink, Targets};

pub use crate::proto::Lane;

/// A call as another thread, or this one, hands it to the driver.
#[derive(Debug)]
pub(super) enum Submission {
    Call(Call),
    Cancel(Cancellation),
    /// Ends the driver's loop.
    Stop,
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) correlation: Correlation,
    pub(super) destination: Box<str>,
    pub(super) body: Body,
    pub(super) options: CallOptions,
}

#[derive(Debug)]
pub(super) struct Cancellation {
    pub(super) correlation: Correlation,
}

/// What the calling end counts. Each call that has ended counts in one of the five figures after the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallStats {
    /// Calls that were started.
    pub calls: u64,
    /// Calls that a reply ended, failures of the service included. With several clients on one reply destination, the
    /// client counts it over whose connection the reply came.
    pub replies: u64,
    /// Calls that were sent and that the timeout ended.
    pub timed_out: u64,
    /// Calls that were sent and whose session ended, or was interrupted for too long, before the reply came.
    pub outcome_unknown: u64,
    /// Calls that ended without having been sent: refused, or out of time before.
    pub not_sent: u64,
    /// Calls that were dropped before they ended.
    pub cancelled: u64,
    /// Replies that nobody waited for: late, twice, to an earlier life of the process, or to nobody at all; also
    /// messages that were no replies.
    pub late_replies: u64,
    /// Calls that had to wait for credit of their link.
    pub credit_waits: u64,
    /// Times that a call was sent again, because its session was lost or interrupted and it was marked idempotent.
    pub resent: u64,
    /// Gold calls of which two copies were out when the first answer came.
    pub races: u64,
    /// Second answers to gold calls, which were discarded.
    pub race_duplicates: u64,
    /// Times that new calls went by another broker from then on.
    pub failovers: u64,
}

/// Answers the events of a client's driver.
#[derive(Debug)]
pub(super) struct Calls {
    destination: ReplyDestination,
    shard: Shard,
    submissions: Submissions<Submission>,
    reply_bytes_max: u64,
    uplinks: Uplinks,
    /// The broker by which calls went when that was looked at last, or went before there was none.
    went_by: Option<usize>,
    targets: Targets,
    records: Records,
    /// There was a gold call.
    has_raced: bool,
    races: Races,
    /// The timer is set by which sending is tried again.
    is_retrying: bool,
    events: Option<EventListener>,
    stats: CallStats,
}

/// The timer by which sending is tried again.
const RETRY_TIMER: usize = 0;

/// The timer of the uplinks; those of calls come behind it.
const UPLINK_TIMER: usize = 1;

/// The most submissions that one turn of the driver takes.
const SUBMISSIONS_A_TURN: usize = 1024;

fn timer_of(slot: usize) -> usize {
    slot + 2
}

impl Calls {
    pub(super) fn new(
        destination: ReplyDestination,
        shard: Shard,
        submissions: Submissions<Submission>,
        reply_bytes_max: u64,
        uplinks: Uplinks,
        events: Option<EventListener>,
    ) -> Self {
        Self {
            destination,
            shard,
            submissions,
            reply_bytes_max,
            targets: Targets::new(uplinks.len()),
            uplinks,
            went_by: None,
            records: Records::default(),
            has_raced: false,
            races: Races::default(),
            is_retrying: false,
            events,
            stats: CallStats::default(),
        }
    }

    pub(super) fn stats(&self) -> CallStats {
        self.stats
    }

    /// Begins a call whose slot was reserved. Its outcome, also a failure to begin, comes by the slot.
    pub(super) fn begin(
        &mut self,
        core: &mut Core,
        correlation: Correlation,
        destination: &str,
        body: Body,
        options: CallOptions,
    ) {
        self.stats.calls += 1;
        let timeout = options.timeout;
        if timeout.is_zero() {
            let reason = "no time was given".to_owned();
            return self.refuse(correlation, CallError::NotSentInTime { timeout, reason });
        }
        // First, since other calls may be sent and end because of it.
        let races = options.class == Class::Gold && self.race(core);
        let target = match self.target(destination) {
            Ok(target) => target,
            Err(error) => return self.refuse(correlation, error),
        };
        let deadline = core.now() + timeout;
        core.set_timer(timer_of(correlation.slot()), deadline);
        self.targets.push(target, options.class.lane(), correlation);
        if options.may_repeat() {
            self.targets.hold(target);
        }
        if races {
            self.targets.push_second(target, correlation);
        }
        let second = if races { Leg::Waiting } else { Leg::None };
        let (first, attempt, is_in_doubt) = (Leg::Waiting, 0, false);
        let course = Course { target, options, deadline, attempt, first, second, is_in_doubt };
        if let Some(before) = self.records.insert(correlation, body, course) {
            // It was dropped, and this is heard before its cancellation is.
            self.let_go(core, &before);
        }
        self.advance(core, target);
        if self.uplinks.current().is_some_and(|(uplink, _)| self.is_attached(target, uplink))
            && self.records.is_waiting(correlation, Way::First)
        {
            self.stats.credit_waits += 1;
        }
    }

    fn is_attached(&self, target: usize, uplink: usize) -> bool {
        matches!(self.targets.link(target, uplink), TargetLink::Attached(_))
    }

    /// Whether a gold call has a second copy: if another broker is connected. The first gold call sees to that.
    fn race(&mut self, core: &mut Core) -> bool {
        self.has_raced = true;
        if self.uplinks.wanted() < 2 && self.uplinks.len() > 1 {
            self.uplinks.want(2);
            self.keep_connected(core);
        }
        self.uplinks.second().is_some()
    }

    /// How many calls have a slot, how many destinations have a place, and how many entries their queues have.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.shard.slots.in_flight(), self.targets.len(), self.targets.queued())
    }

    /// The session with the broker at this place of the list.
    #[cfg(test)]
    pub(super) fn session(&self, uplink: usize) -> Option<ConnectionId> {
        self.uplinks.connection(uplink)
    }

    #[cfg(test)]
    pub(super) fn reply_destination(&self) -> ReplyDestination {
        self.destination.clone()
    }

    /// The place of a destination.
    fn target(&mut self, name: &str) -> Result<usize, CallError> {
        if let Some(target) = self.targets.find(name) {
            return Ok(target);
        }
        match Name::new(name) {
            Ok(_) => Ok(self.targets.insert(name)),
            Err(violation) => {
                Err(CallError::DestinationName { name: name.to_owned(), reason: violation.to_string() })
            }
        }
    }

    fn cancel(&mut self, core: &mut Core, correlation: Correlation) {
        self.stats.cancelled += 1;
        self.take(core, correlation);
    }

    fn tell(&self, event: Event<'_>) {
        EventListener::tell(&self.events, event);
    }

    /// As many replies as there can be calls, those of the process's other clients included, so that no reply ever
    /// waits for credit of messages.
    fn reply_room(&self) -> LinkRoom {
        LinkRoom { messages: self.destination.calls_of_all_max(), bytes: self.reply_bytes_max }
    }
}

impl Handler for Calls {
    fn opened(&mut self, core: &mut Core, connection: ConnectionId, _peer: &Negotiated) {
        self.attach_replies(core, connection);
    }

    fn attach_requested(&mut self, core: &mut Core, connection: ConnectionId, request: AttachRequest) {
        // The link may have gone with its session meanwhile; then there is nobody to tell.
        let _ = core.refuse_link(
            connection,
            request.link,
            DetachCode::NotAllowed,
            "a client has no destinations",
        );
    }

    fn attached(&mut self, core: &mut Core, connection: ConnectionId, link: LinkId) {
        let Some(uplink) = self.uplinks.of(connection) else { return };
        let Some(target) = self.targets.of_link(uplink, link) else {
            return self.replies_attached(core, uplink, link);
        };
        self.targets.set_link(target, uplink, TargetLink::Attached(link));
        let (address, destination) = (self.uplinks.address(uplink), Some(self.targets.name(target)));
        self.tell(Event::Attached { address, destination });
        self.advance(core, target);
        if self.uplinks.current().is_some_and(|(current, _)| current == uplink) {
            self.stats.credit_waits += self.targets.waiting(target) as u64;
        }
    }

    fn detached(&mut self, core: &mut Core, connection: ConnectionId, detached: DetachedByPeer) {
        let Some(uplink) = self.uplinks.of(connection) else { return };
        let address = self.uplinks.address(uplink);
        let target = self.targets.of_link(uplink, detached.link);
        let destination = target.map(|target| self.targets.name(target));
        self.tell(Event::Detached { address, destination, reason: &detached.text });
        match target {
            Some(target) if detached.code == DetachCode::ShuttingDown && self.uplinks.len() > 1 => {
                self.sent_away(core, uplink, target);
            }
            Some(target) => self.refused(core, uplink, target, &detached.text),
            None if self.uplinks.is_its_link(uplink, detached.link) => {
                self.lose_replies(core, uplink, &format!("{:?}: {}", detached.code, detached.text));
            }
            None => {}
        }
    }

    fn message(&mut self, core: &mut Core, connection: ConnectionId, message: Message) {
        if let Some(link) = message.head.link {
            // Fails only if the link has gone meanwhile.
            let _ = core.set_link_room(connection, link, self.reply_room());
        }
        match message.head.kind {
            MessageKind::Reply => self.reply(core, connection, message),
            MessageKind::Message | MessageKind::Request => self.stats.late_replies += 1,
        }
    }

    fn writable(&mut self, core: &mut Core, connection: ConnectionId, link: LinkId) {
        let uplink = self.uplinks.of(connection);
        if let Some(target) = uplink.and_then(|uplink| self.targets.of_link(uplink, link)) {
            self.advance(core, target);
        }
    }

    fn closed(&mut self, core: &mut Core, connection: ConnectionId, reason: &CloseReason) {
        self.ended(core, connection, &reason.to_string());
    }

    fn interrupted(&mut self, core: &mut Core, connection: ConnectionId, reason: &CloseReason) {
        self.session_interrupted(core, connection, &reason.to_string());
    }

    fn resumed(&mut self, core: &mut Core, connection: ConnectionId, resumed: &Resumed) {
        self.session_resumed(core, connection, resumed);
    }

    fn leaving(&mut self, core: &mut Core, connection: ConnectionId, leaving: &Leaving) {
        self.asked_to_leave(core, connection, leaving);
    }

    fn take_submissions(&mut self, core: &mut Core) -> bool {
        let mut found = false;
        // So many a turn: other threads may submit as fast as they are taken.
        for _ in 0..SUBMISSIONS_A_TURN {
            let Some(submission) = self.submissions.pop() else { break };
            found = true;
            match submission {
                Submission::Call(Call { correlation, destination, body, options }) => {
                    self.begin(core, correlation, &destination, body, options);
                }
                Submission::Cancel(cancellation) => self.cancel(core, cancellation.correlation),
                Submission::Stop => core.stop(),
            }
        }
        found
    }

    fn timer(&mut self, core: &mut Core, key: usize) {
        match key {
            RETRY_TIMER => {
                self.is_retrying = false;
                self.advance_all(core);
            }
            UPLINK_TIMER => self.keep_connected(core),
            key => {
                if let Some(correlation) = self.records.at(key - timer_of(0)) {
                    self.expired(core, correlation);
                }
            }
        }
    }
}

impl Drop for Calls {
    /// The driver is gone: whoever still waits is told.
    fn drop(&mut self) {
        self.submissions.close();
        let reason = "the client was dropped";
        self.end_all(reason);
        while !self.submissions.is_drained() {
            match self.submissions.pop() {
                Some(Submission::Call(call)) => {
                    self.refuse(call.correlation, CallError::NotConnected { reason: reason.to_owned() });
                }
                Some(Submission::Cancel(_) | Submission::Stop) => {}
                // Another thread is just writing one.
                None => std::thread::yield_now(),
            }
        }
    }
}
