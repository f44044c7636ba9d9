//! Services: what answers requests, behind a broker or by itself.

use super::destination::ReplyDestination;
use super::error::ServiceError;
use crate::backend::{ConnectError, ListenError};
use crate::connection::{AttachRequest, CloseReason, LinkRoom, Target};
use crate::driver::{
    Address, ConnectionId, Core, DetachedByPeer, Driver, DriverConfig, DriverError, DriverStats, Handler,
};
use crate::message::Message;
use crate::pool::{Body, Pool};
use crate::proto::control::{Address as LinkAddress, DetachCode, LinkRole};
use crate::proto::extension::{ExtensionWriter, Extensions};
use crate::proto::handshake::Negotiated;
use crate::proto::record::{MessageHead, MessageKind};
use crate::proto::text::Name;
use crate::proto::{LinkId, PeerMisbehaved, ReplyAddress};
use std::io;
use std::time::Duration;
use thiserror::Error;

/// The settings of a service.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// A name for the peer's logs, up to 64 bytes. Default "service".
    pub name: String,
    /// Behind a broker, the connection must be up within this time. Default 5 s.
    pub connect_timeout: Duration,
    /// Requests that a broker, or each client, may have sent ahead of their answers. Default 256.
    pub prefetch_messages: u32,
    /// About the bytes that they may have. Default 16 MiB.
    pub prefetch_bytes: u64,
    /// The driver.
    pub driver: DriverConfig,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            name: "service".to_owned(),
            connect_timeout: Duration::from_secs(5),
            prefetch_messages: 256,
            prefetch_bytes: 16 << 20,
            driver: DriverConfig::default(),
        }
    }
}

/// Why a service does not run, or no longer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServiceFailure {
    /// Its driver does not start.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// It does not even try to connect.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Its name cannot be one of a destination.
    #[error("'{destination}' cannot name a destination: {violation}")]
    DestinationName {
        /// What was given.
        destination: String,
        /// What is wrong with it.
        violation: PeerMisbehaved,
    },
    /// The broker refused it, or the connection ended.
    #[error("the service at '{destination}' has ended: {reason}")]
    Ended {
        /// Its destination.
        destination: String,
        /// Why.
        reason: String,
    },
    /// It was not ready in time.
    #[error("the broker had not accepted the service after {0:?} (connect_timeout)")]
    ConnectTimeout(Duration),
    /// A wire broke.
    #[error("the driver failed: {0}")]
    Io(#[from] io::Error),
}

/// A request, as a service's function is given it.
#[derive(Debug)]
pub struct Request<'a> {
    message: &'a mut Message,
    pool: &'a mut Pool,
}

impl Request<'_> {
    /// The bytes.
    pub fn body(&self) -> &Body {
        &self.message.body
    }

    /// The bytes, to be kept or sent back, which copies nothing.
    pub fn take_body(&mut self) -> Body {
        std::mem::take(&mut self.message.body)
    }

    /// What is known of it beside its body: remaining deadline, lane, hops, origin.
    pub fn head(&self) -> &MessageHead {
        &self.message.head
    }

    /// Its extensions.
    pub fn extensions(&self) -> Extensions<'_> {
        self.message.extensions()
    }

    /// The driver's buffers, to make a reply from.
    pub fn pool(&mut self) -> &mut Pool {
        self.pool
    }
}

/// What a service counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceStats {
    /// Requests that were handled.
    pub requests: u64,
    /// Of these, failures.
    pub failures: u64,
    /// Messages that were no requests, or named no reply address.
    pub without_reply_address: u64,
    /// Replies that could not be sent: their client was gone, or granted no room for them.
    pub replies_dropped: u64,
}

/// Answers the requests of one destination by a function, on the thread that runs it.
#[derive(Debug)]
pub struct Service<F> {
    driver: Driver<Answers<F>>,
    destination: String,
}

