//! What a run is going to do: options, validated.
//!
//! A [`Plan`] that exists can be carried out as far as its own figures go; whether the machine has the
//! cores and the addresses answer is seen when it is. Every refusal names value, limit and way out.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use hdrhistogram::Histogram;
use underlay::driver::Address;

use crate::cli::{EngineChoice, FloorAddress, RoundtripOptions, Target};
use crate::error::BenchError;
use crate::floor::Waiting;
use crate::floor::framing::BODY_BYTES_MAX;
use crate::host::SkippedEngine;
use crate::placement::Placement;

/// How long a reply may take before a run is given up.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// Most messages a size and system.
pub const MESSAGES_MAX: u64 = 100_000_000;
/// Most rounds.
pub const ROUNDS_MAX: u32 = 1000;
/// Most messages in flight.
pub const IN_FLIGHT_MAX: u32 = 4096;
/// Highest rate, in messages a second.
pub const RATE_PER_S_MAX: f64 = 10_000_000.0;
/// Lowest rate, in messages a second.
pub const RATE_PER_S_MIN: f64 = 1.0;

/// Fewest rounds from which a target is judged: the interval of fewer paired rounds is too rough.
pub const JUDGED_ROUNDS_MIN: u32 = 15;

/// Messages a size and system of a closed loop, unless told otherwise.
pub const MESSAGES_DEFAULT: u64 = 20_000;
/// How long an open loop lasts a size and system, in seconds, unless `--messages` says otherwise.
pub const OPEN_LOOP_S_DEFAULT: f64 = 15.0;
/// Most of its time that a round's warm-up takes in an open loop, in seconds.
const OPEN_WARMUP_S_MAX: f64 = 0.1;

/// A wire under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wire {
    /// TCP.
    Tcp,
    /// RDMA verbs.
    Rdma,
}

impl Wire {
    /// The name, as typed and as reported.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Rdma => "rdma",
        }
    }

    /// Where something listens on this wire.
    #[must_use]
    pub fn at(self, place: impl Into<String>) -> Address {
        match self {
            Self::Tcp => Address::tcp(place),
            Self::Rdma => Address::rdma(place),
        }
    }
}

/// How the wire under test is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// By io_uring.
    #[value(name = "io_uring")]
    IoUring,
    /// By epoll.
    Epoll,
    /// By the verbs of RDMA, the one way for that wire.
    #[value(skip)]
    Verbs,
}

impl Engine {
    /// The name, as typed and as reported.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
            Self::Verbs => "verbs",
        }
    }

    /// The wire that it drives.
    #[must_use]
    pub fn wire(self) -> Wire {
        match self {
            Self::IoUring | Self::Epoll => Wire::Tcp,
            Self::Verbs => Wire::Rdma,
        }
    }
}

/// Who polls the client's driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// The thread that waits for the reply.
    Own,
    /// A background thread.
    Background,
}

impl Driver {
    /// The name, as typed and as reported.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Background => "background",
        }
    }
}

/// How the drivers of the system under test wait when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wait {
    /// Poll while that pays, else sleep.
    Adaptive,
    /// Never sleep.
    Spin,
    /// Sleep at once.
    Sleep,
}

impl Wait {
    /// The name, as typed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Adaptive => "adaptive",
            Self::Spin => "spin",
            Self::Sleep => "sleep",
        }
    }
}

/// Whether a broker stands between client and service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Topology {
    /// Client, broker, service.
    Broker,
    /// Client and service.
    Direct,
}

impl Topology {
    /// The name, as typed and as reported.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Direct => "direct",
        }
    }
}

/// When messages are sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Pace {
    /// The next one when a reply has come, so many being on their way at once.
    Closed {
        /// At least 1.
        in_flight: u32,
    },
    /// When their time has come, replies or not.
    Open(Schedule),
}

impl Pace {
    /// Whether never more than one message is on its way.
    #[must_use]
    pub fn is_one_at_a_time(&self) -> bool {
        matches!(self, Self::Closed { in_flight: 1 })
    }

