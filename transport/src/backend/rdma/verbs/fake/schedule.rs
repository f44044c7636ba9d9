//! What happens next. One step is one thing: a message of the connection managers arrives, or one request at the head
//! of a send queue is carried out, refused or flushed.
//!
//! There is no time. What a real device does only after a while, because nobody answers, happens when there is nothing
//! else to do.

use super::super::{Event, PrivateData, REJECTION_BYTES_MAX, Status};
use super::connecting::{APPLICATION, Message, NOBODY_LISTENS, Stage, padded};
use super::faults::Fault;
use super::state::{Connection, Key, Port, QueuePairStage, State, errno};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// What becomes of the head of a send queue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outlook {
    /// Nothing, until something else has happened.
    Waits,
    /// It is the device's turn.
    Runs,
    /// Nobody answers.
    TimesOut,
}

/// Why a request does not arrive.
enum Refusal {
    Failed(i32),
    Rejected(i32),
}

enum Next {
    Message(usize),
    Queue(Key),
    Receives(Key),
}

impl State {
    /// Does one thing; false if there is none.
    pub(super) fn step(&mut self) -> bool {
        let mut possible = self.messages_that_can_arrive();
        let mut late = Vec::new();
        for (&key, connection) in &self.connections {
            if self.holds_receives(connection) {
                possible.push(Next::Receives(key));
            }
            match self.outlook(key) {
                Outlook::Waits => {}
                Outlook::Runs => possible.push(Next::Queue(key)),
                Outlook::TimesOut => late.push(key),
            }
        }
        if !possible.is_empty() {
            let chosen = self.random.choose(possible.len());
            match possible.swap_remove(chosen) {
                Next::Message(index) => {
                    let message = self.messages.remove(index).expect("it was found there");
                    self.arrive(message);
                }
                Next::Queue(key) => self.run(key),
                Next::Receives(key) => self.let_go_of_receives(key),
            }
        } else if !late.is_empty() {
            let chosen = self.random.choose(late.len());
            self.time_out(late[chosen]);
        } else {
            return false;
        }
        true
    }

    /// The first one for each connection.
    fn messages_that_can_arrive(&self) -> Vec<Next> {
        let mut seen = BTreeSet::new();
        let first = |(index, message): (usize, &Message)| {
            seen.insert(message.whose()).then_some(Next::Message(index))
        };
        self.messages.iter().enumerate().filter_map(first).collect()
    }

    fn arrive(&mut self, message: Message) {
        let whose = message.whose();
        let Some(connection) = self.connections.get(&whose) else { return };
        let is_connected_to_world = self.is_way_open(connection);
        match message {
            Message::Address(key) => self.address_resolved(key),
            Message::Route(key) => self.route_resolved(key),
            Message::Request { from, greeting } => self.request(from, greeting),
            _ if !is_connected_to_world => self.lose(message),
            Message::Reply { to, greeting } => {
                self.tell(to, |identifier| Event::Established { identifier, greeting })
            }
            Message::Ready { to } => {
                if self.connections[&to].stage == Stage::Accepted {
                    self.set_stage(to, Stage::Connected);
                }
                self.tell(to, |identifier| Event::Established { identifier, greeting: PrivateData::new() });
            }
            Message::Reject { to, status, reason } => {
                self.set_stage(to, Stage::Ended);
                self.fail_queue_pair(to);
                self.tell(to, |identifier| Event::Rejected { identifier, status, reason });
            }
            Message::Disconnect { to } => self.peer_disconnects(to),
            Message::Disconnected { to } => self.disconnected(to),
        }
    }

    /// Whether a connection's own link is up, and its peer's; whether there is a peer is another question.
    fn is_way_open(&self, connection: &Connection) -> bool {
        let is_up_here = self.port(connection).is_none_or(|port| port.is_up && !port.is_removed);
        let ports = || self.ends.iter().flat_map(|end| &end.ports);
        let is_up_at =
            |address: SocketAddr| ports().filter(|port| port.address == address.ip()).all(|port| port.is_up);
        is_up_here && connection.remote.is_none_or(is_up_at)
    }

