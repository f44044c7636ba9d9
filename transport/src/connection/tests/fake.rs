//! A peer that shakes hands as it should and then sends whatever a test makes up.

use super::pair::*;
use super::single::Single;
use crate::connection::{CloseReason, ConnectionConfig, ConnectionEvent};
use crate::message::Message;
use crate::pool::{GatherList, Pool};
use crate::proto::control::{Address, Attach, Attached, CloseCode, Control, LinkCredit, LinkRole};
use crate::proto::frame::{FrameHeader, FrameKind, Records};
use crate::proto::handshake::AwaitServerHello;
use crate::proto::handshake::LocalEnd;
use crate::proto::hello::{Capabilities, SessionTerms};
use crate::proto::record::{ChunkHead, MessageHead, MessageKind, Record};
use crate::proto::text::Name;
use crate::proto::{Lane, Limits, LinkId, PeerMisbehaved, Stream, record_aligned};
use crate::time::Timestamp;

/// Of the fake peer's links, those that it sends on and receives on.
pub(super) const PRODUCES: u32 = 1;
pub(super) const CONSUMES: u32 = 3;
/// Those that the connection under test asked for: it sends on the first and receives on the second.
pub(super) const TAKES: u32 = 2;
pub(super) const GIVES: u32 = 4;

/// A connection under test, of the accepting end, and what its peer keeps.
pub(super) struct Fake {
    pub(super) connection: Single,
    pub(super) pool: Pool,
    pub(super) now: Timestamp,
    pub(super) limits: Limits,
    pub(super) messages: usize,
    pub(super) closed: Vec<CloseReason>,
    /// The number of the next frame.
    pub(super) frame: u32,
    /// All that the connection sent since the handshake.
    pub(super) heard: Vec<u8>,
    /// What frames announce.
    pub(super) frame_limit: u32,
    pub(super) chunk_limit: u32,
}

impl Fake {
    pub(super) fn new(config: ConnectionConfig) -> Self {
        Self::with_capabilities(config, Capabilities::default())
    }

    pub(super) fn with_capabilities(config: ConnectionConfig, capabilities: Capabilities) -> Self {
        let now = Timestamp::from_nanoseconds(1_000_000);
        let local = LocalEnd {
            capabilities,
            process: identity(9).process,
            parameters: config.parameters,
            securities: Vec::new(),
            wires: Vec::new(),
            name: None,
        };
        let frame_limit = config.parameters.frame_slots;
        let (state, hello) = AwaitServerHello::start(local, SessionTerms::default()).unwrap();
        let connection = Single::server(config, &identity(2), 4096, now).unwrap();
        let mut fake = Self {
            connection,
            pool: pool(),
            now,
            limits: usual().limits(),
            messages: 0,
            closed: Vec::new(),
            frame: 0,
            heard: Vec::new(),
            frame_limit,
            chunk_limit: 2,
        };
        fake.feed(&hello);
        let answer = std::mem::take(&mut fake.heard);
        fake.limits = state.handle(&answer).unwrap().parameters.limits();
        fake
    }

    /// With links in all directions, each with credit for two messages and 100 bytes.
    pub(super) fn linked(config: ConnectionConfig) -> Self {
        let mut fake = Self::new(config);
        let room = crate::connection::LinkRoom { messages: 2, bytes: 100 };
        let name = || Address::Named(Name::new("queue").unwrap());
        let credit = LinkCredit { message_limit: 2, byte_limit: 100 };
        fake.control(&[&attach(PRODUCES, LinkRole::Producer), &attach(CONSUMES, LinkRole::Consumer)]);
        let takes = fake.connection.attach(LinkRole::Producer, name(), room).unwrap();
        let gives = fake.connection.attach(LinkRole::Consumer, name(), room).unwrap();
        assert_eq!((takes, gives), (id(TAKES), id(GIVES)));
        fake.listen();
        fake.control(&[
            &Control::Attached(Attached { link: takes, credit }),
            &Control::Attached(Attached { link: gives, credit: LinkCredit::default() }),
        ]);
        assert_eq!(fake.closed, []);
        fake
    }

