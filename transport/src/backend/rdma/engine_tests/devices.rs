//! Links that go down, devices that go away, and completion queues that overflow.

use super::*;
use crate::backend::rdma::verbs::Verbs;
use crate::backend::rdma::verbs::fake::Fault;
use std::os::fd::AsRawFd;
use std::time::Duration;

#[test]
fn a_link_that_goes_down_ends_what_is_sent_over_it() {
    for side in [0, 1] {
        let (mut rig, near, far) = Rig::connected();
        rig.pass((0, near), (1, far), &content(90_000));
        rig.network.set_link(ADDRESSES[side], false);
        // Nobody notices before something is sent.
        rig.rounds(600);
        assert!(rig.ends[0].take_closed(near).is_none() && rig.ends[1].take_closed(far).is_none());
        rig.ends[0].send(near, &content(90_000)).unwrap();
        rig.ends[1].send(far, &content(90_000)).unwrap();
        assert_broken(&rig.end_of(0, near), "a send failed");
        let reason = rig.end_of(1, far);
        assert!(matches!(reason, ChannelEnd::Peer | ChannelEnd::Broken(_)), "{reason:?}");
        // With the link back there are new ones.
        rig.network.set_link(ADDRESSES[side], true);
        let place = rig.ends[1].listen().1;
        rig.ends[1].said.clear();
        let (near, far) = rig.connect(0, 1, &place);
        rig.pass((0, near), (1, far), &content(90_000));
        rig.ends[0].engine().close(near);
        rig.end_of(0, near);
        rig.end_of(1, far);
        rig.assert_empty();
    }
}

#[test]
fn a_close_over_a_link_that_is_down_ends() {
    let (mut rig, near, far) = Rig::connected();
    rig.network.set_link(ADDRESSES[0], false);
    rig.ends[0].send(near, &content(90_000)).unwrap();
    rig.ends[1].send(far, &content(90_000)).unwrap();
    rig.ends[0].engine().close(near);
    rig.ends[1].engine().close(far);
    assert!(matches!(rig.end_of(0, near), ChannelEnd::Local));
    assert!(matches!(rig.end_of(1, far), ChannelEnd::Local));
    rig.assert_empty();
}

#[test]
fn a_device_that_is_removed_under_load_ends_its_channels_by_name() {
    let (mut rig, near, far) = Rig::connected();
    let place = rig.ends[1].listen().1;
    let (other, other_far) = rig.connect(0, 1, &place);
    let coming = rig.ends[0].engine().connect(&place).unwrap();
    rig.ends[0].send(near, &content(300_000)).unwrap();
    rig.ends[1].send(other_far, &content(300_000)).unwrap();
    rig.network.step();
    rig.network.remove_device(rig.ends[0].name, ADDRESSES[0]);
    assert_broken(&rig.end_of(0, near), "the RDMA device was removed");
    assert_broken(&rig.end_of(0, other), "the RDMA device was removed");
    assert_not_connected(&rig.end_of(0, coming), "");
    assert_eq!(rig.network.left(rig.ends[0].name).queue_pairs, 0, "the removal waits for them");
    rig.ends[1].engine().close(far);
    rig.end_of(1, far);
    rig.end_of(1, other_far);
    let again = rig.ends[0].engine().connect(&place).unwrap();
    assert!(matches!(rig.end_of(0, again), ChannelEnd::ConnectFailed(_)));
    rig.rounds(300);
    rig.assert_empty();
}

#[test]
fn a_listener_whose_device_is_removed_says_so() {
    let (mut rig, near, far) = Rig::connected();
    rig.network.remove_device(rig.ends[1].name, ADDRESSES[1]);
    assert_broken(&rig.end_of(1, far), "the RDMA device was removed");
    let said = |event: &WireEvent| match event {
        WireEvent::AcceptFailed { error, .. } => error.to_string().contains("was removed"),
        _ => false,
    };
    assert!(rig.ends[1].said.iter().any(said), "{:?}", rig.ends[1].said);
    rig.ends[0].send(near, &content(20_000)).unwrap();
    rig.end_of(0, near);
    rig.assert_empty();
}

