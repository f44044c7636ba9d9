//! The lives of connections: what handlers are told, in which order, how often.

use super::stage::*;
use crate::connection::{CloseReason, LinkRoom, SendError};
use crate::driver::DriverConfig;
use crate::proto::Parameters;
use crate::proto::control::{CloseCode, RefusalCode};
use crate::proto::handshake::RefusalReason;
use crate::time::Timestamp;
use std::time::Duration;

#[test]
fn handlers_are_told_in_order() {
    let mut stage = Stage::with([config(), config()]);
    stage.recorder(1).room = LinkRoom { messages: 1, bytes: 1 << 20 };
    let id = stage.connect(0, 1);
    let link = stage.link(0, id);
    stage.send(0, id, Some(link), b"one").unwrap();
    assert!(!stage.core(0).is_writable(id, link));
    stage.until(|stage| stage.recorder(1).messages.len() == 1);
    let (their_id, their_link) = stage.recorder(1).requested[0];
    stage.core(1).set_link_room(their_id, their_link, LinkRoom { messages: 1, bytes: 1 << 20 }).unwrap();
    stage.until(|stage| stage.recorder(0).said.contains(&"writable".to_owned()));
    stage.core(0).close(id, CloseCode::Normal, "done");
    stage.until(|stage| (0..2).all(|number| stage.core(number).connections() == 0));
    assert_eq!(stage.recorder(0).said, ["opened", "attached", "writable", "closed: local"]);
    assert_eq!(stage.recorder(1).said, ["opened", "requested", "message", "closed: peer"]);
    let (code, text) = (CloseCode::Normal, "done".to_owned());
    assert_eq!(stage.recorder(1).closed, [(their_id, CloseReason::Peer { code, text })]);
    assert_eq!(stage.drivers[1].stats().closed[&"peer"], 1);
    assert_eq!(stage.drivers[0].stats().connections_opened, 1);
}

#[test]
fn a_connection_to_nobody_is_reported_closed_once() {
    let mut stage = Stage::with([config()]);
    // At once, or as an event: the wire knows whether anybody listens only when it asks.
    if let Ok(id) = stage.core(0).connect(&Stage::place(7)) {
        stage.until(|stage| !stage.recorder(0).closed.is_empty());
        stage.settle();
        assert_eq!(stage.recorder(0).said, ["closed: channel"]);
        assert_eq!(stage.recorder(0).closed[0].0, id);
    }
    assert_eq!(stage.core(0).connections(), 0);
}

/// The other driver is never turned, so nobody answers; what the handler is told is why this end gave up.
#[test]
fn what_never_came_up_says_who_gave_it_up() {
    let mut config = config();
    config.connection.handshake_timeout = Duration::from_millis(5);
    let mut stage = Stage::with([config, self::config()]);
    let mut other = stage.drivers.pop().unwrap();
    let id = stage.core(0).connect(&Stage::place(1)).unwrap();
    stage.until(|stage| stage.core(0).connections() == 0);
    let reason = CloseReason::HandshakeTimeout(Duration::from_millis(5));
    assert_eq!(stage.recorder(0).closed, [(id, reason)]);
    let id = stage.core(0).connect(&Stage::place(1)).unwrap();
    stage.core(0).close(id, CloseCode::ShuttingDown, "changed my mind");
    stage.until(|stage| stage.core(0).connections() == 0);
    let (code, text) = (CloseCode::ShuttingDown, "changed my mind".to_owned());
    assert_eq!(stage.recorder(0).closed.pop(), Some((id, CloseReason::Local { code, text })));
    other.turn().unwrap();
}

#[test]
fn the_name_of_a_connection_that_ended_touches_no_other() {
    let mut stage = Stage::with([config(), config()]);
    let old = stage.connect(0, 1);
    let link = stage.link(0, old);
    stage.core(0).close(old, CloseCode::Normal, "");
    stage.until(|stage| (0..2).all(|number| stage.core(number).connections() == 0));
    let new = stage.connect(0, 1);
    assert_eq!((new.index(), new == old), (old.index(), false), "the same place, another name");
    let same = stage.link(0, new);
    assert_eq!(same, link);
    assert_eq!(stage.send(0, old, Some(link), b"x"), Err(SendError::NotOpen));
    assert!(!stage.core(0).is_writable(old, link));
    assert!(stage.core(0).set_link_room(old, link, AMPLE).is_err());
    assert_eq!((stage.core(0).peer(old).to_owned(), stage.core(0).waiting(old)), (String::new(), (0, 0)));
    stage.core(0).detach_link(old, link, crate::proto::control::DetachCode::Normal, "");
    stage.core(0).close(old, CloseCode::Normal, "");
    stage.core(0).abort(old, CloseReason::ResourceLimit(String::new()));
    stage.settle();
    assert_eq!(stage.core(0).connections(), 1);
    stage.send(0, new, Some(link), b"x").unwrap();
    stage.until(|stage| stage.recorder(1).messages.len() == 1);
}

