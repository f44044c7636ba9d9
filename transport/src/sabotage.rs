//! Deliberate bugs, to see that the simulation finds bugs at all.
//!
//! Where the code asks [`strikes`], it does something wrong if the answer is yes, which it is now and then on a thread
//! that has begun that [`Bug`]. Without the feature `simulation` the answer is a constant, and nothing of it is
//! compiled. A check that no bug can fail checks nothing: a test runs seeds with each bug of [`Bug::ALL`], and fails if
//! none of them goes wrong.
//!
//! What it must never know: who asks.

/// Something that is done wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bug {
    /// A driver drops a message that has arrived.
    LoseMessage,
    /// A pool forgets a buffer that has come back.
    LeakBuffer,
    /// A timer is not set.
    ForgetDeadline,
    /// A broker gives out the last message of a queue in place of the first.
    ReorderQueue,
    /// A broker keeps what a producer was granted when that has left.
    LeakCredit,
    /// A session takes a record that it holds already.
    TakeTwice,
    /// A session drops an acknowledgement, and what it told counts as told.
    SkipAcknowledgement,
    /// A session does not send the first message again that its peer has not got.
    ForgetReplay,
    /// A session charges a message to its link again when it begins again on another connection.
    ChargeTwice,
    /// A reader takes it that lanes come in the order of their rank in a frame, and a message that does not for bulk.
    TrustLaneOrder,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::LoseMessage,
        Self::LeakBuffer,
        Self::ForgetDeadline,
        Self::ReorderQueue,
        Self::LeakCredit,
        Self::TakeTwice,
        Self::SkipAcknowledgement,
        Self::ForgetReplay,
        Self::ChargeTwice,
        Self::TrustLaneOrder,
    ];

    /// It strikes at one in so many occasions.
    #[cfg(feature = "simulation")]
    fn one_in(self) -> u32 {
        match self {
            Self::LoseMessage | Self::ForgetDeadline => 300,
            Self::LeakBuffer | Self::ReorderQueue => 20,
            Self::LeakCredit
            | Self::TakeTwice
            | Self::ForgetReplay
            | Self::ChargeTwice
            | Self::TrustLaneOrder => 1,
            Self::SkipAcknowledgement => 50,
        }
    }
}

#[cfg(feature = "simulation")]
thread_local! {
    static PRESENT: std::cell::Cell<Option<(Bug, u32)>> = const { std::cell::Cell::new(None) };
}

/// From now on this bug is there on this thread, or none.
#[cfg(feature = "simulation")]
pub fn begin(bug: Option<Bug>) {
    PRESENT.set(bug.map(|bug| (bug, 0)));
}

/// Whether this bug does its harm now.
#[cfg(feature = "simulation")]
#[inline]
pub fn strikes(bug: Bug) -> bool {
    match PRESENT.get() {
        Some((present, occasions)) if present == bug => {
            PRESENT.set(Some((bug, occasions + 1)));
            (occasions + 1).is_multiple_of(bug.one_in())
        }
        _ => false,
    }
}

/// Whether a bug that relies on ascending ranks does its harm now: whether this rank is below the last one that was told.
/// `None` begins anew.
#[cfg(feature = "simulation")]
#[inline]
pub fn strikes_below(bug: Bug, rank: Option<usize>) -> bool {
    thread_local! {
        static LAST: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }
    let last = LAST.replace(rank.unwrap_or_default());
    rank.is_some_and(|rank| rank < last) && strikes(bug)
}

/// Never.
#[cfg(not(feature = "simulation"))]
#[inline(always)]
pub const fn strikes_below(_: Bug, _: Option<usize>) -> bool {
    false
}

/// Never.
#[cfg(not(feature = "simulation"))]
#[inline(always)]
pub const fn strikes(_: Bug) -> bool {
    false
}
