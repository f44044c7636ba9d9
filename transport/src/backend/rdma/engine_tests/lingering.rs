//! Queue pairs that outlive their channels, until their devices have let go of the receive requests.

use super::*;
use crate::backend::OneSided;
use crate::backend::rdma::credit::WINDOW_MIN;
use std::time::Instant;

/// Two ends with a channel, of devices that are so; a send to the second has come in part, and comes no further.
fn receiving(rig: &mut Rig, place: &str) -> (Channel, Channel) {
    let (near, far) = rig.connect(0, 1, place);
    let [sending, receiving] = [rig.ends[0].identifier(near), rig.ends[1].identifier(far)];
    rig.ends[0].send(near, &content(16_000)).unwrap();
    while !rig.network.is_receiving(rig.ends[1].name, receiving) {
        assert!(rig.network.step());
    }
    rig.network.hold_sends(rig.ends[0].name, sending);
    (near, far)
}

/// Every receive request is posted, and none is promised.
#[track_caller]
fn assert_all_there(rig: &Rig) {
    let device = &rig.ends[1].engine.as_ref().unwrap().devices[0];
    let posted = device.receives.posted();
    assert!(posted >= WINDOW_MIN as usize);
    assert_eq!(device.shares.free_now() as usize, posted, "{:?}", device.shares);
}

#[test]
fn a_receive_request_that_was_begun_is_not_lost_with_its_queue_pair() {
    for (forgets_completions, says_last_receive) in [(false, true), (true, true), (false, false)] {
        let mut rig = Rig::new(FakeNetwork::in_turn(), 2);
        rig.network.change_device(rig.ends[1].name, ADDRESSES[1], |device| {
            (device.forgets_completions, device.says_last_receive) = (forgets_completions, says_last_receive);
        });
        let place = rig.ends[1].listen().1;
        for round in 0..40 {
            let (near, far) = receiving(&mut rig, &place);
            match round % 3 {
                // By this end, by the other, and by neither.
                0 => rig.ends[1].engine().close(far),
                1 => rig.ends[0].engine().end_at_once(near, std::io::Error::other("enough")),
                _ => rig.network.break_queue_pair(rig.ends[1].name, rig.ends[1].identifier(far)),
            }
            rig.end_of(1, far);
            rig.end_of(0, near);
            rig.until_nothing_lingers();
            rig.network.assert_clean();
        }
        rig.rounds(2);
        assert_all_there(&rig);
        // And they are really there.
        let (near, far) = rig.connect(0, 1, &place);
        for _ in 0..10 {
            rig.pass((0, near), (1, far), &content(200_000));
            rig.ends[1].said.clear();
        }
        rig.ends[0].engine().close(near);
        rig.end_of(0, near);
        rig.end_of(1, far);
        // This one has nothing in hand, and not every device says so.
        while rig.ends[1].engine().hurry_lingering(0) {}
        rig.assert_empty();
    }
}

#[test]
fn nobody_waits_for_a_queue_pair_that_lingers() {
    let mut rig = Rig::new(FakeNetwork::in_turn(), 2);
    for end in &rig.ends {
        rig.network.change_device(end.name, end.address, |device| device.says_last_receive = false);
    }
    let place = rig.ends[1].listen().1;
    let (near, far) = rig.connect(0, 1, &place);
    rig.pass((0, near), (1, far), &content(20_000));
    let began = Instant::now();
    rig.ends[0].engine().close(near);
    rig.until(|rig| rig.ends[0].said.iter().any(|event| is_closed(event, near)));
    let engine = rig.ends[0].engine();
    assert!(!engine.lingering.is_empty() && engine.channels.len() == 0, "it is gone for its user");
    let sleep = rig.ends[0].arm().expect("nobody wakes it when its time is over");
    assert!(sleep <= Duration::from_millis(100));
    // What it may have in hand is promised to nobody else, and the rest is.
    let device = &rig.ends[0].engine().devices[0];
    assert_eq!(device.shares.free_now() as usize, device.receives.posted() - 1);
    // Such devices never say that it is done.
    rig.rounds(600);
    if began.elapsed() < Duration::from_millis(100) {
        assert_eq!(rig.network.left(rig.ends[0].name).queue_pairs, 1);
    }
    while rig.ends.iter_mut().any(|end| !end.engine().lingering.is_empty()) {
        assert!(began.elapsed() < Duration::from_secs(60), "it lingers for ever");
        std::thread::sleep(Duration::from_millis(1));
        rig.round();
    }
    assert!(began.elapsed() >= Duration::from_millis(100), "it was not given its time");
    assert_eq!(rig.network.left(rig.ends[0].name).queue_pairs, 0);
    rig.ends[0].said.clear();
    rig.end_of(1, far);
    rig.assert_empty();
}

