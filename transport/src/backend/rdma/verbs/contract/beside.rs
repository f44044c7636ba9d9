//! Queue pairs beside those of connections: who reads what by them.

use super::*;

/// The accepting end's memory that the connecting end may read, neither end of it on a page of its own.
const FIRST: usize = 4100;
const BYTES: usize = 5000;

/// Both kinds at both ends, each connected to the peer's of the other kind.
fn connect_beside<V: Verbs>(world: &mut World<V>, link: &Link) {
    let sizes = QueuePairSizes { inline_bytes: 0, ..SIZES };
    let kinds = [Beside::Reading, Beside::Answering];
    let names = [CONNECTING, ACCEPTING].map(|side| {
        kinds.map(|kind| world.verbs[side].create_beside(link.identifiers[side], kind, &sizes).unwrap())
    });
    for side in [CONNECTING, ACCEPTING] {
        let peers = names[1 - side];
        for (kind, peer) in kinds.into_iter().zip([peers[1], peers[0]]) {
            world.verbs[side].connect_beside(link.identifiers[side], kind, peer, 4).unwrap();
        }
    }
}

fn register<V: Verbs>(world: &mut World<V>, link: &Link) -> Region {
    let address = world.memory[ACCEPTING].address(FIRST);
    // SAFETY: the world drops the memory after the ends.
    unsafe { world.verbs[ACCEPTING].register_for_peer(link.identifiers[ACCEPTING], address, BYTES) }.unwrap()
}

/// Reads into the beginning of the connecting end's memory, which is zeros before.
fn read<V: Verbs>(world: &mut World<V>, link: &Link, key: u32, offset: usize, bytes: usize) -> Status {
    world.memory[CONNECTING].write(0, &vec![0; bytes]);
    let (address, target) = (world.memory[ACCEPTING].address(offset), world.part(CONNECTING, 0, bytes));
    let parts = [target];
    let requests = [request(8, Operation::Read { address, key }, &parts)];
    // SAFETY: the part lies in the world's memory.
    let posted = unsafe { world.verbs[CONNECTING].post_beside(link.identifiers[CONNECTING], &requests) };
    assert!(posted.error.is_none() && posted.count == 1, "{posted:?}");
    let completion = world.completion(CONNECTING);
    assert_eq!(completion.work, 8);
    assert_ne!(completion.queue_pair, link.queue_pairs[CONNECTING].number);
    let brought = if completion.status.is_success() { 3 } else { 0 };
    assert_eq!(world.memory[CONNECTING].read(0, bytes), vec![brought; bytes]);
    completion.status
}

fn connected<V: Verbs>(ends: Ends<V>) -> (World<V>, Link) {
    let (mut world, link) = World::connected(ends);
    world.memory[ACCEPTING].write(0, &[3; MEMORY_BYTES]);
    connect_beside(&mut world, &link);
    (world, link)
}

pub(in super::super) fn what_is_registered_for_a_peer_is_read_within_its_bounds<V: Verbs>(ends: Ends<V>) {
    let (mut world, mut link) = connected(ends);
    for (offset, bytes, status) in [
        (FIRST, BYTES, Status::SUCCESS),
        (FIRST + BYTES - 1, 1, Status::SUCCESS),
        (FIRST - 1, 2, Status::REMOTE_ACCESS),
        (FIRST + BYTES - 1, 2, Status::REMOTE_ACCESS),
        (0, 8, Status::REMOTE_ACCESS),
    ] {
        let region = register(&mut world, &link);
        assert_eq!(read(&mut world, &link, region.key, offset, bytes), status, "{offset}, {bytes}");
        world.verbs[ACCEPTING].deregister(region).unwrap();
        if !status.is_success() {
            // The connection's own queue pair is none the worse for it.
            let flushed = world.done(CONNECTING, &link, Operation::Flush, &[]);
            assert_eq!(flushed.status, Status::SUCCESS);
            link = world.connect([PARAMETERS; 2]);
            connect_beside(&mut world, &link);
        }
    }
}

