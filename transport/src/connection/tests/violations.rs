//! Peers that break the rules of a connection: each ends with its name, is told so, and nothing goes on.

use super::fake::*;
use super::pair::*;
use crate::connection::CloseReason;
use crate::proto::control::{Control, Detach, DetachCode, Flow, LinkCredit, LinkRole, Outcome, Settle};
use crate::proto::frame::FrameKind;
use crate::proto::text::ReasonText;
use crate::proto::{Lane, Parameters, PeerMisbehaved, Stream};

fn linked() -> Fake {
    Fake::linked(with(usual()))
}

#[test]
fn more_frames_than_were_granted() {
    let mut fake = Fake::new(with(usual()));
    // All at once, so that nothing is granted in between.
    let mut frames: Vec<u8> = (0..64).flat_map(|_| fake.frame(FrameKind::Control, &[])).collect();
    frames.extend(fake.frame(FrameKind::Control, &[]));
    fake.feed(&frames);
    fake.assert_misbehaved(PeerMisbehaved::FrameCreditOverrun { position: 65, limit: 64 });
}

#[test]
fn a_frame_with_another_number() {
    let mut fake = linked();
    let frame = fake.frame;
    fake.frame += 1;
    fake.data(&[whole(&head(PRODUCES, 0, 8), &[0; 8])]);
    fake.assert_misbehaved(PeerMisbehaved::FrameOutOfSequence {
        expected: frame.into(),
        found: u64::from(frame) + 1,
    });
}

#[test]
fn more_chunks_than_were_granted() {
    let mut fake = linked();
    let mut first = head(PRODUCES, 0, 10_000);
    first.total_body_bytes = 40_000;
    // In one segment: the connection cannot grant more in between.
    let mut frames = fake.frame(FrameKind::Data, &[whole(&first, &[0; 10_000])]);
    for offset in [10_000, 20_000] {
        let record = chunk(PRODUCES, 0, offset, false, &[0; 10_000]);
        frames.extend(fake.frame(FrameKind::Data, &[record]));
    }
    fake.feed(&frames);
    fake.assert_misbehaved(PeerMisbehaved::ChunkCreditOverrun { position: 3, limit: 2 });
}

#[test]
fn more_messages_than_a_link_was_granted() {
    let mut fake = linked();
    let records: Vec<_> = (0..3).map(|number| whole(&head(PRODUCES, number, 8), &[0; 8])).collect();
    fake.data(&records);
    assert_eq!(fake.messages, 2);
    let link = id(PRODUCES);
    fake.assert_misbehaved(PeerMisbehaved::MessageCreditOverrun { link, position: 3, limit: 2 });
}

#[test]
fn a_message_that_begins_behind_the_bytes_of_its_link() {
    let mut fake = linked();
    // The first may end behind them: none is too long for any credit.
    let records: Vec<_> = (0..2).map(|number| whole(&head(GIVES, number, 104), &[0; 104])).collect();
    fake.data(&records);
    assert_eq!(fake.messages, 1);
    fake.assert_misbehaved(PeerMisbehaved::ByteCreditOverrun { link: id(GIVES), position: 208, limit: 100 });
}

#[test]
fn a_message_out_of_the_order_of_its_lane() {
    for (sequence, body_bytes) in [(1, 8), (7, 8), (1, 20_000)] {
        let mut fake = linked();
        let mut head = head(PRODUCES, sequence, body_bytes.min(10_000));
        head.total_body_bytes = body_bytes.into();
        let body = vec![0; head.body_bytes as usize];
        fake.data(&[whole(&head, &body)]);
        let lane = Lane::Normal;
        fake.assert_misbehaved(PeerMisbehaved::LaneOutOfSequence { lane, expected: 0, found: sequence });
    }
}

#[test]
fn a_message_a_second_time() {
    let mut fake = linked();
    fake.data(&[whole(&head(PRODUCES, 0, 8), &[0; 8])]);
    fake.data(&[whole(&head(PRODUCES, 0, 8), &[0; 8])]);
    assert_eq!(fake.messages, 1);
    fake.assert_misbehaved(PeerMisbehaved::LaneOutOfSequence { lane: Lane::Normal, expected: 1, found: 0 });
}

