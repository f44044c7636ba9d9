//! The sizes and times that a handshake settles, and what makes a set of them impossible.
//!
//! Every parameter is negotiated to the smaller of the two proposals. The rules of
//! [`Parameters::check`] are chosen so that the smaller of two possible sets is possible again: each
//! relation has the form "a is at least the sum of some others", and whichever end brings the smaller
//! `a` has already bounded the others.

use super::{CHUNK_HEAD_BYTES, FRAME_HEADER_BYTES, HEAD_BYTES_MAX, LINE_BYTES, RECORD_ALIGN_BYTES};

/// The longest frame that can be negotiated: 16 MiB.
pub const FRAME_BYTES_MAX: u32 = 1 << 24;

/// The shortest `frame_bytes_max` that can be negotiated.
pub const FRAME_BYTES_MIN: u32 = 1024;

/// The most frames that can be granted at once, far below the 2^31 that 32-bit counters tell apart.
pub const FRAME_SLOTS_MAX: u32 = 1 << 20;

/// The longest a chunk's head may be, its padding to a line included.
pub const CHUNK_HEAD_BYTES_MAX: usize = CHUNK_HEAD_BYTES + LINE_BYTES;

/// What a hello proposes, and what the server's hello settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// What the network carries whole, in bytes: what packing aims at.
    pub packet_bytes: u32,
    /// The longest frame, header included; whole lines.
    pub frame_bytes_max: u32,
    /// The longest body that travels in one message record.
    pub eager_bytes_max: u32,
    /// The longest part of a body that travels in one chunk.
    pub chunk_bytes_max: u32,
    /// The longest body.
    pub message_bytes_max: u64,
    /// Frames that an end may send before it hears of more: the first frame limit.
    pub frame_slots: u32,
    /// Of these, what only control frames may use.
    pub control_slots: u16,
    /// An end that has sent nothing for so long sends an empty control frame.
    pub keep_alive_ms: u32,
    /// An end that has received nothing for so long gives the connection up.
    pub idle_timeout_ms: u32,
    /// Links that may be attached at once, in each direction.
    pub links_max: u32,
    /// The longest head of a record.
    pub head_bytes_max: u16,
}

/// The name of one of the [`Parameters`], for errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is the field of the same name
pub enum Parameter {
    PacketBytes,
    FrameBytesMax,
    EagerBytesMax,
    ChunkBytesMax,
    MessageBytesMax,
    FrameSlots,
    ControlSlots,
    KeepAliveMs,
    IdleTimeoutMs,
    LinksMax,
    HeadBytesMax,
    ExpiryMs,
}

impl std::fmt::Display for Parameter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PacketBytes => "packet_bytes",
            Self::FrameBytesMax => "frame_bytes_max",
            Self::EagerBytesMax => "eager_bytes_max",
            Self::ChunkBytesMax => "chunk_bytes_max",
            Self::MessageBytesMax => "message_bytes_max",
            Self::FrameSlots => "frame_slots",
            Self::ControlSlots => "control_slots",
            Self::KeepAliveMs => "keep_alive_ms",
            Self::IdleTimeoutMs => "idle_timeout_ms",
            Self::LinksMax => "links_max",
            Self::HeadBytesMax => "head_bytes_max",
            Self::ExpiryMs => "expiry_ms",
        })
    }
}

/// Why a set of parameters cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParameterFault {
    /// A value outside of what the protocol allows at all.
    #[error("{parameter} is {value}, it must lie between {min} and {max}")]
    OutOfRange {
        /// Which one.
        parameter: Parameter,
        /// What was proposed.
        value: u64,
        /// The least that works.
        min: u64,
        /// The most that is allowed.
        max: u64,
    },
    /// A size that must be a multiple of something and is not.
    #[error("{parameter} is {value}, it must be a multiple of {multiple}")]
    NotAMultiple {
        /// Which one.
        parameter: Parameter,
        /// What was proposed.
        value: u64,
        /// Of what it must be a multiple.
        multiple: u64,
    },
    /// A value that another one of the same set does not allow.
    #[error("{parameter} is {value}, but the other parameters leave at most {limit}")]
    DoesNotFit {
        /// Which one.
        parameter: Parameter,
        /// What was proposed.
        value: u64,
        /// What would fit.
        limit: u64,
    },
}