#[test]
fn the_word_of_the_device_ends_it_and_wakes_a_sleeper() {
    use crate::backend::rdma::verbs::Verbs;
    use std::os::fd::AsRawFd;
    let (mut rig, near, far) = Rig::connected();
    rig.ends[1].engine().close(far);
    rig.until(|rig| rig.ends[1].said.iter().any(|event| is_closed(event, far)));
    assert!(!rig.ends[1].engine().lingering.is_empty());
    rig.ends[1].arm();
    rig.ends[1].poll();
    rig.network.run_until_quiet();
    let mut asked = libc::pollfd {
        fd: rig.ends[1].engine().verbs.descriptor().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry of our own, and no waiting.
    let is_readable = unsafe { libc::poll(&raw mut asked, 1, 0) } == 1;
    let has_said = rig.ends[1].engine().devices[0].says_last_receive;
    assert!(is_readable || has_said, "it sleeps though there is news");
    rig.until_nothing_lingers();
    assert!(rig.ends[1].engine().devices[0].says_last_receive);
    rig.ends[1].said.clear();
    rig.end_of(0, near);
    rig.assert_empty();
}

#[test]
fn who_needs_the_place_takes_it_from_those_that_linger() {
    let few = RdmaConfig { receive_slots_max: 16, window_max: 8, ..config() };
    let mut rig = Rig::with(FakeNetwork::in_turn(), &[few.clone(), few]);
    for end in &rig.ends {
        rig.network.change_device(end.name, end.address, |device| device.says_last_receive = false);
    }
    let place = rig.ends[1].listen().1;
    // More than there are receive requests.
    for _ in 0..30 {
        let (near, far) = rig.connect(0, 1, &place);
        rig.pass((0, near), (1, far), &content(20_000));
        rig.ends[0].engine().close(near);
        rig.end_of(0, near);
        rig.end_of(1, far);
        rig.ends[1].said.clear();
    }
    while rig.ends.iter_mut().any(|end| end.engine().hurry_lingering(0)) {}
    rig.assert_empty();
}

/// Of which each has two more queue pairs beside it.
#[test]
fn nor_is_a_device_of_few_queue_pairs_full_of_those_that_linger() {
    use crate::backend::OneSided;
    let beside = RdmaConfig { memory_windows: false, ..config() };
    let mut rig = Rig::with(FakeNetwork::in_turn(), &[beside.clone(), beside]);
    for end in &rig.ends {
        rig.network.change_device(end.name, end.address, |device| {
            (device.limits.queue_pairs_max, device.says_last_receive) = (7, false);
        });
    }
    let place = rig.ends[1].listen().1;
    for _ in 0..10 {
        let (near, far) = rig.connect(0, 1, &place);
        for (end, channel) in [(0, near), (1, far)] {
            assert!(rig.ends[end].engine().exposures_max(channel) > 0, "it has those beside it");
        }
        rig.pass((0, near), (1, far), &content(20_000));
        rig.ends[0].engine().close(near);
        rig.end_of(0, near);
        rig.end_of(1, far);
        rig.ends[1].said.clear();
    }
    while rig.ends.iter_mut().any(|end| end.engine().hurry_lingering(0)) {}
    rig.assert_empty();
}

#[test]
fn nothing_lingers_that_has_nothing_in_hand() {
    let (mut rig, near, far) = Rig::connected();
    // Its one receive request has come back with an error.
    rig.ends[0].send(near, &content(16_000)).unwrap();
    let receiving = rig.ends[1].identifier(far);
    while !rig.network.is_receiving(rig.ends[1].name, receiving) {
        assert!(rig.network.step());
    }
    rig.network.break_queue_pair(rig.ends[1].name, receiving);
    assert_broken(&rig.end_of(1, far), "receiving failed");
    assert!(rig.ends[1].engine().lingering.is_empty());
    // One of which the answer was not taken: its peer has not to wait until it is told.
    rig.end_of(0, near);
    rig.until_nothing_lingers();
    let place = rig.ends[1].listen().1;
    let channel = rig.ends[0].engine().connect(&place).unwrap();
    rig.network.run_until_quiet();
    rig.ends[0].poll();
    rig.network.run_until_quiet();
    rig.ends[0].poll();
    assert_eq!(rig.network.left(rig.ends[0].name).queue_pairs, 1);
    rig.ends[0].engine().close(channel);
    rig.end_of(0, channel);
    assert!(rig.ends[0].engine().lingering.is_empty());
    // One whose peer has refused.
    rig.network.run_until_quiet();
    let channel = rig.ends[0].engine().connect("10.0.0.2:1").unwrap();
    assert_not_connected(&rig.end_of(0, channel), "nobody accepts");
    assert!(rig.ends[0].engine().lingering.is_empty());
    rig.assert_empty();
}

#[test]
fn nor_is_one_lost_where_regions_go_with_the_queue_pair() {
    for is_closed in [false, true] {
        let mut rig = Rig::new(FakeNetwork::in_turn(), 2);
        rig.network.change_device(rig.ends[1].name, ADDRESSES[1], |device| {
            (device.limits.windows_have_bounds, device.says_last_receive) = (false, false);
        });
        let place = rig.ends[1].listen().1;
        let (near, far) = receiving(&mut rig, &place);
        let body = rig.ends[1].pool.copy_body(&content(10_000)).unwrap();
        rig.ends[1].engine().expose(far, 1, &body).unwrap();
        rig.rounds(2);
        if is_closed {
            rig.ends[1].engine().close(far);
        } else {
            rig.ends[0].engine().end_at_once(near, std::io::Error::other("enough"));
        }
        rig.end_of(1, far);
        assert!(rig.ends[1].engine().lingering.is_empty(), "the regions wait for it");
        drop(body);
        rig.end_of(0, near);
        assert_all_there(&rig);
        rig.assert_empty();
    }
}

/// An end that reads a body of the other's and receives, neither of which comes any further; with windows, or with queue
/// pairs beside the channel's own.
fn reading_and_receiving(
    network: FakeNetwork,
    has_windows: bool,
    close_timeout: Duration,
) -> (Rig, Channel, Channel) {
    let config = RdmaConfig { memory_windows: has_windows, close_timeout, ..config() };
    let mut rig = Rig::with(network, &[config.clone(), config]);
    let place = rig.ends[1].listen().1;
    let (near, far) = rig.connect(0, 1, &place);
    rig.rounds(3);
    let body = rig.ends[0].pool.copy_body(&content(10_000)).unwrap();
    let descriptor = rig.ends[0].engine().expose(near, 1, &body).unwrap();
    rig.rounds(3);
    let [sending, receiving] = [rig.ends[0].identifier(near), rig.ends[1].identifier(far)];
    rig.network.hold_sends(rig.ends[1].name, receiving);
    let End { engine, pool, .. } = &mut rig.ends[1];
    engine.as_mut().unwrap().read(far, 1, &descriptor, 10_000, pool).unwrap();
    rig.ends[0].send(near, &content(16_000)).unwrap();
    while !rig.network.is_receiving(rig.ends[1].name, receiving) {
        assert!(rig.network.step());
    }
    rig.network.hold_sends(rig.ends[0].name, sending);
    (rig, near, far)
}

#[test]
fn nor_is_one_lost_by_a_channel_that_reads_when_it_ends() {
    for seed in 0..60 {
        let (has_windows, way) = (seed % 2 == 0, seed / 2 % 3);
        let network = FakeNetwork::seeded(seed);
        let (mut rig, near, far) = reading_and_receiving(network, has_windows, Duration::from_secs(10));
        let identifier = rig.ends[1].identifier(far);
        match way {
            0 => rig.ends[1].engine().close(far),
            1 => rig.ends[0].engine().end_at_once(near, std::io::Error::other("enough")),
            _ => rig.network.break_queue_pair(rig.ends[1].name, identifier),
        }
        if way == 0 && has_windows {
            // What it has posted leaves before.
            rig.network.release_sends(rig.ends[1].name, identifier);
        }
        // Everything comes by itself, in any order.
        while rig.ends[1].take_closed(far).is_none() {
            rig.ends[1].poll();
            if !rig.network.step() {
                rig.rounds(300);
            }
        }
        rig.end_of(0, near);
        rig.until_nothing_lingers();
        assert_eq!(rig.network.receives_lost(rig.ends[1].name), 0, "seed {seed}");
        rig.rounds(2);
        assert_all_there(&rig);
        rig.assert_empty();
    }
}

#[test]
fn what_goes_with_a_queue_pair_that_is_overdue_is_promised_to_nobody() {
    let mut lost = 0;
    for seed in 0..60 {
        let network = FakeNetwork::seeded(seed);
        let (mut rig, near, far) = reading_and_receiving(network, seed % 2 == 0, Duration::ZERO);
        let name = rig.ends[1].name;
        rig.ends[1].engine().drain_with(far, ChannelEnd::Local);
        // Its device does a little, and no more.
        (0..seed / 2 % 4).for_each(|_| assert!(rig.network.step()));
        while rig.ends[1].take_closed(far).is_none() {
            rig.ends[1].poll();
        }
        let device = &rig.ends[1].engine.as_ref().unwrap().devices[0];
        let is_lost = rig.network.receives_lost(name);
        assert_eq!(device.shares.free_now() as u64 + is_lost, device.receives.posted() as u64, "seed {seed}");
        lost += is_lost;
        // Or it would be waited for when its wire is dropped.
        rig.ends[0].engine().end_at_once(near, std::io::Error::other("enough"));
    }
    assert!((1..60).contains(&lost), "{lost}");
}

/// The connection manager makes a queue pair ready when it takes the answer, before anybody here has seen it.
#[test]
fn nor_is_one_lost_by_a_channel_that_is_closed_before_it_is_known_to_be_open() {
    let mut rig = Rig::new(FakeNetwork::in_turn(), 2);
    let place = rig.ends[0].listen().1;
    let far = rig.ends[1].engine().connect(&place).unwrap();
    let has_asked = |rig: &mut Rig| rig.ends[0].engine().channels.len() == 1;
    while !has_asked(&mut rig) {
        rig.round();
    }
    rig.ends[1].engine().fetch_connection_events().unwrap();
    rig.network.run_until_quiet();
    rig.ends[0].poll();
    let accepted = rig.ends[0].said.pop();
    let Some(WireEvent::Accepted { channel: near, .. }) = accepted else { panic!("{accepted:?}") };
    rig.ends[0].send(near, &content(16_000)).unwrap();
    let identifier = rig.ends[1].identifier(far);
    while !rig.network.is_receiving(rig.ends[1].name, identifier) {
        assert!(rig.network.step());
    }
    rig.ends[1].engine().close(far);
    rig.end_of(1, far);
    rig.end_of(0, near);
    rig.until_nothing_lingers();
    rig.rounds(2);
    assert_all_there(&rig);
    rig.assert_empty();
}
