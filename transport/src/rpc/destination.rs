//! Where replies come back to: one place for the whole process.

use super::error::CallError;
use super::future::Reply;
use crate::connection::Identity;
use crate::proto::hello::ProcessIdentity;
use crate::proto::{Incarnation, Origin, ProcessId, ReplyAddress, ReplySecret};
use crate::sync::{CallSlots, Correlation};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// How a call ended.
pub(super) type Outcome = Result<Reply, CallError>;

/// Tables of calls that a destination can have at a time: what eight bits of a correlation can name.
const SHARDS: usize = 256;

/// The reply destination of a process: its address, and the calls that wait for replies.
///
/// The address is derived from a secret that is drawn once and shown to brokers on attaching, so nobody else can claim
/// it, and it stays the same whichever brokers the process uses. Each client has a shard of the calls; a reply that
/// comes over whichever connection finds its call by the correlation id alone, without a lock or a hash.
#[derive(Debug, Clone)]
pub struct ReplyDestination(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    secret: ReplySecret,
    address: ReplyAddress,
    process: ProcessIdentity,
    calls_max: u32,
    shards: [OnceLock<CallSlots<Outcome>>; SHARDS],
    /// Shards without a client, to be used again; and how many were ever used.
    free: Mutex<(Vec<u8>, usize)>,
}

impl ReplyDestination {
    /// The one of this process, drawn when it is first asked for; each client can have 65,536 calls in flight.
    ///
    /// # Panics
    /// If the kernel gives no random numbers, which Linux does not do after boot.
    pub fn of_process() -> Self {
        #[cfg(feature = "simulation")]
        if let Some(simulated) = simulated::present() {
            return simulated;
        }
        static OF_PROCESS: OnceLock<ReplyDestination> = OnceLock::new();
        OF_PROCESS.get_or_init(|| Self::new(1 << 16)).clone()
    }

    /// Another one, as if for another process: each of its clients can have `calls_max` calls in flight, at most 2^24.
    ///
    /// # Panics
    /// As [`ReplyDestination::of_process`].
    pub fn new(calls_max: u32) -> Self {
        let mut random = [0; 32 + 16 + 8 + 4];
        getrandom::fill(&mut random).expect("getrandom(2) does not fail on a booted Linux");
        let (secret, rest) = split(&random);
        let secret = ReplySecret(secret);
        let (process, rest) = split(rest);
        let (origin, rest) = split(rest);
        let (incarnation, _) = split(rest);
        let process = ProcessIdentity {
            process: ProcessId(process),
            incarnation: Incarnation(u32::from_le_bytes(incarnation)),
            origin: Origin(u64::from_le_bytes(origin)),
        };
        Self::of(process, secret, calls_max)
    }

    fn of(process: ProcessIdentity, secret: ReplySecret, calls_max: u32) -> Self {
        Self(Arc::new(Shared {
            address: ReplyAddress::of(&secret),
            secret,
            process,
            calls_max: calls_max.clamp(1, 1 << 24),
            shards: [const { OnceLock::new() }; SHARDS],
            free: Mutex::new((Vec::new(), 0)),
        }))
    }

    /// The address that requests carry.
    pub fn address(&self) -> ReplyAddress {
        self.0.address
    }

    /// Who the process is, for the connections of its drivers.
    pub fn identity(&self, name: &str) -> Identity {
        Identity { process: self.0.process, name: name.to_owned() }
    }

    pub(super) fn secret(&self) -> &ReplySecret {
        &self.0.secret
    }

    pub(super) fn process(&self) -> ProcessIdentity {
        self.0.process
    }

    /// How many calls all its clients together can have in flight.
    pub(super) fn calls_of_all_max(&self) -> u64 {
        u64::from(self.0.calls_max) * SHARDS as u64
    }

    /// Takes a shard; `None` when as many clients use this destination as there can be.
    pub(super) fn shard(&self) -> Option<Shard> {
        let mut free = self.0.free.lock().unwrap_or_else(PoisonError::into_inner);
        let number = match free.0.pop() {
            Some(number) => number,
            None => u8::try_from(free.1).ok()?,
        };
        free.1 = free.1.max(usize::from(number) + 1);
        drop(free);
        let slots = self.0.shards[usize::from(number)].get_or_init(|| {
            // The number of calls was clamped to what a table can have.
            CallSlots::new(number, self.0.calls_max).expect("calls_max is within bounds")
        });
        Some(Shard { slots: slots.clone(), _lease: Arc::new(Lease { destination: self.clone(), number }) })
    }

    /// Ends the call of a correlation, whichever shard has it; false if nobody waits for it.
    pub(super) fn complete(&self, correlation: Correlation, outcome: Outcome) -> bool {
        let shard = self.0.shards[usize::from(correlation.shard())].get();
        shard.is_some_and(|slots| slots.complete(correlation, outcome).is_ok())
    }
}

/// Where one thread simulates many processes, each has a reply destination of its own.
#[cfg(feature = "simulation")]
mod simulated {
    use super::{ProcessIdentity, ReplyDestination, ReplySecret};
    use std::cell::RefCell;

    thread_local! {
        static PRESENT: RefCell<Option<ReplyDestination>> = const { RefCell::new(None) };
    }

    pub(super) fn present() -> Option<ReplyDestination> {
        PRESENT.with_borrow(Clone::clone)
    }

    impl ReplyDestination {
        /// That of a simulated process; as [`ReplyDestination::new`], but nothing is drawn.
        pub fn simulated(process: ProcessIdentity, secret: ReplySecret, calls_max: u32) -> Self {
            Self::of(process, secret, calls_max)
        }

        /// Calls `act`, in which [`ReplyDestination::of_process`] is this one on this thread.
        pub fn during<T>(&self, act: impl FnOnce() -> T) -> T {
            PRESENT.set(Some(self.clone()));
            let done = act();
            PRESENT.set(None);
            done
        }
    }
}

/// A client's share of the calls. The number is free again when the last clone is gone; the table stays, so that
/// generations go on and no late reply can meet a later client's call.
#[derive(Debug, Clone)]
pub(super) struct Shard {
    pub(super) slots: CallSlots<Outcome>,
    _lease: Arc<Lease>,
}

#[derive(Debug)]
struct Lease {
    destination: ReplyDestination,
    number: u8,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.destination.0.free.lock().unwrap_or_else(PoisonError::into_inner).0.push(self.number);
    }
}

/// The first `N` bytes, and the rest.
///
/// # Panics
/// If there are fewer, which the one caller rules out by the length that it draws.
fn split<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    let (first, rest) = bytes.split_first_chunk().expect("enough random bytes were drawn");
    (*first, rest)
}
