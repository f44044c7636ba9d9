//! What the peer is told of an exposed body: where it lies, in runs of memory that each have a key of their own.
//!
//! Little-endian: a version, a form, how many runs (2), then runs of an address (8), a key (4) and a length (4). Form 0
//! has the runs themselves, up to [`RUNS_DIRECT_MAX`]; form 1 has one run, in which the reader finds as many as are
//! counted, and which it reads first.

use crate::backend::{DESCRIPTOR_BYTES_MAX, Descriptor};
use arrayvec::ArrayVec;

const VERSION: u8 = 1;
const DIRECT: u8 = 0;
const TABLE: u8 = 1;
const HEAD_BYTES: usize = 4;

/// The bytes of one run.
pub(super) const RUN_BYTES: usize = 16;

/// The most runs that a descriptor has room for.
pub(super) const RUNS_DIRECT_MAX: usize = (DESCRIPTOR_BYTES_MAX - HEAD_BYTES) / RUN_BYTES;

/// The most runs of one body.
pub(super) const RUNS_MAX: usize = 64;

/// Memory of the exposing end that lies in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) address: u64,
    pub(super) key: u32,
    pub(super) bytes: u32,
}

/// A descriptor that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Described {
    Runs(ArrayVec<Run, RUNS_DIRECT_MAX>),
    Table { run: Run, count: usize },
}

impl Run {
    pub(super) fn encode(&self) -> [u8; RUN_BYTES] {
        let mut bytes = [0; RUN_BYTES];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.key.to_le_bytes());
        bytes[12..].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; RUN_BYTES]) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self { address: u64::from(word(0)) | u64::from(word(4)) << 32, key: word(8), bytes: word(12) }
    }
}

/// The runs in their bytes; what is left over at the end is none.
pub(super) fn runs_in(bytes: &[u8]) -> impl Iterator<Item = Run> {
    bytes.as_chunks::<RUN_BYTES>().0.iter().map(Run::decode)
}

/// Whether runs make up a body of so many bytes, and none of them is empty.
pub(super) fn make_up(runs: impl Iterator<Item = Run>, bytes: u64) -> bool {
    let mut left = Some(bytes);
    for run in runs {
        left = left.filter(|_| run.bytes > 0).and_then(|left| left.checked_sub(run.bytes.into()));
    }
    left == Some(0)
}

/// A descriptor of up to [`RUNS_DIRECT_MAX`] runs.
pub(super) fn of_runs(runs: &[Run]) -> Descriptor {
    encode(DIRECT, runs.len(), runs)
}

/// A descriptor of a run with so many others in it.
pub(super) fn of_table(run: Run, count: usize) -> Descriptor {
    encode(TABLE, count, &[run])
}

fn encode(form: u8, count: usize, runs: &[Run]) -> Descriptor {
    let mut descriptor = Descriptor::new();
    let [low, high] = (count as u16).to_le_bytes();
    descriptor.extend([VERSION, form, low, high]);
    descriptor.extend(runs.iter().flat_map(Run::encode));
    descriptor
}

/// Reads a descriptor of a body of so many bytes; `None` if it makes no sense.
pub(super) fn decode(descriptor: &[u8], bytes: u64) -> Option<Described> {
    let (&[version, form, low, high], runs) = descriptor.split_first_chunk::<HEAD_BYTES>()?;
    let count = usize::from(u16::from_le_bytes([low, high]));
    if version != VERSION || runs.len() % RUN_BYTES != 0 {
        return None;
    }
    match (form, runs.len() / RUN_BYTES) {
        (DIRECT, listed) if listed == count && count <= RUNS_DIRECT_MAX && make_up(runs_in(runs), bytes) => {
            Some(Described::Runs(runs_in(runs).collect()))
        }
        (TABLE, 1) if (1..=RUNS_MAX).contains(&count) => {
            let run = runs_in(runs).next()?;
            (run.bytes as usize == count * RUN_BYTES).then_some(Described::Table { run, count })
        }
        _ => None,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(address: u64, bytes: u32) -> Run {
        Run { address, key: 0x0102_0304, bytes }
    }

    #[test]
    fn what_was_described_is_read() {
        let runs = [run(1 << 40, 4096), run(7, 1), run(u64::MAX, 65_536)];
        let described = decode(&of_runs(&runs), 4096 + 1 + 65_536).unwrap();
        assert_eq!(described, Described::Runs(runs.into()));
        let table = run(1 << 40, 40 * RUN_BYTES as u32);
        let described = decode(&of_table(table, 40), 1 << 30).unwrap();
        assert_eq!(described, Described::Table { run: table, count: 40 });
    }

    #[test]
    fn what_makes_no_sense_is_none() {
        let good = of_runs(&[run(1, 10), run(2, 20)]);
        assert!(decode(&good, 30).is_some());
        assert_eq!(decode(&good, 31), None, "too few bytes");
        assert_eq!(decode(&good, 29), None, "too many");
        assert_eq!(decode(&good[..good.len() - 1], 30), None, "cut");
        assert_eq!(decode(&good[..3], 0), None, "nothing");
        assert_eq!(decode(&of_runs(&[run(1, 10), run(2, 0)]), 10), None, "an empty run");
        assert_eq!(decode(&of_runs(&[]), 5), None, "no run");
        for (at, byte) in [(0, 2), (1, 2), (2, 3)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(decode(&bad, 30), None, "byte {at} is {byte}");
        }
        let table = |bytes, count| decode(&of_table(run(1, bytes), count), 1 << 20);
        assert_eq!(table(16 * 65, 65), None, "too many runs");
        assert_eq!(table(16 * 5, 4), None, "a table of another length");
        assert_eq!(table(0, 0), None, "an empty table");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80), length: u64) {
            if let Some(Described::Runs(runs)) = decode(&bytes, length) {
                prop_assert!(make_up(runs.into_iter(), length));
            }
        }
    }
}
