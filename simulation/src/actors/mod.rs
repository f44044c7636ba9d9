//! The processes of a simulated world: brokers, clients and services as they are shipped, and plain producers and
//! consumers of one-way messages.
//!
//! An [`Actor`] is one life of a process. It has a driver on the wires of its host, and does what an application would:
//! it connects, and connects again when it was cut off; it sends what it is to send, and tells the oracle; it closes
//! when it is told to. It knows only its own time, which jumps now and then.
//!
//! What it must never know: what the network is about to do to it.

mod broker;
mod client;
mod consumer;
mod ear;
mod producer;
mod service;
mod settling;
mod uplink;

pub(crate) use broker::BrokerActor;
pub(crate) use client::{ClientActor, ClientPlan};
pub(crate) use consumer::Consumer;
pub(crate) use ear::Ear;
pub(crate) use producer::{Producer, ProducerPlan};
pub(crate) use service::{Rebirth, ServiceActor};
pub(crate) use settling::Unsettled;
pub(crate) use uplink::Uplink;

use crate::oracle::{ActorId, Oracle};
use crate::random::Random;
use std::io;
use std::time::Duration;
use underlay::connection::{ConnectionConfig, Identity};
use underlay::driver::{Address, ConnectionId, Driver, DriverConfig, Handler, Simulated, SimulatedWires};
use underlay::pool::PoolConfig;
use underlay::proto::control::CloseCode;
use underlay::proto::hello::ProcessIdentity;
use underlay::proto::{Incarnation, Origin, Parameters, ProcessId};
use underlay::session::SessionConfig;
use underlay::time::Timestamp;

/// One life of a process.
pub(crate) trait Actor {
    /// Does what can be done at `now`, its own time; true if it found anything to do.
    fn turn(&mut self, now: Timestamp) -> io::Result<bool>;

    /// When it has something to do even if nothing arrives, in its own time.
    fn next_due(&mut self) -> Timestamp;

    /// Sends nothing more, and closes everything in order.
    fn close(&mut self);

    /// Whether nothing is open any more.
    fn is_closed(&mut self) -> bool;

    /// What it holds although everything is closed.
    fn leaks(&mut self) -> Vec<String>;

    /// What it still holds although everything has arrived and it has been told so, with nothing closed yet.
    fn unrest(&mut self) -> Option<String> {
        None
    }

    /// Messages that wait at it for somebody to take them.
    fn backlog(&mut self) -> u64 {
        0
    }

    /// Something that must be true at any time, and is not.
    fn wrong(&mut self) -> Option<String> {
        None
    }
}

/// What a process is born with.
#[derive(Debug)]
pub(crate) struct Birth {
    pub(crate) me: ActorId,
    pub(crate) oracle: Oracle,
    pub(crate) life: u32,
    pub(crate) wires: SimulatedWires,
    pub(crate) now: Timestamp,
    pub(crate) random: Random,
    pub(crate) config: DriverConfig,
}

impl Birth {
    /// Who this life of the process is.
    pub(crate) fn process(&self) -> ProcessIdentity {
        process_of(self.me, self.life)
    }

    /// What its driver gets, and what is left.
    pub(crate) fn split(self) -> (Simulated, Rest) {
        let Self { me, oracle, wires, now, mut random, config, .. } = self;
        let simulated = Simulated { wires, now, seed: random.bytes() };
        (simulated, Rest { me, oracle, random, config })
    }
}

/// What a process keeps of its birth.
#[derive(Debug)]
pub(crate) struct Rest {
    pub(crate) me: ActorId,
    pub(crate) oracle: Oracle,
    pub(crate) random: Random,
    pub(crate) config: DriverConfig,
}

/// A process's identity: its number is the process's in all its lives.
pub(crate) fn process_of(actor: ActorId, life: u32) -> ProcessIdentity {
    ProcessIdentity {
        process: ProcessId([actor.0 as u8 + 1; 16]),
        incarnation: Incarnation(life + 1),
        origin: Origin(((actor.0 as u64 + 1) << 32) | u64::from(life)),
    }
}

/// Whose identity this is.
pub(crate) fn actor_of(process: &ProcessIdentity) -> ActorId {
    ActorId(usize::from(process.process.0[0]).saturating_sub(1))
}

/// The name under which a broker or a listening service is found on each wire.
pub(crate) fn addresses_of(actor: ActorId) -> [Address; 2] {
    let name = format!("actor-{}", actor.0);
    [Address::inproc(name.clone()), Address::tcp(name)]
}

