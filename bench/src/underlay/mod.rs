//! The system under test: a client in this process, broker and service in processes of their own.
//!
//! It uses nothing of Underlay but what any application can: the client with its reply destination, the
//! service, and the broker as the program that users run. For each engine and each way of polling the
//! client's driver there is a system of its own, so that they can be compared in one run.

mod client;
pub mod service;
mod subject;

use crate::error::BenchError;
use crate::plan::Engine;
use crate::roundtrip::Setting;
use crate::subject::Subject;
use subject::UnderlaySubject;
use underlay::backend::tcp::EngineChoice;
use underlay::driver::DriverConfig;

/// The destination at which the service answers.
pub const DESTINATION: &str = "echo";

/// Starts and connects every system that a plan asks for.
///
/// # Errors
/// A process cannot be started, or a connection does not come up.
pub fn open(setting: &Setting<'_>) -> Result<Vec<Box<dyn Subject>>, BenchError> {
    let mut subjects: Vec<Box<dyn Subject>> = Vec::new();
    for &engine in &setting.plan.engines {
        for &driver in &setting.plan.drivers {
            subjects.push(Box::new(UnderlaySubject::open(setting, engine, driver)?));
        }
    }
    Ok(subjects)
}

/// A driver on this engine, and nothing else than that.
fn driver_config(engine: Engine) -> DriverConfig {
    let mut config = DriverConfig::default();
    config.tcp.engine = match engine {
        Engine::IoUring => EngineChoice::IoUring,
        Engine::Epoll => EngineChoice::Epoll,
    };
    config
}

/// Underlay's own errors, by the name of what failed.
fn failed(system: &str) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> BenchError + use<'_> {
    move |source| BenchError::Subject { system: system.to_owned(), source }
}
