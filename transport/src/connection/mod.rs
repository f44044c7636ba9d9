//! One end of a connection: what lies between a channel's bytes and its owner's messages.
//!
//! A `Connection` joins the handshake, packing and the credit of one channel into one state machine. It takes segments
//! and time, gives [`ConnectionEvent`]s and gather lists, and says when it wants to be called for the sake of a timeout.
//! What it sends from and receives into are the `Streams` of its session, which outlive it: lanes, control records,
//! links and positions. A [`Session`](crate::session::Session) drives one connection, or several.
//!
//! What it promises: messages come out in the order of their lane; nothing is sent past what the peer granted, and a
//! peer that goes past what was granted here loses its connection; it ends with exactly one
//! [`ConnectionEvent::Closed`]; whatever the peer does, it costs bounded memory and bounded time.
//!
//! What it must never know: which wire carries it, what a destination is, what becomes of a message, and whether there
//! is another connection of its session.

mod greeting;
mod links;
mod one_sided;
mod open;
mod reads;
mod settlement;
mod state;
mod streams;
mod times;

pub use links::{AttachRequest, LinkError, LinkRoom, Target};
pub use one_sided::OneSidedTask;
pub use settlement::Deliveries;
pub(crate) use state::Connection;
pub(crate) use streams::Streams;

use crate::packing::OutboxFull;
use crate::pool::PoolError;
use crate::proto::control::{CloseCode, DetachCode, LinkRole, Outcome};
use crate::proto::handshake::{Negotiated, RefusalReason};
use crate::proto::hello::{ProcessIdentity, Refusal};
use crate::proto::{Lane, LinkId, Parameters, PeerMisbehaved};
use std::time::Duration;
use thiserror::Error;

/// What one end brings to its connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionConfig {
    /// What this end proposes in the handshake; the smaller of both ends' values holds.
    pub parameters: Parameters,
    /// The hello must be complete within this time. Default 5 s.
    pub handshake_timeout: Duration,
    /// A frame must be complete this long after its first byte. Default 10 s.
    pub frame_timeout: Duration,
    /// A bulk message that has begun must go on within this time, or what has arrived of it would be held for ever; a
    /// one-sided read must be done within it. Default 60 s: urgent messages may keep it back for long.
    pub bulk_timeout: Duration,
    /// What waits to be sent must make progress within this time: the wire must take it, and the peer must grant it
    /// room. Default 10 s.
    pub send_timeout: Duration,
    /// What has arrived is acknowledged after this time, if nothing is sent to the peer before. Default 50 ms.
    pub acknowledgement_delay: Duration,
    /// After a close was sent, the peer has this long to take it. Default 1 s.
    pub close_timeout: Duration,
    /// The most messages that wait to be sent on one connection. Default 65,536.
    pub send_queue_messages_max: usize,
    /// About the most bytes of messages that wait to be sent on one connection. Default 64 MiB.
    pub send_queue_bytes_max: u64,
}

impl ConnectionConfig {
    /// The shortest of all times after which a connection that is open does something by itself, where a handshake has
    /// settled these parameters.
    pub(crate) fn shortest_timeout(&self, settled: &Parameters) -> Duration {
        let peer = Duration::from_millis(settled.keep_alive_ms.min(settled.idle_timeout_ms).into());
        [self.frame_timeout, self.bulk_timeout, self.send_timeout, self.close_timeout]
            .into_iter()
            .fold(self.acknowledgement_delay.min(peer), Duration::min)
    }
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            parameters: Parameters::default(),
            handshake_timeout: Duration::from_secs(5),
            frame_timeout: Duration::from_secs(10),
            bulk_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(10),
            acknowledgement_delay: Duration::from_millis(50),
            close_timeout: Duration::from_secs(1),
            send_queue_messages_max: 65_536,
            send_queue_bytes_max: 64 << 20,
        }
    }
}

/// What a connection has to know of its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelTraits {
    /// What the path carries whole, in bytes.
    pub packet_bytes: u32,
    /// So many bodies can be exposed on it for one-sided reads at a time; 0 if there are none on this channel. At most
    /// [`OFFERS_MAX`](crate::proto::OFFERS_MAX) are used.
    pub exposures_max: usize,
}

impl From<u32> for ChannelTraits {
    /// A channel without one-sided reads that carries so many bytes whole.
    fn from(packet_bytes: u32) -> Self {
        Self { packet_bytes, exposures_max: 0 }
    }
}

