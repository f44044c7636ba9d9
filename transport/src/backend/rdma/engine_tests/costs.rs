//! What a message costs, counted: posts, completions, system calls, registrations, copies, allocations.

use super::allocations::ALLOCATIONS;
use super::*;
use crate::message::Message;
use crate::packing::{Announcement, Offers, Outbox, PackingRules, Windows};
use crate::proto::Parameters;
use crate::proto::credit::SendWindow;
use crate::proto::record::MessageKind;
use crate::proto::serial::Received;

/// So many posts, requests and completions since the last time.
fn spent(end: &End) -> (usize, usize, usize) {
    let mut asked = end.asked.borrow_mut();
    let spent = (asked.posts, asked.requests, asked.completions.len());
    (asked.posts, asked.requests) = (0, 0);
    asked.completions.clear();
    asked.parts.clear();
    spent
}

#[test]
fn a_message_to_and_fro_is_one_post_and_one_completion_for_each_end_and_direction() {
    for bytes in [1, 64, 256, 257, 4_096, 16_384] {
        let (mut rig, near, far) = Rig::connected();
        let ping_pong = |rig: &mut Rig| {
            rig.pass((0, near), (1, far), &content(bytes));
            rig.pass((1, far), (0, near), &content(bytes));
            rig.ends.iter_mut().for_each(|end| end.said.clear());
        };
        (0..20).for_each(|_| ping_pong(&mut rig));
        for end in &rig.ends {
            spent(end);
        }
        let count = 200;
        (0..count).for_each(|_| ping_pong(&mut rig));
        for end in &rig.ends {
            let (posts, requests, completions) = spent(end);
            assert_eq!((posts, requests), (count, count), "{bytes} bytes: credit goes with what is sent");
            // What is inline is known to be done without a completion, but for one in half a queue.
            let own = if bytes <= 256 { count / 32 } else { count };
            assert!(completions <= count + own, "{bytes} bytes: {completions} completions");
        }
    }
}

/// What arrived is what a peer waits for an answer to: buffers for further receive requests are found afterwards.
#[test]
fn what_arrived_is_handed_on_before_its_receive_request_is_posted_again() {
    let (mut rig, near, far) = Rig::connected();
    rig.rounds(3);
    let posted = |rig: &mut Rig| rig.ends[1].engine().devices[0].receives.posted();
    let before = posted(&mut rig);
    rig.ends[0].send(near, b"news").unwrap();
    rig.network.run_until_quiet();
    rig.ends[1].poll();
    assert_eq!((rig.ends[1].received(far), posted(&mut rig)), (b"news".to_vec(), before - 1));
    rig.ends[1].poll();
    assert_eq!(posted(&mut rig), before, "whoever got news polls again");
}

#[test]
fn under_load_a_list_is_one_post() {
    let (mut rig, near, far) = Rig::connected();
    for _ in 0..10 {
        rig.pass((0, near), (1, far), &content(400_000));
        rig.ends[1].said.clear();
    }
    rig.rounds(3);
    spent(&rig.ends[0]);
    rig.pass((0, near), (1, far), &content(400_000));
    let (posts, requests, completions) = spent(&rig.ends[0]);
    assert!(requests >= 400_000 / 17_408 && posts * 4 <= requests, "{posts} posts for {requests} requests");
    assert!(completions * 2 <= requests, "{completions} completions for {requests} requests");
}

/// So many messages that wait together, packed as a session packs them for a path that carries 4 KiB whole.
fn packed(end: &mut End, messages: usize, bytes: usize) -> GatherList {
    let parameters = Parameters { packet_bytes: 4096, ..Parameters::default() };
    let mut outbox = Outbox::new(PackingRules::new(&parameters), messages, u64::MAX);
    for _ in 0..messages {
        let body = end.pool.copy_body(&content(bytes)).unwrap();
        outbox.push(Message::new(MessageKind::Message, body)).map_err(|(full, _)| full).unwrap();
    }
    let mut windows = Windows {
        frames: SendWindow::new(u64::MAX, 8),
        chunks: SendWindow::new(u64::MAX, 0),
        offers: Offers::default(),
    };
    let mut received = Received::default();
    let mut says = Announcement { frame_limit: 0, chunk_limit: 0, received: &mut received };
    let mut gather = GatherList::new();
    outbox.fill(&mut windows, &mut says, &mut end.pool, &mut gather).unwrap();
    assert_eq!(outbox.waiting_messages(), 0, "they leave together");
    gather
}

