//! What happens to connections and links, for whoever wants to hear of it.

use crate::backend::WireKind;
use crate::driver::{Address, Resumed};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Something that has happened to a session or a link of a client or a service. Each names its broker's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// An attempt to connect has failed; it is repeated.
    Unreachable {
        /// Where.
        address: &'a Address,
        /// Why.
        reason: &'a str,
    },
    /// The handshake is done; the link that makes the session useful was asked for.
    Connected {
        /// Where.
        address: &'a Address,
    },
    /// A link is there: that of the replies, that on which a service consumes, or that to a destination.
    Attached {
        /// Where.
        address: &'a Address,
        /// The destination; `None` is the process's reply destination.
        destination: Option<&'a str>,
    },
    /// A link was refused, or ended by the peer.
    Detached {
        /// Where.
        address: &'a Address,
        /// The destination; `None` is the process's reply destination.
        destination: Option<&'a str>,
        /// What the peer said.
        reason: &'a str,
    },
    /// A session has lost its connection, and may come back.
    Interrupted {
        /// Where.
        address: &'a Address,
        /// How the connection ended.
        reason: &'a str,
    },
    /// An interrupted session goes on, over a new connection.
    Resumed {
        /// Where.
        address: &'a Address,
        /// Over which wire.
        wire: WireKind,
        /// It had no connection for so long.
        interrupted_for: Duration,
    },
    /// A session has changed its connection without having been interrupted.
    Moved {
        /// Where.
        address: &'a Address,
        /// The wire of the new connection.
        wire: WireKind,
    },
    /// The broker asks to be left.
    Leaving {
        /// Which.
        address: &'a Address,
        /// So long it goes on serving.
        within: Duration,
        /// What it said.
        text: &'a str,
    },
    /// A session that had been in use has ended: the broker closed it, or it did not come back in time.
    Lost {
        /// Where.
        address: &'a Address,
        /// Why.
        reason: &'a str,
    },
    /// A session was closed from here, in order: it is not needed any longer.
    Left {
        /// Where.
        address: &'a Address,
    },
    /// New calls go by another broker than before, because that one is interrupted, lost or leaving.
    FailedOver {
        /// By which they went before.
        from: &'a Address,
        /// By which they go now.
        address: &'a Address,
    },
    /// New calls go by a broker again that is named earlier in the list than the one before.
    Returned {
        /// By which they went before.
        from: &'a Address,
        /// By which they go now.
        address: &'a Address,
    },
    /// Of two copies of a gold call, this broker's was answered first.
    RaceWon {
        /// Which.
        address: &'a Address,
    },
}

impl<'a> Event<'a> {
    pub(super) fn of_resumed(address: &'a Address, resumed: &Resumed) -> Self {
        let Resumed { wire, interrupted_for, .. } = *resumed;
        if interrupted_for.is_zero() {
            Self::Moved { address, wire }
        } else {
            Self::Resumed { address, wire, interrupted_for }
        }
    }

    /// The address that it is about.
    pub fn address(&self) -> &'a Address {
        match *self {
            Self::Unreachable { address, .. }
            | Self::Connected { address }
            | Self::Attached { address, .. }
            | Self::Detached { address, .. }
            | Self::Interrupted { address, .. }
            | Self::Resumed { address, .. }
            | Self::Moved { address, .. }
            | Self::Leaving { address, .. }
            | Self::Lost { address, .. }
            | Self::Left { address }
            | Self::FailedOver { address, .. }
            | Self::Returned { address, .. }
            | Self::RaceWon { address } => address,
        }
    }
}

/// For logs.
impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let link = |destination: &Option<&str>| match destination {
            Some(name) => format!("the link to '{name}'"),
            None => "the link of replies".to_owned(),
        };
        write!(f, "{}: ", self.address())?;
        match self {
            Self::Unreachable { reason, .. } => write!(f, "not reached: {reason}"),
            Self::Connected { .. } => write!(f, "connected"),
            Self::Attached { destination, .. } => write!(f, "{} is there", link(destination)),
            Self::Detached { destination, reason, .. } => {
                write!(f, "{} was refused or ended: {reason}", link(destination))
            }
            Self::Interrupted { reason, .. } => write!(f, "interrupted: {reason}"),
            Self::Resumed { wire, interrupted_for, .. } => {
                write!(f, "resumed over {wire} after {interrupted_for:?}")
            }
            Self::Moved { wire, .. } => write!(f, "moved to another connection over {wire}"),
            Self::Leaving { within, text, .. } => write!(f, "asks to be left within {within:?}: {text}"),
            Self::Lost { reason, .. } => write!(f, "lost: {reason}"),
            Self::Left { .. } => write!(f, "left, not needed any longer"),
            Self::FailedOver { from, .. } => write!(f, "calls go here now instead of {from}"),
            Self::Returned { from, .. } => write!(f, "calls go here again instead of {from}"),
            Self::RaceWon { .. } => write!(f, "answered a gold call first"),
        }
    }
}

/// A function that hears each [`Event`], on the driver's thread: it must not block.
#[derive(Clone)]
pub struct EventListener(Arc<dyn Fn(&Event<'_>) + Send + Sync>);

impl EventListener {
    /// A listener; its clones call the same function.
    pub fn new(function: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(function))
    }

    pub(super) fn tell(listener: &Option<Self>, event: Event<'_>) {
        tracing::debug!("{event}");
        if let Some(Self(function)) = listener {
            function(&event);
        }
    }
}

impl fmt::Debug for EventListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventListener")
    }
}