/// Who this end is, the same for all its connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The process and its present life.
    pub process: ProcessIdentity,
    /// A name for logs, up to 64 bytes.
    pub name: String,
}

/// What happened on a connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectionEvent {
    /// The handshake is done; messages may be sent.
    Opened(Box<Negotiated>),
    /// The peer asks for a link: answer by `accept_link` or `refuse_link`.
    AttachRequested(Box<AttachRequest>),
    /// A link that was asked for here is there.
    Attached {
        /// The link.
        link: LinkId,
    },
    /// A link has ended, or was refused. Not for links that were detached here.
    Detached {
        /// The link.
        link: LinkId,
        /// Who sent on it, as it was asked for.
        role: LinkRole,
        /// Why.
        code: DetachCode,
        /// For people.
        text: String,
    },
    /// A message arrived. It is long, and so it is not moved about as a part of this: whoever polls has lent a place for
    /// it.
    Message,
    /// A link that had run out of credit may send again.
    Writable {
        /// The link.
        link: LinkId,
    },
    /// A session has lost its last connection. It goes on, or ends, later.
    Interrupted(CloseReason),
    /// A session goes on over another connection.
    Resumed {
        /// Which one of its connections.
        path: usize,
        /// It had none for so long.
        interrupted_for: Duration,
    },
    /// The peer has said what became of deliveries: for the first time, or again.
    Settled {
        /// Which.
        deliveries: Deliveries,
        /// What became of them.
        outcome: Outcome,
    },
    /// The peer asks to be left.
    Leaving {
        /// So long it goes on serving.
        within: Duration,
        /// For people.
        text: String,
    },
    /// The connection has ended. Nothing follows.
    Closed(CloseReason),
}

/// Why a message was not taken.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The handshake is not done, or the connection is closing.
    #[error("the connection is not open")]
    NotOpen,
    /// Its link cannot carry it now.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// It names no link, which only a reply may do.
    #[error("a message that is no reply needs a link")]
    NoLink,
    /// The peer would not take a body of that length.
    #[error("the body has {bytes} bytes; the limit settled with the peer is {limit} (message_bytes_max)")]
    BodyTooLong {
        /// Its length.
        bytes: u64,
        /// What was settled.
        limit: u64,
    },
    /// Its extensions make the head too long.
    #[error("the head would have {bytes} bytes; the limit settled with the peer is {limit} (head_bytes_max)")]
    HeadTooLong {
        /// Its length.
        bytes: usize,
        /// What was settled.
        limit: usize,
    },
    /// The send queue is full.
    #[error(transparent)]
    QueueFull(#[from] OutboxFull),
    /// The pool is empty.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// This end closed it.
    #[error("closed by this end ({code:?}): {text}")]
    Local {
        /// What the peer was told.
        code: CloseCode,
        /// The same, for people.
        text: String,
    },
    /// The peer closed it.
    #[error("closed by the peer ({code:?}): {text}")]
    Peer {
        /// Why, it says.
        code: CloseCode,
        /// The same, for people.
        text: String,
    },
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Misbehaved(#[from] PeerMisbehaved),
    /// The peer refused the handshake.
    #[error("the peer refused the connection ({code:?}): {text}", code = .0.code, text = .0.text())]
    Refused(Refusal),
    /// This end refused the handshake.
    #[error("the handshake was refused: {0}")]
    HandshakeRefused(RefusalReason),
    /// The hello did not arrive in time.
    #[error("the handshake was not complete after {0:?} (handshake_timeout_ms)")]
    HandshakeTimeout(Duration),
    /// A frame began and did not end in time.
    #[error("a frame was not complete {0:?} after its first byte (frame_timeout_ms)")]
    FrameTimeout(Duration),
    /// A bulk message began and did not go on.
    #[error("the next chunk of a bulk message did not come for {0:?} (bulk_timeout_ms)")]
    BulkTimeout(Duration),
    /// A body that the peer offered could not be read.
    #[error("a one-sided read of a body in lane {lane:?} failed: {failure}")]
    ReadFailed {
        /// The lane of its message.
        lane: Lane,
        /// Why.
        failure: ReadFailure,
    },
    /// Bodies were offered to the peer, and it acknowledged none of them.
    #[error(
        "the peer took none of the bodies that were offered to it for {0:?} (bulk_timeout_ms + send_timeout_ms)"
    )]
    OffersNotTaken(Duration),
    /// Nothing arrived for too long.
    #[error("the peer said nothing for {0:?} (idle_timeout_ms)")]
    PeerSilent(Duration),
    /// The peer took nothing for too long.
    #[error("the peer took nothing for {0:?} while something waited for it (send_timeout_ms)")]
    PeerNotReading(Duration),
    /// The peer took what was sent to it, and acknowledged nothing for too long.
    #[error("the peer acknowledged nothing of what it took for {0:?} (three times send_timeout_ms)")]
    NotAcknowledged(Duration),
    /// A bound of this end was reached.
    #[error("a limit of this end was reached: {0}")]
    ResourceLimit(String),
    /// A session found no connection again before it expired.
    #[error(
        "the session expired: no connection for {after:?} (session_expiry_ms); it was lost because {loss}"
    )]
    Expired {
        /// How long it lives without a connection.
        after: Duration,
        /// Why the last one ended.
        loss: String,
    },
    /// The peer does not know the session any more: it expired there, or its process is another one now.
    #[error("the peer does not know the session: {0}")]
    SessionUnknown(String),
    /// A session was resumed again and again, and its peer took nothing of what waits for it.
    #[error("resumed {0} times without the peer taking anything of what waits for it (resumes_max)")]
    ResumedInVain(u32),
    /// The channel ended by itself.
    #[error("the channel ended: {0}")]
    Channel(String),
}

