//! The wires: how bytes get from one process to another.
//!
//! Each folder is one wire, with its control path (how a channel comes up and goes down) and its data path apart. All
//! of them implement [`Wire`], and all pass one conformance suite (`tests/conformance`), which is where this contract
//! is spelled out case by case:
//!
//! - A [`Channel`] carries bytes in order, without loss or change, in both directions, until it is closed. Where a
//!   wire keeps the boundaries of what was sent is its own affair: the layers above accept any cutting.
//! - What is sent is a [`GatherList`] of segments; a wire holds on to them until neither the kernel nor a device can
//!   touch them, and reports [`WireEvent::Sent`] then. One send is in flight for each channel.
//! - What arrives is handed out as segments of pool buffers that nobody writes to any more.
//! - Each channel ends with exactly one [`WireEvent::Closed`], whoever ended it; nothing comes after that.
//! - Closing waits for nothing of the peer's. What [`WireEvent::Sent`] was reported for goes before the end; a send that is
//!   in flight is cut, wherever it stands. Whoever wants all of it to leave waits for its `Sent` first, as a driver does.
//! - Nothing here blocks but [`WaitPoint::sleep`], and [`Wire::connect`] and [`Wire::listen`] while they resolve a
//!   host's name.
//!
//! - A wire that can do so lets a peer read from this end's memory without this end doing anything, and reads from the
//!   peer's ([`OneSided`]). What is exposed stays readable, and is held, until it is withdrawn or its channel has
//!   closed; each read is answered exactly once, by [`WireEvent::Read`] or by its channel's [`WireEvent::Closed`].
//!
//! What a wire must never know: what a frame is, what a message is, and what time it is.

mod host_port;
pub mod inproc;
mod raw_address;
pub mod rdma;
mod slots;
pub mod tcp;

use crate::pool::{Body, GatherList, Pool, PoolError, Segment};
use arrayvec::ArrayVec;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use thiserror::Error;

/// One thread's end of a kind of wire, with any number of channels and listeners.
pub trait Wire {
    /// Starts to listen at `address`, whose form is the wire's own (`host:port` for TCP).
    ///
    /// # Errors
    /// [`ListenError`], which names the address and what to do.
    fn listen(&mut self, address: &str) -> Result<Listening, ListenError>;

    /// Starts to connect to `address`. The outcome is an event: [`WireEvent::Connected`] or [`WireEvent::Closed`].
    ///
    /// # Errors
    /// [`ConnectError`] for what is known at once: an address that makes no sense, a limit of this process.
    fn connect(&mut self, address: &str) -> Result<Channel, ConnectError>;

    /// Sends the content of `gather`, which is empty afterwards; its memory stays the caller's.
    ///
    /// The segments are held until [`WireEvent::Sent`] or [`WireEvent::Closed`].
    ///
    /// # Errors
    /// [`SendRefused`], and `gather` stays as it was, when the channel is not open or has a send in flight.
    fn send(&mut self, channel: Channel, gather: &mut GatherList) -> Result<(), SendRefused>;

    /// Ends a channel at once. Its [`WireEvent::Closed`] follows when its buffers are free. The peer receives what
    /// [`WireEvent::Sent`] was reported for, unless the channel breaks first, then perhaps a front part of a send that is
    /// in flight, and then the end: what of it waits for room at the peer is not waited for, for it may never come.
    /// Unknown channels, which may have closed by themselves meanwhile, are ignored.
    fn close(&mut self, channel: Channel);

    /// Stops listening; channels that were accepted stay.
    fn stop_listening(&mut self, listener: Listener);

    /// Takes what has happened, without waiting, and appends it to `events`; a bounded number of events at a time, so
    /// that one call cannot starve its caller. Submits what [`Wire::send`] has queued.
    ///
    /// # Errors
    /// Only when the wire as a whole is broken (the kernel refuses its ring, say); a channel's trouble is an event.
    fn poll(&mut self, pool: &mut Pool, events: &mut Vec<WireEvent>) -> io::Result<()>;

