//! Heartbeats and acknowledgements.

use super::rig::*;
use crate::connection::CloseReason;
use crate::proto::control::CloseCode;
use crate::proto::{Lane, Parameters};
use crate::session::SessionConfig;

fn sends(rig: &Rig) -> [u64; 2] {
    rig.ends.each_ref().map(|end| end.sends)
}

#[test]
fn heartbeats_cost_nothing_while_there_is_traffic() {
    let mut rig = Rig::small().opened();
    let before = sends(&rig);
    for _ in 0..100 {
        rig.client().send(Lane::Normal, 10);
        rig.run_for(20 * MILLISECOND);
        rig.server().send(Lane::Normal, 10);
        rig.run_for(20 * MILLISECOND);
    }
    // One for each message; one acknowledgement behind the last one.
    rig.run_for(SECOND);
    let sent = sends(&rig);
    assert_eq!((sent[CLIENT] - before[CLIENT], sent[SERVER] - before[SERVER]), (101, 100));
    // And one each 5 s (keep_alive_ms) without traffic.
    rig.run_for(100 * SECOND);
    for (now, then) in sends(&rig).into_iter().zip(sent) {
        assert!((19..=21).contains(&(now - then)), "{}", now - then);
    }
}

#[test]
fn a_dead_peer_is_named_within_the_idle_timeout() {
    for dead in [CLIENT, SERVER] {
        let wire = Wire { notices_after: [None; 2], ..Wire::default() };
        let mut rig = Rig::of(least(), SessionConfig::default(), vec![wire]).opened();
        rig.run_for(7 * SECOND);
        rig.wires[0].up = Up::Never;
        rig.cut();
        let end = 1 - dead;
        rig.run_for(14 * SECOND);
        assert_eq!(rig.ends[end].interrupted, [], "it was heard 5 s ago at most");
        rig.run_for(6 * SECOND);
        assert_eq!(rig.ends[end].interrupted, [CloseReason::PeerSilent(20 * SECOND)]);
    }
}

/// A peer that names the other dead says so, and both go on.
#[test]
fn a_peer_that_is_named_dead_and_lives_is_resumed() {
    let mut rig = Rig::of(least(), SessionConfig::default(), vec![Wire::default()]).opened();
    rig.deafen(0);
    rig.client().send(Lane::Normal, 10);
    rig.run_for(22 * SECOND);
    assert_eq!(rig.server().interrupted, [CloseReason::PeerSilent(20 * SECOND)]);
    assert!(matches!(rig.client().interrupted[..], [CloseReason::Peer { code: CloseCode::PeerSilent, .. }]));
    rig.rest();
    assert_eq!(rig.server().got, [0, 1, 0]);
}

#[test]
fn what_arrives_is_acknowledged_after_the_delay_when_nothing_goes_the_other_way() {
    let mut rig = Rig::small().opened();
    let before = sends(&rig)[SERVER];
    rig.client().send(Lane::Normal, 10);
    rig.client().send(Lane::Urgent, 10);
    rig.run_for(49 * MILLISECOND);
    assert_eq!((rig.client().session().unacknowledged(), sends(&rig)[SERVER]), (2, before));
    rig.run_for(2 * MILLISECOND);
    assert_eq!((rig.client().session().unacknowledged(), sends(&rig)[SERVER]), (0, before + 1));
}

/// Each stream waits for itself: one that has just been told of does not put off another, nor the other way round.
#[test]
fn traffic_in_several_streams_makes_no_extra_frames() {
    let mut rig = Rig::small().opened();
    let before = sends(&rig);
    for _ in 0..400 {
        for index in [CLIENT, SERVER] {
            Lane::ALL.into_iter().for_each(|lane| rig.ends[index].send(lane, 1));
        }
        rig.run_for(5 * MILLISECOND);
    }
    rig.rest();
    for (now, then) in sends(&rig).into_iter().zip(before) {
        assert!(now - then <= 400 + 2, "{} for 400 rounds", now - then);
    }
}

#[test]
fn beyond_a_megabyte_is_acknowledged_at_once() {
    // With so many frames and no bulk, nothing else has to be said to the sender.
    let parameters = Parameters {
        frame_slots: 256,
        frame_bytes_max: 160 << 10,
        chunk_bytes_max: 128 << 10,
        eager_bytes_max: 16 << 10,
        ..least()
    };
    let mut rig = Rig::of(parameters, SessionConfig::default(), vec![Wire::default()]).opened();
    rig.client().send(Lane::Urgent, 1);
    (0..65).for_each(|_| rig.client().send(Lane::Normal, 16_000));
    rig.run_for(10 * MILLISECOND);
    assert_eq!((rig.server().got, rig.client().session().unacknowledged()), ([1, 65, 0], 66), "not much yet");
    rig.client().send(Lane::Normal, 16_000);
    rig.run_for(10 * MILLISECOND);
    assert_eq!((rig.server().got, rig.client().session().unacknowledged()), ([1, 66, 0], 0), "of all lanes");
}

/// What the other connection brought before it was left is acknowledged, although no more comes.
#[test]
fn what_came_during_a_move_is_acknowledged() {
    let slow = Wire { latency: 20 * MILLISECOND, ..Wire::default() };
    let mut rig = Rig::of(least(), SessionConfig::default(), vec![Wire::default(), slow]).opened();
    assert!(rig.begin_move(1));
    rig.run_for(10 * MILLISECOND);
    rig.server().send(Lane::Normal, 10);
    rig.run_for(15 * MILLISECOND);
    assert_eq!(rig.client().got, [0, 1, 0], "by the old one, behind the hello");
    rig.run_for(200 * MILLISECOND);
    assert_eq!((rig.client().session().counts().moved, rig.server().session().unacknowledged()), (1, 0));
}
