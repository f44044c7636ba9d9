//! Options as typed in.
//!
//! Parsing here, judgement in [`crate::plan`]: a value that cannot be understood is refused here, one
//! that is understood and not allowed is refused there.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::counts::CountsOptions;
use crate::failover::FailoverOptions;
use crate::floor::Waiting;
use crate::floor::relay::RelayOptions;
use crate::floor::service::ServiceOptions;
use crate::placement::Placement;
use crate::plan::{Driver, Engine, Topology, Wait, Wire};
use crate::sans_io::SansIoOptions;
use crate::underlay::service::EchoOptions;
use crate::verbs::VerbsOptions;
use crate::verbs::end::EndOptions;

/// Round-trip benchmarks for Underlay, beside what the machine allows.
#[derive(Debug, Parser)]
#[command(name = "underlay-bench", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure requests and replies between three processes, by message size.
    Roundtrip(Box<RoundtripOptions>),
    /// Make round trips on one thread, to be counted rather than timed (see ci/counts).
    Counts(CountsOptions),
    /// Send messages between two ends of a session without a wire, to be counted as well (see ci/counts).
    SansIo(SansIoOptions),
    /// Measure how long calls take to go on when a broker dies, a connection is cut, or a session changes wires.
    Failover(FailoverOptions),
    /// Measure the rdma wire beside perftest, rsockets, UCX and libfabric on the same devices.
    Verbs(Box<VerbsOptions>),
    /// Run the other end of a test of ours (started by verbs).
    #[command(hide = true)]
    VerbsEnd(EndOptions),
    /// Answer each request with its own body, behind a broker or listening itself (for roundtrip --connect).
    Service(EchoOptions),
    /// Run the floor's relay (started by roundtrip --floor; by hand for --floor-connect).
    #[command(hide = true)]
    FloorRelay(RelayOptions),
    /// Run the floor's service (started by roundtrip --floor; by hand for --floor-connect).
    #[command(hide = true)]
    FloorService(ServiceOptions),
}

/// Options of `roundtrip`.
#[derive(Debug, Clone, Args)]
pub struct RoundtripOptions {
    /// Wires under test; several take their turns in each round.
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',', default_value = "tcp")]
    pub wire: Vec<Wire>,
    /// With --wire rdma: where broker (or service) and, if it is another address, the others are, as addresses of RDMA
    /// devices [default: those of this machine's devices].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub rdma_addresses: Vec<IpAddr>,
    /// How TCP is driven; with --wire rdma alone only auto, or none.
    #[arg(long, value_enum, default_value = "auto")]
    pub engine: EngineChoice,
    /// Through a broker, or from client to service without one.
    #[arg(long, value_enum, default_value = "broker")]
    pub topology: Topology,
    /// Body sizes in bytes; k, KiB and MiB are understood.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_parser = size,
        default_value = "1,100,1024,2048,4096,8192,16384,32768,65536,131072"
    )]
    pub sizes: Vec<usize>,
    /// Messages for each size and system, split over the rounds [default: 20000; with --rate as many as
    /// fit 15 s, at most 20000].
    #[arg(long, value_name = "COUNT")]
    pub messages: Option<u64>,
    /// Rounds a size; in each, every system has its turn.
    #[arg(long, value_name = "COUNT", default_value_t = 15)]
    pub rounds: u32,
    /// Messages before each round that are not counted (with --rate at most what 100 ms allow).
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    pub warmup: u64,
    /// Messages on their way at once, in a closed loop [default: 1].
    #[arg(long, value_name = "COUNT")]
    pub in_flight: Option<u32>,
    /// Open loop: messages a second, latency counted from the intended send time.
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// Placement of the processes on cores; several are run one after the other.
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',', default_value = "unpinned")]
    pub placement: Vec<Placement>,
    /// Who polls the client's driver: the calling thread or a background one.
    #[arg(long, value_enum, default_value = "own")]
    pub driver: DriverChoice,
    /// How client, broker and service wait.
    #[arg(long, value_enum, default_value = "adaptive")]
    pub wait: Wait,
    /// Interleave bare relays over plain sockets, and report ratios to the better of them.
    #[arg(long)]
    pub floor: bool,
    /// Use a broker (or, with --topology direct, a service) that runs elsewhere.
    #[arg(long, value_name = "HOST:PORT")]
    pub connect: Option<String>,
    /// With --connect: the destination that the service there answers at [default: echo].
    #[arg(long, value_name = "NAME")]
    pub destination: Option<String>,
    /// Use a floor that runs elsewhere: blocking=HOST:PORT or yield=HOST:PORT, once for each.
    #[arg(long, value_name = "WAITING=HOST:PORT", value_parser = floor_address)]
    pub floor_connect: Vec<FloorAddress>,
    /// Write figures as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw p50 by size as SVG.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Highest ratio of p50 to the floor's, for all sizes or from a size on: 1.3 or 1.3,64KiB:1.2. The
    /// exit status is 3 if a whole interval lies beyond it.
    #[arg(long, value_name = "RATIO[,SIZE:RATIO]", value_parser = target)]
    pub target: Option<Target>,
    /// The same for CPU time a message.
    #[arg(long, value_name = "RATIO[,SIZE:RATIO]", value_parser = target)]
    pub target_cpu: Option<Target>,
    /// Seed of the order of systems in each round, and of the intervals.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Has floor services damage this message, to show that it is noticed.
    #[arg(long, hide = true, value_name = "NUMBER")]
    pub corrupt: Option<u64>,
}

