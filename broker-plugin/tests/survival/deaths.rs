//! Processes are killed with `kill -9` under load.

use crate::cast::{Cast, Fault, figures, wait_for_figure};
use crate::part::{Calls, Outcome, Role, Times};
use crate::stage::Stage;
use nix::sys::signal::Signal;
use std::cell::{Cell, RefCell};
use std::thread::sleep;
use std::time::Duration;

/// Who died is known at once, because its kernel closes its connections; what it had is waited for until then.
const TIMES: Times = Times { idle_timeout_ms: 2_000, session_expiry_ms: 300, failover_after_ms: 200 };

/// Time for all that clients have on their way to come to a service that answers nothing.
const WHILE: Duration = Duration::from_millis(150);

pub(crate) fn brokers_that_are_killed_leave_in_doubt_only_what_was_on_its_way_through_them(stage: &Stage) {
    let (times, messages) = (stage.times(TIMES), stage.messages(1_000));
    let brokers = [stage.broker(times), stage.broker(times)];
    let addresses = [0, 1].map(|place: usize| brokers[place].addresses[0].clone());
    let [first, second] = brokers.map(|broker| RefCell::new(Some(broker)));
    let both = [&*addresses[0], &addresses[1]];
    let mut cast = Cast::new("brokers killed with kill -9", stage, &both, times, Calls::Mixed);
    cast.service();
    cast.client(Role::Client);
    cast.client(Role::Client);
    let rounds = stage.rounds(5);
    for _ in 0..rounds {
        // Dropping a broker is killing it.
        let kill_first = |_: &mut Cast| drop(first.take());
        let kill_second = |_: &mut Cast| drop(second.take());
        cast.under_load(messages, &[&kill_first]);
        first.replace(Some(stage.broker_again(&addresses[0], times)));
        cast.is_back_at(&addresses[0]);
        cast.under_load(messages, &[&kill_second]);
        second.replace(Some(stage.broker_again(&addresses[1], times)));
        cast.is_back_at(&addresses[1]);
    }
    let ledger = cast.ledger();
    for broker in [first.take(), second.take()] {
        figures(broker.unwrap(), ["broker.messages_in", "broker.replies_routed"]);
    }
    ledger.adds_up();
    assert_eq!(ledger.count(Outcome::NotSent), 0, "there was always another broker");
    assert!(ledger.events("failed over") >= u64::from(rounds), "no client noticed");
    // The one service lives, so nothing at all is handled twice: copies are told apart, and no other is sent again.
    assert_eq!(ledger.repeated().count(), 0);
}

pub(crate) fn services_that_are_killed_are_stood_in_for_by_others(stage: &Stage) {
    let times = stage.times(TIMES);
    let broker = stage.broker(times);
    let mut cast =
        Cast::new("services killed with kill -9", stage, &[&broker.addresses[0]], times, Calls::Once);
    cast.service();
    cast.service();
    cast.client(Role::Client);
    cast.client(Role::Client);
    let deaths = Cell::new(0_u32);
    let kill = |cast: &mut Cast| deaths.set(deaths.get() | 1 << cast.kill_service(0));
    // It dies of what it is given while it can handle nothing, so that some is left for certain.
    let stop_and_kill = |cast: &mut Cast| {
        cast.services[0].signal(Signal::SIGSTOP);
        sleep(stage.time(WHILE));
        kill(cast);
    };
    let rounds = stage.rounds(5);
    for round in 0..rounds {
        // The others die at work, which may be done before they are.
        let fault: Fault<'_> = if round % 2 == 0 { &stop_and_kill } else { &kill };
        cast.under_load(stage.messages(1_500), &[fault]);
        cast.service();
    }
    let ledger = cast.ledger();
    // One that was killed with nothing to do has held nothing up.
    wait_for_figure(&broker, "sessions.expired", rounds.into());
    let names =
        ["broker.redelivered", "broker.redeliveries_exhausted", "sessions.expired", "broker.messages_in"];
    let [redelivered, exhausted, expired, _] = figures(broker, names);
    ledger.adds_up();
    assert_eq!(ledger.count(Outcome::NotSent), 0, "the broker kept them");
    assert_eq!((expired, exhausted), (rounds.into(), 0));
    assert!(redelivered > 0, "they were killed with nothing to do");
    assert_eq!(ledger.events("interrupted"), 0, "nobody else noticed");
    let is_dead = |service: u32| deaths.get() & 1 << service != 0;
    // Over TCP the kernel delivers what a process had sent before it died. Over RDMA the replies behind a long one, which
    // the broker is reading, die with it, and what says that their requests were handled may have gone ahead.
    assert!(stage.is_rdma() || ledger.count(Outcome::Unknown) == 0, "the broker kept them");
    for (request, handled) in ledger.in_doubt() {
        let is_explained = matches!(handled, [it] if is_dead(it.service));
        assert!(is_explained, "{request:?} is in doubt, and was handled by {handled:?}");
    }
    for (request, handled) in ledger.repeated() {
        // The last one lives, or died with it, too; all others are dead, and all but the first knew.
        let (marked, living) = handled.iter().fold((0, 0), |(marked, living), it| {
            (marked + usize::from(it.is_redelivered), living + usize::from(!is_dead(it.service)))
        });
        assert!(marked >= handled.len() - 1 && living <= 1, "{request:?} was handled by {handled:?}");
    }
}
