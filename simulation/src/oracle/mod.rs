//! Who knows what must be true: a ledger beside the code under test, which shares nothing with it.
//!
//! Applications say here what they sent, before anybody else knows of it, and what they were given. The ledger says at
//! once when something is wrong: a message that comes twice, out of its order, or with other bytes; a future that ends
//! twice or with something impossible; a call that was reported as not sent and was handled. At the end it says what is
//! missing without an excuse.
//!
//! An excuse is that a process died, or that a session ended, at a time when the message could have been on its way
//! between the two. While sessions end with their connections that excuses much; when they outlive them
//! ([`SESSIONS_OUTLIVE_CONNECTIONS`]), a connection that is cut ends no session, and so excuses nothing.
//!
//! What it must never know: how any of it is done.

mod calls;
mod messages;

pub use calls::{CallEnd, Calling};
pub use messages::{BODY_BYTES_MIN, Settling, expected_bytes};
pub(crate) use messages::{is_body_of, number_of, write_body};

use crate::coverage::{Coverage, Fault, SESSIONS_OUTLIVE_CONNECTIONS, Transition};
use crate::trace::Trace;
use calls::CallRecord;
use messages::{OneWay, Reception};
use std::cell::{RefCell, RefMut};
use std::rc::Rc;
use underlay::connection::CloseReason;
use underlay::proto::control::RefusalCode;
use underlay::proto::handshake::RefusalReason;

/// The oracle of a run; clones are the same one.
#[derive(Debug, Clone)]
pub struct Oracle(Rc<RefCell<Ledger>>);

/// Names a process of the world, through all its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActorId(pub usize);

/// All that is known.
#[derive(Debug)]
pub struct Ledger {
    /// The present moment of the network.
    pub now: u64,
    /// What was met.
    pub coverage: Coverage,
    trace: Trace,
    names: Vec<String>,
    failure: Option<String>,
    /// For each two processes, when a session between them last ended at either end, or one of them died.
    parted: Vec<Option<u64>>,
    /// When each process was asked to leave last.
    left: Vec<Option<u64>>,
    /// For each two processes, when the first one last saw a session with the second one come up.
    opened: Vec<u64>,
    /// For each two processes, when a session of the first one with the second one last lost its connection.
    interrupted: Vec<Option<u64>>,
    /// For each process, when it last died.
    died: Vec<Option<u64>>,
    /// For each two processes, whether the first one is closing its sessions with the second one.
    closing: Vec<bool>,
    /// Services there have been.
    instances: u32,
    messages: Vec<OneWay>,
    /// How many of them were not delivered yet.
    missing: usize,
    senders: Vec<Sender>,
    receptions: Vec<Reception>,
    calls: Vec<CallRecord>,
    open_calls: usize,
}

/// One session over which a process sends one-way messages: what has an order.
#[derive(Debug, Clone, Copy)]
struct Sender {
    actor: ActorId,
    broker: ActorId,
    next: [u32; underlay::proto::LANES],
}

impl Oracle {
    /// An oracle that knows these processes and nothing else.
    pub fn new(names: Vec<String>, is_printed: bool) -> Self {
        Self(Rc::new(RefCell::new(Ledger {
            now: 0,
            coverage: Coverage::of_one_seed(),
            trace: Trace::new(is_printed),
            parted: vec![None; names.len() * names.len()],
            left: vec![None; names.len()],
            opened: vec![0; names.len() * names.len()],
            interrupted: vec![None; names.len() * names.len()],
            died: vec![None; names.len()],
            closing: vec![false; names.len() * names.len()],
            instances: 0,
            names,
            failure: None,
            messages: Vec::with_capacity(2_048),
            missing: 0,
            senders: Vec::new(),
            receptions: Vec::new(),
            calls: Vec::with_capacity(512),
            open_calls: 0,
        })))
    }

    /// To say something, or to look something up.
    pub fn ledger(&self) -> RefMut<'_, Ledger> {
        self.0.borrow_mut()
    }
}

