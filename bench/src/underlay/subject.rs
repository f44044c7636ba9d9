//! One engine and one way of polling, as a subject: its processes and its client.

use std::path::PathBuf;
use std::process::Command;

use hdrhistogram::Histogram;
use underlay::driver::Address;

use super::client::BenchClient;
use super::failed;
use crate::child::ChildProcess;
use crate::error::BenchError;
use crate::plan::{Driver, Engine, RoundPlan, Topology, Wait};
use crate::roundtrip::Setting;
use crate::subject::{Description, Pid, Role, RoundOutcome, Subject, System};

/// The system under test in one configuration.
pub(super) struct UnderlaySubject {
    engine: Engine,
    driver: Driver,
    client: BenchClient,
    children: Vec<ChildProcess>,
    /// Where the broker's configuration lies while it runs.
    configuration: Option<PathBuf>,
}

impl UnderlaySubject {
    pub(super) fn open(setting: &Setting<'_>, engine: Engine, driver: Driver) -> Result<Self, BenchError> {
        let mut children = Vec::new();
        let mut configuration = None;
        let address = match (setting.plan.connect, setting.plan.topology) {
            (Some(address), _) => address.to_string(),
            (None, Topology::Direct) => start_service(setting, engine, None, &mut children)?,
            (None, Topology::Broker) => {
                let file = write_configuration(engine, driver, setting.plan.wait)?;
                let broker = start_broker(setting, &file, &mut children);
                configuration = Some(file);
                let broker = broker?;
                start_service(setting, engine, Some(&broker), &mut children)?;
                broker
            }
        };
        let client = BenchClient::connect(&Address::tcp(address), engine, driver, setting.plan.wait)?;
        Ok(Self { engine, driver, client, children, configuration })
    }
}

impl Subject for UnderlaySubject {
    fn describe(&self) -> Description {
        Description {
            system: System::Underlay,
            wire: "tcp".to_owned(),
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

impl Drop for UnderlaySubject {
    fn drop(&mut self) {
        if let Some(file) = &self.configuration {
            // Left behind it would cost a few bytes in the folder for temporary files.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Starts the service and returns where it listens, if it does.
fn start_service(
    setting: &Setting<'_>,
    engine: Engine,
    broker: Option<&str>,
    children: &mut Vec<ChildProcess>,
) -> Result<String, BenchError> {
    let mut command = Command::new(&setting.program);
    command.args(["service", "--exit-with-stdin", "--engine", engine.name()]);
    command.args(["--wait", setting.plan.wait.name()]);
    match broker {
        Some(broker) => command.args(["--connect", broker]),
        None => command.args(["--listen", "127.0.0.1:0"]),
    };
    let (service, line) = ChildProcess::start(command, Role::Service, &setting.layout)?;
    children.push(service);
    line.strip_prefix("ready ").map(str::to_owned).ok_or_else(|| unexpected("service", &line))
}

/// Starts the broker and returns where it listens.
fn start_broker(
    setting: &Setting<'_>,
    configuration: &std::path::Path,
    children: &mut Vec<ChildProcess>,
) -> Result<String, BenchError> {
    // Both programs are built together and lie side by side.
    let program = setting.program.with_file_name("underlay-broker");
    let mut command = Command::new(program);
    command.arg("--config").arg(configuration).arg("--exit-with-stdin");
    let (broker, line) = ChildProcess::start(command, Role::Broker, &setting.layout)?;
    children.push(broker);
    let place = line.split_once("tcp://").map(|(_, rest)| rest.split(' ').next().unwrap_or(rest));
    place.map(str::to_owned).ok_or_else(|| unexpected("underlay-broker", &line))
}

fn write_configuration(engine: Engine, driver: Driver, wait: Wait) -> Result<PathBuf, BenchError> {
    let name = format!("underlay-bench-{}-{}-{}.toml", std::process::id(), engine.name(), driver.name());
    let file = std::env::temp_dir().join(name);
    let text = format!(
        "[broker]\nname = \"bench\"\nwait = \"{}\"\n\n[[listener]]\ntransport = \"tcp\"\naddress = \"127.0.0.1:0\"\n\
         engine = \"{}\"\n\n[[queue]]\nname = \"{}\"\n",
        wait.name(),
        engine.name(),
        super::DESTINATION,
    );
    std::fs::write(&file, text).map_err(BenchError::io("write the broker's configuration"))?;
    Ok(file)
}

fn unexpected(system: &str, line: &str) -> BenchError {
    failed(system)(format!("it said {line:?}, not where it listens").into())
}
