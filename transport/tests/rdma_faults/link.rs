//! Faults of the link between the devices.

use crate::devices::renew_devices;
use crate::machine::Machine;
use crate::pair::{Pair, THERE};
use std::time::{Duration, Instant};
use underlay::driver::Address;

/// How long a link is cut.
const CUT: Duration = Duration::from_secs(3);

#[test]
fn a_link_that_loses_and_delays_packets_loses_no_message() {
    let Some(machine) = Machine::of_test("a link that loses and delays packets") else { return };
    let mut pair = Pair::connected("a link that loses 1% and takes 5 ms");
    machine.disturb_link("1%", "5ms");
    pair.send_up_to(1_500);
    pair.until_all_arrived();
    let dropped = machine.dropped();
    println!("packets that the link dropped: {dropped}");
    assert!(dropped > 0, "it has lost nothing");
    pair.close().lost_nothing();
}

#[test]
fn a_link_that_carries_nothing_for_3_s_interrupts_and_loses_nothing() {
    let Some(machine) = Machine::of_test("a link that carries nothing for 3 s") else { return };
    let mut pair = Pair::connected("a link that carries nothing for 3 s");
    pair.until_under_load("there is traffic", |pair| pair.sent() > 300);
    machine.block_link();
    let cut = Instant::now();
    pair.until_under_load("it is interrupted", |pair| pair.interruptions() > 0);
    println!("interrupted after {:?}", cut.elapsed());
    pair.until_under_load("it is cut for so long", |_| cut.elapsed() > CUT);
    machine.calm_link();
    goes_on(&mut pair, &["rdma"]);
    pair.close().lost_nothing();
}

#[test]
fn a_link_that_is_down_for_3_s_interrupts_and_loses_nothing() {
    let Some(machine) = Machine::of_test("a link that is down for 3 s") else { return };
    let mut pair = Pair::connected("a link that is down for 3 s");
    pair.until_under_load("there is traffic", |pair| pair.sent() > 300);
    machine.take_link_down();
    let cut = Instant::now();
    pair.until_under_load("it is interrupted", |pair| pair.interruptions() > 0);
    println!("interrupted after {:?}", cut.elapsed());
    pair.until_under_load("it is down for so long", |_| cut.elapsed() > CUT);
    assert_eq!(pair.wires(), [""; 0], "the link is down");
    machine.take_link_up();
    renew_devices(&machine, &mut pair);
    pair.until_under_load("it goes on", |pair| !pair.is_interrupted());
    // It may have gone on before the second device was renewed.
    let wires = pair.wires();
    assert!(!wires.is_empty() && wires.iter().all(|wire| wire == "rdma"), "{wires:?}");
    let more = pair.sent() + 300;
    pair.send_up_to(more);
    pair.until_all_arrived();
    pair.close().lost_nothing();
}

#[test]
fn a_session_goes_on_over_tcp_while_the_link_is_cut_and_returns() {
    let Some(machine) = Machine::of_test("a session that goes on over tcp and returns") else { return };
    let mut pair = Pair::new("a link that is cut, with TCP beside it");
    let addresses = [Address::rdma(THERE), Address::tcp("127.0.0.1:0")].map(|address| pair.listen(&address));
    pair.connect(&addresses);
    pair.until_under_load("there is traffic", |pair| pair.sent() > 300);
    machine.block_link();
    goes_on(&mut pair, &["tcp"]);
    machine.calm_link();
    goes_on(&mut pair, &["tcp", "rdma"]);
    assert_eq!(pair.interruptions(), 1, "the way back interrupts nothing");
    pair.close().lost_nothing();
}

/// It has gone on over these wires by now, and still does.
pub(crate) fn goes_on(pair: &mut Pair, wires: &[&str]) {
    pair.until_under_load("it goes on", |pair| pair.wires() == wires);
    let more = pair.sent() + 300;
    pair.send_up_to(more);
    pair.until_all_arrived();
    assert_eq!(pair.wires(), wires);
}
