//! What a connection sends from and receives into, and what outlives it.

use super::links::Links;
use super::{ConnectionConfig, SendError};
use crate::message::Message;
use crate::packing::{Outbox, PackingRules};
use crate::pool::Pool;
use crate::proto::control::{Attach, CONTROL_BYTES_MAX, Control, Detach, Flow};
use crate::proto::record::{MessageHead, MessageKind};
use crate::proto::serial::{Arrival, Received};
use crate::proto::{LANES, Parameters, PeerMisbehaved, STREAMS, Stream};
use crate::sabotage::{self, Bug};
use crate::time::Timestamp;
use std::time::Duration;

/// So much may have arrived before the peer is told at once, and not only with the next frame: it keeps all of it.
const UNTOLD_BYTES_MAX: u64 = 1 << 20;

/// The streams of a session, its links, and what it has received: everything that must not depend on a connection.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) outbox: Outbox,
    pub(crate) links: Links,
    pub(crate) received: Received,
    parameters: Parameters,
    /// By lane, the number behind the last message that has been charged to its link before it was taken, as not all of
    /// it has arrived: it may begin once more on another connection.
    begun: [u64; LANES],
    owes_acknowledgements: bool,
    /// By stream, since when something has arrived that was not acknowledged; and how much of all of them.
    untold_since: [Timestamp; STREAMS],
    untold_bytes: u64,
    /// Something of it is told at once.
    tells_at_once: bool,
    /// Records that arrived and were held already.
    pub(crate) duplicates: u64,
}

impl Streams {
    /// Those of a new session, as its first handshake settled. One that does not outlive its connection keeps nothing
    /// that has left, and owes no acknowledgements.
    pub(crate) fn new(
        config: &ConnectionConfig,
        parameters: Parameters,
        is_client: bool,
        outlives_connection: bool,
        may_settle: bool,
    ) -> Self {
        let rules = PackingRules::new(&parameters);
        let mut outbox = Outbox::new(rules, config.send_queue_messages_max, config.send_queue_bytes_max);
        if !outlives_connection {
            outbox.forget_what_left();
        }
        Self {
            outbox,
            owes_acknowledgements: outlives_connection,
            links: Links::new(is_client, parameters.links_max, may_settle),
            received: Received::default(),
            parameters,
            begun: [0; LANES],
            untold_since: [Timestamp::NEVER; STREAMS],
            untold_bytes: 0,
            tells_at_once: false,
            duplicates: 0,
        }
    }

    /// What was settled, as far as it holds for the whole session.
    pub(crate) fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Goes on over another connection, with what its handshake settled.
    ///
    /// # Errors
    /// What of it the session cannot go on with. Nothing is changed then.
    pub(crate) fn resume(
        &mut self,
        parameters: &Parameters,
        send_from: &[u64; STREAMS],
        receive_from: &[u64; STREAMS],
        now: Timestamp,
    ) -> Result<(), PeerMisbehaved> {
        self.check_resume(parameters, send_from)?;
        self.outbox.resume(PackingRules::new(parameters), send_from);
        self.received.told(*receive_from);
        // The connection before may have brought more since the hello was written.
        let since = |stream| if self.received.is_told(stream) { Timestamp::NEVER } else { now };
        self.untold_since = Stream::ALL.map(since);
        self.untold_bytes = 0;
        Ok(())
    }

    /// Whether it could go on so.
    ///
    /// # Errors
    /// As [`Streams::resume`].
    pub(crate) fn check_resume(
        &self,
        parameters: &Parameters,
        send_from: &[u64; STREAMS],
    ) -> Result<(), PeerMisbehaved> {
        if let Some((parameter, value, limit)) = self.parameters.outgrows(parameters) {
            return Err(PeerMisbehaved::SessionParameter { parameter, value, limit });
        }
        self.outbox.check_resume(send_from)
    }