/// At most one post and one completion a message at each end, whatever its size; and less under load, where messages
/// share frames, frames share sends, and sends share posts.
#[test]
fn eager_messages_that_wait_together_share_posts_and_completions() {
    for (bytes, messages, shared_by) in [(64, 256, 16), (1024, 64, 8), (4096, 24, 3), (16_384, 12, 1)] {
        let (mut rig, near, far) = Rig::connected();
        // A window begins small, and the peer grows it once it is used.
        for _ in 0..10 {
            rig.pass((0, near), (1, far), &content(400_000));
            rig.ends.iter_mut().for_each(|end| end.said.clear());
        }
        rig.rounds(3);
        for end in &rig.ends {
            spent(end);
        }
        let mut gather = packed(&mut rig.ends[0], messages, bytes);
        let sent = gather.len();
        rig.ends[0].engine().send(near, &mut gather).unwrap();
        rig.until(|rig| rig.ends[1].received(far).len() == sent && rig.ends[0].has_sent(near));
        let (posts, requests, completions) = spent(&rig.ends[0]);
        let (told, _, taken) = spent(&rig.ends[1]);
        assert!(requests * shared_by <= messages, "{requests} sends for {messages} of {bytes} bytes");
        assert!(posts * shared_by.max(2) <= messages, "{posts} posts for {messages} of {bytes} bytes");
        assert!(completions * shared_by.max(2) <= messages, "{completions} for {messages} of {bytes} bytes");
        // Here the peer has nothing to send, so it tells of its credit by itself; that is posted and taken, too.
        let answered = told.max(1);
        assert!(taken <= requests + answered, "{taken} completions for {requests} sends");
        assert!(told * 2 <= messages, "{told} posts to tell of credit for {messages} of {bytes} bytes");
    }
}

/// What the engine itself allocates in `act`, apart from the fake device and the counting.
fn allocations_of(end: &mut End, act: impl FnOnce(&mut End)) -> u64 {
    end.asked.borrow_mut().allocations = 0;
    let before = ALLOCATIONS.get();
    act(end);
    ALLOCATIONS.get() - before - end.asked.borrow().allocations
}

#[test]
fn sending_and_receiving_allocate_nothing_after_warm_up() {
    for bytes in [64, 1024, 16_384, 40_000] {
        let (mut rig, near, far) = Rig::connected();
        let mut gather = GatherList::new();
        let mut allocated = 0;
        for message in 0..120 {
            for ([from, to], [here, there]) in [([0, 1], [near, far]), ([1, 0], [far, near])] {
                for part in content(bytes).chunks(16 << 10) {
                    let segment = rig.ends[from].segment(part);
                    gather.push(segment);
                }
                let mut here_allocated = allocations_of(&mut rig.ends[from], |end| {
                    end.engine().send(here, &mut gather).unwrap();
                });
                let mut is_done = false;
                while !is_done {
                    for end in &mut rig.ends {
                        here_allocated += allocations_of(end, End::poll);
                    }
                    rig.network.run_until_quiet();
                    is_done = rig.ends[to].received(there).len() == bytes && rig.ends[from].has_sent(here);
                }
                rig.ends.iter_mut().for_each(|end| end.said.clear());
                // Lists grow to what the load needs, and are kept.
                allocated += if message < 60 { 0 } else { here_allocated };
            }
        }
        assert_eq!(allocated, 0, "{bytes} bytes");
    }
}

