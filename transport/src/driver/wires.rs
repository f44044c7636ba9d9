//! All wires of one driver.

use super::address::Address;
use crate::backend::inproc::{InprocNetwork, InprocWire};
use crate::backend::rdma::{RdmaConfig, RdmaOpenError, RdmaWire};
use crate::backend::tcp::{Engine, OpenError, TcpConfig, TcpWire};
use crate::backend::{
    Channel, ConnectError, ListenError, Listener, Listening, OneSided, Path, SendRefused, WaitPoint, Wire,
    WireEvent, WireKind,
};
use crate::connection::ChannelTraits;
use crate::pool::{GatherList, Pool};
use crate::sync::Wakeup;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The wires, and the place where the driver sleeps, which is that of the TCP wire.
pub(super) struct Wires {
    set: WireSet,
    no_rdma: NoWire,
    wakeup: Arc<Wakeup>,
}

/// One wire of each kind.
#[cfg_attr(
    feature = "simulation",
    allow(
        clippy::large_enum_variant,
        reason = "a driver has one, which stays where it is; a box would be a detour"
    )
)]
enum WireSet {
    Real(RealWires),
    #[cfg(feature = "simulation")]
    Simulated(SimulatedWires),
}

struct RealWires {
    tcp: TcpWire,
    inproc: InprocWire,
    rdma: Rdma,
}

/// The `rdma` wire, which is opened when an address first asks for it: most processes never do, and most machines
/// could not.
struct Rdma {
    config: Box<RdmaConfig>,
    wire: Option<Box<RdmaWire>>,
}

/// What stands where there is no wire. No channel is ever on it.
struct NoWire(WireKind);

/// What stands in for the wires in a simulation: one of each kind, so that each can fail while the other works.
///
/// They report what happens in `poll`, as all wires do. Nobody ever sleeps on them: whoever simulates turns the driver
/// when it is due.
#[cfg(feature = "simulation")]
pub struct SimulatedWires {
    /// Takes the place of TCP.
    pub tcp: Box<dyn Wire + Send>,
    /// Takes the place of the rings within the process.
    pub inproc: Box<dyn Wire + Send>,
}

#[cfg(feature = "simulation")]
impl std::fmt::Debug for SimulatedWires {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimulatedWires")
    }
}

impl Wires {
    pub(super) fn open(
        tcp: TcpConfig,
        rdma: RdmaConfig,
        network: InprocNetwork,
        wakeup: Arc<Wakeup>,
        pool: &mut Pool,
    ) -> Result<Self, WiresError> {
        let mut tcp = TcpWire::open(tcp, pool)?;
        tcp.watch(wakeup.descriptor()).map_err(WiresError::Watch)?;
        let inproc = InprocWire::new(network, wakeup.clone());
        let rdma = Rdma { config: Box::new(rdma), wire: None };
        Ok(Self {
            set: WireSet::Real(RealWires { tcp, inproc, rdma }),
            no_rdma: NoWire(WireKind::Rdma),
            wakeup,
        })
    }

    #[cfg(feature = "simulation")]
    pub(super) fn simulated(wires: SimulatedWires, wakeup: Arc<Wakeup>) -> Self {
        Self { set: WireSet::Simulated(wires), no_rdma: NoWire(WireKind::Rdma), wakeup }
    }

    /// Which engine drives TCP, and why it is not the better one.
    pub(super) fn tcp_engine(&self) -> (Engine, Option<&str>) {
        match &self.set {
            WireSet::Real(real) => (real.tcp.engine(), real.tcp.engine_reason()),
            #[cfg(feature = "simulation")]
            WireSet::Simulated(_) => (Engine::Epoll, Some("the wires are simulated; no socket is open")),
        }
    }

    pub(super) fn listen(&mut self, address: &Address) -> Result<Listening, ListenError> {
        self.ensure(address.wire()).map_err(|error| ListenError::NoWire {
            address: address.place().to_owned(),
            wire: address.wire(),
            reason: error.to_string(),
        })?;
        self.of(address.wire()).listen(address.place())
    }

    pub(super) fn stop_listening(&mut self, kind: WireKind, listener: Listener) {
        self.of(kind).stop_listening(listener);
    }

    pub(super) fn connect(&mut self, address: &Address) -> Result<Channel, ConnectError> {
        self.ensure(address.wire()).map_err(|error| ConnectError::NoWire {
            address: address.place().to_owned(),
            wire: address.wire(),
            reason: error.to_string(),
        })?;
        self.of(address.wire()).connect(address.place())
    }

    pub(super) fn send(
        &mut self,
        kind: WireKind,
        channel: Channel,
        gather: &mut GatherList,
    ) -> Result<(), SendRefused> {
        self.of(kind).send(channel, gather)
    }

    /// What a wire can do with memory of the other end.
    #[inline]
    pub(super) fn one_sided(&mut self, kind: WireKind) -> Option<&mut dyn OneSided> {
        self.of(kind).one_sided()
    }

