//! What an open connection consists of.

use super::reads::Reads;
use super::streams::{Streams, encoded};
use super::{CloseReason, ConnectionEvent};
use crate::message::Message;
use crate::packing::{Announcement, Inbox, InboxError, Offers, PackingRules, Parsed, Windows};
use crate::pool::{GatherList, Pool, PoolError};
use crate::proto::control::{Control, Detach, DetachCode};
use crate::proto::credit::{CreditLimit, ReceiveWindow, SendWindow};
use crate::proto::frame::FrameHeader;
use crate::proto::handshake::Negotiated;
use crate::proto::hello::Capabilities;
use crate::proto::record::MessageHead;
use crate::proto::serial::{FrameOrder, LaneOrder, Received};
use crate::proto::text::ReasonText;
use crate::proto::{CHUNKS_IN_FLIGHT_MAX, LinkId, OFFERS_MAX, Parameters, PeerMisbehaved, Stream};
use crate::time::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// The parts of a connection between its handshake and its end.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) inbox: Inbox,
    /// What the peer offers for one-sided reads, if that was negotiated.
    pub(super) reads: Option<Box<Reads>>,
    /// What the outbox may use. Of the frames, that is all but the last one that the peer has granted.
    pub(super) windows: Windows,
    /// What the peer has granted of frames. The last one is for a frame that raises the peer's own limit. If it could
    /// be used for anything, both ends could use up all that they have at the same time, and neither could ever tell
    /// the other that it may go on.
    frame_limit: CreditLimit,
    /// Frames and chunks that the peer may send.
    frames: ReceiveWindow,
    chunks: ReceiveWindow,
    frame_order: FrameOrder,
    pub(super) lane_order: LaneOrder,
    /// The number of the next control record that arrives here.
    pub(super) next_control: u64,
    pub(super) parameters: Parameters,
    pub(super) keep_alive: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) owes_keep_alive: bool,
    /// The peer is to be told of what has arrived.
    pub(super) owes_acknowledgement: bool,
    /// The peer cannot go on without more chunk credit, or could not soon.
    owes_chunks: bool,
    pub(super) closed_by_peer: Option<CloseReason>,
    /// The close, the last record that is sent; empty when it has been packed.
    pub(super) close: Option<Vec<u8>>,
}

impl Open {
    /// `exposures_max` is what the wire can do.
    pub(super) fn new(negotiated: &Negotiated, exposures_max: usize) -> Self {
        let parameters = negotiated.parameters;
        let is_one_sided = negotiated.capabilities.contains(Capabilities::ONE_SIDED_READS);
        let frame_slots = u64::from(parameters.frame_slots);
        let [urgent, normal, bulk, control] = negotiated.receive_from;
        Self {
            inbox: Inbox::new(PackingRules::new(&parameters), parameters.limits()),
            reads: is_one_sided.then(|| Box::new(Reads::new(parameters.message_bytes_max))),
            windows: Windows {
                frames: SendWindow::new(frame_slots - 1, u64::from(parameters.control_slots) - 1),
                chunks: SendWindow::new(CHUNKS_IN_FLIGHT_MAX, 0),
                offers: Offers::new(if is_one_sided { exposures_max.min(OFFERS_MAX) } else { 0 }),
            },
            frame_limit: CreditLimit::new(frame_slots),
            frames: ReceiveWindow::new(frame_slots),
            chunks: ReceiveWindow::new(CHUNKS_IN_FLIGHT_MAX),
            frame_order: FrameOrder::default(),
            lane_order: LaneOrder::from([urgent, normal, bulk]),
            next_control: control,
            parameters,
            keep_alive: Duration::from_millis(parameters.keep_alive_ms.into()),
            idle_timeout: Duration::from_millis(parameters.idle_timeout_ms.into()),
            owes_keep_alive: false,
            owes_acknowledgement: false,
            owes_chunks: false,
            closed_by_peer: None,
            close: None,
        }
    }

    /// Chunks of bulk that have arrived.
    pub(super) fn chunks_received(&self) -> u64 {
        self.chunks.received()
    }

    /// Whether a frame of the peer has arrived.
    pub(super) fn has_received(&self) -> bool {
        self.frame_order.next() > 0
    }
}

