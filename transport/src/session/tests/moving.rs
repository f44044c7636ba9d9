//! Going over to another connection while there is one.

use super::rig::*;
use super::script::Script;
use crate::connection::CloseReason;
use crate::proto::control::CloseCode;
use crate::proto::{LANES, Lane};
use crate::session::SessionConfig;
use std::time::Duration;

fn slow() -> Wire {
    Wire { latency: 3 * MILLISECOND, piece_bytes_max: 200, ..Wire::default() }
}

/// Traffic both ways, bulk included, between a fast wire and a slow one, to and fro: what travels by the slow one
/// arrives when the other has long been in use.
#[test]
fn nothing_is_lost_or_twice_when_moving_in_traffic() {
    let mut duplicates = 0;
    for seed in 0..150_u64 {
        let mut rig = Rig::of(least(), SessionConfig::default(), vec![Wire::default(), slow()]).opened();
        rig.seed(seed);
        for round in 0..40 {
            for index in [CLIENT, SERVER] {
                for lane in Lane::ALL {
                    let bytes = [5, 100, 900][rig.below(3)];
                    rig.ends[index].send(lane, bytes);
                }
            }
            if round % 4 == 3 {
                let address = rig.below(2);
                rig.begin_move(address);
            }
            let pause = Duration::from_micros(rig.below(4_000) as u64);
            rig.run_for(pause);
        }
        rig.rest();
        for end in &mut rig.ends {
            let counts = end.session().counts();
            assert_eq!((counts.interrupted, end.closed.len()), (0, 0), "seed {seed}: {:?}", end.interrupted);
            assert!(counts.moved >= 2, "seed {seed}: {counts:?}");
            duplicates += counts.duplicates;
        }
        // Half-way to the age, and the grace of what was left behind.
        rig.run_for(3 * SECOND);
        assert_eq!((rig.paths(), rig.open_channels()), ([1, 1], 1), "seed {seed}");
    }
    assert!(duplicates > 1_000, "{duplicates}");
}

#[test]
fn a_conversation_moves_at_any_moment() {
    // More than the conversation has.
    for moment in 0..10_000 {
        let mut rig = Script::rig_of(SessionConfig::default(), vec![slow(), Wire::default()]);
        let (mut count, mut moved) = (0, false);
        Script::default().run(&mut rig, |rig| {
            count += 1;
            if count > moment && !moved && rig.client().opened > 0 {
                moved = rig.begin_move(1);
                // The same moment: a cut of the one that is left, in half of the cases, before or while the new one opens.
                if moved && count % 2 == 0 {
                    rig.cut();
                }
            }
        });
        if !moved {
            assert!(moment > 30, "a conversation of {moment} moments");
            return;
        }
    }
}

/// The messages that a client sent by a slow wire arrive when the server has got them by the fast one.
#[test]
fn what_comes_late_by_the_old_connection_is_dropped_and_counted() {
    let late = Wire { latency: 50 * MILLISECOND, ..Wire::default() };
    let mut rig = Rig::of(least(), SessionConfig::default(), vec![late, Wire::default()]);
    rig.run_for(SECOND / 5);
    (0..3).for_each(|_| rig.client().send(Lane::Normal, 100));
    rig.run_for(MILLISECOND);
    assert!(rig.begin_move(1));
    rig.run_for(5 * MILLISECOND);
    assert_eq!(rig.server().got, [0, 3, 0], "by the new one");
    assert_eq!(rig.server().session().counts().duplicates, 0);
    rig.run_for(SECOND / 5);
    assert_eq!(rig.server().session().counts().duplicates, 3);
    rig.rest();
}

#[test]
fn a_move_that_comes_to_nothing_changes_nothing() {
    let hangs = Wire { answer: Answer::Nobody, ..Wire::default() };
    let never = Wire { up: Up::Never, ..Wire::default() };
    let fails = Wire { up: Up::Fails, ..Wire::default() };
    let stranger = Wire { answer: Answer::Stranger, ..Wire::default() };
    for wire in [hangs, never, fails, stranger] {
        let name = format!("{:?} {:?}", wire.up, wire.answer);
        let mut rig = Rig::of(least(), SessionConfig::default(), vec![Wire::default(), wire]).opened();
        assert!(rig.begin_move(1));
        assert!(!rig.begin_move_again(1), "one at a time");
        for _ in 0..30 {
            rig.client().send(Lane::Bulk, 700);
            rig.server().send(Lane::Normal, 70);
            rig.run_for(100 * MILLISECOND);
        }
        rig.rest();
        let counts = rig.client().session().counts();
        assert_eq!((counts.moved, counts.interrupted, counts.duplicates), (0, 0, 0), "{name}");
        assert_eq!((rig.paths(), rig.client().closed.len()), ([1, 1], 0), "{name}");
        // And the next attempt is as good as the first.
        rig.wires[1] = Wire::default();
        assert!(rig.begin_move(1), "{name}");
        rig.run_for(MILLISECOND);
        assert_eq!(rig.client().session().counts().moved, 1, "{name}");
    }
}

/// The end that hears nothing of the other's acknowledgements for a while, because a hello is on its way, gets them
/// when the move has failed.
#[test]
fn what_was_held_back_for_a_move_is_acknowledged_when_it_fails() {
    let hangs = Wire { answer: Answer::Nobody, ..Wire::default() };
    let mut rig = Rig::of(least(), SessionConfig::default(), vec![Wire::default(), hangs]).opened();
    assert!(rig.begin_move(1));
    rig.run_for(MILLISECOND);
    rig.server().send(Lane::Normal, 10);
    rig.run_for(500 * MILLISECOND);
    assert_eq!((rig.client().got, rig.server().session().unacknowledged()), ([0, 1, 0], 1));
    rig.run_for(600 * MILLISECOND);
    assert_eq!(rig.server().session().unacknowledged(), 0);
}

