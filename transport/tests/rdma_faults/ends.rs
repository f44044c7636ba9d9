//! One end: a driver's handler that sends numbered messages, or checks them.

use crate::ledger::Ledger;
use std::time::Duration;
use underlay::connection::{AttachRequest, CloseReason, ConnectionConfig, Identity, LinkRoom};
use underlay::driver::{ConnectionId, Core, DetachedByPeer, Driver, DriverConfig, Handler, Resumed};
use underlay::message::Message;
use underlay::pool::PoolConfig;
use underlay::proto::Parameters;
use underlay::proto::control::{Address as LinkAddress, LinkRole};
use underlay::proto::handshake::Negotiated;
use underlay::proto::hello::ProcessIdentity;
use underlay::proto::record::MessageKind;
use underlay::proto::text::Name;
use underlay::proto::{Incarnation, Lane, LinkId, Origin, ProcessId};
use underlay::session::SessionConfig;

/// So long may a peer say nothing.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// What the receiving end grants at a time.
const ROOM: LinkRoom = LinkRoom { messages: 2048, bytes: 4 << 20 };

/// The drivers of these tests: small pools, and a send that finds no receive request breaks a test instead of hiding.
pub(crate) fn config() -> DriverConfig {
    let parameters = Parameters {
        keep_alive_ms: 500,
        idle_timeout_ms: IDLE_TIMEOUT.as_millis() as u32,
        ..Parameters::default()
    };
    let mut config = DriverConfig {
        pool: PoolConfig { bytes_max: 64 << 20, slab_bytes: 1 << 20, huge_pages: false },
        connection: ConnectionConfig { parameters, ..ConnectionConfig::default() },
        session: SessionConfig {
            expiry: Duration::from_secs(60),
            reconnect_spread: Duration::from_millis(20),
            reconnect_max: Duration::from_millis(400),
            attempt_timeout: Duration::from_secs(3),
            return_after: Duration::from_millis(500),
            ..SessionConfig::default()
        },
        ..DriverConfig::default()
    };
    config.rdma.receiver_not_ready_retry_count = 0;
    config.rdma.receive_slots_max = 256;
    config
}

pub(crate) fn driver(number: u8, config: DriverConfig) -> Driver<End> {
    let process = ProcessIdentity {
        process: ProcessId([number; 16]),
        incarnation: Incarnation(1),
        origin: Origin(number.into()),
    };
    let identity = Identity { process, name: format!("end-{number}") };
    Driver::new(config, identity, End { is_sender: number == 1, ..End::default() }).expect("a driver")
}

/// What one end has, and what it has seen.
#[derive(Debug, Default)]
pub(crate) struct End {
    is_sender: bool,
    pub(crate) connection: Option<ConnectionId>,
    pub(crate) link: Option<LinkId>,
    /// By lane, the number of the next message in it, divided by the lanes.
    next: [u64; 3],
    pub(crate) ledger: Ledger,
    /// Sessions that ended, and why.
    pub(crate) closed: Vec<CloseReason>,
    /// Is told of each message that has arrived.
    pub(crate) on_arrival: Option<Arrival>,
}

/// What is done with the number of a message that has arrived.
pub(crate) struct Arrival(pub(crate) Box<dyn FnMut(u64)>);

impl std::fmt::Debug for Arrival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Arrival")
    }
}

impl End {
    /// A message of this number, if the link has room for it.
    pub(crate) fn send(&self, core: &mut Core, number: u64) -> bool {
        let (Some(connection), Some(link)) = (self.connection, self.link) else { return false };
        if !core.is_writable(connection, link) {
            return false;
        }
        let Ok(body) = core.pool().copy_body(&body(number)) else { return false };
        let mut message = Message::new(MessageKind::Message, body);
        message.head.link = Some(link);
        message.head.lane = Lane::ALL[(number % 3) as usize];
        message.head.correlation_id.0 = number;
        core.send(connection, message).is_ok()
    }
}

/// Of many lengths: most are packed, some travel alone, and some are read by the receiver.
fn body(number: u64) -> Vec<u8> {
    let bytes = match number % 100 {
        0 => 100_000,
        1..5 => 10_000,
        _ => 40,
    };
    vec![number as u8; bytes]
}

impl Handler for End {
    fn opened(&mut self, core: &mut Core, connection: ConnectionId, _: &Negotiated) {
        self.connection = Some(connection);
        if self.is_sender {
            let address = LinkAddress::Named(Name::new("numbers").expect("a name"));
            let none = LinkRoom { messages: 0, bytes: 0 };
            core.attach(connection, LinkRole::Producer, address, none).expect("links are free");
        }
    }

    fn attach_requested(&mut self, core: &mut Core, connection: ConnectionId, request: AttachRequest) {
        core.accept_link(connection, request.link, ROOM).expect("the link was asked for");
    }

    fn attached(&mut self, _: &mut Core, _: ConnectionId, link: LinkId) {
        self.link = Some(link);
    }

    fn detached(&mut self, _: &mut Core, _: ConnectionId, detached: DetachedByPeer) {
        panic!("{detached:?}");
    }

    fn message(&mut self, core: &mut Core, connection: ConnectionId, message: Message) {
        let (number, lane) = (message.head.correlation_id.0, message.head.lane.index());
        let expected = std::mem::replace(&mut self.next[lane], number / 3 + 1);
        let bytes: usize = message.body.segments().map(|segment| segment.len()).sum();
        let is_whole = bytes == body(number).len()
            && message.body.segments().all(|segment| segment.iter().all(|&byte| byte == number as u8));
        match (number / 3).cmp(&expected) {
            std::cmp::Ordering::Less => self.ledger.repeated += 1,
            std::cmp::Ordering::Greater => self.ledger.out_of_order += 1,
            std::cmp::Ordering::Equal if !is_whole => self.ledger.damaged += 1,
            std::cmp::Ordering::Equal => self.ledger.arrived += 1,
        }
        if let Some(Arrival(arrived)) = &mut self.on_arrival {
            arrived(number);
        }
        let link = message.head.link.expect("it came by a link");
        core.set_link_room(connection, link, ROOM).expect("the link is there");
    }

    fn writable(&mut self, _: &mut Core, _: ConnectionId, _: LinkId) {}

    fn interrupted(&mut self, _: &mut Core, _: ConnectionId, reason: &CloseReason) {
        *self.ledger.losses.entry(format!("{}: {reason}", reason.name())).or_default() += 1;
    }

    fn resumed(&mut self, _: &mut Core, _: ConnectionId, resumed: &Resumed) {
        self.ledger.wires.push(resumed.wire.to_string());
    }

    fn closed(&mut self, _: &mut Core, _: ConnectionId, reason: &CloseReason) {
        self.closed.push(reason.clone());
    }
}
