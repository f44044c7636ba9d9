//! A client and several peers in the place of brokers, on one thread, over `inproc`. Peers die and come back.

use super::rig::{LIMIT, Peer, fresh_address};
use crate::backend::WireKind;
use crate::connection::CloseReason;
use crate::driver::{Address, Driver, DriverConfig, Handler, Leaving, Resumed};
use crate::message::Message;
use crate::pool::PoolConfig;
use crate::proto::control::DetachCode;
use crate::proto::record::MessageHead;
use crate::rpc::{
    CallError, CallFuture, CallOptions, Client, ClientConfig, EventListener, Reply, ReplyDestination,
};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(super) struct Brokers {
    pub(super) client: Client,
    pub(super) peers: Vec<Option<Driver<Peer>>>,
    pub(super) addresses: Vec<Address>,
    events: Arc<Mutex<Vec<String>>>,
}

pub(super) fn small_driver() -> DriverConfig {
    let pool = PoolConfig { slab_bytes: 64 << 10, huge_pages: false, ..PoolConfig::default() };
    let mut config = DriverConfig { pool, ..DriverConfig::default() };
    config.tcp.engine = crate::backend::tcp::EngineChoice::Epoll;
    config
}

/// Reconnects and returns fast.
pub(super) fn quick() -> ClientConfig {
    ClientConfig {
        failover_after: Duration::from_millis(50),
        reconnect_min: Duration::from_millis(2),
        reconnect_max: Duration::from_millis(10),
        return_after: Duration::from_millis(20),
        driver: small_driver(),
        ..ClientConfig::default()
    }
}

impl Brokers {
    /// A client with so many brokers, of which those that are named are alive, and has connected as far as it can.
    pub(super) fn new(count: usize, alive: &[usize], mut config: ClientConfig) -> Self {
        let addresses: Vec<_> = (0..count).map(|_| fresh_address()).collect();
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = events.clone();
        config.events = Some(EventListener::new(move |event| heard.lock().unwrap().push(event.to_string())));
        let mut peers: Vec<_> = (0..count).map(|_| None).collect();
        for &place in alive {
            peers[place] = Some(listening(&addresses[place], Peer::default()));
        }
        let client = Client::start_connecting(&ReplyDestination::new(1000), &addresses, config).unwrap();
        let mut brokers = Self { client, peers, addresses, events };
        brokers.pump();
        brokers
    }

    /// Turns everybody until nobody finds anything to do.
    pub(super) fn pump(&mut self) {
        let mut quiet = 0;
        while quiet < 3 {
            let mut found = self.client.turn().unwrap();
            for peer in self.peers.iter_mut().flatten() {
                found |= peer.turn().unwrap();
            }
            quiet = if found { 0 } else { quiet + 1 };
        }
    }