    /// Messages in flight of a closed loop.
    #[must_use]
    pub fn in_flight(&self) -> Option<u32> {
        match self {
            Self::Closed { in_flight } => Some(*in_flight),
            Self::Open(_) => None,
        }
    }

    /// Messages a second of an open loop.
    #[must_use]
    pub fn rate_per_s(&self) -> Option<f64> {
        match self {
            Self::Closed { .. } => None,
            Self::Open(schedule) => Some(schedule.rate_per_s),
        }
    }
}

/// When each message of an open loop is meant to be sent. Latency counts from then, so that a message
/// that a slow system kept from being sent counts as long as its user would have waited.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    rate_per_s: f64,
}

impl Schedule {
    /// A message every `1 / rate_per_s` seconds, the first at once. The rate must be positive.
    #[must_use]
    pub fn per_second(rate_per_s: f64) -> Self {
        Self { rate_per_s }
    }

    /// When message `index` of a round is meant to be sent, counted from the round's start. Computed
    /// from the index, so that errors do not add up.
    #[must_use]
    pub fn intended(&self, index: u64) -> Duration {
        Duration::from_secs_f64(index as f64 / self.rate_per_s)
    }
}

/// What one round is to do.
#[derive(Debug, Clone, PartialEq)]
pub struct RoundPlan {
    /// Bytes of each body.
    pub size: usize,
    /// Number of the first message; numbers go on from round to round.
    pub first_number: u64,
    /// How many messages.
    pub messages: u64,
    /// When they are sent.
    pub pace: Pace,
}

/// A floor that takes part in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FloorPlan {
    /// How it waits.
    pub waiting: Waiting,
    /// Where its relay (or service) runs, if not started here.
    pub address: Option<SocketAddr>,
}

/// A whole run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where the ends of a run over RDMA are, one or two addresses; if none, at those of this machine's devices.
    pub rdma_addresses: Vec<IpAddr>,
    /// Ways of driving it, each a system of its own.
    pub engines: Vec<Engine>,
    /// Whether an engine that the host refuses is left out, instead of ending the run.
    pub may_skip_engines: bool,
    /// Ways of polling the client's driver, each a system of its own.
    pub drivers: Vec<Driver>,
    /// How they wait.
    pub wait: Wait,
    /// With or without a broker.
    pub topology: Topology,
    /// Body sizes in bytes, in the order of the report.
    pub sizes: Vec<usize>,
    /// Rounds a size.
    pub rounds: u32,
    /// Messages a round, size and system.
    pub messages_per_round: u64,
    /// Messages before each round that are not counted.
    pub warmup_per_round: u64,
    /// When messages are sent.
    pub pace: Pace,
    /// Placements, one after the other.
    pub placements: Vec<Placement>,
    /// Floors to compare with.
    pub floors: Vec<FloorPlan>,
    /// Where broker and service under test run, if not started here.
    pub connect: Option<SocketAddr>,
    /// Where the service under test answers, if not at the usual destination.
    pub destination: Option<String>,
    /// Seed of orders and resamples.
    pub seed: u64,
    /// Highest ratio of p50 to the floor's, by size.
    pub target_p50: Option<Target>,
    /// Highest ratio of CPU time to the floor's, by size.
    pub target_cpu: Option<Target>,
    /// Where to write JSON.
    pub json: Option<PathBuf>,
    /// Where to draw a chart.
    pub svg: Option<PathBuf>,
    /// Number of the message that floor services damage, for tests.
    pub corrupt: Option<u64>,
}

