//! What the two ends tell each other in the connection manager's private data, before the first send.
//!
//! 16 bytes, little-endian: `UNDL`, a version, how many reads this end has under way at a time and how many of the peer's
//! it answers, a zero, how many bytes a send may carry to this end (4), and up to which position the peer may send at
//! first (4). Then 20 that are zeros unless there are queue pairs beside the channel's own, for reads: the number and the
//! first packet of the one by which this end reads (4 each) and of the one by which it is read (4 each), how many reads it
//! has under way there and how many it answers, and two zeros. What follows is padding, or a later version's.

use super::credit::{WINDOW_LIMIT, WINDOW_MIN};
use super::one_sided::{QueuePairsBeside, ReadsAtOnce};
use super::verbs::QueuePairName;
use thiserror::Error;

const MAGIC: [u8; 4] = *b"UNDL";
const VERSION: u8 = 1;
/// The bytes of a greeting that is understood.
const BYTES_MIN: usize = 16;
/// The bytes of a greeting.
pub(super) const BYTES: usize = 36;

/// The fewest bytes that a send must be able to carry: less would cut the smallest frames.
const SLOT_BYTES_MIN: u32 = 256;

/// One end's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Greeting {
    /// The most bytes of one send to this end.
    pub(super) slot_bytes: u32,
    /// Up to which position the peer may send.
    pub(super) limit: u32,
    pub(super) reads: ReadsAtOnce,
    /// For the reads of ends without windows.
    pub(super) beside: Option<QueuePairsBeside>,
}

impl Greeting {
    pub(super) fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..7].copy_from_slice(&[VERSION, self.reads.started, self.reads.answered]);
        bytes[8..12].copy_from_slice(&self.slot_bytes.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.limit.to_le_bytes());
        if let Some(QueuePairsBeside { reading, answering, reads }) = self.beside {
            let words = [reading.number, reading.first_packet, answering.number, answering.first_packet];
            for (place, word) in bytes[16..32].chunks_exact_mut(4).zip(words) {
                place.copy_from_slice(&word.to_le_bytes());
            }
            bytes[32..34].copy_from_slice(&[reads.started, reads.answered]);
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BadGreeting> {
        let Some((bytes, more)) = bytes.split_first_chunk::<BYTES_MIN>() else {
            return Err(BadGreeting::Short { bytes: bytes.len() });
        };
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..4] != MAGIC {
            return Err(BadGreeting::Magic);
        }
        if bytes[4] != VERSION {
            return Err(BadGreeting::Version { given: bytes[4] });
        }
        let (slot_bytes, limit) = (word(8), word(12));
        if slot_bytes < SLOT_BYTES_MIN {
            return Err(BadGreeting::SlotBytes { given: slot_bytes });
        }
        if !(WINDOW_MIN..=WINDOW_LIMIT).contains(&limit) {
            return Err(BadGreeting::Limit { given: limit });
        }
        let reads = ReadsAtOnce { started: bytes[5], answered: bytes[6] };
        Ok(Self { slot_bytes, limit, reads, beside: beside(more) })
    }
}

/// What is said of queue pairs for reads; none if either is missing.
fn beside(bytes: &[u8]) -> Option<QueuePairsBeside> {
    let (bytes, _) = bytes.split_first_chunk::<{ BYTES - BYTES_MIN }>()?;
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let name = |at: usize| {
        let name = QueuePairName { number: word(at), first_packet: word(at + 4) };
        ((1..1 << 24).contains(&name.number) && name.first_packet < 1 << 24).then_some(name)
    };
    let reads = ReadsAtOnce { started: bytes[16], answered: bytes[17] };
    Some(QueuePairsBeside { reading: name(0)?, answering: name(8)?, reads })
}

/// Why a greeting is none.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadGreeting {
    #[error("the peer's private data has {bytes} bytes where Underlay's has {BYTES_MIN}: is it Underlay?")]
    Short { bytes: usize },
    #[error("the peer's private data is not Underlay's: what listens there?")]
    Magic,
    #[error(
        "the peer speaks version {given} of the rdma wire, this end version {VERSION}: upgrade the older one"
    )]
    Version { given: u8 },
    #[error("the peer takes {given} bytes in a send; it must be at least {SLOT_BYTES_MIN}")]
    SlotBytes { given: u32 },
    #[error("the peer allows {given} sends at first; it must be {WINDOW_MIN} to {WINDOW_LIMIT}")]
    Limit { given: u32 },
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_is_read_as_it_was_written_also_with_padding() {
        let reads = ReadsAtOnce { started: 16, answered: 3 };
        let name = |number| QueuePairName { number, first_packet: number ^ 0xFF_FFFF };
        let reads_beside = ReadsAtOnce { started: 5, answered: 7 };
        let beside = QueuePairsBeside { reading: name(17), answering: name(0x12_3456), reads: reads_beside };
        for beside in [None, Some(beside)] {
            let greeting = Greeting { slot_bytes: 17_408, limit: 64, reads, beside };
            let mut padded = greeting.encode().to_vec();
            assert_eq!(Greeting::decode(&padded), Ok(greeting));
            padded.resize(196, 0);
            assert_eq!(Greeting::decode(&padded), Ok(greeting));
            // An end that knows nothing of them says nothing of them.
            assert_eq!(Greeting::decode(&padded[..16]), Ok(Greeting { beside: None, ..greeting }));
        }
        let outlandish = QueuePairsBeside { answering: name(1 << 24), ..beside };
        let greeting = Greeting { slot_bytes: 17_408, limit: 64, reads, beside: Some(outlandish) };
        assert_eq!(Greeting::decode(&greeting.encode()), Ok(Greeting { beside: None, ..greeting }));
    }

    #[test]
    fn what_is_wrong_with_one_is_named() {
        let reads = ReadsAtOnce { started: 0, answered: 0 };
        let good = Greeting { slot_bytes: 17_408, limit: 64, reads, beside: None }.encode();
        let with = |at: usize, byte: u8| {
            let mut bytes = good;
            bytes[at] = byte;
            Greeting::decode(&bytes)
        };
        assert_eq!(Greeting::decode(&good[..15]), Err(BadGreeting::Short { bytes: 15 }));
        assert_eq!(with(0, b'X'), Err(BadGreeting::Magic));
        assert_eq!(with(4, 2), Err(BadGreeting::Version { given: 2 }));
        assert_eq!(with(9, 0), Err(BadGreeting::SlotBytes { given: 0 }));
        assert_eq!(with(12, 7), Err(BadGreeting::Limit { given: 7 }));
        assert_eq!(with(15, 1), Err(BadGreeting::Limit { given: 64 | 1 << 24 }));
    }
}
