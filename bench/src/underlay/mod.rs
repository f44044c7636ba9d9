//! The system under test: a client in this process, broker and service in processes of their own.
//!
//! It uses nothing of Underlay but what any application can: the client with its reply destination, the
//! service, and the broker as the program that users run. For each engine and each way of polling the
//! client's driver there is a system of its own, so that they can be compared in one run.

pub(crate) mod broker;
mod client;
pub mod service;
mod subject;

use crate::error::BenchError;
use crate::payload::{Payload, WINDOWS};
use crate::plan::{Engine, Wait};
use crate::roundtrip::Setting;
use crate::subject::Subject;
use subject::UnderlaySubject;
use underlay::backend::tcp::{EngineChoice, OpenError, TcpConfig, TcpWire};
use underlay::driver::{DriverConfig, WaitMode};
use underlay::pool::{Body, Pool, PoolConfig, PoolError};

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

/// How long a system may wait for its turn before its connections are given up, in milliseconds: a client whose
/// driver is polled by its own thread says nothing while other systems have theirs. Ten minutes.
const IDLE_TIMEOUT_MS: u32 = 600_000;

/// A driver on this engine that waits so, and nothing else than that.
pub(crate) fn driver_config(engine: impl Into<EngineChoice>, wait: Wait) -> DriverConfig {
    let mut config = DriverConfig::default();
    config.wait.mode = match wait {
        Wait::Adaptive => WaitMode::Adaptive,
        Wait::Spin => WaitMode::Spin,
        Wait::Sleep => WaitMode::Sleep,
    };
    config.tcp.engine = engine.into();
    config.connection.parameters.idle_timeout_ms = IDLE_TIMEOUT_MS;
    config
}

impl From<Engine> for EngineChoice {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::IoUring => Self::IoUring,
            Engine::Epoll => Self::Epoll,
            Engine::Verbs => Self::Auto,
        }
    }
}

/// Why the TCP wire cannot run on io_uring here, found out by opening it; `None` if it can, or if something
/// else is wrong that a run will name itself.
pub(crate) fn io_uring_refusal() -> Option<String> {
    let mut pool = Pool::new(PoolConfig::edge()).ok()?;
    let config = TcpConfig { engine: EngineChoice::IoUring, ..TcpConfig::default() };
    match TcpWire::open(config, &mut pool) {
        Err(OpenError::IoUring { reason }) => Some(reason),
        Ok(_) | Err(_) => None,
    }
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

/// A process said another line than the one that it is to say first.
pub(crate) fn unexpected(system: &str, line: &str) -> BenchError {
    failed(system)(format!("it said {line:?}, not where it listens").into())
}
