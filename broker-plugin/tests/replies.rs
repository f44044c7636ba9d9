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

/// As the clients of one process do, each with a shard of its own.
fn ask_from(scene: &mut Scene, client: usize, link: LinkId, shard: u64, number: u64) {
    let client = &mut scene.world.clients[client];
    let mut request = client.message(link, Request, format!("{shard}:{number}").as_bytes());
    request.head.reply_address = Some(ReplyAddress::of(&SECRET));
    request.head.correlation_id = CorrelationId(shard << 56 | number);
    assert!(client.send_message(request));
    scene.world.settle();
}

#[test]
fn all_links_of_an_address_stay_and_replies_go_over_the_one_that_asked() {
    let mut scene = Scene::new(work());
    let (first, second) = (scene.requester, scene.world.client());
    let links = [scene.link, scene.world.producer(second, "work")];
    scene.world.reply_address(first, &SECRET, PLENTY);
    scene.world.reply_address(second, &SECRET, PLENTY);
    for number in 0..10 {
        ask_from(&mut scene, first, links[0], 3, number);
        ask_from(&mut scene, second, links[1], 4, number);
    }
    (0..20).for_each(|_| scene.answer());
    let of = |shard: u64| (0..10).map(|number| format!("{shard}:{number}")).collect::<Vec<_>>();
    assert_eq!(scene.world.bodies(first), of(3));
    assert_eq!(scene.world.bodies(second), of(4));
    assert_eq!((scene.world.state(first).detached.len(), scene.world.state(first).closed.len()), (0, 0));
    assert_eq!(scene.world.stats().addresses_shared, 1);
    // A stranger has no say in where they go: its link is of another address. What has no hint goes to the newest.
    let stranger = scene.world.client();
    let link = scene.world.producer(stranger, "work");
    scene.world.reply_address(stranger, &ReplySecret([8; 32]), PLENTY);
    ask_from(&mut scene, stranger, link, 3, 77);
    ask_from(&mut scene, stranger, link, 9, 78);
    (0..2).for_each(|_| scene.answer());
    assert_eq!(scene.world.bodies(first), ["3:77"]);
    assert_eq!(scene.world.bodies(second), ["9:78"]);
}

#[test]
fn what_is_held_for_a_link_that_ends_goes_to_another_of_its_address() {
    let mut scene = Scene::new(work());
    scene.world.reply_address(scene.requester, &SECRET, room(1));
    let other = scene.world.client();
    scene.world.reply_address(other, &SECRET, PLENTY);
    for number in 1..=3 {
        scene.ask(number);
        scene.answer();
    }
    assert_eq!(scene.world.bodies(scene.requester), ["request 1"]);
    assert_eq!(scene.world.stats().replies_held, 2);
    assert!(scene.world.bodies(other).is_empty());
    scene.ask(4);
    drop(scene.world.clients.remove(scene.requester));
    scene.world.settle();
    let (service, other) = (scene.service - 1, other - 1);
    assert_eq!(scene.world.bodies(other), ["request 2", "request 3"]);
    // Nor is the answer to what only the dead connection had asked lost.
    scene = Scene { world: scene.world, requester: other, service, link: scene.link };
    scene.answer();
    assert_eq!(scene.world.bodies(other), ["request 4"]);
    let stats = scene.world.stats();
    assert_eq!((stats.replies_held, stats.replies_routed, stats.replies_for_nobody), (2, 4, 0));
}

#[test]
fn an_address_has_a_bounded_number_of_links() {
    let mut scene = Scene::new(work());
    for _ in 0..64 {
        scene.world.reply_address(scene.requester, &SECRET, PLENTY);
    }
    let one_more = scene.world.client();
    let link = scene.world.clients[one_more].ask_reply(&SECRET, PLENTY);
    scene.world.settle();
    let refused = scene.world.state(one_more).detached.pop().unwrap();
    assert_eq!((refused.link, refused.code), (link, DetachCode::ResourceLimit));
    assert!(refused.text.contains("64"), "{}", refused.text);
    assert_eq!(scene.world.state(scene.requester).detached, []);
    // Another address is not concerned, and the end of the connection frees all of them.
    scene.world.reply_address(one_more, &ReplySecret([8; 32]), PLENTY);
    drop(scene.world.clients.remove(scene.requester));
    scene.world.settle();
    scene.world.reply_address(one_more - 1, &SECRET, PLENTY);
}