pub(in super::super) fn what_was_deregistered_is_read_no_more<V: Verbs>(ends: Ends<V>) {
    let (mut world, link) = connected(ends);
    let (stale, fresh) = (register(&mut world, &link), register(&mut world, &link));
    assert_eq!(read(&mut world, &link, stale.key, FIRST, 8), Status::SUCCESS);
    world.verbs[ACCEPTING].deregister(stale).unwrap();
    assert_eq!(read(&mut world, &link, fresh.key, FIRST, 8), Status::SUCCESS);
    assert_eq!(read(&mut world, &link, stale.key, FIRST, 8), Status::REMOTE_ACCESS);
    world.verbs[ACCEPTING].deregister(fresh).unwrap();
}

pub(in super::super) fn what_is_registered_for_a_peer_is_for_that_one<V: Verbs>(ends: Ends<V>) {
    let (mut world, first) = connected(ends);
    let second = world.connect([PARAMETERS; 2]);
    connect_beside(&mut world, &second);
    let (ours, theirs) = (register(&mut world, &first), register(&mut world, &second));
    // By the queue pair of another peer.
    assert_eq!(read(&mut world, &second, ours.key, FIRST, 8), Status::REMOTE_ACCESS);
    // By the connection's own, which is in the domain that all share.
    assert_eq!(world.read(&first, ours.key, FIRST, 8).status, Status::REMOTE_ACCESS);
    world.assert_broken(CONNECTING, &first);
    assert_eq!(read(&mut world, &first, ours.key, FIRST, 8), Status::SUCCESS);
    for region in [ours, theirs] {
        world.verbs[ACCEPTING].deregister(region).unwrap();
    }
}

pub(in super::super) fn what_this_end_registered_for_itself_is_not_read<V: Verbs>(ends: Ends<V>) {
    let (mut world, link) = connected(ends);
    let key = world.regions[ACCEPTING].key;
    assert_eq!(read(&mut world, &link, key, FIRST, 8), Status::REMOTE_ACCESS);
}

pub(in super::super) fn who_has_disconnected_is_not_read<V: Verbs>(ends: Ends<V>) {
    let (mut world, link) = connected(ends);
    let region = register(&mut world, &link);
    world.verbs[ACCEPTING].disconnect(link.identifiers[ACCEPTING]).unwrap();
    assert!(!read(&mut world, &link, region.key, FIRST, 8).is_success());
    world.verbs[ACCEPTING].deregister(region).unwrap();
    world.verbs[ACCEPTING].destroy(link.identifiers[ACCEPTING]);
}

pub(in super::super) fn a_queue_pair_has_one_of_each_kind_beside_it<V: Verbs>(ends: Ends<V>) {
    let (mut world, link) = World::connected(ends);
    let identifier = link.identifiers[CONNECTING];
    let end = &mut world.verbs[CONNECTING];
    let name = end.create_beside(identifier, Beside::Reading, &SIZES).unwrap();
    assert!(name.number > 0 && name.number < 1 << 24 && name.first_packet < 1 << 24, "{name:?}");
    assert!(is_invalid(end.create_beside(identifier, Beside::Reading, &SIZES)));
    assert!(is_invalid(end.connect_beside(identifier, Beside::Answering, name, 4)));
    // SAFETY: nothing is registered, as there is no domain.
    assert!(is_invalid(unsafe { end.register_for_peer(identifier, 4096, 4096) }));
    // Not connected, it takes nothing.
    // SAFETY: it names no memory.
    let posted = unsafe { end.post_beside(identifier, &[request(1, Operation::Flush, &[])]) };
    assert!(posted.count == 0 && posted.error.is_some(), "{posted:?}");
    assert!(is_invalid(end.create_beside(Identifier(999), Beside::Reading, &SIZES)));
    end.create_beside(identifier, Beside::Answering, &SIZES).unwrap();
    end.destroy_beside(identifier);
    end.destroy_beside(identifier);
    for kind in [Beside::Reading, Beside::Answering] {
        assert!(is_invalid(end.connect_beside(identifier, kind, name, 4)), "it is gone");
        end.create_beside(identifier, kind, &SIZES).unwrap();
    }
}
