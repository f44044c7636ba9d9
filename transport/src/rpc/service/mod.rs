//! Services: what answers requests, behind a broker or by itself.
//!
//! Here is what an application sees; `answers` is what runs on the driver, `background` a service with a thread of
//! its own. A service answers every request that reaches it, if only to say that it failed, and keeps a reply until
//! there is room for it. A broker that takes settlements is told of each request when its reply was handed to the
//! connection, in the same frame; one whose service goes before that is given to another.

mod answers;
mod background;
mod brokers;
mod duplicates;

pub use background::BackgroundService;

pub(super) use answers::Answers;

use super::destination::ReplyDestination;
use super::error::ServiceError;
use super::events::EventListener;
use super::say_goodbye;
use super::uplinks::{AddressCount, AddressFailure, Pace, Uplinks, list};
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
use answers::State;
use brokers::Brokers;
use duplicates::Duplicates;
use std::fmt;
use std::io;
use std::time::Duration;
use thiserror::Error;

/// The settings of a service.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// A name for the peer's logs, up to 64 bytes. Default "service".
    pub name: String,
    /// Behind brokers, one of them must have accepted the service within this time, however often it is tried. Default
    /// 5 s.
    pub connect_timeout: Duration,
    /// Behind several brokers, it is attached to so many at a time: the first of the list that work. Default 2.
    pub attach_to: usize,
    /// A broker that does not answer holds up an attempt at the next one for so long. Default 1 s.
    pub failover_after: Duration,
    /// After a failed attempt the next one at the same broker comes after a delay that doubles from this, each drawn from
    /// the upper half of its interval; at least 1 ms. Default 10 ms.
    pub reconnect_min: Duration,
    /// Up to this. Default 1 s.
    pub reconnect_max: Duration,
    /// While it is attached to brokers that are not the first of the list, the better ones are tried again so often.
    /// Default 5 s.
    pub return_after: Duration,
    /// The requests of which copies may come (gold calls, idempotent ones, what a broker redelivers) that are
    /// remembered, so that no copy is handled again. 0 remembers none. Default 4,096, at some 80 bytes each.
    ///
    /// The first delivery of an ordinary request has no mark by which it would be remembered. If the session with its
    /// broker ends before it was settled, and the broker gives it to this same service again, it is handled again;
    /// [`Request::is_redelivered`] says so. Only a further delivery of it is then recognised.
    pub duplicate_window: usize,
    /// The bytes of buffers that the replies to them may keep alive. A copy whose reply is not kept any more is not
    /// answered. Default 4 MiB.
    pub duplicate_reply_bytes_max: usize,
    /// Hears what happens to sessions and links, behind brokers. Default none.
    pub events: Option<EventListener>,
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
            attach_to: 2,
            failover_after: Duration::from_secs(1),
            reconnect_min: Duration::from_millis(10),
            reconnect_max: Duration::from_secs(1),
            return_after: Duration::from_secs(5),
            duplicate_window: 4096,
            duplicate_reply_bytes_max: 4 << 20,
            events: None,
            prefetch_messages: 256,
            prefetch_bytes: 16 << 20,
            driver: DriverConfig::default(),
        }
    }
}

impl ServiceConfig {
    fn uplinks(&self, addresses: &[Address]) -> Result<Uplinks, AddressCount> {
        let pace = Pace {
            failover_after: self.failover_after,
            reconnect_min: self.reconnect_min,
            reconnect_max: self.reconnect_max,
            return_after: self.return_after,
        };
        Uplinks::new(addresses, self.attach_to, pace)
    }
}