/// What goes out.
impl Open {
    /// Appends everything that may leave. Only what `is_current`, the newest of its session, sends the streams, and
    /// acknowledges: what it says is not lost with a connection that is about to go, and never ahead of a hello.
    pub(super) fn fill(
        &mut self,
        streams: &mut Streams,
        is_current: bool,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<(), PoolError> {
        let before = gather.len();
        let sends_streams = is_current && self.close.is_none();
        if sends_streams {
            streams.push_due(self.windows.frames.available() > 0);
        }
        let owes_acknowledgement = self.owes_acknowledgement(streams, is_current);
        let owes_announcement = self.owes_announcement(streams, is_current);
        let Streams { outbox, received, .. } = streams;
        let mut nothing;
        let received = if is_current {
            received
        } else {
            nothing = Received::default();
            &mut nothing
        };
        let mut announcement = Announcement {
            frame_limit: self.frames.next_grant(),
            chunk_limit: self.chunks.next_grant(),
            received,
        };
        let mut filled = Ok(());
        if sends_streams {
            filled = outbox.fill(&mut self.windows, &mut announcement, pool, gather).map(drop);
        }
        // The limits count as granted only once such a frame is packed.
        let is_first = gather.len() == before;
        let mut says_more =
            (is_first && owes_announcement) || (owes_acknowledgement && announcement.received.has_news());
        if is_first && says_more {
            self.use_last_frame();
        }
        // One frame says it of one stream.
        while says_more && filled.is_ok() {
            let packed = outbox.fill_keep_alive(&mut self.windows, &mut announcement, pool, gather);
            says_more = packed == Ok(true) && owes_acknowledgement && announcement.received.has_news();
            filled = packed.map(drop);
        }
        if filled.is_ok()
            && let Some(record) = self.close.as_ref().filter(|record| !record.is_empty())
        {
            let packed = outbox.fill_record(record, &mut self.windows, &mut announcement, pool, gather);
            if packed == Ok(true) {
                self.close = Some(Vec::new());
            }
            filled = packed.map(drop);
        }
        // Frames that were packed before the pool ran dry leave, and the peer goes by what they say.
        if gather.len() > before {
            self.frames.grant();
            self.chunks.grant();
            (self.owes_keep_alive, self.owes_chunks) = (false, false);
            if is_current {
                self.owes_acknowledgement = self.owes_acknowledgement && streams.received.has_news();
                streams.told();
            }
        }
        filled
    }

    /// The last frame that the peer has granted may be used by one that raises the peer's own limit.
    fn use_last_frame(&mut self) {
        if self.frames.next_grant() > self.frames.granted() {
            self.windows.frames.grant(self.frame_limit.position());
        }
    }

    pub(super) fn wants_transmit(&self, streams: &Streams, is_current: bool) -> bool {
        match &self.close {
            Some(record) => !record.is_empty(),
            None => {
                (is_current
                    && (streams.outbox.waiting_messages() > 0
                        || streams.outbox.waiting_control() > 0
                        || streams.links.has_due()
                        || streams.links.has_settlements()))
                    || self.owes_announcement(streams, is_current)
            }
        }
    }

    /// Whether something waits for the peer to grant frames, and the limit for which it waits.
    pub(super) fn waits_for_frames(&self, streams: &Streams, is_current: bool) -> (bool, u64) {
        let (outbox, frames) = (&streams.outbox, &self.windows.frames);
        let limit = self.frame_limit.position();
        // As it nearly always is. What control may use is never less than what data may.
        if frames.available() > 0 {
            return (false, limit);
        }
        let data = is_current && outbox.waiting_messages() > 0;
        let has_control = (is_current && outbox.waiting_control() > 0) || self.has_close();
        let control = has_control && frames.available_with_reserve() == 0;
        (data || control, limit)
    }

    /// Whether bulk waits for the peer to grant chunks, and the limit for which it waits.
    pub(super) fn waits_for_chunks(&self, streams: &Streams, is_current: bool) -> (bool, u64) {
        let chunks = &self.windows.chunks;
        (is_current && chunks.available() == 0 && streams.outbox.bulk_is_next(), chunks.limit())
    }

    /// The number of the frame of which a part has arrived and the rest has not.
    pub(super) fn unfinished_frame(&self) -> Option<u64> {
        self.inbox.is_mid_frame().then(|| self.frame_order.next())
    }

    /// Has `close` sent as the last record. What arrives is looked at no more, unless it may hold the peer's close.
    pub(super) fn stop(&mut self, close: &Control<'_>, keeps_inbox: bool) {
        self.close = encoded(close, <[u8]>::to_vec);
        self.windows.offers.end();
        self.reads = None;
        if !keeps_inbox {
            self.inbox = Inbox::new(PackingRules::new(&self.parameters), self.parameters.limits());
        }
    }

    /// A close waits to be packed.
    pub(super) fn has_close(&self) -> bool {
        self.close.as_ref().is_some_and(|record| !record.is_empty())
    }

    fn owes_announcement(&self, streams: &Streams, is_current: bool) -> bool {
        self.owes_keep_alive
            || self.owes_chunks
            || self.frames.due()
            || self.owes_acknowledgement(streams, is_current)
    }

    /// Whether the peer is to be told now of what has arrived, whichever connection of the session has brought it.
    fn owes_acknowledgement(&self, streams: &Streams, is_current: bool) -> bool {
        is_current && (self.owes_acknowledgement || streams.has_much_untold())
    }
}

/// What comes in.
impl Open {
    /// After the end: drops what arrives, and says whether the peer has closed its end, or cannot be understood.
    pub(super) fn finds_close(&mut self, pool: &mut Pool) -> bool {
        let limits = self.parameters.limits();
        let mut arrived = None;
        loop {
            match self.inbox.next(pool, &mut arrived) {
                Ok(Some(Parsed::Control)) => match Control::parse(self.inbox.control_record(), &limits) {
                    Ok(Some(Control::Close(_))) | Err(_) => return true,
                    Ok(_) => {}
                },
                Ok(Some(_)) => {}
                Ok(None) | Err(InboxError::Pool(_)) => return false,
                Err(InboxError::Peer(_)) => return true,
            }
        }
    }

