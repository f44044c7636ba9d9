//! Two drivers on one thread: one that sends numbered messages, and one that checks them.

use std::time::{Duration, Instant};
use underlay::backend::WireKind;
use underlay::backend::inproc::InprocNetwork;
use underlay::backend::tcp::{EngineChoice, TcpConfig};
use underlay::connection::{AttachRequest, CloseReason, Identity, LinkRoom};
use underlay::driver::{
    Address, ConnectionId, Core, DetachedByPeer, Driver, DriverConfig, DriverError, Handler, Resumed,
};
use underlay::message::Message;
use underlay::pool::PoolConfig;
use underlay::proto::control::{Address as LinkAddress, CloseCode, LinkRole};
use underlay::proto::handshake::Negotiated;
use underlay::proto::hello::ProcessIdentity;
use underlay::proto::record::MessageKind;
use underlay::proto::text::Name;
use underlay::proto::{Incarnation, Lane, LinkId, Origin, ProcessId};
use underlay::session::SessionConfig;

/// So long everything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the receiving end grants at a time: less than what is sent, so that credit goes round, too.
const ROOM: LinkRoom = LinkRoom { messages: 64, bytes: 1 << 20 };

pub(crate) fn drivers_config(engine: EngineChoice) -> DriverConfig {
    DriverConfig {
        pool: PoolConfig { bytes_max: 64 << 20, slab_bytes: 1 << 20, huge_pages: false },
        tcp: TcpConfig { engine, ..TcpConfig::default() },
        session: SessionConfig {
            reconnect_spread: Duration::from_millis(5),
            reconnect_min: Duration::from_millis(5),
            reconnect_max: Duration::from_millis(50),
            return_after: Duration::from_millis(100),
            ..SessionConfig::default()
        },
        ..DriverConfig::default()
    }
}

/// Whether this machine has an engine.
pub(crate) fn can_open(engine: EngineChoice) -> Result<(), DriverError> {
    Driver::new(drivers_config(engine), identity(0), End::default()).map(drop)
}

fn identity(number: u8) -> Identity {
    let process = ProcessIdentity {
        process: ProcessId([number; 16]),
        incarnation: Incarnation(1),
        origin: Origin(number.into()),
    };
    Identity { process, name: format!("end-{number}") }
}

/// What one end has seen.
#[derive(Debug, Default)]
struct End {
    connection: Option<ConnectionId>,
    link: Option<LinkId>,
    /// Numbers of messages that arrived, by lane the next.
    arrived: u64,
    next: [u64; 3],
    moves: Vec<WireKind>,
    interruptions: u64,
    closed: Option<&'static str>,
    sends: bool,
}

pub(crate) struct Pair {
    sender: Driver<End>,
    receiver: Driver<End>,
    sent: u64,
}

impl Pair {
    pub(crate) fn new(config: DriverConfig) -> Self {
        let network = InprocNetwork::new();
        let [sender, receiver] = [1, 2].map(|number| {
            let end = End { sends: number == 1, ..End::default() };
            Driver::on_network(config.clone(), identity(number), network.clone(), end).unwrap()
        });
        Self { sender, receiver, sent: 0 }
    }

    pub(crate) fn listen(&mut self, address: &Address) -> Address {
        self.receiver.parts().0.listen(address).unwrap().1
    }

    pub(crate) fn connect(&mut self, addresses: &[Address]) {
        let (core, end) = self.sender.parts();
        end.connection = Some(core.connect_by(addresses).unwrap());
        self.until("the link is there", |pair| pair.sender.parts().1.link.is_some());
    }

    pub(crate) fn move_to(&mut self, address: &Address) {
        let (core, end) = self.sender.parts();
        assert!(core.move_to(end.connection.unwrap(), address).unwrap(), "it cannot move now");
    }

    /// Sends messages up to this number, of all lanes and lengths.
    pub(crate) fn send_up_to(&mut self, count: u64) {
        let end = Instant::now() + PATIENCE;
        while self.sent < count {
            assert!(Instant::now() < end, "only {} of {count} messages could be sent", self.sent);
            let (core, end) = self.sender.parts();
            let (connection, link) = (end.connection.unwrap(), end.link.unwrap());
            let message = message(core, link, self.sent);
            match core.send(connection, message) {
                Ok(()) => self.sent += 1,
                Err(_) => self.turn(),
            }
        }
    }

