//! Destinations that refuse, go away, or have little room; queues that are full.

use super::rig::{Answer, LIMIT, Peer, Rig};
use crate::connection::LinkRoom;
use crate::pool::PoolConfig;
use crate::rpc::{CallError, ClientConfig, Lane, ReplyDestination};
use std::time::Duration;

#[test]
fn a_destination_that_refuses_says_why_and_is_asked_again() {
    let mut rig = Rig::new(8, Peer { producers: Answer::Refuse("nobody serves it"), ..Peer::default() });
    for _ in 0..2 {
        let call = rig.start("orders", b"x", LIMIT);
        let error = rig.finish(call).unwrap_err();
        let expected =
            CallError::Refused { destination: "orders".to_owned(), text: "nobody serves it".to_owned() };
        assert_eq!(error, expected);
        assert!(error.is_safe_to_retry() && error.to_string().contains("'orders'"));
    }
    assert_eq!(rig.sizes(), (0, 0, 0));
    rig.peer.parts().1.producers = Answer::Accept;
    let call = rig.start("orders", b"x", LIMIT);
    let request = rig.requests().remove(0);
    rig.reply(&request.head, b"", |_| {});
    rig.finish(call).unwrap();
}

#[test]
fn names_that_cannot_be_destinations_are_refused_here() {
    let mut rig = Rig::new(8, Peer::default());
    for name in ["", &"x".repeat(256), "a\nb", "\u{7f}"] {
        let call = rig.start(name, b"x", LIMIT);
        let error = rig.finish(call).unwrap_err();
        assert!(matches!(&error, CallError::DestinationName { name: shown, .. } if shown == name), "{error}");
        assert!(error.is_safe_to_retry());
    }
    assert_eq!(rig.sizes(), (0, 0, 0));
    let _longest = rig.start(&"x".repeat(255), b"x", LIMIT);
    assert_eq!(rig.requests().len(), 1);
}

/// Whatever names are called, no more is kept than there are links.
#[test]
fn destinations_that_refused_are_forgotten_and_links_are_bounded() {
    let mut config = ClientConfig::default();
    config.driver.connection.parameters.links_max = 8;
    let refusing = Peer { producers: Answer::Refuse("no"), ..Peer::default() };
    let mut rig = Rig::with(ReplyDestination::new(64), config, refusing);
    for number in 0..500 {
        let call = rig.start(&format!("name-{number}"), b"x", LIMIT);
        assert!(matches!(rig.finish(call), Err(CallError::Refused { .. })));
        assert_eq!(rig.sizes(), (0, 0, 0));
    }
    rig.peer.parts().1.producers = Answer::Accept;
    let calls: Vec<_> = (0..20).map(|number| rig.start(&format!("name-{number}"), b"x", LIMIT)).collect();
    assert_eq!(rig.requests().len(), 7, "one of the eight links is that of replies");
    assert_eq!(rig.sizes().1, 7);
    let refused = calls.into_iter().filter_map(|mut call| call.try_take()).map(Result::unwrap_err);
    let refused: Vec<_> = refused.map(|error| error.to_string()).collect();
    assert_eq!(refused.len(), 13);
    assert!(refused.iter().all(|text| text.contains("links_max")), "{refused:?}");
}

#[test]
fn a_destination_that_goes_away_ends_what_waits_for_it_and_nothing_else() {
    let mut rig = Rig::new(8, Peer::default());
    rig.peer.parts().1.room.messages = 1;
    let mut sent = rig.start("orders", b"sent", LIMIT);
    let request = rig.requests().remove(0);
    let waiting = rig.start("orders", b"waiting", LIMIT);
    rig.pump();
    let link = rig.peer.parts().1.links[0].1;
    rig.detach(link, "the queue was deleted");
    let error = rig.finish(waiting).unwrap_err();
    assert!(matches!(&error, CallError::Refused { text, .. } if text == "the queue was deleted"), "{error}");
    assert!(sent.try_take().is_none(), "it may have been handled");
    rig.reply(&request.head, b"", |_| {});
    sent.try_take().unwrap().unwrap();
    // The next call attaches anew.
    let again = rig.start("orders", b"again", LIMIT);
    let request = rig.requests().remove(0);
    rig.reply(&request.head, b"", |_| {});
    rig.finish(again).unwrap();
}

#[test]
fn without_its_reply_link_the_connection_is_given_up() {
    let mut rig = Rig::new(8, Peer::default());
    rig.peer.parts().1.room.messages = 1;
    let sent = rig.start("orders", b"sent", LIMIT);
    let mut unsent = rig.start("orders", b"unsent", LIMIT);
    assert_eq!(rig.requests().len(), 1);
    let link = rig.peer.parts().1.replies.unwrap();
    rig.detach(link, "no replies any more");
    let sent = rig.finish(sent).unwrap_err();
    assert!(matches!(&sent, CallError::OutcomeUnknown { reason } if reason.contains("no replies any more")));
    rig.pump();
    assert!(rig.peer.parts().1.closed.is_some());
    assert!(unsent.try_take().is_none(), "it waits for the next session");
    let request = rig.next_request();
    rig.reply(&request.head, b"", |_| {});
    rig.finish(unsent).unwrap();
}

#[test]
fn a_peer_that_refuses_the_reply_destination_refuses_the_client() {
    let peer = Peer { consumers: Answer::Refuse("no replies here"), ..Peer::default() };
    let mut rig = Rig::with(ReplyDestination::new(8), ClientConfig::default(), peer);
    let call = rig.start("orders", b"x", Duration::from_millis(50));
    let error = rig.finish(call).unwrap_err();
    assert!(
        matches!(&error, CallError::NotSentInTime { reason, .. } if reason.contains("no replies here")),
        "{error}"
    );
}

