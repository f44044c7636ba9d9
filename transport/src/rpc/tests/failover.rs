//! Several brokers, of which some die, leave, are interrupted or come back, with calls in flight.

use super::brokers::{Brokers, quick};
use super::rig::{Answer, LIMIT, Peer, body_of, text};
use crate::connection::LinkRoom;
use crate::driver::Address;
use crate::proto::control::DetachCode;
use crate::rpc::{
    ADDRESSES_MAX, CallError, CallOptions, Class, Client, ClientConfig, ClientError, ReplyDestination,
};
use std::time::Duration;

const ONCE: CallOptions = CallOptions::new(LIMIT);
const AGAIN: CallOptions = ONCE.idempotent();

#[test]
fn the_first_broker_that_works_is_used_and_the_reply_address_is_the_same_by_all() {
    let mut brokers = Brokers::new(3, &[1, 2], quick());
    let mut call = brokers.start(b"one", ONCE);
    let request = brokers.request(1);
    brokers.reply(1, &request.head, b"answer");
    assert_eq!(text(&brokers.outcome(&mut call).unwrap()), "answer");
    assert!(!brokers.has_session(2), "one session is enough");
    brokers.kill(1);
    let mut call = brokers.start(b"two", ONCE);
    let again = brokers.request(2);
    assert_eq!(again.head.reply_address, request.head.reply_address);
    assert_ne!(again.head.message_number, request.head.message_number);
    brokers.reply(2, &again.head, b"answer");
    brokers.outcome(&mut call).unwrap();
    let is_told = brokers.heard(1, "lost") || brokers.heard(1, "interrupted");
    assert!(is_told && brokers.heard(2, "calls go here now"), "{:?}", brokers.events());
    assert_eq!(brokers.client.call_stats().failovers, 1);
}

/// Of each kind some are in flight and some wait for credit when the broker dies. The ledger adds up.
#[test]
fn when_a_broker_dies_what_was_sent_once_is_in_doubt_and_all_else_goes_by_the_next() {
    let mut brokers = Brokers::new(2, &[0, 1], quick());
    brokers.peer(0).room = LinkRoom { messages: 6, bytes: 1 << 20 };
    let mut sent: Vec<_> = (0..3).map(|_| brokers.start(b"sent once", ONCE)).collect();
    let mut repeated: Vec<_> = (0..3).map(|_| brokers.start(b"sent again", AGAIN)).collect();
    let mut waiting: Vec<_> =
        [ONCE, AGAIN, ONCE].map(|options| brokers.start(b"waiting", options)).into_iter().collect();
    let at_first = brokers.requests(0);
    assert_eq!(at_first.len(), 6);
    assert!(at_first.iter().all(|request| request.head.attempt == 0));
    brokers.kill(0);
    for call in &mut sent {
        let error = brokers.outcome(call).unwrap_err();
        assert!(matches!(error, CallError::OutcomeUnknown { .. }), "{error}");
    }
    brokers.until("they are there", |brokers| brokers.peer(1).requests.len() == 6);
    let at_second = brokers.requests(1);
    for request in &at_second {
        let earlier = at_first.iter().find(|its| its.head.message_number == request.head.message_number);
        let is_repeated = body_of(request) == b"sent again";
        assert_eq!(earlier.is_some(), is_repeated);
        assert_eq!(request.head.attempt, u8::from(is_repeated));
        assert!(
            earlier
                .is_none_or(|its| its.head.copies && its.head.correlation_id == request.head.correlation_id)
        );
        brokers.reply(1, &request.head, b"done");
    }
    for call in repeated.iter_mut().chain(&mut waiting) {
        assert_eq!(text(&brokers.outcome(call).unwrap()), "done");
    }
    let stats = brokers.client.call_stats();
    assert_eq!((stats.calls, stats.replies, stats.outcome_unknown, stats.resent), (9, 6, 3, 3));
    assert_eq!((stats.timed_out, stats.not_sent, stats.late_replies), (0, 0, 0));
    assert_eq!(brokers.client.calls().sizes().0, 0);
}

#[test]
fn a_call_that_is_sent_once_has_no_mark_of_copies() {
    let mut brokers = Brokers::new(1, &[0], quick());
    let _calls = [ONCE, ONCE.class(Class::Silver), ONCE.class(Class::Bronze)]
        .map(|options| brokers.start(b"x", options));
    let lanes: Vec<_> =
        brokers.requests(0).iter().map(|request| (request.head.lane, request.head.copies)).collect();
    use crate::proto::Lane::{Bulk, Normal, Urgent};
    assert_eq!(lanes, [(Normal, false), (Urgent, false), (Bulk, false)]);
}

