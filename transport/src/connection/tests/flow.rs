//! Credit of all kinds, exhausted on purpose: nothing is overrun, and nothing waits for ever.

use super::pair::*;
use crate::connection::{ConnectionConfig, LinkError, LinkRoom, SendError};
use crate::proto::control::{DetachCode, LinkRole};
use crate::proto::record::MessageKind;
use crate::proto::{Lane, Parameters};

const LANES: [Lane; 3] = [Lane::Urgent, Lane::Normal, Lane::Bulk];

/// Everything that was queued has arrived, without the help of a timeout.
fn assert_at_rest(pair: &mut Pair, messages: [usize; 2]) {
    pair.settle();
    for (index, expected) in messages.into_iter().enumerate() {
        let end = &pair.ends[index];
        assert_eq!(end.closed, [], "end {index}");
        assert_eq!((end.waiting(), end.messages.len()), (0, expected), "end {index}");
    }
}

#[test]
fn the_fewest_slots_carry_any_number_of_messages() {
    let mut pair = Pair::open(with(least()));
    for end in &mut pair.ends {
        for tag in 0..2000 {
            end.send(LANES[tag as usize % 3], None, tag, [1, 100, 150, 200][tag as usize % 4]);
        }
    }
    assert_at_rest(&mut pair, [2000, 2000]);
}

#[test]
fn one_message_after_the_other_needs_no_keep_alive() {
    let mut pair = Pair::open(with(least()));
    let start = pair.now;
    for tag in 0..500 {
        pair.client().send(Lane::Normal, None, tag, 10);
        pair.settle();
        if tag % 3 == 0 {
            pair.server().send(Lane::Normal, None, tag, 10);
            pair.settle();
        }
    }
    assert_at_rest(&mut pair, [167, 500]);
    assert!(pair.now.since(start) < std::time::Duration::from_millis(100), "{:?}", pair.now.since(start));
}

#[test]
fn bulk_in_all_lanes_both_ways_with_the_least_of_everything() {
    let mut pair = Pair::open(with(least()));
    for end in &mut pair.ends {
        for tag in 0..30 {
            end.send(LANES[tag as usize % 3], None, tag, 3000 + tag as usize * 100);
        }
    }
    assert_at_rest(&mut pair, [30, 30]);
}

#[test]
fn ten_thousand_control_records_at_once_overrun_nothing() {
    for (parameters, both) in [(least(), false), (least(), true), (usual(), true)] {
        let mut pair = Pair::open(with(Parameters { links_max: 20_000, ..parameters }));
        let askers = if both { 2 } else { 1 };
        for end in &mut pair.ends[..askers] {
            for _ in 0..10_000 {
                end.attach(LinkRole::Consumer, AMPLE);
            }
            end.send(Lane::Bulk, None, 1, 100_000);
        }
        pair.settle();
        for end in &pair.ends[..askers] {
            assert_eq!((end.attached.len(), end.closed.len(), end.waiting()), (10_000, 0, 0));
        }
        assert_eq!(pair.server().messages.len(), 1);
        for end in &mut pair.ends[..askers] {
            for link in std::mem::take(&mut end.attached) {
                end.connection.detach_link(link, DetachCode::Normal, "");
            }
        }
        pair.settle();
        assert!(pair.ends.iter().all(|end| end.closed.is_empty() && end.connection.is_open()));
    }
}

/// Idle ends do not keep each other awake by granting each other the slots of their grants.
#[test]
fn grants_come_to_rest() {
    for parameters in [least(), Parameters { frame_slots: 9, ..least() }, usual()] {
        let mut pair = Pair::open(with(parameters));
        for tag in 0..200 {
            pair.client().send(Lane::Normal, None, tag, 200);
        }
        pair.settle();
        let before: Vec<_> = pair.ends.iter().map(|end| end.sends).collect();
        pair.settle();
        assert_eq!(pair.ends.iter().map(|end| end.sends).collect::<Vec<_>>(), before);
        assert!(pair.server().sends < 200, "more grants than messages: {}", pair.server().sends);
    }
}

