//! What a round trip takes when nobody waits: client, broker and service on one thread, turned one after the other.
//!
//! The three ends are those of the benchmark: a client with its reply destination, the embedded broker on a driver,
//! a service that sends each body back. They are connected by the `inproc` wire, so that no kernel, no scheduler and
//! no clock decides what happens: a run does the same work whenever it is repeated, and a profiler that counts
//! instructions (callgrind) sees that work and nothing else. The difference of two runs that differ by their number
//! of messages alone is what those messages took; `ci/counts` works that out and records it.
//!
//! Bodies are made once, as in [`crate::underlay`], and shared: the copy at the application's edge is the
//! application's, and not counted. Every reply's length is checked, and in the warm-up every byte.

use std::io::Write;

use clap::Args;
use underlay::driver::{Address, Driver, DriverStats};
use underlay::pool::{Body, Pool, PoolConfig};
use underlay::proto::Lane;
use underlay::rpc::{
    CallError, CallFuture, Client, ClientConfig, Reply, ReplyDestination, Request, Service, ServiceConfig,
    ServiceError,
};
use underlay_broker::config::{ListenerSettings, QueueSettings};
use underlay_broker::{Broker, Config};

use crate::error::BenchError;
use crate::payload::{Payload, PayloadMismatch, WINDOWS};
use crate::plan::{Engine, IN_FLIGHT_MAX, REPLY_TIMEOUT, Wait};
use crate::underlay::{DESTINATION, bodies, driver_config, failed};

/// Where the broker listens; one run a process.
const PLACE: &str = "counts";

/// Options of `counts`.
#[derive(Debug, Clone, Args)]
pub struct CountsOptions {
    /// Body size in bytes; k, KiB and MiB are understood.
    #[arg(long, value_name = "SIZE", value_parser = crate::cli::size, default_value = "1024")]
    pub size: usize,
    /// Round trips.
    #[arg(long, value_name = "COUNT", default_value_t = 2000)]
    pub messages: u64,
    /// Round trips before that are not in the table.
    #[arg(long, value_name = "COUNT", default_value_t = 200)]
    pub warmup: u64,
    /// Requests that are started together.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub in_flight: u32,
    /// Engine of the TCP wire, which has no connection here and is looked at in each turn all the same.
    #[arg(long, value_enum, default_value = "epoll")]
    pub engine: Engine,
}

/// Makes the round trips and prints a table of what each end did, a round trip.
///
/// # Errors
/// An option beyond its limit, a driver that does not start, a reply that is missing or wrong.
pub fn run(options: &CountsOptions) -> Result<(), BenchError> {
    check(options)?;
    let mut ends = Ends::open(options)?;
    ends.round_trips(options.warmup, options.in_flight, check_bytes)?;
    let before = ends.stats();
    ends.round_trips(options.messages, options.in_flight, check_length)?;
    let after = ends.stats();
    print(options, &before, &after)
}

fn check(options: &CountsOptions) -> Result<(), BenchError> {
    if options.messages == 0 {
        return Err(BenchError::refuse("messages", 0, "there must be one", "leave it out for 2000"));
    }
    if options.in_flight == 0 || options.in_flight > IN_FLIGHT_MAX {
        let limit = format!("there may be 1 to {IN_FLIGHT_MAX}");
        return Err(BenchError::refuse("in-flight", options.in_flight, limit, "leave it out for 1"));
    }
    Ok(())
}

