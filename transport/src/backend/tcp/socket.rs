//! Making sockets and asking them things: the control path that both engines share.

use super::super::raw_address::RawAddress;
use super::super::{ConnectError, ListenError, Path};
use super::TcpConfig;
use std::io;
use std::mem;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// What TCP carries whole over any path (RFC 9293, 3.7.1): the least that a path is said to carry.
const SEGMENT_BYTES_MIN: u32 = 536;

/// A socket that does not block, for a connection to `address`.
pub(super) fn stream(address: &SocketAddr, config: &TcpConfig) -> io::Result<TcpStream> {
    let stream = TcpStream::from(open(address, config)?);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Listens at the first of `addresses` where that is possible.
pub(super) fn listen(addresses: &[SocketAddr], config: &TcpConfig) -> io::Result<TcpListener> {
    let mut first_error = None;
    for address in addresses {
        match listen_at(address, config) {
            Ok(listener) => return Ok(listener),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| io::ErrorKind::InvalidInput.into()))
}

fn listen_at(address: &SocketAddr, config: &TcpConfig) -> io::Result<TcpListener> {
    let socket = open(address, config)?;
    // So that a broker that was restarted gets its port back while old connections are still in TIME_WAIT. It does
    // not allow two listeners at one port.
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    let address = RawAddress::from(address);
    let backlog = config.backlog.min(i32::MAX as u32) as libc::c_int;
    // SAFETY: the address is valid for its length.
    check(unsafe { libc::bind(socket.as_raw_fd(), address.as_ptr(), address.bytes()) })?;
    // SAFETY: it touches no memory.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) })?;
    Ok(TcpListener::from(socket))
}

fn open(address: &SocketAddr, config: &TcpConfig) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: it touches no memory.
    let descriptor = check(unsafe { libc::socket(family, kind, 0) })?;
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    // Before connecting or listening, because the window's scale is agreed on in the handshake; what a listener has,
    // its connections inherit.
    for (option, bytes) in
        [(libc::SO_SNDBUF, config.socket_send_bytes), (libc::SO_RCVBUF, config.socket_receive_bytes)]
    {
        if let Some(bytes) = bytes {
            set_option(&socket, libc::SOL_SOCKET, option, bytes.min(i32::MAX as u32) as libc::c_int)?;
        }
    }
    Ok(socket)
}

/// The way to the peer of a connection that is open.
pub(super) fn path(stream: &TcpStream) -> io::Result<Path> {
    let peer = stream.peer_addr()?.to_string();
    let mut bytes: libc::c_int = 0;
    let mut length = mem::size_of_val(&bytes) as libc::socklen_t;
    let target = (&raw mut bytes).cast();
    // SAFETY: the target has room for `length` bytes.
    let outcome = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_MAXSEG, target, &mut length)
    };
    let known = if outcome == 0 { u32::try_from(bytes).unwrap_or(0) } else { 0 };
    Ok(Path { peer, packet_bytes: known.max(SEGMENT_BYTES_MIN) })
}

/// Ends both directions, which wakes whatever waits on the socket. That it was not connected does not matter.
pub(super) fn shut_down(descriptor: RawFd) {
    // SAFETY: it touches no memory.
    unsafe { libc::shutdown(descriptor, libc::SHUT_RDWR) };
}

/// The error for a listener that did not come up.
pub(super) fn listen_error(address: &str, error: io::Error) -> ListenError {
    let address = address.to_owned();
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => ListenError::InUse { address },
        Some(libc::EADDRNOTAVAIL | libc::EACCES | libc::EAFNOSUPPORT) => {
            ListenError::Unavailable { address, error }
        }
        Some(libc::EMFILE | libc::ENFILE) => ListenError::DescriptorLimit { address },
        _ => ListenError::System { address, error },
    }
}

/// The error for a connection that could not even be tried.
pub(super) fn connect_error(address: &str, error: io::Error) -> ConnectError {
    let address = address.to_owned();
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => ConnectError::DescriptorLimit { address },
        _ => ConnectError::System { address, error },
    }
}

fn set_option(
    socket: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = mem::size_of_val(&value) as libc::socklen_t;
    let source = (&raw const value).cast();
    // SAFETY: the source has `length` bytes.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, source, length) }).map(drop)
}

/// The result of a system call that returns -1 for an error.
pub(super) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// As [`check`], for those that return a number of bytes.
#[inline]
pub(super) fn check_bytes(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
