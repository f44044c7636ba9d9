//! The `tcp` wire: always there, between any two hosts.
//!
//! One type, [`TcpWire`], with two engines behind it. `io_uring` hands the kernel a ring of pool buffers to receive
//! into and shares one system call between the sends of a poll, unless there is just one; `epoll` asks which sockets are
//! ready and reads and writes them itself, for kernels and containers that do not allow the former. They differ in cost, not in
//! behaviour: the same conformance suite runs over both. What they share lies beside them: addresses, sockets, the
//! table of channels, and the list of what a channel is sending.
//!
//! What it promises beyond the contract of all wires: a received byte is copied once, by the kernel, into a pool
//! buffer; a sent byte once, by the kernel, out of one. Once its lists have grown to what
//! the load needs, the data path allocates nothing; a channel's send list, 8 KiB, is allocated when it comes up.
//!
//! What it must never know: what a frame or a message is, and what time it is.

mod accept;
mod config;
mod epoll;
mod io_uring;
mod outgoing;
mod socket;
mod token;

pub use config::{Engine, EngineChoice, OpenError, TcpConfig};

use super::{
    Channel, ConnectError, ListenError, Listener, Listening, SendRefused, WaitPoint, Wire, WireEvent,
};
use crate::pool::{GatherList, Pool};
use epoll::EpollEngine;
use io_uring::UringEngine;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Bodies lie at multiples of so many bytes in the stream, and shall in memory: copies between places that differ
/// modulo a page by a few bytes cost ten times as much.
const LINE_BYTES: usize = 64;

/// One thread's TCP channels and listeners, on whichever engine the machine allows.
///
/// It stays on the thread that opened it (it is not [`Send`]): the kernel accepts an `io_uring` that was set up for
/// the cheapest completion only from the thread that made it.
///
/// ```compile_fail
/// fn moves_to_another_thread<T: Send>() {}
/// moves_to_another_thread::<underlay::backend::tcp::TcpWire>();
/// ```
///
/// Addresses have the form `host:port`, with an IPv6 address in brackets. A host name is looked up by the system's
/// resolver, which may block for seconds; an IP address never blocks. If a name has several addresses, they are tried
/// in the resolver's order.
///
/// Dropping it ends all channels without events. What the kernel may still touch is freed only when it has let go of
/// it; if the kernel does not do so within a second, that memory is leaked on purpose.
#[derive(Debug)]
pub struct TcpWire {
    engine: EngineState,
    reason: Option<String>,
}

#[derive(Debug)]
enum EngineState {
    IoUring(Box<UringEngine>),
    Epoll(Box<EpollEngine>),
}

/// Calls the same method of whichever engine there is.
macro_rules! engine {
    ($wire:expr, $engine:ident => $call:expr) => {
        match &mut $wire.engine {
            EngineState::IoUring($engine) => $call,
            EngineState::Epoll($engine) => $call,
        }
    };
}

impl TcpWire {
    /// Opens the wire on this thread, with its receive buffers taken from `pool`: [`TcpConfig::receive_buffers`] of
    /// them on io_uring, at most eight on epoll. [`Wire::poll`] must be given that same pool, or one like it.
    ///
    /// # Errors
    /// [`OpenError`]: a value of the configuration that cannot work, a pool without a single buffer to spare, or an
    /// engine that this machine does not allow, with the reason.
    pub fn open(config: TcpConfig, pool: &mut Pool) -> Result<Self, OpenError> {
        config.validate()?;
        match config.engine {
            EngineChoice::IoUring => Self::open_io_uring(config, pool),
            EngineChoice::Epoll => Self::open_epoll(config, pool, None),
            EngineChoice::Auto => match Self::open_io_uring(config.clone(), pool) {
                Err(OpenError::IoUring { reason }) => {
                    tracing::info!(%reason, "the tcp wire runs on epoll: io_uring cannot be used");
                    Self::open_epoll(config, pool, Some(reason))
                }
                outcome => outcome,
            },
        }
    }

    fn open_io_uring(config: TcpConfig, pool: &mut Pool) -> Result<Self, OpenError> {
        let engine = UringEngine::open(config, pool)?;
        Ok(Self { engine: EngineState::IoUring(Box::new(engine)), reason: None })
    }

    fn open_epoll(config: TcpConfig, pool: &mut Pool, reason: Option<String>) -> Result<Self, OpenError> {
        let engine = EpollEngine::open(config, pool)?;
        Ok(Self { engine: EngineState::Epoll(Box::new(engine)), reason })
    }

    /// The engine that it runs on.
    pub fn engine(&self) -> Engine {
        match self.engine {
            EngineState::IoUring(_) => Engine::IoUring,
            EngineState::Epoll(_) => Engine::Epoll,
        }
    }

    /// Why it is not io_uring, when [`EngineChoice::Auto`] had to fall back.
    pub fn engine_reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

impl Wire for TcpWire {
    fn listen(&mut self, address: &str) -> Result<Listening, ListenError> {
        engine!(self, engine => engine.listen(address))
    }

    fn connect(&mut self, address: &str) -> Result<Channel, ConnectError> {
        engine!(self, engine => engine.connect(address))
    }

    #[inline]
    fn send(&mut self, channel: Channel, gather: &mut GatherList) -> Result<(), SendRefused> {
        engine!(self, engine => engine.send(channel, gather))
    }

    fn close(&mut self, channel: Channel) {
        engine!(self, engine => engine.close(channel))
    }

    fn stop_listening(&mut self, listener: Listener) {
        engine!(self, engine => engine.stop_listening(listener))
    }

    #[inline]
    fn poll(&mut self, pool: &mut Pool, events: &mut Vec<WireEvent>) -> io::Result<()> {
        engine!(self, engine => engine.poll(pool, events))
    }
}

impl WaitPoint for TcpWire {
    fn watch(&mut self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        engine!(self, engine => engine.watch(descriptor))
    }

    fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        engine!(self, engine => engine.sleep(timeout))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::backend::ChannelEnd;
    use crate::pool::PoolConfig;
    use std::net::{SocketAddr, TcpListener};

    fn local(listener: &TcpListener) -> SocketAddr {
        listener.local_addr().unwrap()
    }

    /// What comes of connecting to any of `addresses`.
    fn outcome(engine: EngineChoice, addresses: Vec<SocketAddr>) -> Option<WireEvent> {
        let mut pool = Pool::new(PoolConfig::edge()).unwrap();
        let mut wire = match TcpWire::open(TcpConfig { engine, ..TcpConfig::default() }, &mut pool) {
            Err(OpenError::IoUring { reason }) => {
                eprintln!("skipped: {reason}");
                return None;
            }
            outcome => outcome.unwrap(),
        };
        engine!(wire, engine => engine.connect_to_any(addresses)).unwrap();
        let mut events = Vec::new();
        while events.is_empty() {
            wire.sleep(None).unwrap();
            wire.poll(&mut pool, &mut events).unwrap();
        }
        events.pop()
    }

    #[test]
    fn addresses_are_tried_in_turn() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let refusing = local(&TcpListener::bind("127.0.0.1:0").unwrap());
        for engine in [EngineChoice::IoUring, EngineChoice::Epoll] {
            if let Some(event) = outcome(engine, vec![refusing, refusing, local(&listener)]) {
                assert!(matches!(event, WireEvent::Connected { .. }), "{event:?}");
            }
            if let Some(event) = outcome(engine, vec![refusing, refusing]) {
                let WireEvent::Closed { reason: ChannelEnd::ConnectFailed(error), .. } = event else {
                    panic!("{event:?}");
                };
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            }
        }
    }
}
