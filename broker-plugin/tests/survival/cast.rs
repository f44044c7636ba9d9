//! The processes of a play: started, told, counted, stopped and killed by the test.

use crate::ledger::Ledger;
use crate::part::{Calls, Outcome, Part, Role, Times};
use crate::process::{Process, figure};
use crate::stage::Stage;
use crate::support::PATIENCE;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A process that plays a part. It is killed when it is dropped.
pub(crate) struct Actor {
    pub(crate) part: Part,
    child: Child,
    log: File,
    /// What it has written so far.
    text: String,
    /// Of it, what was looked at for outcomes, and how many there were.
    counted_bytes: usize,
    outcomes: usize,
    /// Where it was when the last fault struck.
    struck_at: usize,
}

impl Actor {
    /// Starts it and waits until it is connected.
    pub(crate) fn start(part: Part) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        part.give(&mut command);
        let child = command
            .args(["--exact", "part_of_another_test", "--nocapture", "--test-threads=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Its process appends; here is only read.
        File::options().append(true).create(true).open(&part.log).unwrap();
        let log = File::open(&part.log).unwrap();
        let mut actor =
            Self { part, child, log, text: String::new(), counted_bytes: 0, outcomes: 0, struck_at: 0 };
        actor.wait_until("it is ready", |log| log.lines().any(|line| line == "ready"));
        actor
    }

    /// Has it send so many messages more.
    pub(crate) fn tell(&mut self, messages: u32) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{messages}").unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// kill -9, and what it has left behind.
    pub(crate) fn kill(mut self) -> (Part, String) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.read();
        (self.part.clone(), std::mem::take(&mut self.text))
    }

    /// Its log so far.
    pub(crate) fn log(&mut self) -> &str {
        self.read();
        &self.text
    }

    /// How many requests of its own it knows the outcome of.
    fn outcomes(&mut self) -> usize {
        self.read();
        self.outcomes
    }

    /// Waits until its link with a broker is there again after the last fault.
    pub(crate) fn is_back_at(&mut self, broker: &str) {
        let (there, since) = (format!("event {broker}: the link "), self.struck_at);
        let is_back = |log: &str| log[since..].lines().any(|line| line.starts_with(&there));
        self.wait_until(&format!("a session with {broker}"), is_back);
    }

    /// Waits until its one session has a connection, or has lost it.
    pub(crate) fn wait_for_connection(&mut self, is_connected: bool) {
        let is_event = |line: &&str| line.starts_with("event ");
        let what = if is_connected { "a connection" } else { "the loss of its connection" };
        self.wait_until(what, |log| {
            let last = log.lines().rev().filter(is_event).find_map(|line| {
                let of = |text: &str| line.contains(text);
                if of("resumed over ") { Some(true) } else { of("interrupted: ").then_some(false) }
            });
            last.unwrap_or(true) == is_connected
        });
    }

    /// Waits until its session has gone on over these wires in turn, in all.
    pub(crate) fn wait_for_moves(&mut self, wires: &[&str]) {
        let wire = |line: &'_ str| Some(line.split_once("event resumed over ")?.1.to_owned());
        self.wait_until(&format!("going on over {wires:?}"), |log| {
            log.lines().filter_map(wire).eq(wires.iter().copied())
        });
    }

    /// Waits until its log is as it is to be.
    pub(crate) fn wait_until(&mut self, what: &str, mut is_so: impl FnMut(&str) -> bool) {
        self.wait(what, |actor| is_so(actor.log()));
    }

    /// Waits until it knows so many outcomes.
    pub(crate) fn wait_for_outcomes(&mut self, goal: u32) {
        self.wait(&format!("{goal} outcomes"), |actor| actor.outcomes() >= goal as usize);
    }

