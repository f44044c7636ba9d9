//! Memory that may not be pinned, and buffers that are not there.

use super::*;
use crate::backend::rdma::receives::REFUSED_MAX;
use crate::backend::rdma::verbs::fake::Fault;

/// How often registering memory must fail until it is given up.
pub(super) const REGISTRATIONS: usize = REFUSED_MAX + 1;

#[test]
fn the_budget_of_pinned_memory_refuses_with_what_was_asked_and_the_way_out() {
    let poor = RdmaConfig { pinned_bytes_max: 64 << 10, ..config() };
    for poor_side in [0, 1] {
        let mut configs = [config(), config()];
        configs[poor_side] = poor.clone();
        let mut rig = Rig::with(FakeNetwork::in_turn(), &configs);
        let place = rig.ends[1].listen().1;
        let channel = rig.ends[0].engine().connect(&place).unwrap();
        let reason = rig.end_of(0, channel);
        // What the acceptor says is cut to what a rejection carries.
        assert_not_connected(
            &reason,
            "65536 bytes more would have to be pinned for RDMA, and 65536 of the 65536",
        );
        if poor_side == 0 {
            assert_not_connected(&reason, "raise it, or lower receive_slots_max or the pools' bytes_max");
        }
        let pinned = rig.ends[poor_side].engine().budget.pinned_bytes;
        assert_eq!(pinned, 64 << 10);
        rig.assert_empty();
    }
}

#[test]
fn the_limit_of_locked_memory_is_named() {
    let mut rig = Rig::new(FakeNetwork::in_turn(), 2);
    let place = rig.ends[1].listen().1;
    for _ in 0..REGISTRATIONS {
        rig.network.inject(rig.ends[0].name, Fault::RegisterFails(libc::ENOMEM));
    }
    let channel = rig.ends[0].engine().connect(&place).unwrap();
    let reason = rig.end_of(0, channel);
    for word in ["pin no 65536 bytes more", "RLIMIT_MEMLOCK", "ulimit -l"] {
        assert_not_connected(&reason, word);
    }
}

#[test]
fn a_body_that_may_not_be_pinned_ends_only_its_channel() {
    let (mut rig, near, far) = Rig::connected();
    let place = rig.ends[1].listen().1;
    let (other, other_far) = rig.connect(0, 1, &place);
    let engine = rig.ends[0].engine();
    engine.budget.bytes_max = engine.budget.pinned_bytes;
    let bytes = content(60_000);
    let segment = rig.ends[0].segment(&bytes);
    let mut gather = GatherList::new();
    gather.push(segment);
    rig.ends[0].engine().send(near, &mut gather).unwrap();
    assert_broken(&rig.end_of(0, near), "pinned_bytes_max allows");
    rig.end_of(1, far);
    // Small ones travel within their requests.
    rig.pass((0, other), (1, other_far), b"small");
    rig.assert_clean();
}

#[test]
fn a_reader_that_keeps_everything_stops_the_sender_until_it_lets_go() {
    let (mut rig, near, far) = Rig::connected();
    let mut received = 0;
    let mut sent = 0;
    for _ in 0..20 {
        while sent - received < 6_000_000 {
            match rig.ends[0].send(near, &content(200_000)) {
                Ok(()) => sent += 200_000,
                Err(SendRefused::InFlight) if rig.ends[1].engine().devices[0].is_short => break,
                Err(SendRefused::InFlight) => rig.round(),
                Err(error) => panic!("{error}"),
            }
            rig.ends[0].forget_sent(near);
        }
        rig.rounds(20);
        assert!(rig.ends[0].arm().is_none() && rig.ends[1].arm().is_some(), "buffers wake nobody");
        received += rig.ends[1].received(far).len();
        rig.ends[1].said.clear();
        rig.rounds(1);
    }
    rig.until(|rig| received + rig.ends[1].received(far).len() == sent || rig.ends[1].said.len() > 40);
    rig.network.assert_clean();
}