/// It asks for long replies over and over and grants them no credit.
#[test]
fn held_replies_are_bounded_in_bytes_and_stop_only_who_asks_for_them() {
    const LONG: usize = 64 << 10;
    const MOST: u64 = 512 << 10;
    let limits =
        LimitSettings { held_reply_bytes_max: MOST, link_messages_max: 16, ..LimitSettings::default() };
    let mut scene = Scene::new(work().limits(limits));
    scene.world.state(scene.service).echoes = true;
    let replies = scene.world.reply_address(scene.requester, &SECRET, room(0));
    let mut asked = 0;
    let mut ask_all = |scene: &mut Scene| {
        let before = asked;
        loop {
            let client = &mut scene.world.clients[scene.requester];
            let mut request = client.message(scene.link, Request, &[7; LONG]);
            request.head.reply_address = Some(ReplyAddress::of(&SECRET));
            if !client.send_message(request) {
                return asked - before;
            }
            scene.world.settle();
            asked += 1;
            assert!(asked < 500, "there is no end to its credit");
        }
    };
    assert!(ask_all(&mut scene) > 4);
    assert_eq!(ask_all(&mut scene), 0, "it is given no more credit to ask");
    let stats = scene.world.stats();
    assert!((4..=MOST / LONG as u64).contains(&stats.replies_held), "{stats:?}");
    assert_eq!(stats.replies_routed, 0);
    assert!(stats.replies_overflowed > 0 && stats.congestions == 1, "{stats:?}");
    let other = scene.world.client();
    let link = scene.world.producer(other, "work");
    let secret = ReplySecret([8; 32]);
    scene.world.reply_address(other, &secret, PLENTY);
    for number in 0..100 {
        let mut request = scene.world.clients[other].message(link, Request, b"good");
        request.head.reply_address = Some(ReplyAddress::of(&secret));
        assert!(scene.world.clients[other].send_message(request), "throttled at {number}");
        scene.world.settle();
    }
    assert_eq!(scene.world.bodies(other).len(), 100);
    // When it takes them it may ask again.
    scene.world.grant(scene.requester, replies, PLENTY);
    assert_eq!(scene.world.state(scene.requester).received.len() as u64, stats.replies_held);
    for number in 0..50 {
        assert!(scene.world.clients[scene.requester].send(scene.link, Request, b"x"), "stuck at {number}");
        scene.world.settle();
    }
}

/// A secret costs nothing: the bound of a connection is not one for each of its addresses.
#[test]
fn many_addresses_of_one_connection_hold_no_more_than_one() {
    let limits = LimitSettings { held_replies_max: 3, ..LimitSettings::default() };
    let mut scene = Scene::new(work().limits(limits));
    scene.world.state(scene.service).echoes = true;
    let asker = scene.world.client();
    let link = scene.world.producer(asker, "work");
    for number in 0..8 {
        let secret = ReplySecret([number; 32]);
        scene.world.reply_address(scene.requester, &secret, room(0));
        let mut request = scene.world.clients[asker].message(link, Request, b"x");
        request.head.reply_address = Some(ReplyAddress::of(&secret));
        assert!(scene.world.clients[asker].send_message(request));
        scene.world.settle();
    }
    let stats = scene.world.stats();
    assert_eq!((stats.replies_held, stats.replies_overflowed), (3, 5));
}

/// No credit for a moment is no reason to lose a reply that is longer than all that may be held.
#[test]
fn a_single_reply_is_held_whatever_its_length() {
    let limits = LimitSettings { held_reply_bytes_max: 4, ..LimitSettings::default() };
    let mut scene = Scene::new(work().limits(limits));
    let link = scene.world.reply_address(scene.requester, &SECRET, room(0));
    for number in 1..=2 {
        scene.ask(number);
        scene.answer();
    }
    scene.world.grant(scene.requester, link, PLENTY);
    assert_eq!(scene.world.bodies(scene.requester), ["request 1"]);
    assert_eq!(scene.world.stats().replies_overflowed, 1);
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
    assert_eq!(scene.world.stats().addresses_shared, 0);
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

/// A full send queue has no event of credit that brings back what was held for want of room.
#[test]
fn replies_held_behind_a_full_send_queue_follow_when_it_has_room() {
    let limits = LimitSettings {
        congestion_messages: 16,
        send_queue_messages_max: 32,
        held_replies_max: 8,
        ..LimitSettings::default()
    };
    let mut scene = Scene::new(work().limits(limits));
    scene.world.state(scene.service).echoes = true;
    let sleeper = scene.world.client();
    scene.world.reply_address(sleeper, &SECRET, PLENTY);
    let asleep = scene.world.clients.remove(sleeper);
    let mut asked = 0;
    while scene.world.stats().replies_held < 8 {
        let client = &mut scene.world.clients[scene.requester];
        let mut request = client.message(scene.link, Request, &[7; 1500]);
        request.head.reply_address = Some(ReplyAddress::of(&SECRET));
        assert!(client.send_message(request));
        scene.world.settle();
        asked += 1;
        assert!(asked < 100_000, "nothing was ever held");
    }
    std::thread::sleep(std::time::Duration::from_millis(2));
    scene.world.clients.push(asleep);
    let end = std::time::Instant::now() + support::PATIENCE;
    while scene.world.state(sleeper).received.len() < asked {
        assert!(std::time::Instant::now() < end, "{:?}", scene.world.stats());
        scene.world.settle();
    }
    assert_eq!(scene.world.stats().replies_overflowed, 0);
}
