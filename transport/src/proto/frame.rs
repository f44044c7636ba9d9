//! Frames: what a wire carries in one piece.
//!
//! A frame is a header of 32 bytes, the records, and zeros up to a whole line. The header carries the
//! acknowledgement of one stream and both credit limits of the connection, so that no separate frame is
//! needed for them while data flows.

use super::bytes::{check_zero, put, u16_at, u32_at, u64_at};
use super::record::{Record, RecordKind, RecordPeek};
use super::{
    FRAME_HEADER_BYTES, LINE_BYTES, Limits, PeerMisbehaved, RECORD_ALIGN_BYTES, Stream, record_aligned,
    whole_lines,
};

/// What a frame may hold, and which slots it may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Any records, at least one. Never takes a reserved slot.
    Data = 1,
    /// Only control records, or none at all (keep-alive). May take the reserved slots.
    Control = 2,
}

/// The header of a frame. Counters named `..._low` are the low 32 bits of a position, which
/// [`super::serial::expand`] completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Data or control.
    pub kind: FrameKind,
    /// The stream that `ack_sequence` is about.
    pub ack_stream: Stream,
    /// Records in this frame.
    pub records: u16,
    /// The number of this frame in this direction of this connection, from zero.
    pub frame_number_low: u32,
    /// The peer may send frames numbered below this.
    pub frame_limit_low: u32,
    /// The peer may have sent so many chunks of bulk, records that chunks follow included.
    pub chunk_limit_low: u32,
    /// Bytes of records behind the header, each padded to a multiple of 8.
    pub record_bytes: u32,
    /// Every record of `ack_stream` with a lower sequence number has been taken over by this process.
    pub ack_sequence: u64,
}

impl FrameHeader {
    /// Parses a header and checks all that it says about its frame.
    ///
    /// # Errors
    /// A `Frame...` variant, [`PeerMisbehaved::StreamUnknown`], [`PeerMisbehaved::RecordBytesUnaligned`]
    /// or [`PeerMisbehaved::RecordCount`].
    pub fn parse(bytes: &[u8; FRAME_HEADER_BYTES], limits: &Limits) -> Result<Self, PeerMisbehaved> {
        let frame_bytes = u32_at(bytes, 0);
        check_frame_bytes(frame_bytes, limits)?;
        let header = Self {
            kind: frame_kind(bytes[4])?,
            ack_stream: Stream::parse(bytes[5])?,
            records: u16_at(bytes, 6),
            frame_number_low: u32_at(bytes, 8),
            frame_limit_low: u32_at(bytes, 12),
            chunk_limit_low: u32_at(bytes, 16),
            record_bytes: u32_at(bytes, 20),
            ack_sequence: u64_at(bytes, 24),
        };
        header.check_records(frame_bytes)?;
        Ok(header)
    }