/// What ends a connection and must not end a session.
fn is_of_connection(reason: &CloseReason) -> bool {
    matches!(
        reason,
        CloseReason::Channel(_)
            | CloseReason::PeerSilent(_)
            | CloseReason::PeerNotReading(_)
            | CloseReason::FrameTimeout(_)
            | CloseReason::BulkTimeout(_)
            | CloseReason::ReadFailed { .. }
            | CloseReason::OffersNotTaken(_)
    )
}

/// How a connection ended that nobody closed.
fn end_of_connection(reason: &CloseReason) -> Transition {
    match reason {
        CloseReason::FrameTimeout(_) | CloseReason::BulkTimeout(_) => Transition::Unfinished,
        CloseReason::PeerSilent(_) => Transition::PeerSilent,
        CloseReason::PeerNotReading(_) => Transition::PeerNotReading,
        _ => Transition::ChannelEnded,
    }
}

impl Ledger {
    /// Something is wrong. The first failure counts; what follows from it does not.
    pub fn fail(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.trace.say(self.now, || format!("FAILED: {what}"));
        self.failure.get_or_insert(what);
    }

    /// What is wrong, if anything.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The hash of all that was said, and how many events that were.
    pub fn trace(&self) -> (u64, u64) {
        (self.trace.hash(), self.trace.events())
    }

    /// The name of a process.
    pub fn name(&self, actor: ActorId) -> &str {
        &self.names[actor.0]
    }

    /// A line for somebody who reads along.
    pub fn say(&self, describe: impl FnOnce() -> String) {
        self.trace.say(self.now, describe);
    }

    /// A fault happened.
    pub fn fault(&mut self, fault: Fault, who: usize, describe: impl FnOnce() -> String) {
        self.coverage.fault(fault);
        self.trace.event(self.now, who as u64, fault as u64, 0, || format!("*** {fault:?} {}", describe()));
    }

    /// A session between two processes came up, as one of them sees it.
    pub fn opened(&mut self, at: ActorId, with: ActorId) {
        let count = self.names.len();
        let (place, theirs) = (at.0 * count + with.0, self.opened[with.0 * count + at.0]);
        // The end that was connected to has opened it before this one hears of it, and may have died since.
        self.opened[place] = if theirs > self.opened[place] { theirs } else { self.now };
        self.coverage.transition(Transition::Opened);
        self.event(at, Transition::Opened, 0);
    }

    /// A session has ended, or never came up, as one end sees it; `with` is the other one if it had come up.
    pub fn closed(&mut self, at: ActorId, with: Option<ActorId>, reason: &CloseReason) {
        let transition = match reason {
            // A hello that was on its way for so long that a later one of the same client has overtaken it.
            CloseReason::HandshakeRefused(RefusalReason::Policy { code: RefusalCode::Overtaken, .. })
                if with.is_none() =>
            {
                Transition::NotResumed
            }
            // Whoever comes back to a broker that was born again, or after it has expired there.
            CloseReason::HandshakeRefused(RefusalReason::Policy {
                code: RefusalCode::SessionUnknown,
                ..
            }) if with.is_none() => Transition::NotResumed,
            CloseReason::SessionUnknown(_) | CloseReason::Expired { .. } if with.is_some() => {
                let with = with.unwrap_or(at);
                let since = self.opened[at.0 * self.names.len() + with.0];
                if matches!(reason, CloseReason::SessionUnknown(_))
                    && !self.have_parted_since(at, with, since)
                {
                    let name = self.name(at).to_owned();
                    return self
                        .fail(format!("{name}: its session was forgotten by a peer that had not ended it"));
                }
                Transition::Expired
            }
            CloseReason::Misbehaved(_) | CloseReason::HandshakeRefused(_) | CloseReason::Refused(_) => {
                let name = self.name(at).to_owned();
                return self
                    .fail(format!("{name}: a session ended as if somebody broke the protocol: {reason}"));
            }
            _ if with.is_none() => Transition::NotOpened,
            // It was closing; whoever loses the connection then has nothing to come back for.
            _ if is_of_connection(reason) && self.is_closing(at, with) => Transition::ClosedHere,
            _ if SESSIONS_OUTLIVE_CONNECTIONS && is_of_connection(reason) => {
                let name = self.name(at).to_owned();
                return self.fail(format!("{name}: a session ended with its connection: {reason}"));
            }
            CloseReason::Local { .. } => Transition::ClosedHere,
            CloseReason::Peer { .. } => Transition::ClosedByPeer,
            CloseReason::HandshakeTimeout(_) => Transition::HandshakeTimeout,
            _ => end_of_connection(reason),
        };
        if matches!(reason, CloseReason::HandshakeTimeout(_)) && with.is_none() {
            self.coverage.transition(Transition::HandshakeTimeout);
        }
        self.coverage.transition(transition);
        self.trace.event(self.now, at.0 as u64, transition as u64, 0, || {
            format!("{:<9} {transition:?}: {reason}", self.names[at.0])
        });
        if let Some(with) = with {
            self.part(at, with);
        }
    }