/// Why a service does not run, or no longer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServiceFailure {
    /// Its driver does not start.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// Too few or too many brokers were named.
    #[error(transparent)]
    Addresses(#[from] AddressCount),
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
    /// Every broker refused it before it had ever served, for a reason that trying again does not change.
    #[error("the service at '{destination}' has ended: {reason}")]
    Ended {
        /// Its destination.
        destination: String,
        /// Why.
        reason: String,
    },
    /// No broker had accepted it in time.
    #[error("no broker had accepted the service after {timeout:?} (connect_timeout): {}", list(.failures))]
    NotConnected {
        /// The limit.
        timeout: Duration,
        /// Each address, with the reason.
        failures: Vec<AddressFailure>,
    },
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
    /// Copies of requests that were handled before; they were not handled again.
    pub duplicates: u64,
    /// Of these, those that were answered with the reply to the first copy.
    pub duplicates_answered: u64,
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
    /// It goes on for as long as it lives: when the session with the broker ends another one is begun, as often as that
    /// takes.
    ///
    /// # Errors
    /// [`ServiceFailure`].
    pub fn connect(
        address: &Address,
        destination: &str,
        config: ServiceConfig,
        answer: F,
    ) -> Result<Self, ServiceFailure> {
        Self::connect_any(std::slice::from_ref(address), destination, config, answer)
    }

    /// As [`Service::connect`], of several brokers, in order of preference; at most [`super::ADDRESSES_MAX`]. It is
    /// attached to `attach_to` of them at a time, so that it is still called when one of them dies. Blocks until one
    /// has accepted.
    ///
    /// # Errors
    /// [`ServiceFailure`].
    pub fn connect_any(
        addresses: &[Address],
        destination: &str,
        config: ServiceConfig,
        answer: F,
    ) -> Result<Self, ServiceFailure> {
        let timeout = config.connect_timeout;
        let mut service = Self::begin_connect_any(addresses, destination, config, answer)?;
        let is_known = |_: &mut Core, answers: &mut Answers<F>| answers.state != State::Starting;
        service.driver.run_until(Some(timeout), is_known)?;
        let answers = service.driver.parts().1;
        match &answers.state {
            State::Serving => Ok(service),
            State::Starting => {
                let failures = answers.brokers.as_ref().map(Brokers::failures).unwrap_or_default();
                Err(ServiceFailure::NotConnected { timeout, failures })
            }
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
        Self::begin_connect_any(std::slice::from_ref(address), destination, config, answer)
    }

    /// As [`Service::begin_connect`], of several brokers; see [`Service::connect_any`].
    ///
    /// # Errors
    /// [`ServiceFailure`] for what is known at once.
    pub fn begin_connect_any(
        addresses: &[Address],
        destination: &str,
        config: ServiceConfig,
        answer: F,
    ) -> Result<Self, ServiceFailure> {
        let brokers = Brokers::new(config.uplinks(addresses)?, config.events.clone());
        let mut service = Self::new(destination, config, Some(brokers), answer)?;
        let (core, answers) = service.driver.parts();
        if let Some(brokers) = &mut answers.brokers {
            brokers.start(core)?;
        }
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
        let mut service = Self::new(destination, config, None, answer)?;
        let (core, answers) = service.driver.parts();
        answers.state = State::Serving;
        let (_, address) = core.listen(address)?;
        Ok((service, address))
    }

    fn new(
        destination: &str,
        config: ServiceConfig,
        brokers: Option<Brokers>,
        answer: F,
    ) -> Result<Self, ServiceFailure> {
        let name_error =
            |violation| ServiceFailure::DestinationName { destination: destination.to_owned(), violation };
        Name::new(destination).map_err(name_error)?;
        let room = LinkRoom { messages: config.prefetch_messages.into(), bytes: config.prefetch_bytes };
        let duplicates = Duplicates::new(config.duplicate_window, config.duplicate_reply_bytes_max);
        let answers = Answers::new(destination, room, brokers, duplicates, answer);
        let identity = ReplyDestination::of_process().identity(&config.name);
        let driver = Driver::new(config.driver, identity, answers)?;
        Ok(Self { driver, destination: destination.to_owned() })
    }

    /// Answers requests, for ever unless no broker will have it.
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

    #[cfg(test)]
    pub(super) fn parts(&mut self) -> (&mut Core, &mut Answers<F>) {
        self.driver.parts()
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
        if let Some(brokers) = &mut self.driver.parts().1.brokers {
            brokers.stop();
        }
        // A broker must not take it for an orderly end if what it was given is what it died of.
        let (code, text) = if std::thread::panicking() {
            (CloseCode::InternalError, "the service panicked")
        } else {
            (CloseCode::ShuttingDown, "the service was stopped")
        };
        say_goodbye(&mut self.driver, code, text);
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
