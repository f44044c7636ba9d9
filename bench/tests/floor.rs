//! The floor's programs as they are: processes of their own, over real sockets.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use underlay_bench::error::BenchError;
use underlay_bench::floor::Waiting;
use underlay_bench::floor::client::FloorClient;
use underlay_bench::payload::PayloadMismatch;
use underlay_bench::plan::{Pace, RoundPlan, Schedule, new_histogram};

const PROGRAM: &str = env!("CARGO_BIN_EXE_underlay-bench");

/// A floor program, killed by its id when dropped.
struct Running {
    child: Child,
    address: SocketAddr,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("ready ").expect("a ready line").parse().unwrap();
        Self { child, address }
    }

    fn service(waiting: Waiting) -> Self {
        Self::start(&["floor-service", "--waiting", waiting.name()])
    }

    fn relay(waiting: Waiting, service: &Self, one_at_a_time: bool) -> Self {
        let address = service.address.to_string();
        let mut arguments = vec!["floor-relay", "--waiting", waiting.name(), "--service", &address];
        arguments.extend(one_at_a_time.then_some("--alternate"));
        Self::start(&arguments)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn exchange(
    client: &mut FloorClient,
    size: usize,
    first_number: u64,
    messages: u64,
    pace: Pace,
) -> Result<u64, BenchError> {
    client.prepare(size);
    let mut histogram = new_histogram();
    client.round(&RoundPlan { size, first_number, messages, pace }, &mut histogram)?;
    Ok(histogram.len())
}

#[test]
fn every_floor_relays_every_size_at_every_pace() {
    let paces = [
        Pace::Closed { in_flight: 1 },
        Pace::Closed { in_flight: 8 },
        Pace::Open(Schedule::per_second(2000.0)),
    ];
    for waiting in [Waiting::Blocking, Waiting::Yield] {
        for pace in &paces {
            let one_at_a_time = pace.is_one_at_a_time();
            let service = Running::service(waiting);
            let relay = Running::relay(waiting, &service, one_at_a_time);
            let mut client = FloorClient::connect(relay.address, waiting, one_at_a_time).unwrap();
            let mut first_number = 0;
            for size in [1, 65_536, 131_072, 100] {
                let counted = exchange(&mut client, size, first_number, 30, pace.clone()).unwrap();
                assert_eq!(counted, 30, "{waiting:?}, {pace:?}, {size} bytes");
                first_number += 30;
            }
        }
    }
}

/// 16 messages of 4 MiB are more than all sockets of the way hold: whoever writes without reading
/// would block for ever.
#[test]
fn more_in_flight_than_sockets_hold_does_not_stall() {
    for waiting in [Waiting::Blocking, Waiting::Yield] {
        let service = Running::service(waiting);
        let relay = Running::relay(waiting, &service, false);
        let mut client = FloorClient::connect(relay.address, waiting, false).unwrap();
        let counted = exchange(&mut client, 4 << 20, 0, 32, Pace::Closed { in_flight: 16 }).unwrap();
        assert_eq!(counted, 32, "{waiting:?}");
    }
}

#[test]
fn a_relay_serves_the_next_client_after_one_has_gone() {
    let service = Running::service(Waiting::Blocking);
    for one_at_a_time in [true, false] {
        let relay = Running::relay(Waiting::Blocking, &service, one_at_a_time);
        for _ in 0..2 {
            let mut client = FloorClient::connect(relay.address, Waiting::Blocking, one_at_a_time).unwrap();
            let pace = Pace::Closed { in_flight: 1 };
            if one_at_a_time {
                assert_eq!(exchange(&mut client, 10, 0, 5, pace).unwrap(), 5);
            } else {
                assert_eq!(exchange(&mut client, 10, 0, 5, Pace::Closed { in_flight: 2 }).unwrap(), 5);
            }
        }
    }
}

#[test]
fn a_damaged_byte_is_an_error_that_names_message_and_place() {
    for pace in [Pace::Closed { in_flight: 1 }, Pace::Closed { in_flight: 4 }] {
        let service = Running::start(&["floor-service", "--corrupt", "7"]);
        let one_at_a_time = pace.is_one_at_a_time();
        let relay = Running::relay(Waiting::Blocking, &service, one_at_a_time);
        let mut client = FloorClient::connect(relay.address, Waiting::Blocking, one_at_a_time).unwrap();
        let error = exchange(&mut client, 1000, 0, 20, pace).unwrap_err();
        assert!(
            matches!(error, BenchError::Payload(PayloadMismatch::Byte { number: 7, offset: 999, .. })),
            "{error}"
        );
    }
}

#[test]
fn a_stranger_ends_only_its_own_connection() {
    let service = Running::service(Waiting::Blocking);
    let mut stranger = TcpStream::connect(service.address).unwrap();
    stranger.write_all(&[b'x'; 64]).unwrap();
    let mut client = FloorClient::connect(service.address, Waiting::Blocking, true).unwrap();
    assert_eq!(exchange(&mut client, 10, 0, 5, Pace::Closed { in_flight: 1 }).unwrap(), 5);
}

#[test]
fn programs_exit_when_their_standard_input_closes() {
    let service = Running::service(Waiting::Yield);
    let mut relay = Running::relay(Waiting::Blocking, &service, true);
    // While a client is connected and the main thread is blocked in a read.
    let _client = FloorClient::connect(relay.address, Waiting::Blocking, true).unwrap();
    drop(relay.child.stdin.take());
    assert!(relay.child.wait().unwrap().success(), "exited by itself");
    let mut service = service;
    drop(service.child.stdin.take());
    assert!(service.child.wait().unwrap().success(), "exited by itself");
}

fn bench(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(["roundtrip", "--engine", "none"]).args(arguments).output().unwrap()
}

#[test]
fn a_run_of_the_floor_reports_every_size() {
    let directory = std::env::temp_dir().join(format!("underlay-bench-test-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let json = directory.join("run.json");
    let svg = directory.join("run.svg");
    let output = bench(&[
        "--floor",
        "--sizes",
        "1,4096",
        "--rounds",
        "2",
        "--messages",
        "20",
        "--warmup",
        "5",
        "--placement",
        "unpinned,one-core",
        "--json",
        json.to_str().unwrap(),
        "--svg",
        svg.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let runs = document["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 8, "two floors, two sizes, two placements");
    for run in runs {
        assert_eq!((&run["messages"], &run["cpu_of"].as_array().unwrap().len()), (&Value::from(20), &3));
        assert!(
            run["rtt_us"]["p50"].as_f64().unwrap() > 0.0 && run["cpu_us_per_message"].as_f64().unwrap() > 0.0
        );
    }
    assert!(std::fs::read_to_string(&svg).unwrap().contains("placement one-core"));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("placement unpinned") && text.contains("floor blocking"), "{text}");
    std::fs::remove_dir_all(&directory).unwrap();
}

/// Processes that carry `mark` in their environment, which children inherit.
fn marked(mark: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let carries_mark = |path: &std::path::PathBuf| {
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    entries.filter(carries_mark).map(|path| path.display().to_string()).collect()
}

/// Waits until exactly `count` processes carry `mark`; they get ten seconds.
fn await_marked(mark: &str, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while marked(mark).len() != count {
        assert!(Instant::now() < deadline, "{count} processes expected, there are {:?}", marked(mark));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn no_process_outlives_a_run_even_one_that_is_killed() {
    let value = std::process::id().to_string();
    let mark = format!("UNDERLAY_BENCH_TEST_MARK={value}");
    let mut run = Command::new(PROGRAM)
        .args([
            "roundtrip",
            "--engine",
            "none",
            "--floor",
            "--sizes",
            "1",
            "--rounds",
            "1",
            "--rate",
            "1",
            "--messages",
            "1000",
        ])
        .env("UNDERLAY_BENCH_TEST_MARK", &value)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    await_marked(&mark, 5);
    run.kill().unwrap();
    run.wait().unwrap();
    await_marked(&mark, 0);

    let output = Command::new(PROGRAM)
        .args([
            "roundtrip",
            "--engine",
            "none",
            "--floor",
            "--sizes",
            "1",
            "--rounds",
            "1",
            "--messages",
            "5",
        ])
        .env("UNDERLAY_BENCH_TEST_MARK", &value)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(marked(&mark), Vec::<String>::new(), "reaped before the run ended");
}

#[test]
fn a_direct_run_has_two_processes() {
    let directory = std::env::temp_dir().join(format!("underlay-bench-direct-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let json = directory.join("run.json");
    let output = bench(&[
        "--floor",
        "--topology",
        "direct",
        "--sizes",
        "100",
        "--rounds",
        "1",
        "--messages",
        "10",
        "--rate",
        "1000",
        "--json",
        json.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(document["runs"][0]["cpu_of"], serde_json::json!(["client", "service"]));
    assert_eq!(document["runs"][0]["rate_per_s"], serde_json::json!(1000.0));
    assert_eq!(document["runs"][0]["in_flight"], Value::Null);
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_damaged_reply_fails_the_run() {
    let output = bench(&["--floor", "--sizes", "64", "--rounds", "1", "--messages", "20", "--corrupt", "3"]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("reply to message 3 differs at byte 63"), "{message}");
}

#[test]
fn floors_that_run_elsewhere_are_used_where_they_are() {
    let service = Running::service(Waiting::Yield);
    let relay = Running::relay(Waiting::Yield, &service, false);
    let at = format!("yield={}", relay.address);
    let output =
        bench(&["--floor", "--floor-connect", &at, "--sizes", "64", "--rounds", "1", "--messages", "10"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("CPU time of client together"), "{text}");
    assert!(!text.contains("floor blocking"), "{text}");
}

#[test]
fn a_port_where_nothing_listens_and_a_port_in_use_are_named() {
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let at = format!("blocking={nobody}");
    let output =
        bench(&["--floor", "--floor-connect", &at, "--sizes", "64", "--rounds", "1", "--messages", "10"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && message.contains(&format!("cannot connect to {nobody}")),
        "{message}"
    );

    let taken = Running::service(Waiting::Blocking);
    let address = taken.address.to_string();
    let mut child = Command::new(PROGRAM)
        .args(["floor-service", "--listen", &address])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Held open: the program would exit by itself, without a word, if it closed.
    let _input = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && message.contains(&format!("cannot listen at {address}")),
        "{message}"
    );
}

#[test]
fn without_a_system_there_is_nothing_to_measure() {
    let output = bench(&["--sizes", "1", "--topology", "direct", "--rounds", "1"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && message.contains("nothing to measure"), "{message}");
}
