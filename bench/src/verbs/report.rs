//! What a run found, as data, as JSON and as tables.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::parse::Figures;
use crate::host::Host;
use crate::report::json::Verdict;
use crate::report::ratios::judge;
use crate::statistics::{bootstrap_median, median, paired_ratios, rounded};

/// The highest ratio of a direct message's time to that of `ib_send_lat` that is good.
const LATENCY_TARGET: f64 = 1.25;

/// The lowest ratio of throughput to the better raw program's that is good.
const THROUGHPUT_TARGET: f64 = 0.85;

/// Everything that a run found out. Keys are only ever added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// The machine.
    pub host: Host,
    /// How the ends of ours waited.
    pub wait: String,
    /// Placement of the processes.
    pub placement: String,
    /// One for each test.
    pub runs: Vec<Run>,
    /// Ours over the raw programs', paired by round.
    pub ratios: Vec<Ratio>,
    /// What could not be run.
    pub left_out: Vec<LeftOut>,
}

/// One test, over all rounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// `underlay`, or what the raw program belongs to: `perftest`, `rsockets`, `ucx`, `libfabric`.
    pub system: String,
    /// The raw program; of ours the layer, `driver` or `wire`.
    pub program: String,
    /// Always `rdma`.
    pub wire: String,
    /// Always `direct`.
    pub topology: String,
    /// Bytes of each message.
    pub size: usize,
    /// Messages a round.
    pub messages: u64,
    /// Messages on their way at once; `null` where the program decides.
    pub in_flight: Option<u64>,
    /// How many rounds.
    pub rounds: usize,
    /// Median over the rounds of the median one way; `null` where the program does not tell it.
    pub one_way_p50_us: Option<f64>,
    /// Median over the rounds of the mean one way.
    pub one_way_mean_us: Option<f64>,
    /// Median over the rounds of MiB a second.
    pub mib_per_s: Option<f64>,
    /// The median one way of each round.
    pub p50_us_by_round: Vec<f64>,
    /// The mean one way of each round.
    pub mean_us_by_round: Vec<f64>,
    /// MiB a second of each round.
    pub mib_per_s_by_round: Vec<f64>,
}

/// Ours over a raw program's. Which figure is divided is its key; the others are left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Bytes of each message.
    pub size: usize,
    /// Ours: `driver` or `wire`.
    pub layer: String,
    /// The raw program divided by.
    pub over: String,
    /// Medians one way by those of `ib_send_lat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_way_p50_over_ib_send_lat: Option<f64>,
    /// Throughput by that of the better of `ib_send_bw` and `ib_read_bw`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput_over_best: Option<f64>,
    /// Medians one way by those of a program that tells them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_way_p50_over: Option<f64>,
    /// Means one way by those of a program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_way_mean_over: Option<f64>,
    /// 95% bootstrap interval of the median of the paired ratios.
    pub ci95: [f64; 2],
    /// What is aimed at: at most this for times, at least this for throughput.
    pub target: Option<f64>,
    /// How the interval lies to it.
    pub verdict: Option<Verdict>,
}

/// A program that was not run, or gave no figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The program.
    pub program: String,
    /// At which size; `null` for all.
    pub size: Option<usize>,
    /// Why.
    pub reason: String,
}

/// What a test was, beside its figures.
pub(super) struct Kind<'a> {
    pub(super) system: &'a str,
    pub(super) program: &'a str,
    pub(super) size: usize,
    pub(super) messages: u64,
    pub(super) in_flight: Option<u64>,
}

impl Run {
    pub(super) fn new(kind: &Kind<'_>, rounds: &[Figures]) -> Self {
        let by_round = |figure: fn(&Figures) -> Option<f64>| -> Vec<f64> {
            rounds.iter().filter_map(figure).map(rounded).collect()
        };
        let p50 = by_round(|figures| figures.p50_us);
        let mean = by_round(|figures| figures.mean_us);
        let throughput = by_round(|figures| figures.mib_per_s);
        let middle = |sample: &[f64]| median(sample).map(rounded);
        Self {
            system: kind.system.to_owned(),
            program: kind.program.to_owned(),
            wire: "rdma".to_owned(),
            topology: "direct".to_owned(),
            size: kind.size,
            messages: kind.messages,
            in_flight: kind.in_flight,
            rounds: rounds.len(),
            one_way_p50_us: middle(&p50),
            one_way_mean_us: middle(&mean),
            mib_per_s: middle(&throughput),
            p50_us_by_round: p50,
            mean_us_by_round: mean,
            mib_per_s_by_round: throughput,
        }
    }

