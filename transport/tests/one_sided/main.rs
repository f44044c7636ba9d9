//! Drivers on a wire that has one-sided reads, each end made of the public interface only.

#![cfg(feature = "simulation")]

#[path = "../support/forwarding.rs"]
mod forwarding;
mod wire;

use std::sync::{Arc, Mutex};
use std::time::Duration;
use underlay::backend::inproc::{InprocNetwork, InprocWire};
use underlay::connection::{AttachRequest, CloseReason, Identity, LinkRoom};
use underlay::driver::{
    Address, ConnectionId, Core, DetachedByPeer, Driver, DriverConfig, Handler, Simulated, SimulatedWires,
};
use underlay::message::Message;
use underlay::pool::PoolConfig;
use underlay::proto::control::{Address as LinkAddress, LinkRole};
use underlay::proto::handshake::Negotiated;
use underlay::proto::hello::ProcessIdentity;
use underlay::proto::record::MessageKind;
use underlay::proto::text::Name;
use underlay::proto::{Incarnation, Lane, LinkId, Origin, ProcessId};
use underlay::time::Timestamp;
use wire::{Memory, sharing};

const AMPLE: LinkRoom = LinkRoom { messages: 1 << 30, bytes: 1 << 40 };

#[derive(Default)]
struct Recorder {
    attached: Vec<LinkId>,
    messages: Vec<Message>,
    interrupted: Vec<&'static str>,
    closed: Vec<CloseReason>,
    /// Where every message goes on to, as a reply.
    onward: Option<ConnectionId>,
}

impl Handler for Recorder {
    fn opened(&mut self, _: &mut Core, _: ConnectionId, _: &Negotiated) {}

    fn attach_requested(&mut self, core: &mut Core, connection: ConnectionId, request: AttachRequest) {
        core.accept_link(connection, request.link, AMPLE).expect("it waits for an answer");
    }

    fn attached(&mut self, _: &mut Core, _: ConnectionId, link: LinkId) {
        self.attached.push(link);
    }

    fn detached(&mut self, _: &mut Core, _: ConnectionId, _: DetachedByPeer) {}

    fn message(&mut self, core: &mut Core, _: ConnectionId, mut message: Message) {
        match self.onward {
            None => self.messages.push(message),
            Some(onward) => {
                message.head.kind = MessageKind::Reply;
                message.head.link = None;
                core.send(onward, message).map_err(|(error, _)| error).expect("there is room");
            }
        }
    }

    fn writable(&mut self, _: &mut Core, _: ConnectionId, _: LinkId) {}

    fn interrupted(&mut self, _: &mut Core, _: ConnectionId, reason: &CloseReason) {
        self.interrupted.push(reason.name());
    }

    fn closed(&mut self, _: &mut Core, _: ConnectionId, reason: &CloseReason) {
        self.closed.push(reason.clone());
    }
}

/// Drivers 0 and up, each of which listens, on a wire with one-sided reads and on one without.
struct Stage {
    now: Timestamp,
    memory: Arc<Mutex<Memory>>,
    drivers: Vec<Driver<Recorder>>,
}

fn place(number: usize) -> Address {
    Address::inproc(format!("driver-{number}"))
}

impl Stage {
    fn new(drivers: u8) -> Self {
        let (network, other) = (InprocNetwork::new(), InprocNetwork::new());
        let memory = Arc::new(Mutex::new(Memory::default()));
        let now = Timestamp::from_nanoseconds(1_000_000);
        let drivers = (0..drivers).map(|number| {
            let wakeup = Arc::new(underlay::Wakeup::new().expect("an eventfd"));
            let wires = SimulatedWires {
                tcp: Box::new(InprocWire::new(other.clone(), wakeup)),
                inproc: Box::new(sharing(network.clone(), memory.clone())),
            };
            let mut driver = driver(number, Simulated { wires, now, seed: [number; 32] });
            driver.parts().0.listen(&place(number.into())).expect("the name is free");
            driver
        });
        Self { now, drivers: drivers.collect(), memory: memory.clone() }
    }

    /// Lets time pass, by the millisecond.
    fn run_for(&mut self, time: Duration) {
        for _ in 0..time.as_millis() {
            self.now = self.now + Duration::from_millis(1);
            for _ in 0..10 {
                for driver in &mut self.drivers {
                    driver.set_time(self.now);
                    driver.turn().expect("the wires work");
                }
            }
        }
    }

