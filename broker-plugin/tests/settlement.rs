//! What the broker keeps until it is settled, and what it does with it when it is not.

mod support;

use std::time::Duration;
use support::{PLENTY, World, room};
use underlay::connection::Deliveries;
use underlay::message::Message;
use underlay::proto::control::{CloseCode, DetachCode, LinkRole, Outcome};
use underlay::proto::record::MessageKind::{self, Request};
use underlay::proto::{CorrelationId, Lane, LinkId, ReplyAddress, ReplySecret};
use underlay_broker::config::{BrokerSettings, ConfigBuilder, QueueSettings};
use underlay_broker::{Config, QueueStats};

/// A queue 'q' with these bounds.
fn queue(change: impl FnOnce(&mut QueueSettings)) -> ConfigBuilder {
    let mut settings = QueueSettings { producers_max: 2, ..QueueSettings::named("q") };
    change(&mut settings);
    Config::builder().queue(settings)
}

/// A broker, and somebody who sends to 'q'.
struct Scene {
    world: World,
    sender: usize,
    link: LinkId,
}

impl Scene {
    fn new(builder: ConfigBuilder) -> Self {
        let mut world = World::new(builder);
        let sender = world.client();
        let link = world.producer(sender, "q");
        Self { world, sender, link }
    }

    /// A client that settles what it gets from 'q'.
    fn consumer(&mut self, messages: u64) -> usize {
        let client = self.world.client();
        self.world.settling_consumer(client, "q", room(messages));
        client
    }

    fn send(&mut self, texts: &[&str]) {
        for text in texts {
            assert!(self.world.clients[self.sender].send(self.link, MessageKind::Message, text.as_bytes()));
        }
        self.world.settle();
    }

    /// What a client has, as texts, those that are marked as redelivered with a star.
    fn texts(&mut self, client: usize) -> Vec<String> {
        let text = |message: &Message| {
            let mark = if message.head.redelivered { "*" } else { "" };
            String::from_utf8(message.body.to_vec()).unwrap() + mark
        };
        self.world.state(client).received.iter().map(text).collect()
    }

    /// A client says what became of what it has at these places.
    fn say(&mut self, client: usize, places: &[usize], outcome: Outcome) {
        let received = std::mem::take(&mut self.world.state(client).received);
        places.iter().for_each(|&place| self.world.clients[client].settle(&received[place], outcome));
        self.world.state(client).received = received;
        self.world.settle();
    }

    fn queue(&mut self) -> QueueStats {
        self.world.stats().queues[0].clone()
    }
}

#[test]
fn what_a_dead_consumer_had_not_settled_goes_to_another_first_in_order_and_marked() {
    let mut scene = Scene::new(queue(|_| {}));
    let first = scene.consumer(5);
    scene.send(&["a", "b", "c", "d", "e", "f", "g"]);
    assert_eq!(scene.texts(first), ["a", "b", "c", "d", "e"]);
    scene.say(first, &[1, 3], Outcome::Accepted);
    assert_eq!((scene.queue().unsettled, scene.queue().settled, scene.queue().depth), (3, 2, 2));
    let copies = scene.world.broker.stats().pool.body_copies;
    assert_eq!(copies, 2, "of those that wait, and none of what is kept: that is shared");
    scene.world.kill(first);
    assert_eq!((scene.queue().unsettled, scene.queue().depth), (0, 5));
    let second = scene.consumer(100);
    assert_eq!(scene.texts(second), ["a*", "c*", "e*", "f", "g"]);
    assert_eq!(scene.world.stats().redelivered, 3);
    scene.say(second, &[0, 1, 2, 3, 4], Outcome::Accepted);
    let queue = scene.queue();
    assert_eq!((queue.unsettled, queue.settled, queue.bytes), (0, 7, 0));
}

