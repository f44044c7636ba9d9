//! The seam to the device: what this wire asks of RDMA verbs and of `rdma_cm`, and no more.
//!
//! [`Verbs`] has two implementations: `real`, over `rdma-sys`, and `fake`, a network of devices within a test that is
//! deterministic and can be told to fail. Everything above the seam is written once and tested over both.
//!
//! The terms are those of the verbs manual pages (`ibv_post_send(3)`, `rdma_cm(7)`), the handles are small numbers
//! instead of pointers: whoever implements the seam owns the objects, and a number that names nothing is refused
//! with an error and touches nothing. What remains unsafe is what is unsafe about RDMA: a device reads and writes
//! memory after a call has returned ([`Verbs::post`], [`Verbs::post_receives`]).
//!
//! Nothing here blocks. Errors are the system's: `errno` as [`io::Error`].

#[cfg(all(test, not(loom)))]
mod contract;
#[cfg(all(test, not(loom)))]
pub(super) mod fake;
pub(super) mod real;
mod status;

pub(super) use status::Status;

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// The most bytes that can go with a request to connect, of what the connection manager leaves for it in the TCP port
/// space (`rdma_connect(3)`).
pub(super) const GREETING_BYTES_MAX: usize = 56;

/// The most bytes that can go with a rejection (`rdma_reject(3)`).
pub(super) const REJECTION_BYTES_MAX: usize = 148;

/// Bytes that the connection manager carries for us. What arrives may be padded with zeros.
pub(super) type PrivateData = arrayvec::ArrayVec<u8, 196>;

/// A connection identifier (`rdma_cm_id`): of a listener, or of a connection with its queue pair. The number is used
/// again after [`Verbs::destroy`], and small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Identifier(pub(super) u32);

/// A device that was opened, with its protection domain, completion queue, completion channel and shared receive
/// queue. Numbered from 0, and never forgotten while the seam is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Device(pub(super) u32);

/// A memory region (`ibv_mr`) of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    /// Names it to the seam.
    pub(super) number: u32,
    /// `lkey`: by which this end's work requests name it.
    pub(super) key: u32,
}

/// A type 2 memory window (`ibv_mw`) of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    /// Names it to the seam.
    pub(super) number: u32,
    /// `rkey` before the first binding. Its low byte is the caller's to change with each binding.
    pub(super) key: u32,
}

/// What a device can do, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeviceLimits {
    /// Its name, as in `ibv_devices(1)`.
    pub(super) name: String,
    /// `max_qp`.
    pub(super) queue_pairs_max: u32,
    /// `max_qp_wr`.
    pub(super) sends_max: u32,
    /// `max_sge`.
    pub(super) parts_max: u32,
    /// `max_cqe`.
    pub(super) completions_max: u32,
    /// `max_srq_wr`; 0 if it has no shared receive queues.
    pub(super) receives_max: u32,
    /// `max_srq_sge`.
    pub(super) receive_parts_max: u32,
    /// `max_qp_init_rd_atom`: reads that this end may have in flight on one queue pair.
    pub(super) reads_started_max: u32,
    /// `max_qp_rd_atom`: reads of the peer's that it can answer at a time.
    pub(super) reads_answered_max: u32,
    /// `max_mw`, or 0 without `IBV_DEVICE_MEM_WINDOW_TYPE_2B` (and `2A`).
    pub(super) windows_max: u32,
    /// Whether a window keeps its peer within its own bounds, and not only within those of the region beneath. On
    /// soft-RoCE it does not (`check_rkey` in the kernel's `rxe_resp.c`).
    pub(super) windows_have_bounds: bool,
}

/// How large a device's shared objects are to be made. More than the device can do is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeviceSizes {
    /// Entries of the completion queue.
    pub(super) completions: u32,
    /// Entries of the shared receive queue.
    pub(super) receives: u32,
    /// Parts of one receive request.
    pub(super) receive_parts: u32,
}

