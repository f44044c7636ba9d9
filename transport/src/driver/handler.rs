//! What runs on a driver's thread and answers its events: the interface of a broker, a client, a service.

use super::core::{ConnectionId, Core};
use crate::backend::WireKind;
use crate::connection::{AttachRequest, CloseReason};
use crate::message::Message;
use crate::proto::control::{DetachCode, LinkRole, Outcome};
use crate::proto::handshake::Negotiated;
use crate::proto::{Lane, LinkId};
use std::ops::Range;
use std::time::Duration;

/// Answers the events of a driver.
///
/// This is the whole interface between the wire layer and a broker: the embedded broker, the client and the service
/// are three implementations, and another broker plugs in as a fourth. Every method runs on the driver's thread and
/// must not block; it may use any connection of the [`Core`], also the one that the event is about. Each driver has a
/// handler of its own.
pub trait Handler {
    /// A connection is open: the handshake is done, whoever began it.
    fn opened(&mut self, core: &mut Core, connection: ConnectionId, peer: &Negotiated);

    /// The peer asks for a link. Answer now or later, by [`Core::accept_link`] or [`Core::refuse_link`].
    fn attach_requested(&mut self, core: &mut Core, connection: ConnectionId, request: AttachRequest);

    /// A link that was asked for is there.
    fn attached(&mut self, core: &mut Core, connection: ConnectionId, link: LinkId);

    /// A link has ended, or was refused, by the peer.
    fn detached(&mut self, core: &mut Core, connection: ConnectionId, detached: DetachedByPeer);

    /// A message arrived.
    fn message(&mut self, core: &mut Core, connection: ConnectionId, message: Message);

    /// A link that had run out of credit may send again.
    fn writable(&mut self, core: &mut Core, connection: ConnectionId, link: LinkId);

    /// A connection has ended, or never came up. Its links are gone with it.
    fn closed(&mut self, core: &mut Core, connection: ConnectionId, reason: &CloseReason);

    /// A session has lost its last connection. It goes on when another one comes up ([`Handler::resumed`]), or ends
    /// ([`Handler::closed`]) when it expires. Meanwhile its links are there and what is sent on it waits, within its
    /// bounds; none of its links is writable.
    fn interrupted(&mut self, core: &mut Core, connection: ConnectionId, reason: &CloseReason) {
        let _ = (core, connection, reason);
    }

    /// A session goes on over another connection: it was interrupted, or it has moved. Nothing was lost, and nothing
    /// comes twice.
    fn resumed(&mut self, core: &mut Core, connection: ConnectionId, resumed: &Resumed) {
        let _ = (core, connection, resumed);
    }

    /// The peer asks to be left: it is going away, and serves until then as before.
    fn leaving(&mut self, core: &mut Core, connection: ConnectionId, leaving: &Leaving) {
        let _ = (core, connection, leaving);
    }

    /// The peer has settled deliveries of a link.
    fn settled(&mut self, core: &mut Core, connection: ConnectionId, settled: Settled) {
        let _ = (core, connection, settled);
    }

    /// Takes what other threads have submitted; true if there was anything. Called before every poll of the wires,
    /// so it must be cheap when there is nothing.
    fn take_submissions(&mut self, core: &mut Core) -> bool {
        let _ = core;
        false
    }

    /// A timer that was set by [`Core::set_timer`] is due.
    fn timer(&mut self, core: &mut Core, key: usize) {
        let _ = (core, key);
    }
}

/// Over what a session goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumed {
    /// The wire of the new connection.
    pub wire: WireKind,
    /// Where the peer is on it, for logs.
    pub peer: String,
    /// It had no connection for so long; zero if it has moved from one that was in use until then.
    pub interrupted_for: Duration,
}

/// A peer that asks to be left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// So long it goes on serving.
    pub within: Duration,
    /// For people.
    pub text: String,
}

/// Deliveries that the peer has settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The link on which they were sent.
    pub link: LinkId,
    /// The lane in which they were sent.
    pub lane: Lane,
    /// Their positions: how many were sent before each on this link in this lane. All of them were sent, or at least
    /// queued to be sent; some may have been settled before.
    pub positions: Range<u64>,
    /// What became of them.
    pub outcome: Outcome,
}

/// A link that the peer refused or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachedByPeer {
    /// The link.
    pub link: LinkId,
    /// The role of the end that asked for it.
    pub role: LinkRole,
    /// Why.
    pub code: DetachCode,
    /// For people.
    pub text: String,
}
