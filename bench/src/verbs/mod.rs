//! `underlay-bench verbs`: ours beside the programs that use verbs without Underlay, on the same devices.
//!
//! What lives here: the tests of ours (`bounce` over the driver, `bare` over the wire alone, each with its other end in
//! a process of its own, `end`), the raw programs and what they print (`programs`, `parse`), and the report.
//!
//! What it promises: in each round every test has its turn, those of one size next to each other and in an order drawn
//! anew; every test begins with processes of its own, and they have gone when it ends, so that nothing polls beside what
//! is measured; ratios are paired by round. A program that is missing or fails is left out with its reason.
//!
//! What it must never know: Underlay's insides.

mod bare;
mod bounce;
pub mod end;
pub mod parse;
pub mod programs;
pub mod report;

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use clap::Args;
use underlay::backend::rdma::RdmaDevice;

use self::bare::BareEnd;
use self::bounce::BounceClient;
use self::end::{EndSetting, Layer};
use self::parse::Figures;
use self::programs::{Ends, Program, Test};
use self::report::{Document, Kind, LeftOut, Run};
use crate::child::ChildProcess;
use crate::error::BenchError;
use crate::host::Host;
use crate::payload::Payload;
use crate::placement::{Layout, Placement, cores_allowed};
use crate::plan::{Topology, Wait, Wire};
use crate::rdma::RdmaEnds;
use crate::statistics::{SplitMix64, median};
use crate::subject::Role;
use crate::underlay::unexpected;

/// Messages before those that count, all of whose bytes are compared.
const WARMUP: u64 = 50;

/// The first port of raw programs.
const FIRST_PORT: u16 = 19_000;

/// What is between two tests, for processes to end and the kernel to clean up after them.
const SETTLE: Duration = Duration::from_millis(20);

/// Options of `verbs`.
#[derive(Debug, Clone, Args)]
pub struct VerbsOptions {
    /// Sizes in bytes at which one message is bounced over the driver, the bare wire, and by ib_send_lat.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = crate::cli::size, default_value = "64,256,1024,4096")]
    pub sizes: Vec<usize>,
    /// Sizes at which it is bounced over the driver and by rstream, ucx_perftest and fi_pingpong.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = crate::cli::size, default_value = "64,4096,65536")]
    pub beside_sizes: Vec<usize>,
    /// Size of the messages whose throughput is measured.
    #[arg(long, value_name = "SIZE", value_parser = crate::cli::size, default_value = "1MiB")]
    pub bulk_size: usize,
    /// Rounds; in each, every test has its turn.
    #[arg(long, value_name = "COUNT", default_value_t = 7)]
    pub rounds: u32,
    /// Rounds in which rstream, ucx_perftest and fi_pingpong take part, from the first on.
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    pub beside_rounds: u32,
    /// Messages bounced in each test.
    #[arg(long, value_name = "COUNT", default_value_t = 500)]
    pub messages: u64,
    /// Messages bounced in each test of rstream, ucx_perftest and fi_pingpong, and of anything at sizes that only those have.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    pub beside_messages: u64,
    /// Messages of each test of throughput.
    #[arg(long, value_name = "COUNT", default_value_t = 24)]
    pub bulk_messages: u64,
    /// Of ours, so many of them are unanswered at a time.
    #[arg(long, value_name = "COUNT", default_value_t = 8)]
    pub bulk_in_flight: u64,
    /// How the ends of ours wait. The raw programs poll and never sleep, and so do ours unless told otherwise.
    #[arg(long, value_enum, default_value = "spin")]
    pub wait: Wait,
    /// Placement of the two processes of a test.
    #[arg(long, value_enum, default_value = "unpinned")]
    pub placement: Placement,
    /// Where the service is, and the client, as addresses of RDMA devices [default: those of this machine's devices].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub rdma_addresses: Vec<IpAddr>,
    /// Write figures as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Seed of the order of tests in each round, and of the intervals.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Runs all tests, writes the JSON that was asked for, and prints the tables.
///
/// # Errors
/// An option beyond its limit, a machine without RDMA devices (with what is missing), or a test of ours that fails.
pub fn run(options: &VerbsOptions) -> Result<(), BenchError> {
    check(options)?;
    let setting = Setting::find(options)?;
    if let Some(file) = &options.json {
        let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
        opened.map_err(|error| crate::report::unwritable(file, error))?;
    }
    let mut bench = Bench::new(setting);
    bench.run()?;
    let document = bench.document();
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&document);
        let text = text.map_err(|error| crate::report::unwritable(file, error))? + "\n";
        std::fs::write(file, text).map_err(|error| crate::report::unwritable(file, error))?;
    }
    let mut output = io::stdout().lock();
    let printed = output.write_all(report::render(&document).as_bytes()).and_then(|()| output.flush());
    printed.map_err(BenchError::io("print the report"))
}

