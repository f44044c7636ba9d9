use clap::Parser;

use super::*;
use crate::cli::{Cli, Command};

fn plan(arguments: &[&str]) -> Result<Plan, String> {
    let cli = Cli::try_parse_from(["underlay-bench", "roundtrip"].iter().chain(arguments))
        .map_err(|error| error.to_string())?;
    let Command::Roundtrip(options) = cli.command else { panic!("parsed as {:?}", cli.command) };
    Plan::new(&options).map_err(|error| error.to_string())
}

#[test]
fn defaults_are_the_published_tables_sizes_and_fifteen_rounds() {
    let plan = plan(&[]).unwrap();
    assert_eq!(plan.sizes, [1, 100, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072]);
    assert_eq!((plan.rounds, plan.messages_per_round), (15, 1334));
    assert_eq!(plan.pace, Pace::Closed { in_flight: 1 });
    assert_eq!(plan.placements, [Placement::Unpinned]);
    assert_eq!(plan.engines, [Engine::IoUring, Engine::Epoll]);
    assert_eq!(plan.drivers, [Driver::Own]);
    assert!(plan.floors.is_empty());
}

#[test]
fn a_low_rate_asks_for_fewer_messages_and_a_short_warmup() {
    let plan = plan(&["--rate", "100"]).unwrap();
    assert_eq!(plan.messages_per_round, 100);
    assert_eq!(plan.warmup_per_round, 10);
    assert_eq!(plan.pace.rate_per_s(), Some(100.0));
    assert_eq!(plan.pace.in_flight(), None);
}

#[test]
fn an_explicit_warmup_of_none_stays_none() {
    assert_eq!(plan(&["--rate", "100", "--warmup", "0"]).unwrap().warmup_per_round, 0);
    assert_eq!(plan(&["--warmup", "0"]).unwrap().warmup_per_round, 0);
}

/// Each refusal names the option, the value, the limit and a way out.
#[test]
fn refusals_name_value_limit_and_way_out() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["--in-flight", "0"], &["--in-flight 0", "from 1 to 4096"]),
        (&["--in-flight", "2", "--rate", "5"], &["--in-flight 2", "--rate 5", "drop one"]),
        (&["--rate", "0"], &["--rate 0", "from 1 to 10000000", "closed loop"]),
        (&["--rate", "NaN"], &["--rate NaN"]),
        (&["--rounds", "0"], &["--rounds 0", "from 1 to 1000"]),
        (&["--rounds", "20", "--messages", "10"], &["--messages 10", "--rounds 20", "fewer rounds"]),
        (&["--messages", "100000001"], &["--messages 100000001", "at most 100000000"]),
        (&["--warmup", "100000001"], &["--warmup 100000001", "at most 100000000"]),
        (&["--sizes", "0"], &["--sizes 0", "from 1 to 16777216"]),
        (&["--sizes", "17MiB"], &["--sizes 17825792", "from 1 to 16777216"]),
        (&["--sizes", "1k,1024"], &["--sizes 1024", "twice"]),
        (&["--sizes", "ten"], &["ten", "64KiB"]),
        (&["--placement", "split", "--connect", "127.0.0.1:1"], &["--placement split", "taskset"]),
        (&["--connect", "nowhere", "--engine", "epoll"], &["--connect nowhere", "HOST:PORT"]),
        (&["--connect", "127.0.0.1:1", "--engine", "epoll", "--floor"], &["--floor", "--floor-connect"]),
        (&["--destination", "mine"], &["--destination mine", "add --connect"]),
        (&["--floor-connect", "yield=127.0.0.1:1"], &["yield=127.0.0.1:1", "add --floor"]),
        (&["--target", "0"], &["0", "1.3"]),
        (&["--target", "1.3", "--rounds", "14"], &["--rounds 14", "at least 15", "--rounds 15"]),
        (&["--target-cpu", "2", "--rounds", "14"], &["--rounds 14", "at least 15", "--rounds 15"]),
        (&["--wait", "spin"], &["--wait spin", "2 systems", "one --engine"]),
        (&["--wait", "spin", "--engine", "epoll", "--floor"], &["--wait spin", "3 systems", "no --floor"]),
        (&["--wait", "spin", "--engine", "epoll", "--driver", "both"], &["--wait spin", "one --driver"]),
        (&["--target", "1.3,64k"], &["64k"]),
        (&["--rdma-addresses", "10.0.0.1"], &["--rdma-addresses 10.0.0.1", "add it"]),
        (&["--wire", "rdma", "--engine", "io_uring"], &["--engine io_uring", "drives TCP", "leave it out"]),
        (
            &["--wire", "rdma", "--rdma-addresses", "10.0.0.1,10.0.0.2,10.0.0.3"],
            &["--rdma-addresses 10.0.0.3", "two ends", "from where the others connect"],
        ),
        (&["--wire", "rdma", "--rdma-addresses", "rxe0"], &["rxe0", "--rdma-addresses"]),
        (&["--wire", "rdma", "--wait", "spin", "--floor"], &["--wait spin", "3 systems"]),
        (&["--wire", "rdma,tcp", "--wait", "spin", "--engine", "epoll"], &["--wait spin", "2 systems"]),
        (&["--wire", "rdma,rdma"], &["--wire rdma", "twice", "once"]),
        (&["--wire", "rdma,tcp", "--connect", "127.0.0.1:1"], &["--connect 127.0.0.1:1", "one --wire"]),
    ];
    for (arguments, wanted) in cases {
        let error = plan(arguments).expect_err(&format!("{arguments:?} was accepted"));
        for part in *wanted {
            assert!(error.contains(part), "{arguments:?}: {part:?} is missing in: {error}");
        }
    }
}

