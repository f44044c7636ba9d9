//! Sessions with brokers: coming up, failing, taking over from each other.

use super::records::{Leg, Way};
use super::{Calls, TargetLink, UPLINK_TIMER};
use crate::backend::ConnectError;
use crate::driver::{ConnectionId, Core, Leaving, Resumed};
use crate::proto::LinkId;
use crate::proto::control::{Address as LinkAddress, CloseCode, LinkRole};
use crate::rpc::error::CallError;
use crate::rpc::events::Event;
use crate::rpc::uplinks::{ADDRESSES_MAX, AddressFailure, Step};
use std::time::Duration;

/// How soon a session that is not needed is looked at again while its peer has not acknowledged everything, of which no
/// event tells.
const LEAVE_AGAIN_AFTER: Duration = Duration::from_millis(10);

impl Calls {
    /// Begins to connect.
    ///
    /// # Errors
    /// What is known at once, if there is one address only; with several, the others are tried.
    pub(in crate::rpc) fn start(&mut self, core: &mut Core) -> Result<(), ConnectError> {
        if self.uplinks.len() == 1 {
            let connection = core.connect(self.uplinks.address(0))?;
            self.uplinks.connecting(0, connection, core.now());
        }
        self.keep_connected(core);
        Ok(())
    }

    /// Begins no session any more: the client goes.
    pub(in crate::rpc) fn stop(&mut self) {
        self.uplinks.stop();
    }

    /// Whether calls can be sent.
    pub(in crate::rpc) fn is_connected(&self) -> bool {
        self.uplinks.current().is_some()
    }

    /// What is wrong at each address.
    pub(in crate::rpc) fn failures(&self) -> Vec<AddressFailure> {
        self.uplinks.failures()
    }

    /// Does what is to be done about sessions, and has calls follow.
    pub(super) fn keep_connected(&mut self, core: &mut Core) {
        while let Some(step) = self.uplinks.next_step(core.now()) {
            self.follow();
            match step {
                Step::Connect(uplink) => self.connect(core, uplink),
                // Below, or the last call in flight on it sees to that.
                Step::Drain(_) => {}
                Step::Resend(uplink) => self.resend(core, uplink),
                Step::GiveUp(uplink) => {
                    let address = self.uplinks.address(uplink);
                    let reason = format!("the session with {address} was interrupted (failover_after)");
                    self.lose_sent(core, uplink, &reason);
                }
            }
        }
        self.leave_drained(core);
        self.follow();
        if self.has_raced && self.uplinks.second().is_none() {
            self.race_alone();
        }
        self.advance_all(core);
    }

    fn connect(&mut self, core: &mut Core, uplink: usize) {
        match core.connect(self.uplinks.address(uplink)) {
            Ok(connection) => self.uplinks.connecting(uplink, connection, core.now()),
            Err(error) => {
                let reason = error.to_string();
                self.uplinks.ended(uplink, &reason, core.now());
                self.tell(Event::Unreachable { address: self.uplinks.address(uplink), reason: &reason });
            }
        }
    }

    /// Notes by which broker calls go now.
    fn follow(&mut self) {
        let Some((now, _)) = self.uplinks.current() else { return };
        let Some(before) = self.went_by.replace(now).filter(|&before| before != now) else { return };
        let (address, from) = (self.uplinks.address(now), self.uplinks.address(before));
        if now < before {
            self.tell(Event::Returned { address, from });
        } else {
            self.tell(Event::FailedOver { address, from });
        }
        self.stats.failovers += 1;
    }

    /// Closes the sessions that are not needed, on which nothing is in flight, and whose peer has acknowledged all that
    /// it was sent; looks again soon if one has not.
    pub(super) fn leave_drained(&mut self, core: &mut Core) {
        let mut due = self.uplinks.due();
        let drained: arrayvec::ArrayVec<usize, ADDRESSES_MAX> = self.uplinks.drained().collect();
        for uplink in drained {
            let is_acknowledged =
                |connection| core.waiting(connection).0 == 0 && core.unacknowledged(connection) == 0;
            if self.uplinks.connection(uplink).is_none_or(is_acknowledged) {
                self.leave(core, uplink);
            } else {
                due = due.min(core.now() + LEAVE_AGAIN_AFTER);
            }
        }
        core.set_timer(UPLINK_TIMER, due);
    }

    fn leave(&mut self, core: &mut Core, uplink: usize) {
        let Some(connection) = self.uplinks.connection(uplink) else { return };
        self.uplinks.closing(uplink, None, core.now());
        self.targets.forget_links(uplink);
        core.close(connection, CloseCode::Normal, "the client uses another broker");
        self.tell(Event::Left { address: self.uplinks.address(uplink) });
    }

    /// There is one broker at most, so no second copy has a way of its own. One whose first copy is with another broker,
    /// or refused or lost, goes by this one; one whose first copy goes there too is not wanted.
    fn race_alone(&mut self) {
        let current = self.uplinks.current().map(|(uplink, _)| uplink);
        for target in self.targets.places() {
            for correlation in self.targets.waiting_calls(target, Way::Second, &self.records) {
                let Some(course) = self.records.get_mut(correlation) else { continue };
                let is_elsewhere = match (course.first, current) {
                    // Until there is a broker again.
                    (Leg::Sent(_), None) => continue,
                    (Leg::Sent(by), Some(current)) => usize::from(by) != current,
                    (Leg::None, _) => true,
                    (Leg::Waiting, _) => false,
                };
                let lane = course.options.class.lane();
                course.second = Leg::None;
                if is_elsewhere {
                    course.second = std::mem::replace(&mut course.first, Leg::Waiting);
                    self.targets.push(target, lane, correlation);
                }
                self.targets.note_ended(target, &self.records);
            }
        }
    }
}

