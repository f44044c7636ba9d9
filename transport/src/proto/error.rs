//! Every way in which a peer can break the protocol, by name.

use super::limits::ParameterFault;
use super::text::TextField;
use super::{Lane, LinkId, Parameter, Stream};

/// What a peer did that version 1 does not allow. It ends that connection and touches no other.
///
/// Each variant names the value that was found and the limit that it broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the fields are what the messages name
pub enum PeerMisbehaved {
    // ---- hello
    #[error("not this protocol: byte {offset} of the hello is {found:#04x}, not one of \"underlay\"")]
    NotUnderlay { offset: u8, found: u8 },
    #[error("a hello of role {role} where it does not belong (1 client, 2 server, 3 refusal)")]
    HelloRole { role: u8 },
    #[error("a hello says it has {hello_bytes} bytes; it must be whole lines of 64, {min} to 4096 bytes")]
    HelloBytes { hello_bytes: u16, min: u16 },
    #[error("a hello of {hello_bytes} bytes needs only {needed}")]
    HelloLinesSpare { hello_bytes: u16, needed: u16 },
    #[error("a hello says it has {hello_bytes} bytes, but {found} are there")]
    HelloLength { hello_bytes: u16, found: u32 },
    #[error("a hello offers versions {min} to {max}, which is no range from 1 up")]
    VersionRange { min: u16, max: u16 },
    #[error("the server chose version {version}; {min} to {max} were offered")]
    VersionNotOffered { version: u16, min: u16, max: u16 },
    #[error("{lanes} lanes; version 1 has 3")]
    LaneCount { lanes: u16 },
    #[error("impossible parameters: {0}")]
    ImpossibleParameters(#[from] ParameterFault),
    #[error("the server set {parameter} to {value}, above the {limit} that was proposed")]
    ParameterExceedsProposal { parameter: Parameter, value: u64, limit: u64 },
    #[error("the server took capabilities {found:#x}, of which only {offered:#x} were offered")]
    CapabilitiesNotOffered { found: u64, offered: u64 },
    #[error("the server answered {count} securities; it must choose one")]
    SecurityNotChosen { count: u16 },
    #[error("the server chose security {kind}, which was not offered")]
    SecurityNotOffered { kind: u16 },
    #[error(
        "a session is to go on at {found} of {stream}, which has been sent up to {sent} and was acknowledged up to {acknowledged}"
    )]
    ResumePosition { stream: Stream, found: u64, acknowledged: u64, sent: u64 },
    #[error("the server resumes a session without proving that it knows the session's token")]
    SessionUnproven,
    #[error("the server resumes a session in epoch {found}; {expected} was asked for")]
    SessionEpoch { found: u32, expected: u32 },
    #[error("the server grants a session without the token by which it can be resumed")]
    SessionTokenMissing,
    #[error("a session is resumed with {parameter} {value}; it was begun with {limit}")]
    SessionParameter { parameter: Parameter, value: u64, limit: u64 },

    // ---- frame
    #[error("a frame of {frame_bytes} bytes; the shortest has 64")]
    FrameTooShort { frame_bytes: u32 },
    #[error("a frame of {frame_bytes} bytes; {limit} were negotiated")]
    FrameTooLong { frame_bytes: u32, limit: u32 },
    #[error("a frame of {frame_bytes} bytes is not whole lines of 64")]
    FrameNotWholeLines { frame_bytes: u32 },
    #[error("a frame says it has {frame_bytes} bytes, but {found} are there")]
    FrameLength { frame_bytes: u32, found: u32 },
    #[error("frame kind {kind} is unknown (1 data, 2 control)")]
    FrameKindUnknown { kind: u8 },
    #[error("lane {lane} is unknown (0 to 2)")]
    LaneUnknown { lane: u8 },
    #[error("stream {stream} is unknown (0 to 2 for the lanes, 3 for control records)")]
    StreamUnknown { stream: u8 },
    #[error("a data frame without records")]
    FrameEmpty,
    #[error("{record_bytes} bytes of records in a frame of {frame_bytes}")]
    FrameRecordBytes { record_bytes: u32, frame_bytes: u32 },
    #[error("{record_bytes} bytes of records are not a multiple of 8")]
    RecordBytesUnaligned { record_bytes: u32 },
    #[error("{records} records cannot share {record_bytes} bytes")]
    RecordCount { records: u16, record_bytes: u32 },
    #[error("a record of {bytes} bytes where the frame has {left} left")]
    RecordPastFrame { bytes: u64, left: u32 },
    #[error("the frame's records end {left} bytes before it says")]
    RecordBytesLeft { left: u32 },
    #[error("a record of kind {kind:#04x} in a control frame")]
    RecordNotControl { kind: u8 },
    #[error("frame {found} where frame {expected} was due")]
    FrameOutOfSequence { expected: u64, found: u64 },

    // ---- anywhere in a frame or a hello
    #[error("padding is not zero at offset {offset}")]
    PaddingNotZero { offset: u32 },
    #[error("a reserved field is not zero at offset {offset}")]
    ReservedNotZero { offset: u32 },
    #[error("{field} is empty")]
    TextEmpty { field: TextField },
    #[error("{field} has {bytes} bytes; the limit is {limit}")]
    TextTooLong { field: TextField, bytes: u32, limit: u32 },
    #[error("{field} is not UTF-8 from byte {offset} on")]
    TextNotUtf8 { field: TextField, offset: u32 },
    #[error("{field} has a control character at byte {offset}")]
    TextControlCharacter { field: TextField, offset: u32 },

    // ---- record
    #[error("record kind {kind:#04x} is unknown")]
    RecordKindUnknown { kind: u8 },
    #[error("the head of a record of kind {kind:#04x} has {head_bytes} bytes; it must have {min} to {max}")]
    HeadBytes { kind: u8, head_bytes: u32, min: u16, max: u16 },
    #[error("a head of {head_bytes} bytes is not a multiple of 8")]
    HeadBytesUnaligned { head_bytes: u16 },
    #[error("unknown flags {flags:#06x} on a record of kind {kind:#04x}")]
    FlagsUnknown { kind: u8, flags: u16 },
    #[error("a failure mark on a record of kind {kind:#04x}; only replies carry it")]
    FailureNotReply { kind: u8 },
    #[error("a record of kind {kind:#04x} without a link; only replies may lack one")]
    LinkMissing { kind: u8 },
    #[error("a deadline of {deadline_us} us that no flag announces")]
    DeadlineUnannounced { deadline_us: u32 },
    #[error("a body of {body_bytes} bytes with a total of {total_body_bytes}, against its mark for more")]
    BodyTotal { body_bytes: u32, total_body_bytes: u64 },
    #[error("{body_bytes} bytes of a body in one record; {limit} were negotiated")]
    BodyTooLong { body_bytes: u32, limit: u32 },
    #[error("a body of {body_bytes} bytes; {limit} were negotiated")]
    MessageTooLong { body_bytes: u64, limit: u64 },
    #[error("a message of lane {lane:?} before the last chunk of the one before it")]
    MessageBetweenChunks { lane: Lane },
    #[error("a chunk in lane {lane:?}, where no message is unfinished")]
    ChunkWithoutMessage { lane: Lane },
    #[error("a chunk of record {found} of lane {lane:?}, where record {expected} of its link goes on")]
    ChunkOfAnother { lane: Lane, expected: u64, found: u64 },
    #[error("a chunk without a body")]
    ChunkEmpty,
    #[error("a chunk at {found} where the body goes on at {expected}")]
    ChunkOutOfPlace { expected: u64, found: u64 },
    #[error("a chunk ends at {end}, in a body of {total_body_bytes}")]
    ChunkPastEnd { end: u64, total_body_bytes: u64 },
    #[error("a chunk that ends at {end} of {total_body_bytes} is marked wrongly as last or not last")]
    ChunkLastMark { end: u64, total_body_bytes: u64 },
    #[error("record {found} of lane {lane:?} where {expected} was due")]
    LaneOutOfSequence { lane: Lane, expected: u64, found: u64 },
    #[error("acknowledged up to {found} of {stream}, of which {limit} were sent")]
    AcknowledgedUnsent { stream: Stream, found: u64, limit: u64 },

    // ---- offers
    #[error("a body of {body_bytes} bytes, or a mark for more, in a record whose body is offered")]
    OfferWithBody { body_bytes: u32 },
    #[error("an offered body without a descriptor as the last extension")]
    OfferWithoutDescriptor,
    #[error("the descriptor of an offered body in a record that offers none")]
    OfferUnmarked,
    #[error("an offered body in lane {lane:?}; one-sided reads were not negotiated")]
    OfferNotNegotiated { lane: Lane },
    #[error("{offers} offered bodies that are not acknowledged; the limit is {limit}")]
    OfferOverrun { offers: usize, limit: usize },

    // ---- extension
    #[error("an extension of {bytes} bytes where {left} are left")]
    ExtensionPastEnd { bytes: u32, left: u32 },
    #[error("extension {kind} after extension {previous}; they must ascend, each at most once")]
    ExtensionOrder { kind: u16, previous: u16 },
    #[error("extension {kind} must be understood and is unknown")]
    ExtensionNotUnderstood { kind: u16 },
    #[error("extension {kind} has a value of {bytes} bytes, which is no value of that extension")]
    ExtensionValue { kind: u16, bytes: u16 },
    #[error("a list in extension {kind} breaks off at byte {offset}")]
    ExtensionList { kind: u16, offset: u16 },
    #[error("a trace context of version 255, or without a trace or span id")]
    TraceContextInvalid,

    // ---- control
    #[error("control record {kind:#04x} must be understood and is unknown")]
    ControlNotUnderstood { kind: u8 },
    #[error("flags {flags:#06x} on control record {kind:#04x}, which has none")]
    ControlFlags { kind: u8, flags: u16 },
    #[error("control record {kind:#04x} has {head_bytes} bytes; its fields take {expected}")]
    ControlBytes { kind: u8, head_bytes: u32, expected: u32 },
    #[error("role {role} is unknown (0 producer, 1 consumer, 2 consumer that settles)")]
    RoleUnknown { role: u8 },
    #[error("address kind {kind} is unknown (0 named, 1 reply address)")]
    AddressKindUnknown { kind: u8 },
    #[error("a producer attaches to a reply address; only its owner may, as a consumer")]
    ReplyAddressProducer,
    #[error("a secret of {bytes} bytes; it has 32")]
    SecretBytes { bytes: u16 },
    #[error("a producer grants itself {messages} messages and {bytes} bytes")]
    ProducerGrants { messages: u64, bytes: u64 },
    #[error("settlement outcome {outcome} is unknown (0 accepted, 1 rejected, 2 released)")]
    OutcomeUnknown { outcome: u16 },
    #[error("a settlement from {from} to {to}, which is of nothing")]
    SettleRange { from: u64, to: u64 },

    // ---- link
    #[error("link {link} is not one that may be used so")]
    LinkUnknown { link: LinkId },
    #[error("link {link} is attached already")]
    LinkInUse { link: LinkId },
    #[error("a grant for link {link} by the end that sends on it")]
    GrantByProducer { link: LinkId },
    #[error("settlement of link {link}, which was not negotiated")]
    SettlementNotNegotiated { link: LinkId },
    #[error("settlement of link {link}, whose deliveries are not settled, or by the end that sends them")]
    LinkNotSettled { link: LinkId },
    #[error("settled up to {to} of lane {lane:?} of link {link}, on which {limit} were delivered")]
    SettledUndelivered { link: LinkId, lane: Lane, to: u64, limit: u64 },

    // ---- credit
    #[error("frame position {position} is past the granted {limit}")]
    FrameCreditOverrun { position: u64, limit: u64 },
    #[error("chunk position {position} is past the granted {limit}")]
    ChunkCreditOverrun { position: u64, limit: u64 },
    #[error("message position {position} of link {link} is past the granted {limit}")]
    MessageCreditOverrun { link: LinkId, position: u64, limit: u64 },
    #[error("byte position {position} of link {link} is past the granted {limit}")]
    ByteCreditOverrun { link: LinkId, position: u64, limit: u64 },
}

/// Why something could not be written: a mistake at this end, not the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The place that was given is too small.
    #[error("{needed} bytes are needed and {room} are there")]
    NoRoom {
        /// Bytes that would be written.
        needed: usize,
        /// Bytes that were given.
        room: usize,
    },
    /// A head that its fields and extensions do not fit, or that is longer than any may be.
    #[error("a head of {head_bytes} bytes; it must be a multiple of 8 from {min} to {max}")]
    HeadBytes {
        /// What was asked for.
        head_bytes: usize,
        /// What its fields need.
        min: usize,
        /// What is allowed.
        max: usize,
    },
    /// An extension that the peer would refuse.
    #[error("the extension would be refused: {0}")]
    Extension(#[source] PeerMisbehaved),
    /// A hello whose extensions do not fit.
    #[error("a hello of {bytes} bytes; the longest has 4096")]
    HelloTooLong {
        /// What it would have.
        bytes: usize,
    },
}
