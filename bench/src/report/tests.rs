//! The reports of a run that was made up by hand.

use serde_json::{Value, json};

use super::json::{Document, Percentiles, Run, Verdict};
use super::{ratios, svg, table};
use crate::cli::{Cli, Command};
use crate::host::Host;
use crate::plan::Plan;
use crate::statistics::Estimate;
use crate::subject::{Role, System};

fn plan(arguments: &[&str]) -> Plan {
    use clap::Parser;
    let cli = Cli::try_parse_from(["underlay-bench", "roundtrip"].iter().chain(arguments)).unwrap();
    let Command::Roundtrip(options) = cli.command else { panic!("another command") };
    Plan::new(&options).unwrap()
}

fn host() -> Host {
    Host {
        cpu_model: "Some CPU".to_owned(),
        cores: 4,
        cores_allowed: 2,
        kernel: "6.1.0".to_owned(),
        io_uring: "allowed".to_owned(),
        clock_source: "tsc".to_owned(),
        transparent_huge_pages: "madvise".to_owned(),
        cpu_dma_latency: "not held".to_owned(),
        date: "2025-01-02T03:04:05Z".to_owned(),
        commit: Some("0123456789ab".to_owned()),
        build: "release".to_owned(),
        skipped_engines: Vec::new(),
    }
}

/// A run whose p50 was as given in each round, and whose CPU time a message was half of that.
fn run(system: System, engine: &str, size: usize, p50_us_by_round: &[f64]) -> Run {
    let p50 = crate::statistics::median(p50_us_by_round).unwrap();
    Run {
        system,
        wire: "tcp".to_owned(),
        engine: engine.to_owned(),
        driver: (system == System::Underlay).then(|| "own".to_owned()),
        topology: "broker".to_owned(),
        size,
        messages: 300,
        in_flight: Some(1),
        rate_per_s: None,
        placement: "unpinned".to_owned(),
        wait: (system == System::Underlay).then(|| "adaptive".to_owned()),
        rtt_us: Percentiles {
            p50,
            p90: p50 * 1.5,
            p99: p50 * 2.0,
            p999: 5e3,
            max: 123_456.7,
            mean: p50 + 1.0,
        },
        cpu_us_per_message: p50 / 2.0,
        cpu_of: vec![Role::Client, Role::Broker, Role::Service],
        messages_per_s: 1e6 / p50,
        rounds: 3,
        p50_us_by_round: p50_us_by_round.to_vec(),
        cpu_us_by_round: p50_us_by_round.iter().map(|p50| p50 / 2.0).collect(),
    }
}

/// At 1 KiB the blocking floor is better, at 64 KiB the yielding one; io_uring takes 1.2 times the
/// better one in every round, epoll 1.5 times, although rounds differ by a factor of three.
fn document(arguments: &[&str]) -> Document {
    let (small, large) = ([10.0, 20.0, 30.0], [100.0, 300.0, 200.0]);
    let times = |rounds: [f64; 3], factor: f64| rounds.map(|p50| p50 * factor);
    let runs = vec![
        run(System::Underlay, "io_uring", 1024, &times(small, 1.2)),
        run(System::Underlay, "epoll", 1024, &times(small, 1.5)),
        run(System::Floor, "blocking", 1024, &small),
        run(System::Floor, "yield", 1024, &times(small, 1.1)),
        run(System::Underlay, "io_uring", 65_536, &times(large, 1.2)),
        run(System::Underlay, "epoll", 65_536, &times(large, 1.5)),
        run(System::Floor, "blocking", 65_536, &times(large, 2.0)),
        run(System::Floor, "yield", 65_536, &large),
    ];
    ratios::document(&plan(arguments), host(), runs)
}

#[test]
fn ratios_are_paired_and_taken_to_the_better_floor_of_each_size() {
    let document = document(&[]);
    let found: Vec<_> = document
        .ratios
        .iter()
        .map(|ratio| {
            (ratio.size, ratio.engine.as_str(), ratio.floor.as_str(), ratio.p50_over_floor, ratio.ci95)
        })
        .collect();
    assert_eq!(
        found,
        [
            (1024, "io_uring", "blocking", 1.2, [1.2, 1.2]),
            (1024, "epoll", "blocking", 1.5, [1.5, 1.5]),
            (65_536, "io_uring", "yield", 1.2, [1.2, 1.2]),
            (65_536, "epoll", "yield", 1.5, [1.5, 1.5]),
        ]
    );
    assert!(document.ratios.iter().all(|ratio| ratio.cpu_over_floor == Some(ratio.p50_over_floor)));
    let engines: Vec<_> = document.engines.iter().map(|engine| engine.p50_io_uring_over_epoll).collect();
    assert_eq!(engines, [0.8, 0.8]);
}

