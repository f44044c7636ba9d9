//! A driver that sends, and one on the other device that checks: in this process, or in one of its own.

use crate::ends::{End, config, driver};
use crate::ledger::Ledger;
use std::time::{Duration, Instant};
use underlay::driver::{Address, Driver, DriverConfig, DriverStats};
use underlay::proto::control::CloseCode;

/// So long may take what has to happen: far above what is usual on an emulated processor that others use as well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The address of the sending end's device.
pub(crate) const HERE: &str = "10.77.0.1";

/// The address of the receiving end's device, and any port.
pub(crate) const THERE: &str = "10.77.0.2:0";

/// Messages that are sent in one turn under load.
const BURST: u64 = 8;

pub(crate) struct Pair {
    pub(crate) sender: Driver<End>,
    /// `None` if it is another process's.
    pub(crate) receiver: Option<Driver<End>>,
    sent: u64,
    name: &'static str,
}

impl Pair {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { receiver: Some(driver(2, config())), ..Self::alone(name, config()) }
    }

    /// Only the end that sends.
    pub(crate) fn alone(name: &'static str, mut config: DriverConfig) -> Self {
        // Without it the way to the other address is found within the machine, and not over a link that is down.
        config.rdma.source = Some(HERE.parse().expect("an address"));
        Self { sender: driver(1, config), receiver: None, sent: 0, name }
    }

    pub(crate) fn listen(&mut self, address: &Address) -> Address {
        let receiver = self.receiver.as_mut().expect("it is in this process");
        receiver.parts().0.listen(address).expect("it listens").1
    }

    /// What the receiving end has seen.
    pub(crate) fn there(&mut self) -> &mut End {
        self.receiver.as_mut().expect("it is in this process").parts().1
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
        if let Some(receiver) = &mut self.receiver {
            receiver.turn().expect("the receiver's wires work");
        }
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

    /// Sends so many more, of which none leaves before the last is queued.
    pub(crate) fn send_at_once(&mut self, count: u64) {
        let up_to = self.sent + count;
        self.send_some(up_to);
        assert_eq!(self.sent, up_to, "there is room for them");
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

    pub(crate) fn is_interrupted(&mut self) -> bool {
        let (core, end) = self.sender.parts();
        core.is_interrupted(end.connection.expect("there is a session"))
    }

    /// Over which wires the sender's session has gone on, one after the other.
    pub(crate) fn wires(&mut self) -> Vec<String> {
        self.sender.parts().1.ledger.wires.clone()
    }

    pub(crate) fn stats(&self) -> Vec<DriverStats> {
        self.receiver.iter().chain([&self.sender]).map(Driver::stats).collect()
    }

    /// Buffers of the sending end that are not in its pool.
    pub(crate) fn buffers_out(&mut self) -> usize {
        self.sender.parts().0.pool().reclaim();
        self.sender.stats().pool.buffers_out
    }

    /// Messages that the receiving end is not known to have.
    pub(crate) fn outstanding(&mut self) -> u64 {
        let (core, end) = self.sender.parts();
        let connection = end.connection.expect("there is a session");
        core.unacknowledged(connection) as u64 + core.waiting(connection).0 as u64
    }

    /// Everything that was sent has arrived, and nothing is kept any more.
    pub(crate) fn until_all_arrived(&mut self) {
        let sent = self.sent;
        self.until("all are acknowledged", |pair| pair.outstanding() == 0);
        if self.receiver.is_some() {
            self.until("all have arrived", |pair| pair.there().ledger.arrived == sent);
        }
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

    /// The books, of which the sender of a pair that is alone knows only its half.
    pub(crate) fn ledger(&mut self) -> Ledger {
        let sender = self.sender.parts().1;
        let mut receiver =
            self.receiver.as_mut().map(|driver| std::mem::take(driver.parts().1)).unwrap_or_default();
        let ends = sender.closed.iter().chain(&receiver.closed).map(ToString::to_string).collect();
        Ledger {
            name: self.name,
            sent: self.sent,
            losses: std::mem::take(&mut sender.ledger.losses),
            wires: std::mem::take(&mut sender.ledger.wires),
            ends,
            ..std::mem::take(&mut receiver.ledger)
        }
    }

    fn state(&mut self) -> String {
        let sent = self.sent;
        let receiver = self.receiver.as_mut().map(|driver| driver.parts().1);
        format!("sent {sent}; {:?}; {receiver:?}", self.sender.parts().1)
    }
}
