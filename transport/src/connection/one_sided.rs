//! One-sided reads of a connection: what it asks of its wire, and what it is told.

use super::open::Open;
use super::state::{Connection, Phase};
use super::streams::Streams;
use super::{CloseReason, ConnectionEvent, ReadFailure};
use crate::message::Message;
use crate::packing::Descriptor;
use crate::pool::{Body, Pool};
use crate::proto::control::{CloseCode, Control};
use crate::proto::{Lane, PeerMisbehaved};
use crate::time::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// What a wire is to do for a connection. Exposures and reads are named by numbers that the connection uses once.
#[derive(Debug)]
#[non_exhaustive]
pub enum OneSidedTask<'a> {
    /// Expose a body; the answer is what the peer has to be told, or that it cannot be exposed.
    Expose {
        /// Its number.
        exposure: u64,
        /// The body.
        body: &'a Body,
    },
    /// End an exposure.
    Withdraw {
        /// Its number.
        exposure: u64,
    },
    /// Read a body that the peer has exposed; the outcome follows when it is there.
    Read {
        /// Its number.
        read: u64,
        /// Where, in the words of the peer's wire.
        descriptor: Descriptor,
        /// So many bytes.
        bytes: u64,
    },
}

/// What the wire of a connection did.
impl Connection {
    /// Whether [`Connection::poll_one_sided`] would find something.
    #[inline]
    pub(crate) fn wants_one_sided(&self, streams: Option<&Streams>, is_current: bool) -> bool {
        match (self.open_part(), streams) {
            (Some(open), Some(streams)) if open.has_one_sided() => open.wants_one_sided(streams, is_current),
            _ => false,
        }
    }

    /// The next thing that its wire is to do.
    pub(crate) fn poll_one_sided<'a>(
        &mut self,
        streams: Option<&'a Streams>,
        is_current: bool,
        now: Timestamp,
    ) -> Option<OneSidedTask<'a>> {
        let Phase::Open(open) = &mut self.phase else { return None };
        let task = open.poll_one_sided(streams?, is_current, now);
        self.times.note_offers(open.offers_outstanding() > 0, open.offers_taken(), now);
        task
    }

    /// A body that was to be exposed is, or cannot be.
    pub(crate) fn exposed(&mut self, exposure: u64, descriptor: Option<Descriptor>) {
        if let Some(open) = self.open_part_mut() {
            open.windows.offers.answer(exposure, descriptor);
        }
    }

    /// A read could not be started for now.
    pub(crate) fn postpone_read(&mut self, read: u64) {
        if let Some(reads) = self.open_part_mut().and_then(|open| open.reads.as_mut()) {
            reads.postpone(read);
        }
    }

    /// A read has ended. One that failed ends the connection.
    pub(crate) fn handle_read(&mut self, read: u64, outcome: Result<Body, String>, now: Timestamp) {
        let Some(reads) = self.open_part_mut().and_then(|open| open.reads.as_mut()) else { return };
        let Some((lane, expected)) = reads.reading(read) else { return };
        let failure = match outcome {
            Ok(body) if body.len() as u64 == expected => return reads.done(read, body),
            Ok(body) => format!("{} bytes were read of {expected}", body.len()),
            Err(error) => error,
        };
        self.abort(CloseReason::ReadFailed { lane, failure: ReadFailure::Failed(failure) }, now);
    }

    /// There is a newer connection in place of this one, which reads from now on.
    pub(crate) fn supersede(&mut self) {
        if let Some(reads) = self.open_part_mut().and_then(|open| open.reads.as_mut()) {
            reads.supersede();
        }
    }

    /// Offers nothing, whatever was settled: what is sent on it is not kept.
    pub(crate) fn forbid_offers(&mut self) {
        if let Some(open) = self.open_part_mut() {
            open.windows.offers.end();
        }
    }
}

/// What goes out.
impl Open {
    /// Whether there can be one-sided reads on this connection, or exposures are left to be withdrawn.
    #[inline]
    pub(super) fn has_one_sided(&self) -> bool {
        self.reads.is_some() || self.windows.offers.wants_wire()
    }

    fn wants_one_sided(&self, streams: &Streams, is_current: bool) -> bool {
        let offers = &self.windows.offers;
        offers.wants_wire()
            || streams.outbox.wants_review(offers, is_current && self.close.is_none())
            || self.reads.as_ref().is_some_and(|reads| reads.wants_wire())
    }

