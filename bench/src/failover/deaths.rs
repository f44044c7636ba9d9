//! A broker dies (`kill -9`), and calls go on by another.

use std::process::Command;
use std::time::Duration;

use super::client::WatchedClient;
use super::report::Case;
use super::{Setting, outage_case, say};
use crate::child::ChildProcess;
use crate::error::BenchError;
use crate::plan::Wire;
use crate::subject::Role;
use crate::underlay::broker::{ANY_PORT, Configuration, start_broker};
use crate::underlay::unexpected;

/// How soon a client goes back to the better broker; it bounds the time between two deaths only.
const RETURN_AFTER: Duration = Duration::from_millis(200);

/// Round trips before each death, so that it strikes a client and brokers that are at work.
const ROUND_TRIPS: u32 = 200;

/// Kills the broker that is called so often as was asked for, and starts it again each time.
pub(super) fn measure(setting: &Setting<'_>, standby: bool) -> Result<Case, BenchError> {
    let variant = if standby { "standby session" } else { "no session elsewhere" };
    let mut first = Broker::start(setting, ANY_PORT)?;
    let second = Broker::start(setting, ANY_PORT)?;
    let _service = start_service(setting, &[&first.place, &second.place])?;
    let mut client = WatchedClient::connect(setting, &[&first.place, &second.place], |config| {
        config.standby = standby;
        config.return_after = RETURN_AFTER;
        config.reconnect_max = RETURN_AFTER;
        config.driver.session.reconnect_max = RETURN_AFTER;
    })?;
    client.call_until(|heard| heard.connected >= if standby { 2 } else { 1 })?;
    let mut outages = Vec::new();
    for death in 1..=setting.options.count {
        for _ in 0..ROUND_TRIPS {
            client.round_trip()?;
        }
        let before = client.heard();
        let kill = || first.process.kill().map_err(BenchError::io("kill a broker"));
        outages.push(client.time_to_answer(kill, |heard| heard.failed_over > before.failed_over)?);
        let place = first.place.clone();
        drop(first);
        first = Broker::start_again(setting, &place)?;
        // As it was before: calls go by the first, and with the other there is a session or none.
        client.call_until(|heard| {
            let is_left = standby || heard.left > before.left;
            heard.returned > before.returned && heard.connected > before.connected && is_left
        })?;
        say(&format!("broker killed, {variant}"), death, setting.options.count);
    }
    Ok(outage_case("death", variant, &outages))
}

/// A broker in a process of its own.
pub(super) struct Broker {
    process: ChildProcess,
    pub(super) place: String,
    _configuration: Configuration,
}

impl Broker {
    pub(super) fn start(setting: &Setting<'_>, address: &str) -> Result<Self, BenchError> {
        let options = setting.options;
        let configuration = Configuration::write(Wire::Tcp, address, options.engine, options.wait)?;
        let (process, place) = start_broker(&setting.program, &setting.layout, &configuration)?;
        Ok(Self { process, place, _configuration: configuration })
    }

    /// Where one was killed a moment ago. The kernel closes what io_uring had open after the process is gone, and until
    /// then its port is in use.
    fn start_again(setting: &Setting<'_>, address: &str) -> Result<Self, BenchError> {
        const TRIES: u32 = 50;
        const PAUSE: Duration = Duration::from_millis(20);
        for _ in 1..TRIES {
            match Self::start(setting, address) {
                // It has said why on standard error, and has ended.
                Err(BenchError::NotReady { .. }) => std::thread::sleep(PAUSE),
                started => return started,
            }
        }
        Self::start(setting, address)
    }
}

/// Starts a service that is attached to these brokers.
pub(super) fn start_service(setting: &Setting<'_>, brokers: &[&str]) -> Result<ChildProcess, BenchError> {
    let mut command = Command::new(&setting.program);
    command.args(["service", "--exit-with-stdin", "--connect", &brokers.join(",")]);
    command.args(["--wait", setting.options.wait.name(), "--engine", setting.options.engine.name()]);
    let (service, line) = ChildProcess::start(command, Role::Service, &setting.layout)?;
    if line.starts_with("ready ") { Ok(service) } else { Err(unexpected("service", &line)) }
}
