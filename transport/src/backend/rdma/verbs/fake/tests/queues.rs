//! Send queues, shared receive queues, completion queues.

use super::super::super::contract::{DEVICE_SIZES, PARAMETERS, SIZES};
use super::*;

#[test]
fn a_full_send_queue_takes_the_front_of_a_list() {
    let (network, mut world, link) = connected();
    let list: Vec<_> = (0..20).map(|work| flush(work, work == 3)).collect();
    let posted = world.post(CONNECTING, &link, &list);
    assert_eq!((posted.count, error_of(&posted)), (SIZES.sends as usize, Some(libc::ENOMEM)));
    // All are done, one says so, and frees its own place and those before it: 4 of 16.
    network.run_until_quiet();
    assert_eq!(error_of(&world.post(CONNECTING, &link, &list[..1])), Some(libc::ENOMEM));
    assert_eq!(outcomes(&mut world, CONNECTING), [(3, Status::SUCCESS)]);
    assert_eq!(world.post(CONNECTING, &link, &list[..10]).count, 4);
    // The other twelve come free with a later one: of the four, that was the last.
    network.run_until_quiet();
    assert_eq!(outcomes(&mut world, CONNECTING), [(3, Status::SUCCESS)]);
    assert_eq!(world.post(CONNECTING, &link, &list).count, 16);
    network.assert_clean();
}

#[test]
fn a_receive_request_has_its_place_until_its_completion_is_taken() {
    let (network, mut world, link) = connected();
    let list: Vec<_> = (0..100).map(|work| Receive { work, parts: &[] }).collect();
    let device = world.devices[ACCEPTING];
    // SAFETY: no memory.
    let posted = unsafe { world.verbs[ACCEPTING].post_receives(device, &list) };
    assert_eq!((posted.count, error_of(&posted)), (DEVICE_SIZES.receives as usize, Some(libc::ENOMEM)));
    world.post_all(CONNECTING, &link, &[send(1, 0, &[])]);
    network.run_until_quiet();
    // SAFETY: no memory.
    assert_eq!(unsafe { world.verbs[ACCEPTING].post_receives(device, &list[..2]) }.count, 0);
    assert_eq!(taken(&mut world, ACCEPTING).len(), 1);
    // SAFETY: no memory.
    assert_eq!(unsafe { world.verbs[ACCEPTING].post_receives(device, &list[..2]) }.count, 1);
}

#[test]
fn memory_is_touched_late_and_marked_when_it_is_given_away() {
    let (network, mut world, link) = connected();
    let (source, target) = (world.part(CONNECTING, 0, 8), world.part(ACCEPTING, 0, 16));
    world.receive(ACCEPTING, 1, &[target]);
    assert_eq!(world.memory[ACCEPTING].read(0, 17)[15..], [0xDB, 0]);
    world.memory[CONNECTING].write(0, &[1; 8]);
    world.post_all(CONNECTING, &link, &[send(1, 0, &[source])]);
    world.memory[CONNECTING].write(0, &[2; 8]);
    network.run_until_quiet();
    assert_eq!(world.memory[ACCEPTING].read(0, 9), [2, 2, 2, 2, 2, 2, 2, 2, 0xDB]);
}

#[test]
fn a_send_waits_for_a_receive_request_for_ever_if_the_receiver_says_so() {
    let accepting = ConnectParameters { rnr_retry_count: 7, ..PARAMETERS };
    let (network, mut world, link) = connected_with([PARAMETERS, accepting]);
    world.post_all(CONNECTING, &link, &[send(1, 5, &[])]);
    network.run_until_quiet();
    assert_eq!(taken(&mut world, CONNECTING), []);
    assert_eq!(network.not_ready(world.verbs[ACCEPTING].name()), 1);
    world.receive(ACCEPTING, 2, &[]);
    network.run_until_quiet();
    assert_eq!(taken(&mut world, ACCEPTING)[0].immediate, 5);
    assert_eq!(outcomes(&mut world, CONNECTING), [(1, Status::SUCCESS)]);
    // It is a miscount all the same.
    let check = std::panic::AssertUnwindSafe(|| network.assert_clean());
    std::panic::catch_unwind(check).unwrap_err();
}

