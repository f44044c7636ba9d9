//! How long calls take to go on when something breaks: a broker dies, a connection is cut, a session changes wires.
//!
//! Each is done many times while a client calls without pause, one call at a time, and each reply is checked byte by
//! byte, those of the calls that were on their way above all. What is measured begins with the fault and ends with the
//! first answer by the new way. `deaths` kills broker processes, `cuts` ends connections in a `relay`, `moves` has a
//! session change wires under a [`caller`](self) that stands on the bare driver; `report` makes figures of the times.
//!
//! What it promises: a figure counts only if the old way was in use before and the new one after, which the events of
//! the client say; a call that fails ends the run.

mod caller;
mod client;
mod cuts;
mod deaths;
mod moves;
mod relay;
pub mod report;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use client::Outage;
use report::{Case, Document, Times};

use crate::error::BenchError;
use crate::host::Host;
use crate::placement::{Layout, Placement};
use crate::plan::{Topology, Wait};
use crate::report::unwritable;
use crate::underlay::driver_config;
use crate::underlay::service::ServiceEngine;

/// The most times that something is done in one run.
const COUNT_MAX: u32 = 10_000;

/// The longest body, as that of `roundtrip`.
const SIZE_MAX: usize = 16 << 20;

/// Options of `failover`.
#[derive(Debug, Clone, Args)]
pub struct FailoverOptions {
    /// How often each thing is done: deaths of a broker, cuts of a connection, changes of wire.
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    pub count: u32,
    /// Body size in bytes; k, KiB and MiB are understood.
    #[arg(long, value_name = "SIZE", value_parser = crate::cli::size, default_value = "1024")]
    pub size: usize,
    /// How the wire is driven, at all ends.
    #[arg(long, value_enum, default_value = "auto")]
    pub engine: ServiceEngine,
    /// How all ends wait.
    #[arg(long, value_enum, default_value = "adaptive")]
    pub wait: Wait,
    /// Write figures as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What every part of a run needs.
pub(crate) struct Setting<'a> {
    options: &'a FailoverOptions,
    /// This program, to be started again as a service.
    program: PathBuf,
    layout: Layout,
}

/// Does everything, prints the table, and writes the JSON.
///
/// # Errors
/// An option beyond its limit, a process that does not come up, a call that fails, a reply that is wrong.
pub fn run(options: &FailoverOptions) -> Result<(), BenchError> {
    check(options)?;
    let setting = Setting {
        options,
        program: std::env::current_exe().map_err(BenchError::io("find this program's own file"))?,
        layout: Layout::new(Placement::Unpinned, Topology::Broker, &[])?,
    };
    let host = Host::inspect();
    let mut cases = Vec::new();
    for standby in [true, false] {
        cases.push(deaths::measure(&setting, standby)?);
    }
    for spread in [Duration::ZERO, driver_config(options.engine, options.wait).session.reconnect_spread] {
        cases.push(cuts::measure(&setting, spread)?);
    }
    cases.extend(moves::measure(&setting)?);
    let document = Document { host, size: options.size, cases };
    if let Some(file) = &options.json {
        let text = document.to_json().map_err(|error| unwritable(file, error))?;
        std::fs::write(file, text).map_err(|error| unwritable(file, error))?;
    }
    match std::io::stdout().lock().write_all(report::render(&document).as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(BenchError::io("print the report")),
    }
}

fn check(options: &FailoverOptions) -> Result<(), BenchError> {
    if !(1..=COUNT_MAX).contains(&options.count) {
        let limit = format!("it may be 1 to {COUNT_MAX}");
        return Err(BenchError::refuse("count", options.count, limit, "leave it out for 50"));
    }
    if !(1..=SIZE_MAX).contains(&options.size) {
        let limit = format!("it may be 1 byte to {SIZE_MAX}");
        return Err(BenchError::refuse("size", options.size, limit, "leave it out for 1KiB"));
    }
    if let Some(file) = &options.json {
        let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
        opened.map_err(|error| unwritable(file, error))?;
    }
    Ok(())
}

/// Shows on standard error, if a person looks at it, what is being done.
fn say(case: &str, done: u32, count: u32) {
    use std::io::IsTerminal;
    if std::io::stderr().is_terminal() {
        let end = if done == count { "\n" } else { "" };
        eprint!("\r{case}: {done} of {count}{end}");
    }
}

/// The case of these outages.
fn outage_case(fault: &str, variant: &str, outages: &[Outage]) -> Case {
    let times = |of: fn(&Outage) -> Duration| Times::of(&outages.iter().map(of).collect::<Vec<_>>());
    Case {
        fault: fault.to_owned(),
        variant: variant.to_owned(),
        count: outages.len(),
        first_answer_us: times(|outage| outage.first_answer),
        noticed_us: Some(times(|outage| outage.noticed)),
        switched_us: None,
    }
}
