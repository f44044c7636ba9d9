//! A caller on the bare driver: what a client is at its core, with the session in hand to move it.

use std::sync::atomic::{AtomicU64, Ordering};

use underlay::connection::{AttachRequest, CloseReason, LinkRoom};
use underlay::driver::{ConnectionId, Core, DetachedByPeer, Handler, Resumed};
use underlay::message::Message;
use underlay::proto::control::{Address as LinkAddress, LinkRole};
use underlay::proto::handshake::Negotiated;
use underlay::proto::record::MessageKind;
use underlay::proto::text::Name;
use underlay::proto::{CorrelationId, LinkId, ReplyAddress, ReplySecret};

use crate::payload::{Payload, PayloadMismatch};
use crate::underlay::DESTINATION;

/// Calls one call at a time for as long as its driver turns, and checks each reply.
pub(super) struct Caller {
    secret: ReplySecret,
    payload: Payload,
    pub(super) connection: Option<ConnectionId>,
    link: Option<LinkId>,
    /// Calls that were sent, and that were answered; each has its number.
    pub(super) sent: u64,
    pub(super) answered: u64,
    /// How many had been sent when the session last went over to another connection, and how often it did.
    pub(super) sent_before_move: u64,
    pub(super) moves: u64,
    /// What has gone wrong.
    pub(super) fault: Option<String>,
}

impl Caller {
    pub(super) fn new(payload: Payload) -> Self {
        // One of a kind in this process, which is also the broker's.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut secret = [7; 32];
        secret[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        Self {
            secret: ReplySecret(secret),
            payload,
            connection: None,
            link: None,
            sent: 0,
            answered: 0,
            sent_before_move: 0,
            moves: 0,
            fault: None,
        }
    }

    /// Whether a call that was sent after the last move was answered.
    pub(super) fn is_answered_by_the_new_way(&self) -> bool {
        self.answered > self.sent_before_move
    }

    fn send_next(&mut self, core: &mut Core) {
        let (Some(connection), Some(link)) = (self.connection, self.link) else { return };
        if self.sent > self.answered || !core.is_writable(connection, link) {
            return;
        }
        let number = self.sent + 1;
        let body = match core.pool().copy_body(self.payload.body(number)) {
            Ok(body) => body,
            Err(error) => return self.fails(error),
        };
        let mut message = Message::new(MessageKind::Request, body);
        let process = core.identity().process;
        message.head.link = Some(link);
        message.head.reply_address = Some(ReplyAddress::of(&self.secret));
        message.head.correlation_id = CorrelationId(number);
        (message.head.origin, message.head.incarnation) = (process.origin, process.incarnation);
        message.head.message_number = core.next_message_number();
        match core.send(connection, message) {
            Ok(()) => self.sent = number,
            Err((error, _)) => self.fails(error),
        }
    }

    fn check(&self, reply: &Message) -> Result<(), PayloadMismatch> {
        self.payload.check_parts(self.sent, reply.body.segments().map(|segment| &**segment))
    }

    fn fails(&mut self, fault: impl ToString) {
        self.fault.get_or_insert(fault.to_string());
    }
}

impl Handler for Caller {
    fn opened(&mut self, core: &mut Core, connection: ConnectionId, _: &Negotiated) {
        let plenty = LinkRoom { messages: 1 << 40, bytes: 1 << 50 };
        let none = LinkRoom { messages: 0, bytes: 0 };
        let replies = LinkAddress::Reply(self.secret.clone());
        let asked = Name::new(DESTINATION).map(LinkAddress::Named).map_err(|violation| violation.to_string());
        let asked = asked.and_then(|queue| {
            core.attach(connection, LinkRole::Consumer, replies, plenty)
                .and_then(|_| core.attach(connection, LinkRole::Producer, queue, none))
                .map_err(|error| error.to_string())
        });
        match asked {
            Ok(link) => (self.connection, self.link) = (Some(connection), Some(link)),
            Err(fault) => self.fails(fault),
        }
    }

    fn attach_requested(&mut self, _: &mut Core, _: ConnectionId, _: AttachRequest) {
        self.fails("the broker asks for a link");
    }

    fn attached(&mut self, core: &mut Core, _: ConnectionId, _: LinkId) {
        self.send_next(core);
    }

    fn detached(&mut self, _: &mut Core, _: ConnectionId, detached: DetachedByPeer) {
        self.fails(format!("a link was refused or ended: {}", detached.text));
    }

    fn message(&mut self, core: &mut Core, _: ConnectionId, message: Message) {
        if message.head.correlation_id.0 != self.sent || self.answered == self.sent {
            return self
                .fails(format!("an answer to call {}, not {}", message.head.correlation_id.0, self.sent));
        }
        if let Err(mismatch) = self.check(&message) {
            return self.fails(mismatch);
        }
        self.answered = self.sent;
        self.send_next(core);
    }

    fn writable(&mut self, core: &mut Core, _: ConnectionId, _: LinkId) {
        self.send_next(core);
    }

    fn closed(&mut self, _: &mut Core, _: ConnectionId, reason: &CloseReason) {
        self.fails(reason);
    }

    fn resumed(&mut self, core: &mut Core, _: ConnectionId, _: &Resumed) {
        self.moves += 1;
        self.sent_before_move = self.sent;
        self.send_next(core);
    }
}