#[test]
fn a_send_is_tried_again_as_often_as_the_receiver_says() {
    for retries in [0, 1, 6] {
        let accepting = ConnectParameters { rnr_retry_count: retries, ..PARAMETERS };
        let (network, mut world, link) = connected_with([PARAMETERS, accepting]);
        world.post_all(CONNECTING, &link, &[send(1, 5, &[])]);
        network.run_until_quiet();
        assert_eq!(outcomes(&mut world, CONNECTING), [(1, Status(13))]);
        assert_eq!(network.not_ready(world.verbs[ACCEPTING].name()), u64::from(retries) + 1);
    }
}

#[test]
fn a_link_that_is_down_breaks_what_is_sent() {
    let (network, mut world, link) = connected();
    network.set_link(ADDRESSES[ACCEPTING], false);
    world.post_all(CONNECTING, &link, &[flush(1, false), flush(2, false)]);
    world.post_all(ACCEPTING, &link, &[flush(3, false)]);
    network.run_until_quiet();
    // Nobody acknowledges here, and there the device cannot send at all.
    assert_eq!(outcomes(&mut world, CONNECTING), [(1, Status(12)), (2, Status::FLUSHED)]);
    assert_eq!(outcomes(&mut world, ACCEPTING), [(3, Status(2))]);
}

#[test]
fn who_tries_for_ever_waits_for_a_link() {
    // The acceptor's wish counts for nothing: packets are sent again as often as the connecting end says.
    let connecting = ConnectParameters { retry_count: 7, ..PARAMETERS };
    let (network, mut world, link) = connected_with([connecting, PARAMETERS]);
    for (from, to) in [(CONNECTING, ACCEPTING), (ACCEPTING, CONNECTING)] {
        network.set_link(ADDRESSES[to], false);
        world.post_all(from, &link, &[flush(1, true)]);
        network.run_until_quiet();
        assert_eq!(taken(&mut world, from), []);
        network.set_link(ADDRESSES[to], true);
        network.run_until_quiet();
        assert_eq!(outcomes(&mut world, from), [(1, Status::SUCCESS)]);
    }
}

#[test]
fn what_is_held_back_comes_later() {
    let (network, mut world, link) = connected();
    let (name, device) = (world.verbs[CONNECTING].name(), world.devices[CONNECTING]);
    network.hold_sends(name, link.identifiers[CONNECTING]);
    world.post_all(CONNECTING, &link, &[flush(1, true), flush(2, true), flush(3, true)]);
    assert_eq!(network.run_until_quiet(), 0);
    network.hold_completions(name, device);
    network.release_sends(name, link.identifiers[CONNECTING]);
    assert_eq!(network.run_until_quiet(), 3);
    world.verbs[CONNECTING].arm(device).unwrap();
    assert!(taken(&mut world, CONNECTING).is_empty() && !world.is_readable(CONNECTING));
    network.let_through(name, device, 1);
    assert!(world.is_readable(CONNECTING));
    assert_eq!(outcomes(&mut world, CONNECTING), [(1, Status::SUCCESS)]);
    network.release_completions(name, device);
    network.take_at_most(name, device, 1);
    assert_eq!(outcomes(&mut world, CONNECTING), [(2, Status::SUCCESS)]);
    assert_eq!(outcomes(&mut world, CONNECTING), [(3, Status::SUCCESS)]);
}

#[test]
fn a_queue_that_is_held_is_flushed_all_the_same() {
    let (network, mut world, link) = connected();
    let name = world.verbs[CONNECTING].name();
    network.hold_sends(name, link.identifiers[CONNECTING]);
    world.post_all(CONNECTING, &link, &[flush(1, false)]);
    network.break_queue_pair(name, link.identifiers[CONNECTING]);
    network.run_until_quiet();
    assert_eq!(outcomes(&mut world, CONNECTING), [(1, Status::FLUSHED)]);
}