    /// Turns everybody until this is so.
    pub(super) fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let began = Instant::now();
        loop {
            self.pump();
            if is_so(self) {
                return;
            }
            assert!(began.elapsed() < LIMIT, "it does not come to that: {what}; {:#?}", self.events());
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    /// Lets so much time pass.
    pub(super) fn wait(&mut self, time: Duration) {
        let began = Instant::now();
        self.until("time passes", |_| began.elapsed() >= time);
    }

    pub(super) fn kill(&mut self, place: usize) {
        self.peers[place] = None;
        self.pump();
    }

    pub(super) fn revive(&mut self, place: usize) {
        self.revive_as(place, Peer::default());
    }

    pub(super) fn revive_as(&mut self, place: usize, peer: Peer) {
        self.peers[place] = Some(listening(&self.addresses[place], peer));
        self.pump();
    }

    pub(super) fn peer(&mut self, place: usize) -> &mut Peer {
        self.peers[place].as_mut().unwrap().parts().1
    }

    pub(super) fn start(&mut self, bytes: &[u8], options: CallOptions) -> CallFuture {
        let body = self.client.body(bytes).unwrap();
        let call = self.client.start_with_options("echo", body, options);
        self.pump();
        call
    }

    /// What arrived at a broker since it was asked last.
    pub(super) fn requests(&mut self, place: usize) -> Vec<Message> {
        self.pump();
        std::mem::take(&mut self.peer(place).requests)
    }

    /// The next request at a broker, however long the client needs to get it there.
    pub(super) fn request(&mut self, place: usize) -> Message {
        self.until("a request", |brokers| !brokers.peer(place).requests.is_empty());
        self.peer(place).requests.remove(0)
    }

    /// The next request at a broker that grants the link only when the session with the first one is interrupted.
    pub(super) fn request_after_accepting(&mut self, place: usize) -> Message {
        self.interrupt(0);
        let (core, peer) = self.peers[place].as_mut().unwrap().parts();
        let link = peer.ignored.remove(0).link;
        core.accept_link(peer.connection.unwrap(), link, peer.room).unwrap();
        peer.links.push(("echo".to_owned(), link));
        self.request(place)
    }

    pub(super) fn reply(&mut self, place: usize, request: &MessageHead, bytes: &[u8]) {
        let (core, peer) = self.peers[place].as_mut().unwrap().parts();
        let mut reply = Message::reply_to(request, core.pool().copy_body(bytes).unwrap());
        reply.head.link = peer.replies;
        core.send(peer.connection.unwrap(), reply).unwrap();
        self.pump();
    }

    pub(super) fn outcome(&mut self, call: &mut CallFuture) -> Result<Reply, CallError> {
        let mut outcome = None;
        self.until("the call ends", |_| {
            outcome = call.try_take();
            outcome.is_some()
        });
        outcome.unwrap()
    }

    /// Ends the link to the destination.
    pub(super) fn detach(&mut self, place: usize, code: DetachCode) {
        let (core, peer) = self.peers[place].as_mut().unwrap().parts();
        let link = peer.links.pop().unwrap().1;
        core.detach_link(peer.connection.unwrap(), link, code, "for a test");
        self.pump();
    }

    /// What the driver says when a session has lost its connection.
    pub(super) fn interrupt(&mut self, place: usize) {
        let (core, calls) = self.client.parts();
        let session = calls.session(place).unwrap();
        calls.interrupted(core, session, &CloseReason::Channel("cut".to_owned()));
        self.pump();
    }

    pub(super) fn resume(&mut self, place: usize) {
        let (core, calls) = self.client.parts();
        let session = calls.session(place).unwrap();
        let interrupted_for = Duration::from_millis(7);
        calls.resumed(
            core,
            session,
            &Resumed { wire: WireKind::Inproc, peer: String::new(), interrupted_for },
        );
        self.pump();
    }

    /// What the driver says when a broker asks to be left.
    pub(super) fn ask_to_leave(&mut self, place: usize) {
        let (core, calls) = self.client.parts();
        let session = calls.session(place).unwrap();
        let leaving = Leaving { within: Duration::from_secs(3), text: "maintenance".to_owned() };
        calls.leaving(core, session, &leaving);
        self.pump();
    }

    pub(super) fn has_session(&mut self, place: usize) -> bool {
        self.client.calls().session(place).is_some()
    }

    /// What was told so far.
    pub(super) fn events(&self) -> Vec<String> {
        self.events.lock().unwrap().clone()
    }

    /// Whether this was told of a broker.
    pub(super) fn heard(&self, place: usize, text: &str) -> bool {
        let prefix = format!("{}: ", self.addresses[place]);
        self.events()
            .iter()
            .any(|event| event.strip_prefix(&prefix).is_some_and(|said| said.starts_with(text)))
    }
}

pub(super) fn listening(address: &Address, peer: Peer) -> Driver<Peer> {
    let identity = ReplyDestination::new(1).identity("broker");
    let mut peer = Driver::new(small_driver(), identity, peer).unwrap();
    peer.parts().0.listen(address).unwrap();
    peer
}
