//! Single rules of sending, each shown by the shortest case that breaks when the rule does.

use super::model::{Says, Sender};
use super::pieces::{BodySize, Spec, body_in_pieces, numbered, parameters, pool, settled};
use crate::message::Message;
use crate::packing::{Offers, Outbox, PackingRules, PackingStats, Windows};
use crate::pool::GatherList;
use crate::proto::credit::SendWindow;
use crate::proto::frame::{FrameHeader, Records};
use crate::proto::record::MessageKind;
use crate::proto::{FRAME_HEADER_BYTES, Lane, MESSAGE_HEAD_BYTES, Parameters, ReplyAddress};
use proptest::prelude::*;

fn records_by_frame(sender: &Sender, parameters: &Parameters) -> Vec<u16> {
    let mut rest = &*sender.stream;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let header = FrameHeader::parse(rest.first_chunk().unwrap(), &parameters.limits()).unwrap();
        records.push(header.records);
        rest = &rest[header.frame_bytes() as usize..];
    }
    records
}

proptest! {
    /// Even where chunks and eager bodies are shorter than packets.
    #[test]
    fn what_fits_a_packet_is_never_bulk(parameters in parameters()) {
        let rules = PackingRules::new(&parameters);
        let longest = rules.packet_bytes - FRAME_HEADER_BYTES - MESSAGE_HEAD_BYTES;
        prop_assert!(!rules.is_bulk(longest as u64));
        prop_assert!(longest <= parameters.chunk_bytes_max.max(parameters.eager_bytes_max) as usize);
    }
}

#[test]
fn a_shared_frame_is_no_longer_than_a_packet_that_is_not_whole_lines() {
    // A TCP segment over Ethernet. Eleven records of 128 bytes would fit it, but not as whole lines.
    let parameters = Parameters { packet_bytes: 1460, ..settled() };
    let mut pool = pool(1 << 20);
    let mut sender = Sender::new(parameters, 100);
    for _ in 0..40 {
        sender.push(&Spec::new(Lane::Normal, 64), &mut pool);
    }
    // The model compares the length of every frame with the packet.
    sender.fill(&mut pool);
    assert_eq!(records_by_frame(&sender, &parameters), [10, 10, 10, 10]);
}

#[test]
fn packets_may_be_longer_than_any_buffer() {
    let parameters =
        Parameters { packet_bytes: 1 << 20, frame_bytes_max: 1 << 20, chunk_bytes_max: 1 << 19, ..settled() };
    let mut pool = pool(4 << 20);
    let mut sender = Sender::new(parameters, 1000);
    for _ in 0..800 {
        sender.push(&Spec::new(Lane::Normal, 1000), &mut pool);
    }
    (0..3000).for_each(|_| sender.push_control(8));
    sender.fill(&mut pool);
    assert!(sender.frames > 1, "heads and short bodies of one frame fit one buffer");
}

#[test]
fn a_lane_that_is_full_refuses_nobody_elses_messages() {
    let mut pool = pool(1 << 20);
    let mut outbox = Outbox::new(PackingRules::new(&settled()), 3, 10_000);
    let message = |lane, bytes: usize, pool: &mut _| {
        Spec::new(lane, bytes).build(&PackingRules::new(&settled()), 1, pool)
    };
    for _ in 0..3 {
        outbox.push(message(Lane::Bulk, 10, &mut pool)).unwrap();
    }
    let (full, refused) = outbox.push(message(Lane::Bulk, 7, &mut pool)).unwrap_err();
    assert_eq!((full.messages, full.bytes, full.messages_max, full.bytes_max), (3, 30, 3, 10_000));
    assert_eq!(refused.body.len(), 7, "it goes back to its owner");
    outbox.push(message(Lane::Urgent, 10, &mut pool)).unwrap();
    // One message is always taken, however long; the next one waits.
    outbox.push(message(Lane::Normal, 20_000, &mut pool)).unwrap();
    let (full, _) = outbox.push(message(Lane::Normal, 0, &mut pool)).unwrap_err();
    assert_eq!((full.messages, full.bytes), (1, 20_000));
    assert_eq!((outbox.waiting_messages(), outbox.waiting_bytes()), (5, 20_040));
}

#[test]
fn an_urgent_message_overtakes_all_but_two_chunks() {
    let parameters = settled();
    let mut pool = pool(8 << 20);
    let mut sender = Sender::new(parameters, 1000);
    for lane in [Lane::Bulk, Lane::Normal, Lane::Bulk] {
        sender.push(&Spec { size: BodySize::Chunks(5, 1), ..Spec::new(lane, 0) }, &mut pool);
    }
    sender.fill(&mut pool);
    assert_eq!(sender.chunks, 2, "unacknowledged, and all that lies in front");
    sender.push(&Spec::new(Lane::Urgent, 100), &mut pool);
    sender.fill(&mut pool);
    assert_eq!((sender.chunks, sender.sent[0].len()), (2, 1), "it needs no acknowledgement");
    sender.grant_chunks(2);
    sender.push(&Spec::new(Lane::Urgent, 100), &mut pool);
    assert_eq!(sender.fill_once(&mut pool), 3);
    assert_eq!(
        records_by_frame(&sender, &parameters),
        [1, 1, 1, 1, 1, 1],
        "before the chunks that were granted"
    );
    assert_eq!(sender.sent[0].len(), 2);
}

