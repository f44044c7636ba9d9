//! Drivers and sessions over the `rdma` wire, between the devices that `UNDERLAY_RDMA_ADDRESSES` names:
//!
//! ```text
//! ci/soft-roce run --env UNDERLAY_RDMA_ADDRESSES -- target/debug/deps/rdma-...
//! ```
//!
//! Without devices each test is skipped by name; where `UNDERLAY_REQUIRE_WIRES` names `rdma`, that is a failure.

#[path = "../support/allocations.rs"]
mod allocations;
mod costs;
#[path = "../support/rdma.rs"]
mod devices;
#[path = "../sessions/ends.rs"]
#[allow(dead_code, reason = "the tests of sessions use more of it")]
mod ends;
mod memlock;
#[cfg(target_arch = "x86_64")]
#[path = "../support/system_calls.rs"]
mod system_calls;
#[path = "../support/turned.rs"]
mod turned;

use devices::{Devices, INTERFACES};
use ends::{Pair, drivers_config};
use std::time::Duration;
use underlay::backend::WireKind;
use underlay::backend::tcp::EngineChoice;
use underlay::driver::{Address, DriverConfig};
use underlay::rpc::{BackgroundService, Client, ClientConfig, ServiceConfig};

/// Messages of a test; an emulated device takes its time.
const COUNT: u64 = 400;

/// Longer than anything takes on the slowest machine.
const LIMIT: Duration = Duration::from_secs(30);

/// A driver that connects from the second device, and finds out at once about a send that has no receive request.
fn config(devices: &Devices) -> DriverConfig {
    let mut config = drivers_config(EngineChoice::Auto);
    config.rdma.source = Some(devices.connecting);
    config.rdma.receiver_not_ready_retry_count = 0;
    config
}

#[test]
fn requests_of_one_byte_to_one_mebibyte_are_answered() {
    let Some(devices) = Devices::find("requests_of_one_byte_to_one_mebibyte_are_answered") else { return };
    // Long bodies are read by their receiver, by memory windows and without.
    for memory_windows in [true, false] {
        let mut driver = config(&devices);
        driver.rdma.memory_windows = memory_windows;
        let service_config = ServiceConfig { driver: driver.clone(), ..ServiceConfig::default() };
        let echo = |request: &mut underlay::rpc::Request<'_>| Ok(request.take_body());
        let service = BackgroundService::listen(&devices.any_port(), "echo", service_config, echo).unwrap();
        let client_config = ClientConfig { driver, ..ClientConfig::default() };
        let mut client = Client::connect(service.address(), client_config).unwrap();
        for bytes in [1, 255, 256, 257, 4095, 4096, 16_383, 16_384, 16_385, 65_536, 1 << 20] {
            let body: Vec<u8> = (0..bytes).map(|at: usize| (at * 31 + bytes) as u8).collect();
            for _ in 0..3 {
                let reply = client.call("echo", &body, LIMIT).unwrap();
                assert!(reply.to_bytes()[..] == body[..], "a body of {bytes} bytes came back changed");
            }
        }
        let stats = client.driver_stats();
        assert_eq!(stats.sessions.interrupted, 0);
        assert!(stats.packing.offers >= 6, "{} bodies were offered", stats.packing.offers);
        service.stop().unwrap();
    }
}

#[test]
fn a_session_moves_between_rdma_and_tcp_in_mid_stream() {
    let Some(devices) = Devices::find("a_session_moves_between_rdma_and_tcp_in_mid_stream") else { return };
    let mut pair = Pair::new(config(&devices));
    let (rdma, tcp) = (pair.listen(&devices.any_port()), pair.listen(&Address::tcp("127.0.0.1:0")));
    pair.connect(std::slice::from_ref(&rdma));
    for (part, address) in [&tcp, &rdma, &tcp, &rdma].into_iter().enumerate() {
        pair.send_up_to((part as u64 + 1) * COUNT / 5);
        pair.move_to(address);
        pair.send_up_to((part as u64 + 1) * COUNT / 5 + COUNT / 10);
        pair.until("it has moved", |pair| pair.moves().len() == part + 1);
    }
    pair.send_up_to(COUNT);
    pair.until_all_arrived();
    assert_eq!(pair.moves(), [WireKind::Tcp, WireKind::Rdma, WireKind::Tcp, WireKind::Rdma]);
    assert_eq!(pair.interruptions(), 0, "the new connection was there before the old one went");
    pair.close();
}

#[test]
fn a_link_that_is_cut_is_left_for_tcp_and_returned_to() {
    const TEST: &str = "a_link_that_is_cut_is_left_for_tcp_and_returned_to";
    let Some(devices) = Devices::find(TEST) else { return };
    let Some(link) = devices.link(TEST) else { return };
    for interface in INTERFACES {
        let mut pair = Pair::new(config(&devices));
        let (rdma, tcp) = (pair.listen(&devices.any_port()), pair.listen(&Address::tcp("127.0.0.1:0")));
        pair.connect(&[rdma, tcp]);
        pair.send_up_to(COUNT / 4);
        link.cut(interface);
        // What is sent now is what finds out.
        pair.send_up_to(COUNT / 4 + 1);
        pair.until("it goes on over tcp", |pair| pair.moves() == [WireKind::Tcp]);
        pair.send_up_to(COUNT / 2);
        pair.until_all_arrived();
        assert_eq!(pair.moves(), [WireKind::Tcp], "the link is cut at {interface}");
        link.restore(interface);
        pair.until("it is back on rdma", |pair| pair.moves() == [WireKind::Tcp, WireKind::Rdma]);
        assert_eq!(pair.interruptions(), 1, "the way back interrupts nothing");
        pair.send_up_to(COUNT);
        pair.until_all_arrived();
        pair.close();
    }
}

#[test]
fn a_session_without_another_wire_waits_for_the_link() {
    const TEST: &str = "a_session_without_another_wire_waits_for_the_link";
    let Some(devices) = Devices::find(TEST) else { return };
    let Some(link) = devices.link(TEST) else { return };
    let mut pair = Pair::new(config(&devices));
    let rdma = pair.listen(&devices.any_port());
    pair.connect(&[rdma]);
    pair.send_up_to(COUNT / 2);
    link.cut(INTERFACES[0]);
    pair.send_up_to(COUNT / 2 + 1);
    pair.until("it was interrupted", |pair| pair.interruptions() == 1);
    link.restore(INTERFACES[0]);
    pair.until("it goes on", |pair| pair.moves() == [WireKind::Rdma]);
    pair.send_up_to(COUNT);
    pair.until_all_arrived();
    pair.close();
}