    fn is_ours(&self) -> bool {
        self.system == "underlay"
    }
}

/// Every ratio that these runs allow.
pub(super) fn ratios(runs: &[Run], seed: u64) -> Vec<Ratio> {
    let mut found = Vec::new();
    for own in runs.iter().filter(|run| run.is_ours()) {
        let others = || runs.iter().filter(|run| !run.is_ours() && run.size == own.size);
        if own.mib_per_s.is_some() {
            let best = others().filter(|run| run.mib_per_s.is_some()).max_by(|left, right| {
                left.mib_per_s.partial_cmp(&right.mib_per_s).unwrap_or(std::cmp::Ordering::Equal)
            });
            found.extend(best.and_then(|best| throughput(own, best, seed)));
        } else {
            found.extend(others().filter_map(|other| latency(own, other, seed)));
        }
    }
    found
}

fn throughput(own: &Run, best: &Run, seed: u64) -> Option<Ratio> {
    let ratios = paired_ratios(&own.mib_per_s_by_round, &best.mib_per_s_by_round);
    let estimate = bootstrap_median(&ratios, seed)?;
    let verdict = match estimate {
        _ if estimate.high < THROUGHPUT_TARGET => Verdict::Missed,
        _ if estimate.low >= THROUGHPUT_TARGET => Verdict::Met,
        _ => Verdict::Open,
    };
    Some(Ratio {
        size: own.size,
        layer: own.program.clone(),
        over: best.program.clone(),
        throughput_over_best: Some(rounded(estimate.median)),
        ci95: [rounded(estimate.low), rounded(estimate.high)],
        target: Some(THROUGHPUT_TARGET),
        verdict: Some(verdict),
        ..Ratio::default()
    })
}

/// By the medians where the program tells them, else by the means.
fn latency(own: &Run, other: &Run, seed: u64) -> Option<Ratio> {
    let tells_medians = !other.p50_us_by_round.is_empty();
    let (numerators, denominators) = if tells_medians {
        (&own.p50_us_by_round, &other.p50_us_by_round)
    } else {
        (&own.mean_us_by_round, &other.mean_us_by_round)
    };
    let estimate = bootstrap_median(&paired_ratios(numerators, denominators), seed)?;
    let median = Some(rounded(estimate.median));
    let mut ratio = Ratio {
        size: own.size,
        layer: own.program.clone(),
        over: other.program.clone(),
        ci95: [rounded(estimate.low), rounded(estimate.high)],
        ..Ratio::default()
    };
    let target = if other.program == "ib_send_lat" {
        ratio.one_way_p50_over_ib_send_lat = median;
        LATENCY_TARGET
    } else {
        if tells_medians {
            ratio.one_way_p50_over = median;
        } else {
            ratio.one_way_mean_over = median;
        }
        1.0
    };
    // Only what users send through is held to anything; the bare wire says where the time goes.
    if own.program == "driver" {
        ratio.target = Some(target);
        ratio.verdict = Some(judge(estimate, target));
    }
    Some(ratio)
}

/// The tables for a person.
pub(super) fn render(document: &Document) -> String {
    let mut text = String::new();
    crate::report::table::host(&mut text, &document.host);
    let _ = writeln!(
        text,
        "\nOne way over rdma, client-service, placement {}, ours wait {}: medians over the rounds",
        document.placement, document.wait
    );
    let _ = writeln!(
        text,
        "{:>9}  {:<10} {:<22} {:>10} {:>10} {:>9} {:>6} {:>8}",
        "bytes", "system", "program", "p50 us", "mean us", "MiB/s", "rounds", "messages"
    );
    for run in &document.runs {
        let cells = [run.one_way_p50_us, run.one_way_mean_us, run.mib_per_s]
            .map(|cell| cell.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.1}")));
        let [p50, mean, throughput] = cells;
        let (size, messages) = (run.size, run.messages);
        let _ = writeln!(
            text,
            "{size:>9}  {:<10} {:<22} {p50:>10} {mean:>10} {throughput:>9} {:>6} {messages:>8}",
            run.system, run.program, run.rounds
        );
    }
    let _ = writeln!(text, "\nOurs over the raw program's, paired by round, with 95% intervals");
    for ratio in &document.ratios {
        render_ratio(&mut text, ratio);
    }
    for LeftOut { program, size, reason } in &document.left_out {
        let size = size.map(|size| format!(" at {size} bytes")).unwrap_or_default();
        let _ = writeln!(text, "LEFT OUT {program}{size}: {reason}");
    }
    text
}

