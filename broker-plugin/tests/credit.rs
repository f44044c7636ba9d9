//! Who is held up by what, over `inproc`, on one thread.

mod support;

use std::time::Duration;
use support::{PLENTY, World, room};
use underlay::message::Message;
use underlay::proto::control::{CloseCode, DetachCode, LinkRole};
use underlay::proto::record::MessageKind;
use underlay::proto::{ReplyAddress, ReplySecret};
use underlay_broker::Config;
use underlay_broker::config::{
    BindingSettings, BrokerSettings, ExchangeSettings, ExchangeType, LimitSettings, QueueSettings,
};

fn queue(name: &str, messages_max: u64, producers_max: u64) -> QueueSettings {
    QueueSettings { messages_max, producers_max, ..QueueSettings::named(name) }
}

/// Sends until nothing more is granted; says how many were sent.
fn fill(world: &mut World, client: usize, link: underlay::proto::LinkId, body: &[u8]) -> usize {
    let mut sent = 0;
    loop {
        let more = world.clients[client].send_all(link, body, 100_000);
        world.settle();
        if more == 0 {
            return sent;
        }
        sent += more;
        assert!(sent < 100_000, "there is no end to the credit");
    }
}

#[test]
fn a_full_queue_holds_up_its_own_producers_and_no_others() {
    let mut world = World::new(Config::builder().queue(queue("full", 64, 4)).queue(queue("free", 64, 4)));
    let (sender, receiver) = (world.client(), world.client());
    let full = world.producer(sender, "full");
    let free = world.producer(sender, "free");
    world.consumer(receiver, "free", PLENTY);
    let sent = fill(&mut world, sender, full, b"x");
    assert!((32..=64).contains(&sent), "{sent}");
    // The same connection goes on with the other queue, as far as it likes.
    for _ in 0..1000 {
        assert!(world.clients[sender].send(free, MessageKind::Message, b"y"));
        world.settle();
    }
    assert_eq!(world.state(receiver).received.len(), 1000);
    let stats = world.stats();
    assert_eq!(stats.queues[0].depth, sent as u64);
    assert!(stats.queues[0].full_pushes >= 1);
    assert_eq!(stats.queues[1].full_pushes, 0);
    // What a consumer takes is granted again.
    let late = world.client();
    world.consumer(late, "full", room(20));
    let more = fill(&mut world, sender, full, b"x");
    assert!((1..=20).contains(&more), "{more}");
    assert_eq!(world.state(sender).writable.last(), Some(&full));
}

#[test]
fn no_number_of_producers_gets_more_into_a_queue_than_its_bounds() {
    for (messages_max, bytes_max, body) in [(40, 1 << 20, 10), (1 << 20, 4000, 10)] {
        let settings = QueueSettings { bytes_max, ..queue("q", messages_max, 10) };
        let mut world = World::new(Config::builder().queue(settings));
        let clients: Vec<_> = (0..10).map(|_| world.client()).collect();
        let links: Vec<_> = clients.iter().map(|&client| world.producer(client, "q")).collect();
        for (&client, &link) in clients.iter().zip(&links) {
            let sent = fill(&mut world, client, link, &vec![0; body]);
            assert!(sent > 0, "the share of a producer is kept for it");
        }
        let queue = &world.stats().queues[0];
        assert!(queue.depth <= messages_max, "{queue:?}");
        // In bytes, each may exceed it by the rest of one message.
        assert!(queue.bytes <= bytes_max + 10 * (body as u64 - 1), "{queue:?}");
        assert!(queue.depth == messages_max || queue.bytes >= bytes_max, "{queue:?}");
    }
}

#[test]
fn a_producer_that_sits_on_its_grant_does_not_starve_another() {
    let mut world = World::new(Config::builder().queue(queue("q", 16, 2)));
    let (idle, busy, receiver) = (world.client(), world.client(), world.client());
    world.producer(idle, "q");
    let link = world.producer(busy, "q");
    world.consumer(receiver, "q", PLENTY);
    for number in 0..500 {
        assert!(world.clients[busy].send(link, MessageKind::Message, b"x"), "stuck at {number}");
        world.settle();
    }
    // Nor do bodies of nothing, which take messages and no bytes.
    for number in 0..500 {
        assert!(world.clients[busy].send(link, MessageKind::Message, b""), "stuck at {number}");
        world.settle();
    }
    assert_eq!(world.state(receiver).received.len(), 1000);
}

