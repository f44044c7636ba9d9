//! What the connection manager says when things do not go well.

use super::super::super::contract::{DEVICE_SIZES, PARAMETERS, SIZES, next_event, resolve};
use super::super::{Fault, Left};
use super::*;

/// An end that has asked another, which was not told yet.
fn asking() -> (FakeNetwork, Ends<FakeVerbs>, Identifier) {
    let network = FakeNetwork::in_turn();
    let mut given = ends(&network);
    let (_, place) =
        given.verbs[ACCEPTING].listen(SocketAddr::new(given.addresses[ACCEPTING], 0), 1).unwrap();
    let identifier = ask(&mut given, place);
    (network, given, identifier)
}

fn ask(given: &mut Ends<FakeVerbs>, place: SocketAddr) -> Identifier {
    let identifier = resolve(&mut given.verbs, &mut given.pass, place, given.addresses[CONNECTING]);
    let verbs = &mut given.verbs[CONNECTING];
    verbs.device(identifier, &DEVICE_SIZES).unwrap();
    verbs.create_queue_pair(identifier, &SIZES).unwrap();
    verbs.connect(identifier, &PARAMETERS, b"").unwrap();
    identifier
}

/// Accepts what comes to the accepting end.
fn accept(given: &mut Ends<FakeVerbs>) -> Identifier {
    let Event::Requested { identifier, .. } = event(given, ACCEPTING) else { panic!("no request") };
    let verbs = &mut given.verbs[ACCEPTING];
    verbs.device(identifier, &DEVICE_SIZES).unwrap();
    verbs.create_queue_pair(identifier, &SIZES).unwrap();
    verbs.accept(identifier, &PARAMETERS, b"").unwrap();
    identifier
}

fn event(given: &mut Ends<FakeVerbs>, side: usize) -> Event {
    next_event(&mut given.verbs[side], &mut given.pass)
}

