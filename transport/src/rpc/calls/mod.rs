//! The calling end on a driver's thread: what answers the driver's events for a client.
//!
//! `records` knows the calls in flight by their slots, `targets` the destinations and who waits for them, `sending`
//! gets requests out; this file begins calls, ends them, and answers events.
//!
//! What it promises: whatever is kept for a call goes when the call ends, however it ends; a call that certainly was
//! not sent is never reported as one that may have been.

mod records;
mod sending;
mod targets;

use super::destination::{Outcome, ReplyDestination, Shard};
use super::error::{CallError, ServiceError};
use super::future::Reply;
use crate::connection::{AttachRequest, CloseReason, LinkRoom};
use crate::driver::{ConnectionId, Core, DetachedByPeer, Handler};
use crate::message::Message;
use crate::pool::Body;
use crate::proto::LinkId;
use crate::proto::control::{Address as LinkAddress, CloseCode, DetachCode, LinkRole};
use crate::proto::handshake::Negotiated;
use crate::proto::record::MessageKind;
use crate::proto::text::Name;
use crate::sync::{Correlation, Submissions};
use crate::time::Timestamp;
use records::{Record, Records, Request, Stage};
use std::time::Duration;
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
    pub(super) lane: Lane,
    pub(super) timeout: Duration,
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
    /// Calls that were sent and whose connection ended before the reply came.
    pub outcome_unknown: u64,
    /// Calls that ended without having been sent: refused, out of time before, or without a connection.
    pub not_sent: u64,
    /// Calls that were dropped before they ended.
    pub cancelled: u64,
    /// Replies that nobody waited for: late, twice, to an earlier life of the process, or to nobody at all; also
    /// messages that were no replies.
    pub late_replies: u64,
    /// Calls that had to wait for credit of their link.
    pub credit_waits: u64,
}

/// Answers the events of a client's driver.
#[derive(Debug)]
pub(super) struct Calls {
    destination: ReplyDestination,
    shard: Shard,
    submissions: Submissions<Submission>,
    reply_bytes_max: u64,
    uplink: Uplink,
    targets: Targets,
    records: Records,
    /// The timer is set by which sending is tried again.
    is_retrying: bool,
    stats: CallStats,
}

/// The way to the broker, or to the service itself.
#[derive(Debug)]
enum Uplink {
    /// The handshake is not done.
    Connecting,
    /// The peer was asked to deliver replies on this link.
    Attaching(LinkId),
    /// Calls can be made.
    Open(ConnectionId, LinkId),
    Closed(String),
}

/// What is known of the connection from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress<'a> {
    Handshake,
    ReplyDestination,
    Connected,
    Closed(&'a str),
}

/// The timer by which sending is tried again; those of calls come behind it.
const RETRY_TIMER: usize = 0;

/// The most submissions that one turn of the driver takes.
const SUBMISSIONS_A_TURN: usize = 1024;

fn timer_of(slot: usize) -> usize {
    slot + 1
}

impl Calls {
    pub(super) fn new(
        destination: ReplyDestination,
        shard: Shard,
        submissions: Submissions<Submission>,
        reply_bytes_max: u64,
    ) -> Self {
        Self {
            destination,
            shard,
            submissions,
            reply_bytes_max,
            uplink: Uplink::Connecting,
            targets: Targets::default(),
            records: Records::default(),
            is_retrying: false,
            stats: CallStats::default(),
        }
    }

    pub(super) fn stats(&self) -> CallStats {
        self.stats
    }

    pub(super) fn progress(&self) -> Progress<'_> {
        match &self.uplink {
            Uplink::Connecting => Progress::Handshake,
            Uplink::Attaching(_) => Progress::ReplyDestination,
            Uplink::Open(..) => Progress::Connected,
            Uplink::Closed(reason) => Progress::Closed(reason),
        }
    }

    /// Begins a call whose slot was reserved. Its outcome, also a failure to begin, comes by the slot.
    pub(super) fn begin(
        &mut self,
        core: &mut Core,
        correlation: Correlation,
        destination: &str,
        (body, lane): (Body, Lane),
        timeout: Duration,
    ) {
        self.stats.calls += 1;
        let target = match self.target(destination) {
            Ok(_) if timeout.is_zero() => {
                let reason = "no time was given".to_owned();
                return self.refuse(correlation, CallError::NotSentInTime { timeout, reason });
            }
            Ok(target) => target,
            Err(error) => return self.refuse(correlation, error),
        };
        let deadline = core.now() + timeout;
        let request = Request { target, body, lane, deadline };
        let before = self.records.insert(correlation, timeout, request);
        self.forget(before);
        core.set_timer(timer_of(correlation.slot()), deadline);
        self.targets.push(target, lane, correlation);
        self.advance(core, target);
        if matches!(self.targets.link(target), TargetLink::Attached(_))
            && self.records.is_waiting(correlation)
        {
            self.stats.credit_waits += 1;
        }
    }

    /// How many calls have a slot, how many destinations have a place, and how many entries their queues have.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.shard.slots.in_flight(), self.targets.len(), self.targets.queued())
    }

    #[cfg(test)]
    pub(super) fn reply_destination(&self) -> ReplyDestination {
        self.destination.clone()
    }

    /// The place of a destination.
    fn target(&mut self, name: &str) -> Result<usize, CallError> {
        if let Uplink::Closed(reason) = &self.uplink {
            return Err(CallError::NotConnected { reason: reason.clone() });
        }
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
}

