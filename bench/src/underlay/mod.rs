//! The system under test: a client in this process, broker and service in processes of their own.
//!
//! It uses nothing of Underlay but what any application can: the client with its reply destination, the
//! service, and the broker as the program that users run. For each engine and each way of polling the
//! client's driver there is a system of its own, so that they can be compared in one run.

mod client;
pub mod service;
mod subject;

use crate::error::BenchError;
use crate::payload::{Payload, WINDOWS};
use crate::plan::Engine;
use crate::roundtrip::Setting;
use crate::subject::Subject;
use subject::UnderlaySubject;
use underlay::backend::tcp::EngineChoice;
use underlay::driver::DriverConfig;
use underlay::pool::{Body, Pool, PoolError};

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
pub(crate) fn driver_config(engine: Engine) -> DriverConfig {
    let mut config = DriverConfig::default();
    config.tcp.engine = match engine {
        Engine::IoUring => EngineChoice::IoUring,
        Engine::Epoll => EngineChoice::Epoll,
    };
    config
}

/// The bodies of a size, made once in the pool's buffers to be shared: one pattern, of which each body is a window, so
/// that as many bytes are touched as by the floor.
pub(crate) fn bodies(payload: &Payload, pool: &mut Pool) -> Result<Vec<Body>, BenchError> {
    let failed = |error: PoolError| failed("client")(error.into());
    let pattern = pool.copy_body(payload.pattern()).map_err(failed)?;
    let window = |number| {
        let mut body = Body::new();
        for segment in pattern.slices(Payload::offset(number), payload.size()) {
            body.push(segment, pool)?;
        }
        Ok(body)
    };
    (0..WINDOWS).map(window).collect::<Result<_, _>>().map_err(failed)
}

/// Underlay's own errors, by the name of what failed.
pub(crate) fn failed(
    system: &str,
) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> BenchError + use<'_> {
    move |source| BenchError::Subject { system: system.to_owned(), source }
}
