//! Sending to a peer that is away.

use super::rig::*;
use crate::connection::SendError;
use crate::proto::Lane;
use crate::session::SessionConfig;

/// Of a million, as many are taken as the configuration allows; each other one is refused by the name of the bound.
#[test]
fn a_million_messages_to_a_peer_that_is_away() {
    let mut common = [1, 2].map(|number| common(number, least(), SessionConfig::default()));
    common[CLIENT].connection.send_queue_messages_max = 1_000;
    let [client, server] = common;
    let mut rig = Rig::new(client, server, vec![Wire::default()]).opened();
    rig.wires[0].up = Up::Fails;
    rig.cut();
    rig.run_for(MILLISECOND);
    assert!(rig.client().session().is_interrupted());
    let mut refused = 0;
    let mut held = 0;
    for number in 0..1_000_000 {
        match rig.client().try_send(Lane::Normal, None, 8) {
            Ok(()) => {}
            Err(SendError::QueueFull(full)) => {
                assert_eq!((full.messages, full.messages_max), (1_000, 1_000));
                assert!(full.to_string().contains("send_queue_messages_max"));
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
        if number == 1_000 {
            held = rig.client().pool.stats().mapped_bytes;
        }
    }
    assert_eq!((refused, rig.client().session().waiting().0), (999_000, 1_000));
    assert_eq!(rig.client().pool.stats().mapped_bytes, held, "memory is bounded");
    rig.wires[0].up = Up::After(MILLISECOND);
    rig.rest();
    assert_eq!(rig.server().got, [0, 1_000, 0]);
}

#[test]
fn bytes_are_bounded_too_and_each_lane_for_itself() {
    let mut common = [1, 2].map(|number| common(number, least(), SessionConfig::default()));
    common[CLIENT].connection.send_queue_bytes_max = 100_000;
    let [client, server] = common;
    let mut rig = Rig::new(client, server, vec![Wire::default()]).opened();
    rig.wires[0].up = Up::Fails;
    rig.cut();
    let taken = (0..1_000).take_while(|_| rig.client().try_send(Lane::Bulk, None, 10_000).is_ok()).count();
    assert!((5..=10).contains(&taken), "{taken} of 10,000 bytes");
    let error = rig.client().try_send(Lane::Bulk, None, 10_000).unwrap_err();
    assert!(error.to_string().contains("send_queue_bytes_max"), "{error}");
    rig.client().try_send(Lane::Urgent, None, 10_000).expect("another lane");
    rig.wires[0].up = Up::After(MILLISECOND);
    rig.rest();
}

#[test]
fn a_body_beyond_the_limit_is_refused_while_the_session_is_interrupted() {
    let mut rig = Rig::small().opened();
    rig.wires[0].up = Up::Fails;
    rig.cut();
    rig.run_for(MILLISECOND);
    let error = rig.client().try_send(Lane::Bulk, None, (1 << 20) + 1).unwrap_err();
    assert_eq!(error, SendError::BodyTooLong { bytes: (1 << 20) + 1, limit: 1 << 20 });
    assert_eq!(rig.client().session().waiting(), (0, 0));
}
