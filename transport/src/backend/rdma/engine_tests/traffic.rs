//! Seeded traffic: several connections, both ways, on a network that disturbs, between ends that really sleep.
//!
//! An end that sleeps wakes when its descriptor is readable, or when it was told to look again. When all sleep and
//! nothing more can happen, everything must have arrived: else something would hang for ever.

use super::*;
use crate::backend::rdma::verbs::Verbs;
use crate::backend::rdma::verbs::fake::Fault;
use std::os::fd::AsRawFd;

/// The bytes of one send, one of them drawn for each.
const LENGTHS: [usize; 12] =
    [1, 24, 255, 257, 1_000, 4_096, 16_384, 17_408, 17_409, 60_000, 250_000, 1_000_000];

const TURNS_MAX: usize = 400_000;

/// `splitmix64`.
struct Dice(u64);

impl Dice {
    fn draw(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % below as u64) as usize
    }
}

/// One direction of a channel.
struct Flow {
    from: (usize, Channel),
    to: (usize, Channel),
    bytes: usize,
    sent: usize,
    received: usize,
    is_in_flight: bool,
}

impl Flow {
    fn byte(&self, place: usize) -> u8 {
        (place ^ (place >> 8).wrapping_mul(29) ^ (self.from.0 * 97 + self.from.1.slot as usize * 13)) as u8
    }
}

struct Run {
    rig: Rig,
    dice: Dice,
    flows: Vec<Flow>,
    /// Who sleeps, and whether only until it looks again by itself.
    asleep: Vec<Option<bool>>,
    /// What readers have not let go of.
    held: Vec<Vec<Segment>>,
    is_reading: Vec<bool>,
}

impl Run {
    fn new(seed: u64, configs: &[RdmaConfig], ways: &[(usize, usize)], bytes: usize) -> Self {
        let mut rig = Rig::with(FakeNetwork::seeded(seed), configs);
        let places: Vec<_> = rig.ends.iter_mut().map(|end| end.listen().1).collect();
        let mut flows = Vec::new();
        for &(from, to) in ways {
            let (near, far) = rig.connect(from, to, &places[to]);
            let flow = |from, to| Flow { from, to, bytes, sent: 0, received: 0, is_in_flight: false };
            flows.extend([flow((from, near), (to, far)), flow((to, far), (from, near))]);
        }
        let count = configs.len();
        let (asleep, held) = (vec![None; count], (0..count).map(|_| Vec::new()).collect());
        Self { rig, dice: Dice(seed), flows, asleep, held, is_reading: vec![true; count] }
    }

    /// Until everything has arrived.
    fn run(&mut self) {
        for _ in 0..TURNS_MAX {
            if self.flows.iter().all(|flow| flow.received == flow.bytes && !flow.is_in_flight) {
                return;
            }
            for end in 0..self.asleep.len() {
                self.turn(end);
            }
            let steps = self.dice.draw(6);
            let moved = (0..steps).filter(|_| self.rig.network.step()).count();
            let all_sleep = self.asleep.iter().all(|sleep| *sleep == Some(false));
            let nobody_wakes = all_sleep && (0..self.asleep.len()).all(|end| !self.is_readable(end));
            if moved == 0 && nobody_wakes && !self.rig.network.step() && self.is_reading.iter().all(|it| *it)
            {
                panic!("all sleep, and nothing more happens: {}", self.standing());
            }
        }
        panic!("it does not end: {}", self.standing());
    }

    fn turn(&mut self, end: usize) {
        // Readers stop and go on as they like; whoever drops a segment wakes nobody.
        if self.dice.draw(40) == 0 {
            self.is_reading[end] = !self.is_reading[end];
        }
        if self.is_reading[end] {
            self.held[end].clear();
        }
        match self.asleep[end] {
            Some(looks_again) if !looks_again && !self.is_readable(end) => return,
            Some(_) => self.asleep[end] = None,
            None => {}
        }
        let is_idle = !self.start_sends(end) & !self.poll(end);
        if is_idle {
            let wait = self.rig.ends[end].arm();
            if !self.poll(end) {
                self.asleep[end] = Some(wait.is_some());
            }
        }
    }

    fn is_readable(&self, end: usize) -> bool {
        let descriptor = self.rig.ends[end].engine.as_ref().unwrap().verbs.descriptor().as_raw_fd();
        let mut asked = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry of our own, and no waiting.
        unsafe { libc::poll(&raw mut asked, 1, 0) == 1 }
    }

    /// Whether one was started.
    fn start_sends(&mut self, end: usize) -> bool {
        let mut has_started = false;
        for flow in self.flows.iter_mut().filter(|flow| flow.from.0 == end) {
            if flow.is_in_flight || flow.sent == flow.bytes {
                continue;
            }
            let bytes = LENGTHS[self.dice.draw(LENGTHS.len())].min(flow.bytes - flow.sent);
            let mut gather = GatherList::new();
            let mut taken = 0;
            while taken < bytes && gather.room() > 0 {
                let count = (bytes - taken).min(1 + self.dice.draw(60_000));
                let Ok(mut buffer) = self.rig.ends[end].pool.buffer(count) else { break };
                let content: Vec<u8> = (0..count).map(|place| flow.byte(flow.sent + taken + place)).collect();
                assert_eq!(buffer.put_slice(&content), count);
                gather.push(buffer.split());
                taken += count;
            }
            if taken > 0 {
                self.rig.ends[end].engine().send(flow.from.1, &mut gather).unwrap();
                flow.sent += taken;
                flow.is_in_flight = true;
                has_started = true;
            }
        }
        has_started
    }

