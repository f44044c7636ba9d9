//! A world: processes, the network between them, what happens to both, and virtual time.
//!
//! A world follows from its seed alone. It jumps from one event to the next, turns whoever has news or is due, does
//! what the plan of faults says, and asks after each step whether anything is wrong. When the work is done it mends
//! everything, waits until whatever can still arrive has arrived, closes everything, and looks for what is left.
//!
//! `plan` draws who there is and what they do, `faults` what happens to them and `lanes` one of these faults, `process`
//! keeps one of them through its lives.

mod faults;
mod lanes;
mod plan;
mod process;

use crate::coverage::{Coverage, Fault, Transition};
use crate::network::{Climate, MILLISECOND, NEVER, Network, Reading, SECOND};
use crate::oracle::Oracle;
use crate::random::Random;
use faults::FaultPlan;
use lanes::LanePlan;
pub(crate) use plan::PRODUCERS_MAX;
use plan::Plan;
use process::Process;

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// What was met.
    pub coverage: Coverage,
    /// A hash of everything that happened: the same for the same seed.
    pub hash: u64,
    /// What was wrong, if anything, and when.
    pub failure: Option<String>,
}

/// The fewest faults of a run.
pub const FAULTS_MIN: u64 = 5;

/// The fewest messages of a run.
pub const MESSAGES_MIN: u64 = 1_000;

/// The work of a run is done by then, or something hangs.
const WORK_MAX: u64 = 120 * SECOND;

/// What can still arrive has arrived so long after everything was mended.
const REST_MAX: u64 = 60 * SECOND;

/// So long after that, sessions without a peer have expired.
const LATE_MAX: u64 = 7 * SECOND;

/// Everything has closed within so much time.
const CLOSE_MAX: u64 = 20 * SECOND;

/// What the lanes' own numbers follow from, together with the seed: as above, what was there before stays as it was.
const LANES_SEED: u64 = 0x6c61_6e65_7300_0000;

/// The most turns that processes have at one moment.
const TURNS_AT_ONCE_MAX: usize = 100_000;

/// Who and where, and when it is.
pub(crate) struct World {
    now: u64,
    random: Random,
    network: Network,
    oracle: Oracle,
    processes: Vec<Process>,
    plan: Plan,
    faults: FaultPlan,
    lanes: LanePlan,
    /// When the invariants that cost something are looked at next.
    look_at: u64,
    turns_at_once: usize,
}

/// Runs the world of a seed. With `is_printed` everything that happens is told.
pub fn run(seed: u64, is_printed: bool) -> Outcome {
    let mut world = World::new(seed, is_printed);
    world.live();
    world.outcome()
}

impl World {
    fn new(seed: u64, is_printed: bool) -> Self {
        let mut random = Random::new(seed);
        // From numbers of their own, so that what came later changes nothing of what was there before.
        let mut more = Random::new(!seed);
        let reading = Reading::drawn(&mut more);
        let climate = Climate::drawn(&mut random, reading);
        let network = Network::new(random.number(), climate, is_printed);
        let plan = Plan::drawn(&mut random, &mut more);
        let oracle = Oracle::new(plan.names(), is_printed);
        let processes = plan.names().iter().map(|name| Process::new(network.host(name))).collect();
        let faults = FaultPlan::drawn(random.fork(), plan.duration, more.fork());
        let lanes = LanePlan::drawn(Random::new(seed ^ LANES_SEED), plan.duration);
        let (now, look_at, turns_at_once) = (0, 0, 0);
        let mut world =
            Self { now, random, network, oracle, processes, plan, faults, lanes, look_at, turns_at_once };
        (0..world.processes.len()).for_each(|place| world.start(place));
        world
    }