#[test]
fn producers_that_wait_are_served_in_turn_when_the_queue_is_drained() {
    let mut world = World::new(Config::builder().queue(queue("q", 8, 4)));
    let clients: Vec<_> = (0..4).map(|_| world.client()).collect();
    let links: Vec<_> = clients.iter().map(|&client| world.producer(client, "q")).collect();
    let receiver = world.client();
    let consumer = world.consumer(receiver, "q", room(0));
    for (&client, &link) in clients.iter().zip(&links) {
        fill(&mut world, client, link, b"x");
    }
    assert_eq!(world.stats().queues[0].depth, 8);
    let mut sent = [0; 4];
    for _ in 0..100 {
        world.grant(receiver, consumer, room(4));
        for (at, (&client, &link)) in clients.iter().zip(&links).enumerate() {
            sent[at] += world.clients[client].send_all(link, b"x", 100);
        }
        world.settle();
    }
    assert!(sent.iter().all(|&sent| sent >= 50), "{sent:?}");
}

#[test]
fn the_fullest_queue_of_a_routing_key_decides() {
    let exchange = ExchangeSettings {
        name: "e".to_owned(),
        kind: ExchangeType::Direct,
        bindings: vec![BindingSettings::new("k", "large"), BindingSettings::new("k", "small")],
    };
    let builder = Config::builder().queue(queue("large", 1000, 2)).queue(queue("small", 10, 2));
    let mut world = World::new(builder.exchange(exchange));
    let (sender, receiver) = (world.client(), world.client());
    let link = world.producer(sender, "e/k");
    world.consumer(receiver, "large", PLENTY);
    let sent = fill(&mut world, sender, link, b"x");
    assert!((5..=10).contains(&sent), "{sent}");
    let small = world.client();
    world.consumer(small, "small", PLENTY);
    for _ in 0..100 {
        assert!(world.clients[sender].send(link, MessageKind::Message, b"x"));
        world.settle();
    }
    assert_eq!(world.state(small).received.len(), sent + 100);
    assert_eq!(world.state(receiver).received.len(), sent + 100);
}

#[test]
fn a_consumer_that_stops_reading_gets_no_more_and_the_others_go_on() {
    let limits = LimitSettings { congestion_messages: 16, ..LimitSettings::default() };
    let mut world = World::new(Config::builder().limits(limits).queue(queue("q", 5000, 2)));
    let (sender, reader, sleeper) = (world.client(), world.client(), world.client());
    let link = world.producer(sender, "q");
    world.consumer(reader, "q", PLENTY);
    world.consumer(sleeper, "q", PLENTY);
    // It is granted no turn, so it reads nothing.
    let asleep = world.clients.remove(sleeper);
    let mut sent = 0;
    while world.stats().congestions == 0 {
        assert!(world.clients[sender].send(link, MessageKind::Message, &[0; 1500]));
        world.settle();
        sent += 1;
        assert!(sent < 100_000, "it never counted as congested");
    }
    let before = world.state(reader).received.len();
    for _ in 0..200 {
        assert!(world.clients[sender].send(link, MessageKind::Message, b"x"));
        world.settle();
    }
    assert_eq!(world.state(reader).received.len() - before, 200, "all go to the one that reads");
    // Awake again, it gets what was handed to its connection, and then its turn.
    world.clients.push(asleep);
    world.settle();
    for _ in 0..10 {
        assert!(world.clients[sender].send(link, MessageKind::Message, b"y"));
    }
    world.settle();
    let (reader, sleeper) = (world.state(reader).received.len(), world.state(2).received.len());
    assert_eq!(reader + sleeper, sent + 210);
    assert!(
        world.state(2).received.last().is_some_and(|last| last.body == b"y"[..]),
        "it has its turn again"
    );
}

