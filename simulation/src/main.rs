//! The command line of the simulation.

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use underlay_simulation::runner::{self, Summary};

/// Runs Underlay's clients, brokers and services over a simulated network that fails, by a seed.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one seed, twice if it goes well, to see that it is the same.
    Run {
        /// Which.
        #[arg(long)]
        seed: u64,
        /// Prints everything that happens.
        #[arg(long)]
        trace: bool,
    },
    /// Runs many seeds, and says what they have met.
    Seeds {
        /// How many.
        #[arg(long, default_value_t = 10_000)]
        count: u64,
        /// The first one.
        #[arg(long, default_value_t = 0)]
        first: u64,
        /// On so many threads; one for each core if nothing is said.
        #[arg(long, default_value_t = cores())]
        threads: usize,
        /// A file of seeds that are run before them, one a line; `#` begins a comment.
        #[arg(long)]
        before: Option<std::path::PathBuf>,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run { seed, trace } => run(seed, trace),
        Command::Seeds { count, first, threads, before } => {
            let mut seeds = Vec::new();
            if let Some(file) = before {
                match std::fs::read_to_string(&file) {
                    Ok(text) => seeds.extend(seeds_of(&text)),
                    Err(error) => {
                        eprintln!("{} cannot be read: {error}", file.display());
                        return ExitCode::FAILURE;
                    }
                }
            }
            seeds.extend(first..first + count);
            report(&runner::run_all(&seeds, threads, || {}))
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

fn run(seed: u64, trace: bool) -> ExitCode {
    if trace {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .without_time()
            .init();
    }
    let first = runner::run(seed, trace);
    println!("{}", first.coverage);
    println!("hash {:016x}", first.hash);
    if let Some(what) = first.failure {
        println!("seed {seed} FAILED {what}");
        return ExitCode::FAILURE;
    }
    let again = runner::run(seed, false);
    if again.hash != first.hash {
        println!("seed {seed} FAILED: it went another way the second time: {:016x}", again.hash);
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn report(summary: &Summary) -> ExitCode {
    println!("{}", summary.coverage);
    let missing = summary.coverage.missing();
    for line in &missing {
        println!("met too seldom: {line}");
    }
    for failed in &summary.failed {
        println!("seed {} FAILED {}", failed.seed, failed.what);
        println!("    {}", runner::replay(failed.seed));
    }
    if missing.is_empty() && summary.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn seeds_of(text: &str) -> impl Iterator<Item = u64> {
    text.lines().filter_map(|line| line.split('#').next()?.trim().parse().ok())
}
