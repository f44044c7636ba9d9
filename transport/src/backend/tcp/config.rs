//! What can be chosen about the wire, and why it does not open.

use crate::pool::{BUFFER_CLASSES, PoolError};
use std::fmt;
use std::io;
use thiserror::Error;

/// The most buffers that the kernel's ring of them takes.
const RECEIVE_BUFFERS_MAX: u16 = 1 << 15;

/// What can be chosen about a [`super::TcpWire`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpConfig {
    /// What drives the sockets. Default [`EngineChoice::Auto`].
    pub engine: EngineChoice,
    /// The size of a receive buffer, in bytes: one of [`BUFFER_CLASSES`]. Default 64 KiB, so that a message of 16 KiB with its head arrives in one piece. A larger one takes a large
    /// message in fewer pieces; a smaller one wastes less when small messages are kept for long.
    pub receive_buffer_bytes: usize,
    /// How many receive buffers io_uring is given at a time, for all channels together: a power of two up to 32,768.
    /// Default 8, which with 64 KiB each pins 512 KiB of the pool: they are filled in turn, and what does not fit the
    /// processor's second cache makes every copy miss. More of them carry more bytes from one poll to the
    /// next. epoll keeps at most eight. They are taken as far as the pool has some: its budget must be larger than
    /// this, or receiving leaves nothing for anybody else.
    pub receive_buffers: u16,
    /// How many connections may wait to be accepted, for each listener. Default 1024; the kernel cuts it to
    /// `net.core.somaxconn`.
    pub backlog: u32,
    /// The size of a socket's send buffer (`SO_SNDBUF`), in bytes. Default `None`: the kernel adapts it, which is
    /// almost always better. A value is doubled by the kernel, and cut to `net.core.wmem_max`.
    pub socket_send_bytes: Option<u32>,
    /// The size of a socket's receive buffer (`SO_RCVBUF`), in bytes. Default `None`, as above; the limit is
    /// `net.core.rmem_max`.
    pub socket_receive_bytes: Option<u32>,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            engine: EngineChoice::Auto,
            receive_buffer_bytes: 65_536,
            receive_buffers: 8,
            backlog: 1024,
            socket_send_bytes: None,
            socket_receive_bytes: None,
        }
    }
}

impl TcpConfig {
    pub(super) fn validate(&self) -> Result<(), OpenError> {
        if !BUFFER_CLASSES.contains(&self.receive_buffer_bytes) {
            return Err(OpenError::ReceiveBufferBytes { given_bytes: self.receive_buffer_bytes });
        }
        if !self.receive_buffers.is_power_of_two() || self.receive_buffers > RECEIVE_BUFFERS_MAX {
            return Err(OpenError::ReceiveBuffers { given: self.receive_buffers });
        }
        Ok(())
    }
}

/// What shall drive the sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring where the kernel has all that is needed (Linux 6.1 and later) and nothing forbids it; else epoll.
    #[default]
    Auto,
    /// io_uring, or an error.
    IoUring,
    /// epoll.
    Epoll,
}

/// What drives the sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// io_uring.
    IoUring,
    /// epoll.
    Epoll,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Engine::IoUring => "io_uring",
            Engine::Epoll => "epoll",
        })
    }
}

/// Why the wire does not open.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// io_uring was asked for and cannot be used.
    #[error(
        "the io_uring engine cannot be used: {reason}; lift that, or choose the engine 'auto' or 'epoll'"
    )]
    IoUring {
        /// What is missing or forbidden.
        reason: String,
    },
    /// The kernel gives no epoll instance.
    #[error("epoll cannot be used: {0} (is a file descriptor left? see ulimit -n)")]
    Epoll(#[source] io::Error),
    /// The pool has no buffer to receive into.
    #[error("no buffer to receive into: {0}")]
    Pool(#[source] PoolError),
    /// No buffer has that size.
    #[error("receive_buffer_bytes is {given_bytes}; choose one of {BUFFER_CLASSES:?}")]
    ReceiveBufferBytes {
        /// The value that was given.
        given_bytes: usize,
    },
    /// The kernel's ring of buffers cannot have that length.
    #[error("receive_buffers is {given}; choose a power of two from 1 to {RECEIVE_BUFFERS_MAX}")]
    ReceiveBuffers {
        /// The value that was given.
        given: u16,
    },
}