/// They took turns, and went one after the other: the order is still that of the queue, over lanes too.
#[test]
fn what_several_had_comes_back_in_the_order_of_the_queue() {
    let mut scene = Scene::new(queue(|_| {}));
    let (first, second) = (scene.consumer(100), scene.consumer(100));
    for number in 0..12 {
        let client = &mut scene.world.clients[scene.sender];
        let mut message = client.message(scene.link, MessageKind::Message, format!("{number:02}").as_bytes());
        message.head.lane = [Lane::Normal, Lane::Urgent, Lane::Bulk][number % 3];
        assert!(client.send_message(message));
        scene.world.settle();
    }
    assert_eq!(scene.texts(first).len(), 6);
    assert_eq!(scene.texts(second).len(), 6);
    scene.say(second, &[0], Outcome::Accepted);
    scene.world.kill(second);
    // The other got them, and now has two rounds of them.
    assert_eq!(scene.texts(first).len(), 11);
    scene.world.kill(first);
    let third = scene.consumer(100);
    let received = std::mem::take(&mut scene.world.state(third).received);
    let mut by_lane: Vec<_> = Lane::ALL.map(|_| Vec::new()).into();
    received.iter().for_each(|it| by_lane[it.head.lane.index()].push(it.body.to_vec()));
    assert_eq!(received.len(), 11);
    assert!(by_lane.iter().all(|lane| lane.is_sorted()), "{by_lane:?}");
    assert!(received.iter().all(|message| message.head.redelivered));
}

/// A connection with two links at one queue: what both had comes back before any of it is given out.
#[test]
fn both_links_of_a_connection_come_back_together() {
    let mut scene = Scene::new(queue(|_| {}));
    let first = scene.consumer(100);
    scene.world.settling_consumer(first, "q", room(100));
    let waiting = scene.world.client();
    let link = scene.world.settling_consumer(waiting, "q", room(0));
    scene.send(&["a", "b", "c", "d"]);
    scene.world.clients[first].kill();
    let connection = scene.world.clients[waiting].connection;
    scene.world.clients[waiting].core().set_link_room(connection, link, room(100)).unwrap();
    scene.world.settle();
    assert_eq!(scene.texts(waiting), ["a*", "b*", "c*", "d*"]);
}

/// The link ends, the connection does not: what was settled before stays so, what is on its way is not handled here.
#[test]
fn a_consumer_that_detaches_gives_back_what_it_has_not_settled() {
    let mut scene = Scene::new(queue(|_| {}));
    let first = scene.world.client();
    let link = scene.world.settling_consumer(first, "q", room(3));
    scene.send(&["a", "b", "c"]);
    let received = std::mem::take(&mut scene.world.state(first).received);
    scene.world.clients[first].settle(&received[0], Outcome::Accepted);
    let connection = scene.world.clients[first].connection;
    scene.world.clients[first].core().detach_link(connection, link, DetachCode::Normal, "enough");
    scene.world.settle();
    let second = scene.consumer(10);
    assert_eq!(scene.texts(second), ["b*", "c*"]);
    assert_eq!(scene.world.state(first).closed, []);
}

#[test]
fn what_is_released_goes_back_to_its_place_as_often_as_one_likes() {
    let mut scene = Scene::new(queue(|queue| queue.redeliveries_max = 0));
    let first = scene.consumer(3);
    scene.send(&["a", "b", "c", "d"]);
    for _ in 0..5 {
        scene.say(first, &[1, 0], Outcome::Released);
        assert_eq!(scene.queue().depth, 3);
        let link = scene.world.state(first).attached[0];
        scene.world.state(first).received.remove(0);
        scene.world.state(first).received.remove(0);
        scene.world.grant(first, link, room(2));
        // "c" it still has.
        assert_eq!(scene.texts(first), ["c", "a*", "b*"]);
        scene.world.state(first).received.rotate_left(1);
    }
    let stats = scene.world.stats();
    assert_eq!((stats.released, stats.redelivered, stats.redeliveries_exhausted), (10, 0, 0));
}

#[test]
fn what_is_rejected_is_gone_and_counted() {
    let mut scene = Scene::new(queue(|_| {}));
    let first = scene.consumer(3);
    scene.send(&["a", "b", "c"]);
    scene.say(first, &[0, 2], Outcome::Rejected);
    // Said otherwise later: the first time counts.
    scene.say(first, &[0, 2], Outcome::Released);
    let stats = scene.world.stats();
    assert_eq!((stats.rejected, stats.released), (2, 0));
    scene.world.kill(first);
    let second = scene.consumer(3);
    assert_eq!(scene.texts(second), ["b*"]);
}