impl<F> Service<F>
where
    F: FnMut(&mut Request<'_>) -> Result<Body, ServiceError>,
{
    /// Serves a destination of a broker. Blocks until the broker has accepted.
    ///
    /// # Errors
    /// [`ServiceFailure`].
    pub fn connect(
        address: &Address,
        destination: &str,
        config: ServiceConfig,
        answer: F,
    ) -> Result<Self, ServiceFailure> {
        let timeout = config.connect_timeout;
        let mut service = Self::begin_connect(address, destination, config, answer)?;
        let is_known = |_: &mut Core, answers: &mut Answers<F>| answers.state != State::Starting;
        service.driver.run_until(Some(timeout), is_known)?;
        match &service.driver.parts().1.state {
            State::Serving => Ok(service),
            State::Starting => Err(ServiceFailure::ConnectTimeout(timeout)),
            State::Ended(_) => Err(service.ended()),
        }
    }

    /// As [`Service::connect`], but does not wait: the connection comes up, and the broker accepts or refuses, in the
    /// service's turns. For a thread that turns other drivers as well, perhaps the broker's.
    ///
    /// # Errors
    /// [`ServiceFailure`] for what is known at once.
    pub fn begin_connect(
        address: &Address,
        destination: &str,
        config: ServiceConfig,
        answer: F,
    ) -> Result<Self, ServiceFailure> {
        let mut service = Self::new(destination, config, answer)?;
        service.driver.parts().0.connect(address)?;
        Ok(service)
    }

    /// Serves clients that connect to this process itself, and says where: with the port that the system chose if 0
    /// was asked for.
    ///
    /// # Errors
    /// [`ServiceFailure`].
    pub fn listen(
        address: &Address,
        destination: &str,
        config: ServiceConfig,
        answer: F,
    ) -> Result<(Self, Address), ServiceFailure> {
        let mut service = Self::new(destination, config, answer)?;
        let (core, answers) = service.driver.parts();
        answers.state = State::Serving;
        answers.is_listening = true;
        let (_, address) = core.listen(address)?;
        Ok((service, address))
    }

    fn new(destination: &str, config: ServiceConfig, answer: F) -> Result<Self, ServiceFailure> {
        let name_error =
            |violation| ServiceFailure::DestinationName { destination: destination.to_owned(), violation };
        Name::new(destination).map_err(name_error)?;
        let room = LinkRoom { messages: config.prefetch_messages.into(), bytes: config.prefetch_bytes };
        let answers = Answers {
            destination: destination.to_owned(),
            room,
            answer,
            state: State::Starting,
            is_listening: false,
            clients: Vec::new(),
            stats: ServiceStats::default(),
        };
        let identity = ReplyDestination::of_process().identity(&config.name);
        let driver = Driver::new(config.driver, identity, answers)?;
        Ok(Self { driver, destination: destination.to_owned() })
    }

    /// Answers requests until the connection to the broker ends; for ever if it listens itself.
    ///
    /// # Errors
    /// [`ServiceFailure::Ended`] with the reason, and [`ServiceFailure::Io`].
    pub fn run(&mut self) -> Result<(), ServiceFailure> {
        self.run_until(None, || false).map(drop)
    }

    /// As [`Service::run`], until `is_done`, which is asked after each turn, or until `timeout` is over; says whether
    /// it is done.
    ///
    /// # Errors
    /// As [`Service::run`].
    pub fn run_until(
        &mut self,
        timeout: Option<Duration>,
        mut is_done: impl FnMut() -> bool,
    ) -> Result<bool, ServiceFailure> {
        let mut has_ended = false;
        let done = self.driver.run_until(timeout, |_, answers| {
            has_ended = matches!(answers.state, State::Ended(_));
            has_ended || is_done()
        })?;
        if has_ended { Err(self.ended()) } else { Ok(done) }
    }

    /// Answers what has arrived, without waiting; true if it found anything to do.
    ///
    /// # Errors
    /// As [`Service::run`].
    pub fn turn(&mut self) -> Result<bool, ServiceFailure> {
        let found = self.driver.turn()?;
        match self.driver.parts().1.state {
            State::Ended(_) => Err(self.ended()),
            State::Starting | State::Serving => Ok(found),
        }
    }

    /// By which another thread, or a signal handler, makes [`Service::run_until`] look at its condition again.
    pub fn wakeup(&mut self) -> std::sync::Arc<crate::Wakeup> {
        self.driver.parts().0.wakeup().clone()
    }

    /// Which engine drives TCP, and why it is not the better one.
    pub fn tcp_engine(&mut self) -> (crate::backend::tcp::Engine, Option<String>) {
        let (engine, reason) = self.driver.parts().0.tcp_engine();
        (engine, reason.map(str::to_owned))
    }

    /// What it did so far.
    pub fn stats(&mut self) -> ServiceStats {
        self.driver.parts().1.stats
    }

    /// What the driver did so far.
    pub fn driver_stats(&self) -> DriverStats {
        self.driver.stats()
    }

    fn ended(&mut self) -> ServiceFailure {
        let reason = match &self.driver.parts().1.state {
            State::Ended(reason) => reason.clone(),
            State::Starting | State::Serving => String::new(),
        };
        ServiceFailure::Ended { destination: self.destination.clone(), reason }
    }
}

/// Answers the events of a service's driver.
struct Answers<F> {
    destination: String,
    room: LinkRoom,
    answer: F,
    state: State,
    is_listening: bool,
    /// Of a service that listens itself, by connection: where its clients want their replies.
    clients: Vec<Vec<(ReplyAddress, LinkId)>>,
    stats: ServiceStats,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Starting,
    Serving,
    Ended(String),
}

impl<F> std::fmt::Debug for Answers<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answers({}, {:?})", self.destination, self.state)
    }
}

