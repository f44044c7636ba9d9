//! RDMA devices for tests, and the link between them.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

#[path = "addresses.rs"]
mod addresses;

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use underlay::driver::Address;

/// The addresses of two RDMA devices, for as long as one test uses them: a test that cuts the link cuts it for all.
pub(crate) struct Devices {
    /// Where to listen.
    pub(crate) listening: IpAddr,
    /// From where to connect.
    pub(crate) connecting: IpAddr,
    _alone: MutexGuard<'static, ()>,
}

impl Devices {
    /// The devices, if the environment names some. If not, the test is skipped by name, or has failed where
    /// `UNDERLAY_REQUIRE_WIRES` names `rdma`.
    pub(crate) fn find(test: &str) -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        let [listening, connecting] =
            addresses::of_devices().inspect_err(|reason| skip(test, reason)).ok()?;
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Self { listening, connecting, _alone: alone })
    }

    /// Where to listen, at any free port.
    pub(crate) fn any_port(&self) -> Address {
        Address::rdma(SocketAddr::new(self.listening, 0).to_string())
    }

    /// The link between the devices, if this is the machine of `ci/soft-roce`, which can cut it.
    pub(crate) fn link(&self, test: &str) -> Option<Link> {
        let is_there = std::env::var_os("SOFT_ROCE_DEVICES").is_some();
        if !is_there {
            skip_part(test, "only in the machine of ci/soft-roce can the link be cut");
        }
        is_there.then_some(Link)
    }
}

/// The link between the two devices of the soft-RoCE machine. It is whole again when this is dropped.
///
/// It is cut by losing every packet. Taking an interface down would do, too, but `rdma_rxe` of Linux 6.1 does not get over
/// that: a device that had a message of the connection manager to send meanwhile sends none afterwards, for any program,
/// until it is removed and made again.
pub(crate) struct Link;

/// The interfaces of the soft-RoCE machine: beneath the device that listens, and beneath the one that connects.
pub(crate) const INTERFACES: [&str; 2] = ["roce0", "roce1"];

impl Link {
    /// Loses what this interface sends.
    pub(crate) fn cut(&self, interface: &str) {
        run(Command::new("tc").args(["qdisc", "replace", "dev", interface, "root", "netem", "loss", "100%"]));
    }

    /// Ends that at this interface.
    pub(crate) fn restore(&self, interface: &str) {
        run(Command::new("tc").args(["qdisc", "del", "dev", interface, "root"]));
    }

    /// Takes away the device on an interface of [`INTERFACES`], which is done when every process has let go of it, and
    /// makes it again.
    pub(crate) fn renew_device(&self, place: usize) {
        let device = format!("rxe{place}");
        // A process that held it would be waited for for ever.
        run(Command::new("timeout").args(["30", "rdma", "link", "delete", &device]));
        run(Command::new("rdma").args(["link", "add", &device, "type", "rxe", "netdev", INTERFACES[place]]));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for interface in INTERFACES {
            // An error as a rule: there is nothing to end.
            let _ = Command::new("tc").args(["qdisc", "del", "dev", interface, "root"]).output();
        }
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// A test that cannot run here: by name and with the reason, unless the wire is required.
fn skip(test: &str, reason: &str) {
    let required = std::env::var("UNDERLAY_REQUIRE_WIRES").unwrap_or_default();
    assert!(
        !required.split(',').any(|name| name.trim() == "rdma"),
        "UNDERLAY_REQUIRE_WIRES names rdma, which {test} lacks: {reason}"
    );
    skip_part(test, reason);
}

/// Not by `println!`, which the test harness keeps to itself when a test passes.
fn skip_part(test: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {reason}");
}
