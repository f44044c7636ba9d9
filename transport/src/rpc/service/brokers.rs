//! The brokers that a service is attached to: each session comes up, fails, and is left, apart from the others.

use super::Request;
use super::answers::{Answers, State};
use crate::backend::ConnectError;
use crate::connection::LinkRoom;
use crate::driver::{ConnectionId, Core, DetachedByPeer, Leaving, Resumed};
use crate::pool::Body;
use crate::proto::LinkId;
use crate::proto::control::{Address as LinkAddress, CloseCode, DetachCode, LinkRole};
use crate::proto::text::Name;
use crate::rpc::error::ServiceError;
use crate::rpc::events::{Event, EventListener};
use crate::rpc::uplinks::{AddressFailure, Step, Uplinks, list};
use crate::time::Timestamp;
use std::time::Duration;

/// The timer of the uplinks.
pub(super) const BROKERS_TIMER: usize = 1;

/// The timer of the sessions that are being left.
pub(super) const LEAVING_TIMER: usize = 2;

/// A session whose link was ended is closed when no request has come for so long: a broker that takes no settlements may
/// have sent some before it heard of that, and nothing tells that there are no more. One that takes them has them still.
const QUIET: Duration = Duration::from_millis(100);

/// What a broker is told that is left.
const WHY_LEFT: &str = "the service uses other brokers";

/// What a service that connects knows of its brokers.
#[derive(Debug)]
pub(in crate::rpc) struct Brokers {
    uplinks: Uplinks,
    events: Option<EventListener>,
    /// By place: the broker said at the first attempt that it will not have the service.
    refused: Vec<Option<String>>,
    /// It was attached to one of them.
    has_served: bool,
    /// Sessions that are being left.
    leaving: Vec<Left>,
}

/// A session that is being left.
#[derive(Debug)]
struct Left {
    connection: ConnectionId,
    /// Its link, until that is ended: what was answered on it can be settled only before.
    link: Option<LinkId>,
    /// It is closed then, if nothing comes and nothing waits.
    at: Timestamp,
}

impl Brokers {
    pub(super) fn new(uplinks: Uplinks, events: Option<EventListener>) -> Self {
        let refused = vec![None; uplinks.len()];
        Self { uplinks, events, refused, has_served: false, leaving: Vec::new() }
    }

    /// What is wrong at each address.
    pub(super) fn failures(&self) -> Vec<AddressFailure> {
        self.uplinks.failures()
    }

    /// The session with the broker at this place of the list.
    #[cfg(test)]
    pub(in crate::rpc) fn session(&self, place: usize) -> Option<ConnectionId> {
        self.uplinks.connection(place)
    }

    /// Begins no session any more: the service goes.
    pub(super) fn stop(&mut self) {
        self.uplinks.stop();
    }

    fn tell(&self, event: Event<'_>) {
        EventListener::tell(&self.events, event);
    }

    /// Begins to connect.
    ///
    /// # Errors
    /// What is known at once, if there is one address only; with several, the others are tried.
    pub(super) fn start(&mut self, core: &mut Core) -> Result<(), ConnectError> {
        if self.uplinks.len() == 1 {
            let connection = core.connect(self.uplinks.address(0))?;
            self.uplinks.connecting(0, connection, core.now());
        }
        self.keep_attached(core);
        Ok(())
    }

    /// Does what is to be done about sessions.
    pub(super) fn keep_attached(&mut self, core: &mut Core) {
        while let Some(step) = self.uplinks.next_step(core.now()) {
            match step {
                Step::Connect(place) => self.connect(core, place),
                Step::Drain(place) => self.leave(core, place),
                // A service has nothing in flight that could go another way.
                Step::Resend(_) | Step::GiveUp(_) => {}
            }
        }
        core.set_timer(BROKERS_TIMER, self.uplinks.due());
    }

    fn connect(&mut self, core: &mut Core, place: usize) {
        match core.connect(self.uplinks.address(place)) {
            Ok(connection) => self.uplinks.connecting(place, connection, core.now()),
            Err(error) => {
                let reason = error.to_string();
                self.uplinks.ended(place, &reason, core.now());
                self.tell(Event::Unreachable { address: self.uplinks.address(place), reason: &reason });
            }
        }
    }