#[test]
fn a_completion_queue_that_overflows_ends_its_channels_by_name() {
    let (mut rig, near, far) = Rig::connected();
    let place = rig.ends[1].listen().1;
    let (other, _) = rig.connect(0, 1, &place);
    rig.pass((0, near), (1, far), &content(20_000));
    rig.network.inject(rig.ends[0].name, Fault::CompletionsOverflow);
    rig.ends[0].send(near, &content(20_000)).unwrap();
    assert_broken(&rig.end_of(0, near), "device 'fake0' cannot be taken");
    assert_broken(&rig.end_of(0, other), "its queue of them has overflowed");
    // Nothing comes up over it again, and the engine sleeps.
    let again = rig.ends[0].engine().connect(&place).unwrap();
    assert_not_connected(&rig.end_of(0, again), "restart this program to use it");
    rig.ends[0].poll();
    assert_eq!(rig.ends[0].arm(), None);
    rig.until(|rig| rig.ends[1].engine.as_ref().unwrap().channels.len() == 0);
    for end in &mut rig.ends {
        end.engine = None;
        assert_eq!(
            end.buffers_out(),
            end.said.iter().filter(|it| matches!(it, WireEvent::Received { .. })).count()
        );
    }
}

#[test]
fn a_device_that_cannot_be_armed_ends_its_channels_and_disturbs_no_sleep() {
    let (mut rig, near, far) = Rig::connected();
    // It was armed before, and something has come.
    rig.ends[0].arm();
    rig.ends[1].send(far, &content(100)).unwrap();
    rig.network.run_until_quiet();
    rig.network.inject(rig.ends[0].name, Fault::ArmFails(libc::EIO));
    assert_eq!(rig.ends[0].arm(), Some(Duration::ZERO), "there is an end to tell of");
    assert_broken(&rig.end_of(0, near), "cannot be taken (Input/output error");
    rig.end_of(1, far);
    // A driver would wake at once, for ever.
    rig.rounds(50);
    assert_eq!(rig.ends[0].arm(), None);
    let descriptor = rig.ends[0].engine().verbs.descriptor().as_raw_fd();
    let mut found = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, of our own.
    assert_eq!(unsafe { libc::poll(&mut found, 1, 0) }, 0, "the descriptor is readable");
}

#[test]
fn a_device_is_asked_for_less_inline_when_it_refuses_so_much() {
    let config = RdmaConfig { inline_bytes: 4096, ..config() };
    let mut rig = Rig::with(FakeNetwork::in_turn(), &[config.clone(), config]);
    let place = rig.ends[1].listen().1;
    let (near, far) = rig.connect(0, 1, &place);
    let given = rig.ends[0].state(near).link.as_ref().unwrap().queue_pair.sizes.inline_bytes;
    assert!((256..4096).contains(&given), "{given} bytes inline");
    rig.pass((0, near), (1, far), &content(given as usize));
}

#[test]
fn completions_that_cannot_be_taken_end_the_channels_and_not_the_wire() {
    let (mut rig, near, far) = Rig::connected();
    rig.network.inject(rig.ends[0].name, Fault::TakeCompletionsFails(libc::EIO));
    assert_broken(&rig.end_of(0, near), "cannot be taken (Input/output error");
    assert!(matches!(rig.end_of(1, far), ChannelEnd::Peer));
    rig.assert_empty();
}

#[test]
fn the_completion_queue_has_room_for_all_that_can_be_posted() {
    // Many connections at once, none of whose completions are taken while they come.
    let (mut rig, near, far) = Rig::connected();
    let place = rig.ends[1].listen().1;
    let mut channels = vec![(near, far)];
    while let Some(pair) = (channels.len() < 6).then(|| rig.connect(0, 1, &place)) {
        channels.push(pair);
    }
    for _ in 0..30 {
        for (near, far) in &channels {
            let _ = rig.ends[0].send(*near, &content(40_000));
            let _ = rig.ends[1].send(*far, &content(40_000));
        }
        rig.network.run_until_quiet();
        rig.round();
        rig.ends.iter_mut().for_each(|end| end.said.clear());
    }
    rig.network.set_link(ADDRESSES[0], false);
    for (near, far) in &channels {
        let _ = rig.ends[0].send(*near, &content(40_000));
        let _ = rig.ends[1].send(*far, &content(40_000));
    }
    rig.until(|rig| rig.ends.iter().all(|end| end.engine.as_ref().unwrap().channels.len() == 0));
    assert_eq!(rig.network.overflows(rig.ends[0].name) + rig.network.overflows(rig.ends[1].name), 0);
    rig.assert_empty();
}
