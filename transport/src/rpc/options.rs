//! How a call is made.

use crate::proto::Lane;
use std::time::Duration;

/// How urgent a call is, and how much is spent on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Class {
    /// Sent by two brokers at once, in the urgent lane of each; the first answer counts. A service that is attached to
    /// both handles it once. While only one broker is connected it goes there alone.
    Gold,
    /// Sent once, in the urgent lane.
    Silver,
    /// Sent once, in the normal lane.
    #[default]
    Normal,
    /// Sent once, in the bulk lane: it may queue behind everything else.
    Bronze,
}

impl Class {
    /// The lane in which it travels.
    pub const fn lane(self) -> Lane {
        match self {
            Self::Gold | Self::Silver => Lane::Urgent,
            Self::Normal => Lane::Normal,
            Self::Bronze => Lane::Bulk,
        }
    }
}

/// The class that is sent once in this lane.
impl From<Lane> for Class {
    fn from(lane: Lane) -> Self {
        match lane {
            Lane::Urgent => Self::Silver,
            Lane::Normal => Self::Normal,
            Lane::Bulk => Self::Bronze,
        }
    }
}

/// How a call is made: its time, its class, and whether it may be sent again.
///
/// ```
/// use std::time::Duration;
/// use underlay::rpc::{CallOptions, Class};
///
/// let options = CallOptions::new(Duration::from_millis(200)).class(Class::Gold).idempotent();
/// assert!(options.idempotent && options.class == Class::Gold);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallOptions {
    /// The call has ended after this time, one way or another. At most [`super::CALL_TIMEOUT_MAX`].
    pub timeout: Duration,
    /// Its class.
    pub class: Class,
    /// Handling it twice is as good as once: it is sent again, by another broker or to the same one, when the session
    /// that it was sent on is lost. Its body stays with the client until it has ended.
    pub idempotent: bool,
}

impl CallOptions {
    /// A call of the normal class that is sent once.
    pub const fn new(timeout: Duration) -> Self {
        Self { timeout, class: Class::Normal, idempotent: false }
    }

    /// In this class.
    #[must_use]
    pub const fn class(self, class: Class) -> Self {
        Self { class, ..self }
    }

    /// It may be sent again.
    #[must_use]
    pub const fn idempotent(self) -> Self {
        Self { idempotent: true, ..self }
    }

    /// Whether more than one copy of it may be sent.
    pub(super) const fn may_repeat(&self) -> bool {
        self.idempotent || matches!(self.class, Class::Gold)
    }
}
