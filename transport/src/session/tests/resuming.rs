//! Connections that are lost, at each byte, and what is left of them.

use super::rig::*;
use super::script::Script;
use crate::connection::CloseReason;
use crate::proto::Lane;
use std::time::Duration;

/// Bytes that arrive at each end in a conversation without a cut.
fn bytes_of_conversation() -> [u64; 2] {
    let mut rig = Script::rig(Wire::default());
    Script::default().run(&mut rig, |_| ());
    let bytes = rig.bytes_arrived(0);
    assert!(bytes.iter().all(|&bytes| bytes > 4_000), "{bytes:?}");
    bytes
}

/// A conversation whose first channel is cut there; whether it was open by then.
fn cut_at(to: usize, at: u64, notices_after: [Option<Duration>; 2]) -> bool {
    let wire = Wire { cut: Some((to, at)), notices_after, piece_bytes_max: 150, ..Wire::default() };
    let mut rig = Script::rig(wire);
    let mut script = Script::default();
    // Until it is cut, and noticed.
    let until = rig.now + SECOND;
    rig.run_until(until, |rig| {
        script.drive(rig);
        false
    });
    if rig.client().opened == 0 {
        assert_eq!(rig.client().closed.len(), 1);
        return false;
    }
    script.run(&mut rig, |_| ());
    rig.run_for(5 * SECOND);
    let counts = rig.client().session().counts();
    assert_eq!((counts.interrupted, counts.resumed), (1, 1));
    assert_eq!((rig.paths(), rig.open_channels()), ([1, 1], 1), "what was lost is gone");
    true
}

/// Cuts at each `step`th byte that arrives at an end, from the `first` on.
fn cut_at_all(to: usize, first: u64, step: usize, notices_after: [Option<Duration>; 2]) {
    let bytes = bytes_of_conversation()[to];
    let open = (first..=bytes).step_by(step).filter(|&at| cut_at(to, at, notices_after)).count();
    assert!(open as u64 > bytes * 8 / 10 / step as u64, "{open} of {bytes:?}");
}

/// In four parts, for as many cores: together they are each byte of both directions.
#[test]
fn a_conversation_survives_a_cut_at_each_odd_byte_to_the_server() {
    cut_at_all(SERVER, 1, 2, [Some(Duration::ZERO); 2]);
}

#[test]
fn a_conversation_survives_a_cut_at_each_even_byte_to_the_server() {
    cut_at_all(SERVER, 2, 2, [Some(Duration::ZERO); 2]);
}

#[test]
fn a_conversation_survives_a_cut_at_each_odd_byte_to_the_client() {
    cut_at_all(CLIENT, 1, 2, [Some(Duration::ZERO); 2]);
}

#[test]
fn a_conversation_survives_a_cut_at_each_even_byte_to_the_client() {
    cut_at_all(CLIENT, 2, 2, [Some(Duration::ZERO); 2]);
}

#[test]
fn a_conversation_survives_a_cut_that_the_server_never_notices() {
    for to in [SERVER, CLIENT] {
        cut_at_all(to, 1, 11, [Some(Duration::ZERO), None]);
    }
}

#[test]
fn a_conversation_survives_a_cut_that_the_client_notices_late() {
    for to in [SERVER, CLIENT] {
        cut_at_all(to, 1, 11, [Some(700 * MILLISECOND), Some(Duration::ZERO)]);
    }
}

/// Cut again and again, at random places, with resuming itself cut, too.
#[test]
fn a_conversation_survives_many_cuts() {
    for seed in 0..400_u64 {
        let mut rig = Script::rig(Wire { piece_bytes_max: 150, ..Wire::default() });
        rig.seed(seed);
        let mut cuts = 0;
        Script::default().run(&mut rig, |rig| {
            // The first channel must come to be a session.
            if rig.client().opened > 0 && rig.wires[0].cut.is_none() && cuts < 8 {
                cuts += 1;
                rig.wires[0].cut = Some((rig.below(2), 100 + rig.below(1500) as u64));
                if cuts == 1 {
                    rig.cut();
                }
            }
        });
        assert!(rig.client().session().counts().resumed >= 1);
    }
}

