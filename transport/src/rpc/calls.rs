//! The calling end on a driver's thread: what answers the driver's events for a client.

use super::destination::{Outcome, ReplyDestination, Shard};
use super::error::{CallError, ServiceError};
use super::future::Reply;
use crate::connection::{AttachRequest, CloseReason, LinkError, LinkRoom, SendError};
use crate::driver::{ConnectionId, Core, DetachedByPeer, Handler};
use crate::message::Message;
use crate::pool::Body;
use crate::proto::control::{Address as LinkAddress, DetachCode, LinkRole};
use crate::proto::handshake::Negotiated;
use crate::proto::record::MessageKind;
use crate::proto::text::Name;
use crate::proto::{CorrelationId, LinkId};
use crate::sync::{Correlation, Submissions};
use crate::time::Timestamp;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

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

/// What the calling end counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallStats {
    /// Calls that were started.
    pub calls: u64,
    /// Calls that a reply ended, failures of the service included.
    pub replies: u64,
    /// Replies that nobody waited for: late, twice, or to an earlier life of the process.
    pub late_replies: u64,
    /// Calls that the timeout ended.
    pub timed_out: u64,
    /// Calls that were dropped before they ended.
    pub cancelled: u64,
    /// Calls whose connection ended before the reply came.
    pub outcome_unknown: u64,
    /// Times that a call had to wait for credit of its link.
    pub credit_waits: u64,
}

/// Answers the events of a client's driver.
#[derive(Debug)]
pub(super) struct Calls {
    destination: ReplyDestination,
    shard: Shard,
    submissions: Submissions<Submission>,
    reply_bytes_max: u64,
    link: Uplink,
    /// Where calls go, and by name.
    targets: Vec<Target>,
    by_name: HashMap<Box<str>, usize>,
    /// By slot, what is known of the call in flight.
    records: Vec<Record>,
    stats: CallStats,
}

/// The way to the broker, or to the service itself.
#[derive(Debug)]
enum Uplink {
    Connecting,
    Open(ConnectionId),
    Closed(String),
}

