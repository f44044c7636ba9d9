//! Devices that were removed, and come back.

use super::*;
use std::time::Instant;

/// Longer than the engine waits before it looks again.
const UNTIL_LOOK: Duration = Duration::from_millis(110);

#[track_caller]
fn until_it_connects(rig: &mut Rig, place: &str) -> (Channel, Channel) {
    let began = Instant::now();
    loop {
        let channel = rig.ends[0].engine().connect(place).unwrap();
        rig.until(|rig| {
            rig.ends[0].said.iter().any(|event| {
                is_closed(event, channel)
                    || matches!(event, WireEvent::Connected { channel: connected, .. } if *connected == channel)
            })
        });
        if rig.ends[0].take_closed(channel).is_none() {
            rig.rounds(3);
            let accepted = rig.ends[1].said.iter().find_map(|event| match event {
                WireEvent::Accepted { channel, .. } => Some(*channel),
                _ => None,
            });
            rig.ends.iter_mut().for_each(|end| end.said.clear());
            return (channel, accepted.unwrap());
        }
        assert!(began.elapsed() < Duration::from_secs(60), "nothing comes up any more");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_listener_listens_again_when_its_device_is_back() {
    let mut rig = Rig::new(FakeNetwork::in_turn(), 2);
    let place = rig.ends[1].listen().1;
    let name = rig.ends[1].name;
    let (mut near, mut far) = rig.connect(0, 1, &place);
    for _ in 0..3 {
        rig.ends[0].send(near, &content(300_000)).unwrap();
        rig.network.step();
        rig.network.remove_device(name, ADDRESSES[1]);
        assert_broken(&rig.end_of(1, far), "the RDMA device was removed");
        rig.end_of(0, near);
        rig.ends.iter_mut().for_each(|end| end.said.clear());
        // It looks, and there is none.
        std::thread::sleep(UNTIL_LOOK);
        rig.rounds(300);
        assert_eq!(rig.network.left(name), Default::default(), "the removal waits for it");
        assert_eq!(rig.ends[1].engine().budget.pinned_bytes, 0);
        let refused = rig.ends[0].engine().connect(&place).unwrap();
        assert!(matches!(rig.end_of(0, refused), ChannelEnd::ConnectFailed(_)));
        rig.network.return_device(name, ADDRESSES[1]);
        (near, far) = until_it_connects(&mut rig, &place);
        rig.pass((0, near), (1, far), &content(300_000));
        rig.pass((1, far), (0, near), &content(300_000));
        rig.ends.iter_mut().for_each(|end| end.said.clear());
    }
    rig.ends[0].engine().close(near);
    rig.end_of(0, near);
    rig.end_of(1, far);
    rig.assert_empty();
}

#[test]
fn connections_leave_over_a_device_that_is_back() {
    let (mut rig, near, far) = Rig::connected();
    let place = rig.ends[1].listen().1;
    let name = rig.ends[0].name;
    rig.pass((0, near), (1, far), &content(90_000));
    rig.network.remove_device(name, ADDRESSES[0]);
    assert_broken(&rig.end_of(0, near), "the RDMA device was removed");
    rig.ends[1].engine().close(far);
    rig.end_of(1, far);
    rig.rounds(300);
    assert_eq!(rig.network.left(name), Default::default(), "the removal waits for it");
    rig.network.return_device(name, ADDRESSES[0]);
    rig.ends.iter_mut().for_each(|end| end.said.clear());
    let (near, far) = rig.connect(0, 1, &place);
    rig.pass((0, near), (1, far), &content(90_000));
    rig.ends[0].engine().close(near);
    rig.end_of(0, near);
    rig.end_of(1, far);
    rig.assert_empty();
}
