//! The machine with two RDMA devices, and what can be done to its link.

use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Two addresses with a comma: `10.77.0.1,10.77.0.2` in the machine that `ci/soft-roce` boots.
const ADDRESSES: &str = "UNDERLAY_RDMA_ADDRESSES";

/// The only addresses whose link these tests may take down, because it is theirs.
const OURS: &str = "10.77.0.1,10.77.0.2";

/// The network interface of each device.
const INTERFACES: [&str; 2] = ["roce0", "roce1"];

/// One link cannot have two faults at a time.
static LINK: Mutex<()> = Mutex::new(());

/// The machine, for one test at a time. When the test is over its link is as before.
pub(crate) struct Machine {
    _alone: MutexGuard<'static, ()>,
}

impl Machine {
    /// `None` where there is no such machine, which is said; and is a failure where one is required.
    pub(crate) fn of_test(test: &str) -> Option<Self> {
        let given = std::env::var(ADDRESSES).unwrap_or_default();
        if given == OURS {
            return Some(Self { _alone: LINK.lock().unwrap_or_else(PoisonError::into_inner) });
        }
        let required = std::env::var("UNDERLAY_REQUIRE_WIRES").unwrap_or_default();
        let reason = format!("{ADDRESSES} is '{given}', and not '{OURS}': these tests take down that link");
        assert!(!required.split(',').any(|wire| wire.trim() == "rdma"), "rdma is required: {reason}");
        println!("SKIPPED: {test}: {reason}");
        None
    }

    /// Loses packets and delays them, both ways.
    pub(crate) fn disturb_link(&self, loss: &str, delay: &str) {
        for interface in INTERFACES {
            run(&format!("tc qdisc replace dev {interface} root netem loss {loss} delay {delay}"));
        }
    }

    /// What `tc` counted as dropped on both ends.
    pub(crate) fn dropped(&self) -> u64 {
        let count = |interface: &&str| {
            let text = run(&format!("tc -s qdisc show dev {interface}"));
            let (_, after) = text.split_once("dropped ").expect("tc says how many were dropped");
            after.split([',', ' ']).next().and_then(|word| word.parse::<u64>().ok()).expect("a number")
        };
        INTERFACES.iter().map(count).sum()
    }

    pub(crate) fn calm_link(&self) {
        for interface in INTERFACES {
            try_to_run(&format!("tc qdisc del dev {interface} root"));
        }
    }

    /// Nothing gets through any more.
    pub(crate) fn block_link(&self) {
        self.disturb_link("100%", "0ms");
    }

    pub(crate) fn take_link_down(&self) {
        run("ip link set roce0 down");
    }

    /// A link that was down has lost its routes. Connections over soft-RoCE devices come up again only when those are
    /// made anew: the queue pair of their management datagrams has failed with the first that found no route.
    pub(crate) fn take_link_up(&self) {
        run(&format!("{} restore", std::env::var("SOFT_ROCE_DEVICES").expect("ci/soft-roce says")));
    }

    /// Begins to remove a device, which is done when every process has let go of it.
    pub(crate) fn remove_device(&self, place: usize) -> Child {
        command(&format!("rdma link delete rxe{place}")).spawn().expect("the tool is there")
    }

    /// Makes a device again that was removed.
    pub(crate) fn add_device(&self, place: usize) {
        run(&format!("rdma link add rxe{place} type rxe netdev {}", INTERFACES[place]));
    }

    pub(crate) fn has_device(&self, place: usize) -> bool {
        run("rdma link show").contains(&format!("rxe{place}/"))
    }

    /// How many of a kind (`qp`, `mr`, `cq`, `pd`, `cm_id`) there are that are not the kernel's own. They are counted by
    /// the thread that made them, and nobody else uses these devices.
    pub(crate) fn resources(&self, kind: &str) -> usize {
        run(&format!("rdma resource show {kind}")).lines().filter(|line| line.contains(" pid ")).count()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.calm_link();
        self.take_link_up();
        for place in [0, 1] {
            if !self.has_device(place) {
                self.add_device(place);
            }
        }
    }
}

/// A command that this machine has.
pub(crate) fn command(line: &str) -> Command {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words).env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

fn run(line: &str) -> String {
    let output = command(line).output().unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What may have nothing to do.
fn try_to_run(line: &str) {
    let _ = command(line).output();
}
