//! What a peer can do wrong on the way through an inbox, each shown by a stream made by hand.

use super::pieces::{Cutter, pool, settled};
use crate::packing::{Inbox, InboxError, PackingRules};
use crate::pool::Pool;
use crate::proto::frame::{FrameHeader, FrameKind};
use crate::proto::record::{ChunkHead, MessageHead, MessageKind};
use crate::proto::{Lane, LinkId, Parameters, PeerMisbehaved, Stream, record_aligned};

fn parameters() -> Parameters {
    Parameters {
        packet_bytes: 1024,
        frame_bytes_max: 2048,
        eager_bytes_max: 512,
        chunk_bytes_max: 512,
        message_bytes_max: 4096,
        head_bytes_max: 512,
        ..settled()
    }
}

/// A whole frame; what its header says of its records can be bent.
fn frame(kind: FrameKind, records: &[&[u8]], bend: impl FnOnce(&mut FrameHeader)) -> Vec<u8> {
    let mut header = FrameHeader {
        kind,
        ack_stream: Stream::Lane(Lane::Urgent),
        records: records.len() as u16,
        frame_number_low: 0,
        frame_limit_low: 0,
        chunk_limit_low: 0,
        record_bytes: records.concat().len() as u32,
        ack_sequence: 0,
    };
    bend(&mut header);
    let mut frame = header.encode().to_vec();
    frame.extend_from_slice(&records.concat());
    frame.resize(header.frame_bytes() as usize, 0);
    frame
}

fn data(records: &[&[u8]]) -> Vec<u8> {
    frame(FrameKind::Data, records, |_| ())
}

/// The first record of a message of `total` bytes, with `body` of them.
fn message(lane: Lane, body: &[u8], total: usize) -> Vec<u8> {
    let head = MessageHead {
        lane,
        link: LinkId::new(1),
        body_bytes: body.len() as u32,
        total_body_bytes: total as u64,
        ..crate::message::Message::new(MessageKind::Message, Default::default()).head
    };
    let mut record = vec![0; record_aligned(64 + body.len())];
    head.encode_into(&[], 64, &mut record).unwrap();
    record[64..64 + body.len()].copy_from_slice(body);
    record
}

fn chunk(lane: Lane, body: &[u8], body_offset: u64, bend: impl FnOnce(&mut ChunkHead)) -> Vec<u8> {
    let (body_bytes, link) = (body.len() as u32, LinkId::new(1));
    let mut head = ChunkHead { lane, last: false, body_bytes, link, lane_sequence: 0, body_offset };
    bend(&mut head);
    let mut record = vec![0; record_aligned(32 + body.len())];
    head.encode_into(32, &mut record).unwrap();
    record[32..32 + body.len()].copy_from_slice(body);
    record
}

fn take_apart(stream: &[u8], cut: usize, pool: &mut Pool) -> Result<usize, InboxError> {
    let mut inbox = Inbox::new(PackingRules::new(&parameters()), parameters().limits());
    let mut cutter = Cutter::new(pool);
    let mut parsed = 0;
    for piece in stream.chunks(cut) {
        cutter.cut(piece, pool, |segment, _| inbox.push(segment));
        while inbox.next(pool, &mut None)?.is_some() {
            parsed += 1;
        }
    }
    Ok(parsed)
}

#[track_caller]
fn refused(stream: &[u8], expected: PeerMisbehaved) {
    let mut pool = pool(4 << 20);
    for cut in [1, 5, 64, 4096] {
        assert_eq!(take_apart(stream, cut, &mut pool), Err(InboxError::Peer(expected)), "in pieces of {cut}");
    }
}

const LANE: Lane = Lane::Bulk;

fn begun() -> Vec<u8> {
    data(&[&message(LANE, &[1; 10], 100)])
}

#[test]
fn these_streams_are_what_the_others_bend() {
    let mut pool = pool(4 << 20);
    let rest = chunk(LANE, &[2; 90], 10, |chunk| chunk.last = true);
    let stream = [begun(), data(&[&rest]), data(&[&message(LANE, &[3; 5], 5)])].concat();
    for cut in [1, 5, 64, 4096] {
        assert_eq!(take_apart(&stream, cut, &mut pool), Ok(9));
    }
}

#[test]
fn a_message_between_chunks() {
    let other_lane = data(&[&message(Lane::Normal, b"may pass", 8)]);
    let stream = [begun(), other_lane, data(&[&message(LANE, &[3; 5], 5)])].concat();
    refused(&stream, PeerMisbehaved::MessageBetweenChunks { lane: LANE });
}

#[test]
fn a_chunk_without_a_message() {
    let stray = chunk(LANE, &[2; 90], 10, |_| ());
    refused(&data(&[&stray]), PeerMisbehaved::ChunkWithoutMessage { lane: LANE });
    let whole = message(LANE, &[1; 10], 10);
    refused(&data(&[&whole, &stray]), PeerMisbehaved::ChunkWithoutMessage { lane: LANE });
    let other_lane = chunk(Lane::Urgent, &[2; 90], 10, |_| ());
    let stream = [begun(), data(&[&other_lane])].concat();
    refused(&stream, PeerMisbehaved::ChunkWithoutMessage { lane: Lane::Urgent });
}