/// A service's function as a type with a name.
type Echo = fn(&mut Request<'_>) -> Result<Body, ServiceError>;

/// What is turned.
struct Ends {
    client: Client,
    broker: Driver<Broker>,
    service: Service<Echo>,
    pool: Pool,
    payload: Payload,
    bodies: Vec<Body>,
    next_number: u64,
    calls: Vec<CallFuture>,
}

/// How closely a reply is looked at.
type Check = fn(&Payload, u64, &Body) -> Result<(), PayloadMismatch>;

impl Ends {
    fn open(options: &CountsOptions) -> Result<Self, BenchError> {
        let broker = open_broker(options.engine)?;
        let address = Address::inproc(PLACE);
        let config = ServiceConfig {
            driver: driver_config(options.engine, Wait::Adaptive),
            ..ServiceConfig::default()
        };
        let echo: Echo = |request| Ok(request.take_body());
        let service = Service::begin_connect(&address, DESTINATION, config, echo)
            .map_err(|error| failed("service")(error.into()))?;
        let config =
            ClientConfig { driver: driver_config(options.engine, Wait::Adaptive), ..ClientConfig::default() };
        let client =
            Client::begin_connect(&address, config).map_err(|error| failed("client")(error.into()))?;
        let mut pool = Pool::new(PoolConfig::edge()).map_err(|error| failed("client")(error.into()))?;
        let payload = Payload::new(options.size);
        let bodies = bodies(&payload, &mut pool)?;
        let calls = Vec::with_capacity(options.in_flight as usize);
        Ok(Self { client, broker, service, pool, payload, bodies, next_number: 0, calls })
    }

    fn round_trips(&mut self, count: u64, in_flight: u32, check: Check) -> Result<(), BenchError> {
        let mut left = count;
        while left > 0 {
            let batch = left.min(in_flight.into());
            for number in self.next_number..self.next_number + batch {
                let body = self.bodies[(number % WINDOWS) as usize]
                    .share(&mut self.pool)
                    .map_err(|error| failed("client")(error.into()))?;
                self.calls.push(self.client.start(DESTINATION, body, Lane::Normal, REPLY_TIMEOUT));
            }
            for index in 0..self.calls.len() {
                self.take(index, check)?;
            }
            self.calls.clear();
            self.next_number += batch;
            left -= batch;
        }
        Ok(())
    }

    /// Turns all ends until a call has its reply, which it has at the latest when its time is over.
    fn take(&mut self, index: usize, check: Check) -> Result<(), BenchError> {
        // It may have come together with an earlier one.
        let mut outcome = self.calls[index].try_take();
        let reply = loop {
            match outcome {
                Some(Ok(reply)) => break reply,
                Some(Err(error)) => return Err(failed("client")(error.into())),
                None => outcome = self.turn(index)?,
            }
        };
        let number = self.next_number + index as u64;
        Ok(check(&self.payload, number, reply.body())?)
    }

    /// In this order a message that nothing holds up takes five turns: the client's to send it, the broker's, the
    /// service's, the broker's again, and then the client's to find the reply.
    fn turn(&mut self, index: usize) -> Result<Option<Result<Reply, CallError>>, BenchError> {
        self.client.turn().map_err(BenchError::io("turn the client's driver"))?;
        let outcome = self.calls[index].try_take();
        if outcome.is_none() {
            self.broker.turn().map_err(BenchError::io("turn the broker's driver"))?;
            self.service.turn().map_err(|error| failed("service")(error.into()))?;
            self.broker.turn().map_err(BenchError::io("turn the broker's driver"))?;
        }
        Ok(outcome)
    }

    fn stats(&self) -> [DriverStats; 3] {
        [self.client.driver_stats(), self.broker.stats(), self.service.driver_stats()]
    }
}

fn open_broker(engine: Engine) -> Result<Driver<Broker>, BenchError> {
    let config = Config::builder()
        .listener(ListenerSettings::inproc(PLACE))
        .queue(QueueSettings::named(DESTINATION))
        .build()
        .map_err(|error| failed("broker")(error.into()))?;
    let mut driver = config.driver_config();
    driver.tcp.engine = driver_config(engine, Wait::Adaptive).tcp.engine;
    let identity = ReplyDestination::of_process().identity("broker");
    let mut broker = Driver::new(driver, identity, Broker::new(&config))
        .map_err(|error| failed("broker")(error.into()))?;
    broker.parts().0.listen(&Address::inproc(PLACE)).map_err(|error| failed("broker")(error.into()))?;
    Ok(broker)
}

fn check_bytes(payload: &Payload, number: u64, body: &Body) -> Result<(), PayloadMismatch> {
    payload.check_parts(number, body.segments().map(|segment| &**segment))
}

fn check_length(payload: &Payload, number: u64, body: &Body) -> Result<(), PayloadMismatch> {
    let (expected, got) = (payload.size(), body.len());
    if got == expected { Ok(()) } else { Err(PayloadMismatch::Length { number, expected, got }) }
}

/// Takes one figure out of a driver's.
type Figure = fn(&DriverStats) -> u64;

/// The columns, each a figure that only grows.
const COLUMNS: [(&str, Figure); 9] = [
    ("messages", |stats| stats.packing.messages),
    ("sends", |stats| stats.sends),
    ("frames", |stats| stats.packing.frames),
    ("frame_bytes", |stats| stats.packing.frame_bytes),
    ("by_reference", |stats| stats.packing.bodies_by_reference),
    ("beside_head", |stats| stats.packing.bodies_beside_head),
    ("copies", |stats| stats.pool.body_copies),
    ("copied_bytes", |stats| stats.pool.body_copied_bytes),
    ("turns", |stats| stats.turns),
];

fn print(
    options: &CountsOptions,
    before: &[DriverStats; 3],
    after: &[DriverStats; 3],
) -> Result<(), BenchError> {
    let mut text = format!(
        "# {} bytes, {} round trips, {} in flight; what each end sent and did, a round trip\n{:<8}",
        options.size, options.messages, options.in_flight, "end"
    );
    COLUMNS.iter().for_each(|(name, _)| text.push_str(&format!(" {name:>12}")));
    text.push('\n');
    for (end, (before, after)) in ["client", "broker", "service"].iter().zip(before.iter().zip(after)) {
        text.push_str(&format!("{end:<8}"));
        for (_, figure) in COLUMNS {
            let each = (figure(after) - figure(before)) as f64 / options.messages as f64;
            text.push_str(&format!(" {each:>12.3}"));
        }
        text.push('\n');
    }
    let mut output = std::io::stdout();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).map_err(BenchError::io("print the table"))
}
