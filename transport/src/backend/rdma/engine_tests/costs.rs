//! What a message costs, counted: posts, completions, system calls, registrations, copies.

use super::*;

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
