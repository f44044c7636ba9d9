//! Where messages go, over `inproc`, on one thread.

mod support;

use std::time::Duration;
use support::{PLENTY, World, client_config, room};
use underlay::proto::control::{DetachCode, LinkRole};
use underlay::proto::record::MessageKind::{Message, Request};
use underlay_broker::Config;
use underlay_broker::config::{
    BindingSettings, ConfigBuilder, ExchangeSettings, ExchangeType, LimitSettings, QueueSettings,
};

fn shop() -> ConfigBuilder {
    Config::builder().queue(QueueSettings::named("orders")).queue(QueueSettings::named("audit")).exchange(
        ExchangeSettings {
            name: "shop".to_owned(),
            kind: ExchangeType::Direct,
            bindings: vec![
                BindingSettings::new("order.new", "orders"),
                BindingSettings::new("order.new", "audit"),
                BindingSettings::new("order/cancelled", "audit"),
            ],
        },
    )
}

#[test]
fn a_message_goes_to_its_queue_and_to_no_other() {
    let mut world = World::new(shop());
    let (sender, receiver) = (world.client(), world.client());
    let link = world.producer(sender, "orders");
    let orders = world.consumer(receiver, "orders", PLENTY);
    world.consumer(receiver, "audit", PLENTY);
    for body in ["one", "two", "three"] {
        assert!(world.clients[sender].send(link, Message, body.as_bytes()));
    }
    world.settle();
    let received = &world.state(receiver).received;
    assert!(received.iter().all(|message| message.head.link == Some(orders) && message.head.hop_count == 1));
    assert_eq!(world.bodies(receiver), ["one", "two", "three"]);
    let stats = world.stats();
    assert_eq!((stats.messages_in, stats.delivered, stats.delivered_at_once), (3, 3, 3));
}

#[test]
fn a_routing_key_leads_to_exactly_the_queues_bound_with_it() {
    let mut world = World::new(shop());
    let (sender, orders, audit) = (world.client(), world.client(), world.client());
    let new = world.producer(sender, "shop/order.new");
    let cancelled = world.producer(sender, "shop/order/cancelled");
    world.consumer(orders, "orders", PLENTY);
    world.consumer(audit, "audit", PLENTY);
    assert!(world.clients[sender].send(new, Message, b"new"));
    assert!(world.clients[sender].send(cancelled, Message, b"cancelled"));
    world.settle();
    assert_eq!(world.bodies(orders), ["new"]);
    assert_eq!(world.bodies(audit), ["new", "cancelled"]);
}

#[test]
fn several_queues_share_one_body() {
    let mut world = World::new(shop());
    let (sender, receiver) = (world.client(), world.client());
    let link = world.producer(sender, "shop/order.new");
    world.consumer(receiver, "orders", PLENTY);
    world.consumer(receiver, "audit", PLENTY);
    let body = vec![7; 5000];
    assert!(world.clients[sender].send(link, Message, &body));
    world.settle();
    let received = &world.state(receiver).received;
    let addresses: Vec<_> = received.iter().map(|it| it.body.segments().next().unwrap().as_ptr()).collect();
    assert_eq!(addresses.len(), 2);
    assert_eq!(addresses[0], addresses[1], "one of them is a copy");
    assert_eq!(world.broker.stats().pool.body_copies, 0);
}

#[test]
fn consumers_take_turns_and_the_one_that_grants_more_gets_more() {
    let mut world = World::new(shop());
    let (sender, slow, fast) = (world.client(), world.client(), world.client());
    let link = world.producer(sender, "orders");
    let slow_link = world.consumer(slow, "orders", room(2));
    world.consumer(fast, "orders", room(100));
    for number in 0..20 {
        assert!(world.clients[sender].send(link, Message, number.to_string().as_bytes()));
    }
    world.settle();
    assert_eq!(world.bodies(slow), ["0", "2"], "in turn, as long as there is credit");
    assert_eq!(world.state(fast).received.len(), 18);
    world.grant(slow, slow_link, room(1));
    for _ in 0..4 {
        assert!(world.clients[sender].send(link, Message, b"more"));
    }
    world.settle();
    assert_eq!(world.bodies(slow).len(), 1);
    assert_eq!(world.state(fast).received.len(), 21);
}