    /// Whether anything was said.
    fn poll(&mut self, end: usize) -> bool {
        self.rig.ends[end].poll();
        let said = std::mem::take(&mut self.rig.ends[end].said);
        let is_any = !said.is_empty();
        for event in said {
            match event {
                WireEvent::Sent { channel } => {
                    let flow = self.flows.iter_mut().find(|flow| flow.from == (end, channel)).unwrap();
                    assert!(std::mem::replace(&mut flow.is_in_flight, false));
                }
                WireEvent::Received { channel, segment } => {
                    let flow = self.flows.iter_mut().find(|flow| flow.to == (end, channel)).unwrap();
                    for (place, byte) in segment.iter().enumerate() {
                        assert_eq!(*byte, flow.byte(flow.received + place), "at {}", flow.received + place);
                    }
                    flow.received += segment.len();
                    self.held[end].push(segment);
                }
                other => panic!("end {end} says {other:?}"),
            }
        }
        is_any
    }

    fn standing(&self) -> String {
        let flows = self.flows.iter();
        let flows: Vec<_> = flows.map(|flow| (flow.from.0, flow.sent, flow.received, flow.bytes)).collect();
        format!(
            "asleep {:?}, reading {:?}, flows (from, sent, received, of) {flows:?}",
            self.asleep, self.is_reading
        )
    }

    fn close(mut self) {
        self.held.iter_mut().for_each(Vec::clear);
        for flow in &self.flows {
            let (end, channel) = flow.from;
            self.rig.ends[end].engine().close(channel);
        }
        self.rig.network.disturb(0);
        self.rig.until(|rig| rig.ends.iter().all(|end| end.engine.as_ref().unwrap().channels.len() == 0));
        self.rig.assert_empty();
    }
}

fn tiny() -> RdmaConfig {
    RdmaConfig { sends_max: 16, inline_bytes: 64, ..config() }
}

#[test]
fn everything_arrives_while_the_ends_sleep_and_are_disturbed() {
    let ways = [(0, 1), (1, 0), (0, 2), (2, 1), (1, 2)];
    for seed in 0..12 {
        println!("seed {seed}");
        let configs = if seed % 2 == 0 { vec![config(); 3] } else { vec![tiny(); 3] };
        let mut run = Run::new(seed, &configs, &ways, 400_000);
        run.rig.network.disturb([0, 3, 10, 50][seed as usize % 4]);
        run.run();
        run.close();
    }
}

#[test]
fn bodies_of_megabytes_go_both_ways_with_small_pools() {
    for seed in 100..103 {
        println!("seed {seed}");
        let mut run = Run::new(seed, &[config(), tiny()], &[(0, 1)], 6_000_000);
        run.rig.network.disturb(20);
        run.run();
        run.close();
    }
}

/// Verbs promise that whoever arms and looks again misses nothing, and so the engine names no time for a sleep. A
/// device that breaks the promise is found out by the next poll, whatever causes it.
#[test]
fn what_a_lost_notification_was_of_is_found_by_the_next_poll() {
    let (mut rig, near, far) = Rig::connected();
    // What followed from coming up was put off to this poll.
    rig.ends[1].poll();
    assert_eq!(rig.ends[1].arm(), None);
    rig.ends[1].poll();
    rig.network.inject(rig.ends[1].name, Fault::NotificationLost);
    rig.ends[0].send(near, b"unheard").unwrap();
    rig.network.run_until_quiet();
    rig.ends[1].poll();
    assert_eq!(rig.ends[1].received(far), b"unheard");
}

#[test]
fn a_wakening_without_reason_finds_nothing_and_ends() {
    let (rig, _, _) = Rig::connected();
    let held = vec![Vec::new(), Vec::new()];
    let mut run =
        Run { rig, dice: Dice(1), flows: Vec::new(), asleep: vec![None; 2], held, is_reading: vec![true; 2] };
    run.rig.rounds(3);
    for _ in 0..3 {
        run.rig.network.notify_without_reason(run.rig.ends[1].name);
        assert!(run.is_readable(1));
        assert_eq!(run.rig.ends[1].arm(), None);
        assert!(!run.poll(1) && !run.is_readable(1));
    }
}

#[test]
fn a_device_that_gives_completions_one_at_a_time_leaves_none_behind_before_a_sleep() {
    let (mut rig, near, far) = Rig::connected();
    let device = rig.ends[1].engine().devices[0].device;
    rig.network.take_at_most(rig.ends[1].name, device, 1);
    // A flood of what brings no event: completions of sends that are not awaited, and then something that does.
    rig.ends[1].arm();
    rig.ends[1].poll();
    for _ in 0..3 {
        rig.ends[0].send(near, b"x").unwrap();
        rig.ends[0].poll();
    }
    rig.network.run_until_quiet();
    rig.ends[1].arm();
    rig.ends[1].poll();
    assert_eq!(rig.ends[1].received(far), b"xxx");
}
