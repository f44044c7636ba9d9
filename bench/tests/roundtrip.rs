//! The orchestration of rounds, with systems that only pretend.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use hdrhistogram::Histogram;
use underlay_bench::cli::{Cli, Command};
use underlay_bench::error::BenchError;
use underlay_bench::plan::{Plan, RoundPlan, record};
use underlay_bench::report::json::Document;
use underlay_bench::roundtrip;
use underlay_bench::subject::{Description, Pid, Role, RoundOutcome, Subject, System};

/// What was asked of which system: size, first number, messages.
type Log = Rc<RefCell<Vec<(&'static str, usize, u64, u64)>>>;

/// Answers every message after a fixed time that it only claims to take. Messages of warm-up take a
/// hundred times as long, to show that they are not counted.
struct Pretender {
    system: System,
    engine: &'static str,
    latency_us: u64,
    warmup: u64,
    log: Log,
}

impl Subject for Pretender {
    fn describe(&self) -> Description {
        let driver = (self.system == System::Underlay).then(|| "own".to_owned());
        Description { system: self.system, wire: "tcp".to_owned(), engine: self.engine.to_owned(), driver }
    }

    fn prepare(&mut self, _size: usize) -> Result<(), BenchError> {
        Ok(())
    }

    fn round(
        &mut self,
        plan: &RoundPlan,
        histogram: &mut Histogram<u64>,
    ) -> Result<RoundOutcome, BenchError> {
        self.log.borrow_mut().push((self.engine, plan.size, plan.first_number, plan.messages));
        let factor = if plan.messages == self.warmup { 100 } else { 1 };
        for _ in 0..plan.messages {
            record(histogram, Duration::from_micros(self.latency_us * factor));
        }
        Ok(RoundOutcome { messages: plan.messages, elapsed: Duration::from_millis(1) })
    }

    fn processes(&self) -> Vec<(Role, Pid)> {
        vec![(Role::Client, std::process::id())]
    }
}

const WARMUP: u64 = 7;

fn pretend(arguments: &[&str]) -> (Document, Log) {
    let cli = Cli::try_parse_from(["underlay-bench", "roundtrip"].iter().chain(arguments)).unwrap();
    let Command::Roundtrip(options) = cli.command else { panic!("another command") };
    let log = Log::default();
    let systems = [
        (System::Underlay, "io_uring", 150),
        (System::Underlay, "epoll", 200),
        (System::Floor, "blocking", 100),
        (System::Floor, "yield", 120),
    ];
    let document = roundtrip::run(&Plan::new(&options).unwrap(), &|_setting| {
        let open = |(system, engine, latency_us)| -> Box<dyn Subject> {
            Box::new(Pretender { system, engine, latency_us, warmup: WARMUP, log: Rc::clone(&log) })
        };
        Ok(systems.map(open).into_iter().collect())
    })
    .unwrap();
    (document, log)
}

const OPTIONS: [&str; 8] = ["--sizes", "1,1024", "--rounds", "6", "--messages", "120", "--warmup", "7"];

#[test]
fn every_system_has_one_turn_a_round_in_changing_order_with_numbers_that_go_on() {
    let (_, log) = pretend(&OPTIONS);
    let log = log.borrow();
    let mut orders = Vec::new();
    for size in [1, 1024] {
        let measured: Vec<_> =
            log.iter().filter(|&&(_, at, _, messages)| at == size && messages != WARMUP).collect();
        assert_eq!(measured.len(), 6 * 4);
        for round in measured.chunks(4) {
            let mut engines: Vec<_> = round.iter().map(|entry| entry.0).collect();
            orders.push(engines.clone());
            engines.sort_unstable();
            assert_eq!(engines, ["blocking", "epoll", "io_uring", "yield"]);
        }
    }
    orders.sort_unstable();
    orders.dedup();
    assert!(orders.len() > 3, "twelve rounds had only the orders {orders:?}");
    let mut next = 0;
    for &(_, _, first_number, messages) in log.iter().filter(|entry| entry.0 == "epoll") {
        assert_eq!(first_number, next);
        next += messages;
    }
}

#[test]
fn warmup_is_not_counted_and_ratios_are_those_of_the_latencies() {
    let (document, _) = pretend(&OPTIONS);
    assert_eq!(document.runs.len(), 8);
    for run in &document.runs {
        assert_eq!((run.messages, run.p50_us_by_round.len()), (120, 6));
        assert!(run.rtt_us.max < 300.0, "a warm-up message was counted: {:?}", run.rtt_us);
    }
    let found: Vec<_> = document
        .ratios
        .iter()
        .map(|ratio| (ratio.engine.as_str(), ratio.floor.as_str(), (ratio.p50_over_floor * 10.0).round()))
        .collect();
    assert_eq!(found[..2], [("io_uring", "blocking", 15.0), ("epoll", "blocking", 20.0)]);
    assert_eq!(document.engines.len(), 2);
}

#[test]
fn the_same_seed_gives_the_same_order_and_another_seed_another() {
    let order = |seed| {
        let (_, log) = pretend(&[&OPTIONS[..], &["--seed", seed]].concat());
        let order: Vec<_> = log.borrow().iter().map(|entry| entry.0).collect();
        order
    };
    assert_eq!(order("5"), order("5"));
    assert_ne!(order("5"), order("6"));
}
