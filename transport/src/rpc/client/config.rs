//! The settings of a client, and why there is none.

use super::super::events::EventListener;
use super::super::uplinks::{self, AddressCount, AddressFailure, Pace, Uplinks};
use crate::backend::ConnectError;
use crate::driver::{Address, DriverConfig, DriverError};
use std::io;
use std::time::Duration;
use thiserror::Error;

/// The settings of a client.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// A name for the peer's logs, up to 64 bytes. Default "client".
    pub name: String,
    /// The first session must be up within this time, however often it is tried. Default 5 s.
    pub connect_timeout: Duration,
    /// A call that was sent on a session which is interrupted waits so long for it, if there are other brokers; then it
    /// ends as [`OutcomeUnknown`](crate::rpc::CallError::OutcomeUnknown). Also, a broker that does not answer holds up an attempt at the next one for
    /// so long. Default 1 s.
    pub failover_after: Duration,
    /// After a failed attempt the next one at the same broker comes after a delay that doubles from this, each drawn from
    /// the upper half of its interval; at least 1 ms. Default 10 ms.
    pub reconnect_min: Duration,
    /// Up to this. Default 1 s.
    pub reconnect_max: Duration,
    /// While calls go by a broker that is not the first of the list, the better ones are tried again so often. Default
    /// 5 s.
    pub return_after: Duration,
    /// Keeps a session with a second broker from the start, so that a failover does not have to connect first, and the
    /// first gold call finds two. Without it, the first gold call opens the second session. Default false.
    pub standby: bool,
    /// Hears what happens to sessions and links. Default none.
    pub events: Option<EventListener>,
    /// About the most bytes of replies that may be on their way at a time. Default 256 MiB.
    pub reply_bytes_max: u64,
    /// The most calls that wait for the driver to take them. Default 4,096.
    pub submissions_max: usize,
    /// The driver. Its connection limits apply to each of the client's connections.
    pub driver: DriverConfig,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            name: "client".to_owned(),
            connect_timeout: Duration::from_secs(5),
            failover_after: Duration::from_secs(1),
            reconnect_min: Duration::from_millis(10),
            reconnect_max: Duration::from_secs(1),
            return_after: Duration::from_secs(5),
            standby: false,
            events: None,
            reply_bytes_max: 256 << 20,
            submissions_max: 4096,
            driver: DriverConfig::default(),
        }
    }
}

impl ClientConfig {
    pub(super) fn uplinks(&self, addresses: &[Address]) -> Result<Uplinks, AddressCount> {
        let pace = Pace {
            failover_after: self.failover_after,
            reconnect_min: self.reconnect_min,
            reconnect_max: self.reconnect_max,
            return_after: self.return_after,
        };
        Uplinks::new(addresses, if self.standby { 2 } else { 1 }, pace)
    }
}

/// Why there is no client.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Its driver does not start.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// Too few or too many brokers were named.
    #[error(transparent)]
    Addresses(#[from] AddressCount),
    /// It does not even try to connect.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No broker could be called in time.
    #[error("not connected after {timeout:?} (connect_timeout): {}", uplinks::list(.failures))]
    NotConnected {
        /// The limit.
        timeout: Duration,
        /// Each address, with the reason.
        failures: Vec<AddressFailure>,
    },
    /// As many clients use the process's reply destination as it can have.
    #[error("256 clients use this reply destination already; share one by its handles")]
    TooManyClients,
    /// A wire broke, or a thread could not be started.
    #[error("the driver failed: {0}")]
    Io(#[from] io::Error),
}
