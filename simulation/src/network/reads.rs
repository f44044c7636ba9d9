//! One-sided reads: an end reads what the other one has exposed, without a word to that one's process.
//!
//! They go the same way as bytes and take no place among them: reads complete in any order, some fail, some break their
//! connection half-way, and some never end. What was exposed is held until it is withdrawn or its end is gone; what is
//! read then is gone.

use super::weather::Effect;
use super::wire::SimulatedWire;
use super::{Cut, EndRef, EndState, Event, Far, Incoming, Network, State, What};
use crate::random::Random;
use underlay::backend::{
    Channel, DESCRIPTOR_BYTES_MAX, Descriptor, ExposeRefused, OneSided, ReadRefused, WireKind,
};
use underlay::pool::{Body, Pool, Segment};

/// Which kinds of wire have one-sided reads, and how they go.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// By kind, whether it has them.
    pub is_there: [bool; WireKind::COUNT],
    /// Exposures of a channel, at most.
    pub exposures_max: usize,
    /// One in so many fails or breaks its connection; 0 is none.
    pub fails_one_in: u64,
    /// One in so many never ends; 0 is none.
    pub hangs_one_in: u64,
}

impl Reading {
    /// As a seed has it: half of the networks have no such wire.
    pub fn drawn(random: &mut Random) -> Self {
        let [tcp, inproc] =
            *random.one_of(&[[false; 2], [false; 2], [true, false], [false, true], [true; 2]]);
        let is_there = WireKind::ALL.map(|kind| match kind {
            WireKind::Tcp => tcp,
            WireKind::Inproc => inproc,
            _ => false,
        });
        let exposures_max = *random.one_of(&[1, 2, 16, 64]);
        let fails_one_in = *random.one_of(&[0, 6, 40]);
        let hangs_one_in = *random.one_of(&[0, 0, 20, 60]);
        Self { is_there, exposures_max, fails_one_in, hangs_one_in }
    }
}

/// How many reads there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reads {
    /// Bodies that were exposed.
    pub offered: u64,
    /// Bodies that a wire did not expose, so that they travelled in chunks.
    pub refused: u64,
    /// Reads that were done.
    pub done: u64,
    /// Reads that failed, those included that broke their connection.
    pub failed: u64,
    /// Reads that were to end never.
    pub never: u64,
}

/// What the network keeps of reads.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) reading: Reading,
    random: Random,
    next_key: u64,
    pub(super) counts: Reads,
}

/// What an end has exposed.
#[derive(Debug)]
pub(super) struct Exposure {
    number: u64,
    /// By what its peer finds it.
    key: u64,
    segments: Vec<Segment>,
}

/// The key of nothing.
const NO_KEY: u64 = 0;

/// A read that an end has in flight. Its bytes were copied when it began: what is exposed does not change.
#[derive(Debug)]
pub(super) struct PendingRead {
    read: u64,
    key: u64,
    body: Body,
}

/// How a read is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Done,
    Fails,
    /// It takes its connection along.
    Breaks,
}

impl Network {
    /// How one-sided reads went so far.
    pub fn reads(&self) -> Reads {
        self.state().reader.counts
    }
}

impl Reader {
    pub(super) fn new(reading: Reading, random: Random) -> Self {
        Self { reading, random, next_key: 1, counts: Reads::default() }
    }

    fn strikes(&mut self, one_in: u64) -> bool {
        one_in > 0 && self.random.once_in(one_in)
    }

    /// Says where an exposure is, in more bytes or fewer.
    fn descriptor(&mut self, key: u64) -> Descriptor {
        let mut descriptor = Descriptor::new();
        let more = self.random.within(0..(DESCRIPTOR_BYTES_MAX - 7) as u64) as usize;
        descriptor.extend(key.to_le_bytes().into_iter().chain(std::iter::repeat_n(0xA5, more)));
        descriptor
    }
}

impl State {
    fn expose(&mut self, end: EndRef, number: u64, body: &Body) -> Result<Descriptor, ExposeRefused> {
        let Self { reader, ends, .. } = self;
        let found = &mut ends[end.place];
        if found.state != EndState::Open {
            return Err(ExposeRefused::NotOpen);
        }
        let exposures = found.exposures.len();
        let is_scattered = reader.random.once_in(16);
        if is_scattered || exposures >= reader.reading.exposures_max {
            reader.counts.refused += 1;
            let segments = body.segment_count();
            return Err(if is_scattered {
                ExposeRefused::Scattered { segments }
            } else {
                ExposeRefused::Limit { exposures }
            });
        }
        let key = reader.next_key;
        reader.next_key += 1;
        reader.counts.offered += 1;
        found.exposures.push(Exposure { number, key, segments: body.segments().cloned().collect() });
        let descriptor = reader.descriptor(key);
        self.trace(end, What::Exposes, body.len() as u64);
        Ok(descriptor)
    }