    /// Checks a message against what was settled and takes its link's credit. A message that is refused is as it was.
    pub(crate) fn admit(&mut self, message: &mut Message, pool: &mut Pool) -> Result<(), SendError> {
        let (bytes, limit) = (message.body.len() as u64, self.parameters.message_bytes_max);
        if bytes > limit {
            return Err(SendError::BodyTooLong { bytes, limit });
        }
        let extension_bytes = message.extensions.as_ref().map_or(0, |extensions| extensions.len());
        let (head, limit) =
            (message.head.head_bytes_needed(extension_bytes), self.parameters.head_bytes_max.into());
        if head > limit {
            return Err(SendError::HeadTooLong { bytes: head, limit });
        }
        self.outbox.check_room(message.head.lane)?;
        let link = message.head.link;
        if link.is_none() && message.head.kind != MessageKind::Reply {
            return Err(SendError::NoLink);
        }
        let may_go = link.is_none_or(|link| self.links.has_credit(link));
        if may_go && !self.outbox.takes_as_it_is(&message.body) {
            message.body.join(pool)?;
        }
        Ok(link.map_or(Ok(()), |link| self.links.take_credit(link, message.head.lane, bytes))?)
    }

    /// Has the peer told of the credit that it was not told of yet, and of what became of deliveries.
    ///
    /// What is settled may have been answered by what waits here. So a settlement leaves in the frame of all that waits,
    /// or behind it: an end that dies in between has not settled what it did not answer.
    #[inline]
    pub(super) fn push_due(&mut self, may_send_data: bool) {
        let Self { links, outbox, .. } = self;
        if links.has_due() {
            links.take_due(|link, credit| {
                encoded(&Control::Flow(Flow { link, credit }), |record| outbox.push_control(record));
            });
        }
        if links.has_settlements() {
            let shares_frame = may_send_data && outbox.fits_one_frame();
            self.push_settlements(shares_frame);
        }
    }

    fn push_settlements(&mut self, shares_frame: bool) {
        let Self { links, outbox, .. } = self;
        links.take_settlements(|settle| {
            if shares_frame {
                outbox.push_control(&settle.record());
            } else {
                outbox.push_control_behind_messages(&settle.record());
            }
        });
    }

    pub(crate) fn push_control(&mut self, control: &Control<'_>) {
        encoded(control, |record| self.outbox.push_control(record));
    }

    /// Behind the detach that freed its number, if that still waits.
    pub(crate) fn push_attach(&mut self, attach: &Attach<'_>) {
        encoded(&Control::Attach(attach.clone()), |record| self.outbox.push_control_behind_control(record));
    }

    /// Behind the messages and the settlements of its link. The peer forgets the link with it, and would take them for
    /// a violation.
    pub(crate) fn push_detach(&mut self, detach: &Detach<'_>) {
        self.push_settlements(false);
        encoded(&Control::Detach(*detach), |record| self.outbox.push_control_behind_messages(record));
    }
}

/// Receiving.
impl Streams {
    /// A bulk message begins: it must be the next of its lane, or one that is held already.
    pub(super) fn begin(&mut self, head: &MessageHead) -> Result<(), PeerMisbehaved> {
        if self.received.check(head.lane, head.lane_sequence)? == Arrival::Duplicate || self.has_begun(head) {
            return Ok(());
        }
        if let Some(link) = head.link {
            self.links.received(link, head.total_body_bytes)?;
        }
        self.begun[head.lane.index()] = head.lane_sequence + 1;
        Ok(())
    }

    /// A message is here that cannot be taken yet: its body is not, or it waits behind such a one. It must be held
    /// already (false then), or be the next behind all that are held or wait.
    pub(super) fn arrive(&mut self, head: &MessageHead) -> Result<bool, PeerMisbehaved> {
        let (lane, found) = (head.lane, head.lane_sequence);
        let held = self.received.next(Stream::Lane(lane));
        if found < held {
            return Ok(false);
        }
        let begun = &mut self.begun[lane.index()];
        let expected = held.max(*begun);
        if found > expected {
            return Err(PeerMisbehaved::LaneOutOfSequence { lane, expected, found });
        }
        if found == expected {
            *begun = found + 1;
            if let Some(link) = head.link {
                self.links.received(link, head.total_body_bytes)?;
            }
        }
        Ok(true)
    }

