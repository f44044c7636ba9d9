//! What a process of the play does: a service, a client or a producer.

use crate::body::{self, Request};
use crate::{producer, taker};
use std::collections::VecDeque;
use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use underlay::driver::{Address, DriverConfig};
use underlay::pool::PoolConfig;
use underlay::proto::record::MessageKind;
use underlay::rpc::{
    CallError, CallFuture, CallOptions, Class, Client, ClientConfig, EventListener, Reply, Service,
    ServiceConfig, ServiceError,
};

/// Where they all meet.
pub(crate) const QUEUE: &str = "work";

/// Requests of a client on their way at once, and messages of a producer that wait to leave.
const WINDOW: usize = 64;

/// Longer than any fault lasts: a call that ends for this was lost.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Service,
    Client,
    Producer,
    /// Takes what was produced, as an application without calls does.
    Taker,
}

/// What the calls of a client are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Calls {
    /// All of them may be handled once only.
    Once,
    /// Every second one is idempotent, and one in ten of the others is gold.
    Mixed,
}

impl Calls {
    pub(crate) fn is_idempotent(self, number: u32) -> bool {
        self == Self::Mixed && number.is_multiple_of(2)
    }

    fn options(self, number: u32) -> CallOptions {
        let options = CallOptions::new(CALL_TIMEOUT);
        match self {
            Self::Mixed if number.is_multiple_of(2) => options.idempotent(),
            Self::Mixed if number % 10 == 3 => options.class(Class::Gold),
            _ => options,
        }
    }
}

/// The times that matter to what a fault comes to, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) idle_timeout_ms: u32,
    pub(crate) session_expiry_ms: u32,
    pub(crate) failover_after_ms: u32,
}

/// A part, as it is given to a process by its environment.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) role: Role,
    /// Among those of its role in this play.
    pub(crate) number: u32,
    /// From which address to connect over `rdma`.
    pub(crate) source: Option<IpAddr>,
    /// Addresses: of a broker each, or all of one broker for a part whose session changes wires.
    pub(crate) brokers: Vec<String>,
    pub(crate) calls: Calls,
    /// A client keeps a second session.
    pub(crate) standby: bool,
    pub(crate) times: Times,
    pub(crate) log: PathBuf,
}

const VARIABLE: &str = "UNDERLAY_SURVIVAL_PART";

impl Part {
    /// Has a process play it.
    pub(crate) fn give(&self, command: &mut Command) {
        let Times { idle_timeout_ms, session_expiry_ms, failover_after_ms } = self.times;
        let words = [
            format!("{:?}", self.role),
            self.number.to_string(),
            self.brokers.join(","),
            format!("{:?}", self.calls),
            self.standby.to_string(),
            idle_timeout_ms.to_string(),
            session_expiry_ms.to_string(),
            failover_after_ms.to_string(),
            self.source.map(|address| address.to_string()).unwrap_or_default(),
            self.log.display().to_string(),
        ];
        command.env(VARIABLE, words.join(";"));
    }

    /// The part that this process was given.
    pub(crate) fn given() -> Option<Self> {
        let words = std::env::var(VARIABLE).ok()?;
        let words: Vec<&str> = words.splitn(10, ';').collect();
        let number = |at: usize| words[at].parse().unwrap();
        Some(Self {
            role: match words[0] {
                "Service" => Role::Service,
                "Client" => Role::Client,
                "Producer" => Role::Producer,
                _ => Role::Taker,
            },
            number: number(1),
            brokers: words[2].split(',').map(str::to_owned).collect(),
            calls: if words[3] == "Mixed" { Calls::Mixed } else { Calls::Once },
            standby: words[4] == "true",
            times: Times {
                idle_timeout_ms: number(5),
                session_expiry_ms: number(6),
                failover_after_ms: number(7),
            },
            source: words[8].parse().ok(),
            log: words[9].into(),
        })
    }

    pub(crate) fn play(&self) {
        match self.role {
            Role::Service => self.serve(),
            Role::Client => self.ask(),
            Role::Producer => producer::produce(self),
            Role::Taker => taker::take(self),
        }
    }

    pub(crate) fn addresses(&self) -> Vec<Address> {
        self.brokers.iter().map(|address| address.parse().unwrap()).collect()
    }

    pub(crate) fn driver_config(&self) -> DriverConfig {
        let mut config = DriverConfig {
            pool: PoolConfig { slab_bytes: 1 << 20, huge_pages: false, ..PoolConfig::default() },
            ..DriverConfig::default()
        };
        config.connection.parameters.idle_timeout_ms = self.times.idle_timeout_ms;
        config.connection.parameters.keep_alive_ms = self.times.idle_timeout_ms / 5;
        // Connections are cut more often here than anywhere, and a short one makes the next one wait.
        (config.session.reconnect_min, config.session.reconnect_max) =
            (Duration::from_millis(10), Duration::from_millis(50));
        config.session.expiry = Duration::from_millis(self.times.session_expiry_ms.into());
        config.session.return_after = Duration::from_millis(500);
        if self.source.is_some() {
            over_rdma(&mut config, self.source);
        }
        config
    }

