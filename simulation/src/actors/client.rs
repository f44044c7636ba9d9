//! A client, as it is shipped, and an application that calls by it.

use super::producer::{any_lane, any_length};
use super::{Actor, BUFFERS_KEPT, Birth, Ear, Rest, addresses_of};
use crate::coverage::Transition;
use crate::network::{MICROSECOND, MILLISECOND, SECOND};
use crate::oracle::{ActorId, CallEnd, Calling, Oracle, is_body_of, write_body};
use crate::random::Random;
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use underlay::driver::{Address, DriverConfig, Simulated};
use underlay::proto::ReplySecret;
use underlay::rpc::{
    CallError, CallFuture, CallOptions, Class, Client, ClientConfig, Reply, ReplyDestination,
};
use underlay::time::Timestamp;

/// What a client is to call.
#[derive(Debug, Clone)]
pub(crate) struct ClientPlan {
    /// The brokers, or the service that listens itself.
    pub(crate) peers: Vec<ActorId>,
    /// It names several addresses, of one peer if there is but one.
    pub(crate) names_several: bool,
    /// It calls in all classes, and some calls may be sent again.
    pub(crate) is_varied: bool,
    pub(crate) destination: String,
    /// Who may answer, as bits.
    pub(crate) services: u64,
    /// Calls that are left; all lives of the process share it.
    pub(crate) left: Rc<Cell<u32>>,
    pub(crate) interval: u64,
    pub(crate) burst_max: u64,
}

/// A future that has not ended this long after its time was over has been forgotten.
const LATE: Duration = Duration::from_millis(5);

/// A client's process.
pub(crate) struct ClientActor {
    me: ActorId,
    oracle: Oracle,
    plan: ClientPlan,
    replies: ReplyDestination,
    config: DriverConfig,
    random: Random,
    ear: Ear,
    client: Option<Client>,
    call_at: Timestamp,
    calls: Vec<OpenCall>,
    now: Timestamp,
    is_stopped: bool,
    /// How many sessions it had after its last turn.
    sessions: usize,
}

struct OpenCall {
    number: u64,
    bytes: usize,
    deadline: Timestamp,
    future: CallFuture,
    will_be_given_up: bool,
}

impl ClientActor {
    pub(crate) fn start(birth: Birth, plan: ClientPlan) -> Self {
        let (process, now) = (birth.process(), birth.now);
        let (simulated, Rest { me, oracle, mut random, config }) = birth.split();
        let replies = ReplyDestination::simulated(process, ReplySecret(random.bytes()), 1024);
        let call_at = now + Duration::from_nanos(plan.interval);
        let mut actor = Self {
            me,
            oracle,
            plan,
            replies,
            config,
            random,
            ear: Ear::default(),
            client: None,
            call_at,
            calls: Vec::new(),
            now,
            is_stopped: false,
            sessions: 0,
        };
        actor.begin(simulated);
        actor
    }

    fn begin(&mut self, simulated: Simulated) {
        let addresses = self.addresses();
        let mut config = ClientConfig {
            driver: self.config.clone(),
            events: Some(self.ear.listener()),
            ..ClientConfig::default()
        };
        if self.plan.names_several {
            config.failover_after = Duration::from_millis(*self.random.one_of(&[100, 400, 1_000]));
            config.return_after = Duration::from_millis(self.random.within(200..2_000));
            config.standby = self.random.once_in(2);
        }
        let replies = &self.replies;
        let client = simulated.during(|| replies.during(|| Client::begin_connect_any(&addresses, config)));
        match client {
            Ok(client) => self.client = Some(client),
            Err(error) => self.oracle.ledger().fail(format!("a client does not start: {error}")),
        }
    }

    /// Where it is to find its peers, in order of preference.
    fn addresses(&mut self) -> Vec<Address> {
        let wires = self.plan.peers.iter().map(|peer| addresses_of(*peer));
        let mut addresses: Vec<Address> = if !self.plan.names_several {
            wires.take(1).map(|wires| self.random.one_of(&wires).clone()).collect()
        } else if self.plan.peers.len() == 1 || self.random.once_in(3) {
            wires.flatten().collect()
        } else {
            wires.map(|wires| self.random.one_of(&wires).clone()).collect()
        };
        if addresses.len() > 1 {
            self.random.shuffle(&mut addresses);
        }
        addresses
    }

    /// How the next call is to be made.
    fn options(&mut self, timeout: Duration) -> CallOptions {
        let options = CallOptions::new(timeout);
        if !self.plan.is_varied {
            return options.class(any_lane(&mut self.random).into());
        }
        let classes = [Class::Gold, Class::Gold, Class::Silver, Class::Normal, Class::Bronze];
        let options = options.class(*self.random.one_of(&classes));
        if self.random.once_in(2) { options.idempotent() } else { options }
    }

    /// Begins the calls that are due; true if there were any.
    fn call(&mut self) -> bool {
        if self.now < self.call_at || self.is_stopped {
            return false;
        }
        let burst = self.random.within(1..self.plan.burst_max + 1).min(self.plan.left.get().into());
        for _ in 0..burst {
            self.call_once();
        }
        let next = self.random.within(self.plan.interval / 2..self.plan.interval * 3 / 2);
        self.call_at = match self.plan.left.get() {
            0 => Timestamp::NEVER,
            _ => self.now + Duration::from_nanos(next),
        };
        burst > 0
    }

