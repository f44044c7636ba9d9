//! The run: placements, sizes, rounds, and in each round every system in turn.
//!
//! All systems of a placement are up over its whole run; those whose turn it is not sleep. In each round
//! they take their turns in a new order, drawn from the seed, so that neither drift of the machine nor
//! what ran just before favours one of them. A turn is a short pause (in which the system before stops
//! polling), the warm-up, which is not counted, and the measured messages with the CPU clocks read right
//! before and after.

use std::path::PathBuf;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::cpu_time::CpuClocks;
use crate::error::BenchError;
use crate::floor::FloorSubject;
use crate::host::{Host, SkippedEngine};
use crate::placement::{Layout, cores_allowed};
use crate::plan::{Pace, Plan, RoundPlan, Wire, new_histogram};
use crate::rdma::RdmaEnds;
use crate::report::json::{Document, Percentiles, Run};
use crate::report::progress::Progress;
use crate::report::ratios;
use crate::statistics::{SplitMix64, rounded};
use crate::subject::{Description, Role, Subject, System};

/// Pause before each turn: longer than any system polls after its last message.
const SETTLE: Duration = Duration::from_millis(5);

/// What systems are opened for.
#[derive(Debug)]
pub struct Setting<'a> {
    /// The run.
    pub plan: &'a Plan,
    /// Where each role belongs; the calling thread is there already, as the client.
    pub layout: Layout,
    /// Where the ends of what runs over RDMA are, if anything does.
    pub rdma: Option<RdmaEnds>,
    /// This program, to be started again as relay or service.
    pub program: PathBuf,
}

/// Opens the systems under test for a placement, started and connected. Called with the calling thread
/// pinned as the client, so that threads it starts are, too.
pub type Opener<'a> = dyn Fn(&Setting<'_>) -> Result<Vec<Box<dyn Subject>>, BenchError> + 'a;

/// Carries a plan out with the systems that `open` gives and the plan's floors.
///
/// # Errors
/// The host refuses an engine that was asked for by name, or has no RDMA. The first failure of any system ends the run: figures with gaps in them compare nothing.
pub fn run(plan: &Plan, open: &Opener<'_>) -> Result<Document, BenchError> {
    let mut host = Host::inspect();
    let (plan, skipped) = plan.fitted(host.io_uring_refusal())?;
    let plan = &plan;
    for SkippedEngine { engine, reason } in &skipped {
        eprintln!("SKIPPED {engine}: {reason}");
    }
    host.skipped_engines = skipped;
    let over_rdma = plan.engines.iter().any(|engine| engine.wire() == Wire::Rdma);
    let rdma = over_rdma.then(|| RdmaEnds::find(&plan.rdma_addresses)).transpose()?;
    let program = std::env::current_exe().map_err(BenchError::io("find this program's own file"))?;
    let allowed = cores_allowed();
    // Layouts first: a placement that this machine cannot have is refused before anything is measured.
    let layouts: Vec<Layout> = plan
        .placements
        .iter()
        .map(|&placement| Layout::new(placement, plan.topology, &allowed))
        .collect::<Result<_, _>>()?;
    if matches!(plan.pace, Pace::Open(_)) {
        punctual_timers()?;
    }
    let mut runs = Vec::new();
    for layout in layouts {
        let _pinned = layout.enter(Role::Client)?;
        let setting = Setting { plan, layout, rdma, program: program.clone() };
        runs.extend(run_placement(&setting, open)?);
    }
    Ok(ratios::document(plan, host, runs))
}

/// Has sleeps end when they should: by default the kernel may end them 50 us late to save wakes
/// (`PR_SET_TIMERSLACK`), which an open loop would count as latency. Threads and processes started from
/// here inherit it.
fn punctual_timers() -> Result<(), BenchError> {
    nix::sys::prctl::set_timerslack(1)
        .map_err(|errno| BenchError::Io { doing: "set the timer slack", source: errno.into() })
}

fn run_placement(setting: &Setting<'_>, open: &Opener<'_>) -> Result<Vec<Run>, BenchError> {
    let plan = setting.plan;
    let mut subjects = open(setting)?;
    for floor in &plan.floors {
        subjects.push(Box::new(FloorSubject::open(setting, floor.waiting)?));
    }
    if subjects.is_empty() {
        return Err(BenchError::NothingToMeasure);
    }
    let mut turns = Vec::with_capacity(subjects.len());
    for subject in subjects {
        turns.push(Turn::new(subject)?);
    }
    let mut random = SplitMix64::new(plan.seed);
    let mut progress = Progress::new(plan, setting.layout.placement(), turns.len());
    let mut runs = Vec::new();
    for &size in &plan.sizes {
        measure_size(plan, size, &mut turns, &mut random, &mut progress)?;
        runs.extend(turns.iter_mut().map(|turn| turn.finish(setting, size)));
    }
    progress.finish();
    Ok(runs)
}