impl Parameters {
    /// Whether two ends could work with these values.
    ///
    /// # Errors
    /// The first rule that they break, with the value and the limit.
    pub fn check(&self) -> Result<(), ParameterFault> {
        use Parameter::*;
        in_range(FrameBytesMax, self.frame_bytes_max, FRAME_BYTES_MIN, FRAME_BYTES_MAX)?;
        multiple_of(FrameBytesMax, self.frame_bytes_max, LINE_BYTES)?;
        // 512 bytes hold every control record and a request with the longest destination.
        in_range(HeadBytesMax, self.head_bytes_max, 512u32, HEAD_BYTES_MAX as u32)?;
        multiple_of(HeadBytesMax, u32::from(self.head_bytes_max), RECORD_ALIGN_BYTES)?;
        in_range(PacketBytes, self.packet_bytes, 256u32, FRAME_BYTES_MAX)?;
        in_range(EagerBytesMax, self.eager_bytes_max, 256u32, FRAME_BYTES_MAX)?;
        in_range(ChunkBytesMax, self.chunk_bytes_max, 256u32, FRAME_BYTES_MAX)?;
        in_range(MessageBytesMax, self.message_bytes_max, 1u64, u64::MAX)?;
        // Fewer could not carry an attach, its answer, a grant and the close at the same time.
        in_range(ControlSlots, self.control_slots, 4u32, FRAME_SLOTS_MAX)?;
        in_range(FrameSlots, self.frame_slots, 8u32, FRAME_SLOTS_MAX)?;
        in_range(KeepAliveMs, self.keep_alive_ms, 1u32, u32::MAX)?;
        in_range(LinksMax, self.links_max, 1u32, u32::MAX)?;
        self.check_relations()
    }

    fn check_relations(&self) -> Result<(), ParameterFault> {
        use Parameter::*;
        let frame = u64::from(self.frame_bytes_max);
        fits(PacketBytes, self.packet_bytes, frame)?;
        // A frame holds the longest head together with the longest eager body...
        let head = FRAME_HEADER_BYTES as u64 + u64::from(self.head_bytes_max);
        fits(EagerBytesMax, self.eager_bytes_max, frame.saturating_sub(head))?;
        // ...or with the first chunk of a longer one.
        fits(ChunkBytesMax, self.chunk_bytes_max, frame.saturating_sub(head))?;
        // Half of the slots are for data, since a receiver grants anew when half of them are free again: with fewer,
        // data would use up its share without the receiver having a reason to speak.
        fits(ControlSlots, self.control_slots, u64::from(self.frame_slots / 2))?;
        // One keep-alive may be late or lost without the peer being taken for dead.
        fits(KeepAliveMs, self.keep_alive_ms, u64::from(self.idle_timeout_ms / 2))
    }

    /// The smaller of each value: what a server answers to a client.
    pub fn smaller_of(&self, other: &Self) -> Self {
        Self {
            packet_bytes: self.packet_bytes.min(other.packet_bytes),
            frame_bytes_max: self.frame_bytes_max.min(other.frame_bytes_max),
            eager_bytes_max: self.eager_bytes_max.min(other.eager_bytes_max),
            chunk_bytes_max: self.chunk_bytes_max.min(other.chunk_bytes_max),
            message_bytes_max: self.message_bytes_max.min(other.message_bytes_max),
            frame_slots: self.frame_slots.min(other.frame_slots),
            control_slots: self.control_slots.min(other.control_slots),
            keep_alive_ms: self.keep_alive_ms.min(other.keep_alive_ms),
            idle_timeout_ms: self.idle_timeout_ms.min(other.idle_timeout_ms),
            links_max: self.links_max.min(other.links_max),
            head_bytes_max: self.head_bytes_max.min(other.head_bytes_max),
        }
    }

    /// The first parameter that is larger than in `proposal`: its name, its value, what was proposed.
    pub fn exceeds(&self, proposal: &Self) -> Option<(Parameter, u64, u64)> {
        let offered = proposal.named();
        self.named()
            .into_iter()
            .zip(offered)
            .find(|((_, value), (_, limit))| value > limit)
            .map(|((parameter, value), (_, limit))| (parameter, value, limit))
    }