    /// A message was lost, sent again for a while, and given up.
    fn lose(&mut self, message: Message) {
        let to = message.whose();
        let stage = self.connections[&to].stage;
        match message {
            Message::Address(_) | Message::Route(_) | Message::Request { .. } => {}
            Message::Reply { .. } | Message::Reject { .. } => {
                self.not_connected(to, libc::ETIMEDOUT);
                let peer = self.connections[&to].peer;
                let is_waiting =
                    |peer: &Key| self.connections.get(peer).is_some_and(|peer| peer.stage == Stage::Accepted);
                if let Some(peer) = peer.filter(is_waiting) {
                    self.not_connected(peer, libc::ETIMEDOUT);
                }
            }
            Message::Ready { .. } if stage == Stage::Accepted => self.not_connected(to, libc::ETIMEDOUT),
            Message::Ready { .. } => {}
            // Whoever disconnects stops waiting for an answer.
            Message::Disconnect { .. } => {
                if let Some(peer) = self.connections[&to].peer {
                    self.disconnected(peer);
                }
            }
            Message::Disconnected { .. } => self.disconnected(to),
        }
    }

    fn disconnected(&mut self, key: Key) {
        if self.connections.get(&key).is_some_and(|connection| connection.stage == Stage::Disconnecting) {
            self.set_stage(key, Stage::Ended);
            self.tell(key, Event::Disconnected);
        }
    }

    fn address_resolved(&mut self, key: Key) {
        let fault = self.take_fault(self.connections[&key].end, |fault| match fault {
            Fault::AddressFails(error) => Some(*error),
            _ => None,
        });
        if let Some(error) = fault {
            return self.not_connected(key, error);
        }
        let connection = &self.connections[&key];
        let address = connection.remote.expect("it connects to somewhere");
        let is_up = self.port(connection).is_some_and(|port| port.is_up && !port.is_removed);
        if is_up
            && self
                .ends
                .iter()
                .any(|end| end.ports.iter().any(|port| port.address == address.ip() && port.is_up))
        {
            self.set_stage(key, Stage::AddressResolved);
            self.tell(key, Event::AddressResolved);
        } else {
            self.not_connected(key, libc::EHOSTUNREACH);
        }
    }

    fn route_resolved(&mut self, key: Key) {
        let fault = self.take_fault(self.connections[&key].end, |fault| match fault {
            Fault::RouteFails(error) => Some(*error),
            _ => None,
        });
        if let Some(error) = fault {
            return self.not_connected(key, error);
        }
        self.set_stage(key, Stage::RouteResolved);
        self.tell(key, Event::RouteResolved);
    }

    /// Whether a request gets as far as a connection manager at the other end, and how it fails if not.
    fn request_fails(&mut self, from: Key, remote: SocketAddr) -> Option<Refusal> {
        let end = self.connections[&from].end;
        let fault = self.take_fault(end, |fault| match fault {
            Fault::ConnectFails(error) => Some(Refusal::Failed(*error)),
            Fault::ConnectRejected(status) => Some(Refusal::Rejected(*status)),
            _ => None,
        });
        let is_reached = self.ends.iter().any(|end| end.ports.iter().any(is_at(remote)))
            && self.is_way_open(&self.connections[&from]);
        fault.or((!is_reached).then_some(Refusal::Failed(libc::ETIMEDOUT)))
    }

