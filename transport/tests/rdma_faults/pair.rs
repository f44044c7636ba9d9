//! Two drivers in this process, one on each device: one sends, the other checks.

use crate::ends::{End, config, driver};
use crate::ledger::Ledger;
use std::time::{Duration, Instant};
use underlay::driver::{Address, Driver, DriverConfig, DriverStats};
use underlay::proto::control::CloseCode;

/// So long may take what has to happen: far above what is usual on an emulated processor that others use as well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The address of the receiving end's device, and its port.
pub(crate) const THERE: &str = "10.77.0.2:0";

/// Messages that are sent in one turn under load.
const BURST: u64 = 8;

pub(crate) struct Pair {
    pub(crate) sender: Driver<End>,
    pub(crate) receiver: Driver<End>,
    sent: u64,
    name: &'static str,
}

impl Pair {
    pub(crate) fn new(name: &'static str) -> Self {
        Self::with(name, config())
    }

    pub(crate) fn with(name: &'static str, config: DriverConfig) -> Self {
        Self { sender: driver(1, config.clone()), receiver: driver(2, config), sent: 0, name }
    }

    pub(crate) fn listen(&mut self, address: &Address) -> Address {
        self.receiver.parts().0.listen(address).expect("it listens").1
    }

    /// A session over the first of these addresses; the others are for when that one is lost.
    pub(crate) fn connect(&mut self, addresses: &[Address]) {
        let (core, end) = self.sender.parts();
        end.connection = Some(core.connect_by(addresses).expect("it can be begun"));
        self.until("the link is there", |pair| pair.sender.parts().1.link.is_some());
    }

    /// One over the devices.
    pub(crate) fn connected(name: &'static str) -> Self {
        let mut pair = Self::new(name);
        let there = pair.listen(&Address::rdma(THERE));
        pair.connect(&[there]);
        pair
    }

    pub(crate) fn turn(&mut self) {
        self.sender.turn().expect("the sender's wires work");
        self.receiver.turn().expect("the receiver's wires work");
        std::thread::yield_now();
    }

    /// Turns until it is so, while nothing new is sent.
    pub(crate) fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let began = Instant::now();
        while !is_so(self) {
            assert!(began.elapsed() < PATIENCE, "not so: {what}; {}", self.state());
            self.turn();
        }
    }

    /// Turns until it is so, while messages are sent as there is room for them.
    pub(crate) fn until_under_load(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        self.until(what, |pair| {
            pair.send_some(pair.sent + BURST);
            is_so(pair)
        });
    }

    /// Sends messages up to this number.
    pub(crate) fn send_up_to(&mut self, count: u64) {
        self.until("so many could be sent", |pair| {
            pair.send_some(count.min(pair.sent + BURST));
            pair.sent >= count
        });
    }

    fn send_some(&mut self, up_to: u64) {
        let (core, end) = self.sender.parts();
        while self.sent < up_to && end.send(core, self.sent) {
            self.sent += 1;
        }
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    pub(crate) fn interruptions(&mut self) -> u64 {
        self.sender.parts().1.ledger.losses.values().sum()
    }

    /// Over which wires the sender's session has gone on, one after the other.
    pub(crate) fn wires(&mut self) -> Vec<String> {
        self.sender.parts().1.ledger.wires.clone()
    }

    pub(crate) fn stats(&self) -> [DriverStats; 2] {
        [self.sender.stats(), self.receiver.stats()]
    }

    /// Everything that was sent has arrived, and nothing is kept any more.
    pub(crate) fn until_all_arrived(&mut self) {
        let sent = self.sent;
        self.until("all have arrived", |pair| pair.receiver.parts().1.ledger.arrived == sent);
        self.until("all are acknowledged", |pair| {
            let (core, end) = pair.sender.parts();
            core.unacknowledged(end.connection.expect("there is a session")) == 0
        });
    }

    /// Ends the session in order, and gives back the books.
    pub(crate) fn close(&mut self) -> Ledger {
        let (core, end) = self.sender.parts();
        core.close(end.connection.expect("there is a session"), CloseCode::Normal, "done");
        self.until("no session is left", |pair| {
            pair.stats().iter().map(|stats| stats.connections).sum::<u64>() == 0
        });
        self.ledger()
    }

    fn ledger(&mut self) -> Ledger {
        let [sender, receiver] = [&mut self.sender, &mut self.receiver].map(|driver| driver.parts().1);
        let mut ledger = std::mem::take(&mut receiver.ledger);
        (ledger.name, ledger.sent) = (self.name, self.sent);
        ledger.losses = std::mem::take(&mut sender.ledger.losses);
        ledger.wires = std::mem::take(&mut sender.ledger.wires);
        ledger.ends = [sender, receiver].iter().flat_map(|end| &end.closed).map(ToString::to_string).collect();
        ledger
    }

    fn state(&mut self) -> String {
        let sent = self.sent;
        format!("sent {sent}; {:?}; {:?}", self.sender.parts().1, self.receiver.parts().1)
    }
}
