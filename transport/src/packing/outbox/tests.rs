//! Replays: an outbox whose connections are lost again and again, against a receiver that takes what is next and drops
//! what it has. And the two queues by themselves.

use super::control::{ControlQueue, NextRecord};
use super::lane::LaneQueue;
use super::{Announcement, Outbox, Windows};
use crate::message::Message;
use crate::packing::{Inbox, Offers, PackingRules, Parsed};
use crate::pool::{GatherList, Pool, PoolConfig};
use crate::proto::control::{Control, Detach, DetachCode};
use crate::proto::credit::SendWindow;
use crate::proto::record::MessageKind;
use crate::proto::serial::{Arrival, Received};
use crate::proto::text::ReasonText;
use crate::proto::{LANES, Lane, LinkId, Parameters, STREAMS, Stream};
use proptest::prelude::*;

fn parameters() -> Parameters {
    Parameters {
        packet_bytes: 256,
        frame_bytes_max: 1024,
        eager_bytes_max: 256,
        chunk_bytes_max: 256,
        frame_slots: 64,
        ..Parameters::default()
    }
}

fn pool() -> Pool {
    Pool::new(PoolConfig { bytes_max: 16 << 20, slab_bytes: 64 << 10, huge_pages: false }).unwrap()
}

/// What a control record was queued behind.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// Nothing; and what is queued later may need it.
    Plain,
    /// All messages, as a DETACH.
    BehindMessages,
    /// All of those, as the ATTACH that uses a number again.
    BehindControl,
}

#[derive(Debug, Clone)]
enum Step {
    Message {
        lane: usize,
        bytes: usize,
    },
    Control(Kind),
    /// Packs with so many frames and chunks granted, and delivers so many bytes of what is in flight.
    Fill {
        frames: u64,
        chunks: u64,
        delivered: usize,
    },
    /// Acknowledges a stream up to so far behind what is held.
    Acknowledge {
        stream: usize,
        behind: u64,
    },
    /// The connection is lost. So much of what is in flight arrives before the receiver says from where it goes on, and
    /// so much afterwards, by the old one.
    Cut {
        before: usize,
        after: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![4 => 0_usize..40, 2 => 40_usize..256, 1 => 257_usize..900];
    let kind = prop_oneof![Just(Kind::Plain), Just(Kind::BehindMessages), Just(Kind::BehindControl)];
    let amount = || prop_oneof![1 => Just(0_usize), 3 => 0_usize..600, 1 => Just(usize::MAX)];
    prop_oneof![
        6 => (0..LANES, bytes).prop_map(|(lane, bytes)| Step::Message { lane, bytes }),
        4 => kind.prop_map(Step::Control),
        4 => (0_u64..5, 0_u64..3, amount())
            .prop_map(|(frames, chunks, delivered)| Step::Fill { frames, chunks, delivered }),
        3 => (0..STREAMS, prop_oneof![2 => Just(0_u64), 1 => 0_u64..4])
            .prop_map(|(stream, behind)| Step::Acknowledge { stream, behind }),
        2 => (amount(), amount()).prop_map(|(before, after)| Step::Cut { before, after }),
    ]
}

/// What must have arrived before something may.
#[derive(Debug, Clone)]
struct Needs {
    /// By lane, so many messages.
    messages: [u64; LANES],
    /// So many of the control records of each kind.
    controls: [usize; 3],
}

/// One direction of a connection, and what it has brought.
struct Line {
    inbox: Inbox,
    in_flight: Vec<u8>,
    next_control: u64,
}

impl Line {
    fn new(next_control: u64) -> Self {
        let (rules, limits) = (PackingRules::new(&parameters()), parameters().limits());
        Self { inbox: Inbox::new(rules, limits), in_flight: Vec::new(), next_control }
    }
}

struct World {
    outbox: Outbox,
    windows: Windows,
    pool: Pool,
    line: Line,
    received: Received,
    /// By lane, what each message needs; by control record, its kind and what it needs.
    messages: [Vec<Needs>; LANES],
    controls: Vec<(Kind, Needs)>,
    /// The control records that have arrived, in order, and how many of each kind were queued and have arrived.
    arrived: Vec<usize>,
    queued_kinds: [usize; 3],
    arrived_kinds: [usize; 3],
}

impl World {
    fn new() -> Self {
        Self {
            outbox: Outbox::new(PackingRules::new(&parameters()), 1 << 20, 1 << 30),
            windows: Self::windows(),
            pool: pool(),
            line: Line::new(0),
            received: Received::default(),
            messages: Default::default(),
            controls: Vec::new(),
            arrived: Vec::new(),
            queued_kinds: [0; 3],
            arrived_kinds: [0; 3],
        }
    }