/// A destination that was called.
#[derive(Debug)]
struct Target {
    name: Box<str>,
    state: TargetState,
    /// Calls that wait for the link, or for its credit.
    waiting: VecDeque<Waiting>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TargetState {
    Detached,
    Attaching(LinkId),
    Attached(LinkId),
}

#[derive(Debug)]
struct Waiting {
    correlation: Correlation,
    body: Body,
    lane: Lane,
    deadline: Timestamp,
}

#[derive(Debug, Clone, Copy, Default)]
struct Record {
    correlation: Option<Correlation>,
    timeout: Duration,
    was_sent: bool,
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
            link: Uplink::Connecting,
            targets: Vec::new(),
            by_name: HashMap::new(),
            records: Vec::new(),
            stats: CallStats::default(),
        }
    }

    pub(super) fn stats(&self) -> CallStats {
        self.stats
    }

    /// Whether the connection is up, or why it is not; `None` while that is not known.
    pub(super) fn is_connected(&self) -> Option<Result<(), String>> {
        match &self.link {
            Uplink::Connecting => None,
            Uplink::Open(_) => Some(Ok(())),
            Uplink::Closed(reason) => Some(Err(reason.clone())),
        }
    }

    /// Begins a call whose slot was reserved. Its outcome, also a failure to begin, comes by the slot.
    pub(super) fn begin(&mut self, core: &mut Core, call: Call) {
        self.stats.calls += 1;
        let Call { correlation, destination, body, lane, timeout } = call;
        if let Uplink::Closed(reason) = &self.link {
            let reason = reason.clone();
            return self.fail(correlation, CallError::NotConnected { reason });
        }
        let target = match self.target(&destination) {
            Ok(target) => target,
            Err(error) => return self.fail(correlation, error),
        };
        let deadline = core.now() + timeout;
        self.record(correlation, timeout);
        core.set_timer(correlation.slot(), deadline);
        let waiting = Waiting { correlation, body, lane, deadline };
        self.targets[target].waiting.push_back(waiting);
        self.advance(core, target);
    }

    fn cancel(&mut self, core: &mut Core, correlation: Correlation) {
        self.stats.cancelled += 1;
        if self.take_record(correlation).is_some() {
            core.set_timer(correlation.slot(), Timestamp::NEVER);
        }
    }

    /// Attaches a target's link if it has none, and sends what its credit allows.
    fn advance(&mut self, core: &mut Core, target: usize) {
        let Uplink::Open(connection) = self.link else { return };
        match self.targets[target].state {
            TargetState::Attaching(_) => {}
            TargetState::Attached(link) => self.send_waiting(core, connection, target, link),
            TargetState::Detached => self.attach(core, connection, target),
        }
    }

    fn attach(&mut self, core: &mut Core, connection: ConnectionId, target: usize) {
        let name = self.targets[target].name.clone();
        // Checked when the target was made.
        let Ok(address) = Name::new(&name).map(LinkAddress::Named) else { return };
        let none = LinkRoom { messages: 0, bytes: 0 };
        match core.attach(connection, LinkRole::Producer, address, none) {
            Ok(link) => self.targets[target].state = TargetState::Attaching(link),
            Err(error) => self.refuse_waiting(target, &error.to_string()),
        }
    }

    fn send_waiting(&mut self, core: &mut Core, connection: ConnectionId, target: usize, link: LinkId) {
        while let Some(waiting) = self.targets[target].waiting.pop_front() {
            // Cancelled or timed out while it waited.
            if !self.is_current(waiting.correlation) {
                continue;
            }
            let correlation = waiting.correlation;
            match self.send(core, connection, link, waiting) {
                Ok(()) => self.records[correlation.slot()].was_sent = true,
                Err((
                    SendError::Link(LinkError::NoCredit(_)) | SendError::QueueFull(_) | SendError::Pool(_),
                    back,
                )) => {
                    self.stats.credit_waits += 1;
                    self.targets[target].waiting.push_front(back);
                    return;
                }
                Err((error, _)) => {
                    self.end(core, correlation, Err(CallError::Unsendable { reason: error.to_string() }));
                }
            }
        }
    }

    #[allow(clippy::result_large_err)] // what was not sent goes back to its queue, whole
    fn send(
        &mut self,
        core: &mut Core,
        connection: ConnectionId,
        link: LinkId,
        waiting: Waiting,
    ) -> Result<(), (SendError, Waiting)> {
        let Waiting { correlation, body, lane, deadline } = waiting;
        let process = self.destination.process();
        let mut message = Message::new(MessageKind::Request, body);
        let head = &mut message.head;
        head.lane = lane;
        head.link = Some(link);
        head.origin = process.origin;
        head.message_number = core.next_message_number();
        head.correlation_id = CorrelationId(correlation.pack());
        head.incarnation = process.incarnation;
        head.reply_address = Some(self.destination.address());
        // The longest timeout is one that fits.
        head.deadline_us = u32::try_from(deadline.since(core.now()).as_micros()).ok();
        core.send(connection, message)
            .map_err(|(error, message)| (error, Waiting { correlation, body: message.body, lane, deadline }))
    }

    fn target(&mut self, name: &str) -> Result<usize, CallError> {
        if let Some(&target) = self.by_name.get(name) {
            return Ok(target);
        }
        if let Err(violation) = Name::new(name) {
            return Err(CallError::DestinationName { name: name.to_owned(), reason: violation.to_string() });
        }
        let target = self.targets.len();
        self.by_name.insert(name.into(), target);
        let waiting = VecDeque::new();
        self.targets.push(Target { name: name.into(), state: TargetState::Detached, waiting });
        Ok(target)
    }

    fn target_of(&self, link: LinkId) -> Option<usize> {
        let is_its = |target: &Target| matches!(target.state, TargetState::Attaching(its) | TargetState::Attached(its) if its == link);
        self.targets.iter().position(is_its)
    }

    fn refuse_waiting(&mut self, target: usize, text: &str) {
        let entry = &mut self.targets[target];
        entry.state = TargetState::Detached;
        let (destination, waiting) = (entry.name.to_string(), std::mem::take(&mut entry.waiting));
        for call in waiting {
            let error = CallError::Refused { destination: destination.clone(), text: text.to_owned() };
            self.fail(call.correlation, error);
        }
    }
}

/// Ending calls.
impl Calls {
    /// Ends a call of this shard that has not been sent.
    fn fail(&mut self, correlation: Correlation, error: CallError) {
        self.take_record(correlation);
        // Nobody waits for it if it was dropped meanwhile.
        let _ = self.shard.slots.complete(correlation, Err(error));
    }

    /// Ends a call of this shard.
    fn end(&mut self, core: &mut Core, correlation: Correlation, outcome: Outcome) -> bool {
        if self.take_record(correlation).is_some() {
            core.set_timer(correlation.slot(), Timestamp::NEVER);
        }
        self.shard.slots.complete(correlation, outcome).is_ok()
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
        if self.take_record(correlation).is_some() {
            core.set_timer(correlation.slot(), Timestamp::NEVER);
        }
        match self.destination.complete(correlation, outcome) {
            Ok(()) => self.stats.replies += 1,
            Err(_) => self.stats.late_replies += 1,
        }
    }

