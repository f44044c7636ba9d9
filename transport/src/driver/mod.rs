//! One thread's loop over any number of wires and connections.
//!
//! A [`Driver`] owns the [`Core`] (wires, connections, buffers, timers) and a [`Handler`], which is what answers
//! events. [`Driver::turn`] does all that can be done without waiting: it takes submissions, polls the wires, pulls
//! each connection's events for the handler, fires timers, and starts the sends that came of it. [`Driver::run`] and
//! [`Driver::run_until`] alternate turns with waiting, on whatever thread they are called.
//!
//! What it promises: no turn blocks; handlers are called one at a time and may use any connection; each connection
//! that was opened, or asked for, is reported closed exactly once; a driver with nothing to do sleeps in the kernel.
//!
//! What it must never know: what a destination is, and what messages are for.

mod address;
mod core;
mod handler;
mod settlement;
#[cfg(feature = "simulation")]
mod simulated;
mod stats;
pub(crate) mod timers;
mod waiter;
mod wires;

pub use self::core::{ConnectionId, Core, DriverError};
pub use address::{Address, AddressError};
pub use handler::{DetachedByPeer, Handler, Leaving, Resumed, Settled};
#[cfg(feature = "simulation")]
pub use simulated::Simulated;
pub use stats::DriverStats;
pub use waiter::{WaitConfig, WaitMode, WaitStats, WaitStep, Waiter};
#[cfg(feature = "simulation")]
pub use wires::SimulatedWires;
pub use wires::WiresError;

use self::core::Surroundings;
use crate::backend::inproc::InprocNetwork;
use crate::backend::rdma::RdmaConfig;
use crate::backend::tcp::TcpConfig;
use crate::backend::{WireEvent, WireKind};
use crate::connection::{CloseReason, ConnectionConfig, ConnectionEvent, Deliveries, Identity};
use crate::message::Message;
use crate::pool::{Pool, PoolConfig};
use crate::proto::control::RefusalCode;
use crate::sabotage::{self, Bug};
use crate::session::SessionConfig;
use crate::sync::Wakeup;
use crate::time::{Clock, Timestamp};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use std::vec::Drain;
use wires::Wires;

/// The settings of a driver. The defaults suit a broker or a client with up to some thousand connections.
#[derive(Debug, Clone)]
pub struct DriverConfig {
    /// Its buffers.
    pub pool: PoolConfig,
    /// The TCP wire.
    pub tcp: TcpConfig,
    /// The RDMA wire, which is opened when an address first asks for it.
    pub rdma: RdmaConfig,
    /// Each connection.
    pub connection: ConnectionConfig,
    /// What outlives connections.
    pub session: SessionConfig,
    /// How it waits.
    pub wait: WaitConfig,
    /// The most sessions, those included that have no connection just now; one more is refused with that reason.
    /// Default 10,000.
    pub connections_max: usize,
}

impl Default for DriverConfig {
    fn default() -> Self {
        Self {
            pool: PoolConfig::default(),
            tcp: TcpConfig::default(),
            rdma: RdmaConfig::default(),
            connection: ConnectionConfig::default(),
            session: SessionConfig::default(),
            wait: WaitConfig::default(),
            connections_max: 10_000,
        }
    }
}

/// The loop, its state, and what answers its events.
#[derive(Debug)]
pub struct Driver<H> {
    core: Core,
    handler: H,
    events: Vec<WireEvent>,
    stalled: Vec<ConnectionId>,
    waiter: Waiter,
    /// The last turn found something, and nothing was waited for since.
    has_just_turned: bool,
}

impl<H: Handler> Driver<H> {
    /// A driver on this thread, which must be the one that turns it.
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn new(config: DriverConfig, identity: Identity, handler: H) -> Result<Self, DriverError> {
        Self::on_network(config, identity, InprocNetwork::global(), handler)
    }

    /// A driver that is woken by this wakeup, which others may have had before it.
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn with_wakeup(
        config: DriverConfig,
        identity: Identity,
        wakeup: Arc<Wakeup>,
        handler: H,
    ) -> Result<Self, DriverError> {
        Self::assemble(config, identity, InprocNetwork::global(), wakeup, handler)
    }

    /// A driver whose `inproc` wire belongs to this network instead of the process's.
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn on_network(
        config: DriverConfig,
        identity: Identity,
        network: InprocNetwork,
        handler: H,
    ) -> Result<Self, DriverError> {
        let wakeup = Arc::new(Wakeup::new().map_err(DriverError::Wakeup)?);
        Self::assemble(config, identity, network, wakeup, handler)
    }