#[test]
fn a_chunk_of_another_message() {
    for bend in
        [|chunk: &mut ChunkHead| chunk.lane_sequence = 7, |chunk: &mut ChunkHead| chunk.link = LinkId::new(2)]
    {
        let mut found = 0;
        let record = chunk(LANE, &[2; 90], 10, |chunk| {
            bend(chunk);
            found = chunk.lane_sequence;
        });
        let stream = [begun(), data(&[&record])].concat();
        refused(&stream, PeerMisbehaved::ChunkOfAnother { lane: LANE, expected: 0, found });
    }
}

#[test]
fn a_chunk_out_of_its_place() {
    let after = |record: Vec<u8>| [begun(), data(&[&record])].concat();
    let gap = chunk(LANE, &[2; 80], 20, |chunk| chunk.last = true);
    refused(&after(gap), PeerMisbehaved::ChunkOutOfPlace { expected: 10, found: 20 });
    let long = chunk(LANE, &[2; 91], 10, |chunk| chunk.last = true);
    refused(&after(long), PeerMisbehaved::ChunkPastEnd { end: 101, total_body_bytes: 100 });
    let unmarked = chunk(LANE, &[2; 90], 10, |_| ());
    refused(&after(unmarked), PeerMisbehaved::ChunkLastMark { end: 100, total_body_bytes: 100 });
    let early = chunk(LANE, &[2; 89], 10, |chunk| chunk.last = true);
    refused(&after(early), PeerMisbehaved::ChunkLastMark { end: 99, total_body_bytes: 100 });
    refused(&after(chunk(LANE, &[], 10, |_| ())), PeerMisbehaved::ChunkEmpty);
}

#[test]
fn a_body_beyond_what_was_negotiated() {
    let long = message(LANE, &[1; 513], 513);
    refused(&data(&[&long]), PeerMisbehaved::BodyTooLong { body_bytes: 513, limit: 512 });
    let (total, limit) = (4097, 4096);
    refused(
        &data(&[&message(LANE, &[1; 8], total)]),
        PeerMisbehaved::MessageTooLong { body_bytes: 4097, limit },
    );
    let stream = [begun(), data(&[&chunk(LANE, &[1; 513], 10, |_| ())])].concat();
    refused(&stream, PeerMisbehaved::BodyTooLong { body_bytes: 513, limit: 512 });
}

#[test]
fn padding_that_is_not_zero() {
    let mut behind_body = message(LANE, &[1; 10], 10);
    *behind_body.last_mut().unwrap() = 1;
    refused(&data(&[&behind_body]), PeerMisbehaved::PaddingNotZero { offset: 32 + 79 });
    let mut behind_chunk = chunk(LANE, &[2; 9], 10, |_| ());
    behind_chunk[41] = 1;
    let stream = [begun(), data(&[&behind_chunk])].concat();
    refused(&stream, PeerMisbehaved::PaddingNotZero { offset: 32 + 41 });
    let mut behind_records = data(&[&message(LANE, &[1; 16], 16)]);
    let offset = behind_records.len() - 1;
    behind_records[offset] = 1;
    refused(&behind_records, PeerMisbehaved::PaddingNotZero { offset: offset as u32 });
    let mut keep_alive = frame(FrameKind::Control, &[], |_| ());
    keep_alive[32] = 1;
    refused(&keep_alive, PeerMisbehaved::PaddingNotZero { offset: 32 });
}

#[test]
fn records_that_are_not_what_the_frame_says() {
    let record = message(LANE, &[1; 100], 100);
    // The frame ends before the body, then within the head, then after more than its records.
    let short = frame(FrameKind::Data, &[&record], |header| header.record_bytes -= 8);
    refused(&short, PeerMisbehaved::RecordPastFrame { bytes: 168, left: 160 });
    let short = frame(FrameKind::Data, &[&record], |header| header.record_bytes = 56);
    refused(&short, PeerMisbehaved::RecordPastFrame { bytes: 64, left: 56 });
    let long = frame(FrameKind::Data, &[&record, &record], |header| header.records = 1);
    refused(&long, PeerMisbehaved::RecordBytesLeft { left: 168 });
    let many = frame(FrameKind::Data, &[&record], |header| header.records = 2);
    refused(&many, PeerMisbehaved::RecordPastFrame { bytes: 8, left: 0 });
    let control = frame(FrameKind::Control, &[&record], |_| ());
    refused(&control, PeerMisbehaved::RecordNotControl { kind: 1 });
    let mut unknown = record.clone();
    unknown[0] = 9;
    refused(&data(&[&unknown]), PeerMisbehaved::RecordKindUnknown { kind: 9 });
    let mut long_head = record;
    long_head[4..6].copy_from_slice(&520_u16.to_le_bytes());
    let head_bytes = PeerMisbehaved::HeadBytes { kind: 1, head_bytes: 520, min: 64, max: 512 };
    refused(&data(&[&long_head]), head_bytes);
}

#[test]
fn a_frame_that_is_none() {
    let record = message(LANE, &[1; 100], 100);
    let long = frame(FrameKind::Data, &[&record], |header| header.record_bytes = 2048);
    // Refused by its header: nothing is awaited or kept for it.
    refused(&long[..32], PeerMisbehaved::FrameTooLong { frame_bytes: 2112, limit: 2048 });
    let mut unknown = data(&[&record]);
    unknown[4] = 3;
    refused(&unknown[..32], PeerMisbehaved::FrameKindUnknown { kind: 3 });
    refused(&frame(FrameKind::Data, &[], |_| ())[..32], PeerMisbehaved::FrameEmpty);
}