    /// Has the connection take these bytes, and do everything that comes of it.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(60_000) {
            let mut buffer = self.pool.buffer(piece.len()).unwrap();
            buffer.put_slice(piece);
            self.connection.handle_segment(buffer.split(), self.now);
            self.pull();
        }
        self.listen();
    }

    fn pull(&mut self) {
        while let Some(event) = self.connection.poll_event(self.now, &mut self.pool, &mut None).unwrap() {
            assert!(self.closed.is_empty(), "{event:?} after the end");
            match event {
                ConnectionEvent::Message => self.messages += 1,
                ConnectionEvent::Closed(reason) => self.closed.push(reason),
                ConnectionEvent::AttachRequested(request) => {
                    let room = crate::connection::LinkRoom { messages: 2, bytes: 100 };
                    self.connection.accept_link(request.link, room).unwrap();
                }
                _ => {}
            }
        }
    }

    /// Takes what the connection sends.
    pub(super) fn listen(&mut self) {
        let mut gather = GatherList::new();
        while self.connection.poll_transmit(self.now, &mut self.pool, &mut gather).unwrap() {
            for segment in gather.drain() {
                self.heard.extend_from_slice(&segment);
            }
            self.connection.handle_sent();
        }
        self.pull();
    }

    pub(super) fn header(&mut self, kind: FrameKind, records: &[Vec<u8>]) -> FrameHeader {
        self.frame += 1;
        FrameHeader {
            kind,
            ack_stream: Stream::Lane(Lane::Urgent),
            records: records.len() as u16,
            frame_number_low: self.frame - 1,
            frame_limit_low: self.frame_limit,
            chunk_limit_low: self.chunk_limit,
            record_bytes: records.iter().map(|record| record.len() as u32).sum(),
            ack_sequence: 0,
        }
    }

    /// A frame of these records.
    pub(super) fn frame(&mut self, kind: FrameKind, records: &[Vec<u8>]) -> Vec<u8> {
        let header = self.header(kind, records);
        framed(&header, records)
    }

    pub(super) fn data(&mut self, records: &[Vec<u8>]) {
        let frame = self.frame(FrameKind::Data, records);
        self.feed(&frame);
    }

    pub(super) fn control(&mut self, records: &[&Control<'_>]) {
        let records: Vec<_> = records.iter().map(|record| encoded(record)).collect();
        let frame = self.frame(FrameKind::Control, &records);
        self.feed(&frame);
    }

    /// The control records and messages that the connection sent, in order.
    pub(super) fn records(&self) -> Vec<Heard> {
        let (mut rest, mut heard) = (&self.heard[..], Vec::new());
        while !rest.is_empty() {
            let header = FrameHeader::parse(rest.first_chunk().unwrap(), &self.limits).unwrap();
            let (frame, behind) = rest.split_at(header.frame_bytes() as usize);
            rest = behind;
            for record in Records::parse(frame, &self.limits).unwrap().1 {
                heard.push(match record.unwrap().0 {
                    Record::Message(head, _) => Heard::Message(head),
                    Record::Chunk(head) => Heard::Chunk(head),
                    Record::Control(Control::Close(close)) => {
                        Heard::Close(close.code, close.text.as_str().to_owned())
                    }
                    other => Heard::Control(format!("{other:?}")),
                });
            }
        }
        heard
    }

    /// It ended with this violation, told so, and nothing moves it any more.
    pub(super) fn assert_misbehaved(&mut self, expected: PeerMisbehaved) {
        let reason = CloseReason::Misbehaved(expected);
        assert_eq!(self.closed, std::slice::from_ref(&reason));
        let told = Heard::Close(CloseCode::ProtocolViolation, reason.to_string());
        assert_eq!(self.records().pop(), Some(told), "the last record");
        let (messages, heard) = (self.messages, self.heard.len());
        let head = head(PRODUCES, 0, 8);
        let good = self.frame(FrameKind::Data, &[whole(&head, &[0; 8])]);
        self.feed(&good);
        assert_eq!((self.messages, self.heard.len()), (messages, heard), "it went on");
        assert_eq!(self.connection.waiting(), (0, 0));
        self.pool.reclaim();
    }
}

/// A record that the connection under test sent.
#[derive(Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // few, and only for a moment
pub(super) enum Heard {
    Message(MessageHead),
    Chunk(ChunkHead),
    Close(CloseCode, String),
    Control(String),
}

pub(super) fn id(link: u32) -> LinkId {
    LinkId::new(link).unwrap()
}

pub(super) fn attach(link: u32, role: LinkRole) -> Control<'static> {
    let credit = match role {
        LinkRole::Producer => LinkCredit::default(),
        LinkRole::Consumer | LinkRole::SettlingConsumer => LinkCredit { message_limit: 2, byte_limit: 100 },
    };
    Control::Attach(Attach {
        link: id(link),
        role,
        address: Address::Named(Name::new("queue").unwrap()),
        credit,
    })
}

pub(super) fn encoded(control: &Control<'_>) -> Vec<u8> {
    let mut record = vec![0; control.encoded_bytes()];
    control.encode_into(&mut record).unwrap();
    record
}

/// The head of a message in the normal lane.
pub(super) fn head(link: u32, sequence: u64, body_bytes: u32) -> MessageHead {
    let mut head = Message::new(MessageKind::Message, crate::pool::Body::new()).head;
    head.link = LinkId::new(link);
    head.lane_sequence = sequence;
    head.body_bytes = body_bytes;
    head.total_body_bytes = body_bytes.into();
    head
}

/// A message's record.
pub(super) fn whole(head: &MessageHead, body: &[u8]) -> Vec<u8> {
    let mut record = vec![0; head.head_bytes_needed(0)];
    let bytes = record.len();
    head.encode_into(&[], bytes, &mut record).unwrap();
    record.extend_from_slice(body);
    record.resize(record_aligned(record.len()), 0);
    record
}

/// A chunk's record, in the normal lane.
pub(super) fn chunk(link: u32, sequence: u64, offset: u64, last: bool, body: &[u8]) -> Vec<u8> {
    let head = ChunkHead {
        lane: Lane::Normal,
        last,
        body_bytes: body.len() as u32,
        link: LinkId::new(link),
        lane_sequence: sequence,
        body_offset: offset,
    };
    let mut record = vec![0; 32];
    head.encode_into(32, &mut record).unwrap();
    record.extend_from_slice(body);
    record.resize(record_aligned(record.len()), 0);
    record
}

pub(super) fn framed(header: &FrameHeader, records: &[Vec<u8>]) -> Vec<u8> {
    let mut frame = header.encode().to_vec();
    records.iter().for_each(|record| frame.extend_from_slice(record));
    frame.resize(header.frame_bytes() as usize, 0);
    frame
}
