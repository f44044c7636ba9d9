//! Clients: a driver of one's own, or one in the background.
//!
//! Here is the client whose driver runs on the caller's thread; `background` has the other, `handle` what starts calls
//! from any thread, `config` the settings and the errors.
//!
//! A client never blocks but in the methods that say so, and ends no call without a word. What it must never know: how
//! a session finds its way back, and which broker a call goes to.

mod background;
mod config;
mod handle;

pub use background::BackgroundClient;
pub use config::{ClientConfig, ClientError};
pub use handle::CallHandle;

use super::calls::{CallStats, Calls};
use super::destination::ReplyDestination;
use super::error::CallError;
use super::future::{CallFuture, Reply};
use super::options::CallOptions;
use super::say_goodbye;
use crate::driver::{Address, Driver, DriverError, DriverStats};
use crate::pool::{Body, Pool, PoolConfig, PoolError};
use crate::proto::Lane;
use crate::proto::control::CloseCode;
use crate::sync::{Signal, Submissions, Wakeup};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// The longest timeout of a call: what 32 bits of microseconds can say, somewhat above an hour.
pub const CALL_TIMEOUT_MAX: Duration = Duration::from_micros(u32::MAX as u64);

/// A client whose driver runs on the caller's thread, inside its blocking calls and [`Client::block_on`].
#[derive(Debug)]
pub struct Client {
    driver: Driver<Calls>,
    handle: CallHandle,
    /// Wakes the driver for what it waits for, from whatever thread.
    signal: Arc<DriverSignal>,
}

