//! Reads that fail or never end, and connections that are lost while something is offered.

use super::rig::*;
use crate::connection::{CloseReason, ReadFailure};
use crate::proto::Lane;
use crate::proto::control::CloseCode;
use proptest::prelude::*;
use std::time::Duration;

const BULK: usize = 40_000;

fn all(rig: &Rig, count: u64) {
    assert_eq!(rig.ends[SERVER].received, (0..count).map(|tag| (Lane::Bulk, tag)).collect::<Vec<_>>());
}

fn send_all(rig: &mut Rig, count: u64) {
    (0..count).for_each(|tag| rig.send(Lane::Bulk, tag, BULK));
}

#[test]
fn a_read_that_fails_costs_the_connection_and_nothing_else() {
    let mut rig = Rig::linked(16);
    rig.fate = Box::new(|read| match read {
        2 => Fate::FailsAfter(Duration::from_micros(30)),
        _ => Fate::DoneAfter(Duration::from_micros(50)),
    });
    send_all(&mut rig, 10);
    rig.run_for(Duration::from_secs(1));
    all(&rig, 10);
    let failure = ReadFailure::Failed("the peer's memory is not there".to_owned());
    assert_eq!(rig.ends[SERVER].interrupted, [CloseReason::ReadFailed { lane: Lane::Bulk, failure }]);
    let [CloseReason::Peer { code: CloseCode::ReadFailed, .. }] = rig.ends[CLIENT].interrupted[..] else {
        panic!("{:?}", rig.ends[CLIENT].interrupted)
    };
    assert_eq!(rig.channels.len(), 2);
    assert!(rig.channels[1].reads_begun > 0, "one failure is no reason to do without");
    rig.assert_nothing_held();
}

#[test]
fn a_read_that_brings_too_little_is_a_failure() {
    let mut rig = Rig::linked(16);
    rig.fate = Box::new(|read| match read {
        0 => Fate::ShortAfter(Duration::from_micros(30)),
        _ => Fate::DoneAfter(Duration::from_micros(50)),
    });
    send_all(&mut rig, 3);
    rig.run_for(Duration::from_secs(1));
    all(&rig, 3);
    let failure = ReadFailure::Failed("39999 bytes were read of 40000".to_owned());
    assert_eq!(rig.ends[SERVER].interrupted, [CloseReason::ReadFailed { lane: Lane::Bulk, failure }]);
}

#[test]
fn a_read_that_never_ends_is_given_up() {
    let mut rig = Rig::linked(16);
    rig.fate =
        Box::new(|read| if read == 1 { Fate::Never } else { Fate::DoneAfter(Duration::from_micros(50)) });
    send_all(&mut rig, 4);
    rig.run_for(Duration::from_millis(1900));
    all(&rig, 1);
    rig.run_for(Duration::from_secs(1));
    all(&rig, 4);
    let failure = ReadFailure::Overdue(Duration::from_secs(2));
    assert_eq!(rig.ends[SERVER].interrupted, [CloseReason::ReadFailed { lane: Lane::Bulk, failure }]);
    rig.assert_nothing_held();
}

/// Both when reads fail at once and when they never end: two connections are lost, and the third does without.
#[test]
fn a_wire_whose_reads_never_work_is_not_asked_for_ever() {
    for fate in [Fate::FailsAfter(Duration::from_micros(20)), Fate::Never] {
        let mut rig = Rig::linked(16);
        rig.fate = Box::new(move |_| fate);
        send_all(&mut rig, 20);
        rig.run_for(Duration::from_secs(10));
        all(&rig, 20);
        assert_eq!(rig.channels.len(), 3, "{fate:?}");
        assert_eq!(rig.ends[SERVER].interrupted.len(), 2);
        assert_eq!((rig.channels[2].reads_begun, rig.channels[2].exposures[CLIENT]), (0, 0));
        rig.assert_nothing_held();
        // And for good: neither end says that it can.
        rig.cut(2);
        rig.run_for(Duration::from_secs(1));
        rig.send(Lane::Bulk, 20, BULK);
        rig.run_for(Duration::from_secs(1));
        all(&rig, 21);
        assert_eq!((rig.channels.len(), rig.channels[3].exposures[CLIENT]), (4, 0));
    }
}

/// The end that connects meets the failures.
#[test]
fn a_client_does_without_too() {
    let mut rig = Rig::new(16);
    rig.fate = Box::new(|_| Fate::FailsAfter(Duration::from_micros(20)));
    (0..5).for_each(|tag| rig.ends[SERVER].send(Lane::Bulk, None, tag, BULK));
    rig.run_for(Duration::from_secs(5));
    assert_eq!(rig.ends[CLIENT].received, (0..5).map(|tag| (Lane::Bulk, tag)).collect::<Vec<_>>());
    assert_eq!(rig.channels.len(), 3);
    rig.assert_nothing_held();
}

/// One that fails now and then is worth its while as long as the lane comes on.
#[test]
fn failures_in_a_row_are_what_counts() {
    let mut rig = Rig::linked(1);
    rig.fate = Box::new(|read| match read % 3 {
        2 => Fate::FailsAfter(Duration::from_micros(20)),
        _ => Fate::DoneAfter(Duration::from_micros(50)),
    });
    send_all(&mut rig, 20);
    rig.run_for(Duration::from_secs(20));
    all(&rig, 20);
    assert!(rig.channels.len() > 5);
    assert!(rig.channels.iter().all(|channel| channel.reads_begun > 0));
    rig.assert_nothing_held();
}