#[test]
fn a_message_that_kills_its_consumers_does_not_do_so_for_ever() {
    let mut scene = Scene::new(queue(|queue| queue.redeliveries_max = 2));
    scene.send(&["poison", "good"]);
    for round in 0..3 {
        let victim = scene.consumer(1);
        assert_eq!(scene.texts(victim), [if round == 0 { "poison" } else { "poison*" }]);
        scene.world.kill(victim);
    }
    let last = scene.consumer(10);
    assert_eq!(scene.texts(last), ["good"]);
    let stats = scene.world.stats();
    assert_eq!((stats.redelivered, stats.redeliveries_exhausted), (2, 1));
    scene.say(last, &[0], Outcome::Accepted);
    assert_eq!((scene.queue().bytes, scene.queue().unsettled), (0, 0), "its room is free");
}

/// Services that are restarted, one after the other: whatever way they say that they go, none of it is the message's.
#[test]
fn a_consumer_that_goes_in_order_counts_as_no_attempt() {
    let mut scene = Scene::new(queue(|queue| queue.redeliveries_max = 1));
    scene.send(&["innocent"]);
    let mut texts = Vec::new();
    for code in [DetachCode::Normal, DetachCode::ShuttingDown] {
        let consumer = scene.consumer(1);
        texts.append(&mut scene.texts(consumer));
        let link = scene.world.state(consumer).attached[0];
        let connection = scene.world.clients[consumer].connection;
        scene.world.clients[consumer].core().detach_link(connection, link, code, "a restart");
        scene.world.settle();
    }
    for code in [CloseCode::Normal, CloseCode::ShuttingDown] {
        let consumer = scene.consumer(1);
        texts.append(&mut scene.texts(consumer));
        let connection = scene.world.clients[consumer].connection;
        scene.world.clients[consumer].core().close(connection, code, "a restart");
        scene.world.settle();
    }
    assert_eq!(texts, ["innocent", "innocent*", "innocent*", "innocent*"]);
    let stats = scene.world.stats();
    assert_eq!((stats.redelivered, stats.redeliveries_exhausted), (4, 0));
    // Those that are lost count as ever.
    for exhausted in [0, 1] {
        let consumer = scene.consumer(1);
        assert_eq!(scene.texts(consumer), ["innocent*"]);
        scene.world.kill(consumer);
        assert_eq!(scene.world.stats().redeliveries_exhausted, exhausted);
    }
    assert_eq!(scene.queue().depth, 0);
}

/// Who goes because of a fault of its own may have met it in the message.
#[test]
fn a_consumer_that_goes_with_a_fault_counts_as_an_attempt() {
    let mut scene = Scene::new(queue(|queue| queue.redeliveries_max = 1));
    scene.send(&["poison"]);
    let first = scene.consumer(1);
    let link = scene.world.state(first).attached[0];
    let connection = scene.world.clients[first].connection;
    scene.world.clients[first].core().detach_link(connection, link, DetachCode::InternalError, "a fault");
    scene.world.settle();
    let second = scene.consumer(1);
    assert_eq!(scene.texts(second), ["poison*"]);
    let connection = scene.world.clients[second].connection;
    scene.world.clients[second].core().close(connection, CloseCode::InternalError, "a fault");
    scene.world.settle();
    assert_eq!((scene.queue().depth, scene.world.stats().redeliveries_exhausted), (0, 1));
}

/// It settles all but the first, which it keeps: what is remembered of them has an end, and goes on behind the first.
#[test]
fn a_consumer_that_leaves_its_first_delivery_open_is_held_up_in_the_end() {
    let mut scene = Scene::new(queue(|queue| queue.unsettled_max = 5));
    let first = scene.consumer(1_000);
    let mut settled = 1;
    for _ in 0..50 {
        scene.send(&["x"]);
        let given = scene.texts(first).len();
        scene.say(first, &(settled..given).collect::<Vec<_>>(), Outcome::Accepted);
        settled = given;
    }
    assert_eq!(settled, 20, "four times unsettled_max");
    assert_eq!((scene.queue().unsettled, scene.queue().depth), (1, 30));
    // It said so before, and that makes no room.
    scene.say(first, &[7], Outcome::Accepted);
    assert_eq!(scene.texts(first).len(), 20);
    scene.say(first, &[0], Outcome::Accepted);
    assert_eq!((scene.texts(first).len(), scene.queue().unsettled), (25, 5), "unsettled_max");
    scene.say(first, &[20, 21, 22, 23, 24], Outcome::Released);
    assert_eq!(scene.texts(first).len(), 30, "it goes on");
}

