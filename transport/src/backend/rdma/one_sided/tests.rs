//! The conformance suite for one-sided reads, over a network of devices that is not there.

#[path = "../../../../tests/conformance/one_sided/mod.rs"]
mod suite;

#[path = "../../../../tests/conformance/one_sided/runs.rs"]
mod runs;

use crate::backend::rdma::RdmaConfig;
use crate::backend::rdma::engine::{Engine, State};
use crate::backend::rdma::verbs::fake::{EndName, FakeNetwork, FakeVerbs};
use crate::backend::{
    Channel, ConnectError, Descriptor, ListenError, Listener, Listening, OneSided, ReadRefused, SendRefused,
    Wire, WireEvent,
};
use crate::pool::{GatherList, Pool};
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use suite::forwarding::{Change, Changed};
use suite::{Going, Subject, for_each_case, tests_of};

/// Addresses by way and end.
const ADDRESSES: [[&str; 2]; 2] = [["10.0.0.1", "10.0.0.2"], ["10.1.0.1", "10.1.0.2"]];

/// What the windows of a device are like.
const BOUNDED: u8 = 0;
/// They let peers read what lies around them.
const BOUNDLESS: u8 = 1;
/// There are none.
const MISSING: u8 = 2;
/// There are, and the configuration does without.
const UNUSED: u8 = 3;

/// Two ends with a device for each way.
struct Fake<const WINDOWS: u8> {
    network: FakeNetwork,
    going: Going,
    listening: [Rc<RefCell<String>>; 2],
}

/// A wire says `there` for wherever the other end listens.
struct Placed {
    name: EndName,
    network: FakeNetwork,
    going: Going,
    address: &'static str,
    listening: Rc<RefCell<String>>,
}

impl<const WINDOWS: u8> Subject for Fake<WINDOWS> {
    fn new(going: Going) -> Self {
        Self { network: FakeNetwork::in_turn(), going, listening: Default::default() }
    }

    fn wires(&self, end: usize) -> [Box<dyn Wire>; 2] {
        [0, 1].map(|way| -> Box<dyn Wire> {
            let address = ADDRESSES[way][end];
            let verbs = self.network.end(&[address]);
            let name = verbs.name();
            self.network.change_device(name, address, |device| {
                device.limits.windows_have_bounds = WINDOWS != BOUNDLESS;
                if WINDOWS == MISSING {
                    device.limits.windows_max = 0;
                }
            });
            let config = RdmaConfig {
                receive_slots_max: 64,
                receiver_not_ready_retry_count: 0,
                memory_windows: WINDOWS != UNUSED,
                ..RdmaConfig::default()
            };
            let (network, going) = (self.network.clone(), self.going);
            let listening = Rc::clone(&self.listening[way]);
            let placed = Placed { name, network, going, address, listening };
            Box::new(Changed::new(Box::new(Engine::new(verbs, config)), placed))
        })
    }

    fn beyond(&self, descriptor: &[u8]) -> Vec<Descriptor> {
        runs::beyond(descriptor)
    }

    fn pass(&mut self) {
        (0..20).for_each(|_| {
            self.network.step();
        });
    }
}

/// As `RdmaWire` is one, over real devices.
impl Wire for Engine<FakeVerbs> {
    fn listen(&mut self, address: &str) -> Result<Listening, ListenError> {
        self.listen(address)
    }

    fn connect(&mut self, address: &str) -> Result<Channel, ConnectError> {
        self.connect(address)
    }

    fn send(&mut self, channel: Channel, gather: &mut GatherList) -> Result<(), SendRefused> {
        self.send(channel, gather)
    }

    fn close(&mut self, channel: Channel) {
        self.close(channel);
    }

    fn stop_listening(&mut self, listener: Listener) {
        self.stop_listening(listener);
    }

    fn poll(&mut self, pool: &mut Pool, events: &mut Vec<WireEvent>) -> io::Result<()> {
        self.poll(pool, events)
    }

    fn one_sided(&mut self) -> Option<&mut dyn OneSided> {
        Some(self)
    }
}

impl Change<Engine<FakeVerbs>> for Placed {
    fn listen(&mut self, engine: &mut Engine<FakeVerbs>, _: &str) -> Result<Listening, ListenError> {
        let listening = engine.listen(&format!("{}:0", self.address))?;
        listening.address.clone_into(&mut self.listening.borrow_mut());
        Ok(listening)
    }

    fn connect(&mut self, engine: &mut Engine<FakeVerbs>, _: &str) -> Result<Channel, ConnectError> {
        engine.connect(&self.listening.borrow())
    }

    fn read(
        &mut self,
        engine: &mut Engine<FakeVerbs>,
        channel: Channel,
        read: u64,
        descriptor: &[u8],
        bytes: u64,
        pool: &mut Pool,
    ) -> Result<(), ReadRefused> {
        let mut descriptor: Descriptor = descriptor.iter().copied().collect();
        match self.going {
            Going::Well => {}
            Going::Wrong => descriptor = runs::with_another_key(&descriptor),
            Going::Nowhere => {
                if let Some(State { identifier: Some(identifier), .. }) = engine.channels.at(channel) {
                    self.network.hold_sends(self.name, *identifier);
                }
            }
        }
        engine.read(channel, read, &descriptor, bytes, pool)
    }

    /// An engine that is dropped waits for its network, which nobody moves meanwhile.
    fn end(&mut self, engine: &mut Engine<FakeVerbs>) {
        for channel in engine.channels.names() {
            engine.close(channel);
        }
        let mut pool = Pool::new(crate::pool::PoolConfig::edge()).unwrap();
        while engine.channels.len() > 0 && self.network.step() {
            engine.poll(&mut pool, &mut Vec::new()).unwrap();
        }
    }
}

macro_rules! suites {
    ($($name:ident: $subject:ident = $windows:ident),+) => {$(
        type $subject = Fake<$windows>;

        mod $name {
            use super::{for_each_case, suite, tests_of};
            for_each_case!(tests_of, crate::backend::rdma::one_sided::tests::$subject);
        }
    )+};
}

// As devices are, as soft-RoCE is, and two ways to be without.
suites! {
    windows_with_bounds: Bounded = BOUNDED,
    windows_without_bounds: Boundless = BOUNDLESS,
    no_windows: Missing = MISSING,
    unused_windows: Unused = UNUSED
}
