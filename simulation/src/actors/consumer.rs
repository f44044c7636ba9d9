//! A process that takes one-way messages from a queue.

use super::uplink::{RECONNECT_TIMER, after};
use super::{Application, Birth, HandlerActor, Unsettled, Uplink};
use crate::network::{MICROSECOND, MILLISECOND};
use crate::oracle::ActorId;
use crate::random::Random;
use underlay::connection::{AttachRequest, CloseReason, Identity, LinkRoom};
use underlay::driver::{ConnectionId, Core, DetachedByPeer, Handler, Leaving, Resumed};
use underlay::message::Message;
use underlay::proto::LinkId;
use underlay::proto::control::{Address as LinkAddress, DetachCode, LinkRole};
use underlay::proto::handshake::Negotiated;
use underlay::proto::text::Name;

/// The timer by which it grants again what it has held back.
const GRANT_TIMER: usize = RECONNECT_TIMER + 1;

/// The timer by which it settles.
const SETTLE_TIMER: usize = RECONNECT_TIMER + 2;

/// Takes messages, and tells the oracle of each.
#[derive(Debug)]
pub(crate) struct Consumer {
    uplink: Uplink,
    queue: String,
    random: Random,
    room: LinkRoom,
    link: Option<LinkId>,
    /// The number of the present session at the oracle.
    reception: usize,
    /// It has taken messages and not granted their room again.
    holds_back: bool,
    /// What it has taken and not settled; none if it settles nothing.
    unsettled: Option<Unsettled>,
}

impl Consumer {
    pub(crate) fn start(birth: Birth, broker: ActorId, queue: String, settles: bool) -> HandlerActor<Self> {
        let identity = Identity { process: birth.process(), name: "consumer".to_owned() };
        let (simulated, mut rest) = birth.split();
        let uplink = Uplink::new(rest.me, broker, rest.oracle, rest.random.fork());
        let room = LinkRoom {
            messages: rest.random.within(1..100),
            bytes: *rest.random.one_of(&[1_000, 20_000, 1 << 20]),
        };
        let (random, link, reception, holds_back) = (rest.random, None, 0, false);
        let unsettled = settles.then(Unsettled::default);
        let consumer = Self { uplink, queue, random, room, link, reception, holds_back, unsettled };
        let mut actor = HandlerActor::new(simulated, identity, rest.config, consumer);
        let (core, consumer) = actor.driver.parts();
        consumer.uplink.connect(core);
        actor
    }

    /// Settles some of what it has, and the rest later.
    fn settle(&mut self, core: &mut Core) {
        let (Some(unsettled), Some(connection)) = (&mut self.unsettled, self.uplink.session()) else {
            return;
        };
        if !unsettled.is_empty() {
            let mut ledger = self.uplink.oracle.ledger();
            unsettled.settle_some(core, connection, &mut self.random, (self.reception, &mut ledger));
        }
        if !unsettled.is_empty() {
            self.settle_later(core);
        }
    }

    fn settle_later(&mut self, core: &mut Core) {
        let longest = if self.random.once_in(16) { 100 * MILLISECOND } else { MILLISECOND };
        let wait = self.random.within(0..longest);
        core.set_timer(SETTLE_TIMER, after(core, wait));
    }

    fn grant(&mut self, core: &mut Core) {
        self.holds_back = false;
        if let (Some(connection), Some(link)) = (self.uplink.session(), self.link) {
            // It fails only if the link has gone meanwhile.
            let _ = core.set_link_room(connection, link, self.room);
        }
    }
}

impl Handler for Consumer {
    fn opened(&mut self, core: &mut Core, connection: ConnectionId, _: &Negotiated) {
        self.uplink.opened();
        self.reception = self.uplink.oracle.ledger().reception(
            self.uplink.me,
            self.uplink.broker,
            self.unsettled.is_some(),
        );
        let Ok(name) = Name::new(&self.queue) else { return };
        let role = match self.unsettled {
            Some(_) => LinkRole::SettlingConsumer,
            None => LinkRole::Consumer,
        };
        match core.attach(connection, role, LinkAddress::Named(name), self.room) {
            Ok(link) => self.link = Some(link),
            Err(error) => {
                self.uplink.oracle.ledger().fail(format!("a consumer's link was refused here: {error}"));
            }
        }
    }

    fn attach_requested(&mut self, core: &mut Core, connection: ConnectionId, request: AttachRequest) {
        let _ = core.refuse_link(connection, request.link, DetachCode::NotAllowed, "a consumer has none");
    }

    fn attached(&mut self, _: &mut Core, _: ConnectionId, _: LinkId) {}

    fn detached(&mut self, core: &mut Core, _: ConnectionId, detached: DetachedByPeer) {
        self.link = None;
        self.uplink.give_up(core, &detached.text);
    }

    fn message(&mut self, core: &mut Core, _: ConnectionId, message: Message) {
        self.uplink.oracle.ledger().received(self.reception, &message.body, message.head.redelivered);
        if let Some(unsettled) = &mut self.unsettled {
            let was_empty = unsettled.is_empty();
            unsettled.add(&message);
            if was_empty {
                self.settle_later(core);
            }
        }
        if self.holds_back {
            return;
        }
        if self.random.once_in(16) {
            self.holds_back = true;
            let wait = self.random.within(10 * MICROSECOND..20 * MILLISECOND);
            return core.set_timer(GRANT_TIMER, after(core, wait));
        }
        self.grant(core);
    }

    fn writable(&mut self, _: &mut Core, _: ConnectionId, _: LinkId) {}

    fn closed(&mut self, core: &mut Core, _: ConnectionId, reason: &CloseReason) {
        self.link = None;
        self.holds_back = false;
        if let Some(unsettled) = &mut self.unsettled
            && self.uplink.session().is_some()
        {
            unsettled.clear();
            self.uplink.oracle.ledger().reception_ended(self.reception);
        }
        self.uplink.closed(core, reason);
    }

    fn interrupted(&mut self, _: &mut Core, _: ConnectionId, reason: &CloseReason) {
        self.uplink.interrupted(reason);
    }

    fn resumed(&mut self, _: &mut Core, _: ConnectionId, resumed: &Resumed) {
        self.uplink.resumed(resumed);
    }

    fn leaving(&mut self, _: &mut Core, _: ConnectionId, _: &Leaving) {
        self.uplink.leaving();
    }

    fn timer(&mut self, core: &mut Core, key: usize) {
        match key {
            RECONNECT_TIMER => self.uplink.connect(core),
            GRANT_TIMER => self.grant(core),
            _ => self.settle(core),
        }
    }
}

impl Application for Consumer {
    fn stop(&mut self) {
        self.uplink.stop();
    }

    fn session(&self) -> Option<ConnectionId> {
        self.uplink.session()
    }
}
