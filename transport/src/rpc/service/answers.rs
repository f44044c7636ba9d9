//! What answers the events of a service's driver: requests in, replies out.

use super::super::error::ServiceError;
use super::brokers::{BROKERS_TIMER, Brokers, LEAVING_TIMER};
use super::duplicates::{Duplicates, Key, repeatable};
use super::{Request, ServiceStats};
use crate::connection::{AttachRequest, CloseReason, Deliveries, LinkError, LinkRoom, SendError, Target};
use crate::driver::{ConnectionId, Core, DetachedByPeer, Handler, Leaving, Resumed};
use crate::message::Message;
use crate::pool::{Body, Pool, PoolError, Segment};
use crate::proto::control::{DetachCode, LinkRole, Outcome};
use crate::proto::extension::ExtensionWriter;
use crate::proto::handshake::Negotiated;
use crate::proto::hello::Capabilities;
use crate::proto::record::{MessageHead, MessageKind};
use crate::proto::text::Name;
use crate::proto::{LANES, Lane, LinkId, ReplyAddress};
use std::collections::VecDeque;
use std::time::Duration;

/// How soon sending is tried again when a queue or the pool was full, of which no event tells when it is not any more.
const RETRY_AFTER: Duration = Duration::from_millis(1);

/// The timer by which sending is tried again. `brokers` has others.
const RETRY_TIMER: usize = 0;

/// Answers the events of a service's driver.
pub(in crate::rpc) struct Answers<F> {
    pub(super) destination: String,
    room: LinkRoom,
    answer: F,
    mode: Mode,
    pub(super) state: State,
    /// Of a service that connects.
    pub(in crate::rpc) brokers: Option<Brokers>,
    duplicates: Duplicates,
    /// By connection.
    peers: Vec<Peer>,
    is_retrying: bool,
    pub(super) stats: ServiceStats,
}

/// Where requests come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// From a broker that it has connected to.
    Connected,
    /// From clients that connect to it.
    Listening,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Starting,
    Serving,
    Ended(String),
}

/// A broker, or a client.
#[derive(Default)]
struct Peer {
    connection: Option<ConnectionId>,
    /// The links on which requests come.
    requests: Vec<LinkId>,
    /// Of a client: where it wants its replies.
    replies: Vec<(ReplyAddress, LinkId)>,
    /// Replies that wait to be sent. Their requests keep their room until they are, so there are no more of them than
    /// were granted.
    waiting: [VecDeque<Answer>; LANES],
    waiting_bytes: u64,
    /// It is told when a request was answered.
    takes_settlements: bool,
}

/// A reply, and the request that is settled when it was handed to the connection.
struct Answer {
    reply: Message,
    request: Option<Deliveries>,
}

/// Whether the next reply of a lane may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Same,
    Lane,
}

impl<F> Answers<F> {
    pub(super) fn new(
        destination: &str,
        room: LinkRoom,
        brokers: Option<Brokers>,
        duplicates: Duplicates,
        answer: F,
    ) -> Self {
        let mode = if brokers.is_some() { Mode::Connected } else { Mode::Listening };
        Self {
            brokers,
            duplicates,
            destination: destination.to_owned(),
            room,
            answer,
            mode,
            state: State::Starting,
            peers: Vec::new(),
            is_retrying: false,
            stats: ServiceStats::default(),
        }
    }

    fn peer(&mut self, connection: ConnectionId) -> &mut Peer {
        let index = connection.index();
        if self.peers.len() <= index {
            self.peers.resize_with(index + 1, Peer::default);
        }
        &mut self.peers[index]
    }
}

impl<F> Answers<F> {
    /// Whether answers wait to be sent.
    pub(super) fn has_waiting(&self, connection: ConnectionId) -> bool {
        let peer = self.peers.get(connection.index());
        peer.is_some_and(|peer| peer.waiting.iter().any(|queue| !queue.is_empty()))
    }

    /// Whether this is the session with a broker that is being left.
    #[inline]
    fn is_leaving(&self, connection: ConnectionId) -> bool {
        self.brokers.as_ref().is_some_and(|brokers| brokers.is_leaving(connection))
    }
}

impl<F> std::fmt::Debug for Answers<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answers({}, {:?})", self.destination, self.state)
    }
}

