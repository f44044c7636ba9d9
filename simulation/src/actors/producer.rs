//! A process that sends one-way messages to a queue.

use super::uplink::{RECONNECT_TIMER, after};
use super::{Application, Birth, HandlerActor, Uplink};
use crate::coverage::Transition;
use crate::network::MILLISECOND;
use crate::oracle::{ActorId, BODY_BYTES_MIN, write_body};
use crate::random::Random;
use std::cell::Cell;
use std::rc::Rc;
use underlay::connection::{AttachRequest, CloseReason, Identity, LinkError, LinkRoom, SendError};
use underlay::driver::{ConnectionId, Core, DetachedByPeer, Handler, Leaving, Resumed};
use underlay::message::Message;
use underlay::proto::control::{Address as LinkAddress, DetachCode, LinkRole};
use underlay::proto::handshake::Negotiated;
use underlay::proto::record::MessageKind;
use underlay::proto::text::Name;
use underlay::proto::{Lane, LinkId};

/// What a producer is to send.
#[derive(Debug, Clone)]
pub(crate) struct ProducerPlan {
    pub(crate) broker: ActorId,
    pub(crate) queue: String,
    /// Messages that are left; all lives of the process share it.
    pub(crate) left: Rc<Cell<u32>>,
    /// Nanoseconds from one burst to the next.
    pub(crate) interval: u64,
    /// Messages of a burst, at most.
    pub(crate) burst_max: u64,
}

/// The timer by which it produces.
const PRODUCE_TIMER: usize = RECONNECT_TIMER + 1;

/// Sends messages, and tells the oracle of each.
#[derive(Debug)]
pub(crate) struct Producer {
    uplink: Uplink,
    plan: ProducerPlan,
    random: Random,
    link: Option<LinkId>,
    /// The number of the present session at the oracle.
    sender: usize,
    /// Messages that should be sent by now and could not be.
    owed: u64,
    body: Vec<u8>,
}

impl Producer {
    pub(crate) fn start(birth: Birth, plan: ProducerPlan) -> HandlerActor<Self> {
        let identity = Identity { process: birth.process(), name: "producer".to_owned() };
        let (simulated, mut rest) = birth.split();
        let uplink = Uplink::new(rest.me, plan.broker, rest.oracle, rest.random.fork());
        let producer =
            Self { uplink, plan, random: rest.random, link: None, sender: 0, owed: 0, body: Vec::new() };
        let mut actor = HandlerActor::new(simulated, identity, rest.config, producer);
        let (core, producer) = actor.driver.parts();
        producer.uplink.connect(core);
        core.set_timer(PRODUCE_TIMER, after(core, producer.plan.interval));
        actor
    }

    /// Sends what is owed, as far as it is taken.
    fn produce(&mut self, core: &mut Core) {
        let (Some(connection), Some(link)) = (self.uplink.session(), self.link) else { return };
        while self.owed > 0 && self.plan.left.get() > 0 {
            if !self.send_one(core, connection, link) {
                return;
            }
            self.owed -= 1;
            self.plan.left.set(self.plan.left.get() - 1);
        }
    }

    fn send_one(&mut self, core: &mut Core, connection: ConnectionId, link: LinkId) -> bool {
        let mut ledger = self.uplink.oracle.ledger();
        let (lane, bytes) = (any_lane(&mut self.random), any_length(&mut self.random));
        write_body(ledger.next_message(), bytes, &mut self.body);
        let Ok(body) = core.pool().copy_body(&self.body) else {
            core.set_timer(PRODUCE_TIMER, after(core, MILLISECOND));
            return false;
        };
        let mut message = Message::new(MessageKind::Message, body);
        message.head.link = Some(link);
        message.head.lane = lane;
        message.head.origin = core.identity().process.origin;
        message.head.message_number = core.next_message_number();
        match core.send(connection, message) {
            Ok(()) => {
                ledger.sent(self.sender, lane, bytes);
                return true;
            }
            // Its event tells when it may go on.
            Err((SendError::Link(LinkError::NoCredit(_)), _)) => {
                ledger.transition(self.uplink.me, Transition::OutOfCredit);
            }
            Err((SendError::QueueFull(_) | SendError::Pool(_), _)) => {
                ledger.transition(self.uplink.me, Transition::PushedBack);
                core.set_timer(PRODUCE_TIMER, after(core, MILLISECOND));
            }
            // The end of the session, or of the link, is about to be told.
            Err((SendError::NotOpen | SendError::Link(_), _)) => {}
            Err((error, _)) => ledger.fail(format!("a message was refused: {error}")),
        }
        false
    }
}

