//! A broker and clients, each on a driver of its own, all turned by one thread.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::time::Duration;
use underlay::backend::WireKind;
use underlay::backend::inproc::InprocNetwork;
use underlay::backend::tcp::{EngineChoice, TcpConfig};
use underlay::connection::{AttachRequest, CloseReason, Deliveries, Identity, LinkRoom};
use underlay::driver::{
    Address, ConnectionId, Core, DetachedByPeer, Driver, DriverConfig, Handler, Leaving, Resumed,
};
use underlay::message::Message;
use underlay::pool::PoolConfig;
use underlay::proto::control::{Address as LinkAddress, LinkRole, Outcome};
use underlay::proto::handshake::Negotiated;
use underlay::proto::hello::ProcessIdentity;
use underlay::proto::record::MessageKind;
use underlay::proto::text::Name;
use underlay::proto::{Incarnation, LinkId, Origin, ProcessId, ReplySecret};
use underlay::session::SessionConfig;
use underlay_broker::config::{ConfigBuilder, ListenerSettings};
use underlay_broker::{Broker, BrokerStats, Config};

/// More than any test uses up.
pub(crate) const PLENTY: LinkRoom = LinkRoom { messages: 1 << 40, bytes: 1 << 50 };

/// A room in messages, with plenty of bytes.
pub(crate) fn room(messages: u64) -> LinkRoom {
    LinkRoom { messages, ..PLENTY }
}

/// What a client has been told.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) connection: Option<ConnectionId>,
    pub(crate) attached: Vec<LinkId>,
    pub(crate) detached: Vec<DetachedByPeer>,
    pub(crate) writable: Vec<LinkId>,
    pub(crate) received: Vec<Message>,
    pub(crate) received_count: u64,
    pub(crate) leaving: Vec<Leaving>,
    pub(crate) closed: Vec<CloseReason>,
    /// Over which wires its session has gone on.
    pub(crate) resumed: Vec<WireKind>,
    /// Answers requests with their own bodies.
    pub(crate) echoes: bool,
    /// Counts messages and lets go of them.
    pub(crate) drops: bool,
}

impl Handler for Client {
    fn opened(&mut self, _: &mut Core, connection: ConnectionId, _: &Negotiated) {
        self.connection = Some(connection);
    }

    fn attach_requested(&mut self, _: &mut Core, _: ConnectionId, request: AttachRequest) {
        panic!("the broker asks for no links, but for {request:?}");
    }

    fn attached(&mut self, _: &mut Core, _: ConnectionId, link: LinkId) {
        self.attached.push(link);
    }

    fn detached(&mut self, _: &mut Core, _: ConnectionId, detached: DetachedByPeer) {
        self.detached.push(detached);
    }

    fn message(&mut self, core: &mut Core, connection: ConnectionId, message: Message) {
        self.received_count += 1;
        if self.echoes && message.head.kind == MessageKind::Request {
            let Message { head, body, .. } = message;
            core.send(connection, Message::reply_to(&head, body)).unwrap();
        } else if !self.drops {
            self.received.push(message);
        }
    }

    fn writable(&mut self, _: &mut Core, _: ConnectionId, link: LinkId) {
        self.writable.push(link);
    }

    fn leaving(&mut self, _: &mut Core, _: ConnectionId, leaving: &Leaving) {
        self.leaving.push(leaving.clone());
    }

    fn resumed(&mut self, _: &mut Core, _: ConnectionId, resumed: &Resumed) {
        self.resumed.push(resumed.wire);
    }

    fn closed(&mut self, _: &mut Core, _: ConnectionId, reason: &CloseReason) {
        self.closed.push(reason.clone());
    }
}

pub(crate) fn identity(number: u8) -> Identity {
    let process = ProcessIdentity {
        process: ProcessId([number; 16]),
        incarnation: Incarnation(number.into()),
        origin: Origin(number.into()),
    };
    Identity { process, name: format!("test-{number}") }
}