    fn request(&mut self, from: Key, greeting: PrivateData) {
        let connection = &self.connections[&from];
        let (local, remote) = (connection.local, connection.remote.expect("it connects to somewhere"));
        let parameters = connection.parameters;
        let refuse = |status| Message::Reject {
            to: from,
            status,
            reason: padded(&[], REJECTION_BYTES_MAX).expect("it fits"),
        };
        match self.request_fails(from, remote) {
            None => {}
            Some(Refusal::Failed(error)) => return self.not_connected(from, error),
            Some(Refusal::Rejected(status)) => return self.messages.push_back(refuse(status)),
        }
        let Some(listener) = self.listener_at(remote) else {
            return self.messages.push_back(refuse(NOBODY_LISTENS));
        };
        let listening = &self.connections[&listener];
        let (end, backlog, name) = (listening.end, listening.backlog as usize, listening.identifier);
        if self.ends[end].events.iter().filter(|(whose, _)| *whose == listener).count() >= backlog {
            return self.messages.push_back(refuse(APPLICATION));
        }
        let port = self.ends[end].ports.iter().position(is_at(remote));
        let key = self.insert(end, port, remote, Some(local), Stage::Requested);
        let accepting = self.connections.get_mut(&key).expect("it was put there");
        accepting.peer = Some(from);
        accepting.parameters = parameters;
        let identifier = accepting.identifier;
        self.connections.get_mut(&from).expect("looked at above").peer = Some(key);
        self.ends[end]
            .events
            .push_back((listener, Event::Requested { listener: name, identifier, greeting }));
    }

    fn peer_disconnects(&mut self, key: Key) {
        match self.connections[&key].stage {
            Stage::Connecting | Stage::Connected | Stage::Accepted => {
                self.set_stage(key, Stage::PeerDisconnected)
            }
            // Both at once.
            Stage::Disconnecting => self.set_stage(key, Stage::Ended),
            _ => return,
        }
        self.tell(key, Event::Disconnected);
    }

    pub(super) fn not_connected(&mut self, key: Key, error: i32) {
        self.set_stage(key, Stage::Ended);
        self.tell(key, |identifier| Event::Failed { identifier, error: errno(error) });
    }

    pub(super) fn set_stage(&mut self, key: Key, stage: Stage) {
        self.connections.get_mut(&key).expect("the caller has looked").stage = stage;
    }

    pub(super) fn tell(&mut self, key: Key, event: impl FnOnce(super::super::Identifier) -> Event) {
        let connection = &self.connections[&key];
        let event = event(connection.identifier);
        self.ends[connection.end].events.push_back((key, event));
    }

    /// The event is taken: what `librdmacm` does just then.
    pub(super) fn taken(&mut self, key: Key, event: &Event) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let is_mine = matches!(event, Event::Established { .. })
            && matches!(connection.stage, Stage::Connecting | Stage::PeerDisconnected);
        let Some(queue_pair) = connection.queue_pair.as_mut().filter(|_| is_mine) else { return };
        if queue_pair.stage == QueuePairStage::Initial {
            queue_pair.stage = QueuePairStage::Ready;
            if connection.stage == Stage::Connecting {
                connection.stage = Stage::Connected;
            }
            if let Some(to) = connection.peer {
                self.messages.push_back(Message::Ready { to });
            }
        }
    }

    /// What was posted is flushed, step by step.
    pub(super) fn fail_queue_pair(&mut self, key: Key) {
        if let Some(queue_pair) =
            self.connections.get_mut(&key).and_then(|connection| connection.queue_pair.as_mut())
        {
            queue_pair.stage = QueuePairStage::Failed;
        }
    }

    fn time_out(&mut self, key: Key) {
        let queue_pair = self.connections.get_mut(&key).and_then(|connection| connection.queue_pair.as_mut());
        let entry = queue_pair.and_then(|queue_pair| queue_pair.entries.front()).expect("its head times out");
        if entry.not_ready > 0 { self.run(key) } else { self.finish(key, Status(12)) }
    }
}

/// Whether a port has an address, and works.
fn is_at(address: SocketAddr) -> impl Fn(&Port) -> bool {
    move |port| port.address == address.ip() && port.is_up && !port.is_removed
}
