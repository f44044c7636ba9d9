//! How channels end: error state, drain, destroy, then free; by either end, in every phase.

use super::*;
use std::time::{Duration, Instant};

#[test]
fn what_was_sent_before_a_close_arrives_before_it_ends() {
    for bytes in [1, 5_000, 80_000] {
        let (mut rig, near, far) = Rig::connected();
        // Credit enough for all of it.
        for _ in 0..6 {
            rig.pass((0, near), (1, far), &content(100_000));
        }
        rig.rounds(2);
        rig.ends[1].said.clear();
        rig.ends[0].send(near, &content(bytes)).unwrap();
        rig.ends[0].engine().close(near);
        for _ in 0..20 {
            rig.network.run_until_quiet();
            rig.ends[0].poll();
        }
        rig.network.run_until_quiet();
        // The peer was about to sleep, and so it asks the connection manager first.
        rig.ends[1].arm();
        rig.ends[1].poll();
        assert_eq!(rig.ends[1].received(far), content(bytes));
        assert!(matches!(rig.end_of(1, far), ChannelEnd::Peer));
        assert!(matches!(rig.end_of(0, near), ChannelEnd::Local));
        rig.assert_empty();
    }
}

#[test]
fn a_refused_last_request_does_not_cut_what_was_sent() {
    use crate::backend::rdma::verbs::fake::Fault;
    let (mut rig, near, far) = Rig::connected();
    rig.ends[0].send(near, &content(50_000)).unwrap();
    rig.network.inject(rig.ends[0].name, Fault::PostRefused { after: 0 });
    rig.ends[0].engine().close(near);
    assert!(matches!(rig.end_of(0, near), ChannelEnd::Local));
    rig.end_of(1, far);
    assert_eq!(rig.ends[1].received(far), content(50_000));
    rig.assert_empty();
}

/// A network on which nothing moves, and a device that does not find out: the channel ends by itself.
#[test]
fn a_close_that_nobody_answers_ends_within_close_timeout() {
    let configs = [RdmaConfig { close_timeout: Duration::from_millis(20), ..config() }, config()];
    let mut rig = Rig::with(FakeNetwork::in_turn(), &configs);
    let place = rig.ends[1].listen().1;
    let (near, far) = rig.connect(0, 1, &place);
    rig.rounds(3);
    rig.ends[0].send(near, b"never acknowledged").unwrap();
    rig.ends[0].engine().close(near);
    rig.ends[0].poll();
    assert!(
        rig.ends[0].said.iter().all(|event| !matches!(event, WireEvent::Closed { .. })),
        "it is waited for"
    );
    assert!(rig.ends[0].engine().sleep_max().is_some_and(|most| most <= Duration::from_millis(20)));
    let began = Instant::now();
    while rig.ends[0].engine().channels.len() > 0 {
        assert!(began.elapsed() < Duration::from_secs(10), "it waits for ever");
        std::thread::sleep(Duration::from_millis(1));
        rig.ends[0].poll();
    }
    let end = rig.end_of(0, near);
    assert!(matches!(&end, ChannelEnd::Broken(why) if why.to_string().contains("close_timeout")), "{end:?}");
    rig.end_of(1, far);
    rig.assert_empty();
}

/// Whoever asks before a sleep hears of what no poll has told yet.
#[test]
fn nobody_sleeps_over_an_end_that_was_not_told() {
    use crate::backend::rdma::verbs::fake::Fault;
    let (mut rig, near, far) = Rig::connected();
    rig.rounds(5);
    assert_ne!(rig.ends[0].engine().sleep_max(), Some(Duration::ZERO));
    rig.network.inject(rig.ends[0].name, Fault::ConnectionManagerFails(libc::ENODEV));
    let channel = rig.ends[0].engine().connect("10.0.0.2:7").unwrap();
    assert_eq!(rig.ends[0].engine().sleep_max(), Some(Duration::ZERO), "it has failed already");
    assert!(matches!(rig.end_of(0, channel), ChannelEnd::ConnectFailed(_)));
    rig.ends[0].engine().close(near);
    assert_eq!(rig.ends[0].engine().sleep_max(), Some(Duration::ZERO), "it is closed already");
    rig.end_of(0, near);
    rig.end_of(1, far);
    rig.assert_empty();
}

