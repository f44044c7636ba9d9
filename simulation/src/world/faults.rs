//! What goes wrong in a world, and when.

use super::World;
use super::plan::Kind;
use crate::coverage::Fault;
use crate::network::{Cut, Effect, MICROSECOND, MILLISECOND, NEVER, SECOND};
use crate::random::Random;
use crate::trace::Moment;
use underlay::backend::WireKind;

/// The wires that actors use here; what holds for them holds for every wire, of which sessions know only the traits.
const SIMULATED: [WireKind; 2] = [WireKind::Tcp, WireKind::Inproc];

/// When something goes wrong. What it is is drawn when it happens.
#[derive(Debug)]
pub(super) struct FaultPlan {
    random: Random,
    /// The next one last.
    moments: Vec<u64>,
    /// When a broker leaves in order, if one does, and what else is drawn for that.
    leave_at: u64,
    more: Random,
    /// From one to the next when all of them were too few.
    spacing: u64,
    last: u64,
}

impl FaultPlan {
    pub(super) fn drawn(mut random: Random, duration: u64, mut more: Random) -> Self {
        let count = random.within(7..16);
        let mut moments: Vec<u64> = (0..count).map(|_| random.within(0..duration)).collect();
        moments.sort_unstable_by(|one, other| other.cmp(one));
        let leave_at = if more.once_in(3) { more.within(0..duration) } else { NEVER };
        Self { random, moments, leave_at, more, spacing: duration / 8, last: duration }
    }

    pub(super) fn next_due(&self) -> u64 {
        self.moments.last().copied().unwrap_or(NEVER).min(self.leave_at)
    }

    pub(super) fn is_over(&self, now: u64) -> bool {
        self.next_due() == NEVER && now >= self.last
    }

    pub(super) fn stop(&mut self) {
        self.moments.clear();
        self.leave_at = NEVER;
    }
}

impl World {
    /// Does what is due, and sees to it that there is more as long as too little was met.
    pub(super) fn do_damage(&mut self) {
        if self.faults.leave_at <= self.now {
            self.faults.leave_at = NEVER;
            self.leave();
        }
        while self.faults.moments.last().is_some_and(|moment| *moment <= self.now) {
            self.faults.moments.pop();
            self.strike();
            if self.faults.moments.is_empty() && !self.has_met_enough() {
                self.faults.moments.push(self.now + self.faults.spacing);
            }
        }
    }

    fn strike(&mut self) {
        let until = self.now + self.faults.random.within(10 * MILLISECOND..3 * SECOND);
        match self.faults.random.within(0..20) {
            0..5 => self.cut(),
            5 => {
                let after = self.faults.random.within(1..600);
                let cut = self.any_cut();
                self.network.ambush(after, cut);
                // Somebody has to connect for that.
                self.network.cut_some(None, 1, Cut::BothEnds);
            }
            6 => self.slow(until),
            7 => self.wire_down(until),
            8 => {
                let kind = self.any_kind();
                self.trouble(Fault::Refused, Effect::Refuses, kind, None, until);
                self.network.cut_some(kind, 1, Cut::BothEnds);
            }
            9 => {
                let kind = self.any_kind();
                self.trouble(Fault::Hanging, Effect::Hangs, kind, None, until);
                self.network.cut_some(kind, 1, Cut::BothEnds);
            }
            10 | 11 => self.partition(until),
            12..16 => self.crash(),
            16 | 17 => self.pause(until),
            _ => self.jump(),
        }
    }

    fn cut(&mut self) {
        let after = match self.faults.random.within(0..3) {
            0 => self.faults.random.within(1..100),
            1 => self.faults.random.within(1..2_000),
            _ => self.faults.random.within(1..30_000),
        };
        let (cut, kind) = (self.any_cut(), self.any_kind());
        self.network.cut_some(kind, after, cut);
    }