/// Why a body that the peer offered was not read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReadFailure {
    /// The wire says why.
    #[error("{0}")]
    Failed(String),
    /// It took too long.
    #[error("it was not done after {0:?} (bulk_timeout_ms)")]
    Overdue(Duration),
}

impl CloseReason {
    /// A short name for counters and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Local { .. } => "local",
            Self::Peer { .. } => "peer",
            Self::Misbehaved(_) => "misbehaved",
            Self::Refused(_) => "refused",
            Self::HandshakeRefused(_) => "handshake_refused",
            Self::HandshakeTimeout(_) => "handshake_timeout",
            Self::FrameTimeout(_) => "frame_timeout",
            Self::BulkTimeout(_) => "bulk_timeout",
            Self::ReadFailed { .. } => "read_failed",
            Self::OffersNotTaken(_) => "offers_not_taken",
            Self::PeerSilent(_) => "peer_silent",
            Self::PeerNotReading(_) => "peer_not_reading",
            Self::NotAcknowledged(_) => "not_acknowledged",
            Self::ResourceLimit(_) => "resource_limit",
            Self::Expired { .. } => "expired",
            Self::SessionUnknown(_) => "session_unknown",
            Self::ResumedInVain(_) => "resumed_in_vain",
            Self::Channel(_) => "channel",
        }
    }

    /// Whether a connection that ended so says nothing against its session, which may go on over another one.
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Channel(_)
            | Self::HandshakeTimeout(_)
            | Self::FrameTimeout(_)
            | Self::BulkTimeout(_)
            | Self::ReadFailed { .. }
            | Self::OffersNotTaken(_)
            | Self::PeerSilent(_)
            | Self::PeerNotReading(_)
            | Self::NotAcknowledged(_) => true,
            Self::Peer { code, .. } | Self::Local { code, .. } => matches!(
                code,
                CloseCode::HandshakeTimeout
                    | CloseCode::PeerSilent
                    | CloseCode::PeerNotReading
                    | CloseCode::ReadFailed
                    | CloseCode::SessionTaken
            ),
            _ => false,
        }
    }

    /// What the peer is told.
    pub fn code(&self) -> CloseCode {
        match self {
            Self::Local { code, .. } | Self::Peer { code, .. } => *code,
            Self::Misbehaved(_) | Self::Refused(_) | Self::HandshakeRefused(_) => {
                CloseCode::ProtocolViolation
            }
            Self::HandshakeTimeout(_) => CloseCode::HandshakeTimeout,
            Self::FrameTimeout(_) | Self::BulkTimeout(_) | Self::PeerSilent(_) => CloseCode::PeerSilent,
            Self::PeerNotReading(_) | Self::NotAcknowledged(_) => CloseCode::PeerNotReading,
            Self::ReadFailed { .. } | Self::OffersNotTaken(_) => CloseCode::ReadFailed,
            Self::ResourceLimit(_) => CloseCode::ResourceLimit,
            Self::ResumedInVain(_) => CloseCode::PeerNotReading,
            Self::Channel(_) | Self::Expired { .. } | Self::SessionUnknown(_) => CloseCode::Normal,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