#[test]
fn both_ends_close_at_once() {
    let (mut rig, near, far) = Rig::connected();
    rig.ends[0].send(near, &content(40_000)).unwrap();
    rig.ends[1].send(far, &content(40_000)).unwrap();
    rig.ends[0].engine().close(near);
    rig.ends[0].engine().close(near);
    rig.ends[1].engine().close(far);
    assert!(matches!(rig.end_of(0, near), ChannelEnd::Local));
    assert!(matches!(rig.end_of(1, far), ChannelEnd::Local));
    assert!(matches!(rig.ends[0].send(near, b"late"), Err(SendRefused::NotOpen)));
    rig.rounds(5);
    rig.assert_empty();
}

#[test]
fn a_close_does_not_wait_for_a_peer_without_credit() {
    let (mut rig, near, far) = Rig::connected();
    rig.ends[0].send(near, &content(20_000)).unwrap();
    rig.until(|rig| rig.ends[0].has_sent(near));
    // The first gets no answers, so most of this waits for credit.
    let mut gather = rig.ends[0].segments(&content(900_000));
    rig.ends[0].engine().send(near, &mut gather).unwrap();
    rig.network.run_until_quiet();
    rig.ends[0].engine().close(near);
    assert!(matches!(rig.end_of(0, near), ChannelEnd::Local));
    assert!(matches!(rig.end_of(1, far), ChannelEnd::Peer));
    // What was reported as sent is there, and of the other a front part.
    let received = rig.ends[1].received(far);
    let rest = received.strip_prefix(&content(20_000)[..]).unwrap();
    assert!(content(900_000).starts_with(rest) && (1..900_000).contains(&rest.len()), "{}", rest.len());
    rig.assert_empty();
}

#[test]
fn a_peer_that_dies_ends_the_channel_and_every_buffer_comes_back() {
    for is_sending in [false, true] {
        let (mut rig, near, far) = Rig::connected();
        rig.pass((1, far), (0, near), &content(100_000));
        let identifier = rig.ends[0].identifier(near);
        if is_sending {
            rig.network.hold_sends(rig.ends[0].name, identifier);
            rig.ends[0].send(near, &content(300_000)).unwrap();
        }
        let place = rig.ends[1].listen().1;
        rig.ends[0].said.clear();
        rig.ends[1].kill();
        let reason = rig.end_of(0, near);
        assert!(matches!(reason, ChannelEnd::Peer | ChannelEnd::Broken(_)), "{reason:?}");
        assert!(rig.ends[0].engine().connect(&place).is_ok());
        rig.until(|rig| rig.ends[0].engine.as_ref().unwrap().channels.len() == 0);
        rig.network.assert_clean();
        rig.ends[0].said.clear();
        rig.ends[0].engine = None;
        assert_eq!(rig.ends[0].buffers_out(), 0);
        assert_eq!(rig.network.left(rig.ends[0].name).queue_pairs, 0);
    }
}

#[test]
fn a_wire_that_is_dropped_lets_what_was_sent_leave_and_ends_its_channels() {
    let network = FakeNetwork::in_turn().moving_by_itself();
    let mut rig = Rig::new(network, 2);
    let place = rig.ends[1].listen().1;
    let (near, far) = rig.connect(0, 1, &place);
    rig.ends[0].send(near, &content(60_000)).unwrap();
    rig.ends[0].engine = None;
    assert_eq!(rig.network.left(rig.ends[0].name).queue_pairs, 0, "all were destroyed before the device");
    assert!(matches!(rig.end_of(1, far), ChannelEnd::Peer));
    assert_eq!(rig.ends[1].received(far), content(60_000));
    rig.assert_empty();
}