    /// Takes what has arrived apart until there is a message or an event, or nothing more. True with a message, which is
    /// then in `arrived`.
    pub(super) fn poll(
        &mut self,
        streams: &mut Streams,
        now: Timestamp,
        pool: &mut Pool,
        events: &mut VecDeque<ConnectionEvent>,
        arrived: &mut Option<Message>,
    ) -> Result<bool, InboxError> {
        while events.is_empty() && self.closed_by_peer.is_none() {
            if self.reads.is_some() {
                if let Some(message) = self.unpark(streams, now)? {
                    *arrived = Some(message);
                    return Ok(true);
                }
                if self.release_detach(streams, now, events)? {
                    continue;
                }
                if self.is_full() || self.is_abandoned(pool) {
                    return Ok(false);
                }
            }
            // Matched where it is: `?` would move a whole header once more for each piece.
            match self.inbox.next(pool, arrived) {
                Err(error) => return Err(error),
                Ok(None) => return Ok(false),
                Ok(Some(Parsed::Frame(header))) => self.begin_frame(streams, &header)?,
                Ok(Some(Parsed::FrameEnd)) => self.frames.release(1),
                Ok(Some(Parsed::Control)) => self.handle_control(streams, now, events)?,
                Ok(Some(Parsed::Part { begins, missing_bytes })) => {
                    if let Some(head) = begins.and_then(|lane| self.inbox.unfinished_head(lane)) {
                        self.begin_bulk(streams, head)?;
                    }
                    self.receive_chunk(missing_bytes)?;
                }
                Ok(Some(Parsed::Offer)) => {
                    if let Some(message) = arrived.take() {
                        self.take_offer(streams, message)?;
                    }
                }
                Ok(Some(Parsed::Message { is_bulk, .. })) => {
                    if is_bulk {
                        self.receive_chunk(0)?;
                    }
                    if self.takes(streams, now, arrived)? {
                        return Ok(true);
                    }
                    *arrived = None;
                }
            }
        }
        Ok(false)
    }

    /// Whether a message that has arrived is the next to be given, as it is. If not, it was held already, or it waits
    /// for others.
    #[inline]
    fn takes(
        &mut self,
        streams: &mut Streams,
        now: Timestamp,
        arrived: &mut Option<Message>,
    ) -> Result<bool, PeerMisbehaved> {
        let Some(message) = arrived else { return Ok(false) };
        self.lane_order.accept(message.head.lane, message.head.lane_sequence)?;
        if self.parks(message) {
            return arrived.take().map_or(Ok(()), |message| self.park(streams, message)).map(|()| false);
        }
        streams.take(message, now)
    }

    fn begin_frame(&mut self, streams: &mut Streams, header: &FrameHeader) -> Result<(), PeerMisbehaved> {
        self.frame_order.accept(header.frame_number_low)?;
        self.frames.receive(1).map_err(|overrun| overrun.of_frames())?;
        if self.frame_limit.raise_short(header.frame_limit_low) {
            self.windows.frames.grant(self.frame_limit.position() - 1);
        }
        self.windows.chunks.grant_short(header.chunk_limit_low);
        streams.outbox.acknowledge(header.ack_stream, header.ack_sequence)
    }

