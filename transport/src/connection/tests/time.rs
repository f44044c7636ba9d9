//! Keep-alives, and peers that are silent, slow, or do not read.

use super::fake::*;
use super::pair::*;
use super::single::Single;
use crate::connection::{CloseReason, ConnectionEvent};
use crate::pool::GatherList;
use crate::proto::control::CloseCode;
use crate::proto::frame::FrameKind;
use crate::proto::{Lane, Parameters};
use crate::time::Timestamp;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn idle_connections_stay_open_by_keep_alives_alone() {
    let mut pair = Pair::open(with(usual()));
    let before: Vec<_> = pair.ends.iter().map(|end| end.sends).collect();
    pair.run_for(600 * SECOND);
    for (end, before) in pair.ends.iter().zip(before) {
        assert_eq!(end.closed, []);
        let keep_alives = end.sends - before;
        assert!((115..=121).contains(&keep_alives), "{keep_alives} in 600 s, one each 5 s");
    }
}

#[test]
fn traffic_needs_no_keep_alives() {
    let mut pair = Pair::open(with(usual()));
    for tag in 0..100 {
        pair.client().send(Lane::Normal, None, tag, 10);
        pair.server().send(Lane::Normal, None, tag, 10);
        pair.run_for(3 * SECOND);
    }
    for end in &pair.ends {
        assert_eq!((end.messages.len(), end.closed.len()), (100, 0));
        // The hello, and one for each message.
        assert_eq!(end.sends, 101);
    }
}

#[test]
fn a_silent_peer_is_given_up_after_the_idle_timeout() {
    let mut pair = Pair::open(with(usual()));
    pair.client().knobs.is_lost = true;
    pair.run_for(19 * SECOND);
    assert_eq!(pair.server().closed, []);
    pair.run_for(2 * SECOND);
    assert_eq!(pair.server().closed, [CloseReason::PeerSilent(20 * SECOND)]);
    assert!(
        matches!(&pair.client().closed[..], [CloseReason::Peer { code: CloseCode::PeerSilent, text }] if text.contains("20s")),
        "{:?}",
        pair.client().closed
    );
}

/// At each `next_timeout` a call of `handle_timeout` moves it forward or ends the connection, whatever else is stuck:
/// `Pair::run_for` asserts that. Here nothing can be sent, so nothing that is owed ever leaves.
#[test]
fn timeouts_move_forward_while_nothing_can_be_sent() {
    for lost in [false, true] {
        let mut pair = Pair::open(with(usual()));
        for end in &mut pair.ends {
            (end.knobs.is_stuck, end.knobs.is_lost) = (!lost, lost);
        }
        pair.run_for(60 * SECOND);
        for end in &pair.ends {
            assert_eq!(end.closed.len(), 1);
            assert!(end.connection.is_finished());
            assert_eq!(end.connection.next_timeout(), Timestamp::NEVER);
        }
    }
}

#[test]
fn a_peer_that_says_nothing_or_dawdles_over_its_hello_is_not_waited_for() {
    for bytes_a_second in [0, 1] {
        let mut pool = pool();
        let mut now = Timestamp::ZERO;
        let mut server = Single::server(with(usual()), &identity(2), 4096, now).unwrap();
        let mut closed = None;
        for byte in b"underlay".iter().cycle().take(8) {
            if bytes_a_second == 1 {
                let mut buffer = pool.buffer(1).unwrap();
                buffer.put_slice(&[*byte]);
                server.handle_segment(buffer.split(), now);
            }
            if now >= server.next_timeout() {
                server.handle_timeout(now);
            }
            while let Some(event) = server.poll_event(now, &mut pool, &mut None).unwrap() {
                let ConnectionEvent::Closed(reason) = event else { panic!("{event:?}") };
                assert!(closed.replace((reason, now)).is_none());
            }
            now = now + SECOND;
        }
        let (reason, at) = closed.unwrap();
        assert_eq!(reason, CloseReason::HandshakeTimeout(5 * SECOND));
        assert_eq!(at, Timestamp::ZERO + 5 * SECOND);
        assert!(server.is_finished());
    }
}

#[test]
fn a_peer_that_dawdles_over_a_frame_is_not_waited_for() {
    let mut fake = Fake::linked(with(usual()));
    let start = fake.now;
    let frame = fake.frame(FrameKind::Data, &[whole(&head(PRODUCES, 0, 64), &[0; 64])]);
    for byte in &frame[..30] {
        fake.feed(&[*byte]);
        if fake.now >= fake.connection.next_timeout() {
            fake.connection.handle_timeout(fake.now);
            fake.listen();
        }
        if !fake.closed.is_empty() {
            break;
        }
        fake.now = fake.now + SECOND;
    }
    assert_eq!(fake.closed, [CloseReason::FrameTimeout(10 * SECOND)]);
    assert_eq!(fake.now, start + 10 * SECOND);
}

/// Each segment ends within a frame, as with any stream that is cut where it likes: no frame lasts long, but there is
/// always one that is not complete.
#[test]
fn a_stream_that_is_always_within_a_frame_is_not_slow() {
    let mut fake = Fake::linked(with(Parameters { frame_slots: 1 << 20, ..usual() }));
    let mut carry = fake.frame(FrameKind::Control, &[]);
    for _ in 0..100 {
        carry.extend(fake.frame(FrameKind::Control, &[]));
        let behind = carry.split_off(carry.len() - 10);
        fake.feed(&std::mem::replace(&mut carry, behind));
        fake.now = fake.now + SECOND;
        if fake.now >= fake.connection.next_timeout() {
            fake.connection.handle_timeout(fake.now);
            fake.listen();
        }
    }
    assert_eq!(fake.closed, []);
}

