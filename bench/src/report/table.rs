//! The report for a person at a terminal, at most 110 columns wide.

use std::fmt::Write;

use super::json::{Document, Ratio, Run, Verdict};
use super::published::Published;
use crate::host::{Host, SkippedEngine};
use crate::subject::System;

/// Sizes side by side in a table that has a column for each.
const SIZES_ABREAST: usize = 10;

/// Renders a whole document: the machine, a table for each placement, ratios, and the published figures.
#[must_use]
pub fn render(document: &Document) -> String {
    let mut text = String::new();
    host(&mut text, &document.host);
    for placement in placements(document) {
        let runs: Vec<&Run> = document.runs.iter().filter(|run| run.placement == placement).collect();
        heading(&mut text, &runs);
        round_trips(&mut text, &runs);
        means(&mut text, &runs);
    }
    ratios(&mut text, &document.ratios);
    engines(&mut text, document);
    wires(&mut text, document);
    published(&mut text);
    text
}

/// Writing to a `String` cannot fail: its `fmt::Write` always returns `Ok`.
macro_rules! line {
    ($text:expr) => {{ $text.push('\n'); }};
    ($text:expr, $($arguments:tt)*) => {{ let _ = writeln!($text, $($arguments)*); }};
}

/// What is known of the machine and the build, in lines.
pub(crate) fn host(text: &mut String, host: &Host) {
    let commit = host.commit.as_deref().unwrap_or("unknown");
    line!(text, "{}, {} of {} cores, Linux {}", host.cpu_model, host.cores_allowed, host.cores, host.kernel);
    line!(
        text,
        "io_uring {}, clock {}, huge pages {}, /dev/cpu_dma_latency {}",
        if host.io_uring_refusal().is_some() { "refused" } else { &host.io_uring },
        host.clock_source,
        host.transparent_huge_pages,
        host.cpu_dma_latency
    );
    line!(text, "{}, commit {commit}, {} build", host.date, host.build);
    for SkippedEngine { engine, reason } in &host.skipped_engines {
        line!(text, "SKIPPED {engine}: {reason}");
    }
    if host.build != "release" {
        line!(text, "NOT a release build: these figures say nothing about speed.");
    }
}

/// Placements in the order of their runs.
fn placements(document: &Document) -> Vec<&str> {
    let mut placements: Vec<&str> = document.runs.iter().map(|run| run.placement.as_str()).collect();
    placements.dedup();
    placements
}

fn heading(text: &mut String, runs: &[&Run]) {
    let Some(run) = runs.first() else { return };
    let pace = match (run.in_flight, run.rate_per_s) {
        (_, Some(rate)) => format!("open loop at {rate} a second, counted from the intended send time"),
        (in_flight, None) => format!("closed loop, {} in flight", in_flight.unwrap_or(1)),
    };
    let way =
        if run.topology == "broker" { "client-broker-service and back" } else { "client-service and back" };
    line!(text);
    // A floor waits as its name says.
    let wait = runs.iter().find_map(|run| run.wait.as_deref()).map(|wait| format!(", wait {wait}"));
    line!(
        text,
        "Round trips over {}, {way}, placement {}{}",
        wire_names(runs.iter().copied()),
        run.placement,
        wait.unwrap_or_default()
    );
    let messages = run.messages / u64::from(run.rounds.max(1));
    line!(text, "{pace}; {} rounds of {messages} messages", run.rounds);
}

/// The wires of these runs, in their order. A floor, which is on none, tells only where it is alone.
pub(super) fn wire_names<'a>(runs: impl Iterator<Item = &'a Run> + Clone) -> String {
    let under_test = runs.clone().filter(|run| run.system == System::Underlay);
    let mut names: Vec<&str> = under_test.map(|run| run.wire.as_str()).collect();
    if names.is_empty() {
        names = runs.map(|run| run.wire.as_str()).collect();
    }
    let mut different: Vec<&str> = Vec::new();
    for name in names {
        if !different.contains(&name) {
            different.push(name);
        }
    }
    different.join(" and ")
}

fn round_trips(text: &mut String, runs: &[&Run]) {
    line!(text);
    line!(
        text,
        "{:>8}  {:<28} {:>8} {:>8} {:>8} {:>9} {:>10} {:>8}  {:>9}",
        "bytes",
        "microseconds",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "max",
        "mean",
        "cpu a msg"
    );
    let mut last_size = None;
    for run in runs {
        let size = if last_size == Some(run.size) { String::new() } else { run.size.to_string() };
        last_size = Some(run.size);
        let rtt = &run.rtt_us;
        line!(
            text,
            "{size:>8}  {:<28} {:>8.1} {:>8.1} {:>8.1} {:>9.1} {:>10.1} {:>8.1}  {:>9.1}",
            run.name(),
            rtt.p50,
            rtt.p90,
            rtt.p99,
            rtt.p999,
            rtt.max,
            rtt.mean,
            run.cpu_us_per_message
        );
    }
    let Some(run) = runs.first() else { return };
    let roles: Vec<String> = run.cpu_of.iter().map(ToString::to_string).collect();
    line!(text, "cpu a msg: CPU time of {} together, user and kernel", roles.join(", "));
}

/// The same runs in the shape of the published table: a row for each system, a column for each size.
fn means(text: &mut String, runs: &[&Run]) {
    let mut sizes: Vec<usize> = runs.iter().map(|run| run.size).collect();
    sizes.dedup();
    let mut systems: Vec<String> = Vec::new();
    for run in runs {
        if !systems.contains(&run.name()) {
            systems.push(run.name());
        }
    }
    for abreast in sizes.chunks(SIZES_ABREAST) {
        line!(text);
        row(text, "mean, milliseconds", abreast.iter().map(ToString::to_string));
        for system in &systems {
            let of_size = |size: &usize| runs.iter().find(|run| run.size == *size && run.name() == *system);
            let cell =
                |size| of_size(size).map_or(String::new(), |run| format!("{:.3}", run.rtt_us.mean / 1e3));
            row(text, system, abreast.iter().map(cell));
        }
    }
}