#[test]
fn chunks_that_do_not_belong_where_they_are() {
    let begins = |fake: &mut Fake| {
        let mut head = head(PRODUCES, 0, 10_000);
        head.total_body_bytes = 30_000;
        fake.data(&[whole(&head, &[0; 10_000])]);
        assert_eq!((fake.messages, fake.closed.len()), (0, 0));
    };
    let lane = Lane::Normal;
    let mut fake = linked();
    fake.data(&[chunk(PRODUCES, 0, 0, false, &[0; 8])]);
    fake.assert_misbehaved(PeerMisbehaved::ChunkWithoutMessage { lane });
    let mut fake = linked();
    begins(&mut fake);
    fake.data(&[chunk(PRODUCES, 0, 10_008, false, &[0; 8])]);
    fake.assert_misbehaved(PeerMisbehaved::ChunkOutOfPlace { expected: 10_000, found: 10_008 });
    let mut fake = linked();
    begins(&mut fake);
    fake.data(&[chunk(GIVES, 0, 10_000, false, &[0; 8])]);
    fake.assert_misbehaved(PeerMisbehaved::ChunkOfAnother { lane, expected: 0, found: 0 });
    let mut fake = linked();
    begins(&mut fake);
    fake.data(&[chunk(PRODUCES, 0, 10_000, false, &vec![0; 20_008])]);
    fake.assert_misbehaved(PeerMisbehaved::ChunkPastEnd { end: 30_008, total_body_bytes: 30_000 });
    let mut fake = linked();
    begins(&mut fake);
    fake.data(&[whole(&head(PRODUCES, 1, 8), &[0; 8])]);
    fake.assert_misbehaved(PeerMisbehaved::MessageBetweenChunks { lane });
}

#[test]
fn an_acknowledgement_of_what_was_never_sent() {
    let mut fake = linked();
    let mut header = fake.header(FrameKind::Control, &[]);
    header.ack_sequence = 1;
    fake.feed(&framed(&header, &[]));
    fake.assert_misbehaved(PeerMisbehaved::AcknowledgedUnsent {
        stream: Stream::Lane(Lane::Urgent),
        found: 1,
        limit: 0,
    });
}

#[test]
fn messages_on_links_that_do_not_carry_them() {
    // Unknown; one on which the connection itself sends; one that it has asked for and that was not granted.
    for link in [5, 99, TAKES, CONSUMES] {
        let mut fake = linked();
        fake.data(&[whole(&head(link, 0, 8), &[0; 8])]);
        fake.assert_misbehaved(PeerMisbehaved::LinkUnknown { link: id(link) });
    }
    let mut fake = Fake::new(with(usual()));
    let name = crate::proto::control::Address::Named(crate::proto::text::Name::new("queue").unwrap());
    let link = fake.connection.attach(LinkRole::Consumer, name, AMPLE).unwrap();
    fake.data(&[whole(&head(link.value(), 0, 8), &[0; 8])]);
    fake.assert_misbehaved(PeerMisbehaved::LinkUnknown { link });
}

#[test]
fn control_of_links_that_do_not_have_it() {
    let flow =
        |link| Control::Flow(Flow { link: id(link), credit: LinkCredit { message_limit: 9, byte_limit: 9 } });
    let detach =
        |link| Control::Detach(Detach { link: id(link), code: DetachCode::Normal, text: ReasonText::of("") });
    let attached = |link| {
        Control::Attached(crate::proto::control::Attached { link: id(link), credit: LinkCredit::default() })
    };
    let unknown = |link| PeerMisbehaved::LinkUnknown { link: id(link) };
    let settle = Control::Settle(Settle {
        link: id(PRODUCES),
        lane: Lane::Normal,
        outcome: Outcome::Accepted,
        from: 0,
        to: 1,
    });
    let cases = [
        (flow(5), unknown(5)),
        (flow(6), unknown(6)),
        (flow(PRODUCES), PeerMisbehaved::GrantByProducer { link: id(PRODUCES) }),
        (flow(GIVES), PeerMisbehaved::GrantByProducer { link: id(GIVES) }),
        (detach(6), unknown(6)),
        (attached(TAKES), unknown(TAKES)),
        (attached(PRODUCES), unknown(PRODUCES)),
        (attached(6), unknown(6)),
        (attach(PRODUCES, LinkRole::Producer), PeerMisbehaved::LinkInUse { link: id(PRODUCES) }),
        (attach(TAKES, LinkRole::Producer), unknown(TAKES)),
        (attach(6, LinkRole::Producer), unknown(6)),
        (settle, PeerMisbehaved::SettlementNotNegotiated { link: id(PRODUCES) }),
        (attach(7, LinkRole::SettlingConsumer), PeerMisbehaved::SettlementNotNegotiated { link: id(7) }),
    ];
    for (control, expected) in cases {
        let mut fake = linked();
        fake.control(&[&control]);
        fake.assert_misbehaved(expected);
    }
}