/// Ending calls.
impl Calls {
    /// Forgets a call; says whether it was sent, or `None` if it had ended before.
    fn take(&mut self, core: &mut Core, correlation: Correlation) -> Option<Record> {
        let record = self.records.remove(correlation)?;
        core.set_timer(timer_of(correlation.slot()), Timestamp::NEVER);
        if let Stage::Waiting(request) = &record.stage {
            self.targets.note_ended(request.target, &self.records);
        }
        Some(record)
    }

    /// Forgets what a slot's earlier call has left: it was dropped, and this is heard before its cancellation is.
    fn forget(&mut self, before: Option<Record>) {
        if let Some(Record { stage: Stage::Waiting(request), .. }) = before {
            self.targets.note_ended(request.target, &self.records);
        }
    }

    /// Ends a call that was never recorded.
    fn refuse(&mut self, correlation: Correlation, error: CallError) {
        // Nobody waits for it if it was dropped meanwhile.
        if self.shard.slots.complete(correlation, Err(error)).is_ok() {
            self.stats.not_sent += 1;
        }
    }

    /// Ends a call that was not sent.
    fn end_unsent(&mut self, core: &mut Core, correlation: Correlation, error: CallError) {
        self.take(core, correlation);
        self.refuse(correlation, error);
    }

    /// A reply: to a call of this shard, or of another one of the same process.
    fn reply(&mut self, core: &mut Core, message: Message) {
        let head = &message.head;
        let correlation = Correlation::unpack(head.correlation_id.0);
        let is_ours = head.incarnation == self.destination.process().incarnation && head.attempt == 0;
        if !is_ours {
            self.stats.late_replies += 1;
            return;
        }
        let outcome = outcome(message);
        self.take(core, correlation);
        let waited = self.destination.complete(correlation, outcome);
        let counted = if waited { &mut self.stats.replies } else { &mut self.stats.late_replies };
        *counted += 1;
    }

    /// Ends all calls, and all that are still to come.
    fn lose(&mut self, reason: String) {
        if matches!(self.uplink, Uplink::Closed(_)) {
            return;
        }
        self.targets = Targets::default();
        for (correlation, record) in self.records.drain() {
            // Nobody waits for it if it was dropped, or if its reply came over another connection.
            if self.shard.slots.complete(correlation, Err(record.lost(&reason))).is_ok() {
                let counted = if record.was_sent() {
                    &mut self.stats.outcome_unknown
                } else {
                    &mut self.stats.not_sent
                };
                *counted += 1;
            }
        }
        self.uplink = Uplink::Closed(reason);
    }

    /// Without its reply destination the connection is good for nothing.
    fn lose_replies(&mut self, core: &mut Core, connection: ConnectionId, why: &str) {
        let reason = format!("the peer does not deliver replies: {why}");
        core.close(connection, CloseCode::Normal, &reason);
        self.lose(reason);
    }

    fn expired(&mut self, core: &mut Core, correlation: Correlation) {
        let Some(record) = self.take(core, correlation) else { return };
        match record.stage {
            Stage::Waiting(request) => {
                let reason = self.why_waiting(request.target);
                self.refuse(correlation, CallError::NotSentInTime { timeout: record.timeout, reason });
            }
            Stage::Sent => {
                let outcome = Err(CallError::TimedOut(record.timeout));
                if self.shard.slots.complete(correlation, outcome).is_ok() {
                    self.stats.timed_out += 1;
                }
            }
        }
    }

