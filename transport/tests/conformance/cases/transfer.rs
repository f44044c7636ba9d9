//! What arrives is what was sent.

use crate::bench::Bench;
use crate::content::{Incoming, Outgoing, Random};
use crate::subject::WireUnderTest;
use underlay::backend::Channel;
use underlay::pool::{GATHER_SEGMENTS_MAX, GatherList};

pub(crate) fn bytes_arrive_in_order_and_unchanged<W: WireUnderTest>(bench: &mut Bench<W>) {
    let (near, far) = bench.connect();
    let mut random = Random::new(bench.seed);
    // Small and joined, middling, and lists of whole buffers.
    for (segment_bytes_max, segments_max) in [(40, 200), (5_000, 20), (65_536, 6)] {
        let seed = random.number();
        let mut outgoing = Outgoing::new(seed, 400_000, segment_bytes_max, segments_max);
        let mut incoming = Incoming::new(seed);
        bench.until("all bytes", |bench| {
            bench.left.offer(near, &mut outgoing);
            bench.right.take(far, &mut incoming);
            incoming.bytes == 400_000 && !bench.left.is_in_flight(near)
        });
    }
    bench.settle();
    assert!(bench.right.record(far).received.is_empty(), "more arrived than was sent");
}

pub(crate) fn both_directions_flow_at_once<W: WireUnderTest>(bench: &mut Bench<W>) {
    const BYTES: usize = 1 << 20;
    let (near, far) = bench.connect();
    let seed = bench.seed;
    let (mut out, mut back) = (outgoing(seed, BYTES), outgoing(!seed, BYTES));
    let (mut out_checked, mut back_checked) = (Incoming::new(seed), Incoming::new(!seed));
    bench.until("all bytes in both directions", |bench| {
        bench.left.offer(near, &mut out);
        bench.right.offer(far, &mut back);
        bench.right.take(far, &mut out_checked);
        bench.left.take(near, &mut back_checked);
        out_checked.bytes == BYTES && back_checked.bytes == BYTES
    });
}

pub(crate) fn many_channels_do_not_mix<W: WireUnderTest>(bench: &mut Bench<W>) {
    const BYTES: usize = 40_000;
    let mut random = Random::new(bench.seed);
    let mut channels: Vec<(Channel, Channel, Outgoing, Incoming)> = (0..24)
        .map(|_| {
            let (near, far) = bench.connect();
            let seed = random.number();
            (near, far, outgoing(seed, BYTES), Incoming::new(seed))
        })
        .collect();
    bench.until("all bytes on all channels", |bench| {
        for (near, far, outgoing, incoming) in &mut channels {
            bench.left.offer(*near, outgoing);
            bench.right.take(*far, incoming);
        }
        channels.iter().all(|(_, _, _, incoming)| incoming.bytes == BYTES)
    });
}

pub(crate) fn the_largest_gather_list_arrives_whole<W: WireUnderTest>(bench: &mut Bench<W>) {
    let (near, far) = bench.connect();
    // Entries that cannot be joined: each is behind a byte that is not sent.
    let mut gather = GatherList::new();
    let mut expected = Vec::new();
    for number in 0..GATHER_SEGMENTS_MAX {
        let segment = bench.left.segment(&[0xAA, number as u8, (number >> 8) as u8, 0x55]);
        gather.push(segment.slice(1..4));
        expected.extend_from_slice(&segment[1..4]);
    }
    assert_eq!(gather.room(), 0);
    bench.left.send(near, &mut gather).unwrap();
    bench.until("all of the list", |bench| bench.right.received_bytes(far).len() >= expected.len());
    assert_eq!(bench.right.received_bytes(far), expected);
}

pub(crate) fn a_large_amount_goes_through_small_pools<W: WireUnderTest>(bench: &mut Bench<W>) {
    const BYTES: usize = 24 << 20;
    let (near, far) = bench.connect();
    let seed = bench.seed;
    let mut outgoing = Outgoing::new(seed, BYTES, 65_536, 16);
    let mut incoming = Incoming::new(seed);
    let mut random = Random::new(seed);
    let mut pause = 0;
    bench.until("all bytes", |bench| {
        bench.left.offer(near, &mut outgoing);
        // In a pause what arrives is held, until the buffers run out and the wire has to stop reading.
        if pause > 0 {
            pause -= 1;
        } else {
            bench.right.take(far, &mut incoming);
            pause = if random.up_to(50) == 1 { 30 } else { 0 };
        }
        incoming.bytes == BYTES && !bench.left.is_in_flight(near)
    });
    assert_eq!(outgoing.remaining, 0);
}

pub(crate) fn received_segments_never_change<W: WireUnderTest>(bench: &mut Bench<W>) {
    let (near, far) = bench.connect();
    bench.transfer(near, far, bench.seed, 100_000);
    let mut early = Outgoing::new(bench.seed, 60_000, 3_000, 4);
    bench.until("the segments that are held", |bench| {
        bench.left.offer(near, &mut early);
        bench.right.record(far).received.iter().map(|segment| segment.len()).sum::<usize>() == 60_000
    });
    let held = std::mem::take(&mut bench.right.record(far).received);
    // More than both pools hold, so that every buffer that is free is used again.
    for round in 0..5 {
        bench.transfer(near, far, bench.seed + round, 2 << 20);
    }
    let mut incoming = Incoming::new(bench.seed);
    let intact = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        held.iter().for_each(|segment| incoming.check(segment));
    }));
    assert!(intact.is_ok(), "a segment that was handed out has changed");
}

pub(crate) fn no_body_is_copied<W: WireUnderTest>(bench: &mut Bench<W>) {
    let (near, far) = bench.connect();
    for number in 0..20 {
        let segment = bench.left.segment(&[number; 20_000]);
        let sent_from = segment.as_ptr();
        let mut gather = GatherList::new();
        gather.push(segment);
        bench.left.send(near, &mut gather).unwrap();
        bench.until("the segment, and Sent", |bench| {
            bench.right.received_bytes(far).len() == 20_000 && !bench.left.is_in_flight(near)
        });
        let received: Vec<_> = bench.right.record(far).received.drain(..).collect();
        if bench.site.passes_references {
            let places: Vec<_> = received.iter().map(|segment| segment.as_ptr()).collect();
            assert_eq!(places, [sent_from], "the segment was copied on its way");
        }
    }
    for (end, pool) in [("left", &bench.left.pool), ("right", &bench.right.pool)] {
        assert_eq!(pool.stats().body_copies, 0, "a body was copied at the {end} end");
    }
}

fn outgoing(seed: u64, bytes: usize) -> Outgoing {
    Outgoing::new(seed, bytes, 6_000, 12)
}
