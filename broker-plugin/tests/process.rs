//! The binary: how it starts, serves and ends.

#[path = "support/process.rs"]
mod process;
mod support;

use nix::sys::signal::Signal;
use process::{Process, figure, run, run_with_descriptors};
use std::net::TcpListener;
use support::{ClientDriver, PLENTY, client_config, room};
use underlay::backend::inproc::InprocNetwork;
use underlay::driver::Address;
use underlay::proto::control::{CloseCode, LinkRole};
use underlay::proto::record::MessageKind;

const QUEUE: &str = "[[queue]]\nname = \"work\"\n";

fn config(address: &str) -> String {
    format!("[[listener]]\ntransport = \"tcp\"\naddress = \"{address}\"\n{QUEUE}")
}

fn connect(process: &Process, number: u8) -> ClientDriver {
    let address = Address::tcp(&process.address);
    let mut client = ClientDriver::connect(client_config(), number, InprocNetwork::new(), &address);
    client.run_until(|client| client.connection.is_some());
    client
}

#[test]
fn it_serves_and_shuts_down_in_order_when_it_is_told_to() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let process = Process::start(&config("127.0.0.1:0"), &[]);
        let (mut sender, mut receiver) = (connect(&process, 1), connect(&process, 2));
        receiver.attach_and_wait(LinkRole::Consumer, "work", PLENTY);
        let link = sender.attach_and_wait(LinkRole::Producer, "work", room(0));
        for _ in 0..100 {
            assert!(sender.send(link, MessageKind::Message, &[5; 1000]));
            sender.driver.turn().unwrap();
        }
        receiver.run_until(|client| client.received.len() == 100);
        process.signal(signal);
        for client in [&mut sender, &mut receiver] {
            client.run_until(|client| !client.closed.is_empty());
            assert_eq!(client.state().closed[0].code(), CloseCode::ShuttingDown);
        }
        let (status, log) = process.wait();
        assert!(status.success(), "{status} {log}");
        assert_eq!(figure(&log, "broker.messages_in"), 100);
        assert_eq!(figure(&log, "queue.work.delivered"), 100);
        assert_eq!(figure(&log, "closed.local"), 2);
    }
}

#[test]
fn it_says_where_it_listens_and_on_what() {
    let process = Process::start(&config("127.0.0.1:0"), &[]);
    let prefix = format!("underlay-broker: listening on tcp://{} (", process.address);
    assert!(process.line.starts_with(&prefix), "{}", process.line);
    let why = process.line[prefix.len()..].trim_end();
    assert!(why == "io_uring)" || why.starts_with("epoll: "), "{why}");
    assert!(!process.address.ends_with(":0"), "{}", process.address);
    let (status, _) = process.stop();
    assert!(status.success());
    let epoll = config("127.0.0.1:0").replace("[[queue]]", "engine = \"epoll\"\n[[queue]]");
    let process = Process::start(&epoll, &[]);
    assert!(process.line.contains("(epoll: chosen by the configuration)"), "{}", process.line);
}

#[test]
fn it_prints_its_figures_when_it_is_asked_and_goes_on() {
    let process = Process::start(&config("127.0.0.1:0"), &[]);
    let mut client = connect(&process, 1);
    let link = client.attach_and_wait(LinkRole::Producer, "work", room(0));
    assert!(client.send(link, MessageKind::Message, b"x"));
    client.driver.turn().unwrap();
    let depth = || {
        process.signal(Signal::SIGUSR1);
        std::thread::sleep(std::time::Duration::from_millis(20));
        figure(&process.log(), "queue.work.depth")
    };
    let found = (0..500).any(|_| depth() == 1);
    assert!(found, "{}", process.log());
    assert!(client.send(link, MessageKind::Message, b"y"), "it goes on");
}

#[test]
fn it_ends_with_its_stdin_if_it_is_told_to() {
    let mut process = Process::start(&config("127.0.0.1:0"), &["--exit-with-stdin"]);
    process.close_stdin();
    let (status, log) = process.wait();
    assert!(status.success(), "{log}");
}

#[test]
fn a_second_signal_ends_what_the_first_waits_for() {
    let config = format!("[broker]\ndrain_timeout_ms = 3600000\n{}", config("127.0.0.1:0"));
    let process = Process::start(&config, &[]);
    let (mut sender, mut receiver) = (connect(&process, 1), connect(&process, 2));
    receiver.attach_and_wait(LinkRole::Consumer, "work", room(1));
    let link = sender.attach_and_wait(LinkRole::Producer, "work", room(0));
    for _ in 0..2 {
        assert!(sender.send(link, MessageKind::Message, b"x"));
    }
    sender.driver.turn().unwrap();
    receiver.run_until(|client| client.received.len() == 1);
    process.signal(Signal::SIGTERM);
    process.wait_for_log("shutting down");
    process.signal(Signal::SIGTERM);
    let (status, log) = process.wait();
    assert!(status.success(), "{log}");
    assert!(log.contains("told again to shut down"), "{log}");
}

#[test]
fn a_wrong_configuration_ends_it_with_2_and_one_line() {
    let output = run("[broker]\nspin_us_max = 9999999\n", &[]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(
        error.contains(".toml:2:15: broker.spin_us_max = 9999999: it is too large; allowed: "),
        "{error}"
    );
    assert_eq!(run(&config("127.0.0.1:0"), &["--chekc"]).status.code(), Some(2));
}

#[test]
fn a_configuration_can_be_checked_and_printed_without_starting() {
    let output = run(&config("192.0.2.1:1"), &["--check"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("is right") && text.contains("queue 'work'") && text.contains("in all"), "{text}");
    let output = run(&config("192.0.2.1:1"), &["--print-config"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("frame_bytes_max = ") && text.contains("address = \"192.0.2.1:1\""), "{text}");
}

/// Each is one line that names the address and says what to do, and the process ends with 1.
fn fails_to_start(output: &std::process::Output, texts: &[&str]) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    let line = error.lines().rfind(|line| line.starts_with("underlay-broker: ")).unwrap_or_default();
    for text in texts {
        assert!(line.contains(text), "no '{text}' in: {error}");
    }
}

#[test]
fn a_port_in_use_is_named() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    fails_to_start(&run(&config(&address), &[]), &["listener[0]", &address, "is in use", "port 0"]);
}

#[test]
fn an_address_that_cannot_be_bound_is_named() {
    let texts = ["listener[0]", "192.0.2.1:5700", "cannot be bound", "address of this machine"];
    fails_to_start(&run(&config("192.0.2.1:5700"), &[]), &texts);
}

#[test]
fn a_limit_of_descriptors_is_named() {
    let mut least = 4;
    // How many it needs before it can say anything differs by system and engine.
    while run_with_descriptors(&config("192.0.2.1:1"), least).status.code() == Some(127) {
        least += 1;
        assert!(least < 20);
    }
    let output = run_with_descriptors(&config("127.0.0.1:0"), least);
    fails_to_start(&output, &["descriptor", "ulimit -n"]);
}

#[test]
fn a_low_limit_of_descriptors_is_warned_of() {
    let config = format!("[broker]\nconnections_max = 100000\n{}", config("192.0.2.1:1"));
    let output = run_with_descriptors(&config, 100);
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("the limit of file descriptors allows about 36 connections"), "{log}");
    assert!(log.contains("connections_max=100000") && log.contains("ulimit -n"), "{log}");
}
