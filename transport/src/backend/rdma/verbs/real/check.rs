//! The three ways in which the libraries say that something went wrong.

use std::ffi::c_int;
use std::io;
use std::ptr::NonNull;

/// The result of a function of `librdmacm`: 0, or -1 with the reason in `errno`.
pub(super) fn check(result: c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The result of a function of `libibverbs`: 0, or the reason itself. Some providers return -1 and set `errno`.
#[inline]
pub(super) fn check_number(result: c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        1.. => Err(io::Error::from_raw_os_error(result)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What a constructor of either library returns: null with the reason in `errno`.
pub(super) fn check_pointer<T>(pointer: *mut T) -> io::Result<NonNull<T>> {
    NonNull::new(pointer).ok_or_else(io::Error::last_os_error)
}

/// For a number that names nothing, and whatever else a caller should not have asked for.
#[inline]
pub(super) fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

/// Makes reads of a descriptor of the libraries' return at once.
pub(super) fn make_nonblocking(descriptor: c_int) -> io::Result<()> {
    // SAFETY: it touches no memory.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it touches no memory.
    check(unsafe { libc::fcntl(descriptor, libc::F_SETFL, flags | libc::O_NONBLOCK) })
}
