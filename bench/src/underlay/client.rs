//! The client of a run: sends requests at a pace, checks replies, takes times.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use underlay::driver::Address;
use underlay::pool::{Body, Pool, PoolConfig};
use underlay::proto::Lane;
use underlay::rpc::{BackgroundClient, CallError, CallFuture, CallHandle, Client, ClientConfig, Reply};

use super::{DESTINATION, bodies, driver_config, failed};
use crate::error::BenchError;
use crate::payload::{Payload, WINDOWS};
use crate::plan::{Driver, Engine, Pace, Plan, REPLY_TIMEOUT, RoundPlan, record};
use crate::subject::RoundOutcome;

/// A client, and the bodies that it sends: made once for a size in the pool's own buffers and then shared,
/// as the floor sends its bodies from where they lie.
pub(super) struct BenchClient {
    end: End,
    destination: String,
    pool: Pool,
    payload: Payload,
    bodies: Vec<Body>,
}

/// Who polls the client's driver.
enum End {
    Own(Box<Client>),
    Background { handle: CallHandle, _client: BackgroundClient },
}

/// A request on its way.
struct InFlight {
    call: CallFuture,
    number: u64,
    /// When its time begins to count.
    since: Instant,
}

impl BenchClient {
    /// Connects to the broker or service at `address`, over RDMA from `source` if it is given, to send in the way that
    /// `plan` says.
    pub(super) fn connect(
        address: &Address,
        source: Option<IpAddr>,
        engine: Engine,
        driver: Driver,
        plan: &Plan,
    ) -> Result<Self, BenchError> {
        let mut config = ClientConfig { driver: driver_config(engine, plan.wait), ..ClientConfig::default() };
        config.driver.rdma.source = source;
        let destination = plan.destination.as_deref().unwrap_or(DESTINATION).to_owned();
        let connected = match driver {
            Driver::Own => Client::connect(address, config).map(|client| End::Own(Box::new(client))),
            Driver::Background => BackgroundClient::connect(address, config)
                .map(|client| End::Background { handle: client.handle(), _client: client }),
        };
        let end = connected.map_err(|error| failed("client")(error.into()))?;
        let pool = Pool::new(PoolConfig::default()).map_err(|error| failed("client")(error.into()))?;
        Ok(Self { end, destination, pool, payload: Payload::new(1), bodies: Vec::new() })
    }

    pub(super) fn prepare(&mut self, size: usize) -> Result<(), BenchError> {
        self.bodies.clear();
        self.payload = Payload::new(size);
        self.bodies = bodies(&self.payload, &mut self.pool)?;
        Ok(())
    }

    pub(super) fn round(
        &mut self,
        plan: &RoundPlan,
        histogram: &mut Histogram<u64>,
    ) -> Result<RoundOutcome, BenchError> {
        let start = Instant::now();
        let mut waiting: VecDeque<InFlight> = VecDeque::new();
        let (mut begun, mut received) = (0, 0);
        while received < plan.messages {
            while begun < plan.messages && is_due(plan, begun, waiting.len(), start) {
                let since = match &plan.pace {
                    Pace::Closed { .. } => Instant::now(),
                    Pace::Open(schedule) => start + schedule.intended(begun),
                };
                let number = plan.first_number + begun;
                waiting.push_back(InFlight { call: self.start(number)?, number, since });
                begun += 1;
            }
            let until_due = until_due(plan, begun, start);
            while let Some(reply) = self.take_first(&mut waiting, until_due)? {
                let InFlight { number, since, .. } = reply.1;
                record(histogram, since.elapsed());
                self.payload.check_parts(number, reply.0.body().segments().map(|segment| &**segment))?;
                received += 1;
                // With one message in flight there is no second to look for.
                if waiting.is_empty() || is_due(plan, begun, waiting.len(), start) {
                    break;
                }
            }
        }
        Ok(RoundOutcome { messages: plan.messages, elapsed: start.elapsed() })
    }

    fn start(&mut self, number: u64) -> Result<CallFuture, BenchError> {
        let body = self.bodies[(number % WINDOWS) as usize]
            .share(&mut self.pool)
            .map_err(|error| failed("client")(error.into()))?;
        Ok(match &mut self.end {
            End::Own(client) => client.start(&self.destination, body, Lane::Normal, REPLY_TIMEOUT),
            End::Background { handle, .. } => {
                handle.call_with(&self.destination, body, Lane::Normal, REPLY_TIMEOUT)
            }
        })
    }

    /// Waits for the oldest request's reply, at most until the next message is due.
    fn take_first(
        &mut self,
        waiting: &mut VecDeque<InFlight>,
        timeout: Option<Duration>,
    ) -> Result<Option<(Reply, InFlight)>, BenchError> {
        let mut outcome = None;
        let end = &mut self.end;
        match (end, waiting.front_mut()) {
            (End::Own(client), first) => {
                let mut first = first;
                client
                    .run_until(timeout, || {
                        outcome = first.as_mut().and_then(|first| first.call.try_take());
                        outcome.is_some()
                    })
                    .map_err(BenchError::io("turn the client's driver"))?;
            }
            (End::Background { .. }, Some(first)) => outcome = first.call.wait(timeout),
            (End::Background { .. }, None) => std::thread::sleep(timeout.unwrap_or_default()),
        }
        let Some(outcome) = outcome else { return Ok(None) };
        let Some(first) = waiting.pop_front() else { return Ok(None) };
        match outcome {
            Ok(reply) => Ok(Some((reply, first))),
            Err(CallError::TimedOut(waited)) => Err(BenchError::NoReply { number: first.number, waited }),
            Err(error) => Err(failed("client")(error.into())),
        }
    }
}

/// Whether the next message may be sent now.
fn is_due(plan: &RoundPlan, begun: u64, waiting: usize, start: Instant) -> bool {
    match &plan.pace {
        Pace::Closed { in_flight } => begun < plan.messages && waiting < *in_flight as usize,
        Pace::Open(schedule) => begun < plan.messages && start.elapsed() >= schedule.intended(begun),
    }
}

/// How long it may be waited for replies until the next message is due; `None` for as long as it takes.
fn until_due(plan: &RoundPlan, begun: u64, start: Instant) -> Option<Duration> {
    match &plan.pace {
        Pace::Open(schedule) if begun < plan.messages => {
            Some(schedule.intended(begun).saturating_sub(start.elapsed()))
        }
        Pace::Closed { .. } | Pace::Open(_) => None,
    }
}
