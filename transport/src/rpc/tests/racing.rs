//! Gold calls, with brokers that die or refuse at each point.

use super::brokers::{Brokers, quick};
use super::rig::{Answer, LIMIT, text};
use crate::proto::Lane;
use crate::proto::control::DetachCode;
use crate::rpc::{CallError, CallFuture, CallOptions, Class, ClientConfig};

const GOLD: CallOptions = CallOptions::new(LIMIT).class(Class::Gold);

/// Two brokers, both connected.
fn both() -> Brokers {
    let mut brokers = Brokers::new(2, &[0, 1], ClientConfig { standby: true, ..quick() });
    brokers.until("both are there", |brokers| {
        brokers.heard(0, "the link of replies") && brokers.heard(1, "the link of replies")
    });
    brokers
}

/// A gold call that has arrived at both.
fn raced() -> (Brokers, CallFuture) {
    let mut brokers = both();
    let call = brokers.start(b"x", GOLD);
    brokers.until("both have it", |brokers| (0..2).all(|place| brokers.peer(place).requests.len() == 1));
    (brokers, call)
}

#[test]
fn it_goes_by_two_brokers_under_one_number_and_the_first_answer_counts() {
    for winner in [0, 1] {
        let (mut brokers, mut call) = raced();
        let heads = [0, 1].map(|place| brokers.requests(place).remove(0).head);
        assert_eq!(heads[0].origin, heads[1].origin);
        assert_eq!(heads[0].message_number, heads[1].message_number);
        assert!(heads.iter().all(|head| head.copies && head.lane == Lane::Urgent && head.attempt == 0));
        brokers.reply(winner, &heads[winner], b"first");
        assert_eq!(text(&call.try_take().unwrap().unwrap()), "first");
        assert!(brokers.heard(winner, "answered a gold call first"));
        brokers.reply(1 - winner, &heads[1 - winner], b"second");
        let stats = brokers.client.call_stats();
        assert_eq!((stats.replies, stats.races, stats.race_duplicates, stats.late_replies), (1, 1, 1, 0));
        brokers.reply(1 - winner, &heads[1 - winner], b"third");
        let stats = brokers.client.call_stats();
        assert_eq!((stats.race_duplicates, stats.late_replies), (1, 1));
    }
}

#[test]
fn with_one_broker_it_goes_there_alone_and_the_second_session_is_opened_by_it() {
    let mut brokers = Brokers::new(2, &[0, 1], quick());
    assert!(!brokers.has_session(1));
    let mut call = brokers.start(b"x", GOLD);
    let request = brokers.request(0);
    brokers.reply(0, &request.head, b"");
    brokers.outcome(&mut call).unwrap();
    brokers.until("the second session is there", |brokers| brokers.heard(1, "the link of replies"));
    assert!(brokers.requests(1).is_empty());
    let _next = brokers.start(b"y", GOLD);
    brokers.until("both have it", |brokers| (0..2).all(|place| brokers.peer(place).requests.len() == 1));
}

#[test]
fn one_broker_that_dies_does_not_end_it_and_both_do() {
    for first in [0, 1] {
        let (mut brokers, mut call) = raced();
        let head = brokers.requests(1 - first).remove(0).head;
        brokers.kill(first);
        assert!(call.try_take().is_none(), "one copy is alive");
        brokers.reply(1 - first, &head, b"alive");
        assert_eq!(text(&brokers.outcome(&mut call).unwrap()), "alive");

        let (mut brokers, mut call) = raced();
        brokers.kill(first);
        assert!(call.try_take().is_none());
        brokers.kill(1 - first);
        let error = brokers.outcome(&mut call).unwrap_err();
        assert!(matches!(error, CallError::OutcomeUnknown { .. }), "{error}");
    }
}

#[test]
fn one_that_is_idempotent_too_is_sent_again_when_both_copies_are_lost() {
    let mut brokers = both();
    let mut call = brokers.start(b"x", GOLD.idempotent());
    let first = brokers.request(0).head;
    brokers.kill(0);
    brokers.kill(1);
    brokers.revive(1);
    let again = brokers.request(1).head;
    assert_eq!((again.attempt, again.message_number), (1, first.message_number));
    brokers.reply(1, &again, b"");
    brokers.outcome(&mut call).unwrap();
}

#[test]
fn a_broker_that_dies_before_its_copy_was_sent_changes_nothing() {
    for dies in [0, 1] {
        let mut brokers = both();
        // Its copy waits for the link.
        brokers.peer(dies).producers = Answer::Ignore;
        let mut call = brokers.start(b"x", GOLD);
        let head = brokers.request(1 - dies).head;
        brokers.kill(dies);
        brokers.reply(1 - dies, &head, b"");
        brokers.outcome(&mut call).unwrap();
        assert!(brokers.requests(1 - dies).is_empty(), "a broker that has a copy gets no other");
        assert_eq!(brokers.client.calls().sizes().0, 0);
    }
}