#[test]
fn old_completions_and_names_touch_no_newer_channel() {
    let (mut rig, near, far) = Rig::connected();
    let place = rig.ends[1].listen().1;
    let device = rig.ends[0].engine().devices[0].device;
    // What the old one had sent is done, and not seen, when the new one takes its place.
    rig.network.hold_completions(rig.ends[0].name, device);
    rig.ends[0].send(near, &content(20_000)).unwrap();
    rig.network.run_until_quiet();
    rig.ends[1].engine().close(far);
    rig.network.run_until_quiet();
    let identifier = rig.ends[0].identifier(near);
    rig.ends[0].engine().end_at_once(near, std::io::Error::other("gone"));
    let (newer, newer_far) = rig.connect(0, 1, &place);
    assert_eq!((newer.slot, rig.ends[0].identifier(newer)), (near.slot, identifier));
    rig.network.hold_sends(rig.ends[0].name, identifier);
    rig.ends[0].send(newer, &content(20_000)).unwrap();
    rig.network.release_completions(rig.ends[0].name, device);
    rig.rounds(5);
    assert!(!rig.ends[0].has_sent(newer), "an old completion was taken for a new one");
    assert!(matches!(rig.ends[0].send(near, b"old"), Err(SendRefused::NotOpen)));
    rig.ends[0].engine().close(near);
    rig.network.release_sends(rig.ends[0].name, identifier);
    rig.until(|rig| rig.ends[1].received(newer_far).len() == 20_000);
}

#[test]
fn what_was_told_of_an_old_channel_ends_no_newer_one() {
    let (mut rig, near, far) = Rig::connected();
    let place = rig.ends[1].listen().1;
    // The peer leaves; the first learns of it by a failed send, with the event still to be looked at.
    let identifier = rig.ends[0].identifier(near);
    rig.ends[1].engine().close(far);
    rig.network.run_until_quiet();
    rig.ends[0].engine().broke(near, std::io::Error::other("a send failed"));
    assert!(rig.ends[0].engine().channels.at(near).is_none(), "it had nothing to wait for");
    assert!(rig.ends[0].engine().hurry_lingering(0));
    let newer = rig.ends[0].engine().connect(&place).unwrap();
    assert_eq!(rig.ends[0].identifier(newer), identifier, "the number is used again");
    let is_up =
        |event: &WireEvent| matches!(event, WireEvent::Connected { channel, .. } if *channel == newer);
    rig.until(|rig| rig.ends[0].said.iter().any(is_up));
    rig.rounds(3);
    assert!(rig.ends[0].take_closed(newer).is_none());
}

/// As `mlx5` does.
#[test]
fn devices_that_forget_completions_keep_all_their_receive_requests() {
    for is_by_peer in [false, true] {
        let mut rig = Rig::new(FakeNetwork::in_turn(), 2);
        for end in &rig.ends {
            rig.network.change_device(end.name, end.address, |device| device.forgets_completions = true);
        }
        let place = rig.ends[1].listen().1;
        for _ in 0..60 {
            let (near, far) = rig.connect(0, 1, &place);
            // Five sends have arrived, and nobody has looked.
            rig.ends[0].send(near, &content(5 * 17_000)).unwrap();
            rig.network.run_until_quiet();
            if is_by_peer {
                rig.ends[0].engine().close(near);
                rig.network.run_until_quiet();
            } else {
                rig.ends[1].engine().end_at_once(far, std::io::Error::other("enough"));
            }
            rig.until(|rig| rig.ends.iter().all(|end| end.engine.as_ref().unwrap().channels.len() == 0));
            for end in &mut rig.ends {
                end.said.clear();
            }
        }
        rig.rounds(2);
        let device = &rig.ends[1].engine.as_ref().unwrap().devices[0];
        let posted = device.receives.posted();
        assert!(
            device.shares.free_now() as usize == posted && posted >= 8,
            "{posted} are posted, {:?}",
            device.shares
        );
        // And they are really there.
        let (near, far) = rig.connect(0, 1, &place);
        for _ in 0..20 {
            rig.pass((0, near), (1, far), &content(200_000));
            rig.ends[1].said.clear();
        }
        assert_eq!(rig.network.not_ready(rig.ends[1].name), 0);
        rig.ends[0].engine().close(near);
        rig.end_of(0, near);
        rig.end_of(1, far);
        rig.assert_empty();
    }
}
