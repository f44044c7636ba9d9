//! A service, with a client that does what a test says.

use super::rig::{LIMIT, fresh_address};
use crate::connection::{AttachRequest, CloseReason, LinkRoom};
use crate::driver::{ConnectionId, Core, DetachedByPeer, Driver, DriverConfig, Handler};
use crate::message::Message;
use crate::pool::Body;
use crate::proto::control::{Address as LinkAddress, LinkRole};
use crate::proto::handshake::Negotiated;
use crate::proto::record::MessageKind;
use crate::proto::text::Name;
use crate::proto::{CorrelationId, LinkId, ReplySecret};
use crate::rpc::{ReplyDestination, Request, Service, ServiceConfig, ServiceError};
use std::time::Instant;

/// Attaches as a client does, and keeps what it is told.
#[derive(Debug, Default)]
struct Asker {
    reply_room: Option<LinkRoom>,
    connection: Option<ConnectionId>,
    /// The producer's link, and that of replies.
    links: Vec<LinkId>,
    attached: Vec<LinkId>,
    detached: Vec<DetachedByPeer>,
    replies: Vec<Message>,
    closed: Option<CloseReason>,
}

fn secret() -> ReplySecret {
    ReplySecret([9; 32])
}

impl Handler for Asker {
    fn opened(&mut self, core: &mut Core, connection: ConnectionId, _: &Negotiated) {
        self.connection = Some(connection);
        let none = LinkRoom { messages: 0, bytes: 0 };
        let name = LinkAddress::Named(Name::new("echo").unwrap());
        self.links.push(core.attach(connection, LinkRole::Producer, name, none).unwrap());
        if let Some(room) = self.reply_room {
            let address = LinkAddress::Reply(secret());
            self.links.push(core.attach(connection, LinkRole::Consumer, address, room).unwrap());
        }
    }

    fn attach_requested(&mut self, _: &mut Core, _: ConnectionId, _: AttachRequest) {}

    fn attached(&mut self, _: &mut Core, _: ConnectionId, link: LinkId) {
        self.attached.push(link);
    }

    fn detached(&mut self, _: &mut Core, _: ConnectionId, detached: DetachedByPeer) {
        self.detached.push(detached);
    }

    fn message(&mut self, _: &mut Core, _: ConnectionId, message: Message) {
        self.replies.push(message);
    }

    fn writable(&mut self, _: &mut Core, _: ConnectionId, _: LinkId) {}

    fn closed(&mut self, _: &mut Core, _: ConnectionId, reason: &CloseReason) {
        self.closed = Some(reason.clone());
    }
}

