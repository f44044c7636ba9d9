//! A broker, as it is shipped, and what it is seen to do.

use super::{Actor, Birth, HandlerActor, actor_of, addresses_of, leaks_of};
use crate::coverage::Transition;
use crate::oracle::{ActorId, Oracle};
use crate::world::PRODUCERS_MAX;
use std::io;
use underlay::connection::{AttachRequest, CloseReason, Identity};
use underlay::driver::{ConnectionId, Core, DetachedByPeer, Handler, Leaving, Resumed, Settled};
use underlay::message::Message;
use underlay::proto::handshake::Negotiated;
use underlay::proto::{LANES, LinkId};
use underlay::time::Timestamp;
use underlay_broker::{Broker, Config};

/// A link's room counts beyond what has arrived, and a bulk message counts as arrived with its first chunk, before the
/// broker has it. So each producer may have one in each lane beyond what was meant.
const UNFINISHED_MAX: u64 = PRODUCERS_MAX * LANES as u64;

/// A broker's process.
#[derive(Debug)]
pub(crate) struct BrokerActor {
    inner: HandlerActor<Watched>,
    queues: Vec<(String, u64)>,
}

/// A broker whose events the oracle hears of.
#[derive(Debug)]
struct Watched {
    broker: Broker,
    me: ActorId,
    oracle: Oracle,
    /// By connection, which one it is and who is at its other end.
    peers: Vec<Option<(ConnectionId, ActorId)>>,
}

impl BrokerActor {
    pub(crate) fn start(birth: Birth, config: &Config) -> Self {
        let identity = Identity { process: birth.process(), name: "broker".to_owned() };
        let (simulated, rest) = birth.split();
        let (me, oracle) = (rest.me, rest.oracle);
        let watched = Watched { broker: Broker::new(config), me, oracle, peers: Vec::new() };
        let mut inner = HandlerActor::new(simulated, identity, rest.config, watched);
        let (core, watched) = inner.driver.parts();
        for address in addresses_of(me) {
            match core.listen(&address) {
                Ok((listener, _)) => watched.broker.owns_listener(address, listener),
                Err(error) => watched.oracle.ledger().fail(format!("a broker does not listen: {error}")),
            }
        }
        let queues = &config.settings().queue;
        let queues = queues.iter().map(|queue| (queue.name.clone(), queue.messages_max)).collect();
        Self { inner, queues }
    }
}

impl Actor for BrokerActor {
    fn turn(&mut self, now: Timestamp) -> io::Result<bool> {
        self.inner.driver.set_time(now);
        self.inner.driver.turn()
    }

    fn next_due(&mut self) -> Timestamp {
        self.inner.driver.next_due()
    }

    fn close(&mut self) {
        let (core, watched) = self.inner.driver.parts();
        let mut ledger = watched.oracle.ledger();
        for other in ledger.actors() {
            ledger.closing(watched.me, other, true);
        }
        drop(ledger);
        watched.broker.shut_down(core);
    }

    fn is_closed(&mut self) -> bool {
        self.inner.driver.parts().0.connections() == 0
    }

    fn leaks(&mut self) -> Vec<String> {
        let mut leaks = leaks_of(&mut self.inner.driver);
        let stats = self.inner.driver.parts().1.broker.stats();
        for queue in &stats.queues {
            let figures = [queue.depth, queue.bytes, queue.granted, queue.producers, queue.consumers];
            if figures != [0; 5] {
                leaks.push(format!(
                    "queue '{}' has depth, bytes, granted, producers and consumers {figures:?}",
                    queue.name
                ));
            }
        }
        leaks
    }

    fn backlog(&mut self) -> u64 {
        self.inner.driver.parts().1.broker.stats().queues.iter().map(|queue| queue.depth).sum()
    }

    fn unrest(&mut self) -> Option<String> {
        let (core, watched) = self.inner.driver.parts();
        let sessions = watched.peers.iter().flatten();
        let unacknowledged: usize = sessions.map(|(session, _)| core.unacknowledged(*session)).sum();
        (unacknowledged > 0).then(|| format!("{unacknowledged} messages are unacknowledged"))
    }