#[test]
fn a_thousand_calls_pass_through_credit_for_one() {
    let one = LinkRoom { messages: 1, bytes: 1 << 20 };
    let mut rig = Rig::new(1000, Peer { room: one, ..Peer::default() });
    let mut calls: Vec<_> =
        (0..1000_u32).map(|number| rig.start("echo", &number.to_le_bytes(), LIMIT)).collect();
    for (number, call) in calls.iter_mut().enumerate() {
        let requests = rig.requests();
        assert_eq!(requests.len(), 1, "the peer granted one");
        rig.reply(&requests[0].head, &requests[0].body.to_bytes(), |_| {});
        assert_eq!(*call.try_take().unwrap().unwrap().body(), (number as u32).to_le_bytes()[..]);
        rig.grant(one);
    }
    let stats = rig.client.call_stats();
    assert_eq!((stats.calls, stats.replies, stats.credit_waits), (1000, 1000, 999));
    assert_eq!(rig.sizes(), (0, 1, 0));
}

#[test]
fn a_body_larger_than_the_byte_credit_passes_alone() {
    let small = LinkRoom { messages: 1000, bytes: 10 };
    let mut rig = Rig::new(8, Peer { room: small, ..Peer::default() });
    let calls: Vec<_> = (0..3).map(|_| rig.start("echo", &[1; 5000], LIMIT)).collect();
    for call in calls {
        let requests = rig.requests();
        assert_eq!(requests.len(), 1);
        rig.reply(&requests[0].head, b"", |_| {});
        rig.grant(small);
        rig.finish(call).unwrap();
    }
}

/// No event tells that a send queue has room again, so a call that met a full one must come back by itself.
#[test]
fn a_full_send_queue_delays_calls_and_loses_none() {
    let mut config = ClientConfig::default();
    config.driver.connection.send_queue_messages_max = 4;
    let mut rig = Rig::with(ReplyDestination::new(1000), config, Peer::default());
    let first = rig.start("echo", b"first", LIMIT);
    let request = rig.requests().remove(0);
    rig.reply(&request.head, b"", |_| {});
    rig.finish(first).unwrap();
    // All of them without a turn in between: the queue takes four.
    let calls: Vec<_> = (0..100_u8).map(|number| rig.start("echo", &[number], LIMIT)).collect();
    let mut seen = Vec::new();
    while seen.len() < 100 {
        for request in rig.requests() {
            seen.push(request.body.to_vec()[0]);
            rig.reply(&request.head, b"", |_| {});
        }
        std::thread::sleep(Duration::from_micros(300));
    }
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
    calls.into_iter().for_each(|call| drop(rig.finish(call).unwrap()));
}

#[test]
fn a_full_submission_queue_is_said_and_loses_none() {
    let config = ClientConfig { submissions_max: 4, ..ClientConfig::default() };
    let mut rig = Rig::with(ReplyDestination::new(100), config, Peer::default());
    let handle = rig.client.handle();
    let mut calls: Vec<_> = (0..6).map(|_| handle.call("echo", b"x", LIMIT)).collect();
    for call in calls.split_off(4) {
        let error = rig.finish(call).unwrap_err();
        assert_eq!(error, CallError::QueueFull { submissions_max: 4 });
        assert!(error.is_safe_to_retry() && error.to_string().contains("submissions_max"));
    }
    assert_eq!(rig.sizes().0, 4, "those that were refused hold no slot");
    for request in rig.requests() {
        rig.reply(&request.head, b"", |_| {});
    }
    calls.into_iter().for_each(|call| drop(rig.finish(call).unwrap()));
}

#[test]
fn more_calls_than_slots_and_bodies_than_buffers_are_refused_with_the_limit() {
    let mut config = ClientConfig::default();
    config.driver.pool = PoolConfig { bytes_max: 4 << 20, slab_bytes: 64 << 10, huge_pages: false };
    let mut rig = Rig::with(ReplyDestination::new(2), config, Peer::default());
    let calls: Vec<_> = (0..3).map(|_| rig.start("echo", b"x", LIMIT)).collect();
    let refused = calls.into_iter().filter_map(|mut call| call.try_take()).next().unwrap().unwrap_err();
    assert_eq!(refused, CallError::TooManyCalls { calls_max: 2 });
    let error = rig.client.call("echo", &vec![0; 8 << 20], LIMIT).unwrap_err();
    assert!(matches!(&error, CallError::Pool(_)) && error.to_string().contains("bytes_max"), "{error}");
    assert!(error.is_safe_to_retry());
}

#[test]
fn a_body_that_the_peer_would_not_take_is_refused_here() {
    let mut config = ClientConfig::default();
    config.driver.connection.parameters.message_bytes_max = 100_000;
    let mut rig = Rig::with(ReplyDestination::new(8), config, Peer::default());
    let calls = [100_001, 10].map(|bytes| rig.start("echo", &vec![1; bytes], LIMIT));
    let requests = rig.requests();
    assert_eq!(requests.len(), 1, "the one behind it is not held up");
    let [too_long, _fits] = calls;
    let error = rig.finish(too_long).unwrap_err();
    assert!(matches!(&error, CallError::Unsendable { reason } if reason.contains("100000")), "{error}");
    let body = rig.client.body(b"").unwrap();
    drop(rig.client.start("echo", body, Lane::Normal, LIMIT));
}