    fn fail_all(&mut self, core: &mut Core, reason: &str) {
        for target in &mut self.targets {
            target.state = TargetState::Detached;
            target.waiting.clear();
        }
        for slot in 0..self.records.len() {
            let Record { correlation: Some(correlation), was_sent, .. } = self.records[slot] else {
                continue;
            };
            let reason = reason.to_owned();
            let error = if was_sent {
                self.stats.outcome_unknown += 1;
                CallError::OutcomeUnknown { reason }
            } else {
                CallError::NotConnected { reason }
            };
            self.end(core, correlation, Err(error));
        }
    }

    fn record(&mut self, correlation: Correlation, timeout: Duration) {
        if self.records.len() <= correlation.slot() {
            self.records.resize(correlation.slot() + 1, Record::default());
        }
        self.records[correlation.slot()] =
            Record { correlation: Some(correlation), timeout, was_sent: false };
    }

    fn is_current(&self, correlation: Correlation) -> bool {
        self.records.get(correlation.slot()).is_some_and(|record| record.correlation == Some(correlation))
    }

    fn take_record(&mut self, correlation: Correlation) -> Option<Record> {
        if !self.is_current(correlation) {
            return None;
        }
        let record = &mut self.records[correlation.slot()];
        let taken = *record;
        record.correlation = None;
        Some(taken)
    }
}

impl Handler for Calls {
    fn opened(&mut self, core: &mut Core, connection: ConnectionId, _peer: &Negotiated) {
        self.link = Uplink::Open(connection);
        let address = LinkAddress::Reply(self.destination.secret().clone());
        if let Err(error) = core.attach(connection, LinkRole::Consumer, address, self.reply_room()) {
            tracing::error!(%error, "the reply destination cannot be attached");
        }
        for target in 0..self.targets.len() {
            self.advance(core, target);
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

    fn attached(&mut self, core: &mut Core, _connection: ConnectionId, link: LinkId) {
        if let Some(target) = self.target_of(link) {
            self.targets[target].state = TargetState::Attached(link);
            self.advance(core, target);
        }
    }

    fn detached(&mut self, _core: &mut Core, _connection: ConnectionId, detached: DetachedByPeer) {
        match self.target_of(detached.link) {
            Some(target) => self.refuse_waiting(target, &detached.text),
            None => {
                tracing::warn!(code = ?detached.code, text = detached.text, "the reply destination was detached")
            }
        }
    }

    fn message(&mut self, core: &mut Core, connection: ConnectionId, message: Message) {
        if message.head.kind != MessageKind::Reply {
            self.stats.late_replies += 1;
            return;
        }
        if let Some(link) = message.head.link {
            // Fails only if the link has gone meanwhile.
            let _ = core.set_link_room(connection, link, self.reply_room());
        }
        self.reply(core, message);
    }

    fn writable(&mut self, core: &mut Core, _connection: ConnectionId, link: LinkId) {
        if let Some(target) = self.target_of(link) {
            self.advance(core, target);
        }
    }

    fn closed(&mut self, core: &mut Core, _connection: ConnectionId, reason: &CloseReason) {
        let reason = reason.to_string();
        self.link = Uplink::Closed(reason.clone());
        self.fail_all(core, &reason);
    }

    fn take_submissions(&mut self, core: &mut Core) -> bool {
        let mut found = false;
        while let Some(submission) = self.submissions.pop() {
            found = true;
            match submission {
                Submission::Call(call) => self.begin(core, call),
                Submission::Cancel(cancellation) => self.cancel(core, cancellation.correlation),
                Submission::Stop => core.stop(),
            }
        }
        found
    }

    fn timer(&mut self, core: &mut Core, key: usize) {
        let Some(Record { correlation: Some(correlation), timeout, .. }) = self.records.get(key).copied()
        else {
            return;
        };
        if self.end(core, correlation, Err(CallError::TimedOut(timeout))) {
            self.stats.timed_out += 1;
        }
    }
}

impl Calls {
    /// As many replies as there can be calls, so that no reply ever waits for credit.
    fn reply_room(&self) -> LinkRoom {
        LinkRoom { messages: self.destination.calls_max().into(), bytes: self.reply_bytes_max }
    }
}

impl Drop for Calls {
    /// The driver is gone: whoever still waits is told.
    fn drop(&mut self) {
        self.submissions.close();
        let reason = "the client was dropped".to_owned();
        while !self.submissions.is_drained() {
            match self.submissions.pop() {
                Some(Submission::Call(call)) => {
                    self.fail(call.correlation, CallError::NotConnected { reason: reason.clone() });
                }
                Some(Submission::Cancel(_) | Submission::Stop) => {}
                // Another thread is just writing one.
                None => std::thread::yield_now(),
            }
        }
        for Record { correlation, was_sent, .. } in std::mem::take(&mut self.records) {
            let reason = reason.clone();
            let error = if was_sent {
                CallError::OutcomeUnknown { reason }
            } else {
                CallError::NotConnected { reason }
            };
            if let Some(correlation) = correlation {
                self.fail(correlation, error);
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
