//! Ratios of what was measured, paired by round.
//!
//! At each placement and size the better floor is the one whose median p50 over the rounds is lower. It
//! is chosen once for all rounds, not anew in each: the best of two noisy figures a round would be
//! better than either floor is. Ratios are then taken round by round, so that what slowed a whole round
//! down cancels out, and the median of them is reported with its bootstrap interval. CPU time is divided
//! by the same floor's, and beside that by the cheapest floor's, which may be another one.

use crate::cli::Target;
use crate::host::Host;
use crate::plan::Plan;
use crate::report::json::{Document, EngineRatio, Ratio, Run, Verdict, WireRatio};
use crate::statistics::{Estimate, bootstrap_median, median, paired_ratios, rounded};
use crate::subject::System;

/// Makes the document of a run from what it measured.
#[must_use]
pub fn document(plan: &Plan, host: Host, runs: Vec<Run>) -> Document {
    let ratios = runs.iter().filter_map(|run| over_floor(run, &runs, plan)).collect();
    let engines = runs.iter().filter_map(|run| over_epoll(run, &runs, plan.seed)).collect();
    let is_tcp = |run: &&Run| run.system == System::Underlay && run.wire == "tcp";
    let wires = runs.iter().filter(is_tcp).filter_map(|tcp| over_tcp(tcp, &runs, plan.seed)).collect();
    Document { host, runs, ratios, engines, wires }
}

/// How an interval lies to a target.
#[must_use]
pub fn judge(estimate: Estimate, target: f64) -> Verdict {
    if estimate.low > target {
        Verdict::Missed
    } else if estimate.high <= target {
        Verdict::Met
    } else {
        Verdict::Open
    }
}

fn over_floor(run: &Run, runs: &[Run], plan: &Plan) -> Option<Ratio> {
    if run.system != System::Underlay {
        return None;
    }
    let floor = best_floor(run, runs, |floor| &floor.p50_us_by_round)?;
    let cheapest = best_floor(run, runs, |floor| &floor.cpu_us_by_round)?;
    let p50 = ratio(&run.p50_us_by_round, &floor.p50_us_by_round, plan.seed)?;
    let cpu_over = |floor: &Run| {
        // CPU time of other processes than the floor's would be no ratio.
        let is_comparable = run.cpu_of == floor.cpu_of;
        ratio(&run.cpu_us_by_round, &floor.cpu_us_by_round, plan.seed).filter(|_| is_comparable)
    };
    let (cpu, cpu_cheapest) = (cpu_over(floor), cpu_over(cheapest));
    let at_size = |target: &Option<Target>| target.as_ref().and_then(|target| target.at(run.size));
    let (target, target_cpu) = (at_size(&plan.target_p50), at_size(&plan.target_cpu));
    Some(Ratio {
        size: run.size,
        placement: run.placement.clone(),
        p50_over_floor: rounded(p50.median),
        ci95: interval(p50),
        engine: run.engine.clone(),
        driver: run.driver.clone(),
        floor: floor.engine.clone(),
        cpu_over_floor: cpu.map(|cpu| rounded(cpu.median)),
        cpu_ci95: cpu.map(interval),
        cheapest_floor: cpu_cheapest.map(|_| cheapest.engine.clone()),
        cpu_over_cheapest: cpu_cheapest.map(|cpu| rounded(cpu.median)),
        cpu_cheapest_ci95: cpu_cheapest.map(interval),
        target,
        verdict: target.map(|target| judge(p50, target)),
        target_cpu,
        verdict_cpu: cpu.zip(target_cpu).map(|(cpu, target)| judge(cpu, target)),
    })
}

/// The floor whose median over the rounds of `figure` is lowest, at the placement and size of `run`.
fn best_floor<'a>(run: &Run, runs: &'a [Run], figure: impl Fn(&Run) -> &[f64]) -> Option<&'a Run> {
    let floors = runs.iter().filter(|other| other.system == System::Floor && is_beside(run, other));
    floors
        .filter_map(|floor| Some((median(figure(floor))?, floor)))
        .min_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, floor)| floor)
}

fn over_epoll(run: &Run, runs: &[Run], seed: u64) -> Option<EngineRatio> {
    if run.system != System::Underlay || run.engine != "io_uring" {
        return None;
    }
    let is_counterpart = |other: &&Run| {
        other.system == System::Underlay
            && other.engine == "epoll"
            && other.driver == run.driver
            && is_beside(run, other)
    };
    let epoll = runs.iter().find(is_counterpart)?;
    let p50 = ratio(&run.p50_us_by_round, &epoll.p50_us_by_round, seed)?;
    let cpu = ratio(&run.cpu_us_by_round, &epoll.cpu_us_by_round, seed)?;
    Some(EngineRatio {
        size: run.size,
        placement: run.placement.clone(),
        driver: run.driver.clone(),
        p50_io_uring_over_epoll: rounded(p50.median),
        ci95: interval(p50),
        cpu_io_uring_over_epoll: rounded(cpu.median),
        cpu_ci95: interval(cpu),
    })
}

/// RDMA over this run of TCP.
fn over_tcp(tcp: &Run, runs: &[Run], seed: u64) -> Option<WireRatio> {
    let is_counterpart = |other: &&Run| {
        other.system == System::Underlay
            && other.wire == "rdma"
            && other.driver == tcp.driver
            && is_beside(tcp, other)
    };
    let rdma = runs.iter().find(is_counterpart)?;
    let p50 = ratio(&rdma.p50_us_by_round, &tcp.p50_us_by_round, seed)?;
    let cpu = ratio(&rdma.cpu_us_by_round, &tcp.cpu_us_by_round, seed)?;
    Some(WireRatio {
        size: tcp.size,
        placement: tcp.placement.clone(),
        driver: tcp.driver.clone(),
        engine: tcp.engine.clone(),
        p50_rdma_over_tcp: rounded(p50.median),
        ci95: interval(p50),
        cpu_rdma_over_tcp: rounded(cpu.median),
        cpu_ci95: interval(cpu),
    })
}

fn is_beside(run: &Run, other: &Run) -> bool {
    run.placement == other.placement && run.size == other.size
}

/// `None` if there are no rounds, or a denominator of zero makes it no number.
fn ratio(numerators: &[f64], denominators: &[f64], seed: u64) -> Option<Estimate> {
    let ratios = paired_ratios(numerators, denominators);
    bootstrap_median(&ratios, seed).filter(|_| ratios.iter().all(|ratio| ratio.is_finite()))
}

fn interval(estimate: Estimate) -> [f64; 2] {
    [rounded(estimate.low), rounded(estimate.high)]
}
