//! Processes are killed with `kill -9` under load.

use crate::cast::{Cast, figures, restart_broker, start_broker, wait_for_figure};
use crate::part::{Calls, Outcome, Role, Times};
use std::cell::{Cell, RefCell};

/// Who died is known at once, because its kernel closes its connections; what it had is waited for until then.
const TIMES: Times = Times { idle_timeout_ms: 2_000, session_expiry_ms: 300, failover_after_ms: 200 };

#[test]
fn brokers_that_are_killed_leave_in_doubt_only_what_was_on_its_way_through_them() {
    let first = RefCell::new(Some(start_broker("127.0.0.1:0", TIMES)));
    let second = RefCell::new(Some(start_broker("127.0.0.1:0", TIMES)));
    let address =
        |broker: &RefCell<Option<crate::process::Process>>| broker.borrow().as_ref().unwrap().address.clone();
    let addresses = [address(&first), address(&second)];
    let mut cast =
        Cast::new("brokers killed with kill -9", &[&addresses[0], &addresses[1]], TIMES, Calls::Mixed);
    cast.service();
    cast.client(Role::Client);
    cast.client(Role::Client);
    for _ in 0..5 {
        // Dropping a broker is killing it.
        let kill_first = |_: &mut Cast| drop(first.take());
        let kill_second = |_: &mut Cast| drop(second.take());
        cast.under_load(1_000, &[&kill_first]);
        first.replace(Some(restart_broker(&addresses[0], TIMES)));
        cast.is_back_at(&addresses[0]);
        cast.under_load(1_000, &[&kill_second]);
        second.replace(Some(restart_broker(&addresses[1], TIMES)));
        cast.is_back_at(&addresses[1]);
    }
    let ledger = cast.ledger();
    for broker in [first.take(), second.take()] {
        figures(broker.unwrap(), ["broker.messages_in", "broker.replies_routed"]);
    }
    ledger.adds_up();
    assert_eq!(ledger.count(Outcome::NotSent), 0, "there was always another broker");
    assert!(ledger.events("failed over") >= 5, "no client noticed");
    // The one service lives, so nothing at all is handled twice: copies are told apart, and no other is sent again.
    assert_eq!(ledger.repeated().count(), 0);
}

#[test]
fn services_that_are_killed_are_stood_in_for_by_others() {
    let broker = start_broker("127.0.0.1:0", TIMES);
    let mut cast = Cast::new("services killed with kill -9", &[&broker.address], TIMES, Calls::Once);
    cast.service();
    cast.service();
    cast.client(Role::Client);
    cast.client(Role::Client);
    let deaths = Cell::new(0_u32);
    let kill = |cast: &mut Cast| deaths.set(deaths.get() | 1 << cast.kill_service(0));
    for _ in 0..5 {
        cast.under_load(1_500, &[&kill]);
        cast.service();
    }
    let ledger = cast.ledger();
    // One that was killed with nothing to do has held nothing up.
    wait_for_figure(&broker, "sessions.expired", 5);
    let names =
        ["broker.redelivered", "broker.redeliveries_exhausted", "sessions.expired", "broker.messages_in"];
    let [redelivered, exhausted, expired, _] = figures(broker, names);
    ledger.adds_up();
    assert_eq!(
        (ledger.count(Outcome::Unknown), ledger.count(Outcome::NotSent)),
        (0, 0),
        "the broker kept them"
    );
    assert_eq!((expired, exhausted), (5, 0));
    assert!(redelivered > 0, "they were killed with nothing to do");
    assert_eq!(ledger.events("interrupted"), 0, "nobody else noticed");
    let is_dead = |service: u32| deaths.get() & 1 << service != 0;
    for (request, handled) in ledger.repeated() {
        // The last one lives, or died with it, too; all others are dead, and all but the first knew.
        let (marked, living) = handled.iter().fold((0, 0), |(marked, living), it| {
            (marked + usize::from(it.is_redelivered), living + usize::from(!is_dead(it.service)))
        });
        assert!(marked >= handled.len() - 1 && living <= 1, "{request:?} was handled by {handled:?}");
    }
}
