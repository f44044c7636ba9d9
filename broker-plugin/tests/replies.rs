//! Requests and replies through the broker, over `inproc`, on one thread.

mod support;

use support::{PLENTY, World, room};
use underlay::message::Message;
use underlay::proto::control::DetachCode;
use underlay::proto::record::MessageKind::{self, Reply, Request};
use underlay::proto::{CorrelationId, Incarnation, LinkId, ReplyAddress, ReplySecret};
use underlay_broker::Config;
use underlay_broker::config::{ConfigBuilder, LimitSettings, QueueSettings};

const SECRET: ReplySecret = ReplySecret([7; 32]);

fn work() -> ConfigBuilder {
    Config::builder().queue(QueueSettings::named("work"))
}

/// A broker, a requester with a link to produce on, and a service that takes all requests.
struct Scene {
    world: World,
    requester: usize,
    service: usize,
    link: LinkId,
}

impl Scene {
    fn new(builder: ConfigBuilder) -> Self {
        let mut world = World::new(builder);
        let (requester, service) = (world.client(), world.client());
        let link = world.producer(requester, "work");
        world.consumer(service, "work", PLENTY);
        Self { world, requester, service, link }
    }

    fn ask(&mut self, number: u64) {
        let client = &mut self.world.clients[self.requester];
        let mut request = client.message(self.link, Request, format!("request {number}").as_bytes());
        request.head.reply_address = Some(ReplyAddress::of(&SECRET));
        request.head.correlation_id = CorrelationId(number);
        request.head.incarnation = Incarnation(99);
        request.head.attempt = 3;
        assert!(client.send_message(request));
        self.world.settle();
    }

    /// The service answers the oldest request that it has.
    fn answer(&mut self) {
        let request = self.world.state(self.service).received.remove(0);
        assert_eq!(request.head.kind, Request);
        self.reply(Message::reply_to(&request.head, request.body));
    }

    fn reply(&mut self, reply: Message) {
        assert!(self.world.clients[self.service].send_message(reply));
        self.world.settle();
    }
}

#[test]
fn a_reply_reaches_whoever_attached_its_address_with_what_it_is_recognised_by() {
    let mut scene = Scene::new(work());
    let replies = scene.world.reply_address(scene.requester, &SECRET, PLENTY);
    scene.ask(5);
    scene.answer();
    let reply = &scene.world.state(scene.requester).received[0];
    assert_eq!(reply.head.kind, Reply);
    assert_eq!(reply.head.link, Some(replies));
    assert_eq!(reply.head.correlation_id, CorrelationId(5));
    assert_eq!((reply.head.incarnation, reply.head.attempt), (Incarnation(99), 3));
    assert!(reply.body == b"request 5"[..]);
    let stats = scene.world.stats();
    assert_eq!((stats.replies_routed, stats.delivered), (1, 1));
}

#[test]
fn replies_for_nobody_are_counted_and_their_sender_goes_on() {
    let mut scene = Scene::new(work());
    scene.ask(1);
    scene.answer();
    assert_eq!(scene.world.stats().replies_for_nobody, 1);
    scene.world.reply_address(scene.requester, &SECRET, PLENTY);
    scene.ask(2);
    scene.answer();
    assert_eq!(scene.world.bodies(scene.requester), ["request 2"]);
    assert_eq!(scene.world.state(scene.service).closed, []);
}

#[test]
fn replies_that_nobody_asked_for_are_dropped() {
    let mut scene = Scene::new(work());
    scene.world.reply_address(scene.requester, &SECRET, PLENTY);
    scene.ask(1);
    let head = scene.world.state(scene.service).received[0].head;
    scene.answer();
    // The same again, from the service and from a stranger who knows the address.
    scene.reply(Message::reply_to(&head, Default::default()));
    let stranger = scene.world.client();
    assert!(scene.world.clients[stranger].send_message(Message::reply_to(&head, Default::default())));
    scene.world.settle();
    assert_eq!(scene.world.bodies(scene.requester), ["request 1"]);
    assert_eq!(scene.world.stats().replies_unsolicited, 2);
    assert_eq!(scene.world.state(stranger).closed, []);
}