    /// What a queue has and has granted never exceeds its bound, and nothing is dropped that could have been kept.
    fn wrong(&mut self) -> Option<String> {
        let stats = self.inner.driver.parts().1.broker.stats();
        for (queue, (name, messages_max)) in stats.queues.iter().zip(&self.queues) {
            if queue.depth + queue.granted > *messages_max + UNFINISHED_MAX {
                let (depth, granted) = (queue.depth, queue.granted);
                return Some(format!(
                    "queue '{name}' has {depth} and has granted {granted} of {messages_max}"
                ));
            }
        }
        let dropped = [
            ("hop_limit", stats.hop_limit),
            ("shares_dropped", stats.shares_dropped),
            ("consumers_too_small", stats.consumers_too_small),
            ("replies_unsolicited", stats.replies_unsolicited),
            ("replies_overflowed", stats.replies_overflowed),
            ("replies_too_long", stats.replies_too_long),
        ];
        let dropped = dropped.iter().find(|(_, count)| *count > 0);
        dropped.map(|(name, count)| format!("the broker has dropped something: {name} {count}"))
    }
}

impl Watched {
    fn peer(&self, connection: ConnectionId) -> Option<ActorId> {
        self.peers.get(connection.index()).copied().flatten().map(|(_, peer)| peer)
    }
}

impl Handler for Watched {
    fn opened(&mut self, core: &mut Core, connection: ConnectionId, peer: &Negotiated) {
        if self.peers.len() <= connection.index() {
            self.peers.resize(connection.index() + 1, None);
        }
        let actor = actor_of(&peer.peer);
        self.peers[connection.index()] = Some((connection, actor));
        self.oracle.ledger().opened(self.me, actor);
        self.broker.opened(core, connection, peer);
    }

    fn attach_requested(&mut self, core: &mut Core, connection: ConnectionId, request: AttachRequest) {
        self.broker.attach_requested(core, connection, request);
    }

    fn attached(&mut self, core: &mut Core, connection: ConnectionId, link: LinkId) {
        self.broker.attached(core, connection, link);
    }

    fn detached(&mut self, core: &mut Core, connection: ConnectionId, detached: DetachedByPeer) {
        self.broker.detached(core, connection, detached);
    }

    fn message(&mut self, core: &mut Core, connection: ConnectionId, message: Message) {
        self.broker.message(core, connection, message);
    }

    fn writable(&mut self, core: &mut Core, connection: ConnectionId, link: LinkId) {
        self.broker.writable(core, connection, link);
    }

    fn closed(&mut self, core: &mut Core, connection: ConnectionId, reason: &CloseReason) {
        let peer = self.peer(connection);
        if let Some(entry) = self.peers.get_mut(connection.index()) {
            *entry = None;
        }
        self.oracle.ledger().closed(self.me, peer, reason);
        self.broker.closed(core, connection, reason);
    }

    fn interrupted(&mut self, core: &mut Core, connection: ConnectionId, reason: &CloseReason) {
        self.oracle.ledger().lost_connection(self.me, reason);
        self.broker.interrupted(core, connection, reason);
    }

    fn resumed(&mut self, core: &mut Core, connection: ConnectionId, resumed: &Resumed) {
        self.oracle.ledger().transition(self.me, Transition::Resumed);
        self.broker.resumed(core, connection, resumed);
    }

    fn leaving(&mut self, core: &mut Core, connection: ConnectionId, leaving: &Leaving) {
        self.broker.leaving(core, connection, leaving);
    }

    fn settled(&mut self, core: &mut Core, connection: ConnectionId, settled: Settled) {
        self.oracle.ledger().transition(self.me, Transition::Settled);
        self.broker.settled(core, connection, settled);
    }

    fn take_submissions(&mut self, core: &mut Core) -> bool {
        self.broker.take_submissions(core)
    }

    fn timer(&mut self, core: &mut Core, key: usize) {
        self.broker.timer(core, key);
    }
}