/// A relay hands on what has come from where it came: no byte of it is touched.
#[test]
fn what_arrived_is_sent_on_from_the_receive_buffer() {
    let mut rig = Rig::new(FakeNetwork::in_turn(), 3);
    let place = rig.ends[1].listen().1;
    let (near, relay_near) = rig.connect(0, 1, &place);
    let place = rig.ends[2].listen().1;
    let (relay_far, far) = rig.connect(1, 2, &place);
    for bytes in [4096, 12_000, 16_384] {
        rig.ends[0].send(near, &content(bytes)).unwrap();
        rig.until(|rig| rig.ends[1].received(relay_near).len() == bytes);
        let mut gather = GatherList::new();
        let said = std::mem::take(&mut rig.ends[1].said);
        for event in said {
            if let WireEvent::Received { segment, .. } = event {
                gather.push(segment);
            }
        }
        let came: Vec<_> =
            gather.segments().iter().map(|segment| (segment.as_ptr() as u64, segment.len() as u32)).collect();
        spent(&rig.ends[1]);
        rig.ends[1].engine().send(relay_far, &mut gather).unwrap();
        let left: Vec<_> =
            rig.ends[1].asked.borrow().parts.iter().map(|part| (part.address, part.bytes)).collect();
        assert_eq!(left, came, "{bytes} bytes");
        rig.until(|rig| rig.ends[2].received(far).len() == bytes && rig.ends[1].has_sent(relay_far));
        assert_eq!(rig.ends[2].received(far), content(bytes));
        assert_eq!(rig.ends[1].pool.stats().body_copies, 0);
        rig.ends.iter_mut().for_each(|end| end.said.clear());
    }
}

#[test]
fn a_body_is_sent_from_where_it_lies() {
    let (mut rig, near, far) = Rig::connected();
    rig.pass((0, near), (1, far), &content(100_000));
    rig.rounds(3);
    spent(&rig.ends[0]);
    let head = rig.ends[0].segment(&content(40));
    let body = rig.ends[0].segment(&content(12_000));
    let expected = [&head, &body].map(|segment| (segment.as_ptr() as u64, segment.len() as u32));
    let mut gather = GatherList::new();
    gather.push(head);
    gather.push(body);
    rig.ends[0].engine().send(near, &mut gather).unwrap();
    let asked = rig.ends[0].asked.borrow();
    let parts: Vec<_> = asked.parts.iter().map(|part| (part.address, part.bytes)).collect();
    assert_eq!(parts, expected);
    drop(asked);
    assert_eq!(rig.ends[0].pool.stats().body_copies, 0);
}

#[test]
fn polling_asks_the_kernel_once_in_256_times_and_registers_nothing_anew() {
    let (mut rig, near, far) = Rig::connected();
    for _ in 0..10 {
        rig.pass((0, near), (1, far), &content(60_000));
        rig.ends[1].said.clear();
    }
    let before = rig.ends[0].asked.borrow().event_looks;
    let registered = [0, 1].map(|end: usize| rig.ends[end].asked.borrow().registrations);
    for _ in 0..2560 {
        rig.ends[0].poll();
    }
    assert_eq!(rig.ends[0].asked.borrow().event_looks - before, 10);
    for _ in 0..100 {
        rig.pass((0, near), (1, far), &content(60_000));
        rig.ends[1].said.clear();
    }
    assert_eq!([0, 1].map(|end: usize| rig.ends[end].asked.borrow().registrations), registered);
}

#[test]
fn idle_polls_post_nothing_and_take_nothing() {
    let (mut rig, near, far) = Rig::connected();
    rig.pass((0, near), (1, far), &content(300_000));
    rig.rounds(10);
    for end in &rig.ends {
        spent(end);
    }
    rig.rounds(600);
    assert_eq!((spent(&rig.ends[0]), spent(&rig.ends[1])), ((0, 0, 0), (0, 0, 0)));
    assert_eq!((rig.ends[0].arm(), rig.ends[1].arm()), (None, None), "nothing is to be looked at again");
}
