//! Whatever is pushed and granted in whatever order, and however the stream is cut: the same messages come out.

use super::model::{Says, Sender};
use super::pieces::{Arrived, Spec, parameters, pool, receive, spec};
use crate::packing::Inbox;
use crate::proto::serial::Received;
use crate::proto::{Lane, STREAMS};
use proptest::prelude::*;

/// What happens to a sender.
#[derive(Debug, Clone)]
enum Step {
    Push(Spec),
    Control(usize),
    Fill,
    GrantFrames(u64),
    GrantChunks(u64),
    KeepAlive,
    Announce(Says),
}

fn step() -> impl Strategy<Value = Step> {
    let announcement = (any::<u64>(), any::<u64>(), any::<[u64; STREAMS]>());
    prop_oneof![
        12 => spec().prop_map(Step::Push),
        2 => (1usize..=40).prop_map(|words| Step::Control(8 * words)),
        5 => Just(Step::Fill),
        2 => (0u64..6).prop_map(Step::GrantFrames),
        3 => (0u64..=2).prop_map(Step::GrantChunks),
        1 => Just(Step::KeepAlive),
        1 => announcement.prop_map(|(frame_limit, chunk_limit, held)| {
            Step::Announce(Says { frame_limit, chunk_limit, received: Received::holding(held) })
        }),
    ]
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        // Byte by byte, but not for megabytes.
        1 => Just([vec![1; 5_000], vec![60_000]].concat()),
        2 => Just(vec![usize::MAX]),
        7 => prop::collection::vec(prop_oneof![1usize..80, 1usize..5000, 10_000usize..70_000], 1..20),
    ]
}

proptest! {
    #[test]
    fn the_same_messages_come_out(
        parameters in parameters(),
        frame_limit in 4u64..40,
        steps in prop::collection::vec(step(), 1..50),
        cuts in cuts(),
    ) {
        let mut pool = pool(512 << 20);
        let mut sender = Sender::new(parameters, frame_limit);
        for step in steps {
            match step {
                Step::Push(spec) => sender.push(&spec, &mut pool),
                Step::Control(bytes) => sender.push_control(bytes),
                Step::Fill => sender.fill(&mut pool),
                Step::GrantFrames(more) => sender.grant_frames(more),
                Step::GrantChunks(free) => sender.grant_chunks(free),
                Step::KeepAlive => sender.keep_alive(&mut pool),
                Step::Announce(says) => sender.announce(says),
            }
        }
        sender.grant_frames(100_000);
        while sender.outbox.waiting_messages() + sender.outbox.waiting_control() > 0 {
            sender.grant_chunks(2);
            sender.fill(&mut pool);
        }
        prop_assert_eq!(sender.outbox.waiting_bytes(), 0);

        let mut inbox = Inbox::new(sender.rules, parameters.limits());
        let arrived = receive(&sender.stream, &cuts, &mut inbox, &mut pool);
        prop_assert!(!inbox.is_mid_frame());
        check(&sender, &arrived);
        drop((sender, inbox, arrived));
        pool.reclaim();
        prop_assert_eq!(pool.stats().buffers_out, 0);
    }
}

fn check(sender: &Sender, arrived: &Arrived) {
    assert_eq!((arrived.frames, arrived.chunks), (sender.frames, sender.chunks));
    assert_eq!(arrived.controls, sender.sent_controls);
    for lane in Lane::ALL {
        let expected = &sender.sent[lane.index()];
        let messages: Vec<_> = arrived.messages.iter().filter(|message| message.head.lane == lane).collect();
        assert_eq!(messages.len(), expected.len());
        for (sequence, (message, expected)) in messages.into_iter().zip(expected).enumerate() {
            assert_eq!(message.head, expected.head_with(sequence as u64, message.head.body_bytes));
            assert_eq!(message.extensions().as_bytes(), expected.extensions);
            assert_eq!(message.extensions.is_some(), !expected.extensions.is_empty());
            assert!(message.body == *expected.body);
        }
    }
}
