//! The state machine of one connection: its phases, its timeouts, and how it ends.

use super::greeting::{Greeted, Greeting};
use super::links::{LinkError, LinkRoom};
use super::open::Open;
use super::times::Times;
use super::{CloseReason, ConnectionConfig, ConnectionEvent, Identity};
use crate::message::Message;
use crate::packing::{InboxError, OutboxFull, PackingStats};
use crate::pool::{GatherList, Pool, PoolError, Segment};
use crate::proto::control::{
    Address, Attach, Attached, Close, CloseCode, Control, Detach, DetachCode, LinkCredit, LinkRole,
    RefusalCode,
};
use crate::proto::handshake::{AwaitClientHello, AwaitServerHello, LocalEnd, LocalFault, Negotiated};
use crate::proto::hello::{Capabilities, SessionTerms};
use crate::proto::text::ReasonText;
use crate::proto::{LinkId, Parameters};
use crate::time::Timestamp;
use std::collections::VecDeque;
use thiserror::Error;

/// The most bytes of control records that may wait for the peer. An honest one has some hundred links at most that are
/// answered at a time.
const CONTROL_BYTES_WAITING_MAX: usize = 1 << 20;

/// One end of a connection, from the first byte of its hello to its end.
///
/// It never allocates on the way of a message once its queues have grown to what the load needs.
#[derive(Debug)]
pub struct Connection {
    config: ConnectionConfig,
    phase: Phase,
    /// A hello, or a refusal, that is to be sent.
    hello: Option<Vec<u8>>,
    events: VecDeque<ConnectionEvent>,
    ending: Ending,
    /// The channel has ended, for this reason; what arrived before is still to be looked at.
    channel_end: Option<String>,
    times: Times,
}

#[derive(Debug)]
enum Phase {
    Greeting(Option<Greeting>),
    Open(Box<Open>),
}

/// How far its end has come.
#[derive(Debug)]
enum Ending {
    /// Not at all.
    Running,
    /// Closed here; what waits is sent first.
    Flushing { code: CloseCode, text: String },
    /// The `Closed` event was given; a last frame may still have to leave.
    Ended { since: Timestamp, then: Then },
}

/// What is still to come after the `Closed` event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Nothing, once what waits has left.
    Nothing,
    /// The peer ends the channel when it has read why. If this end closed it at once, what the peer has sent meanwhile
    /// would meet a closed socket, whose answer (a reset) destroys what the peer has not read yet.
    ChannelEnd,
    /// The same, or the peer closes in order at the same time and waits for this end to do it.
    PeerClose,
}

