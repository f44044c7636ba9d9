//! The raw programs: how each is started, when its server can be connected to, and how its output is read.
//!
//! A program is started anew for each test, server and client, and both have gone when the test is over. Ports differ
//! from test to test, so that nothing of the one before is in the way.

use std::fs;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::parse::{self, Figures, Parser};
use crate::error::BenchError;
use crate::placement::Layout;
use crate::subject::Role;

/// The longest that a test of a raw program may take.
const TEST_TIMEOUT: Duration = Duration::from_secs(8);

/// How long a server may take until it can be connected to.
const START_TIMEOUT: Duration = Duration::from_secs(4);

/// Between looks at whether a server can be connected to.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Before the first connection to a server of which that cannot be seen, and between tries.
const BLIND_WAIT: Duration = Duration::from_millis(400);

/// A program that uses verbs without Underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// perftest: sends, one at a time, for their latency.
    IbSendLat,
    /// perftest: sends for their throughput.
    IbSendBw,
    /// perftest: one-sided reads for their throughput.
    IbReadBw,
    /// rsockets.
    Rstream,
    /// UCX's transport layer: active messages.
    UcxAmLat,
    /// UCX's upper layer: tagged messages.
    UcxTagLat,
    /// libfabric.
    FiPingpong,
}

/// The two ends of a raw test: device and address of each.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    pub(super) server: (String, IpAddr),
    pub(super) client: (String, IpAddr),
}

/// One test of a program.
#[derive(Debug, Clone, Copy)]
pub(super) struct Test {
    pub(super) program: Program,
    pub(super) size: usize,
    pub(super) messages: u64,
    pub(super) port: u16,
}

impl Program {
    /// The name for tables, which is the program's, with its kind of test where it has several.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::IbSendLat => "ib_send_lat",
            Self::IbSendBw => "ib_send_bw",
            Self::IbReadBw => "ib_read_bw",
            Self::Rstream => "rstream",
            Self::UcxAmLat => "ucx_perftest am_lat",
            Self::UcxTagLat => "ucx_perftest tag_lat",
            Self::FiPingpong => "fi_pingpong",
        }
    }

    /// What it belongs to.
    #[must_use]
    pub fn system(self) -> &'static str {
        match self {
            Self::IbSendLat | Self::IbSendBw | Self::IbReadBw => "perftest",
            Self::Rstream => "rsockets",
            Self::UcxAmLat | Self::UcxTagLat => "ucx",
            Self::FiPingpong => "libfabric",
        }
    }

    /// The package of Debian that has it.
    fn package(self) -> &'static str {
        match self {
            Self::IbSendLat | Self::IbSendBw | Self::IbReadBw => "perftest",
            Self::Rstream => "rdmacm-utils",
            Self::UcxAmLat | Self::UcxTagLat => "ucx-utils",
            Self::FiPingpong => "libfabric-bin",
        }
    }

    fn file(self) -> &'static str {
        self.name().split(' ').next().unwrap_or_default()
    }

    fn parser(self) -> Parser {
        match self {
            Self::IbSendLat => parse::perftest_latency,
            Self::IbSendBw | Self::IbReadBw => parse::perftest_bandwidth,
            Self::Rstream => parse::rsockets,
            Self::UcxAmLat | Self::UcxTagLat => parse::ucx,
            Self::FiPingpong => parse::libfabric,
        }
    }

    /// Why it cannot be run here; `None` if it is there.
    pub(super) fn missing(self) -> Option<String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let is_there = std::env::split_paths(&path).any(|folder| folder.join(self.file()).is_file());
        (!is_there).then(|| format!("{} is not installed: apt-get install {}", self.file(), self.package()))
    }

    /// Those that exchange addresses over TCP listen on a port that the kernel shows.
    fn listens_on_tcp(self) -> bool {
        self != Self::Rstream
    }

    /// The command of an end; `server` is where the other one is, for a client.
    fn command(self, test: &Test, ends: &Ends, is_client: bool) -> Command {
        let (device, own) = if is_client { &ends.client } else { &ends.server };
        let (server, size, count) =
            (ends.server.1.to_string(), test.size.to_string(), test.messages.to_string());
        let (own, port) = (own.to_string(), test.port.to_string());
        let peer: &[&str] = if is_client { &[&server] } else { &[] };
        let mut command = Command::new(self.file());
        match self {
            Self::IbSendLat | Self::IbSendBw | Self::IbReadBw => {
                command.args(["-F", "-d", device, "-s", &size, "-n", &count, "-p", &port]).args(peer)
            }
            Self::Rstream => {
                if is_client {
                    command.args(["-s", &server]);
                }
                // Without blocking: it polls, as the others do.
                command.args(["-b", &own, "-p", &port, "-S", &size, "-C", &count, "-T", "n"])
            }
            Self::UcxAmLat => {
                // Only very short messages can be passed by value.
                let layout = if test.size <= 64 { "short" } else { "bcopy" };
                command.env("UCX_NET_DEVICES", format!("{device}:1")).args(peer);
                command.args(["-x", "rc_verbs", "-d", &format!("{device}:1"), "-t", "am_lat", "-D", layout]);
                command.args(["-s", &size, "-n", &count, "-w", "50", "-p", &port])
            }
            Self::UcxTagLat => {
                command.env("UCX_NET_DEVICES", format!("{device}:1")).env("UCX_TLS", "rc_v").args(peer);
                command.args(["-t", "tag_lat", "-s", &size, "-n", &count, "-w", "50", "-p", &port])
            }
            Self::FiPingpong => {
                command.args(["-p", "verbs", "-e", "msg", "-d", device, "-I", &count, "-S", &size]);
                command.args([if is_client { "-P" } else { "-B" }, &port]).args(peer)
            }
        };
        command
    }
}

