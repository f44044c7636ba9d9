//! The other end of a test of ours, as a process of its own: started for one test, and gone with it.

use std::io::Write;
use std::net::IpAddr;

use clap::{Args, ValueEnum};
use underlay::backend::rdma::{RdmaConfig, RdmaWire};
use underlay::driver::Address;

use super::bare::BareEnd;
use super::bounce;
use crate::child::exit_when_orphaned;
use crate::error::BenchError;
use crate::plan::{Wait, Wire};
use crate::underlay::failed;

/// Up to this length a body comes back whole; the answer to a longer one is empty. In bytes.
pub(super) const ANSWERED_WHOLE_BYTES_MAX: usize = 256 << 10;

/// How much of Underlay a test of ours goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Layer {
    /// Messages of a session, by the driver.
    Driver,
    /// Bytes of a channel, by the wire alone.
    Wire,
}

impl Layer {
    /// The name, as typed and as reported.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Wire => "wire",
        }
    }
}

/// Options of `verbs-end`.
#[derive(Debug, Clone, Args)]
pub struct EndOptions {
    /// How much of Underlay to go through.
    #[arg(long, value_enum)]
    pub layer: Layer,
    /// The wire; the bare one is always rdma.
    #[arg(long, value_enum, default_value = "rdma")]
    pub wire: Wire,
    /// Address to listen at.
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: String,
    /// How to wait.
    #[arg(long, value_enum)]
    pub wait: Wait,
}

/// What both ends of a test are told.
#[derive(Debug, Clone, Copy)]
pub(super) struct EndSetting {
    /// How they wait.
    pub(super) wait: Wait,
    /// From where to connect.
    pub(super) source: Option<IpAddr>,
}

impl EndSetting {
    /// An RDMA wire that connects from where the setting says.
    pub(super) fn rdma_wire(&self) -> Result<RdmaWire, BenchError> {
        let config = RdmaConfig { source: self.source, ..RdmaConfig::default() };
        RdmaWire::open(config).map_err(|error| failed("wire")(error.into()))
    }
}

/// Listens, prints `ready HOST:PORT`, and answers until the connection ends or standard input does.
///
/// # Errors
/// It cannot listen there, or the wire as a whole fails.
pub fn run(options: &EndOptions) -> Result<(), BenchError> {
    exit_when_orphaned()?;
    let setting = EndSetting { wait: options.wait, source: None };
    let ready = |place: &str| {
        let mut output = std::io::stdout();
        writeln!(output, "ready {place}")
            .and_then(|()| output.flush())
            .map_err(BenchError::io("print where it listens"))
    };
    match options.layer {
        Layer::Driver => {
            let address: Address = options.wire.at(&*options.listen);
            bounce::serve(&setting, &address, ready)
        }
        Layer::Wire => BareEnd::open(setting.wait, |_| setting.rdma_wire())?.serve(&options.listen, ready),
    }
}
