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
//! - Nothing here blocks but [`WaitPoint::sleep`], and [`Wire::connect`] and [`Wire::listen`] while they resolve a
//!   host's name.
//!
//! What a wire must never know: what a frame is, what a message is, and what time it is.

pub mod inproc;
pub mod tcp;

use crate::pool::{GatherList, Pool, Segment};
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

    /// Ends a channel at once. Its [`WireEvent::Closed`] follows when its buffers are free. Unknown channels, which
    /// may have closed by themselves meanwhile, are ignored.
    fn close(&mut self, channel: Channel);

    /// Stops listening; channels that were accepted stay.
    fn stop_listening(&mut self, listener: Listener);

    /// Takes what has happened, without waiting, and appends it to `events`; a bounded number of events at a time, so
    /// that one call cannot starve its caller. Submits what [`Wire::send`] has queued.
    ///
    /// # Errors
    /// Only when the wire as a whole is broken (the kernel refuses its ring, say); a channel's trouble is an event.
    fn poll(&mut self, pool: &mut Pool, events: &mut Vec<WireEvent>) -> io::Result<()>;
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
}

impl WireKind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Inproc];

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
