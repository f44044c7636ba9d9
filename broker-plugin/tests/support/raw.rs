//! A peer that does what it likes: a plain socket, and a connection's state machine as far as it behaves.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use crate::support::{PATIENCE, client_config, identity};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};
use underlay::connection::{ConnectionEvent, LinkRoom};
use underlay::message::Message;
use underlay::pool::{GatherList, Pool, PoolConfig};
use underlay::proto::control::{Address, LinkRole};
use underlay::proto::frame::{FrameHeader, FrameKind};
use underlay::proto::record::{MessageHead, MessageKind};
use underlay::proto::text::Name;
use underlay::proto::{Lane, LinkId, Stream};
use underlay::session::{Common, Session, SessionConfig};
use underlay::time::Clock;

/// The only connection of these peers' sessions.
const PATH: usize = 0;

/// A session that ends with its one connection.
fn session(clock: &Clock) -> Session {
    let (connection, session) = (client_config().connection, SessionConfig::none());
    let common = Common { connection, session, identity: identity(9) };
    let mut session = Session::client(Arc::new(common), 1, 1, clock.now());
    assert_eq!(session.channel_open(65_536, clock.now()), Ok(Some(PATH)));
    session
}

/// A peer with a hand of its own.
pub(crate) struct RawPeer {
    pub(crate) stream: TcpStream,
    pub(crate) connection: Session,
    pub(crate) pool: Pool,
    gather: GatherList,
    clock: Clock,
}

/// A socket to the broker.
pub(crate) fn socket(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// The hello that a client of these tests sends.
pub(crate) fn hello() -> Vec<u8> {
    let clock = Clock::new();
    let mut pool = Pool::new(PoolConfig::edge()).unwrap();
    let mut connection = session(&clock);
    let mut gather = GatherList::new();
    connection.poll_transmit(PATH, clock.now(), &mut pool, &mut gather).unwrap();
    gather.segments().iter().flat_map(|segment| segment.iter().copied()).collect()
}

/// Reads until the broker ends the connection; what it said last.
pub(crate) fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let (mut said, mut buffer, end) = (Vec::new(), [0; 4096], Instant::now() + PATIENCE);
    loop {
        assert!(Instant::now() < end, "the broker goes on with it");
        match stream.read(&mut buffer) {
            Ok(0) => return said,
            Ok(bytes) => said.extend_from_slice(&buffer[..bytes]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return said,
            Err(error) => panic!("{error}"),
        }
    }
}

impl RawPeer {
    /// Connects and shakes hands.
    pub(crate) fn connect(address: &str) -> Self {
        let clock = Clock::new();
        let connection = session(&clock);
        let pool = Pool::new(PoolConfig::edge()).unwrap();
        let mut peer = Self { stream: socket(address), connection, pool, gather: GatherList::new(), clock };
        peer.until(|event| matches!(event, ConnectionEvent::Opened(_)));
        peer
    }

    /// Attaches as a producer, and waits for the credit.
    pub(crate) fn produce(&mut self, name: &str) -> LinkId {
        self.attach(LinkRole::Producer, name)
    }

    /// Attaches as a consumer that settles, and wants nothing yet.
    pub(crate) fn consume(&mut self, name: &str) -> LinkId {
        self.attach(LinkRole::SettlingConsumer, name)
    }

    fn attach(&mut self, role: LinkRole, name: &str) -> LinkId {
        let address = Address::Named(Name::new(name).unwrap());
        let none = LinkRoom { messages: 0, bytes: 0 };
        let link = self.connection.attach(role, address, none).unwrap();
        self.until(|event| matches!(event, ConnectionEvent::Attached { .. }));
        link
    }

    /// Sends what the connection has to send.
    pub(crate) fn flush(&mut self) -> bool {
        loop {
            let now = self.clock.now();
            self.connection.poll_transmit(PATH, now, &mut self.pool, &mut self.gather).unwrap();
            if self.gather.is_empty() {
                return true;
            }
            for segment in self.gather.drain() {
                if self.stream.write_all(&segment).is_err() {
                    return false;
                }
            }
            self.connection.handle_sent(PATH);
        }
    }

    /// Flushes and reads until an event is as wanted.
    pub(crate) fn until(&mut self, wanted: impl Fn(&ConnectionEvent) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.flush();
            let now = self.clock.now();
            while let Some(event) = self.connection.poll_event(now, &mut self.pool, &mut None).unwrap() {
                if wanted(&event) {
                    self.flush();
                    return;
                }
            }
            assert!(Instant::now() < end, "that does not happen");
            self.read();
        }
    }

    fn read(&mut self) {
        let mut bytes = [0; 4096];
        let count = self.stream.read(&mut bytes).unwrap();
        assert!(count > 0, "the broker has closed the connection");
        let mut buffer = self.pool.buffer(count).unwrap();
        buffer.put_slice(&bytes[..count]);
        self.connection.handle_segment(PATH, buffer.split(), self.clock.now());
    }

    /// A frame with the number that is due, and whatever records.
    pub(crate) fn frame(&self, after: u32, records: u16, bytes: &[u8]) -> Vec<u8> {
        let header = FrameHeader {
            kind: FrameKind::Data,
            ack_stream: Stream::Lane(Lane::Urgent),
            records,
            frame_number_low: self.connection.packing_stats().frames as u32 + after,
            frame_limit_low: 0,
            chunk_limit_low: 0,
            record_bytes: bytes.len() as u32,
            ack_sequence: 0,
        };
        let mut frame = header.encode().to_vec();
        frame.extend_from_slice(bytes);
        frame.resize(header.frame_bytes() as usize, 0);
        frame
    }
}

/// A record of a message without a body, in whatever state.
pub(crate) fn record(link: LinkId, lane_sequence: u64, extensions: &[u8]) -> Vec<u8> {
    let mut head: MessageHead = Message::new(MessageKind::Message, Default::default()).head;
    head.link = Some(link);
    head.lane_sequence = lane_sequence;
    let mut out = vec![0; head.head_bytes_needed(extensions.len())];
    let bytes = out.len();
    head.encode_into(extensions, bytes, &mut out).unwrap();
    out
}

/// Writes one byte after another, with pauses, until the broker has had enough.
pub(crate) fn drip(stream: &mut TcpStream, bytes: &[u8], pause: Duration) {
    let end = Instant::now() + PATIENCE;
    for byte in bytes.iter().cycle() {
        assert!(Instant::now() < end, "the broker takes one byte after another");
        if stream.write_all(&[*byte]).is_err() {
            return;
        }
        std::thread::sleep(pause);
    }
}
