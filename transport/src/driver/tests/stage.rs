//! Drivers whose handlers write down what happens, and do what a test tells them to.

use crate::backend::inproc::InprocNetwork;
use crate::connection::{AttachRequest, CloseReason, Identity, LinkRoom, SendError};
use crate::driver::{Address, ConnectionId, Core, DetachedByPeer, Driver, DriverConfig, Handler};
use crate::message::Message;
use crate::pool::PoolConfig;
use crate::proto::control::{Address as LinkAddress, LinkRole};
use crate::proto::handshake::Negotiated;
use crate::proto::hello::ProcessIdentity;
use crate::proto::record::MessageKind;
use crate::proto::text::Name;
use crate::proto::{Incarnation, LinkId, Origin, ProcessId};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Longer than anything here should take, on the busiest machine.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

pub(super) const AMPLE: LinkRoom = LinkRoom { messages: 1 << 30, bytes: 1 << 40 };

/// What a handler does with a message, beside writing it down.
pub(super) type React = Box<dyn FnMut(&mut Core, ConnectionId, Message) -> Option<Message>>;

/// Writes everything down.
pub(super) struct Recorder {
    pub(super) said: Vec<String>,
    pub(super) opened: Vec<ConnectionId>,
    pub(super) attached: Vec<(ConnectionId, LinkId)>,
    pub(super) requested: Vec<(ConnectionId, LinkId)>,
    pub(super) messages: VecDeque<(ConnectionId, Message)>,
    pub(super) closed: Vec<(ConnectionId, CloseReason)>,
    /// Granted to every link that is asked for, at first.
    pub(super) room: LinkRoom,
    /// Hands back what is to be kept.
    pub(super) react: React,
}

impl Recorder {
    pub(super) fn new() -> Self {
        Self {
            said: Vec::new(),
            opened: Vec::new(),
            attached: Vec::new(),
            requested: Vec::new(),
            messages: VecDeque::new(),
            closed: Vec::new(),
            room: AMPLE,
            react: Box::new(|_, _, message| Some(message)),
        }
    }

    fn say(&mut self, connection: ConnectionId, what: impl AsRef<str>) {
        assert!(
            !self.closed.iter().any(|(closed, _)| *closed == connection),
            "{} after the end of {connection}",
            what.as_ref()
        );
        self.said.push(what.as_ref().to_owned());
    }
}

impl Handler for Recorder {
    fn opened(&mut self, _: &mut Core, connection: ConnectionId, _: &Negotiated) {
        self.say(connection, "opened");
        self.opened.push(connection);
    }

    fn attach_requested(&mut self, core: &mut Core, connection: ConnectionId, request: AttachRequest) {
        self.say(connection, "requested");
        core.accept_link(connection, request.link, self.room).unwrap();
        self.requested.push((connection, request.link));
    }

    fn attached(&mut self, _: &mut Core, connection: ConnectionId, link: LinkId) {
        self.say(connection, "attached");
        self.attached.push((connection, link));
    }

    fn detached(&mut self, _: &mut Core, connection: ConnectionId, _: DetachedByPeer) {
        self.say(connection, "detached");
    }

    fn message(&mut self, core: &mut Core, connection: ConnectionId, message: Message) {
        self.say(connection, "message");
        if let Some(message) = (self.react)(core, connection, message) {
            self.messages.push_back((connection, message));
        }
    }

    fn writable(&mut self, _: &mut Core, connection: ConnectionId, _: LinkId) {
        self.say(connection, "writable");
    }

    fn closed(&mut self, _: &mut Core, connection: ConnectionId, reason: &CloseReason) {
        self.say(connection, format!("closed: {}", reason.name()));
        self.closed.push((connection, reason.clone()));
    }

    fn timer(&mut self, _: &mut Core, key: usize) {
        self.said.push(format!("timer {key}"));
    }
}

/// Drivers on one network, turned by turns.
pub(super) struct Stage {
    network: InprocNetwork,
    pub(super) drivers: Vec<Driver<Recorder>>,
}