    fn windows() -> Windows {
        Windows { frames: SendWindow::new(0, 0), chunks: SendWindow::new(0, 0), offers: Offers::default() }
    }

    fn queued(&self) -> [u64; LANES] {
        self.messages.each_ref().map(|lane| lane.len() as u64)
    }

    fn take_step(&mut self, step: &Step) {
        match *step {
            Step::Message { lane, bytes } => {
                let mut message =
                    Message::new(MessageKind::Reply, self.pool.copy_body(&vec![7; bytes]).unwrap());
                message.head.lane = Lane::ALL[lane];
                let controls = [self.queued_kinds[0], 0, 0];
                self.messages[lane].push(Needs { messages: [0; LANES], controls });
                self.outbox.push(message).unwrap();
            }
            Step::Control(kind) => self.push_control(kind),
            Step::Fill { frames, chunks, delivered } => {
                self.fill(frames, chunks);
                self.deliver(delivered);
            }
            Step::Acknowledge { stream, behind } => {
                let stream = Stream::ALL[stream];
                let position = self.received.next(stream).saturating_sub(behind);
                self.outbox.acknowledge(stream, position).unwrap();
            }
            Step::Cut { before, after } => {
                self.deliver(before);
                let positions = self.received.positions();
                self.deliver(after);
                self.outbox.check_resume(&positions).unwrap();
                self.outbox.resume(PackingRules::new(&parameters()), &positions);
                self.line = Line::new(positions[Stream::Control.index()]);
                self.windows = Self::windows();
            }
        }
    }

    fn push_control(&mut self, kind: Kind) {
        let number = self.controls.len() as u32 + 1;
        let text = "x".repeat(number as usize % 50);
        let detach = Detach {
            link: LinkId::new(number).unwrap(),
            code: DetachCode::Normal,
            text: ReasonText::of(&text),
        };
        let mut record = [0; 512];
        let bytes = Control::Detach(detach).encode_into(&mut record).unwrap();
        let record = &record[..bytes];
        let [plain, behind_messages, behind_control] = self.queued_kinds;
        let needs = match kind {
            Kind::Plain => {
                self.outbox.push_control(record);
                Needs { messages: [0; LANES], controls: [plain, 0, 0] }
            }
            Kind::BehindMessages => {
                self.outbox.push_control_behind_messages(record);
                Needs { messages: self.queued(), controls: [0, behind_messages, behind_control] }
            }
            Kind::BehindControl => {
                self.outbox.push_control_behind_control(record);
                Needs { messages: [0; LANES], controls: [0, behind_messages, behind_control] }
            }
        };
        self.controls.push((kind, needs));
        self.queued_kinds[kind as usize] += 1;
    }

    fn fill(&mut self, frames: u64, chunks: u64) {
        let limit = self.windows.frames.used() + frames;
        self.windows.frames.grant(limit);
        let limit = self.windows.chunks.used() + chunks;
        self.windows.chunks.grant(limit);
        let mut nothing = Received::default();
        let mut announcement = Announcement { frame_limit: 1, chunk_limit: 1, received: &mut nothing };
        let mut gather = GatherList::new();
        self.outbox.fill(&mut self.windows, &mut announcement, &mut self.pool, &mut gather).unwrap();
        gather.segments().iter().for_each(|part| self.line.in_flight.extend_from_slice(part));
    }

