//! Three ends of a wire on one thread, and a record of everything that happens at each.
//!
//! What holds at any time, whatever a case is about, is checked here at every event: no event for an unknown channel,
//! none after `Closed`, no `Sent` without a send in flight, no empty segment. All waiting is bounded.

use crate::content::{Incoming, Outgoing};
use crate::subject::WireUnderTest;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};
use underlay::backend::{Channel, ChannelEnd, Listener, Listening, Path, SendRefused, WireEvent};
use underlay::pool::{GatherList, Pool, Segment};

/// How long a case waits for what should happen: until both are used up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
}

/// For wires that are expected to work: as long as a very busy machine may take.
pub(crate) const GENEROUS: Patience = Patience { rounds: 2_000, time: Duration::from_secs(20) };

/// For wires that are broken on purpose.
pub(crate) const SHORT: Patience = Patience { rounds: 500, time: Duration::from_millis(150) };

/// Three ends of one kind of wire. `third` is polled only by the cases that say so.
pub(crate) struct Bench<W> {
    pub(crate) left: End<W>,
    pub(crate) right: End<W>,
    pub(crate) third: Option<End<W>>,
    pub(crate) site: Site,
    pub(crate) patience: Patience,
    pub(crate) seed: u64,
    right_listening: Option<Listening>,
    third_listening: Option<Listening>,
}

/// What cases have to know of a wire.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// Where the right end listens.
    pub(crate) right_address: String,
    /// Where the third one does.
    pub(crate) third_address: String,
    /// Where nobody listens.
    pub(crate) nobody: String,
    pub(crate) bad_addresses: &'static [&'static str],
    /// The receiver gets the very segments that were sent.
    pub(crate) passes_references: bool,
}

impl<W: WireUnderTest> Bench<W> {
    pub(crate) fn new(ends: [(W, Pool); 3], site: Site, patience: Patience) -> Self {
        let [left, right, third] = ends.map(|(wire, pool)| End::new(wire, pool));
        let seed = crate::content::seed();
        Self {
            left,
            right,
            third: Some(third),
            site,
            patience,
            seed,
            right_listening: None,
            third_listening: None,
        }
    }

    /// Polls the left end and the right one.
    pub(crate) fn poll(&mut self) {
        self.left.poll();
        self.right.poll();
    }

    /// Polls until `done`, and fails with `what` if that does not come.
    pub(crate) fn until(&mut self, what: &str, done: impl FnMut(&mut Self) -> bool) {
        self.wait(what, self.patience, done);
    }

    fn wait(&mut self, what: &str, patience: Patience, mut done: impl FnMut(&mut Self) -> bool) {
        let begin = Instant::now();
        for round in 0.. {
            if done(self) {
                return;
            }
            let is_patient = round < patience.rounds || begin.elapsed() < patience.time;
            assert!(is_patient, "waited in vain: {what}");
            self.poll();
            std::thread::yield_now();
        }
    }

    /// Polls for a while, to see that something does *not* happen.
    pub(crate) fn settle(&mut self) {
        let begin = Instant::now();
        let mut rounds = 0;
        while rounds < 100 || begin.elapsed() < Duration::from_millis(5) {
            self.poll();
            std::thread::yield_now();
            rounds += 1;
        }
    }

    /// Where the right end listens.
    pub(crate) fn listening(&mut self) -> Listening {
        let (right, site) = (&mut self.right, &self.site);
        self.right_listening.get_or_insert_with(|| right.wire.listen(&site.right_address).unwrap()).clone()
    }

    /// A new channel from left to right: its names at both ends. What it takes is no case's business, so there is
    /// always patience for it.
    pub(crate) fn connect(&mut self) -> (Channel, Channel) {
        let address = self.listening().address;
        let near = self.left.connect(&address);
        self.wait("a channel to the right end", GENEROUS, |bench| {
            bench.left.record(near).is_open && !bench.right.accepted.is_empty()
        });
        (near, self.right.accepted.pop_front().unwrap().1)
    }

    /// A new channel from left to third.
    pub(crate) fn connect_third(&mut self) -> (Channel, Channel) {
        let site = &self.site;
        let third = self.third.as_mut().expect("the third end was dropped");
        let listening = &mut self.third_listening;
        let listening = listening.get_or_insert_with(|| third.wire.listen(&site.third_address).unwrap());
        let near = self.left.connect(&listening.address);
        self.wait("a channel to the third end", GENEROUS, |bench| {
            bench.third().poll();
            bench.left.record(near).is_open && !bench.third().accepted.is_empty()
        });
        (near, self.third().accepted.pop_front().unwrap().1)
    }

    pub(crate) fn third(&mut self) -> &mut End<W> {
        self.third.as_mut().expect("the third end was dropped")
    }

    /// Closes a channel at the left end and waits until both ends have seen it.
    pub(crate) fn close(&mut self, near: Channel, far: Channel) {
        self.left.wire.close(near);
        self.until("Closed at both ends", |bench| bench.left.is_closed(near) && bench.right.is_closed(far));
    }

    /// Sends a stream from left to right and checks it as it arrives; nothing is held.
    pub(crate) fn transfer(&mut self, near: Channel, far: Channel, seed: u64, bytes: usize) {
        let mut outgoing = Outgoing::new(seed, bytes, 4_000, 8);
        let mut incoming = Incoming::new(seed);
        self.until("all bytes at the right end, and Sent at the left one", |bench| {
            bench.left.offer(near, &mut outgoing);
            bench.right.take(far, &mut incoming);
            incoming.bytes == bytes && !bench.left.is_in_flight(near)
        });
    }
}

