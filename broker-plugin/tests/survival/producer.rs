//! A producer of messages that nobody answers: what it knows is what its broker's process holds.

use crate::body;
use crate::part::{Log, Part, QUEUE, goes_on_as_told};
use crate::support::{identity, room};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use underlay::connection::{AttachRequest, CloseReason};
use underlay::driver::{ConnectionId, Core, DetachedByPeer, Driver, Handler, Resumed};
use underlay::message::Message;
use underlay::proto::LinkId;
use underlay::proto::control::{Address as LinkAddress, LinkRole};
use underlay::proto::handshake::Negotiated;
use underlay::proto::record::MessageKind;
use underlay::proto::text::Name;

/// Sends as many messages as it is told to, and says when its broker holds them.
pub(crate) fn produce(part: &Part) {
    let log = Log::open(part);
    let allowed = goes_on_as_told();
    let producer = Producer { part: part.clone(), log: log.clone(), allowed, sent: 0, held: 0, link: None };
    // Brokers in the other tests have 0.
    let identity = identity(100 + part.number as u8);
    let mut driver = Driver::new(part.driver_config(), identity, producer).unwrap();
    driver.parts().0.connect_by(&part.addresses()).unwrap();
    loop {
        // Being told to go on does not wake the driver.
        driver
            .run_until(Some(Duration::from_millis(20)), |core, producer| {
                producer.go_on(core);
                false
            })
            .unwrap();
    }
}

struct Producer {
    part: Part,
    log: Log,
    allowed: Arc<AtomicU32>,
    sent: u32,
    /// What was said to be held.
    held: u32,
    link: Option<(ConnectionId, LinkId)>,
}

impl Producer {
    /// Sends what it may; says so when all of it is held by the broker.
    fn go_on(&mut self, core: &mut Core) {
        let Some((connection, link)) = self.link else { return };
        while self.sent < self.allowed.load(Ordering::Acquire) && core.is_writable(connection, link) {
            let request = (self.part.number, self.sent + 1);
            let body = core.pool().copy_body(&body::of_request(request)).unwrap();
            let mut message = Message::new(MessageKind::Message, body);
            message.head.link = Some(link);
            message.head.origin = core.identity().process.origin;
            message.head.message_number = core.next_message_number();
            if core.send(connection, message).is_err() {
                break;
            }
            self.sent += 1;
        }
        let is_held = core.waiting(connection).0 == 0 && core.unacknowledged(connection) == 0;
        if is_held && self.held < self.sent {
            self.held = self.sent;
            self.log.line(format_args!("held {}", self.held));
        }
    }
}

impl Handler for Producer {
    fn opened(&mut self, core: &mut Core, connection: ConnectionId, _: &Negotiated) {
        let queue = LinkAddress::Named(Name::new(QUEUE).unwrap());
        core.attach(connection, LinkRole::Producer, queue, room(0)).unwrap();
    }

    fn attach_requested(&mut self, _: &mut Core, _: ConnectionId, request: AttachRequest) {
        panic!("a broker asks for no links, but for {request:?}");
    }

    fn attached(&mut self, _: &mut Core, connection: ConnectionId, link: LinkId) {
        self.link = Some((connection, link));
        self.log.line("ready");
    }

    fn detached(&mut self, _: &mut Core, _: ConnectionId, detached: DetachedByPeer) {
        panic!("the link of the producer has ended: {detached:?}");
    }

    fn message(&mut self, _: &mut Core, _: ConnectionId, message: Message) {
        panic!("nobody answers a message, but with {message:?}");
    }

    fn writable(&mut self, core: &mut Core, _: ConnectionId, _: LinkId) {
        self.go_on(core);
    }

    fn interrupted(&mut self, _: &mut Core, _: ConnectionId, reason: &CloseReason) {
        self.log.line(format_args!("event interrupted: {reason}"));
    }

    fn resumed(&mut self, core: &mut Core, _: ConnectionId, resumed: &Resumed) {
        self.log.line(format_args!("event resumed over {}", resumed.wire));
        self.go_on(core);
    }

    fn closed(&mut self, _: &mut Core, _: ConnectionId, reason: &CloseReason) {
        panic!("the session of the producer has ended: {reason}");
    }
}