#[test]
fn the_only_broker_is_found_again_and_calls_wait_for_it() {
    let mut brokers = Brokers::new(1, &[0], quick());
    let mut sent = brokers.start(b"sent", ONCE);
    assert_eq!(brokers.requests(0).len(), 1);
    brokers.kill(0);
    assert!(matches!(brokers.outcome(&mut sent), Err(CallError::OutcomeUnknown { .. })));
    let mut short = brokers.start(b"x", CallOptions::new(Duration::from_millis(30)));
    let error = brokers.outcome(&mut short).unwrap_err();
    let address = brokers.addresses[0].to_string();
    assert!(
        matches!(&error, CallError::NotSentInTime { reason, .. } if reason.contains(&address)),
        "{error}"
    );
    let mut waiting = brokers.start(b"waiting", ONCE);
    brokers.revive(0);
    let request = brokers.request(0);
    brokers.reply(0, &request.head, b"");
    brokers.outcome(&mut waiting).unwrap();
    assert!(brokers.heard(0, "not reached"));
    assert_eq!(brokers.client.call_stats().failovers, 0);
}

#[test]
fn an_answer_to_an_earlier_attempt_is_as_good_and_one_to_a_later_one_is_forged() {
    let mut brokers = Brokers::new(2, &[0, 1], quick());
    let mut call = brokers.start(b"x", AGAIN);
    let first = brokers.requests(0).remove(0).head;
    brokers.interrupt(0);
    let second = brokers.request(1).head;
    assert_eq!((first.attempt, second.attempt), (0, 1));
    let mut forged = second;
    forged.attempt = 2;
    brokers.reply(1, &forged, b"forged");
    assert!(call.try_take().is_none());
    // The session that was interrupted has come back, and has brought this.
    brokers.reply(0, &first, b"to the first");
    assert_eq!(text(&call.try_take().unwrap().unwrap()), "to the first");
    brokers.reply(1, &second, b"to the second");
    assert_eq!(brokers.client.call_stats().late_replies, 2);
}

#[test]
fn an_interrupted_session_is_waited_for_a_while_and_then_its_calls_are_in_doubt() {
    let config = ClientConfig { failover_after: Duration::from_millis(40), ..quick() };
    let mut brokers = Brokers::new(2, &[0, 1], config);
    let mut before = brokers.start(b"before", ONCE);
    brokers.requests(0);
    brokers.interrupt(0);
    let mut after = brokers.start(b"after", ONCE);
    let request = brokers.request(1);
    assert_eq!(body_of(&request), b"after");
    brokers.reply(1, &request.head, b"");
    brokers.outcome(&mut after).unwrap();
    assert!(before.try_take().is_none(), "it may still be answered");
    let error = brokers.outcome(&mut before).unwrap_err();
    assert!(
        matches!(&error, CallError::OutcomeUnknown { reason } if reason.contains("failover_after")),
        "{error}"
    );
    brokers.resume(0);
    assert!(brokers.heard(0, "calls go here again"));
    let _back = brokers.start(b"back", ONCE);
    assert_eq!(brokers.requests(0).len(), 1, "new calls go there again");
    brokers.until("the other is closed", |brokers| brokers.peer(1).closed.is_some());
}

#[test]
fn a_session_that_resumes_in_time_brings_its_answers() {
    let config = ClientConfig { failover_after: LIMIT, ..quick() };
    let mut brokers = Brokers::new(2, &[0, 1], config);
    let mut call = brokers.start(b"x", ONCE);
    let request = brokers.requests(0).remove(0);
    brokers.interrupt(0);
    brokers.until("the next one is used", |brokers| brokers.heard(1, "calls go here now"));
    brokers.resume(0);
    brokers.reply(0, &request.head, b"late but right");
    assert_eq!(text(&call.try_take().unwrap().unwrap()), "late but right");
}

#[test]
fn with_one_address_an_interrupted_session_is_waited_for_to_its_end() {
    let mut brokers = Brokers::new(1, &[0], quick());
    let mut call = brokers.start(b"x", ONCE);
    let request = brokers.requests(0).remove(0);
    brokers.interrupt(0);
    let mut new = brokers.start(b"new", ONCE);
    brokers.wait(Duration::from_millis(100));
    assert!(call.try_take().is_none() && brokers.requests(0).is_empty(), "nothing new is begun on it");
    brokers.resume(0);
    brokers.reply(0, &request.head, b"");
    brokers.outcome(&mut call).unwrap();
    let request = brokers.request(0);
    brokers.reply(0, &request.head, b"");
    brokers.outcome(&mut new).unwrap();
}

