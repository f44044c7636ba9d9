//! The embedded broker: queues, exchanges and reply addresses behind a driver's [`Handler`].
//!
//! A [`Broker`] is told what happens on its driver's connections and answers by sending on others. Everything runs on
//! the driver's thread, within the call that brings the event: a message that a consumer has credit for is in that
//! consumer's connection before the call returns, with the same body segments that it arrived in.
//!
//! What it promises:
//! - Nothing on the way of a message allocates once the tables have grown to the load, and nothing hashes but the
//!   look-up of a reply address.
//! - A queue never holds more than its bounds, whatever its producers do with their credit; a full one
//!   holds up its own producers and nobody else.
//! - Messages of one producer to one queue are delivered in order; consumers take turns as far as their credit goes.
//! - For a consumer that settles a message is kept until it has said what became of it, and goes to another when it
//!   goes first, before what was never delivered, marked, and in order. For any other, what was handed to its connection
//!   is done with.
//! - Each message that is dropped is counted under its reason and logged (the first time, and whenever the count
//!   has doubled, so that a peer cannot flood the log).
//!
//! What it must never know: which wire a connection runs on, what is in a body, and how frames are packed.

mod addresses;
mod attach;
mod catalog;
mod congestion;
mod control;
mod credit;
mod ledger;
mod queue;
mod replies;
mod route;
mod settlement;
mod stats;
mod tables;
mod unsettled;

pub use control::Control;
pub(crate) use stats::report;
pub use stats::{BrokerStats, ListenerFallback, QueueStats};

use crate::config::Config;
use addresses::Addresses;
use catalog::Catalog;
use control::{Command, Phase};
use ledger::Amount;
use queue::{Consumer, Producer, Queue};
use settlement::Ending;
use std::sync::mpsc;
use std::time::Duration;
use tables::{LinkUse, Peers, Slab};
use underlay::backend::{Listener, WireKind};
use underlay::connection::{AttachRequest, CloseReason};
use underlay::driver::{Address, ConnectionId, Core, DetachedByPeer, Handler, Resumed, Settled};
use underlay::message::Message;
use underlay::proto::LinkId;
use underlay::proto::handshake::Negotiated;
use underlay::time::Timestamp;

/// A broker for one driver.
#[derive(Debug)]
pub struct Broker {
    rules: Rules,
    catalog: Catalog,
    queues: Vec<Queue>,
    producers: Slab<Producer>,
    consumers: Slab<Consumer>,
    addresses: Addresses,
    peers: Peers,
    /// Connections that have more to take than the mark says; looked at in each turn.
    congested: Vec<ConnectionId>,
    /// Nothing is tried again before this, because the pool was empty.
    retry_at: Timestamp,
    /// Queues to which messages have come back that were delivered, and have not been given out again.
    returned: Vec<usize>,
    /// A timer runs for what is unsettled for long.
    is_compacting: bool,
    stats: BrokerStats,
    phase: Phase,
    listeners: Vec<(Address, Listener)>,
    commands: (mpsc::Sender<Command>, mpsc::Receiver<Command>),
}

/// What of the configuration is asked on the way of a message.
#[derive(Debug, Clone, Copy)]
struct Rules {
    window: Amount,
    congestion: Amount,
    /// What may be held for one reply address, and for one connection.
    held_max: Amount,
    hops_max: u8,
    drain_timeout: Duration,
    close_timeout: Duration,
}

impl Broker {
    /// A broker with the queues and exchanges of a configuration.
    pub fn new(config: &Config) -> Self {
        let settings = config.settings();
        let limits = &settings.limits;
        let window = Amount::new(limits.link_messages_max, limits.link_bytes_max);
        Self {
            rules: Rules {
                window,
                congestion: Amount::new(limits.congestion_messages, limits.congestion_bytes),
                held_max: Amount::new(limits.held_replies_max, limits.held_reply_bytes_max),
                hops_max: limits.hops_max as u8,
                drain_timeout: Duration::from_millis(settings.broker.drain_timeout_ms),
                close_timeout: Duration::from_millis(limits.close_timeout_ms),
            },
            catalog: Catalog::new(settings),
            queues: settings.queue.iter().map(|queue| Queue::new(queue, window)).collect(),
            producers: Slab::new(),
            consumers: Slab::new(),
            addresses: Addresses::new(),
            peers: Peers::default(),
            congested: Vec::new(),
            retry_at: Timestamp::ZERO,
            returned: Vec::new(),
            is_compacting: false,
            stats: BrokerStats::default(),
            phase: Phase::Running,
            listeners: Vec::new(),
            commands: mpsc::channel(),
        }
    }

    /// Says that this listener is the broker's to stop when it is told to shut down.
    pub fn owns_listener(&mut self, address: Address, listener: Listener) {
        self.listeners.push((address, listener));
    }

