//! What of a session is numbered: the records of each lane, and the control records.

use super::{LANES, Lane, PeerMisbehaved};

/// Streams of a session: its lanes, and its control records.
pub const STREAMS: usize = LANES + 1;

/// A sequence of records that are numbered without a gap for as long as the session lives, acknowledged, and replayed
/// when a connection was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// The messages of a lane, which carry their number.
    Lane(Lane),
    /// All control records but CLOSE, numbered in the order in which they are sent.
    Control,
}

impl Stream {
    /// All streams: the lanes, then the control records.
    pub const ALL: [Self; STREAMS] =
        [Self::Lane(Lane::Urgent), Self::Lane(Lane::Normal), Self::Lane(Lane::Bulk), Self::Control];

    /// Its place in arrays by stream, and its number on the wire. A lane has the same as among lanes.
    #[inline]
    pub const fn index(self) -> usize {
        match self {
            Self::Lane(lane) => lane.index(),
            Self::Control => LANES,
        }
    }

    pub(super) const fn parse(stream: u8) -> Result<Self, PeerMisbehaved> {
        if (stream as usize) < STREAMS {
            Ok(Self::ALL[stream as usize])
        } else {
            Err(PeerMisbehaved::StreamUnknown { stream })
        }
    }
}

impl From<Lane> for Stream {
    fn from(lane: Lane) -> Self {
        Self::Lane(lane)
    }
}

impl std::fmt::Display for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lane(lane) => write!(f, "lane {lane:?}"),
            Self::Control => f.write_str("the control records"),
        }
    }
}