/// RDMA takes 0.9 times what io_uring takes, in rounds that differ by a factor of three.
fn document_of_both_wires() -> Document {
    let mut runs = document(&[]).runs;
    for size in [1024, 65_536] {
        let tcp = runs.iter().find(|run| run.size == size && run.engine == "io_uring").unwrap();
        let rounds: Vec<f64> = tcp.p50_us_by_round.iter().map(|p50| p50 * 0.9).collect();
        let mut rdma = run(System::Underlay, "verbs", size, &rounds);
        rdma.wire = "rdma".to_owned();
        let place = runs.iter().position(|run| run.size == size).unwrap();
        runs.insert(place, rdma);
    }
    ratios::document(&plan(&["--wire", "rdma,tcp"]), host(), runs)
}

#[test]
fn rdma_is_paired_with_each_engine_of_tcp() {
    let document = document_of_both_wires();
    let found: Vec<_> = document
        .wires
        .iter()
        .map(|wire| {
            (wire.size, wire.engine.as_str(), wire.p50_rdma_over_tcp, wire.ci95, wire.cpu_rdma_over_tcp)
        })
        .collect();
    let of = |size| [(size, "io_uring", 0.9, [0.9, 0.9], 0.9), (size, "epoll", 0.72, [0.72, 0.72], 0.72)];
    assert_eq!(found, [of(1024), of(65_536)].concat());
    // What was there before stays as it was.
    assert_eq!(document.engines.len(), 2);
    assert_eq!(document.ratios.len(), 6, "all three over the floor");
    let value: Value = serde_json::from_str(&document.to_json().unwrap()).unwrap();
    assert_eq!(
        keys(&value["wires"][0]),
        [
            "ci95",
            "cpu_ci95",
            "cpu_rdma_over_tcp",
            "driver",
            "engine",
            "p50_rdma_over_tcp",
            "placement",
            "size"
        ]
    );
    assert_eq!(super::ratios::document(&plan(&[]), host(), self::document(&[]).runs).wires, []);
}

#[test]
fn a_table_of_both_wires_names_them_and_their_ratio() {
    let text = table::render(&document_of_both_wires());
    for part in ["Round trips over rdma and tcp,", "underlay verbs own", "rdma over tcp, paired by round"] {
        assert_eq!(text.matches(part).count(), if part.starts_with("underlay") { 3 } else { 1 }, "{part}");
    }
    let line = "    1024  unpinned   io_uring own          0.90    [0.90, 0.90]     0.90    [0.90, 0.90]";
    assert!(text.lines().any(|it| it == line), "no such line:\n{text}");
    assert!(svg::draw(&document_of_both_wires()).unwrap().contains("rdma and tcp, broker"));
}

#[test]
fn a_file_from_before_both_wires_is_read() {
    let mut value: Value = serde_json::from_str(&document(&[]).to_json().unwrap()).unwrap();
    value.as_object_mut().unwrap().remove("wires");
    assert_eq!(serde_json::from_value::<Document>(value).unwrap(), document(&[]));
}

#[test]
fn the_cheapest_floor_may_be_another_than_the_faster_one() {
    let mut runs = document(&[]).runs;
    let blocking = runs.iter_mut().filter(|run| run.engine == "blocking");
    blocking.for_each(|run| run.cpu_us_by_round.iter_mut().for_each(|cpu| *cpu /= 8.0));
    let document = ratios::document(&plan(&[]), host(), runs);
    let large = &document.ratios[2];
    assert_eq!((large.floor.as_str(), large.cpu_over_floor), ("yield", Some(1.2)));
    // Its own CPU time is 0.6 of the yielding p50; the blocking floor's was 1.0 of it, and is now 0.125.
    assert_eq!((large.cheapest_floor.as_deref(), large.cpu_over_cheapest), (Some("blocking"), Some(4.8)));
}

#[test]
fn a_floor_at_another_placement_is_not_divided_by() {
    let mut runs = document(&[]).runs;
    for run in runs.iter_mut().filter(|run| run.system == System::Floor) {
        run.placement = "split".to_owned();
    }
    assert_eq!(ratios::document(&plan(&[]), host(), runs).ratios, []);
}

#[test]
fn cpu_time_of_different_processes_is_not_divided() {
    let mut runs = document(&[]).runs;
    for run in runs.iter_mut().filter(|run| run.system == System::Underlay) {
        run.cpu_of = vec![Role::Client];
    }
    let document = ratios::document(&plan(&["--target-cpu", "1"]), host(), runs);
    assert!(
        document.ratios.iter().all(|ratio| ratio.cpu_over_floor.is_none() && ratio.verdict_cpu.is_none())
    );
}

#[test]
fn a_target_is_missed_only_when_the_whole_interval_lies_beyond_it() {
    let estimate = |low, high| Estimate { median: 1.3, low, high };
    assert_eq!(ratios::judge(estimate(1.31, 1.4), 1.3), Verdict::Missed);
    assert_eq!(ratios::judge(estimate(1.3, 1.4), 1.3), Verdict::Open);
    assert_eq!(ratios::judge(estimate(1.2, 1.3), 1.3), Verdict::Met);
    let verdicts: Vec<_> =
        document(&["--target", "1.3,64KiB:1.1"]).ratios.iter().map(|ratio| ratio.verdict.unwrap()).collect();
    assert_eq!(verdicts, [Verdict::Met, Verdict::Missed, Verdict::Missed, Verdict::Missed]);
}