/// It stops its own queue at the bounds of that, and nobody else.
#[test]
fn a_consumer_that_never_settles_stops_only_its_own_queue() {
    let other = QueueSettings { producers_max: 2, ..QueueSettings::named("other") };
    let bounds = |queue: &mut QueueSettings| (queue.messages_max, queue.unsettled_max) = (40, 15);
    let mut scene = Scene::new(queue(bounds).queue(other));
    let idle = scene.consumer(1_000_000);
    let mut sent = 0;
    for _ in 0..10 {
        sent += scene.world.clients[scene.sender].send_all(scene.link, b"x", 1000);
        scene.world.settle();
    }
    assert_eq!(scene.texts(idle).len(), 15, "unsettled_max");
    let queue = scene.queue();
    assert_eq!((queue.unsettled, queue.depth + queue.unsettled), (15, sent as u64));
    assert!((30..=40).contains(&sent), "{sent} were taken, of which 40 may wait (messages_max)");
    let connection = scene.world.clients[idle].connection;
    // Another queue, to the same two.
    let link = scene.world.producer(scene.sender, "other");
    scene.world.consumer(idle, "other", PLENTY);
    assert_eq!(scene.world.clients[scene.sender].send_all(link, b"y", 100), 100);
    scene.world.settle();
    assert_eq!(scene.texts(idle).len(), 115);
    // Everything at once, by one range that is longer than what there is of it to settle.
    let q = scene.world.state(idle).attached[0];
    let all = Deliveries { link: q, lane: Lane::Normal, positions: 0..15 };
    scene.world.clients[idle].core().settle(connection, &all, Outcome::Accepted).unwrap();
    scene.world.settle();
    assert_eq!(scene.queue().unsettled, 15, "the next ones came");
    assert!(
        scene.world.clients[scene.sender].send(scene.link, MessageKind::Message, b"z"),
        "there is room again"
    );
}

#[test]
fn what_is_unsettled_counts_in_the_bytes_of_its_queue() {
    let mut scene = Scene::new(queue(|queue| queue.bytes_max = 10_000));
    let first = scene.consumer(100);
    let mut sent = 0;
    for _ in 0..10 {
        sent += scene.world.clients[scene.sender].send_all(scene.link, &[7; 1000], 100);
        scene.world.settle();
    }
    assert!((8..=11).contains(&sent), "{sent} of 1000 bytes were taken, for 10000 (bytes_max)");
    assert_eq!((scene.queue().bytes, scene.queue().depth), (1000 * sent as u64, 0));
    let all: Vec<_> = (0..sent).collect();
    scene.say(first, &all, Outcome::Accepted);
    assert_eq!(scene.queue().bytes, 0);
    assert!(scene.world.clients[scene.sender].send(scene.link, MessageKind::Message, &[7; 1000]));
}

/// A consumer that does not settle works as ever.
#[test]
fn what_a_plain_consumer_was_given_is_done_with() {
    let mut scene = Scene::new(queue(|_| {}));
    let plain = scene.world.client();
    scene.world.consumer(plain, "q", PLENTY);
    scene.send(&["a", "b"]);
    let stats = scene.queue();
    assert_eq!((stats.delivered, stats.unsettled, stats.bytes), (2, 0, 0));
    scene.world.kill(plain);
    let second = scene.consumer(10);
    assert_eq!(scene.texts(second), [""; 0]);
}

#[test]
fn a_deadline_that_passes_while_nobody_settles_ends_the_message() {
    let mut scene = Scene::new(queue(|_| {}));
    let first = scene.consumer(10);
    for deadline_us in [20_000, 3_600_000_000] {
        let client = &mut scene.world.clients[scene.sender];
        let mut message = client.message(scene.link, MessageKind::Message, b"x");
        message.head.deadline_us = Some(deadline_us);
        assert!(client.send_message(message));
    }
    scene.world.settle();
    assert_eq!(scene.texts(first).len(), 2);
    std::thread::sleep(Duration::from_millis(30));
    scene.world.kill(first);
    let second = scene.consumer(10);
    assert_eq!(scene.texts(second), ["x*"]);
    let left_us = scene.world.state(second).received[0].head.deadline_us.unwrap();
    assert!(left_us <= 3_600_000_000 - 30_000, "{left_us} us are left, as if no time had passed");
    assert_eq!(scene.world.stats().expired, 1);
}