/// Replies.
impl<F> Answers<F>
where
    F: FnMut(&mut Request<'_>) -> Result<Body, ServiceError>,
{
    fn reply(&mut self, core: &mut Core, mut request: Message) -> Message {
        let answer = (self.answer)(&mut Request { message: &mut request, pool: core.pool() });
        let mut reply = match answer {
            Ok(body) => Message::reply_to(&request.head, body),
            Err(failure) => {
                self.stats.failures += 1;
                let mut reply = Message::reply_to(&request.head, Body::new());
                fail(core.pool(), &mut reply, &failure);
                reply
            }
        };
        reply.head.origin = core.identity().process.origin;
        reply.head.message_number = core.next_message_number();
        reply
    }

    /// A copy of a request that was handled: it is answered as the first one was, if that answer is still kept.
    #[cold]
    #[inline(never)]
    fn duplicate(
        &mut self,
        core: &mut Core,
        connection: ConnectionId,
        (head, key): (&MessageHead, Key),
        request: Option<Deliveries>,
    ) {
        self.stats.duplicates += 1;
        let kept = head.reply_address.zip(self.duplicates.reply(key, core.pool()));
        let Some((address, mut reply)) = kept else {
            return settle(core, connection, request, Outcome::Accepted);
        };
        reply.head.link = self.reply_link(connection, address);
        if self.mode == Mode::Listening && reply.head.link.is_none() {
            self.stats.replies_dropped += 1;
            return settle(core, connection, request, Outcome::Accepted);
        }
        // What the copy is recognised by, which may be a later attempt.
        reply.head.attempt = head.attempt;
        reply.head.message_number = core.next_message_number();
        self.stats.duplicates_answered += 1;
        self.send(core, connection, Answer { reply, request });
    }

    /// Sends a reply, or lets it wait behind those that wait already.
    #[inline]
    fn send(&mut self, core: &mut Core, connection: ConnectionId, answer: Answer) {
        let lane = answer.reply.head.lane;
        let peer = self.peer(connection);
        if !peer.waiting[lane.index()].is_empty() {
            peer.waiting_bytes += answer.reply.charged_bytes();
            peer.waiting[lane.index()].push_back(answer);
            self.stats.reply_waits += 1;
        } else if self.try_send(core, connection, answer) == Next::Lane {
            self.stats.reply_waits += 1;
        }
    }

    fn send_waiting(&mut self, core: &mut Core, connection: ConnectionId) {
        Lane::ALL.into_iter().for_each(|lane| self.send_lane(core, connection, lane));
        self.renew_room(core, connection);
        if self.is_leaving(connection) {
            // Its link may have waited for this.
            self.close_left(core);
        }
    }

    fn send_lane(&mut self, core: &mut Core, connection: ConnectionId, lane: Lane) {
        while let Some(answer) = self.peer(connection).waiting[lane.index()].pop_front() {
            let bytes = answer.reply.charged_bytes();
            self.peer(connection).waiting_bytes -= bytes;
            if self.try_send(core, connection, answer) == Next::Lane {
                return;
            }
        }
    }

    fn try_send(&mut self, core: &mut Core, connection: ConnectionId, answer: Answer) -> Next {
        let Answer { reply, request } = answer;
        let Err((error, mut reply)) = core.send(connection, reply) else {
            settle(core, connection, request, Outcome::Accepted);
            return Next::Same;
        };
        let was_failure = reply.head.failure;
        match error {
            // An event tells when there is credit again.
            SendError::Link(LinkError::NoCredit(_)) => {}
            SendError::QueueFull(_)
            | SendError::Pool(PoolError::BudgetExceeded { .. } | PoolError::Map { .. }) => {
                if !std::mem::replace(&mut self.is_retrying, true) {
                    core.set_timer(RETRY_TIMER, core.now() + RETRY_AFTER);
                }
            }
            // The caller had better hear of it than wait in vain.
            SendError::BodyTooLong { .. } | SendError::Pool(_) if !was_failure => {
                self.stats.failures += 1;
                reply.body = Body::new();
                let text = format!("its reply cannot be sent: {error}");
                fail(core.pool(), &mut reply, &ServiceError { code: 0, text });
                return self.try_send(core, connection, Answer { reply, request });
            }
            // The failure mark alone says less, but it says it.
            SendError::HeadTooLong { .. } if reply.extensions.is_some() => {
                reply.extensions = None;
                return self.try_send(core, connection, Answer { reply, request });
            }
            _ => {
                self.stats.replies_dropped += 1;
                settle(core, connection, request, Outcome::Accepted);
                return Next::Same;
            }
        }
        let (bytes, lane) = (reply.charged_bytes(), reply.head.lane);
        let peer = self.peer(connection);
        peer.waiting_bytes += bytes;
        peer.waiting[lane.index()].push_front(Answer { reply, request });
        Next::Lane
    }

    /// Grants the room that is not taken by replies that wait; none to a broker that is being left.
    fn renew_room(&mut self, core: &mut Core, connection: ConnectionId) {
        if self.is_leaving(connection) {
            return;
        }
        let room = self.room;
        let peer = self.peer(connection);
        let waiting: usize = peer.waiting.iter().map(VecDeque::len).sum();
        let room = LinkRoom {
            messages: room.messages.saturating_sub(waiting as u64),
            bytes: room.bytes.saturating_sub(peer.waiting_bytes),
        };
        for &link in &peer.requests {
            // Fails only if the link has gone meanwhile.
            let _ = core.set_link_room(connection, link, room);
        }
    }

    fn retry(&mut self, core: &mut Core) {
        self.is_retrying = false;
        for index in 0..self.peers.len() {
            if let Some(connection) = self.peers[index].connection {
                self.send_waiting(core, connection);
            }
        }
    }
}

/// Links.
impl<F> Answers<F> {
    /// Of a service that listens itself: the link on which a client takes its replies.
    fn reply_link(&mut self, connection: ConnectionId, address: ReplyAddress) -> Option<LinkId> {
        let replies = &self.peer(connection).replies;
        replies.iter().find(|(its, _)| *its == address).map(|(_, link)| *link)
    }

    fn attach_client(&mut self, core: &mut Core, connection: ConnectionId, request: &AttachRequest) {
        let none = LinkRoom { messages: 0, bytes: 0 };
        let link = request.link;
        let refuse = |core: &mut Core, code, text: &str| core.refuse_link(connection, link, code, text);
        let outcome = match (&request.target, request.role) {
            (Target::Named(name), LinkRole::Producer) if *name == self.destination => {
                self.peer(connection).requests.push(link);
                core.accept_link(connection, link, self.room)
            }
            (Target::Reply(address), LinkRole::Consumer) => {
                let replies = &mut self.peer(connection).replies;
                replies.retain(|(its, _)| its != address);
                replies.push((*address, link));
                core.accept_link(connection, link, none)
            }
            (Target::Named(name), LinkRole::Producer) => {
                let text = format!("there is no destination '{name}' here, only '{}'", self.destination);
                refuse(core, DetachCode::NoSuchDestination, &text)
            }
            _ => refuse(core, DetachCode::NotAllowed, "a service has nothing to consume but replies"),
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "a link was gone before it was answered");
        }
    }
}