/// How a queue pair is to be made, and how it was made: the device may give more than it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueuePairSizes {
    /// `max_send_wr`: work requests that it holds until they are known to be done.
    pub(super) sends: u32,
    /// `max_send_sge`: parts of one of them.
    pub(super) parts: u32,
    /// `max_inline_data`: bytes that a request can carry itself, so that its memory is free at once.
    pub(super) inline_bytes: u32,
}

/// A queue pair that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueuePair {
    /// Its number on its device, as completions name it.
    pub(super) number: u32,
    /// What the device gave.
    pub(super) sizes: QueuePairSizes,
}

/// The queue pairs beside that of a connection, for one-sided reads between devices without windows. They have no receive
/// requests, and the connection manager knows nothing of them: the ends tell each other their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Beside {
    /// By which this end reads, into memory of its device's protection domain.
    Reading,
    /// By which the peer reads, in a protection domain of that peer's own: it reaches what was registered by
    /// [`Verbs::register_for_peer`] and nothing else, and no other peer reaches that.
    Answering,
}

/// By what the peer finds a queue pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueuePairName {
    /// Its number on its device: 24 bits, and never 0.
    pub(super) number: u32,
    /// The number of the first packet that it sends (`sq_psn`): 24 bits, another each time, so that a packet of an
    /// earlier queue pair of the same number is not taken for one of this.
    pub(super) first_packet: u32,
}

/// What both ends agree on when they connect (`rdma_connect(3)`, `rdma_accept(3)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConnectParameters {
    /// `retry_count`, 0 to 7: how often a packet is sent again that nobody acknowledges. On soft-RoCE 7 means for ever.
    pub(super) retry_count: u8,
    /// `rnr_retry_count`, 0 to 7: how often a send is tried again that finds no receive request. 7 means for ever.
    pub(super) rnr_retry_count: u8,
    /// `responder_resources`: reads of the peer's that this end answers at a time.
    pub(super) reads_answered: u8,
    /// `initiator_depth`: reads that this end has in flight at a time.
    pub(super) reads_started: u8,
}

/// What the connection manager has to tell.
#[derive(Debug)]
pub(super) enum Event {
    /// The address was resolved, and with it the device; the route is next.
    AddressResolved(Identifier),
    /// The route was resolved; a queue pair and [`Verbs::connect`] are next.
    RouteResolved(Identifier),
    /// A peer wants to connect to a listener. The identifier is new: it is accepted or rejected, or destroyed.
    Requested {
        /// Whose.
        listener: Identifier,
        /// The connection's.
        identifier: Identifier,
        /// What the peer says.
        greeting: PrivateData,
    },
    /// The connection is up. To the end that connected, with what the acceptor said.
    Established {
        /// Which.
        identifier: Identifier,
        /// What the peer says, empty at the acceptor.
        greeting: PrivateData,
    },
    /// The peer does not accept.
    Rejected {
        /// Which.
        identifier: Identifier,
        /// Why, in the words of the transport (`rdma_get_cm_event(3)`): 8 is that nobody
        /// listens, 10 a stale connection, 28 the application's.
        status: i32,
        /// What the peer says.
        reason: PrivateData,
    },
    /// It did not come up.
    Failed {
        /// Which.
        identifier: Identifier,
        /// Why.
        error: io::Error,
    },
    /// The peer has disconnected, or is gone.
    Disconnected(Identifier),
    /// The device of this connection or listener is being removed. It must be destroyed: the removal waits for it.
    DeviceRemoved(Identifier),
}

impl Event {
    /// Of which listener or connection it tells.
    pub(super) fn whose(&self) -> Identifier {
        match self {
            Self::AddressResolved(identifier)
            | Self::RouteResolved(identifier)
            | Self::Requested { listener: identifier, .. }
            | Self::Established { identifier, .. }
            | Self::Rejected { identifier, .. }
            | Self::Failed { identifier, .. }
            | Self::Disconnected(identifier)
            | Self::DeviceRemoved(identifier) => *identifier,
        }
    }
}

