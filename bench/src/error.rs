//! What can go wrong in a benchmark.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::floor::framing::FramingError;
use crate::payload::PayloadMismatch;
use crate::subject::Role;

/// Why a run could not be planned, carried out or reported. Each message names the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// An option has a value that is not allowed, alone or beside another.
    #[error("--{option} {value}: {limit}; {way_out}")]
    Option {
        /// Name of the option, without dashes.
        option: &'static str,
        /// The value given.
        value: String,
        /// The limit that it breaks.
        limit: String,
        /// What to do instead.
        way_out: String,
    },
    /// The options leave no system to measure.
    #[error(
        "nothing to measure: no system is left by these options; choose an --engine that this host allows, such as epoll, or add --floor"
    )]
    NothingToMeasure,
    /// A process of the run could not be started.
    #[error("cannot start the {role} ({program}): {source}")]
    Spawn {
        /// What it was to be.
        role: Role,
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The broker's program is not where it is looked for.
    #[error(
        "there is no {}: it is looked for beside this program; build both with \
         `cargo build --release -p underlay-broker -p underlay-bench`, and run target/release/underlay-bench",
        program.display()
    )]
    NoBrokerProgram {
        /// Where it was looked for.
        program: PathBuf,
    },
    /// A process of the run did not say that it is ready.
    #[error(
        "the {role} did not print its ready line within {waited:?} (it printed {printed:?}): see its messages above"
    )]
    NotReady {
        /// Which process.
        role: Role,
        /// How long it had.
        waited: Duration,
        /// What it printed so far.
        printed: String,
    },
    /// An address does not answer.
    #[error("cannot connect to {address}: {source}; check that a relay or service listens there")]
    Connect {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// An address cannot be listened at.
    #[error("cannot listen at {address}: {source}; use another port, or port 0 for any free one")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// An operation of the system failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The other end closed its connection in the middle of a round.
    #[error(
        "the connection was closed after {received} of {expected} replies: see the messages of broker and service"
    )]
    Closed {
        /// Replies received in this round.
        received: u64,
        /// Replies expected in this round.
        expected: u64,
    },
    /// A reply did not come.
    #[error("no reply to message {number} within {waited:?}: broker or service is stuck or gone")]
    NoReply {
        /// Number of the message.
        number: u64,
        /// How long was waited.
        waited: Duration,
    },
    /// A reply was not what was sent.
    #[error(transparent)]
    Payload(#[from] PayloadMismatch),
    /// A reply answers another message than the one whose turn it was.
    #[error("reply answers message {got} instead of {expected}: replies must come in order")]
    OutOfOrder {
        /// Number whose turn it was.
        expected: u64,
        /// Number that came.
        got: u64,
    },
    /// Bytes that are no message of the floor.
    #[error(transparent)]
    Framing(#[from] FramingError),
    /// The CPU clock of a process cannot be read.
    #[error("cannot read the CPU clock of the {role} (pid {pid}): {source}; has it exited?")]
    CpuClock {
        /// Which process.
        role: Role,
        /// Its process id.
        pid: u32,
        /// Why.
        source: io::Error,
    },
    /// A thread cannot be pinned.
    #[error(
        "cannot pin to core {core}: {source}; use --placement unpinned, or allow the core (taskset, cpuset)"
    )]
    Pin {
        /// The core.
        core: usize,
        /// Why.
        source: io::Error,
    },
    /// A report cannot be written.
    #[error("cannot write {}: {reason}", file.display())]
    Report {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// The system under test failed in its own way.
    #[error("{system}: {source}")]
    Subject {
        /// Name of the system.
        system: String,
        /// Its own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl BenchError {
    /// Refuses the value of an option: the limit that it breaks, and the way out.
    pub(crate) fn refuse(
        option: &'static str,
        value: impl ToString,
        limit: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Self {
        Self::Option { option, value: value.to_string(), limit: limit.into(), way_out: way_out.into() }
    }

    /// Wraps an I/O error with what was being done. For `map_err`.
    pub fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}
