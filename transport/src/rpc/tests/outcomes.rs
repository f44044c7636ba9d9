//! How calls end, with a peer that answers late, wrongly, twice or not at all.

use super::rig::{LIMIT, Peer, Rig, body_of, text};
use crate::connection::CloseReason;
use crate::driver::WaitMode;
use crate::proto::control::CloseCode;
use crate::proto::record::MessageKind;
use crate::proto::{CorrelationId, Incarnation};
use crate::rpc::{
    CALL_TIMEOUT_MAX, CallError, CallHandle, Client, ClientConfig, Lane, ReplyDestination, ServiceError,
};
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(3);

/// The types by which threads and executors share calls.
#[test]
fn handles_and_futures_may_move_between_threads() {
    fn is_send<T: Send>() {}
    fn is_sync<T: Sync>() {}
    is_send::<CallHandle>();
    is_sync::<CallHandle>();
    is_send::<crate::rpc::CallFuture>();
    is_send::<crate::rpc::BackgroundClient>();
    is_send::<CallError>();
}

#[test]
fn a_late_reply_is_counted_and_never_meets_the_call_that_has_its_slot_now() {
    let mut rig = Rig::new(1, Peer::default());
    let first = rig.start("echo", b"first", SHORT);
    let late = rig.requests().remove(0);
    let outcome = rig.finish(first);
    assert!(matches!(outcome, Err(CallError::TimedOut(SHORT))), "{outcome:?}");
    assert!(!outcome.unwrap_err().is_safe_to_retry());

    // There is one slot, so this call has the same one.
    let mut second = rig.start("echo", b"second", LIMIT);
    let request = rig.requests().remove(0);
    assert_ne!(late.head.correlation_id, request.head.correlation_id);
    assert_eq!(
        late.head.correlation_id.0 >> 32,
        request.head.correlation_id.0 >> 32,
        "shard and slot are the same"
    );
    rig.reply(&late.head, b"late", |_| {});
    assert!(second.try_take().is_none());
    assert_eq!(rig.client.call_stats().late_replies, 1);
    rig.reply(&request.head, b"in time", |_| {});
    assert_eq!(text(&second.try_take().unwrap().unwrap()), "in time");
    let stats = rig.client.call_stats();
    assert_eq!((stats.calls, stats.replies, stats.timed_out), (2, 1, 1));
    assert_eq!(rig.sizes().0, 0);
}

#[test]
fn a_call_without_time_is_not_sent_and_one_with_too_much_is_refused() {
    let mut rig = Rig::new(4, Peer::default());
    for _ in 0..2 {
        let call = rig.start("echo", b"x", Duration::ZERO);
        let error = rig.finish(call).unwrap_err();
        assert!(matches!(error, CallError::NotSentInTime { .. }) && error.is_safe_to_retry(), "{error}");
        // The second time with the link there.
        let call = rig.start("echo", b"y", LIMIT);
        let request = rig.requests();
        assert_eq!(request.len(), 1);
        rig.reply(&request[0].head, b"", |_| {});
        rig.finish(call).unwrap();
    }
    let call = rig.start("echo", b"x", CALL_TIMEOUT_MAX + Duration::from_micros(1));
    let error = rig.finish(call).unwrap_err();
    assert!(matches!(error, CallError::TimeoutTooLong(..)) && error.is_safe_to_retry(), "{error}");
    let _longest = rig.start("echo", b"x", CALL_TIMEOUT_MAX);
    let request = rig.requests().remove(0);
    let deadline_us = request.head.deadline_us.expect("the longest timeout can be said");
    assert!(deadline_us > u32::MAX - 60_000_000, "{deadline_us}");
}