/// One part of a gather or scatter list (`ibv_sge`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Part {
    /// Its first byte.
    pub(super) address: u64,
    /// Its length.
    pub(super) bytes: u32,
    /// [`Region::key`] of a region that it lies in. Means nothing in an inline send.
    pub(super) key: u32,
}

/// What a work request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Sends its parts, or nothing, with four bytes beside them (`IBV_WR_SEND_WITH_IMM`). Takes a receive request of
    /// the peer's.
    Send {
        /// The four bytes.
        immediate: u32,
    },
    /// Writes nothing to the peer (`IBV_WR_RDMA_WRITE` of no bytes): done when everything before it is done.
    Flush,
    /// Reads from the peer into its parts (`IBV_WR_RDMA_READ`).
    Read {
        /// Where in the peer's memory.
        address: u64,
        /// The peer's key for it.
        key: u32,
    },
    /// Opens a window on this end's memory for the peer of this queue pair to read (`IBV_WR_BIND_MW`). It must be
    /// closed, and if the request fails it is to be freed: which key it has then differs between devices. It is
    /// closed or freed before its queue pair is destroyed.
    ///
    /// For whom a window is open, every device checks. That a read stays within it, soft-RoCE of Linux 6.1 does not:
    /// there, the peer can read all of `region`, and a body that is to be read alone has a region of its own.
    Bind {
        /// The window.
        window: Window,
        /// The key by which it is opened: that of the window but for the low byte.
        key: u32,
        /// The region that it is opened on.
        region: Region,
        /// Its first byte.
        address: u64,
        /// Its length.
        bytes: u64,
    },
    /// Closes the window that was opened with a key (`IBV_WR_LOCAL_INV`). It must be open: the kernel of a soft-RoCE
    /// device crashes otherwise, in Linux 6.1.
    Invalidate {
        /// The key.
        key: u32,
    },
}

/// A work request for a send queue (`ibv_send_wr`).
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    /// `wr_id`: what its completion says.
    pub(super) work: u64,
    /// What it does.
    pub(super) operation: Operation,
    /// With which memory.
    pub(super) parts: &'a [Part],
    /// Whether it has a completion when it is done. One that fails has one in any case.
    pub(super) is_signaled: bool,
    /// Whether the device takes the bytes themselves, at once.
    pub(super) is_inline: bool,
}

/// A request for the shared receive queue (`ibv_recv_wr`).
#[derive(Debug, Clone, Copy)]
pub(super) struct Receive<'a> {
    /// `wr_id`: what its completion says.
    pub(super) work: u64,
    /// Where to, one part after the other.
    pub(super) parts: &'a [Part],
}

/// How far a list of work requests got.
#[derive(Debug)]
pub(super) struct Posted {
    /// So many from the front were taken.
    pub(super) count: usize,
    /// Why the next one was not: `ENOMEM` for a full queue. `None` if all were taken.
    pub(super) error: Option<io::Error>,
}

/// A work completion (`ibv_wc`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Completion {
    /// `wr_id` of the request.
    pub(super) work: u64,
    /// The queue pair.
    pub(super) queue_pair: u32,
    /// How it went. Anything but success has ended the queue pair, and then only `work` and `queue_pair` mean something.
    pub(super) status: Status,
    /// Bytes that were received.
    pub(super) bytes: u32,
    /// The four bytes that came beside them.
    pub(super) immediate: u32,
}

impl Completion {
    /// What an array of them is filled with at first.
    pub(super) const NONE: Self =
        Self { work: 0, queue_pair: 0, status: Status::SUCCESS, bytes: 0, immediate: 0 };
}

/// One thread's access to RDMA.
///
/// Dropping it destroys everything that it still has, queue pairs first.
pub(super) trait Verbs {
    /// Becomes readable when [`Verbs::take_event`] has something, or when a queue that was armed has a completion.
    /// The same from beginning to end. It may be readable without reason.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// Listens at an address; says where, with the port that was chosen if 0 was asked for.
    fn listen(&mut self, address: SocketAddr, backlog: u32) -> io::Result<(Identifier, SocketAddr)>;

