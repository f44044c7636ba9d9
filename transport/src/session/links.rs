//! What an application does with a session: messages and links.

use super::Session;
use crate::connection::{Deliveries, LinkError, LinkRoom, SendError};
use crate::message::Message;
use crate::pool::Pool;
use crate::proto::LinkId;
use crate::proto::control::{
    Address, Attach, Attached, Control, Detach, DetachCode, Leave, LinkCredit, LinkRole, Outcome,
};
use crate::proto::text::ReasonText;
use std::time::Duration;

impl Session {
    /// Queues a message on its link, also while the session is interrupted.
    ///
    /// # Errors
    /// [`SendError`], with the message as it was.
    #[allow(clippy::result_large_err)] // the message goes back to its owner, whole
    #[inline]
    pub fn send(&mut self, mut message: Message, pool: &mut Pool) -> Result<(), (SendError, Message)> {
        let Some(streams) = self.running() else { return Err((SendError::NotOpen, message)) };
        match streams.admit(&mut message, pool) {
            Ok(()) => {
                streams.outbox.push_checked(message);
                Ok(())
            }
            Err(error) => Err((error, message)),
        }
    }

    /// Asks for a link. An `Attached` or a `Detached` event follows. A consumer grants
    /// `room` from the start.
    ///
    /// # Errors
    /// [`SendError::NotOpen`], or [`SendError::Link`] when there are too many.
    pub fn attach(
        &mut self,
        role: LinkRole,
        address: Address<'_>,
        room: LinkRoom,
    ) -> Result<LinkId, SendError> {
        let streams = self.running().ok_or(SendError::NotOpen)?;
        let credit = match role {
            LinkRole::Producer => LinkCredit::default(),
            LinkRole::Consumer | LinkRole::SettlingConsumer => {
                LinkCredit { message_limit: room.messages, byte_limit: room.bytes }
            }
        };
        let link = streams.links.request(role, credit)?;
        streams.push_attach(&Attach { link, role, address, credit });
        Ok(link)
    }

    /// Grants a link that the peer asked for; a producer may send `room` at once.
    ///
    /// # Errors
    /// [`LinkError::NotAttached`] if it does not wait for an answer.
    pub fn accept_link(&mut self, link: LinkId, room: LinkRoom) -> Result<(), LinkError> {
        let streams = self.running().ok_or(LinkError::NotAttached(link))?;
        let credit = LinkCredit { message_limit: room.messages, byte_limit: room.bytes };
        let credit = streams.links.accept(link, credit)?;
        streams.push_control(&Control::Attached(Attached { link, credit }));
        Ok(())
    }

    /// Refuses a link that the peer asked for.
    ///
    /// # Errors
    /// [`LinkError::NotAttached`] if it does not wait for an answer.
    pub fn refuse_link(&mut self, link: LinkId, code: DetachCode, text: &str) -> Result<(), LinkError> {
        let streams = self.running().ok_or(LinkError::NotAttached(link))?;
        streams.links.refuse(link)?;
        streams.push_control(&Control::Detach(Detach { link, code, text: ReasonText::of(text) }));
        Ok(())
    }

    /// Ends a link. What was queued on it before is still sent, and what the peer sent on it before it heard of that
    /// still arrives. Unknown links are ignored.
    pub fn detach_link(&mut self, link: LinkId, code: DetachCode, text: &str) {
        if let Some(streams) = self.running()
            && streams.links.detach(link)
        {
            streams.push_detach(&Detach { link, code, text: ReasonText::of(text) });
        }
    }

    /// Says how much more a receiving link can take from now on, in place of what was said before. The peer is told as
    /// soon as it has no more than half of that left, now or later; what it was told is never taken back.
    ///
    /// # Errors
    /// [`LinkError::NotAttached`] if it does not receive.
    pub fn set_link_room(&mut self, link: LinkId, room: LinkRoom) -> Result<(), LinkError> {
        let streams = self.running().ok_or(LinkError::NotAttached(link))?;
        streams.links.set_room(link, room)
    }

    /// Whether the peer is to be told of room that it was not told of.
    #[inline]
    pub fn has_due_grants(&self) -> bool {
        self.streams.as_ref().is_some_and(|streams| streams.links.has_due())
    }

    /// Whether a message could be sent on a link now, and leave. If not, a `Writable` event follows when it can.
    pub fn is_writable(&mut self, link: LinkId) -> bool {
        let is_interrupted = self.is_interrupted();
        let Some(streams) = self.running() else { return false };
        let writable = !is_interrupted && streams.links.has_credit(link);
        if !writable {
            streams.links.note_short(link);
        }
        writable
    }
}

/// Settlement, and leaving.
impl Session {
    /// Says what became of deliveries on a link that this end attached as a consumer that settles. It leaves with what
    /// leaves next. Saying it twice does no harm: the first time counts.
    ///
    /// # Errors
    /// [`LinkError::NotSettled`] and [`LinkError::NotDelivered`].
    pub fn settle(&mut self, deliveries: &Deliveries, outcome: Outcome) -> Result<(), LinkError> {
        let streams = self.running().ok_or(LinkError::NotSettled(deliveries.link))?;
        streams.links.settle(deliveries, outcome)
    }

    /// Asks the peer to go elsewhere: this end will be there for so long. Nothing else changes.
    pub fn ask_to_leave(&mut self, within: Duration, text: &str) {
        let within_ms = within.as_millis().min(u32::MAX.into()) as u32;
        if let Some(streams) = self.running() {
            streams.push_control(&Control::Leave(Leave { within_ms, text: ReasonText::of(text) }));
        }
    }
}