/// The better one is in use before the other is closed, and that not while a call is in flight on it.
#[test]
fn a_client_returns_to_the_better_broker() {
    let mut brokers = Brokers::new(2, &[1], quick());
    let mut call = brokers.start(b"in flight", ONCE);
    let slow = brokers.request(1);
    brokers.revive(0);
    brokers.until("it returns", |brokers| brokers.heard(0, "calls go here again"));
    let mut next = brokers.start(b"next", ONCE);
    let request = brokers.request(0);
    brokers.reply(0, &request.head, b"");
    brokers.outcome(&mut next).unwrap();
    brokers.wait(Duration::from_millis(20));
    assert!(brokers.peer(1).closed.is_none(), "a call is in flight there");
    brokers.reply(1, &slow.head, b"slow");
    assert_eq!(text(&brokers.outcome(&mut call).unwrap()), "slow");
    brokers.until("it is closed", |brokers| brokers.peer(1).closed.is_some());
    assert!(brokers.heard(1, "left"));
    let stats = brokers.client.call_stats();
    assert_eq!((stats.replies, stats.outcome_unknown), (2, 0));
}

#[test]
fn a_broker_that_asks_to_be_left_is_left_when_its_last_answer_has_come() {
    let mut brokers = Brokers::new(2, &[0, 1], quick());
    let mut call = brokers.start(b"in flight", ONCE);
    let slow = brokers.request(0);
    brokers.ask_to_leave(0);
    brokers.until("the other one is used", |brokers| brokers.heard(1, "calls go here now"));
    let _next = brokers.start(b"next", ONCE);
    assert_eq!(brokers.requests(1).len(), 1);
    assert!(brokers.peer(0).closed.is_none());
    brokers.reply(0, &slow.head, b"");
    brokers.outcome(&mut call).unwrap();
    brokers.until("it is closed", |brokers| brokers.peer(0).closed.is_some());
    assert!(brokers.heard(0, "asks to be left"));
}

/// Nobody waits for the call any more, but closing without a connection would drop what the peer has not got.
#[test]
fn a_session_is_not_left_before_its_peer_has_acknowledged_everything() {
    let mut brokers = Brokers::new(2, &[0, 1], quick());
    drop(brokers.start(b"finds the link", ONCE));
    let body = brokers.client.body(b"x").unwrap();
    let call = brokers.client.start_with_options("echo", body, ONCE);
    let first = brokers.peers[0].take();
    brokers.pump();
    drop(call);
    brokers.ask_to_leave(0);
    brokers.until("the other one is used", |brokers| brokers.heard(1, "calls go here now"));
    brokers.wait(Duration::from_millis(30));
    assert!(!brokers.heard(0, "left"));
    brokers.peers[0] = first;
    brokers.until("it is left", |brokers| brokers.heard(0, "left"));
    brokers.until("it is closed", |brokers| brokers.peer(0).closed.is_some());
    assert_eq!(brokers.requests(0).len(), 2);
}

#[test]
fn the_only_broker_is_used_until_it_closes_whatever_it_asks() {
    for count in [1, 2] {
        let mut brokers = Brokers::new(count, &[0], quick());
        let mut call = brokers.start(b"before", ONCE);
        let before = brokers.requests(0).remove(0);
        brokers.ask_to_leave(0);
        let mut next = brokers.start(b"after", ONCE);
        let after = brokers.requests(0).remove(0);
        for request in [before, after] {
            brokers.reply(0, &request.head, b"");
        }
        brokers.outcome(&mut call).unwrap();
        brokers.outcome(&mut next).unwrap();
        assert!(brokers.peer(0).closed.is_none());
    }
}

/// As a broker does that shuts down: it takes no new links and ends those that it has.
#[test]
fn a_link_that_ends_because_its_broker_shuts_down_is_asked_for_elsewhere() {
    let mut brokers = Brokers::new(2, &[0, 1], quick());
    brokers.peer(0).room.messages = 0;
    let mut call = brokers.start(b"x", ONCE);
    brokers.detach(0, DetachCode::ShuttingDown);
    let request = brokers.request(1);
    brokers.reply(1, &request.head, b"");
    brokers.outcome(&mut call).unwrap();
}