#[test]
fn more_links_than_were_settled_are_refused_and_nothing_ends() {
    let mut fake = Fake::new(with(Parameters { links_max: 2, ..usual() }));
    let links = [1, 3, 5, 4_000_000_001].map(|link| attach(link, LinkRole::Producer));
    fake.control(&links.each_ref());
    assert_eq!(fake.closed, []);
    let refused: Vec<_> = fake
        .records()
        .into_iter()
        .filter_map(|heard| match heard {
            Heard::Control(text) if text.contains("LinkLimit") => Some(text),
            _ => None,
        })
        .collect();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused[0].contains("2 links") && refused[0].contains("links_max"), "{}", refused[0]);
}

/// Whatever comes behind a valid hello: it ends by a violation, or waits for the rest of a frame; it never panics.
#[test]
fn random_bytes_end_by_a_violation_that_has_a_name() {
    let mut violations = std::collections::BTreeSet::new();
    for seed in 0..3000 {
        let mut random = Random::new(seed);
        let mut fake = Fake::linked(with(Parameters {
            frame_bytes_max: 8192,
            head_bytes_max: 512,
            eager_bytes_max: 4096,
            chunk_bytes_max: 4096,
            ..usual()
        }));
        let mut bytes: Vec<u8> = (0..200 + random.below(1500)).map(|_| random.next() as u8).collect();
        // Most seeds get a frame that is nearly right, so that more than its length is looked at.
        if seed % 8 != 0 {
            let mut first = head(PRODUCES, 0, 40);
            first.total_body_bytes = [40, 40, 80][random.below(3)];
            let records = [
                encoded(&attach(7, LinkRole::Consumer)),
                whole(&first, &[7; 40]),
                whole(&head(GIVES, 1, 4), &[1; 4]),
            ];
            let mut frame = fake.frame(FrameKind::Data, &records);
            for _ in 0..1 + random.below(3) {
                let at = random.below(frame.len());
                frame[at] = random.next() as u8;
            }
            frame.append(&mut bytes);
            bytes = frame;
        }
        fake.feed(&bytes);
        match &fake.closed[..] {
            [] => assert!(fake.connection.is_open()),
            [CloseReason::Misbehaved(violation)] => {
                violations.insert(format!("{violation:?}").split([' ', '(', '{']).next().unwrap().to_owned());
            }
            // A changed byte can make a close of a record.
            [CloseReason::Peer { .. }] => {}
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(violations.len() > 15, "too few ways to fail were found: {violations:?}");
}

/// Each attach past the limit is answered, but a peer that takes no answers cannot have them pile up for ever.
#[test]
fn answers_that_nobody_takes_are_bounded() {
    let mut fake = Fake::new(with(Parameters { links_max: 1, ..usual() }));
    let attaches: Vec<_> = (1..1000).map(|n| encoded(&attach(2 * n + 1, LinkRole::Producer))).collect();
    let mut frames = 0;
    while fake.closed.is_empty() {
        frames += 1;
        assert!(frames < 60, "they pile up for ever");
        let frame = fake.frame(FrameKind::Control, &attaches);
        fake.feed(&frame);
    }
    let [CloseReason::ResourceLimit(text)] = &fake.closed[..] else { panic!("{:?}", fake.closed) };
    assert!(text.contains("answers wait for the peer (1048576)"), "{text}");
}
