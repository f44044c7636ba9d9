//! What the runs have met: every kind of fault and every transition, with the least that so many seeds must meet.
//!
//! A simulation that never cuts a connection within a frame proves nothing about connections that are cut there. So
//! what happened is counted, and a run over many seeds in which something was met too seldom has failed.

use std::fmt;

/// Something that the simulation did to the processes and to what connects them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A connection was cut after so many bytes, and both ends heard of it.
    Cut,
    /// The same, and one end heard of it late or never.
    HalfOpen,
    /// A connection was cut in its first bytes.
    CutHandshake,
    /// Everything took longer on a kind of wire.
    Slow,
    /// The wire let go of what was sent much later.
    SlowSends,
    /// Everything was delivered in small pieces.
    Chopped,
    /// A kind of wire failed while the other one worked.
    WireDown,
    /// Connecting was refused for a while.
    Refused,
    /// Connecting led to nothing for a while.
    Hanging,
    /// A host could not be reached for a while.
    Partition,
    /// A process that produces or consumes died and was started again.
    CrashEnd,
    /// A client died and was started again.
    CrashClient,
    /// A service died and was started again.
    CrashService,
    /// A broker died and was started again.
    CrashBroker,
    /// Of all that died, those whose peers were not told.
    CrashSilent,
    /// A process did nothing for a while, as if stopped.
    Pause,
    /// A process's clock jumped ahead.
    ClockJump,
    /// A broker shut down in order in the midst of it, and was started again.
    Leave,
    /// For a while one process, or each of them, packed its lanes in any order.
    LanesReordered,
}

/// Something that happened to a connection, a session or a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// A connection or session came up.
    Opened,
    /// Connecting failed.
    NotOpened,
    /// One ended because its end closed it.
    ClosedHere,
    /// One ended because its peer closed it.
    ClosedByPeer,
    /// A connection ended with its channel; so do the next three, and a session goes on without it.
    ChannelEnded,
    /// A connection ended because the peer said nothing.
    PeerSilent,
    /// A connection ended because the peer took nothing.
    PeerNotReading,
    /// One ended because its handshake took too long.
    HandshakeTimeout,
    /// A connection ended because a frame or a bulk message did not go on: rarely, as a wire that carries nothing more is
    /// mostly found silent first.
    Unfinished,
    /// A session ended because it had no connection for too long, or its peer had ended it.
    Expired,
    /// Somebody asked for a session that had ended.
    NotResumed,
    /// A session lost its connection.
    Interrupted,
    /// A session went on over another connection.
    Resumed,
    /// Of these, over another kind of wire.
    Moved,
    /// A peer asked to be left.
    Leaving,
    /// A consumer settled deliveries.
    Settled,
    /// A message was delivered again.
    Redelivered,
    /// A sender found no credit.
    OutOfCredit,
    /// A sender found its queue full.
    PushedBack,
    /// A bulk message was delivered.
    Bulk,
    /// A call was answered.
    Answered,
    /// A service failed a call.
    ServiceFailed,
    /// A call ended without having been sent.
    NotSent,
    /// A call's time was over.
    TimedOut,
    /// A call's outcome is unknown.
    OutcomeUnknown,
    /// A call was given up.
    Cancelled,
    /// A one-way message is in doubt, and nobody has it: its sender, its broker or a consumer that settles nothing died.
    Lost,
    /// A body was exposed, for the peer to read.
    Offered,
    /// A one-sided read was done.
    ReadDone,
    /// A one-sided read failed, or broke its connection.
    ReadFailed,
    /// A one-sided read was never going to end.
    ReadNever,
    /// A body that was to be offered could not be, and left in chunks.
    FellBackToChunks,
    /// A call was sent again.
    Resent,
    /// A call was answered of which two copies were out.
    Raced,
    /// The other copy was answered, too.
    RaceDuplicate,
    /// Calls went by another broker from then on.
    Failover,
    /// A consumer of one-way messages has accepted one.
    Accepted,
    /// It has rejected one.
    Rejected,
    /// It has given one back.
    Released,
    /// A frame had messages before others of a lane that always goes first.
    LaneOvertaken,
}