fn check(options: &VerbsOptions) -> Result<(), BenchError> {
    let positive = [
        ("rounds", u64::from(options.rounds)),
        ("messages", options.messages),
        ("beside-messages", options.beside_messages),
        ("bulk-messages", options.bulk_messages),
        ("bulk-in-flight", options.bulk_in_flight),
    ];
    if let Some((name, _)) = positive.into_iter().find(|(_, count)| *count == 0) {
        return Err(BenchError::refuse(name, 0, "there must be one", "leave it out for the default"));
    }
    let bounced = options.sizes.iter().chain(&options.beside_sizes);
    let limit = end::ANSWERED_WHOLE_BYTES_MAX;
    if let Some(size) = bounced.clone().find(|size| !(1..=limit).contains(*size)) {
        let allowed = format!("messages of 1 to {limit} bytes can be bounced");
        return Err(BenchError::refuse("sizes", size, allowed, "see --bulk-size for longer ones"));
    }
    if options.bulk_size <= limit {
        let allowed = format!("throughput is for messages above {limit} bytes");
        return Err(BenchError::refuse(
            "bulk-size",
            options.bulk_size,
            allowed,
            "see --sizes for shorter ones",
        ));
    }
    Ok(())
}

/// Where and how to run.
struct Setting<'a> {
    options: &'a VerbsOptions,
    own_ends: RdmaEnds,
    ends: Ends,
    layout: Layout,
    program: PathBuf,
}

impl<'a> Setting<'a> {
    fn find(options: &'a VerbsOptions) -> Result<Self, BenchError> {
        let own_ends = RdmaEnds::find(&options.rdma_addresses)?;
        let devices = RdmaDevice::all().unwrap_or_default();
        let end = |address: IpAddr| {
            let device = devices.iter().find(|device| device.addresses.contains(&address));
            device.map(|device| (device.name.clone(), address)).ok_or_else(|| {
                let limit = "is not known as the address of a device of this machine";
                BenchError::refuse(
                    "rdma-addresses",
                    address,
                    limit,
                    "name one that ibv_devinfo -v shows as a GID",
                )
            })
        };
        let client = end(own_ends.connecting.unwrap_or(own_ends.listening))?;
        let ends = Ends { server: end(own_ends.listening)?, client };
        let layout = Layout::new(options.placement, Topology::Direct, &cores_allowed())?;
        let program = std::env::current_exe().map_err(BenchError::io("find this program's own file"))?;
        Ok(Self { options, own_ends, ends, layout, program })
    }

    fn start_end(&self, layer: Layer) -> Result<(ChildProcess, String), BenchError> {
        let mut command = Command::new(&self.program);
        command.args(["verbs-end", "--layer", layer.name(), "--wait", self.options.wait.name()]);
        command.args(["--listen", &SocketAddr::new(self.own_ends.listening, 0).to_string()]);
        let (process, line) = ChildProcess::start(command, Role::Service, &self.layout)?;
        let place = line.strip_prefix("ready ").ok_or_else(|| unexpected("verbs-end", &line))?.to_owned();
        Ok((process, place))
    }

    fn end_setting(&self) -> EndSetting {
        EndSetting { wait: self.options.wait, source: self.own_ends.connecting }
    }