    /// What this, being what a session was begun with, has more of than `later` allows, of what cannot become less
    /// while it lives: its name, its value in `later`, its value here. Messages that were taken in may need it.
    pub fn outgrows(&self, later: &Self) -> Option<(Parameter, u64, u64)> {
        let lasting = [Parameter::MessageBytesMax, Parameter::LinksMax, Parameter::HeadBytesMax];
        self.named()
            .into_iter()
            .zip(later.named())
            .find(|((parameter, value), (_, limit))| lasting.contains(parameter) && value > limit)
            .map(|((parameter, value), (_, limit))| (parameter, limit, value))
    }

    fn named(&self) -> [(Parameter, u64); 11] {
        [
            (Parameter::PacketBytes, self.packet_bytes.into()),
            (Parameter::FrameBytesMax, self.frame_bytes_max.into()),
            (Parameter::EagerBytesMax, self.eager_bytes_max.into()),
            (Parameter::ChunkBytesMax, self.chunk_bytes_max.into()),
            (Parameter::MessageBytesMax, self.message_bytes_max),
            (Parameter::FrameSlots, self.frame_slots.into()),
            (Parameter::ControlSlots, self.control_slots.into()),
            (Parameter::KeepAliveMs, self.keep_alive_ms.into()),
            (Parameter::IdleTimeoutMs, self.idle_timeout_ms.into()),
            (Parameter::LinksMax, self.links_max.into()),
            (Parameter::HeadBytesMax, self.head_bytes_max.into()),
        ]
    }

    /// What of this the parser of frames and records needs.
    pub const fn limits(&self) -> Limits {
        Limits {
            frame_bytes_max: self.frame_bytes_max,
            head_bytes_max: self.head_bytes_max,
            eager_bytes_max: self.eager_bytes_max,
            chunk_bytes_max: self.chunk_bytes_max,
            message_bytes_max: self.message_bytes_max,
        }
    }
}

impl Default for Parameters {
    /// What an end proposes unless configured otherwise.
    ///
    /// The packet is whatever the path carries, up to 64 KiB. Chunks of 128 KiB let a message of that size leave
    /// without waiting for a grant in mid-flight; at 10 Gbit/s two of them keep an urgent message waiting for 210 us.
    /// A frame holds one with the longest head. 256 frames are half a grant for each 128 that arrive.
    fn default() -> Self {
        Self {
            packet_bytes: 64 << 10,
            frame_bytes_max: 160 << 10,
            eager_bytes_max: 16 << 10,
            chunk_bytes_max: 128 << 10,
            message_bytes_max: 64 << 20,
            frame_slots: 256,
            control_slots: 8,
            keep_alive_ms: 5_000,
            idle_timeout_ms: 20_000,
            links_max: 4096,
            head_bytes_max: 4096,
        }
    }
}

/// The negotiated bounds that each frame and record is checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest frame, header included.
    pub frame_bytes_max: u32,
    /// The longest head of a record.
    pub head_bytes_max: u16,
    /// The longest body that travels in one message record.
    pub eager_bytes_max: u32,
    /// The longest part of a body that travels in one chunk, or in the record that chunks follow.
    pub chunk_bytes_max: u32,
    /// The longest body.
    pub message_bytes_max: u64,
}

fn in_range<T>(parameter: Parameter, value: impl Into<u64>, min: T, max: T) -> Result<(), ParameterFault>
where
    T: Into<u64>,
{
    let (value, min, max) = (value.into(), min.into(), max.into());
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ParameterFault::OutOfRange { parameter, value, min, max })
}

fn multiple_of(parameter: Parameter, value: u32, multiple: usize) -> Result<(), ParameterFault> {
    let (value, multiple) = (u64::from(value), multiple as u64);
    if value.is_multiple_of(multiple) {
        return Ok(());
    }
    Err(ParameterFault::NotAMultiple { parameter, value, multiple })
}

fn fits(parameter: Parameter, value: impl Into<u64>, limit: u64) -> Result<(), ParameterFault> {
    let value = value.into();
    if value <= limit {
        return Ok(());
    }
    Err(ParameterFault::DoesNotFit { parameter, value, limit })
}