    fn deliver(&mut self, bytes: usize) {
        let count = bytes.min(self.line.in_flight.len());
        for piece in self.line.in_flight.drain(..count).collect::<Vec<_>>().chunks(10_000) {
            let mut buffer = self.pool.buffer(piece.len()).unwrap();
            buffer.put_slice(piece);
            self.line.inbox.push(buffer.split());
        }
        let mut arrived = None;
        while let Some(parsed) = self.line.inbox.next(&mut self.pool, &mut arrived).unwrap() {
            match parsed {
                Parsed::Control => self.take_control(),
                Parsed::Message { .. } => self.take_message(&arrived.take().unwrap()),
                Parsed::Frame(_) | Parsed::Part { .. } | Parsed::FrameEnd => {}
                Parsed::Offer => panic!("nothing was to be offered"),
            }
        }
    }

    fn check(&self, what: &str, needs: &Needs) {
        for (lane, &count) in Lane::ALL.into_iter().zip(&needs.messages) {
            let held = self.received.next(Stream::Lane(lane));
            assert!(held >= count, "{what} before message {held} of {lane:?}, it was queued behind {count}");
        }
        for (kind, (held, needed)) in self.arrived_kinds.iter().zip(&needs.controls).enumerate() {
            assert!(held >= needed, "{what} after {held} of kind {kind}; it was queued behind {needed}");
        }
    }

    fn take_message(&mut self, message: &Message) {
        let (lane, number) = (message.head.lane, message.head.lane_sequence);
        // A gap would be an error here.
        if self.received.check(lane, number).unwrap() == Arrival::Next {
            let needs = &self.messages[lane.index()][number as usize];
            self.check(&format!("message {number} of {lane:?}"), needs);
            self.received.take(Stream::Lane(lane));
        }
    }

    fn take_control(&mut self) {
        let limits = parameters().limits();
        let record = self.line.inbox.control_record().to_vec();
        let Ok(Some(Control::Detach(detach))) = Control::parse(&record, &limits) else {
            panic!("{record:?}")
        };
        let index = detach.link.value() as usize - 1;
        let number = self.line.next_control;
        self.line.next_control += 1;
        let held = self.received.next(Stream::Control);
        if number < held {
            assert_eq!(self.arrived[number as usize], index, "control record {number} is another one now");
            return;
        }
        assert_eq!(number, held, "a gap");
        let (kind, needs) = &self.controls[index];
        self.check(&format!("control record {index}"), needs);
        self.arrived_kinds[*kind as usize] += 1;
        self.arrived.push(index);
        self.received.take(Stream::Control);
    }