    /// The header as it is sent.
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut out = [0; FRAME_HEADER_BYTES];
        put(&mut out, 0, self.frame_bytes().to_le_bytes());
        put(&mut out, 4, [self.kind as u8, self.ack_stream.index() as u8]);
        put(&mut out, 6, self.records.to_le_bytes());
        put(&mut out, 8, self.frame_number_low.to_le_bytes());
        put(&mut out, 12, self.frame_limit_low.to_le_bytes());
        put(&mut out, 16, self.chunk_limit_low.to_le_bytes());
        put(&mut out, 20, self.record_bytes.to_le_bytes());
        put(&mut out, 24, self.ack_sequence.to_le_bytes());
        out
    }

    /// Bytes of the whole frame: header, records and the zeros behind them.
    pub const fn frame_bytes(&self) -> u32 {
        // Saturates where a sender's record bytes were no frame anyway; parsed ones never get there.
        let bytes = frame_bytes_for(self.record_bytes);
        if bytes > u32::MAX as u64 { u32::MAX } else { bytes as u32 }
    }

    /// Zeros between the records and the end of the frame: 0 to 63 bytes, 32 in an empty frame.
    pub const fn padding_bytes(&self) -> u32 {
        self.frame_bytes().saturating_sub(FRAME_HEADER_BYTES as u32).saturating_sub(self.record_bytes)
    }

    /// Says nothing but the acknowledgement and the limits.
    pub const fn is_keep_alive(&self) -> bool {
        self.records == 0
    }

    fn check_records(&self, frame_bytes: u32) -> Result<(), PeerMisbehaved> {
        let Self { record_bytes, records, kind, .. } = *self;
        if frame_bytes_for(record_bytes) != u64::from(frame_bytes) {
            return Err(PeerMisbehaved::FrameRecordBytes { record_bytes, frame_bytes });
        }
        if !(record_bytes as usize).is_multiple_of(RECORD_ALIGN_BYTES) {
            return Err(PeerMisbehaved::RecordBytesUnaligned { record_bytes });
        }
        if kind == FrameKind::Data && records == 0 {
            return Err(PeerMisbehaved::FrameEmpty);
        }
        let shortest = RECORD_ALIGN_BYTES as u32 * u32::from(records);
        if record_bytes < shortest || (records == 0 && record_bytes != 0) {
            return Err(PeerMisbehaved::RecordCount { records, record_bytes });
        }
        Ok(())
    }
}

/// Bytes of a frame that holds so many bytes of records.
pub const fn frame_bytes_for(record_bytes: u32) -> u64 {
    whole_lines(FRAME_HEADER_BYTES + record_bytes as usize) as u64
}

fn check_frame_bytes(frame_bytes: u32, limits: &Limits) -> Result<(), PeerMisbehaved> {
    if (frame_bytes as usize) < LINE_BYTES {
        return Err(PeerMisbehaved::FrameTooShort { frame_bytes });
    }
    if frame_bytes > limits.frame_bytes_max {
        return Err(PeerMisbehaved::FrameTooLong { frame_bytes, limit: limits.frame_bytes_max });
    }
    if !(frame_bytes as usize).is_multiple_of(LINE_BYTES) {
        return Err(PeerMisbehaved::FrameNotWholeLines { frame_bytes });
    }
    Ok(())
}

fn frame_kind(kind: u8) -> Result<FrameKind, PeerMisbehaved> {
    match kind {
        1 => Ok(FrameKind::Data),
        2 => Ok(FrameKind::Control),
        _ => Err(PeerMisbehaved::FrameKindUnknown { kind }),
    }
}

/// What a frame's header promised and its records have not yet used.
///
/// A reader asks it before it believes a record's lengths, wherever the bytes of the frame lie: in one
/// buffer or in several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameBudget {
    kind: FrameKind,
    records: u16,
    bytes: u32,
}

impl FrameBudget {
    /// All that the header announces.
    pub const fn new(header: &FrameHeader) -> Self {
        Self { kind: header.kind, records: header.records, bytes: header.record_bytes }
    }

    /// Records still to come.
    pub const fn records_left(&self) -> u16 {
        self.records
    }

    /// Bytes of records still to come.
    pub const fn bytes_left(&self) -> u32 {
        self.bytes
    }

    /// Whether the head that was peeked at may stand here and lies within the frame. Uses nothing up.
    ///
    /// # Errors
    /// [`PeerMisbehaved::RecordNotControl`], [`PeerMisbehaved::RecordPastFrame`].
    pub fn check_head(&self, peek: &RecordPeek) -> Result<(), PeerMisbehaved> {
        if self.kind == FrameKind::Control && !matches!(peek.kind, RecordKind::Control(_)) {
            return Err(PeerMisbehaved::RecordNotControl { kind: peek.kind.value() });
        }
        self.check_bytes(u64::from(peek.head_bytes))
    }

