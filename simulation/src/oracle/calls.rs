//! Calls: each future ends once, in time, and with what can be true.

use super::{ActorId, Ledger};
use crate::coverage::Transition;
use crate::network::SECOND;

/// A call as its caller knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallRecord {
    client: ActorId,
    /// The broker or the service that it is connected to.
    peer: ActorId,
    /// Who may answer it.
    services: u64,
    begun_at: u64,
    timeout: u64,
    handled: u8,
    may_repeat: bool,
    end: Option<CallEnd>,
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
    /// A call begins; says its number. `services` has the bits of those that may answer it; with `may_repeat` it may be
    /// handled more than once.
    pub fn called(
        &mut self,
        client: ActorId,
        peer: ActorId,
        services: u64,
        timeout: u64,
        may_repeat: bool,
    ) -> u64 {
        let begun_at = self.now;
        let (handled, end) = (0, None);
        self.calls.push(CallRecord { client, peer, services, begun_at, timeout, handled, may_repeat, end });
        self.open_calls += 1;
        self.coverage.messages += 1;
        let number = self.calls.len() as u64 - 1;
        let Self { trace, names, now, .. } = self;
        trace.event(*now, client.0 as u64, 102, number, || format!("{:<9} calls {number}", names[client.0]));
        number
    }

    /// A service was given a request.
    pub fn handled(&mut self, service: ActorId, number: u64, is_redelivered: bool) {
        let Self { trace, names, now, .. } = self;
        trace.event(*now, service.0 as u64, 103, number, || {
            format!("{:<9} handles {number}", names[service.0])
        });
        let name = self.names[service.0].clone();
        let Some(call) = self.calls.get_mut(number as usize) else {
            return self.fail(format!("{name} was given a request {number} that nobody has made"));
        };
        call.handled = call.handled.saturating_add(1);
        if is_redelivered {
            self.coverage.transition(Transition::Redelivered);
        }
        if call.handled > 1 && !call.may_repeat && !is_redelivered {
            self.fail(format!("{name} was given request {number}, which had been handled before"));
        }
        self.coverage.messages += 1;
    }

    /// A call's future has ended, or was dropped.
    pub fn call_ended(&mut self, number: u64, end: CallEnd, why: &str) {
        let call = &mut self.calls[number as usize];
        let (client, handled) = (call.client, call.handled);
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
        let is_way_lost = self.have_parted_since(call.client, call.peer, call.begun_at);
        let services = (0..64).filter(|bit| call.services >> bit & 1 == 1).map(ActorId);
        let is_service_lost = |service| self.have_parted_since(service, call.peer, call.begun_at);
        let is_excused = is_way_lost || services.clone().any(is_service_lost);
        match call.end {
            None => Err("has not ended".to_owned()),
            Some(CallEnd::NotSent) if call.handled > 0 => {
                Err("ended as not sent, and was handled".to_owned())
            }
            Some(CallEnd::OutcomeUnknown) if !is_way_lost => {
                Err("ended with its outcome unknown, and no session of its client had ended".to_owned())
            }
            Some(CallEnd::TimedOut) if call.timeout >= PATIENCE && !is_excused => {
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