#[test]
fn a_lane_without_chunk_credit_keeps_its_own_order_only() {
    let mut pool = pool(4 << 20);
    let mut sender = Sender::new(settled(), 1000);
    sender.push(&Spec { size: BodySize::Chunks(3, 0), ..Spec::new(Lane::Urgent, 0) }, &mut pool);
    sender.push(&Spec::new(Lane::Urgent, 10), &mut pool);
    sender.push(&Spec::new(Lane::Normal, 20_000), &mut pool);
    sender.push(&Spec::new(Lane::Bulk, 10), &mut pool);
    sender.fill(&mut pool);
    assert_eq!(sender.sent.each_ref().map(Vec::len), [0, 0, 1], "two are bulk and wait");
    sender.grant_chunks(1);
    sender.fill(&mut pool);
    assert_eq!(sender.sent.each_ref().map(Vec::len), [2, 0, 1]);
    sender.grant_chunks(1);
    sender.fill(&mut pool);
    assert_eq!(sender.sent.each_ref().map(Vec::len), [2, 1, 1]);
}

#[test]
fn control_takes_the_reserved_slots_and_data_does_not() {
    let mut pool = pool(1 << 20);
    let mut sender = Sender::new(Parameters { control_slots: 4, ..settled() }, 5);
    sender.push(&Spec::new(Lane::Urgent, 10), &mut pool);
    sender.fill(&mut pool);
    assert_eq!(sender.frames, 1);
    sender.push(&Spec::new(Lane::Urgent, 10), &mut pool);
    sender.push_control(32);
    sender.fill(&mut pool);
    assert_eq!((sender.frames, sender.outbox.waiting_messages()), (2, 1));
    (0..5).for_each(|_| sender.keep_alive(&mut pool));
    assert_eq!(sender.frames, 5, "the last ones found no slot");
    sender.grant_frames(5);
    sender.fill(&mut pool);
    assert_eq!(sender.outbox.waiting_messages(), 0);
}

#[test]
fn frames_without_messages_do_not_make_packets_look_empty() {
    let mut pool = pool(1 << 20);
    let mut sender = Sender::new(settled(), 100);
    sender.push_control(32);
    sender.fill(&mut pool);
    sender.keep_alive(&mut pool);
    (0..31).for_each(|_| sender.push(&Spec::new(Lane::Normal, 64), &mut pool));
    sender.fill(&mut pool);
    let stats = sender.outbox.stats();
    assert_eq!((stats.frames, stats.packed_frames, stats.messages), (3, 1, 31));
    assert_eq!(stats.messages_per_frame(), 31.0);
    assert_eq!(stats.fill(4096), (32.0 + 31.0 * 128.0) / 4096.0);
}

#[test]
fn what_a_message_outgrew_is_told_alike_for_eager_and_bulk() {
    let mut pool = pool(1 << 20);
    for (bytes, chunks) in [(10_000, 0), (20_000, 1), (40_000, 2)] {
        let mut sender = Sender::new(settled(), 100);
        sender.push(&Spec::new(Lane::Normal, bytes), &mut pool);
        sender.fill(&mut pool);
        let stats = sender.outbox.stats();
        // Header and head take two lines, whatever the number of chunks.
        let frame_bytes = (128 + bytes as u64).next_multiple_of(64);
        assert_eq!((stats.outgrew, stats.outgrew_bytes, stats.chunks), (1, frame_bytes - 4096, chunks));
    }
}

#[test]
fn an_empty_body_is_neither_copied_nor_referred_to() {
    let mut pool = pool(1 << 20);
    let mut sender = Sender::new(settled(), 100);
    sender.push(&Spec::new(Lane::Normal, 0), &mut pool);
    sender.fill(&mut pool);
    let stats = sender.outbox.stats();
    assert_eq!((stats.messages, stats.bodies_beside_head, stats.bodies_by_reference), (1, 0, 0));
}