/// How the place of a kind in the tables is found, how it is called, and how often a thousand seeds must meet it. That is
/// for thousands of seeds: what few worlds meet and then often, as full queues, a hundred may not meet at all.
trait Kind: Copy + fmt::Debug + 'static {
    const ALL: &'static [(Self, u64)];
}

/// The strict rule: sessions outlive their connections, so a connection that is lost excuses nothing, and a session that
/// ends with one is a failure. Without it a lost connection puts everything on it in doubt.
pub const SESSIONS_OUTLIVE_CONNECTIONS: bool = true;

const fn with_sessions(least: u64) -> u64 {
    if SESSIONS_OUTLIVE_CONNECTIONS { least } else { 0 }
}

impl Kind for Fault {
    const ALL: &'static [(Self, u64)] = &[
        (Self::Cut, 1_000),
        (Self::HalfOpen, 300),
        (Self::CutHandshake, 100),
        (Self::Slow, 100),
        (Self::SlowSends, 100),
        (Self::Chopped, 100),
        (Self::WireDown, 100),
        (Self::Refused, 100),
        (Self::Hanging, 100),
        (Self::Partition, 100),
        (Self::CrashEnd, 100),
        (Self::CrashClient, 50),
        (Self::CrashService, 50),
        (Self::CrashBroker, 50),
        (Self::CrashSilent, 50),
        (Self::Pause, 100),
        (Self::ClockJump, 100),
        (Self::Leave, 200),
        (Self::LanesReordered, 500),
    ];
}

impl Kind for Transition {
    const ALL: &'static [(Self, u64)] = &[
        (Self::Opened, 10_000),
        (Self::NotOpened, 100),
        (Self::ClosedHere, 1_000),
        (Self::ClosedByPeer, 1_000),
        (Self::ChannelEnded, 1_000),
        (Self::PeerSilent, 100),
        (Self::PeerNotReading, 10),
        (Self::HandshakeTimeout, 10),
        (Self::Unfinished, 5),
        (Self::Expired, with_sessions(100)),
        (Self::NotResumed, with_sessions(100)),
        (Self::Interrupted, with_sessions(1_000)),
        (Self::Resumed, with_sessions(1_000)),
        (Self::Moved, with_sessions(100)),
        (Self::Leaving, 500),
        (Self::Settled, with_sessions(10_000)),
        (Self::Redelivered, with_sessions(100)),
        (Self::OutOfCredit, 1_000),
        (Self::PushedBack, 100),
        (Self::Bulk, 1_000),
        (Self::Answered, 10_000),
        (Self::ServiceFailed, 1_000),
        (Self::NotSent, 100),
        (Self::TimedOut, 100),
        (Self::OutcomeUnknown, 100),
        (Self::Cancelled, 1_000),
        (Self::Lost, 1_000),
        (Self::Offered, 5_000),
        (Self::ReadDone, 4_000),
        (Self::ReadFailed, 100),
        (Self::ReadNever, 50),
        (Self::FellBackToChunks, 500),
        (Self::Resent, 100),
        (Self::Raced, 1_000),
        (Self::RaceDuplicate, 500),
        (Self::Failover, 100),
        (Self::Accepted, 100_000),
        (Self::Rejected, 1_000),
        (Self::Released, 1_000),
        (Self::LaneOvertaken, 2_000),
    ];
}

/// Counts of everything.
#[derive(Debug, Clone)]
pub struct Coverage {
    faults: Vec<u64>,
    transitions: Vec<u64>,
    /// Runs.
    pub seeds: u64,
    /// Messages that applications sent: one-way ones, requests, replies.
    pub messages: u64,
    /// Events of the network and of the oracle.
    pub events: u64,
}