/// Why a message was not taken.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The handshake is not done, or the connection is closing.
    #[error("the connection is not open")]
    NotOpen,
    /// Its link cannot carry it now.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// It names no link, which only a reply may do.
    #[error("a message that is no reply needs a link")]
    NoLink,
    /// The peer would not take a body of that length.
    #[error("the body has {bytes} bytes; the limit settled with the peer is {limit} (message_bytes_max)")]
    BodyTooLong {
        /// Its length.
        bytes: u64,
        /// What was settled.
        limit: u64,
    },
    /// Its extensions make the head too long.
    #[error("the head would have {bytes} bytes; the limit settled with the peer is {limit} (head_bytes_max)")]
    HeadTooLong {
        /// Its length.
        bytes: usize,
        /// What was settled.
        limit: usize,
    },
    /// The send queue is full.
    #[error(transparent)]
    QueueFull(#[from] OutboxFull),
    /// The pool is empty.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// Its beginning.
impl Connection {
    /// The connecting end. `packet_bytes` is what the path carries whole.
    ///
    /// # Errors
    /// [`LocalFault`] if the configuration cannot be said in a hello.
    pub fn client(
        config: ConnectionConfig,
        identity: &Identity,
        packet_bytes: u32,
        now: Timestamp,
    ) -> Result<Self, LocalFault> {
        let local = local_end(&config.parameters, identity, packet_bytes);
        let (state, hello) = AwaitServerHello::start(local, SessionTerms::default())?;
        Ok(Self::new(config, Greeting::client(state), Some(hello), now))
    }

    /// The end that was connected to.
    ///
    /// # Errors
    /// As [`Connection::client`].
    pub fn server(
        config: ConnectionConfig,
        identity: &Identity,
        packet_bytes: u32,
        now: Timestamp,
    ) -> Result<Self, LocalFault> {
        let state = AwaitClientHello::new(local_end(&config.parameters, identity, packet_bytes))?;
        Ok(Self::new(config, Greeting::server(state), None, now))
    }

    fn new(config: ConnectionConfig, greeting: Greeting, hello: Option<Vec<u8>>, now: Timestamp) -> Self {
        Self {
            config,
            phase: Phase::Greeting(Some(greeting)),
            hello,
            events: VecDeque::new(),
            ending: Ending::Running,
            channel_end: None,
            times: Times::new(now),
        }
    }
}

/// What comes in.
impl Connection {
    /// Takes bytes that arrived. What they mean is asked of [`Connection::poll_event`].
    pub fn handle_segment(&mut self, segment: Segment, now: Timestamp) {
        self.times.received = now;
        if let Ending::Ended { then, .. } = self.ending
            && then != Then::PeerClose
        {
            return;
        }
        match &mut self.phase {
            Phase::Open(open) => open.inbox.push(segment),
            Phase::Greeting(greeting) => match greeting.take().map(|greeting| greeting.take(segment)) {
                Some(Ok(unfinished)) => *greeting = Some(unfinished),
                Some(Err(Greeted::Failed { reason, answer })) => self.fail_greeting(reason, answer, now),
                Some(Err(Greeted::Done { negotiated, answer, rest })) => self.open(negotiated, answer, rest),
                None => {}
            },
        }
    }

    /// Refuses the handshake, whatever the peer will say. For the end that was connected to, before it has answered.
    pub fn refuse(&mut self, code: RefusalCode, text: &str, now: Timestamp) {
        if let Phase::Greeting(greeting) = &mut self.phase
            && let Some(Greeted::Failed { reason, answer }) =
                greeting.take().and_then(|it| it.refuse(code, text))
        {
            self.fail_greeting(reason, answer, now);
        }
    }

    fn fail_greeting(&mut self, reason: CloseReason, answer: Option<Vec<u8>>, now: Timestamp) {
        let then = if answer.is_some() { Then::ChannelEnd } else { Then::Nothing };
        self.hello = answer;
        self.end_then(reason, then, now);
    }

    fn open(&mut self, negotiated: Box<Negotiated>, answer: Option<Vec<u8>>, rest: Segment) {
        // Only the server answers; the client's hello has left.
        let is_client = answer.is_none();
        self.hello = answer;
        let mut open = Box::new(Open::new(&self.config, &negotiated, is_client));
        if !rest.is_empty() {
            open.inbox.push(rest);
        }
        self.phase = Phase::Open(open);
        self.events.push_back(ConnectionEvent::Opened(negotiated));
    }

    /// The next event, or `None` until more has arrived.
    ///
    /// # Errors
    /// As [`Pool::buffer`]: nothing is lost, and the same call may succeed when buffers have come back.
    pub fn poll_event(
        &mut self,
        now: Timestamp,
        pool: &mut Pool,
    ) -> Result<Option<ConnectionEvent>, PoolError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            let Phase::Open(open) = &mut self.phase else { return Ok(None) };
            if let Ending::Ended { then, .. } = &mut self.ending {
                if *then == Then::PeerClose && open.finds_close(pool) {
                    *then = Then::Nothing;
                }
                return Ok(None);
            }
            let polled = open.poll(pool, &mut self.events);
            self.times.note_unfinished(open.unfinished_frame(), now);
            self.times.note_bulk(open.inbox.has_unfinished(), open.chunks_received(), now);
            match polled {
                Ok(Some(message)) => return Ok(Some(ConnectionEvent::Message(message))),
                // Only a peer that asks and asks without taking the answers comes here.
                Ok(None) if open.outbox.waiting_control_bytes() > CONTROL_BYTES_WAITING_MAX => {
                    let control_bytes = open.outbox.waiting_control_bytes();
                    let text = format!(
                        "{control_bytes} bytes of answers wait for the peer ({CONTROL_BYTES_WAITING_MAX})"
                    );
                    self.end(CloseReason::ResourceLimit(text), now);
                }
                Ok(None) => {}
                Err(InboxError::Peer(violation)) => self.end(violation.into(), now),
                // No waiting would help.
                Err(InboxError::Pool(
                    error @ (PoolError::TooManySegments { .. } | PoolError::TooLarge { .. }),
                )) => self.end(CloseReason::ResourceLimit(error.to_string()), now),
                Err(InboxError::Pool(error)) => return Err(error),
            }
            self.notice_close(now);
            if self.events.is_empty() {
                match self.channel_end.take() {
                    Some(reason) => self.end(CloseReason::Channel(reason), now),
                    None => return Ok(None),
                }
            }
        }
    }

    /// Whether [`Connection::poll_event`] has an event to give for which nothing that arrived has to be looked at.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The peer's close ends this end, too.
    fn notice_close(&mut self, now: Timestamp) {
        if let Phase::Open(open) = &mut self.phase
            && let Some(reason) = open.closed_by_peer.take()
        {
            // The answer, by which a peer that waits for it knows that its own was read.
            self.end(reason, now);
        }
    }
}

