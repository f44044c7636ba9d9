//! Every way to end, with exactly one `Closed` at each end and every buffer back.

use super::pair::*;
use crate::connection::{CloseReason, ConnectionConfig};
use crate::proto::Lane;
use crate::proto::control::{CloseCode, DetachCode, LinkRole};
use std::time::Duration;

fn closed_by_peer(pair: &Pair, end: usize) -> (CloseCode, String) {
    match &pair.ends[end].closed[..] {
        [CloseReason::Peer { code, text }] => (*code, text.clone()),
        other => panic!("{other:?}"),
    }
}

fn assert_buffers_are_back(pair: Pair, what: &str) {
    for end in pair.ends {
        let super::pair::End { connection, mut pool, messages, .. } = end;
        drop((connection, messages));
        pool.reclaim();
        assert_eq!(pool.stats().buffers_out, 0, "{what}");
    }
}

#[test]
fn an_orderly_close_sends_what_was_queued_and_then_says_why() {
    let mut pair = Pair::open(with(usual()));
    for tag in 0..50 {
        pair.client().send([Lane::Bulk, Lane::Normal][tag as usize % 2], None, tag, 20_000);
    }
    let (now, start) = (pair.now, pair.now);
    pair.client().connection.close(CloseCode::ShuttingDown, "upgrade at noon", now);
    let client = pair.client();
    let late = message(crate::proto::record::MessageKind::Reply, Lane::Normal, None, 1, 1, &mut client.pool);
    assert!(client.connection.send(late, &mut client.pool).is_err(), "nothing new is taken");
    pair.settle();
    assert_eq!(pair.server().messages.len(), 50);
    assert_eq!(closed_by_peer(&pair, SERVER), (CloseCode::ShuttingDown, "upgrade at noon".to_owned()));
    let (code, text) = (CloseCode::ShuttingDown, "upgrade at noon".to_owned());
    assert_eq!(pair.client().closed, [CloseReason::Local { code, text }]);
    assert!(pair.ends.iter().all(|end| end.connection.is_finished()));
    assert!(pair.now.since(start) < Duration::from_millis(50), "neither waited for a timeout");
    assert_buffers_are_back(pair, "closed");
}

#[test]
fn both_may_close_at_once() {
    for waiting in [0, 3] {
        let mut pair = Pair::open(with(usual()));
        let now = pair.now;
        for end in &mut pair.ends {
            (0..waiting).for_each(|tag| end.send(Lane::Bulk, None, tag, 100_000));
            end.connection.close(CloseCode::Normal, "enough", now);
        }
        pair.settle();
        for end in &pair.ends {
            assert_eq!(end.closed.len(), 1);
            assert!(end.connection.is_finished(), "without waiting for a timeout");
        }
        assert_buffers_are_back(pair, "closed by both");
    }
}

#[test]
fn an_abort_drops_what_waits_and_tells_the_peer() {
    let mut pair = Pair::open(with(usual()));
    for tag in 0..20 {
        pair.client().send(Lane::Bulk, None, tag, 200_000);
    }
    pair.turn();
    let now = pair.now;
    pair.client().connection.abort(CloseReason::ResourceLimit("queue 'x' is full".to_owned()), now);
    assert_eq!(pair.client().connection.waiting(), (0, 0));
    pair.settle();
    assert_eq!(pair.client().closed, [CloseReason::ResourceLimit("queue 'x' is full".to_owned())]);
    let (code, text) = closed_by_peer(&pair, SERVER);
    assert_eq!(code, CloseCode::ResourceLimit);
    assert!(text.contains("queue 'x' is full"), "{text}");
    assert_buffers_are_back(pair, "aborted");
}

