//! The pool runs dry at every possible moment: nothing is lost, and no honest peer is blamed.

use super::pair::*;
use crate::connection::CloseReason;
use crate::pool::{BUFFER_CLASSES, BufferMut, GatherList, Pool, PoolConfig};
use crate::proto::Lane;
use crate::proto::control::CloseCode;
use std::time::Duration;

/// A pool with very few buffers of each size.
fn tight() -> Pool {
    let slab_bytes = 64 << 10;
    let config = PoolConfig { bytes_max: slab_bytes * BUFFER_CLASSES.len(), slab_bytes, huge_pages: false };
    let mut pool = Pool::new(config).unwrap();
    // A slab for each size, or the first that is asked for would take them all.
    BUFFER_CLASSES.iter().for_each(|size| drop(pool.buffer(*size).unwrap()));
    pool
}

/// Takes every buffer of these sizes.
fn drain(pool: &mut Pool, sizes: &[usize]) -> Vec<BufferMut> {
    sizes.iter().flat_map(|size| std::iter::from_fn(|| pool.buffer(*size).ok()).collect::<Vec<_>>()).collect()
}

#[test]
fn sending_waits_for_buffers_and_loses_nothing() {
    for spare in 0..6 {
        let mut pair = Pair::open(with(usual()));
        pair.client().pool = tight();
        pair.client().send(Lane::Normal, None, 1, 3000);
        pair.client().send(Lane::Bulk, None, 2, 40_000);
        pair.client().send(Lane::Urgent, None, 3, 10);
        let mut held = drain(&mut pair.client().pool, &BUFFER_CLASSES);
        // Some frames get their buffers, others do not.
        held.truncate(held.len() - spare.min(held.len()));
        pair.settle();
        drop(held);
        pair.settle();
        assert_eq!(pair.server().messages.len(), 3, "{spare} to spare");
        assert!(pair.ends.iter().all(|end| end.closed.is_empty()), "{spare} to spare");
        // What the frames that left have granted is known here: the peer may use all of it.
        for tag in 0..200 {
            pair.server().send(Lane::Normal, None, tag, 3000);
        }
        pair.client().pool = pool();
        pair.settle();
        assert_eq!((pair.client().messages.len(), pair.client().closed.len()), (200, 0), "{spare} to spare");
    }
}

/// What `from` can send now, without the rest of what a turn does.
fn transmitted(pair: &mut Pair, from: usize) -> (bool, Vec<u8>) {
    let (now, end) = (pair.now, &mut pair.ends[from]);
    let mut gather = GatherList::new();
    let is_whole = end.connection.poll_transmit(now, &mut end.pool, &mut gather).is_ok();
    end.connection.handle_sent();
    (is_whole, gather.segments().iter().flat_map(|part| part.iter().copied()).collect())
}

fn arrive(pair: &mut Pair, to: usize, bytes: &[u8]) {
    let (now, end) = (pair.now, &mut pair.ends[to]);
    for piece in bytes.chunks(60_000) {
        let mut buffer = end.pool.buffer(piece.len()).unwrap();
        buffer.put_slice(piece);
        end.connection.handle_segment(buffer.split(), now);
        end.pull(now);
    }
}

/// Frames leave with a grant, and the next one finds no buffer: the peer goes by the grant all the same.
#[test]
fn grants_that_left_before_the_pool_ran_dry_hold() {
    let mut pair = Pair::open(with(usual()));
    pair.client().send(Lane::Normal, None, 0, 10);
    pair.settle();
    // Too few for the client to speak only for their sake.
    (0..20).for_each(|tag| pair.server().send(Lane::Normal, None, tag, 3500));
    pair.settle();
    (0..30).for_each(|tag| pair.client().send(Lane::Normal, None, tag, 1500));
    let mut held = drain(&mut pair.client().pool, &BUFFER_CLASSES);
    let (is_whole, bytes) = transmitted(&mut pair, CLIENT);
    assert!(!is_whole && bytes.len() > 4096, "some frames leave, and others do not");
    held.clear();
    pair.client().pool = pool();
    arrive(&mut pair, SERVER, &bytes);
    // More than were granted with the hello.
    (0..50).for_each(|tag| pair.server().send(Lane::Normal, None, tag, 3500));
    let (_, bytes) = transmitted(&mut pair, SERVER);
    arrive(&mut pair, CLIENT, &bytes);
    assert_eq!(pair.client().closed, [], "the client did not know what it had granted");
    assert_eq!(pair.client().messages.len(), 70);
}

#[test]
fn parsing_waits_for_buffers_and_loses_nothing() {
    let mut pair = Pair::open(with(usual()));
    // Bodies in many pieces need lists, which are buffers.
    pair.client().knobs.piece_bytes_max = 3;
    let now = pair.now;
    for tag in 0..3 {
        pair.client().send(Lane::Normal, None, tag, 4000);
    }
    pair.client().connection.close(CloseCode::Normal, "done", now);
    let client = &mut pair.ends[CLIENT];
    let mut gather = GatherList::new();
    client.connection.poll_transmit(now, &mut client.pool, &mut gather).unwrap();
    let bytes: Vec<u8> = gather.segments().iter().flat_map(|part| part.iter().copied()).collect();
    let server = &mut pair.ends[SERVER];
    // Pieces that are not neighbours, so that nothing joins them.
    let mut source = pool();
    for piece in bytes.chunks(300) {
        let mut buffer = source.buffer(512).unwrap();
        buffer.put_slice(&piece[..piece.len() / 2]);
        server.connection.handle_segment(buffer.split(), now);
        let mut buffer = source.buffer(512).unwrap();
        buffer.put_slice(&piece[piece.len() / 2..]);
        server.connection.handle_segment(buffer.split(), now);
    }
    server.pool = tight();
    let held = drain(&mut server.pool, &BUFFER_CLASSES);
    assert!(server.connection.poll_event(now, &mut server.pool, &mut None).is_err(), "it found buffers");
    // The channel ends meanwhile; what it brought is still there, and the peer's silence is not held against it.
    server.connection.handle_channel_end("closed by the peer", now);
    assert!(server.connection.poll_event(now, &mut server.pool, &mut None).is_err());
    let later = now + Duration::from_secs(6);
    server.connection.handle_timeout(later);
    assert!(server.connection.next_timeout() > later);
    drop(held);
    server.pull(now);
    assert_eq!(server.messages.len(), 3);
    assert!(matches!(&server.closed[..], [CloseReason::Peer { code: CloseCode::Normal, .. }]));
}