/// What goes out.
impl Connection {
    /// Queues a message on its link.
    ///
    /// # Errors
    /// [`SendError`], with the message as it was.
    #[allow(clippy::result_large_err)] // the message goes back to its owner, whole
    pub fn send(&mut self, mut message: Message, pool: &mut Pool) -> Result<(), (SendError, Message)> {
        let Some(open) = self.running() else { return Err((SendError::NotOpen, message)) };
        match open.admit(&mut message, pool) {
            Ok(()) => open.outbox.push(message).map_err(|(full, message)| (full.into(), message)),
            Err(error) => Err((error, message)),
        }
    }

    /// Appends what may be sent now to `gather`; true if there is anything. To be called when no send is in flight;
    /// a true result starts one, which [`Connection::handle_sent`] ends.
    ///
    /// # Errors
    /// As [`Pool::buffer`]; what was appended may be sent, the rest stays queued.
    pub fn poll_transmit(
        &mut self,
        now: Timestamp,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<bool, PoolError> {
        if let Some(hello) = &self.hello {
            let mut buffer = pool.buffer(hello.len())?;
            buffer.put_slice(hello);
            gather.push(buffer.split());
            self.hello = None;
        }
        let filled = match &mut self.phase {
            Phase::Open(open) => {
                let filled = open.fill(pool, gather);
                let (is_starved, limit) = open.waits_for_frames();
                self.times.note_frames(is_starved, limit, now);
                let (is_starved, limit) = open.waits_for_chunks();
                self.times.note_chunks(is_starved, limit, now);
                filled
            }
            Phase::Greeting(_) => Ok(()),
        };
        let filled = filled.and_then(|()| self.stage_close(now, pool, gather));
        if !gather.is_empty() {
            self.times.sent = now;
            self.times.send_began = Some(now);
        }
        filled.map(|()| !gather.is_empty())
    }

    /// The send in flight is done.
    pub fn handle_sent(&mut self) {
        self.times.send_began = None;
    }

    /// Whether [`Connection::poll_transmit`] would find something, as far as can be known without trying.
    pub fn wants_transmit(&self) -> bool {
        self.hello.is_some()
            || match &self.phase {
                Phase::Open(open) => open.wants_transmit() || self.may_stage_close(open),
                Phase::Greeting(_) => false,
            }
    }

    /// True when nothing more is to be sent or received: the channel may be closed.
    pub fn is_finished(&self) -> bool {
        let nothing_left = match &self.phase {
            Phase::Open(open) => open.outbox.waiting_control() == 0,
            Phase::Greeting(_) => true,
        };
        matches!(self.ending, Ending::Ended { then: Then::Nothing, .. })
            && self.hello.is_none()
            && self.times.send_began.is_none()
            && nothing_left
    }

    /// Closing in order, and everything that waited has been packed.
    fn may_stage_close(&self, open: &Open) -> bool {
        matches!(self.ending, Ending::Flushing { .. }) && open.outbox.waiting_messages() == 0
    }

    /// Sends the close behind the last of what waited.
    fn stage_close(
        &mut self,
        now: Timestamp,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<(), PoolError> {
        if !matches!(&self.phase, Phase::Open(open) if self.may_stage_close(open)) {
            return Ok(());
        }
        if let Ending::Flushing { code, text } = std::mem::replace(&mut self.ending, Ending::Running) {
            self.end_then(CloseReason::Local { code, text }, Then::PeerClose, now);
        }
        match &mut self.phase {
            Phase::Open(open) => open.fill(pool, gather),
            Phase::Greeting(_) => Ok(()),
        }
    }
}

/// Links.
impl Connection {
    /// Asks for a link. [`ConnectionEvent::Attached`] or [`ConnectionEvent::Detached`] follows. A consumer grants
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
        let open = self.running().ok_or(SendError::NotOpen)?;
        let credit = match role {
            LinkRole::Producer => LinkCredit::default(),
            LinkRole::Consumer | LinkRole::SettlingConsumer => {
                LinkCredit { message_limit: room.messages, byte_limit: room.bytes }
            }
        };
        let link = open.links.request(role, credit)?;
        open.push_attach(&Attach { link, role, address, credit });
        Ok(link)
    }

    /// Grants a link that the peer asked for; a producer may send `room` at once.
    ///
    /// # Errors
    /// [`LinkError::NotAttached`] if it does not wait for an answer.
    pub fn accept_link(&mut self, link: LinkId, room: LinkRoom) -> Result<(), LinkError> {
        let open = self.running().ok_or(LinkError::NotAttached(link))?;
        let credit = LinkCredit { message_limit: room.messages, byte_limit: room.bytes };
        let credit = open.links.accept(link, credit)?;
        open.push_control(&Control::Attached(Attached { link, credit }));
        Ok(())
    }

    /// Refuses a link that the peer asked for.
    ///
    /// # Errors
    /// [`LinkError::NotAttached`] if it does not wait for an answer.
    pub fn refuse_link(&mut self, link: LinkId, code: DetachCode, text: &str) -> Result<(), LinkError> {
        let open = self.running().ok_or(LinkError::NotAttached(link))?;
        open.links.refuse(link)?;
        open.push_control(&Control::Detach(Detach { link, code, text: ReasonText::of(text) }));
        Ok(())
    }

    /// Ends a link. What was queued on it before is still sent, and what the peer sent on it before it heard of that
    /// still arrives, unless it was to be settled here: the peer has that still. Unknown links are ignored.
    pub fn detach_link(&mut self, link: LinkId, code: DetachCode, text: &str) {
        if let Some(open) = self.running()
            && open.links.detach(link)
        {
            open.push_detach(&Detach { link, code, text: ReasonText::of(text) });
        }
    }

    /// Says how much more a receiving link can take from now on, in place of what was said before. The peer is told as
    /// soon as it has no more than half of that left, now or later; what it was told is never taken back.
    ///
    /// # Errors
    /// [`LinkError::NotAttached`] if it does not receive.
    pub fn set_link_room(&mut self, link: LinkId, room: LinkRoom) -> Result<(), LinkError> {
        let open = self.running().ok_or(LinkError::NotAttached(link))?;
        open.links.set_room(link, room)
    }

    /// Whether a message could be sent on a link now. If not, a `Writable` event follows when it can.
    pub fn is_writable(&mut self, link: LinkId) -> bool {
        let Some(open) = self.running() else { return false };
        let writable = open.links.has_credit(link);
        if !writable {
            open.links.note_short(link);
        }
        writable
    }
}

/// Time, and the end.
impl Connection {
    /// When [`Connection::handle_timeout`] wants to be called. A call at that time moves it forward, or ends the
    /// connection.
    pub fn next_timeout(&self) -> Timestamp {
        let (times, config) = (&self.times, &self.config);
        match (&self.ending, &self.phase) {
            _ if self.is_finished() => Timestamp::NEVER,
            (Ending::Ended { since, .. }, _) => *since + config.close_timeout,
            (_, Phase::Greeting(_)) => times.started + config.handshake_timeout,
            (_, Phase::Open(open)) => {
                // One that is owed already leaves as soon as it can; until then there is nothing to wake up for.
                let keep_alive =
                    if open.owes_keep_alive { Timestamp::NEVER } else { times.sent + open.keep_alive };
                (times.received + open.idle_timeout)
                    .min(keep_alive)
                    .min(times.frame_due(config.frame_timeout))
                    .min(times.bulk_due(config.bulk_timeout))
                    .min(times.progress_due(config.send_timeout))
            }
        }
    }