impl Plan {
    /// Validates options against each other.
    ///
    /// # Errors
    /// The first contradiction or impossible value, with the way out.
    pub fn new(options: &RoundtripOptions) -> Result<Self, BenchError> {
        let pace = pace(options)?;
        let messages = messages(options, &pace)?;
        check_elsewhere(options)?;
        check_targets(options)?;
        let floors = floors(options)?;
        let engines = engines(options)?;
        check_spinning(options, engines.len() * options.driver.drivers().len() + floors.len())?;
        let warmup_per_round = match &pace {
            Pace::Closed { .. } => options.warmup,
            Pace::Open(schedule) => options
                .warmup
                .min((schedule.rate_per_s * OPEN_WARMUP_S_MAX) as u64)
                .max(options.warmup.min(10)),
        };
        Ok(Self {
            rdma_addresses: options.rdma_addresses.clone(),
            engines,
            may_skip_engines: options.engine == EngineChoice::Auto,
            drivers: options.driver.drivers().to_vec(),
            wait: options.wait,
            topology: options.topology,
            sizes: sizes(options)?,
            rounds: options.rounds,
            messages_per_round: messages.div_ceil(u64::from(options.rounds)),
            warmup_per_round,
            pace,
            placements: options.placement.clone(),
            floors,
            connect: options.connect.as_deref().map(|at| resolve("connect", at)).transpose()?,
            destination: options.destination.clone(),
            seed: options.seed,
            target_p50: options.target.clone(),
            target_cpu: options.target_cpu.clone(),
            json: options.json.clone(),
            svg: options.svg.clone(),
            corrupt: options.corrupt,
        })
    }

    /// The plan as a host can carry it out that refuses io_uring for this reason, if for any, and what had
    /// to be left out for that.
    ///
    /// # Errors
    /// io_uring was asked for by name, and the host refuses it.
    pub fn fitted(&self, io_uring_refusal: Option<&str>) -> Result<(Self, Vec<SkippedEngine>), BenchError> {
        let mut plan = self.clone();
        let Some(reason) = io_uring_refusal.filter(|_| self.engines.contains(&Engine::IoUring)) else {
            return Ok((plan, Vec::new()));
        };
        if !self.may_skip_engines {
            return Err(BenchError::refuse(
                "engine",
                Engine::IoUring.name(),
                format!("is refused by this host ({reason})"),
                "allow it, or use --engine epoll, or --engine auto, which leaves out what is refused",
            ));
        }
        plan.engines.retain(|&engine| engine != Engine::IoUring);
        let skipped = SkippedEngine { engine: Engine::IoUring.name().to_owned(), reason: reason.to_owned() };
        Ok((plan, vec![skipped]))
    }
}

/// A histogram for round-trip times in nanoseconds: three significant digits up to ten minutes, all
/// memory allocated beforehand.
#[must_use]
pub fn new_histogram() -> Histogram<u64> {
    const NANOSECONDS_MAX: u64 = 600_000_000_000;
    // Cannot fail: the constructor wants a low bound of at least 1, a high one of at least twice that, and
    // at most five digits; all three are constants here.
    Histogram::new_with_bounds(1, NANOSECONDS_MAX, 3)
        .unwrap_or_else(|error| unreachable!("constant bounds were refused: {error}"))
}

/// Records a round-trip time; one beyond the histogram's range counts as its highest value.
pub fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    histogram.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
}

/// The ways of driving the wires, in the order of these, and whether what is said of them suits them.
fn engines(options: &RoundtripOptions) -> Result<Vec<Engine>, BenchError> {
    let (wires, given) = (&options.wire, &options.rdma_addresses);
    check_wires(options)?;
    match (wires.contains(&Wire::Rdma), &given[..]) {
        (false, [first, ..]) => {
            return Err(BenchError::refuse(
                "rdma-addresses",
                first,
                "has no meaning without --wire rdma",
                "add it, or leave the addresses out",
            ));
        }
        (true, [_, _, third, ..]) => {
            return Err(BenchError::refuse(
                "rdma-addresses",
                third,
                "is one too many: a run has two ends",
                "name where the broker is, and then from where the others connect",
            ));
        }
        _ => {}
    }
    let of = |wire: &Wire| match (wire, options.engine) {
        (Wire::Tcp, engine) => engine.engines(),
        (Wire::Rdma, EngineChoice::None) => &[],
        (Wire::Rdma, _) => &[Engine::Verbs],
    };
    Ok(wires.iter().flat_map(of).copied().collect())
}

