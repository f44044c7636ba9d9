//! Calls: each future ends once, in time, and with what can be true.

use super::{ActorId, Ledger};
use crate::coverage::Transition;
use crate::network::SECOND;

/// A call as its caller begins it.
#[derive(Debug, Clone, Copy)]
pub struct Calling {
    /// Who calls.
    pub client: ActorId,
    /// The brokers or the service that it is connected to, as bits.
    pub peers: u64,
    /// Who may answer it, as bits.
    pub services: u64,
    /// It ends after so many nanoseconds.
    pub timeout: u64,
    /// It does not wait for a session that is interrupted, but ends with its outcome unknown.
    pub is_given_up_early: bool,
    /// So many copies of it may be sent: 255 is any number.
    pub copies_max: u8,
}

/// A call, and what became of it.
#[derive(Debug, Clone)]
pub(super) struct CallRecord {
    calling: Calling,
    begun_at: u64,
    handlings: Vec<Handling>,
    end: Option<CallEnd>,
}

/// A service was given it.
#[derive(Debug, Clone, Copy)]
struct Handling {
    instance: u32,
    is_redelivered: bool,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallEnd {
    /// With the reply that was expected.
    Answered,
    /// With another reply.
    Garbled,
    /// With the service's own error.
    Failed,
    /// It was certainly not sent.
    NotSent,
    /// No reply came in time.
    TimedOut,
    /// The way to the service was lost.
    OutcomeUnknown,
    /// The caller gave it up, or died.
    GivenUp,
}

/// A call with so much time is answered unless something between its ends was lost: nothing here lasts so long.
const PATIENCE: u64 = 40 * SECOND;

impl Ledger {
    /// A call begins; says its number.
    pub fn called(&mut self, calling: Calling) -> u64 {
        let client = calling.client;
        let (begun_at, handlings, end) = (self.now, Vec::new(), None);
        self.calls.push(CallRecord { calling, begun_at, handlings, end });
        self.open_calls += 1;
        self.coverage.messages += 1;
        let number = self.calls.len() as u64 - 1;
        let Self { trace, names, now, .. } = self;
        trace.event(*now, client.0 as u64, 102, number, || format!("{:<9} calls {number}", names[client.0]));
        number
    }

    /// A service begins, which knows nothing of those before; says its number.
    pub fn instance(&mut self) -> u32 {
        self.instances += 1;
        self.instances
    }

    /// A service was given a request.
    pub fn handled(&mut self, service: ActorId, instance: u32, number: u64, is_redelivered: bool) {
        let Self { trace, names, now, .. } = self;
        trace.event(*now, service.0 as u64, 103, number, || {
            let marked = if is_redelivered { ", redelivered" } else { "" };
            format!("{:<9} handles {number}{marked}", names[service.0])
        });
        self.coverage.messages += 1;
        if is_redelivered {
            self.coverage.transition(Transition::Redelivered);
        }
        if let Err(wrong) = self.check_handled(Handling { instance, is_redelivered }, number) {
            let name = self.name(service).to_owned();
            self.fail(format!("{name} was given request {number}, {wrong}"));
        }
    }

    fn check_handled(&mut self, handling: Handling, number: u64) -> Result<(), String> {
        let Some(call) = self.calls.get_mut(number as usize) else {
            return Err("which nobody has made".to_owned());
        };
        call.handlings.push(handling);
        let copies_max = call.calling.copies_max;
        // What is marked, and every copy of what may have copies, is remembered by whoever has handled it.
        let is_remembered = |it: &Handling| it.is_redelivered || copies_max > 1;
        let is_again = |it: &&Handling| it.instance == handling.instance && is_remembered(it);
        if is_remembered(&handling) && call.handlings.iter().filter(is_again).count() > 1 {
            return Err("which it had handled itself before".to_owned());
        }
        // A broker that gives out again what somebody may have had says so. Whoever was away for longer than its session
        // lives finds the unmarked one after others were given it, marked.
        let unmarked = call.handlings.iter().filter(|it| !it.is_redelivered).count();
        if copies_max < u8::MAX && unmarked > copies_max.into() {
            return Err(format!("which had been handled before, unmarked {unmarked} times"));
        }
        let call = &self.calls[number as usize];
        if handling.is_redelivered && !self.has_lost_a_service(call) {
            return Err("marked as redelivered, and no service had lost its session".to_owned());
        }
        Ok(())
    }

