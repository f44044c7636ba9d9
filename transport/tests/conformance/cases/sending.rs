//! One send at a time, what `Sent` means, and what a slow peer does to others.

use crate::bench::Bench;
use crate::subject::WireUnderTest;
use underlay::backend::{Channel, SendRefused};
use underlay::pool::{BUFFER_BYTES_MAX, GATHER_SEGMENTS_MAX, GatherList};

pub(crate) fn one_send_in_flight_is_enforced<W: WireUnderTest>(bench: &mut Bench<W>) {
    let (near, far) = bench.connect();
    bench.left.send_bytes(near, b"first ");
    let mut second = GatherList::new();
    for part in [&b"sec"[..], b"ond"] {
        second.push(bench.left.segment(part));
    }
    // Even if the wire is done with the first one, it has not said so.
    let refused = bench.left.wire.send(near, &mut second);
    assert_eq!(refused, Err(SendRefused::InFlight), "a second send was taken");
    let kept: Vec<&[u8]> = second.segments().iter().map(|segment| &segment[..]).collect();
    assert!(kept == [&b"sec"[..], b"ond"] && second.len() == 6, "a list that is refused stays as it was");
    bench.until("Sent", |bench| !bench.left.is_in_flight(near));
    bench.left.send(near, &mut second).unwrap();
    bench.until("both", |bench| bench.right.received_bytes(far).len() >= 12);
    assert_eq!(bench.right.received_bytes(far), b"first second");
}

pub(crate) fn sent_comes_once_for_each_send<W: WireUnderTest>(bench: &mut Bench<W>) {
    let (near, far) = bench.connect();
    for number in 1..=200 {
        bench.left.send_bytes(near, &[number as u8; 10]);
        bench.until("Sent", |bench| bench.left.record(near).sent == number);
    }
    bench.until("all bytes", |bench| bench.right.received_bytes(far).len() == 2_000);
    // One that comes late would be without its send.
    bench.settle();
    assert_eq!(bench.left.record(near).sent, 200);
}

pub(crate) fn after_sent_the_next_send_is_taken<W: WireUnderTest>(bench: &mut Bench<W>) {
    let (near, _) = bench.connect_third();
    for _ in 0..16 {
        let mut gather = large_list(bench);
        let sent_before = bench.left.record(near).sent;
        if let Err(refused) = bench.left.send(near, &mut gather) {
            panic!("a send was refused after Sent: {refused}");
        }
        bench.settle();
        if bench.left.record(near).sent == sent_before {
            // The peer does not read, so sooner or later it must come to this.
            return;
        }
    }
    panic!("256 MiB were sent to a peer that does not read");
}

pub(crate) fn segments_are_held_until_sent_and_released_afterwards<W: WireUnderTest>(bench: &mut Bench<W>) {
    let (near, far) = bench.connect();
    bench.settle();
    let before = bench.left.buffers_out();
    for round in 1..=20 {
        let mut gather = GatherList::new();
        for number in 0..10 {
            gather.push(bench.left.segment(&[number; 3_000]));
        }
        bench.left.send(near, &mut gather).unwrap();
        let held = bench.left.buffers_out() - before;
        assert_eq!(held, 10, "buffers are held while the send is in flight");
        bench.until("the bytes, and buffers after Sent", |bench| {
            // Where references are passed, it is the receiver who holds them last.
            if bench.right.received_bytes(far).len() == 30_000 {
                bench.right.record(far).received.clear();
            }
            bench.left.record(near).sent == round && bench.left.buffers_out() <= before
        });
        assert!(bench.right.record(far).received.is_empty(), "released before the peer had the bytes");
    }
}

pub(crate) fn a_blocked_send_goes_on_when_the_peer_reads<W: WireUnderTest>(bench: &mut Bench<W>) {
    let (near, far) = bench.connect_third();
    let sends = block(bench, near);
    let bytes = sends * GATHER_SEGMENTS_MAX * BUFFER_BYTES_MAX;
    let mut received = 0;
    bench.until("all that was blocked, and Sent", |bench| {
        let third = bench.third();
        // As much at a time as a small pool allows.
        for _ in 0..50 {
            third.poll();
            for segment in third.record(far).received.drain(..) {
                assert!(segment.iter().all(|&byte| byte == 0x5A), "wrong bytes");
                received += segment.len();
            }
        }
        received == bytes && !bench.left.is_in_flight(near)
    });
    bench.left.send_bytes(near, b"and the next one");
    bench.until("Sent", |bench| !bench.left.is_in_flight(near));
}

pub(crate) fn a_peer_that_never_reads_blocks_only_its_own_channel<W: WireUnderTest>(bench: &mut Bench<W>) {
    let (idle, _) = bench.connect_third();
    let (near, far) = bench.connect();
    block(bench, idle);
    for round in 0..10 {
        bench.transfer(near, far, bench.seed + round, 200_000);
    }
    assert!(bench.left.is_in_flight(idle), "the peer has not read anything");
}

/// Sends to a peer that does not read until a send stays in flight; says how many sends that took.
fn block<W: WireUnderTest>(bench: &mut Bench<W>, near: Channel) -> usize {
    for sends in 1..=16 {
        let mut gather = large_list(bench);
        bench.left.send(near, &mut gather).unwrap();
        bench.settle();
        if bench.left.is_in_flight(near) {
            return sends;
        }
    }
    panic!("256 MiB were sent to a peer that does not read");
}

/// 16 MiB in the largest list, all references to one buffer, so that the sender's pool is not what ends it.
fn large_list<W: WireUnderTest>(bench: &mut Bench<W>) -> GatherList {
    let segment = bench.left.segment(&[0x5A; BUFFER_BYTES_MAX]);
    let mut gather = GatherList::new();
    (0..GATHER_SEGMENTS_MAX).for_each(|_| gather.push(segment.clone()));
    gather
}
