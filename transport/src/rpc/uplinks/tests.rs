//! The policy in virtual time, without any session: what happens is what a test says.

use super::*;
use crate::connection::{AttachRequest, CloseReason};
use crate::driver::{Core, DetachedByPeer, Driver, DriverConfig, Handler};
use crate::message::Message;
use crate::pool::PoolConfig;
use crate::proto::handshake::Negotiated;
use crate::rpc::ReplyDestination;
use proptest::prelude::*;

/// Hears nothing: its driver only makes names of connections.
struct Deaf;

impl Handler for Deaf {
    fn opened(&mut self, _: &mut Core, _: ConnectionId, _: &Negotiated) {}
    fn attach_requested(&mut self, _: &mut Core, _: ConnectionId, _: AttachRequest) {}
    fn attached(&mut self, _: &mut Core, _: ConnectionId, _: LinkId) {}
    fn detached(&mut self, _: &mut Core, _: ConnectionId, _: DetachedByPeer) {}
    fn message(&mut self, _: &mut Core, _: ConnectionId, _: Message) {}
    fn writable(&mut self, _: &mut Core, _: ConnectionId, _: LinkId) {}
    fn closed(&mut self, _: &mut Core, _: ConnectionId, _: &CloseReason) {}
}

const PACE: Pace = Pace {
    failover_after: Duration::from_secs(1),
    reconnect_min: Duration::from_millis(10),
    reconnect_max: Duration::from_secs(1),
    return_after: Duration::from_secs(5),
};

struct World {
    uplinks: Uplinks,
    now: Timestamp,
    names: Driver<Deaf>,
    /// Attempts, by place and time.
    attempts: Vec<(usize, Timestamp)>,
}

impl World {
    fn new(count: usize, wanted: usize) -> Self {
        let addresses: Vec<_> = (0..count).map(|place| Address::inproc(format!("nobody-{place}"))).collect();
        let uplinks = Uplinks::seeded(&addresses, wanted, PACE, 7).unwrap();
        let pool = PoolConfig { slab_bytes: 64 << 10, huge_pages: false, ..PoolConfig::default() };
        let mut config = DriverConfig { pool, ..DriverConfig::default() };
        config.tcp.engine = crate::backend::tcp::EngineChoice::Epoll;
        let names = Driver::new(config, ReplyDestination::new(1).identity("names"), Deaf).unwrap();
        Self { uplinks, now: Timestamp::ZERO, names, attempts: Vec::new() }
    }

    /// All steps that are to be done now. What is to be connected is from now on coming up; what is to be drained,
    /// and has nothing in flight, closed.
    fn steps(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Some(step) = self.uplinks.next_step(self.now) {
            assert!(steps.len() < 200, "it never ends: {steps:?}");
            steps.push(step);
            if let Step::Drain(place) = step {
                assert!(self.uplinks.uplinks[place].is_usable(), "what it keeps would be lost");
            }
            match step {
                Step::Connect(place) => {
                    assert_eq!(self.uplinks.connection(place), None, "it is connected already");
                    self.attempts.push((place, self.now));
                    let name = self.names.parts().0.connect(&Address::inproc("nobody")).unwrap();
                    self.uplinks.connecting(place, name, self.now);
                }
                Step::Drain(place) if self.uplinks.in_flight(place) == 0 => {
                    self.uplinks.closing(place, None, self.now);
                    self.uplinks.ended(place, "closed", self.now);
                }
                _ => {}
            }
        }
        assert!(self.uplinks.due() > self.now, "it would be asked at once again");
        steps
    }

    fn open(&mut self, place: usize) {
        self.uplinks.attaching(place, LinkId::FIRST);
        self.uplinks.attached(place, self.now);
    }

    fn fail(&mut self, place: usize) {
        self.uplinks.ended(place, "refused", self.now);
    }

    fn land(&mut self, place: usize) {
        if self.uplinks.landed(place) && self.uplinks.is_open(place) {
            self.uplinks.closing(place, None, self.now);
            self.uplinks.ended(place, "closed", self.now);
        }
    }

