//! A client and a peer that does what a test says, on one thread, over `inproc`: each turn of either is the test's.

use crate::connection::{AttachRequest, CloseReason, LinkRoom, Target};
use crate::driver::{Address, ConnectionId, Core, DetachedByPeer, Driver, DriverConfig, Handler, Settled};
use crate::message::Message;
use crate::pool::Body;
use crate::proto::LinkId;
use crate::proto::control::DetachCode;
use crate::proto::handshake::Negotiated;
use crate::proto::record::MessageHead;
use crate::rpc::{CallError, CallFuture, Client, ClientConfig, Lane, Reply, ReplyDestination};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// A name of `inproc` that no other test has.
pub(super) fn fresh_address() -> Address {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    Address::inproc(format!("rpc-test-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// What a peer does about a request for a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Accept,
    Refuse(&'static str),
    Ignore,
}

/// Keeps what arrives; answers only when the test says so.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) room: LinkRoom,
    pub(super) producers: Answer,
    pub(super) consumers: Answer,
    pub(super) connection: Option<ConnectionId>,
    pub(super) links: Vec<(String, LinkId)>,
    pub(super) replies: Option<LinkId>,
    pub(super) requests: Vec<Message>,
    /// How many of the messages that it sent were settled.
    pub(super) settled: u64,
    pub(super) closed: Option<CloseReason>,
    /// Requests for links that were not answered.
    pub(super) ignored: Vec<AttachRequest>,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            room: LinkRoom { messages: 1000, bytes: 1 << 30 },
            producers: Answer::Accept,
            consumers: Answer::Accept,
            connection: None,
            links: Vec::new(),
            replies: None,
            requests: Vec::new(),
            settled: 0,
            closed: None,
            ignored: Vec::new(),
        }
    }
}

impl Handler for Peer {
    fn opened(&mut self, _: &mut Core, connection: ConnectionId, _: &Negotiated) {
        self.connection = Some(connection);
    }

    fn attach_requested(&mut self, core: &mut Core, connection: ConnectionId, request: AttachRequest) {
        let answer = match &request.target {
            Target::Named(_) => self.producers,
            Target::Reply(_) => self.consumers,
        };
        match answer {
            Answer::Ignore => self.ignored.push(request),
            Answer::Refuse(text) => {
                core.refuse_link(connection, request.link, DetachCode::NotAllowed, text).unwrap();
            }
            Answer::Accept => {
                core.accept_link(connection, request.link, self.room).unwrap();
                match request.target {
                    Target::Named(name) => self.links.push((name, request.link)),
                    Target::Reply(_) => self.replies = Some(request.link),
                }
            }
        }
    }

    fn attached(&mut self, _: &mut Core, _: ConnectionId, _: LinkId) {}

    fn detached(&mut self, _: &mut Core, _: ConnectionId, _: DetachedByPeer) {}

    fn message(&mut self, _: &mut Core, _: ConnectionId, message: Message) {
        self.requests.push(message);
    }

    fn writable(&mut self, _: &mut Core, _: ConnectionId, _: LinkId) {}

    fn settled(&mut self, _: &mut Core, _: ConnectionId, settled: Settled) {
        self.settled += settled.positions.end - settled.positions.start;
    }

    fn closed(&mut self, _: &mut Core, connection: ConnectionId, reason: &CloseReason) {
        // Not one that never came up, such as an attempt to resume a session that it does not know.
        if self.connection == Some(connection) {
            self.closed = Some(reason.clone());
        }
    }
}

pub(super) struct Rig {
    pub(super) client: Client,
    pub(super) peer: Driver<Peer>,
}

impl Rig {
    /// Both ends, connected; room for `calls_max` calls.
    pub(super) fn new(calls_max: u32, peer: Peer) -> Self {
        Self::with(ReplyDestination::new(calls_max), ClientConfig::default(), peer)
    }

    pub(super) fn with(destination: ReplyDestination, config: ClientConfig, peer: Peer) -> Self {
        let mut rig = Self::unconnected(destination, config, peer);
        rig.pump();
        rig
    }

    pub(super) fn unconnected(destination: ReplyDestination, config: ClientConfig, peer: Peer) -> Self {
        let address = fresh_address();
        let mut peer =
            Driver::new(DriverConfig::default(), ReplyDestination::new(1).identity("peer"), peer).unwrap();
        peer.parts().0.listen(&address).unwrap();
        let client = Client::start_connecting(&destination, &[address], config).unwrap();
        Self { client, peer }
    }

    /// Turns both until neither finds anything to do.
    pub(super) fn pump(&mut self) {
        let mut quiet = 0;
        while quiet < 3 {
            let found = self.client.turn().unwrap() | self.peer.turn().unwrap();
            quiet = if found { 0 } else { quiet + 1 };
        }
    }

    /// Turns both until `call` has ended.
    pub(super) fn finish(&mut self, call: CallFuture) -> Result<Reply, CallError> {
        let mut call = call;
        let began = Instant::now();
        loop {
            self.pump();
            if let Some(outcome) = call.try_take() {
                return outcome;
            }
            assert!(began.elapsed() < LIMIT, "the call does not end");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    pub(super) fn start(&mut self, destination: &str, bytes: &[u8], timeout: Duration) -> CallFuture {
        let body = self.client.body(bytes).unwrap();
        self.client.start(destination, body, Lane::Normal, timeout)
    }

    /// What arrived at the peer since it was asked last.
    pub(super) fn requests(&mut self) -> Vec<Message> {
        self.pump();
        std::mem::take(&mut self.peer.parts().1.requests)
    }

    /// The next request, however long the client needs to reconnect.
    pub(super) fn next_request(&mut self) -> Message {
        let began = Instant::now();
        loop {
            self.pump();
            if !self.peer.parts().1.requests.is_empty() {
                return self.peer.parts().1.requests.remove(0);
            }
            assert!(began.elapsed() < LIMIT, "no request comes");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Sends what a correct peer would answer, after `change`.
    pub(super) fn reply(&mut self, request: &MessageHead, bytes: &[u8], change: impl FnOnce(&mut Message)) {
        let (core, peer) = self.peer.parts();
        let body = core.pool().copy_body(bytes).unwrap();
        let mut reply = Message::reply_to(request, body);
        reply.head.link = peer.replies;
        reply.head.message_number = core.next_message_number();
        change(&mut reply);
        core.send(peer.connection.unwrap(), reply).unwrap();
        self.pump();
    }

    /// Gives the first link of the peer this much room.
    pub(super) fn grant(&mut self, room: LinkRoom) {
        let (core, peer) = self.peer.parts();
        core.set_link_room(peer.connection.unwrap(), peer.links[0].1, room).unwrap();
        self.pump();
    }

    /// Slots taken, destinations known, queue entries.
    pub(super) fn sizes(&mut self) -> (usize, usize, usize) {
        self.client.calls().sizes()
    }

    /// Ends by the peer's hand.
    pub(super) fn detach(&mut self, link: LinkId, text: &str) {
        let (core, peer) = self.peer.parts();
        core.detach_link(peer.connection.unwrap(), link, DetachCode::NoSuchDestination, text);
        self.pump();
    }

    pub(super) fn buffers_out(&mut self) -> usize {
        self.client.reclaim();
        self.client.driver_stats().pool.buffers_out
    }
}

pub(super) fn text(reply: &Reply) -> String {
    String::from_utf8(reply.to_bytes().to_vec()).unwrap()
}

pub(super) fn body_of(message: &Message) -> Vec<u8> {
    let body: &Body = &message.body;
    body.to_vec()
}