#[test]
fn a_forged_reply_ends_no_call() {
    let mut rig = Rig::new(8, Peer::default());
    let mut call = rig.start("echo", b"x", LIMIT);
    let request = rig.requests().remove(0).head;
    let id = request.correlation_id.0;
    let forged: [fn(&mut crate::message::Message); 8] = [
        |reply| reply.head.correlation_id = CorrelationId(0),
        |reply| reply.head.correlation_id = CorrelationId(u64::MAX),
        |reply| reply.head.correlation_id.0 += 1,
        |reply| reply.head.correlation_id.0 += 1 << 32,
        |reply| reply.head.correlation_id.0 ^= 1 << 63,
        |reply| reply.head.incarnation = Incarnation(reply.head.incarnation.0.wrapping_add(1)),
        |reply| reply.head.attempt += 1,
        |reply| {
            reply.head.kind = MessageKind::Message;
            reply.head.correlation_id = CorrelationId(7);
        },
    ];
    for (number, change) in forged.into_iter().enumerate() {
        rig.reply(&request, b"forged", change);
        assert!(call.try_take().is_none(), "forgery {number} of {id:x} ended the call");
        assert_eq!(rig.client.call_stats().late_replies, number as u64 + 1);
    }
    rig.reply(&request, b"true", |_| {});
    assert_eq!(text(&call.try_take().unwrap().unwrap()), "true");
    rig.reply(&request, b"again", |_| {});
    assert_eq!(rig.client.call_stats().late_replies, 9, "the second reply to one call");
    assert!(rig.peer.parts().1.closed.is_none());
}

#[test]
fn a_failure_brings_the_services_error_or_says_that_there_is_none() {
    let mut rig = Rig::new(8, Peer::default());
    let call = rig.start("echo", b"x", LIMIT);
    let request = rig.requests().remove(0).head;
    rig.reply(&request, b"", |reply| reply.head.failure = true);
    let error = rig.finish(call).unwrap_err();
    let expected = ServiceError { code: 0, text: "the service gave no reason".to_owned() };
    assert_eq!(error, CallError::Service(expected));
    assert!(!error.is_safe_to_retry());
}

#[test]
fn a_reply_need_not_name_a_link() {
    let mut rig = Rig::new(8, Peer::default());
    let call = rig.start("echo", b"x", LIMIT);
    let request = rig.requests().remove(0).head;
    rig.reply(&request, b"by itself", |reply| reply.head.link = None);
    assert_eq!(text(&rig.finish(call).unwrap()), "by itself");
}

#[test]
fn when_the_connection_ends_what_was_sent_is_unknown_and_what_was_not_is_safe() {
    let mut rig = Rig::new(8, Peer::default());
    rig.peer.parts().1.room.messages = 1;
    let sent = rig.start("echo", b"sent", LIMIT);
    assert_eq!(rig.requests().len(), 1);
    let while_nobody_answers = Duration::from_millis(100);
    let unsent = rig.start("echo", b"unsent", while_nobody_answers);
    rig.peer.parts().1.producers = super::rig::Answer::Ignore;
    let unattached = rig.start("other", b"unattached", while_nobody_answers);
    rig.pump();
    assert_eq!(rig.requests().len(), 0);
    assert_eq!(rig.client.call_stats().credit_waits, 1);
    let Rig { mut client, peer } = rig;
    drop(peer);
    let outcomes = [sent, unsent, unattached].map(|call| client.wait(call).unwrap_err());
    assert!(matches!(outcomes[0], CallError::OutcomeUnknown { .. }), "{:?}", outcomes[0]);
    assert!(!outcomes[0].is_safe_to_retry());
    for outcome in &outcomes[1..] {
        assert!(matches!(outcome, CallError::NotSentInTime { .. }), "{outcome:?}");
        assert!(outcome.is_safe_to_retry());
    }
    let later = client.call("echo", b"later", while_nobody_answers).unwrap_err();
    let names_the_peer = |reason: &str| reason.contains("no broker is connected: inproc://rpc-test-");
    assert!(matches!(&later, CallError::NotSentInTime { reason, .. } if names_the_peer(reason)), "{later}");
    let stats = client.call_stats();
    assert_eq!((stats.calls, stats.outcome_unknown, stats.not_sent), (4, 1, 3));
    assert_eq!(client.calls().sizes(), (0, 0, 0));
    client.reclaim();
    assert!(client.driver_stats().pool.buffers_out <= idle_buffers(), "nothing of the calls is left");
}

/// What a client's pool has out while nothing is going on.
fn idle_buffers() -> usize {
    let Rig { mut client, peer } = Rig::new(1, Peer::default());
    drop(peer);
    let _ = client.call("x", b"", SHORT);
    client.driver_stats().pool.buffers_out
}

