//! Processes are stopped with `kill -STOP` under load, for shorter and for longer than others wait for them.

use crate::cast::{Cast, figures};
use crate::ledger::Ledger;
use crate::part::{Calls, Outcome, Role, Times};
use crate::process::Process;
use crate::stage::Stage;
use nix::sys::signal::Signal;
use std::thread::sleep;
use std::time::Duration;

/// A stopped process is silent: after this time its connections are given up, and a while later its sessions.
const TIMES: Times = Times { idle_timeout_ms: 800, session_expiry_ms: 300, failover_after_ms: 200 };

/// Nobody gives up anybody.
const PATIENT: Times =
    Times { idle_timeout_ms: 20_000, session_expiry_ms: 20_000, failover_after_ms: 20_000 };

/// Others still wait.
const SHORT: Duration = Duration::from_millis(200);
/// Nobody waits any longer.
const LONG: Duration = Duration::from_millis(1_800);

fn stop(stage: &Stage, broker: &Process, time: Duration) {
    broker.signal(Signal::SIGSTOP);
    sleep(stage.time(time));
    broker.signal(Signal::SIGCONT);
}

fn stop_service(stage: &Stage, cast: &mut Cast, time: Duration) {
    cast.services[0].signal(Signal::SIGSTOP);
    sleep(stage.time(time));
    cast.services[0].signal(Signal::SIGCONT);
}

fn cast(
    name: &'static str,
    stage: &Stage,
    brokers: &[&Process],
    (times, calls): (Times, Calls),
    services: usize,
) -> Cast {
    let brokers: Vec<&str> = brokers.iter().map(|broker| &*broker.addresses[0]).collect();
    let mut cast = Cast::new(name, stage, &brokers, times, calls);
    (0..services).for_each(|_| cast.service());
    cast.client(Role::Client);
    cast.client(Role::Client);
    cast
}

fn names() -> [&'static str; 4] {
    ["sessions.interrupted", "sessions.resumed", "sessions.expired", "broker.redelivered"]
}

pub(crate) fn a_service_that_is_stopped_for_a_moment_is_waited_for(stage: &Stage) {
    let broker = stage.broker(PATIENT);
    let mut cast = cast("a service stopped for a moment", stage, &[&broker], (PATIENT, Calls::Once), 1);
    let stop = |cast: &mut Cast| stop_service(stage, cast, SHORT);
    cast.under_load(stage.messages(1_500), &[&stop, &stop, &stop]);
    let ledger = cast.ledger();
    let [.., expired, redelivered] = figures(broker, names());
    ledger.is_as_if_nothing_had_happened();
    assert_eq!((expired, redelivered, ledger.out_of_order()), (0, 0, 0));
}

pub(crate) fn a_service_that_is_stopped_for_long_is_stood_in_for_and_comes_back(stage: &Stage) {
    let times = stage.times(TIMES);
    let broker = stage.broker(times);
    let mut cast = cast("a service stopped for long", stage, &[&broker], (times, Calls::Once), 2);
    let stop = |cast: &mut Cast| stop_service(stage, cast, LONG);
    let rounds = stage.rounds(2);
    for _ in 0..rounds {
        cast.under_load(stage.messages(1_000), &[&stop]);
        cast.services[0].is_back_at(&broker.addresses[0]);
    }
    cast.under_load(stage.messages(500), &[]);
    let ledger = cast.ledger();
    let [.., expired, redelivered] = figures(broker, names());
    ledger.adds_up();
    assert_eq!(
        (ledger.count(Outcome::Unknown), ledger.count(Outcome::NotSent)),
        (0, 0),
        "the broker kept them"
    );
    assert!(expired >= rounds.into() && redelivered > 0, "{expired} {redelivered}");
    for (request, handled) in ledger.repeated() {
        // What the stopped one had received it goes on with, and cannot know better. The other one is told.
        let is_explained = handled.len() == 2
            && handled.iter().any(|it| it.service == 1)
            && handled.iter().any(|it| it.service == 2 && it.is_redelivered);
        assert!(is_explained, "{request:?} was handled by {handled:?}");
    }
}

pub(crate) fn a_broker_that_is_stopped_for_a_moment_is_waited_for(stage: &Stage) {
    let broker = stage.broker(PATIENT);
    let mut cast = cast("a broker stopped for a moment", stage, &[&broker], (PATIENT, Calls::Once), 1);
    let stop = |_: &mut Cast| stop(stage, &broker, SHORT);
    cast.under_load(stage.messages(1_500), &[&stop, &stop, &stop]);
    let ledger = cast.ledger();
    figures(broker, names());
    ledger.is_as_if_nothing_had_happened();
    assert_eq!(ledger.out_of_order(), 0);
}

pub(crate) fn a_broker_that_is_stopped_for_long_is_left_for_another(stage: &Stage) {
    let times = stage.times(TIMES);
    let (first, second) = (stage.broker(times), stage.broker(times));
    let mut cast = cast("a broker stopped for long", stage, &[&first, &second], (times, Calls::Mixed), 1);
    let stop = |_: &mut Cast| stop(stage, &first, LONG);
    let rounds = stage.rounds(2);
    for _ in 0..rounds {
        cast.under_load(stage.messages(750), &[&stop]);
        cast.is_back_at(&first.addresses[0]);
    }
    cast.under_load(stage.messages(500), &[]);
    let ledger: Ledger = cast.ledger();
    for broker in [first, second] {
        figures(broker, names());
    }
    ledger.adds_up();
    assert_eq!(ledger.count(Outcome::NotSent), 0, "there was always another broker");
    assert!(ledger.events("failed over") >= u64::from(rounds), "no client noticed");
    // The one service lives: copies are told apart, and no other request is sent again.
    assert_eq!(ledger.repeated().count(), 0);
}
