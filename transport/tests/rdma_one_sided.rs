//! The conformance suite of one-sided reads, between the RDMA devices whose addresses `UNDERLAY_RDMA_ADDRESSES` names,
//! as in `conformance`; skipped where it names none, unless `UNDERLAY_REQUIRE_WIRES` has `rdma`.

#![cfg(feature = "rdma")]

#[path = "conformance/one_sided/runs.rs"]
mod runs;
#[path = "conformance/one_sided/mod.rs"]
mod suite;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use suite::{Going, Subject, for_each_case, tests_of};
use underlay::backend::rdma::{RdmaConfig, RdmaWire};
use underlay::backend::{
    Channel, ConnectError, Descriptor, ExposeRefused, ListenError, Listener, Listening, OneSided,
    ReadRefused, SendRefused, Wire, WireEvent,
};
use underlay::pool::{Body, GatherList, Pool};

/// The addresses of both ends, or why there are none.
fn hosts() -> Result<[String; 2], String> {
    let list = std::env::var("UNDERLAY_RDMA_ADDRESSES").unwrap_or_default();
    match list.split(',').map(str::trim).collect::<Vec<_>>()[..] {
        [left, right] if !left.is_empty() && !right.is_empty() => Ok([left, right].map(str::to_owned)),
        _ => Err(format!(
            "UNDERLAY_RDMA_ADDRESSES does not name two addresses of RDMA devices (it is '{list}')"
        )),
    }
}

/// Two ends, whose two ways are over the same devices, by their memory windows or without.
struct Rdma<const WINDOWS: bool> {
    hosts: [String; 2],
    going: Going,
    listening: [Arc<Mutex<String>>; 2],
}

/// A wire that says `there` for wherever the other end listens.
struct Placed {
    wire: RdmaWire,
    going: Going,
    host: String,
    listening: Arc<Mutex<String>>,
}

impl<const WINDOWS: bool> Subject for Rdma<WINDOWS> {
    fn missing() -> Option<String> {
        hosts().err()
    }

    fn new(going: Going) -> Self {
        Self { hosts: hosts().expect("there are devices"), going, listening: Default::default() }
    }

    fn wires(&self, end: usize) -> [Box<dyn Wire>; 2] {
        [0, 1].map(|way| -> Box<dyn Wire> {
            let config = RdmaConfig {
                receive_slots_max: 64,
                receiver_not_ready_retry_count: 0,
                memory_windows: WINDOWS,
                ..RdmaConfig::default()
            };
            Box::new(Placed {
                wire: RdmaWire::open(config).expect("the connection manager can be used"),
                going: self.going,
                host: self.hosts[end].clone(),
                listening: Arc::clone(&self.listening[way]),
            })
        })
    }

    fn beyond(&self, descriptor: &[u8]) -> Vec<Descriptor> {
        runs::beyond(descriptor)
    }

    fn pass(&mut self) {
        std::thread::sleep(Duration::from_micros(500));
    }
}

impl Wire for Placed {
    fn listen(&mut self, _: &str) -> Result<Listening, ListenError> {
        let listening = self.wire.listen(&format!("{}:0", self.host))?;
        listening.address.clone_into(&mut self.listening.lock().unwrap());
        Ok(listening)
    }

    fn connect(&mut self, _: &str) -> Result<Channel, ConnectError> {
        let address = self.listening.lock().unwrap().clone();
        self.wire.connect(&address)
    }

    fn send(&mut self, channel: Channel, gather: &mut GatherList) -> Result<(), SendRefused> {
        self.wire.send(channel, gather)
    }

    fn close(&mut self, channel: Channel) {
        self.wire.close(channel);
    }

    fn stop_listening(&mut self, listener: Listener) {
        self.wire.stop_listening(listener);
    }

    fn poll(&mut self, pool: &mut Pool, events: &mut Vec<WireEvent>) -> io::Result<()> {
        self.wire.poll(pool, events)
    }

    fn one_sided(&mut self) -> Option<&mut dyn OneSided> {
        Some(self)
    }
}

impl Placed {
    fn inner(&mut self) -> &mut dyn OneSided {
        self.wire.one_sided().expect("RDMA has one-sided reads")
    }
}

impl OneSided for Placed {
    fn exposures_max(&mut self, channel: Channel) -> usize {
        self.inner().exposures_max(channel)
    }

    fn expose(&mut self, channel: Channel, exposure: u64, body: &Body) -> Result<Descriptor, ExposeRefused> {
        self.inner().expose(channel, exposure, body)
    }

    fn withdraw(&mut self, channel: Channel, exposure: u64) {
        self.inner().withdraw(channel, exposure);
    }

    fn read(
        &mut self,
        channel: Channel,
        read: u64,
        descriptor: &[u8],
        bytes: u64,
        pool: &mut Pool,
    ) -> Result<(), ReadRefused> {
        match self.going {
            Going::Well => self.inner().read(channel, read, descriptor, bytes, pool),
            Going::Wrong => {
                self.inner().read(channel, read, &runs::with_another_key(descriptor), bytes, pool)
            }
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
