//! Single rules of receiving: what is copied and what is not, and what a peer can make this end hold.

use super::model::Sender;
use super::pieces::{Arrived, BodySize, Cutter, Spec, numbered, pool, settled};
use crate::packing::{Inbox, Parsed};
use crate::pool::{BUFFER_BYTES_MAX, Pool, SEGMENTS_MAX, Segment};
use crate::proto::extension::ExtensionWriter;
use crate::proto::frame::{FrameHeader, FrameKind};
use crate::proto::record::{ChunkHead, MessageHead, MessageKind};
use crate::proto::{Lane, LinkId, Parameters, Stream, whole_lines};

fn inbox(parameters: &Parameters) -> Inbox {
    Inbox::new(crate::packing::PackingRules::new(parameters), parameters.limits())
}

fn in_a_buffer_of_its_own(bytes: &[u8], buffer_bytes: usize, pool: &mut Pool) -> Segment {
    let mut buffer = pool.buffer(buffer_bytes).unwrap();
    buffer.put_slice(bytes);
    buffer.split()
}

/// A frame with one record.
fn frame(head: &[u8], body: &[u8]) -> Vec<u8> {
    let record_bytes = (head.len() + body.len()).next_multiple_of(8) as u32;
    let header = FrameHeader {
        kind: FrameKind::Data,
        ack_stream: Stream::Lane(Lane::Urgent),
        records: 1,
        frame_number_low: 0,
        frame_limit_low: 0,
        chunk_limit_low: 0,
        record_bytes,
        ack_sequence: 0,
    };
    let mut frame = [&header.encode(), head, body].concat();
    frame.resize(whole_lines(frame.len()), 0);
    frame
}

/// A message in chunks of these sizes.
fn in_chunks(body: &[u8], chunk_bytes: usize) -> Vec<Vec<u8>> {
    let chunks = body.chunks(chunk_bytes).enumerate().map(|(number, part)| {
        let (body_bytes, link) = (part.len() as u32, LinkId::new(1));
        let mut head = [0; 64];
        if number == 0 {
            let template = crate::message::Message::new(MessageKind::Message, Default::default()).head;
            let first = MessageHead { link, body_bytes, total_body_bytes: body.len() as u64, ..template };
            first.encode_into(&[], 64, &mut head).unwrap();
            return frame(&head, part);
        }
        let body_offset = (number * chunk_bytes) as u64;
        let last = body_offset as usize + part.len() == body.len();
        let chunk = ChunkHead { lane: Lane::Normal, last, body_bytes, link, lane_sequence: 0, body_offset };
        chunk.encode_into(32, &mut head).unwrap();
        frame(&head[..32], part)
    });
    chunks.collect()
}

#[test]
fn bodies_and_extensions_are_slices_of_what_arrived() {
    let parameters = settled();
    let mut pool = pool(16 << 20);
    let mut sender = Sender::new(parameters, 1000);
    for (bytes, extensions) in [(10, 0), (3_000, 90), (16_000, 10), (0, 200)] {
        sender.push(&Spec { extensions, ..Spec::new(Lane::Urgent, bytes) }, &mut pool);
    }
    sender.push(&Spec { size: BodySize::Chunks(2, 9), ..Spec::new(Lane::Bulk, 0) }, &mut pool);
    while sender.outbox.waiting_messages() > 0 {
        sender.grant_chunks(2);
        sender.fill(&mut pool);
    }
    let copies = pool.stats().body_copies;
    let received: Vec<_> =
        sender.stream.chunks(16_384).map(|part| in_a_buffer_of_its_own(part, 16_384, &mut pool)).collect();
    let (mut inbox, mut arrived) = (inbox(&parameters), Arrived::default());
    for segment in &received {
        inbox.push(segment.clone());
        arrived.take_all(&mut inbox, &mut pool).unwrap();
    }
    assert_eq!(arrived.messages.len(), 5);
    let within = |part: &[u8]| received.iter().any(|segment| segment.as_ptr_range().contains(&part.as_ptr()));
    for message in &arrived.messages {
        assert!(message.body.segments().all(|segment| within(segment)));
    }
    // The heads of none of them happen to lie across two buffers.
    assert!(arrived.messages.iter().flat_map(|message| &message.extensions).all(|segment| within(segment)));
    assert_eq!(pool.stats().body_copies, copies);
}

#[test]
fn a_peer_that_sends_a_byte_at_a_time_holds_a_bounded_number_of_buffers() {
    let parameters = settled();
    let mut pool = pool(64 << 20);
    let mut sender = Sender::new(parameters, 1000);
    sender.push(&Spec::new(Lane::Normal, 16_000), &mut pool);
    sender.fill(&mut pool);
    let mut inbox = inbox(&parameters);
    let mut arrived = Arrived::default();
    pool.reclaim();
    let held_before = pool.stats().buffers_out;
    let mut held_max = 0;
    for byte in &sender.stream {
        inbox.push(in_a_buffer_of_its_own(&[*byte], 16_384, &mut pool));
        arrived.take_all(&mut inbox, &mut pool).unwrap();
        pool.reclaim();
        held_max = held_max.max(pool.stats().buffers_out - held_before);
    }
    assert!(arrived.messages[0].body == *sender.sent[1][0].body);
    assert!(held_max < 300, "{held_max} buffers held, of {} that came", sender.stream.len());
    let stats = pool.stats();
    assert!(stats.compactions > 0 && stats.body_copied_bytes > 16_000, "it is counted: {stats:?}");
}