type Answer = Box<dyn FnMut(&mut Request<'_>) -> Result<Body, ServiceError>>;

struct Bench {
    service: Service<Answer>,
    asker: Driver<Asker>,
}

impl Bench {
    fn new(config: ServiceConfig, reply_room: Option<LinkRoom>, answer: Answer) -> Self {
        let (service, address) = Service::listen(&fresh_address(), "echo", config, answer).unwrap();
        let identity = ReplyDestination::new(1).identity("asker");
        let asker = Asker { reply_room, ..Asker::default() };
        let mut asker = Driver::new(DriverConfig::default(), identity, asker).unwrap();
        asker.parts().0.connect(&address).unwrap();
        let mut bench = Self { service, asker };
        bench.pump();
        bench
    }

    fn pump(&mut self) {
        let mut quiet = 0;
        while quiet < 3 {
            let found = self.service.turn().unwrap() | self.asker.turn().unwrap();
            quiet = if found { 0 } else { quiet + 1 };
        }
    }

    /// Sends one; false if the service has granted no room.
    fn send(&mut self, kind: MessageKind, number: u64, bytes: &[u8], has_address: bool) -> bool {
        let (core, asker) = self.asker.parts();
        let mut message = Message::new(kind, core.pool().copy_body(bytes).unwrap());
        message.head.link = Some(asker.links[0]);
        message.head.correlation_id = CorrelationId(number);
        message.head.message_number = core.next_message_number();
        message.head.reply_address = has_address.then(|| crate::proto::ReplyAddress::of(&secret()));
        let sent = core.send(asker.connection.unwrap(), message).is_ok();
        self.pump();
        sent
    }

    fn replies(&mut self) -> Vec<Message> {
        self.pump();
        std::mem::take(&mut self.asker.parts().1.replies)
    }
}

fn echo() -> Answer {
    Box::new(|request| Ok(request.take_body()))
}

const MUCH: Option<LinkRoom> = Some(LinkRoom { messages: 1000, bytes: 1 << 20 });

#[test]
fn what_is_no_request_gets_no_reply_and_a_stray_reply_is_not_handled() {
    let mut bench = Bench::new(ServiceConfig::default(), MUCH, echo());
    assert!(bench.send(MessageKind::Message, 1, b"told", true));
    assert!(bench.send(MessageKind::Request, 2, b"asked by nobody", false));
    assert!(bench.send(MessageKind::Reply, 3, b"unasked", true));
    assert!(bench.send(MessageKind::Request, 4, b"asked", true));
    let replies = bench.replies();
    assert_eq!(replies.len(), 1);
    assert_eq!(replies[0].head.correlation_id, CorrelationId(4));
    let stats = bench.service.stats();
    assert_eq!((stats.requests, stats.without_reply_address, stats.strays), (3, 2, 1));
}

#[test]
fn a_reply_for_which_nobody_attached_is_dropped_and_counted() {
    let mut bench = Bench::new(ServiceConfig::default(), None, echo());
    assert!(bench.send(MessageKind::Request, 1, b"x", true));
    assert!(bench.replies().is_empty());
    assert_eq!(bench.service.stats().replies_dropped, 1);
    assert!(bench.asker.parts().1.closed.is_none());
}

/// Replies for which the client has no room wait, and so do its next requests; nothing is lost and nothing grows.
#[test]
fn replies_wait_for_their_client_and_hold_back_its_requests() {
    let config = ServiceConfig { prefetch_messages: 8, ..ServiceConfig::default() };
    let mut bench = Bench::new(config, Some(LinkRoom { messages: 3, bytes: 1 << 20 }), echo());
    let mut sent = 0;
    while sent < 100 && bench.send(MessageKind::Request, sent, b"x", true) {
        sent += 1;
    }
    assert!((8..=12).contains(&sent), "three replies left, and eight may wait: {sent}");
    assert_eq!(bench.replies().len(), 3);
    assert_eq!(bench.service.stats().replies_dropped, 0);
    let mut seen = 3;
    let began = Instant::now();
    while seen < 100 {
        assert!(began.elapsed() < LIMIT, "{seen} replies of 100");
        let (core, asker) = bench.asker.parts();
        core.set_link_room(
            asker.connection.unwrap(),
            asker.links[1],
            LinkRoom { messages: 3, bytes: 1 << 20 },
        )
        .unwrap();
        for reply in bench.replies() {
            assert_eq!(reply.head.correlation_id, CorrelationId(seen), "in order");
            seen += 1;
        }
        while sent < 100 && bench.send(MessageKind::Request, sent, b"x", true) {
            sent += 1;
        }
    }
    assert!(bench.service.stats().reply_waits > 0);
}

/// The send queue has no event for "room again".
#[test]
fn replies_wait_for_a_full_send_queue() {
    let mut config = ServiceConfig::default();
    config.driver.connection.send_queue_messages_max = 2;
    let mut bench = Bench::new(config, MUCH, echo());
    {
        let (core, asker) = bench.asker.parts();
        for number in 0..50 {
            let mut message = Message::new(MessageKind::Request, Body::new());
            message.head.link = Some(asker.links[0]);
            message.head.correlation_id = CorrelationId(number);
            message.head.message_number = core.next_message_number();
            message.head.reply_address = Some(crate::proto::ReplyAddress::of(&secret()));
            core.send(asker.connection.unwrap(), message).unwrap();
        }
    }
    let (mut seen, began) = (0, Instant::now());
    while seen < 50 {
        assert!(began.elapsed() < LIMIT, "{seen} replies of 50");
        seen += bench.replies().len();
    }
    let stats = bench.service.stats();
    assert!(stats.reply_waits > 0 && stats.replies_dropped == 0, "{stats:?}");
}

#[test]
fn a_reply_that_cannot_be_sent_becomes_a_failure_that_says_so() {
    let mut config = ServiceConfig::default();
    config.driver.connection.parameters.message_bytes_max = 10_000;
    let long: Answer = Box::new(|request| request.reply(&[0; 10_001]));
    let mut bench = Bench::new(config, MUCH, long);
    assert!(bench.send(MessageKind::Request, 1, b"x", true));
    let replies = bench.replies();
    assert!(replies[0].head.failure);
    let error = replies[0].extensions().error().unwrap();
    assert!(error.text.contains("10001") && error.text.contains("message_bytes_max"), "{}", error.text);
    assert_eq!(bench.service.stats().failures, 1);
}

#[test]
fn a_client_that_goes_takes_its_waiting_replies_along() {
    let mut bench = Bench::new(ServiceConfig::default(), Some(LinkRoom { messages: 0, bytes: 0 }), echo());
    for number in 0..5 {
        assert!(bench.send(MessageKind::Request, number, &[1; 5000], true));
    }
    let Bench { mut service, asker } = bench;
    drop(asker);
    let began = Instant::now();
    while service.stats().replies_dropped < 5 {
        assert!(began.elapsed() < LIMIT);
        service.turn().unwrap();
    }
}

#[test]
fn another_destination_or_another_role_is_refused_by_name() {
    let mut bench = Bench::new(ServiceConfig::default(), None, echo());
    let (core, asker) = bench.asker.parts();
    let connection = asker.connection.unwrap();
    let none = LinkRoom { messages: 0, bytes: 0 };
    let other = LinkAddress::Named(Name::new("other").unwrap());
    core.attach(connection, LinkRole::Producer, other, none).unwrap();
    let same = LinkAddress::Named(Name::new("echo").unwrap());
    core.attach(connection, LinkRole::Consumer, same, none).unwrap();
    bench.pump();
    let detached = &bench.asker.parts().1.detached;
    assert_eq!(detached.len(), 2);
    assert!(detached[0].text.contains("'other'") && detached[0].text.contains("'echo'"));
    assert!(detached[1].text.contains("nothing to consume"));
}
