//! Where a play is given: over which wire its processes meet, how that wire is cut, and how much a play has time for.
//!
//! A play is written once. It asks its stage for brokers, for the way to them, for times and for numbers of messages. It
//! asks for the wire only where a fault has no counterpart on the other one.
//!
//! Over `rdma` it needs the two devices that `UNDERLAY_RDMA_ADDRESSES` names, and what cuts their link needs the machine
//! of `ci/soft-roce`. That one is emulated: times are longer there, and loads smaller.

use crate::cast::Actor;
use crate::devices::{Devices, INTERFACES, Link};
use crate::part::{QUEUE, Times};
use crate::process::Process;
use crate::proxy::{Fate, Proxy};
use crate::support::PATIENCE;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Where everybody is over TCP.
pub(crate) const ANY_TCP: &str = "tcp://127.0.0.1:0";

/// What one play is given on.
pub(crate) struct Stage {
    play: &'static str,
    /// Over TCP none.
    devices: Option<Devices>,
}

impl Stage {
    pub(crate) fn tcp(play: &'static str) -> Self {
        Self { play, devices: None }
    }

    /// `None` where there are no devices, which is said, or is a failure where they are required.
    pub(crate) fn rdma(play: &'static str) -> Option<Self> {
        Some(Self { play, devices: Some(Devices::find(play)?) })
    }

    pub(crate) fn is_rdma(&self) -> bool {
        self.devices.is_some()
    }

    /// Where a broker listens at any port.
    pub(crate) fn any_port(&self) -> String {
        self.devices.as_ref().map_or_else(|| ANY_TCP.to_owned(), |devices| devices.any_port().to_string())
    }

    /// From where clients and services connect, if it matters.
    pub(crate) fn source(&self) -> Option<IpAddr> {
        self.devices.as_ref().map(|devices| devices.connecting)
    }

    /// Starts a broker.
    pub(crate) fn broker(&self, times: Times) -> Process {
        Process::start(&broker_config(&[&self.any_port()], times), &[])
    }

    /// Starts a broker where one was killed a moment ago. The kernel may still be at closing what that one had open, since
    /// it does so for io_uring behind the process's back.
    pub(crate) fn broker_again(&self, address: &str, times: Times) -> Process {
        let end = Instant::now() + PATIENCE;
        loop {
            match Process::try_start(&broker_config(&[address], times), &[]) {
                Ok(broker) => return broker,
                Err(log) => {
                    println!("  started again: {}", log.lines().last().unwrap_or_default());
                    assert!(log.contains("is in use") && Instant::now() < end, "{log}");
                }
            }
        }
    }

    /// The way to a broker, which can be cut; `None` if it cannot be here, which is said.
    pub(crate) fn way(&self, broker: &Process) -> Option<Way> {
        Some(match &self.devices {
            Some(devices) => Way::Linked(devices.link(self.play)?, broker.addresses[0].clone()),
            None => Way::Proxied(Proxy::start(&broker.address)),
        })
    }

    /// How long something takes here that takes so long over TCP.
    pub(crate) fn time(&self, time: Duration) -> Duration {
        if self.is_rdma() { time * 5 / 2 } else { time }
    }

    pub(crate) fn times(&self, times: Times) -> Times {
        let longer = |ms: u32| self.time(Duration::from_millis(ms.into())).as_millis() as u32;
        Times {
            idle_timeout_ms: longer(times.idle_timeout_ms),
            session_expiry_ms: longer(times.session_expiry_ms),
            failover_after_ms: longer(times.failover_after_ms),
        }
    }

    /// How often something is done here that is done so often over TCP.
    pub(crate) fn rounds(&self, rounds: u32) -> u32 {
        if self.is_rdma() { rounds.div_ceil(2) } else { rounds }
    }

    /// How many messages stand for so many over TCP.
    pub(crate) fn messages(&self, messages: u32) -> u32 {
        if self.is_rdma() { messages / 8 } else { messages }
    }
}

/// The configuration of a broker that listens at these addresses, for one that is killed without ceremony. A send that
/// finds no receive request breaks a play instead of hiding.
pub(crate) fn broker_config(addresses: &[&str], times: Times) -> String {
    let listener = |address: &&str| {
        let (transport, place) = address.split_once("://").unwrap();
        format!("[[listener]]\ntransport = \"{transport}\"\naddress = \"{place}\"\n")
    };
    let listeners: String = addresses.iter().map(listener).collect();
    format!(
        "[broker]\ndrain_timeout_ms = 0\n{listeners}[[queue]]\nname = \"{QUEUE}\"\n\
         [rdma]\nreceive_slots_max = 256\nreceiver_not_ready_retry_count = 0\n\
         [limits]\nkeep_alive_ms = {}\nidle_timeout_ms = {}\n",
        times.idle_timeout_ms / 5,
        times.idle_timeout_ms,
    )
}

/// The way from the processes of a play to a broker.
pub(crate) enum Way {
    /// Over TCP: through a proxy.
    Proxied(Proxy),
    /// Over the link of two devices, to this address.
    Linked(Link, String),
}

impl Way {
    /// What those who go by it connect to.
    pub(crate) fn address(&self) -> String {
        match self {
            Self::Proxied(proxy) => format!("tcp://{}", proxy.address),
            Self::Linked(_, address) => address.clone(),
        }
    }

    /// Ends every connection there is, under way as they are. A link is whole again when each of these has noticed;
    /// so they must not be stopped.
    pub(crate) fn cut<'a>(&self, actors: impl IntoIterator<Item = &'a mut Actor>) {
        match self {
            Self::Proxied(proxy) => proxy.cut(),
            Self::Linked(link, _) => cut_link(link, actors),
        }
    }

    /// Carries nothing from now on, and tells nobody. A link does carry: there it is for the one at its end to be away.
    pub(crate) fn hang(&self) {
        if let Self::Proxied(proxy) = self {
            proxy.set(Fate::Hangs);
        }
    }

    /// Carries again.
    pub(crate) fn pass(&self) {
        if let Self::Proxied(proxy) = self {
            proxy.set(Fate::Passes);
        }
    }
}

/// Loses everything on a link, both ways, until all of these have lost their connections.
fn cut_link<'a>(link: &Link, actors: impl IntoIterator<Item = &'a mut Actor>) {
    let mut actors: Vec<&mut Actor> = actors.into_iter().collect();
    // One that is not back yet since the last fault would have nothing to lose.
    actors.iter_mut().for_each(|actor| actor.wait_for_connection(true));
    INTERFACES.iter().for_each(|interface| link.cut(interface));
    actors.iter_mut().for_each(|actor| actor.wait_for_connection(false));
    INTERFACES.iter().for_each(|interface| link.restore(interface));
}