    /// Arranges that the wait point wakes this thread for whatever happens from now on. Whoever is about to sleep calls
    /// it, polls once more, and sleeps only if that found nothing, and then no longer than [`Wire::sleep_max`] says. Wires
    /// that the wait point watches by itself need nothing of the kind.
    ///
    /// # Errors
    /// As [`Wire::poll`].
    fn arm(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// How long a sleep may last that follows now: there may be something to wait for that wakes nobody. It holds until
    /// the next call of anything else here.
    fn sleep_max(&self) -> Option<Duration> {
        None
    }

    /// What it can do with memory of the other end; `None` for a wire that cannot.
    fn one_sided(&mut self) -> Option<&mut dyn OneSided> {
        None
    }
}

/// The longest descriptor of exposed memory.
pub const DESCRIPTOR_BYTES_MAX: usize = 64;

/// By what a peer finds exposed memory: 1 to 64 bytes that only the wire of the two ends understands.
pub type Descriptor = ArrayVec<u8, DESCRIPTOR_BYTES_MAX>;

/// One-sided reads: an end reads memory that the other has exposed, while that one does nothing.
///
/// Exposures and reads have numbers, which the caller chooses: each is used once on a channel. What was exposed can be
/// read by the peer of that channel and by nobody else, and only as long as it is exposed: a wire makes sure of that
/// with what its device has, or refuses. A peer's descriptor is as trustworthy as the peer: whatever it says, a read
/// writes into buffers of this end that were taken for it, and nowhere else.
///
/// Nothing here blocks.
pub trait OneSided {
    /// How many exposures an open channel can have at a time, known when it opens; 0 if its ends cannot do this.
    fn exposures_max(&mut self, channel: Channel) -> usize;

    /// Lets the peer of a channel read a body, from now on until it is withdrawn or the channel has closed; its
    /// segments are held as long. Returns what the peer has to be told.
    ///
    /// # Errors
    /// [`ExposeRefused`]; the body is to travel in another way.
    fn expose(&mut self, channel: Channel, exposure: u64, body: &Body) -> Result<Descriptor, ExposeRefused>;

    /// Ends an exposure. The peer cannot read it any more; its segments are let go of as soon as no device can touch
    /// them. Unknown ones are ignored.
    fn withdraw(&mut self, channel: Channel, exposure: u64);

    /// Starts to read the `bytes` bytes that a peer has described, into buffers of `pool`. The outcome is a
    /// [`WireEvent::Read`], or the channel's [`WireEvent::Closed`]: closing a channel ends its reads.
    ///
    /// # Errors
    /// [`ReadRefused`]; nothing was started then.
    fn read(
        &mut self,
        channel: Channel,
        read: u64,
        descriptor: &[u8],
        bytes: u64,
        pool: &mut Pool,
    ) -> Result<(), ReadRefused>;
}

/// Where a driver sleeps when none of its wires has anything to do.
pub trait WaitPoint {
    /// From now on, [`WaitPoint::sleep`] ends when `descriptor` is readable. It must stay open as long as the wait
    /// point.
    ///
    /// # Errors
    /// The kernel's.
    fn watch(&mut self, descriptor: BorrowedFd<'_>) -> io::Result<()>;

    /// Sleeps until a watched descriptor is readable, one of the wire's own channels or listeners has an event, or
    /// `timeout` is over; `None` waits without limit. May end early for no reason. Submits what was queued.
    ///
    /// # Errors
    /// The kernel's, apart from an interruption by a signal, which ends the sleep like an event.
    fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()>;
}

/// The kinds of wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WireKind {
    /// TCP.
    Tcp,
    /// Rings of references within one process.
    Inproc,
    /// RDMA verbs.
    Rdma,
}

impl WireKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Inproc, Self::Rdma];

    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Its place in arrays by wire.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for WireKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WireKind::Tcp => "tcp",
            WireKind::Inproc => "inproc",
            WireKind::Rdma => "rdma",
        })
    }
}

/// Names one connection of one wire. The generation keeps a name that is out of date from meaning a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Channel {
    /// The place in the wire's table; small, dense, used again.
    pub slot: u32,
    /// How often the place was used before.
    pub generation: u32,
}

/// Names one listener of one wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Listener(pub u32);

/// A listener that came up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// Its name.
    pub listener: Listener,
    /// Where it really listens, with the port that the system chose if 0 was asked for.
    pub address: String,
}

/// What is known of the way between the two ends of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// The peer's address, for logs.
    pub peer: String,
    /// How many bytes the network carries whole: the TCP segment's payload, the path MTU. What packing aims at.
    pub packet_bytes: u32,
}

/// What happened on a wire.
#[derive(Debug)]
#[non_exhaustive]
pub enum WireEvent {
    /// A listener has a new channel, which is open.
    Accepted {
        /// The listener.
        listener: Listener,
        /// The new channel.
        channel: Channel,
        /// The way to the peer.
        path: Path,
    },
    /// A listener could not accept; it tries again by itself.
    AcceptFailed {
        /// The listener.
        listener: Listener,
        /// Why, usually that the process has no descriptor left.
        error: io::Error,
    },
    /// A channel that was asked for is open.
    Connected {
        /// The channel.
        channel: Channel,
        /// The way to the peer.
        path: Path,
    },
    /// Bytes arrived; never an empty segment.
    Received {
        /// The channel.
        channel: Channel,
        /// The bytes.
        segment: Segment,
    },
    /// The send in flight is done: the wire needs its segments no more, and the next one may start. It does not say
    /// that the peer has received anything.
    Sent {
        /// The channel.
        channel: Channel,
    },
    /// A read is done, or failed; the wire needs its buffers no more.
    Read {
        /// The channel.
        channel: Channel,
        /// The number that it was given.
        read: u64,
        /// What was read, all of it, or why it was not. Boxed, as it is rare and would make every event longer.
        outcome: Result<Box<Body>, io::Error>,
    },
    /// The channel has ended; the wire has let go of all its buffers.
    Closed {
        /// The channel.
        channel: Channel,
        /// Why.
        reason: ChannelEnd,
    },
}