/// A driver that costs little, without sessions: one that is dropped is gone at once.
pub(crate) fn client_config() -> DriverConfig {
    DriverConfig {
        session: SessionConfig::none(),
        pool: PoolConfig { bytes_max: 64 << 20, ..PoolConfig::edge() },
        tcp: TcpConfig { engine: EngineChoice::Epoll, ..TcpConfig::default() },
        ..DriverConfig::default()
    }
}

/// A driver with one connection.
pub(crate) struct ClientDriver {
    pub(crate) driver: Driver<Client>,
    pub(crate) connection: ConnectionId,
}

impl ClientDriver {
    pub(crate) fn connect(
        config: DriverConfig,
        number: u8,
        network: InprocNetwork,
        address: &Address,
    ) -> Self {
        let mut driver = Driver::on_network(config, identity(number), network, Client::default()).unwrap();
        let connection = driver.parts().0.connect(address).unwrap();
        Self { driver, connection }
    }

    pub(crate) fn state(&mut self) -> &mut Client {
        self.driver.parts().1
    }

    pub(crate) fn core(&mut self) -> &mut Core {
        self.driver.parts().0
    }

    pub(crate) fn ask(&mut self, role: LinkRole, name: &str, room: LinkRoom) -> LinkId {
        let (connection, address) = (self.connection, LinkAddress::Named(Name::new(name).unwrap()));
        self.core().attach(connection, role, address, room).unwrap()
    }

    pub(crate) fn ask_reply(&mut self, secret: &ReplySecret, room: LinkRoom) -> LinkId {
        let connection = self.connection;
        self.core().attach(connection, LinkRole::Consumer, LinkAddress::Reply(secret.clone()), room).unwrap()
    }

    /// Sends a message of this kind with this body; false without credit.
    pub(crate) fn send(&mut self, link: LinkId, kind: MessageKind, body: &[u8]) -> bool {
        let message = self.message(link, kind, body);
        self.send_message(message)
    }

    pub(crate) fn message(&mut self, link: LinkId, kind: MessageKind, body: &[u8]) -> Message {
        let body = self.core().pool().copy_body(body).unwrap();
        let mut message = Message::new(kind, body);
        message.head.link = Some(link);
        message
    }

    pub(crate) fn send_message(&mut self, message: Message) -> bool {
        let connection = self.connection;
        self.core().send(connection, message).is_ok()
    }

    /// Says what became of a message that arrived.
    pub(crate) fn settle(&mut self, message: &Message, outcome: Outcome) {
        self.settle_all(&Deliveries::of(message).unwrap(), outcome);
    }

    pub(crate) fn settle_all(&mut self, deliveries: &Deliveries, outcome: Outcome) {
        let connection = self.connection;
        self.core().settle(connection, deliveries, outcome).unwrap();
    }

    /// Ends at once, whatever was under way.
    pub(crate) fn kill(&mut self) {
        let connection = self.connection;
        self.core().abort(connection, CloseReason::ResourceLimit("killed by the test".to_owned()));
    }

    /// Sends until there is no credit left; says how many.
    pub(crate) fn send_all(&mut self, link: LinkId, body: &[u8], at_most: usize) -> usize {
        (0..at_most).take_while(|_| self.send(link, MessageKind::Message, body)).count()
    }

    /// Runs on the caller's thread until `is_done`; fails after a generous while.
    pub(crate) fn run_until(&mut self, mut is_done: impl FnMut(&mut Client) -> bool) {
        let done = self.driver.run_until(Some(PATIENCE), |_, client| is_done(client)).unwrap();
        let state = self.state();
        assert!(done, "it did not come to that: {:?} {:?}", state.closed, state.detached);
    }

    /// Attaches a link and waits for the grant.
    pub(crate) fn attach_and_wait(&mut self, role: LinkRole, name: &str, room: LinkRoom) -> LinkId {
        let link = self.ask(role, name, room);
        self.run_until(|client| client.attached.contains(&link));
        link
    }
}

/// Longer than anything takes on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A broker and its clients over `inproc`.
pub(crate) struct World {
    pub(crate) broker: Driver<Broker>,
    pub(crate) clients: Vec<ClientDriver>,
    network: InprocNetwork,
    address: Address,
}

