//! A client whose events are heard, that calls one call at a time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use underlay::driver::Address;
use underlay::rpc::{CallFuture, CallOptions, Client, ClientConfig, Event, EventListener};

use super::Setting;
use crate::error::BenchError;
use crate::payload::Payload;
use crate::plan::REPLY_TIMEOUT;
use crate::statistics::SplitMix64;
use crate::underlay::{DESTINATION, driver_config, failed};

/// Longer than anything takes that comes at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest that a call has been on its way when a fault strikes: some round trips.
const PHASE_US_MAX: usize = 300;

pub(super) struct WatchedClient {
    client: Client,
    heard: Arc<Mutex<Heard>>,
    payload: Payload,
    number: u64,
    phase: SplitMix64,
}

/// How often something was heard of.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Heard {
    /// Calls go by another broker, or by a better one again.
    pub(super) failed_over: u32,
    pub(super) returned: u32,
    /// When a session was last interrupted, and how often one went on.
    pub(super) interrupted_at: Option<Instant>,
    pub(super) resumed: u32,
    /// A session has begun, or was closed because it is not needed.
    pub(super) connected: u32,
    pub(super) left: u32,
}

/// From a fault on.
pub(super) struct Outage {
    /// To the first answer by the new way.
    pub(super) first_answer: Duration,
    /// To when the client knew of it.
    pub(super) noticed: Duration,
}

fn listener(heard: &Arc<Mutex<Heard>>) -> EventListener {
    let heard = heard.clone();
    EventListener::new(move |event| {
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::FailedOver { .. } => heard.failed_over += 1,
            Event::Returned { .. } => heard.returned += 1,
            Event::Interrupted { .. } => heard.interrupted_at = Some(Instant::now()),
            Event::Resumed { .. } => heard.resumed += 1,
            Event::Connected { .. } => heard.connected += 1,
            Event::Left { .. } => heard.left += 1,
            _ => {}
        }
    })
}

impl WatchedClient {
    pub(super) fn connect(
        setting: &Setting<'_>,
        brokers: &[&str],
        configure: impl FnOnce(&mut ClientConfig),
    ) -> Result<Self, BenchError> {
        let options = setting.options;
        let heard = Arc::new(Mutex::new(Heard::default()));
        let mut config = ClientConfig {
            driver: driver_config(options.engine, options.wait),
            events: Some(listener(&heard)),
            ..ClientConfig::default()
        };
        configure(&mut config);
        let addresses: Vec<Address> = brokers.iter().map(|&broker| Address::tcp(broker)).collect();
        let client =
            Client::connect_any(&addresses, config).map_err(|error| failed("client")(error.into()))?;
        let (payload, phase) = (Payload::new(options.size), SplitMix64::new(1));
        Ok(Self { client, heard, payload, number: 0, phase })
    }

    /// What was heard so far.
    pub(super) fn heard(&self) -> Heard {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls once, and checks the reply.
    pub(super) fn round_trip(&mut self) -> Result<(), BenchError> {
        let call = self.start()?;
        self.finish(call)
    }

    /// Calls until something was heard of.
    pub(super) fn call_until(&mut self, what: impl Fn(Heard) -> bool) -> Result<(), BenchError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.round_trip()?;
            if what(self.heard()) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(BenchError::NoReply { number: self.number, waited: PATIENCE });
            }
        }
    }

    /// Calls without pause while `fault` strikes, and says how long after it the first answer came before which something
    /// was heard of.
    pub(super) fn time_to_answer(
        &mut self,
        fault: impl FnOnce() -> Result<(), BenchError>,
        what: impl Fn(Heard) -> bool,
    ) -> Result<Outage, BenchError> {
        let call = self.start()?;
        let phase = Duration::from_micros(self.phase.below(PHASE_US_MAX) as u64);
        let turned = self.client.run_until(Some(phase), || false);
        turned.map_err(BenchError::io("turn the client's driver"))?;
        let since = Instant::now();
        fault()?;
        self.finish(call)?;
        while !what(self.heard()) {
            self.round_trip()?;
            if since.elapsed() >= PATIENCE {
                return Err(BenchError::NoReply { number: self.number, waited: PATIENCE });
            }
        }
        let first_answer = since.elapsed();
        let noticed = self.heard().interrupted_at.map(|at| at.saturating_duration_since(since));
        Ok(Outage { first_answer, noticed: noticed.unwrap_or_default() })
    }

    fn start(&mut self) -> Result<CallFuture, BenchError> {
        self.number += 1;
        let body = self.client.body(self.payload.body(self.number));
        let body = body.map_err(|error| failed("client")(error.into()))?;
        // An echo may be asked for twice; so no answer is lost with a broker.
        let options = CallOptions::new(REPLY_TIMEOUT).idempotent();
        Ok(self.client.start_with_options(DESTINATION, body, options))
    }

    fn finish(&mut self, call: CallFuture) -> Result<(), BenchError> {
        let reply = self.client.wait(call).map_err(|error| failed("client")(error.into()))?;
        let parts = reply.body().segments().map(|segment| &**segment);
        Ok(self.payload.check_parts(self.number, parts)?)
    }
}