impl Stage {
    pub(super) fn new() -> Self {
        Self { network: InprocNetwork::new(), drivers: Vec::new() }
    }

    /// With drivers of this configuration; each listens at its number.
    pub(super) fn with<const COUNT: usize>(configs: [DriverConfig; COUNT]) -> Self {
        let mut stage = Self::new();
        configs.into_iter().for_each(|config| stage.add(config));
        stage
    }

    pub(super) fn add(&mut self, config: DriverConfig) {
        let number = self.drivers.len() as u8;
        let process = ProcessIdentity {
            process: ProcessId([number + 1; 16]),
            incarnation: Incarnation(1),
            origin: Origin(number.into()),
        };
        let identity = Identity { process, name: format!("driver-{number}") };
        let network = self.network.clone();
        let mut driver = Driver::on_network(config, identity, network, Recorder::new()).unwrap();
        driver.parts().0.listen(&Self::place(number.into())).unwrap();
        self.drivers.push(driver);
    }

    pub(super) fn place(number: usize) -> Address {
        Address::inproc(format!("driver-{number}"))
    }

    pub(super) fn core(&mut self, number: usize) -> &mut Core {
        self.drivers[number].parts().0
    }

    pub(super) fn recorder(&mut self, number: usize) -> &mut Recorder {
        self.drivers[number].parts().1
    }

    /// Turns each driver once.
    pub(super) fn turn(&mut self) {
        for driver in &mut self.drivers {
            driver.turn().unwrap();
        }
    }

    /// Turns all drivers until `is_done`.
    pub(super) fn until(&mut self, mut is_done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !is_done(self) {
            self.turn();
            assert!(
                start.elapsed() < LIMIT,
                "it never came to that: {:?}",
                self.drivers.iter_mut().map(|driver| driver.parts().1.said.clone()).collect::<Vec<_>>()
            );
        }
    }

    /// Turns all drivers until none finds anything to do.
    pub(super) fn settle(&mut self) {
        let mut idle = 0;
        self.until(|stage| {
            let found =
                stage.drivers.iter_mut().filter_map(|driver| driver.turn().unwrap().then_some(())).count();
            idle = if found > 0 { 0 } else { idle + 1 };
            idle == 5
        });
    }

    /// Connects one driver to another.
    pub(super) fn connect(&mut self, from: usize, to: usize) -> ConnectionId {
        let before = self.recorder(to).opened.len();
        let id = self.core(from).connect(&Self::place(to)).unwrap();
        self.until(|stage| {
            stage.recorder(to).opened.len() > before && stage.recorder(from).opened.contains(&id)
        });
        id
    }

    /// A link on which `from` sends.
    pub(super) fn link(&mut self, from: usize, connection: ConnectionId) -> LinkId {
        let name = LinkAddress::Named(Name::new("queue").unwrap());
        let link = self.core(from).attach(connection, LinkRole::Producer, name, AMPLE).unwrap();
        self.until(|stage| stage.recorder(from).attached.contains(&(connection, link)));
        link
    }

    pub(super) fn send(
        &mut self,
        from: usize,
        connection: ConnectionId,
        link: Option<LinkId>,
        body: &[u8],
    ) -> Result<(), SendError> {
        let core = self.core(from);
        let kind = if link.is_some() { MessageKind::Message } else { MessageKind::Reply };
        let mut message = Message::new(kind, core.pool().copy_body(body).unwrap());
        message.head.link = link;
        core.send(connection, message).map_err(|(error, _)| error)
    }
}

/// With a small pool and without the memory that TCP's receive buffers take.
pub(super) fn config() -> DriverConfig {
    let mut config = DriverConfig::default();
    config.tcp.engine = crate::backend::tcp::EngineChoice::Epoll;
    config.pool = PoolConfig { bytes_max: 32 << 20, slab_bytes: 256 << 10, huge_pages: false };
    config
}

pub(super) fn content(tag: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| ((tag * 31 + at * 7) >> 2) as u8).collect()
}
