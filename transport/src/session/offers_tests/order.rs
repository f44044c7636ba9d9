//! Messages whose bodies are read arrive in order, and keep nobody else waiting.

use super::rig::*;
use crate::proto::Lane;
use crate::proto::control::{CloseCode, DetachCode};
use proptest::prelude::*;
use std::time::Duration;

const BULK: usize = 40_000;

fn lane_tags(rig: &Rig, lane: Lane) -> Vec<u64> {
    rig.ends[SERVER].received.iter().filter(|(of, _)| *of == lane).map(|&(_, tag)| tag).collect()
}

#[test]
fn a_bulk_body_is_read_and_not_sent() {
    let mut rig = Rig::linked(16);
    let before = rig.channels[0].bytes_carried;
    rig.send(Lane::Normal, 1, 500_000);
    rig.run_for(Duration::from_millis(5));
    assert_eq!(lane_tags(&rig, Lane::Normal), [1]);
    assert_eq!((rig.channels[0].reads_begun, rig.channels[0].exposures[CLIENT]), (1, 1));
    assert!(rig.channels[0].bytes_carried - before < 1000, "heads and acknowledgements only");
    assert!(rig.channels[0].exposed[CLIENT].is_empty(), "it was acknowledged at once");
    assert_eq!(rig.ends[CLIENT].session().unacknowledged(), 0);
    let stats = rig.ends[CLIENT].session().packing_stats();
    assert_eq!((stats.offers, stats.chunks), (1, 0));
}

#[test]
fn later_messages_of_the_lane_wait_and_others_pass() {
    let mut rig = Rig::linked(16);
    rig.fate = Box::new(|read| Fate::DoneAfter(Duration::from_millis([9, 3, 6][read])));
    rig.send(Lane::Normal, 0, BULK);
    rig.send(Lane::Normal, 1, 10);
    rig.send(Lane::Normal, 2, BULK);
    rig.send(Lane::Normal, 3, BULK);
    rig.send(Lane::Normal, 4, 10);
    rig.send(Lane::Urgent, 5, 10);
    rig.run_for(Duration::from_millis(1));
    assert_eq!(rig.channels[0].reads_begun, 3, "several are in flight");
    assert_eq!(rig.ends[SERVER].received, [(Lane::Urgent, 5)]);
    // Control passes, too: a link comes up while the lane waits.
    rig.attach();
    rig.run_for(Duration::from_millis(6));
    assert_eq!(lane_tags(&rig, Lane::Normal), [0_u64; 0], "the first is not there yet");
    rig.run_for(Duration::from_millis(3));
    assert_eq!(lane_tags(&rig, Lane::Normal), [0, 1, 2, 3, 4]);
}

#[test]
fn chunks_that_come_behind_an_offer_wait_for_it() {
    let mut rig = Rig::linked(16);
    rig.fate = Box::new(|_| Fate::DoneAfter(Duration::from_millis(5)));
    rig.exposes = Box::new(|exposure| exposure % 2 == 0);
    for tag in 0..6 {
        rig.send(Lane::Bulk, tag, 300_000);
    }
    rig.run_for(Duration::from_millis(3));
    assert_eq!(rig.ends[SERVER].received, []);
    rig.run_for(Duration::from_millis(20));
    assert_eq!(lane_tags(&rig, Lane::Bulk), [0, 1, 2, 3, 4, 5]);
    let stats = rig.ends[CLIENT].session().packing_stats();
    assert_eq!((stats.offers, stats.chunks), (3, 9));
}

#[test]
fn a_link_does_not_end_before_its_messages() {
    let mut rig = Rig::linked(16);
    rig.fate = Box::new(|_| Fate::DoneAfter(Duration::from_millis(5)));
    let link = rig.link.unwrap();
    rig.send(Lane::Bulk, 0, BULK);
    rig.send(Lane::Bulk, 1, BULK);
    rig.ends[CLIENT].session().detach_link(link, DetachCode::Normal, "");
    rig.run_for(Duration::from_millis(2));
    assert_eq!(rig.ends[SERVER].detached, []);
    rig.run_for(Duration::from_millis(10));
    assert_eq!(lane_tags(&rig, Lane::Bulk), [0, 1]);
    assert_eq!(rig.ends[SERVER].detached, [(link, 2)], "behind both");
}

