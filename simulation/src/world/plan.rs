//! Who there is in a world, and what they are to do.

use crate::actors::{
    Actor, Birth, BrokerActor, ClientActor, ClientPlan, Consumer, Producer, ProducerPlan, Rebirth,
    ServiceActor, driver_config,
};
use crate::network::{MILLISECOND, SECOND};
use crate::oracle::ActorId;
use crate::random::Random;
use std::cell::Cell;
use std::rc::Rc;
use underlay::driver::DriverConfig;
use underlay_broker::Config;
use underlay_broker::config::{
    BrokerSettings, ConfigBuilder, LimitSettings, ListenerSettings, QueueSettings,
};

/// The queues of every broker: one-way messages, and requests.
const WORK: &str = "work";
const CALLS: &str = "calls";

/// The most producers of a queue, those that were cut off and are still believed to be there included.
pub(crate) const PRODUCERS_MAX: u64 = 16;

/// What a process is.
#[derive(Debug)]
enum Role {
    Broker,
    Producer(ProducerPlan),
    Consumer {
        broker: ActorId,
        settles: bool,
    },
    /// Behind brokers, or listening itself if there are none.
    Service {
        brokers: Vec<ActorId>,
    },
    Client(ClientPlan),
}

/// The kinds of process that can die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Broker,
    End,
    Service,
    Client,
}

/// The whole plan.
#[derive(Debug)]
pub(super) struct Plan {
    roles: Vec<Role>,
    names: Vec<String>,
    /// Nanoseconds for which the work lasts if nothing holds it up.
    pub(super) duration: u64,
    pub(super) config: DriverConfig,
    broker_config: Config,
}

impl Plan {
    /// What `random` says, and `more` of what was added later: a world without it is what it was before.
    pub(super) fn drawn(random: &mut Random, more: &mut Random) -> Self {
        let duration = random.within(SECOND..4 * SECOND);
        let mut plan = Self {
            roles: Vec::new(),
            names: Vec::new(),
            duration,
            config: driver_config(random),
            broker_config: broker_config(random),
        };
        let brokers: Vec<_> = (0..random.within(1..3)).map(|_| plan.add("broker", Role::Broker)).collect();
        for &broker in &brokers {
            // All of them, so that what is lost has been lost between other ends.
            let settles = more.once_in(2);
            for _ in 0..random.within(1..3) {
                plan.add("consumer", Role::Consumer { broker, settles });
            }
        }
        plan.add_producers(random, &brokers);
        plan.add_callers(random, &brokers, more);
        plan
    }

    fn add(&mut self, name: &str, role: Role) -> ActorId {
        let count = self.names.iter().filter(|other| other.starts_with(name)).count();
        self.names.push(format!("{name}{count}"));
        self.roles.push(role);
        ActorId(self.roles.len() - 1)
    }

    fn add_producers(&mut self, random: &mut Random, brokers: &[ActorId]) {
        let count = random.within(brokers.len() as u64..4);
        let messages = random.within(900..1_000) / count + 1;
        for number in 0..count as usize {
            let broker = brokers[number % brokers.len()];
            let burst_max = *random.one_of(&[1, 4, 16]);
            let left = Rc::new(Cell::new(messages as u32));
            let interval = self.interval(messages, burst_max);
            let queue = WORK.to_owned();
            self.add("producer", Role::Producer(ProducerPlan { broker, queue, left, interval, burst_max }));
        }
    }

