//! The service of a run: answers each request with its own body.

use std::io::Write;
use std::net::IpAddr;

use clap::{Args, ValueEnum};
use underlay::backend::tcp::EngineChoice;
use underlay::driver::Address;
use underlay::rpc::{Service, ServiceConfig};

use super::broker::ANY_PORT;
use super::{DESTINATION, driver_config, failed};
use crate::child::exit_when_orphaned;
use crate::error::BenchError;
use crate::plan::{Wait, Wire};

/// Options of `service`.
#[derive(Debug, Clone, Args)]
pub struct EchoOptions {
    /// Brokers to connect to, best first, with commas between them: it is attached to the first two that work.
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        required_unless_present = "listen",
        conflicts_with = "listen"
    )]
    pub connect: Vec<String>,
    /// Address to listen at, without a broker; port 0 takes any free one.
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// The wire to connect or listen on.
    #[arg(long, value_enum, default_value = "tcp")]
    pub wire: Wire,
    /// With --wire rdma: the address of an RDMA device to connect from [default: as the routing table says].
    #[arg(long, value_name = "ADDRESS", requires = "connect")]
    pub rdma_source: Option<IpAddr>,
    /// How TCP is driven.
    #[arg(long, value_enum, default_value = "auto")]
    pub engine: ServiceEngine,
    /// How to wait.
    #[arg(long, value_enum, default_value = "adaptive")]
    pub wait: Wait,
    /// Destination to answer at.
    #[arg(long, default_value = DESTINATION)]
    pub destination: String,
    /// Ends when standard input does, so that whoever started it leaves nothing behind.
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,
}

/// How the service's wire is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ServiceEngine {
    /// By io_uring where the host allows it, else by epoll.
    Auto,
    /// By io_uring.
    #[value(name = "io_uring")]
    IoUring,
    /// By epoll.
    Epoll,
}

impl ServiceEngine {
    /// The name, as typed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

/// As a broker's configuration has it.
impl From<ServiceEngine> for underlay_broker::config::Engine {
    fn from(engine: ServiceEngine) -> Self {
        match engine {
            ServiceEngine::Auto => Self::Auto,
            ServiceEngine::IoUring => Self::IoUring,
            ServiceEngine::Epoll => Self::Epoll,
        }
    }
}

impl From<ServiceEngine> for EngineChoice {
    fn from(engine: ServiceEngine) -> Self {
        match engine {
            ServiceEngine::Auto => Self::Auto,
            ServiceEngine::IoUring => Self::IoUring,
            ServiceEngine::Epoll => Self::Epoll,
        }
    }
}

/// Answers for ever. Says on standard output,
/// in one line, when it is ready and where: `ready HOST:PORT`.
///
/// # Errors
/// It cannot connect or listen, or no broker will have it.
pub fn run(options: &EchoOptions) -> Result<(), BenchError> {
    if options.exit_with_stdin {
        exit_when_orphaned()?;
    }
    let mut config =
        ServiceConfig { driver: driver_config(options.engine, options.wait), ..ServiceConfig::default() };
    config.driver.rdma.source = options.rdma_source;
    let echo = |request: &mut underlay::rpc::Request<'_>| Ok(request.take_body());
    let brokers: Vec<Address> = options.connect.iter().map(|place| options.wire.at(place)).collect();
    let opened = match brokers.first() {
        Some(first) => Service::connect_any(&brokers, &options.destination, config, echo)
            .map(|service| (service, first.clone())),
        None => {
            let address = options.wire.at(options.listen.as_deref().unwrap_or(ANY_PORT));
            Service::listen(&address, &options.destination, config, echo)
        }
    };
    let (mut service, address) = opened.map_err(|error| failed("service")(error.into()))?;
    let mut output = std::io::stdout();
    writeln!(output, "ready {}", address.place())
        .and_then(|()| output.flush())
        .map_err(BenchError::io("print the ready line"))?;
    service.run().map_err(|error| failed("service")(error.into()))
}