    /// Uses up one record, and returns the bytes of padding behind its body, 0 to 7.
    ///
    /// # Errors
    /// [`PeerMisbehaved::RecordPastFrame`]; [`PeerMisbehaved::RecordBytesLeft`] if it was the last
    /// record and the header promised more bytes.
    pub fn take(&mut self, head_bytes: u16, body_bytes: u32) -> Result<usize, PeerMisbehaved> {
        let bytes = u64::from(head_bytes) + u64::from(body_bytes);
        let padded = record_aligned(bytes as usize) as u64;
        self.check_bytes(padded)?;
        self.records -= 1;
        self.bytes -= padded as u32;
        if self.records == 0 && self.bytes != 0 {
            return Err(PeerMisbehaved::RecordBytesLeft { left: self.bytes });
        }
        Ok((padded - bytes) as usize)
    }

    fn check_bytes(&self, bytes: u64) -> Result<(), PeerMisbehaved> {
        if self.records == 0 || bytes > u64::from(self.bytes) {
            return Err(PeerMisbehaved::RecordPastFrame { bytes, left: self.bytes });
        }
        Ok(())
    }
}

/// The records of a frame whose bytes lie in one piece, each with its body.
///
/// Yields an error once and ends there. After the last record it has also checked that the padding of
/// every record and of the frame is zero.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    /// The frame up to the end of its records.
    frame: &'a [u8],
    at: usize,
    budget: FrameBudget,
    limits: Limits,
}

impl<'a> Records<'a> {
    /// Reads the header; `frame` is the whole frame and nothing else.
    ///
    /// # Errors
    /// Those of [`FrameHeader::parse`]; [`PeerMisbehaved::FrameLength`] if `frame` is not as long as
    /// its header states; [`PeerMisbehaved::PaddingNotZero`] if its end is not zero.
    pub fn parse(frame: &'a [u8], limits: &Limits) -> Result<(FrameHeader, Self), PeerMisbehaved> {
        let found = frame.len() as u32;
        let first = frame.first_chunk().ok_or(PeerMisbehaved::FrameTooShort { frame_bytes: found })?;
        let header = FrameHeader::parse(first, limits)?;
        if header.frame_bytes() as usize != frame.len() {
            return Err(PeerMisbehaved::FrameLength { frame_bytes: header.frame_bytes(), found });
        }
        let records_end = FRAME_HEADER_BYTES + header.record_bytes as usize;
        check_zero(&frame[records_end..], records_end)?;
        let budget = FrameBudget::new(&header);
        Ok((header, Self { frame: &frame[..records_end], at: FRAME_HEADER_BYTES, budget, limits: *limits }))
    }

    fn read(&mut self) -> Result<(Record<'a>, &'a [u8]), PeerMisbehaved> {
        let rest = &self.frame[self.at..];
        let past = PeerMisbehaved::RecordPastFrame { bytes: 8, left: self.budget.bytes };
        let peek = RecordPeek::parse(rest.first_chunk().ok_or(past)?, &self.limits)?;
        self.budget.check_head(&peek)?;
        let head_bytes = usize::from(peek.head_bytes);
        let record = Record::parse(&rest[..head_bytes], &self.limits)?;
        let body_bytes = record.body_bytes();
        self.budget.take(peek.head_bytes, body_bytes)?;
        let body_end = head_bytes + body_bytes as usize;
        let record_end = record_aligned(body_end);
        check_zero(&rest[body_end..record_end], self.at + body_end)?;
        self.at += record_end;
        Ok((record, &rest[head_bytes..body_end]))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(Record<'a>, &'a [u8]), PeerMisbehaved>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.budget.records == 0 {
            return None;
        }
        let record = self.read();
        if record.is_err() {
            self.budget.records = 0;
        }
        Some(record)
    }
}

/// Padding must be zero: what a reader of frames in several pieces applies to the bytes behind a body
/// and behind the last record. `offset` is that of the first byte in its frame, for the report.
///
/// # Errors
/// [`PeerMisbehaved::PaddingNotZero`].
pub fn check_padding(bytes: &[u8], offset: u32) -> Result<(), PeerMisbehaved> {
    check_zero(bytes, offset as usize)
}
