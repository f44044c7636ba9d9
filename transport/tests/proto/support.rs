//! Owned records and whole frames, for tests that build and compare them.

use underlay::proto::Stream;
use underlay::proto::control::Control;
use underlay::proto::extension::ExtensionWriter;
use underlay::proto::frame::{FrameHeader, FrameKind, Records};
use underlay::proto::record::{ChunkHead, MessageHead, MessageKind, Record};
use underlay::proto::{
    CorrelationId, FRAME_HEADER_BYTES, Incarnation, Lane, Limits, LinkId, MessageNumber, Origin, Parameters,
    PeerMisbehaved, record_aligned, whole_lines,
};

/// A record with its body, as a test writes it.
#[derive(Clone, Debug)]
pub(crate) enum Written<'a> {
    /// Head, extensions, bytes of the head, body.
    Message(MessageHead, Vec<u8>, usize, Vec<u8>),
    /// Head, bytes of the head, body.
    Chunk(ChunkHead, usize, Vec<u8>),
    Control(Control<'a>),
    /// Bytes that no encoder writes.
    Raw(Vec<u8>),
}

impl Written<'_> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0xff; 4096];
        let (written, body) = match self {
            Self::Message(head, extensions, head_bytes, body) => {
                (head.encode_into(extensions, *head_bytes, &mut out), body.as_slice())
            }
            Self::Chunk(head, head_bytes, body) => (head.encode_into(*head_bytes, &mut out), body.as_slice()),
            Self::Control(control) => (control.encode_into(&mut out), [].as_slice()),
            Self::Raw(bytes) => return bytes.clone(),
        };
        out.truncate(written.expect("the record can be written"));
        out.extend_from_slice(body);
        out.resize(record_aligned(out.len()), 0);
        out
    }
}

pub(crate) fn limits() -> Limits {
    vector_parameters().limits()
}

/// What the vectors settle, whatever an end proposes by default.
pub(crate) fn vector_parameters() -> Parameters {
    Parameters {
        packet_bytes: 4096,
        frame_bytes_max: 64 << 10,
        eager_bytes_max: 16 << 10,
        chunk_bytes_max: 32 << 10,
        message_bytes_max: 64 << 20,
        frame_slots: 64,
        control_slots: 8,
        keep_alive_ms: 5_000,
        idle_timeout_ms: 20_000,
        links_max: 4096,
        head_bytes_max: 4096,
    }
}

pub(crate) fn link(number: u32) -> LinkId {
    LinkId::new(number).expect("a link is not zero")
}

/// A header whose records are not counted yet.
pub(crate) fn header(
    kind: FrameKind,
    ack_stream: impl Into<Stream>,
    number: u32,
    limit: u32,
    ack_sequence: u64,
) -> FrameHeader {
    FrameHeader {
        kind,
        ack_stream: ack_stream.into(),
        records: 0,
        frame_number_low: number,
        frame_limit_low: limit,
        chunk_limit_low: 2,
        record_bytes: 0,
        ack_sequence,
    }
}

/// A frame of these records.
pub(crate) fn frame(mut header: FrameHeader, records: &[Written<'_>]) -> Vec<u8> {
    let encoded: Vec<u8> = records.iter().flat_map(Written::encode).collect();
    header.records = records.len() as u16;
    header.record_bytes = encoded.len() as u32;
    let mut frame = header.encode().to_vec();
    frame.extend(encoded);
    frame.resize(whole_lines(frame.len()), 0);
    frame
}

/// A data frame that holds one record.
pub(crate) fn data_frame(record: Written<'_>) -> Vec<u8> {
    frame(header(FrameKind::Data, Lane::Normal, 0, 64, 0), &[record])
}

/// A message of kind 1 without extensions, that a test changes as it needs.
pub(crate) fn message() -> MessageHead {
    MessageHead {
        kind: MessageKind::Message,
        lane: Lane::Normal,
        redelivered: false,
        copies: false,
        offered: false,
        failure: false,
        reply_address: None,
        hop_count: 0,
        attempt: 0,
        body_bytes: 0,
        link: LinkId::new(1),
        lane_sequence: 0,
        origin: Origin(1),
        message_number: MessageNumber(1),
        correlation_id: CorrelationId(0),
        deadline_us: None,
        incarnation: Incarnation(1),
        total_body_bytes: 0,
    }
}

/// The extensions that `write` writes.
pub(crate) fn extensions(write: impl FnOnce(&mut ExtensionWriter<'_>)) -> Vec<u8> {
    let mut out = vec![0xff; 4096];
    let mut writer = ExtensionWriter::new(&mut out);
    write(&mut writer);
    let written = writer.written();
    out.truncate(written);
    out
}

/// Reads a whole frame or the first thing that is wrong with it.
pub(crate) fn read(frame: &[u8], limits: &Limits) -> Result<(), PeerMisbehaved> {
    let (_, mut records) = Records::parse(frame, limits)?;
    records.try_for_each(|record| record.map(drop))
}

/// Reads a frame and writes it again from the parsed values alone; only the lengths of heads and the
/// contents of skipped records are taken from the input.
pub(crate) fn rewrite(frame: &[u8], limits: &Limits) -> Result<Vec<u8>, PeerMisbehaved> {
    let (header, records) = Records::parse(frame, limits)?;
    let mut out = header.encode().to_vec();
    let mut at = FRAME_HEADER_BYTES;
    for record in records {
        let (record, body) = record?;
        let head_bytes = usize::from(u16::from_le_bytes([frame[at + 4], frame[at + 5]]));
        let body = body.to_vec();
        let written = match record {
            Record::Message(head, extensions) => {
                Written::Message(head, extensions.as_bytes().to_vec(), head_bytes, body)
            }
            Record::Chunk(head) => Written::Chunk(head, head_bytes, body),
            Record::Control(control) => Written::Control(control),
            _ => Written::Raw(frame[at..at + head_bytes].to_vec()),
        };
        let encoded = written.encode();
        at += encoded.len();
        out.extend(encoded);
    }
    out.resize(whole_lines(out.len()), 0);
    Ok(out)
}
