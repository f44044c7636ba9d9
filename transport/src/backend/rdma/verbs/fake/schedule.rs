//! What happens next. One step is one thing: a message of the connection managers arrives, or one request at the head
//! of a send queue is carried out, refused or flushed.
//!
//! There is no time. What a real device does only after a while, because nobody answers, happens when there is nothing
//! else to do.

use super::super::{Event, PrivateData, REJECTION_BYTES_MAX, Status};
use super::connecting::{APPLICATION, Message, NOBODY_LISTENS, Stage, padded};
use super::state::{Key, QueuePairStage, State, errno};
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

enum Next {
    Message(usize),
    Queue(Key),
}

impl State {
    /// Does one thing; false if there is none.
    pub(super) fn step(&mut self) -> bool {
        let mut possible = self.messages_that_can_arrive();
        let mut late = Vec::new();
        for &key in self.connections.keys() {
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
        let is_connected_to_world = self.port(connection).is_none_or(|port| port.is_up && !port.is_removed);
        match message {
            Message::Address(key) => self.address_resolved(key),
            Message::Route(key) => self.route_resolved(key),
            Message::Request { from, greeting } => self.request(from, greeting),
            // Lost, and repeated for a while, and given up.
            _ if !is_connected_to_world => {}
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
            Message::Disconnected { to } => {
                if self.connections[&to].stage == Stage::Disconnecting {
                    self.set_stage(to, Stage::Ended);
                    self.tell(to, Event::Disconnected);
                }
            }
        }
    }

    fn address_resolved(&mut self, key: Key) {
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
        self.set_stage(key, Stage::RouteResolved);
        self.tell(key, Event::RouteResolved);
    }

    fn request(&mut self, from: Key, greeting: PrivateData) {
        let connection = &self.connections[&from];
        let (local, remote) = (connection.local, connection.remote.expect("it connects to somewhere"));
        let parameters = connection.parameters;
        let at = |address: SocketAddr| {
            move |port: &super::state::Port| port.address == address.ip() && port.is_up && !port.is_removed
        };
        let is_reached = self.ends.iter().any(|end| end.ports.iter().any(at(remote)));
        if !is_reached || !self.port(connection).is_some_and(at(local)) {
            return self.not_connected(from, libc::ETIMEDOUT);
        }
        let refuse = |status| Message::Reject {
            to: from,
            status,
            reason: padded(&[], REJECTION_BYTES_MAX).expect("it fits"),
        };
        let Some(listener) = self.listener_at(remote) else {
            return self.messages.push_back(refuse(NOBODY_LISTENS));
        };
        let listening = &self.connections[&listener];
        let (end, backlog, name) = (listening.end, listening.backlog as usize, listening.identifier);
        if self.ends[end].events.iter().filter(|(whose, _)| *whose == listener).count() >= backlog {
            return self.messages.push_back(refuse(APPLICATION));
        }
        let port = self.ends[end].ports.iter().position(at(remote));
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
