//! The short way against the planned one: whatever happens to an outbox, the same frames leave and the same is left.

use super::*;
use crate::message::Message;
use crate::packing::outbox::{BATCH_BYTES_MAX, SEGMENTS_IN_FRAME_MAX};
use crate::packing::{Offers, PackingRules, PackingStats};
use crate::pool::{BUFFER_BYTES_MAX, Body, COPY_BREAK_BYTES, PoolConfig};
use crate::proto::credit::SendWindow;
use crate::proto::record::MessageKind;
use crate::proto::serial::Received;
use crate::proto::{LANES, Parameters, ReplyAddress, STREAMS, Stream};
use proptest::prelude::*;

/// What data may not use of the frames that are granted.
const RESERVE: u64 = 4;

/// What a message has beside its number.
#[derive(Debug, Clone)]
struct Spec {
    lane: usize,
    body_bytes: usize,
    pieces: usize,
    extension_bytes: usize,
    has_reply_address: bool,
    deadline_us: Option<u32>,
}

#[derive(Debug, Clone)]
enum Step {
    /// So many of them.
    Messages(Spec, usize),
    Control {
        is_behind: bool,
    },
    /// Packs with so many frames granted, the reserve among them.
    Fill {
        frames: u64,
    },
    /// The peer holds so much, of 255, of what it may not have acknowledged of a stream.
    Acknowledge {
        stream: usize,
        part: u8,
    },
    /// Goes on over another connection with other packets; of each stream, the peer has so much, of 255.
    Resume {
        packet_bytes: u32,
        part: u8,
    },
}

fn packet_bytes() -> impl Strategy<Value = u32> {
    // The last two hold more than the buffer for heads.
    prop_oneof![256_u32..1024, 1024_u32..9000, Just(8192), Just(65_536 + 64), 65_536_u32..200_000]
}