    /// Begins to connect: resolves the address, from `source` if one is given, which is how a device is chosen.
    /// Ends in [`Event::AddressResolved`] or [`Event::Failed`].
    fn resolve(
        &mut self,
        address: SocketAddr,
        source: Option<SocketAddr>,
        timeout: Duration,
    ) -> io::Result<Identifier>;

    /// How long a connection waits for acknowledgements: 4.096 us doubled so often, up to 31 times
    /// (`RDMA_OPTION_ID_ACK_TIMEOUT` of `rdma_set_option(3)`). Before [`Verbs::resolve_route`] or [`Verbs::accept`].
    /// `ENOSYS` where the system cannot do it.
    fn set_acknowledgement_timeout(&mut self, identifier: Identifier, doublings: u8) -> io::Result<()>;

    /// The second step, which ends in [`Event::RouteResolved`] or [`Event::Failed`].
    fn resolve_route(&mut self, identifier: Identifier, timeout: Duration) -> io::Result<()>;

    /// The third: asks the peer. Needs a queue pair. Ends in [`Event::Established`], [`Event::Rejected`] or
    /// [`Event::Failed`].
    fn connect(
        &mut self,
        identifier: Identifier,
        parameters: &ConnectParameters,
        greeting: &[u8],
    ) -> io::Result<()>;

    /// Accepts a request. Needs a queue pair. Ends in [`Event::Established`] or [`Event::Failed`]; receive requests
    /// may be used before.
    fn accept(
        &mut self,
        identifier: Identifier,
        parameters: &ConnectParameters,
        greeting: &[u8],
    ) -> io::Result<()>;

    /// Does not accept it. The identifier is to be destroyed afterwards.
    fn reject(&mut self, identifier: Identifier, reason: &[u8]) -> io::Result<()>;

    /// Tells the peer that this end is done, and puts the queue pair into the error state: what is posted is flushed,
    /// and has a completion that says so.
    fn disconnect(&mut self, identifier: Identifier) -> io::Result<()>;

    /// Destroys a queue pair, if there is one, and its identifier. No device touches memory for it afterwards.
    /// No event of it comes later; completions may still be in the queue.
    fn destroy(&mut self, identifier: Identifier);

    /// What happened, if anything did.
    fn take_event(&mut self) -> io::Result<Option<Event>>;

    /// Whether the queue pair of an identifier, which has failed, is known to have let go of the shared receive requests:
    /// it takes none any more, and one that it had begun to fill has a completion by now (`QP_LAST_WQE_REACHED` of
    /// `ibv_get_async_event(3)`). It is learnt by [`Verbs::take_event`], and makes the descriptor readable.
    ///
    /// A queue pair that is destroyed earlier may take a receive request with it, for ever. Not every device says it:
    /// `mlx5`, `bnxt_re` and `hns` do, and soft-RoCE since 2023.
    fn has_let_go_of_receives(&mut self, identifier: Identifier) -> bool;

    /// The peer's address, as far as it is known.
    fn peer(&self, identifier: Identifier) -> Option<SocketAddr>;

    /// What the device of an identifier can do, and its name; before it is opened.
    fn limits(&mut self, identifier: Identifier) -> io::Result<DeviceLimits>;

    /// The device of an identifier, made ready in these sizes if it was not used before.
    fn device(&mut self, identifier: Identifier, sizes: &DeviceSizes) -> io::Result<Device>;

    /// The device of an identifier, if it is in use.
    fn device_in_use(&mut self, identifier: Identifier) -> Option<Device>;

    /// Gives back a device that goes away, with every region and window on it. Its queue pairs are gone; what is posted
    /// on it does not come back, and the memory of that belongs to the caller again.
    fn close_device(&mut self, device: Device);

    /// From now on nothing of a device makes the descriptor readable.
    fn unwatch(&mut self, device: Device);

    /// Whoever removes a device waits until no process has it open. Lets go of those that were closed and are gone, and
    /// says after which time this is to be done again: one of them is not gone yet, or something is open that may go
    /// without telling.
    fn let_go(&mut self) -> Option<Duration>;