/// One end: a wire, its pool, and what happened.
pub(crate) struct End<W> {
    pub(crate) wire: W,
    pub(crate) pool: Pool,
    pub(crate) accepted: VecDeque<(Listener, Channel)>,
    records: HashMap<Channel, Record>,
    events: Vec<WireEvent>,
}

/// What happened on one channel.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) is_open: bool,
    pub(crate) path: Option<Path>,
    /// Sends that were taken, and how many of them are done.
    pub(crate) sends: usize,
    pub(crate) sent: usize,
    pub(crate) received: VecDeque<Segment>,
    pub(crate) end: Option<ChannelEnd>,
}

impl<W: WireUnderTest> End<W> {
    fn new(wire: W, pool: Pool) -> Self {
        Self { wire, pool, accepted: VecDeque::new(), records: HashMap::new(), events: Vec::new() }
    }

    /// Polls once and files the events.
    pub(crate) fn poll(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        self.wire.poll(&mut self.pool, &mut events).unwrap();
        events.drain(..).for_each(|event| self.file(event));
        self.events = events;
    }

    pub(crate) fn connect(&mut self, address: &str) -> Channel {
        let channel = self.wire.connect(address).unwrap();
        self.add(channel);
        channel
    }

    pub(crate) fn send(&mut self, channel: Channel, gather: &mut GatherList) -> Result<(), SendRefused> {
        self.wire.send(channel, gather)?;
        assert!(gather.is_empty() && gather.segments().is_empty(), "a list that was taken is empty");
        self.live(channel, "a send was taken").sends += 1;
        Ok(())
    }

    /// Sends the next part of a stream if no send is in flight.
    pub(crate) fn offer(&mut self, channel: Channel, outgoing: &mut Outgoing) {
        if !self.is_in_flight(channel) && outgoing.remaining > 0 {
            let mut gather = outgoing.next(&mut self.pool);
            if !gather.is_empty() {
                self.send(channel, &mut gather).expect("nothing was in flight");
            }
        }
    }

    /// Compares what has arrived with a stream, and lets go of it.
    pub(crate) fn take(&mut self, channel: Channel, incoming: &mut Incoming) {
        for segment in self.record(channel).received.drain(..) {
            incoming.check(&segment);
        }
    }

    /// A segment with these bytes, in a buffer of its own.
    pub(crate) fn segment(&mut self, bytes: &[u8]) -> Segment {
        let mut buffer = self.pool.buffer(bytes.len()).unwrap();
        buffer.put_slice(bytes);
        buffer.split()
    }

    /// Sends one segment.
    pub(crate) fn send_bytes(&mut self, channel: Channel, bytes: &[u8]) {
        let mut gather = GatherList::new();
        gather.push(self.segment(bytes));
        self.send(channel, &mut gather).unwrap();
    }

    /// All bytes that have arrived and were not taken.
    pub(crate) fn received_bytes(&mut self, channel: Channel) -> Vec<u8> {
        self.record(channel).received.iter().flat_map(|segment| segment.iter().copied()).collect()
    }

    pub(crate) fn is_in_flight(&mut self, channel: Channel) -> bool {
        let record = self.record(channel);
        record.end.is_none() && record.sends > record.sent
    }

    pub(crate) fn is_closed(&mut self, channel: Channel) -> bool {
        self.record(channel).end.is_some()
    }

    /// How many buffers are out now.
    pub(crate) fn buffers_out(&mut self) -> usize {
        self.pool.reclaim();
        self.pool.stats().buffers_out
    }

    pub(crate) fn record(&mut self, channel: Channel) -> &mut Record {
        self.records.get_mut(&channel).unwrap_or_else(|| panic!("{channel:?} is unknown"))
    }

    /// Files a channel that the wire has just named.
    pub(crate) fn add(&mut self, channel: Channel) {
        let before = self.records.insert(channel, Record::default());
        assert!(before.is_none(), "{channel:?} was the name of another channel before");
    }

    fn live(&mut self, channel: Channel, what: &str) -> &mut Record {
        let record = self.records.get_mut(&channel);
        let record = record.unwrap_or_else(|| panic!("{what} on {channel:?}, which is unknown"));
        if let Some(end) = &record.end {
            panic!("{what} on {channel:?} after Closed ({end})");
        }
        record
    }

    fn file(&mut self, event: WireEvent) {
        match event {
            WireEvent::Accepted { listener, channel, path } => {
                self.add(channel);
                self.open(channel, path);
                self.accepted.push_back((listener, channel));
            }
            WireEvent::Connected { channel, path } => self.open(channel, path),
            WireEvent::Received { channel, segment } => {
                assert!(!segment.is_empty(), "an empty segment was received");
                let record = self.live(channel, "Received");
                assert!(record.is_open, "Received before the channel was open");
                record.received.push_back(segment);
            }
            WireEvent::Sent { channel } => {
                let record = self.live(channel, "Sent");
                assert!(record.sent < record.sends, "Sent without a send in flight");
                record.sent += 1;
            }
            WireEvent::Closed { channel, reason } => self.live(channel, "Closed").end = Some(reason),
            other => panic!("{other:?}"),
        }
    }

    fn open(&mut self, channel: Channel, path: Path) {
        let record = self.live(channel, "Connected");
        assert!(!record.is_open, "Connected twice");
        assert!(path.packet_bytes > 0 && !path.peer.is_empty(), "{path:?}");
        record.is_open = true;
        record.path = Some(path);
    }
}
