//! The broker side of Underlay.
//!
//! The wire layer knows a broker only as an [`underlay::driver::Handler`]: a trait with events for connections,
//! links and messages. This crate has one such broker, [`Broker`], with direct exchanges, bounded queues, consumers
//! that pull by credit, and reply addresses; a [`Config`] that it is made from; and a [`Server`] that puts it on a
//! driver and listens. The binary `underlay-broker` is a [`Server`] with a command line and signals. A program can
//! run one in its own process just so, or put a broker of its own in the place of [`Broker`].

#![forbid(unsafe_code)]

pub mod broker;
pub mod config;
mod nearest;
mod server;

pub use broker::{Broker, BrokerStats, Control, ListenerFallback, QueueStats};
pub use config::{Config, ConfigError};
pub use server::{Server, StartError};