#[test]
fn what_nobody_takes_waits_in_order_until_somebody_grants_credit() {
    let mut world = World::new(shop());
    let (sender, receiver) = (world.client(), world.client());
    let link = world.producer(sender, "orders");
    for number in 0..10 {
        assert!(world.clients[sender].send(link, Message, number.to_string().as_bytes()));
    }
    world.settle();
    assert_eq!(world.stats().queues[0].depth, 10);
    let consumer = world.consumer(receiver, "orders", room(3));
    assert_eq!(world.bodies(receiver), ["0", "1", "2"]);
    assert!(world.clients[sender].send(link, Message, b"10"));
    world.settle();
    assert_eq!(world.bodies(receiver), [""; 0], "it has no credit");
    world.grant(receiver, consumer, room(100));
    assert_eq!(world.bodies(receiver), ["3", "4", "5", "6", "7", "8", "9", "10"]);
    let queue = world.stats().queues[0].clone();
    assert_eq!(
        (queue.depth, queue.bytes, queue.depth_max, queue.delivered),
        (0, 0, 10.max(queue.depth_max), 11)
    );
}

#[test]
fn what_waits_stays_when_its_consumer_and_its_producer_go() {
    let mut world = World::new(shop());
    let (sender, first, second) = (world.client(), world.client(), world.client());
    let link = world.producer(sender, "orders");
    world.consumer(first, "orders", room(1));
    for body in ["a", "b", "c"] {
        assert!(world.clients[sender].send(link, Message, body.as_bytes()));
    }
    world.settle();
    assert_eq!(world.bodies(first), ["a"]);
    drop(world.clients.remove(1));
    drop(world.clients.remove(0));
    world.settle();
    let second = second - 2;
    world.consumer(second, "orders", PLENTY);
    assert_eq!(world.bodies(second), ["b", "c"]);
    let queue = world.stats().queues[0].clone();
    assert_eq!((queue.producers, queue.consumers, queue.granted), (0, 1, 0));
}

#[test]
fn a_deadline_counts_the_time_in_the_queue_and_what_is_over_is_dropped() {
    let mut world = World::new(shop());
    let (sender, receiver) = (world.client(), world.client());
    let link = world.producer(sender, "orders");
    for (body, deadline_us) in [("over", 1_000), ("in time", 30_000_000)] {
        let mut message = world.clients[sender].message(link, Request, body.as_bytes());
        message.head.deadline_us = Some(deadline_us);
        assert!(world.clients[sender].send_message(message));
    }
    world.settle();
    std::thread::sleep(Duration::from_millis(20));
    world.consumer(receiver, "orders", PLENTY);
    let remaining_us = world.state(receiver).received[0].head.deadline_us.unwrap();
    assert!(remaining_us <= 30_000_000 - 20_000, "{remaining_us} us are left");
    assert_eq!(world.bodies(receiver), ["in time"]);
    assert_eq!(world.stats().expired, 1);
}

#[test]
fn what_expires_in_a_full_queue_makes_room_though_nobody_consumes() {
    let queue = QueueSettings { messages_max: 4, producers_max: 1, ..QueueSettings::named("small") };
    let mut world = World::new(Config::builder().queue(queue));
    let sender = world.client();
    let link = world.producer(sender, "small");
    let mut sent = 0;
    loop {
        let mut message = world.clients[sender].message(link, Request, b"x");
        message.head.deadline_us = Some(50_000);
        if !world.clients[sender].send_message(message) {
            break;
        }
        sent += 1;
        world.settle();
    }
    assert_eq!(sent, 4);
    std::thread::sleep(Duration::from_millis(60));
    world.settle();
    assert_eq!(world.state(sender).writable, [link]);
    assert_eq!((world.stats().expired, world.stats().queues[0].depth), (4, 0));
}