/// Events of sessions.
impl Calls {
    /// The handshake is done: the peer is asked to deliver replies.
    pub(super) fn attach_replies(&mut self, core: &mut Core, connection: ConnectionId) {
        let Some(uplink) = self.uplinks.of(connection) else { return };
        self.tell(Event::Connected { address: self.uplinks.address(uplink) });
        let address = LinkAddress::Reply(self.destination.secret().clone());
        match core.attach(connection, LinkRole::Consumer, address, self.reply_room()) {
            Ok(link) => self.uplinks.attaching(uplink, link),
            Err(error) => self.lose_replies(core, uplink, &error.to_string()),
        }
    }

    pub(super) fn replies_attached(&mut self, core: &mut Core, uplink: usize, link: LinkId) {
        if !self.uplinks.is_its_link(uplink, link) || self.uplinks.is_open(uplink) {
            return;
        }
        self.uplinks.attached(uplink, core.now());
        self.tell(Event::Attached { address: self.uplinks.address(uplink), destination: None });
        self.keep_connected(core);
    }

    /// Without its reply destination a session is good for nothing.
    pub(super) fn lose_replies(&mut self, core: &mut Core, uplink: usize, why: &str) {
        let reason = format!("the peer does not deliver replies: {why}");
        if let Some(connection) = self.uplinks.connection(uplink) {
            core.close(connection, CloseCode::Normal, &reason);
        }
        let was_open = self.uplinks.is_open(uplink);
        self.uplinks.closing(uplink, Some(&reason), core.now());
        let (address, reason) = (self.uplinks.address(uplink), &reason[..]);
        self.tell(if was_open {
            Event::Lost { address, reason }
        } else {
            Event::Unreachable { address, reason }
        });
        self.session_lost(core, uplink, reason);
    }

    pub(super) fn ended(&mut self, core: &mut Core, connection: ConnectionId, reason: &str) {
        let Some(uplink) = self.uplinks.of(connection) else { return };
        let (was_open, was_closing) = (self.uplinks.is_open(uplink), self.uplinks.is_closing(uplink));
        self.uplinks.ended(uplink, reason, core.now());
        let address = self.uplinks.address(uplink);
        if was_open {
            self.tell(Event::Lost { address, reason });
        } else if !was_closing {
            self.tell(Event::Unreachable { address, reason });
        }
        self.session_lost(core, uplink, reason);
    }

    fn session_lost(&mut self, core: &mut Core, uplink: usize, reason: &str) {
        self.targets.forget_links(uplink);
        self.lose_sent(core, uplink, reason);
        self.keep_connected(core);
    }

    pub(super) fn session_interrupted(&mut self, core: &mut Core, connection: ConnectionId, reason: &str) {
        let Some(uplink) = self.uplinks.of(connection) else { return };
        self.uplinks.interrupted(uplink, core.now(), reason);
        self.tell(Event::Interrupted { address: self.uplinks.address(uplink), reason });
        self.keep_connected(core);
    }

    pub(super) fn session_resumed(&mut self, core: &mut Core, connection: ConnectionId, resumed: &Resumed) {
        let Some(uplink) = self.uplinks.of(connection) else { return };
        self.uplinks.resumed(uplink);
        self.tell(Event::of_resumed(self.uplinks.address(uplink), resumed));
        self.keep_connected(core);
    }

    pub(super) fn asked_to_leave(&mut self, core: &mut Core, connection: ConnectionId, leaving: &Leaving) {
        let Some(uplink) = self.uplinks.of(connection) else { return };
        self.uplinks.leaving(uplink);
        let Leaving { within, text } = leaving;
        self.tell(Event::Leaving { address: self.uplinks.address(uplink), within: *within, text });
        self.keep_connected(core);
    }

    /// A broker that shuts down ends its links: what waits for one goes elsewhere.
    pub(super) fn sent_away(&mut self, core: &mut Core, uplink: usize, target: usize) {
        self.targets.set_link(target, uplink, TargetLink::None);
        self.uplinks.leaving(uplink);
        self.keep_connected(core);
    }

    /// A destination, or this end, refused the link: so ends what waited for it, and the next call asks again.
    pub(super) fn refused(&mut self, core: &mut Core, uplink: usize, target: usize, text: &str) {
        self.targets.set_link(target, uplink, TargetLink::None);
        let is = |chosen: Option<(usize, ConnectionId)>| chosen.is_some_and(|(chosen, _)| chosen == uplink);
        let way = match () {
            () if is(self.uplinks.current()) => Way::First,
            () if is(self.uplinks.second()) => Way::Second,
            () => return self.targets.forget_if_unused(target),
        };
        let destination = self.targets.name(target).to_owned();
        for correlation in self.targets.waiting_calls(target, way, &self.records) {
            let error = CallError::Refused { destination: destination.clone(), text: text.to_owned() };
            self.leg_refused(core, way, correlation, error);
        }
        self.targets.forget_if_unused(target);
    }
}
