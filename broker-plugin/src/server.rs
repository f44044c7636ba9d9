//! A broker on a driver of its own, listening.

use crate::broker::{self, Broker, Control};
use crate::config::{Config, Fallback, ListenerSettings, Transport};
use std::io;
use thiserror::Error;
use underlay::backend::tcp::Engine;
use underlay::backend::{ListenError, WireKind};
use underlay::connection::Identity;
use underlay::driver::{Address, Core, Driver, DriverError};
use underlay::proto::hello::ProcessIdentity;
use underlay::proto::{Incarnation, Origin, ProcessId};

/// A broker that listens. It belongs to the thread that started it.
#[derive(Debug)]
pub struct Server {
    driver: Driver<Broker>,
    addresses: Vec<Address>,
}

/// Why a broker does not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// No buffers, no wires, or no random numbers.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// A listener does not come up.
    #[error("listener[{index}]: {error}")]
    Listen {
        /// Which one, from 0, in the order of the configuration.
        index: usize,
        /// Why.
        #[source]
        error: ListenError,
    },
    /// This machine has no RDMA for a listener, or none at its address.
    #[error(
        "listener[{index}]: {error}. To listen by TCP at the same address while that is so, give the listener \
         fallback = \"tcp\""
    )]
    NoRdma {
        /// Which one, from 0, in the order of the configuration.
        index: usize,
        /// What is missing, and what to do.
        #[source]
        error: ListenError,
    },
    /// The kernel gave no random numbers.
    #[error("the kernel gave no random numbers for the broker's identity: {0}")]
    Random(String),
}

impl Server {
    /// Starts a broker and listens where its configuration says. Nothing is answered until it runs.
    ///
    /// # Errors
    /// [`StartError`], which names the listener and what to do.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let identity = identity(&config.settings().broker.name)?;
        let mut driver = Driver::new(config.driver_config(), identity, Broker::new(config))?;
        let mut addresses = Vec::new();
        for (index, address) in config.addresses().iter().enumerate() {
            let (core, broker) = driver.parts();
            let actual = match core.listen(address) {
                Ok((listener, actual)) => {
                    broker.owns_listener(actual.clone(), listener);
                    actual
                }
                Err(error) => fall_back(config, index, error, core, broker)?,
            };
            addresses.push(actual);
        }
        Ok(Self { driver, addresses })
    }

    /// Where it listens, in the order of the configuration, with the ports that the system chose.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// A line for each listener: where, and for TCP on which engine and why.
    pub fn listening(&mut self) -> Vec<String> {
        let engine = engine(self.driver.parts().0);
        let fallbacks = self.driver.parts().1.stats().fallbacks;
        let line = |(index, address): (usize, &Address)| {
            let fallback = fallbacks.iter().find(|fallback| fallback.listener == index);
            match (address.wire(), fallback) {
                (WireKind::Tcp, None) => format!("listening on {address} ({engine})"),
                (_, None) => format!("listening on {address}"),
                (_, Some(fallback)) => {
                    let broker::ListenerFallback { missing, reason, .. } = fallback;
                    format!("listening on {address} ({engine}), in place of {missing}: {reason}")
                }
            }
        };
        self.addresses.iter().enumerate().map(line).collect()
    }

    /// By which other threads stop it.
    pub fn control(&mut self) -> Control {
        let (core, broker) = self.driver.parts();
        broker.control(core)
    }

    /// Serves until it is told to stop, and has stopped.
    ///
    /// # Errors
    /// The kernel's, when a wire as a whole is broken.
    pub fn run(&mut self) -> io::Result<()> {
        self.driver.run()
    }

    /// The driver and the broker, for a program that turns them itself.
    pub fn driver(&mut self) -> &mut Driver<Broker> {
        &mut self.driver
    }

    /// All figures, one a line.
    pub fn report(&mut self) -> String {
        let driver = self.driver.stats();
        broker::report(&driver, &self.driver.parts().1.stats())
    }
}

/// Has a listener whose wire is missing listen by TCP at the same address, if it may; says where.
fn fall_back(
    config: &Config,
    index: usize,
    error: ListenError,
    core: &mut Core,
    broker: &mut Broker,
) -> Result<Address, StartError> {
    let listeners = &config.settings().listener;
    let listener = &listeners[index];
    let ListenError::NoWire { wire: missing, reason, .. } = &error else {
        return Err(StartError::Listen { index, error });
    };
    if listener.fallback != Some(Fallback::Tcp) {
        return Err(StartError::NoRdma { index, error });
    }
    let wanted = Address::tcp(&listener.address);
    // One that listens there anyway is all that it takes.
    let has_twin = |other: &ListenerSettings| {
        other.transport == Transport::Tcp && other.address == listener.address && !has_any_port(other)
    };
    let actual = if listeners.iter().any(has_twin) {
        wanted
    } else {
        let (listener, actual) = core.listen(&wanted).map_err(|error| StartError::Listen { index, error })?;
        broker.owns_listener(actual.clone(), listener);
        actual
    };
    broker.falls_back(index, *missing, actual.clone(), reason.clone());
    Ok(actual)
}

/// The system chooses its port, so no other listener has the same.
fn has_any_port(listener: &ListenerSettings) -> bool {
    listener.address.ends_with(":0")
}

fn engine(core: &Core) -> String {
    match core.tcp_engine() {
        (Engine::IoUring, _) => "io_uring".to_owned(),
        (engine, Some(reason)) => format!("{engine}: {reason}"),
        (engine, None) => format!("{engine}: chosen by the configuration"),
    }
}

fn identity(name: &str) -> Result<Identity, StartError> {
    fn random<const BYTES: usize>() -> Result<[u8; BYTES], StartError> {
        let mut bytes = [0; BYTES];
        getrandom::fill(&mut bytes).map_err(|error| StartError::Random(error.to_string()))?;
        Ok(bytes)
    }
    let process = ProcessIdentity {
        process: ProcessId(random()?),
        incarnation: Incarnation(u32::from_ne_bytes(random()?)),
        origin: Origin(u64::from_ne_bytes(random()?)),
    };
    Ok(Identity { process, name: name.to_owned() })
}
