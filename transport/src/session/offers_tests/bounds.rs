//! What offers and what waits behind them cost at most.

use super::rig::*;
use crate::connection::LinkRoom;
use crate::proto::{Lane, OFFERS_MAX};
use crate::session::SessionConfig;
use std::time::Duration;

#[test]
fn no_more_is_offered_than_is_allowed() {
    for (exposures_max, allowed) in [(3, 3), (100, OFFERS_MAX)] {
        let mut rig = Rig::linked(exposures_max);
        rig.fate = Box::new(|_| Fate::DoneAfter(Duration::from_millis(5)));
        (0..50).for_each(|tag| rig.send(Lane::Bulk, tag, 20_000));
        rig.send(Lane::Normal, 50, 10);
        rig.run_for(Duration::from_millis(1));
        assert_eq!(rig.channels[0].exposed[CLIENT].len(), allowed);
        assert_eq!(rig.ends[SERVER].received, [(Lane::Normal, 50)], "others pass");
        rig.run_for(Duration::from_secs(1));
        assert_eq!(rig.ends[SERVER].received.len(), 51);
        assert_eq!(rig.channels[0].exposures_most, allowed);
        rig.assert_nothing_held();
    }
}

/// The bodies that are being read, or were and wait, have `message_bytes_max` together: here that is 1 MiB.
#[test]
fn reads_take_no_more_than_the_longest_message_may_have() {
    let mut rig = Rig::linked(16);
    rig.fate = Box::new(|read| Fate::DoneAfter(Duration::from_millis(if read == 0 { 50 } else { 1 })));
    (0..8).for_each(|tag| rig.send(Lane::Bulk, tag, 300_000));
    rig.run_for(Duration::from_millis(20));
    assert_eq!(rig.channels[0].reads_begun, 3, "a fourth would be past 1 MiB");
    rig.run_for(Duration::from_millis(100));
    assert_eq!(rig.ends[SERVER].received.len(), 8);
    rig.assert_nothing_held();
}

/// What waits behind a read has taken its link's credit when it arrived.
#[test]
fn what_waits_has_taken_credit() {
    let mut rig = Rig::new(16);
    rig.ends[SERVER].room = LinkRoom { messages: 4, bytes: 1 << 20 };
    rig.link = Some(rig.attach());
    rig.fate = Box::new(|_| Fate::DoneAfter(Duration::from_millis(20)));
    rig.send(Lane::Normal, 0, 30_000);
    (1..4).for_each(|tag| rig.send(Lane::Normal, tag, 10));
    rig.run_for(Duration::from_millis(5));
    let link = rig.link.unwrap();
    assert!(!rig.ends[CLIENT].session().is_writable(link), "no more is granted while all of it waits");
    rig.run_for(Duration::from_millis(50));
    assert_eq!(rig.ends[SERVER].received.len(), 4);
    assert!(rig.ends[CLIENT].session().is_writable(link));
    // What was granted is acknowledged later.
    rig.run_for(Duration::from_millis(100));
    rig.assert_nothing_held();
}

/// Replies without a link have no credit. When many wait, the connection waits with them.
#[test]
fn replies_that_wait_are_bounded_too() {
    let mut rig = Rig::new(16);
    rig.fate = Box::new(|_| Fate::DoneAfter(Duration::from_millis(500)));
    rig.ends[SERVER].send(Lane::Normal, None, 0, 30_000);
    let before = rig.channels[0].bytes_carried;
    (1..1000).for_each(|tag| rig.ends[SERVER].send(Lane::Normal, None, tag, 12_000));
    rig.run_for(Duration::from_millis(100));
    let held = rig.ends[CLIENT].pool.stats().buffers_out;
    // 1 MiB of parked replies, and 256 frames that were granted before it came to that.
    assert!(rig.channels[0].bytes_carried - before < 6 << 20, "{}", rig.channels[0].bytes_carried - before);
    assert!(held < 1200, "{held} buffers");
    rig.run_for(Duration::from_secs(2));
    assert_eq!(rig.ends[CLIENT].received, (0..1000).map(|tag| (Lane::Normal, tag)).collect::<Vec<_>>());
    rig.assert_nothing_held();
}

/// A read that cannot start for want of buffers starts later.
#[test]
fn a_read_that_is_postponed_is_asked_for_again() {
    let mut rig = Rig::linked(16);
    rig.postponed = 3;
    rig.send(Lane::Bulk, 0, 30_000);
    rig.run_for(Duration::from_millis(5));
    assert_eq!((rig.postponed, rig.ends[SERVER].received.len()), (0, 1));
}

/// Without a session there would be nothing to fall back on.
#[test]
fn a_session_that_ends_with_its_connection_does_without() {
    let (connection, _) = config();
    let mut rig = Rig::with(16, (connection, SessionConfig::none()));
    rig.link = Some(rig.attach());
    rig.send(Lane::Bulk, 0, 100_000);
    rig.run_for(Duration::from_millis(5));
    assert_eq!(rig.ends[SERVER].received, [(Lane::Bulk, 0)]);
    assert_eq!(rig.channels[0].exposures[CLIENT], 0);
}
