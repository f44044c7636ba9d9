//! Credit and order, against plain arithmetic.

use proptest::prelude::*;
use underlay::proto::Stream;
use underlay::proto::credit::{CreditLimit, CreditOverrun, ReceiveWindow, SendWindow};
use underlay::proto::serial::{Arrival, FrameOrder, LaneOrder, Received, expand, shorten};
use underlay::proto::{Lane, PeerMisbehaved};

#[test]
fn a_position_is_found_near_both_ends_of_the_range() {
    assert_eq!(expand(0, 0), 0);
    assert_eq!(expand(u32::MAX, 0), u64::from(u32::MAX), "nothing lies below zero");
    assert_eq!(expand(u32::MAX, 1 << 32), (1 << 32) - 1);
    assert_eq!(expand(0, (1 << 32) - 1), 1 << 32);
    assert_eq!(expand(0, u64::MAX), u64::MAX - u64::from(u32::MAX), "nothing lies above the top");
    assert_eq!(expand(u32::MAX, u64::MAX), u64::MAX);
    assert_eq!(expand(1 << 31, 0), 1 << 31);
    assert_eq!(expand((1 << 31) - 1, u64::MAX), u64::MAX - (1 << 31), "equally near, one exists");
}

proptest! {
    #[test]
    fn a_position_is_found_from_its_low_half(
        near in prop_oneof![any::<u64>(), 0..1u64 << 33, u64::MAX - (1 << 33)..=u64::MAX],
        distance in -(1i64 << 31) + 1..1i64 << 31,
    ) {
        if let Some(position) = near.checked_add_signed(distance) {
            prop_assert_eq!(expand(shorten(position), near), position);
        }
    }

    #[test]
    fn no_other_position_is_nearer(low: u32, near in prop_oneof![any::<u64>(), 0..9u64, u64::MAX - 9..=u64::MAX]) {
        let found = expand(low, near);
        prop_assert_eq!(shorten(found), low);
        for other in [found.checked_sub(1 << 32), found.checked_add(1 << 32)].into_iter().flatten() {
            prop_assert!(other.abs_diff(near) >= found.abs_diff(near));
        }
    }

    #[test]
    fn a_limit_is_the_highest_grant_in_any_order(grants in prop::collection::vec(0..1000u64, 1..20)) {
        let mut limit = CreditLimit::default();
        for &grant in &grants {
            let before = limit.position();
            prop_assert_eq!(limit.raise(grant), grant > before);
        }
        prop_assert_eq!(Some(limit.position()), grants.iter().copied().max());
    }

    /// A sender that obeys its window never overruns its receiver's, whatever becomes of the grants;
    /// once all is released and a grant arrives, it can send again.
    #[test]
    fn an_obedient_sender_is_never_found_guilty(
        window in 1..40u64,
        reserve in 0..10u64,
        steps in prop::collection::vec((0..5u8, 0..8u64), 1..200),
    ) {
        let mut sender = SendWindow::new(window, reserve);
        let mut receiver = ReceiveWindow::new(window);
        let mut in_flight = vec![];
        for (step, amount) in steps {
            match step {
                0 => if sender.take(amount).is_some() {
                    prop_assert!(sender.limit() - sender.used() >= reserve || amount == 0);
                    prop_assert_eq!(receiver.receive(amount), Ok(()));
                },
                1 => if sender.take_with_reserve(amount).is_some() {
                    prop_assert_eq!(receiver.receive(amount), Ok(()));
                },
                2 => receiver.release(amount),
                3 => in_flight.push(receiver.grant_short()),
                // Grants arrive in any order, and more than once.
                _ => if let Some(&grant) = in_flight.get(amount as usize) { sender.grant_short(grant); },
            }
            prop_assert!(sender.used() <= sender.limit());
            prop_assert!(sender.limit() <= receiver.granted());
            prop_assert!(receiver.granted() - receiver.received() <= window);
        }
        receiver.release(u64::MAX);
        sender.grant(receiver.grant());
        prop_assert_eq!(sender.available_with_reserve(), window);
    }
}