#[test]
fn a_message_that_wants_no_reply_gives_no_right_to_one() {
    let mut scene = Scene::new(work());
    scene.world.reply_address(scene.requester, &SECRET, PLENTY);
    assert!(scene.world.clients[scene.requester].send(scene.link, MessageKind::Message, b"news"));
    scene.world.settle();
    let mut reply = Message::new(Reply, Default::default());
    reply.head.reply_address = Some(ReplyAddress::of(&SECRET));
    scene.reply(reply);
    assert_eq!(scene.world.stats().replies_unsolicited, 1);
    assert!(scene.world.bodies(scene.requester).is_empty());
}

#[test]
fn the_later_attachment_of_an_address_wins_and_gets_what_was_held() {
    let mut scene = Scene::new(work());
    let old = scene.world.reply_address(scene.requester, &SECRET, room(1));
    for number in 1..=3 {
        scene.ask(number);
        scene.answer();
    }
    assert_eq!(scene.world.bodies(scene.requester), ["request 1"]);
    assert_eq!(scene.world.stats().replies_held, 2);
    let reconnected = scene.world.client();
    scene.world.reply_address(reconnected, &SECRET, PLENTY);
    assert_eq!(scene.world.bodies(reconnected), ["request 2", "request 3"]);
    let detached = scene.world.state(scene.requester).detached.pop().unwrap();
    assert_eq!((detached.link, detached.code), (old, DetachCode::AddressInUse));
    // The end of the old connection does not take the address from the new one.
    drop(scene.world.clients.remove(scene.requester));
    scene.world.settle();
    let (service, reconnected) = (scene.service - 1, reconnected - 1);
    let link = scene.world.producer(reconnected, "work");
    scene = Scene { world: scene.world, requester: reconnected, service, link };
    scene.ask(4);
    scene.answer();
    assert_eq!(scene.world.bodies(reconnected), ["request 4"]);
    assert_eq!(scene.world.stats().takeovers, 1);
}

#[test]
fn replies_wait_for_credit_in_order_and_in_a_bounded_number() {
    let limits = LimitSettings { held_replies_max: 2, ..LimitSettings::default() };
    let mut scene = Scene::new(work().limits(limits));
    let link = scene.world.reply_address(scene.requester, &SECRET, room(1));
    for number in 1..=5 {
        scene.ask(number);
        scene.answer();
    }
    let stats = scene.world.stats();
    assert_eq!((stats.replies_routed, stats.replies_held, stats.replies_overflowed), (1, 2, 2));
    scene.world.grant(scene.requester, link, PLENTY);
    assert_eq!(scene.world.bodies(scene.requester), ["request 1", "request 2", "request 3"]);
    scene.ask(6);
    scene.answer();
    assert_eq!(scene.world.bodies(scene.requester), ["request 6"]);
}

#[test]
fn an_address_is_free_again_when_its_link_ends() {
    let mut scene = Scene::new(work());
    let link = scene.world.reply_address(scene.requester, &SECRET, PLENTY);
    let connection = scene.world.clients[scene.requester].connection;
    scene.world.clients[scene.requester].core().detach_link(connection, link, DetachCode::Normal, "");
    scene.ask(1);
    scene.answer();
    assert_eq!(scene.world.stats().replies_for_nobody, 1);
    scene.world.reply_address(scene.requester, &SECRET, PLENTY);
    assert_eq!(scene.world.stats().takeovers, 0);
}

#[test]
fn a_reply_whose_requester_takes_nothing_so_long_is_dropped_alone() {
    let mut world = World::new(work());
    let mut config = support::client_config();
    config.connection.parameters.message_bytes_max = 64;
    let (requester, service) = (world.client_with(config), world.client());
    let link = world.producer(requester, "work");
    world.consumer(service, "work", PLENTY);
    let mut scene = Scene { world, requester, service, link };
    scene.world.reply_address(requester, &SECRET, PLENTY);
    scene.ask(1);
    scene.ask(2);
    let head = scene.world.state(service).received.remove(0).head;
    let body = scene.world.clients[service].core().pool().copy_body(&[1; 100]).unwrap();
    scene.reply(Message::reply_to(&head, body));
    scene.answer();
    assert_eq!(scene.world.bodies(requester), ["request 2"]);
    assert_eq!(scene.world.stats().replies_too_long, 1);
}