#[test]
fn a_link_sends_what_its_receiver_has_room_for_and_says_when_there_is_more() {
    let mut pair = Pair::open(with(usual()));
    pair.server().grants = None;
    let link = pair.client().attach(LinkRole::Producer, LinkRoom { messages: 0, bytes: 0 });
    pair.settle();
    pair.server().connection.accept_link(link, LinkRoom { messages: 3, bytes: 1000 }).unwrap();
    pair.settle();
    (0..3).for_each(|tag| pair.client().send(Lane::Normal, Some(link), tag, 10));
    let client = pair.client();
    let more = message(MessageKind::Message, Lane::Normal, Some(link), 9, 10, &mut client.pool);
    let (error, _) = client.connection.send(more, &mut client.pool).unwrap_err();
    assert_eq!(error, SendError::Link(LinkError::NoCredit(link)));
    pair.settle();
    assert_eq!(pair.client().writable, []);
    pair.server().connection.set_link_room(link, LinkRoom { messages: 2, bytes: 15 }).unwrap();
    pair.settle();
    assert_eq!(pair.client().writable, [link], "once");
    pair.client().send(Lane::Normal, Some(link), 4, 10);
    // The second ends behind the bytes that were granted, and begins before.
    assert!(pair.client().connection.is_writable(link));
    pair.client().send(Lane::Normal, Some(link), 5, 10);
    assert!(!pair.client().connection.is_writable(link));
    pair.settle();
    assert_eq!(pair.server().messages.len(), 5);
}

/// The receiver said that it has room for 100, of which the sender was not told, having enough. When it has used up
/// what it knew of, it hears of the rest: nobody has to say it a second time.
#[test]
fn room_that_was_not_worth_a_record_is_told_when_it_is_needed() {
    let mut pair = Pair::open(with(usual()));
    pair.server().grants = None;
    let link = pair.client().attach(LinkRole::Producer, LinkRoom { messages: 0, bytes: 0 });
    pair.settle();
    pair.server().connection.accept_link(link, LinkRoom { messages: 100, bytes: 1 << 30 }).unwrap();
    pair.settle();
    (0..40).for_each(|tag| pair.client().send(Lane::Normal, Some(link), tag, 1));
    pair.settle();
    pair.server().connection.set_link_room(link, LinkRoom { messages: 100, bytes: 1 << 30 }).unwrap();
    pair.settle();
    (40..100).for_each(|tag| pair.client().send(Lane::Normal, Some(link), tag, 1));
    pair.settle();
    assert!(pair.client().connection.is_writable(link), "40 more are allowed, and it waits");
    (100..140).for_each(|tag| pair.client().send(Lane::Normal, Some(link), tag, 1));
    assert!(!pair.client().connection.is_writable(link), "not one more");
}

/// What was announced stands, and what was not is taken back when the room shrinks.
#[test]
fn room_that_is_gone_is_not_announced() {
    let mut pair = Pair::open(with(usual()));
    pair.server().grants = None;
    let link = pair.client().attach(LinkRole::Producer, LinkRoom { messages: 0, bytes: 0 });
    pair.settle();
    pair.server().connection.accept_link(link, LinkRoom { messages: 10, bytes: 1 << 30 }).unwrap();
    pair.settle();
    (0..4).for_each(|tag| pair.client().send(Lane::Normal, Some(link), tag, 1));
    pair.settle();
    pair.server().connection.set_link_room(link, LinkRoom { messages: 10, bytes: 1 << 30 }).unwrap();
    pair.server().connection.set_link_room(link, LinkRoom { messages: 0, bytes: 0 }).unwrap();
    (4..10).for_each(|tag| pair.client().send(Lane::Normal, Some(link), tag, 1));
    pair.settle();
    assert!(!pair.client().connection.is_writable(link));
    assert_eq!(pair.server().messages.len(), 10);
}

#[test]
fn a_full_queue_gives_the_message_back_and_takes_no_credit() {
    let config = ConnectionConfig { send_queue_messages_max: 3, ..with(usual()) };
    let mut pair = Pair::open(config);
    pair.server().grants = Some(LinkRoom { messages: 4, bytes: 1000 });
    let link = pair.link(CLIENT);
    (0..3).for_each(|tag| pair.client().send(Lane::Normal, Some(link), tag, 10));
    for _ in 0..5 {
        let client = pair.client();
        let more = message(MessageKind::Message, Lane::Normal, Some(link), 3, 10, &mut client.pool);
        let (error, back) = client.connection.send(more, &mut client.pool).unwrap_err();
        assert!(matches!(error, SendError::QueueFull(_)), "{error}");
        assert_eq!(back.body.len(), 10);
    }
    assert!(pair.client().connection.is_writable(link), "refused messages have used its credit up");
}

#[test]
fn what_the_peer_would_refuse_is_refused_here_with_the_limit() {
    let mut pair = Pair::open(with(Parameters { message_bytes_max: 100, ..usual() }));
    let client = pair.client();
    let mut refused = |link, bytes| {
        let message = message(MessageKind::Message, Lane::Normal, link, 1, bytes, &mut client.pool);
        client.connection.send(message, &mut client.pool).unwrap_err().0
    };
    assert_eq!(refused(None, 101), SendError::BodyTooLong { bytes: 101, limit: 100 });
    assert_eq!(refused(None, 1), SendError::NoLink);
}