#[test]
fn data_leaves_the_reserve_to_control() {
    let mut window = SendWindow::new(10, 4);
    assert_eq!(window.take(6), Some(0));
    assert_eq!((window.available(), window.take(1)), (0, None));
    assert_eq!(window.take_with_reserve(3), Some(6));
    assert_eq!(window.take_with_reserve(2), None);
    assert_eq!(window.take_with_reserve(1), Some(9));
    assert!(window.grant(16));
    assert!(!window.grant(16) && !window.grant(3), "repeated and older grants change nothing");
    assert_eq!(window.take(2), Some(10));
    assert_eq!(window.take(1), None);
}

#[test]
fn a_grant_is_due_when_half_a_window_is_free_again() {
    let mut window = ReceiveWindow::new(8);
    assert_eq!(window.receive(7), Ok(()));
    window.release(3);
    assert!(!window.due());
    window.release(1);
    assert!(window.due());
    assert_eq!(window.grant(), 12);
    assert!(!window.due(), "not again for the same");
    assert_eq!((window.held(), window.granted()), (3, 12));
}

#[test]
fn a_grant_is_due_at_once_to_a_peer_that_has_nothing_left() {
    let mut window = ReceiveWindow::new(8);
    assert_eq!(window.receive(8), Ok(()));
    assert!(!window.due(), "nothing is free");
    window.release(1);
    assert!(window.due());
}

#[test]
fn a_smaller_window_takes_nothing_back() {
    let mut window = ReceiveWindow::new(8);
    window.resize(2);
    assert_eq!(window.grant(), 8);
    assert_eq!(window.receive(8), Ok(()));
    window.release(7);
    assert_eq!(window.grant(), 9);
}

#[test]
fn an_overrun_counts_nothing() {
    let mut window = ReceiveWindow::new(4);
    assert_eq!(window.receive(5), Err(CreditOverrun { position: 5, limit: 4 }));
    assert_eq!(window.receive(u64::MAX), Err(CreditOverrun { position: u64::MAX, limit: 4 }));
    assert_eq!(window.receive(4), Ok(()));
}

#[test]
fn frames_and_lanes_arrive_in_order() {
    let mut frames = FrameOrder::default();
    assert_eq!((frames.accept(0), frames.accept(1)), (Ok(0), Ok(1)));
    assert_eq!(frames.accept(1), Err(PeerMisbehaved::FrameOutOfSequence { expected: 2, found: 1 }));
    let mut lanes = LaneOrder::from([5, 0, 0]);
    assert_eq!(lanes.accept(Lane::Urgent, 5), Ok(()));
    assert_eq!(lanes.accept(Lane::Bulk, 0), Ok(()));
    assert_eq!(lanes.next(Lane::Urgent), 6);
    let again = PeerMisbehaved::LaneOutOfSequence { lane: Lane::Urgent, expected: 6, found: 5 };
    assert_eq!(lanes.accept(Lane::Urgent, 5), Err(again));
    assert_eq!(lanes.accept(Lane::Urgent, 9), Ok(()), "what the session holds may be left out");
}

#[test]
fn a_session_takes_each_record_once_and_none_before_its_turn() {
    let mut received = Received::holding([5, 0, 0, 2]);
    assert_eq!(received.check(Lane::Urgent, 4), Ok(Arrival::Duplicate));
    assert_eq!(received.check(Lane::Urgent, 5), Ok(Arrival::Next));
    assert_eq!(received.check(Lane::Urgent, 5), Ok(Arrival::Next), "looking takes nothing");
    received.take(Stream::Lane(Lane::Urgent));
    assert_eq!(received.check(Lane::Urgent, 5), Ok(Arrival::Duplicate));
    let gap = PeerMisbehaved::LaneOutOfSequence { lane: Lane::Urgent, expected: 6, found: 7 };
    assert_eq!(received.check(Lane::Urgent, 7), Err(gap));
    assert_eq!(received.positions(), [6, 0, 0, 2]);
}

#[test]
fn streams_with_news_are_told_first_and_each_in_turn() {
    let mut received = Received::default();
    assert!(!received.has_news());
    for stream in [Stream::Lane(Lane::Normal), Stream::Control, Stream::Lane(Lane::Normal)] {
        received.take(stream);
    }
    let told = [received.tell(), received.tell()];
    assert_eq!(told, [(Stream::Lane(Lane::Normal), 2), (Stream::Control, 1)]);
    assert!(!received.has_news());
    received.told([0; 4]);
    assert!(received.has_news(), "another connection was told nothing");
}