/// More pieces than one gather list can name beside what it names already.
#[test]
fn a_body_in_many_pieces_leaves_whether_or_not_it_was_joined() {
    let parameters = settled();
    let rules = PackingRules::new(&parameters);
    let mut pool = pool(4 << 20);
    for bytes in [3_000, 16_000, 16_384, 40_000] {
        let body = body_in_pieces(&numbered(bytes, 3), 10, &mut pool);
        assert!(body.segment_count() > 256);
        let mut outbox = Outbox::new(rules, 10, 1 << 20);
        assert_eq!(outbox.takes_as_it_is(&body), rules.is_bulk(bytes as u64));
        outbox.push(Message::new(MessageKind::Reply, body)).unwrap();
        let mut windows = Windows {
            frames: SendWindow::new(100, 4),
            chunks: SendWindow::new(100, 0),
            offers: Offers::default(),
        };
        let (mut stream, mut gather) = (Vec::new(), GatherList::new());
        while outbox.fill(&mut windows, &mut Says::default().announcement(), &mut pool, &mut gather).unwrap()
            > 0
        {
            gather.segments().iter().for_each(|segment| stream.extend_from_slice(segment));
            gather.clear();
        }
        let (mut received, mut rest) = (Vec::new(), &*stream);
        while !rest.is_empty() {
            let header = FrameHeader::parse(rest.first_chunk().unwrap(), &parameters.limits()).unwrap();
            let (frame, behind) = rest.split_at(header.frame_bytes() as usize);
            let (_, records) = Records::parse(frame, &parameters.limits()).unwrap();
            records.for_each(|record| received.extend_from_slice(record.unwrap().1));
            rest = behind;
        }
        assert_eq!(received, numbered(bytes, 3));
        let stats = outbox.stats();
        assert_eq!((stats.messages, stats.outgrew), (1, u64::from(bytes > 4000)));
        assert_eq!(stats.chunks > 1, bytes == 40_000, "{stats:?}");
    }
}

#[test]
fn a_head_that_is_too_long_for_this_connection_is_told() {
    let long = PackingRules::new(&Parameters { head_bytes_max: 1024, ..settled() });
    let short = Parameters { head_bytes_max: 512, ..settled() };
    let mut pool = pool(1 << 20);
    let outbox = Outbox::new(PackingRules::new(&short), 10, 1000);
    for (extensions, fits) in [(0, true), (100, true), (255, false)] {
        for reply_address in [false, true] {
            let spec = Spec { reply_address, extensions, ..Spec::new(Lane::Normal, 10) };
            assert_eq!(outbox.head_fits(&spec.build(&long, 1, &mut pool)), fits);
        }
    }
    let spec = Spec { reply_address: true, extensions: 255, ..Spec::new(Lane::Normal, 10) };
    let mut message = spec.build(&PackingRules::new(&short), 1, &mut pool);
    assert!(outbox.head_fits(&message), "to the last byte");
    message.extensions = spec.build(&long, 1, &mut pool).extensions.map(|long| long.slice(0..440));
    assert!(!outbox.head_fits(&message));
}

#[test]
fn stats_add_up() {
    let mut pool = pool(4 << 20);
    let mut sender = Sender::new(settled(), 100);
    for bytes in [0, 10, 3_000, 10_000, 50_000] {
        sender.push(&Spec::new(Lane::Normal, bytes), &mut pool);
    }
    sender.fill(&mut pool);
    let once = sender.outbox.stats();
    let mut twice = once;
    twice.add(&once);
    assert_eq!(format!("{twice:?}"), doubled(&once));
    assert_eq!(PackingStats::default().messages_per_frame(), 0.0);
    assert_eq!(PackingStats::default().fill(4096), 0.0);
}

/// Every figure doubled, in whatever fields there are.
fn doubled(stats: &PackingStats) -> String {
    let text = format!("{stats:?}");
    let mut doubled = String::new();
    for part in text.split_inclusive([' ', ',']) {
        match part.trim_end_matches([' ', ',']).parse::<u64>() {
            Ok(number) => doubled += &part.replace(&number.to_string(), &(2 * number).to_string()),
            Err(_) => doubled += part,
        }
    }
    doubled
}

#[test]
fn a_reply_carries_back_what_its_request_brought() {
    let mut pool = pool(1 << 20);
    let rules = PackingRules::new(&settled());
    let spec = Spec {
        kind: MessageKind::Request,
        reply_address: true,
        extensions: 90,
        ..Spec::new(Lane::Urgent, 5)
    };
    let request = spec.build(&rules, 77, &mut pool);
    let extensions = request.extensions.as_ref().unwrap().len();
    assert_eq!(request.charged_bytes(), 5 + extensions as u64);
    let reply = Message::reply_to(&request.head, pool.copy_body(b"answer").unwrap());
    assert_eq!((reply.head.kind, reply.head.lane), (MessageKind::Reply, Lane::Urgent));
    assert_eq!(reply.head.reply_address, Some(ReplyAddress([77; 16])));
    assert_eq!(reply.head.correlation_id, request.head.correlation_id);
    assert_eq!(
        (reply.head.incarnation, reply.head.attempt),
        (request.head.incarnation, request.head.attempt)
    );
    assert_eq!((reply.head.link, reply.head.deadline_us, reply.head.failure), (None, None, false));
    assert!(reply.extensions().is_empty() && reply.charged_bytes() == 6);
}
