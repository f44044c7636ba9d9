//! What a work request of a send queue is called (`wr_id`), so that its completion finds its channel and no other.
//!
//! From the lowest bit: 16 bits of its position in the send queue, counted from 1; 24 of the channel's slot; 20 of
//! its generation, so that a completion that outlived its queue pair is told from one of the next; 4 of its kind.

use crate::backend::Channel;

/// What a completion is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A send, with or without content.
    Send,
    /// The request behind which a channel ends: everything before it is done.
    Last,
    /// One-sided reads and their windows: bindings, reads, invalidations.
    OneSided,
    /// A one-sided read by the queue pair beside the channel's own. Its position counts that one's requests.
    Beside,
}

/// The most channels that a name can tell apart at a time.
pub(super) const CHANNELS_MAX: usize = 1 << 24;

const GENERATION_MASK: u32 = (1 << 20) - 1;

/// The name of a work request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) kind: Kind,
    pub(super) slot: u32,
    /// Its low 20 bits.
    generation: u32,
    /// Its low 16 bits.
    pub(super) position: u16,
}

impl Work {
    #[inline]
    pub(super) fn new(kind: Kind, channel: Channel, position: u32) -> Self {
        Self {
            kind,
            slot: channel.slot,
            generation: channel.generation & GENERATION_MASK,
            position: position as u16,
        }
    }

    #[inline]
    pub(super) fn encode(self) -> u64 {
        let kind: u64 = match self.kind {
            Kind::Send => 1,
            Kind::Last => 2,
            Kind::OneSided => 3,
            Kind::Beside => 4,
        };
        kind << 60 | u64::from(self.generation) << 40 | u64::from(self.slot) << 16 | u64::from(self.position)
    }

    /// `None` for the number of a receive request, which has kind 0.
    #[inline]
    pub(super) fn decode(number: u64) -> Option<Self> {
        let kind = match number >> 60 {
            1 => Kind::Send,
            2 => Kind::Last,
            3 => Kind::OneSided,
            4 => Kind::Beside,
            _ => return None,
        };
        Some(Self {
            kind,
            slot: (number >> 16) as u32 & (CHANNELS_MAX as u32 - 1),
            generation: (number >> 40) as u32 & GENERATION_MASK,
            position: number as u16,
        })
    }

    /// Whether it is of this very channel.
    #[inline]
    pub(super) fn is_of(&self, channel: Channel) -> bool {
        channel.slot == self.slot && channel.generation & GENERATION_MASK == self.generation
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_name_is_read_as_it_was_written(slot in 0_u32..1 << 24, generation: u32, position: u32) {
            let channel = Channel { slot, generation };
            for kind in [Kind::Send, Kind::Last, Kind::OneSided, Kind::Beside] {
                let work = Work::decode(Work::new(kind, channel, position).encode()).unwrap();
                prop_assert_eq!((work.kind, work.position), (kind, position as u16));
                prop_assert!(work.is_of(channel));
                let later = Channel { generation: generation.wrapping_add(1), ..channel };
                let beside = Channel { slot: slot ^ 1, ..channel };
                prop_assert!(!work.is_of(later) && !work.is_of(beside));
            }
        }
    }

    #[test]
    fn a_receive_request_is_none() {
        assert_eq!(Work::decode(1 << 20), None);
    }
}