/// So one that asks and never reads the answers stops itself.
#[test]
fn a_producer_gets_no_more_credit_while_its_connection_takes_nothing() {
    let limits = LimitSettings { congestion_messages: 16, link_messages_max: 4, ..LimitSettings::default() };
    let builder = Config::builder().limits(limits).queue(queue("in", 5000, 2)).queue(queue("out", 5000, 2));
    let mut world = World::new(builder);
    let (feeder, sleeper) = (world.client(), world.client());
    let feed = world.producer(feeder, "in");
    world.consumer(sleeper, "in", PLENTY);
    let link = world.producer(sleeper, "out");
    let granted = |world: &mut World| world.stats().queues[1].granted;
    assert_eq!(granted(&mut world), 4);
    let mut asleep = world.clients.remove(sleeper);
    while world.stats().congestions == 0 {
        assert!(world.clients[feeder].send(feed, MessageKind::Message, &[0; 1500]));
        world.settle();
    }
    assert_eq!(asleep.send_all(link, b"x", 10), 4);
    asleep.driver.turn().unwrap();
    world.broker.turn().unwrap();
    assert_eq!(world.stats().queues[1].messages_in, 4);
    assert_eq!(granted(&mut world), 0, "it is granted nothing for what it has sent");
    world.clients.push(asleep);
    world.settle();
    assert_eq!(granted(&mut world), 4, "it is granted again when it has read");
}

#[test]
fn a_producer_that_attaches_while_its_connection_is_congested_is_granted_when_that_is_over() {
    let limits = LimitSettings { congestion_messages: 16, link_messages_max: 4, ..LimitSettings::default() };
    let builder = Config::builder().limits(limits).queue(queue("in", 5000, 2)).queue(queue("idle", 5000, 2));
    let mut world = World::new(builder);
    let (feeder, sleeper) = (world.client(), world.client());
    let feed = world.producer(feeder, "in");
    world.consumer(sleeper, "in", PLENTY);
    let mut asleep = world.clients.remove(sleeper);
    while world.stats().congestions == 0 {
        assert!(world.clients[feeder].send(feed, MessageKind::Message, &[0; 1500]));
        world.settle();
    }
    // It asks before it has read anything: the broker hears of it while it is congested.
    let link = asleep.ask(LinkRole::Producer, "idle", room(0));
    let end = std::time::Instant::now() + support::PATIENCE;
    while world.stats().queues[1].producers == 0 {
        assert!(std::time::Instant::now() < end, "the broker does not hear of it");
        asleep.driver.turn().unwrap();
        world.broker.turn().unwrap();
    }
    assert_eq!(world.stats().queues[1].granted, 0, "it attached without credit");
    world.clients.push(asleep);
    world.settle();
    // Nothing ever happens at the queue that could call it back.
    assert_eq!(world.stats().queues[1].granted, 4);
    assert!(world.clients[1].send(link, MessageKind::Message, b"x"));
    assert_eq!(world.stats().queues[1].full_pushes, 0, "the queue had room all the time");
}

#[test]
fn a_producer_left_without_credit_counts_once_however_often_it_is_looked_at() {
    let mut world = World::new(Config::builder().queue(queue("q", 8, 2)));
    let (left, right, receiver) = (world.client(), world.client(), world.client());
    let links = [world.producer(left, "q"), world.producer(right, "q")];
    let consumer = world.consumer(receiver, "q", room(0));
    fill(&mut world, left, links[0], b"x");
    fill(&mut world, right, links[1], b"x");
    assert_eq!(world.stats().queues[0].depth, 8);
    let before = world.stats().queues[0].full_pushes;
    assert!((1..=2).contains(&before), "{before}");
    // Both stay without credit, whoever comes and goes.
    for _ in 0..20 {
        let link = world.consumer(receiver, "q", room(0));
        let connection = world.clients[receiver].connection;
        world.clients[receiver].core().detach_link(connection, link, DetachCode::Normal, "");
        world.grant(receiver, consumer, room(0));
    }
    assert_eq!(world.stats().queues[0].full_pushes, before);
    // One that is granted more and uses it up counts again, each time once.
    for round in 1..=5 {
        world.grant(receiver, consumer, room(8));
        fill(&mut world, left, links[0], b"x");
        fill(&mut world, right, links[1], b"x");
        let counted = world.stats().queues[0].full_pushes - before;
        assert!(counted <= 2 * round, "{counted} in {round} rounds of two producers");
    }
}