    fn poll_one_sided<'a>(
        &mut self,
        streams: &'a Streams,
        is_current: bool,
        now: Timestamp,
    ) -> Option<OneSidedTask<'a>> {
        let offers = &mut self.windows.offers;
        let may_offer = is_current && self.close.is_none();
        if streams.outbox.wants_review(offers, may_offer) {
            streams.outbox.review_offers(offers, may_offer);
        }
        if let Some(exposure) = offers.withdraw() {
            return Some(OneSidedTask::Withdraw { exposure });
        }
        while let Some((exposure, lane, sequence)) = offers.ask() {
            match streams.outbox.message(lane, sequence) {
                Some(message) => return Some(OneSidedTask::Expose { exposure, body: &message.body }),
                None => offers.answer(exposure, None),
            }
        }
        let (read, descriptor, bytes) = self.reads.as_mut()?.start(now)?;
        Some(OneSidedTask::Read { read, descriptor, bytes })
    }

    /// The read that has been in flight for longest: its lane, and since when.
    pub(super) fn oldest_read(&self) -> Option<(Lane, Timestamp)> {
        self.reads.as_ref()?.oldest()
    }

    /// The lane of a read that has been in flight for `timeout`.
    pub(super) fn overdue_read(&self, timeout: Duration, now: Timestamp) -> Option<Lane> {
        self.oldest_read().filter(|&(_, since)| now >= since + timeout).map(|(lane, _)| lane)
    }

    /// Messages that left as offers and are not acknowledged.
    pub(super) fn offers_outstanding(&self) -> usize {
        self.windows.offers.outstanding()
    }

    /// Offers that the peer has acknowledged.
    pub(super) fn offers_taken(&self) -> u64 {
        self.windows.offers.taken()
    }
}

/// What comes in.
impl Open {
    /// A message whose body is offered. It is read unless it is held already.
    #[inline(never)] // rare, and no business of the others
    pub(super) fn take_offer(
        &mut self,
        streams: &mut Streams,
        message: Message,
    ) -> Result<(), PeerMisbehaved> {
        let (lane, sequence) = (message.head.lane, message.head.lane_sequence);
        let Some(reads) = &mut self.reads else { return Err(PeerMisbehaved::OfferNotNegotiated { lane }) };
        self.lane_order.accept(lane, sequence)?;
        if streams.arrive(&message.head)? {
            reads.offer(message, self.inbox.descriptor().clone())
        } else {
            streams.duplicates += 1;
            Ok(())
        }
    }

    /// Whether a message has to wait behind one whose body is being read.
    #[inline]
    pub(super) fn parks(&self, message: &Message) -> bool {
        self.reads.as_ref().is_some_and(|reads| reads.parks(message.head.lane))
    }

    /// Has a message wait, unless it is held already.
    #[inline(never)] // see `take_offer`
    pub(super) fn park(&mut self, streams: &mut Streams, message: Message) -> Result<(), PeerMisbehaved> {
        match &mut self.reads {
            Some(reads) if streams.arrive(&message.head)? => reads.park(message),
            _ => streams.duplicates += 1,
        }
        Ok(())
    }

    /// The next message that had to wait and need not any more.
    #[inline(never)] // see `take_offer`
    pub(super) fn unpark(
        &mut self,
        streams: &mut Streams,
        now: Timestamp,
    ) -> Result<Option<Message>, PeerMisbehaved> {
        while let Some(ready) = self.reads.as_mut().and_then(|reads| reads.next_ready()) {
            let mut message = ready.message;
            let is_wanted = streams.take(&mut message, now)?;
            if ready.was_offered {
                streams.tell_at_once();
            }
            if is_wanted {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// Takes the end of a link that had to wait for its messages, and need not any more; false if there is none.
    #[inline(never)] // see `take_offer`
    pub(super) fn release_detach(
        &mut self,
        streams: &mut Streams,
        now: Timestamp,
        events: &mut VecDeque<ConnectionEvent>,
    ) -> Result<bool, PeerMisbehaved> {
        let Some(record) = self.reads.as_mut().and_then(|reads| reads.release_detach()) else {
            return Ok(false);
        };
        let number = self.next_control;
        self.next_control += 1;
        // It was parsed when it came.
        if let Some(control) = Control::parse(&record, &self.parameters.limits())?
            && streams.take_control(number, record.len(), now)
        {
            streams.handle_control(&control, events)?;
        }
        Ok(true)
    }

    /// Whether what waits was left to a newer connection. Nothing that comes behind it is taken then; but that the peer
    /// closes is noticed.
    pub(super) fn is_abandoned(&mut self, pool: &mut Pool) -> bool {
        let is_abandoned = self.reads.as_ref().is_some_and(|reads| reads.is_abandoned());
        if is_abandoned && self.finds_close(pool) {
            let text = "a newer connection has taken its place".to_owned();
            self.closed_by_peer = Some(CloseReason::Peer { code: CloseCode::SessionTaken, text });
        }
        is_abandoned
    }

    /// Whether nothing that has arrived is to be looked at until a read is done.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.reads.as_ref().is_some_and(|reads| reads.is_full())
    }
}