    /// One test of ours.
    fn measure(&self, layer: Layer, job: &Job) -> Result<Figures, BenchError> {
        let (_process, place) = self.start_end(layer)?;
        let _pinned = self.layout.enter(Role::Client)?;
        let setting = self.end_setting();
        let times = match (layer, job.in_flight) {
            (Layer::Wire, _) => {
                let payload = Payload::new(job.size);
                let mut end = BareEnd::open(setting.wait, |_| setting.rdma_wire())?;
                end.connect(&place)?;
                end.bounce(&payload, WARMUP, true)?;
                end.bounce(&payload, job.messages, false)?
            }
            (Layer::Driver, None) => {
                let mut client = BounceClient::connect(&setting, &Wire::Rdma.at(place), job.size)?;
                client.bounce(WARMUP, true)?;
                client.bounce(job.messages, false)?
            }
            (Layer::Driver, Some(in_flight)) => {
                let mut client = BounceClient::connect(&setting, &Wire::Rdma.at(place), job.size)?;
                client.stream(in_flight, in_flight)?;
                let elapsed = client.stream(job.messages, in_flight)?;
                let mib = (job.messages * job.size as u64) as f64 / f64::from(1 << 20);
                return Ok(Figures { mib_per_s: Some(mib / elapsed.as_secs_f64()), ..Figures::default() });
            }
        };
        Ok(one_way(&times))
    }
}

/// Half of each round trip, summed up.
fn one_way(times: &[Duration]) -> Figures {
    let halves: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e6 / 2.0).collect();
    let mean = halves.iter().sum::<f64>() / halves.len() as f64;
    Figures { p50_us: median(&halves), mean_us: Some(mean), mib_per_s: None }
}

/// Ours or a raw program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Own(Layer),
    Raw(Program),
}

impl Subject {
    fn system(self) -> &'static str {
        match self {
            Self::Own(_) => "underlay",
            Self::Raw(program) => program.system(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Own(layer) => layer.name(),
            Self::Raw(program) => program.name(),
        }
    }
}

/// One test, done once a round.
#[derive(Debug)]
struct Job {
    subject: Subject,
    size: usize,
    messages: u64,
    rounds: u32,
    /// Of a test of throughput.
    in_flight: Option<u64>,
    found: Vec<Figures>,
}

/// The tests of a run, those of one size together.
fn plan(options: &VerbsOptions) -> Vec<Vec<Job>> {
    let job = |subject, size, messages, rounds, in_flight| Job {
        subject,
        size,
        messages,
        rounds,
        in_flight,
        found: Vec::new(),
    };
    let mut sizes: Vec<usize> = options.sizes.iter().chain(&options.beside_sizes).copied().collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut groups: Vec<Vec<Job>> = Vec::new();
    for size in sizes {
        let mut group = Vec::new();
        let is_main = options.sizes.contains(&size);
        let (messages, rounds) = if is_main {
            (options.messages, options.rounds)
        } else {
            (options.beside_messages, options.beside_rounds)
        };
        group.push(job(Subject::Own(Layer::Driver), size, messages, rounds, None));
        if is_main {
            group.push(job(Subject::Own(Layer::Wire), size, messages, rounds, None));
            group.push(job(Subject::Raw(Program::IbSendLat), size, messages, rounds, None));
        }
        if options.beside_sizes.contains(&size) {
            for program in [Program::Rstream, Program::UcxAmLat, Program::UcxTagLat, Program::FiPingpong] {
                group.push(job(
                    Subject::Raw(program),
                    size,
                    options.beside_messages,
                    options.beside_rounds,
                    None,
                ));
            }
        }
        groups.push(group);
    }
    let bulk = |subject, in_flight| {
        job(subject, options.bulk_size, options.bulk_messages, options.rounds, in_flight)
    };
    groups.push(vec![
        bulk(Subject::Own(Layer::Driver), Some(options.bulk_in_flight)),
        bulk(Subject::Raw(Program::IbSendBw), None),
        bulk(Subject::Raw(Program::IbReadBw), None),
    ]);
    groups
}