impl World {
    pub(crate) fn new(builder: ConfigBuilder) -> Self {
        let config = builder.listener(ListenerSettings::inproc("broker")).build().unwrap();
        Self::of(&config)
    }

    pub(crate) fn of(config: &Config) -> Self {
        let network = InprocNetwork::new();
        let mut driver_config = config.driver_config();
        driver_config.tcp.engine = EngineChoice::Epoll;
        let broker = Broker::new(config);
        let mut broker = Driver::on_network(driver_config, identity(0), network.clone(), broker).unwrap();
        let address = Address::inproc("broker");
        let (core, handler) = broker.parts();
        let (listener, _) = core.listen(&address).unwrap();
        handler.owns_listener(address.clone(), listener);
        Self { broker, clients: Vec::new(), network, address }
    }

    /// Another client, connected.
    pub(crate) fn client(&mut self) -> usize {
        self.client_with(client_config())
    }

    pub(crate) fn client_with(&mut self, config: DriverConfig) -> usize {
        let number = self.clients.len() as u8 + 1;
        self.clients.push(ClientDriver::connect(config, number, self.network.clone(), &self.address));
        self.settle();
        assert!(self.clients.last_mut().unwrap().state().connection.is_some(), "it did not connect");
        self.clients.len() - 1
    }

    /// Turns everybody until nobody finds anything to do.
    pub(crate) fn settle(&mut self) {
        let (mut quiet, mut turns) = (0, 0);
        while quiet < 4 {
            let mut found = self.broker.turn().unwrap();
            for client in &mut self.clients {
                found |= client.driver.turn().unwrap();
            }
            quiet = if found { 0 } else { quiet + 1 };
            turns += 1;
            assert!(turns < 100_000, "it does not come to rest: {:?}", self.broker.stats());
        }
    }

    pub(crate) fn stats(&mut self) -> BrokerStats {
        self.broker.parts().1.stats()
    }

    pub(crate) fn attach(&mut self, client: usize, role: LinkRole, name: &str, room: LinkRoom) -> LinkId {
        let link = self.clients[client].ask(role, name, room);
        self.settle();
        assert!(
            self.state(client).attached.contains(&link),
            "'{name}' was refused: {:?}",
            self.state(client).detached
        );
        link
    }

    pub(crate) fn producer(&mut self, client: usize, name: &str) -> LinkId {
        self.attach(client, LinkRole::Producer, name, LinkRoom { messages: 0, bytes: 0 })
    }

    pub(crate) fn consumer(&mut self, client: usize, name: &str, room: LinkRoom) -> LinkId {
        self.attach(client, LinkRole::Consumer, name, room)
    }

    pub(crate) fn settling_consumer(&mut self, client: usize, name: &str, room: LinkRoom) -> LinkId {
        self.attach(client, LinkRole::SettlingConsumer, name, room)
    }

    /// Ends a client without a word.
    pub(crate) fn kill(&mut self, client: usize) {
        self.clients[client].kill();
        self.settle();
    }

    pub(crate) fn reply_address(&mut self, client: usize, secret: &ReplySecret, room: LinkRoom) -> LinkId {
        let link = self.clients[client].ask_reply(secret, room);
        self.settle();
        assert!(self.state(client).attached.contains(&link));
        link
    }

    pub(crate) fn grant(&mut self, client: usize, link: LinkId, room: LinkRoom) {
        let connection = self.clients[client].connection;
        self.clients[client].core().set_link_room(connection, link, room).unwrap();
        self.settle();
    }

    pub(crate) fn state(&mut self, client: usize) -> &mut Client {
        self.clients[client].state()
    }

    /// The bodies that a client has received, as texts; they are taken out.
    pub(crate) fn bodies(&mut self, client: usize) -> Vec<String> {
        let received = std::mem::take(&mut self.state(client).received);
        received.iter().map(|message| String::from_utf8(message.body.to_vec()).unwrap()).collect()
    }
}
