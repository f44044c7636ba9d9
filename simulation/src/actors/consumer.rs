//! A process that takes one-way messages from a queue.

use super::uplink::{RECONNECT_TIMER, after};
use super::{Application, Birth, HandlerActor, Uplink};
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
}

impl Consumer {
    pub(crate) fn start(birth: Birth, broker: ActorId, queue: String) -> HandlerActor<Self> {
        let identity = Identity { process: birth.process(), name: "consumer".to_owned() };
        let (simulated, mut rest) = birth.split();
        let uplink = Uplink::new(rest.me, broker, rest.oracle, rest.random.fork());
        let room = LinkRoom {
            messages: rest.random.within(1..100),
            bytes: *rest.random.one_of(&[1_000, 20_000, 1 << 20]),
        };
        let (random, link, reception, holds_back) = (rest.random, None, 0, false);
        let consumer = Self { uplink, queue, random, room, link, reception, holds_back };
        let mut actor = HandlerActor::new(simulated, identity, rest.config, consumer);
        let (core, consumer) = actor.driver.parts();
        consumer.uplink.connect(core);
        actor
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
        self.reception = self.uplink.oracle.ledger().reception(self.uplink.me, self.uplink.broker);
        let Ok(name) = Name::new(&self.queue) else { return };
        match core.attach(connection, LinkRole::Consumer, LinkAddress::Named(name), self.room) {
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
        self.uplink.closed(core, reason);
    }

    fn interrupted(&mut self, _: &mut Core, _: ConnectionId, _: &CloseReason) {
        self.uplink.interrupted();
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
            _ => self.grant(core),
        }
    }
}

impl Application for Consumer {
    fn stop(&mut self) {
        self.uplink.stop();
    }
}
