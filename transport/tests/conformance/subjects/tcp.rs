//! `tcp`, once for each engine, over the loopback interface.

use crate::subject::{Subject, WireUnderTest};
use std::net::TcpListener;
use underlay::backend::tcp::{EngineChoice, TcpConfig, TcpWire};
use underlay::pool::Pool;

macro_rules! tcp_subject {
    ($subject:ident, $name:literal, $engine:expr) => {
        pub(crate) struct $subject;

        impl Subject for $subject {
            type Wire = TcpWire;
            const NAME: &'static str = $name;
            const PASSES_REFERENCES: bool = false;
            const BAD_ADDRESSES: &'static [&'static str] =
                &["", "127.0.0.1", "127.0.0.1:70000", ":7400", "::1:7400", "[::1:7400"];

            fn new() -> Self {
                Self
            }

            fn open(&self, pool: &mut Pool) -> Result<TcpWire, String> {
                let config = TcpConfig { engine: $engine, ..TcpConfig::default() };
                TcpWire::open(config, pool).map_err(|error| error.to_string())
            }

            fn addresses(&self) -> [String; 2] {
                ["127.0.0.1:0".to_owned(), "127.0.0.1:0".to_owned()]
            }

            fn nobody(&self) -> String {
                // Free a moment ago, and the system does not give it out again soon.
                let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback interface has a port");
                listener.local_addr().expect("it is bound").to_string()
            }
        }
    };
}

tcp_subject!(TcpIoUring, "tcp/io_uring", EngineChoice::IoUring);
tcp_subject!(TcpEpoll, "tcp/epoll", EngineChoice::Epoll);

impl WireUnderTest for TcpWire {}