    /// Services behind a broker, perhaps one that listens itself, and those who call them.
    fn add_callers(&mut self, random: &mut Random, brokers: &[ActorId], more: &mut Random) {
        let broker = *random.one_of(brokers);
        let names_several = more.once_in(2);
        let is_varied = names_several || more.once_in(3);
        let brokers = if names_several { brokers.to_vec() } else { vec![broker] };
        let behind: Vec<_> = (0..random.within(1..3))
            .map(|_| self.add("service", Role::Service { brokers: brokers.clone() }))
            .collect();
        let services = behind.iter().fold(0, |bits, service| bits | 1 << service.0);
        let mut ways = vec![(brokers, services)];
        if random.once_in(2) {
            let listening = self.add("service", Role::Service { brokers: Vec::new() });
            ways.push((vec![listening], 1 << listening.0));
        }
        let count = random.within(ways.len() as u64..4);
        let calls = random.within(150..200) / count + 1;
        for number in 0..count as usize {
            let (peers, services) = ways[number % ways.len()].clone();
            let burst_max = *random.one_of(&[1, 2, 8]);
            let left = Rc::new(Cell::new(calls as u32));
            let interval = self.interval(calls, burst_max);
            let destination = CALLS.to_owned();
            let is_behind = number.is_multiple_of(ways.len());
            let plan = ClientPlan {
                peers,
                names_several: names_several && is_behind,
                is_varied: is_varied && is_behind,
                destination,
                services,
                left,
                interval,
                burst_max,
            };
            self.add("client", Role::Client(plan));
        }
    }

    /// From one burst to the next, so that all of it lasts as long as the plan.
    fn interval(&self, messages: u64, burst_max: u64) -> u64 {
        let bursts = 2 * messages / (burst_max + 1);
        (self.duration / bursts.max(1)).max(MILLISECOND / 4)
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    pub(super) fn is_broker(&self, place: usize) -> bool {
        matches!(self.roles[place], Role::Broker)
    }

    pub(super) fn kind(&self, place: usize) -> Kind {
        match self.roles[place] {
            Role::Broker => Kind::Broker,
            Role::Producer(_) | Role::Consumer { .. } => Kind::End,
            Role::Service { .. } => Kind::Service,
            Role::Client(_) => Kind::Client,
        }
    }

    /// Whether everything that is to be sent was sent.
    pub(super) fn is_done(&self) -> bool {
        self.roles.iter().all(|role| match role {
            Role::Producer(plan) => plan.left.get() == 0,
            Role::Client(plan) => plan.left.get() == 0,
            Role::Broker | Role::Consumer { .. } | Role::Service { .. } => true,
        })
    }

    /// A life of a process.
    pub(super) fn start(&self, place: usize, birth: Birth, rebirth: Rebirth) -> Box<dyn Actor> {
        match &self.roles[place] {
            Role::Broker => Box::new(BrokerActor::start(birth, &self.broker_config)),
            Role::Producer(plan) => Box::new(Producer::start(birth, plan.clone())),
            Role::Consumer { broker, settles } => {
                Box::new(Consumer::start(birth, *broker, WORK.to_owned(), *settles))
            }
            Role::Service { brokers } => {
                Box::new(ServiceActor::start(birth, brokers.clone(), CALLS.to_owned(), rebirth))
            }
            Role::Client(plan) => Box::new(ClientActor::start(birth, plan.clone())),
        }
    }
}

/// Small bounds, so that they are met.
fn broker_config(random: &mut Random) -> Config {
    let queue = |name: &str, messages_max| QueueSettings {
        messages_max,
        producers_max: PRODUCERS_MAX,
        bytes_max: 1 << 20,
        // No message is given up because too many consumers died with it.
        redeliveries_max: 1_000,
        ..QueueSettings::named(name)
    };
    let limits = LimitSettings {
        link_messages_max: *random.one_of(&[8, 64, 512]),
        link_bytes_max: *random.one_of(&[4_096, 65_536]),
        congestion_messages: *random.one_of(&[16, 256]),
        ..LimitSettings::default()
    };
    let broker = BrokerSettings { drain_timeout_ms: 1_000, ..BrokerSettings::default() };
    ConfigBuilder::default()
        .broker(broker)
        .limits(limits)
        .listener(ListenerSettings::inproc("simulated"))
        .queue(queue(WORK, random.within(32..2_000)))
        .queue(queue(CALLS, random.within(32..500)))
        .build()
        .unwrap_or_else(|fault| panic!("the broker's configuration cannot work: {fault}"))
}