/// Why a channel ended.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ChannelEnd {
    /// This end called [`Wire::close`].
    #[error("closed by this end")]
    Local,
    /// The peer closed it, in order.
    #[error("closed by the peer")]
    Peer,
    /// It never came up.
    #[error("connecting failed: {0}")]
    ConnectFailed(#[source] io::Error),
    /// It broke.
    #[error("the channel broke: {0}")]
    Broken(#[source] io::Error),
}

/// Why a wire does not listen.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The address has not the wire's form.
    #[error("'{address}' is no address of the {wire} wire: {reason}; expected {expected}")]
    Address {
        /// What was given.
        address: String,
        /// The wire.
        wire: WireKind,
        /// What is wrong with it.
        reason: String,
        /// The form that it should have.
        expected: &'static str,
    },
    /// Another listener has it.
    #[error(
        "'{address}' is in use; stop what listens there, or choose another address (for TCP, port 0 takes any)"
    )]
    InUse {
        /// What was given.
        address: String,
    },
    /// The machine has no such address, or the process may not use it.
    #[error(
        "'{address}' cannot be bound: {error}; is it an address of this machine, and the port above 1023?"
    )]
    Unavailable {
        /// What was given.
        address: String,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The process has no descriptor left.
    #[error("no file descriptor is left to listen at '{address}': raise the limit (ulimit -n, LimitNOFILE=)")]
    DescriptorLimit {
        /// What was given.
        address: String,
    },
    /// This process does not have the wire.
    #[error("'{address}' cannot be listened at: there is no {wire} wire here: {reason}")]
    NoWire {
        /// What was given.
        address: String,
        /// The wire.
        wire: WireKind,
        /// What is missing, and what to do.
        reason: String,
    },
    /// Another error of the system.
    #[error("listening at '{address}' failed: {error}")]
    System {
        /// What was given.
        address: String,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

/// Why a wire does not even try to connect.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address has not the wire's form, or its host has no address.
    #[error("'{address}' is no address of the {wire} wire: {reason}; expected {expected}")]
    Address {
        /// What was given.
        address: String,
        /// The wire.
        wire: WireKind,
        /// What is wrong with it.
        reason: String,
        /// The form that it should have.
        expected: &'static str,
    },
    /// The process has no descriptor left.
    #[error(
        "no file descriptor is left to connect to '{address}': raise the limit (ulimit -n, LimitNOFILE=)"
    )]
    DescriptorLimit {
        /// What was given.
        address: String,
    },
    /// This process does not have the wire.
    #[error("'{address}' cannot be reached: there is no {wire} wire here: {reason}")]
    NoWire {
        /// What was given.
        address: String,
        /// The wire.
        wire: WireKind,
        /// What is missing, and what to do.
        reason: String,
    },
    /// Another error of the system.
    #[error("connecting to '{address}' failed: {error}")]
    System {
        /// What was given.
        address: String,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

/// Why a wire does not take a send.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendRefused {
    /// The one before is not done.
    #[error("a send is in flight on this channel; wait for its Sent event")]
    InFlight,
    /// The channel is closed, or not open yet.
    #[error("the channel is not open")]
    NotOpen,
}

/// Why a wire does not expose a body.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExposeRefused {
    /// The channel is closed, or not open yet.
    #[error("the channel is not open")]
    NotOpen,
    /// It has as many exposures as it can have, or the device has no more.
    #[error("no further exposure is possible; {exposures} are open on this channel")]
    Limit {
        /// How many there are.
        exposures: usize,
    },
    /// The body lies in more pieces, or in other memory, than can be described.
    #[error("a body in {segments} pieces cannot be exposed as it is")]
    Scattered {
        /// How many pieces there are.
        segments: usize,
    },
}

/// Why a wire does not start a read.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadRefused {
    /// The channel is closed, or not open yet.
    #[error("the channel is not open")]
    NotOpen,
    /// No buffers: the read may be tried again when some have come back.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The device takes no further read now: it may be tried again when one is done.
    #[error("no further read can be in flight on this channel")]
    Busy,
    /// The descriptor makes no sense.
    #[error("a descriptor of {bytes} bytes that is none of this wire's")]
    Descriptor {
        /// Its length.
        bytes: usize,
    },
}
