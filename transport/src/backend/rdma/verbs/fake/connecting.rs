//! The connection manager: from an address to an established connection and to its end.
//!
//! Modelled after the kernel's (`drivers/infiniband/core/{cma,cm,ucma}.c`) and `librdmacm`, in what a program can
//! see: private data arrives padded with zeros; the connecting end's queue pair becomes ready when its program *takes*
//! the event (`ucma_process_conn_resp`), and only then the accepting end is told; the end that disconnects has an
//! event itself once its peer has disconnected or destroyed, too.

use super::super::{
    ConnectParameters, Event, GREETING_BYTES_MAX, Identifier, PrivateData, REJECTION_BYTES_MAX,
};
use super::state::{Connection, Key, Port, QueuePairStage, State, WindowState, errno};
use std::io;
use std::net::SocketAddr;

/// `IB_CM_REJ_TIMEOUT`: the connecting end gave up.
pub(super) const GAVE_UP: i32 = 4;
/// `IB_CM_REJ_INVALID_SERVICE_ID`: nobody listens.
pub(super) const NOBODY_LISTENS: i32 = 8;
/// `IB_CM_REJ_CONSUMER_DEFINED`: the application's doing.
pub(super) const APPLICATION: i32 = 28;

/// The first port that is given to a listener that asks for any.
const PORT_FIRST: u16 = 20_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Listening,
    Resolving,
    AddressResolved,
    Routing,
    RouteResolved,
    /// It has asked, and has not taken the answer.
    Connecting,
    /// Asked, and not answered.
    Requested,
    /// Answered, and not confirmed by the peer.
    Accepted,
    Connected,
    /// This end has disconnected.
    Disconnecting,
    /// The peer has.
    PeerDisconnected,
    Ended,
}

#[derive(Debug)]
pub(super) enum Message {
    Address(Key),
    Route(Key),
    Request { from: Key, greeting: PrivateData },
    Reply { to: Key, greeting: PrivateData },
    Ready { to: Key },
    Reject { to: Key, status: i32, reason: PrivateData },
    Disconnect { to: Key },
    Disconnected { to: Key },
}

impl Message {
    /// Whose it is: messages for one connection keep their order.
    pub(super) fn whose(&self) -> Key {
        match *self {
            Message::Address(key) | Message::Route(key) | Message::Request { from: key, .. } => key,
            Message::Reply { to, .. }
            | Message::Ready { to }
            | Message::Reject { to, .. }
            | Message::Disconnect { to }
            | Message::Disconnected { to } => to,
        }
    }
}

impl State {
    /// A new connection or listener, under the lowest number that is free.
    pub(super) fn insert(
        &mut self,
        end: usize,
        port: Option<usize>,
        local: SocketAddr,
        remote: Option<SocketAddr>,
        stage: Stage,
    ) -> Key {
        let key = Key::from(self.draw_name());
        let numbers = &mut self.ends[end].identifiers;
        let number = numbers.iter().position(Option::is_none).unwrap_or(numbers.len());
        if number == numbers.len() {
            numbers.push(None);
        }
        numbers[number] = Some(key);
        let identifier = Identifier(number as u32);
        let connection = Connection {
            end,
            identifier,
            port,
            local,
            remote,
            backlog: 0,
            stage,
            peer: None,
            parameters: None,
            queue_pair: None,
            acknowledgement_doublings: None,
            of: None,
        };
        self.connections.insert(key, connection);
        key
    }

    pub(super) fn listen(&mut self, end: usize, mut address: SocketAddr, backlog: u32) -> io::Result<Key> {
        let ports = &self.ends[end].ports;
        let port = ports.iter().position(|port| port.address == address.ip());
        if port.is_none() && !address.ip().is_unspecified() {
            return Err(errno(libc::EADDRNOTAVAIL));
        }
        if port.is_some_and(|port| ports[port].is_removed) {
            return Err(errno(libc::ENODEV));
        }
        if address.port() == 0 {
            address.set_port(PORT_FIRST + self.draw_name() as u16 % 40_000);
        }
        if self.listener_at(address).is_some() {
            return Err(errno(libc::EADDRINUSE));
        }
        let key = self.insert(end, port, address, None, Stage::Listening);
        self.connections.get_mut(&key).expect("it was put there").backlog = backlog.max(1);
        Ok(key)
    }

