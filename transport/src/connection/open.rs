//! What an open connection consists of.

use super::links::Links;
use super::{CloseReason, ConnectionConfig, ConnectionEvent, SendError};
use crate::message::Message;
use crate::packing::{Announcement, Inbox, InboxError, Outbox, PackingRules, Parsed, Windows};
use crate::pool::{GatherList, Pool, PoolError};
use crate::proto::control::{Attach, CONTROL_BYTES_MAX, Control, Detach, DetachCode, Flow};
use crate::proto::credit::{CreditLimit, ReceiveWindow, SendWindow};
use crate::proto::frame::FrameHeader;
use crate::proto::handshake::Negotiated;
use crate::proto::hello::Capabilities;
use crate::proto::record::{MessageHead, MessageKind};
use crate::proto::serial::{FrameOrder, LaneOrder};
use crate::proto::text::ReasonText;
use crate::proto::{CHUNKS_IN_FLIGHT_MAX, LANES, Lane, LinkId, Parameters, PeerMisbehaved};
use std::collections::VecDeque;
use std::time::Duration;

/// The parts of a connection between its handshake and its end.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
    pub(super) links: Links,
    /// What the outbox may use. Of the frames, that is all but the last one that the peer has granted.
    windows: Windows,
    /// What the peer has granted of frames. The last one is for a frame that raises the peer's own limit. If it could
    /// be used for anything, both ends could use up all that they have at the same time, and neither could ever tell
    /// the other that it may go on.
    frame_limit: CreditLimit,
    /// Frames and chunks that the peer may send.
    frames: ReceiveWindow,
    chunks: ReceiveWindow,
    frame_order: FrameOrder,
    lane_order: LaneOrder,
    /// By lane, what the peer has acknowledged.
    acknowledged: [u64; LANES],
    parameters: Parameters,
    pub(super) keep_alive: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) owes_keep_alive: bool,
    /// The peer cannot go on without more chunk credit, or could not soon.
    owes_chunks: bool,
    pub(super) closed_by_peer: Option<CloseReason>,
    /// The close is the last record that is sent.
    is_closing: bool,
}

impl Open {
    pub(super) fn new(config: &ConnectionConfig, negotiated: &Negotiated, is_client: bool) -> Self {
        let parameters = negotiated.parameters;
        let rules = PackingRules::new(&parameters);
        let frame_slots = u64::from(parameters.frame_slots);
        Self {
            inbox: Inbox::new(rules, parameters.limits()),
            outbox: Outbox::new(rules, config.send_queue_messages_max, config.send_queue_bytes_max),
            links: Links::new(
                is_client,
                parameters.links_max,
                negotiated.capabilities.contains(Capabilities::SETTLEMENT),
            ),
            windows: Windows {
                frames: SendWindow::new(frame_slots - 1, u64::from(parameters.control_slots) - 1),
                chunks: SendWindow::new(CHUNKS_IN_FLIGHT_MAX, 0),
            },
            frame_limit: CreditLimit::new(frame_slots),
            frames: ReceiveWindow::new(frame_slots),
            chunks: ReceiveWindow::new(CHUNKS_IN_FLIGHT_MAX),
            frame_order: FrameOrder::default(),
            lane_order: LaneOrder::resuming(negotiated.receive_from),
            acknowledged: negotiated.send_from,
            parameters,
            keep_alive: Duration::from_millis(parameters.keep_alive_ms.into()),
            idle_timeout: Duration::from_millis(parameters.idle_timeout_ms.into()),
            owes_keep_alive: false,
            owes_chunks: false,
            closed_by_peer: None,
            is_closing: false,
        }
    }

    /// Chunks of bulk that have arrived.
    pub(super) fn chunks_received(&self) -> u64 {
        self.chunks.received()
    }