#[test]
fn a_shutdown_does_not_wait_for_answers_of_a_service_that_has_gone() {
    let broker = BrokerSettings { drain_timeout_ms: 3_600_000, ..BrokerSettings::default() };
    let mut world = World::new(Config::builder().broker(broker).queue(queue("q", 100, 2)));
    let (asker, service) = (world.client(), world.client());
    let link = world.producer(asker, "q");
    let consumers = [world.consumer(service, "q", PLENTY), world.consumer(service, "q", PLENTY)];
    let secret = ReplySecret([5; 32]);
    world.reply_address(asker, &secret, PLENTY);
    for number in 0..2 {
        let mut request = world.clients[asker].message(link, MessageKind::Request, b"x");
        request.head.reply_address = Some(ReplyAddress::of(&secret));
        assert!(world.clients[asker].send_message(request), "{number}");
    }
    world.settle();
    let connection = world.clients[service].connection;
    world.clients[service].core().detach_link(connection, consumers[0], DetachCode::Normal, "");
    world.settle();
    // It has its right to answer all the same.
    let (core, broker) = world.broker.parts();
    broker.shut_down(core);
    world.settle();
    assert_eq!(world.state(asker).closed, [], "the service may still answer");
    let head = world.state(service).received.remove(0).head;
    assert!(world.clients[service].send_message(Message::reply_to(&head, Default::default())));
    world.clients[service].core().detach_link(connection, consumers[1], DetachCode::Normal, "");
    world.settle();
    assert_eq!(world.stats().replies_routed, 1);
    assert_eq!(world.state(asker).closed.len(), 1, "nobody is left to wait for");
}

#[test]
fn a_broker_that_is_told_to_stop_drains_refuses_and_closes() {
    let broker = BrokerSettings { drain_timeout_ms: 30_000, ..BrokerSettings::default() };
    let mut world = World::new(Config::builder().broker(broker).queue(queue("q", 100, 2)));
    let (sender, receiver) = (world.client(), world.client());
    let link = world.producer(sender, "q");
    let consumer = world.consumer(receiver, "q", room(1));
    assert_eq!(world.clients[sender].send_all(link, b"x", 10), 10);
    world.settle();
    let control = {
        let (core, broker) = world.broker.parts();
        broker.control(core)
    };
    control.shut_down();
    world.settle();
    assert_eq!(world.state(receiver).closed, [], "nine messages wait for it");
    world.clients[sender].ask(LinkRole::Producer, "q", room(0));
    world.settle();
    assert_eq!(world.state(sender).detached.pop().map(|it| it.code), Some(DetachCode::ShuttingDown));
    world.grant(receiver, consumer, room(9));
    assert_eq!(world.state(receiver).received.len(), 10);
    for client in [sender, receiver] {
        let closed = &world.state(client).closed;
        assert_eq!(closed.len(), 1);
        assert_eq!(closed[0].code(), CloseCode::ShuttingDown, "{closed:?}");
    }
    // Its loop ends by itself.
    assert!(!world.broker.run_until(Some(Duration::from_secs(60)), |_, _| false).unwrap());
    assert_eq!(world.broker.parts().0.connections(), 0);
}

#[test]
fn a_broker_that_cannot_drain_stops_after_its_time() {
    let broker = BrokerSettings { drain_timeout_ms: 50, ..BrokerSettings::default() };
    let mut world = World::new(Config::builder().broker(broker).queue(queue("q", 100, 2)));
    let (sender, receiver) = (world.client(), world.client());
    let link = world.producer(sender, "q");
    world.consumer(receiver, "q", room(0));
    assert!(world.clients[sender].send(link, MessageKind::Message, b"x"));
    world.settle();
    let (core, broker) = world.broker.parts();
    broker.shut_down(core);
    std::thread::sleep(Duration::from_millis(60));
    world.settle();
    assert_eq!(world.state(sender).closed.len(), 1);
}