#[test]
fn json_comes_back_as_it_went() {
    let document = document(&["--target", "1.3"]);
    let text = document.to_json().unwrap();
    assert_eq!(serde_json::from_str::<Document>(&text).unwrap(), document);
}

/// The shape that others read: keys may be added, never renamed or dropped.
#[test]
fn json_has_exactly_these_keys() {
    let value: Value = serde_json::from_str(&document(&[]).to_json().unwrap()).unwrap();
    assert_eq!(keys(&value), ["engines", "host", "ratios", "runs", "wires"]);
    assert_eq!(
        keys(&value["host"]),
        [
            "build",
            "clock_source",
            "commit",
            "cores",
            "cores_allowed",
            "cpu_dma_latency",
            "cpu_model",
            "date",
            "io_uring",
            "kernel",
            "skipped_engines",
            "transparent_huge_pages"
        ]
    );
    assert_eq!(
        keys(&value["runs"][0]),
        [
            "cpu_of",
            "cpu_us_by_round",
            "cpu_us_per_message",
            "driver",
            "engine",
            "in_flight",
            "messages",
            "messages_per_s",
            "p50_us_by_round",
            "placement",
            "rate_per_s",
            "rounds",
            "rtt_us",
            "size",
            "system",
            "topology",
            "wait",
            "wire"
        ]
    );
    assert_eq!(keys(&value["runs"][0]["rtt_us"]), ["max", "mean", "p50", "p90", "p99", "p999"]);
    assert_eq!(
        keys(&value["ratios"][0]),
        [
            "cheapest_floor",
            "ci95",
            "cpu_cheapest_ci95",
            "cpu_ci95",
            "cpu_over_cheapest",
            "cpu_over_floor",
            "driver",
            "engine",
            "floor",
            "p50_over_floor",
            "placement",
            "size",
            "target",
            "target_cpu",
            "verdict",
            "verdict_cpu"
        ]
    );
    let run = &value["runs"][0];
    assert_eq!(run["system"], json!("underlay"));
    assert_eq!(run["cpu_of"], json!(["client", "broker", "service"]));
    assert_eq!(value["ratios"][0]["ci95"], json!([1.2, 1.2]));
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn the_table_looks_like_this() {
    let text = table::render(&document(&["--target", "1.3"]));
    let expected = include_str!("tests/table.txt");
    assert!(text == expected, "the layout changed; if meant, make this tests/table.txt:\n{text}");
}

#[test]
fn the_table_fits_a_terminal_with_the_longest_names_and_figures() {
    let mut document = document(&["--target", "1.3", "--target-cpu", "1.3"]);
    for run in document.runs.iter_mut().filter(|run| run.system == System::Underlay) {
        run.engine = "io_uring".to_owned();
        run.driver = Some("background".to_owned());
        run.size = 131_072;
        run.rtt_us = Percentiles {
            p50: 99_999.9,
            p90: 99_999.9,
            p99: 99_999.9,
            p999: 999_999.9,
            max: 9_999_999.9,
            mean: 99_999.9,
        };
    }
    for ratio in &mut document.ratios {
        ratio.size = 131_072;
        ratio.placement = "unpinned".to_owned();
        ratio.driver = Some("background".to_owned());
        ratio.ci95 = [99.99, 99.99];
        ratio.cpu_ci95 = Some([99.99, 99.99]);
        ratio.cpu_cheapest_ci95 = Some([99.99, 99.99]);
    }
    for line in table::render(&document).lines() {
        assert!(line.chars().count() <= 110, "{} columns: {line}", line.chars().count());
    }
}

#[test]
fn the_chart_has_a_line_for_each_system_and_names_them_and_the_placement() {
    let picture = svg::draw(&document(&[])).unwrap();
    assert_eq!(picture.matches("<circle").count(), 8, "a marker for each figure");
    for name in ["underlay io_uring own", "underlay epoll own", "floor blocking", "floor yield"] {
        assert_eq!(picture.matches(name).count(), 1, "{name}");
    }
    for text in ["placement unpinned", "Some CPU", "64Ki", "microseconds"] {
        assert!(picture.contains(text), "{text}");
    }
}

#[test]
fn a_chart_of_one_size_or_of_nothing() {
    let mut document = document(&[]);
    document.runs.truncate(1);
    assert_eq!(svg::draw(&document).unwrap().matches("<circle").count(), 1);
    document.runs.clear();
    assert!(svg::draw(&document).unwrap_err().contains("no runs"));
}

#[test]
fn a_file_that_cannot_be_written_is_refused_before_the_run() {
    let plan = plan(&["--json", "/nowhere/at/all.json"]);
    let error = super::check_writable(&plan).unwrap_err().to_string();
    assert!(error.contains("/nowhere/at/all.json"), "{error}");
}