/// A run under way.
struct Bench<'a> {
    setting: Setting<'a>,
    groups: Vec<Vec<Job>>,
    left_out: Vec<LeftOut>,
    /// Why a program cannot be run at any size.
    missing: HashMap<Program, String>,
    next_port: u16,
}

impl<'a> Bench<'a> {
    fn new(setting: Setting<'a>) -> Self {
        let groups = plan(setting.options);
        let mut bench =
            Self { setting, groups, left_out: Vec::new(), missing: HashMap::new(), next_port: FIRST_PORT };
        bench.leave_out_missing();
        bench
    }

    fn leave_out_missing(&mut self) {
        for job in self.groups.iter().flatten() {
            if let Subject::Raw(program) = job.subject
                && !self.missing.contains_key(&program)
                && let Some(reason) = program.missing()
            {
                self.left_out.push(LeftOut {
                    program: program.name().to_owned(),
                    size: None,
                    reason: reason.clone(),
                });
                self.missing.insert(program, reason);
            }
        }
    }

    fn run(&mut self) -> Result<(), BenchError> {
        let mut random = SplitMix64::new(self.setting.options.seed);
        let mut groups = std::mem::take(&mut self.groups);
        for round in 0..self.setting.options.rounds {
            for group in &mut groups {
                let mut order: Vec<usize> = (0..group.len()).collect();
                random.shuffle(&mut order);
                for at in order {
                    if round < group[at].rounds {
                        self.turn(&mut group[at])?;
                    }
                }
            }
            eprintln!("round {} of {}", round + 1, self.setting.options.rounds);
        }
        self.groups = groups;
        Ok(())
    }

    fn turn(&mut self, job: &mut Job) -> Result<(), BenchError> {
        std::thread::sleep(SETTLE);
        match job.subject {
            Subject::Own(layer) => job.found.push(self.setting.measure(layer, job)?),
            Subject::Raw(program) if self.missing.contains_key(&program) => {}
            Subject::Raw(program) => match self.raw(program, job)? {
                Ok(figures) => job.found.push(figures),
                Err(reason) => {
                    // Rounds would not be paired any more: what has failed is out, and its figures with it.
                    job.rounds = 0;
                    job.found.clear();
                    let name = program.name().to_owned();
                    self.left_out.push(LeftOut { program: name, size: Some(job.size), reason });
                }
            },
        }
        Ok(())
    }

    /// A raw program's turn. What fails once under load is tried once more; UCX's upper layer, which hangs where it does
    /// not come up, is not.
    fn raw(&mut self, program: Program, job: &Job) -> Result<Result<Figures, String>, BenchError> {
        let once = |port| {
            let test = Test { program, size: job.size, messages: job.messages, port };
            programs::run(&test, &self.setting.ends, &self.setting.layout)
        };
        self.next_port += 2;
        let first = once(self.next_port - 2)?;
        if first.is_ok() {
            return Ok(first);
        }
        if program == Program::UcxTagLat {
            if let Err(reason) = &first {
                self.missing.insert(program, reason.clone());
            }
            return Ok(first);
        }
        once(self.next_port - 1)
    }

    fn document(self) -> Document {
        let run = |job: &Job| {
            let kind = Kind {
                system: job.subject.system(),
                program: job.subject.name(),
                size: job.size,
                messages: job.messages,
                in_flight: job.in_flight.or((job.size != self.setting.options.bulk_size).then_some(1)),
            };
            Run::new(&kind, &job.found)
        };
        let measured = self.groups.iter().flatten().filter(|job| !job.found.is_empty());
        let runs: Vec<Run> = measured.map(run).collect();
        Document {
            host: Host::inspect(),
            wait: self.setting.options.wait.name().to_owned(),
            placement: self.setting.options.placement.name().to_owned(),
            ratios: report::ratios(&runs, self.setting.options.seed),
            runs,
            left_out: self.left_out,
        }
    }
}

#[cfg(test)]
mod tests;
