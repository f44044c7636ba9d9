//! Messages that nobody answers: what was produced is settled in the end, whoever dies and whatever is cut.

use crate::body::Request;
use crate::cast::{Actor, Cast, figures, start_broker, wait_for_figure};
use crate::part::{Calls, Role, Times};
use crate::proxy::Proxy;
use nix::sys::signal::Signal;
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

/// A session that is cut comes back long before it expires.
const TIMES: Times = Times { idle_timeout_ms: 2_000, session_expiry_ms: 2_000, failover_after_ms: 200 };

const PRODUCERS: u32 = 2;
const ROUNDS: u32 = 5;
/// Of each producer, in each round.
const MESSAGES: u32 = 1_000;

#[test]
fn what_was_produced_is_settled_whoever_dies() {
    let broker = start_broker("127.0.0.1:0", TIMES);
    let proxy = Proxy::start(&broker.address);
    let cast = Cast::new("messages one way", &[&proxy.address], TIMES, Calls::Once);
    let consumer = |number| Actor::start(cast.part(Role::Service, number));
    let mut consumers = vec![consumer(1), consumer(2)];
    let mut producers: Vec<Actor> =
        (1..=PRODUCERS).map(|number| Actor::start(cast.part(Role::Producer, number))).collect();
    let mut ledger = Ledger::default();
    for round in 1..=ROUNDS {
        // Every second one dies of what it was given while it could handle nothing, so that some is left for certain;
        // the others die at work, which may be done before they are.
        if round % 2 == 1 {
            consumers[0].signal(Signal::SIGSTOP);
        }
        producers.iter_mut().for_each(|producer| producer.tell(MESSAGES));
        // Half of what this round brings.
        ledger.wait_for(&mut consumers, PRODUCERS * MESSAGES * round - MESSAGES);
        proxy.cut();
        let (part, log) = consumers.remove(0).kill();
        ledger.add(part.number, &log);
        consumers.push(consumer(round + 2));
        for producer in &mut producers {
            let held = format!("held {}", MESSAGES * round);
            producer.wait_until(&held, |log| log.lines().any(|line| line == held));
        }
    }
    let produced = u64::from(PRODUCERS * MESSAGES * ROUNDS);
    wait_for_figure(&broker, "queue.work.settled", produced);
    // One that died with nothing unsettled has held nothing up: its session may still be waiting for it.
    wait_for_figure(&broker, "sessions.expired", u64::from(ROUNDS));
    for consumer in &mut consumers {
        ledger.add(consumer.part.number, consumer.log());
    }
    println!("ledger of messages one way\n  produced and held by the broker {produced}\n{ledger}");
    drop((producers, consumers));
    let names = ["messages_in", "delivered", "settled", "depth"].map(|name| format!("queue.work.{name}"));
    let names = names.iter().map(String::as_str);
    let others = ["broker.redelivered", "sessions.resumed", "sessions.duplicates", "sessions.expired"];
    let names: Vec<&str> = names.chain(others).collect();
    let names: [&str; 8] = names.try_into().unwrap();
    let [messages_in, delivered, settled, depth, redelivered, resumed, _, expired] = figures(broker, names);
    assert_eq!((messages_in, settled, depth), (produced, produced, 0));
    assert_eq!(delivered, produced + redelivered, "each was given once, and again as often as it went back");
    assert_eq!(expired, u64::from(ROUNDS), "of those that died");
    assert!(redelivered > 0 && resumed >= u64::from(ROUNDS), "{redelivered} {resumed}");
    // Those with the lowest numbers died.
    ledger.is_each_once_but_for_the_dead(produced, ROUNDS);
}

/// Who has handled which message, and whether it was marked as redelivered.
#[derive(Default)]
struct Ledger {
    handled: HashMap<Request, Vec<(u32, bool)>>,
    count: u32,
}

impl Ledger {
    fn add(&mut self, consumer: u32, log: &str) {
        for line in log.lines().filter_map(|line| line.strip_prefix("handled ")) {
            let numbers: Vec<u32> = line.split(' ').map(|word| word.parse().unwrap()).collect();
            let entry = self.handled.entry((numbers[0], numbers[1])).or_default();
            entry.push((consumer, numbers[2] == 1));
            self.count += 1;
        }
    }

    /// Waits until so much was handled in all, by these or before.
    fn wait_for(&self, consumers: &mut [Actor], goal: u32) {
        let lines = |log: &str| log.lines().filter(|line| line.starts_with("handled ")).count() as u32;
        let [others @ .., last] = consumers else { return };
        let mut by_others = move || others.iter_mut().map(|it| lines(it.log())).sum::<u32>();
        last.wait_until("half of the round", |log| {
            std::thread::sleep(Duration::from_millis(5));
            self.count + by_others() + lines(log) >= goal
        });
    }

    fn is_each_once_but_for_the_dead(&self, produced: u64, last_dead: u32) {
        assert_eq!(self.handled.len() as u64, produced, "messages were lost");
        for (message, handled) in self.handled.iter().filter(|(_, handled)| handled.len() > 1) {
            let living = handled.iter().filter(|(consumer, _)| *consumer > last_dead).count();
            let marked = handled.iter().filter(|(_, is_redelivered)| *is_redelivered).count();
            assert!(living <= 1 && marked + 1 >= handled.len(), "{message:?} was handled by {handled:?}");
        }
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let marked = self.handled.values().flatten().filter(|(_, is_redelivered)| *is_redelivered).count();
        let twice = self.handled.values().filter(|handled| handled.len() > 1).count();
        write!(f, "  handled {} messages, {twice} of them by more than one; ", self.handled.len())?;
        write!(f, "{} handlings, {marked} of them marked as redelivered", self.count)
    }
}