    fn current(&self) -> Option<usize> {
        self.uplinks.current().map(|(place, _)| place)
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn each_address_is_tried_at_once_when_the_one_before_fails_and_then_with_growing_delays() {
    let mut world = World::new(3, 1);
    for place in 0..3 {
        assert_eq!(world.steps(), [Step::Connect(place)]);
        world.fail(place);
    }
    assert_eq!(world.steps(), []);
    while world.now < Timestamp::ZERO + seconds(60) {
        match world.steps()[..] {
            [] => world.now = world.uplinks.due(),
            [Step::Connect(place)] => world.fail(place),
            ref steps => panic!("{steps:?}"),
        }
    }
    for place in 0..3 {
        let times: Vec<_> =
            world.attempts.iter().filter(|(its, _)| *its == place).map(|(_, at)| *at).collect();
        // At most every half second in the end, at least every second.
        assert!((65..135).contains(&times.len()), "{} attempts in a minute", times.len());
        let last = &times[times.len() - 20..];
        assert!(last.windows(2).all(|pair| pair[1].since(pair[0]) >= seconds(1) / 2));
    }
}

#[test]
fn one_that_does_not_answer_is_overtaken_after_a_while() {
    let mut world = World::new(2, 1);
    assert_eq!(world.steps(), [Step::Connect(0)]);
    assert_eq!(world.uplinks.due(), world.now + PACE.failover_after);
    world.now = world.uplinks.due();
    assert_eq!(world.steps(), [Step::Connect(1)]);
    world.open(1);
    assert_eq!((world.current(), world.steps().len()), (Some(1), 0));
    world.open(0);
    assert_eq!((world.current(), world.steps()), (Some(0), vec![Step::Drain(1)]));
}

#[test]
fn a_better_one_is_tried_again_and_used_before_the_other_is_left() {
    let mut world = World::new(2, 1);
    world.steps();
    world.fail(0);
    world.steps();
    world.open(1);
    assert_eq!(world.steps(), []);
    assert_eq!(world.uplinks.due(), world.now + PACE.return_after);
    world.now = world.uplinks.due();
    assert_eq!(world.steps(), [Step::Connect(0)]);
    assert_eq!(world.current(), Some(1));
    world.uplinks.put_in_flight(1);
    world.open(0);
    assert_eq!((world.current(), world.steps()), (Some(0), vec![Step::Drain(1)]));
    assert!(world.uplinks.landed(1), "the last one in flight was all that it was kept for");
    // It is of use again while it drains.
    world.uplinks.put_in_flight(1);
    world.fail(0);
    assert_eq!(world.current(), Some(1));
    assert!(!world.uplinks.landed(1));
}

#[test]
fn an_interrupted_one_is_replaced_and_may_come_back() {
    let mut world = World::new(2, 1);
    world.steps();
    world.open(0);
    world.now = world.now + seconds(1);
    world.uplinks.interrupted(0, world.now, "cut");
    assert_eq!((world.current(), world.steps()), (None, vec![Step::Connect(1)]));
    world.open(1);
    assert_eq!((world.current(), world.steps()), (Some(1), vec![Step::Resend(0)]));
    assert_eq!(world.uplinks.due(), world.now + PACE.failover_after);
    world.now = world.uplinks.due();
    assert_eq!(world.steps(), [Step::GiveUp(0)]);
    assert_eq!(world.steps(), []);
    world.uplinks.resumed(0);
    assert_eq!((world.current(), world.steps()), (Some(0), vec![Step::Drain(1)]));
}

#[test]
fn one_that_is_not_needed_is_not_left_while_it_is_interrupted() {
    let mut world = World::new(2, 2);
    for place in 0..2 {
        world.steps();
        world.open(place);
    }
    world.uplinks.put_in_flight(1);
    world.uplinks.want(1);
    assert_eq!(world.steps(), [Step::Drain(1)]);
    world.uplinks.interrupted(1, world.now, "cut");
    assert!(!world.uplinks.landed(1) && world.uplinks.drained().next().is_none());
    assert_eq!(world.steps(), [Step::Resend(1)]);
    world.now = world.now + PACE.failover_after;
    assert_eq!(world.steps(), [Step::GiveUp(1)]);
    world.uplinks.resumed(1);
    assert_eq!(world.steps(), [Step::Drain(1)]);
}

#[test]
fn alone_it_is_given_up_only_when_it_has_ended() {
    let mut world = World::new(1, 1);
    world.steps();
    world.open(0);
    world.uplinks.interrupted(0, world.now, "cut");
    world.now = world.now + seconds(100);
    assert_eq!(world.steps(), []);
    assert_eq!(world.uplinks.failures()[0].reason, "interrupted: cut");
}

#[test]
fn one_that_is_to_be_left_is_used_only_while_there_is_no_other() {
    let mut world = World::new(3, 2);
    assert_eq!(world.steps(), [Step::Connect(0), Step::Connect(1)]);
    world.open(0);
    world.open(1);
    world.uplinks.leaving(0);
    assert_eq!(world.current(), Some(1));
    assert_eq!(world.steps(), [Step::Drain(0), Step::Connect(2)]);
    world.uplinks.leaving(1);
    assert_eq!((world.current(), world.steps().len()), (Some(1), 0));
    world.open(2);
    assert_eq!((world.current(), world.steps()), (Some(2), vec![Step::Drain(1)]));
    assert!(
        world.uplinks.due() >= world.now + PACE.return_after,
        "whoever asked to be left is left for a while"
    );
}

#[test]
fn one_that_ends_as_soon_as_it_is_open_is_not_tried_faster_and_faster() {
    let mut world = World::new(1, 1);
    while world.now < Timestamp::ZERO + seconds(60) {
        world.steps();
        world.open(0);
        world.fail(0);
        world.steps();
        world.now = world.uplinks.due();
    }
    assert!(world.attempts.len() < 135, "{} attempts in a minute", world.attempts.len());
}

#[derive(Debug, Clone, Copy)]
enum Happening {
    Opens(usize),
    Ends(usize),
    Interrupted(usize),
    Resumed(usize),
    Leaving(usize),
    Began(usize),
    Landed(usize),
    Later(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let place = 0..4_usize;
    prop_oneof![
        3 => place.clone().prop_map(Happening::Opens),
        2 => place.clone().prop_map(Happening::Ends),
        1 => place.clone().prop_map(Happening::Interrupted),
        1 => place.clone().prop_map(Happening::Resumed),
        1 => place.clone().prop_map(Happening::Leaving),
        1 => place.clone().prop_map(Happening::Began),
        1 => place.prop_map(Happening::Landed),
        2 => (0..8_000_u64).prop_map(Happening::Later),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever happens: the best ones that work are in use, and as long as one is missing and one could be tried,
    /// one is being tried or waits for no longer than the longest delay.
    #[test]
    fn the_best_that_work_are_in_use(wanted in 1..4_usize, happenings in proptest::collection::vec(happening(), 1..80)) {
        let mut world = World::new(4, wanted);
        let is_open = |world: &World, place: usize| world.uplinks.is_open(place);
        for happening in happenings {
            world.steps();
            match happening {
                Happening::Opens(place) if world.uplinks.uplinks[place].coming_up_since().is_some() => world.open(place),
                Happening::Ends(place) if world.uplinks.connection(place).is_some() => world.fail(place),
                Happening::Interrupted(place) if is_open(&world, place) => world.uplinks.interrupted(place, world.now, "cut"),
                Happening::Resumed(place) if is_open(&world, place) => world.uplinks.resumed(place),
                Happening::Leaving(place) if is_open(&world, place) => world.uplinks.leaving(place),
                Happening::Began(place) if is_open(&world, place) => world.uplinks.put_in_flight(place),
                Happening::Landed(place) => world.land(place),
                Happening::Later(milliseconds) => world.now = world.now + Duration::from_millis(milliseconds),
                _ => {}
            }
            world.steps();
            let works = |leaving: bool| {
                let all = world.uplinks.uplinks.iter().enumerate();
                all.filter(move |(_, it)| it.is_usable() && it.is_leaving == leaving).map(|(place, _)| place)
            };
            let mut expected: Vec<_> = works(false).take(wanted).collect();
            if expected.is_empty() {
                expected = works(true).take(wanted).collect();
            }
            prop_assert_eq!(world.uplinks.in_use.as_slice(), &expected[..]);
            prop_assert_eq!(world.current(), expected.first().copied());
            let is_missing = works(false).count() < wanted;
            let could_be_tried = world.uplinks.uplinks.iter().any(|it| it.stage == Stage::Idle);
            if is_missing && could_be_tried {
                let by = world.now + PACE.failover_after.max(PACE.return_after).max(PACE.reconnect_max);
                prop_assert!(world.uplinks.due() <= by, "{:?}", world.uplinks);
            }
        }
    }
}
