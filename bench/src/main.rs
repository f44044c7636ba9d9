//! `underlay-bench`: see `docs/benchmarking.md`.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use underlay_bench::cli::{Cli, Command, RoundtripOptions};
use underlay_bench::error::BenchError;
use underlay_bench::plan::Plan;
use underlay_bench::report::{self, json::Document};
use underlay_bench::{counts, failover, floor, roundtrip, sans_io, underlay, verbs};

/// Exit status of a run that went well and missed a target.
const TARGET_MISSED: u8 = 3;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Roundtrip(options) => measure(&options),
        Command::Counts(options) => counts::run(&options).map(|()| ExitCode::SUCCESS),
        Command::SansIo(options) => sans_io::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Failover(options) => failover::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Verbs(options) => verbs::run(&options).map(|()| ExitCode::SUCCESS),
        Command::VerbsEnd(options) => verbs::end::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Service(options) => underlay::service::run(&options).map(|()| ExitCode::SUCCESS),
        Command::FloorRelay(options) => floor::relay::run(&options).map(|()| ExitCode::SUCCESS),
        Command::FloorService(options) => floor::service::run(&options).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("underlay-bench: {error}");
        ExitCode::FAILURE
    })
}

fn measure(options: &RoundtripOptions) -> Result<ExitCode, BenchError> {
    let plan = Plan::new(options)?;
    report::check_writable(&plan)?;
    let document = roundtrip::run(&plan, &underlay::open)?;
    report::write_files(&plan, &document)?;
    print(&document)?;
    let is_missed = document.ratios.iter().any(report::json::Ratio::is_missed);
    Ok(if is_missed { ExitCode::from(TARGET_MISSED) } else { ExitCode::SUCCESS })
}

fn print(document: &Document) -> Result<(), BenchError> {
    let mut output = io::stdout().lock();
    match output.write_all(report::table::render(document).as_bytes()).and_then(|()| output.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(BenchError::io("print the report")),
    }
}