    /// Checks a message against what was settled and takes its link's credit. A message that is refused is as it was.
    pub(super) fn admit(&mut self, message: &mut Message, pool: &mut Pool) -> Result<(), SendError> {
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

    /// Appends everything that may leave.
    pub(super) fn fill(&mut self, pool: &mut Pool, gather: &mut GatherList) -> Result<(), PoolError> {
        let outbox = &mut self.outbox;
        if !self.is_closing {
            self.links.take_due(|link, credit| push_control(outbox, &Control::Flow(Flow { link, credit })));
            self.links.take_settlements(|settle| outbox.push_control(&settle.record()));
        }
        let announcement = self.announcement();
        let before = gather.len();
        let mut filled = self.outbox.fill(&mut self.windows, &announcement, pool, gather).map(drop);
        if filled.is_ok() && gather.len() == before && self.owes_announcement() {
            filled = self.fill_announcement(&announcement, pool, gather);
        }
        // Frames that were packed before the pool ran dry leave, and the peer goes by what they say.
        if gather.len() > before {
            self.frames.grant();
            self.chunks.grant();
            (self.owes_keep_alive, self.owes_chunks) = (false, false);
        }
        filled
    }

    fn fill_announcement(
        &mut self,
        announcement: &Announcement,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<(), PoolError> {
        if announcement.frame_limit > self.frames.granted() {
            self.windows.frames.grant(self.frame_limit.position());
        }
        self.outbox.fill_keep_alive(&mut self.windows, announcement, pool, gather).map(drop)
    }

    pub(super) fn wants_transmit(&self) -> bool {
        self.outbox.waiting_messages() > 0
            || self.outbox.waiting_control() > 0
            || (!self.is_closing
                && (self.links.has_due() || self.links.has_settlements() || self.owes_announcement()))
    }

    /// Whether something waits for the peer to grant frames, and the limit for which it waits.
    pub(super) fn waits_for_frames(&self) -> (bool, u64) {
        let (outbox, frames) = (&self.outbox, &self.windows.frames);
        let data = outbox.waiting_messages() > 0 && frames.available() == 0;
        let control = outbox.waiting_control() > 0 && frames.available_with_reserve() == 0;
        (data || control, self.frame_limit.position())
    }

    /// Whether bulk waits for the peer to grant chunks, and the limit for which it waits.
    pub(super) fn waits_for_chunks(&self) -> (bool, u64) {
        let chunks = &self.windows.chunks;
        (chunks.available() == 0 && self.outbox.bulk_is_next(), chunks.limit())
    }

    /// The number of the frame of which a part has arrived and the rest has not.
    pub(super) fn unfinished_frame(&self) -> Option<u64> {
        self.inbox.is_mid_frame().then(|| self.frame_order.next())
    }

    /// Drops what waits, and has `close` sent as the last record. What arrives is looked at no more, unless it may
    /// hold the peer's close.
    pub(super) fn stop(&mut self, close: &Control<'_>, keeps_inbox: bool) {
        self.outbox.clear();
        self.push_control(close);
        self.is_closing = true;
        if !keeps_inbox {
            self.inbox = Inbox::new(PackingRules::new(&self.parameters), self.parameters.limits());
        }
    }

    /// After the end: drops what arrives, and says whether the peer has closed its end, or cannot be understood.
    pub(super) fn finds_close(&mut self, pool: &mut Pool) -> bool {
        let limits = self.parameters.limits();
        loop {
            match self.inbox.next(pool) {
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

    pub(super) fn push_control(&mut self, control: &Control<'_>) {
        push_control(&mut self.outbox, control);
    }

    /// Behind the detach that freed its number, if that still waits.
    pub(super) fn push_attach(&mut self, attach: &Attach<'_>) {
        encoded(&Control::Attach(attach.clone()), |record| self.outbox.push_control_behind_control(record));
    }

    /// Behind the messages and the settlements of its link. The peer forgets the link with it, and would take them for
    /// a violation.
    pub(super) fn push_detach(&mut self, detach: &Detach<'_>) {
        let outbox = &mut self.outbox;
        self.links.take_settlements(|settle| outbox.push_control(&settle.record()));
        encoded(&Control::Detach(*detach), |record| self.outbox.push_control_behind_messages(record));
    }

    fn owes_announcement(&self) -> bool {
        self.owes_keep_alive || self.owes_chunks || self.frames.due()
    }

    /// What the next frames say. The limits count as granted only once such a frame is packed.
    fn announcement(&self) -> Announcement {
        Announcement {
            frame_limit: self.frames.next_grant(),
            chunk_limit: self.chunks.next_grant(),
            acknowledged: Lane::ALL.map(|lane| self.lane_order.next(lane)),
        }
    }

    /// Takes what has arrived apart until there is a message or an event, or nothing more.
    pub(super) fn poll(
        &mut self,
        pool: &mut Pool,
        events: &mut VecDeque<ConnectionEvent>,
    ) -> Result<Option<Message>, InboxError> {
        while events.is_empty() && self.closed_by_peer.is_none() {
            // Matched where it is: `?` would move the whole message once more.
            match self.inbox.next(pool) {
                Err(error) => return Err(error),
                Ok(None) => return Ok(None),
                Ok(Some(Parsed::Frame(header))) => self.begin_frame(&header)?,
                Ok(Some(Parsed::FrameEnd)) => self.frames.release(1),
                Ok(Some(Parsed::Control)) => self.handle_control(events)?,
                Ok(Some(Parsed::Part { begins, missing_bytes })) => {
                    if let Some(head) = &begins {
                        self.check_order(head)?;
                        self.count_on_link(head)?;
                    }
                    self.receive_chunk(missing_bytes)?;
                }
                Ok(Some(Parsed::Message { mut message, is_bulk, had_begun })) => {
                    if is_bulk {
                        self.receive_chunk(0)?;
                    }
                    let is_wanted = self.links.arrived(&mut message, had_begun)?;
                    self.lane_order.accept(message.head.lane, message.head.lane_sequence)?;
                    if is_wanted {
                        return Ok(Some(message));
                    }
                }
            }
        }
        Ok(None)
    }

    fn begin_frame(&mut self, header: &FrameHeader) -> Result<(), PeerMisbehaved> {
        self.frame_order.accept(header.frame_number_low)?;
        self.frames.receive(1).map_err(|overrun| overrun.of_frames())?;
        if self.frame_limit.raise_short(header.frame_limit_low) {
            self.windows.frames.grant(self.frame_limit.position() - 1);
        }
        self.windows.chunks.grant_short(header.chunk_limit_low);
        let (lane, found) = (header.ack_lane, header.ack_sequence);
        let limit = self.outbox.next_sequence(lane);
        if found > limit {
            return Err(PeerMisbehaved::AcknowledgedUnsent { lane, found, limit });
        }
        let acknowledged = &mut self.acknowledged[lane.index()];
        *acknowledged = found.max(*acknowledged);
        Ok(())
    }

    /// A message that begins with its first chunk is not taken over yet, but must be the next one of its lane.
    fn check_order(&self, head: &MessageHead) -> Result<(), PeerMisbehaved> {
        let (lane, found, expected) = (head.lane, head.lane_sequence, self.lane_order.next(head.lane));
        if found != expected {
            return Err(PeerMisbehaved::LaneOutOfSequence { lane, expected, found });
        }
        Ok(())
    }

    fn count_on_link(&mut self, head: &MessageHead) -> Result<(), PeerMisbehaved> {
        head.link.map_or(Ok(()), |link| self.links.received(link, head.total_body_bytes).map(drop))
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

    fn handle_control(&mut self, events: &mut VecDeque<ConnectionEvent>) -> Result<(), PeerMisbehaved> {
        let limits = self.parameters.limits();
        let Some(control) = Control::parse(self.inbox.control_record(), &limits)? else { return Ok(()) };
        match control {
            Control::Attach(attach) => match self.links.offered(&attach)? {
                Some(request) => events.push_back(ConnectionEvent::AttachRequested(Box::new(request))),
                None => refuse(&mut self.outbox, attach.link, self.parameters.links_max),
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
            Control::Close(close) => {
                let text = close.text.as_str().to_owned();
                self.closed_by_peer = Some(CloseReason::Peer { code: close.code, text });
            }
            Control::Settle(settle) => events.push_back(self.links.settled(&settle)?),
            Control::Leave(leave) => {
                let within = Duration::from_millis(leave.within_ms.into());
                events.push_back(ConnectionEvent::Leaving { within, text: leave.text.as_str().to_owned() });
            }
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
}

fn refuse(outbox: &mut Outbox, link: LinkId, links_max: u32) {
    let text = format!("link {link} is past the {links_max} links that were settled (links_max)");
    let detach = Detach { link, code: DetachCode::LinkLimit, text: ReasonText::of(&text) };
    push_control(outbox, &Control::Detach(detach));
}

fn push_control(outbox: &mut Outbox, control: &Control<'_>) {
    encoded(control, |record| outbox.push_control(record));
}

fn encoded(control: &Control<'_>, take: impl FnOnce(&[u8])) {
    let mut record = [0; CONTROL_BYTES_MAX];
    // Every control record of version 1 fits; a record that did not would be a bug of `encoded_bytes`.
    if let Ok(bytes) = control.encode_into(&mut record) {
        take(&record[..bytes]);
    }
}