    /// Begins to connect, to an address that nobody may have.
    pub(super) fn resolve(
        &mut self,
        end: usize,
        address: SocketAddr,
        source: Option<SocketAddr>,
    ) -> io::Result<Key> {
        let ports = &self.ends[end].ports;
        let is_meant = |port: &Port| match source {
            Some(source) => port.address == source.ip(),
            None => port.address.is_ipv4() == address.is_ipv4(),
        };
        let works = |port: &Port| is_meant(port) && !port.is_removed;
        let port = ports.iter().position(works).or_else(|| ports.iter().position(is_meant));
        let port =
            port.ok_or_else(|| errno(if source.is_some() { libc::EADDRNOTAVAIL } else { libc::ENODEV }))?;
        let local = SocketAddr::new(ports[port].address, 0);
        let key = self.insert(end, Some(port), local, Some(address), Stage::Resolving);
        self.messages.push_back(Message::Address(key));
        Ok(key)
    }

    /// Moves on from one stage to the next, or refuses as the connection manager does.
    pub(super) fn advance(&mut self, key: Key, from: Stage, to: Stage) -> io::Result<()> {
        self.live_port(key)?;
        let connection = self.connections.get_mut(&key).ok_or_else(|| errno(libc::EINVAL))?;
        if connection.stage != from {
            return Err(errno(libc::EINVAL));
        }
        connection.stage = to;
        Ok(())
    }

    pub(super) fn accept(
        &mut self,
        key: Key,
        parameters: &ConnectParameters,
        greeting: &[u8],
    ) -> io::Result<()> {
        if greeting.len() > GREETING_BYTES_MAX {
            return Err(errno(libc::EINVAL));
        }
        let greeting = padded(greeting, PrivateData::new().capacity())?;
        self.check_parameters(key, parameters)?;
        self.advance(key, Stage::Requested, Stage::Accepted)?;
        let connection = self.connections.get_mut(&key).expect("it moved on");
        // How often packets are sent again is chosen by the end that connects, for both (`cm_req_get_retry_count` of
        // the kernel's `cm.c`); how often a send is that finds no receive request, by whoever should have had one.
        let retry_count = connection.parameters.map_or(0, |asked| asked.retry_count);
        connection.parameters = Some(ConnectParameters { retry_count, ..*parameters });
        connection.queue_pair.as_mut().expect("checked").stage = QueuePairStage::Ready;
        let to = connection.peer.expect("a request has a peer");
        self.messages.push_back(Message::Reply { to, greeting });
        Ok(())
    }

    /// Needs a queue pair, and no more reads than the device can do.
    pub(super) fn check_parameters(&self, key: Key, parameters: &ConnectParameters) -> io::Result<()> {
        let limits = &self.live_port(key)?.kind.limits;
        let fits = self.connections[&key].queue_pair.is_some()
            && parameters.retry_count <= 7
            && parameters.rnr_retry_count <= 7
            && u32::from(parameters.reads_started) <= limits.reads_started_max
            && u32::from(parameters.reads_answered) <= limits.reads_answered_max;
        if fits { Ok(()) } else { Err(errno(libc::EINVAL)) }
    }

    pub(super) fn reject(&mut self, key: Key, reason: &[u8]) -> io::Result<()> {
        let reason = padded(reason, REJECTION_BYTES_MAX)?;
        self.advance(key, Stage::Requested, Stage::Ended)?;
        let to = self.connections[&key].peer.expect("a request has a peer");
        self.messages.push_back(Message::Reject { to, status: APPLICATION, reason });
        Ok(())
    }

