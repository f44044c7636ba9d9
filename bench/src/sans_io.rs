//! What a message takes between its application and its wire: two ends of a session that hand each other what they
//! would send, with no driver, no wire and no clock.
//!
//! The four functions that do the counted work (`End::queue`, `End::pack`, `End::take_in` and `End::find`) are
//! kept from being inlined, so that a profiler can be told to count while it is in one of them and at no other time:
//! `queue` and `pack` take a message to the gather list, `take_in` and `find` take received bytes to the message. What
//! lies between them, a copy in the place of the wire and the application's own work, is not counted. `ci/counts` runs
//! this under callgrind.

use std::sync::Arc;

use clap::Args;
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

use crate::error::BenchError;
use crate::plan::IN_FLIGHT_MAX;
use crate::underlay::failed;

/// The only connection of the session.
const PATH: usize = 0;
/// What the wire carries whole: the path MTU of most RDMA networks.
const PACKET_BYTES: u32 = 4096;
/// Time stands still: no timeout has any part in this.
const NOW: Timestamp = Timestamp::from_nanoseconds(1);
/// What the consumer of the requests grants, over and over.
const ROOM: LinkRoom = LinkRoom { messages: 256, bytes: 16 << 20 };

/// Options of `sans-io`.
#[derive(Debug, Clone, Args)]
pub struct SansIoOptions {
    /// Body size in bytes; k, KiB and MiB are understood.
    #[arg(long, value_name = "SIZE", value_parser = crate::cli::size, default_value = "64")]
    pub size: usize,
    /// Messages each way: so many are sent and received by each end.
    #[arg(long, value_name = "COUNT", default_value_t = 2000)]
    pub messages: u64,
    /// Messages that are handed over together, before anything is packed.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub in_flight: u32,
}

/// Sends the messages to and fro.
///
/// # Errors
/// An option beyond its limit, or a message that does not arrive.
pub fn run(options: &SansIoOptions) -> Result<(), BenchError> {
    if options.in_flight == 0 || u64::from(options.in_flight) > ROOM.messages.min(IN_FLIGHT_MAX.into()) {
        let limit = format!("there may be 1 to {}", ROOM.messages.min(IN_FLIGHT_MAX.into()));
        return Err(BenchError::refuse("in-flight", options.in_flight, limit, "leave it out for 1"));
    }
    let mut pair = Pair::open(options.size)?;
    let mut left = options.messages;
    while left > 0 {
        let batch = left.min(options.in_flight.into());
        pair.round_trip(batch)?;
        left -= batch;
    }
    Ok(())
}

/// One end, as a driver has it.
struct End {
    session: Session,
    pool: Pool,
    gather: GatherList,
    link: Option<LinkId>,
    /// What arrived and was not looked at by the application yet.
    arrived: Vec<Message>,
}

/// What one look for an event has found.
enum Found {
    Message,
    Other,
    Nothing,
}

impl End {
    fn new(session: Session) -> Result<Self, BenchError> {
        let pool = Pool::new(PoolConfig::edge()).map_err(wrong)?;
        Ok(Self { session, pool, gather: GatherList::new(), link: None, arrived: Vec::new() })
    }

    /// Hands a message over.
    #[inline(never)]
    fn queue(&mut self, message: Message) -> bool {
        self.session.send(message, &mut self.pool).is_ok()
    }

    /// Packs what was handed over into the gather list; false if there was nothing.
    #[inline(never)]
    fn pack(&mut self) -> bool {
        self.session.wants_transmit(PATH)
            && self.session.poll_transmit(PATH, NOW, &mut self.pool, &mut self.gather) == Ok(true)
    }

    /// Takes what a wire has received.
    #[inline(never)]
    fn take_in(&mut self, segment: Segment) {
        self.session.handle_segment(PATH, segment, NOW);
    }

    /// Looks for the next event.
    #[inline(never)]
    fn find(&mut self, arrived: &mut Option<Message>) -> Found {
        match self.session.poll_event(NOW, &mut self.pool, arrived) {
            Ok(Some(ConnectionEvent::Message)) => Found::Message,
            Ok(Some(event)) => self.connection_event(event),
            Ok(None) | Err(_) => Found::Nothing,
        }
    }

