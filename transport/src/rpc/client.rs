//! Clients: a driver of one's own, or one in the background.

use super::calls::{Call, CallStats, Calls, Submission};
use super::destination::{ReplyDestination, Shard};
use super::error::CallError;
use super::events::EventListener;
use super::future::{CallFuture, Reply};
use super::options::CallOptions;
use super::say_goodbye;
use super::uplinks::{self, AddressCount, AddressFailure, Pace, Uplinks};
use crate::backend::ConnectError;
use crate::driver::{Address, Driver, DriverConfig, DriverError, DriverStats};
use crate::pool::{Body, Pool, PoolConfig, PoolError};
use crate::proto::Lane;
use crate::proto::control::CloseCode;
use crate::sync::{Signal, Submissions, SubmitRefused, Submitter, Wakeup};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use thiserror::Error;

/// The longest timeout of a call: what 32 bits of microseconds can say, somewhat above an hour.
pub const CALL_TIMEOUT_MAX: Duration = Duration::from_micros(u32::MAX as u64);

/// The settings of a client.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// A name for the peer's logs, up to 64 bytes. Default "client".
    pub name: String,
    /// The first session must be up within this time, however often it is tried. Default 5 s.
    pub connect_timeout: Duration,
    /// A call that was sent on a session which is interrupted waits so long for it, if there are other brokers; then it
    /// ends as [`CallError::OutcomeUnknown`]. Also, a broker that does not answer holds up an attempt at the next one for
    /// so long. Default 1 s.
    pub failover_after: Duration,
    /// After a failed attempt the next one at the same broker comes after a delay that doubles from this, each drawn from
    /// the upper half of its interval; at least 1 ms. Default 10 ms.
    pub reconnect_min: Duration,
    /// Up to this. Default 1 s.
    pub reconnect_max: Duration,
    /// While calls go by a broker that is not the first of the list, the better ones are tried again so often. Default
    /// 5 s.
    pub return_after: Duration,
    /// Keeps a session with a second broker from the start, so that a failover does not have to connect first, and the
    /// first gold call finds two. Without it, the first gold call opens the second session. Default false.
    pub standby: bool,
    /// Hears what happens to sessions and links. Default none.
    pub events: Option<EventListener>,
    /// About the most bytes of replies that may be on their way at a time. Default 256 MiB.
    pub reply_bytes_max: u64,
    /// The most calls that wait for the driver to take them. Default 4,096.
    pub submissions_max: usize,
    /// The driver. Its connection limits apply to each of the client's connections.
    pub driver: DriverConfig,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            name: "client".to_owned(),
            connect_timeout: Duration::from_secs(5),
            failover_after: Duration::from_secs(1),
            reconnect_min: Duration::from_millis(10),
            reconnect_max: Duration::from_secs(1),
            return_after: Duration::from_secs(5),
            standby: false,
            events: None,
            reply_bytes_max: 256 << 20,
            submissions_max: 4096,
            driver: DriverConfig::default(),
        }
    }
}

impl ClientConfig {
    fn uplinks(&self, addresses: &[Address]) -> Result<Uplinks, AddressCount> {
        let pace = Pace {
            failover_after: self.failover_after,
            reconnect_min: self.reconnect_min,
            reconnect_max: self.reconnect_max,
            return_after: self.return_after,
        };
        Uplinks::new(addresses, if self.standby { 2 } else { 1 }, pace)
    }
}

/// Why there is no client.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Its driver does not start.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// Too few or too many brokers were named.
    #[error(transparent)]
    Addresses(#[from] AddressCount),
    /// It does not even try to connect.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No broker could be called in time.
    #[error("not connected after {timeout:?} (connect_timeout): {}", uplinks::list(.failures))]
    NotConnected {
        /// The limit.
        timeout: Duration,
        /// Each address, with the reason.
        failures: Vec<AddressFailure>,
    },
    /// As many clients use the process's reply destination as it can have.
    #[error("256 clients use this reply destination already; share one by its handles")]
    TooManyClients,
    /// A wire broke, or a thread could not be started.
    #[error("the driver failed: {0}")]
    Io(#[from] io::Error),
}

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

/// A client whose driver runs in a thread of its own. Calls are started by its handles, from any thread.
///
/// Dropping it stops the thread; calls in flight end as [`CallError::OutcomeUnknown`].
#[derive(Debug)]
pub struct BackgroundClient {
    handle: CallHandle,
    thread: Option<JoinHandle<()>>,
}

impl BackgroundClient {
    /// Starts the thread and connects. Blocks until calls can be sent. See [`Client::connect`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(address: &Address, config: ClientConfig) -> Result<Self, ClientError> {
        Self::connect_any(std::slice::from_ref(address), config)
    }

    /// As [`BackgroundClient::connect`], by whichever of several brokers works. See [`Client::connect_any`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect_any(addresses: &[Address], config: ClientConfig) -> Result<Self, ClientError> {
        Self::connect_any_as(&ReplyDestination::of_process(), addresses, config)
    }

    /// As [`BackgroundClient::connect`], with another reply destination than the process's.
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

    /// As [`BackgroundClient::connect_any`], with another reply destination than the process's.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect_any_as(
        destination: &ReplyDestination,
        addresses: &[Address],
        config: ClientConfig,
    ) -> Result<Self, ClientError> {
        let (sender, receiver) = mpsc::channel();
        let (destination, addresses) = (destination.clone(), addresses.to_vec());
        let body = move || match Client::connect_any_as(&destination, &addresses, config) {
            Ok(mut client) => {
                // Whoever asked may have given up; then the handle is gone with the message.
                let _ = sender.send(Ok(client.handle()));
                if let Err(error) = client.driver.run() {
                    tracing::error!(%error, "a client's driver failed; its calls end");
                }
            }
            Err(error) => drop(sender.send(Err(error))),
        };
        let thread = thread::Builder::new().name("underlay-client".to_owned()).spawn(body)?;
        let lost = || Err(ClientError::Io(io::Error::other("the driver's thread ended at once")));
        let handle = receiver.recv().unwrap_or_else(|_| lost())?;
        Ok(Self { handle, thread: Some(thread) })
    }

    /// A handle, for any thread.
    pub fn handle(&self) -> CallHandle {
        self.handle.clone()
    }
}

