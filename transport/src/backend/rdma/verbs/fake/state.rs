//! What a network of fake devices consists of. No behaviour here beyond finding things.

use super::super::{
    Beside, Completion, ConnectParameters, DeviceLimits, DeviceSizes, Event, Identifier, Operation, Part,
    QueuePairSizes,
};
use super::connecting::{Message, Stage};
use super::control::Left;
use super::faults::Fault;
use super::random::Random;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// Names a connection or listener for ever, unlike an [`Identifier`], whose number is used again.
pub(super) type Key = u64;

pub(super) struct State {
    pub(super) random: Random,
    pub(super) moves_by_itself: bool,
    /// One in so many calls is disturbed; 0 for none.
    pub(super) disturbed_one_in: u64,
    pub(super) ends: Vec<End>,
    pub(super) connections: BTreeMap<Key, Connection>,
    /// What the connection managers have to say to each other and to themselves.
    pub(super) messages: VecDeque<Message>,
    /// Counts up, so that no name comes twice: keys, queue pairs, regions, windows, ports.
    pub(super) next: u32,
    /// Calls that a real device may answer with anything.
    pub(super) misuses: Vec<String>,
}

/// One process: what a `FakeVerbs` stands on.
pub(super) struct End {
    pub(super) ports: Vec<Port>,
    /// By [`Device`](super::super::Device).
    pub(super) contexts: Vec<Context>,
    /// By [`Identifier`].
    pub(super) identifiers: Vec<Option<Key>>,
    pub(super) events: VecDeque<(Key, Event)>,
    pub(super) events_held: bool,
    pub(super) regions: BTreeMap<u32, RegionState>,
    pub(super) windows: BTreeMap<u32, WindowState>,
    pub(super) faults: Vec<Fault>,
    pub(super) descriptor: Rc<OwnedFd>,
    pub(super) is_readable: bool,
    pub(super) is_readable_without_reason: bool,
    pub(super) left_at_death: Option<Left>,
}

/// What a device is, before anybody has opened it.
#[derive(Debug, Clone)]
pub(in crate::backend::rdma) struct DeviceKind {
    pub(in crate::backend::rdma) limits: DeviceLimits,
    /// The most bytes that a request can carry itself.
    pub(in crate::backend::rdma) inline_bytes_max: u32,
    pub(in crate::backend::rdma) packet_bytes: u32,
    /// Whether the completions of a queue pair that is destroyed go with it, those of receive requests as well, whose
    /// places in their queue are free then (`mlx5_cq_clean` of `libmlx5`); else they stay, as on `rxe`.
    pub(in crate::backend::rdma) forgets_completions: bool,
    /// Whether it says of a queue pair that has failed that this takes no receive request any more. `rxe` of Linux 6.1
    /// does not.
    pub(in crate::backend::rdma) says_last_receive: bool,
}

pub(super) struct Port {
    pub(super) address: IpAddr,
    pub(super) kind: DeviceKind,
    pub(super) is_up: bool,
    pub(super) is_removed: bool,
}

/// A device that was opened.
pub(super) struct Context {
    pub(super) port: usize,
    pub(super) sizes: DeviceSizes,
    pub(super) completions: VecDeque<Queued>,
    /// So many at the end of `completions` are not to be seen yet.
    pub(super) hidden: usize,
    pub(super) completions_held: bool,
    /// The most that one call takes.
    pub(super) taken_at_once_max: usize,
    pub(super) is_armed: bool,
    pub(super) is_notified: bool,
    /// Its notifications make nothing readable any more.
    pub(super) is_unwatched: bool,
    pub(super) receives: VecDeque<ReceiveEntry>,
    /// Receive requests whose completion was not taken: their places in the queue are not free.
    pub(super) receives_used: u32,
    pub(super) overflows: u64,
    /// From the first that was dropped.
    pub(super) is_overrun: bool,
    /// Sends that found no receive request here.
    pub(super) not_ready: u64,
    /// Receive requests that a queue pair had begun to fill when it was destroyed. Nobody ever hears of them again.
    pub(super) receives_lost: u64,
}

pub(super) struct Queued {
    pub(super) completion: Completion,
    /// The send queue and the place in it, or nothing for a receive request.
    pub(super) sent: Option<(Key, u64)>,
}

pub(super) struct ReceiveEntry {
    pub(super) work: u64,
    pub(super) parts: Vec<Part>,
}