impl Default for Coverage {
    fn default() -> Self {
        Self {
            faults: vec![0; Fault::ALL.len()],
            transitions: vec![0; Transition::ALL.len()],
            seeds: 0,
            messages: 0,
            events: 0,
        }
    }
}

impl Coverage {
    /// Of a run that has just begun.
    pub fn of_one_seed() -> Self {
        Self { seeds: 1, ..Self::default() }
    }

    /// One more fault.
    pub fn fault(&mut self, fault: Fault) {
        self.faults[fault as usize] += 1;
    }

    /// One more transition.
    pub fn transition(&mut self, transition: Transition) {
        self.transitions[transition as usize] += 1;
    }

    /// So many more transitions.
    pub fn transitions(&mut self, transition: Transition, count: u64) {
        self.transitions[transition as usize] += count;
    }

    /// How many faults there were.
    pub fn faults(&self) -> u64 {
        // A silent death is a property of one that is counted already.
        self.faults.iter().sum::<u64>() - self.faults[Fault::CrashSilent as usize]
    }

    /// Adds what other runs have met.
    pub fn add(&mut self, other: &Self) {
        let sum = |mine: &mut Vec<u64>, its: &Vec<u64>| {
            mine.iter_mut().zip(its).for_each(|(mine, its)| *mine += its)
        };
        sum(&mut self.faults, &other.faults);
        sum(&mut self.transitions, &other.transitions);
        self.seeds += other.seeds;
        self.messages += other.messages;
        self.events += other.events;
    }

    /// What was met less often than so many seeds must meet it.
    pub fn missing(&self) -> Vec<String> {
        let faults = self.rows::<Fault>(&self.faults);
        let transitions = self.rows::<Transition>(&self.transitions);
        let missing = faults.chain(transitions).filter(|(_, count, least)| count < least);
        missing
            .map(|(name, count, least)| format!("{name}: {count} times, at least {least} are expected"))
            .collect()
    }

    fn rows<'a, K: Kind>(&self, counts: &'a [u64]) -> impl Iterator<Item = (String, u64, u64)> + use<'a, K> {
        let seeds = self.seeds;
        K::ALL
            .iter()
            .zip(counts)
            .map(move |((kind, least), count)| (format!("{kind:?}"), *count, least * seeds / 1_000))
    }
}

/// A table: what, how often, and how often at least.
impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seeds, messages, events, .. } = self;
        writeln!(f, "seeds {seeds}, messages {messages}, events {events}, faults {}", self.faults())?;
        let per_seed = |count: u64| count as f64 / (*seeds).max(1) as f64;
        writeln!(f, "{:<18}{:>12}{:>12}{:>10}", "fault", "count", "at least", "a seed")?;
        for (name, count, least) in self.rows::<Fault>(&self.faults) {
            writeln!(f, "{name:<18}{count:>12}{least:>12}{:>10.2}", per_seed(count))?;
        }
        writeln!(f, "{:<18}{:>12}{:>12}{:>10}", "transition", "count", "at least", "a seed")?;
        for (name, count, least) in self.rows::<Transition>(&self.transitions) {
            writeln!(f, "{name:<18}{count:>12}{least:>12}{:>10.2}", per_seed(count))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_stands_at_its_place_in_its_table() {
        for (place, (kind, _)) in Fault::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, place);
        }
        for (place, (kind, _)) in Transition::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, place);
        }
    }

    #[test]
    fn what_is_met_too_seldom_is_named() {
        let mut coverage = Coverage { seeds: 1_000, ..Coverage::default() };
        (0..999).for_each(|_| coverage.fault(Fault::Cut));
        assert!(coverage.missing().contains(&"Cut: 999 times, at least 1000 are expected".to_owned()));
        coverage.fault(Fault::Cut);
        assert!(!coverage.missing().iter().any(|line| line.starts_with("Cut:")));
    }
}
