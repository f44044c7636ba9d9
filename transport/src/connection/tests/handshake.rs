//! From the first byte to what was settled.

use super::pair::*;
use super::single::Single;
use crate::connection::{CloseReason, LinkRoom};
use crate::pool::GatherList;
use crate::proto::control::{LinkRole, RefusalCode};
use crate::proto::handshake::RefusalReason;
use crate::proto::{Lane, Parameters, PeerMisbehaved};
use crate::time::Timestamp;

#[test]
fn both_ends_settle_the_smaller_of_each_value() {
    let client = Parameters { packet_bytes: 2048, frame_slots: 32, keep_alive_ms: 700, ..usual() };
    let server = Parameters { links_max: 7, message_bytes_max: 12_345, ..usual() };
    let mut pair = Pair::new(with(client), with(server));
    pair.settle();
    let settled = Parameters {
        packet_bytes: 2048,
        frame_slots: 32,
        keep_alive_ms: 700,
        links_max: 7,
        message_bytes_max: 12_345,
        ..usual()
    };
    for end in &pair.ends {
        assert_eq!(end.opened.as_ref().unwrap().parameters, settled);
    }
    assert_eq!(pair.client().opened.as_ref().unwrap().peer, identity(2).process);
    assert_eq!(pair.server().opened.as_ref().unwrap().peer, identity(1).process);
}

#[test]
fn the_hellos_may_come_byte_by_byte() {
    let mut pair = Pair::new(with(usual()), with(usual()));
    pair.ends.iter_mut().for_each(|end| end.knobs.piece_bytes_max = 1);
    pair.settle();
    assert!(pair.ends.iter().all(|end| end.connection.is_open() && end.closed.is_empty()));
}

/// The server's hello and its first frames are one segment.
#[test]
fn a_frame_may_come_right_behind_the_hello() {
    let mut pair = Pair::new(with(usual()), with(usual()));
    while pair.server().opened.is_none() {
        let now = pair.now;
        let client = &mut pair.ends[CLIENT];
        let mut gather = GatherList::new();
        assert!(client.connection.poll_transmit(now, &mut client.pool, &mut gather).unwrap());
        client.connection.handle_sent();
        for segment in gather.drain() {
            pair.ends[SERVER].connection.handle_segment(segment, now);
        }
        pair.ends[SERVER].pull(now);
    }
    pair.server().attach(LinkRole::Consumer, LinkRoom { messages: 1, bytes: 1 });
    pair.server().send(Lane::Normal, None, 5, 3000);
    pair.settle();
    assert_eq!(pair.server().sends, 1, "one send carried all of it");
    assert_eq!(pair.client().requested.len(), 1);
    assert_eq!(pair.client().messages.len(), 1);
    assert_eq!(pair.server().attached.len(), 1);
}

/// Sends `bytes` to an accepting end; what it did about them, and what it answered.
fn greeted(bytes: &[u8]) -> (Vec<CloseReason>, Vec<u8>) {
    let mut pool = pool();
    let now = Timestamp::ZERO;
    let mut server = Single::server(with(usual()), &identity(2), 4096, now).unwrap();
    let mut buffer = pool.buffer(bytes.len()).unwrap();
    buffer.put_slice(bytes);
    server.handle_segment(buffer.split(), now);
    let mut reasons = Vec::new();
    while let Some(event) = server.poll_event(now, &mut pool, &mut None).unwrap() {
        match event {
            crate::connection::ConnectionEvent::Closed(reason) => reasons.push(reason),
            event => panic!("{event:?}"),
        }
    }
    let mut gather = GatherList::new();
    server.poll_transmit(now, &mut pool, &mut gather).unwrap();
    (reasons, gather.segments().iter().flat_map(|part| part.iter().copied()).collect())
}

fn client_hello() -> Vec<u8> {
    let mut pool = pool();
    let mut client = Single::client(with(usual()), &identity(1), 4096, Timestamp::ZERO).unwrap();
    let mut gather = GatherList::new();
    client.poll_transmit(Timestamp::ZERO, &mut pool, &mut gather).unwrap();
    gather.segments().iter().flat_map(|part| part.iter().copied()).collect()
}

/// What a client makes of this answer.
fn answered(bytes: &[u8]) -> CloseReason {
    let mut pair = Pair::new(with(usual()), with(usual()));
    let (now, client) = (pair.now, &mut pair.ends[CLIENT]);
    let mut gather = GatherList::new();
    client.connection.poll_transmit(now, &mut client.pool, &mut gather).unwrap();
    client.connection.handle_sent();
    let mut buffer = client.pool.buffer(bytes.len()).unwrap();
    buffer.put_slice(bytes);
    client.connection.handle_segment(buffer.split(), now);
    client.pull(now);
    assert_eq!(client.closed.len(), 1, "{:?}", client.closed);
    assert!(client.connection.is_finished(), "there is nobody to tell");
    client.closed.pop().unwrap()
}

#[test]
fn a_version_that_nobody_speaks_is_refused_by_name() {
    let mut hello = client_hello();
    // The range of versions lies behind the eight letters, the role and the length.
    let at = hello.windows(4).position(|bytes| bytes == [1, 0, 1, 0]).unwrap();
    hello[at..at + 4].copy_from_slice(&[77, 0, 78, 0]);
    let (reasons, answer) = greeted(&hello);
    assert!(
        matches!(reasons[..], [CloseReason::HandshakeRefused(RefusalReason::UnsupportedVersion { .. })]),
        "{reasons:?}"
    );
    let CloseReason::Refused(refusal) = answered(&answer) else { panic!("not told") };
    assert_eq!(refusal.code, RefusalCode::UnsupportedVersion);
}

#[test]
fn impossible_parameters_are_refused_and_the_text_says_which() {
    let mut hello = client_hello();
    // control_slots, as many as there are frames.
    hello[124..126].copy_from_slice(&64_u16.to_le_bytes());
    let (reasons, answer) = greeted(&hello);
    assert_eq!(reasons.len(), 1);
    assert!(reasons[0].to_string().contains("control_slots is 64"), "{}", reasons[0]);
    let CloseReason::Refused(refusal) = answered(&answer) else { panic!("not told") };
    assert_eq!(refusal.code, RefusalCode::ImpossibleParameters);
    assert!(refusal.text().contains("control_slots is 64"), "{}", refusal.text());
}

#[test]
fn what_is_no_hello_ends_the_connection_at_its_first_wrong_byte() {
    let (reasons, _) = greeted(b"GET / HTTP/1.1\r\n");
    assert!(reasons[0].to_string().contains("not this protocol: byte 0"), "{reasons:?}");
    assert!(matches!(
        answered(b"HTTP/1.1 400 Bad Request\r\n"),
        CloseReason::Misbehaved(PeerMisbehaved::NotUnderlay { offset: 0, .. })
    ));
}

/// As a driver does that has as many connections as it may.
#[test]
fn a_refusal_before_the_hello_reaches_the_peer_with_its_text() {
    let mut pair = Pair::new(with(usual()), with(usual()));
    let now = pair.now;
    pair.server().connection.refuse(
        RefusalCode::ResourceLimit,
        "3 connections are open (connections_max)",
        now,
    );
    pair.settle();
    let CloseReason::Refused(refusal) = pair.client().closed.pop().unwrap() else { panic!("not told") };
    assert_eq!(refusal.code, RefusalCode::ResourceLimit);
    assert_eq!(refusal.text(), "3 connections are open (connections_max)");
    assert!(matches!(pair.server().closed[..], [CloseReason::HandshakeRefused(_)]));
    assert!(pair.ends.iter().all(|end| end.connection.is_finished()));
}
