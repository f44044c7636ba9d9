//! Bytes that can be told from each other, and random decisions that can be repeated.

use underlay::pool::{BUFFER_BYTES_MAX, GATHER_SEGMENTS_MAX, GatherList, Pool};

/// The seed of a test: from `UNDERLAY_SEED`, or the same for every run. Printed, so that it stands beside a failure.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("UNDERLAY_SEED").ok();
    let seed = given.map_or(0x5EED, |text| text.parse().expect("UNDERLAY_SEED is a number"));
    println!("UNDERLAY_SEED={seed}");
    seed
}

/// SplitMix64: decisions and content, from a seed.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number in `1..=most`.
    pub(crate) fn up_to(&mut self, most: usize) -> usize {
        1 + (self.number() % most as u64) as usize
    }
}

/// An endless sequence of bytes; another seed is another sequence.
#[derive(Debug, Clone)]
struct Stream {
    random: Random,
    word: [u8; 8],
    used: usize,
}

impl Stream {
    fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), word: [0; 8], used: 8 }
    }

    fn next(&mut self) -> u8 {
        if self.used == 8 {
            self.word = self.random.number().to_le_bytes();
            self.used = 0;
        }
        self.used += 1;
        self.word[self.used - 1]
    }
}

/// The sender's side of a stream: makes gather lists of what is still to be sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    stream: Stream,
    random: Random,
    pub(crate) remaining: usize,
    /// The most bytes of a segment, and the most segments of a list.
    segment_bytes_max: usize,
    segments_max: usize,
}

impl Outgoing {
    pub(crate) fn new(seed: u64, bytes: usize, segment_bytes_max: usize, segments_max: usize) -> Self {
        assert!(segment_bytes_max <= BUFFER_BYTES_MAX && segments_max <= GATHER_SEGMENTS_MAX);
        let random = Random::new(!seed);
        Self { stream: Stream::new(seed), random, remaining: bytes, segment_bytes_max, segments_max }
    }

    /// The next list, cut at random; empty when all is sent, and when the pool has no buffer just now.
    pub(crate) fn next(&mut self, pool: &mut Pool) -> GatherList {
        let mut gather = GatherList::new();
        let count = self.random.up_to(self.segments_max);
        while gather.segments().len() < count && self.remaining > 0 {
            // Now and then a single byte, the size at which off-by-one faults show.
            let most = if self.random.up_to(8) == 1 { 1 } else { self.segment_bytes_max };
            let bytes = self.random.up_to(most).min(self.remaining);
            let Ok(mut buffer) = pool.buffer(bytes) else { break };
            let content: Vec<u8> = (0..bytes).map(|_| self.stream.next()).collect();
            buffer.put_slice(&content);
            gather.push(buffer.split());
            self.remaining -= bytes;
        }
        gather
    }
}

/// The receiver's side of a stream: compares.
#[derive(Debug)]
pub(crate) struct Incoming {
    stream: Stream,
    pub(crate) bytes: usize,
}

impl Incoming {
    pub(crate) fn new(seed: u64) -> Self {
        Self { stream: Stream::new(seed), bytes: 0 }
    }

    /// Fails at the first byte that is not the stream's next one.
    pub(crate) fn check(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let expected = self.stream.next();
            assert!(byte == expected, "wrong at byte {}: {byte} instead of {expected}", self.bytes);
            self.bytes += 1;
        }
    }
}
