//! How the ways between hosts are: their usual delay, and what is wrong with them for a while.

use super::{HostId, MICROSECOND, MILLISECOND, NEVER, Reading};
use crate::random::Random;
use std::ops::Range;
use underlay::backend::WireKind;

/// What is usual on a kind of wire.
#[derive(Debug, Clone)]
pub struct Climate {
    /// Nanoseconds from one host to another, for each kind.
    pub latency: [Range<u64>; WireKind::COUNT],
    /// One in so many sends is delivered in small pieces.
    pub chopped_one_in: u64,
    /// What one-sided reads there are, and how they go.
    pub reading: Reading,
}

impl Climate {
    /// A climate that follows from a seed: `inproc` is always the faster one.
    pub fn drawn(random: &mut Random, reading: Reading) -> Self {
        let tcp = random.within(20..2_000) * MICROSECOND;
        let inproc = random.within(1..10) * MICROSECOND;
        let tcp = tcp..tcp * random.within(2..5);
        let latency =
            WireKind::ALL.map(|kind| if kind == WireKind::Tcp { tcp.clone() } else { inproc..inproc * 2 });
        Self { latency, chopped_one_in: random.within(4..64), reading }
    }
}

/// Something that is wrong for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Everything takes longer, by up to so many nanoseconds.
    Slow(u64),
    /// The wire lets go of what is sent up to so many nanoseconds later.
    SlowSends(u64),
    /// Everything is delivered in small pieces.
    Chopped,
    /// Nothing gets through: it waits until this is over.
    Holds,
    /// Connecting is refused.
    Refuses,
    /// Connecting leads to nothing, for longer than anybody waits.
    Hangs,
}

/// An effect, where it holds, and how long.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    effect: Effect,
    /// On this kind of wire, or on all.
    kind: Option<WireKind>,
    /// On the ways from and to this host, or on all.
    host: Option<HostId>,
    until: u64,
}

/// The conditions of the whole network.
#[derive(Debug)]
pub struct Weather {
    climate: Climate,
    random: Random,
    troubles: Vec<Trouble>,
}

/// One way, at one time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    pub(super) kind: WireKind,
    pub(super) hosts: [HostId; 2],
    pub(super) now: u64,
}

/// How what is sent is cut on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cutting {
    /// As it was sent.
    AsSent,
    /// Into pieces of up to so many bytes.
    UpTo(usize),
}

impl Weather {
    pub(super) fn new(climate: Climate, random: Random) -> Self {
        Self { climate, random, troubles: Vec::new() }
    }

    pub(super) fn begin(&mut self, effect: Effect, kind: Option<WireKind>, host: Option<HostId>, until: u64) {
        self.troubles.push(Trouble { effect, kind, host, until });
    }

    pub(super) fn clear_up(&mut self) {
        self.troubles.clear();
    }

    /// Forgets what is over.
    pub(super) fn forget(&mut self, now: u64) {
        self.troubles.retain(|trouble| trouble.until > now);
    }

    pub(super) fn latency(&mut self, way: Way) -> u64 {
        let usual = self.climate.latency[way.kind.index()].clone();
        let slow = self.most(way, |effect| match effect {
            Effect::Slow(by) => Some(by),
            _ => None,
        });
        let more = slow.map_or(0, |most| self.random.within(most / 4..most));
        self.random.within(usual) + more
    }

    /// How long until the wire lets go of what is sent.
    pub(super) fn send_time(&mut self, way: Way) -> u64 {
        let slow = self.most(way, |effect| match effect {
            Effect::SlowSends(by) => Some(by),
            _ => None,
        });
        match slow {
            Some(most) => self.random.within(most / 8..most),
            // Usually at once, as where the kernel takes a copy.
            None if !self.random.once_in(8) => self.random.within(1..MICROSECOND),
            None => self.random.within(MICROSECOND..MILLISECOND),
        }
    }

    pub(super) fn cutting(&mut self, way: Way) -> Cutting {
        let is_chopped = self.until(way, Effect::Chopped).is_some();
        if is_chopped || self.random.once_in(self.climate.chopped_one_in) {
            let most = if self.random.once_in(2) { 16 } else { 700 };
            return Cutting::UpTo(self.random.within(1..most) as usize);
        }
        if self.random.once_in(4) { Cutting::UpTo(1448) } else { Cutting::AsSent }
    }

    /// Until when an effect holds on a way, if it does.
    pub(super) fn until(&self, way: Way, effect: Effect) -> Option<u64> {
        let holding = self.troubles.iter().filter(|trouble| trouble.holds(way) && trouble.effect == effect);
        holding.map(|trouble| trouble.until).max()
    }

    fn most(&self, way: Way, of: impl Fn(Effect) -> Option<u64>) -> Option<u64> {
        if self.troubles.is_empty() {
            return None;
        }
        self.troubles.iter().filter(|trouble| trouble.holds(way)).filter_map(|it| of(it.effect)).max()
    }

    /// When the next trouble is over.
    pub(super) fn next_change(&self) -> u64 {
        self.troubles.iter().map(|trouble| trouble.until).min().unwrap_or(NEVER)
    }
}

impl Trouble {
    fn holds(&self, way: Way) -> bool {
        self.until > way.now
            && self.kind.is_none_or(|kind| kind == way.kind)
            && self.host.is_none_or(|host| way.hosts.contains(&host))
    }
}