#[test]
fn completions_of_a_queue_pair_that_is_gone_stay_or_go() {
    for forgets in [false, true] {
        let (network, mut world, link) = connected();
        let (name, device) = (world.verbs[ACCEPTING].name(), world.devices[ACCEPTING]);
        network.change_device(name, ADDRESSES[ACCEPTING], |device| device.forgets_completions = forgets);
        let list: Vec<_> = (0..64).map(|work| Receive { work, parts: &[] }).collect();
        // SAFETY: no memory.
        assert_eq!(unsafe { world.verbs[ACCEPTING].post_receives(device, &list) }.count, 64);
        world.post_all(CONNECTING, &link, &[send(1, 0, &[])]);
        network.run_until_quiet();
        world.verbs[ACCEPTING].destroy(link.identifiers[ACCEPTING]);
        // Its place is free although nobody was told.
        // SAFETY: no memory.
        let posted = unsafe { world.verbs[ACCEPTING].post_receives(device, &list[..1]) };
        assert_eq!(posted.count, usize::from(forgets));
        assert_eq!(taken(&mut world, ACCEPTING).len(), usize::from(!forgets));
    }
}

#[test]
fn a_completion_queue_that_overflows_is_the_end_of_its_device() {
    let (network, mut world, link) = connected();
    let name = world.verbs[ACCEPTING].name();
    let second = world.connect([PARAMETERS; 2]);
    // 256 entries, and nobody takes them.
    let flushes: Vec<_> = (0..16).map(|work| flush(work, true)).collect();
    let (list, receives) = (&flushes[..], [Receive { work: 99, parts: &[] }; 64]);
    network.inject(name, super::super::Fault::CompletionsOverflow);
    // SAFETY: no memory.
    unsafe { world.verbs[ACCEPTING].post_receives(world.devices[ACCEPTING], &receives) };
    world.post_all(ACCEPTING, &link, list);
    network.run_until_quiet();
    assert_eq!(network.overflows(name), 16);
    world.post_all(ACCEPTING, &second, &[flush(1, true)]);
    let error = world.verbs[ACCEPTING].take_completions(world.devices[ACCEPTING], &mut [Completion::NONE]);
    assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::EIO));
    // The peer's sends find nobody.
    world.post_all(CONNECTING, &second, &[send(1, 0, &[])]);
    network.run_until_quiet();
    assert_eq!(outcomes(&mut world, CONNECTING), [(1, Status(12))]);
}

#[test]
fn a_queue_that_is_full_overflows() {
    let (network, mut world, link) = connected();
    let name = world.verbs[CONNECTING].name();
    let links: Vec<_> = (0..17).map(|_| world.connect([PARAMETERS; 2])).collect();
    for other in &links {
        // Each queue pair has sixteen, which makes one queue pair's too many.
        world.post_all(CONNECTING, other, &(0..16).map(|work| flush(work, true)).collect::<Vec<_>>());
    }
    network.run_until_quiet();
    assert_eq!(network.overflows(name), 16);
    let mut count = 0;
    while let Ok(more) =
        world.verbs[CONNECTING].take_completions(world.devices[CONNECTING], &mut [Completion::NONE; 64])
    {
        count += more;
    }
    assert_eq!(count, DEVICE_SIZES.completions as usize);
    assert!(world.post(CONNECTING, &link, &[flush(1, true)]).error.is_none());
}

#[test]
fn a_network_that_moves_by_itself_needs_no_steps() {
    let network = FakeNetwork::seeded(3).moving_by_itself();
    let mut given = ends(&network);
    given.pass = Box::new(|| true);
    let (mut world, link) = World::connected(given);
    world.receive(ACCEPTING, 1, &[]);
    world.post_all(CONNECTING, &link, &[send(1, 2, &[])]);
    assert_eq!(world.completion(ACCEPTING).immediate, 2);
    assert_eq!(world.completion(CONNECTING).status, Status::SUCCESS);
    // Whoever arms sleeps afterwards: what is to come has come.
    world.verbs[ACCEPTING].arm(world.devices[ACCEPTING]).unwrap();
    world.receive(ACCEPTING, 2, &[]);
    world.post_all(CONNECTING, &link, &[send(2, 2, &[])]);
    world.verbs[CONNECTING].arm(world.devices[CONNECTING]).unwrap();
    assert!(world.is_readable(ACCEPTING));
}

