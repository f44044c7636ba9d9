//! The brokers of a client or a service: which are connected, which are in use, and what is to be done next.
//!
//! A state machine without I/O. Its owner tells it what happened to sessions (`happened`), and asks it for the next
//! [`Step`] until there is none; it says when it wants to be asked again ([`Uplinks::due`]). `uplink` is what is known
//! of one broker; `policy` decides.
//!
//! What it promises: the first `wanted` sessions that work, in the order of the list, are in use, and none is given
//! up for a better one before that one works; however many attempts fail, they come no faster than the backoff says,
//! and no address waits behind another one that does not answer for longer than `failover_after`.
//!
//! What it must never know: calls, requests, and what links are for.

mod policy;
#[cfg(all(test, not(loom)))]
mod tests;
mod uplink;

use crate::driver::{Address, ConnectionId};
use crate::proto::LinkId;
use crate::session::Backoff;
use crate::time::Timestamp;
use std::fmt;
use std::time::Duration;
use uplink::{Stage, Uplink};

/// The most addresses of one client or service.
pub const ADDRESSES_MAX: usize = 16;

/// How fast it gives up, tries again and returns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) failover_after: Duration,
    pub(super) reconnect_min: Duration,
    pub(super) reconnect_max: Duration,
    pub(super) return_after: Duration,
}

/// What the owner has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Start a session; then say [`Uplinks::connecting`] or [`Uplinks::ended`].
    Connect(usize),
    /// This session is not needed any longer: finish what is in flight on it, and close it.
    Drain(usize),
    /// This session is interrupted and another one works: what may be sent twice had better go there.
    Resend(usize),
    /// This session was interrupted for so long that what is in flight on it shall not wait any longer.
    GiveUp(usize),
}

/// An address and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressFailure {
    /// Where.
    pub address: Address,
    /// Why there is no session: the last failure, or what had not happened yet.
    pub reason: String,
}

impl fmt::Display for AddressFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, self.reason)
    }
}

/// Lists failures in one line.
pub(super) fn list(failures: &[AddressFailure]) -> String {
    failures.iter().map(AddressFailure::to_string).collect::<Vec<_>>().join("; ")
}

/// All brokers, in order of preference.
#[derive(Debug)]
pub(super) struct Uplinks {
    uplinks: Vec<Uplink>,
    wanted: usize,
    pace: Pace,
    /// Those in use, best first.
    in_use: arrayvec::ArrayVec<usize, ADDRESSES_MAX>,
    /// The first of them, with its session, at hand for every call.
    current: Option<(usize, ConnectionId)>,
    due: Timestamp,
    is_stopped: bool,
}

/// The list of addresses is empty, or too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{given} addresses were given; 1 to {ADDRESSES_MAX} can be")]
pub struct AddressCount {
    /// How many.
    pub given: usize,
}

impl Uplinks {
    /// At these addresses, best first, of which `wanted` are to be in use.
    pub(super) fn new(addresses: &[Address], wanted: usize, pace: Pace) -> Result<Self, AddressCount> {
        let mut seed = [0; 8];
        // Without random numbers the delays of this process are like those of others; nothing else depends on them.
        let _ = getrandom::fill(&mut seed);
        #[cfg(feature = "simulation")]
        if let Some(simulated) = crate::driver::Simulated::seed_of_next() {
            seed.copy_from_slice(&simulated[..8]);
        }
        Self::seeded(addresses, wanted, pace, u64::from_le_bytes(seed))
    }