    fn connect(&mut self, from: usize, to: usize) -> ConnectionId {
        let id = self.drivers[from].parts().0.connect(&place(to)).expect("it listens");
        self.run_for(Duration::from_millis(3));
        id
    }

    fn link(&mut self, from: usize, connection: ConnectionId) -> LinkId {
        let name = LinkAddress::Named(Name::new("queue").expect("a right name"));
        let core = self.drivers[from].parts().0;
        core.attach(connection, LinkRole::Producer, name, AMPLE).expect("it is open");
        self.run_for(Duration::from_millis(3));
        *self.drivers[from].parts().1.attached.last().expect("it was granted")
    }

    fn send(&mut self, from: usize, connection: ConnectionId, link: LinkId, tag: usize, bytes: usize) {
        let core = self.drivers[from].parts().0;
        let body = core.pool().copy_body(&content(tag, bytes)).expect("there is room");
        let mut message = Message::new(MessageKind::Message, body);
        (message.head.link, message.head.lane) = (Some(link), Lane::Bulk);
        message.head.correlation_id.0 = tag as u64;
        core.send(connection, message).map_err(|(error, _)| error).expect("there is room");
    }

    /// What a driver got, in order, with the right content.
    fn check(&mut self, at: usize, count: usize, bytes: usize) {
        let messages = &self.drivers[at].parts().1.messages;
        assert_eq!(messages.len(), count);
        for (tag, message) in messages.iter().enumerate() {
            assert_eq!(message.head.correlation_id.0, tag as u64);
            assert!(message.body == content(tag, bytes)[..], "{tag} was changed");
        }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().expect("nobody panicked")
    }
}

fn driver(number: u8, simulated: Simulated) -> Driver<Recorder> {
    let pool = PoolConfig { bytes_max: 64 << 20, slab_bytes: 256 << 10, huge_pages: false };
    let config = DriverConfig { pool, ..DriverConfig::default() };
    let process = ProcessIdentity {
        process: ProcessId([number + 1; 16]),
        incarnation: Incarnation(1),
        origin: Origin(number.into()),
    };
    let identity = Identity { process, name: format!("driver-{number}") };
    Driver::simulated(config, identity, simulated, Recorder::default()).expect("it starts")
}

fn content(tag: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| ((tag * 31 + at * 7) >> 2) as u8).collect()
}

#[test]
fn bodies_are_read_by_drivers_and_forwarded() {
    let mut stage = Stage::new(3);
    let onward = stage.connect(1, 2);
    stage.drivers[1].parts().1.onward = Some(onward);
    let id = stage.connect(0, 1);
    let link = stage.link(0, id);
    stage.memory().busy = 5;
    (0..30).for_each(|tag| stage.send(0, id, link, tag, 100_000));
    stage.run_for(Duration::from_millis(50));
    stage.check(2, 30, 100_000);
    let stats = stage.drivers[1].stats();
    assert_eq!((stats.packing.offers, stats.packing.chunks), (30, 0), "a hop offers anew");
    let memory = stage.memory();
    assert_eq!((memory.exposures, memory.reads, memory.withdrawn, memory.exposed()), (60, 60, 60, 0));
    assert_eq!(memory.busy, 0);
}

#[test]
fn reads_that_fail_end_in_chunks() {
    let mut stage = Stage::new(2);
    let id = stage.connect(0, 1);
    let link = stage.link(0, id);
    stage.memory().fails_from = Some(10);
    (0..30).for_each(|tag| stage.send(0, id, link, tag, 100_000));
    stage.run_for(Duration::from_millis(2000));
    stage.check(1, 30, 100_000);
    let recorder = stage.drivers[1].parts().1;
    assert_eq!(recorder.interrupted, ["read_failed"; 2]);
    assert_eq!(recorder.closed, []);
    let stats = stage.drivers[0].stats();
    assert!(stats.packing.chunks >= 20, "the rest left in chunks");
    assert_eq!((stats.sessions.interrupted, stats.sessions.resumed), (2, 2));
    let memory = stage.memory();
    assert_eq!((memory.exposed(), memory.exposures), (0, memory.withdrawn));
    assert_eq!(memory.closed_with_exposures, 0, "they were withdrawn before their channels closed");
}