pub(super) struct RegionState {
    pub(super) device: u32,
    pub(super) key: u32,
    pub(super) address: u64,
    pub(super) bytes: u64,
    /// The queue pair whose protection domain it is in, if not in the device's; its peer may read it.
    pub(super) domain: Option<Key>,
}

pub(super) struct WindowState {
    pub(super) device: u32,
    /// By which it was opened last, or the one that it came with.
    pub(super) key: u32,
    pub(super) open: Option<Opening>,
}

pub(super) struct Opening {
    pub(super) connection: Key,
    pub(super) region: u32,
    pub(super) address: u64,
    pub(super) bytes: u64,
}

pub(super) struct Connection {
    pub(super) end: usize,
    pub(super) identifier: Identifier,
    /// `None` for a listener at no address in particular.
    pub(super) port: Option<usize>,
    pub(super) local: SocketAddr,
    pub(super) remote: Option<SocketAddr>,
    pub(super) backlog: u32,
    pub(super) stage: Stage,
    pub(super) peer: Option<Key>,
    pub(super) parameters: Option<ConnectParameters>,
    pub(super) queue_pair: Option<QueuePairState>,
    /// How long acknowledgements are waited for, if it was set.
    pub(super) acknowledgement_doublings: Option<u8>,
    /// It is none by itself, but a queue pair beside that of this one.
    pub(super) of: Option<(Key, Beside)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum QueuePairStage {
    Initial,
    Ready,
    Failed,
}

pub(super) struct QueuePairState {
    pub(super) number: u32,
    pub(super) device: u32,
    pub(super) sizes: QueuePairSizes,
    pub(super) stage: QueuePairStage,
    /// What is not done yet.
    pub(super) entries: VecDeque<Entry>,
    /// How many were posted, and how many of them are known to be done.
    pub(super) posted: u64,
    pub(super) retired: u64,
    pub(super) last_signaled: Option<u64>,
    /// Nothing of it is carried out.
    pub(super) is_held: bool,
    /// The receive request that a send of the peer's is on its way into: part of it has come.
    pub(super) in_hand: Option<ReceiveEntry>,
    pub(super) last_receive: LastReceive,
}

/// Whether a device has said of a queue pair that it takes no receive request any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LastReceive {
    NotYet,
    /// And the program has not looked.
    OnItsWay,
    Said,
}

#[derive(Clone)]
pub(super) struct Entry {
    pub(super) place: u64,
    pub(super) work: u64,
    pub(super) operation: Operation,
    pub(super) parts: Vec<Part>,
    /// Taken when it was posted.
    pub(super) inline: Option<Vec<u8>>,
    pub(super) is_signaled: bool,
    /// How often it found no receive request.
    pub(super) not_ready: u8,
}

impl State {
    pub(super) fn draw_name(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    pub(super) fn key(&self, end: usize, identifier: Identifier) -> io::Result<Key> {
        let found = self.ends[end].identifiers.get(identifier.0 as usize).copied().flatten();
        found.ok_or_else(|| errno(libc::EINVAL))
    }

    pub(super) fn port(&self, connection: &Connection) -> Option<&Port> {
        connection.port.map(|port| &self.ends[connection.end].ports[port])
    }

    /// The device of an identifier, or why there is none.
    pub(super) fn live_port(&self, key: Key) -> io::Result<&Port> {
        let connection = &self.connections[&key];
        // The device is known with the address, and never for a listener at all addresses.
        let port = self.port(connection).filter(|_| connection.stage != Stage::Resolving);
        port.filter(|port| !port.is_removed).ok_or_else(|| errno(libc::ENODEV))
    }

    pub(super) fn context(&mut self, end: usize, device: u32) -> io::Result<&mut Context> {
        self.ends[end].contexts.get_mut(device as usize).ok_or_else(|| errno(libc::EINVAL))
    }
}

impl Context {
    pub(super) fn visible(&self) -> usize {
        self.completions.len() - self.hidden
    }

    /// Drops what a queue pair has to say.
    pub(super) fn forget_completions(&mut self, queue_pair: u32) {
        let visible = self.visible();
        let mut place = 0;
        self.completions.retain(|queued| {
            let stays = queued.completion.queue_pair != queue_pair;
            if !stays {
                self.hidden -= usize::from(place >= visible);
                self.receives_used -= u32::from(queued.sent.is_none());
            }
            place += 1;
            stays
        });
    }
}

pub(super) fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}