    /// Handles requests for ever, and says so of each before it answers.
    fn serve(&self) {
        let log = Log::open(self);
        goes_on_as_told();
        let config = ServiceConfig {
            attach_to: self.brokers.len(),
            failover_after: self.failover_after(),
            reconnect_max: Duration::from_millis(100),
            return_after: Duration::from_millis(300),
            events: Some(log.events()),
            prefetch_messages: 128,
            driver: self.driver_config(),
            ..ServiceConfig::default()
        };
        let (number, handled) = (self.number, log.clone());
        let answer = move |request: &mut underlay::rpc::Request<'_>| {
            let bytes = request.body().to_vec();
            let (client, asked) = body::request_of(&bytes);
            let marks = (u8::from(request.is_redelivered()), u8::from(request.head().copies));
            handled.line(format_args!("handled {client} {asked} {} {}", marks.0, marks.1));
            let is_request = request.head().kind == MessageKind::Request;
            if is_request && body::fails((client, asked)) {
                return Err(ServiceError { code: asked, text: "as it is asked to".to_owned() });
            }
            request.reply(&body::of_reply(number, &bytes))
        };
        let mut service = Service::connect_any(&self.addresses(), QUEUE, config, answer).unwrap();
        log.line("ready");
        service.run().unwrap();
    }

    /// Asks as often as it is told to, and says what came of each request.
    fn ask(&self) {
        let log = Log::open(self);
        let allowed = goes_on_as_told();
        let config = ClientConfig {
            failover_after: self.failover_after(),
            reconnect_max: Duration::from_millis(100),
            return_after: Duration::from_millis(300),
            standby: self.standby,
            events: Some(log.events()),
            driver: self.driver_config(),
            ..ClientConfig::default()
        };
        let mut client = Client::connect_any(&self.addresses(), config).unwrap();
        log.line("ready");
        let (mut begun, mut waiting) = (0, VecDeque::new());
        loop {
            while waiting.len() < WINDOW && begun < allowed.load(Ordering::Acquire) {
                begun += 1;
                let body = client.body(&body::of_request((self.number, begun))).unwrap();
                let call = client.start_with_options(QUEUE, body, self.calls.options(begun));
                waiting.push_back((begun, call));
            }
            for (number, outcome) in outcomes(&mut client, &mut waiting) {
                log.line(Outcome::of((self.number, number), outcome));
            }
        }
    }

    fn failover_after(&self) -> Duration {
        Duration::from_millis(self.times.failover_after_ms.into())
    }
}

/// Has a driver connect from this address and find out at once about a send that has no receive request. It has few of
/// those, so that it starts quickly and comes to their end.
pub(crate) fn over_rdma(config: &mut DriverConfig, source: Option<IpAddr>) {
    config.rdma.source = source;
    config.rdma.receiver_not_ready_retry_count = 0;
    config.rdma.receive_slots_max = 256;
}

/// The calls that have ended, after a while at most.
fn outcomes(
    client: &mut Client,
    waiting: &mut VecDeque<(u32, CallFuture)>,
) -> Vec<(u32, Result<Reply, CallError>)> {
    // Being told to go on does not wake the driver.
    const WHILE: Duration = Duration::from_millis(20);
    let mut ended = Vec::new();
    let mut take = || {
        waiting.retain_mut(|(number, call)| match call.try_take() {
            Some(outcome) => {
                ended.push((*number, outcome));
                false
            }
            None => true,
        });
        !ended.is_empty()
    };
    client.run_until(Some(WHILE), &mut take).unwrap();
    ended
}

/// What a client knows of a request; a line of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered,
    Failed,
    NotSent,
    Unknown,
}

impl Outcome {
    fn of(request: Request, outcome: Result<Reply, CallError>) -> String {
        let number = request.1;
        match outcome {
            Ok(reply) => {
                let service = body::check_reply(&reply.body().to_vec(), request);
                format!("answered {number} {service}")
            }
            Err(CallError::Service(error)) => {
                assert_eq!(error.code, number, "another request's failure: {error}");
                format!("failed {number}")
            }
            Err(error) if error.is_safe_to_retry() => format!("not-sent {number} {error}"),
            Err(error) => format!("unknown {number} {error}"),
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "answered" => Self::Answered,
            "failed" => Self::Failed,
            "not-sent" => Self::NotSent,
            "unknown" => Self::Unknown,
            _ => return None,
        })
    }
}

/// A part's log. Each line is with the kernel when it was written, so that it outlives its process.
#[derive(Debug, Clone)]
pub(crate) struct Log(Arc<File>);

impl Log {
    pub(crate) fn open(part: &Part) -> Self {
        Self(Arc::new(OpenOptions::new().append(true).create(true).open(&part.log).unwrap()))
    }

    pub(crate) fn line(&self, line: impl Display) {
        self.0.as_ref().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn events(&self) -> EventListener {
        let log = self.clone();
        EventListener::new(move |event| log.line(format_args!("event {event}")))
    }
}

/// How many messages this process may send by now, as its stdin says line by line. It ends with its stdin.
pub(crate) fn goes_on_as_told() -> Arc<AtomicU32> {
    let allowed = Arc::new(AtomicU32::new(0));
    let told = allowed.clone();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            told.fetch_add(line.parse().unwrap(), Ordering::Release);
        }
        std::process::exit(0);
    });
    allowed
}