impl Drop for BackgroundClient {
    fn drop(&mut self) {
        // A full queue empties, a closed one belongs to a thread that has ended.
        while let Err(SubmitRefused::Full { .. }) = self.handle.submitter.push(Submission::Stop) {
            thread::yield_now();
        }
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// Starts calls from any thread, under any executor; cheap to clone.
#[derive(Debug, Clone)]
pub struct CallHandle {
    shard: Shard,
    submitter: Submitter<Submission>,
    /// Where bodies are made on threads that are not the driver's; the copy into it is the one at the application's
    /// edge, so a lock for its length costs little beside it.
    pool: Arc<Mutex<Pool>>,
}

impl CallHandle {
    /// Sends a request with a copy of `bytes`; resolves to the reply. Does not block.
    pub fn call(&self, destination: &str, bytes: &[u8], timeout: Duration) -> CallFuture {
        self.call_with_options(destination, bytes, CallOptions::new(timeout))
    }

    /// As [`CallHandle::call`], with a class, and perhaps to be sent again when a session is lost.
    pub fn call_with_options(&self, destination: &str, bytes: &[u8], options: CallOptions) -> CallFuture {
        let body = self.pool.lock().unwrap_or_else(PoisonError::into_inner).copy_body(bytes);
        match body {
            Ok(body) => self.call_body(destination, body, options),
            Err(error) => CallFuture::failed(error.into()),
        }
    }

    /// Sends a request with this body in this lane; resolves to the reply. Does not block.
    pub fn call_with(&self, destination: &str, body: Body, lane: Lane, timeout: Duration) -> CallFuture {
        self.call_body(destination, body, CallOptions::new(timeout).class(lane.into()))
    }

    /// Sends a request with this body, with a class, and perhaps to be sent again when a session is lost.
    pub fn call_body(&self, destination: &str, body: Body, options: CallOptions) -> CallFuture {
        let ticket = match self.reserve(options.timeout) {
            Ok(ticket) => ticket,
            Err(error) => return CallFuture::failed(error),
        };
        let correlation = ticket.correlation();
        let call = Call { correlation, destination: destination.into(), body, options };
        match self.submitter.push(Submission::Call(call)) {
            Ok(()) => CallFuture::waiting(ticket, self.submitter.clone()),
            Err(SubmitRefused::Full { limit, .. }) => {
                CallFuture::failed(CallError::QueueFull { submissions_max: limit })
            }
            Err(_) => {
                CallFuture::failed(CallError::NotConnected { reason: "the client was dropped".to_owned() })
            }
        }
    }

    /// Sends a request and blocks this thread until the reply is there. Not for the driver's own thread.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call_blocking(
        &self,
        destination: &str,
        bytes: &[u8],
        timeout: Duration,
    ) -> Result<Reply, CallError> {
        // Without a limit of its own it ends when the call does, which has one.
        let lost = || Err(CallError::TimedOut(timeout));
        self.call(destination, bytes, timeout).wait(None).unwrap_or_else(lost)
    }

    fn reserve(
        &self,
        timeout: Duration,
    ) -> Result<crate::sync::SlotTicket<super::destination::Outcome>, CallError> {
        if timeout > CALL_TIMEOUT_MAX {
            return Err(CallError::TimeoutTooLong(timeout, CALL_TIMEOUT_MAX));
        }
        self.shard.slots.reserve().map_err(|full| CallError::TooManyCalls { calls_max: full.limit })
    }
}