fn measure_size(
    plan: &Plan,
    size: usize,
    turns: &mut [Turn],
    random: &mut SplitMix64,
    progress: &mut Progress,
) -> Result<(), BenchError> {
    for turn in turns.iter_mut() {
        turn.subject.prepare(size)?;
        // Once apart from the rounds: pages are touched and buffers grown for this size.
        turn.warm_up(plan, size)?;
    }
    let mut order: Vec<usize> = (0..turns.len()).collect();
    for _ in 0..plan.rounds {
        random.shuffle(&mut order);
        for &at in &order {
            std::thread::sleep(SETTLE);
            turns[at].warm_up(plan, size)?;
            turns[at].measure(plan, size)?;
            progress.advance(size, &turns[at].description);
        }
    }
    Ok(())
}

/// A system and what has been measured of it at the current size.
struct Turn {
    subject: Box<dyn Subject>,
    description: Description,
    roles: Vec<Role>,
    clocks: CpuClocks,
    next_number: u64,
    round: Histogram<u64>,
    all: Histogram<u64>,
    elapsed: Duration,
    p50_us_by_round: Vec<f64>,
    cpu_us_by_round: Vec<f64>,
}

impl Turn {
    fn new(subject: Box<dyn Subject>) -> Result<Self, BenchError> {
        let mut processes = subject.processes();
        processes.sort_unstable();
        Ok(Self {
            description: subject.describe(),
            roles: processes.iter().map(|&(role, _)| role).collect(),
            clocks: CpuClocks::of(&processes)?,
            subject,
            next_number: 0,
            round: new_histogram(),
            all: new_histogram(),
            elapsed: Duration::ZERO,
            p50_us_by_round: Vec::new(),
            cpu_us_by_round: Vec::new(),
        })
    }

    fn warm_up(&mut self, plan: &Plan, size: usize) -> Result<(), BenchError> {
        if plan.warmup_per_round > 0 {
            self.exchange(plan, size, plan.warmup_per_round)?;
        }
        Ok(())
    }

    fn measure(&mut self, plan: &Plan, size: usize) -> Result<(), BenchError> {
        let before = self.clocks.total()?;
        let elapsed = self.exchange(plan, size, plan.messages_per_round)?;
        let cpu = self.clocks.total()?.saturating_sub(before);
        self.elapsed += elapsed;
        self.p50_us_by_round.push(us_of_ns(self.round.value_at_quantile(0.5)));
        self.cpu_us_by_round.push(rounded(cpu.as_secs_f64() * 1e6 / plan.messages_per_round as f64));
        // Both have the same bounds, so every value of one has its place in the other.
        self.all += &self.round;
        Ok(())
    }

    /// One round of so many messages; their times are in `self.round` afterwards.
    fn exchange(&mut self, plan: &Plan, size: usize, messages: u64) -> Result<Duration, BenchError> {
        self.round.reset();
        let round = RoundPlan { size, first_number: self.next_number, messages, pace: plan.pace.clone() };
        self.next_number += messages;
        Ok(self.subject.round(&round, &mut self.round)?.elapsed)
    }

    /// Turns what was measured into a run of the report, and starts anew.
    fn finish(&mut self, setting: &Setting<'_>, size: usize) -> Run {
        let plan = setting.plan;
        let p50_us_by_round = std::mem::take(&mut self.p50_us_by_round);
        let cpu_us_by_round = std::mem::take(&mut self.cpu_us_by_round);
        let elapsed = std::mem::take(&mut self.elapsed).as_secs_f64();
        let cpu_mean = cpu_us_by_round.iter().sum::<f64>() / cpu_us_by_round.len().max(1) as f64;
        let run = Run {
            system: self.description.system,
            wire: self.description.wire.clone(),
            engine: self.description.engine.clone(),
            driver: self.description.driver.clone(),
            topology: plan.topology.name().to_owned(),
            size,
            messages: self.all.len(),
            in_flight: plan.pace.in_flight(),
            rate_per_s: plan.pace.rate_per_s(),
            placement: setting.layout.placement().name().to_owned(),
            wait: (self.description.system == System::Underlay).then(|| plan.wait.name().to_owned()),
            rtt_us: percentiles(&self.all),
            cpu_us_per_message: rounded(cpu_mean),
            cpu_of: self.roles.clone(),
            messages_per_s: if elapsed > 0.0 { rounded(self.all.len() as f64 / elapsed) } else { 0.0 },
            rounds: plan.rounds,
            p50_us_by_round,
            cpu_us_by_round,
        };
        self.all.reset();
        run
    }
}

fn percentiles(histogram: &Histogram<u64>) -> Percentiles {
    let at = |quantile| us_of_ns(histogram.value_at_quantile(quantile));
    Percentiles {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: us_of_ns(histogram.max()),
        mean: rounded(histogram.mean() / 1e3),
    }
}

fn us_of_ns(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}
