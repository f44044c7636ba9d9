//! Two hundred connections that are opened and closed at random, and what is left of them.

use crate::ends::config;
use crate::ledger::Ledger;
use crate::machine::Machine;
use crate::pair::{PATIENCE, THERE};
use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};
use underlay::connection::{AttachRequest, CloseReason, Identity, LinkRoom};
use underlay::driver::{Address, ConnectionId, Core, DetachedByPeer, Driver, DriverConfig, Handler};
use underlay::message::Message;
use underlay::pool::PoolConfig;
use underlay::proto::control::{Address as LinkAddress, CloseCode, LinkRole};
use underlay::proto::handshake::Negotiated;
use underlay::proto::hello::ProcessIdentity;
use underlay::proto::record::MessageKind;
use underlay::proto::text::Name;
use underlay::proto::{Incarnation, LinkId, Origin, ProcessId};
use underlay::session::SessionConfig;

/// Connections at a time.
const CONNECTIONS: usize = 200;

/// How long it goes on, in seconds: this or what the variable says, such as 60.
const SECONDS: u64 = 10;
const SECONDS_VARIABLE: &str = "UNDERLAY_RDMA_STORM_SECONDS";

/// The same seed opens and closes in the same order: this or what the variable says.
const SEED: u64 = 20_261_122;
const SEED_VARIABLE: &str = "UNDERLAY_RDMA_STORM_SEED";

const ROOM: LinkRoom = LinkRoom { messages: 64, bytes: 1 << 20 };

#[test]
fn two_hundred_connections_opened_and_closed_at_random_leave_nothing_behind() {
    let Some(machine) = Machine::of_test("two hundred connections") else { return };
    // What the libraries keep for good is there after the first use.
    Storm::new().all_come_and_go(&machine);
    let before = Left::of(&machine);
    let mut storm = Storm::new();
    storm.all_come_and_go(&machine);
    let buffers = storm.buffers_out();
    let began = Instant::now();
    let seconds = Duration::from_secs(number(SECONDS_VARIABLE, SECONDS));
    while began.elapsed() < seconds {
        storm.do_something();
        storm.turn();
    }
    storm.end();
    // A connection that was given up while it came up ends at its other end when the connection manager hears of it.
    let ended = Instant::now();
    storm.until("no queue pair is left", |_| machine.resources("qp") == 0);
    println!("the last queue pair was gone after {:?}", ended.elapsed());
    assert_eq!(storm.buffers_out(), buffers, "buffers that are out, after and before");
    storm.ledger().adds_up();
    drop(storm);
    assert_eq!(Left::of(&machine), before, "after and before");
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// What a process can fail to give back.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    resources: Vec<(&'static str, usize)>,
    descriptors: usize,
}

impl Left {
    fn of(machine: &Machine) -> Self {
        let kinds = ["qp", "mr", "cq", "pd", "cm_id"];
        let left = Self {
            resources: kinds.map(|kind| (kind, machine.resources(kind))).to_vec(),
            descriptors: fs::read_dir("/proc/self/fd").expect("there is /proc").count(),
        };
        println!("left: {left:?}");
        left
    }
}

/// One connection, as the end that opened it knows it.
#[derive(Debug)]
struct Opened {
    /// Among all that there have been.
    serial: u64,
    link: Option<LinkId>,
    sent: u64,
}

/// Both ends' handler.
#[derive(Debug, Default)]
struct End {
    is_sender: bool,
    opened: HashMap<ConnectionId, Opened>,
    reasons: HashMap<&'static str, u64>,
    /// By connection, how many arrived of it.
    arrived: HashMap<u64, u64>,
    out_of_order: u64,
}

struct Storm {
    sender: Driver<End>,
    receiver: Driver<End>,
    there: Address,
    random: u64,
    serials: u64,
    sent: u64,
}

impl Storm {
    fn new() -> Self {
        let config = DriverConfig {
            pool: PoolConfig { bytes_max: 160 << 20, slab_bytes: 1 << 20, huge_pages: false },
            session: SessionConfig::none(),
            ..config()
        };
        let [sender, mut receiver] = [1_u8, 2].map(|number| {
            let mut config = config.clone();
            // Every connection is promised eight, and half of them are there for those who use theirs up.
            config.rdma.receive_slots_max = 16 * (CONNECTIONS as u32 + 20);
            config.rdma.source = (number == 1).then(|| "10.77.0.1".parse().expect("an address"));
            let process = ProcessIdentity {
                process: ProcessId([number; 16]),
                incarnation: Incarnation(1),
                origin: Origin(number.into()),
            };
            let identity = Identity { process, name: format!("end-{number}") };
            let end = End { is_sender: number == 1, ..End::default() };
            Driver::new(config, identity, end).expect("a driver")
        });
        let (_, there) = receiver.parts().0.listen(&Address::rdma(THERE)).expect("it listens");
        Self { sender, receiver, there, random: number(SEED_VARIABLE, SEED), serials: 0, sent: 0 }
    }

    fn turn(&mut self) {
        self.sender.turn().expect("the sender's wires work");
        self.receiver.turn().expect("the receiver's wires work");
    }

    fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let began = Instant::now();
        while !is_so(self) {
            let reasons = self.sender.parts().1.reasons.clone();
            let stats = self.sender.stats().connections;
            assert!(began.elapsed() < PATIENCE, "not so: {what}; {reasons:?}; {stats} connections");
            self.turn();
            std::thread::yield_now();
        }
    }

    /// Opens all of them, uses them, and closes them in order.
    fn all_come_and_go(&mut self, machine: &Machine) {
        (0..CONNECTIONS).for_each(|_| self.open());
        self.until("all are open", |storm| {
            let opened = &storm.sender.parts().1.opened;
            opened.values().filter(|opened| opened.link.is_some()).count() == CONNECTIONS
        });
        assert_eq!(machine.resources("qp"), 2 * CONNECTIONS, "queue pairs of both ends");
        for id in self.ids() {
            self.send(id);
        }
        self.end();
    }

    fn ids(&mut self) -> Vec<ConnectionId> {
        let mut open: Vec<_> =
            self.sender.parts().1.opened.iter().map(|(id, opened)| (opened.serial, *id)).collect();
        // A map has no order, and a seed needs one.
        open.sort_unstable_by_key(|(serial, _)| *serial);
        open.into_iter().map(|(_, id)| id).collect()
    }

    /// From the seed, by xorshift.
    fn draw(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % below as u64) as usize
    }

    fn do_something(&mut self) {
        let open = self.ids();
        let place = self.draw(CONNECTIONS);
        match open.get(place) {
            None => self.open(),
            Some(&id) => match self.draw(8) {
                0..4 => self.send(id),
                4..7 => self.close(id),
                _ => self.abort(id),
            },
        }
    }

    fn open(&mut self) {
        let (core, end) = self.sender.parts();
        let id = core.connect(&self.there).expect("it can be begun");
        end.opened.insert(id, Opened { serial: self.serials, link: None, sent: 0 });
        self.serials += 1;
    }

    fn send(&mut self, id: ConnectionId) {
        let (core, end) = self.sender.parts();
        let Some(opened) = end.opened.get_mut(&id) else { return };
        let Some(link) = opened.link else { return };
        for _ in 0..4 {
            let Ok(body) = core.pool().copy_body(&[7; 300]) else { return };
            let mut message = Message::new(MessageKind::Message, body);
            message.head.link = Some(link);
            message.head.correlation_id.0 = opened.serial << 32 | opened.sent;
            if core.is_writable(id, link) && core.send(id, message).is_ok() {
                opened.sent += 1;
                self.sent += 1;
            }
        }
    }

    fn close(&mut self, id: ConnectionId) {
        self.sender.parts().0.close(id, CloseCode::Normal, "done");
    }

    fn abort(&mut self, id: ConnectionId) {
        self.sender.parts().0.abort(id, CloseReason::ResourceLimit("it is drawn".to_owned()));
    }

    /// Closes what is open, in order, until nothing is left at either end.
    fn end(&mut self) {
        for id in self.ids() {
            self.close(id);
        }
        self.until("no connection is left", |storm| {
            storm.sender.stats().connections + storm.receiver.stats().connections == 0
        });
        // The last messages of the connection manager, and the last receive requests.
        let settled = Instant::now();
        self.until("it is quiet", |_| settled.elapsed() > Duration::from_millis(300));
    }

    fn buffers_out(&mut self) -> [usize; 2] {
        [&mut self.sender, &mut self.receiver].map(|driver| {
            driver.parts().0.pool().reclaim();
            driver.stats().pool.buffers_out
        })
    }

    fn ledger(&mut self) -> Ledger {
        let reasons = std::mem::take(&mut self.sender.parts().1.reasons);
        let end = self.receiver.parts().1;
        let arrived = end.arrived.values().sum();
        let mut ledger = Ledger {
            name: "200 connections at a time, opened and closed at random",
            sent: self.sent,
            arrived,
            // Of connections that were aborted.
            in_doubt: self.sent - arrived,
            out_of_order: end.out_of_order,
            ..Ledger::default()
        };
        ledger.ends = reasons.iter().map(|(reason, count)| format!("{count} x {reason}")).collect();
        ledger.ends.push(format!("{} in all", self.serials));
        ledger
    }
}

impl Handler for End {
    fn opened(&mut self, core: &mut Core, connection: ConnectionId, _: &Negotiated) {
        if self.is_sender {
            let address = LinkAddress::Named(Name::new("numbers").expect("a name"));
            let none = LinkRoom { messages: 0, bytes: 0 };
            core.attach(connection, LinkRole::Producer, address, none).expect("links are free");
        }
    }

    fn attach_requested(&mut self, core: &mut Core, connection: ConnectionId, request: AttachRequest) {
        core.accept_link(connection, request.link, ROOM).expect("the link was asked for");
    }

    fn attached(&mut self, _: &mut Core, connection: ConnectionId, link: LinkId) {
        if let Some(opened) = self.opened.get_mut(&connection) {
            opened.link = Some(link);
        }
    }

    fn detached(&mut self, _: &mut Core, _: ConnectionId, detached: DetachedByPeer) {
        panic!("{detached:?}");
    }

    fn message(&mut self, core: &mut Core, connection: ConnectionId, message: Message) {
        let number = message.head.correlation_id.0;
        let arrived = self.arrived.entry(number >> 32).or_default();
        self.out_of_order += u64::from(*arrived != number & 0xFFFF_FFFF);
        *arrived += 1;
        let link = message.head.link.expect("it came by a link");
        // It may have been aborted by now.
        let _ = core.set_link_room(connection, link, ROOM);
    }

    fn writable(&mut self, _: &mut Core, _: ConnectionId, _: LinkId) {}

    fn closed(&mut self, _: &mut Core, connection: ConnectionId, reason: &CloseReason) {
        if self.opened.remove(&connection).is_some() {
            *self.reasons.entry(reason.name()).or_default() += 1;
        }
    }
}