    pub(super) fn disconnect(&mut self, key: Key) -> io::Result<()> {
        self.fail_queue_pair(key);
        for beside in self.besides(key) {
            self.fail_queue_pair(beside);
        }
        let connection = self.connections.get_mut(&key).ok_or_else(|| errno(libc::EINVAL))?;
        let to = connection.peer.ok_or_else(|| errno(libc::EINVAL))?;
        match connection.stage {
            Stage::Accepted | Stage::Connected => {
                connection.stage = Stage::Disconnecting;
                self.messages.push_back(Message::Disconnect { to });
            }
            Stage::PeerDisconnected => {
                connection.stage = Stage::Ended;
                self.messages.push_back(Message::Disconnected { to });
            }
            _ => return Err(errno(libc::EINVAL)),
        }
        Ok(())
    }

    pub(super) fn destroy(&mut self, key: Key) {
        self.destroy_besides(key);
        let Some(connection) = self.connections.remove(&key) else { return };
        self.forget_queue_pair(key, &connection);
        let end = &mut self.ends[connection.end];
        end.identifiers[connection.identifier.0 as usize] = None;
        let mut unseen = Vec::new();
        end.events.retain(|(whose, event)| {
            if let (Event::Requested { identifier, .. }, true) = (event, *whose == key) {
                unseen.push(*identifier);
            }
            *whose != key
        });
        if let Some(to) = connection.peer {
            let empty = padded(&[], REJECTION_BYTES_MAX).expect("it fits");
            self.messages.extend(match connection.stage {
                Stage::Accepted | Stage::Connected => Some(Message::Disconnect { to }),
                Stage::PeerDisconnected => Some(Message::Disconnected { to }),
                Stage::Requested => Some(Message::Reject { to, status: APPLICATION, reason: empty }),
                Stage::Connecting => Some(Message::Reject { to, status: GAVE_UP, reason: empty }),
                _ => None,
            });
        }
        for identifier in unseen {
            if let Ok(key) = self.key(connection.end, identifier) {
                self.destroy(key);
            }
        }
    }

    /// What goes with a queue pair beyond what it had posted.
    fn forget_queue_pair(&mut self, key: Key, connection: &Connection) {
        let Some(queue_pair) = &connection.queue_pair else { return };
        let end = connection.end;
        let is_open = |window: &&WindowState| window.open.as_ref().is_some_and(|open| open.connection == key);
        for window in self.ends[end].windows.values().filter(is_open) {
            // On `rxe` it waits for the window, and in vain (`rxe_do_bind_mw` holds the queue pair).
            self.misuses.push(format!(
                "end {end} destroyed a queue pair with an open window (key {:#x})",
                window.key
            ));
        }
        let Some(port) = self.port(connection) else { return };
        let (forgets_completions, is_removed) = (port.kind.forgets_completions, port.is_removed);
        let context = &mut self.ends[end].contexts[queue_pair.device as usize];
        if forgets_completions {
            context.forget_completions(queue_pair.number);
        }
        // Where nothing comes back, nothing is lost.
        context.receives_lost +=
            u64::from(queue_pair.in_hand.is_some() && !is_removed && !context.is_overrun);
    }

    pub(super) fn listener_at(&self, address: SocketAddr) -> Option<Key> {
        let is_it = |connection: &Connection| {
            connection.stage == Stage::Listening
                && connection.local.port() == address.port()
                && (connection.local.ip() == address.ip()
                    || (connection.local.ip().is_unspecified()
                        && self.ends[connection.end].ports.iter().any(|port| port.address == address.ip())))
        };
        self.connections.iter().find(|(_, connection)| is_it(connection)).map(|(key, _)| *key)
    }
}

/// As it arrives.
pub(super) fn padded(bytes: &[u8], length: usize) -> io::Result<PrivateData> {
    let mut data = PrivateData::new();
    if bytes.len() > length || data.try_extend_from_slice(bytes).is_err() {
        return Err(errno(libc::EINVAL));
    }
    data.extend(std::iter::repeat_n(0, length - bytes.len()));
    Ok(data)
}
