//! The figures of a run as data, and as JSON.
//!
//! Keys are only ever added. What a key means is in `docs/benchmarking.md`.

use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::subject::{Role, System, system_name};

/// Everything that a run found out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// The machine.
    pub host: Host,
    /// One for each placement, size and system.
    pub runs: Vec<Run>,
    /// One for each placement, size and system under test; empty without a floor.
    pub ratios: Vec<Ratio>,
    /// One for each placement, size and driver, if both engines were measured.
    pub engines: Vec<EngineRatio>,
    /// One for each placement, size, driver and engine of TCP, if both wires were measured.
    #[serde(default)]
    pub wires: Vec<WireRatio>,
}

impl Document {
    /// As JSON, indented, with a newline at the end.
    ///
    /// # Errors
    /// Never for documents made by a run: JSON has a form for all that they hold.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

/// One system at one size and placement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Under test or floor.
    pub system: System,
    /// The wire.
    pub wire: String,
    /// `io_uring` or `epoll`; of a floor `blocking` or `yield`.
    pub engine: String,
    /// Who polled the client's driver; `null` for a floor.
    pub driver: Option<String>,
    /// `broker` or `direct`.
    pub topology: String,
    /// Bytes of each body.
    pub size: usize,
    /// Messages counted.
    pub messages: u64,
    /// Messages on their way at once; `null` in an open loop.
    pub in_flight: Option<u32>,
    /// Messages a second intended; `null` in a closed loop.
    pub rate_per_s: Option<f64>,
    /// Placement of the processes.
    pub placement: String,
    /// How the drivers of the system under test waited; `null` for a floor, and in files from before this key.
    #[serde(default)]
    pub wait: Option<String>,
    /// Round-trip times over all rounds, in microseconds.
    pub rtt_us: Percentiles,
    /// CPU time of the processes in `cpu_of` together, in microseconds.
    pub cpu_us_per_message: f64,
    /// Whose CPU time it is; those that ran elsewhere are missing.
    pub cpu_of: Vec<Role>,
    /// Messages a second reached.
    pub messages_per_s: f64,
    /// How many rounds.
    pub rounds: u32,
    /// p50 of each round in microseconds.
    pub p50_us_by_round: Vec<f64>,
    /// CPU time a message of each round in microseconds.
    pub cpu_us_by_round: Vec<f64>,
}

impl Run {
    /// Name of the system for tables and legends, as [`crate::subject::Description::name`] has it.
    #[must_use]
    pub fn name(&self) -> String {
        system_name(self.system, &self.engine, self.driver.as_deref())
    }
}

/// Round-trip times in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Percentiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    pub mean: f64,
}

/// A system under test over the better floor, paired by round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Bytes of each body.
    pub size: usize,
    /// Placement of the processes.
    pub placement: String,
    /// Median over the rounds of p50 by the floor's p50.
    pub p50_over_floor: f64,
    /// 95% bootstrap interval of that median.
    pub ci95: [f64; 2],
    /// Engine of the system under test.
    pub engine: String,
    /// Driver of the system under test.
    pub driver: Option<String>,
    /// The floor divided by: at this size the one with the lower median p50.
    pub floor: String,
    /// Median over the rounds of CPU time a message by the same floor's; `null` unless the same
    /// processes were counted on both sides.
    pub cpu_over_floor: Option<f64>,
    /// 95% bootstrap interval of that median.
    pub cpu_ci95: Option<[f64; 2]>,
    /// The floor with the lowest median CPU time a message: at low rates a floor that polls may be the
    /// faster and by far the dearer one. `null` unless the same processes were counted on both sides.
    pub cheapest_floor: Option<String>,
    /// Median over the rounds of CPU time a message by that floor's.
    pub cpu_over_cheapest: Option<f64>,
    /// 95% bootstrap interval of that median.
    pub cpu_cheapest_ci95: Option<[f64; 2]>,
    /// The target for p50, if there was one.
    pub target: Option<f64>,
    /// How the interval lies to it.
    pub verdict: Option<Verdict>,
    /// The target for CPU time over `floor`'s, if there was one.
    pub target_cpu: Option<f64>,
    /// How the interval lies to it.
    pub verdict_cpu: Option<Verdict>,
}

impl Ratio {
    /// Whether a target was missed.
    #[must_use]
    pub fn is_missed(&self) -> bool {
        [self.verdict, self.verdict_cpu].contains(&Some(Verdict::Missed))
    }
}

/// How a 95% interval lies to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The whole interval is within the target.
    Met,
    /// The target is inside the interval: not missed, and not shown to be met either.
    Open,
    /// The whole interval lies beyond the target.
    Missed,
}

/// One engine over the other, paired by round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineRatio {
    /// Bytes of each body.
    pub size: usize,
    /// Placement of the processes.
    pub placement: String,
    /// Driver of both.
    pub driver: Option<String>,
    /// Median over the rounds of io_uring's p50 by epoll's.
    pub p50_io_uring_over_epoll: f64,
    /// 95% bootstrap interval of that median.
    pub ci95: [f64; 2],
    /// Median over the rounds of io_uring's CPU time a message by epoll's.
    pub cpu_io_uring_over_epoll: f64,
    /// 95% bootstrap interval of that median.
    pub cpu_ci95: [f64; 2],
}

/// One wire over the other, paired by round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WireRatio {
    /// Bytes of each body.
    pub size: usize,
    /// Placement of the processes.
    pub placement: String,
    /// Driver of both.
    pub driver: Option<String>,
    /// Engine of TCP.
    pub engine: String,
    /// Median over the rounds of p50 over RDMA by that over TCP.
    pub p50_rdma_over_tcp: f64,
    /// 95% bootstrap interval of that median.
    pub ci95: [f64; 2],
    /// Median over the rounds of CPU time a message over RDMA by that over TCP.
    pub cpu_rdma_over_tcp: f64,
    /// 95% bootstrap interval of that median.
    pub cpu_ci95: [f64; 2],
}
