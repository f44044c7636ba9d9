//! Futures that are dropped, at each stage: nothing of the call is left.

use super::rig::{Answer, LIMIT, Peer, Rig};
use crate::connection::LinkRoom;
use crate::rpc::{ClientConfig, Lane, ReplyDestination};
use std::time::Duration;

const BODY: [u8; 10_000] = [5; 10_000];

/// Drops a call that was started in `rig` and looks at what is left.
fn assert_nothing_is_left(rig: &mut Rig, buffers: usize) {
    rig.pump();
    assert_eq!(rig.sizes().0, 0, "the slot is free");
    rig.peer.parts().1.requests.clear();
    rig.pump();
    assert_eq!(rig.buffers_out(), buffers, "the body's buffers are back");
}

/// A rig whose link is there, which is how its buffers are when nothing is going on.
fn quiet_rig(calls_max: u32) -> (Rig, usize) {
    let mut rig = Rig::new(calls_max, Peer::default());
    let call = rig.start("echo", &BODY, LIMIT);
    let request = rig.requests().remove(0);
    rig.reply(&request.head, b"", |_| {});
    drop(rig.finish(call).unwrap());
    drop(request);
    rig.pump();
    let buffers = rig.buffers_out();
    (rig, buffers)
}

#[test]
fn before_the_driver_took_it() {
    let (mut rig, buffers) = quiet_rig(1);
    let handle = rig.client.handle();
    let call = handle.call("echo", &BODY, LIMIT);
    assert_eq!(rig.sizes().0, 1);
    drop(call);
    assert_eq!(rig.sizes().0, 0, "at once, without the driver");
    rig.pump();
    assert_eq!(rig.client.call_stats().cancelled, 1);
    assert_nothing_is_left(&mut rig, buffers);
}

/// The cancellation finds no place in a full queue, and the slot is used again: the new call takes over whatever the
/// driver still knew of the old one.
#[test]
fn when_the_driver_never_hears_of_it() {
    let config = ClientConfig { submissions_max: 2, ..ClientConfig::default() };
    let mut rig = Rig::with(ReplyDestination::new(3), config, Peer::default());
    rig.peer.parts().1.producers = Answer::Ignore;
    let handle = rig.client.handle();
    let first = handle.call("elsewhere", &BODY, LIMIT);
    rig.pump();
    let fillers = [handle.call("elsewhere", b"", LIMIT), handle.call("elsewhere", b"", LIMIT)];
    drop(first);
    rig.pump();
    drop(fillers);
    rig.pump();
    assert_eq!(rig.client.call_stats().cancelled, 2, "of the first it knows nothing");
    assert_eq!(rig.sizes().0, 0, "its slot is free all the same");
    rig.peer.parts().1.producers = Answer::Accept;
    let mut calls: Vec<_> = (0..2_u8).map(|number| handle.call("echo", &[number], LIMIT)).collect();
    rig.pump();
    calls.push(handle.call("echo", &[2], LIMIT));
    for request in rig.requests() {
        rig.reply(&request.head, &request.body.to_bytes(), |_| {});
    }
    for (number, call) in calls.iter_mut().enumerate() {
        assert_eq!(*call.try_take().unwrap().unwrap().body(), [number as u8][..]);
    }
    assert_eq!(rig.sizes().0, 0);
}

#[test]
fn while_it_waits_for_the_link() {
    let (mut rig, buffers) = quiet_rig(1);
    rig.peer.parts().1.producers = Answer::Ignore;
    let call = rig.start("elsewhere", &BODY, LIMIT);
    rig.pump();
    assert!(rig.buffers_out() > buffers);
    drop(call);
    assert_nothing_is_left(&mut rig, buffers);
    assert_eq!(rig.client.call_stats().cancelled, 1);
}

