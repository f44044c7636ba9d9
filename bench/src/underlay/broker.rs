//! The broker of a run: the program that users run, and its configuration.

use std::fs::OpenOptions;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use underlay::backend::tcp::EngineChoice;

use super::unexpected;
use crate::child::ChildProcess;
use crate::error::BenchError;
use crate::placement::Layout;
use crate::plan::{Wait, Wire};
use crate::subject::Role;

/// Where a broker listens that may listen anywhere.
pub(crate) const ANY_PORT: &str = "127.0.0.1:0";

/// Starts a broker, whose program lies beside this one, and says where it listens.
///
/// # Errors
/// It is not there, or does not come up.
pub(crate) fn start_broker(
    this_program: &Path,
    layout: &Layout,
    configuration: &Configuration,
) -> Result<(ChildProcess, String), BenchError> {
    // Both programs are built together and lie side by side.
    let program = this_program.with_file_name("underlay-broker");
    if !program.exists() {
        return Err(BenchError::NoBrokerProgram { program });
    }
    let mut command = Command::new(program);
    command.arg("--config").arg(&configuration.file).arg("--exit-with-stdin");
    if std::env::var_os("RUST_LOG").is_none() {
        // Its ordinary log has no place in a report of figures.
        command.env("RUST_LOG", "warn");
    }
    let (broker, line) = ChildProcess::start(command, Role::Broker, layout)?;
    let place = line.split_once("://").map(|(_, rest)| rest.split(' ').next().unwrap_or(rest));
    let place = place.map(str::to_owned).ok_or_else(|| unexpected("underlay-broker", &line))?;
    Ok((broker, place))
}

/// The broker's configuration, in a file that is removed with this.
pub(crate) struct Configuration {
    file: PathBuf,
}

impl Configuration {
    /// Of a broker at `address` of this wire with the one queue of a run.
    pub(crate) fn write(
        wire: Wire,
        address: &str,
        engine: impl Into<EngineChoice>,
        wait: Wait,
    ) -> Result<Self, BenchError> {
        // The folder is everybody's: under a name that nobody can guess, a file that was not there before.
        let random = RandomState::new().build_hasher().finish();
        let file =
            std::env::temp_dir().join(format!("underlay-bench-{}-{random:016x}.toml", std::process::id()));
        let text = format!(
            "[broker]\nname = \"bench\"\nwait = \"{}\"\n\n[[listener]]\ntransport = \"{}\"\n\
             address = \"{address}\"\nengine = \"{}\"\n\n[[queue]]\nname = \"{}\"\n\n\
             [limits]\nidle_timeout_ms = {}\n",
            wait.name(),
            wire.name(),
            engine_name(engine.into()),
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

/// As the configuration has it.
fn engine_name(engine: EngineChoice) -> &'static str {
    match engine {
        EngineChoice::Auto => "auto",
        EngineChoice::IoUring => "io_uring",
        EngineChoice::Epoll => "epoll",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Engine;

    #[test]
    fn a_configuration_is_valid_has_a_name_of_its_own_and_is_gone_with_its_run() {
        let of = |engine| Configuration::write(Wire::Tcp, ANY_PORT, engine, Wait::Adaptive).unwrap();
        let (one, other) = (of(Engine::Epoll), of(Engine::Epoll));
        assert_ne!(one.file, other.file);
        let config = underlay_broker::Config::read(&one.file).unwrap();
        assert_eq!(config.driver_config().connection.parameters.idle_timeout_ms, 600_000);
        let file = one.file.clone();
        drop(one);
        assert!(!file.exists() && other.file.exists());
    }
}
