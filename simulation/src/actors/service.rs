//! A service, as it is shipped: behind a broker, or listening itself.

use super::{Actor, Birth, Ear, Rest, addresses_of};
use crate::oracle::{ActorId, Oracle, is_body_of, number_of};
use crate::random::Random;
use std::io;
use std::time::Duration;
use underlay::driver::{Address, DriverConfig, Simulated};
use underlay::pool::Body;
use underlay::proto::ReplySecret;
use underlay::rpc::{ReplyDestination, Request, Service, ServiceConfig, ServiceError};
use underlay::time::Timestamp;

/// What answers.
type Answer = Box<dyn FnMut(&mut Request<'_>) -> Result<Body, ServiceError>>;

/// Makes what a process's driver gets, once more: each time that the service connects it has a new driver.
pub(crate) type Rebirth = Box<dyn FnMut(Timestamp) -> Simulated>;

/// A service's process.
pub(crate) struct ServiceActor {
    me: ActorId,
    oracle: Oracle,
    destination: String,
    /// The brokers that it is behind; none if it listens itself.
    brokers: Vec<ActorId>,
    ear: Ear,
    replies: ReplyDestination,
    config: DriverConfig,
    random: Random,
    rebirth: Rebirth,
    service: Option<Service<Answer>>,
    attempts: usize,
    retry_at: Timestamp,
    now: Timestamp,
    is_stopped: bool,
    /// How many sessions it had after its last turn.
    sessions: usize,
}

impl ServiceActor {
    pub(crate) fn start(birth: Birth, brokers: Vec<ActorId>, destination: String, rebirth: Rebirth) -> Self {
        let (process, now) = (birth.process(), birth.now);
        let (simulated, Rest { me, oracle, mut random, config, .. }) = birth.split();
        let replies = ReplyDestination::simulated(process, ReplySecret(random.bytes()), 1024);
        let attempts = random.place(2);
        let mut actor = Self {
            me,
            oracle,
            destination,
            brokers,
            ear: Ear::default(),
            replies,
            config,
            random,
            rebirth,
            service: None,
            attempts,
            retry_at: Timestamp::NEVER,
            now,
            is_stopped: false,
            sessions: 0,
        };
        actor.begin(simulated);
        actor
    }

    fn begin(&mut self, simulated: Simulated) {
        let addresses = self.addresses();
        self.attempts += 1;
        let config = ServiceConfig {
            name: "service".to_owned(),
            prefetch_messages: self.random.within(1..40) as u32,
            driver: self.config.clone(),
            events: Some(self.ear.listener()),
            ..ServiceConfig::default()
        };
        let instance = self.oracle.ledger().instance();
        let answer = answer(self.me, instance, self.oracle.clone(), self.random.fork());
        let (replies, destination) = (&self.replies, &self.destination);
        let is_behind = !self.brokers.is_empty();
        let service = simulated.during(|| {
            replies.during(|| {
                if is_behind {
                    Service::begin_connect_any(&addresses, destination, config, answer)
                } else {
                    Service::listen(&addresses[0], destination, config, answer).map(|(service, _)| service)
                }
            })
        });
        match service {
            Ok(service) => self.service = Some(service),
            Err(error) => self.oracle.ledger().fail(format!("a service does not start: {error}")),
        }
        self.retry_at = Timestamp::NEVER;
    }

    /// Where it listens, or finds its brokers: by another wire each time, and of several brokers in any order.
    fn addresses(&mut self) -> Vec<Address> {
        if self.brokers.len() < 2 {
            let wires = addresses_of(self.brokers.first().copied().unwrap_or(self.me));
            return vec![wires[self.attempts % wires.len()].clone()];
        }
        let wires = self.brokers.iter().map(|broker| addresses_of(*broker));
        let mut addresses: Vec<_> = wires.map(|wires| self.random.one_of(&wires).clone()).collect();
        self.random.shuffle(&mut addresses);
        addresses
    }

    /// Tells the oracle of sessions that have ended: nobody else sees those of a service that listens itself.
    fn count_sessions(&mut self) {
        let sessions = self.service.as_mut().map_or(0, |it| it.driver().parts().0.connections());
        if sessions < self.sessions {
            let mut ledger = self.oracle.ledger();
            let all = ledger.actors();
            match self.brokers.is_empty() {
                false => ledger.lost_session(self.me, self.brokers.iter().copied()),
                true => ledger.lost_session(self.me, all),
            }
        }
        self.sessions = sessions;
        if !self.ear.is_silent() {
            self.ear.report(self.me, &mut self.oracle.ledger());
        }
    }

    /// Begins again if it has ended.
    fn look_after(&mut self) {
        let Some(service) = &mut self.service else {
            if self.now >= self.retry_at {
                let simulated = (self.rebirth)(self.now);
                self.begin(simulated);
            }
            return;
        };
        // It says that it has ended only to those that run it; this runs it for no time at all.
        if let Err(error) = service.run_until(Some(Duration::ZERO), || false) {
            self.oracle.ledger().say(|| format!("a service has ended: {error}"));
            self.service = None;
            self.retry_at = self.now + Duration::from_micros(self.random.within(1_000..200_000));
        }
    }
}

/// Answers a request with its own body, or with a failure, as its number says.
fn answer(me: ActorId, instance: u32, oracle: Oracle, mut random: Random) -> Answer {
    Box::new(move |request| {
        let number = number_of(request.body()).unwrap_or(u64::MAX);
        let mut ledger = oracle.ledger();
        if !is_body_of(request.body(), number) {
            ledger.fail(format!("request {number} arrived with other bytes"));
        }
        ledger.handled(me, instance, number, request.head().redelivered);
        if random.once_in(16) {
            return Err(ServiceError { code: number as u32, text: "this one is not for me".to_owned() });
        }
        Ok(request.take_body())
    })
}

impl Actor for ServiceActor {
    fn turn(&mut self, now: Timestamp) -> io::Result<bool> {
        self.now = now;
        let found = match &mut self.service {
            Some(service) => {
                service.driver().set_time(now);
                service.turn()?
            }
            None => false,
        };
        self.count_sessions();
        if !found && !self.is_stopped {
            self.look_after();
        }
        Ok(found)
    }

    fn next_due(&mut self) -> Timestamp {
        let retry_at = if self.is_stopped { Timestamp::NEVER } else { self.retry_at };
        self.service.as_mut().map_or(retry_at, |service| service.driver().next_due())
    }

    fn close(&mut self) {
        self.is_stopped = true;
        // Dropped, it says good-bye; without that it would connect again.
        self.service = None;
    }

    fn is_closed(&mut self) -> bool {
        self.service.is_none()
    }

    fn leaks(&mut self) -> Vec<String> {
        Vec::new()
    }
}