#[test]
fn receive_requests_take_other_buffers_when_theirs_may_not_be_pinned() {
    let (mut rig, near, far) = Rig::connected();
    let engine = rig.ends[1].engine();
    engine.budget.bytes_max = engine.budget.pinned_bytes;
    let bytes = content(900_000);
    let mut received = Vec::new();
    for _ in 0..10 {
        received.clear();
        rig.ends[0].send(near, &bytes).unwrap();
        // The reader keeps what the device knows, so what is left is what it may not know.
        rig.rounds(20);
        while received.len() < bytes.len() {
            let before = received.len();
            received.extend(rig.ends[1].received(far));
            rig.ends[1].said.clear();
            rig.rounds(5);
            assert!(received.len() > before || !rig.ends[1].received(far).is_empty(), "it is stuck");
        }
        assert_eq!(received, bytes);
        rig.until(|rig| rig.ends[0].has_sent(near));
        rig.ends[0].forget_sent(near);
    }
    let budget = rig.ends[1].engine().budget;
    assert!(budget.pinned_bytes <= budget.bytes_max);
    rig.assert_clean();
}

#[test]
fn slabs_of_a_pool_that_is_gone_are_let_go_of_by_every_device_that_knows_them() {
    let mut rig = Rig::new(FakeNetwork::in_turn(), 3);
    let place = rig.ends[1].listen().1;
    let channels = [0, 2].map(|end| (end, rig.connect(end, 1, &place)));
    rig.rounds(5);
    let standing = |rig: &mut Rig, end: usize| {
        let regions = rig.network.left(rig.ends[end].name).regions;
        (regions, rig.ends[end].engine().budget.pinned_bytes)
    };
    let before = [0, 2].map(|end| standing(&mut rig, end));
    let mut pool = Pool::new(pool_config()).unwrap();
    // Two slabs, of buffers of two sizes.
    let segments = [60_000, 10_000].map(|bytes| {
        let mut buffer = pool.buffer(bytes).unwrap();
        buffer.put_slice(&content(bytes));
        buffer.split()
    });
    for (end, (near, _)) in channels {
        let mut gather = GatherList::new();
        segments.iter().for_each(|segment| gather.push(segment.clone()));
        rig.ends[end].engine().send(near, &mut gather).unwrap();
        rig.until(|rig| rig.ends[end].has_sent(near));
        let known = standing(&mut rig, end);
        assert_eq!(known, (before[end / 2].0 + 2, before[end / 2].1 + 2 * (64 << 10)));
    }
    drop(pool);
    rig.rounds(300);
    assert_eq!(standing(&mut rig, 0).0, before[0].0 + 2, "a segment of it is left");
    drop(segments);
    rig.rounds(300);
    assert_eq!([0, 2].map(|end| standing(&mut rig, end)), before);
    for (end, (near, _)) in channels {
        rig.pass((end, near), (1, channels[end / 2].1.1), &content(20_000));
    }
}

#[test]
fn a_slab_that_cannot_be_deregistered_counts_until_its_device_is_closed() {
    let (mut rig, near, _) = Rig::connected();
    let before = rig.ends[0].engine().budget.pinned_bytes;
    let mut pool = Pool::new(pool_config()).unwrap();
    let mut buffer = pool.buffer(60_000).unwrap();
    buffer.put_slice(&content(60_000));
    let mut gather = GatherList::new();
    gather.push(buffer.split());
    drop(buffer);
    rig.ends[0].engine().send(near, &mut gather).unwrap();
    rig.until(|rig| rig.ends[0].has_sent(near));
    rig.network.inject(rig.ends[0].name, Fault::DeregisterFails(libc::EIO));
    drop(pool);
    rig.rounds(600);
    assert_eq!(rig.ends[0].engine().budget.pinned_bytes, before + (64 << 10));
    rig.network.remove_device(rig.ends[0].name, ADDRESSES[0]);
    rig.rounds(600);
    assert_eq!(rig.ends[0].engine().budget.pinned_bytes, 0);
}