    /// The same with delays that the seed decides.
    fn seeded(addresses: &[Address], wanted: usize, pace: Pace, seed: u64) -> Result<Self, AddressCount> {
        if addresses.is_empty() || addresses.len() > ADDRESSES_MAX {
            return Err(AddressCount { given: addresses.len() });
        }
        // A delay of nothing would be no delay at all.
        let min = pace.reconnect_min.max(Duration::from_millis(1));
        let backoff = |place: usize| Backoff::new(min, pace.reconnect_max, seed.wrapping_add(place as u64));
        let uplink = |(place, address): (usize, &Address)| Uplink::new(address.clone(), backoff(place));
        Ok(Self {
            uplinks: addresses.iter().enumerate().map(uplink).collect(),
            wanted: wanted.clamp(1, ADDRESSES_MAX),
            pace,
            in_use: Default::default(),
            current: None,
            due: Timestamp::ZERO,
            is_stopped: false,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.uplinks.len()
    }

    pub(super) fn address(&self, place: usize) -> &Address {
        &self.uplinks[place].address
    }

    /// The broker that a session is with.
    #[inline]
    pub(super) fn of(&self, connection: ConnectionId) -> Option<usize> {
        self.uplinks.iter().position(|uplink| uplink.connection() == Some(connection))
    }

    /// The session with a broker, if one is there or coming up.
    pub(super) fn connection(&self, place: usize) -> Option<ConnectionId> {
        self.uplinks[place].connection()
    }

    /// The broker by which new calls go.
    #[inline]
    pub(super) fn current(&self) -> Option<(usize, ConnectionId)> {
        self.current
    }

    /// The one by which the second copies of gold calls go.
    pub(super) fn second(&self) -> Option<(usize, ConnectionId)> {
        let place = *self.in_use.get(1)?;
        Some((place, self.uplinks[place].connection()?))
    }

    /// Whether a session had come so far that it was of use.
    pub(super) fn is_open(&self, place: usize) -> bool {
        matches!(self.uplinks[place].stage, Stage::Open { .. })
    }

    /// Whether the broker asked to be left.
    pub(super) fn is_leaving(&self, place: usize) -> bool {
        self.uplinks[place].is_leaving
    }

    /// Whether it was closed from here.
    pub(super) fn is_closing(&self, place: usize) -> bool {
        matches!(self.uplinks[place].stage, Stage::Closing { .. })
    }

    /// The link that makes a session useful, once it was asked for.
    pub(super) fn link(&self, place: usize) -> Option<LinkId> {
        match self.uplinks[place].stage {
            Stage::Attaching { link, .. } | Stage::Open { link, .. } => Some(link),
            Stage::Idle | Stage::Connecting { .. } | Stage::Closing { .. } => None,
        }
    }

    /// Whether this link is the one that makes a session useful.
    pub(super) fn is_its_link(&self, place: usize, link: LinkId) -> bool {
        self.link(place) == Some(link)
    }

    pub(super) fn wanted(&self) -> usize {
        self.wanted
    }

    /// Wants so many sessions in use from now on.
    pub(super) fn want(&mut self, wanted: usize) {
        self.wanted = wanted.clamp(1, ADDRESSES_MAX);
        self.choose();
    }

    /// Begins nothing any more.
    pub(super) fn stop(&mut self) {
        self.is_stopped = true;
    }

    /// When the owner is to ask for the next step again.
    pub(super) fn due(&self) -> Timestamp {
        self.due
    }

    /// What is wrong at each address.
    pub(super) fn failures(&self) -> Vec<AddressFailure> {
        self.uplinks.iter().map(Uplink::failure).collect()
    }

    /// Counts something in flight on a session.
    #[inline]
    pub(super) fn put_in_flight(&mut self, place: usize) {
        self.uplinks[place].in_flight += 1;
    }

    /// Counts its end; true if the session was only kept for it.
    #[inline]
    pub(super) fn landed(&mut self, place: usize) -> bool {
        let uplink = &mut self.uplinks[place];
        uplink.in_flight = uplink.in_flight.saturating_sub(1);
        uplink.in_flight == 0 && uplink.is_draining
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn in_flight(&self, place: usize) -> usize {
        self.uplinks[place].in_flight
    }

    /// Those that were kept only for what was in flight on them, and are still there when nothing is.
    pub(super) fn drained(&self) -> impl Iterator<Item = usize> {
        let is_drained = |it: &Uplink| it.is_draining && it.in_flight == 0 && it.is_usable();
        self.uplinks.iter().enumerate().filter(move |(_, it)| is_drained(it)).map(|(place, _)| place)
    }
}

/// What happened to sessions.
impl Uplinks {
    pub(super) fn connecting(&mut self, place: usize, connection: ConnectionId, now: Timestamp) {
        self.uplinks[place].stage = Stage::Connecting { connection, since: now };
        self.choose();
    }

    /// The handshake is done, and the link was asked for that makes the session useful.
    pub(super) fn attaching(&mut self, place: usize, link: LinkId) {
        let uplink = &mut self.uplinks[place];
        if let Stage::Connecting { connection, since } = uplink.stage {
            uplink.stage = Stage::Attaching { connection, link, since };
        }
    }

    /// That link is there.
    pub(super) fn attached(&mut self, place: usize, now: Timestamp) {
        self.uplinks[place].opened(now);
        self.choose();
    }

    pub(super) fn interrupted(&mut self, place: usize, now: Timestamp, reason: &str) {
        self.uplinks[place].interrupted(now, reason);
        self.choose();
    }

    pub(super) fn resumed(&mut self, place: usize) {
        self.uplinks[place].resumed();
        self.choose();
    }

    pub(super) fn leaving(&mut self, place: usize) {
        self.uplinks[place].is_leaving = true;
        self.choose();
    }

    /// This end closes a session; nothing new is begun on it. With a reason, because it is of no use.
    pub(super) fn closing(&mut self, place: usize, reason: Option<&str>, now: Timestamp) {
        self.uplinks[place].closing(reason, now);
        self.choose();
    }

    /// A session has ended, or did not come up.
    pub(super) fn ended(&mut self, place: usize, reason: &str, now: Timestamp) {
        let pace = self.pace;
        self.uplinks[place].ended(reason, now, &pace);
        self.choose();
    }
}