    fn live(&mut self) {
        let is_done = |world: &mut Self| {
            world.plan.is_done() && world.faults.is_over(world.now) && world.has_met_enough()
        };
        if !self.run_until(WORK_MAX, is_done) {
            return self.fail("the work was not done in time");
        }
        self.mend();
        let has_arrived = |world: &mut World| {
            let ledger = world.oracle.ledger();
            let is_settled = ledger.open_calls() == 0 && ledger.unexcused() == 0;
            drop(ledger);
            is_settled && world.backlog() == 0
        };
        if self.run_until(REST_MAX, has_arrived) {
            // Whatever comes late comes now; sessions of the dead expire, and what they had is given out again.
            self.run_until(LATE_MAX, |_| false);
        }
        if !self.run_until(REST_MAX, has_arrived) {
            let backlog = self.backlog();
            if backlog > 0 {
                self.fail(&format!("{backlog} messages wait though everybody is there"));
            }
        }
        if !self.run_until(CLOSE_MAX, |world| world.unrest().is_none()) {
            let unrest = self.unrest().unwrap_or_default();
            self.fail(&format!("nobody sends anything, and {unrest}"));
        }
        if self.has_failed() {
            return;
        }
        self.oracle.ledger().check_end();
        self.close();
    }

    /// Runs until something is true, which is asked now and then; false if it is not after so much time.
    fn run_until(&mut self, limit: u64, mut is_done: impl FnMut(&mut Self) -> bool) -> bool {
        let until = self.now + limit;
        let mut ask_at = self.now;
        while !self.has_failed() {
            if self.now >= ask_at {
                if is_done(self) {
                    return true;
                }
                ask_at = self.now + 20 * MILLISECOND;
            }
            if self.now >= until {
                return false;
            }
            self.step(until.min(ask_at.max(self.now + 1)));
        }
        true
    }

    /// Goes to the next moment at which something happens, or to `until`.
    fn step(&mut self, until: u64) {
        let due = self.processes.iter().map(|process| process.due(self.now)).min().unwrap_or(NEVER);
        let next = due.min(self.network.next_due()).min(self.faults.next_due()).min(self.lanes.next_due());
        let next = next.min(until).max(self.now);
        if next > self.now {
            self.turns_at_once = 0;
        }
        self.now = next;
        self.oracle.ledger().now = next;
        let news = self.network.advance(next);
        self.do_damage();
        self.disorder_lanes();
        let count = self.processes.len();
        let first = self.random.place(count);
        for step in 0..count {
            let place = (first + step) % count;
            if news >> place & 1 == 1 || self.processes[place].due(next) <= next {
                self.turn(place);
            }
        }
        if next >= self.look_at {
            self.look_at = next + 50 * MILLISECOND;
            self.look();
        }
    }

    fn turn(&mut self, place: usize) {
        let process = &mut self.processes[place];
        if process.is_paused(self.now) {
            return;
        }
        if process.actor.is_none() {
            return self.start(place);
        }
        self.turns_at_once += 1;
        match self.turn_process(place) {
            Ok(()) if self.turns_at_once > TURNS_AT_ONCE_MAX => self.fail("time stands still"),
            Ok(()) => self.see_off(place),
            Err(error) => self.fail(&format!("a driver failed: {error}")),
        }
    }

    /// Ends a process that was told to end and has closed everything. What it had left is lost, and nothing else.
    fn see_off(&mut self, place: usize) {
        let Some(restart_at) = self.processes[place].has_left(self.now) else { return };
        self.oracle.ledger().died(crate::oracle::ActorId(place));
        self.processes[place].end(restart_at);
    }

    /// What must be true at any time.
    fn look(&mut self) {
        for place in 0..self.processes.len() {
            if let Some(wrong) = self.processes[place].actor.as_mut().and_then(|actor| actor.wrong()) {
                self.fail(&format!("{}: {wrong}", self.plan.names()[place]));
            }
        }
    }

    /// A new life of a process.
    fn start(&mut self, place: usize) {
        let process = &mut self.processes[place];
        self.network.revive(process.host);
        let birth =
            process.birth(place, self.now, (&self.network, &self.oracle, &mut self.random), &self.plan);
        let rebirth = process.rebirth(&self.network, &mut self.random);
        let actor = self.plan.start(place, birth, rebirth);
        self.processes[place].begin(actor, self.now);
    }

    /// Ends a process without a word.
    fn kill(&mut self, place: usize, is_silent: bool, restart_at: u64) {
        self.network.crash(self.processes[place].host, is_silent);
        self.oracle.ledger().died(crate::oracle::ActorId(place));
        self.processes[place].end(restart_at);
    }

