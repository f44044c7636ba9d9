//! Peers that die or stop, processes that fork, and one that may not pin memory.

use crate::ends::config;
use crate::ledger::Ledger;
use crate::link::goes_on;
use crate::machine::Machine;
use crate::pair::{Pair, THERE};
use crate::part::Part;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;
use underlay::driver::{Address, DriverConfig};
use underlay::session::SessionConfig;

#[test]
fn a_peer_that_is_killed_leaves_every_message_accounted_for_and_every_buffer_in_its_pool() {
    let Some(_machine) = Machine::of_test("a peer that is killed") else { return };
    let mut part = Part::start("receiver", "killed", "", &[]);
    let session = SessionConfig { expiry: Duration::from_secs(3), ..config().session };
    let config = DriverConfig { session, ..config() };
    let mut pair = Pair::alone("a peer that is killed with 1,000 messages on their way", config);
    pair.connect(&[part.said("address").parse().expect("an address")]);
    pair.send_up_to(500);
    pair.until_all_arrived();
    let buffers = pair.buffers_out();
    pair.send_at_once(1_000);
    pair.turn();
    part.kill();
    let mut in_doubt = 0;
    pair.until("its session has ended", |pair| {
        let is_over = !pair.sender.parts().1.closed.is_empty();
        if !is_over {
            in_doubt = pair.outstanding();
        }
        is_over
    });
    pair.until("it is gone", |pair| pair.sender.stats().connections == 0 && part.is_over());
    let arrived = part.arrived();
    let mut ledger = pair.ledger();
    (ledger.in_doubt, ledger.arrived) = (in_doubt, ledger.sent - in_doubt);
    println!("arrived there, by its own log: {}", arrived.len());
    assert!(in_doubt > 0, "all of them had arrived");
    ledger.adds_up();
    is_in_order(&arrived);
    let known = arrived.len() as u64;
    assert!((ledger.arrived..=ledger.sent).contains(&known), "what is known to have arrived has");
    assert!(ledger.ends[0].contains("session"), "it is named: {:?}", ledger.ends);
    // Those that the device may fill are out, before as well.
    let left = pair.buffers_out();
    assert!(left <= buffers, "{left} buffers are out, and {buffers} were before");
}

#[test]
fn a_peer_that_stops_is_noticed_and_goes_on_when_it_does() {
    let Some(_machine) = Machine::of_test("a peer that stops") else { return };
    let part = Part::start("receiver", "stopped", "", &[]);
    let mut pair = Pair::alone("a peer that stops for a while", config());
    pair.connect(&[part.said("address").parse().expect("an address")]);
    pair.until_under_load("there is traffic", |pair| pair.sent() > 300);
    part.signal("STOP");
    pair.until_under_load("it is noticed", |pair| pair.interruptions() > 0);
    part.signal("CONT");
    goes_on(&mut pair, &["rdma"]);
    let ledger = pair.close();
    all_arrived(ledger, &part.arrived());
}

#[test]
fn processes_that_fork_go_on_unharmed() {
    let Some(_machine) = Machine::of_test("processes that fork") else { return };
    let part = Part::start("forking receiver", "forking", "", &[]);
    let mut pair = Pair::alone("two processes that fork while they send and receive", config());
    pair.connect(&[part.said("address").parse().expect("an address")]);
    let mut children = Vec::new();
    for forks in 1..=10 {
        // By a real fork: for that, the user is set.
        children.push(Command::new("sleep").arg("1").uid(0).spawn().expect("it forks"));
        pair.send_up_to(forks * 100);
    }
    pair.until_all_arrived();
    for mut child in children {
        assert!(child.wait().expect("it was started").success());
    }
    assert_eq!(pair.interruptions(), 0);
    let ledger = pair.close();
    all_arrived(ledger, &part.arrived());
}

#[test]
fn a_process_that_may_pin_little_is_told_so_and_goes_on_with_tcp() {
    let Some(_machine) = Machine::of_test("a process that may pin 64 KiB") else { return };
    let mut pair = Pair::new("a process that may pin 64 KiB, and sends over TCP");
    let [rdma, tcp] =
        [Address::rdma(THERE), Address::tcp("127.0.0.1:0")].map(|address| pair.listen(&address).to_string());
    // Root may pin what it likes, but for this.
    let poor = "prlimit --memlock=65536:65536 setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock";
    let mut part = Part::start("poor sender", "poor", poor, &[("rdma", &rdma), ("tcp", &tcp)]);
    pair.until("it is done", |_| part.is_over());
    let refused = part.said("refused");
    println!("refused: {refused}");
    for word in ["1048576 bytes", "RLIMIT_MEMLOCK", "65536 bytes", "ulimit -l", "LimitMEMLOCK="] {
        assert!(refused.contains(word), "it does not say '{word}'");
    }
    let mut ledger = pair.ledger();
    ledger.sent = part.said("sent").parse().expect("a number");
    ledger.lost_nothing();
}

/// Each message of a lane once, and in order.
fn is_in_order(arrived: &[u64]) {
    let mut next = [0, 1, 2];
    for &number in arrived {
        let next = &mut next[(number % 3) as usize];
        assert_eq!(number, *next, "repeated or out of order");
        *next += 3;
    }
}

/// By what the receiving process has written.
fn all_arrived(mut ledger: Ledger, arrived: &[u64]) {
    is_in_order(arrived);
    ledger.arrived = arrived.len() as u64;
    ledger.lost_nothing();
}