    pub(crate) fn turn(&mut self) {
        self.sender.turn().unwrap();
        self.receiver.turn().unwrap();
    }

    pub(crate) fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so(self) {
            let (sender, receiver) = (self.sender.parts().1, self.receiver.parts().1);
            assert!(Instant::now() < end, "not so: {what}; {sender:?} {receiver:?}");
            self.turn();
            std::thread::yield_now();
        }
    }

    /// Everything that was sent has arrived, each once and in the order of its lane, which is checked as it comes; and
    /// nothing is kept any more.
    pub(crate) fn until_all_arrived(&mut self) {
        let sent = self.sent;
        self.until("all have arrived", |pair| pair.receiver.parts().1.arrived == sent);
        self.until("all are acknowledged", |pair| {
            let (core, end) = pair.sender.parts();
            core.unacknowledged(end.connection.unwrap()) == 0
        });
    }

    /// Over which wires the sender's session has gone on, one after the other.
    pub(crate) fn moves(&mut self) -> Vec<WireKind> {
        self.sender.parts().1.moves.clone()
    }

    pub(crate) fn interruptions(&mut self) -> u64 {
        self.sender.parts().1.interruptions
    }

    /// Why each end was told that it is over.
    pub(crate) fn closed(&mut self) -> Vec<&'static str> {
        [&mut self.sender, &mut self.receiver]
            .into_iter()
            .filter_map(|driver| driver.parts().1.closed)
            .collect()
    }

    /// Ends it in order, and sees that nothing is left.
    pub(crate) fn close(mut self) {
        let (core, end) = self.sender.parts();
        core.close(end.connection.unwrap(), CloseCode::Normal, "done");
        self.until("both ends are closed", |pair| pair.closed() == ["local", "peer"]);
        self.until("no connection is left", |pair| {
            pair.sender.stats().connections + pair.receiver.stats().connections == 0
        });
    }
}

/// A message whose number its correlation is, and whose body tells whether it was changed.
fn message(core: &mut Core, link: LinkId, number: u64) -> Message {
    let bytes = match number % 50 {
        0 => 200_000,
        1..5 => 10_000,
        _ => 40,
    };
    let body = core.pool().copy_body(&vec![number as u8; bytes]).unwrap();
    let mut message = Message::new(MessageKind::Message, body);
    message.head.link = Some(link);
    message.head.lane = Lane::ALL[(number % 3) as usize];
    message.head.correlation_id.0 = number;
    message
}

impl Handler for End {
    fn opened(&mut self, core: &mut Core, connection: ConnectionId, _: &Negotiated) {
        self.connection = Some(connection);
        if self.sends {
            let address = LinkAddress::Named(Name::new("numbers").unwrap());
            let none = LinkRoom { messages: 0, bytes: 0 };
            core.attach(connection, LinkRole::Producer, address, none).unwrap();
        }
    }

    fn attach_requested(&mut self, core: &mut Core, connection: ConnectionId, request: AttachRequest) {
        core.accept_link(connection, request.link, ROOM).unwrap();
    }

    fn attached(&mut self, _: &mut Core, _: ConnectionId, link: LinkId) {
        self.link = Some(link);
    }

    fn detached(&mut self, _: &mut Core, _: ConnectionId, detached: DetachedByPeer) {
        panic!("{detached:?}");
    }

    fn message(&mut self, core: &mut Core, connection: ConnectionId, message: Message) {
        let (number, lane) = (message.head.correlation_id.0, message.head.lane.index());
        assert_eq!(number / 3, self.next[lane], "each message of a lane once, and in order");
        assert!(message.body.segments().all(|segment| segment.iter().all(|&byte| byte == number as u8)));
        self.next[lane] += 1;
        self.arrived += 1;
        core.set_link_room(connection, message.head.link.unwrap(), ROOM).unwrap();
    }

    fn writable(&mut self, _: &mut Core, _: ConnectionId, _: LinkId) {}

    fn interrupted(&mut self, _: &mut Core, _: ConnectionId, _: &CloseReason) {
        self.interruptions += 1;
    }

    fn resumed(&mut self, _: &mut Core, _: ConnectionId, resumed: &Resumed) {
        self.moves.push(resumed.wire);
    }

    fn closed(&mut self, _: &mut Core, connection: ConnectionId, reason: &CloseReason) {
        if self.connection == Some(connection) {
            self.closed = Some(reason.name());
        }
    }
}
