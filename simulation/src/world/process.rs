//! One process through its lives: its actor, its clock, and whether it runs.

use super::plan::Plan;
use crate::actors::{Actor, Birth, Rebirth};
use crate::network::{HostId, NEVER, Network, SECOND};
use crate::oracle::{ActorId, Oracle};
use crate::random::Random;
use std::io;
use underlay::driver::Simulated;
use underlay::time::Timestamp;

/// The most turns of a process at a time; the others have theirs in between.
const TURNS_MAX: usize = 16;

/// A process. While it is dead it has no actor.
pub(super) struct Process {
    pub(super) host: HostId,
    pub(super) actor: Option<Box<dyn Actor>>,
    life: u32,
    /// Its clock is so far ahead of the network's.
    ahead: u64,
    paused_until: u64,
    /// When it is to be turned even if nothing arrives, or started again.
    due: u64,
    leaving: Option<Leaving>,
}

/// A process that was told to end.
#[derive(Debug, Clone, Copy)]
struct Leaving {
    /// It is ended if it has not ended by then, as whoever watches over processes would.
    until: u64,
    away: u64,
}

/// So long a process may take to end in order: longer than a broker drains and closes, which stands still while it is
/// paused.
const LEAVES_WITHIN: u64 = 10 * SECOND;

impl Process {
    pub(super) fn new(host: HostId) -> Self {
        Self { host, actor: None, life: 0, ahead: 0, paused_until: 0, due: NEVER, leaving: None }
    }

    /// When it has to be looked at.
    pub(super) fn due(&self, now: u64) -> u64 {
        if self.due == NEVER { NEVER } else { self.due.max(self.paused_until).max(now) }
    }

    pub(super) fn is_paused(&self, now: u64) -> bool {
        now < self.paused_until
    }

    pub(super) fn is_alive(&self) -> bool {
        self.actor.is_some()
    }

    /// Its own time.
    fn time(&self, now: u64) -> Timestamp {
        Timestamp::from_nanoseconds(now + self.ahead)
    }

    pub(super) fn birth(
        &mut self,
        place: usize,
        now: u64,
        (network, oracle, random): (&Network, &Oracle, &mut Random),
        plan: &Plan,
    ) -> Birth {
        // Clocks start anew with each life.
        self.ahead = 0;
        let (life, random) = (self.life, random.fork());
        self.life += 1;
        let wires = network.wires(self.host);
        let config = plan.config.clone();
        let oracle = oracle.clone();
        Birth { me: ActorId(place), oracle, life, wires, now: self.time(now), random, config }
    }

    /// What a new driver of the same life gets.
    pub(super) fn rebirth(&self, network: &Network, random: &mut Random) -> Rebirth {
        let (network, host, mut random) = (network.clone(), self.host, random.fork());
        Box::new(move |now| Simulated { wires: network.wires(host), now, seed: random.bytes() })
    }

    pub(super) fn begin(&mut self, actor: Box<dyn Actor>, now: u64) {
        self.actor = Some(actor);
        self.due = now;
    }

    /// It is dead until then.
    pub(super) fn end(&mut self, restart_at: u64) {
        self.actor = None;
        self.paused_until = 0;
        self.due = restart_at;
        self.leaving = None;
    }

    /// Has it end in order, and start again when it has been away for so long.
    pub(super) fn leave(&mut self, now: u64, away: u64) {
        self.close(now);
        self.leaving = Some(Leaving { until: now + LEAVES_WITHIN, away });
    }

    /// Whether it was told to end and is through with it: when it is to start again.
    pub(super) fn has_left(&mut self, now: u64) -> Option<u64> {
        let Leaving { until, away } = self.leaving?;
        (now >= until || self.is_closed()).then_some(now + away)
    }

    pub(super) fn turn(&mut self, now: u64) -> io::Result<()> {
        let time = self.time(now);
        let Some(actor) = &mut self.actor else { return Ok(()) };
        let mut is_busy = true;
        for _ in 0..TURNS_MAX {
            is_busy = actor.turn(time)?;
            if !is_busy {
                break;
            }
        }
        let next = actor.next_due();
        self.due = match next {
            _ if is_busy => now,
            Timestamp::NEVER => NEVER,
            next => next.nanoseconds().saturating_sub(self.ahead),
        };
        Ok(())
    }

    pub(super) fn pause(&mut self, until: u64) {
        self.paused_until = until;
    }

    pub(super) fn jump(&mut self, by: u64, now: u64) {
        self.ahead += by;
        self.due = now;
    }

    /// It runs from now on, and if it was dead it starts.
    pub(super) fn wake(&mut self, now: u64) {
        self.paused_until = 0;
        self.due = now;
    }

    pub(super) fn close(&mut self, now: u64) {
        if let Some(actor) = &mut self.actor {
            actor.close();
        }
        self.due = now;
    }

    pub(super) fn is_closed(&mut self) -> bool {
        self.actor.as_mut().is_none_or(|actor| actor.is_closed())
    }
}
