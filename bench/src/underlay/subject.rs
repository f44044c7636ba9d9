//! One engine and one way of polling, as a subject: its processes and its client.

use std::net::SocketAddr;
use std::process::Command;

use hdrhistogram::Histogram;

use super::broker::{ANY_PORT, Configuration, start_broker};
use super::client::BenchClient;
use super::unexpected;
use crate::child::ChildProcess;
use crate::error::BenchError;
use crate::plan::{Driver, Engine, RoundPlan, Topology, Wire};
use crate::rdma::RdmaEnds;
use crate::roundtrip::Setting;
use crate::subject::{Description, Pid, Role, RoundOutcome, Subject, System};

/// The system under test in one configuration.
pub(super) struct UnderlaySubject {
    engine: Engine,
    driver: Driver,
    client: BenchClient,
    children: Vec<ChildProcess>,
    /// Lies there while the broker runs.
    _configuration: Option<Configuration>,
}

impl UnderlaySubject {
    pub(super) fn open(setting: &Setting<'_>, engine: Engine, driver: Driver) -> Result<Self, BenchError> {
        let mut children = Vec::new();
        let mut configuration = None;
        let (wire, ends) = (engine.wire(), ends(setting, engine));
        let address = match (setting.plan.connect, setting.plan.topology) {
            (Some(address), _) => address.to_string(),
            (None, Topology::Direct) => start_service(setting, engine, None, &mut children)?,
            (None, Topology::Broker) => {
                let written = Configuration::write(wire, &any_port(ends), engine, setting.plan.wait)?;
                let (broker, place) = start_broker(&setting.program, &setting.layout, &written)?;
                children.push(broker);
                configuration = Some(written);
                start_service(setting, engine, Some(&place), &mut children)?;
                place
            }
        };
        let source = ends.and_then(|ends| ends.connecting);
        let client = BenchClient::connect(&wire.at(address), source, engine, driver, setting.plan)?;
        Ok(Self { engine, driver, client, children, _configuration: configuration })
    }
}

impl Subject for UnderlaySubject {
    fn describe(&self) -> Description {
        Description {
            system: System::Underlay,
            wire: self.engine.wire().name().to_owned(),
            engine: self.engine.name().to_owned(),
            driver: Some(self.driver.name().to_owned()),
        }
    }

    fn prepare(&mut self, size: usize) -> Result<(), BenchError> {
        self.client.prepare(size)
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

/// Where the ends are of a system that runs over RDMA.
fn ends(setting: &Setting<'_>, engine: Engine) -> Option<RdmaEnds> {
    setting.rdma.filter(|_| engine.wire() == Wire::Rdma)
}

/// Where something is to listen at any port: on loopback, or at the address of an RDMA device.
fn any_port(ends: Option<RdmaEnds>) -> String {
    ends.map_or_else(|| ANY_PORT.to_owned(), |ends| SocketAddr::new(ends.listening, 0).to_string())
}

/// Starts the service and returns where it listens, if it does.
fn start_service(
    setting: &Setting<'_>,
    engine: Engine,
    broker: Option<&str>,
    children: &mut Vec<ChildProcess>,
) -> Result<String, BenchError> {
    let mut command = Command::new(&setting.program);
    let ends = ends(setting, engine);
    command.args(["service", "--exit-with-stdin", "--wire", engine.wire().name()]);
    command.args(["--wait", setting.plan.wait.name()]);
    if engine != Engine::Verbs {
        command.args(["--engine", engine.name()]);
    }
    match broker {
        Some(broker) => command.args(["--connect", broker]),
        None => command.args(["--listen", &any_port(ends)]),
    };
    if let Some(source) = ends.and_then(|ends| ends.connecting).filter(|_| broker.is_some()) {
        command.args(["--rdma-source", &source.to_string()]);
    }
    let (service, line) = ChildProcess::start(command, Role::Service, &setting.layout)?;
    children.push(service);
    line.strip_prefix("ready ").map(str::to_owned).ok_or_else(|| unexpected("service", &line))
}