#[test]
fn one_connection_too_many_is_refused_with_the_limit() {
    let mut stage = Stage::with([config(), DriverConfig { connections_max: 2, ..config() }]);
    let first = stage.connect(0, 1);
    stage.connect(0, 1);
    let third = stage.core(0).connect(&Stage::place(1)).unwrap();
    stage.until(|stage| !stage.recorder(0).closed.is_empty());
    let (id, reason) = stage.recorder(0).closed[0].clone();
    assert_eq!(id, third);
    let CloseReason::Refused(refusal) = reason else { panic!("{reason}") };
    assert_eq!(refusal.code, RefusalCode::ResourceLimit);
    assert_eq!(refusal.text(), "2 sessions are open (connections_max)");
    stage.until(|stage| stage.core(1).connections() == 2);
    assert!(matches!(
        stage.recorder(1).closed[..],
        [(_, CloseReason::HandshakeRefused(RefusalReason::Policy { .. }))]
    ));
    // The others go on, and a place that is free again can be taken.
    stage.core(0).close(first, CloseCode::Normal, "");
    stage.until(|stage| stage.core(1).connections() == 1);
    stage.connect(0, 1);
}

#[test]
fn timers_fire_once_and_in_their_order() {
    let mut stage = Stage::with([config()]);
    let core = stage.core(0);
    let now = core.now();
    for (key, after) in [(3, 3), (0, 1), (1, 2), (2, 1)] {
        core.set_timer(key, now + Duration::from_millis(after));
    }
    core.set_timer(2, Timestamp::NEVER);
    stage.until(|stage| stage.recorder(0).said.len() >= 3);
    stage.settle();
    assert_eq!(stage.recorder(0).said, ["timer 0", "timer 1", "timer 3"]);
}

/// Also while a connection is idle, so that its keep-alives come due while the driver sleeps.
#[test]
fn idle_drivers_sleep_and_keep_their_connections() {
    let mut config = config();
    let parameters = Parameters { keep_alive_ms: 10, idle_timeout_ms: 2000, ..Parameters::default() };
    config.connection.parameters = parameters;
    let mut stage = Stage::with([config.clone(), config]);
    stage.connect(0, 1);
    let start = std::time::Instant::now();
    let turns: u64 = stage.drivers.iter().map(|driver| driver.stats().turns).sum();
    let sends: u64 = stage.drivers.iter().map(|driver| driver.stats().sends).sum();
    for _ in 0..20 {
        for driver in &mut stage.drivers {
            driver.run_until(Some(Duration::from_millis(10)), |_, _| false).unwrap();
        }
    }
    let turns = stage.drivers.iter().map(|driver| driver.stats().turns).sum::<u64>() - turns;
    let sends = stage.drivers.iter().map(|driver| driver.stats().sends).sum::<u64>() - sends;
    // One each 10 ms and end, but never two for the same 10 ms.
    let most = 2 + 2 * start.elapsed().as_millis() as u64 / 10;
    assert!((4..=most).contains(&sends), "{sends} keep-alives, {most} periods");
    assert!(turns > 40 && stage.drivers.iter().all(|driver| driver.stats().wait.sleeps > 0), "{turns}");
    assert!((0..2).all(|number| stage.recorder(number).closed.is_empty()));
}

#[test]
fn stop_ends_run_after_the_present_turn() {
    let mut stage = Stage::with([config()]);
    stage.core(0).stop();
    stage.drivers[0].run().unwrap();
    assert!(!stage.drivers[0].run_until(Some(LIMIT), |_, _| false).unwrap());
}

#[test]
fn a_handler_may_close_the_connection_that_its_message_came_from() {
    let mut stage = Stage::with([config(), config()]);
    stage.recorder(1).react = Box::new(|core, id, _| {
        core.close(id, CloseCode::NotAllowed, "no such thing here");
        None
    });
    let id = stage.connect(0, 1);
    let link = stage.link(0, id);
    (0..5).for_each(|_| stage.send(0, id, Some(link), b"x").unwrap());
    stage.until(|stage| (0..2).all(|number| stage.core(number).connections() == 0));
    assert_eq!(stage.recorder(1).closed.len(), 1);
    let (code, text) = (CloseCode::NotAllowed, "no such thing here".to_owned());
    assert_eq!(stage.recorder(0).closed, [(id, CloseReason::Peer { code, text })]);
}

#[test]
fn a_handler_may_abort_the_connection_that_its_message_came_from() {
    let mut stage = Stage::with([config(), config()]);
    stage.recorder(1).react = Box::new(|core, id, _| {
        core.abort(id, CloseReason::ResourceLimit("too much".to_owned()));
        None
    });
    let id = stage.connect(0, 1);
    (0..5).for_each(|_| stage.send(0, id, None, b"x").unwrap());
    stage.until(|stage| (0..2).all(|number| stage.core(number).connections() == 0));
    let messages = stage.recorder(1).said.iter().filter(|said| *said == "message").count();
    assert_eq!((messages, stage.recorder(1).closed.len()), (1, 1), "nothing follows the end");
}
