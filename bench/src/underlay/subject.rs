//! One engine and one way of polling, as a subject: its processes and its client.

use std::fs::OpenOptions;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
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
    /// Lies there while the broker runs.
    _configuration: Option<Configuration>,
}

impl UnderlaySubject {
    pub(super) fn open(setting: &Setting<'_>, engine: Engine, driver: Driver) -> Result<Self, BenchError> {
        let mut children = Vec::new();
        let mut configuration = None;
        let address = match (setting.plan.connect, setting.plan.topology) {
            (Some(address), _) => address.to_string(),
            (None, Topology::Direct) => start_service(setting, engine, None, &mut children)?,
            (None, Topology::Broker) => {
                let written = Configuration::write(engine, setting.plan.wait)?;
                let broker = start_broker(setting, &written.file, &mut children)?;
                configuration = Some(written);
                start_service(setting, engine, Some(&broker), &mut children)?;
                broker
            }
        };
        let client = BenchClient::connect(&Address::tcp(address), engine, driver, setting.plan)?;
        Ok(Self { engine, driver, client, children, _configuration: configuration })
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
    configuration: &Path,
    children: &mut Vec<ChildProcess>,
) -> Result<String, BenchError> {
    // Both programs are built together and lie side by side.
    let program = setting.program.with_file_name("underlay-broker");
    if !program.exists() {
        return Err(BenchError::NoBrokerProgram { program });
    }
    let mut command = Command::new(program);
    command.arg("--config").arg(configuration).arg("--exit-with-stdin");
    if std::env::var_os("RUST_LOG").is_none() {
        // Its ordinary log has no place in a report of figures.
        command.env("RUST_LOG", "warn");
    }
    let (broker, line) = ChildProcess::start(command, Role::Broker, &setting.layout)?;
    children.push(broker);
    let place = line.split_once("tcp://").map(|(_, rest)| rest.split(' ').next().unwrap_or(rest));
    place.map(str::to_owned).ok_or_else(|| unexpected("underlay-broker", &line))
}

/// The broker's configuration, in a file that is removed with this.
struct Configuration {
    file: PathBuf,
}

impl Configuration {
    fn write(engine: Engine, wait: Wait) -> Result<Self, BenchError> {
        // The folder is everybody's: under a name that nobody can guess, a file that was not there before.
        let random = RandomState::new().build_hasher().finish();
        let file =
            std::env::temp_dir().join(format!("underlay-bench-{}-{random:016x}.toml", std::process::id()));
        let text = format!(
            "[broker]\nname = \"bench\"\nwait = \"{}\"\n\n[[listener]]\ntransport = \"tcp\"\n\
             address = \"127.0.0.1:0\"\nengine = \"{}\"\n\n[[queue]]\nname = \"{}\"\n\n\
             [limits]\nidle_timeout_ms = {}\n",
            wait.name(),
            engine.name(),
            super::DESTINATION,
            super::IDLE_TIMEOUT_MS,
        );
        let failed = || BenchError::io("write the broker's configuration");
        let mut opened =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file).map_err(failed())?;
        // From here on it is removed, even if it cannot be filled.
        let configuration = Self { file };
        opened.write_all(text.as_bytes()).map_err(failed())?;
        Ok(configuration)
    }
}

impl Drop for Configuration {
    fn drop(&mut self) {
        // Left behind it would cost a few bytes in the folder for temporary files.
        let _ = std::fs::remove_file(&self.file);
    }
}

fn unexpected(system: &str, line: &str) -> BenchError {
    failed(system)(format!("it said {line:?}, not where it listens").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_valid_has_a_name_of_its_own_and_is_gone_with_its_run() {
        let of = |engine| Configuration::write(engine, Wait::Adaptive).unwrap();
        let (one, other) = (of(Engine::Epoll), of(Engine::Epoll));
        assert_ne!(one.file, other.file);
        let config = underlay_broker::Config::read(&one.file).unwrap();
        assert_eq!(config.driver_config().connection.parameters.idle_timeout_ms, 600_000);
        let file = one.file.clone();
        drop(one);
        assert!(!file.exists() && other.file.exists());
    }
}