    fn slow(&mut self, until: u64) {
        let (kind, random) = (self.any_kind(), &mut self.faults.random);
        match random.within(0..3) {
            0 => {
                let by = random.within(MILLISECOND..300 * MILLISECOND);
                self.trouble(Fault::Slow, Effect::Slow(by), kind, None, until);
            }
            1 => {
                let by = random.within(100 * MICROSECOND..3 * SECOND);
                self.trouble(Fault::SlowSends, Effect::SlowSends(by), kind, None, until);
            }
            _ => self.trouble(Fault::Chopped, Effect::Chopped, kind, None, until),
        }
    }

    /// A kind of wire fails: what is open breaks, or hangs, and nothing comes up.
    fn wire_down(&mut self, until: u64) {
        let kind = *self.faults.random.one_of(&SIMULATED);
        let effect = if self.faults.random.once_in(2) { Effect::Refuses } else { Effect::Holds };
        if effect == Effect::Refuses {
            self.network.break_all(kind);
        }
        self.trouble(Fault::WireDown, effect, Some(kind), None, until);
    }

    fn partition(&mut self, until: u64) {
        let place = self.faults.random.place(self.processes.len());
        let host = self.processes[place].host;
        self.trouble(Fault::Partition, Effect::Holds, None, Some(host), until);
    }

    fn trouble(
        &mut self,
        fault: Fault,
        effect: Effect,
        kind: Option<WireKind>,
        host: Option<crate::network::HostId>,
        until: u64,
    ) {
        self.network.trouble(effect, kind, host, until);
        let place = host.map_or(63, |host| host.0);
        self.oracle.ledger().fault(fault, place, || format!("until {}", Moment(until)));
    }

    fn crash(&mut self) {
        let place = self.faults.random.place(self.processes.len());
        if !self.processes[place].is_alive() {
            return;
        }
        let is_silent = self.faults.random.once_in(3);
        let restart_at = self.now + self.faults.random.within(MILLISECOND..SECOND);
        let fault = match self.plan.kind(place) {
            Kind::Broker => Fault::CrashBroker,
            Kind::End => Fault::CrashEnd,
            Kind::Service => Fault::CrashService,
            Kind::Client => Fault::CrashClient,
        };
        let name = self.plan.names()[place].clone();
        let mut ledger = self.oracle.ledger();
        ledger.fault(fault, place, || format!("{name} until {}", Moment(restart_at)));
        if is_silent {
            ledger.fault(Fault::CrashSilent, place, || format!("{name}: nobody is told"));
        }
        drop(ledger);
        self.kill(place, is_silent, restart_at);
    }

    /// A broker is told to shut down, and does so in order.
    fn leave(&mut self) {
        let brokers: Vec<usize> = (0..self.processes.len()).filter(|at| self.plan.is_broker(*at)).collect();
        let place = *self.faults.more.one_of(&brokers);
        if self.processes[place].is_alive() {
            let away = self.faults.more.within(MILLISECOND..SECOND);
            let name = self.plan.names()[place].clone();
            self.oracle.ledger().fault(Fault::Leave, place, || format!("{name}, away for {}", Moment(away)));
            self.processes[place].leave(self.now, away);
        }
    }

    fn pause(&mut self, until: u64) {
        let place = self.faults.random.place(self.processes.len());
        if self.processes[place].is_alive() {
            let name = self.plan.names()[place].clone();
            self.oracle.ledger().fault(Fault::Pause, place, || format!("{name} until {}", Moment(until)));
            self.processes[place].pause(until);
        }
    }

    fn jump(&mut self) {
        let place = self.faults.random.place(self.processes.len());
        if self.processes[place].is_alive() {
            let by = match self.faults.random.within(0..3) {
                0 => self.faults.random.within(MILLISECOND..SECOND),
                _ => self.faults.random.within(SECOND..60 * SECOND),
            };
            let name = self.plan.names()[place].clone();
            self.oracle.ledger().fault(Fault::ClockJump, place, || format!("{name} by {}", Moment(by)));
            self.processes[place].jump(by, self.now);
        }
    }

    fn any_cut(&mut self) -> Cut {
        if self.faults.random.once_in(3) { Cut::HalfOpen } else { Cut::BothEnds }
    }

    fn any_kind(&mut self) -> Option<WireKind> {
        *self.faults.random.one_of(&[None, Some(WireKind::Tcp), Some(WireKind::Inproc)])
    }
}