/// Runs a test, server and client where `layout` has them, and says what it found or why it found nothing.
///
/// # Errors
/// This process cannot be pinned, or reading from its children fails. A program that fails is not an error.
pub(super) fn run(test: &Test, ends: &Ends, layout: &Layout) -> Result<Result<Figures, String>, BenchError> {
    let deadline = Instant::now() + TEST_TIMEOUT;
    let start = |is_client, role| -> Result<Running, BenchError> {
        let _pinned = layout.enter(role)?;
        Running::start(test.program.command(test, ends, is_client), role)
    };
    let mut server = start(false, Role::Service)?;
    if !wait_until_ready(test) {
        return Ok(Err(format!("its server does not listen: {}", server.stop())));
    }
    let give_up = Instant::now() + START_TIMEOUT;
    loop {
        let mut client = start(true, Role::Client)?;
        let in_time = client.wait(deadline)?;
        let output = client.stop();
        if let Some(figures) = (test.program.parser())(&output) {
            return Ok(Ok(figures));
        }
        let can_retry = in_time && !test.program.listens_on_tcp() && Instant::now() < give_up;
        if !can_retry {
            let words = parse::last_words(&(output + &server.stop()));
            return Ok(Err(if in_time {
                words
            } else {
                format!("not done within {TEST_TIMEOUT:?}: {words}")
            }));
        }
        std::thread::sleep(BLIND_WAIT);
    }
}

/// Waits until a test's server can be connected to; false if it takes too long.
fn wait_until_ready(test: &Test) -> bool {
    if !test.program.listens_on_tcp() {
        std::thread::sleep(BLIND_WAIT);
        return true;
    }
    let give_up = Instant::now() + START_TIMEOUT;
    while Instant::now() < give_up {
        let lists =
            ["/proc/net/tcp", "/proc/net/tcp6"].map(|file| fs::read_to_string(file).unwrap_or_default());
        if lists.iter().any(|list| has_listener(list, test.port)) {
            return true;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    false
}

/// Whether the kernel's list of sockets (`proc(5)`) has one that listens on a port.
fn has_listener(list: &str, port: u16) -> bool {
    const LISTENS: &str = "0A";
    let ending = format!(":{port:04X}");
    list.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&ending)) && fields.nth(1) == Some(LISTENS)
    })
}

