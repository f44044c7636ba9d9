//! Send queues: full, refused, flushed, and what is told when.

use super::*;
use crate::backend::rdma::verbs::Status;
use crate::backend::rdma::verbs::fake::Fault;

#[test]
fn a_full_send_queue_goes_on_where_it_stopped() {
    let small = RdmaConfig { sends_max: 16, window_max: 64, ..config() };
    let mut rig = Rig::with(FakeNetwork::in_turn(), &[small.clone(), small]);
    let place = rig.ends[1].listen().1;
    let (near, far) = rig.connect(0, 1, &place);
    for _ in 0..8 {
        rig.pass((0, near), (1, far), &content(400_000));
        rig.ends[1].said.clear();
    }
    let identifier = rig.ends[0].identifier(near);
    rig.network.hold_sends(rig.ends[0].name, identifier);
    rig.ends[0].send(near, &content(600_000)).unwrap();
    rig.rounds(10);
    let queue = rig.ends[0].state(near).link.as_ref().unwrap().queue;
    assert_eq!(queue.room(), 0, "the queue is to be full, and not the credit");
    rig.network.release_sends(rig.ends[0].name, identifier);
    rig.until(|rig| rig.ends[1].received(far).len() == 600_000);
    assert_eq!(rig.ends[1].received(far), content(600_000));
    rig.assert_clean();
}

#[test]
fn a_refused_post_is_tried_again_from_where_it_was_refused() {
    for after in [0, 1, 3] {
        let (mut rig, near, far) = Rig::connected();
        rig.network.inject(rig.ends[0].name, Fault::PostRefused { after });
        rig.pass((0, near), (1, far), &content(70_000));
        rig.rounds(3);
        rig.network.inject(rig.ends[0].name, Fault::PostRefused { after: 0 });
        rig.ends[0].send(near, b"small").unwrap();
        assert!(rig.ends[0].arm().is_some(), "nothing else would wake it");
        rig.until(|rig| rig.ends[1].received(far).ends_with(b"small"));
        rig.assert_clean();
    }
}

#[test]
fn refused_credit_is_told_again() {
    let (mut rig, near, far) = Rig::connected();
    // The receiver answers with credit only, and each first try is refused.
    for _ in 0..40 {
        rig.network.inject(rig.ends[1].name, Fault::PostRefused { after: 0 });
        rig.pass((0, near), (1, far), &content(50_000));
        rig.ends[1].said.clear();
    }
    rig.assert_clean();
}

#[test]
fn credit_that_finds_a_full_queue_is_told_when_there_is_room() {
    let small = RdmaConfig { sends_max: 16, ..config() };
    let mut rig = Rig::with(FakeNetwork::in_turn(), &[small.clone(), small]);
    let place = rig.ends[1].listen().1;
    let (near, far) = rig.connect(0, 1, &place);
    for _ in 0..8 {
        rig.pass((1, far), (0, near), &content(400_000));
        rig.ends[0].said.clear();
    }
    // The queue of the second is full to the last place, with nothing that waits behind.
    let identifier = rig.ends[1].identifier(far);
    rig.network.hold_sends(rig.ends[1].name, identifier);
    let slot_bytes = rig.ends[1].state(far).link.as_ref().unwrap().slot_bytes as usize;
    let mut gather = GatherList::new();
    for _ in 0..14 {
        let first = rig.ends[1].segment(&content(16 << 10));
        let second = rig.ends[1].segment(&content(slot_bytes - (16 << 10)));
        gather.push(first);
        gather.push(second);
    }
    rig.ends[1].engine().send(far, &mut gather).unwrap();
    assert_eq!(rig.ends[1].state(far).link.as_ref().unwrap().queue.room(), 0);
    // The first uses up all it has, and waits for credit.
    rig.ends[0].send(near, &content(600_000)).unwrap();
    rig.rounds(5);
    assert!(rig.ends[1].received(far).len() < 600_000);
    rig.network.release_sends(rig.ends[1].name, identifier);
    rig.until(|rig| rig.ends[1].received(far).len() == 600_000);
    rig.assert_clean();
}

#[test]
fn a_failed_send_ends_its_channel_and_no_other() {
    for status in [Status::FLUSHED, Status::REMOTE_ACCESS] {
        let (mut rig, near, far) = Rig::connected();
        let place = rig.ends[1].listen().1;
        let (other, other_far) = rig.connect(0, 1, &place);
        rig.network.inject(rig.ends[0].name, Fault::CompletionFails(status));
        rig.ends[0].send(near, &content(100_000)).unwrap();
        assert_broken(&rig.end_of(0, near), &format!("a send failed: {status}"));
        let far_end = rig.end_of(1, far);
        assert!(matches!(far_end, ChannelEnd::Peer | ChannelEnd::Broken(_)), "{far_end:?}");
        rig.pass((0, other), (1, other_far), &content(50_000));
        rig.ends[0].engine().close(other);
        rig.end_of(0, other);
        rig.end_of(1, other_far);
        rig.assert_empty();
    }
}

#[test]
fn a_queue_pair_that_breaks_by_itself_is_noticed_by_what_is_flushed() {
    let (mut rig, near, far) = Rig::connected();
    let identifier = rig.ends[0].identifier(near);
    rig.network.break_queue_pair(rig.ends[0].name, identifier);
    rig.ends[0].send(near, &content(30_000)).unwrap();
    assert_broken(&rig.end_of(0, near), "a send failed");
    rig.end_of(1, far);
    rig.assert_empty();
}

#[test]
fn segments_are_held_until_the_device_needs_them_no_more() {
    let (mut rig, near, _) = Rig::connected();
    let identifier = rig.ends[0].identifier(near);
    rig.network.hold_sends(rig.ends[0].name, identifier);
    let before = rig.ends[0].buffers_out();
    rig.ends[0].send(near, &content(10_000)).unwrap();
    rig.rounds(600);
    assert!(!rig.ends[0].has_sent(near) && rig.ends[0].buffers_out() == before + 1);
    assert!(matches!(rig.ends[0].send(near, b"more"), Err(SendRefused::InFlight)));
    rig.network.release_sends(rig.ends[0].name, identifier);
    rig.until(|rig| rig.ends[0].has_sent(near));
    assert_eq!(rig.ends[0].buffers_out(), before);
}

#[test]
fn sends_that_need_no_completion_never_fill_the_queue() {
    let small = RdmaConfig { sends_max: 16, ..config() };
    let mut rig = Rig::with(FakeNetwork::in_turn(), &[small.clone(), small]);
    let place = rig.ends[1].listen().1;
    let (near, far) = rig.connect(0, 1, &place);
    for number in 0..1000_u32 {
        rig.pass((0, near), (1, far), &number.to_le_bytes());
        rig.ends[1].said.clear();
    }
    // One in eight had a completion of its own.
    let asked = rig.ends[0].asked.borrow();
    let sends = asked.completions.iter().filter(|completion| completion.work >> 60 == 1).count();
    assert!((100..200).contains(&sends), "{sends}");
    drop(asked);
    rig.assert_clean();
}