    /// Does what is due: a keep-alive, or the end of the connection for a reason of time.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        let (times, config) = (&self.times, &self.config);
        let reason = match (&self.ending, &mut self.phase) {
            (Ending::Ended { since, .. }, _) => {
                if now >= *since + config.close_timeout {
                    self.let_go();
                }
                return;
            }
            (_, Phase::Greeting(_)) if now >= times.started + config.handshake_timeout => {
                CloseReason::HandshakeTimeout(config.handshake_timeout)
            }
            (_, Phase::Greeting(_)) => return,
            (_, Phase::Open(_)) if now >= times.progress_due(config.send_timeout) => {
                CloseReason::PeerNotReading(config.send_timeout)
            }
            (_, Phase::Open(_)) if now >= times.frame_due(config.frame_timeout) => {
                CloseReason::FrameTimeout(config.frame_timeout)
            }
            (_, Phase::Open(_)) if now >= times.bulk_due(config.bulk_timeout) => {
                CloseReason::BulkTimeout(config.bulk_timeout)
            }
            (_, Phase::Open(open)) if now >= times.received + open.idle_timeout => {
                CloseReason::PeerSilent(open.idle_timeout)
            }
            (_, Phase::Open(open)) => {
                open.owes_keep_alive |= now >= times.sent + open.keep_alive;
                return;
            }
        };
        let reason = self.channel_end.take().map_or(reason, CloseReason::Channel);
        self.end(reason, now);
    }