    #[inline(never)]
    fn connection_event(&mut self, event: ConnectionEvent) -> Found {
        match event {
            ConnectionEvent::AttachRequested(request) => {
                // A refusal shows: no link is ever attached then.
                let _ = self.session.accept_link(request.link, ROOM);
                self.link = Some(request.link);
            }
            ConnectionEvent::Attached { link } => self.link = Some(link),
            _ => {}
        }
        Found::Other
    }

    /// What it sends arrives at the other end, in one segment; false if there was nothing to send.
    fn transmit(&mut self, to: &mut End) -> Result<bool, BenchError> {
        if !self.pack() {
            return Ok(false);
        }
        let mut buffer = to.pool.buffer(self.gather.len()).map_err(wrong)?;
        for segment in self.gather.segments() {
            buffer.put_slice(segment);
        }
        self.gather.clear();
        self.session.handle_sent(PATH);
        to.take_in(buffer.split());
        if to.session.proposal(PATH).is_some() {
            let terms = (SessionId::new([1; 16]), SessionToken([2; 32]));
            if let (Some(session), token) = terms {
                to.session.accept(PATH, session, token);
            }
        }
        to.pull();
        if self.session.has_events() {
            self.pull();
        }
        Ok(true)
    }

    fn pull(&mut self) {
        loop {
            let mut arrived = None;
            match self.find(&mut arrived) {
                Found::Message => self.arrived.extend(arrived),
                Found::Other => {}
                Found::Nothing => return,
            }
        }
    }
}

struct Pair {
    client: End,
    server: End,
    body: Body,
    requests: u64,
}

impl Pair {
    fn open(body_bytes: usize) -> Result<Self, BenchError> {
        let mut client = Session::client(common(1), 1, 1, NOW);
        client.channel_open(PACKET_BYTES, NOW).map_err(wrong)?;
        let server = Session::server(common(2), PACKET_BYTES, NOW).map_err(wrong)?;
        let (mut client, server) = (End::new(client)?, End::new(server)?);
        let body = client.pool.copy_body(&vec![7; body_bytes]).map_err(wrong)?;
        let mut pair = Self { client, server, body, requests: 0 };
        pair.settle()?;
        let name = Name::new("queue").map_err(wrong)?;
        pair.client.session.attach(LinkRole::Producer, Address::Named(name), ROOM).map_err(wrong)?;
        pair.settle()?;
        Ok(pair)
    }

    fn settle(&mut self) -> Result<(), BenchError> {
        while self.client.transmit(&mut self.server)? | self.server.transmit(&mut self.client)? {}
        Ok(())
    }

    /// So many requests, which leave together, and then their replies.
    fn round_trip(&mut self, requests: u64) -> Result<(), BenchError> {
        for number in self.requests..self.requests + requests {
            let body = self.body.share(&mut self.client.pool).map_err(wrong)?;
            let mut request = Message::new(MessageKind::Request, body);
            request.head.link = self.client.link;
            request.head.correlation_id = CorrelationId(number);
            if !self.client.queue(request) {
                return Err(wrong("a request was not taken"));
            }
        }
        while self.client.transmit(&mut self.server)? {}
        self.answer()?;
        while self.server.transmit(&mut self.client)? {}
        let expected = self.requests..self.requests + requests;
        let got = self.client.arrived.drain(..).map(|reply| reply.head.correlation_id.0);
        if !got.eq(expected) {
            return Err(wrong("a reply is missing"));
        }
        self.requests += requests;
        Ok(())
    }

    fn answer(&mut self) -> Result<(), BenchError> {
        let mut requests = std::mem::take(&mut self.server.arrived);
        for request in requests.drain(..) {
            if !self.server.queue(Message::reply_to(&request.head, request.body)) {
                return Err(wrong("a reply was not taken"));
            }
        }
        self.server.arrived = requests;
        if let Some(link) = self.server.link {
            self.server.session.set_link_room(link, ROOM).map_err(wrong)?;
        }
        Ok(())
    }
}

fn common(number: u8) -> Arc<Common> {
    let process = ProcessIdentity {
        process: ProcessId([number; 16]),
        incarnation: Incarnation(1),
        origin: Origin(number.into()),
    };
    let identity = Identity { process, name: String::new() };
    Arc::new(Common { connection: ConnectionConfig::default(), session: SessionConfig::default(), identity })
}

fn wrong(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BenchError {
    failed("session")(error.into())
}