    /// Grants a broker no more requests. [`Answers::close_left`] ends the link when all that was given is answered, and
    /// closes the session a while later.
    fn leave(&mut self, core: &mut Core, place: usize) {
        let Some(connection) = self.uplinks.connection(place) else { return };
        let link = self.uplinks.link(place);
        if let Some(link) = link {
            // Fails only if the link has gone meanwhile.
            let _ = core.set_link_room(connection, link, LinkRoom { messages: 0, bytes: 0 });
        }
        self.uplinks.closing(place, None, core.now());
        self.close_when_quiet(core, connection, link);
        self.tell(Event::Left { address: self.uplinks.address(place) });
    }

    fn close_when_quiet(&mut self, core: &mut Core, connection: ConnectionId, link: Option<LinkId>) {
        let at = core.now() + QUIET;
        self.leaving.push(Left { connection, link, at });
    }

    /// Whether a session is being left.
    #[inline]
    pub(in crate::rpc) fn is_leaving(&self, connection: ConnectionId) -> bool {
        self.leaving.iter().any(|left| left.connection == connection)
    }

    /// A request came. From a broker that is being left, more may come.
    #[inline]
    pub(super) fn note_request(&mut self, now: Timestamp, connection: ConnectionId) {
        for left in self.leaving.iter_mut().filter(|left| left.connection == connection) {
            left.at = now + QUIET;
        }
    }

    /// Asks for the link on which requests come.
    pub(super) fn attach(
        &mut self,
        core: &mut Core,
        connection: ConnectionId,
        role: LinkRole,
        name: Name<'_>,
        room: LinkRoom,
    ) {
        let Some(place) = self.uplinks.of(connection) else { return };
        self.tell(Event::Connected { address: self.uplinks.address(place) });
        match core.attach(connection, role, LinkAddress::Named(name), room) {
            Ok(link) => self.uplinks.attaching(place, link),
            Err(error) => self.give_up(core, place, connection, &error.to_string()),
        }
    }

    /// The link is there; false if it is not the one that was asked for.
    pub(super) fn attached(
        &mut self,
        core: &mut Core,
        connection: ConnectionId,
        link: LinkId,
        destination: &str,
    ) -> bool {
        let Some(place) = self.uplinks.of(connection) else { return false };
        if !self.uplinks.is_its_link(place, link) || self.uplinks.is_open(place) {
            return false;
        }
        self.uplinks.attached(place, core.now());
        self.has_served = true;
        self.tell(Event::Attached { address: self.uplinks.address(place), destination: Some(destination) });
        self.keep_attached(core);
        true
    }

    /// The link was refused, or has ended. Says why the service cannot go on, if it cannot.
    pub(super) fn detached(
        &mut self,
        core: &mut Core,
        connection: ConnectionId,
        detached: &DetachedByPeer,
        destination: &str,
    ) -> Option<String> {
        let place = self.uplinks.of(connection)?;
        if !self.uplinks.is_its_link(place, detached.link) {
            return None;
        }
        let address = self.uplinks.address(place);
        self.tell(Event::Detached { address, destination: Some(destination), reason: &detached.text });
        let text = format!("the broker detached it ({:?}): {}", detached.code, detached.text);
        tracing::warn!(%address, destination, "a service is not attached; it tries again: {text}");
        self.refused[place] = (!self.has_served && will_not_go_away(detached.code)).then(|| text.clone());
        if self.uplinks.is_open(place) {
            // What it was given is answered first.
            self.uplinks.closing(place, Some(&text), core.now());
            self.close_when_quiet(core, connection, None);
        } else {
            self.give_up(core, place, connection, &text);
        }
        self.keep_attached(core);
        self.end_if_refused(core)
    }

    /// Refused by all, it will not be accepted by trying again.
    fn end_if_refused(&mut self, core: &mut Core) -> Option<String> {
        if self.refused.iter().any(Option::is_none) {
            return None;
        }
        self.uplinks.stop();
        core.set_timer(BROKERS_TIMER, Timestamp::NEVER);
        match &self.refused[..] {
            [Some(only)] => Some(only.clone()),
            _ => Some(list(&self.uplinks.failures())),
        }
    }

    fn give_up(&mut self, core: &mut Core, place: usize, connection: ConnectionId, reason: &str) {
        core.close(connection, CloseCode::Normal, reason);
        self.uplinks.closing(place, Some(reason), core.now());
    }

