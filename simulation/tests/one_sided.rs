//! The simulated wire's one-sided reads keep what every wire with such reads promises: the conformance suite of the crate
//! `underlay` (`docs/conformance.md`), run here because the wire is of this crate.

#[path = "../../transport/tests/conformance/one_sided/mod.rs"]
mod suite;

use suite::{Going, Subject, for_each_case, tests_of};
use underlay::backend::{Wire, WireKind};
use underlay_simulation::network::{Climate, HostId, MILLISECOND, Network, Reading};
use underlay_simulation::random::Random;

/// Two hosts in fine weather.
struct Simulated {
    network: Network,
    hosts: [HostId; 2],
    now: u64,
}

impl Subject for Simulated {
    fn new(going: Going) -> Self {
        let all_if = |is_so: bool| u64::from(is_so);
        let reading = Reading {
            is_there: [true; WireKind::COUNT],
            exposures_max: 8,
            fails_one_in: all_if(going == Going::Wrong),
            hangs_one_in: all_if(going == Going::Nowhere),
        };
        let network = Network::new(1, Climate::drawn(&mut Random::new(1), reading), false);
        let hosts = ["here", "there"].map(|name| network.host(name));
        Self { network, hosts, now: 0 }
    }

    fn wires(&self, end: usize) -> [Box<dyn Wire>; 2] {
        let wires = self.network.wires(self.hosts[end]);
        [wires.tcp, wires.inproc]
    }

    fn pass(&mut self) {
        self.now += MILLISECOND;
        self.network.advance(self.now);
    }
}

for_each_case!(tests_of, crate::Simulated);