const SECRET: ReplySecret = ReplySecret([7; 32]);

/// Each request is owed one reply by who has it: not by the dead, and not by who gave it back.
#[test]
fn a_reply_is_owed_by_who_has_the_request() {
    let mut scene = Scene::new(queue(|_| {}));
    scene.world.reply_address(scene.sender, &SECRET, PLENTY);
    let first = scene.consumer(10);
    let client = &mut scene.world.clients[scene.sender];
    let mut request = client.message(scene.link, Request, b"?");
    request.head.reply_address = Some(ReplyAddress::of(&SECRET));
    request.head.correlation_id = CorrelationId(5);
    assert!(client.send_message(request));
    scene.world.settle();
    let second = scene.consumer(10);
    let given_back = scene.world.state(first).received.remove(0);
    // It takes no more, and gives it back: the other has it.
    let link = scene.world.state(first).attached[0];
    let connection = scene.world.clients[first].connection;
    scene.world.clients[first].settle(&given_back, Outcome::Released);
    scene.world.clients[first].core().detach_link(connection, link, DetachCode::Normal, "");
    scene.world.settle();
    assert_eq!(scene.texts(second), ["?*"]);
    let answer = Message::reply_to(&given_back.head, given_back.body);
    assert!(scene.world.clients[first].send_message(answer));
    scene.world.settle();
    assert_eq!(scene.world.stats().replies_unsolicited, 1);
    scene.world.kill(second);
    let third = scene.consumer(10);
    let request = scene.world.state(third).received.remove(0);
    let connection = scene.world.clients[third].connection;
    let (deliveries, reply) =
        (Deliveries::of(&request).unwrap(), Message::reply_to(&request.head, request.body));
    let core = scene.world.clients[third].core();
    core.send(connection, reply).map_err(|(error, _)| error).unwrap();
    core.settle(connection, &deliveries, Outcome::Accepted).unwrap();
    scene.world.settle();
    assert_eq!(scene.world.bodies(scene.sender), ["?"]);
    let stats = scene.world.stats();
    assert_eq!((stats.replies_routed, stats.replies_unsolicited, stats.queues[0].unsettled), (1, 1, 0));
}

#[test]
fn replies_are_not_settled() {
    let mut scene = Scene::new(queue(|_| {}));
    let (client, none) = (&mut scene.world.clients[scene.sender], room(0));
    let connection = client.connection;
    let address = underlay::proto::control::Address::Reply(SECRET);
    client.core().attach(connection, LinkRole::SettlingConsumer, address, none).unwrap();
    scene.world.settle();
    let refused = scene.world.state(scene.sender).detached.pop().unwrap();
    assert_eq!(refused.code, DetachCode::NotAllowed, "{refused:?}");
}

/// A shutdown begins with asking everybody to leave, and ends when what was delivered is settled.
#[test]
fn a_broker_that_stops_asks_to_be_left_and_waits_for_settlements() {
    let broker = BrokerSettings { drain_timeout_ms: 30_000, ..BrokerSettings::default() };
    let mut scene = Scene::new(queue(|_| {}).broker(broker));
    let first = scene.consumer(10);
    scene.send(&["a", "b"]);
    let (core, broker) = scene.world.broker.parts();
    broker.shut_down(core);
    scene.world.settle();
    for client in [scene.sender, first] {
        let state = scene.world.state(client);
        assert_eq!((state.leaving.len(), state.closed.len()), (1, 0), "it goes on serving");
        assert_eq!(state.leaving[0].within, Duration::from_secs(30));
    }
    scene.send(&["c"]);
    assert_eq!(scene.texts(first), ["a", "b", "c"]);
    scene.say(first, &[0, 1], Outcome::Accepted);
    assert_eq!(scene.world.state(first).closed, []);
    scene.say(first, &[2], Outcome::Accepted);
    assert_eq!(scene.world.state(first).closed.len(), 1);
}