#[test]
fn a_message_with_too_many_hops_behind_it_is_dropped() {
    let mut world = World::new(shop().limits(LimitSettings { hops_max: 3, ..LimitSettings::default() }));
    let (sender, receiver) = (world.client(), world.client());
    let link = world.producer(sender, "orders");
    world.consumer(receiver, "orders", PLENTY);
    for hop_count in [2, 3, 255] {
        let mut message = world.clients[sender].message(link, Message, hop_count.to_string().as_bytes());
        message.head.hop_count = hop_count;
        assert!(world.clients[sender].send_message(message));
    }
    world.settle();
    assert_eq!(world.state(receiver).received[0].head.hop_count, 3);
    assert_eq!(world.bodies(receiver), ["2"]);
    assert_eq!(world.stats().hop_limit, 2);
}

#[test]
fn an_unknown_destination_is_refused_with_the_names_that_may_have_been_meant() {
    let mut world = World::new(shop());
    let client = world.client();
    let cases = [
        (LinkRole::Producer, "oders", DetachCode::NoSuchDestination, "'orders'"),
        (LinkRole::Consumer, "adit", DetachCode::NoSuchDestination, "'audit'"),
        (LinkRole::Producer, "shop/order.newer", DetachCode::NoSuchDestination, "'shop/order.new'"),
        (LinkRole::Producer, "shop", DetachCode::NoSuchDestination, "'shop'"),
        (LinkRole::Consumer, "shop/order.new", DetachCode::NotAllowed, "consume from a queue"),
    ];
    for (role, name, code, text) in cases {
        world.clients[client].ask(role, name, room(1));
        world.settle();
        let refused = world.state(client).detached.pop().unwrap();
        assert_eq!(refused.code, code, "{name}");
        assert!(
            refused.text.contains(&format!("'{name}'")) && refused.text.contains(text),
            "{}",
            refused.text
        );
    }
    assert_eq!(world.stats().links_refused, 5);
    world.producer(client, "orders");
}

#[test]
fn producers_and_consumers_of_a_queue_are_limited() {
    let queue = QueueSettings { producers_max: 1, consumers_max: 1, ..QueueSettings::named("q") };
    let mut world = World::new(Config::builder().queue(queue));
    let client = world.client();
    for (role, key) in [(LinkRole::Producer, "producers_max"), (LinkRole::Consumer, "consumers_max")] {
        let first = world.attach(client, role, "q", room(if role == LinkRole::Consumer { 1 } else { 0 }));
        world.clients[client].ask(role, "q", room(if role == LinkRole::Consumer { 1 } else { 0 }));
        world.settle();
        let refused = world.state(client).detached.pop().unwrap();
        assert_eq!(refused.code, DetachCode::ResourceLimit);
        assert!(refused.text.contains("'q'") && refused.text.contains(key), "{}", refused.text);
        // One goes, another may come.
        let connection = world.clients[client].connection;
        world.clients[client].core().detach_link(connection, first, DetachCode::Normal, "");
        world.settle();
        world.attach(client, role, "q", room(if role == LinkRole::Consumer { 1 } else { 0 }));
    }
}

#[test]
fn a_consumer_that_cannot_take_its_queues_messages_is_detached_and_they_stay() {
    let mut world = World::new(shop());
    let mut config = client_config();
    config.connection.parameters.message_bytes_max = 100;
    let (sender, small, large) = (world.client(), world.client_with(config), world.client());
    let link = world.producer(sender, "orders");
    world.consumer(small, "orders", PLENTY);
    assert!(world.clients[sender].send(link, Message, &[b'x'; 200]));
    world.settle();
    let detached = world.state(small).detached.pop().unwrap();
    assert_eq!(detached.code, DetachCode::ResourceLimit);
    assert!(detached.text.contains("message_bytes_max"), "{}", detached.text);
    world.consumer(large, "orders", PLENTY);
    assert_eq!(world.bodies(large), ["x".repeat(200)]);
    assert_eq!(world.stats().consumers_too_small, 1);
}
