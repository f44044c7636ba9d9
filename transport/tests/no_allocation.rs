//! After warm-up, taking a message in, packing it, cutting the stream and taking it out again allocate nothing.

#[path = "support/allocations.rs"]
mod allocations;

use allocations::ALLOCATIONS;
use underlay::message::Message;
use underlay::packing::{Announcement, Inbox, Offers, Outbox, PackingRules, Parsed, Windows};
use underlay::pool::{BUFFER_BYTES_MAX, Body, GatherList, Pool, PoolConfig};
use underlay::proto::credit::SendWindow;
use underlay::proto::record::MessageKind;
use underlay::proto::serial::Received;
use underlay::proto::{Lane, Stream};
use underlay::proto::{LinkId, Parameters};

struct Ends {
    pool: Pool,
    outbox: Outbox,
    windows: Windows,
    gather: GatherList,
    inbox: Inbox,
    /// The bodies that are sent over and over.
    bodies: Vec<Body>,
    /// Received buffers begin anew after so many bytes, so that every body is cut somewhere else.
    receive_bytes: usize,
    /// Messages and rounds so far.
    sent: u64,
    rounds: u64,
}

impl Ends {
    fn new(body_bytes: usize, messages: usize) -> Self {
        let config = PoolConfig { bytes_max: 64 << 20, slab_bytes: 1 << 20, huge_pages: false };
        let mut pool = Pool::new(config).unwrap();
        let parameters = Parameters::default();
        let rules = PackingRules::new(&parameters);
        let body = |number: usize| vec![number as u8; body_bytes];
        let bodies = (0..messages).map(|number| pool.copy_body(&body(number)).unwrap()).collect();
        Self {
            pool,
            outbox: Outbox::new(rules, 1000, u64::MAX),
            windows: Windows {
                frames: SendWindow::new(u64::MAX, 8),
                chunks: SendWindow::new(u64::MAX, 0),
                offers: Offers::default(),
            },
            gather: GatherList::new(),
            inbox: Inbox::new(rules, parameters.limits()),
            bodies,
            receive_bytes: 5_000,
            sent: 0,
            rounds: 0,
        }
    }

    /// Sends all messages, and takes them out at the other end; says how many.
    fn round(&mut self) -> usize {
        for body in &self.bodies {
            let body = body.share(&mut self.pool).unwrap();
            let mut message = Message::new(MessageKind::Request, body);
            message.head.link = LinkId::new(1);
            self.outbox.push(message).map_err(|(full, _)| full).unwrap();
        }
        self.outbox.push_control(&[0x7e, 0, 0, 0, 8, 0, 0, 0]);
        let mut arrived = 0;
        while self.fill() > 0 {
            self.receive();
            self.gather.clear();
            arrived += self.take_out(arrived);
        }
        // What has left is kept until here.
        self.sent += arrived as u64;
        self.outbox.acknowledge(Stream::Lane(Lane::Normal), self.sent).unwrap();
        self.rounds += 1;
        self.outbox.acknowledge(Stream::Control, self.rounds).unwrap();
        arrived
    }

    fn fill(&mut self) -> usize {
        let mut received = Received::default();
        let mut says = Announcement { frame_limit: 0, chunk_limit: 0, received: &mut received };
        self.outbox.fill(&mut self.windows, &mut says, &mut self.pool, &mut self.gather).unwrap()
    }

    /// What a wire does: the bytes of the gather list, in buffers of this end.
    fn receive(&mut self) {
        self.receive_bytes = 5_000 + (self.receive_bytes + 777) % 10_000;
        let mut buffer = self.pool.buffer(BUFFER_BYTES_MAX / 4).unwrap();
        for segment in self.gather.segments() {
            let mut rest = &**segment;
            while !rest.is_empty() {
                let room = self.receive_bytes - buffer.written().len();
                let taken = buffer.put_slice(&rest[..rest.len().min(room)]);
                rest = &rest[taken..];
                if buffer.written().len() == self.receive_bytes {
                    self.inbox.push(buffer.split());
                    buffer = self.pool.buffer(BUFFER_BYTES_MAX / 4).unwrap();
                }
            }
        }
        self.inbox.push(buffer.split());
    }

    fn take_out(&mut self, first: usize) -> usize {
        let mut messages = 0;
        let mut arrived = None;
        while let Some(parsed) = self.inbox.next(&mut self.pool, &mut arrived).unwrap() {
            if let (Parsed::Message { .. }, Some(message)) = (parsed, arrived.take()) {
                let expected = (first + messages) as u8;
                assert_eq!(message.body.len(), self.bodies[0].len());
                assert!(message.body.segments().all(|segment| segment.iter().all(|&byte| byte == expected)));
                messages += 1;
            }
        }
        messages
    }
}

fn allocations_after_warm_up(body_bytes: usize, messages: usize) -> u64 {
    let mut ends = Ends::new(body_bytes, messages);
    // The rounds differ in where the stream is cut, and come back to the first cut only after many.
    (0..40).for_each(|_| assert_eq!(ends.round(), messages));
    let before = ALLOCATIONS.get();
    (0..40).for_each(|_| assert_eq!(ends.round(), messages));
    ALLOCATIONS.get() - before
}

#[test]
fn small_messages_allocate_nothing() {
    assert_eq!(allocations_after_warm_up(100, 200), 0);
}

#[test]
fn messages_of_16_kib_allocate_nothing() {
    assert_eq!(allocations_after_warm_up(16 << 10, 40), 0);
}

#[test]
fn bulk_in_chunks_allocates_nothing() {
    assert_eq!(allocations_after_warm_up(200_000, 4), 0);
}

#[test]
fn an_allocation_would_be_seen() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(7)));
    assert_eq!(ALLOCATIONS.get(), before + 1);
}
