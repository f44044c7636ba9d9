//! Round trips on one thread.

use clap::Parser;
use underlay_bench::cli::{Cli, Command};
use underlay_bench::counts;
use underlay_bench::error::BenchError;

fn count(arguments: &[&str]) -> Result<(), BenchError> {
    let cli = Cli::try_parse_from(["underlay-bench", "counts"].iter().chain(arguments)).unwrap();
    let Command::Counts(options) = cli.command else { panic!("another command") };
    counts::run(&options)
}

/// One after the other: a process has one broker of this kind at a time.
#[test]
fn replies_come_back_to_one_thread_at_every_size() {
    for (size, in_flight) in [("1", "1"), ("64", "16"), ("16KiB", "3"), ("1MiB", "2")] {
        count(&["--size", size, "--in-flight", in_flight, "--messages", "70", "--warmup", "70"]).unwrap();
    }
}

#[test]
fn what_cannot_be_counted_is_refused_by_name() {
    for (option, value) in [("messages", "0"), ("in-flight", "0"), ("in-flight", "1000000")] {
        let error = count(&[&format!("--{option}"), value]).unwrap_err().to_string();
        assert!(error.contains(&format!("--{option} {value}")), "{error}");
    }
}
