//! A listener on the `rdma` wire where that wire is missing.
//!
//! Each test names a device that no machine has, so that they hold on machines with RDMA, too.

#[path = "support/process.rs"]
mod process;
mod support;

use nix::sys::signal::Signal;
use process::{Process, figure, run};
use std::net::TcpListener;
use support::{ClientDriver, PLENTY, client_config, room};
use underlay::backend::WireKind;
use underlay::backend::inproc::InprocNetwork;
use underlay::driver::Address;
use underlay::proto::control::LinkRole;
use underlay::proto::record::MessageKind;
use underlay_broker::config::{Fallback, ListenerSettings, QueueSettings, RdmaSettings};
use underlay_broker::{Config, Server};

const NO_DEVICE: &str = "[rdma]\ndevice = \"none-such\"\n[[queue]]\nname = \"work\"\n";

fn config(address: &str, fallback: bool) -> String {
    let fallback = if fallback { "fallback = \"tcp\"\n" } else { "" };
    format!("[[listener]]\ntransport = \"rdma\"\naddress = \"{address}\"\n{fallback}{NO_DEVICE}")
}

fn connect(address: &str, number: u8) -> ClientDriver {
    let address = Address::tcp(address);
    let mut client = ClientDriver::connect(client_config(), number, InprocNetwork::new(), &address);
    client.run_until(|client| client.connection.is_some());
    client
}

/// What is missing differs by machine; that it is the wire, and that something is said of it, does not.
fn says_why(text: &str) {
    let reasons =
        ["there is no /dev/infiniband/rdma_cm", "no permission", "there is no RDMA device", "without RDMA"];
    assert!(reasons.iter().any(|reason| text.contains(reason)), "{text}");
}

#[test]
fn it_falls_back_to_tcp_and_the_reason_is_seen_as_long_as_it_runs() {
    let process = Process::start(&config("127.0.0.1:0", true), &[]);
    let prefix = format!("underlay-broker: listening on tcp://{} (", process.address);
    assert!(process.line.starts_with(&prefix), "{}", process.line);
    let (_, why) = process.line.split_once("), in place of rdma: ").unwrap();
    says_why(why);
    process.wait_for_log("a listener falls back to another wire");
    let log = process.log();
    let warning = log.lines().find(|line| line.contains("falls back")).unwrap_or_default();
    assert!(warning.contains("WARN"), "{log}");
    says_why(warning);

    let (mut sender, mut receiver) = (connect(&process.address, 1), connect(&process.address, 2));
    receiver.attach_and_wait(LinkRole::Consumer, "work", PLENTY);
    let link = sender.attach_and_wait(LinkRole::Producer, "work", room(0));
    assert!(sender.send(link, MessageKind::Message, b"by tcp"));
    sender.driver.turn().unwrap();
    receiver.run_until(|client| client.received.len() == 1);

    drop((sender, receiver));
    process.signal(Signal::SIGUSR1);
    process.wait_for_log("listener.0.fallback 1\n");
    let (status, log) = process.stop();
    assert!(status.success(), "{log}");
    assert_eq!(figure(&log, "listener.0.fallback"), 1);
    let reason = log.lines().rfind(|line| line.starts_with("listener.0.fallback_reason tcp://127.0.0.1:"));
    says_why(reason.unwrap());
    assert_eq!(log.matches("listener.0.fallback_reason").count(), 2, "asked for, and at the end: {log}");
}

#[test]
fn without_a_fallback_it_does_not_start_and_says_what_to_do() {
    let output = run(&config("127.0.0.1:0", false), &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8(output.stderr).unwrap();
    let line = error.lines().rfind(|line| line.starts_with("underlay-broker: listener[0]: ")).unwrap();
    assert!(line.contains("'127.0.0.1:0' cannot be listened at: there is no rdma wire here: "), "{line}");
    assert!(line.ends_with("give the listener fallback = \"tcp\""), "{line}");
    says_why(line);
}

#[test]
fn a_fallback_that_finds_its_port_in_use_is_no_fallback() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let output = run(&config(&address, true), &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains(&format!("listener[0]: '{address}' is in use")), "{error}");
}

/// A free port, which nobody else is given as long as it was used a moment ago.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn a_tcp_listener_at_the_same_address_is_all_that_a_fallback_takes() {
    let address = free_address();
    let rdma = ListenerSettings { fallback: Some(Fallback::Tcp), ..ListenerSettings::rdma(address.clone()) };
    let config = Config::builder()
        .listener(rdma)
        .listener(ListenerSettings::tcp(address.clone()))
        .rdma(RdmaSettings { device: Some("none-such".to_owned()), ..RdmaSettings::default() })
        .queue(QueueSettings::named("work"))
        .build()
        .unwrap();
    let mut server = Server::start(&config).unwrap();
    assert_eq!(server.addresses(), [Address::tcp(address.clone()), Address::tcp(address.clone())]);
    let stats = server.driver().parts().1.stats();
    let [fallback] = &stats.fallbacks[..] else { panic!("{:?}", stats.fallbacks) };
    assert_eq!((fallback.listener, fallback.missing), (0, WireKind::Rdma));
    assert_eq!(fallback.address, Address::tcp(address));
    says_why(&fallback.reason);
    let lines = server.listening();
    assert!(lines[0].contains(", in place of rdma: ") && !lines[1].contains("rdma"), "{lines:?}");
}