    /// Closes the connection in order: what was queued is sent, then the reason, then the channel may be closed.
    pub fn close(&mut self, code: CloseCode, text: &str, now: Timestamp) {
        match (&self.ending, &self.phase) {
            (Ending::Running, Phase::Open(_)) => {
                self.ending = Ending::Flushing { code, text: text.to_owned() };
            }
            (Ending::Running, Phase::Greeting(_)) => {
                self.end(CloseReason::Local { code, text: text.to_owned() }, now)
            }
            _ => {}
        }
    }

    /// The channel has ended by itself. What arrived before is still given by [`Connection::poll_event`], and then the
    /// end.
    pub fn handle_channel_end(&mut self, reason: &str, now: Timestamp) {
        match &self.phase {
            Phase::Open(_) if !self.is_ended() => self.channel_end = Some(reason.to_owned()),
            _ => self.end(CloseReason::Channel(reason.to_owned()), now),
        }
        self.let_go();
    }

    /// Ends the connection at once, for a bound of this end's own.
    pub fn abort(&mut self, reason: CloseReason, now: Timestamp) {
        self.end(reason, now);
    }

    /// Ends the connection at once, for a reason that an open connection tells its peer.
    fn end(&mut self, reason: CloseReason, now: Timestamp) {
        let then = match (&reason, &self.phase) {
            (CloseReason::Peer { .. } | CloseReason::Channel(_), _) | (_, Phase::Greeting(_)) => {
                Then::Nothing
            }
            _ => Then::ChannelEnd,
        };
        self.end_then(reason, then, now);
    }

    /// Gives the one `Closed` event, and leaves nothing to be sent but the reason.
    fn end_then(&mut self, reason: CloseReason, then: Then, now: Timestamp) {
        if self.is_ended() {
            return;
        }
        if let Phase::Open(open) = &mut self.phase {
            let text = match &reason {
                CloseReason::Local { text, .. } => text.clone(),
                CloseReason::Peer { .. } => String::new(),
                other => other.to_string(),
            };
            open.stop(
                &Control::Close(Close { code: reason.code(), text: ReasonText::of(&text) }),
                then == Then::PeerClose,
            );
        }
        let is_gone = self.channel_end.is_some() || matches!(reason, CloseReason::Channel(_));
        self.ending = Ending::Ended { since: now, then };
        self.events.push_back(ConnectionEvent::Closed(reason));
        if is_gone {
            self.let_go();
        }
    }

    /// Gives up what has not been sent, and what is still awaited: it cannot come to anything any more.
    fn let_go(&mut self) {
        self.hello = None;
        self.times.send_began = None;
        if let Phase::Open(open) = &mut self.phase {
            open.outbox.clear_all();
        }
        if let Ending::Ended { then, .. } = &mut self.ending {
            *then = Then::Nothing;
        }
    }

    fn is_ended(&self) -> bool {
        matches!(self.ending, Ending::Ended { .. })
    }

    /// Its open state, while messages may be sent.
    pub(super) fn running(&mut self) -> Option<&mut Open> {
        match (&mut self.phase, &self.ending) {
            (Phase::Open(open), Ending::Running) if self.channel_end.is_none() => Some(open),
            _ => None,
        }
    }

    /// True between the handshake and the end.
    pub fn is_open(&self) -> bool {
        matches!((&self.phase, &self.ending), (Phase::Open(_), Ending::Running)) && self.channel_end.is_none()
    }

    /// What packing did on this connection.
    pub fn packing_stats(&self) -> PackingStats {
        match &self.phase {
            Phase::Open(open) => open.outbox.stats(),
            Phase::Greeting(_) => PackingStats::default(),
        }
    }

    /// Messages and bytes that wait to be sent.
    pub fn waiting(&self) -> (usize, u64) {
        match &self.phase {
            Phase::Open(open) => (open.outbox.waiting_messages(), open.outbox.waiting_bytes()),
            Phase::Greeting(_) => (0, 0),
        }
    }
}

fn local_end(parameters: &Parameters, identity: &Identity, packet_bytes: u32) -> LocalEnd {
    // A packet above what a chunk may hold could not be kept whole; one below the protocol's least is rounded up.
    let packet_bytes =
        packet_bytes.clamp(256, parameters.packet_bytes.max(256)).min(parameters.chunk_bytes_max);
    LocalEnd {
        capabilities: Capabilities::SETTLEMENT,
        process: identity.process,
        parameters: Parameters { packet_bytes, ..*parameters },
        securities: Vec::new(),
        wires: Vec::new(),
        name: (!identity.name.is_empty()).then(|| identity.name.clone()),
    }
}