    /// A message begins whose body comes in chunks.
    fn begin_bulk(&self, streams: &mut Streams, head: &MessageHead) -> Result<(), PeerMisbehaved> {
        match &self.reads {
            Some(reads) if reads.parks(head.lane) => streams.arrive(head).map(drop),
            _ => streams.begin(head),
        }
    }

    /// Counts a chunk. The peer is told of its credit at once when it needs more of it than it has.
    fn receive_chunk(&mut self, missing_bytes: u64) -> Result<(), PeerMisbehaved> {
        self.chunks.receive(1).map_err(|overrun| overrun.of_chunks())?;
        self.chunks.release(1);
        let left = self.chunks.granted() - self.chunks.received();
        let needed = missing_bytes.div_ceil(self.parameters.chunk_bytes_max.into());
        self.owes_chunks |= left == 0 || needed > left;
        Ok(())
    }

    fn handle_control(
        &mut self,
        streams: &mut Streams,
        now: Timestamp,
        events: &mut VecDeque<ConnectionEvent>,
    ) -> Result<(), PeerMisbehaved> {
        let limits = self.parameters.limits();
        let control = Control::parse(self.inbox.control_record(), &limits)?;
        if let Some(Control::Close(close)) = control {
            let text = close.text.as_str().to_owned();
            self.closed_by_peer = Some(CloseReason::Peer { code: close.code, text });
            return Ok(());
        }
        if let (Some(Control::Detach(detach)), Some(reads)) = (&control, &mut self.reads)
            && reads.hold_detach(detach.link, self.inbox.control_record())
        {
            return Ok(());
        }
        let number = self.next_control;
        self.next_control += 1;
        let is_news = streams.take_control(number, self.inbox.control_record().len(), now);
        match control.filter(|_| is_news) {
            Some(control) => streams.handle_control(&control, events),
            // Held already, or not understood and not needed.
            None => Ok(()),
        }
    }
}

impl Streams {
    pub(super) fn handle_control(
        &mut self,
        control: &Control<'_>,
        events: &mut VecDeque<ConnectionEvent>,
    ) -> Result<(), PeerMisbehaved> {
        match control {
            Control::Attach(attach) => match self.links.offered(attach)? {
                Some(request) => events.push_back(ConnectionEvent::AttachRequested(Box::new(request))),
                None => self.refuse_past_limit(attach.link),
            },
            Control::Attached(attached) => {
                if self.links.attached(attached.link, attached.credit)? {
                    events.push_back(ConnectionEvent::Attached { link: attached.link });
                }
            }
            Control::Detach(detach) => {
                let (link, code, text) = (detach.link, detach.code, detach.text.as_str().to_owned());
                self.detached(link, code, text, events)?
            }
            Control::Flow(flow) => {
                if self.links.granted(flow.link, flow.credit)? {
                    events.push_back(ConnectionEvent::Writable { link: flow.link });
                }
            }
            Control::Settle(settle) => events.push_back(self.links.settled(settle)?),
            Control::Leave(leave) => {
                let within = Duration::from_millis(leave.within_ms.into());
                events.push_back(ConnectionEvent::Leaving { within, text: leave.text.as_str().to_owned() });
            }
            // It belongs to its connection, which has handled it.
            Control::Close(_) => {}
        }
        Ok(())
    }

    fn detached(
        &mut self,
        link: LinkId,
        code: DetachCode,
        text: String,
        events: &mut VecDeque<ConnectionEvent>,
    ) -> Result<(), PeerMisbehaved> {
        let Some(detached) = self.links.detached(link)? else { return Ok(()) };
        if detached.wants_answer {
            self.push_detach(&Detach { link, code: DetachCode::Normal, text: ReasonText::of("") });
        }
        if detached.is_news {
            events.push_back(ConnectionEvent::Detached { link, role: detached.role, code, text });
        }
        Ok(())
    }

    fn refuse_past_limit(&mut self, link: LinkId) {
        let links_max = self.parameters().links_max;
        let text = format!("link {link} is past the {links_max} links that were settled (links_max)");
        let detach = Detach { link, code: DetachCode::LinkLimit, text: ReasonText::of(&text) };
        self.push_control(&Control::Detach(detach));
    }
}

const _: () = assert!(Stream::Control.index() == 3);
