//! Faults of the link between the devices.

use crate::machine::Machine;
use crate::pair::{Pair, THERE};
use std::time::{Duration, Instant};
use underlay::driver::Address;

#[test]
fn a_link_that_loses_and_delays_packets_loses_no_message() {
    let Some(machine) = Machine::of_test("a_link_that_loses_and_delays_packets_loses_no_message") else { return };
    let mut pair = Pair::connected("a link that loses 1% and takes 5 ms");
    machine.disturb_link("1%", "5ms");
    pair.send_up_to(1_500);
    pair.until_all_arrived();
    let dropped = machine.dropped();
    println!("packets dropped by the link: {dropped}");
    assert!(dropped > 0, "it has lost nothing");
    pair.close().lost_nothing();
}

#[test]
fn a_link_that_goes_down_and_comes_back_interrupts_and_loses_nothing() {
    let Some(machine) = Machine::of_test("a_link_that_goes_down_and_comes_back_interrupts_and_loses_nothing")
    else {
        return;
    };
    let mut pair = Pair::connected("a link that is down for 3 s");
    pair.until_under_load("there is traffic", |pair| pair.sent() > 300);
    machine.cut_link();
    let cut = Instant::now();
    pair.until_under_load("it is interrupted", |pair| pair.interruptions() > 0);
    println!("interrupted after {:?}", cut.elapsed());
    pair.until_under_load("it is down for so long", |_| cut.elapsed() > Duration::from_secs(3));
    machine.mend_link();
    pair.until_under_load("it goes on", |pair| !pair.wires().is_empty());
    println!("goes on after {:?}", cut.elapsed());
    let more = pair.sent() + 300;
    pair.send_up_to(more);
    pair.until_all_arrived();
    pair.close().lost_nothing();
}

#[test]
fn a_session_goes_on_over_tcp_while_the_link_is_down_and_returns() {
    let Some(machine) = Machine::of_test("a_session_goes_on_over_tcp_while_the_link_is_down_and_returns") else {
        return;
    };
    let mut pair = Pair::new("a link that is cut, with TCP beside it");
    let addresses = [Address::rdma(THERE), Address::tcp("127.0.0.1:0")].map(|address| pair.listen(&address));
    pair.connect(&addresses);
    pair.until_under_load("there is traffic", |pair| pair.sent() > 300);
    machine.cut_link();
    pair.until_under_load("it goes on over tcp", |pair| pair.wires() == ["tcp"]);
    let more = pair.sent() + 300;
    pair.send_up_to(more);
    pair.until_all_arrived();
    assert_eq!(pair.wires(), ["tcp"], "the link is down still");
    machine.mend_link();
    pair.until_under_load("it is back on rdma", |pair| pair.wires() == ["tcp", "rdma"]);
    assert_eq!(pair.interruptions(), 1, "the way back interrupts nothing");
    let more = pair.sent() + 300;
    pair.send_up_to(more);
    pair.until_all_arrived();
    pair.close().lost_nothing();
}