fn render_ratio(text: &mut String, ratio: &Ratio) {
    let figures = [
        ("p50", ratio.one_way_p50_over_ib_send_lat),
        ("p50", ratio.one_way_p50_over),
        ("mean", ratio.one_way_mean_over),
        ("MiB/s", ratio.throughput_over_best),
    ];
    let Some((figure, Some(median))) = figures.into_iter().find(|(_, median)| median.is_some()) else {
        return;
    };
    let [low, high] = ratio.ci95;
    let verdict = match ratio.verdict.zip(ratio.target) {
        Some((Verdict::Met, target)) => format!("  target {target}: met"),
        Some((Verdict::Open, target)) => format!("  target {target}: open"),
        Some((Verdict::Missed, target)) => format!("  target {target}: MISSED"),
        None => String::new(),
    };
    let (size, layer, over) = (ratio.size, &ratio.layer, &ratio.over);
    let _ = writeln!(
        text,
        "{size:>9}  {layer:<6} over {over:<22} {figure:<5} {median:>7.3}  [{low:.3}, {high:.3}]{verdict}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(system: &str, program: &str, size: usize, rounds: &[Figures]) -> Run {
        Run::new(&Kind { system, program, size, messages: 10, in_flight: None }, rounds)
    }

    fn times(p50_us: Option<f64>, mean_us: f64) -> Figures {
        Figures { p50_us, mean_us: Some(mean_us), mib_per_s: None }
    }

    fn rate(mib_per_s: f64) -> Figures {
        Figures { mib_per_s: Some(mib_per_s), ..Figures::default() }
    }

    #[test]
    fn times_are_divided_by_what_the_program_tells() {
        let rounds = [20.0, 30.0, 50.0];
        let own = run("underlay", "driver", 64, &rounds.map(|us| times(Some(us), us * 3.0)));
        let wire = run("underlay", "wire", 64, &rounds.map(|us| times(Some(us * 0.8), us)));
        let perftest = run("perftest", "ib_send_lat", 64, &rounds.map(|us| times(Some(us / 1.5), us)));
        let rsockets = run("rsockets", "rstream", 64, &rounds.map(|us| times(None, us * 6.0)));
        let elsewhere = run("rsockets", "rstream", 4096, &[times(None, 1.0)]);
        let found = ratios(&[own, wire, perftest, rsockets, elsewhere], 1);
        assert_eq!(found.len(), 4, "{found:?}");
        let over_perftest = &found[0];
        assert_eq!(over_perftest.one_way_p50_over_ib_send_lat, Some(1.5));
        assert_eq!((over_perftest.ci95, over_perftest.verdict), ([1.5, 1.5], Some(Verdict::Missed)));
        assert_eq!((found[1].one_way_mean_over, found[1].verdict), (Some(0.5), Some(Verdict::Met)));
        assert_eq!((found[2].layer.as_str(), found[2].verdict), ("wire", None));
        let json = serde_json::to_value(over_perftest).unwrap();
        assert_eq!(json["one_way_p50_over_ib_send_lat"], 1.5);
        assert!(json.get("throughput_over_best").is_none(), "only the figure that was divided: {json}");
    }

    #[test]
    fn throughput_is_held_to_the_better_program() {
        let own = run("underlay", "driver", 1 << 20, &[rate(80.0), rate(90.0), rate(70.0)]);
        let sends = run("perftest", "ib_send_bw", 1 << 20, &[rate(40.0); 3]);
        let reads = run("perftest", "ib_read_bw", 1 << 20, &[rate(100.0); 3]);
        let found = ratios(&[own, sends, reads], 1);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].over.as_str(), found[0].throughput_over_best), ("ib_read_bw", Some(0.8)));
        assert_eq!(found[0].verdict, Some(Verdict::Open));
        let slow = run("underlay", "driver", 1 << 20, &[rate(50.0); 3]);
        let reads = run("perftest", "ib_read_bw", 1 << 20, &[rate(100.0); 3]);
        assert_eq!(ratios(&[slow, reads], 1)[0].verdict, Some(Verdict::Missed));
    }
}
