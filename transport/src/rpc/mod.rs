//! Requests and replies, as futures and as blocking calls.
//!
//! A process has one [`ReplyDestination`], shared by all its clients and threads. A [`Client`] is a driver with the
//! calling end as its handler: polled on the caller's own thread by [`Client::call`] and [`Client::block_on`], or by a
//! thread of its own ([`BackgroundClient`]). A [`CallHandle`] starts calls from any thread, under any executor. A
//! [`Service`] answers requests, behind a broker or by itself, on its caller's thread or on one of its own
//! ([`BackgroundService`]).
//!
//! Both may have several brokers. A client calls by the first that works, and a call that its caller has marked may be
//! sent again, or by two at once:
//!
//! ```
//! use std::time::Duration;
//! use underlay::driver::Address;
//! use underlay::rpc::{BackgroundService, CallOptions, Class, Client, ClientConfig, EventListener};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Two services that listen stand for two brokers here; a broker's clients look the same.
//! let serve = || {
//!     BackgroundService::listen(&Address::tcp("127.0.0.1:0"), "echo", Default::default(), |request| {
//!         Ok(request.take_body())
//!     })
//! };
//! let (first, second) = (serve()?, serve()?);
//! let addresses = [first.address().clone(), second.address().clone()];
//! let events = EventListener::new(|event| println!("{event}"));
//! let config = ClientConfig { events: Some(events), ..ClientConfig::default() };
//! let mut client = Client::connect_any(&addresses, config)?;
//!
//! client.call("echo", b"by the first", Duration::from_secs(5))?;
//! first.stop()?;
//! let options = CallOptions::new(Duration::from_secs(5)).class(Class::Silver).idempotent();
//! let body = client.body(b"by the second")?;
//! let call = client.start_with_options("echo", body, options);
//! assert_eq!(&client.wait(call)?.to_bytes()[..], b"by the second");
//! # Ok(())
//! # }
//! ```
//!
//! What it promises: each call ends exactly once, with a reply, with the service's error, or with a [`CallError`] that
//! says whether trying again is safe; a future that is dropped leaves nothing behind; a reply finds its call by an
//! index and a comparison; however many calls, memory is bounded by `calls_max`.
//!
//! What it must never know: which wire carries it.

mod calls;
mod client;
mod destination;
mod error;
mod events;
mod future;
mod options;
mod service;
mod uplinks;

pub use calls::{CallStats, Lane};
pub use client::{BackgroundClient, CALL_TIMEOUT_MAX, CallHandle, Client, ClientConfig, ClientError};
pub use destination::ReplyDestination;
pub use error::{CallError, ServiceError};
pub use events::{Event, EventListener};
pub use future::{CallFuture, Reply};
pub use options::{CallOptions, Class};
pub use service::{BackgroundService, Request, Service, ServiceConfig, ServiceFailure, ServiceStats};
pub use uplinks::{ADDRESSES_MAX, AddressCount, AddressFailure};

use crate::driver::{Driver, Handler};
use crate::proto::control::CloseCode;

/// Tells all peers of a driver that is about to be dropped why it goes. It does not wait for them: whoever does not
/// take it at once sees the end of the channel.
fn say_goodbye<H: Handler>(driver: &mut Driver<H>, code: CloseCode, text: &str) {
    /// One to give the last words to the wire, one for the wire to let go of them, one to close the channel.
    const TURNS: usize = 3;
    driver.parts().0.close_all(code, text);
    for _ in 0..TURNS {
        // A wire that is broken says nothing more.
        if driver.parts().0.connections() == 0 || driver.turn().is_err() {
            return;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
