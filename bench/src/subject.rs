//! The thing under test.
//!
//! A [`Subject`] is one system in one configuration: a client in this process and, unless they run
//! elsewhere, a broker and a service in processes of their own. The orchestrator only ever asks it to
//! prepare for a size and to do a round; it measures CPU time itself, from outside, by the processes
//! that the subject names.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::error::BenchError;
use crate::plan::RoundPlan;

/// One system in one configuration, ready to exchange messages.
///
/// Dropping it ends its processes and waits for them.
pub trait Subject {
    /// What it is, for the reports. Constant over its life.
    fn describe(&self) -> Description;

    /// Gets ready for rounds with bodies of `size` bytes. May allocate and block; not measured.
    ///
    /// # Errors
    /// The system refuses this size, or is gone.
    fn prepare(&mut self, size: usize) -> Result<(), BenchError>;

    /// Does one round: sends `plan.messages` requests numbered from `plan.first_number` on, at
    /// `plan.pace`, checks every reply with [`crate::payload`], and records each round-trip time in
    /// nanoseconds. Latency counts from the start of the send in a closed loop and from the intended
    /// send time in an open one. Returns when the last reply is in. Should not allocate.
    ///
    /// # Errors
    /// A reply is missing, late beyond [`crate::plan::REPLY_TIMEOUT`] or wrong; a process is gone.
    fn round(&mut self, plan: &RoundPlan, histogram: &mut Histogram<u64>)
    -> Result<RoundOutcome, BenchError>;

    /// The processes whose CPU time counts, the client's own included. Those that run on another
    /// machine are left out.
    fn processes(&self) -> Vec<(Role, Pid)>;
}

/// A process id.
pub type Pid = u32;

/// What a process does in the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sends requests; this process.
    Client,
    /// Broker, or relay: stands between the two others.
    Broker,
    /// Answers each request with its own body.
    Service,
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Client => "client",
            Self::Broker => "broker",
            Self::Service => "service",
        })
    }
}

/// What a subject is, for the reports.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Description {
    /// Under test, or what it is compared with.
    pub system: System,
    /// The wire, e.g. `tcp`.
    pub wire: String,
    /// How the wire is driven: `io_uring` or `epoll`; for a floor `blocking` or `yield`.
    pub engine: String,
    /// Who polls the client's driver: `own` or `background`. `None` for a floor, which has none.
    pub driver: Option<String>,
}

impl Description {
    /// A short name for tables and legends, unique within a run.
    #[must_use]
    pub fn name(&self) -> String {
        system_name(self.system, &self.engine, self.driver.as_deref())
    }
}

/// `underlay io_uring own`, `floor blocking`.
pub(crate) fn system_name(system: System, engine: &str, driver: Option<&str>) -> String {
    match driver {
        Some(driver) => format!("{system} {engine} {driver}"),
        None => format!("{system} {engine}"),
    }
}

/// Which side of the comparison a subject stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// The system under test.
    Underlay,
    /// Bare relays over plain sockets.
    Floor,
}

impl fmt::Display for System {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Underlay => "underlay",
            Self::Floor => "floor",
        })
    }
}

/// What a round amounted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundOutcome {
    /// Replies received and checked.
    pub messages: u64,
    /// From the first send to the last reply.
    pub elapsed: Duration,
}