/// Each wire is named once, and what drives TCP and what is connected to only where it is meant.
fn check_wires(options: &RoundtripOptions) -> Result<(), BenchError> {
    let wires = &options.wire;
    if let Some(twice) = wires.iter().enumerate().find(|(place, wire)| wires[..*place].contains(wire)) {
        let name = twice.1.name();
        return Err(BenchError::refuse("wire", name, "is named twice", "name each wire once"));
    }
    if !wires.contains(&Wire::Tcp) && !matches!(options.engine, EngineChoice::Auto | EngineChoice::None) {
        return Err(BenchError::refuse(
            "engine",
            options.engine.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned()),
            "drives TCP, and this run is over --wire rdma, which is driven by verbs",
            "leave it out",
        ));
    }
    match &options.connect {
        Some(at) if wires.len() > 1 => Err(BenchError::refuse(
            "connect",
            at,
            "is one address, and several wires are to be measured",
            "name one --wire, or let the processes be started here",
        )),
        _ => Ok(()),
    }
}

fn pace(options: &RoundtripOptions) -> Result<Pace, BenchError> {
    match (options.rate, options.in_flight) {
        (Some(rate), Some(_)) => Err(BenchError::refuse(
            "in-flight",
            options.in_flight.unwrap_or(1),
            format!("is the measure of a closed loop, and --rate {rate} asks for an open one"),
            "drop one of the two",
        )),
        (Some(rate), None) if !(RATE_PER_S_MIN..=RATE_PER_S_MAX).contains(&rate) => Err(BenchError::refuse(
            "rate",
            rate,
            format!("must be from {RATE_PER_S_MIN} to {RATE_PER_S_MAX} messages a second"),
            "choose a rate in that range, or drop it for a closed loop",
        )),
        (Some(rate), None) => Ok(Pace::Open(Schedule::per_second(rate))),
        (None, in_flight) => {
            let in_flight = in_flight.unwrap_or(1);
            if !(1..=IN_FLIGHT_MAX).contains(&in_flight) {
                let limit = format!("must be from 1 to {IN_FLIGHT_MAX}");
                return Err(BenchError::refuse(
                    "in-flight",
                    in_flight,
                    limit,
                    "choose a number in that range",
                ));
            }
            Ok(Pace::Closed { in_flight })
        }
    }
}

fn messages(options: &RoundtripOptions, pace: &Pace) -> Result<u64, BenchError> {
    if !(1..=ROUNDS_MAX).contains(&options.rounds) {
        let limit = format!("must be from 1 to {ROUNDS_MAX}");
        return Err(BenchError::refuse("rounds", options.rounds, limit, "15 make intervals worth reading"));
    }
    let rounds = u64::from(options.rounds);
    let default = match pace {
        Pace::Closed { .. } => MESSAGES_DEFAULT,
        Pace::Open(schedule) => {
            MESSAGES_DEFAULT.min((schedule.rate_per_s * OPEN_LOOP_S_DEFAULT) as u64).max(rounds)
        }
    };
    let messages = options.messages.unwrap_or(default);
    if messages < rounds {
        let limit = format!("is less than one for each of --rounds {rounds}");
        return Err(BenchError::refuse("messages", messages, limit, "give more messages or fewer rounds"));
    }
    if messages > MESSAGES_MAX || options.warmup > MESSAGES_MAX {
        let (option, value) =
            if messages > MESSAGES_MAX { ("messages", messages) } else { ("warmup", options.warmup) };
        return Err(BenchError::refuse(
            option,
            value,
            format!("must be at most {MESSAGES_MAX}"),
            "give fewer",
        ));
    }
    Ok(messages)
}