    /// Everything arrives in the end, and everything is let go.
    fn finish(&mut self) {
        for _ in 0..10_000 {
            self.fill(4, 2);
            self.deliver(usize::MAX);
            for stream in Stream::ALL {
                self.outbox.acknowledge(stream, self.received.next(stream)).unwrap();
            }
            if self.outbox.waiting_messages() + self.outbox.waiting_control() == 0 {
                break;
            }
        }
        let held = Stream::ALL.map(|stream| self.received.next(stream));
        let [urgent, normal, bulk] = self.queued();
        assert_eq!(held, [urgent, normal, bulk, self.controls.len() as u64]);
        assert_eq!((self.outbox.unacknowledged(), self.outbox.waiting_bytes()), (0, 0));
        assert_eq!(self.outbox.control_bytes(), (0, 0));
        Lane::ALL.into_iter().for_each(|lane| self.outbox.check_room(lane).unwrap());
        assert!(self.outbox.lanes.iter().all(|lane| lane.size() == (0, 0)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

    #[test]
    fn each_stream_arrives_in_order_whatever_is_lost(steps in proptest::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.take_step(step));
        world.finish();
    }
}

#[cfg(feature = "simulation")]
proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Nothing of it is owed to the lane that always goes first.
    #[test]
    fn each_stream_arrives_in_order_whichever_lane_goes_first(
        seed in any::<u64>(),
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new();
        crate::lane_turns::during(Some(seed), || {
            steps.iter().for_each(|step| world.take_step(step));
            world.finish();
        });
    }
}

#[cfg(feature = "simulation")]
#[test]
fn what_fits_one_frame_leaves_in_one_whichever_lane_goes_first() {
    let parameters = Parameters { packet_bytes: 4096, eager_bytes_max: 4096, ..parameters() };
    let mut overtaken = 0;
    for seed in 0..100 {
        let mut world = World::new();
        world.outbox = Outbox::new(PackingRules::new(&parameters), 100, 1 << 20);
        let steps = (0..6).map(|place| Step::Message { lane: place % LANES, bytes: 10 });
        steps.for_each(|step| world.take_step(&step));
        assert!(world.outbox.fits_one_frame());
        let ((), frames) = crate::lane_turns::during(Some(seed), || world.fill(1, 0));
        assert_eq!(world.outbox.waiting_messages(), 0, "seed {seed}");
        overtaken += frames;
    }
    // One order in six is the usual one.
    assert!((50..100).contains(&overtaken), "{overtaken}");
}

fn message(bytes: usize, pool: &mut Pool) -> Message {
    Message::new(MessageKind::Reply, pool.copy_body(&vec![1; bytes]).unwrap())
}

/// Messages of 100, 101, 102... bytes, of which so many have left.
fn lane(messages: usize, left: usize, pool: &mut Pool) -> LaneQueue {
    let mut queue = LaneQueue::default();
    (0..messages).for_each(|number| queue.push(message(100 + number, pool)));
    (0..left).for_each(|_| queue.advance(true));
    queue
}

fn next_bytes(queue: &LaneQueue) -> Option<usize> {
    queue.front().map(|message| message.body.len())
}

#[test]
fn a_lane_goes_back_to_what_the_peer_expects() {
    let mut pool = pool();
    let mut queue = lane(5, 4, &mut pool);
    assert_eq!((queue.kept(), queue.waiting(), queue.acknowledgeable()), (4, 1, (0, 4)));
    queue.acknowledge(1);
    assert_eq!((queue.kept(), queue.acknowledgeable()), (3, (1, 4)));
    queue.acknowledge(0);
    assert_eq!(queue.kept(), 3, "an older one changes nothing");
    queue.rewind(2);
    assert_eq!((queue.kept(), queue.waiting(), queue.next_sequence()), (0, 3, 2));
    assert_eq!((next_bytes(&queue), queue.acknowledgeable()), (Some(102), (2, 4)));
    let (messages, bytes) = queue.size();
    assert_eq!((messages, bytes), (3, queue.waiting_bytes()));
    queue.rewind(4);
    assert_eq!((next_bytes(&queue), queue.waiting()), (Some(104), 1));
}

#[test]
fn an_acknowledgement_ahead_of_a_replay_leaves_out_what_the_peer_has() {
    let mut pool = pool();
    let mut queue = lane(6, 5, &mut pool);
    queue.rewind(0);
    queue.advance(true);
    queue.acknowledge(3);
    assert_eq!((next_bytes(&queue), queue.next_sequence(), queue.kept()), (Some(103), 3, 0));
    let waiting: u64 = queue.iter().map(Message::charged_bytes).sum();
    assert_eq!((queue.waiting_bytes(), queue.waiting()), (waiting, 3));
}

/// The peer has begun to put it together: it gets all of it, and then it is let go, and what it has behind it is left out.
#[test]
fn what_is_leaving_in_chunks_leaves_to_its_end() {
    let mut pool = pool();
    let mut queue = lane(4, 4, &mut pool);
    queue.rewind(1);
    queue.chunked_bytes = 50;
    queue.acknowledge(3);
    assert_eq!((queue.next_sequence(), queue.chunked_bytes, next_bytes(&queue)), (1, 50, Some(101)));
    assert_eq!(queue.acknowledgeable(), (3, 4), "no resuming before what was acknowledged");
    queue.advance(true);
    assert_eq!((queue.next_sequence(), queue.kept(), next_bytes(&queue)), (3, 0, Some(103)));
}

const ANYWHERE: [u64; LANES] = [0; LANES];

/// Records of 8, 16, 24... bytes.
fn control(records: usize) -> ControlQueue {
    let mut queue = ControlQueue::default();
    (1..=records).for_each(|number| queue.push(&vec![number as u8; 8 * number], ANYWHERE));
    queue
}

/// The first bytes of all that would leave now.
fn leaves(queue: &mut ControlQueue, positions: [u64; LANES]) -> Vec<u8> {
    let mut found = Vec::new();
    queue.release(positions);
    while let NextRecord::Bytes(bytes) = queue.peek(0, &positions) {
        let record = queue.next_bytes(bytes).to_vec();
        assert!(record.iter().all(|byte| *byte == record[0]), "{record:?}");
        found.push(record[0]);
        queue.advance(1, bytes, positions, true);
    }
    found
}

#[test]
fn control_records_go_back_to_what_the_peer_expects() {
    let mut queue = control(4);
    assert_eq!(leaves(&mut queue, ANYWHERE), [1, 2, 3, 4]);
    assert_eq!((queue.kept(), queue.waiting(), queue.sizes()), (4, 0, (0, 80)));
    queue.acknowledge(1);
    queue.rewind(2);
    assert_eq!((queue.kept(), queue.waiting(), queue.sizes()), (0, 2, (0, 56)));
    assert_eq!((leaves(&mut queue, ANYWHERE), queue.acknowledgeable()), (vec![3, 4], (2, 4)));
}

/// Records have no numbers, so the peer must get each that it counts; what it has acknowledged is let go then.
#[test]
fn an_acknowledgement_ahead_of_a_replay_leaves_out_no_record() {
    let mut queue = control(4);
    leaves(&mut queue, ANYWHERE);
    queue.rewind(0);
    queue.acknowledge(3);
    assert_eq!(queue.acknowledgeable(), (3, 4), "no resuming before what was acknowledged");
    assert_eq!(leaves(&mut queue, ANYWHERE), [1, 2, 3, 4]);
    assert_eq!(queue.kept(), 1);
}

/// A DETACH that waits for messages, and the ATTACH that uses its number again.
#[test]
fn an_attach_never_overtakes_the_detach_that_freed_its_number() {
    let (detach, attach, flow) = ([1; 8], [2; 8], [3; 8]);
    let after = [0, 5, 0];
    for left in 0..4 {
        let mut queue = ControlQueue::default();
        queue.push_behind(&detach, after);
        queue.push_behind_those(&attach, ANYWHERE);
        assert_eq!(leaves(&mut queue, [9, 4, 9]), []);
        queue.release(after);
        for _ in 0..left.min(2) {
            queue.advance(1, 8, after, true);
        }
        // Those that have not left are to wait with the messages again, and so keeps none back that needs not wait.
        queue.rewind(0);
        queue.push(&flow, ANYWHERE);
        let early = leaves(&mut queue, [0, 2, 0]);
        assert_eq!(early, if left == 0 { vec![3] } else { vec![] });
        let mut late = leaves(&mut queue, after);
        late.retain(|record| *record != 3);
        assert_eq!(late, [1, 2]);
    }
    // One that is queued when the other has just been released.
    let mut queue = ControlQueue::default();
    queue.push_behind(&detach, after);
    queue.release(after);
    queue.push_behind_those(&attach, after);
    queue.rewind(0);
    assert_eq!(leaves(&mut queue, [0, 2, 0]), []);
    assert_eq!(leaves(&mut queue, after), [1, 2]);
}

/// What left before a message leaves before it again.
#[test]
fn messages_do_not_pass_a_record_that_is_to_leave_again() {
    let mut queue = control(2);
    queue.advance(1, 8, [1, 2, 3], true);
    assert_eq!(queue.replay_limits(0), None, "the second has never left");
    queue.advance(1, 16, [4, 5, 6], true);
    queue.rewind(0);
    assert_eq!((queue.replay_limits(0), queue.replay_limits(1)), (Some(&[1, 2, 3]), Some(&[4, 5, 6])));
    assert_eq!(queue.replay_limits(2), None);
}