#[test]
fn a_client_that_is_dropped_says_so() {
    let mut rig = Rig::new(8, Peer::default());
    let call = rig.start("echo", b"x", LIMIT);
    rig.pump();
    let Rig { client, mut peer } = rig;
    drop(client);
    let began = Instant::now();
    while peer.parts().1.closed.is_none() {
        assert!(began.elapsed() < LIMIT);
        peer.turn().unwrap();
    }
    let closed = peer.parts().1.closed.clone();
    assert!(matches!(&closed, Some(CloseReason::Peer { code: CloseCode::Normal, .. })), "{closed:?}");
    let mut call = call;
    assert!(matches!(call.try_take(), Some(Err(CallError::OutcomeUnknown { .. }))));
}

#[test]
fn an_urgent_call_overtakes_those_that_wait_with_it() {
    for room in [1000, 0] {
        let mut rig = Rig::new(64, Peer::default());
        rig.peer.parts().1.room.messages = room;
        let lanes = [Lane::Bulk, Lane::Normal, Lane::Bulk, Lane::Urgent, Lane::Normal, Lane::Urgent];
        let calls: Vec<_> = lanes
            .into_iter()
            .enumerate()
            .map(|(number, lane)| {
                let body = rig.client.body(&[number as u8]).unwrap();
                rig.client.start("echo", body, lane, LIMIT)
            })
            .collect();
        rig.pump();
        if room == 0 {
            rig.grant(crate::connection::LinkRoom { messages: 1000, bytes: 1 << 20 });
        }
        let order: Vec<u8> = rig.requests().iter().map(|request| body_of(request)[0]).collect();
        assert_eq!(order, [3, 5, 1, 4, 0, 2], "with room for {room} at first");
        drop(calls);
    }
}

#[test]
fn the_client_of_a_call_sees_its_reply_also_when_another_thread_brings_it() {
    let mut rig = Rig::new(8, Peer::default());
    let call = rig.start("echo", b"x", LIMIT);
    let request = rig.requests().remove(0);
    // The reply comes over another connection of the process, on another thread, while this one sleeps.
    let (destination, began) = (rig.client.calls().reply_destination(), Instant::now());
    let other = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        let mut reply = crate::message::Message::reply_to(&request.head, crate::pool::Body::new());
        reply.head.link = None;
        let correlation = crate::sync::Correlation::unpack(reply.head.correlation_id.0);
        assert!(destination.complete(correlation, Ok(crate::rpc::future::Reply::new(reply))));
    });
    let Rig { mut client, peer: _peer } = rig;
    client.wait(call).unwrap();
    assert!(began.elapsed() < LIMIT / 2, "it was woken, not found by chance when its time was over");
    other.join().unwrap();
}

#[test]
fn an_outcome_is_given_once() {
    let mut rig = Rig::new(8, Peer::default());
    let mut call = rig.start("", b"x", LIMIT);
    assert!(call.wait(Some(Duration::ZERO)).unwrap().is_err());
    assert!(call.try_take().is_none());
    assert!(call.wait(None).is_none(), "it does not wait for what cannot come");
}

/// What becomes true between the driver's question and the announcement of its sleep has woken nobody, so the driver
/// asks once more. The closure stands for another thread that acts just then.
#[test]
fn no_wake_is_lost_between_asking_and_sleeping() {
    let mut config = ClientConfig::default();
    config.driver.wait.mode = WaitMode::Sleep;
    let mut rig = Rig::with(ReplyDestination::new(8), config, Peer::default());
    rig.pump();
    let began = Instant::now();
    let mut is_done = false;
    assert!(rig.client.run_until(Some(LIMIT), || std::mem::replace(&mut is_done, true)).unwrap());
    assert!(began.elapsed() < LIMIT / 20, "it slept, and a timer has woken it");
}

#[test]
fn the_same_body_can_be_sent_often() {
    let mut rig = Rig::new(8, Peer::default());
    let body = rig.client.body(&[7; 5000]).unwrap();
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let share = rig.client.share(&body).unwrap();
            rig.client.start("echo", share, Lane::Normal, LIMIT)
        })
        .collect();
    let requests = rig.requests();
    assert!(requests.iter().all(|request| body_of(request) == [7; 5000]));
    assert_eq!((requests.len(), calls.len()), (3, 3));
    let _: &Client = &rig.client;
}
