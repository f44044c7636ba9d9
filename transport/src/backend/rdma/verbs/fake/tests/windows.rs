//! Windows, and what a program may not do with them or with memory.

use super::super::super::contract::next_key;
use super::*;

/// A window of the accepting end's, open on the middle of its memory.
fn opened(world: &mut World<FakeVerbs>, link: &Link) -> (Window, u32) {
    let window = world.verbs[ACCEPTING].allocate_window(world.devices[ACCEPTING]).unwrap();
    let key = next_key(window.key);
    assert_eq!(world.open(link, window, key, 1024, 512).status, Status::SUCCESS);
    (window, key)
}

#[test]
fn nothing_beside_a_window_is_read_though_it_is_registered() {
    for (offset, bytes, status) in [
        (1024, 512, Status::SUCCESS),
        (1535, 1, Status::SUCCESS),
        (1535, 2, Status::REMOTE_ACCESS),
        (1023, 2, Status::REMOTE_ACCESS),
        (0, 512, Status::REMOTE_ACCESS),
    ] {
        let (network, mut world, link) = connected();
        let (window, key) = opened(&mut world, &link);
        assert_eq!(world.read(&link, key, offset, bytes).status, status, "{offset}, {bytes}");
        if status == Status::SUCCESS {
            world.done(ACCEPTING, &link, Operation::Invalidate { key }, &[]);
        } else {
            world.assert_broken(ACCEPTING, &link);
        }
        world.verbs[ACCEPTING].free_window(window).unwrap();
        network.assert_clean();
    }
}

#[test]
fn who_answers_no_reads_breaks_on_one() {
    let mut parameters = [super::super::super::contract::PARAMETERS; 2];
    parameters[ACCEPTING].reads_answered = 0;
    let (_, mut world, link) = connected_with(parameters);
    let (_, key) = opened(&mut world, &link);
    assert_eq!(world.read(&link, key, 1024, 8).status, Status(9));
    world.assert_broken(ACCEPTING, &link);
}

#[test]
fn a_window_is_opened_when_it_is_closed_and_with_its_own_key() {
    let cases: [fn(&mut World<FakeVerbs>, &Link) -> Completion; 4] = [
        |world, link| {
            let (window, key) = opened(world, link);
            world.open(link, window, next_key(key), 0, 8)
        },
        |world, link| {
            let (window, key) = opened(world, link);
            world.done(ACCEPTING, link, Operation::Invalidate { key }, &[]);
            world.open(link, window, key, 0, 8)
        },
        |world, link| {
            let window = world.verbs[ACCEPTING].allocate_window(world.devices[ACCEPTING]).unwrap();
            world.open(link, window, window.key ^ 0x100, 0, 8)
        },
        |world, link| {
            let window = world.verbs[ACCEPTING].allocate_window(world.devices[ACCEPTING]).unwrap();
            world.open(link, window, next_key(window.key), 16 * 1024 - 8, 9)
        },
    ];
    for case in cases {
        let (_, mut world, link) = connected();
        assert_eq!(case(&mut world, &link).status, Status(6));
        world.assert_broken(ACCEPTING, &link);
    }
}

#[test]
fn what_devices_do_not_forgive_is_noted() {
    type Case = fn(&mut World<FakeVerbs>, &Link);
    let cases: [(&str, Case); 5] = [
        ("destroyed a queue pair with an open window", |world, link| {
            opened(world, link);
            world.verbs[ACCEPTING].destroy(link.identifiers[ACCEPTING]);
        }),
        ("closed a window", |world, link| {
            let (_, key) = opened(world, link);
            for _ in 0..2 {
                world.done(ACCEPTING, link, Operation::Invalidate { key }, &[]);
            }
        }),
        ("freed a window", |world, link| {
            let (window, _) = opened(world, link);
            world.verbs[ACCEPTING].free_window(window).unwrap();
        }),
        ("deregistered memory", |world, _| {
            let target = world.part(ACCEPTING, 0, 8);
            world.receive(ACCEPTING, 1, &[target]);
            world.verbs[ACCEPTING].deregister(world.regions[ACCEPTING]).unwrap();
        }),
        ("deregistered memory", |world, link| {
            let source = world.part(ACCEPTING, 0, 8);
            world.post_all(ACCEPTING, link, &[send(1, 0, &[source])]);
            world.verbs[ACCEPTING].deregister(world.regions[ACCEPTING]).unwrap();
        }),
    ];
    for (said, case) in cases {
        let (network, mut world, link) = connected();
        case(&mut world, &link);
        let misuses = network.misuses();
        assert!(misuses.len() == 1 && misuses[0].contains(said), "{said}: {misuses:?}");
    }
}

#[test]
fn a_device_has_no_more_windows_than_it_says() {
    let (network, mut world, _) = connected();
    let (name, device) = (world.verbs[ACCEPTING].name(), world.devices[ACCEPTING]);
    network.change_device(name, ADDRESSES[ACCEPTING], |device| device.limits.windows_max = 1);
    let window = world.verbs[ACCEPTING].allocate_window(device).unwrap();
    let error = world.verbs[ACCEPTING].allocate_window(device).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
    world.verbs[ACCEPTING].free_window(window).unwrap();
    network.change_device(name, ADDRESSES[ACCEPTING], |device| device.limits.windows_max = 0);
    let error = world.verbs[ACCEPTING].allocate_window(device).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
}