impl<F> Handler for Answers<F>
where
    F: FnMut(&mut Request<'_>) -> Result<Body, ServiceError>,
{
    fn opened(&mut self, core: &mut Core, connection: ConnectionId, peer: &Negotiated) {
        let takes_settlements =
            self.mode == Mode::Connected && peer.capabilities.contains(Capabilities::SETTLEMENT);
        *self.peer(connection) = Peer { connection: Some(connection), takes_settlements, ..Peer::default() };
        if self.mode == Mode::Listening {
            return;
        }
        // The name was checked when the service was made.
        let Ok(name) = Name::new(&self.destination) else { return };
        let role = if takes_settlements { LinkRole::SettlingConsumer } else { LinkRole::Consumer };
        if let Some(brokers) = &mut self.brokers {
            brokers.attach(core, connection, role, name, self.room);
        }
    }

    fn attach_requested(&mut self, core: &mut Core, connection: ConnectionId, request: AttachRequest) {
        if self.mode == Mode::Listening {
            return self.attach_client(core, connection, &request);
        }
        // The link may have gone with its connection meanwhile; then there is nobody to tell.
        let _ = core.refuse_link(
            connection,
            request.link,
            DetachCode::NotAllowed,
            "a service has no destinations",
        );
    }

    fn attached(&mut self, core: &mut Core, connection: ConnectionId, link: LinkId) {
        let Some(brokers) = &mut self.brokers else { return };
        if brokers.attached(core, connection, link, &self.destination) {
            self.peer(connection).requests.push(link);
            self.state = State::Serving;
        }
        self.close_left(core);
    }

    fn detached(&mut self, core: &mut Core, connection: ConnectionId, detached: DetachedByPeer) {
        let peer = self.peer(connection);
        peer.requests.retain(|link| *link != detached.link);
        peer.replies.retain(|(_, link)| *link != detached.link);
        match self.mode {
            // What waits for the link is not waited with any longer.
            Mode::Listening => self.send_waiting(core, connection),
            Mode::Connected => self.detached_by_broker(core, connection, &detached),
        }
    }

    fn message(&mut self, core: &mut Core, connection: ConnectionId, message: Message) {
        let (kind, address) = (message.head.kind, message.head.reply_address);
        let request = Deliveries::of(&message).filter(|_| self.peer(connection).takes_settlements);
        if kind == MessageKind::Reply {
            self.stats.strays += 1;
            settle(core, connection, request, Outcome::Rejected);
            return self.renew_room(core, connection);
        }
        if let Some(brokers) = &mut self.brokers {
            brokers.note_request(core.now(), connection);
        }
        let repeatable = repeatable(&message.head);
        if let Some(key) = repeatable.filter(|&key| self.duplicates.contains(key)) {
            self.duplicate(core, connection, (&message.head, key), request);
            return self.renew_room(core, connection);
        }
        self.stats.requests += 1;
        let mut reply = self.reply(core, message);
        if let Some(key) = repeatable {
            self.duplicates.remember(key, address.map(|_| &reply), core.pool());
        }
        match address.filter(|_| kind == MessageKind::Request) {
            None => {
                self.stats.without_reply_address += 1;
                settle(core, connection, request, Outcome::Accepted);
            }
            Some(address) => {
                reply.head.link = self.reply_link(connection, address);
                match (self.mode, reply.head.link) {
                    (Mode::Listening, None) => self.stats.replies_dropped += 1,
                    _ => self.send(core, connection, Answer { reply, request }),
                }
            }
        }
        self.renew_room(core, connection);
    }

    fn writable(&mut self, core: &mut Core, connection: ConnectionId, _link: LinkId) {
        self.send_waiting(core, connection);
    }

    fn closed(&mut self, core: &mut Core, connection: ConnectionId, reason: &CloseReason) {
        let peer = std::mem::take(self.peer(connection));
        self.stats.replies_dropped += peer.waiting.iter().map(VecDeque::len).sum::<usize>() as u64;
        self.with_brokers(core, |brokers, core| brokers.closed(core, connection, &reason.to_string()));
    }

    fn interrupted(&mut self, core: &mut Core, connection: ConnectionId, reason: &CloseReason) {
        self.with_brokers(core, |brokers, core| brokers.interrupted(core, connection, &reason.to_string()));
    }

    fn resumed(&mut self, core: &mut Core, connection: ConnectionId, resumed: &Resumed) {
        self.with_brokers(core, |brokers, core| brokers.resumed(core, connection, resumed));
    }

    fn leaving(&mut self, core: &mut Core, connection: ConnectionId, leaving: &Leaving) {
        self.with_brokers(core, |brokers, core| brokers.asked_to_leave(core, connection, leaving));
    }

    fn timer(&mut self, core: &mut Core, key: usize) {
        match key {
            BROKERS_TIMER => self.with_brokers(core, Brokers::keep_attached),
            LEAVING_TIMER => self.close_left(core),
            _ => self.retry(core),
        }
    }
}

/// Tells the broker what became of a request, if it takes that.
fn settle(core: &mut Core, connection: ConnectionId, request: Option<Deliveries>, outcome: Outcome) {
    if let Some(request) = request {
        // If the link has ended meanwhile, the broker has given the request to another.
        let _ = core.settle(connection, &request, outcome);
    }
}

/// Makes a reply one that reports a failure; if the error cannot be written, the failure mark alone says it.
fn fail(pool: &mut Pool, reply: &mut Message, failure: &ServiceError) {
    reply.head.failure = true;
    reply.extensions = error_extension(pool, failure);
}

fn error_extension(pool: &mut Pool, failure: &ServiceError) -> Option<Segment> {
    const TEXT_BYTES_MAX: usize = 1024;
    let mut area = [0; TEXT_BYTES_MAX + 64];
    let mut writer = ExtensionWriter::new(&mut area);
    let text = &failure.text[..failure.text.floor_char_boundary(TEXT_BYTES_MAX)];
    writer.error(failure.code, text).ok()?;
    let written = writer.written();
    let mut buffer = pool.buffer(written).ok()?;
    buffer.put_slice(&area[..written]);
    Some(buffer.split())
}