/// The settings of the drivers of a world: small sizes, so that short messages meet every limit, and short times.
pub(crate) fn driver_config(random: &mut Random) -> DriverConfig {
    let eager = *random.one_of(&[512, 1024, 4096]);
    let chunk = *random.one_of(&[1024, 2048, 8192]);
    let frame_slots = *random.one_of(&[16, 64, 256]);
    let parameters = Parameters {
        packet_bytes: *random.one_of(&[512, 1448, 4096]),
        frame_bytes_max: 16 << 10,
        eager_bytes_max: eager,
        chunk_bytes_max: chunk,
        message_bytes_max: 1 << 20,
        frame_slots,
        control_slots: 4,
        keep_alive_ms: 600,
        idle_timeout_ms: 2_500,
        links_max: 64,
        head_bytes_max: 1024,
    };
    DriverConfig {
        pool: PoolConfig { bytes_max: 64 << 20, slab_bytes: 64 << 10, huge_pages: false },
        connection: ConnectionConfig {
            parameters,
            handshake_timeout: Duration::from_millis(1_000),
            frame_timeout: Duration::from_millis(2_000),
            bulk_timeout: Duration::from_millis(5_000),
            send_timeout: Duration::from_millis(2_000),
            close_timeout: Duration::from_millis(300),
            send_queue_messages_max: *random.one_of(&[64, 1024]),
            ..ConnectionConfig::default()
        },
        session: SessionConfig {
            expiry: Duration::from_millis(*random.one_of(&[1_500, 6_000, 6_000])),
            reconnect_spread: Duration::from_millis(20),
            reconnect_min: Duration::from_millis(10),
            reconnect_max: Duration::from_millis(300),
            attempt_timeout: Duration::from_millis(500),
            return_after: Duration::from_millis(500),
            connection_age: random.once_in(2).then(|| Duration::from_millis(random.within(300..3_000))),
            ..SessionConfig::default()
        },
        connections_max: 64,
        ..DriverConfig::default()
    }
}

/// A process that is nothing but a handler on a driver.
#[derive(Debug)]
pub(crate) struct HandlerActor<H: Handler> {
    pub(crate) driver: Driver<H>,
}

impl<H: Handler> HandlerActor<H> {
    pub(crate) fn new(simulated: Simulated, identity: Identity, config: DriverConfig, handler: H) -> Self {
        let driver = Driver::simulated(config, identity, simulated, handler);
        Self { driver: driver.unwrap_or_else(|error| panic!("a simulated driver does not start: {error}")) }
    }
}

/// What the handler of an application has beyond events.
pub(crate) trait Application: Handler {
    /// Begins nothing more.
    fn stop(&mut self);

    /// Its session, if there is one.
    fn session(&self) -> Option<ConnectionId>;
}

impl<H: Application> Actor for HandlerActor<H> {
    fn turn(&mut self, now: Timestamp) -> io::Result<bool> {
        self.driver.set_time(now);
        self.driver.turn()
    }

    fn next_due(&mut self) -> Timestamp {
        self.driver.next_due()
    }

    fn close(&mut self) {
        let (core, handler) = self.driver.parts();
        handler.stop();
        core.close_all(CloseCode::Normal, "the application is done");
    }

    fn is_closed(&mut self) -> bool {
        self.driver.parts().0.connections() == 0
    }

    fn leaks(&mut self) -> Vec<String> {
        leaks_of(&mut self.driver)
    }

    fn unrest(&mut self) -> Option<String> {
        let (core, handler) = self.driver.parts();
        let unacknowledged = handler.session().map_or(0, |session| core.unacknowledged(session));
        core.pool().reclaim();
        let buffers_out = core.pool().stats().buffers_out;
        (unacknowledged > 0 || buffers_out > BUFFERS_KEPT)
            .then(|| format!("{unacknowledged} messages are unacknowledged, {buffers_out} buffers are out"))
    }
}

/// The buffers that a driver may keep at rest, however much it has sent: those that the heads of its next frames go into.
const BUFFERS_KEPT: usize = 4;

/// What a driver without connections still holds.
pub(crate) fn leaks_of<H: Handler>(driver: &mut Driver<H>) -> Vec<String> {
    driver.parts().0.pool().reclaim();
    let stats = driver.stats();
    let mut leaks = Vec::new();
    if stats.connections > 0 {
        leaks.push(format!("{} connections are open", stats.connections));
    }
    if stats.pool.buffers_out > 0 {
        leaks.push(format!("{} buffers are out", stats.pool.buffers_out));
    }
    leaks
}
