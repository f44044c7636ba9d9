//! The state machine of one connection: its phases, its timeouts, and how it ends.

use super::greeting::{Greeted, Greeting};
use super::links::{LinkError, LinkRoom};
use super::open::Open;
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
use std::time::Duration;
use thiserror::Error;

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
    Flushing { code: CloseCode, text: String, since: Timestamp },
    /// The `Closed` event was given; a last frame may still have to leave.
    Ended { since: Timestamp },
}

#[derive(Debug)]
struct Times {
    started: Timestamp,
    received: Timestamp,
    sent: Timestamp,
    /// When the frame began that is not complete.
    frame_began: Option<Timestamp>,
    /// When the send began that is in flight.
    send_began: Option<Timestamp>,
    /// Since when messages wait for the peer to grant frames.
    starved: Option<Timestamp>,
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
            times: Times {
                started: now,
                received: now,
                sent: now,
                frame_began: None,
                send_began: None,
                starved: None,
            },
        }
    }
}

/// What comes in.
impl Connection {
    /// Takes bytes that arrived. What they mean is asked of [`Connection::poll_event`].
    pub fn handle_segment(&mut self, segment: Segment, now: Timestamp) {
        self.times.received = now;
        if self.is_ended() {
            return;
        }
        match &mut self.phase {
            Phase::Open(open) => open.inbox.push(segment),
            Phase::Greeting(greeting) => match greeting.take().map(|greeting| greeting.take(segment)) {
                Some(Ok(unfinished)) => *greeting = Some(unfinished),
                Some(Err(Greeted::Failed { reason, answer })) => {
                    self.hello = answer;
                    self.end(reason, now);
                }
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
            self.hello = answer;
            self.end(reason, now);
        }
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
            if matches!(self.ending, Ending::Ended { .. }) {
                return Ok(None);
            }
            match open.poll(pool, &mut self.events) {
                Ok(Some(message)) => return Ok(Some(ConnectionEvent::Message(message))),
                Ok(None) if self.events.is_empty() => {
                    let began = self.times.frame_began.unwrap_or(now);
                    self.times.frame_began = open.inbox.is_mid_frame().then_some(began);
                    return Ok(None);
                }
                Ok(None) => {}
                Err(InboxError::Peer(violation)) => self.end(violation.into(), now),
                Err(InboxError::Pool(error)) => return Err(error),
            }
            self.notice_close(now);
        }
    }

    /// The peer's close ends this end, too.
    fn notice_close(&mut self, now: Timestamp) {
        if let Phase::Open(open) = &mut self.phase
            && let Some(reason) = open.closed_by_peer.take()
        {
            open.outbox.clear();
            self.ending = Ending::Ended { since: now };
            self.events.push_back(ConnectionEvent::Closed(reason));
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
        self.stage_close(now);
        let filled = match &mut self.phase {
            Phase::Open(open) => open.fill(pool, gather),
            Phase::Greeting(_) => Ok(()),
        };
        if !gather.is_empty() {
            self.times.sent = now;
            self.times.send_began = Some(now);
        }
        self.note_starvation(now);
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
                Phase::Open(open) => open.wants_transmit() || matches!(self.ending, Ending::Flushing { .. }),
                Phase::Greeting(_) => false,
            }
    }

    /// True when nothing more is to be sent or received: the channel may be closed.
    pub fn is_finished(&self) -> bool {
        let nothing_left = match &self.phase {
            Phase::Open(open) => open.outbox.waiting_control() == 0,
            Phase::Greeting(_) => true,
        };
        self.is_ended() && self.hello.is_none() && self.times.send_began.is_none() && nothing_left
    }

    fn stage_close(&mut self, now: Timestamp) {
        let Ending::Flushing { code, text, .. } = &self.ending else { return };
        let (code, text) = (*code, text.clone());
        let Phase::Open(open) = &mut self.phase else { return };
        if open.outbox.waiting_messages() > 0 {
            return;
        }
        open.push_control(&Control::Close(Close { code, text: ReasonText::of(&text) }));
        self.events.push_back(ConnectionEvent::Closed(CloseReason::Local { code, text }));
        self.ending = Ending::Ended { since: now };
    }