#[test]
fn while_it_waits_for_credit() {
    let (mut rig, buffers) = quiet_rig(2);
    rig.peer.parts().1.room.messages = 0;
    let kept = rig.start("slow", b"kept", LIMIT);
    let dropped = rig.start("slow", &BODY, LIMIT);
    rig.pump();
    assert_eq!(rig.client.call_stats().credit_waits, 2);
    drop(dropped);
    rig.pump();
    let link = rig.peer.parts().1.links[1].1;
    let (core, peer) = rig.peer.parts();
    core.set_link_room(peer.connection.unwrap(), link, LinkRoom { messages: 5, bytes: 1 << 20 }).unwrap();
    let requests = rig.requests();
    assert_eq!(requests.len(), 1, "the dropped one is not sent");
    rig.reply(&requests[0].head, b"", |_| {});
    rig.finish(kept).unwrap();
    drop(requests);
    assert_nothing_is_left(&mut rig, buffers);
}

#[test]
fn when_it_was_sent() {
    let (mut rig, buffers) = quiet_rig(1);
    let call = rig.start("echo", &BODY, LIMIT);
    let request = rig.requests().remove(0);
    drop(call);
    rig.pump();
    assert_eq!(rig.client.call_stats().cancelled, 1);
    rig.reply(&request.head, &BODY, |_| {});
    assert_eq!(rig.client.call_stats().late_replies, 1);
    drop(request);
    assert_nothing_is_left(&mut rig, buffers);
}

#[test]
fn when_its_reply_is_there_and_was_not_taken() {
    let (mut rig, buffers) = quiet_rig(1);
    let peer_buffers = rig.peer.stats().pool.buffers_out;
    let call = rig.start("echo", &BODY, LIMIT);
    let request = rig.requests().remove(0);
    rig.reply(&request.head, &BODY, |_| {});
    assert_eq!(rig.client.call_stats().replies, 2);
    assert!(rig.peer.stats().pool.buffers_out > peer_buffers, "over inproc the reply is the peer's buffer");
    drop((call, request));
    assert_nothing_is_left(&mut rig, buffers);
    // The peer keeps it until it is acknowledged, with nothing that is sent the other way.
    let mut turns = 0;
    while rig.peer.stats().pool.buffers_out != peer_buffers {
        std::thread::sleep(Duration::from_millis(1));
        rig.pump();
        rig.peer.parts().0.pool().reclaim();
        turns += 1;
        assert!(turns < 10_000, "the reply was never acknowledged");
    }
    assert_eq!(rig.client.call_stats().cancelled, 0, "it had ended");
}

/// A destination that never takes anything must not become a heap of what was given up.
#[test]
fn many_that_wait_in_vain_take_no_room() {
    let (mut rig, buffers) = quiet_rig(4);
    rig.peer.parts().1.room.messages = 0;
    let waiting = rig.start("slow", b"patient", LIMIT);
    for _ in 0..1000 {
        let call = rig.start("slow", &BODY, LIMIT);
        rig.client.turn().unwrap();
        drop(call);
        rig.client.turn().unwrap();
    }
    let (in_flight, _, queued) = rig.sizes();
    assert_eq!(in_flight, 1);
    assert!(queued <= 64, "{queued} entries for one call that waits");
    drop(waiting);
    assert_nothing_is_left(&mut rig, buffers);
}

#[test]
fn many_whose_time_is_over_take_no_room() {
    let (mut rig, buffers) = quiet_rig(1000);
    rig.peer.parts().1.room.messages = 0;
    let calls: Vec<_> = (0..1000)
        .map(|_| {
            let body = rig.client.body(&[1; 100]).unwrap();
            rig.client.start("slow", body, Lane::Bulk, Duration::from_millis(2))
        })
        .collect();
    for call in calls {
        let error = rig.finish(call).unwrap_err();
        assert!(error.to_string().contains("'slow'") && error.is_safe_to_retry(), "{error}");
    }
    assert!(rig.sizes().2 <= 64);
    assert_eq!(rig.client.call_stats().not_sent, 1000);
    assert_nothing_is_left(&mut rig, buffers);
}