/// A program that runs; killed, by its id, and waited for when this is dropped.
struct Running {
    child: Child,
    output: Vec<u8>,
}

impl Running {
    fn start(mut command: Command, role: Role) -> Result<Self, BenchError> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = command.get_program().into();
        let child = command.spawn().map_err(|source| BenchError::Spawn { role, program, source })?;
        Ok(Self { child, output: Vec::new() })
    }

    /// Reads its output until it ends it; false if it does not by then. Sleeps meanwhile, so that nothing disturbs
    /// what is measured.
    fn wait(&mut self, deadline: Instant) -> Result<bool, BenchError> {
        let Some(output) = &mut self.child.stdout else { return Ok(true) };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut interest = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut interest, timeout).map_err(io::Error::from);
            if ready.map_err(BenchError::io("wait for a program"))? == 0 {
                return Ok(false);
            }
            let mut bytes = [0; 4096];
            let count = output.read(&mut bytes).map_err(BenchError::io("read a program's output"))?;
            if count == 0 {
                return Ok(true);
            }
            self.output.extend_from_slice(&bytes[..count]);
        }
    }

    /// Ends it, if it has not ended, and returns what it has printed.
    fn stop(&mut self) -> String {
        self.end();
        // What it has printed is in the pipes; nobody else holds their other ends.
        if let Some(output) = &mut self.child.stdout {
            let _ = output.read_to_end(&mut self.output);
        }
        if let Some(errors) = &mut self.child.stderr {
            let _ = errors.read_to_end(&mut self.output);
        }
        String::from_utf8_lossy(&self.output).into_owned()
    }

    fn end(&mut self) {
        // Fails only if it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_by_its_port_and_state() {
        let list = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n\
            0: 00000000:4853 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n\
            1: 0100007F:4854 0100007F:0016 01 00000000:00000000 00:00000000 00000000     0\n";
        assert!(has_listener(list, 0x4853));
        assert!(!has_listener(list, 0x4854), "it is connected");
        assert!(!has_listener(list, 0x853));
    }

    #[test]
    fn commands_name_device_size_count_port_and_server() {
        let ends = Ends {
            server: ("rxe0".to_owned(), IpAddr::from([10, 77, 0, 1])),
            client: ("rxe1".to_owned(), IpAddr::from([10, 77, 0, 2])),
        };
        let words = |program: Program, size, is_client| {
            let test = Test { program, size, messages: 500, port: 19_000 };
            let command = program.command(&test, &ends, is_client);
            let arguments: Vec<_> =
                command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
            format!("{} {}", command.get_program().to_string_lossy(), arguments.join(" "))
        };
        let client = words(Program::IbSendLat, 64, true);
        assert_eq!(client, "ib_send_lat -F -d rxe1 -s 64 -n 500 -p 19000 10.77.0.1");
        let server = words(Program::IbSendLat, 64, false);
        assert_eq!(server, "ib_send_lat -F -d rxe0 -s 64 -n 500 -p 19000");
        assert!(words(Program::UcxAmLat, 64, true).contains("-D short"));
        assert!(words(Program::UcxAmLat, 4096, true).contains("-D bcopy"));
        let client = words(Program::FiPingpong, 64, true);
        assert_eq!(client, "fi_pingpong -p verbs -e msg -d rxe1 -I 500 -S 64 -P 19000 10.77.0.1");
        assert!(words(Program::Rstream, 64, true).starts_with("rstream -s 10.77.0.1 -b 10.77.0.2"));
    }

    #[test]
    fn a_program_that_hangs_is_ended_in_time() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo begun; exec sleep 100"]);
        let mut running = Running::start(command, Role::Client).unwrap();
        let begun = Instant::now();
        assert!(!running.wait(begun + Duration::from_millis(50)).unwrap());
        assert_eq!(running.stop(), "begun\n");
        assert!(begun.elapsed() < Duration::from_secs(50));
    }
}