#[test]
fn rdma_is_one_system_driven_by_verbs() {
    let plan_of =
        plan(&["--wire", "rdma", "--rdma-addresses", "10.77.0.1,fd77::2", "--driver", "both"]).unwrap();
    assert_eq!(plan_of.engines, [Engine::Verbs]);
    assert_eq!(plan_of.rdma_addresses.len(), 2);
    let (fitted, skipped) = plan_of.fitted(REFUSED).unwrap();
    assert_eq!((fitted.engines, skipped), (vec![Engine::Verbs], Vec::new()), "io_uring has no part in it");
    assert!(plan(&["--wire", "rdma", "--engine", "none", "--floor"]).unwrap().engines.is_empty());
    assert!(plan(&["--engine", "verbs"]).is_err(), "no way of driving TCP");
}

#[test]
fn both_wires_are_systems_beside_each_other() {
    let engines = |arguments: &[&str]| plan(arguments).unwrap().engines;
    assert_eq!(engines(&["--wire", "rdma,tcp"]), [Engine::Verbs, Engine::IoUring, Engine::Epoll]);
    assert_eq!(engines(&["--wire", "tcp,rdma", "--engine", "epoll"]), [Engine::Epoll, Engine::Verbs]);
    let (fitted, _) = plan(&["--wire", "rdma,tcp"]).unwrap().fitted(REFUSED).unwrap();
    assert_eq!(fitted.engines, [Engine::Verbs, Engine::Epoll]);
    assert!(engines(&["--wire", "rdma,tcp", "--engine", "none", "--floor"]).is_empty());
    assert_eq!([Engine::Verbs, Engine::IoUring].map(Engine::wire), [Wire::Rdma, Wire::Tcp]);
}

#[test]
fn one_system_may_spin_and_fifteen_rounds_may_be_judged() {
    assert_eq!(plan(&["--wait", "spin", "--engine", "epoll"]).unwrap().wait, Wait::Spin);
    assert!(plan(&["--target", "1.3", "--rounds", "15"]).unwrap().target_p50.is_some());
}

const REFUSED: Option<&str> = Some("io_uring_setup: Operation not permitted");

#[test]
fn an_engine_that_the_host_refuses_is_left_out_by_name() {
    let plan = plan(&[]).unwrap();
    let (fitted, skipped) = plan.fitted(REFUSED).unwrap();
    assert_eq!(fitted.engines, [Engine::Epoll]);
    let reason = "io_uring_setup: Operation not permitted".to_owned();
    assert_eq!(skipped, [SkippedEngine { engine: "io_uring".to_owned(), reason }]);
    let (fitted, skipped) = plan.fitted(None).unwrap();
    assert_eq!((fitted.engines, skipped), (plan.engines, Vec::new()));
}

#[test]
fn an_engine_asked_for_by_name_is_not_left_out() {
    for engine in ["io_uring", "both"] {
        let error = plan(&["--engine", engine]).unwrap().fitted(REFUSED).unwrap_err().to_string();
        for part in ["--engine io_uring", "Operation not permitted", "--engine epoll"] {
            assert!(error.contains(part), "{part:?} is missing in: {error}");
        }
    }
    for engine in ["epoll", "none"] {
        assert_eq!(plan(&["--engine", engine]).unwrap().fitted(REFUSED).unwrap().1, []);
    }
}

#[test]
fn floors_elsewhere_are_only_those_named() {
    let elsewhere = ["--connect", "127.0.0.1:1", "--floor", "--floor-connect", "yield=127.0.0.1:2"];
    let plan = plan(&[&["--engine", "epoll"][..], &elsewhere].concat()).unwrap();
    let address = Some("127.0.0.1:2".parse().unwrap());
    assert_eq!(plan.floors, [FloorPlan { waiting: Waiting::Yield, address }]);
}

#[test]
fn a_schedule_does_not_drift() {
    let schedule = Schedule::per_second(3.0);
    assert_eq!(schedule.intended(0), Duration::ZERO);
    assert_eq!(schedule.intended(3), Duration::from_secs(1));
    assert_eq!(schedule.intended(3_000_000), Duration::from_secs(1_000_000));
    let schedule = Schedule::per_second(10_000.0);
    assert_eq!(schedule.intended(7), Duration::from_micros(700));
}

#[test]
fn histograms_keep_three_digits_and_saturate() {
    let mut histogram = new_histogram();
    record(&mut histogram, Duration::from_nanos(123_456));
    let kept = histogram.max();
    assert!(kept.abs_diff(123_456) <= 123, "{kept}");
    record(&mut histogram, Duration::from_secs(3600));
    assert_eq!(histogram.len(), 2);
}