#[test]
fn one_end_that_has_noticed_nothing_moves_where_the_other_resumes() {
    let wire = Wire { notices_after: [Some(Duration::ZERO), None], ..Wire::default() };
    let mut rig = Rig::of(least(), Default::default(), vec![wire]).opened();
    rig.server().send(Lane::Normal, 100);
    rig.cut();
    rig.server().send(Lane::Normal, 100);
    rig.run_for(SECOND / 2);
    let counts = rig.client().session().counts();
    assert_eq!((counts.interrupted, counts.resumed, counts.moved), (1, 1, 0));
    let counts = rig.server().session().counts();
    assert_eq!((counts.interrupted, counts.resumed, counts.moved), (0, 0, 1));
    assert_eq!(rig.client().got, [0, 2, 0]);
    assert_eq!(rig.paths(), [1, 2], "the server keeps the old one for its grace");
    rig.run_for(3 * SECOND);
    assert_eq!(rig.paths(), [1, 1]);
    rig.rest();
}

#[test]
fn the_session_expires_at_both_ends_and_says_why() {
    let mut rig = Rig::small().opened();
    rig.client().send(Lane::Normal, 10);
    rig.wires[0].up = Up::Fails;
    rig.cut();
    rig.run_for(9 * SECOND);
    assert_eq!((rig.client().closed.len(), rig.server().closed.len()), (0, 0));
    rig.client().send(Lane::Normal, 10);
    rig.run_for(2 * SECOND);
    for end in &mut rig.ends {
        assert!(
            matches!(&end.closed[..], [CloseReason::Expired { after, loss }] if *after == 10 * SECOND && loss.contains("broke")),
            "{:?}",
            end.closed
        );
        assert_eq!(end.interrupted.len(), 1);
        assert!(end.session().is_gone() && end.session().waiting() == (0, 0));
    }
}

#[test]
fn a_session_closed_while_it_is_interrupted_ends_at_once_and_cannot_be_resumed() {
    for who in [CLIENT, SERVER] {
        let mut rig = Rig::small().opened();
        rig.wires[0].up = Up::Fails;
        rig.cut();
        rig.run_for(MILLISECOND);
        rig.wires[0].up = Up::After(MILLISECOND);
        let now = rig.now;
        rig.ends[who].session().close(crate::proto::control::CloseCode::Normal, "enough", now);
        rig.run_for(12 * SECOND);
        assert!(
            matches!(rig.ends[who].closed[..], [CloseReason::Local { .. }]),
            "{:?}",
            rig.ends[who].closed
        );
        match &rig.ends[1 - who].closed[..] {
            [CloseReason::Expired { .. }] => assert_eq!(who, CLIENT, "the server can only wait"),
            [CloseReason::SessionUnknown(_)] => assert_eq!(who, SERVER),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_dead_address_is_left_for_the_next_and_all_dead_ones_are_tried_until_the_end() {
    let dead = Wire { up: Up::Fails, ..Wire::default() };
    let mut rig =
        Rig::of(least(), Default::default(), vec![Wire::default(), dead.clone(), Wire::default()]).opened();
    rig.wires[0] = dead.clone();
    rig.cut();
    rig.run_for(SECOND / 2);
    assert_eq!(rig.client().session().counts().resumed, 1);
    assert_eq!(rig.channels.iter().map(|channel| channel.address).collect::<Vec<_>>(), [0, 0, 1, 2]);
    rig.wires[2] = dead;
    let before = rig.channels.len();
    rig.cut();
    rig.run_for(9 * SECOND);
    let tried: Vec<_> = rig.channels[before..].iter().map(|channel| channel.address).collect();
    assert_eq!(rig.client().closed, []);
    assert!(tried.len() >= 12 && tried.len() < 60, "{tried:?}");
    assert!(tried.windows(2).all(|pair| pair[1] == (pair[0] + 1) % 3), "in turn: {tried:?}");
    rig.run_for(2 * SECOND);
    assert!(matches!(rig.client().closed[..], [CloseReason::Expired { .. }]), "{:?}", rig.client().closed);
}

/// A peer that accepts and lets go at once is asked at a pace that slows down.
#[test]
fn short_connections_slow_the_pace() {
    let mut rig = Rig::small().opened();
    rig.run_for(3 * SECOND);
    let from = rig.now;
    let mut times = Vec::new();
    let mut current = rig.current();
    rig.cut();
    rig.run_until(from + 8 * SECOND, |rig| {
        if rig.current() != current && rig.current().is_some() {
            current = rig.current();
            times.push(rig.now);
            rig.cut();
        }
        false
    });
    assert!((6..25).contains(&times.len()), "{times:?}");
    let gap = times[times.len() - 1].since(times[times.len() - 2]);
    assert!(gap >= SECOND, "{gap:?}");
}
