//! Clients: a driver of one's own, or one in the background.

use super::calls::{Call, CallStats, Calls, Progress, Submission};
use super::destination::{ReplyDestination, Shard};
use super::error::CallError;
use super::future::{CallFuture, Reply};
use super::say_goodbye;
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
    /// The connection must be up within this time. Default 5 s.
    pub connect_timeout: Duration,
    /// About the most bytes of replies that may be on their way at a time. Default 256 MiB.
    pub reply_bytes_max: u64,
    /// The most calls that wait for the driver to take them. Default 4,096.
    pub submissions_max: usize,
    /// The driver. Its connection limits apply to the one connection that a client has.
    pub driver: DriverConfig,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            name: "client".to_owned(),
            connect_timeout: Duration::from_secs(5),
            reply_bytes_max: 256 << 20,
            submissions_max: 4096,
            driver: DriverConfig::default(),
        }
    }
}

/// Why there is no client.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Its driver does not start.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// It does not even try to connect.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection did not come up.
    #[error("connecting to {address} failed: {reason}")]
    NotConnected {
        /// Where.
        address: Address,
        /// Why.
        reason: String,
    },
    /// The connection did not come up in time.
    #[error("connecting to {address} was not done after {timeout:?} (connect_timeout): {missing}")]
    ConnectTimeout {
        /// Where.
        address: Address,
        /// The limit.
        timeout: Duration,
        /// What had not happened.
        missing: &'static str,
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
    /// Connects to a broker, or to a service that listens itself. Blocks until the connection is up.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(address: &Address, config: ClientConfig) -> Result<Self, ClientError> {
        Self::connect_as(&ReplyDestination::of_process(), address, config)
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
        let timeout = config.connect_timeout;
        let mut client = Self::start_connecting(destination, address, config)?;
        let is_known = |calls: &Calls| matches!(calls.progress(), Progress::Connected | Progress::Closed(_));
        client.driver.run_until(Some(timeout), |_, calls| is_known(calls))?;
        let address = address.clone();
        let missing = match client.driver.parts().1.progress() {
            Progress::Connected => return Ok(client),
            Progress::Closed(reason) => {
                return Err(ClientError::NotConnected { address, reason: reason.to_owned() });
            }
            Progress::Handshake => "the peer has not answered",
            Progress::ReplyDestination => "the peer has not agreed to deliver replies",
        };
        Err(ClientError::ConnectTimeout { address, timeout, missing })
    }

    /// As [`Client::connect`], but does not wait: the connection comes up in the client's turns. For a thread that
    /// turns other drivers as well, perhaps the other end's. Calls that are started meanwhile wait for it, and end as
    /// [`CallError::NotConnected`] if it does not come up; how long that may take is the connection's
    /// `handshake_timeout`, not `connect_timeout`.
    ///
    /// # Errors
    /// [`ClientError`] for what is known at once.
    pub fn begin_connect(address: &Address, config: ClientConfig) -> Result<Self, ClientError> {
        Self::start_connecting(&ReplyDestination::of_process(), address, config)
    }

    /// A client whose connection is coming up.
    pub(super) fn start_connecting(
        destination: &ReplyDestination,
        address: &Address,
        config: ClientConfig,
    ) -> Result<Self, ClientError> {
        let shard = destination.shard().ok_or(ClientError::TooManyClients)?;
        let wakeup = Arc::new(Wakeup::new().map_err(DriverError::Wakeup)?);
        let (submissions, submitter) = Submissions::new(config.submissions_max, wakeup.clone());
        let calls = Calls::new(destination.clone(), shard.clone(), submissions, config.reply_bytes_max);
        let identity = destination.identity(&config.name);
        let mut driver = Driver::with_wakeup(config.driver, identity, wakeup.clone(), calls)?;
        driver.parts().0.connect(address)?;
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

    /// Starts a call. It leaves with the next turn of the driver: [`Client::wait`], [`Client::turn`] or any other
    /// blocking method.
    pub fn start(&mut self, destination: &str, body: Body, lane: Lane, timeout: Duration) -> CallFuture {
        let ticket = match self.handle.reserve(timeout) {
            Ok(ticket) => ticket,
            Err(error) => return CallFuture::failed(error),
        };
        let correlation = ticket.correlation();
        let (core, calls) = self.driver.parts();
        calls.begin(core, correlation, destination, (body, lane), timeout);
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
    /// Starts the thread and connects. Blocks until the connection is up.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(address: &Address, config: ClientConfig) -> Result<Self, ClientError> {
        Self::connect_as(&ReplyDestination::of_process(), address, config)
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
        let (sender, receiver) = mpsc::channel();
        let (destination, address) = (destination.clone(), address.clone());
        let body = move || match Client::connect_as(&destination, &address, config) {
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
        let body = self.pool.lock().unwrap_or_else(PoisonError::into_inner).copy_body(bytes);
        match body {
            Ok(body) => self.call_with(destination, body, Lane::Normal, timeout),
            Err(error) => CallFuture::failed(error.into()),
        }
    }

    /// Sends a request with this body in this lane; resolves to the reply. Does not block.
    pub fn call_with(&self, destination: &str, body: Body, lane: Lane, timeout: Duration) -> CallFuture {
        let ticket = match self.reserve(timeout) {
            Ok(ticket) => ticket,
            Err(error) => return CallFuture::failed(error),
        };
        let correlation = ticket.correlation();
        let call = Call { correlation, destination: destination.into(), body, lane, timeout };
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