/// What has arrived behind the end of the link is no unfinished frame, however long it waits.
#[test]
fn what_waits_behind_the_end_of_a_link_is_in_no_hurry() {
    let (mut connection, session) = config();
    (connection.frame_timeout, connection.acknowledgement_delay) =
        (Duration::from_millis(300), Duration::from_millis(5));
    let mut rig = Rig::with(16, (connection, session));
    rig.fate = Box::new(|_| Fate::DoneAfter(Duration::from_millis(1500)));
    let (first, second) = (rig.attach(), rig.attach());
    rig.ends[CLIENT].send(Lane::Bulk, Some(first), 0, BULK);
    rig.ends[CLIENT].session().detach_link(first, DetachCode::Normal, "");
    rig.run_for(Duration::from_millis(1));
    rig.ends[CLIENT].send(Lane::Normal, Some(second), 1, 10);
    rig.run_for(Duration::from_millis(1000));
    assert_eq!(rig.ends[SERVER].received, [], "it waits with the end of the link");
    rig.run_for(Duration::from_millis(1000));
    assert_eq!(rig.ends[SERVER].received, [(Lane::Bulk, 0), (Lane::Normal, 1)]);
    assert_eq!(rig.channels.len(), 1);
    assert!(rig.ends.iter().all(|end| end.interrupted.is_empty()));
}

#[test]
fn a_session_that_is_closed_waits_for_what_it_has_offered() {
    let mut rig = Rig::linked(16);
    rig.fate = Box::new(|_| Fate::DoneAfter(Duration::from_millis(20)));
    rig.send(Lane::Bulk, 0, BULK);
    let now = rig.now;
    rig.ends[CLIENT].session().close(CloseCode::Normal, "done", now);
    rig.run_for(Duration::from_millis(10));
    assert!(rig.ends.iter().all(|end| end.closed.is_empty()));
    rig.run_for(Duration::from_millis(20));
    assert_eq!(lane_tags(&rig, Lane::Bulk), [0]);
    assert!(rig.ends.iter().all(|end| end.closed.len() == 1));
}

#[test]
fn replies_without_a_link_are_offered_too() {
    let mut rig = Rig::new(16);
    for tag in 0..40 {
        rig.ends[SERVER].send(Lane::Normal, None, tag, 20_000 * (tag as usize % 3) + 1);
    }
    rig.run_for(Duration::from_millis(20));
    assert_eq!(rig.ends[CLIENT].received, (0..40).map(|tag| (Lane::Normal, tag)).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Both ways at once, in all lanes, with reads that are done in any order and bodies that cannot be exposed.
    #[test]
    fn whatever_the_order_of_reads_lanes_keep_theirs(
        messages in prop::collection::vec((0..3_usize, 0..5_u32, any::<bool>()), 1..120),
        delays_us in prop::collection::vec(1..3000_u64, 1..20),
        refused in 2..9_usize,
        exposures_max in 1..20_usize,
    ) {
        let mut rig = Rig::linked(exposures_max);
        let refuses = refused;
        rig.exposes = Box::new(move |exposure| exposure % refuses != 0);
        rig.fate = Box::new(move |read| Fate::DoneAfter(Duration::from_micros(delays_us[read % delays_us.len()])));
        let mut expected: [[Vec<u64>; 3]; 2] = Default::default();
        for (tag, &(lane, size, from_server)) in messages.iter().enumerate() {
            let (tag, bytes) = (tag as u64, [10, 5000, 17_000, 60_000, 200_000][size as usize]);
            if from_server {
                rig.ends[SERVER].send(Lane::ALL[lane], None, tag, bytes);
            } else {
                rig.send(Lane::ALL[lane], tag, bytes);
            }
            expected[usize::from(!from_server)][lane].push(tag);
        }
        rig.run_for(Duration::from_secs(2));
        for end in [CLIENT, SERVER] {
            for lane in Lane::ALL {
                let found: Vec<u64> =
                    rig.ends[end].received.iter().filter(|(of, _)| *of == lane).map(|&(_, tag)| tag).collect();
                prop_assert_eq!(&found, &expected[end][lane.index()]);
            }
        }
        let channel = &rig.channels[0];
        prop_assert!(channel.exposures_most <= exposures_max.min(16));
        prop_assert!(channel.exposed.iter().all(|exposed| exposed.is_empty()));
        prop_assert_eq!(rig.channels.len(), 1);
        rig.assert_nothing_held();
    }
}
