//! Each fault happens once, and only at the end that it was meant for.

use super::super::super::contract::{DEVICE_SIZES, PARAMETERS, SIZES, resolve};
use super::super::Fault;
use super::*;

fn errno<T>(outcome: io::Result<T>) -> Option<i32> {
    outcome.err().and_then(|error| error.raw_os_error())
}

#[test]
fn calls_fail_once() {
    let (network, mut world, link) = connected();
    let (name, device, region) =
        (world.verbs[CONNECTING].name(), world.devices[CONNECTING], world.regions[CONNECTING]);
    let (place, source) = (world.place, world.addresses[CONNECTING]);
    let fresh = resolve(&mut world.verbs, &mut world.pass, place, source);
    let address = world.memory[CONNECTING].address(0);
    type Call<'a> = &'a dyn Fn(&mut FakeVerbs) -> Option<i32>;
    let sizes = SIZES;
    // SAFETY: the memory outlives the ends.
    let register: Call<'_> = &|verbs| errno(unsafe { verbs.register(device, address, 64) });
    let cases: [(Fault, i32, Call<'_>); 6] = [
        (Fault::RegisterFails(libc::ENOMEM), libc::ENOMEM, register),
        (Fault::CreateQueuePairFails(libc::ENOSPC), libc::ENOSPC, &|verbs| {
            errno(verbs.create_queue_pair(fresh, &sizes))
        }),
        (Fault::WindowFails(libc::ENOSPC), libc::ENOSPC, &|verbs| errno(verbs.allocate_window(device))),
        (Fault::DeregisterFails(libc::EBUSY), libc::EBUSY, &|verbs| errno(verbs.deregister(region))),
        (Fault::TakeCompletionsFails(libc::EIO), libc::EIO, &|verbs| {
            errno(verbs.take_completions(device, &mut [Completion::NONE]))
        }),
        (Fault::ConnectionManagerFails(libc::ENODEV), libc::ENODEV, &|verbs| {
            errno(verbs.resolve(place, None, Duration::from_secs(1)))
        }),
    ];
    for (fault, error, call) in cases {
        network.inject(world.verbs[ACCEPTING].name(), fault);
        network.inject(name, fault);
        assert_eq!(call(&mut world.verbs[CONNECTING]), Some(error), "{fault:?}");
        assert_eq!(call(&mut world.verbs[CONNECTING]), None, "{fault:?}");
    }
    assert!(world.post(CONNECTING, &link, &[flush(1, true)]).error.is_none());
}

#[test]
fn a_device_may_not_open_and_may_give_less() {
    let network = FakeNetwork::in_turn();
    let mut given = ends(&network);
    let name = given.verbs[CONNECTING].name();
    let place = SocketAddr::new(given.addresses[ACCEPTING], 5);
    let identifier = resolve(&mut given.verbs, &mut given.pass, place, given.addresses[CONNECTING]);
    network.change_device(name, ADDRESSES[CONNECTING], |device| {
        (device.limits.receives_max, device.packet_bytes) = (10, 1024);
    });
    let verbs = &mut given.verbs[CONNECTING];
    assert_eq!(verbs.limits(identifier).unwrap().receives_max, 10);
    assert_eq!(verbs.packet_bytes(identifier).unwrap(), 1024);
    assert_eq!(errno(verbs.device(identifier, &DEVICE_SIZES)), Some(libc::EINVAL));
    let sizes = DeviceSizes { receives: 10, ..DEVICE_SIZES };
    network.inject(name, Fault::DeviceFails(libc::ENOMEM));
    assert_eq!(errno(verbs.device(identifier, &sizes)), Some(libc::ENOMEM));
    verbs.device(identifier, &sizes).unwrap();
    let too_many = QueuePairSizes { sends: 1 << 20, ..SIZES };
    assert_eq!(errno(verbs.create_queue_pair(identifier, &too_many)), Some(libc::EINVAL));
    network.inject(name, Fault::InlineSmaller { bytes: 3 });
    assert_eq!(verbs.create_queue_pair(identifier, &SIZES).unwrap().sizes.inline_bytes, 3);
}

#[test]
fn lists_are_cut() {
    let (network, mut world, link) = connected();
    let name = world.verbs[CONNECTING].name();
    network.inject(name, Fault::PostRefused { after: 2 });
    let list = [flush(1, true), flush(2, true), flush(3, true)];
    let posted = world.post(CONNECTING, &link, &list);
    assert_eq!((posted.count, error_of(&posted)), (2, Some(libc::ENOMEM)));
    world.post_all(CONNECTING, &link, &list[2..]);
    network.run_until_quiet();
    assert_eq!(outcomes(&mut world, CONNECTING), [1, 2, 3].map(|work| (work, Status::SUCCESS)));

    network.inject(name, Fault::ReceivesRefused { after: 1 });
    let list = [Receive { work: 1, parts: &[] }; 3];
    // SAFETY: no memory.
    let posted = unsafe { world.verbs[CONNECTING].post_receives(world.devices[CONNECTING], &list) };
    assert_eq!((posted.count, error_of(&posted)), (1, Some(libc::ENOMEM)));
    // SAFETY: no memory.
    let posted = unsafe { world.verbs[CONNECTING].post_receives(world.devices[CONNECTING], &list) };
    assert!(posted.count == 3 && posted.error.is_none());
}

#[test]
fn a_request_fails_as_it_is_told() {
    let (network, mut world, link) = connected();
    network.inject(world.verbs[CONNECTING].name(), Fault::CompletionFails(Status(20)));
    world.post_all(CONNECTING, &link, &[flush(1, false), flush(2, false)]);
    network.run_until_quiet();
    let failed = taken(&mut world, CONNECTING);
    assert_eq!((failed[0].work, failed[0].status), (1, Status(20)));
    assert_eq!((failed[1].work, failed[1].status), (2, Status::FLUSHED));
    // Nobody may look at the rest of it.
    assert_ne!((failed[0].bytes, failed[0].immediate), (0, 0));
}

#[test]
fn a_notification_is_lost_or_comes_without_reason() {
    let (network, mut world, link) = connected();
    let (name, device) = (world.verbs[CONNECTING].name(), world.devices[CONNECTING]);
    network.inject(name, Fault::NotificationLost);
    world.verbs[CONNECTING].arm(device).unwrap();
    world.post_all(CONNECTING, &link, &[flush(1, true)]);
    network.run_until_quiet();
    assert!(!world.is_readable(CONNECTING));
    // Nor does the next one wake: that one was asked for.
    world.post_all(CONNECTING, &link, &[flush(3, true)]);
    network.run_until_quiet();
    assert!(!world.is_readable(CONNECTING));
    assert_eq!(taken(&mut world, CONNECTING).len(), 2);
    // Armed again, it is.
    world.verbs[CONNECTING].arm(device).unwrap();
    world.post_all(CONNECTING, &link, &[flush(2, true)]);
    network.run_until_quiet();
    assert!(world.is_readable(CONNECTING));
    assert_eq!(taken(&mut world, CONNECTING).len(), 1);
    world.verbs[CONNECTING].arm(device).unwrap();
    assert!(!world.is_readable(CONNECTING));

    network.notify_without_reason(name);
    assert!(world.is_readable(CONNECTING));
    assert!(world.verbs[CONNECTING].take_event().unwrap().is_none());
    assert!(!world.is_readable(CONNECTING));
}

#[test]
fn a_disturbed_network_loses_nothing() {
    let (mut refused, mut woken) = (0, 0);
    for seed in 0..20 {
        let network = FakeNetwork::seeded(seed).moving_by_itself();
        let mut given = ends(&network);
        given.pass = Box::new(|| true);
        let (mut world, link) = World::connected_with(given, [PARAMETERS; 2]);
        network.disturb(4);
        (0..60).for_each(|work| world.receive(ACCEPTING, work, &[]));
        let (mut sent, mut arrived) = (0, Vec::new());
        while arrived.len() < 60 {
            let list: Vec<_> = (sent..60).take(4).map(|number| send(0, number, &[])).collect();
            let posted = world.post(CONNECTING, &link, &list);
            // Not for lack of room, of which half is left.
            refused += usize::from(posted.count < list.len() && (sent as usize) < arrived.len() + 8);
            sent += posted.count as u32;
            taken(&mut world, CONNECTING);
            arrived.extend(taken(&mut world, ACCEPTING).iter().map(|completion| completion.immediate));
            // Nothing was armed.
            woken += usize::from(world.is_readable(ACCEPTING));
            assert!(world.verbs[ACCEPTING].take_event().unwrap().is_none());
        }
        assert_eq!(arrived, (0..60).collect::<Vec<_>>(), "seed {seed}");
        network.assert_clean();
    }
    assert!(refused > 0 && woken > 0, "{refused}, {woken}");
}