/// The first copy is lost when the second one still waits: there is only one broker then, and the copy goes there.
#[test]
fn a_second_copy_that_waits_takes_the_place_of_a_first_one_that_was_lost() {
    let mut brokers = both();
    brokers.peer(1).room.messages = 0;
    let mut call = brokers.start(b"x", GOLD);
    brokers.request(0);
    brokers.kill(0);
    let (core, peer) = brokers.peers[1].as_mut().unwrap().parts();
    core.set_link_room(
        peer.connection.unwrap(),
        peer.links[0].1,
        crate::connection::LinkRoom { messages: 5, bytes: 1 << 20 },
    )
    .unwrap();
    let head = brokers.request(1).head;
    brokers.reply(1, &head, b"");
    brokers.outcome(&mut call).unwrap();
}

/// The same when the first one's session may still come back: the copies change places, and either may be answered.
#[test]
fn a_second_copy_that_waits_goes_by_the_broker_that_is_left_while_the_other_is_interrupted() {
    for answers in [0, 1] {
        let config = ClientConfig { standby: true, failover_after: LIMIT, ..quick() };
        let mut brokers = Brokers::new(2, &[0, 1], config);
        brokers.until("both are there", |brokers| {
            (0..2).all(|place| brokers.heard(place, "the link of replies"))
        });
        brokers.peer(1).producers = Answer::Ignore;
        let mut call = brokers.start(b"x", GOLD);
        let heads = [brokers.request(0).head, brokers.request_after_accepting(1).head];
        brokers.reply(answers, &heads[answers], b"");
        brokers.outcome(&mut call).unwrap();
        let stats = brokers.client.call_stats();
        assert_eq!((stats.replies, stats.races, stats.outcome_unknown), (1, 1, 0));
    }
}

#[test]
fn refused_by_one_the_other_counts_and_refused_by_both_it_is_refused() {
    for refuses in [0, 1] {
        let mut brokers = both();
        brokers.peer(refuses).producers = Answer::Refuse("not here");
        let mut call = brokers.start(b"x", GOLD);
        let head = brokers.request(1 - refuses).head;
        assert!(call.try_take().is_none());
        brokers.reply(1 - refuses, &head, b"");
        brokers.outcome(&mut call).unwrap();
        assert!(brokers.heard(refuses, "the link to 'echo' was refused or ended: not here"));
    }
    let mut brokers = both();
    (0..2).for_each(|place| brokers.peer(place).producers = Answer::Refuse("not here"));
    let mut call = brokers.start(b"x", GOLD);
    let error = brokers.outcome(&mut call).unwrap_err();
    assert!(matches!(error, CallError::Refused { .. }) && error.is_safe_to_retry(), "{error}");
    assert_eq!(brokers.client.calls().sizes(), (0, 0, 0));
}

#[test]
fn refused_by_one_and_lost_with_the_other_it_is_in_doubt() {
    let mut brokers = both();
    brokers.peer(0).producers = Answer::Refuse("not here");
    let mut call = brokers.start(b"x", GOLD);
    brokers.request(1);
    brokers.kill(1);
    let error = brokers.outcome(&mut call).unwrap_err();
    assert!(matches!(error, CallError::OutcomeUnknown { .. }), "{error}");
}

#[test]
fn a_gold_call_that_is_dropped_leaves_nothing_behind() {
    for dropped_when_waiting in [false, true] {
        let mut brokers = both();
        if dropped_when_waiting {
            (0..2).for_each(|place| brokers.peer(place).room.messages = 0);
        }
        for _ in 0..100 {
            drop(brokers.start(&[1; 5000], GOLD));
            brokers.pump();
        }
        let (in_flight, _, queued) = brokers.client.calls().sizes();
        assert_eq!(in_flight, 0);
        assert!(queued <= 64, "{queued} entries for nothing");
        assert_eq!(brokers.client.call_stats().cancelled, 100);
    }
}

#[test]
fn a_destination_that_goes_away_at_one_broker_leaves_the_copy_at_the_other() {
    let (mut brokers, mut call) = raced();
    let head = brokers.requests(1).remove(0).head;
    brokers.detach(0, DetachCode::DestinationDeleted);
    assert!(call.try_take().is_none());
    brokers.reply(1, &head, b"");
    brokers.outcome(&mut call).unwrap();
}