impl Handler for Producer {
    fn opened(&mut self, core: &mut Core, connection: ConnectionId, _: &Negotiated) {
        self.uplink.opened();
        self.sender = self.uplink.oracle.ledger().sender(self.uplink.me, self.uplink.broker);
        let Ok(name) = Name::new(&self.plan.queue) else { return };
        let none = LinkRoom { messages: 0, bytes: 0 };
        if let Err(error) = core.attach(connection, LinkRole::Producer, LinkAddress::Named(name), none) {
            self.uplink.oracle.ledger().fail(format!("a producer's link was refused here: {error}"));
        }
    }

    fn attach_requested(&mut self, core: &mut Core, connection: ConnectionId, request: AttachRequest) {
        let _ = core.refuse_link(connection, request.link, DetachCode::NotAllowed, "a producer has none");
    }

    fn attached(&mut self, core: &mut Core, _: ConnectionId, link: LinkId) {
        self.link = Some(link);
        self.produce(core);
    }

    fn detached(&mut self, core: &mut Core, _: ConnectionId, detached: DetachedByPeer) {
        self.link = None;
        self.uplink.give_up(core, &detached.text);
    }

    fn message(&mut self, _: &mut Core, _: ConnectionId, _: Message) {
        self.uplink.oracle.ledger().fail("a producer was given a message");
    }

    fn writable(&mut self, core: &mut Core, _: ConnectionId, _: LinkId) {
        self.produce(core);
    }

    fn closed(&mut self, core: &mut Core, _: ConnectionId, reason: &CloseReason) {
        self.link = None;
        self.uplink.closed(core, reason);
    }

    fn interrupted(&mut self, _: &mut Core, _: ConnectionId, reason: &CloseReason) {
        self.uplink.interrupted(reason);
    }

    fn resumed(&mut self, core: &mut Core, _: ConnectionId, resumed: &Resumed) {
        self.uplink.resumed(resumed);
        self.produce(core);
    }

    fn leaving(&mut self, _: &mut Core, _: ConnectionId, _: &Leaving) {
        self.uplink.leaving();
    }

    fn timer(&mut self, core: &mut Core, key: usize) {
        if key == RECONNECT_TIMER {
            return self.uplink.connect(core);
        }
        if self.uplink.is_stopped() || self.plan.left.get() == 0 {
            return;
        }
        // Whoever was cut off does not make up for all of it at once.
        self.owed = (self.owed + self.random.within(1..self.plan.burst_max + 1)).min(64);
        self.produce(core);
        let next = self.random.within(self.plan.interval / 2..self.plan.interval * 3 / 2);
        core.set_timer(PRODUCE_TIMER, after(core, next));
    }
}

impl Application for Producer {
    fn stop(&mut self) {
        self.uplink.stop();
    }

    fn session(&self) -> Option<ConnectionId> {
        self.uplink.session()
    }
}

pub(super) fn any_lane(random: &mut Random) -> Lane {
    *random.one_of(&[Lane::Urgent, Lane::Normal, Lane::Normal, Lane::Bulk])
}

/// Mostly short, now and then longer than a packet, rarely longer than a frame.
pub(super) fn any_length(random: &mut Random) -> usize {
    let longest = match random.within(0..64) {
        0 => 40_000,
        1..6 => 5_000,
        _ => 200,
    };
    random.within(BODY_BYTES_MIN as u64..longest) as usize
}
