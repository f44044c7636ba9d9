//! How requests get out: by a link for each destination, as its credit allows, the urgent ones first.

use super::{Calls, RETRY_TIMER, Request, TargetLink, Uplink};
use crate::connection::{LinkRoom, SendError};
use crate::driver::{ConnectionId, Core};
use crate::message::Message;
use crate::pool::PoolError;
use crate::proto::control::{Address as LinkAddress, LinkRole};
use crate::proto::record::MessageKind;
use crate::proto::text::Name;
use crate::proto::{CorrelationId, Lane, LinkId};
use crate::rpc::error::CallError;
use crate::sync::Correlation;
use std::time::Duration;

/// How soon sending is tried again when a queue or the pool was full, of which no event tells when it is not any more.
const RETRY_AFTER: Duration = Duration::from_millis(1);

/// Whether the next call of a lane may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Yes: this one is done with.
    Same,
    /// Yes: this one has ended, and was counted among those.
    Ended,
    /// No, but of another lane.
    Lane,
    /// None of this destination, before an event tells that.
    Event,
}

impl Calls {
    /// Attaches a destination's link if it has none, and sends what its credit allows.
    pub(super) fn advance(&mut self, core: &mut Core, target: usize) {
        let Uplink::Open(connection, _) = self.uplink else { return };
        match self.targets.link(target) {
            TargetLink::None => self.attach(core, connection, target),
            TargetLink::Requested(_) => {}
            TargetLink::Attached(link) => self.send_waiting(core, connection, target, link),
        }
    }

    pub(super) fn advance_all(&mut self, core: &mut Core) {
        for target in self.targets.places() {
            self.advance(core, target);
        }
    }

    /// A destination, or this end, refused the link: so ends what waited for it, and the next call asks again.
    pub(super) fn refused(&mut self, core: &mut Core, target: usize, text: &str) {
        let Some((name, waiting)) = self.targets.remove(target) else { return };
        for correlation in
            waiting.filter(|&correlation| self.records.is_waiting(correlation)).collect::<Vec<_>>()
        {
            let error = CallError::Refused { destination: name.to_string(), text: text.to_owned() };
            self.end_unsent(core, correlation, error);
        }
    }

    fn attach(&mut self, core: &mut Core, connection: ConnectionId, target: usize) {
        let none = LinkRoom { messages: 0, bytes: 0 };
        let attached = match Name::new(self.targets.name(target)) {
            Ok(name) => core.attach(connection, LinkRole::Producer, LinkAddress::Named(name), none),
            // Checked before the destination was given a place.
            Err(_) => return,
        };
        match attached {
            Ok(link) => self.targets.set_link(target, TargetLink::Requested(link)),
            // The connection has ended, and its end is about to be reported.
            Err(SendError::NotOpen) => {}
            Err(error) => self.refused(core, target, &error.to_string()),
        }
    }

    fn send_waiting(&mut self, core: &mut Core, connection: ConnectionId, target: usize, link: LinkId) {
        for lane in Lane::ALL {
            while let Some(correlation) = self.targets.front(target, lane, &self.records) {
                match self.send_front(core, connection, link, correlation) {
                    Next::Same => self.targets.pop(target, lane),
                    Next::Ended => {}
                    Next::Lane => break,
                    Next::Event => return,
                }
            }
        }
    }

    fn send_front(
        &mut self,
        core: &mut Core,
        connection: ConnectionId,
        link: LinkId,
        correlation: Correlation,
    ) -> Next {
        let Some(mut request) = self.records.take_request(correlation) else { return Next::Same };
        let left = request.deadline.since(core.now());
        if left.is_zero() {
            self.records.put_back(correlation, request);
            self.expired(core, correlation);
            return Next::Ended;
        }
        let message = self.message(core, link, correlation, &mut request, left);
        let (error, message) = match core.send(connection, message) {
            Ok(()) => return Next::Same,
            Err(refused) => refused,
        };
        let next = match &error {
            SendError::QueueFull(_)
            | SendError::Pool(PoolError::BudgetExceeded { .. } | PoolError::Map { .. }) => {
                self.retry_soon(core);
                Next::Lane
            }
            // An event follows: that there is credit again, or that the link or the connection has ended.
            SendError::Link(_) | SendError::NotOpen => Next::Event,
            _ => {
                self.end_unsent(core, correlation, CallError::Unsendable { reason: error.to_string() });
                return Next::Same;
            }
        };
        request.body = message.body;
        self.records.put_back(correlation, request);
        next
    }

    /// Not later than it was already to be.
    fn retry_soon(&mut self, core: &mut Core) {
        if !std::mem::replace(&mut self.is_retrying, true) {
            core.set_timer(RETRY_TIMER, core.now() + RETRY_AFTER);
        }
    }

    fn message(
        &self,
        core: &mut Core,
        link: LinkId,
        correlation: Correlation,
        request: &mut Request,
        left: Duration,
    ) -> Message {
        let process = self.destination.process();
        let mut message = Message::new(MessageKind::Request, std::mem::take(&mut request.body));
        let head = &mut message.head;
        head.lane = request.lane;
        head.link = Some(link);
        head.origin = process.origin;
        head.message_number = core.next_message_number();
        head.correlation_id = CorrelationId(correlation.pack());
        head.incarnation = process.incarnation;
        head.reply_address = Some(self.destination.address());
        // The longest timeout is one that fits. Rounded up: what is left is more than nothing.
        head.deadline_us = u32::try_from(left.as_nanos().div_ceil(1000)).ok();
        message
    }
}
