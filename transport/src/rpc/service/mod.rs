//! Services: what answers requests, behind a broker or by itself.
//!
//! Here is what an application sees; `answers` is what runs on the driver, `background` a service with a thread of
//! its own. A service answers every request that reaches it, if only to say that it failed, and keeps a reply until
//! there is room for it. A broker that takes settlements is told of each request when its reply was handed to the
//! connection, in the same frame; one whose service goes before that is given to another.

mod answers;
mod background;

pub use background::BackgroundService;

use super::destination::ReplyDestination;
use super::error::ServiceError;
use super::say_goodbye;
use crate::backend::{ConnectError, ListenError};
use crate::connection::LinkRoom;
use crate::driver::{Address, Core, Driver, DriverConfig, DriverError, DriverStats};
use crate::message::Message;
use crate::pool::{Body, Pool};
use crate::proto::PeerMisbehaved;
use crate::proto::control::CloseCode;
use crate::proto::extension::Extensions;
use crate::proto::record::MessageHead;
use crate::proto::text::Name;
use answers::{Answers, Mode, State};
use std::fmt;
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
    /// Requests that a broker, or each client, may have sent ahead of their answers, replies that wait to be sent
    /// included. Default 256.
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

    /// Whether it may have been handled before: it was given to a service that went without settling it.
    pub fn is_redelivered(&self) -> bool {
        self.message.head.redelivered
    }

    /// Its extensions.
    pub fn extensions(&self) -> Extensions<'_> {
        self.message.extensions()
    }

    /// A reply with a copy of these bytes.
    ///
    /// # Errors
    /// As a [`ServiceError`], when the pool's budget is used up.
    pub fn reply(&mut self, bytes: &[u8]) -> Result<Body, ServiceError> {
        self.pool.copy_body(bytes).map_err(|error| ServiceError { code: 0, text: error.to_string() })
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
    /// Of these, messages that asked for no reply, or named no reply address.
    pub without_reply_address: u64,
    /// Replies that came here, where nobody asked anything; they were not handled.
    pub strays: u64,
    /// Replies that had to wait: for credit of their client, or because a queue or the pool was full.
    pub reply_waits: u64,
    /// Replies that could not be sent, because their client was gone or takes no replies.
    pub replies_dropped: u64,
}

/// Answers the requests of one destination by a function, on the thread that makes and runs it.
pub struct Service<F>
where
    F: FnMut(&mut Request<'_>) -> Result<Body, ServiceError>,
{
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
        let mut service = Self::new(destination, config, Mode::Connected, answer)?;
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
        let mut service = Self::new(destination, config, Mode::Listening, answer)?;
        let (core, answers) = service.driver.parts();
        answers.state = State::Serving;
        let (_, address) = core.listen(address)?;
        Ok((service, address))
    }

    fn new(destination: &str, config: ServiceConfig, mode: Mode, answer: F) -> Result<Self, ServiceFailure> {
        let name_error =
            |violation| ServiceFailure::DestinationName { destination: destination.to_owned(), violation };
        Name::new(destination).map_err(name_error)?;
        let room = LinkRoom { messages: config.prefetch_messages.into(), bytes: config.prefetch_bytes };
        let answers = Answers::new(destination, room, mode, answer);
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

    /// Does what can be done now, without waiting; true if it found anything to do.
    ///
    /// # Errors
    /// Only when a wire as a whole is broken.
    pub fn turn(&mut self) -> io::Result<bool> {
        self.driver.turn()
    }

    /// The driver, for a simulation to turn.
    #[cfg(feature = "simulation")]
    pub fn driver(&mut self) -> &mut Driver<impl crate::driver::Handler> {
        &mut self.driver
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

impl<F> Drop for Service<F>
where
    F: FnMut(&mut Request<'_>) -> Result<Body, ServiceError>,
{
    fn drop(&mut self) {
        say_goodbye(&mut self.driver, CloseCode::ShuttingDown, "the service was stopped");
    }
}

/// Also where the function is a closure, which says nothing of itself.
impl<F> fmt::Debug for Service<F>
where
    F: FnMut(&mut Request<'_>) -> Result<Body, ServiceError>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("destination", &self.destination)
            .field("driver", &self.driver)
            .finish()
    }
}