#[test]
fn a_broker_that_does_not_answer_holds_up_the_next_one_for_a_while_only() {
    let mut brokers = Brokers::new(2, &[], quick());
    // The first one takes the connection and never agrees to the link of replies.
    brokers.revive_as(0, Peer { consumers: Answer::Ignore, ..Peer::default() });
    brokers.until("it is being tried", |brokers| brokers.heard(0, "connected"));
    brokers.revive(1);
    let mut call = brokers.start(b"x", ONCE);
    let request = brokers.request(1);
    brokers.reply(1, &request.head, b"");
    brokers.outcome(&mut call).unwrap();
}

#[test]
fn addresses_that_are_all_dead_are_each_named_with_the_reason() {
    let dead: Vec<_> = (0..3).map(|_| super::rig::fresh_address()).collect();
    let config = ClientConfig { connect_timeout: Duration::from_millis(60), ..quick() };
    let refused = Client::connect_any_as(&ReplyDestination::new(1), &dead, config).unwrap_err();
    let ClientError::NotConnected { failures, .. } = &refused else { panic!("{refused}") };
    assert_eq!(
        failures.iter().map(|failure| &failure.address).collect::<Vec<_>>(),
        dead.iter().collect::<Vec<_>>()
    );
    assert!(failures.iter().all(|failure| !failure.reason.is_empty()));
    assert!(dead.iter().all(|address| refused.to_string().contains(&address.to_string())), "{refused}");
    assert!(refused.to_string().contains("connect_timeout"), "{refused}");
}

#[test]
fn no_address_and_too_many_are_refused() {
    let many = vec![Address::inproc("x"); ADDRESSES_MAX + 1];
    for addresses in [&[], &many[..]] {
        let refused = Client::connect_any(addresses, quick()).unwrap_err();
        assert!(
            matches!(&refused, ClientError::Addresses(count) if count.given == addresses.len()),
            "{refused}"
        );
    }
}

/// Names that were called while nobody was there must not stay.
#[test]
fn destinations_called_in_vain_are_forgotten() {
    let mut brokers = Brokers::new(2, &[], quick());
    let calls: Vec<_> = (0..300)
        .map(|number| {
            let body = brokers.client.body(b"x").unwrap();
            let options =
                CallOptions { idempotent: number % 2 == 0, ..CallOptions::new(Duration::from_millis(5)) };
            brokers.client.start_with_options(&format!("name-{number}"), body, options)
        })
        .collect();
    for mut call in calls {
        assert!(matches!(brokers.outcome(&mut call), Err(CallError::NotSentInTime { .. })));
    }
    assert_eq!(brokers.client.calls().sizes(), (0, 0, 0));
}

/// Fifty calls of either kind while both brokers die and come back at random: each call ends once, none twice.
#[test]
fn whatever_dies_each_call_ends_once_and_the_figures_add_up() {
    for seed in 0..8_u64 {
        let mut brokers = Brokers::new(2, &[0, 1], quick());
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut calls: Vec<_> = Vec::new();
        for _ in 0..50 {
            let class = [Class::Normal, Class::Gold, Class::Silver][draw(3) as usize];
            let options = CallOptions { idempotent: draw(2) == 0, ..CallOptions::new(LIMIT).class(class) };
            calls.push(brokers.start(b"x", options));
            let place = draw(2) as usize;
            match (draw(6), brokers.peers[place].is_some()) {
                (0, true) => brokers.kill(place),
                (_, false) => brokers.revive(place),
                (1 | 2, true) => {
                    for request in brokers.requests(place) {
                        brokers.reply(place, &request.head, b"");
                    }
                }
                _ => {}
            }
        }
        let mut open = calls.len();
        brokers.until("all calls end", |brokers| {
            for place in 0..2 {
                if brokers.peers[place].is_none() {
                    brokers.revive(place);
                }
                for request in brokers.requests(place) {
                    brokers.reply(place, &request.head, b"");
                }
            }
            open -= calls.extract_if(.., |call| call.try_take().is_some()).count();
            open == 0
        });
        let stats = brokers.client.call_stats();
        assert_eq!(stats.calls, 50, "seed {seed}: {stats:?}");
        assert_eq!(stats.replies + stats.outcome_unknown, 50, "seed {seed}: {stats:?}");
        assert_eq!(brokers.client.calls().sizes().0, 0);
    }
}
