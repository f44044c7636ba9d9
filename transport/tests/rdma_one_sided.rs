//! The conformance suite of one-sided reads, between the RDMA devices whose addresses `UNDERLAY_RDMA_ADDRESSES` names,
//! as in `conformance`; skipped where it names none, unless `UNDERLAY_REQUIRE_WIRES` has `rdma`.

#![cfg(feature = "rdma")]

#[path = "support/addresses.rs"]
mod addresses;
#[path = "conformance/one_sided/runs.rs"]
mod runs;
#[path = "conformance/one_sided/mod.rs"]
mod suite;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use suite::forwarding::{Change, Changed, one_sided};
use suite::{Going, Subject, for_each_case, tests_of};
use underlay::backend::rdma::{RdmaConfig, RdmaWire};
use underlay::backend::{Channel, ConnectError, Descriptor, ListenError, Listening, ReadRefused, Wire};
use underlay::pool::Pool;

/// Two ends, whose two ways are over the same devices, by their memory windows or without.
struct Rdma<const WINDOWS: bool> {
    hosts: [IpAddr; 2],
    going: Going,
    listening: [Arc<Mutex<String>>; 2],
}

/// A wire says `there` for wherever the other end listens.
struct Placed {
    going: Going,
    host: IpAddr,
    listening: Arc<Mutex<String>>,
}

impl<const WINDOWS: bool> Subject for Rdma<WINDOWS> {
    fn missing() -> Option<String> {
        addresses::of_devices().err()
    }

    fn new(going: Going) -> Self {
        Self {
            hosts: addresses::of_devices().expect("there are devices"),
            going,
            listening: Default::default(),
        }
    }

    fn wires(&self, end: usize) -> [Box<dyn Wire>; 2] {
        [0, 1].map(|way| -> Box<dyn Wire> {
            let config = RdmaConfig {
                receive_slots_max: 64,
                receiver_not_ready_retry_count: 0,
                memory_windows: WINDOWS,
                ..RdmaConfig::default()
            };
            let wire = RdmaWire::open(config).expect("the connection manager can be used");
            let listening = Arc::clone(&self.listening[way]);
            let placed = Placed { going: self.going, host: self.hosts[end], listening };
            Box::new(Changed::new(Box::new(wire), placed))
        })
    }

    fn beyond(&self, descriptor: &[u8]) -> Vec<Descriptor> {
        runs::beyond(descriptor)
    }

    fn pass(&mut self) {
        std::thread::sleep(Duration::from_micros(500));
    }
}

impl Change<RdmaWire> for Placed {
    fn listen(&mut self, wire: &mut RdmaWire, _: &str) -> Result<Listening, ListenError> {
        let listening = wire.listen(&SocketAddr::new(self.host, 0).to_string())?;
        listening.address.clone_into(&mut self.listening.lock().unwrap());
        Ok(listening)
    }

    fn connect(&mut self, wire: &mut RdmaWire, _: &str) -> Result<Channel, ConnectError> {
        let address = self.listening.lock().unwrap().clone();
        wire.connect(&address)
    }

    fn read(
        &mut self,
        wire: &mut RdmaWire,
        channel: Channel,
        read: u64,
        descriptor: &[u8],
        bytes: u64,
        pool: &mut Pool,
    ) -> Result<(), ReadRefused> {
        let wire = one_sided(wire);
        match self.going {
            Going::Well => wire.read(channel, read, descriptor, bytes, pool),
            Going::Wrong => wire.read(channel, read, &runs::with_another_key(descriptor), bytes, pool),
            // No device lets a read hang for ever. So this one never comes to it.
            Going::Nowhere => Ok(()),
        }
    }
}

mod by_windows {
    use super::{for_each_case, suite, tests_of};
    for_each_case!(tests_of, crate::Rdma<true>);
}

mod without_windows {
    use super::{for_each_case, suite, tests_of};
    for_each_case!(tests_of, crate::Rdma<false>);
}
