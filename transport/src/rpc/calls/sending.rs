//! How requests get out: by a link for each destination, as its credit allows, the urgent ones first.

use super::records::{Course, Way};
use super::{Calls, RETRY_TIMER, TargetLink};
use crate::connection::{LinkRoom, SendError};
use crate::driver::{ConnectionId, Core};
use crate::message::Message;
use crate::pool::{Body, PoolError};
use crate::proto::control::{Address as LinkAddress, LinkRole};
use crate::proto::record::{MessageHead, MessageKind};
use crate::proto::text::Name;
use crate::proto::{CorrelationId, Lane, LinkId, MessageNumber};
use crate::rpc::error::CallError;
use crate::sync::Correlation;
use std::time::Duration;

/// How soon sending is tried again when a queue or the pool was full, of which no event tells when it is not any more.
const RETRY_AFTER: Duration = Duration::from_millis(1);

/// By which broker, on which link, and for which of a gold call's copies.
#[derive(Debug, Clone, Copy)]
struct Route {
    uplink: usize,
    connection: ConnectionId,
    target: usize,
    link: LinkId,
    way: Way,
}

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
    /// Attaches a destination's links where it has none, and sends what their credit allows.
    #[inline]
    pub(super) fn advance(&mut self, core: &mut Core, target: usize) {
        let Some((uplink, connection)) = self.uplinks.current() else { return };
        match self.targets.link(target, uplink) {
            TargetLink::None => self.attach(core, uplink, connection, target),
            TargetLink::Requested(_) => {}
            TargetLink::Attached(link) => {
                self.send_waiting(core, Route { uplink, connection, target, link, way: Way::First });
            }
        }
        if self.has_raced {
            self.advance_second(core, target);
        }
    }

    pub(super) fn advance_all(&mut self, core: &mut Core) {
        for target in self.targets.places() {
            self.advance(core, target);
        }
    }

    /// The same for the second copies of gold calls. The link is asked for with the first of them.
    fn advance_second(&mut self, core: &mut Core, target: usize) {
        let Some((uplink, connection)) = self.uplinks.second() else { return };
        if self.targets.front_second(target, &self.records).is_none() {
            return;
        }
        match self.targets.link(target, uplink) {
            TargetLink::None => self.attach(core, uplink, connection, target),
            TargetLink::Requested(_) => {}
            TargetLink::Attached(link) => {
                self.send_second(core, Route { uplink, connection, target, link, way: Way::Second });
            }
        }
    }

    fn attach(&mut self, core: &mut Core, uplink: usize, connection: ConnectionId, target: usize) {
        // A broker that goes away takes no new links; they are for the next one, if there is to be one.
        if self.uplinks.is_leaving(uplink) && self.uplinks.len() > 1 {
            return;
        }
        let none = LinkRoom { messages: 0, bytes: 0 };
        let attached = match Name::new(self.targets.name(target)) {
            Ok(name) => core.attach(connection, LinkRole::Producer, LinkAddress::Named(name), none),
            // Checked before the destination was given a place.
            Err(_) => return,
        };
        match attached {
            Ok(link) => self.targets.set_link(target, uplink, TargetLink::Requested(link)),
            // The session has ended, and its end is about to be reported.
            Err(SendError::NotOpen) => {}
            Err(error) => self.refused(core, uplink, target, &error.to_string()),
        }
    }

    fn send_waiting(&mut self, core: &mut Core, route: Route) {
        for lane in Lane::ALL {
            while let Some(correlation) = self.targets.front(route.target, lane, &self.records) {
                match self.send_front(core, route, correlation) {
                    Next::Same => self.targets.pop(route.target, lane),
                    Next::Ended => {}
                    Next::Lane => break,
                    Next::Event => return,
                }
            }
        }
    }

    fn send_second(&mut self, core: &mut Core, route: Route) {
        while let Some(correlation) = self.targets.front_second(route.target, &self.records) {
            match self.send_front(core, route, correlation) {
                Next::Same => self.targets.pop_second(route.target),
                Next::Ended => {}
                Next::Lane | Next::Event => return,
            }
        }
    }

    fn send_front(&mut self, core: &mut Core, route: Route, correlation: Correlation) -> Next {
        let (way, uplink) = (route.way, route.uplink as u8);
        let mut message = Message::new(MessageKind::Request, Body::new());
        let taken = self.records.take_request(correlation, way, uplink, core.pool(), &mut message.body);
        let course = match taken {
            Ok(Some(course)) => course,
            Ok(None) => return Next::Same,
            Err(_) => {
                self.retry_soon(core);
                return Next::Lane;
            }
        };
        let left = course.deadline.since(core.now());
        if left.is_zero() {
            self.records.put_back(correlation, way, message.body);
            self.expired(core, correlation);
            return Next::Ended;
        }
        self.address(&mut message.head, route.link, correlation, &course, left);
        match core.send(route.connection, message) {
            Ok(()) => {
                self.uplinks.put_in_flight(route.uplink);
                Next::Same
            }
            Err((error, message)) => {
                self.records.put_back(correlation, way, message.body);
                self.not_sent(core, route, correlation, &error)
            }
        }
    }

    fn not_sent(
        &mut self,
        core: &mut Core,
        route: Route,
        correlation: Correlation,
        error: &SendError,
    ) -> Next {
        match error {
            SendError::QueueFull(_)
            | SendError::Pool(PoolError::BudgetExceeded { .. } | PoolError::Map { .. }) => {
                self.retry_soon(core);
                Next::Lane
            }
            // An event follows: that there is credit again, or that the link or the session has ended.
            SendError::Link(_) | SendError::NotOpen => Next::Event,
            _ => {
                let error = CallError::Unsendable { reason: error.to_string() };
                self.leg_refused(core, route.way, correlation, error);
                Next::Ended
            }
        }
    }

    /// Not later than it was already to be.
    fn retry_soon(&mut self, core: &mut Core) {
        if !std::mem::replace(&mut self.is_retrying, true) {
            core.set_timer(RETRY_TIMER, core.now() + RETRY_AFTER);
        }
    }

    fn address(
        &self,
        head: &mut MessageHead,
        link: LinkId,
        correlation: Correlation,
        course: &Course,
        left: Duration,
    ) {
        let process = self.destination.process();
        head.lane = course.options.class.lane();
        head.link = Some(link);
        head.origin = process.origin;
        // No two calls of a process share a correlation, and all copies of one call do: just what this number is for.
        head.message_number = MessageNumber(correlation.pack());
        head.correlation_id = CorrelationId(correlation.pack());
        head.incarnation = process.incarnation;
        head.attempt = course.attempt;
        head.copies = course.options.may_repeat();
        head.reply_address = Some(self.destination.address());
        // The longest timeout is one that fits. Rounded up: what is left is more than nothing.
        head.deadline_us = u32::try_from(left.as_nanos().div_ceil(1000)).ok();
    }
}