#[test]
fn a_session_goes_on_over_a_wire_with_or_without_one_sided_reads() {
    for next in [0, 16] {
        let mut rig = Rig::linked(16);
        rig.fate =
            Box::new(|read| if read < 3 { Fate::Never } else { Fate::DoneAfter(Duration::from_micros(50)) });
        send_all(&mut rig, 20);
        rig.run_for(Duration::from_millis(10));
        assert_eq!(rig.channels[0].exposed[CLIENT].len(), 16);
        assert_eq!(rig.ends[SERVER].received, []);
        rig.next_traits = traits(next);
        rig.cut(0);
        rig.run_for(Duration::from_secs(1));
        all(&rig, 20);
        assert_eq!(rig.channels[1].reads_begun, if next == 0 { 0 } else { 20 });
        assert_eq!(rig.ends[CLIENT].session().packing_stats().chunks > 0, next == 0);
        rig.assert_nothing_held();
    }
}

/// Whichever of the two connections would be done first: only the newer one goes on reading, so that no access is
/// ended while it is in use.
#[test]
fn a_session_moves_while_something_is_offered() {
    for (before_ms, after_ms) in [(700, 1), (30, 700), (10, 700)] {
        let mut rig = Rig::linked(16);
        rig.fate = Box::new(move |read| {
            Fate::DoneAfter(Duration::from_millis(if read < 10 { before_ms } else { after_ms }))
        });
        send_all(&mut rig, 10);
        // The other way, too.
        (0..3).for_each(|tag| rig.ends[SERVER].send(Lane::Normal, None, tag, BULK));
        rig.run_for(Duration::from_micros(9_990));
        assert!(rig.begin_move());
        rig.run_for(Duration::from_secs(3));
        all(&rig, 10);
        assert_eq!(rig.ends[CLIENT].received.len(), 3);
        assert_eq!(rig.channels.len(), 2, "{before_ms} {after_ms}");
        assert!(rig.ends.iter().all(|end| end.interrupted.is_empty()));
        assert!(rig.channels[0].is_gone && !rig.channels[1].is_gone);
        rig.assert_nothing_held();
    }
}

/// A read that was done on the connection before and is told of late: the newer connection is reading the same bodies,
/// and if their messages were taken now, its accesses would be ended while they are in use.
#[test]
fn what_a_former_connection_has_read_counts_for_nothing() {
    let mut rig = Rig::linked(16);
    rig.fate = Box::new(|read| match read {
        0..10 => Fate::ToldAfter(Duration::from_millis(20)),
        _ => Fate::DoneAfter(Duration::from_millis(300)),
    });
    send_all(&mut rig, 10);
    rig.run_for(Duration::from_millis(10));
    rig.channels[0].latency = Duration::from_millis(50);
    assert!(rig.begin_move());
    rig.run_for(Duration::from_millis(200));
    assert_eq!(rig.ends[SERVER].received, []);
    assert_eq!(rig.channels[1].reads_begun, 10);
    rig.run_for(Duration::from_secs(1));
    all(&rig, 10);
    assert!(rig.ends.iter().all(|end| end.interrupted.is_empty()));
    rig.assert_nothing_held();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Reads that fail or never end, and connections that are cut or left at any time, for wires with and without.
    #[test]
    fn nothing_is_lost_or_comes_twice(
        messages in prop::collection::vec((0..3_usize, 0..4_usize, any::<bool>()), 10..100),
        fates in prop::collection::vec(0..20_u64, 1..60),
        cuts in prop::collection::vec((0..4000_u64, 0..6_usize), 0..8),
    ) {
        let mut rig = Rig::linked(16);
        let fates_of_reads = fates.clone();
        rig.fate = Box::new(move |read| match fates_of_reads[read % fates_of_reads.len()] {
            0 => Fate::FailsAfter(Duration::from_micros(300)),
            1 => Fate::Never,
            delay => Fate::DoneAfter(Duration::from_micros(delay * 100)),
        });
        let mut expected: [[Vec<u64>; 3]; 2] = Default::default();
        let mut cuts = cuts.into_iter();
        for (tag, &(lane, size, from_server)) in messages.iter().enumerate() {
            let (tag, bytes) = (tag as u64, [10, 5000, 20_000, 60_000][size]);
            if from_server {
                rig.ends[SERVER].send(Lane::ALL[lane], None, tag, bytes);
            } else {
                rig.send(Lane::ALL[lane], tag, bytes);
            }
            expected[usize::from(!from_server)][lane].push(tag);
            if tag % 10 == 9 && let Some((after_us, exposures_max)) = cuts.next() {
                rig.run_for(Duration::from_micros(after_us));
                rig.next_traits = traits(exposures_max.saturating_sub(1) * 4);
                // The odd ones are left for another one.
                if exposures_max % 2 == 0 || !rig.begin_move() {
                    let last = rig.last();
                    rig.cut(last);
                }
            }
        }
        rig.run_for(Duration::from_secs(30));
        for end in [CLIENT, SERVER] {
            prop_assert_eq!(&rig.ends[end].closed, &[]);
            for lane in Lane::ALL {
                let found: Vec<u64> =
                    rig.ends[end].received.iter().filter(|(of, _)| *of == lane).map(|&(_, tag)| tag).collect();
                prop_assert_eq!(&found, &expected[end][lane.index()]);
            }
        }
        rig.assert_nothing_held();
    }
}