/// One engine or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineChoice {
    /// Each as a system of its own; io_uring is left out, and that is said, where the host refuses it.
    Auto,
    /// By io_uring.
    #[value(name = "io_uring")]
    IoUring,
    /// By epoll.
    Epoll,
    /// Each as a system of its own, or an error where the host refuses io_uring.
    Both,
    /// No system under test: the floor alone.
    None,
}

impl EngineChoice {
    /// The engines chosen.
    #[must_use]
    pub fn engines(self) -> &'static [Engine] {
        match self {
            Self::IoUring => &[Engine::IoUring],
            Self::Epoll => &[Engine::Epoll],
            Self::Auto | Self::Both => &[Engine::IoUring, Engine::Epoll],
            Self::None => &[],
        }
    }
}

/// One way of polling the driver or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DriverChoice {
    /// The thread that waits for the reply.
    Own,
    /// A background thread.
    Background,
    /// Each as a system of its own.
    Both,
}

impl DriverChoice {
    /// The ways chosen.
    #[must_use]
    pub fn drivers(self) -> &'static [Driver] {
        match self {
            Self::Own => &[Driver::Own],
            Self::Background => &[Driver::Background],
            Self::Both => &[Driver::Own, Driver::Background],
        }
    }
}

/// Where a floor runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FloorAddress {
    /// Which floor.
    pub waiting: Waiting,
    /// `HOST:PORT`, not yet resolved.
    pub address: String,
}

impl fmt::Display for FloorAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}={}", self.waiting.name(), self.address)
    }
}

/// Highest ratio that is still good, by size.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// From which size on in bytes, and the ratio; by ascending size, the first from 0 on.
    steps: Vec<(usize, f64)>,
}

impl Target {
    /// The ratio for a size in bytes.
    #[must_use]
    pub fn at(&self, size: usize) -> Option<f64> {
        self.steps.iter().rev().find(|(from, _)| *from <= size).map(|&(_, ratio)| ratio)
    }
}

/// Parses a size such as `1024`, `64k`, `64KiB` or `1MiB`; `k` is 1024 as well.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|character: char| !character.is_ascii_digit());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "k" | "kib" => Some(1 << 10),
        "m" | "mib" => Some(1 << 20),
        _ => None,
    };
    let number: Option<usize> = digits.parse().ok();
    let bytes = number.zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    bytes.ok_or_else(|| {
        format!("{text:?} is no size: write bytes, or a whole number of KiB or MiB, as in 64KiB")
    })
}

/// Parses `1.3` or `1.3,64KiB:1.2`.
fn target(text: &str) -> Result<Target, String> {
    let wrong = || {
        format!(
            "{text:?} is no target: write a ratio above 0, then ratios from a size on, as in 1.3,64KiB:1.2"
        )
    };
    let ratio = |text: &str| text.parse().ok().filter(|ratio: &f64| ratio.is_finite() && *ratio > 0.0);
    let mut parts = text.split(',');
    let first = parts.next().and_then(ratio).ok_or_else(wrong)?;
    let mut steps = vec![(0, first)];
    for part in parts {
        let (from, above) = part.split_once(':').ok_or_else(wrong)?;
        steps.push((size(from)?, ratio(above).ok_or_else(wrong)?));
    }
    steps.sort_by_key(|&(from, _)| from);
    Ok(Target { steps })
}

/// Parses `blocking=HOST:PORT` or `yield=HOST:PORT`.
fn floor_address(text: &str) -> Result<FloorAddress, String> {
    let parts = text.split_once('=').and_then(|(waiting, address)| {
        Some(FloorAddress { waiting: Waiting::from_str(waiting, false).ok()?, address: address.to_owned() })
    });
    parts.ok_or_else(|| format!("{text:?} names no floor: write blocking=HOST:PORT or yield=HOST:PORT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_and_without_units() {
        for (text, bytes) in [
            ("1", 1),
            ("64k", 65_536),
            ("64KiB", 65_536),
            ("2MiB", 2 << 20),
            ("3m", 3 << 20),
            ("0", 0),
            ("7b", 7),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in
            ["", "k", "-1", "1.5k", "64KB", "1 k", "99999999999999999999", "18446744073709551615k", "1é"]
        {
            assert!(size(text).is_err_and(|error| error.contains("is no size")), "{text}");
        }
    }

    #[test]
    fn targets_by_size() {
        let target = target("1.3,64KiB:1.2").unwrap();
        assert_eq!([1, 65_535, 65_536, 131_072].map(|size| target.at(size).unwrap()), [1.3, 1.3, 1.2, 1.2]);
        for text in ["", "x", "-1", "inf", "1.3,1.2", "1.3,64k:", "1.3,:1"] {
            assert!(super::target(text).is_err(), "{text}");
        }
    }

    #[test]
    fn floors_elsewhere() {
        let floor = floor_address("yield=host:7000").unwrap();
        assert_eq!((floor.waiting, floor.address.as_str()), (Waiting::Yield, "host:7000"));
        assert!(floor_address("spin=host:7000").is_err());
        assert!(floor_address("host:7000").is_err());
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