/// The end that closes leaves the channel to the other one, which may still be sending: a channel that is closed
/// before everything in it was read is reset, and the reset would overtake the reason.
#[test]
fn the_end_that_closes_waits_for_the_other_to_read_why() {
    for in_order in [true, false] {
        let mut pair = Pair::open(with(usual()));
        pair.ends.iter_mut().for_each(|end| end.knobs.latency = Duration::from_millis(10));
        let now = pair.now;
        let client = &mut pair.client().connection;
        if in_order {
            client.close(CloseCode::Normal, "done", now);
        } else {
            client.abort(CloseReason::ResourceLimit("too much".to_owned()), now);
        }
        for _ in 0..3 {
            pair.turn();
            pair.now = pair.now + Duration::from_millis(1);
        }
        assert_eq!(pair.client().closed.len(), 1);
        assert!(!pair.client().connection.is_finished(), "its close is still on its way");
        pair.settle();
        assert!(pair.client().connection.is_finished());
    }
}

#[test]
fn a_peer_that_never_answers_a_close_is_not_waited_for_long() {
    let mut pair = Pair::open(with(usual()));
    pair.client().knobs.is_lost = true;
    let now = pair.now;
    pair.client().connection.close(CloseCode::Normal, "done", now);
    pair.run_for(Duration::from_millis(900));
    assert!(!pair.client().connection.is_finished());
    pair.run_for(Duration::from_millis(200));
    assert!(pair.client().connection.is_finished());
}

/// A conversation with a bit of everything.
fn converse(pair: &mut Pair) {
    pair.settle();
    for end in &mut pair.ends {
        if end.connection.is_open() {
            end.attach(LinkRole::Producer, AMPLE);
        }
    }
    pair.settle();
    for index in [CLIENT, SERVER] {
        let end = &mut pair.ends[index];
        let links = if end.connection.is_open() { end.attached.clone() } else { Vec::new() };
        for link in links {
            end.send(Lane::Urgent, Some(link), 1, 10);
            end.send(Lane::Normal, Some(link), 2, 700);
            end.send(Lane::Bulk, Some(link), 3, 1500);
            end.connection.detach_link(link, DetachCode::Normal, "that was all");
        }
    }
    pair.settle();
    let now = pair.now;
    pair.server().connection.close(CloseCode::Normal, "good night", now);
    pair.settle();
}

fn small() -> ConnectionConfig {
    with(crate::proto::Parameters { message_bytes_max: 1 << 16, links_max: 4, ..least() })
}

#[test]
fn the_channel_may_break_at_every_byte() {
    let mut pair = Pair::new(small(), small());
    converse(&mut pair);
    let bytes = [0, 1].map(|from: usize| pair.ends[1 - from].bytes_arrived);
    assert!(bytes.iter().all(|bytes| (1000..20_000).contains(bytes)), "{bytes:?}");
    for from in [CLIENT, SERVER] {
        for cut in 0..bytes[from] {
            let mut pair = Pair::new(small(), small());
            pair.ends[from].knobs.cut_after_bytes = Some(cut);
            converse(&mut pair);
            pair.run_for(Duration::from_secs(30));
            for end in &pair.ends {
                assert_eq!(end.closed.len(), 1, "cut after {cut} bytes of end {from}: {:?}", end.closed);
                assert!(end.connection.is_finished(), "cut after {cut} bytes of end {from}");
            }
            assert_buffers_are_back(pair, "cut");
        }
    }
}

/// What had arrived counts, also the close, although the channel has ended since.
#[test]
fn what_arrived_before_the_channel_ended_is_given() {
    let mut pair = Pair::open(with(usual()));
    let (now, server) = (pair.now, &mut pair.ends[SERVER]);
    server.send(Lane::Normal, None, 1, 5000);
    server.connection.close(CloseCode::ShuttingDown, "bye", now);
    let mut gather = crate::pool::GatherList::new();
    server.connection.poll_transmit(now, &mut server.pool, &mut gather).unwrap();
    let client = &mut pair.ends[CLIENT];
    gather.drain().for_each(|segment| client.connection.handle_segment(segment, now));
    client.connection.handle_channel_end("closed by the peer", now);
    assert!(!client.connection.is_open());
    client.pull(now);
    assert_eq!(client.messages.len(), 1);
    assert!(matches!(&client.closed[..], [CloseReason::Peer { code: CloseCode::ShuttingDown, .. }]));
    assert!(client.connection.is_finished());
}
