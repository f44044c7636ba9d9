//! A message in memory: what travels through every layer.

use crate::pool::{Body, Segment};
use crate::proto::extension::Extensions;
use crate::proto::record::{MessageHead, MessageKind};
use crate::proto::{CorrelationId, Incarnation, Lane, MessageNumber, Origin};

/// A message, a request or a reply: its head, its extensions as they came, and its body.
///
/// The lengths in the head are set when it is sent; whoever makes a message need not keep them true.
#[derive(Debug)]
pub struct Message {
    /// What is known of it beside its body.
    pub head: MessageHead,
    /// Its extensions, encoded and checked; a hop passes them on byte for byte.
    pub extensions: Option<Segment>,
    /// Its bytes.
    pub body: Body,
    /// Of one that arrived on a link: how many came before it on that link in its lane. By this it is settled
    /// ([`crate::connection::Deliveries::of`]); it means nothing on the way out.
    pub position: u64,
}

impl Message {
    /// A message of this kind in the normal lane, with nothing else said of it.
    pub fn new(kind: MessageKind, body: Body) -> Self {
        let head = MessageHead {
            kind,
            lane: Lane::Normal,
            redelivered: false,
            copies: false,
            offered: false,
            failure: false,
            reply_address: None,
            hop_count: 0,
            attempt: 0,
            body_bytes: 0,
            link: None,
            lane_sequence: 0,
            origin: Origin::default(),
            message_number: MessageNumber::default(),
            correlation_id: CorrelationId::default(),
            deadline_us: None,
            incarnation: Incarnation::default(),
            total_body_bytes: 0,
        };
        Self { head, extensions: None, body, position: 0 }
    }

    /// The answer to a request: to its reply address, with what its sender needs to recognise it.
    pub fn reply_to(request: &MessageHead, body: Body) -> Self {
        let mut reply = Self::new(MessageKind::Reply, body);
        reply.head.lane = request.lane;
        reply.head.reply_address = request.reply_address;
        reply.head.correlation_id = request.correlation_id;
        reply.head.incarnation = request.incarnation;
        reply.head.attempt = request.attempt;
        reply
    }

    /// Its extensions, which were checked when they arrived or were written.
    pub fn extensions(&self) -> Extensions<'_> {
        Extensions::already_checked(self.extensions.as_deref().unwrap_or(&[]))
    }

    /// What it counts against the limits of links and queues, in bytes: its body and its extensions.
    pub fn charged_bytes(&self) -> u64 {
        (self.body.len() + self.extensions.as_ref().map_or(0, |extensions| extensions.len())) as u64
    }
}