    fn why_waiting(&self, target: usize) -> String {
        let name = self.targets.name(target);
        match self.targets.link(target) {
            TargetLink::Attached(_) => format!("destination '{name}' had no room for it"),
            TargetLink::None | TargetLink::Requested(_) => format!("destination '{name}' had not answered"),
        }
    }
}

impl Handler for Calls {
    fn opened(&mut self, core: &mut Core, connection: ConnectionId, _peer: &Negotiated) {
        let address = LinkAddress::Reply(self.destination.secret().clone());
        match core.attach(connection, LinkRole::Consumer, address, self.reply_room()) {
            Ok(link) => self.uplink = Uplink::Attaching(link),
            Err(error) => self.lose_replies(core, connection, &error.to_string()),
        }
    }

    fn attach_requested(&mut self, core: &mut Core, connection: ConnectionId, request: AttachRequest) {
        // The link may have gone with its connection meanwhile; then there is nobody to tell.
        let _ = core.refuse_link(
            connection,
            request.link,
            DetachCode::NotAllowed,
            "a client has no destinations",
        );
    }

    fn attached(&mut self, core: &mut Core, connection: ConnectionId, link: LinkId) {
        if let Some(target) = self.targets.of_link(link) {
            self.targets.set_link(target, TargetLink::Attached(link));
            self.advance(core, target);
            self.stats.credit_waits += self.targets.waiting(target) as u64;
            return;
        }
        if matches!(self.uplink, Uplink::Attaching(replies) if replies == link) {
            self.uplink = Uplink::Open(connection, link);
            self.advance_all(core);
        }
    }

    fn detached(&mut self, core: &mut Core, connection: ConnectionId, detached: DetachedByPeer) {
        if let Some(target) = self.targets.of_link(detached.link) {
            return self.refused(core, target, &detached.text);
        }
        if let Uplink::Attaching(replies) | Uplink::Open(_, replies) = self.uplink
            && replies == detached.link
        {
            self.lose_replies(core, connection, &format!("{:?}: {}", detached.code, detached.text));
        }
    }

    fn message(&mut self, core: &mut Core, connection: ConnectionId, message: Message) {
        if let Some(link) = message.head.link {
            // Fails only if the link has gone meanwhile.
            let _ = core.set_link_room(connection, link, self.reply_room());
        }
        match message.head.kind {
            MessageKind::Reply => self.reply(core, message),
            MessageKind::Message | MessageKind::Request => self.stats.late_replies += 1,
        }
    }

    fn writable(&mut self, core: &mut Core, _connection: ConnectionId, link: LinkId) {
        if let Some(target) = self.targets.of_link(link) {
            self.advance(core, target);
        }
    }

    fn closed(&mut self, _core: &mut Core, _connection: ConnectionId, reason: &CloseReason) {
        self.lose(reason.to_string());
    }

    fn take_submissions(&mut self, core: &mut Core) -> bool {
        let mut found = false;
        // So many a turn: other threads may submit as fast as they are taken.
        for _ in 0..SUBMISSIONS_A_TURN {
            let Some(submission) = self.submissions.pop() else { break };
            found = true;
            match submission {
                Submission::Call(Call { correlation, destination, body, lane, timeout }) => {
                    self.begin(core, correlation, &destination, (body, lane), timeout);
                }
                Submission::Cancel(cancellation) => self.cancel(core, cancellation.correlation),
                Submission::Stop => core.stop(),
            }
        }
        found
    }

    fn timer(&mut self, core: &mut Core, key: usize) {
        match key.checked_sub(timer_of(0)) {
            None => {
                self.is_retrying = false;
                self.advance_all(core);
            }
            Some(slot) => {
                if let Some(correlation) = self.records.at(slot) {
                    self.expired(core, correlation);
                }
            }
        }
    }
}

impl Calls {
    /// As many replies as there can be calls, those of the process's other clients included, so that no reply ever
    /// waits for credit of messages.
    fn reply_room(&self) -> LinkRoom {
        LinkRoom { messages: self.destination.calls_of_all_max(), bytes: self.reply_bytes_max }
    }
}

impl Drop for Calls {
    /// The driver is gone: whoever still waits is told.
    fn drop(&mut self) {
        self.submissions.close();
        let reason = "the client was dropped";
        self.lose(reason.to_owned());
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

/// What a reply says: its body, or the service's error.
fn outcome(message: Message) -> Outcome {
    if !message.head.failure {
        return Ok(Reply::new(message));
    }
    let error = message.extensions().error();
    let (code, text) = error.map_or((0, "the service gave no reason"), |error| (error.code, error.text));
    Err(CallError::Service(ServiceError { code, text: text.to_owned() }))
}
