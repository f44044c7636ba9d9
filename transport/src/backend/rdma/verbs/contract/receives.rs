//! What becomes of receive requests whose queue pair fails.

use super::super::{Identifier, Verbs};
use super::{ACCEPTING, CONNECTING, Ends, TURNS_SETTLED, World, send};

/// Not every device says it of one that has.
pub(in crate::backend::rdma::verbs) fn only_a_queue_pair_that_has_failed_may_have_let_go_of_receives<
    V: Verbs,
>(
    ends: Ends<V>,
) {
    let (mut world, link) = World::connected(ends);
    let others = [world.part(ACCEPTING, 0, 100)];
    world.receive(ACCEPTING, 1, &others);
    let parts = [world.part(CONNECTING, 0, 100)];
    world.post_all(CONNECTING, &link, &[send(2, 0, &parts)]);
    assert_eq!(world.completion(ACCEPTING).work, 1);
    assert!(!world.verbs[ACCEPTING].has_let_go_of_receives(Identifier(999)));
    for side in [CONNECTING, ACCEPTING] {
        assert!(world.verbs[side].take_event().unwrap().is_none());
        assert!(!world.verbs[side].has_let_go_of_receives(link.identifiers[side]), "it still works");
    }
    world.verbs[CONNECTING].disconnect(link.identifiers[CONNECTING]).unwrap();
    let mut has_said = false;
    for _ in 0..TURNS_SETTLED {
        (world.pass)();
        // What it tells of the disconnection is of no interest here.
        while world.verbs[CONNECTING].take_event().unwrap().is_some() {}
        let says = world.verbs[CONNECTING].has_let_go_of_receives(link.identifiers[CONNECTING]);
        assert!(says || !has_said, "what it has said stays so");
        has_said |= says;
    }
    world.verbs[CONNECTING].destroy(link.identifiers[CONNECTING]);
    assert!(!world.verbs[CONNECTING].has_let_go_of_receives(link.identifiers[CONNECTING]));
}