fn sizes(options: &RoundtripOptions) -> Result<Vec<usize>, BenchError> {
    let mut sizes = Vec::with_capacity(options.sizes.len());
    for &size in &options.sizes {
        if !(1..=BODY_BYTES_MAX).contains(&size) {
            let limit = format!("each must be from 1 to {BODY_BYTES_MAX} bytes");
            return Err(BenchError::refuse("sizes", size, limit, "leave it out or change it"));
        }
        if sizes.contains(&size) {
            return Err(BenchError::refuse("sizes", size, "is there twice", "give each size once"));
        }
        sizes.push(size);
    }
    Ok(sizes)
}

fn check_elsewhere(options: &RoundtripOptions) -> Result<(), BenchError> {
    if let (Some(destination), None) = (&options.destination, &options.connect) {
        return Err(BenchError::refuse(
            "destination",
            destination,
            "has no meaning for a service that is started here",
            "add --connect, or leave it out",
        ));
    }
    let pinned = options.placement.iter().find(|&&placement| placement != Placement::Unpinned);
    match (pinned, &options.connect) {
        (Some(placement), Some(address)) => Err(BenchError::refuse(
            "placement",
            placement.name(),
            format!("pins broker and service, but those at {address} were not started here"),
            "use unpinned, and pin each process where it is started (taskset)",
        )),
        _ => Ok(()),
    }
}

fn check_targets(options: &RoundtripOptions) -> Result<(), BenchError> {
    if options.rounds >= JUDGED_ROUNDS_MIN || (options.target.is_none() && options.target_cpu.is_none()) {
        return Ok(());
    }
    Err(BenchError::refuse(
        "rounds",
        options.rounds,
        format!(
            "is too few for --target and --target-cpu: a verdict takes at least {JUDGED_ROUNDS_MIN} paired rounds"
        ),
        format!("give --rounds {JUDGED_ROUNDS_MIN} or more, or leave the target out"),
    ))
}

/// Systems stay up while the others have their turn, which is fair only if they sleep then.
fn check_spinning(options: &RoundtripOptions, systems: usize) -> Result<(), BenchError> {
    if options.wait != Wait::Spin || systems <= 1 {
        return Ok(());
    }
    Err(BenchError::refuse(
        "wait",
        options.wait.name(),
        format!(
            "never sleeps, so of these {systems} systems those that are not measured would take the cores from \
             the one that is"
        ),
        "measure one system at a time: one --engine, one --driver, and no --floor",
    ))
}

fn floors(options: &RoundtripOptions) -> Result<Vec<FloorPlan>, BenchError> {
    if !options.floor {
        return match options.floor_connect.first() {
            Some(at) => {
                Err(BenchError::refuse("floor-connect", at, "has no meaning without --floor", "add --floor"))
            }
            None => Ok(Vec::new()),
        };
    }
    if options.connect.is_some() && options.floor_connect.is_empty() {
        return Err(BenchError::refuse(
            "floor",
            "",
            "would run here while --connect measures elsewhere, which compares nothing",
            "start floor-service and floor-relay there and name them with --floor-connect, or drop --floor",
        ));
    }
    let floor_at = |waiting: Waiting| -> Result<Option<FloorPlan>, BenchError> {
        let named: Option<&FloorAddress> = options.floor_connect.iter().find(|at| at.waiting == waiting);
        let address = named.map(|at| resolve("floor-connect", &at.address)).transpose()?;
        let is_wanted = address.is_some() || options.floor_connect.is_empty();
        Ok(is_wanted.then_some(FloorPlan { waiting, address }))
    };
    let floors = [floor_at(Waiting::Blocking)?, floor_at(Waiting::Yield)?];
    Ok(floors.into_iter().flatten().collect())
}

fn resolve(option: &'static str, address: &str) -> Result<SocketAddr, BenchError> {
    let found = address.to_socket_addrs().map_err(|error| {
        BenchError::refuse(option, address, error.to_string(), "give HOST:PORT, for example 10.0.0.2:7000")
    })?;
    found.into_iter().next().ok_or_else(|| {
        BenchError::refuse(
            option,
            address,
            "the name has no address",
            "give HOST:PORT with a name that resolves",
        )
    })
}

#[cfg(test)]
mod tests;