impl Client {
    /// Connects to a broker, or to a service that listens itself. Blocks until calls can be sent.
    ///
    /// The session outlives its connection. When it ends, another one is begun, as often as that takes; calls that are
    /// started meanwhile wait for it, up to their own timeouts.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(address: &Address, config: ClientConfig) -> Result<Self, ClientError> {
        Self::connect_any(std::slice::from_ref(address), config)
    }

    /// As [`Client::connect`], by whichever of several brokers works. They are in order of preference; at most
    /// [`super::ADDRESSES_MAX`].
    ///
    /// Calls go by the first broker that works. When it does not any more they go by the next one; when a better one
    /// works again they return to it. The process's reply destination keeps its address by all of them.
    ///
    /// # Errors
    /// [`ClientError`]; if none works, [`ClientError::NotConnected`] with the reason of each.
    pub fn connect_any(addresses: &[Address], config: ClientConfig) -> Result<Self, ClientError> {
        Self::connect_any_as(&ReplyDestination::of_process(), addresses, config)
    }

    /// As [`Client::connect`], with another reply destination than the process's.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect_as(
        destination: &ReplyDestination,
        address: &Address,
        config: ClientConfig,
    ) -> Result<Self, ClientError> {
        Self::connect_any_as(destination, std::slice::from_ref(address), config)
    }

    /// As [`Client::connect_any`], with another reply destination than the process's.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect_any_as(
        destination: &ReplyDestination,
        addresses: &[Address],
        config: ClientConfig,
    ) -> Result<Self, ClientError> {
        let timeout = config.connect_timeout;
        let mut client = Self::start_connecting(destination, addresses, config)?;
        if client.driver.run_until(Some(timeout), |_, calls| calls.is_connected())? {
            return Ok(client);
        }
        let failures = client.driver.parts().1.failures();
        Err(ClientError::NotConnected { timeout, failures })
    }

    /// As [`Client::connect`], but does not wait: the session comes up in the client's turns. For a thread that turns
    /// other drivers as well, perhaps the other end's. Calls that are started meanwhile wait for it, up to their own
    /// timeouts.
    ///
    /// # Errors
    /// [`ClientError`] for what is known at once.
    pub fn begin_connect(address: &Address, config: ClientConfig) -> Result<Self, ClientError> {
        Self::begin_connect_any(std::slice::from_ref(address), config)
    }

    /// As [`Client::begin_connect`], with several brokers; see [`Client::connect_any`].
    ///
    /// # Errors
    /// [`ClientError`] for what is known at once.
    pub fn begin_connect_any(addresses: &[Address], config: ClientConfig) -> Result<Self, ClientError> {
        Self::start_connecting(&ReplyDestination::of_process(), addresses, config)
    }

    /// A client whose sessions are coming up.
    pub(super) fn start_connecting(
        destination: &ReplyDestination,
        addresses: &[Address],
        config: ClientConfig,
    ) -> Result<Self, ClientError> {
        let uplinks = config.uplinks(addresses)?;
        let shard = destination.shard().ok_or(ClientError::TooManyClients)?;
        let wakeup = Arc::new(Wakeup::new().map_err(DriverError::Wakeup)?);
        let (submissions, submitter) = Submissions::new(config.submissions_max, wakeup.clone());
        let identity = destination.identity(&config.name);
        let calls = Calls::new(
            destination.clone(),
            shard.clone(),
            submissions,
            config.reply_bytes_max,
            uplinks,
            config.events,
        );
        let mut driver = Driver::with_wakeup(config.driver, identity, wakeup.clone(), calls)?;
        let (core, calls) = driver.parts();
        calls.start(core)?;
        let pool = Pool::new(PoolConfig::edge()).map_err(DriverError::Pool)?;
        let handle = CallHandle { shard, submitter, pool: Arc::new(Mutex::new(pool)) };
        let signal = Arc::new(DriverSignal(Signal::new(wakeup)));
        Ok(Self { driver, handle, signal })
    }

    /// The driver, for a simulation to turn.
    #[cfg(feature = "simulation")]
    pub fn driver(&mut self) -> &mut Driver<impl crate::driver::Handler> {
        &mut self.driver
    }

    #[cfg(test)]
    pub(super) fn reclaim(&mut self) {
        self.driver.parts().0.pool().reclaim();
    }

    #[cfg(test)]
    pub(super) fn calls(&mut self) -> &mut Calls {
        self.driver.parts().1
    }

    #[cfg(test)]
    pub(super) fn parts(&mut self) -> (&mut crate::driver::Core, &mut Calls) {
        self.driver.parts()
    }

    /// A handle that starts calls from any thread, also from futures inside [`Client::block_on`].
    pub fn handle(&self) -> CallHandle {
        self.handle.clone()
    }

    /// A body with a copy of these bytes, to be sent once or, by [`Client::share`], often.
    ///
    /// # Errors
    /// [`PoolError`] when the budget is used up.
    pub fn body(&mut self, bytes: &[u8]) -> Result<Body, PoolError> {
        self.driver.parts().0.pool().copy_body(bytes)
    }

    /// Another body of the same bytes, not copied.
    ///
    /// # Errors
    /// [`PoolError`] when the budget is used up.
    pub fn share(&mut self, body: &Body) -> Result<Body, PoolError> {
        body.share(self.driver.parts().0.pool())
    }

    /// Sends a request with a copy of `bytes` and waits for the reply, in the normal lane.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call(&mut self, destination: &str, bytes: &[u8], timeout: Duration) -> Result<Reply, CallError> {
        let body = self.body(bytes)?;
        let call = self.start(destination, body, Lane::Normal, timeout);
        self.wait(call)
    }

    /// Starts a call that is sent once, in this lane. It leaves with the next turn of the driver: [`Client::wait`],
    /// [`Client::turn`] or any other blocking method.
    pub fn start(&mut self, destination: &str, body: Body, lane: Lane, timeout: Duration) -> CallFuture {
        self.start_with_options(destination, body, CallOptions::new(timeout).class(lane.into()))
    }

    /// As [`Client::start`], with a class, and perhaps to be sent again when a session is lost.
    pub fn start_with_options(&mut self, destination: &str, body: Body, options: CallOptions) -> CallFuture {
        let ticket = match self.handle.reserve(options.timeout) {
            Ok(ticket) => ticket,
            Err(error) => return CallFuture::failed(error),
        };
        let correlation = ticket.correlation();
        let (core, calls) = self.driver.parts();
        calls.begin(core, correlation, destination, body, options);
        CallFuture::waiting(ticket, self.handle.submitter.clone())
    }

    /// Blocks until a call has ended.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn wait(&mut self, call: CallFuture) -> Result<Reply, CallError> {
        // Not only this driver can end the call: its reply may come over the connection of another client.
        self.block_on(call)
            .unwrap_or_else(|error| Err(CallError::OutcomeUnknown { reason: error.to_string() }))
    }

    /// Does what can be done now, without waiting; true if it found anything to do.
    ///
    /// # Errors
    /// Only when a wire as a whole is broken.
    pub fn turn(&mut self) -> io::Result<bool> {
        self.driver.turn()
    }

    /// Turns and waits until `is_done`, which is asked after each turn, or until `timeout` is over.
    ///
    /// # Errors
    /// Only when a wire as a whole is broken.
    pub fn run_until(
        &mut self,
        timeout: Option<Duration>,
        mut is_done: impl FnMut() -> bool,
    ) -> io::Result<bool> {
        self.driver.run_until(timeout, |_, _| is_done())
    }

    /// Runs a future on this thread, and the driver in between. Calls are started by a [`Client::handle`].
    ///
    /// # Errors
    /// Only when a wire as a whole is broken.
    pub fn block_on<F: Future>(&mut self, future: F) -> io::Result<F::Output> {
        let signal = self.signal.clone();
        signal.0.raise();
        let waker = Waker::from(signal.clone());
        let mut future = pin!(future);
        let mut output = None;
        self.driver.run_until(None, |_, _| {
            if signal.0.take()
                && let Poll::Ready(ready) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                output = Some(ready);
            }
            output.is_some()
        })?;
        output.ok_or_else(|| io::Error::other("the driver was stopped"))
    }

    /// What the calling end did so far.
    pub fn call_stats(&mut self) -> CallStats {
        self.driver.parts().1.stats()
    }

    /// What the driver did so far.
    pub fn driver_stats(&self) -> DriverStats {
        self.driver.stats()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.parts().1.stop();
        say_goodbye(&mut self.driver, CloseCode::Normal, "the client was dropped");
    }
}

/// Wakes a future inside [`Client::block_on`], from whatever thread.
#[derive(Debug)]
struct DriverSignal(Signal);

impl Wake for DriverSignal {
    fn wake(self: Arc<Self>) {
        self.0.raise();
    }
}
