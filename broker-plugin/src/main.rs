//! The broker as a process: a command line, signals, and a [`Server`].

mod descriptors;
mod signals;

use clap::Parser;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use underlay_broker::config::PoolBudget;
use underlay_broker::{Config, Control, Server};

/// What is wrong is in the configuration.
const EXIT_CONFIGURATION: u8 = 2;

/// What is wrong is on this machine.
const EXIT_RUNTIME: u8 = 1;

/// A message broker on Underlay: direct exchanges, bounded queues, request and reply.
///
/// Prints a line for each listener to stdout once it listens; logs to stderr (RUST_LOG=debug says more). SIGTERM and
/// SIGINT shut it down in order, a second one at once; SIGUSR1 prints all counters to stderr.
///
/// Exits with 0 after a shutdown, 1 if something failed on this machine, 2 if the configuration is wrong.
#[derive(Debug, Parser)]
#[command(name = "underlay-broker", version)]
struct Arguments {
    /// The configuration (TOML); broker.example.toml shows every option.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration, print how much memory it may take and why, and exit.
    #[arg(long)]
    check: bool,
    /// Print the configuration with every option that was left out, and exit.
    #[arg(long)]
    print_config: bool,
    /// Shut down when stdin ends: for a process that starts a broker and must not leave it behind.
    #[arg(long)]
    exit_with_stdin: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match Config::read(&arguments.config) {
        Ok(config) => config,
        Err(error) => return fail(EXIT_CONFIGURATION, &error),
    };
    if arguments.check {
        say(&format!("{} is right\nthe buffer pool may map up to", arguments.config.display()));
        say(&PoolBudget::of(&config).to_string());
        return ExitCode::SUCCESS;
    }
    if arguments.print_config {
        return match config.to_toml() {
            Ok(text) => {
                say(text.trim_end());
                ExitCode::SUCCESS
            }
            Err(error) => fail(EXIT_RUNTIME, &error),
        };
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    serve(&config, arguments.exit_with_stdin)
}

fn serve(config: &Config, exit_with_stdin: bool) -> ExitCode {
    // Before there is another thread, so that all of them inherit it.
    if let Err(error) = signals::block() {
        return fail(EXIT_RUNTIME, &format!("signals cannot be blocked: {error}"));
    }
    descriptors::make_room(config.settings().broker.connections_max);
    if let Some(given) = PoolBudget::of(config).shortfall() {
        tracing::warn!(
            pool_bytes_max = given,
            "the limits together allow more than the pool has (underlay-broker --check says how much)"
        );
    }
    let mut server = match Server::start(config) {
        Ok(server) => server,
        Err(error) => return fail(EXIT_RUNTIME, &error),
    };
    if let Err(error) = watch(server.control(), exit_with_stdin) {
        return fail(EXIT_RUNTIME, &format!("no thread to wait for signals: {error}"));
    }
    for line in server.listening() {
        say(&format!("underlay-broker: {line}"));
    }
    let outcome = server.run();
    eprint!("{}", server.report());
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(EXIT_RUNTIME, &format!("the wires are broken: {error}")),
    }
}

/// Threads that sleep until a signal comes, or until stdin ends.
fn watch(control: Control, exit_with_stdin: bool) -> std::io::Result<()> {
    if exit_with_stdin {
        let control = control.clone();
        std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
            let mut ignored = [0; 256];
            while std::io::stdin().lock().read(&mut ignored).is_ok_and(|bytes| bytes > 0) {}
            control.shut_down();
        })?;
    }
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || signals::obey(&control))?;
    Ok(())
}

/// To stdout; whoever has closed it does not want to read it.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("underlay-broker: {error}");
    ExitCode::from(code)
}