    /// Whether one of those that may answer a call has parted from one of its peers since it began.
    fn has_lost_a_service(&self, call: &CallRecord) -> bool {
        let Calling { services, peers, .. } = call.calling;
        // One that leaves in order gives back what reaches it behind the end of its link.
        let has_left = |service: ActorId| self.left[service.0].is_some_and(|left| left >= call.begun_at);
        let has_lost = |service| bits(peers).any(|peer| self.have_parted_since(service, peer, call.begun_at));
        bits(services).any(|service| has_left(service) || has_lost(service))
    }

    /// A call's future has ended, or was dropped.
    pub fn call_ended(&mut self, number: u64, end: CallEnd, why: &str) {
        let call = &mut self.calls[number as usize];
        let (client, handled) = (call.calling.client, call.handlings.len());
        if let Some(before) = call.end.replace(end) {
            return self.fail(format!("call {number} has ended twice: {before:?} and {end:?}"));
        }
        self.open_calls -= 1;
        let transition = match end {
            CallEnd::Garbled => return self.fail(format!("call {number} was answered with something else")),
            CallEnd::Answered | CallEnd::Failed if handled == 0 => {
                return self.fail(format!("call {number} was answered and nobody had handled it: {why}"));
            }
            CallEnd::NotSent if handled > 0 => {
                return self.fail(format!("call {number} ended as not sent, and was handled: {why}"));
            }
            CallEnd::Answered => Transition::Answered,
            CallEnd::Failed => Transition::ServiceFailed,
            CallEnd::NotSent => Transition::NotSent,
            CallEnd::TimedOut => Transition::TimedOut,
            CallEnd::OutcomeUnknown => Transition::OutcomeUnknown,
            CallEnd::GivenUp => Transition::Cancelled,
        };
        self.coverage.transition(transition);
        let Self { trace, names, now, .. } = self;
        trace.event(*now, client.0 as u64, 104, number, || {
            format!("{:<9} {number} {end:?}: {why}", names[client.0])
        });
    }

    /// How many calls have not ended.
    pub fn open_calls(&self) -> usize {
        self.open_calls
    }

    /// Every call has ended, and in a way that agrees with who handled it and with what happened on its way.
    pub(super) fn check_calls(&mut self) {
        for number in 0..self.calls.len() {
            if let Err(wrong) = self.check_call(&self.calls[number]) {
                return self.fail(format!("call {number} {wrong}"));
            }
        }
    }

    fn check_call(&self, call: &CallRecord) -> Result<(), String> {
        let Calling { client, peers, timeout, is_given_up_early, .. } = call.calling;
        let is_way_lost = bits(peers).any(|peer| self.have_parted_since(client, peer, call.begun_at))
            || (is_given_up_early
                && bits(peers).any(|peer| self.was_interrupted_since(client, peer, call.begun_at)));
        let is_excused = is_way_lost || self.has_lost_a_service(call);
        match call.end {
            None => Err("has not ended".to_owned()),
            Some(CallEnd::NotSent) if !call.handlings.is_empty() => {
                Err("ended as not sent, and was handled".to_owned())
            }
            Some(CallEnd::OutcomeUnknown) if !is_way_lost => {
                Err("ended with its outcome unknown, and no session of its client had ended".to_owned())
            }
            Some(CallEnd::TimedOut) if timeout >= PATIENCE && !is_excused => {
                Err("had ample time and was not answered, and nothing on its way had ended".to_owned())
            }
            Some(_) => Ok(()),
        }
    }

    /// Everything that must be true when all is over.
    pub fn check_end(&mut self) {
        self.check_messages();
        self.check_calls();
    }

    /// Counts of the outcomes: calls that were begun, and those that ended in each way.
    pub fn outcomes(&self) -> (usize, [usize; 3]) {
        let count = |is: fn(CallEnd) -> bool| {
            self.calls.iter().filter_map(|call| call.end).filter(|end| is(*end)).count()
        };
        let answered = count(|end| matches!(end, CallEnd::Answered | CallEnd::Garbled));
        let failed = count(|end| matches!(end, CallEnd::Failed | CallEnd::NotSent));
        let in_doubt =
            count(|end| matches!(end, CallEnd::TimedOut | CallEnd::OutcomeUnknown | CallEnd::GivenUp));
        (self.calls.len(), [answered, failed, in_doubt])
    }
}

/// The processes of these bits.
fn bits(bits: u64) -> impl Iterator<Item = ActorId> + Clone {
    (0..64).filter(move |bit| bits >> bit & 1 == 1).map(ActorId)
}
