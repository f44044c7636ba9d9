//! After warm-up, requests and replies between two ends of a session allocate nothing, credit, grants, and keeping what
//! is not acknowledged included.

#[path = "support/allocations.rs"]
mod allocations;

use allocations::ALLOCATIONS;
use std::sync::Arc;
use underlay::connection::{ConnectionConfig, ConnectionEvent, Identity, LinkRoom};
use underlay::message::Message;
use underlay::pool::{Body, GatherList, Pool, PoolConfig, Segment};
use underlay::proto::control::{Address, LinkRole};
use underlay::proto::hello::ProcessIdentity;
use underlay::proto::record::MessageKind;
use underlay::proto::text::Name;
use underlay::proto::{CorrelationId, Incarnation, LinkId, Origin, ProcessId, SessionId, SessionToken};
use underlay::session::{Common, Session, SessionConfig};
use underlay::time::Timestamp;

const ROOM: LinkRoom = LinkRoom { messages: 64, bytes: 4 << 20 };
/// The only connection of the session.
const PATH: usize = 0;
const NOW: Timestamp = Timestamp::from_nanoseconds(1);

struct End {
    connection: Session,
    pool: Pool,
    gather: GatherList,
    /// The next receive buffer ends after so many bytes, so that bodies are cut at changing places.
    receive_bytes: usize,
    link: Option<LinkId>,
    replies: u64,
    writables: u64,
}

impl End {
    fn new(connection: Session) -> Self {
        let config = PoolConfig { bytes_max: 64 << 20, slab_bytes: 1 << 20, huge_pages: false };
        Self {
            connection,
            pool: Pool::new(config).unwrap(),
            gather: GatherList::new(),
            receive_bytes: 5000,
            link: None,
            replies: 0,
            writables: 0,
        }
    }

    /// Takes every event; a request is answered with its own body.
    fn pull(&mut self) {
        let mut arrived = None;
        while let Some(event) = self.connection.poll_event(NOW, &mut self.pool, &mut arrived).unwrap() {
            match event {
                ConnectionEvent::Message => self.take(arrived.take().unwrap()),
                ConnectionEvent::Writable { .. } => self.writables += 1,
                ConnectionEvent::AttachRequested(request) => {
                    self.connection.accept_link(request.link, ROOM).unwrap();
                }
                ConnectionEvent::Attached { link } => self.link = Some(link),
                ConnectionEvent::Opened(_) => {}
                event => panic!("{event:?}"),
            }
        }
    }

    fn take(&mut self, message: Message) {
        if message.head.kind == MessageKind::Reply {
            assert_eq!(message.head.correlation_id, CorrelationId(self.replies));
            self.replies += 1;
            return;
        }
        let link = message.head.link.unwrap();
        let reply = Message::reply_to(&message.head, message.body);
        self.connection.send(reply, &mut self.pool).map_err(|(error, _)| error).unwrap();
        self.connection.set_link_room(link, ROOM).unwrap();
    }

    fn receive(&mut self, segment: Segment) {
        self.connection.handle_segment(PATH, segment, NOW);
        if self.connection.proposal(PATH).is_some() {
            self.connection.accept(PATH, SessionId::new([1; 16]).unwrap(), SessionToken([2; 32]));
        }
        self.pull();
    }

    /// What it sends, in receive buffers of the other end; true if there was anything.
    fn transmit(&mut self, to: &mut End) -> bool {
        if !self.connection.poll_transmit(PATH, NOW, &mut self.pool, &mut self.gather).unwrap() {
            return false;
        }
        to.receive_bytes = 5000 + (to.receive_bytes + 777) % 10_000;
        let mut buffer = to.pool.buffer(16_384).unwrap();
        for segment in self.gather.segments() {
            let mut rest = &**segment;
            while !rest.is_empty() {
                let room = to.receive_bytes - buffer.written().len();
                let taken = buffer.put_slice(&rest[..rest.len().min(room)]);
                rest = &rest[taken..];
                if buffer.written().len() == to.receive_bytes {
                    to.receive(buffer.split());
                    buffer = to.pool.buffer(16_384).unwrap();
                }
            }
        }
        if !buffer.written().is_empty() {
            to.receive(buffer.split());
        }
        self.gather.clear();
        self.connection.handle_sent(PATH);
        self.pull();
        true
    }
}

struct Pair {
    client: End,
    server: End,
    body: Body,
    requests: u64,
}

impl Pair {
    fn new(body_bytes: usize) -> Self {
        let identity = |number: u8| Identity {
            process: ProcessIdentity {
                process: ProcessId([number; 16]),
                incarnation: Incarnation(1),
                origin: Origin(number.into()),
            },
            name: String::new(),
        };
        let common = |number| {
            let (connection, session) = (ConnectionConfig::default(), SessionConfig::default());
            Arc::new(Common { connection, session, identity: identity(number) })
        };
        let mut client = Session::client(common(1), 1, 1, NOW);
        assert_eq!(client.channel_open(4096, NOW), Ok(Some(PATH)));
        let server = Session::server(common(2), 4096, NOW).unwrap();
        let (mut client, server) = (End::new(client), End::new(server));
        let body = client.pool.copy_body(&vec![7; body_bytes]).unwrap();
        let mut pair = Self { client, server, body, requests: 0 };
        pair.settle();
        let address = Address::Named(Name::new("queue").unwrap());
        pair.client.connection.attach(LinkRole::Producer, address, ROOM).unwrap();
        pair.settle();
        pair
    }

    fn settle(&mut self) {
        while self.client.transmit(&mut self.server) | self.server.transmit(&mut self.client) {}
    }

    /// So many requests at once, as far as there is credit, and their replies.
    fn round(&mut self, requests: u64) {
        let link = self.client.link;
        let last = self.requests + requests;
        while self.requests < last {
            while self.requests < last && self.client.connection.is_writable(link.unwrap()) {
                let body = self.body.share(&mut self.client.pool).unwrap();
                let mut request = Message::new(MessageKind::Request, body);
                request.head.link = link;
                request.head.correlation_id = CorrelationId(self.requests);
                self.client
                    .connection
                    .send(request, &mut self.client.pool)
                    .map_err(|(error, _)| error)
                    .unwrap();
                self.requests += 1;
            }
            self.settle();
        }
        assert_eq!(self.client.replies, self.requests);
    }
}

fn allocations_after_warm_up(body_bytes: usize, requests: u64) -> u64 {
    let mut pair = Pair::new(body_bytes);
    (0..60).for_each(|_| pair.round(requests));
    let before = ALLOCATIONS.get();
    (0..60).for_each(|_| pair.round(requests));
    ALLOCATIONS.get() - before
}

#[test]
fn one_request_at_a_time_allocates_nothing() {
    for body_bytes in [1, 1024, 16_384, 65_536] {
        assert_eq!(allocations_after_warm_up(body_bytes, 1), 0, "{body_bytes} bytes");
    }
}

/// More than the credit of their link at once, so that grants and waiting for them are measured, too.
#[test]
fn many_requests_at_once_allocate_nothing() {
    for body_bytes in [1, 1024, 16_384, 65_536] {
        assert_eq!(allocations_after_warm_up(body_bytes, 100), 0, "{body_bytes} bytes");
    }
}
