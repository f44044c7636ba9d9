//! When processes pack their lanes in any order, and which.
//!
//! Not a fault of the network: it delivers a channel's bytes in order, as wires do. What a process sends first of what
//! waits in its lanes is its own choice, of which nobody may rely on more than on the order within each lane. So for a
//! while that choice is drawn.

use super::World;
use crate::coverage::{Fault, Transition};
use crate::network::{MILLISECOND, NEVER, SECOND};
use crate::random::Random;
use crate::trace::Moment;
use underlay::lane_turns;

/// The spells in which lanes have their turns in any order.
#[derive(Debug)]
pub(super) struct LanePlan {
    random: Random,
    /// When the next ones begin, the first one last.
    coming: Vec<u64>,
    present: Vec<Spell>,
}

#[derive(Debug)]
struct Spell {
    until: u64,
    /// One process, or each of them.
    place: Option<usize>,
}

impl LanePlan {
    /// In about every second world.
    pub(super) fn drawn(mut random: Random, duration: u64) -> Self {
        let count = if random.once_in(2) { random.within(1..4) } else { 0 };
        let mut coming: Vec<u64> = (0..count).map(|_| random.within(0..duration)).collect();
        coming.sort_unstable_by(|one, other| other.cmp(one));
        Self { random, coming, present: Vec::new() }
    }

    pub(super) fn next_due(&self) -> u64 {
        self.coming.last().copied().unwrap_or(NEVER)
    }

    pub(super) fn stop(&mut self) {
        self.coming.clear();
        self.present.clear();
    }

    /// What the turns of a process's lanes follow from, if not from what always holds.
    fn seed(&mut self, place: usize, now: u64) -> Option<u64> {
        self.present.retain(|spell| now < spell.until);
        let is_on = self.present.iter().any(|spell| spell.place.is_none_or(|it| it == place));
        is_on.then(|| self.random.number())
    }
}

impl World {
    /// Begins the spells that are due.
    pub(super) fn disorder_lanes(&mut self) {
        while self.lanes.coming.pop_if(|from| *from <= self.now).is_some() {
            let random = &mut self.lanes.random;
            let place = (!random.once_in(3)).then(|| random.place(self.processes.len()));
            let lasts = random.within(100 * MILLISECOND..3 * SECOND);
            let until = if random.once_in(4) { NEVER } else { self.now + lasts };
            let who = place.map_or_else(|| "everybody".to_owned(), |place| self.plan.names()[place].clone());
            let mut ledger = self.oracle.ledger();
            ledger.fault(Fault::LanesReordered, place.unwrap_or(63), || match until {
                NEVER => format!("{who} until all is mended"),
                until => format!("{who} until {}", Moment(until)),
            });
            self.lanes.present.push(Spell { until, place });
        }
    }

    /// Turns a process, with its lanes in the order that holds for it now.
    pub(super) fn turn_process(&mut self, place: usize) -> std::io::Result<()> {
        let seed = self.lanes.seed(place, self.now);
        let (turned, overtaken) = lane_turns::during(seed, || self.processes[place].turn(self.now));
        self.oracle.ledger().coverage.transitions(Transition::LaneOvertaken, overtaken);
        turned
    }
}