#[test]
fn a_close_that_a_move_overtakes_is_carried_out_on_the_new_connection() {
    for pause_us in 0..120 {
        let mut rig =
            Rig::of(least(), SessionConfig::default(), vec![slow(), Wire::default()]).opened_by(SECOND / 10);
        (0..20).for_each(|_| rig.client().send(Lane::Bulk, 900));
        rig.run_for(MILLISECOND);
        assert!(rig.begin_move(1));
        rig.run_for(Duration::from_micros(pause_us));
        let now = rig.now;
        rig.client().session().close(CloseCode::Normal, "done", now);
        rig.run_for(SECOND);
        assert_eq!(rig.server().got, [0, 0, 20], "all of it, after {pause_us} us");
        assert!(matches!(rig.client().closed[..], [CloseReason::Local { code: CloseCode::Normal, .. }]));
        assert!(matches!(rig.server().closed[..], [CloseReason::Peer { code: CloseCode::Normal, .. }]));
        rig.run_for(3 * SECOND);
        assert_eq!(rig.open_channels(), 0);
    }
}

#[test]
fn connections_are_recycled_at_an_age_drawn_anew() {
    let config = SessionConfig { connection_age: Some(60 * SECOND), ..SessionConfig::default() };
    let mut ages = Vec::new();
    let mut rig = Rig::of(least(), config, vec![Wire::default()]).opened();
    let (mut since, mut current) = (rig.now, rig.current());
    let until = rig.now + 1200 * SECOND;
    rig.run_until(until, |rig| {
        if rig.current() != current {
            assert_eq!(rig.open_channels(), 2, "the new one is in use before the old one is closed");
            ages.push(rig.now.since(since));
            (since, current) = (rig.now, rig.current());
        }
        false
    });
    assert!((20..=40).contains(&ages.len()), "{}", ages.len());
    for age in &ages {
        assert!((30 * SECOND..=61 * SECOND).contains(age), "{age:?}");
    }
    ages.sort();
    ages.dedup_by_key(|age| age.as_millis() / 10);
    assert!(ages.len() > 15, "anew each time: {ages:?}");
    let counts = rig.client().session().counts();
    assert_eq!((counts.interrupted, counts.moved as usize), (0, rig.channels.len() - 1));
    for channel in &rig.channels[..rig.channels.len() - 1] {
        let (first, _) = channel.closed_first.expect("recycled, so closed");
        assert_eq!(first, SERVER, "asked to by the client, the server closes first");
    }
}

/// A server that does not close what was left behind is not waited for.
#[test]
fn the_client_closes_what_it_left_after_the_grace_period() {
    let mut rig = Rig::of(least(), SessionConfig::default(), vec![Wire::default(); 2]).opened();
    rig.deafen(0);
    assert!(rig.begin_move(1));
    rig.run_for(10 * MILLISECOND);
    let moved_at = rig.now;
    assert_eq!(rig.client().session().counts().moved, 1);
    assert_eq!(rig.open_channels(), 2);
    rig.run_for(3 * SECOND);
    let (first, at) = rig.channels[0].closed_first.unwrap();
    assert_eq!(first, CLIENT);
    let grace = at.since(moved_at);
    assert!((900 * MILLISECOND..=1_100 * MILLISECOND).contains(&grace), "{grace:?} (close_timeout 1 s)");
    assert_eq!((rig.paths(), rig.open_channels()), ([1, 1], 1));
}

#[test]
fn a_session_returns_to_the_better_address() {
    let mut rig = Rig::of(least(), SessionConfig::default(), vec![Wire::default(); 3]).opened();
    rig.wires[0].up = Up::Fails;
    rig.wires[1].up = Up::Fails;
    rig.cut();
    rig.run_for(SECOND);
    let address = |rig: &mut Rig| rig.current().map(|index| rig.channels[index].address);
    assert_eq!(address(&mut rig), Some(2));
    rig.run_for(20 * SECOND);
    assert_eq!(address(&mut rig), Some(2));
    let tried = rig.channels.len();
    assert!((7..=12).contains(&tried), "each 2.5 to 5 s: {tried}");
    rig.wires[1].up = Up::After(MILLISECOND);
    rig.run_for(11 * SECOND);
    assert_eq!(address(&mut rig), Some(1), "a better one");
    rig.wires[0].up = Up::After(MILLISECOND);
    rig.run_for(6 * SECOND);
    assert_eq!(address(&mut rig), Some(0), "the best one");
    let tried = rig.channels.len();
    rig.run_for(60 * SECOND);
    assert_eq!(rig.channels.len(), tried, "and stays there");
    assert_eq!(rig.client().session().counts().interrupted, 1);
    assert_eq!(rig.client().queued, [0; LANES]);
}

#[test]
fn an_address_that_is_added_as_the_best_is_moved_to() {
    let mut rig = Rig::of(least(), SessionConfig::default(), vec![Wire::default()]).opened();
    let now = rig.now;
    rig.wires.insert(0, Wire::default());
    assert_eq!(rig.client().session().add_address(true, now), Some(0));
    rig.run_for(MILLISECOND);
    let current = rig.current().unwrap();
    assert_eq!((rig.channels[current].address, rig.client().session().counts().moved), (0, 1));
}