    /// Says that this listener of the configuration is on another wire than it was to be. That is logged, and part of
    /// the broker's figures from now on.
    pub(crate) fn falls_back(
        &mut self,
        listener: usize,
        missing: WireKind,
        address: Address,
        reason: String,
    ) {
        tracing::warn!(listener, %address, %missing, reason, "a listener falls back to another wire");
        self.stats.fallbacks.push(ListenerFallback { listener, missing, address, reason });
    }

    /// By which other threads stop the broker and ask for its figures.
    pub fn control(&self, core: &Core) -> Control {
        Control::new(self.commands.0.clone(), core.wakeup().clone())
    }

    /// What it did so far, and how its queues are now.
    pub fn stats(&self) -> BrokerStats {
        let queue_stats = |queue: &Queue| QueueStats {
            name: queue.name.clone(),
            depth: queue.entries.len() as u64,
            depth_max: queue.counts.depth_max,
            bytes: queue.ledger.stored().bytes,
            granted: queue.ledger.outstanding().messages,
            messages_in: queue.counts.messages_in,
            queued: queue.counts.queued,
            delivered: queue.counts.delivered,
            settled: queue.counts.settled,
            unsettled: queue.unsettled,
            full_pushes: queue.counts.full_pushes,
            producers: queue.ledger.producers(),
            consumers: queue.consumers,
        };
        BrokerStats { queues: self.queues.iter().map(queue_stats).collect(), ..self.stats.clone() }
    }

    /// Timers with smaller keys belong to the queues of these numbers.
    fn retry_timer(&self) -> usize {
        self.queues.len()
    }

    fn shutdown_timer(&self) -> usize {
        self.queues.len() + 1
    }

    fn compaction_timer(&self) -> usize {
        self.queues.len() + 2
    }
}

impl Handler for Broker {
    fn opened(&mut self, _: &mut Core, connection: ConnectionId, _: &Negotiated) {
        self.peers.open(connection);
    }

    fn attach_requested(&mut self, core: &mut Core, connection: ConnectionId, request: AttachRequest) {
        self.attach(core, connection, request);
    }

    /// Never for this broker: it asks for no links.
    fn attached(&mut self, _: &mut Core, _: ConnectionId, _: LinkId) {}

    fn detached(&mut self, core: &mut Core, connection: ConnectionId, detached: DetachedByPeer) {
        let what = self.peers.take_link(connection, detached.link);
        self.forget_link(core, what, Ending::of_link(detached.code));
        self.pump_returned(core);
    }

    fn message(&mut self, core: &mut Core, connection: ConnectionId, message: Message) {
        self.take_message(core, connection, message);
    }

    fn writable(&mut self, core: &mut Core, connection: ConnectionId, link: LinkId) {
        match self.peers.link(connection, link) {
            LinkUse::Consumer(consumer) => self.consumer_ready(core, consumer),
            LinkUse::Reply(place) => self.flush_held(core, place),
            LinkUse::Producer(_) | LinkUse::Unused => {}
        }
    }

    fn closed(&mut self, core: &mut Core, connection: ConnectionId, reason: &CloseReason) {
        self.stats.count_closed(reason);
        let ending = Ending::of_session(reason);
        let mut place = 0;
        while let Some(what) = self.peers.take_link_at(connection, place) {
            self.forget_link(core, what, ending);
            place += 1;
        }
        self.peers.close(connection);
        self.pump_returned(core);
    }

    fn interrupted(&mut self, core: &mut Core, connection: ConnectionId, _: &CloseReason) {
        self.set_interrupted(core, connection, true);
    }

    fn resumed(&mut self, core: &mut Core, connection: ConnectionId, _: &Resumed) {
        self.set_interrupted(core, connection, false);
    }

    fn settled(&mut self, core: &mut Core, connection: ConnectionId, settled: Settled) {
        self.settle(core, connection, settled);
    }

    fn take_submissions(&mut self, core: &mut Core) -> bool {
        let commanded = self.take_commands(core);
        let relieved = self.relieve(core);
        let returned = self.pump_returned(core);
        let advanced = self.advance_shutdown(core);
        commanded || relieved || returned || advanced
    }

    fn timer(&mut self, core: &mut Core, key: usize) {
        // The others only bring about a turn, in which everything that waits is looked at.
        if key < self.queues.len() {
            self.drop_expired(core, key);
        } else if key == self.compaction_timer() {
            self.compact_unsettled(core);
        }
    }
}

/// Counts one more; calls `log` with the new count if that is 1, 2, 4, 8...
fn count(counter: &mut u64, log: impl FnOnce(u64)) {
    *counter += 1;
    if counter.is_power_of_two() {
        log(*counter);
    }
}