/// In which order ten sends of each end are carried out.
fn order(seed: u64) -> Vec<usize> {
    let network = FakeNetwork::seeded(seed);
    let (mut world, link) = World::connected(ends(&network));
    for side in [CONNECTING, ACCEPTING] {
        world.post_all(side, &link, &(0..10).map(|work| flush(work, true)).collect::<Vec<_>>());
    }
    let mut order = Vec::new();
    while network.step() {
        for side in [CONNECTING, ACCEPTING] {
            order.extend(taken(&mut world, side).iter().map(|_| side));
        }
    }
    order
}

#[test]
fn a_seed_decides_on_the_order() {
    assert_eq!(order(1).len(), 20);
    assert_eq!(order(1), order(1));
    assert!((2..10).any(|seed| order(seed) != order(1)));
}

/// A send of several packets from the connecting end has come in part.
fn received_in_part(world: &mut World<FakeVerbs>, network: &FakeNetwork, link: &Link) {
    let whole = world.part(ACCEPTING, 0, 8_000);
    world.receive(ACCEPTING, 7, &[whole]);
    let parts = [world.part(CONNECTING, 0, 8_000)];
    world.post_all(CONNECTING, link, &[send(1, 0, &parts)]);
    assert!(network.step());
    assert!(network.is_receiving(world.verbs[ACCEPTING].name(), link.identifiers[ACCEPTING]));
}

#[test]
fn a_queue_pair_that_fails_gives_back_what_it_had_begun_and_then_says_so() {
    let (network, mut world, link) = connected();
    let (name, accepting) = (world.verbs[ACCEPTING].name(), link.identifiers[ACCEPTING]);
    received_in_part(&mut world, &network, &link);
    network.break_queue_pair(name, accepting);
    network.run_until_quiet();
    let back = taken(&mut world, ACCEPTING);
    assert_eq!((back.len(), back[0].work, back[0].status), (1, 7, Status::FLUSHED));
    assert!(world.is_readable(ACCEPTING));
    let end = &mut world.verbs[ACCEPTING];
    assert!(!end.has_let_go_of_receives(accepting), "nobody has looked");
    assert!(end.take_event().unwrap().is_none());
    assert!(end.has_let_go_of_receives(accepting));
    end.destroy(accepting);
    network.assert_clean();
}

#[test]
fn a_queue_pair_that_is_destroyed_earlier_takes_it_along() {
    let (network, mut world, link) = connected();
    received_in_part(&mut world, &network, &link);
    world.verbs[ACCEPTING].destroy(link.identifiers[ACCEPTING]);
    network.run_until_quiet();
    assert_eq!(taken(&mut world, ACCEPTING), []);
    assert_eq!(network.receives_lost(world.verbs[ACCEPTING].name()), 1);
}

#[test]
fn a_device_that_does_not_say_it_gives_back_what_was_begun() {
    let (network, mut world, link) = connected();
    let (name, accepting) = (world.verbs[ACCEPTING].name(), link.identifiers[ACCEPTING]);
    network.change_device(name, ADDRESSES[ACCEPTING], |device| device.says_last_receive = false);
    received_in_part(&mut world, &network, &link);
    network.break_queue_pair(name, accepting);
    network.run_until_quiet();
    assert_eq!(outcomes(&mut world, ACCEPTING), [(7, Status::FLUSHED)]);
    assert!(world.verbs[ACCEPTING].take_event().unwrap().is_none());
    assert!(!world.verbs[ACCEPTING].has_let_go_of_receives(accepting));
}
