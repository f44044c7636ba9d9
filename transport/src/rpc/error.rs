//! How a call can end other than with a reply.

use crate::pool::PoolError;
use std::time::Duration;
use thiserror::Error;

/// What a service says when it fails: its own error, apart from those of the way there.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the service failed ({code}): {text}")]
pub struct ServiceError {
    /// A number of the service's choice. 0 is also used by what runs the service, when it gave no reason or when its
    /// reply cannot be sent.
    pub code: u32,
    /// For people.
    pub text: String,
}

/// Why a call has no reply.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CallError {
    /// The service answered with an error of its own.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The destination refused the link; the text says why. The request was not sent.
    #[error("destination '{destination}' refused: {text}")]
    Refused {
        /// What was called.
        destination: String,
        /// What its broker said.
        text: String,
    },
    /// The name cannot be one of a destination. The request was not sent.
    #[error("'{name}' cannot name a destination: {reason}")]
    DestinationName {
        /// What was given.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No reply came in time. The request may or may not have been handled.
    #[error("no reply after {0:?}; the request may or may not have been handled")]
    TimedOut(Duration),
    /// The time was over before the destination had room for the request. It was not sent.
    #[error("not sent within {timeout:?}: {reason}")]
    NotSentInTime {
        /// The call's timeout.
        timeout: Duration,
        /// What it waited for.
        reason: String,
    },
    /// The connection ended before the reply came. The request may or may not have been handled.
    #[error("outcome unknown: {reason}; the request may or may not have been handled")]
    OutcomeUnknown {
        /// Why the connection ended.
        reason: String,
    },
    /// There is no connection. The request was not sent.
    #[error("not connected: {reason}")]
    NotConnected {
        /// Why not.
        reason: String,
    },
    /// As many calls are in flight as are allowed. The request was not sent.
    #[error("{calls_max} calls are in flight (calls_max): wait for some of them, or raise the limit")]
    TooManyCalls {
        /// The limit.
        calls_max: u32,
    },
    /// The driver has not taken the calls before it yet. The request was not sent.
    #[error(
        "{submissions_max} calls wait for the client's driver (submissions_max): try again, or raise the limit"
    )]
    QueueFull {
        /// The limit.
        submissions_max: usize,
    },
    /// There is no buffer for the request. It was not sent.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The timeout is longer than a request can say. The request was not sent.
    #[error("a timeout of {0:?} is longer than the {1:?} that a request can say")]
    TimeoutTooLong(Duration, Duration),
    /// The request cannot be sent, for a reason that will not go away. It was not sent.
    #[error("the request cannot be sent: {reason}")]
    Unsendable {
        /// Why.
        reason: String,
    },
}

impl CallError {
    /// Whether the request certainly had no effect, so that trying again cannot do anything twice.
    pub fn is_safe_to_retry(&self) -> bool {
        !matches!(self, Self::Service(_) | Self::TimedOut(_) | Self::OutcomeUnknown { .. })
    }
}
