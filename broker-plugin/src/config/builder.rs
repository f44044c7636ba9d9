//! The same options from code.

use super::{
    BrokerSettings, Config, ConfigFault, ExchangeSettings, LimitSettings, ListenerSettings, QueueSettings,
    RdmaSettings, Settings,
};

/// Puts settings together; [`ConfigBuilder::build`] checks them. Its methods have the names of the file's tables.
#[derive(Debug, Clone, Default)]
pub struct ConfigBuilder {
    settings: Settings,
}

impl ConfigBuilder {
    /// `[broker]`, in place of the defaults.
    #[must_use]
    pub fn broker(mut self, broker: BrokerSettings) -> Self {
        self.settings.broker = broker;
        self
    }

    /// `[limits]`, in place of the defaults.
    #[must_use]
    pub fn limits(mut self, limits: LimitSettings) -> Self {
        self.settings.limits = limits;
        self
    }

    /// `[rdma]`, in place of the defaults.
    #[must_use]
    pub fn rdma(mut self, rdma: RdmaSettings) -> Self {
        self.settings.rdma = rdma;
        self
    }

    /// One more `[[listener]]`.
    #[must_use]
    pub fn listener(mut self, listener: ListenerSettings) -> Self {
        self.settings.listener.push(listener);
        self
    }

    /// One more `[[queue]]`.
    #[must_use]
    pub fn queue(mut self, queue: QueueSettings) -> Self {
        self.settings.queue.push(queue);
        self
    }

    /// One more `[[exchange]]`.
    #[must_use]
    pub fn exchange(mut self, exchange: ExchangeSettings) -> Self {
        self.settings.exchange.push(exchange);
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// The first [`ConfigFault`].
    pub fn build(self) -> Result<Config, ConfigFault> {
        Config::from_settings(self.settings)
    }
}
