//! How soon it is reported that the network is gone is a matter of the configuration.

use crate::machine::Machine;
use crate::pair::{HERE, PATIENCE, THERE};
use std::time::{Duration, Instant};
use underlay::backend::rdma::{RdmaConfig, RdmaWire};
use underlay::backend::{Channel, ChannelEnd, Wire, WireEvent};
use underlay::pool::{GatherList, Pool, PoolConfig};

/// The least that it takes where nothing is chosen.
const DEFAULT_MIN: Duration = Duration::from_millis(3_500);

/// Two wires with a channel between them.
struct Wires {
    wires: [RdmaWire; 2],
    pool: Pool,
    channel: Channel,
}

impl Wires {
    fn connected(acknowledgement_timeout: Option<Duration>) -> Self {
        let config = RdmaConfig {
            source: Some(HERE.parse().expect("an address")),
            acknowledgement_timeout,
            ..RdmaConfig::default()
        };
        let open = |config| RdmaWire::open(config).expect("the connection manager can be used");
        let mut wires = [open(config.clone()), open(RdmaConfig { source: None, ..config })];
        let place = wires[1].listen(THERE).expect("it listens").address;
        let channel = wires[0].connect(&place).expect("it can be begun");
        let config = PoolConfig { bytes_max: 16 << 20, slab_bytes: 64 << 10, huge_pages: false };
        let pool = Pool::new(config).expect("a right configuration");
        let mut wires = Self { wires, pool, channel };
        wires.until("it is connected", |event| matches!(event, WireEvent::Connected { .. }));
        wires
    }

    /// Polls until the first end says something that is so.
    fn until(&mut self, what: &str, is_so: impl Fn(&WireEvent) -> bool) -> WireEvent {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < PATIENCE, "not so: {what}");
            let mut events = Vec::new();
            self.wires[1].poll(&mut self.pool, &mut Vec::new()).expect("the wire works");
            self.wires[0].poll(&mut self.pool, &mut events).expect("the wire works");
            if let Some(event) = events.into_iter().find(&is_so) {
                return event;
            }
            std::thread::yield_now();
        }
    }

    /// How long it takes from a send to the channel's end.
    fn time_to_the_end(mut self) -> Duration {
        let mut buffer = self.pool.buffer(1000).expect("the pool has room");
        buffer.put_slice(&[1; 1000]);
        let mut gather = GatherList::new();
        gather.push(buffer.split());
        let sent = Instant::now();
        self.wires[0].send(self.channel, &mut gather).expect("the channel is open");
        let end = self.until("it has ended", |event| matches!(event, WireEvent::Closed { .. }));
        let took = sent.elapsed();
        let WireEvent::Closed { reason: ChannelEnd::Broken(error), .. } = end else {
            panic!("it ended otherwise: {end:?}")
        };
        assert!(error.to_string().contains("did not acknowledge"), "{error}");
        took
    }
}

#[test]
fn a_network_that_is_gone_is_reported_within_the_time_that_was_chosen() {
    let Some(machine) = Machine::of_test("the time until a network that is gone is reported") else { return };
    let [short, middle, long] = [1, 128, 300].map(|timeout_ms| {
        let wires = Wires::connected(Some(Duration::from_millis(timeout_ms)));
        machine.block_link();
        let took = wires.time_to_the_end();
        machine.calm_link();
        took
    });
    println!("reported with 1 ms after {short:?}, with 128 ms after {middle:?}, with 300 ms after {long:?}");
    // Seven times so long, rounded up; a device may take longer, and never less.
    assert!(long >= Duration::from_millis(7 * 300), "{long:?}");
    // What the connection manager has comes to at least seven times 0.5 s, and to sixteen seconds here.
    assert!(short < DEFAULT_MIN && middle < DEFAULT_MIN, "{short:?}, {middle:?}");
}
