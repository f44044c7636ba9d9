//! How a floor program waits, and a connection that waits so.

use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::framing::{Inbox, write_once};

/// How long the yielding floor tries again at once after traffic.
pub const SPIN: Duration = Duration::from_micros(3);

/// How long after traffic the yielding floor goes on trying, with `sched_yield` between tries, before
/// it sleeps.
pub const YIELD_BUDGET: Duration = Duration::from_micros(500);

/// How a program of the floor waits for its sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Waiting {
    /// Sleeps in the kernel at once: blocking reads and writes, `ppoll` where there is more than one
    /// thing to wait for.
    Blocking,
    /// Tries for [`SPIN`], then yields the core between tries until [`YIELD_BUDGET`] has passed since
    /// the last traffic, then sleeps in `ppoll`.
    Yield,
}

impl Waiting {
    /// The name, as typed and as reported.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Blocking => "blocking",
            Self::Yield => "yield",
        }
    }
}

/// Waits between tries, the longer after the last traffic the more patiently.
#[derive(Debug)]
pub(crate) struct Patience {
    waiting: Waiting,
    last_traffic: Instant,
}

impl Patience {
    pub(crate) fn new(waiting: Waiting) -> Self {
        Self { waiting, last_traffic: Instant::now() }
    }

    pub(crate) fn waiting(&self) -> Waiting {
        self.waiting
    }

    /// Something was sent or received.
    pub(crate) fn traffic(&mut self) {
        if self.waiting == Waiting::Yield {
            self.last_traffic = Instant::now();
        }
    }

    /// Waits a little: spins, yields, or sleeps until one of `interest` is ready or `until` is reached.
    /// Returns early as it likes; the caller tries again. Only after a sleep do `interest` tell events.
    pub(crate) fn pause(&mut self, interest: &mut [PollFd<'_>], until: Option<Instant>) -> io::Result<()> {
        if self.waiting == Waiting::Yield {
            let idle = self.last_traffic.elapsed();
            if idle < SPIN {
                std::hint::spin_loop();
                return Ok(());
            }
            if idle < YIELD_BUDGET {
                std::thread::yield_now();
                return Ok(());
            }
        }
        let timeout = until.map(|at| TimeSpec::from(at.saturating_duration_since(Instant::now())));
        match ppoll(interest, timeout, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.traffic();
        Ok(())
    }
}

/// One socket and its way of waiting. Every call returns when it is done, however long that takes,
/// unless the socket has a timeout (for a yielding one, `timeout`).
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) patience: Patience,
    timeout: Option<Duration>,
}

impl Connection {
    /// Takes a connected socket over: no delay, and blocking or not as `waiting` wants.
    pub(crate) fn new(stream: TcpStream, waiting: Waiting, timeout: Option<Duration>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(waiting == Waiting::Yield)?;
        stream.set_read_timeout(timeout)?;
        stream.set_write_timeout(timeout)?;
        Ok(Self { stream, patience: Patience::new(waiting), timeout })
    }

    /// Reads until `inbox` has a whole message. False at the end of the stream.
    pub(crate) fn receive(&mut self, inbox: &mut Inbox) -> io::Result<bool> {
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        while inbox.message().map_err(io::Error::other)?.is_none() {
            match inbox.read_once(&mut self.stream) {
                Ok(0) => return Ok(false),
                Ok(_) => self.patience.traffic(),
                Err(error) => self.retry(error, PollFlags::POLLIN, deadline)?,
            }
        }
        Ok(true)
    }

    /// Writes header and body whole.
    pub(crate) fn send(&mut self, header: &[u8], body: &[u8]) -> io::Result<()> {
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let mut sent = 0;
        while sent < header.len() + body.len() {
            match write_once(&mut self.stream, header, body, sent) {
                Ok(count) => {
                    sent += count;
                    self.patience.traffic();
                }
                Err(error) => self.retry(error, PollFlags::POLLOUT, deadline)?,
            }
        }
        Ok(())
    }

    /// After a try that failed: waits if it is worth trying again, fails otherwise.
    fn retry(&mut self, error: io::Error, wanted: PollFlags, deadline: Option<Instant>) -> io::Result<()> {
        let is_over = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        match error.kind() {
            ErrorKind::Interrupted => Ok(()),
            // From a blocking socket this is its own timeout.
            ErrorKind::WouldBlock if self.patience.waiting() == Waiting::Blocking => {
                Err(ErrorKind::TimedOut.into())
            }
            ErrorKind::WouldBlock if is_over() => Err(ErrorKind::TimedOut.into()),
            ErrorKind::WouldBlock => {
                let mut interest = [PollFd::new(self.stream.as_fd(), wanted)];
                self.patience.pause(&mut interest, deadline)
            }
            _ => Err(error),
        }
    }
}

/// Whether an error means that the other end is gone rather than that something is wrong here.
pub(crate) fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof)
}