fn assert_failed(given: &mut Ends<FakeVerbs>, side: usize, of: Identifier, errno: i32) {
    match event(given, side) {
        Event::Failed { identifier, error } => {
            assert_eq!((identifier, error.raw_os_error()), (of, Some(errno)));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_step_can_fail() {
    let network = FakeNetwork::in_turn();
    let mut given = ends(&network);
    let name = given.verbs[CONNECTING].name();
    let (_, place) =
        given.verbs[ACCEPTING].listen(SocketAddr::new(given.addresses[ACCEPTING], 0), 1).unwrap();
    let wait = Duration::from_secs(1);

    network.inject(name, Fault::AddressFails(libc::ETIMEDOUT));
    let identifier = given.verbs[CONNECTING].resolve(place, None, wait).unwrap();
    // No device is known yet.
    assert_eq!(given.verbs[CONNECTING].limits(identifier).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    assert_failed(&mut given, CONNECTING, identifier, libc::ETIMEDOUT);
    given.verbs[CONNECTING].resolve_route(identifier, wait).unwrap_err();

    network.inject(name, Fault::RouteFails(libc::ETIMEDOUT));
    let identifier = given.verbs[CONNECTING].resolve(place, None, wait).unwrap();
    assert!(matches!(event(&mut given, CONNECTING), Event::AddressResolved(_)));
    given.verbs[CONNECTING].resolve_route(identifier, wait).unwrap();
    assert_failed(&mut given, CONNECTING, identifier, libc::ETIMEDOUT);

    network.inject(name, Fault::ConnectFails(libc::ECONNRESET));
    let identifier = ask(&mut given, place);
    assert_failed(&mut given, CONNECTING, identifier, libc::ECONNRESET);

    network.inject(name, Fault::ConnectRejected(10));
    let asked = ask(&mut given, place);
    match event(&mut given, CONNECTING) {
        Event::Rejected { identifier, status, reason } => {
            assert!(identifier == asked && status == 10 && reason.iter().all(|byte| *byte == 0));
        }
        other => panic!("{other:?}"),
    }
    network.run_until_quiet();
    assert!(given.verbs[ACCEPTING].take_event().unwrap().is_none());
}

#[test]
fn who_does_not_exist_or_is_cut_off_is_not_reached() {
    let network = FakeNetwork::in_turn();
    let mut given = ends(&network);
    let wait = Duration::from_secs(1);
    let identifier = given.verbs[CONNECTING].resolve("10.0.0.3:5".parse().unwrap(), None, wait).unwrap();
    assert_failed(&mut given, CONNECTING, identifier, libc::EHOSTUNREACH);
    network.set_link(ADDRESSES[ACCEPTING], false);
    let identifier = given.verbs[CONNECTING].resolve("10.0.0.2:5".parse().unwrap(), None, wait).unwrap();
    assert_failed(&mut given, CONNECTING, identifier, libc::EHOSTUNREACH);
    let not_mine = Some("10.0.0.2:0".parse().unwrap());
    let error = given.verbs[CONNECTING].resolve("10.0.0.2:5".parse().unwrap(), not_mine, wait).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
    let error = given.verbs[CONNECTING].resolve("[::1]:5".parse().unwrap(), None, wait).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
}

#[test]
fn what_is_lost_on_the_way_ends_both() {
    // The request.
    let (network, mut given, asked) = asking();
    network.set_link(ADDRESSES[CONNECTING], false);
    assert_failed(&mut given, CONNECTING, asked, libc::ETIMEDOUT);
    assert!(given.verbs[ACCEPTING].take_event().unwrap().is_none());

    // The answer.
    let (network, mut given, asked) = asking();
    let accepted = accept(&mut given);
    network.set_link(ADDRESSES[CONNECTING], false);
    assert_failed(&mut given, CONNECTING, asked, libc::ETIMEDOUT);
    assert_failed(&mut given, ACCEPTING, accepted, libc::ETIMEDOUT);

    // The confirmation: one end is connected, to nobody.
    let (network, mut given, asked) = asking();
    let accepted = accept(&mut given);
    assert!(matches!(event(&mut given, CONNECTING), Event::Established { .. }));
    network.set_link(ADDRESSES[CONNECTING], false);
    assert_failed(&mut given, ACCEPTING, accepted, libc::ETIMEDOUT);

    // No answer at all, which takes long.
    let (network, mut given, again) = asking();
    network.run_until_quiet();
    network.time_out(given.verbs[CONNECTING].name(), again);
    assert_failed(&mut given, CONNECTING, again, libc::ETIMEDOUT);
    assert_eq!(asked, again);
}

#[test]
fn who_disconnects_from_nobody_is_done_after_a_while() {
    let (network, mut world, link) = connected();
    network.set_link(ADDRESSES[ACCEPTING], false);
    world.verbs[CONNECTING].disconnect(link.identifiers[CONNECTING]).unwrap();
    assert!(matches!(world.event(CONNECTING), Event::Disconnected(of) if of == link.identifiers[CONNECTING]));
    network.run_until_quiet();
    assert!(world.verbs[ACCEPTING].take_event().unwrap().is_none());
}

#[test]
fn the_connecting_end_is_ready_when_it_has_taken_the_event_and_not_before() {
    let (network, mut given, asked) = asking();
    let accepted = accept(&mut given);
    network.run_until_quiet();
    // SAFETY: no memory.
    let posted = unsafe { given.verbs[CONNECTING].post(asked, &[flush(1, true)]) };
    assert_eq!(error_of(&posted), Some(libc::EINVAL));
    assert!(given.verbs[ACCEPTING].take_event().unwrap().is_none());
    assert!(matches!(event(&mut given, CONNECTING), Event::Established { .. }));
    // SAFETY: no memory.
    assert_eq!(unsafe { given.verbs[CONNECTING].post(asked, &[flush(1, true)]) }.count, 1);
    assert!(
        matches!(event(&mut given, ACCEPTING), Event::Established { identifier, .. } if identifier == accepted)
    );
}

#[test]
fn a_listener_has_room_for_so_many_requests() {
    let (network, mut given, first) = asking();
    let place = given.verbs[CONNECTING].peer(first).unwrap();
    network.run_until_quiet();
    let second = ask(&mut given, place);
    match event(&mut given, CONNECTING) {
        Event::Rejected { identifier, .. } => assert_eq!(identifier, second),
        other => panic!("{other:?}"),
    }
    accept(&mut given);
    assert!(
        matches!(event(&mut given, CONNECTING), Event::Established { identifier, .. } if identifier == first)
    );
}

#[test]
fn a_device_that_is_removed_tells_each_and_does_nothing_more() {
    let (network, mut world, link) = connected();
    let name = world.verbs[ACCEPTING].name();
    network.remove_device(name, ADDRESSES[ACCEPTING]);
    let mut told = [world.event(ACCEPTING), world.event(ACCEPTING)].map(|event| match event {
        Event::DeviceRemoved(identifier) => identifier.0,
        other => panic!("{other:?}"),
    });
    told.sort_unstable();
    assert_eq!(told, [world.listener.0, link.identifiers[ACCEPTING].0]);
    let device = world.devices[ACCEPTING];
    let error = world.verbs[ACCEPTING].limits(link.identifiers[ACCEPTING]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    assert_eq!(
        world.verbs[ACCEPTING].allocate_window(device).unwrap_err().raw_os_error(),
        Some(libc::ENODEV)
    );
    // Whoever waits here for completions waits for ever; its peer finds out.
    world.post_all(ACCEPTING, &link, &[flush(1, true)]);
    world.post_all(CONNECTING, &link, &[flush(2, true)]);
    network.run_until_quiet();
    assert_eq!(taken(&mut world, ACCEPTING), []);
    assert_eq!(outcomes(&mut world, CONNECTING), [(2, Status(12))]);
}

#[test]
fn a_process_that_dies_is_gone_and_what_it_had_is_known() {
    let (network, mut world, link) = connected();
    let name = world.verbs[CONNECTING].name();
    world.verbs[CONNECTING].allocate_window(world.devices[CONNECTING]).unwrap();
    world.verbs[CONNECTING] = network.end(&["10.0.0.9"]);
    assert_eq!(network.left(name), Left { identifiers: 1, queue_pairs: 1, regions: 1, windows: 1 });
    assert!(matches!(world.event(ACCEPTING), Event::Disconnected(of) if of == link.identifiers[ACCEPTING]));
    world.post_all(ACCEPTING, &link, &[flush(1, false)]);
    network.run_until_quiet();
    assert_eq!(outcomes(&mut world, ACCEPTING), [(1, Status(12))]);
}

#[test]
fn events_can_come_late() {
    let (network, mut world, link) = connected();
    let name = world.verbs[ACCEPTING].name();
    network.hold_events(name);
    world.verbs[CONNECTING].disconnect(link.identifiers[CONNECTING]).unwrap();
    network.run_until_quiet();
    assert!(world.verbs[ACCEPTING].take_event().unwrap().is_none() && !world.is_readable(ACCEPTING));
    network.release_events(name);
    assert!(world.is_readable(ACCEPTING));
    assert!(matches!(world.event(ACCEPTING), Event::Disconnected(_)));
    assert!(!world.is_readable(ACCEPTING));
}