    /// What a session has to know of a channel that is open.
    pub(super) fn traits(&mut self, kind: WireKind, channel: Channel, path: &Path) -> ChannelTraits {
        let exposures_max = self.one_sided(kind).map_or(0, |wire| wire.exposures_max(channel));
        ChannelTraits { packet_bytes: path.packet_bytes, exposures_max }
    }

    pub(super) fn close(&mut self, kind: WireKind, channel: Channel) {
        self.of(kind).close(channel);
    }

    pub(super) fn poll(
        &mut self,
        kind: WireKind,
        pool: &mut Pool,
        events: &mut Vec<WireEvent>,
    ) -> io::Result<()> {
        self.of(kind).poll(pool, events)
    }

    /// Opens a wire that was not asked for before.
    fn ensure(&mut self, kind: WireKind) -> Result<(), NotOpened> {
        match (&mut self.set, kind) {
            (WireSet::Real(real), WireKind::Rdma) if real.rdma.wire.is_none() => {
                let wire = RdmaWire::open((*real.rdma.config).clone())?;
                real.tcp.watch(wire.descriptor())?;
                real.rdma.wire = Some(Box::new(wire));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether the wire is open that most processes never need.
    #[inline]
    pub(super) fn has_rdma(&self) -> bool {
        matches!(&self.set, WireSet::Real(RealWires { rdma: Rdma { wire: Some(_), .. }, .. }))
    }

    /// Arranges that everything that happens from now on ends a sleep.
    pub(super) fn arm(&mut self) -> io::Result<()> {
        match &mut self.set {
            WireSet::Real(RealWires { rdma: Rdma { wire: Some(wire), .. }, .. }) => wire.arm(),
            _ => Ok(()),
        }
    }

    /// How long a sleep may last that follows now.
    pub(super) fn sleep_max(&self) -> Option<Duration> {
        match &self.set {
            WireSet::Real(RealWires { rdma: Rdma { wire: Some(wire), .. }, .. }) => wire.sleep_max(),
            _ => None,
        }
    }

    /// Sleeps until a wire has something to tell, the wakeup is signalled, or the time is over.
    /// On simulated wires that is an error, for nothing would ever end it.
    pub(super) fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match &mut self.set {
            WireSet::Real(real) => real.tcp.sleep(timeout),
            #[cfg(feature = "simulation")]
            WireSet::Simulated(_) => {
                let reason = "a driver on simulated wires never sleeps: turn it when it is due";
                Err(io::Error::new(io::ErrorKind::Unsupported, reason))
            }
        }
    }

    pub(super) fn wakeup(&self) -> &Arc<Wakeup> {
        &self.wakeup
    }

    fn of(&mut self, kind: WireKind) -> &mut dyn Wire {
        match (&mut self.set, kind) {
            (WireSet::Real(RealWires { rdma: Rdma { wire: Some(wire), .. }, .. }), WireKind::Rdma) => {
                &mut **wire
            }
            (_, WireKind::Rdma) => &mut self.no_rdma,
            (WireSet::Real(real), WireKind::Tcp) => &mut real.tcp,
            (WireSet::Real(real), WireKind::Inproc) => &mut real.inproc,
            #[cfg(feature = "simulation")]
            (WireSet::Simulated(simulated), WireKind::Tcp) => &mut *simulated.tcp,
            #[cfg(feature = "simulation")]
            (WireSet::Simulated(simulated), WireKind::Inproc) => &mut *simulated.inproc,
        }
    }
}

impl Wire for NoWire {
    fn listen(&mut self, address: &str) -> Result<Listening, ListenError> {
        let reason = "it is not open".to_owned();
        Err(ListenError::NoWire { address: address.to_owned(), wire: self.0, reason })
    }

    fn connect(&mut self, address: &str) -> Result<Channel, ConnectError> {
        let reason = "it is not open".to_owned();
        Err(ConnectError::NoWire { address: address.to_owned(), wire: self.0, reason })
    }

    fn send(&mut self, _channel: Channel, _gather: &mut GatherList) -> Result<(), SendRefused> {
        Err(SendRefused::NotOpen)
    }

    fn close(&mut self, _channel: Channel) {}

    fn stop_listening(&mut self, _listener: Listener) {}

    fn poll(&mut self, _pool: &mut Pool, _events: &mut Vec<WireEvent>) -> io::Result<()> {
        Ok(())
    }
}

/// Why a wire was not opened when an address asked for it.
#[derive(Debug, thiserror::Error)]
enum NotOpened {
    #[error(transparent)]
    Rdma(#[from] RdmaOpenError),
    #[error("its descriptor cannot be watched: {0}")]
    Watch(#[from] io::Error),
}

/// Why a driver has no wires.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WiresError {
    /// The TCP wire does not open.
    #[error(transparent)]
    Tcp(#[from] OpenError),
    /// The wakeup descriptor cannot be watched.
    #[error("watching the wakeup descriptor failed: {0}")]
    Watch(#[source] io::Error),
}