/// The wire does not finish a send.
#[test]
fn a_peer_that_does_not_read_is_given_up() {
    let mut pair = Pair::open(with(usual()));
    pair.client().knobs.is_stuck = true;
    pair.client().send(Lane::Normal, None, 1, 100);
    pair.run_for(9 * SECOND);
    assert_eq!(pair.client().closed, []);
    pair.run_for(SECOND);
    assert_eq!(pair.client().closed, [CloseReason::PeerNotReading(10 * SECOND)]);
    assert!(!pair.client().connection.is_finished(), "the reason may still leave");
    pair.run_for(SECOND);
    assert!(pair.client().connection.is_finished());
}

/// Has `fake` hear time pass, with a keep-alive of the peer each second.
fn pass(fake: &mut Fake, seconds: u32) {
    for _ in 0..seconds {
        fake.now = fake.now + SECOND;
        let frame = fake.frame(FrameKind::Control, &[]);
        fake.feed(&frame);
        if fake.now >= fake.connection.next_timeout() {
            fake.connection.handle_timeout(fake.now);
        }
        fake.listen();
    }
}

/// The peer's kernel takes everything, and the peer is alive, but it grants no frames.
#[test]
fn a_peer_that_grants_no_frames_is_given_up() {
    let config = with(Parameters { frame_slots: 16, control_slots: 8, ..least() });
    let mut fake = Fake::linked(config);
    fake.frame_limit = 0;
    for tag in 0..100 {
        let reply =
            message(crate::proto::record::MessageKind::Reply, Lane::Normal, None, tag, 200, &mut fake.pool);
        fake.connection.send(reply, &mut fake.pool).map_err(|(error, _)| error).unwrap();
    }
    fake.listen();
    pass(&mut fake, 9);
    assert_eq!(fake.closed, []);
    pass(&mut fake, 2);
    assert_eq!(fake.closed, [CloseReason::PeerNotReading(10 * SECOND)]);
}

#[test]
fn a_peer_that_grants_no_chunks_is_given_up() {
    let mut fake = Fake::linked(with(usual()));
    let reply =
        message(crate::proto::record::MessageKind::Reply, Lane::Bulk, None, 1, 200_000, &mut fake.pool);
    fake.connection.send(reply, &mut fake.pool).map_err(|(error, _)| error).unwrap();
    fake.listen();
    pass(&mut fake, 9);
    assert_eq!(fake.closed, []);
    pass(&mut fake, 2);
    assert_eq!(fake.closed, [CloseReason::PeerNotReading(10 * SECOND)]);
}

/// Even a connection that is closing in order does not wait for ever for a peer that grants nothing.
#[test]
fn closing_in_order_is_bounded_too() {
    let mut fake = Fake::linked(with(usual()));
    let reply =
        message(crate::proto::record::MessageKind::Reply, Lane::Bulk, None, 1, 200_000, &mut fake.pool);
    fake.connection.send(reply, &mut fake.pool).map_err(|(error, _)| error).unwrap();
    fake.connection.close(CloseCode::Normal, "done", fake.now);
    fake.listen();
    pass(&mut fake, 11);
    assert_eq!(fake.closed, [CloseReason::PeerNotReading(10 * SECOND)]);
    pass(&mut fake, 1);
    assert!(fake.connection.is_finished());
}

/// The send queue is never empty and every grant is used up at once, for much longer than the timeout.
#[test]
fn a_saturated_connection_makes_progress_and_is_not_given_up() {
    let mut pair = Pair::open(with(least()));
    pair.ends.iter_mut().for_each(|end| {
        end.drops_messages = true;
        end.knobs.latency = Duration::from_millis(400);
    });
    for tag in 0..300 {
        for end in &mut pair.ends {
            end.send(Lane::Normal, None, tag, 200);
            if tag % 10 == 0 {
                end.send(Lane::Bulk, None, tag, 3000);
            }
        }
    }
    pair.run_for(40 * SECOND);
    for end in &pair.ends {
        assert_eq!(end.closed, []);
        assert!(end.waiting() > 0, "it was not saturated for long enough");
    }
}

/// What a fake peer's frames say of time does not matter to the first send.
#[test]
fn nothing_is_owed_at_the_start() {
    let now = Timestamp::ZERO;
    let mut pool = pool();
    let mut client = Single::client(with(usual()), &identity(1), 4096, now).unwrap();
    assert_eq!(client.next_timeout(), now + 5 * SECOND);
    let mut gather = GatherList::new();
    assert!(client.poll_transmit(now, &mut pool, &mut gather).unwrap());
    client.handle_sent();
    assert!(!client.wants_transmit());
}

/// Nothing that was held for it would ever be let go otherwise, since its peer is alive.
#[test]
fn a_bulk_message_that_does_not_go_on_is_given_up() {
    let mut fake = Fake::linked(with(usual()));
    let mut begun = head(PRODUCES, 0, 32 << 10);
    begun.total_body_bytes = 96 << 10;
    fake.data(&[whole(&begun, &[7; 32 << 10])]);
    pass(&mut fake, 59);
    // A chunk is progress.
    fake.data(&[chunk(PRODUCES, 0, 32 << 10, false, &[7; 32 << 10])]);
    pass(&mut fake, 59);
    assert_eq!(fake.closed, []);
    pass(&mut fake, 2);
    assert_eq!(fake.closed, [CloseReason::BulkTimeout(60 * SECOND)]);
}