    fn note_starvation(&mut self, now: Timestamp) {
        if let Phase::Open(open) = &self.phase {
            let is_starved = open.outbox.waiting_messages() > 0 && open.windows.frames.available() == 0;
            self.times.starved = is_starved.then(|| self.times.starved.unwrap_or(now));
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
            LinkRole::Consumer => LinkCredit { message_limit: room.messages, byte_limit: room.bytes },
        };
        let link = open.links.request(role, credit)?;
        open.push_control(&Control::Attach(Attach { link, role, address, credit }));
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

    /// Ends a link. What the peer sent on it before it heard of that still arrives. Unknown links are ignored.
    pub fn detach_link(&mut self, link: LinkId, code: DetachCode, text: &str) {
        if let Some(open) = self.running()
            && open.links.detach(link)
        {
            open.push_control(&Control::Detach(Detach { link, code, text: ReasonText::of(text) }));
        }
    }

    /// Says how much more a receiving link can take from now on. The peer is told when it has less than half of that.
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
    /// When [`Connection::handle_timeout`] wants to be called.
    pub fn next_timeout(&self) -> Timestamp {
        let times = &self.times;
        let Phase::Open(open) = &self.phase else {
            return match self.ending {
                Ending::Running => times.started + self.config.handshake_timeout,
                Ending::Flushing { since, .. } | Ending::Ended { since } => since + self.config.close_timeout,
            };
        };
        if let Ending::Ended { since } = self.ending {
            return since + self.config.close_timeout;
        }
        let after =
            |since: Option<Timestamp>, limit: Duration| since.map_or(Timestamp::NEVER, |since| since + limit);
        (times.received + open.idle_timeout)
            .min(times.sent + open.keep_alive)
            .min(after(times.frame_began, self.config.frame_timeout))
            .min(after(times.send_began, self.config.send_timeout))
            .min(after(times.starved, self.config.send_timeout))
    }

    /// Does what is due: a keep-alive, or the end of the connection for a reason of time.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        let times = &self.times;
        let over =
            |since: Option<Timestamp>, limit: Duration| since.is_some_and(|since| now >= since + limit);
        let Phase::Open(open) = &mut self.phase else {
            if over(Some(times.started), self.config.handshake_timeout) && !self.is_ended() {
                self.end(CloseReason::HandshakeTimeout(self.config.handshake_timeout), now);
            }
            return;
        };
        if let Ending::Ended { since } = self.ending {
            if over(Some(since), self.config.close_timeout) {
                open.outbox.clear_all();
                self.times.send_began = None;
            }
            return;
        }
        let reason = if over(times.send_began, self.config.send_timeout)
            || over(times.starved, self.config.send_timeout)
        {
            CloseReason::PeerNotReading(self.config.send_timeout)
        } else if over(times.frame_began, self.config.frame_timeout) {
            CloseReason::FrameTimeout(self.config.frame_timeout)
        } else if over(Some(times.received), open.idle_timeout) {
            CloseReason::PeerSilent(open.idle_timeout)
        } else {
            open.owes_keep_alive |= over(Some(times.sent), open.keep_alive);
            return;
        };
        self.end(reason, now);
    }

    /// Closes the connection in order: what was queued is sent, then the reason, then the channel may be closed.
    pub fn close(&mut self, code: CloseCode, text: &str, now: Timestamp) {
        match (&self.ending, &self.phase) {
            (Ending::Running, Phase::Open(_)) => {
                self.ending = Ending::Flushing { code, text: text.to_owned(), since: now };
            }
            (Ending::Running, Phase::Greeting(_)) => {
                self.end(CloseReason::Local { code, text: text.to_owned() }, now)
            }
            _ => {}
        }
    }

    /// The channel has ended by itself.
    pub fn handle_channel_end(&mut self, reason: &str, now: Timestamp) {
        self.end(CloseReason::Channel(reason.to_owned()), now);
        self.hello = None;
        self.times.send_began = None;
        if let Phase::Open(open) = &mut self.phase {
            open.outbox.clear_all();
        }
    }

    /// Ends the connection at once, for a bound of this end's own.
    pub fn abort(&mut self, reason: CloseReason, now: Timestamp) {
        self.end(reason, now);
    }

    /// Gives the one `Closed` event, and leaves nothing to be sent but the reason.
    fn end(&mut self, reason: CloseReason, now: Timestamp) {
        if self.is_ended() {
            return;
        }
        if let Phase::Open(open) = &mut self.phase {
            open.outbox.clear();
            let text = reason.to_string();
            open.push_control(&Control::Close(Close { code: reason.code(), text: ReasonText::of(&text) }));
        }
        self.ending = Ending::Ended { since: now };
        self.events.push_back(ConnectionEvent::Closed(reason));
    }

    fn is_ended(&self) -> bool {
        matches!(self.ending, Ending::Ended { .. })
    }

    /// Its open state, while messages may be sent.
    fn running(&mut self) -> Option<&mut Open> {
        match (&mut self.phase, &self.ending) {
            (Phase::Open(open), Ending::Running) => Some(open),
            _ => None,
        }
    }

    /// True between the handshake and the end.
    pub fn is_open(&self) -> bool {
        matches!((&self.phase, &self.ending), (Phase::Open(_), Ending::Running))
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
        capabilities: Capabilities::default(),
        process: identity.process,
        parameters: Parameters { packet_bytes, ..*parameters },
        securities: Vec::new(),
        wires: Vec::new(),
        name: (!identity.name.is_empty()).then(|| identity.name.clone()),
    }
}