    fn call_once(&mut self) {
        let bytes = any_length(&mut self.random);
        let nanoseconds = match self.random.within(0..8) {
            0 => self.random.within(50 * MICROSECOND..20 * MILLISECOND),
            1 => 25 * SECOND,
            _ => self.random.within(200 * MILLISECOND..3 * SECOND),
        };
        let timeout = Duration::from_nanos(nanoseconds);
        let options = self.options(timeout);
        let number = self.oracle.ledger().called(Calling {
            client: self.me,
            peers: self.plan.peers.iter().fold(0, |bits, peer| bits | 1 << peer.0),
            services: self.plan.services,
            timeout: nanoseconds,
            is_given_up_early: self.plan.names_several,
            copies_max: match (options.idempotent, options.class) {
                (true, _) => u8::MAX,
                (false, Class::Gold) => 2,
                (false, _) => 1,
            },
        });
        let mut bytes_of = Vec::new();
        write_body(number, bytes, &mut bytes_of);
        let Some(client) = &mut self.client else { return };
        let Ok(body) = client.body(&bytes_of) else {
            return self.oracle.ledger().call_ended(number, CallEnd::NotSent, "no buffer");
        };
        let future = client.start_with_options(&self.plan.destination, body, options);
        let will_be_given_up = self.random.once_in(24);
        let deadline = self.now + timeout;
        self.calls.push(OpenCall { number, bytes, deadline, future, will_be_given_up });
        self.plan.left.set(self.plan.left.get() - 1);
    }

    /// Tells the oracle of a session that has ended.
    fn count_sessions(&mut self) {
        let sessions = self.client.as_mut().map_or(0, |it| it.driver().parts().0.connections());
        if sessions < self.sessions {
            // Where there are several, it says itself which one it has lost.
            if !self.plan.names_several {
                self.oracle.ledger().lost_session(self.me, self.plan.peers.iter().copied());
            }
        }
        self.sessions = sessions;
        if !self.ear.is_silent() {
            self.ear.report(self.me, &mut self.oracle.ledger());
        }
    }

    /// Says what it did, and lets go of it: dropped, it says good-bye, and without that it would connect again.
    fn let_go(&mut self) {
        let Some(mut client) = self.client.take() else { return };
        let stats = client.call_stats();
        let coverage = &mut self.oracle.ledger().coverage;
        coverage.transitions(Transition::Resent, stats.resent);
        coverage.transitions(Transition::Raced, stats.races);
        coverage.transitions(Transition::RaceDuplicate, stats.race_duplicates);
        coverage.transitions(Transition::Failover, stats.failovers);
    }

    /// Takes what has ended.
    fn collect(&mut self) {
        let (now, oracle) = (self.now, &self.oracle);
        let random = &mut self.random;
        self.calls.retain_mut(|call| {
            if let Some(outcome) = call.future.try_take() {
                let (end, why) = classify(call, outcome);
                oracle.ledger().call_ended(call.number, end, &why);
                return false;
            }
            if call.will_be_given_up && random.once_in(8) {
                oracle.ledger().call_ended(call.number, CallEnd::GivenUp, "dropped");
                return false;
            }
            if now > call.deadline + LATE {
                oracle.ledger().fail(format!("call {} has not ended though its time is over", call.number));
            }
            true
        });
    }
}

fn classify(call: &OpenCall, outcome: Result<Reply, CallError>) -> (CallEnd, String) {
    match outcome {
        Ok(reply) if reply.body().len() == call.bytes && is_body_of(reply.body(), call.number) => {
            (CallEnd::Answered, String::new())
        }
        Err(CallError::Service(error)) if error.code == call.number as u32 => {
            (CallEnd::Failed, error.to_string())
        }
        Ok(_) | Err(CallError::Service(_)) => (CallEnd::Garbled, String::new()),
        Err(error @ CallError::TimedOut(_)) => (CallEnd::TimedOut, error.to_string()),
        Err(error) if error.is_safe_to_retry() => (CallEnd::NotSent, error.to_string()),
        Err(error) => (CallEnd::OutcomeUnknown, error.to_string()),
    }
}

impl Actor for ClientActor {
    fn turn(&mut self, now: Timestamp) -> io::Result<bool> {
        self.now = now;
        if let Some(client) = &mut self.client {
            client.driver().set_time(now);
        }
        let mut found = self.call();
        if let Some(client) = &mut self.client {
            found |= client.turn()?;
        }
        self.count_sessions();
        self.collect();
        Ok(found)
    }

    fn next_due(&mut self) -> Timestamp {
        let own = match &self.client {
            Some(_) if !self.is_stopped => self.call_at,
            _ => Timestamp::NEVER,
        };
        self.client.as_mut().map_or(own, |client| own.min(client.driver().next_due()))
    }

    fn close(&mut self) {
        self.is_stopped = true;
        self.let_go();
    }

    fn is_closed(&mut self) -> bool {
        self.client.is_none()
    }

    fn unrest(&mut self) -> Option<String> {
        // Services keep what they have answered of calls that may come again, which may lie in the caller's buffers.
        let client = self.client.as_mut().filter(|_| !self.plan.is_varied)?;
        let pool = client.driver().parts().0.pool();
        pool.reclaim();
        let buffers_out = pool.stats().buffers_out;
        (buffers_out > BUFFERS_KEPT).then(|| format!("{buffers_out} buffers are out"))
    }

    fn leaks(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Whoever dies waits for nothing.
impl Drop for ClientActor {
    fn drop(&mut self) {
        self.let_go();
        for call in &self.calls {
            self.oracle.ledger().call_ended(call.number, CallEnd::GivenUp, "its caller died");
        }
    }
}