fn ratios(text: &mut String, ratios: &[Ratio]) {
    if ratios.is_empty() {
        return;
    }
    line!(text);
    line!(
        text,
        "Over the better floor: median of the rounds' paired ratios, with its 95% bootstrap interval"
    );
    line!(text);
    line!(
        text,
        "{:>8}  {:<9} {:<19} {:>6} {:>14} {:<6} floor",
        "bytes",
        "placement",
        "system",
        "p50",
        "95%",
        ""
    );
    for ratio in ratios {
        line!(
            text,
            "{} {:>6.2} {:>14} {:<6} {}",
            ratio_head(ratio),
            ratio.p50_over_floor,
            interval(ratio.ci95),
            verdict(ratio.verdict),
            ratio.floor
        );
    }
    cpu_ratios(text, ratios);
    if ratios.iter().any(|ratio| ratio.verdict.or(ratio.verdict_cpu).is_some()) {
        line!(
            text,
            "missed: the whole interval lies beyond the target; met: within; open: the target is inside it"
        );
    }
}

/// CPU time over the floor that p50 was divided by, then over the one that uses least.
fn cpu_ratios(text: &mut String, ratios: &[Ratio]) {
    if ratios.iter().all(|ratio| ratio.cpu_over_floor.is_none()) {
        return;
    }
    line!(text);
    line!(
        text,
        "{:>8}  {:<9} {:<19} {:>6} {:>14} {:<6} {:<8} {:>6} {:>14} cheapest",
        "bytes",
        "placement",
        "system",
        "cpu",
        "95%",
        "",
        "floor",
        "cpu",
        "95%"
    );
    for ratio in ratios {
        let figure = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        line!(
            text,
            "{} {:>6} {:>14} {:<6} {:<8} {:>6} {:>14} {}",
            ratio_head(ratio),
            figure(ratio.cpu_over_floor),
            ratio.cpu_ci95.map_or(String::new(), interval),
            verdict(ratio.verdict_cpu),
            ratio.floor,
            figure(ratio.cpu_over_cheapest),
            ratio.cpu_cheapest_ci95.map_or(String::new(), interval),
            ratio.cheapest_floor.as_deref().unwrap_or("-"),
        );
    }
}

fn ratio_head(ratio: &Ratio) -> String {
    let system = system(&ratio.engine, ratio.driver.as_deref());
    format!("{:>8}  {:<9} {system:<19}", ratio.size, ratio.placement)
}

fn engines(text: &mut String, document: &Document) {
    if document.engines.is_empty() {
        return;
    }
    line!(text);
    line!(text, "io_uring over epoll, paired by round");
    line!(text);
    line!(
        text,
        "{:>8}  {:<10} {:<11} {:>6} {:>15}   {:>6} {:>15}",
        "bytes",
        "placement",
        "driver",
        "p50",
        "95%",
        "cpu",
        "95%"
    );
    for engine in &document.engines {
        line!(
            text,
            "{:>8}  {:<10} {:<11} {:>6.2} {:>15}   {:>6.2} {:>15}",
            engine.size,
            engine.placement,
            engine.driver.as_deref().unwrap_or("-"),
            engine.p50_io_uring_over_epoll,
            interval(engine.ci95),
            engine.cpu_io_uring_over_epoll,
            interval(engine.cpu_ci95)
        );
    }
}

fn wires(text: &mut String, document: &Document) {
    if document.wires.is_empty() {
        return;
    }
    line!(text);
    line!(text, "rdma over tcp, paired by round");
    line!(text);
    line!(
        text,
        "{:>8}  {:<10} {:<19} {:>6} {:>15}   {:>6} {:>15}",
        "bytes",
        "placement",
        "tcp by",
        "p50",
        "95%",
        "cpu",
        "95%"
    );
    for wire in &document.wires {
        line!(
            text,
            "{:>8}  {:<10} {:<19} {:>6.2} {:>15}   {:>6.2} {:>15}",
            wire.size,
            wire.placement,
            system(&wire.engine, wire.driver.as_deref()),
            wire.p50_rdma_over_tcp,
            interval(wire.ci95),
            wire.cpu_rdma_over_tcp,
            interval(wire.cpu_ci95)
        );
    }
}

fn published(text: &mut String) {
    let published = Published::qpid();
    line!(text);
    line!(
        text,
        "Published elsewhere: another machine, another network, another decade; not to be divided by"
    );
    for source in &published.source {
        line!(text, "  {source}");
    }
    line!(text);
    row(text, "mean, milliseconds", published.sizes.iter().map(ToString::to_string));
    for (configuration, means) in &published.rows {
        row(text, configuration, means.iter().map(ToString::to_string));
    }
}

fn row(text: &mut String, head: &str, cells: impl Iterator<Item = String>) {
    let _ = write!(text, "{head:<29}");
    for cell in cells {
        let _ = write!(text, " {cell:>7}");
    }
    line!(text);
}

fn system(engine: &str, driver: Option<&str>) -> String {
    driver.map_or(engine.to_owned(), |driver| format!("{engine} {driver}"))
}

fn interval([low, high]: [f64; 2]) -> String {
    format!("[{low:.2}, {high:.2}]")
}

fn verdict(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        None => "",
        Some(Verdict::Met) => "met",
        Some(Verdict::Open) => "open",
        Some(Verdict::Missed) => "missed",
    }
}