    /// A message is here, whole; false if it was held already, or if nobody is to have it any more.
    #[inline]
    pub(super) fn take(&mut self, message: &mut Message, now: Timestamp) -> Result<bool, PeerMisbehaved> {
        let (lane, bytes) = (message.head.lane, message.head.total_body_bytes);
        if self.received.check(lane, message.head.lane_sequence)? == Arrival::Duplicate {
            self.duplicates += 1;
            return Ok(sabotage::strikes(Bug::TakeTwice));
        }
        let has_begun = self.has_begun(&message.head);
        let is_wanted = self.links.arrived(message, has_begun)?;
        self.take_from(Stream::Lane(lane), bytes, now);
        Ok(is_wanted)
    }

    /// Whether a message was charged to its link when it began, on this connection or on one before.
    #[inline]
    fn has_begun(&self, head: &MessageHead) -> bool {
        let has_begun = self.begun[head.lane.index()] > head.lane_sequence;
        has_begun && !sabotage::strikes(Bug::ChargeTwice)
    }

    /// A control record is here that has this number; false if it was held already.
    pub(super) fn take_control(&mut self, number: u64, bytes: usize, now: Timestamp) -> bool {
        if number < self.received.next(Stream::Control) {
            self.duplicates += 1;
            return false;
        }
        self.take_from(Stream::Control, bytes as u64, now);
        true
    }

    #[inline]
    fn take_from(&mut self, stream: Stream, bytes: u64, now: Timestamp) {
        self.received.take(stream);
        if self.owes_acknowledgements {
            self.untold_bytes += bytes;
            let since = &mut self.untold_since[stream.index()];
            *since = now.min(*since);
        }
    }
}

/// Acknowledging.
impl Streams {
    /// When the peer is to be told of what has arrived, if nothing else is sent to it before.
    #[inline]
    pub(super) fn acknowledgement_due(&self, delay: Duration) -> Timestamp {
        // What is held back waits for no time.
        if !self.owes_acknowledgements || !self.received.has_news() {
            return Timestamp::NEVER;
        }
        self.untold_since.into_iter().fold(Timestamp::NEVER, Timestamp::min) + delay
    }

    /// Whether so much has arrived that the peer is to be told at once.
    #[inline]
    pub(super) fn has_much_untold(&self) -> bool {
        (self.untold_bytes >= UNTOLD_BYTES_MAX || self.tells_at_once) && self.received.has_news()
    }

    /// Has the peer told at once of what has arrived: it holds something open until it is.
    pub(super) fn tell_at_once(&mut self) {
        self.tells_at_once = true;
    }

    /// Frames were packed, each with an acknowledgement.
    #[inline]
    pub(super) fn told(&mut self) {
        if sabotage::strikes(Bug::SkipAcknowledgement) {
            self.received.told(self.received.positions());
        }
        if self.received.is_all_told() {
            self.untold_since = [Timestamp::NEVER; STREAMS];
            (self.untold_bytes, self.tells_at_once) = (0, false);
            return;
        }
        let mut is_all = true;
        for stream in Stream::ALL {
            if self.received.is_told(stream) {
                self.untold_since[stream.index()] = Timestamp::NEVER;
            } else {
                is_all = false;
            }
        }
        if is_all {
            (self.untold_bytes, self.tells_at_once) = (0, false);
        }
    }
}

pub(super) fn encoded<T>(control: &Control<'_>, take: impl FnOnce(&[u8]) -> T) -> Option<T> {
    let mut record = [0; CONTROL_BYTES_MAX];
    // Every control record of version 1 fits; a record that did not would be a bug of `encoded_bytes`.
    control.encode_into(&mut record).ok().map(|bytes| take(&record[..bytes]))
}