    pub(super) fn closed(&mut self, core: &mut Core, connection: ConnectionId, reason: &str) {
        self.leaving.retain(|left| left.connection != connection);
        let Some(place) = self.uplinks.of(connection) else { return };
        let (was_open, was_closing) = (self.uplinks.is_open(place), self.uplinks.is_closing(place));
        self.uplinks.ended(place, reason, core.now());
        let address = self.uplinks.address(place);
        if was_open {
            tracing::warn!(%address, "a service has lost a broker; it tries again: {reason}");
            self.tell(Event::Lost { address, reason });
        } else if !was_closing {
            self.tell(Event::Unreachable { address, reason });
        }
        self.keep_attached(core);
    }

    pub(super) fn interrupted(&mut self, core: &mut Core, connection: ConnectionId, reason: &str) {
        let Some(place) = self.uplinks.of(connection) else { return };
        self.uplinks.interrupted(place, core.now(), reason);
        self.tell(Event::Interrupted { address: self.uplinks.address(place), reason });
        self.keep_attached(core);
    }

    pub(super) fn resumed(&mut self, core: &mut Core, connection: ConnectionId, resumed: &Resumed) {
        let Some(place) = self.uplinks.of(connection) else { return };
        self.uplinks.resumed(place);
        self.tell(Event::of_resumed(self.uplinks.address(place), resumed));
        self.keep_attached(core);
    }

    pub(super) fn asked_to_leave(&mut self, core: &mut Core, connection: ConnectionId, leaving: &Leaving) {
        let Some(place) = self.uplinks.of(connection) else { return };
        self.uplinks.leaving(place);
        let Leaving { within, text } = leaving;
        self.tell(Event::Leaving { address: self.uplinks.address(place), within: *within, text });
        self.keep_attached(core);
    }
}

impl<F> Answers<F>
where
    F: FnMut(&mut Request<'_>) -> Result<Body, ServiceError>,
{
    /// Does something about sessions with brokers, and then what is to be done about those that are being left.
    pub(super) fn with_brokers(&mut self, core: &mut Core, act: impl FnOnce(&mut Brokers, &mut Core)) {
        if let Some(brokers) = &mut self.brokers {
            act(brokers, core);
            self.close_left(core);
        }
    }

    /// Of the sessions that are being left, ends the links on which nothing waits to be answered, and closes those that
    /// nothing has come on for a while and whose peer has acknowledged all that it was sent. One that is interrupted
    /// stays until then, or until it expires: closed without a connection, it would take along what it keeps.
    pub(super) fn close_left(&mut self, core: &mut Core) {
        let now = core.now();
        let mut next = Timestamp::NEVER;
        let Some(brokers) = &mut self.brokers else { return };
        let mut leaving = std::mem::take(&mut brokers.leaving);
        leaving.retain_mut(|Left { connection, link, at }| {
            let has_waiting = self.has_waiting(*connection);
            if let Some(link) = link.take_if(|_| !has_waiting) {
                core.detach_link(*connection, link, DetachCode::Normal, WHY_LEFT);
            }
            if *at <= now {
                if !has_waiting && core.waiting(*connection).0 == 0 && core.unacknowledged(*connection) == 0 {
                    core.close(*connection, CloseCode::Normal, WHY_LEFT);
                    return false;
                }
                // Of acknowledgements no event tells.
                *at = now + QUIET / 10;
            }
            next = next.min(*at);
            true
        });
        if let Some(brokers) = &mut self.brokers {
            brokers.leaving = leaving;
        }
        core.set_timer(LEAVING_TIMER, next);
    }

    /// Takes the service for ended if no broker will ever have it.
    pub(super) fn detached_by_broker(
        &mut self,
        core: &mut Core,
        connection: ConnectionId,
        detached: &DetachedByPeer,
    ) {
        let destination = &self.destination;
        let ended = self.brokers.as_mut().and_then(|it| it.detached(core, connection, detached, destination));
        self.close_left(core);
        if let Some(reason) = ended {
            self.state = State::Ended(reason);
        }
    }
}

/// Whether trying again cannot help, as far as the broker can tell.
fn will_not_go_away(code: DetachCode) -> bool {
    matches!(code, DetachCode::NoSuchDestination | DetachCode::NotAllowed | DetachCode::LinkViolation)
}