    /// From here on nothing goes wrong.
    fn mend(&mut self) {
        self.oracle.ledger().say(|| "--- everything is mended".to_owned());
        self.faults.stop();
        self.lanes.stop();
        self.network.clear_up();
        for process in &mut self.processes {
            process.wake(self.now);
        }
    }

    /// Ends everything in order: the brokers last. Then nothing may be left.
    fn close(&mut self) {
        self.oracle.ledger().say(|| "--- everything closes".to_owned());
        for is_broker in [false, true] {
            let whose: Vec<usize> =
                (0..self.processes.len()).filter(|place| self.plan.is_broker(*place) == is_broker).collect();
            for &place in &whose {
                self.processes[place].close(self.now);
            }
            let is_closed = |world: &mut Self| whose.iter().all(|place| world.processes[*place].is_closed());
            if !self.run_until(CLOSE_MAX, is_closed) {
                let names = self.plan.names();
                let open = whose.iter().filter(|place| !self.processes[**place].is_closed());
                let open: Vec<_> = open.map(|place| names[*place].as_str()).collect();
                return self.fail(&format!("not everything has closed in time: {}", open.join(", ")));
            }
        }
        // The last words of the wires.
        self.run_until(100 * MILLISECOND, |_| false);
        for place in 0..self.processes.len() {
            let leaks = self.processes[place].actor.as_mut().map_or_else(Vec::new, |actor| actor.leaks());
            if !leaks.is_empty() {
                return self.fail(&format!("{} leaks: {}", self.plan.names()[place], leaks.join(", ")));
            }
        }
    }

    fn backlog(&mut self) -> u64 {
        self.processes
            .iter_mut()
            .filter_map(|process| process.actor.as_mut())
            .map(|actor| actor.backlog())
            .sum()
    }

    /// Who still holds what nobody needs any more.
    fn unrest(&mut self) -> Option<String> {
        self.processes.iter_mut().zip(self.plan.names()).find_map(|(process, name)| {
            let unrest = process.actor.as_mut()?.unrest()?;
            Some(format!("at {name} {unrest}"))
        })
    }

    fn has_met_enough(&self) -> bool {
        let by_plan = self.oracle.ledger().coverage.faults();
        by_plan + self.network.damage().total() >= FAULTS_MIN
    }

    fn has_failed(&self) -> bool {
        self.oracle.ledger().failure().is_some()
    }

    fn fail(&self, what: &str) {
        self.oracle.ledger().fail(what);
    }

    fn outcome(self) -> Outcome {
        let mut ledger = self.oracle.ledger();
        let damage = self.network.damage();
        for (fault, count) in [
            (Fault::Cut, damage.both_ends),
            (Fault::HalfOpen, damage.half_open),
            (Fault::CutHandshake, damage.in_handshake),
        ] {
            (0..count).for_each(|_| ledger.coverage.fault(fault));
        }
        let reads = self.network.reads();
        for (transition, count) in [
            (Transition::Offered, reads.offered),
            (Transition::ReadDone, reads.done),
            (Transition::ReadFailed, reads.failed),
            (Transition::ReadNever, reads.never),
            (Transition::FellBackToChunks, reads.refused),
        ] {
            ledger.coverage.transitions(transition, count);
        }
        let (messages, faults) = (ledger.coverage.messages, ledger.coverage.faults());
        if messages < MESSAGES_MIN || faults < FAULTS_MIN {
            ledger.fail(format!("it had {messages} messages and {faults} faults"));
        }
        let (calls, ends) = ledger.outcomes();
        if ledger.failure().is_none() && ends.iter().sum::<usize>() != calls {
            ledger.fail(format!("{calls} calls ended in {ends:?}: answered, failed, in doubt"));
        }
        let ((network_hash, network_events), (hash, events)) = (self.network.trace(), ledger.trace());
        ledger.coverage.events = network_events + events;
        let failure = ledger.failure().map(|what| format!("at {} s: {what}", crate::trace::Moment(self.now)));
        Outcome { coverage: ledger.coverage.clone(), hash: network_hash ^ hash.rotate_left(32), failure }
    }
}