impl<F> Answers<F>
where
    F: FnMut(&mut Request<'_>) -> Result<Body, ServiceError>,
{
    fn reply(&mut self, core: &mut Core, mut request: Message) -> Message {
        let origin = core.identity().process.origin;
        let answer = (self.answer)(&mut Request { message: &mut request, pool: core.pool() });
        let failure = match answer {
            Ok(body) => {
                let mut reply = Message::reply_to(&request.head, body);
                reply.head.origin = origin;
                reply.head.message_number = core.next_message_number();
                return reply;
            }
            Err(failure) => failure,
        };
        self.stats.failures += 1;
        let mut reply = Message::reply_to(&request.head, Body::new());
        reply.head.origin = origin;
        reply.head.message_number = core.next_message_number();
        reply.head.failure = true;
        reply.extensions = error_extension(core.pool(), &failure);
        reply
    }

    /// Of a service that listens itself: the link on which a client takes its replies.
    fn reply_link(&self, connection: ConnectionId, address: ReplyAddress) -> Option<LinkId> {
        let links = self.clients.get(connection.index())?;
        links.iter().find(|(its, _)| *its == address).map(|(_, link)| *link)
    }

    fn attach_client(&mut self, core: &mut Core, connection: ConnectionId, request: &AttachRequest) {
        let none = LinkRoom { messages: 0, bytes: 0 };
        let refuse =
            |core: &mut Core, code, text: &str| core.refuse_link(connection, request.link, code, text);
        let outcome = match (&request.target, request.role) {
            (Target::Named(name), LinkRole::Producer) if *name == self.destination => {
                core.accept_link(connection, request.link, self.room)
            }
            (Target::Reply(address), LinkRole::Consumer) => {
                let index = connection.index();
                if self.clients.len() <= index {
                    self.clients.resize_with(index + 1, Vec::new);
                }
                self.clients[index].retain(|(its, _)| its != address);
                self.clients[index].push((*address, request.link));
                core.accept_link(connection, request.link, none)
            }
            (Target::Named(name), LinkRole::Producer) => {
                let text = format!("there is no destination '{name}' here, only '{}'", self.destination);
                refuse(core, DetachCode::NoSuchDestination, &text)
            }
            _ => refuse(core, DetachCode::NotAllowed, "a service has nothing to consume but replies"),
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "a link was gone before it was answered");
        }
    }
}

impl<F> Handler for Answers<F>
where
    F: FnMut(&mut Request<'_>) -> Result<Body, ServiceError>,
{
    fn opened(&mut self, core: &mut Core, connection: ConnectionId, _peer: &Negotiated) {
        if self.is_listening {
            return;
        }
        // The name was checked when the service was made.
        let Ok(name) = Name::new(&self.destination) else { return };
        if let Err(error) = core.attach(connection, LinkRole::Consumer, LinkAddress::Named(name), self.room) {
            self.state = State::Ended(error.to_string());
        }
    }

    fn attach_requested(&mut self, core: &mut Core, connection: ConnectionId, request: AttachRequest) {
        if self.is_listening {
            return self.attach_client(core, connection, &request);
        }
        // The link may have gone with its connection meanwhile; then there is nobody to tell.
        let _ = core.refuse_link(
            connection,
            request.link,
            DetachCode::NotAllowed,
            "a service has no destinations",
        );
    }

    fn attached(&mut self, _core: &mut Core, _connection: ConnectionId, _link: LinkId) {
        self.state = State::Serving;
    }

    fn detached(&mut self, _core: &mut Core, connection: ConnectionId, detached: DetachedByPeer) {
        if self.is_listening {
            if let Some(links) = self.clients.get_mut(connection.index()) {
                links.retain(|(_, link)| *link != detached.link);
            }
            return;
        }
        self.state = State::Ended(format!("the broker detached it ({:?}): {}", detached.code, detached.text));
    }

    fn message(&mut self, core: &mut Core, connection: ConnectionId, message: Message) {
        let (kind, link, address) = (message.head.kind, message.head.link, message.head.reply_address);
        self.stats.requests += 1;
        let mut reply = self.reply(core, message);
        if let Some(link) = link {
            // Fails only if the link has gone meanwhile.
            let _ = core.set_link_room(connection, link, self.room);
        }
        let Some(address) = address.filter(|_| kind == MessageKind::Request) else {
            self.stats.without_reply_address += 1;
            return;
        };
        reply.head.link = if self.is_listening { self.reply_link(connection, address) } else { None };
        if (self.is_listening && reply.head.link.is_none()) || core.send(connection, reply).is_err() {
            self.stats.replies_dropped += 1;
        }
    }

    fn writable(&mut self, _core: &mut Core, _connection: ConnectionId, _link: LinkId) {}

    fn closed(&mut self, _core: &mut Core, connection: ConnectionId, reason: &CloseReason) {
        if self.is_listening {
            if let Some(links) = self.clients.get_mut(connection.index()) {
                links.clear();
            }
            return;
        }
        self.state = State::Ended(reason.to_string());
    }
}

/// The error of a failed reply, or none if it cannot be said: then the failure mark alone says it.
fn error_extension(pool: &mut Pool, failure: &ServiceError) -> Option<crate::pool::Segment> {
    const TEXT_BYTES_MAX: usize = 1024;
    let mut area = [0; TEXT_BYTES_MAX + 64];
    let mut writer = ExtensionWriter::new(&mut area);
    let text = &failure.text[..failure.text.floor_char_boundary(TEXT_BYTES_MAX)];
    writer.error(failure.code, text).ok()?;
    let written = writer.written();
    let mut buffer = pool.buffer(written).ok()?;
    buffer.put_slice(&area[..written]);
    Some(buffer.split())
}