    fn wait(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so(self) {
            let (role, number) = (self.part.role, self.part.number);
            let last: Vec<&str> = self.text.lines().rev().take(20).collect();
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{role:?} {number} ended ({status}) before {what}: {last:#?}");
            }
            assert!(Instant::now() < end, "{role:?} {number} does not come to {what}: {last:#?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn read(&mut self) {
        let mut bytes = Vec::new();
        self.log.read_to_end(&mut bytes).unwrap();
        self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        let new = &self.text[self.counted_bytes..];
        // A line may be half there.
        let whole = new.rfind('\n').map_or(0, |at| at + 1);
        let is_outcome =
            |line: &&str| line.split(' ').next().is_some_and(|word| Outcome::parse(word).is_some());
        self.outcomes += new[..whole].lines().filter(is_outcome).count();
        self.counted_bytes += whole;
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // Already gone, as a rule; one that is stopped dies of it, too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All parts of a play, and what they have to show for themselves.
pub(crate) struct Cast {
    name: &'static str,
    source: Option<IpAddr>,
    brokers: Vec<String>,
    pub(crate) times: Times,
    pub(crate) calls: Calls,
    pub(crate) clients: Vec<Actor>,
    pub(crate) services: Vec<Actor>,
    /// Those that were killed.
    dead: Vec<(Part, String)>,
    /// Messages that each client was told to send.
    told: u32,
    started: Instant,
}

impl Cast {
    /// A play of this name, whose parts know these brokers, by their addresses.
    pub(crate) fn new(
        name: &'static str,
        stage: &Stage,
        brokers: &[&str],
        times: Times,
        calls: Calls,
    ) -> Self {
        Self {
            name,
            source: stage.source(),
            brokers: brokers.iter().map(|&broker| broker.to_owned()).collect(),
            times,
            calls,
            clients: Vec::new(),
            services: Vec::new(),
            dead: Vec::new(),
            told: 0,
            started: Instant::now(),
        }
    }

    pub(crate) fn part(&self, role: Role, number: u32) -> Part {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let log = format!("survival-{}-{}.log", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Part {
            role,
            number,
            source: self.source,
            brokers: self.brokers.clone(),
            calls: self.calls,
            standby: number.is_multiple_of(2),
            times: self.times,
            log: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(log),
        }
    }

    /// One more service.
    pub(crate) fn service(&mut self) {
        let number = (self.services.len() + self.dead.len()) as u32 + 1;
        let part = self.part(Role::Service, number);
        self.services.push(Actor::start(part));
    }

    /// One more client; the second keeps a session in reserve.
    pub(crate) fn client(&mut self, role: Role) {
        let part = self.part(role, self.clients.len() as u32 + 1);
        self.clients.push(Actor::start(part));
    }

    /// Kills a service.
    pub(crate) fn kill_service(&mut self, place: usize) -> u32 {
        let dead = self.services.remove(place).kill();
        let number = dead.0.number;
        self.dead.push(dead);
        number
    }

    /// Everybody who lives.
    pub(crate) fn actors(&mut self) -> impl Iterator<Item = &mut Actor> {
        self.services.iter_mut().chain(&mut self.clients)
    }

    /// Has each client send so many messages more, and strikes with each fault in its turn while they are under way.
    pub(crate) fn under_load(&mut self, messages: u32, faults: &[Fault<'_>]) {
        for client in &mut self.clients {
            client.tell(messages);
        }
        let parts = faults.len() as u32 + 1;
        for (place, fault) in faults.iter().enumerate() {
            let goal = self.told + messages / parts * (place as u32 + 1);
            self.clients[0].wait_for_outcomes(goal);
            for actor in self.actors() {
                actor.struck_at = actor.log().len();
            }
            fault(self);
        }
        self.told += messages;
        for client in &mut self.clients {
            client.wait_for_outcomes(self.told);
        }
    }

    /// Waits until every service, and every client in need of it, has a session with this broker again that was lost by
    /// the last fault.
    pub(crate) fn is_back_at(&mut self, broker: &str) {
        let needs_it = |actor: &&mut Actor| {
            actor.part.role == Role::Service || actor.part.standby || broker == actor.part.brokers[0]
        };
        for actor in self.services.iter_mut().chain(&mut self.clients).filter(needs_it) {
            actor.is_back_at(broker);
        }
    }

    /// The ledger of what has come of it, which is printed.
    pub(crate) fn ledger(&mut self) -> Ledger {
        let mut ledger = Ledger::new(self.name, self.calls);
        for client in &mut self.clients {
            let number = client.part.number;
            ledger.add_client(number, self.told, client.log());
        }
        for service in &mut self.services {
            let number = service.part.number;
            ledger.add_service(number, service.log());
        }
        for (part, log) in &self.dead {
            ledger.add_service(part.number, log);
        }
        println!("{ledger}  took          {}", self.took());
        ledger
    }

    /// How long it has taken so far.
    pub(crate) fn took(&self) -> String {
        format!("{:.1} s", self.started.elapsed().as_secs_f64())
    }
}

/// What happens to a cast.
pub(crate) type Fault<'a> = &'a dyn Fn(&mut Cast);

/// Ends a broker in order; the figures of these names in its report, which are printed.
pub(crate) fn figures<const N: usize>(broker: Process, names: [&str; N]) -> [u64; N] {
    let (status, report) = broker.stop();
    assert!(status.success(), "{status} {report}");
    names.map(|name| {
        let figure = figure(&report, name);
        println!("  {name:<28} {figure}");
        figure
    })
}

/// Waits until a figure of a broker's report is this one.
pub(crate) fn wait_for_figure(broker: &Process, name: &str, expected: u64) {
    let end = Instant::now() + PATIENCE;
    loop {
        broker.signal(Signal::SIGUSR1);
        std::thread::sleep(Duration::from_millis(20));
        let found = figure(&broker.log(), name);
        if found == expected {
            return;
        }
        assert!(Instant::now() < end, "{name} is {found} and does not come to {expected}");
    }
}