    fn assemble(
        config: DriverConfig,
        identity: Identity,
        network: InprocNetwork,
        wakeup: Arc<Wakeup>,
        handler: H,
    ) -> Result<Self, DriverError> {
        #[cfg(feature = "simulation")]
        if let Some(simulated) = Simulated::take() {
            return Self::assemble_simulated(config, identity, simulated, wakeup, handler);
        }
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| DriverError::Random(error.to_string()))?;
        let surroundings = Surroundings { clock: Clock::new(), seed };
        Self::surrounded(config, identity, surroundings, handler, |config, pool| {
            Wires::open(config.tcp.clone(), config.rdma.clone(), network, wakeup, pool)
        })
    }

    fn surrounded(
        config: DriverConfig,
        identity: Identity,
        surroundings: Surroundings,
        handler: H,
        open_wires: impl FnOnce(&DriverConfig, &mut Pool) -> Result<Wires, WiresError>,
    ) -> Result<Self, DriverError> {
        let waiter = Waiter::new(config.wait);
        let core = Core::new(config, identity, surroundings, open_wires)?;
        Ok(Self { core, handler, events: Vec::new(), stalled: Vec::new(), waiter, has_just_turned: false })
    }

    /// What the handler uses, and the handler: to listen, connect and look into it from outside of events.
    pub fn parts(&mut self) -> (&mut Core, &mut H) {
        self.core.read_clock();
        (&mut self.core, &mut self.handler)
    }

    /// What the driver did so far.
    pub fn stats(&self) -> DriverStats {
        DriverStats { wait: self.waiter.stats(), ..self.core.stats() }
    }

    /// Turns and waits until the handler calls [`Core::stop`].
    ///
    /// # Errors
    /// As [`Driver::turn`].
    pub fn run(&mut self) -> io::Result<()> {
        while !self.core.is_stopping {
            self.turn_and_wait(Timestamp::NEVER, &mut |_, _| false)?;
        }
        Ok(())
    }

    /// Turns and waits until `is_done`, which is asked before each turn and once more before each sleep, or until
    /// `timeout` is over; says whether it is done.
    ///
    /// Another thread that makes it done wakes the driver by its [`Core::wakeup`] afterwards. No such wake is lost,
    /// since the driver asks again when it has announced its sleep.
    ///
    /// # Errors
    /// As [`Driver::turn`].
    pub fn run_until(
        &mut self,
        timeout: Option<Duration>,
        mut is_done: impl FnMut(&mut Core, &mut H) -> bool,
    ) -> io::Result<bool> {
        self.core.read_clock();
        let deadline = timeout.map_or(Timestamp::NEVER, |timeout| self.core.now() + timeout);
        loop {
            if is_done(&mut self.core, &mut self.handler) {
                return Ok(true);
            }
            if self.core.now() >= deadline || self.core.is_stopping {
                return Ok(false);
            }
            if self.turn_and_wait(deadline, &mut is_done)? {
                return Ok(true);
            }
        }
    }

    /// Does what can be done now, without waiting. True if it found anything to do.
    ///
    /// # Errors
    /// Only when a wire as a whole is broken, which ends the driver; a connection's trouble is its own.
    pub fn turn(&mut self) -> io::Result<bool> {
        self.core.read_clock();
        self.core.stats.turns += 1;
        let mut found = self.handler.take_submissions(&mut self.core);
        // What was begun outside of a turn leaves before the first look at what has arrived.
        self.flush();
        found |= self.poll_wires()?;
        found |= self.fire_timers();
        self.retry_stalled();
        self.flush();
        Ok(found)
    }

    /// A turn, and after one that found nothing, what the waiter says. Where it would sleep at once anyway, the turn
    /// that finds nothing is left out: the sleep looks for itself. True if it is done.
    fn turn_and_wait(
        &mut self,
        deadline: Timestamp,
        is_done: &mut impl FnMut(&mut Core, &mut H) -> bool,
    ) -> io::Result<bool> {
        if !(self.has_just_turned && self.waiter.sleeps_at_once()) {
            self.has_just_turned = self.turn()?;
            if self.has_just_turned {
                self.waiter.found(self.core.now());
                return Ok(false);
            }
        }
        self.has_just_turned = false;
        match self.waiter.found_nothing(self.core.now()) {
            WaitStep::Poll => std::hint::spin_loop(),
            WaitStep::Yield => std::thread::yield_now(),
            WaitStep::Sleep => return self.sleep(deadline, is_done),
        }
        Ok(false)
    }

    /// Arms the wakeup, looks once more at what only the wakeup would tell of, and sleeps. What the wait point itself
    /// watches needs no look: it ends the sleep at once if it is there. True if it is done.
    fn sleep(
        &mut self,
        deadline: Timestamp,
        is_done: &mut impl FnMut(&mut Core, &mut H) -> bool,
    ) -> io::Result<bool> {
        self.core.wakeup().about_to_sleep();
        let mut found = self.handler.take_submissions(&mut self.core);
        found |= self.poll_wire(WireKind::Inproc)?;
        if self.core.wires.has_rdma() {
            self.core.wires.arm()?;
            found |= self.poll_rdma()?;
        }
        self.flush();
        // What another thread did before the wakeup was armed has woken nobody.
        let done = is_done(&mut self.core, &mut self.handler);
        if found || done {
            self.core.wakeup().awake();
            self.waiter.found(self.core.now());
            return Ok(done);
        }
        // The question may have begun something.
        self.flush();
        self.core.read_clock();
        let due = deadline.min(self.core.next_due());
        let until_due = (due != Timestamp::NEVER).then(|| due.since(self.core.now()));
        // Asked last: what was just flushed may wait for something that wakes nobody.
        let timeout = [until_due, self.core.wires.sleep_max()].into_iter().flatten().min();
        let slept = self.core.wires.sleep(timeout);
        self.core.wakeup().awake();
        slept.map(|()| false)
    }

    fn poll_wires(&mut self) -> io::Result<bool> {
        let mut found = self.poll_wire(WireKind::Tcp)? | self.poll_wire(WireKind::Inproc)?;
        if self.core.wires.has_rdma() {
            found |= self.poll_rdma()?;
        }
        Ok(found)
    }

    /// Apart from the others, which are polled in every process.
    #[inline(never)]
    fn poll_rdma(&mut self) -> io::Result<bool> {
        self.poll_wire(WireKind::Rdma)
    }

    #[inline(always)] // for each wire as it is
    fn poll_wire(&mut self, kind: WireKind) -> io::Result<bool> {
        let mut events = std::mem::take(&mut self.events);
        let outcome = self.core.wires.poll(kind, &mut self.core.pool, &mut events);
        // That a send is done is no news: what waited behind it leaves in this turn.
        let found = events.iter().any(|event| !matches!(event, WireEvent::Sent { .. }));
        if !events.is_empty() {
            self.wire_events(kind, events.drain(..));
        }
        self.events = events;
        outcome.map(|()| found)
    }

    fn wire_events(&mut self, kind: WireKind, mut events: Drain<'_, WireEvent>) {
        while let Some(event) = events.next() {
            let goes_on = match (&event, events.as_slice().first()) {
                (WireEvent::Received { channel, .. }, Some(WireEvent::Received { channel: next, .. })) => {
                    channel == next
                }
                _ => false,
            };
            self.wire_event(kind, event, goes_on);
        }
    }

    /// What arrives in several pieces that lie behind each other here is looked at with the last of them, and not as
    /// often as there are pieces: `goes_on` with those before.
    #[inline]
    fn wire_event(&mut self, kind: WireKind, event: WireEvent, goes_on: bool) {
        match event {
            WireEvent::Received { channel, segment } => {
                if let Some(id) = self.core.received(kind, channel, segment)
                    && !goes_on
                {
                    self.pull(id);
                }
            }
            WireEvent::Sent { channel } => self.core.sent(kind, channel),
            WireEvent::Accepted { channel, path, .. } => self.core.channel_open(kind, channel, path, true),
            WireEvent::Connected { channel, path } => self.core.channel_open(kind, channel, path, false),
            WireEvent::Read { channel, read, outcome } => {
                if let Some(id) = self.core.read_done(kind, channel, read, outcome) {
                    self.pull(id);
                }
            }
            WireEvent::Closed { channel, reason } => {
                if let Some(id) = self.core.channel_closed(kind, channel, &reason.to_string()) {
                    self.pull(id);
                    self.core.remove_if_gone(id);
                }
            }
            WireEvent::AcceptFailed { error, .. } => {
                self.core.stats.accepts_failed += 1;
                tracing::warn!(%error, "a listener could not accept; it tries again");
            }
        }
    }

    /// Gives the handler every event that a connection has.
    fn pull(&mut self, id: ConnectionId) {
        self.deliver(id);
        self.core.pulled(id);
    }

    fn deliver(&mut self, id: ConnectionId) {
        loop {
            // A message is long: what finds it writes it here, and nothing moves it before the handler does.
            let mut arrived = None;
            match self.core.poll_event(id, &mut arrived) {
                Some(ConnectionEvent::Message) => {
                    if let Some(message) = arrived {
                        self.message(id, message);
                    }
                }
                Some(event) => self.connection_event(id, event),
                None => return,
            }
        }
    }

    #[inline]
    fn message(&mut self, id: ConnectionId, message: Message) {
        self.core.stats.messages_received += 1;
        if sabotage::strikes(Bug::LoseMessage) {
            return;
        }
        self.handler.message(&mut self.core, id, message);
    }

    fn connection_event(&mut self, id: ConnectionId, event: ConnectionEvent) {
        let (core, handler) = (&mut self.core, &mut self.handler);
        match event {
            // Taken where it is found.
            ConnectionEvent::Message => {}
            ConnectionEvent::Writable { link } => handler.writable(core, id, link),
            ConnectionEvent::Opened(peer) => {
                tracing::debug!(connection = %id, peer = core.peer(id), "opened");
                core.opened(id);
                handler.opened(core, id, &peer);
            }
            ConnectionEvent::Interrupted(reason) => {
                tracing::info!(connection = %id, peer = core.peer(id), reason = reason.name(), "interrupted: {reason}");
                handler.interrupted(core, id, &reason);
            }
            ConnectionEvent::Resumed { path, interrupted_for } => {
                if let Some(resumed) = core.resumed(id, path, interrupted_for) {
                    tracing::info!(connection = %id, peer = resumed.peer, wire = %resumed.wire, ?interrupted_for, "resumed");
                    handler.resumed(core, id, &resumed);
                }
            }
            ConnectionEvent::AttachRequested(request) => handler.attach_requested(core, id, *request),
            ConnectionEvent::Attached { link } => handler.attached(core, id, link),
            ConnectionEvent::Detached { link, role, code, text } => {
                handler.detached(core, id, DetachedByPeer { link, role, code, text });
            }
            ConnectionEvent::Settled { deliveries: Deliveries { link, lane, positions }, outcome } => {
                handler.settled(core, id, Settled { link, lane, positions, outcome });
            }
            ConnectionEvent::Leaving { within, text } => {
                handler.leaving(core, id, &Leaving { within, text });
            }
            ConnectionEvent::Closed(reason) => self.report_closed(id, &reason),
        }
    }

    fn report_closed(&mut self, id: ConnectionId, reason: &CloseReason) {
        let peer = self.core.peer(id);
        let is_ordinary = match reason {
            CloseReason::Local { .. } | CloseReason::Peer { .. } | CloseReason::Channel(_) => true,
            // Whoever had a session with the process that was here before asks for it first.
            CloseReason::HandshakeRefused(refused) => refused.code() == RefusalCode::SessionUnknown,
            _ => false,
        };
        if is_ordinary {
            tracing::info!(connection = %id, peer, reason = reason.name(), "closed: {reason}");
        } else {
            tracing::warn!(connection = %id, peer, reason = reason.name(), "closed: {reason}");
        }
        self.core.reported_closed(reason);
        self.handler.closed(&mut self.core, id, reason);
    }

    fn fire_timers(&mut self) -> bool {
        let mut fired = false;
        while let Some(index) = self.core.connection_timers.pop_expired(self.core.now()) {
            fired = true;
            let id = self.core.expired(index);
            self.pull(id);
            self.core.remove_if_gone(id);
        }
        while let Some(key) = self.core.handler_timers.pop_expired(self.core.now()) {
            fired = true;
            self.handler.timer(&mut self.core, key);
        }
        fired
    }

    /// Tries again what waited for buffers.
    fn retry_stalled(&mut self) {
        if !self.core.is_stalled() {
            return;
        }
        let mut stalled = std::mem::take(&mut self.stalled);
        self.core.take_stalled(&mut stalled);
        for id in stalled.drain(..) {
            self.pull(id);
            self.core.transmit(id);
            self.core.remove_if_gone(id);
        }
        self.stalled = stalled;
    }

    /// Starts the sends that this turn has made ready.
    fn flush(&mut self) {
        while let Some(id) = self.core.next_dirty() {
            self.core.transmit(id);
            // Only the close that follows the last message can have come of it. Nothing is looked at again here: what
            // could not leave now waits for the send in flight or for the peer.
            if self.core.has_events(id) {
                self.deliver(id);
                self.core.remove_if_gone(id);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
