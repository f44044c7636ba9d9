//! What a receiver says became of its deliveries.

use super::expect_exactly;
use super::link::link_at_8;
use crate::proto::bytes::{check_reserved, put, u16_at, u64_at};
use crate::proto::{Lane, LinkId, PeerMisbehaved};

/// What became of deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Outcome {
    /// The application took them.
    Accepted = 0,
    /// The application will never take them.
    Rejected = 1,
    /// The application gives them back, for anybody.
    Released = 2,
}

/// Settles deliveries of a link, those of one lane. By the end that receives on it, where
/// [`crate::proto::hello::Capabilities::SETTLEMENT`] was negotiated and the link was attached to be settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settle {
    /// Which link.
    pub link: LinkId,
    /// The lane that they came in. Lanes overtake each other, so only within one do both ends count alike.
    pub lane: Lane,
    /// What became of them.
    pub outcome: Outcome,
    /// The first delivery's position: how many came before it on the link in this lane.
    pub from: u64,
    /// The position behind the last; more than `from`.
    pub to: u64,
}

impl Settle {
    /// Bytes of its record.
    pub const BYTES: usize = 32;

    pub(super) fn parse(record: &[u8]) -> Result<Self, PeerMisbehaved> {
        expect_exactly(record, Self::BYTES)?;
        check_reserved(record, 15, 1)?;
        let (from, to) = (u64_at(record, 16), u64_at(record, 24));
        if from >= to {
            return Err(PeerMisbehaved::SettleRange { from, to });
        }
        Ok(Self {
            link: link_at_8(record)?,
            lane: Lane::parse(record[14])?,
            outcome: outcome(u16_at(record, 12))?,
            from,
            to,
        })
    }

    /// Its record, as [`super::Control::encode_into`] writes it; there may be one for each message.
    pub fn record(&self) -> [u8; Self::BYTES] {
        let mut record = [0; Self::BYTES];
        record[0] = super::SETTLE;
        put(&mut record, 4, (Self::BYTES as u16).to_le_bytes());
        self.write(&mut record);
        record
    }

    pub(super) fn write(&self, out: &mut [u8]) {
        put(out, 8, self.link.value().to_le_bytes());
        put(out, 12, (self.outcome as u16).to_le_bytes());
        put(out, 14, [self.lane as u8]);
        put(out, 16, self.from.to_le_bytes());
        put(out, 24, self.to.to_le_bytes());
    }
}

fn outcome(outcome: u16) -> Result<Outcome, PeerMisbehaved> {
    match outcome {
        0 => Ok(Outcome::Accepted),
        1 => Ok(Outcome::Rejected),
        2 => Ok(Outcome::Released),
        _ => Err(PeerMisbehaved::OutcomeUnknown { outcome }),
    }
}
