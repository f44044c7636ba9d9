//! A floor as a subject: relay and service started as processes of their own, or found elsewhere.

use std::net::SocketAddr;
use std::process::Command;

use hdrhistogram::Histogram;

use super::client::FloorClient;
use super::waiting::Waiting;
use crate::child::ChildProcess;
use crate::error::BenchError;
use crate::plan::{RoundPlan, Topology};
use crate::roundtrip::Setting;
use crate::subject::{Description, Pid, Role, RoundOutcome, Subject, System};

/// One way of waiting, through a relay or direct.
#[derive(Debug)]
pub struct FloorSubject {
    waiting: Waiting,
    client: FloorClient,
    children: Vec<ChildProcess>,
}

impl FloorSubject {
    /// Starts service and, unless the topology is direct, relay, and connects to them; or, where the
    /// plan says that this floor runs elsewhere, only connects.
    ///
    /// # Errors
    /// A process cannot be started, or nothing listens.
    pub fn open(setting: &Setting<'_>, waiting: Waiting) -> Result<Self, BenchError> {
        let mut children = Vec::new();
        let elsewhere = setting.plan.floors.iter().find(|floor| floor.waiting == waiting);
        let address = match elsewhere.and_then(|floor| floor.address) {
            Some(address) => address,
            None => start(setting, waiting, &mut children)?,
        };
        let client = FloorClient::connect(address, waiting, setting.plan.pace.is_one_at_a_time())?;
        Ok(Self { waiting, client, children })
    }
}

impl Subject for FloorSubject {
    fn describe(&self) -> Description {
        Description {
            system: System::Floor,
            wire: "tcp".to_owned(),
            engine: self.waiting.name().to_owned(),
            driver: None,
        }
    }

    fn prepare(&mut self, size: usize) -> Result<(), BenchError> {
        self.client.prepare(size);
        Ok(())
    }

    fn round(
        &mut self,
        plan: &RoundPlan,
        histogram: &mut Histogram<u64>,
    ) -> Result<RoundOutcome, BenchError> {
        self.client.round(plan, histogram)
    }

    fn processes(&self) -> Vec<(Role, Pid)> {
        let client = (Role::Client, std::process::id());
        std::iter::once(client).chain(self.children.iter().map(ChildProcess::identity)).collect()
    }
}

/// Starts the processes of a floor and returns the address for the client.
fn start(
    setting: &Setting<'_>,
    waiting: Waiting,
    children: &mut Vec<ChildProcess>,
) -> Result<SocketAddr, BenchError> {
    let mut service = Command::new(&setting.program);
    service.args(["floor-service", "--waiting", waiting.name()]);
    if let Some(number) = setting.plan.corrupt {
        service.args(["--corrupt", &number.to_string()]);
    }
    let at_service = start_one(service, Role::Service, setting, children)?;
    if setting.plan.topology == Topology::Direct {
        return Ok(at_service);
    }
    let mut relay = Command::new(&setting.program);
    relay.args(["floor-relay", "--waiting", waiting.name(), "--service", &at_service.to_string()]);
    if setting.plan.pace.is_one_at_a_time() {
        relay.arg("--alternate");
    }
    start_one(relay, Role::Broker, setting, children)
}

fn start_one(
    command: Command,
    role: Role,
    setting: &Setting<'_>,
    children: &mut Vec<ChildProcess>,
) -> Result<SocketAddr, BenchError> {
    let (child, line) = ChildProcess::start(command, role, &setting.layout)?;
    let address = line.strip_prefix("ready ").and_then(|address| address.parse().ok());
    let address =
        address.ok_or(BenchError::NotReady { role, waited: crate::child::READY_TIMEOUT, printed: line })?;
    children.push(child);
    Ok(address)
}