    /// A process has fewer sessions than before, with whomever of these.
    pub fn lost_session(&mut self, at: ActorId, with: impl Iterator<Item = ActorId>) {
        for other in with {
            self.part(at, other);
        }
    }

    /// A session of a process has lost its connection, for this reason, and waits for another one.
    pub fn lost_connection(&mut self, at: ActorId, reason: &CloseReason) {
        self.transition(at, Transition::Interrupted);
        self.coverage.transition(end_of_connection(reason));
    }

    /// A process says that a session of its has no connection for a while.
    pub fn interrupted(&mut self, at: ActorId, with: ActorId) {
        self.interrupted[at.0 * self.names.len() + with.0] = Some(self.now);
    }

    /// A process has told its sessions with another one to close, or has begun anew since.
    pub fn closing(&mut self, at: ActorId, with: ActorId, is_closing: bool) {
        let place = at.0 * self.names.len() + with.0;
        self.closing[place] = is_closing;
    }

    fn is_closing(&self, at: ActorId, with: Option<ActorId>) -> bool {
        with.is_some_and(|with| self.closing[at.0 * self.names.len() + with.0])
    }

    /// Every process.
    pub fn actors(&self) -> impl Iterator<Item = ActorId> + use<> {
        (0..self.names.len()).map(ActorId)
    }

    /// A process died.
    pub fn died(&mut self, actor: ActorId) {
        self.died[actor.0] = Some(self.now);
        self.receptions_ended(actor);
        for other in self.actors() {
            self.closing(actor, other, false);
            self.part(actor, other);
        }
    }

    /// Something happened at a process.
    pub fn transition(&mut self, at: ActorId, transition: Transition) {
        if transition == Transition::Leaving {
            self.left[at.0] = Some(self.now);
        }
        self.coverage.transition(transition);
        self.event(at, transition, 0);
    }

    /// Whether two processes have parted since then.
    fn have_parted_since(&self, one: ActorId, other: ActorId, since: u64) -> bool {
        self.parted[one.0 * self.names.len() + other.0].is_some_and(|parted| parted >= since)
    }

    fn was_interrupted_since(&self, one: ActorId, other: ActorId, since: u64) -> bool {
        self.interrupted[one.0 * self.names.len() + other.0].is_some_and(|at| at >= since)
    }

    fn part(&mut self, one: ActorId, other: ActorId) {
        let count = self.names.len();
        self.parted[one.0 * count + other.0] = Some(self.now);
        self.parted[other.0 * count + one.0] = Some(self.now);
    }

    fn event(&mut self, at: ActorId, transition: Transition, number: u64) {
        let Self { trace, now, names, .. } = self;
        trace.event(*now, at.0 as u64, transition as u64, number, || {
            format!("{:<9} {transition:?} {number}", names[at.0])
        });
    }
}
