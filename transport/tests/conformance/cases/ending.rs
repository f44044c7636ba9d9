//! How channels end.

use crate::bench::{Bench, End};
use crate::subject::WireUnderTest;
use underlay::backend::{Channel, ChannelEnd, SendRefused};
use underlay::pool::GatherList;

pub(crate) fn sends_on_closed_and_unknown_channels_are_refused<W: WireUnderTest>(bench: &mut Bench<W>) {
    let (near, far) = bench.connect();
    let unknown = Channel { slot: near.slot + 1000, generation: near.generation };
    let never = Channel { slot: near.slot, generation: near.generation.wrapping_add(1) };
    refused(&mut bench.left, unknown, "one that never was");
    refused(&mut bench.left, never, "one that is not yet");
    bench.left.wire.close(unknown);
    bench.left.wire.close(never);
    bench.left.wire.close(near);
    refused(&mut bench.left, near, "one that is being closed");
    bench.until("Closed at both ends", |bench| bench.left.is_closed(near) && bench.right.is_closed(far));
    refused(&mut bench.left, near, "one that was closed");
    refused(&mut bench.right, far, "one that the peer has closed");
    bench.left.wire.close(near);
    bench.settle();
}

pub(crate) fn a_close_is_seen_once_at_both_ends_behind_what_was_sent<W: WireUnderTest>(bench: &mut Bench<W>) {
    for round in 0..20_u8 {
        let (near, far) = bench.connect();
        let bytes = [round; 5_000];
        for part in bytes.chunks(500) {
            bench.left.send_bytes(near, part);
            bench.until("Sent", |bench| !bench.left.is_in_flight(near));
        }
        if round % 2 == 1 {
            // With nothing on its way.
            bench.until("all bytes", |bench| bench.right.received_bytes(far).len() >= 5_000);
        }
        let cut = [!round; 60_000];
        if round % 3 == 2 {
            // Of what is in flight a front part may arrive, and nothing else.
            bench.left.send_bytes(near, &cut);
        }
        bench.close(near, far);
        let reason = bench.left.record(near).end.as_ref().unwrap();
        assert!(matches!(reason, ChannelEnd::Local), "closed by this end, and not: {reason}");
        let reason = bench.right.record(far).end.as_ref().unwrap();
        assert!(matches!(reason, ChannelEnd::Peer), "closed by the peer, and not: {reason}");
        let received = bench.right.received_bytes(far);
        let Some(rest) = received.strip_prefix(&bytes) else {
            panic!("what was sent before the close arrives, and not {} bytes of it", received.len());
        };
        assert!(cut.starts_with(rest) && (round % 3 == 2 || rest.is_empty()), "{} bytes more", rest.len());
    }
    bench.settle();
}

pub(crate) fn nothing_comes_after_closed<W: WireUnderTest>(bench: &mut Bench<W>) {
    for round in 0..20 {
        let (near, far) = bench.connect();
        // In the middle of traffic in both directions, with sends in flight; both ends close in every other round.
        for number in 0..5 {
            for (end, channel) in [(&mut bench.left, near), (&mut bench.right, far)] {
                if !end.is_in_flight(channel) {
                    end.send_bytes(channel, &[number; 9_000]);
                }
            }
            bench.poll();
        }
        bench.left.wire.close(near);
        if round % 2 == 1 {
            bench.right.wire.close(far);
        }
        bench.until("Closed at both ends", |bench| bench.left.is_closed(near) && bench.right.is_closed(far));
        // Whatever comes now fails as it is filed.
        bench.settle();
    }
}

pub(crate) fn old_names_touch_no_newer_channel<W: WireUnderTest>(bench: &mut Bench<W>) {
    let (old, old_far) = bench.connect();
    bench.close(old, old_far);
    let mut others = Vec::new();
    let (new, new_far) = loop {
        let (near, far) = bench.connect();
        if near.slot == old.slot {
            break (near, far);
        }
        others.push(near);
        assert!(others.len() < 64, "slots are used again");
    };
    assert_ne!(old.generation, new.generation);
    let mut gather = GatherList::new();
    gather.push(bench.left.segment(b"not for the new one"));
    let refused = bench.left.wire.send(old, &mut gather);
    assert_eq!(refused, Err(SendRefused::NotOpen), "a send by an old name");
    bench.left.wire.close(old);
    bench.settle();
    assert!(!bench.left.is_closed(new), "an old name closed a newer channel");
    bench.transfer(new, new_far, bench.seed, 10_000);
}

pub(crate) fn all_buffers_come_back<W: WireUnderTest>(bench: &mut Bench<W>) {
    // A wire may keep buffers of its own to receive into: as many as after the first rounds, no more with each one.
    let mut after = Vec::new();
    for round in 0..12 {
        let (near, far) = bench.connect();
        bench.transfer(near, far, bench.seed, 100_000);
        bench.transfer(near, far, bench.seed, 10);
        // Closed with sends in flight in both directions.
        bench.left.send_bytes(near, &[1; 60_000]);
        bench.right.send_bytes(far, &[2; 60_000]);
        if round % 2 == 0 {
            bench.poll();
        }
        bench.close(near, far);
        bench.left.record(near).received.clear();
        bench.right.record(far).received.clear();
        after.push((bench.left.buffers_out(), bench.right.buffers_out()));
    }
    let most = |range: std::ops::Range<usize>| {
        after[range].iter().fold((0, 0), |most, out| (most.0.max(out.0), most.1.max(out.1)))
    };
    let (early, late) = (most(0..4), most(4..12));
    assert!(late.0 <= early.0 && late.1 <= early.1, "more and more buffers are out: {after:?}");
}

pub(crate) fn a_dropped_wire_ends_its_channels<W: WireUnderTest>(bench: &mut Bench<W>) {
    let channels: Vec<_> = (0..3).map(|_| bench.connect_third().0).collect();
    let (near, far) = bench.connect();
    let third = bench.third.take();
    drop(third);
    bench.until("Closed for every channel", |bench| {
        channels.iter().all(|&channel| bench.left.is_closed(channel))
    });
    for channel in channels {
        let reason = bench.left.record(channel).end.as_ref().unwrap();
        assert!(matches!(reason, ChannelEnd::Peer | ChannelEnd::Broken(_)), "{reason}");
    }
    bench.transfer(near, far, bench.seed, 10_000);
    bench.settle();
}

fn refused<W: WireUnderTest>(end: &mut End<W>, channel: Channel, which: &str) {
    let mut gather = GatherList::new();
    gather.push(end.segment(b"kept"));
    let refused = end.wire.send(channel, &mut gather);
    assert_eq!(refused, Err(SendRefused::NotOpen), "a send was taken on {which}");
    assert_eq!(&*gather.segments()[0], b"kept", "a list that is refused stays as it was");
}