#[test]
fn chunks_of_a_byte_hold_a_bounded_number_of_buffers() {
    let parameters = settled();
    let mut pool = pool(64 << 20);
    let (mut inbox, mut arrived) = (inbox(&parameters), Arrived::default());
    let body = numbered(3_000, 5);
    let mut held_max = 0;
    for frame in in_chunks(&body, 1) {
        inbox.push(in_a_buffer_of_its_own(&frame, 16_384, &mut pool));
        arrived.take_all(&mut inbox, &mut pool).unwrap();
        pool.reclaim();
        held_max = held_max.max(pool.stats().buffers_out);
    }
    assert!(arrived.messages[0].body == *body);
    assert!(held_max < 300, "{held_max} buffers held");
}

/// It used to be refused by a full list again and again, as if it were for want of buffers.
#[test]
fn a_message_may_arrive_in_more_pieces_than_a_list_can_hold() {
    let parameters = settled();
    let mut pool = pool(128 << 20);
    let body = numbered(100_000, 5);
    // Dense buffers: nothing would be gained by joining until the list is full.
    let stream = in_chunks(&body, 20).concat();
    let (mut inbox, mut arrived) = (inbox(&parameters), Arrived::default());
    for part in stream.chunks(BUFFER_BYTES_MAX) {
        inbox.push(in_a_buffer_of_its_own(part, BUFFER_BYTES_MAX, &mut pool));
        arrived.take_all(&mut inbox, &mut pool).unwrap();
    }
    assert!(body.len() / 20 > SEGMENTS_MAX);
    assert_eq!(arrived.chunks, 5000);
    assert!(arrived.messages[0].body == *body);
}

#[test]
fn a_frame_may_arrive_in_more_pieces_than_a_list_can_hold() {
    let parameters = settled();
    let mut pool = pool(64 << 20);
    let mut sender = Sender::new(parameters, 1000);
    sender.push(&Spec::new(Lane::Normal, 16_000), &mut pool);
    sender.fill(&mut pool);
    let (mut inbox, mut arrived) = (inbox(&parameters), Arrived::default());
    let mut cutter = Cutter::new(&mut pool);
    // All of them before the inbox is asked for the first time.
    sender.stream.chunks(1).for_each(|byte| cutter.cut(byte, &mut pool, |segment, _| inbox.push(segment)));
    arrived.take_all(&mut inbox, &mut pool).unwrap();
    assert!(arrived.messages[0].body == *sender.sent[1][0].body);
}

#[test]
fn parts_say_what_is_missing() {
    let parameters = settled();
    let mut pool = pool(4 << 20);
    let mut inbox = inbox(&parameters);
    let body = numbered(50_000, 1);
    let mut missing = Vec::new();
    for frame in in_chunks(&body, 20_000) {
        assert!(!inbox.is_mid_frame());
        let (front, back) = frame.split_at(33);
        inbox.push(in_a_buffer_of_its_own(front, 64, &mut pool));
        let mut arrived = None;
        assert!(inbox.next(&mut pool, &mut arrived).unwrap().is_none() && inbox.is_mid_frame());
        inbox.push(in_a_buffer_of_its_own(back, BUFFER_BYTES_MAX, &mut pool));
        while let Some(parsed) = inbox.next(&mut pool, &mut arrived).unwrap() {
            match parsed {
                Parsed::Part { begins, missing_bytes } => missing.push((begins.is_some(), missing_bytes)),
                Parsed::Message { is_bulk, had_begun } => {
                    assert!(is_bulk && had_begun && arrived.take().unwrap().body == *body);
                    missing.push((false, 0));
                }
                Parsed::Frame(_) | Parsed::Control | Parsed::Offer | Parsed::FrameEnd => (),
            }
        }
    }
    assert_eq!(missing, [(true, 30_000), (false, 10_000), (false, 0)]);
}

/// The head of a message that offers its body, with an extension of its own before the offer.
fn offered(total_body_bytes: u64, descriptor: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut own = [0; 64];
    let mut writer = ExtensionWriter::new(&mut own);
    writer.error(7, "before the offer").unwrap();
    let bytes = writer.written();
    let own = own[..bytes].to_vec();
    let mut offer = [0; 72];
    let mut writer = ExtensionWriter::of_offer(&mut offer);
    writer.offer(descriptor).unwrap();
    let bytes = writer.written();
    let extensions = [&own[..], &offer[..bytes]].concat();
    let head = MessageHead {
        link: LinkId::new(1),
        offered: true,
        total_body_bytes,
        ..crate::message::Message::new(MessageKind::Message, Default::default()).head
    };
    let mut record = vec![0; head.head_bytes_needed(extensions.len())];
    let bytes = record.len();
    head.encode_into(&extensions, bytes, &mut record).unwrap();
    (record, own)
}

#[test]
fn an_offer_is_found_in_any_pieces_and_leaves_nothing_in_the_head() {
    let parameters = settled();
    for descriptor_bytes in [1, 12, 64] {
        let descriptor = numbered(descriptor_bytes, 3);
        let (record, own) = offered(1 << 20, &descriptor);
        let stream = frame(&record, &[]);
        for cut in [1, 7, 100, stream.len()] {
            let mut pool = pool(4 << 20);
            let mut inbox = inbox(&parameters);
            let mut arrived = Arrived::default();
            for piece in stream.chunks(cut) {
                inbox.push(in_a_buffer_of_its_own(piece, piece.len(), &mut pool));
                arrived.take_all(&mut inbox, &mut pool).unwrap();
            }
            let [(message, found)] = &arrived.offers[..] else { panic!("{} offers", arrived.offers.len()) };
            assert_eq!(*found, descriptor);
            assert_eq!(message.extensions.as_deref(), Some(&own[..]));
            assert_eq!((message.head.offered, message.head.total_body_bytes), (false, 1 << 20));
            assert!(message.body.is_empty() && arrived.messages.is_empty() && arrived.chunks == 0);
        }
    }
}