    /// Bytes that the path carries whole: the active MTU of the identifier's port.
    fn packet_bytes(&mut self, identifier: Identifier) -> io::Result<u32>;

    /// Makes the queue pair of an identifier, reliably connected, on the queues of its device.
    fn create_queue_pair(&mut self, identifier: Identifier, sizes: &QueuePairSizes) -> io::Result<QueuePair>;

    /// Makes a queue pair beside that of an identifier, which has one already. It goes when the identifier is destroyed,
    /// and stops when that is disconnected. `EOPNOTSUPP` where queue pairs cannot be connected without the
    /// connection manager, which is so on iWARP.
    fn create_beside(
        &mut self,
        identifier: Identifier,
        beside: Beside,
        sizes: &QueuePairSizes,
    ) -> io::Result<QueuePairName>;

    /// Destroys what [`Verbs::create_beside`] has made for an identifier, of either kind. Does nothing if there is none.
    fn destroy_beside(&mut self, identifier: Identifier);

    /// Connects it to one of the peer's of the other kind, on the way that the connection's own goes, which is up: at the
    /// end that accepts from [`Verbs::accept`], at the other from [`Event::Established`]. So many reads are under way at
    /// a time.
    fn connect_beside(
        &mut self,
        identifier: Identifier,
        beside: Beside,
        peer: QueuePairName,
        reads: u8,
    ) -> io::Result<()>;

    /// Lets the peer of a connection read memory by its [`Beside::Answering`], and nobody else, until
    /// [`Verbs::deregister`]; [`Region::key`] is what the peer names it by. Pins it.
    ///
    /// # Safety
    /// It must stay mapped, and must hold nothing but what the peer may read, until [`Verbs::deregister`], which comes
    /// before [`Verbs::destroy`].
    unsafe fn register_for_peer(
        &mut self,
        identifier: Identifier,
        address: u64,
        bytes: usize,
    ) -> io::Result<Region>;

    /// As [`Verbs::post`], to the [`Beside::Reading`] of an identifier.
    ///
    /// # Safety
    /// As for [`Verbs::post`].
    unsafe fn post_beside(&mut self, identifier: Identifier, requests: &[Request<'_>]) -> Posted;

    /// Makes memory known to a device: for local access, and for windows to be bound to it. Pins it.
    ///
    /// # Safety
    /// It must stay mapped until [`Verbs::deregister`], or until the seam is dropped.
    unsafe fn register(&mut self, device: Device, address: u64, bytes: usize) -> io::Result<Region>;

    /// Undoes it. Nothing that is posted may name it.
    fn deregister(&mut self, region: Region) -> io::Result<()>;

    /// A memory window, which is not open yet.
    fn allocate_window(&mut self, device: Device) -> io::Result<Window>;

    /// Gives it back. It must not be open, unless its queue pair has failed: no window is closed on one any more, and
    /// this closes it. It comes before [`Verbs::destroy`] then.
    fn free_window(&mut self, window: Window) -> io::Result<()>;

    /// Posts a list of work requests with one call of the device.
    ///
    /// # Safety
    /// The memory of each part that is not inline must stay valid until the request is known to be done (its
    /// completion, or that of a later one of the same queue pair) or its queue pair is destroyed; that of a read must
    /// not be used by anybody else meanwhile.
    unsafe fn post(&mut self, identifier: Identifier, requests: &[Request<'_>]) -> Posted;

    /// Posts a list of receive requests with one call of the device.
    ///
    /// # Safety
    /// Their memory belongs to the device until their completion, or until the seam is dropped.
    unsafe fn post_receives(&mut self, device: Device, receives: &[Receive<'_>]) -> Posted;

    /// Takes completions, as many as there are and fit; says how many. Never a system call.
    fn take_completions(&mut self, device: Device, into: &mut [Completion]) -> io::Result<usize>;

    /// Asks that the descriptor becomes readable with the next completion of a device. One that is there already may
    /// not count: look again afterwards. It holds for one time.
    fn arm(&mut self, device: Device) -> io::Result<()>;
}
