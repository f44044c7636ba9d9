//! Messages that nobody answers: what was produced is settled in the end, whoever dies and whatever is cut.

use crate::body::Request;
use crate::cast::{Actor, Cast, figures, wait_for_figure};
use crate::part::{Calls, Role, Times};
use crate::stage::Stage;
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

pub(crate) fn what_was_produced_is_settled_whoever_dies(stage: &Stage) {
    let (times, messages, rounds) = (stage.times(TIMES), stage.messages(MESSAGES), stage.rounds(ROUNDS));
    let broker = stage.broker(times);
    let Some(way) = stage.way(&broker) else { return };
    let cast = Cast::new("messages one way", stage, &[&way.address()], times, Calls::Once);
    let consumer = |number| Actor::start(cast.part(Role::Service, number));
    let mut consumers = vec![consumer(1), consumer(2)];
    let mut producers: Vec<Actor> =
        (1..=PRODUCERS).map(|number| Actor::start(cast.part(Role::Producer, number))).collect();
    let mut ledger = Ledger::default();
    for round in 1..=rounds {
        // Every second one dies of what it was given while it could handle nothing, so that some is left for certain;
        // the others die at work, which may be done before they are.
        if round % 2 == 1 {
            consumers[0].signal(Signal::SIGSTOP);
        }
        producers.iter_mut().for_each(|producer| producer.tell(messages));
        // Half of what this round brings.
        ledger.wait_for(&mut consumers, PRODUCERS * messages * round - messages);
        // The first one may be stopped, and then does not notice.
        way.cut(consumers[1..].iter_mut().chain(&mut producers));
        let (part, log) = consumers.remove(0).kill();
        ledger.add(part.number, &log);
        consumers.push(consumer(round + 2));
        for producer in &mut producers {
            let held = format!("held {}", messages * round);
            producer.wait_until(&held, |log| log.lines().any(|line| line == held));
        }
    }
    let produced = u64::from(PRODUCERS * messages * rounds);
    wait_for_figure(&broker, "queue.work.settled", produced);
    // One that died with nothing unsettled has held nothing up: its session may still be waiting for it.
    wait_for_figure(&broker, "sessions.expired", u64::from(rounds));
    for consumer in &mut consumers {
        ledger.add(consumer.part.number, consumer.log());
    }
    println!(
        "ledger of messages one way\n  produced and held by the broker {produced}\n{ledger}\n  took {}",
        cast.took()
    );
    drop((producers, consumers));
    let names = ["messages_in", "delivered", "settled", "depth"].map(|name| format!("queue.work.{name}"));
    let names = names.iter().map(String::as_str);
    let others = ["broker.redelivered", "sessions.resumed", "sessions.duplicates", "sessions.expired"];
    let names: Vec<&str> = names.chain(others).collect();
    let names: [&str; 8] = names.try_into().unwrap();
    let [messages_in, delivered, settled, depth, redelivered, resumed, _, expired] = figures(broker, names);
    assert_eq!((messages_in, settled, depth), (produced, produced, 0));
    assert_eq!(delivered, produced + redelivered, "each was given once, and again as often as it went back");
    assert_eq!(expired, u64::from(rounds), "of those that died");
    assert!(redelivered > 0 && resumed >= u64::from(rounds), "{redelivered} {resumed}");
    // Those with the lowest numbers died.
    ledger.is_each_once_but_for_the_dead(produced, rounds);
}

/// Who has handled which message, and whether it was marked as redelivered.
#[derive(Default)]
pub(crate) struct Ledger {
    handled: HashMap<Request, Vec<(u32, bool)>>,
    count: u32,
    /// Messages of a producer that a consumer handled after a later one.
    out_of_order: u32,
}

impl Ledger {
    pub(crate) fn add(&mut self, consumer: u32, log: &str) {
        let mut last: HashMap<u32, u32> = HashMap::new();
        for line in log.lines().filter_map(|line| line.strip_prefix("handled ")) {
            let numbers: Vec<u32> = line.split(' ').map(|word| word.parse().unwrap()).collect();
            let entry = self.handled.entry((numbers[0], numbers[1])).or_default();
            entry.push((consumer, numbers[2] == 1));
            self.count += 1;
            let last = last.entry(numbers[0]).or_default();
            self.out_of_order += u32::from(numbers[1] < *last);
            *last = numbers[1].max(*last);
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

    /// By the one consumer that there was.
    pub(crate) fn is_each_once_and_in_order(&self, produced: u64) {
        assert_eq!(self.handled.len() as u64, produced, "messages were lost");
        assert_eq!((u64::from(self.count), self.out_of_order), (produced, 0), "handled, and out of order");
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
        write!(f, "{} handlings, {marked} of them marked as redelivered, ", self.count)?;
        write!(f, "{} out of order", self.out_of_order)
    }
}