fn spec() -> impl Strategy<Value = Spec> {
    let body_bytes = prop_oneof![
        1 => Just(0_usize),
        6 => 1_usize..300,
        4 => 300_usize..1600,
        4 => 1600_usize..COPY_BREAK_BYTES,
        1 => COPY_BREAK_BYTES - 2..COPY_BREAK_BYTES + 3000,
        1 => Just(20_000_usize),
    ];
    let extension_bytes = prop_oneof![3 => Just(0_usize), 2 => 1_usize..200, 1 => 200_usize..900];
    let deadline_us = prop_oneof![Just(None), (1_u32..9000).prop_map(Some)];
    (0..LANES, body_bytes, 1_usize..5, extension_bytes, any::<bool>(), deadline_us).prop_map(
        |(lane, body_bytes, pieces, extension_bytes, has_reply_address, deadline_us)| Spec {
            lane,
            body_bytes,
            pieces,
            extension_bytes,
            has_reply_address,
            deadline_us,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let count = prop_oneof![6 => 1_usize..4, 2 => 4_usize..30, 1 => 30_usize..90];
    let frames = prop_oneof![3 => 0..RESERVE + 3, 1 => Just(1 << 20)];
    prop_oneof![
        6 => (spec(), count).prop_map(|(spec, count)| Step::Messages(spec, count)),
        1 => any::<bool>().prop_map(|is_behind| Step::Control { is_behind }),
        8 => frames.prop_map(|frames| Step::Fill { frames }),
        2 => (0..STREAMS, any::<u8>()).prop_map(|(stream, part)| Step::Acknowledge { stream, part }),
        2 => (packet_bytes(), any::<u8>())
            .prop_map(|(packet_bytes, part)| Step::Resume { packet_bytes, part }),
    ]
}

fn rules(packet_bytes: u32) -> PackingRules {
    PackingRules::new(&Parameters {
        packet_bytes,
        frame_bytes_max: 256 << 10,
        eager_bytes_max: 8192,
        // Packets end where one record's body must.
        chunk_bytes_max: packet_bytes.max(16_384),
        ..Parameters::default()
    })
}

/// Which way frames are made.
#[derive(Clone, Copy)]
enum Way {
    /// As always: short, where it can be.
    Short,
    Planned,
}

/// What can be seen of an outbox after a step.
#[derive(Debug, PartialEq)]
struct Seen {
    made: usize,
    /// What was made, all of it.
    bytes: Vec<u8>,
    used: [u64; 2],
    positions: [u64; LANES],
    acknowledgeable: [(u64, u64); STREAMS],
    waiting: (usize, usize, u64),
    kept: usize,
    sizes: [(usize, u64); LANES],
    control: (usize, usize),
    stats: PackingStats,
}

/// An outbox with what stands around it.
struct World {
    way: Way,
    outbox: Outbox,
    windows: Windows,
    received: Received,
    gather: GatherList,
    number: u64,
    pool: Pool,
}

fn windows() -> Windows {
    Windows { frames: SendWindow::new(0, RESERVE), chunks: SendWindow::new(3, 0), offers: Offers::default() }
}

impl World {
    fn new(way: Way, packet_bytes: u32, keeps: bool) -> Self {
        let config = PoolConfig { slab_bytes: 2 * BUFFER_BYTES_MAX, huge_pages: false, ..PoolConfig::edge() };
        let mut outbox = Outbox::new(rules(packet_bytes), 1000, u64::MAX);
        if !keeps {
            outbox.forget_what_left();
        }
        let (windows, received, gather) = (windows(), Received::default(), GatherList::new());
        Self { way, outbox, windows, received, gather, number: 0, pool: Pool::new(config).unwrap() }
    }

    /// In pieces that are no neighbours.
    fn body(&mut self, bytes: usize, pieces: usize) -> Body {
        let content: Vec<u8> = (0..bytes).map(|index| (index as u64 * 7 + self.number) as u8).collect();
        let mut body = Body::new();
        for piece in content.chunks(bytes.div_ceil(pieces).max(1)) {
            let mut buffer = self.pool.buffer(piece.len() + 1).unwrap();
            buffer.put_slice(piece);
            body.push(buffer.split(), &mut self.pool).unwrap();
        }
        body
    }

    fn push(&mut self, spec: &Spec) {
        self.number += 1;
        let mut message = Message::new(MessageKind::Message, self.body(spec.body_bytes, spec.pieces));
        message.head.lane = Lane::ALL[spec.lane];
        message.head.attempt = self.number as u8;
        message.head.deadline_us = spec.deadline_us;
        message.head.reply_address = spec.has_reply_address.then_some(ReplyAddress([9; 16]));
        if spec.extension_bytes > 0 {
            let mut buffer = self.pool.buffer(spec.extension_bytes).unwrap();
            buffer.put_slice(&vec![self.number as u8; spec.extension_bytes]);
            message.extensions = Some(buffer.split());
        }
        assert!(self.outbox.head_fits(&message));
        // A full lane is full both ways.
        let _ = self.outbox.push(message);
    }

    fn fill(&mut self) -> usize {
        let Self { way, outbox, windows, received, gather, pool, .. } = self;
        let mut says = Announcement { frame_limit: 5, chunk_limit: 6, received };
        if matches!(way, Way::Short) {
            return outbox.fill(windows, &mut says, pool, gather).unwrap();
        }
        let mut frames = 0;
        while outbox.has_waiting()
            && gather.len() < BATCH_BYTES_MAX
            && gather.room() > SEGMENTS_IN_FRAME_MAX + 2
            && outbox.fill_planned(windows, &mut says, pool, gather).unwrap()
        {
            frames += 1;
        }
        frames
    }

    /// So much, of 255, of what a stream may be said to have come to.
    fn within(&self, stream: Stream, part: u8) -> u64 {
        let (acknowledged, sent) = self.outbox.acknowledgeable(stream);
        acknowledged + (sent - acknowledged) * u64::from(part) / 255
    }

    fn take(&mut self, step: &Step) -> Seen {
        let mut made = 0;
        match *step {
            Step::Messages(ref spec, count) => (0..count).for_each(|_| self.push(spec)),
            Step::Control { is_behind: true } => self.outbox.push_control_behind_messages(&[2; 24]),
            Step::Control { is_behind: false } => self.outbox.push_control(&[1; 16]),
            Step::Fill { frames } => {
                self.windows.frames.grant(self.windows.frames.used() + frames);
                made = self.fill();
            }
            Step::Acknowledge { stream, part } => {
                let stream = Stream::ALL[stream];
                let position = self.within(stream, part);
                self.outbox.acknowledge(stream, position).unwrap();
            }
            Step::Resume { packet_bytes, part } => {
                let mut positions = [0; STREAMS];
                Stream::ALL.iter().for_each(|&it| positions[it.index()] = self.within(it, part));
                self.outbox.check_resume(&positions).unwrap();
                self.outbox.resume(rules(packet_bytes), &positions);
                self.windows = windows();
            }
        }
        self.see(made)
    }

    fn see(&mut self, made: usize) -> Seen {
        let Self { outbox, windows, gather, .. } = self;
        let bytes = gather.segments().iter().flat_map(|segment| segment.to_vec()).collect();
        *gather = GatherList::new();
        Seen {
            made,
            bytes,
            used: [windows.frames.used(), windows.chunks.used()],
            positions: outbox.positions(),
            acknowledgeable: Stream::ALL.map(|stream| outbox.acknowledgeable(stream)),
            waiting: (outbox.waiting_messages(), outbox.waiting_control(), outbox.waiting_bytes()),
            kept: outbox.unacknowledged(),
            sizes: outbox.lanes.each_ref().map(|lane| lane.size()),
            control: outbox.control_bytes(),
            stats: outbox.stats(),
        }
    }
}

proptest! {
    #[test]
    fn it_is_the_frame_that_would_have_been_planned(
        packet_bytes in packet_bytes(),
        keeps in any::<bool>(),
        steps in prop::collection::vec(step(), 1..24),
    ) {
        let mut ways = [Way::Short, Way::Planned].map(|way| World::new(way, packet_bytes, keeps));
        for step in &steps {
            let [short, planned] = ways.each_mut().map(|world| world.take(step));
            // Whole bytes of both would hide what is different.
            let first = short.bytes.iter().zip(&planned.bytes).position(|(short, planned)| short != planned);
            prop_assert!(short.bytes == planned.bytes, "{step:?}: {:?} bytes, different from {first:?} on",
                [short.bytes.len(), planned.bytes.len()]);
            prop_assert_eq!(Seen { bytes: Vec::new(), ..short }, Seen { bytes: Vec::new(), ..planned });
        }
    }
}

/// Or the property holds nothing against it.
#[test]
fn the_last_frame_before_the_reserve_is_made_so_and_the_next_is_not() {
    let spec = Spec {
        lane: 2,
        body_bytes: 700,
        pieces: 3,
        extension_bytes: 50,
        has_reply_address: true,
        deadline_us: None,
    };
    let mut world = World::new(Way::Short, 8192, true);
    world.push(&spec);
    world.windows.frames.grant(RESERVE);
    assert!(world.outbox.plan_short(&world.windows).is_none());
    world.windows.frames.grant(RESERVE + 1);
    assert!(world.outbox.plan_short(&world.windows).is_some_and(|short| short.messages == 1));
    assert_eq!(world.take(&Step::Fill { frames: 0 }).made, 1);
    world.push(&spec);
    assert_eq!(world.take(&Step::Fill { frames: 0 }).made, 0);
}
