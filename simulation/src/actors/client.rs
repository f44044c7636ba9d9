//! A client, as it is shipped, and an application that calls by it.

use super::producer::{any_lane, any_length};
use super::{Actor, Birth, Rest, addresses_of};
use crate::network::{MICROSECOND, MILLISECOND, SECOND};
use crate::oracle::{ActorId, CallEnd, Oracle, is_body_of, write_body};
use crate::random::Random;
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use underlay::driver::{DriverConfig, Simulated};
use underlay::proto::ReplySecret;
use underlay::rpc::{CallError, CallFuture, Client, ClientConfig, Reply, ReplyDestination};
use underlay::time::Timestamp;

/// What a client is to call.
#[derive(Debug, Clone)]
pub(crate) struct ClientPlan {
    /// The broker, or the service that listens itself.
    pub(crate) peer: ActorId,
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
        let addresses = addresses_of(self.plan.peer);
        let address = self.random.one_of(&addresses);
        let config = ClientConfig { driver: self.config.clone(), ..ClientConfig::default() };
        let replies = &self.replies;
        let client = simulated.during(|| replies.during(|| Client::begin_connect(address, config)));
        match client {
            Ok(client) => self.client = Some(client),
            Err(error) => self.oracle.ledger().fail(format!("a client does not start: {error}")),
        }
    }

    /// Begins the calls that are due; true if there were any.
    fn call(&mut self) -> bool {
        if self.now < self.call_at || self.is_stopped {
            return false;
        }
        let Some(client) = &mut self.client else { return false };
        let burst = self.random.within(1..self.plan.burst_max + 1).min(self.plan.left.get().into());
        for _ in 0..burst {
            let bytes = any_length(&mut self.random);
            let timeout = match self.random.within(0..8) {
                0 => self.random.within(50 * MICROSECOND..20 * MILLISECOND),
                1 => 25 * SECOND,
                _ => self.random.within(200 * MILLISECOND..3 * SECOND),
            };
            let ClientPlan { peer, services, left, destination, .. } = &self.plan;
            let number = self.oracle.ledger().called(self.me, *peer, *services, timeout, false);
            let mut bytes_of = Vec::new();
            write_body(number, bytes, &mut bytes_of);
            let timeout = Duration::from_nanos(timeout);
            let Ok(body) = client.body(&bytes_of) else {
                self.oracle.ledger().call_ended(number, CallEnd::NotSent, "no buffer");
                continue;
            };
            let future = client.start(destination, body, any_lane(&mut self.random), timeout);
            let will_be_given_up = self.random.once_in(24);
            let deadline = self.now + timeout;
            self.calls.push(OpenCall { number, bytes, deadline, future, will_be_given_up });
            left.set(left.get() - 1);
        }
        let next = self.random.within(self.plan.interval / 2..self.plan.interval * 3 / 2);
        self.call_at = match self.plan.left.get() {
            0 => Timestamp::NEVER,
            _ => self.now + Duration::from_nanos(next),
        };
        burst > 0
    }

    /// Tells the oracle of a session that has ended.
    fn count_sessions(&mut self) {
        let sessions = self.client.as_mut().map_or(0, |it| it.driver().parts().0.connections());
        if sessions < self.sessions {
            self.oracle.ledger().lost_session(self.me, std::iter::once(self.plan.peer));
        }
        self.sessions = sessions;
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
        // Dropped, it says good-bye; without that it would connect again.
        self.client = None;
    }

    fn is_closed(&mut self) -> bool {
        self.client.is_none()
    }

    fn leaks(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Whoever dies waits for nothing.
impl Drop for ClientActor {
    fn drop(&mut self) {
        for call in &self.calls {
            self.oracle.ledger().call_ended(call.number, CallEnd::GivenUp, "its caller died");
        }
    }
}
