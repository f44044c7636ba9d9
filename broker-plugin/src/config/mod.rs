//! What an operator may choose, and how it is checked.
//!
//! [`Settings`] are the options as they are written, in `broker.toml` or by a program; each has a default. A
//! [`Config`] is a set of settings that was found to work: names that exist, sizes that fit each other, nothing twice.
//! [`Config::read`] goes from a file to that in one step, [`Config::builder`] from code, with the same names and the
//! same checks. [`PoolBudget`] derives the size of the buffer pool from it, term by term.
//!
//! What it promises: nothing that it accepts makes the broker fail later for a reason that could be seen here, apart
//! from what only the machine knows (a port in use, memory that is not there). What it refuses it refuses with the
//! place, the value and what is allowed.
//!
//! What it must never know: connections, messages, and whether the broker runs.

mod budget;
mod builder;
mod fault;
mod file;
mod locate;
mod options;
mod settings;
mod validate;

pub use budget::{BudgetTerm, PoolBudget};
pub use builder::ConfigBuilder;
pub use fault::{ConfigFault, KeyPath};
pub use file::ConfigError;
pub use options::{Allowed, OPTIONS, OptionRule};
pub use settings::{
    BindingSettings, BrokerSettings, Engine, ExchangeSettings, ExchangeType, Fallback, LimitSettings,
    ListenerSettings, QueueSettings, RdmaSettings, Settings, Transport, Wait,
};

use underlay::backend::rdma::RdmaConfig;
use underlay::backend::tcp::{EngineChoice, TcpConfig};
use underlay::connection::ConnectionConfig;
use underlay::driver::{Address, DriverConfig, WaitConfig, WaitMode};
use underlay::pool::PoolConfig;
use underlay::proto::Parameters;
use underlay::session::SessionConfig;

use std::time::Duration;

/// Settings that were checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    settings: Settings,
}

impl Config {
    /// A builder with every option at its default, and no listener and no queue.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }

    /// Checks settings.
    ///
    /// # Errors
    /// The first [`ConfigFault`], which names the option, its value and what is allowed.
    pub fn from_settings(settings: Settings) -> Result<Self, ConfigFault> {
        validate::check(&settings)?;
        Ok(Self { settings })
    }

    /// The settings, every option of them.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Where to listen, in the order of the file, fallbacks left aside.
    pub fn addresses(&self) -> Vec<Address> {
        let address = |listener: &ListenerSettings| match listener.transport {
            Transport::Tcp => Address::tcp(&listener.address),
            Transport::Rdma => Address::rdma(&listener.address),
            Transport::Inproc => Address::inproc(&listener.address),
        };
        self.settings.listener.iter().map(address).collect()
    }

    /// The effective configuration as a TOML file, every option with its value.
    ///
    /// # Errors
    /// None for settings that were read or checked: every one of them can be written.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(&self.settings)
    }

    /// The driver's part of it.
    pub fn driver_config(&self) -> DriverConfig {
        let broker = &self.settings.broker;
        let tcp_engine = self.settings.listener.iter().find(|it| it.may_use_tcp());
        DriverConfig {
            pool: PoolConfig { bytes_max: PoolBudget::of(self).bytes_max(), ..PoolConfig::default() },
            tcp: TcpConfig {
                engine: tcp_engine.map_or(EngineChoice::Auto, |listener| listener.engine.into()),
                receive_buffer_bytes: broker.receive_buffer_bytes as usize,
                receive_buffers: broker.receive_buffers as u16,
                backlog: broker.backlog as u32,
                ..TcpConfig::default()
            },
            rdma: self.settings.rdma.wire_config(broker.backlog as u32),
            connection: self.connection_config(),
            session: self.session_config(),
            wait: WaitConfig {
                mode: broker.wait.into(),
                spin_us_max: broker.spin_us_max as u32,
                yield_us_max: broker.yield_us_max as u32,
            },
            connections_max: broker.connections_max as usize,
        }
    }

    fn connection_config(&self) -> ConnectionConfig {
        let limits = &self.settings.limits;
        ConnectionConfig {
            parameters: limits.parameters(),
            handshake_timeout: Duration::from_millis(limits.handshake_timeout_ms),
            frame_timeout: Duration::from_millis(limits.frame_timeout_ms),
            bulk_timeout: Duration::from_millis(limits.bulk_timeout_ms),
            send_timeout: Duration::from_millis(limits.send_timeout_ms),
            acknowledgement_delay: Duration::from_millis(limits.acknowledgement_delay_ms),
            close_timeout: Duration::from_millis(limits.close_timeout_ms),
            send_queue_messages_max: limits.send_queue_messages_max as usize,
            send_queue_bytes_max: limits.send_queue_bytes_max,
        }
    }

    /// A broker is connected to, and so never connects again by itself: the pace of that has no options here.
    fn session_config(&self) -> SessionConfig {
        let limits = &self.settings.limits;
        SessionConfig {
            expiry: Duration::from_millis(limits.session_expiry_max_ms),
            // The number fits once the settings were checked.
            resumes_max: limits.session_resumes_max as u32,
            ..SessionConfig::default()
        }
    }
}

impl RdmaSettings {
    /// The numbers fit once the settings were checked. A listener chooses the device by its address, and nothing is
    /// resolved for it.
    fn wire_config(&self, backlog: u32) -> RdmaConfig {
        RdmaConfig {
            device: self.device.clone(),
            receive_slots_max: self.receive_slots_max as u32,
            window_max: self.window_max as u32,
            sends_max: self.sends_max as u32,
            inline_bytes: self.inline_bytes as u32,
            pinned_bytes_max: self.pinned_bytes_max as usize,
            retry_count: self.retry_count as u8,
            acknowledgement_timeout: (self.acknowledgement_timeout_ms > 0)
                .then(|| Duration::from_millis(self.acknowledgement_timeout_ms)),
            receiver_not_ready_retry_count: self.receiver_not_ready_retry_count as u8,
            backlog,
            ..RdmaConfig::default()
        }
    }
}

impl LimitSettings {
    /// What the broker proposes in each handshake. The numbers fit once the settings were checked.
    fn parameters(&self) -> Parameters {
        Parameters {
            packet_bytes: self.packet_bytes as u32,
            frame_bytes_max: self.frame_bytes_max as u32,
            eager_bytes_max: self.eager_bytes_max as u32,
            chunk_bytes_max: self.chunk_bytes_max as u32,
            message_bytes_max: self.message_bytes_max,
            frame_slots: self.frame_slots as u32,
            control_slots: self.control_slots as u16,
            keep_alive_ms: self.keep_alive_ms as u32,
            idle_timeout_ms: self.idle_timeout_ms as u32,
            links_max: self.links_max as u32,
            head_bytes_max: self.head_bytes_max as u16,
        }
    }
}

impl From<Wait> for WaitMode {
    fn from(wait: Wait) -> Self {
        match wait {
            Wait::Adaptive => Self::Adaptive,
            Wait::Spin => Self::Spin,
            Wait::Sleep => Self::Sleep,
        }
    }
}

impl From<Engine> for EngineChoice {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Auto => Self::Auto,
            Engine::IoUring => Self::IoUring,
            Engine::Epoll => Self::Epoll,
        }
    }
}