    fn read(
        &mut self,
        end: EndRef,
        read: u64,
        descriptor: &[u8],
        bytes: u64,
        pool: &mut Pool,
    ) -> Result<(), ReadRefused> {
        if self.ends[end.place].state != EndState::Open {
            return Err(ReadRefused::NotOpen);
        }
        let Some(key) = descriptor.first_chunk().copied().map(u64::from_le_bytes) else {
            return Err(ReadRefused::Descriptor { bytes: descriptor.len() });
        };
        if self.reader.random.once_in(32) {
            return Err(ReadRefused::Busy);
        }
        let length =
            |exposure: &Exposure| exposure.segments.iter().map(|segment| segment.len() as u64).sum::<u64>();
        let exposed = self.exposed(end, key).filter(|exposure| length(exposure) == bytes);
        // Beyond what is exposed there is nothing.
        let key = if exposed.is_some() { key } else { NO_KEY };
        let body = match exposed {
            Some(exposure) => pool.copy_body(
                &exposure.segments.iter().flat_map(|segment| segment.iter().copied()).collect::<Vec<_>>(),
            )?,
            // It takes as long to find that out.
            None => Body::new(),
        };
        self.trace(end, What::Reads, bytes);
        self.ends[end.place].reads.push(PendingRead { read, key, body });
        if self.reader.strikes(self.reader.reading.hangs_one_in) {
            self.reader.counts.never += 1;
            return Ok(());
        }
        let fate = match self.reader.strikes(self.reader.reading.fails_one_in) {
            false => Fate::Done,
            true if self.reader.random.once_in(2) => Fate::Fails,
            true => Fate::Breaks,
        };
        let way = self.way(end);
        let there_and_back = 2 * self.weather.latency(way);
        let due = self.now + there_and_back + self.reader.random.within(0..4 * there_and_back);
        self.at(due, Event::ReadEnds { end, read, fate });
        Ok(())
    }

    /// What the peer of an end has exposed under a key.
    fn exposed(&self, end: EndRef, key: u64) -> Option<&Exposure> {
        let Far::There(far) = self.ends[end.place].far else { return None };
        self.ends[far.place].exposures.iter().find(|exposure| exposure.key == key)
    }

    pub(super) fn read_ends(&mut self, end: EndRef, read: u64, fate: Fate) {
        if self.end(end).is_none() {
            return;
        }
        let way = self.way(end);
        if let Some(until) = self.weather.until(way, Effect::Holds) {
            let later = until + self.weather.latency(way);
            return self.at(later, Event::ReadEnds { end, read, fate });
        }
        // Whoever had it is gone: the end of the channel, or a timeout, is the answer.
        if !matches!(self.ends[end.place].far, Far::There(_)) {
            return;
        }
        let found = &self.ends[end.place];
        let Some(place) = found.reads.iter().position(|pending| pending.read == read) else { return };
        if fate == Fate::Breaks {
            self.reader.counts.failed += 1;
            return self.sever(end, Cut::BothEnds, self.now);
        }
        let is_exposed = self.exposed(end, found.reads[place].key).is_some();
        let PendingRead { body, .. } = self.ends[end.place].reads.swap_remove(place);
        let outcome = match fate {
            Fate::Done if is_exposed => Ok(Box::new(body)),
            Fate::Done => Err("what was to be read is not there any more"),
            Fate::Fails | Fate::Breaks => Err("the read failed half-way"),
        };
        self.trace(end, What::ReadEnds, outcome.is_ok().into());
        let count =
            if outcome.is_ok() { &mut self.reader.counts.done } else { &mut self.reader.counts.failed };
        *count += 1;
        let (host, kind, channel) = (way.hosts[0], way.kind, self.ends[end.place].channel);
        self.wire(host, kind).inbox.push_back(Incoming::Read { channel, read, outcome });
    }

    /// From now on every read that begins is done.
    pub(super) fn mend_reads(&mut self) {
        let reading = &mut self.reader.reading;
        (reading.fails_one_in, reading.hangs_one_in) = (0, 0);
    }
}

impl OneSided for SimulatedWire {
    fn exposures_max(&mut self, channel: Channel) -> usize {
        let place = self.place();
        self.alive(|state| {
            state.find(place.0, place.1, channel).map_or(0, |_| state.reader.reading.exposures_max)
        })
        .unwrap_or(0)
    }

    fn expose(&mut self, channel: Channel, exposure: u64, body: &Body) -> Result<Descriptor, ExposeRefused> {
        let place = self.place();
        self.alive(|state| {
            let end = state.find(place.0, place.1, channel).ok_or(ExposeRefused::NotOpen)?;
            state.expose(end, exposure, body)
        })
        .unwrap_or(Err(ExposeRefused::NotOpen))
    }

    fn withdraw(&mut self, channel: Channel, exposure: u64) {
        let place = self.place();
        self.alive(|state| {
            if let Some(end) = state.find(place.0, place.1, channel) {
                state.ends[end.place].exposures.retain(|exposed| exposed.number != exposure);
            }
        });
    }

    fn read(
        &mut self,
        channel: Channel,
        read: u64,
        descriptor: &[u8],
        bytes: u64,
        pool: &mut Pool,
    ) -> Result<(), ReadRefused> {
        let place = self.place();
        self.alive(|state| {
            let end = state.find(place.0, place.1, channel).ok_or(ReadRefused::NotOpen)?;
            state.read(end, read, descriptor, bytes, pool)
        })
        .unwrap_or(Err(ReadRefused::NotOpen))
    }
}
