//! The one descriptor that stands for all: an epoll instance over the connection manager's channel and each device's
//! completion channel and asynchronous events.
//!
//! It is level-triggered. A completion channel therefore keeps the descriptor readable until its notification is taken,
//! which is done where the device is armed again and nowhere else (see `device`).

use arrayvec::ArrayVec;
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// How many descriptors are looked at in one go. The kernel takes turns if more are ready.
const READY_MAX: usize = 16;

/// What a descriptor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watched {
    /// The connection manager's channel.
    Events,
    /// A device's completion channel.
    Completions(u32),
    /// What a device says of itself.
    Asynchronous(u32),
}

impl Watched {
    fn to_bits(self) -> u64 {
        match self {
            Self::Events => 0,
            Self::Completions(device) => 1 << 32 | u64::from(device),
            Self::Asynchronous(device) => 2 << 32 | u64::from(device),
        }
    }

    fn from_bits(bits: u64) -> Self {
        let device = bits as u32;
        match bits >> 32 {
            1 => Self::Completions(device),
            2 => Self::Asynchronous(device),
            _ => Self::Events,
        }
    }
}

pub(super) struct Watch {
    epoll: OwnedFd,
}

impl Watch {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: it touches no memory.
        let descriptor = at_least_zero(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self { epoll: unsafe { OwnedFd::from_raw_fd(descriptor) } })
    }

    /// Watches `descriptor` from now on, until it is closed or taken out.
    pub(super) fn add(&self, descriptor: RawFd, what: Watched) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: what.to_bits() };
        let epoll = self.epoll.as_raw_fd();
        // SAFETY: the kernel reads the event, which is valid during the call.
        at_least_zero(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, descriptor, &raw mut event) })?;
        Ok(())
    }

    /// Watches `descriptor` no more.
    pub(super) fn remove(&self, descriptor: RawFd) {
        // SAFETY: no event is read where one is taken out. It fails for one that is not watched, and that is as well.
        unsafe {
            libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, descriptor, std::ptr::null_mut())
        };
    }

    /// What is ready now.
    pub(super) fn look(&self) -> io::Result<ArrayVec<Watched, READY_MAX>> {
        let mut ready = [libc::epoll_event { events: 0, u64: 0 }; READY_MAX];
        let epoll = self.epoll.as_raw_fd();
        // SAFETY: there is room for the number of events that is passed.
        let count = unsafe { libc::epoll_wait(epoll, ready.as_mut_ptr(), READY_MAX as c_int, 0) };
        match at_least_zero(count) {
            Ok(count) => {
                Ok(ready.iter().take(count as usize).map(|event| Watched::from_bits(event.u64)).collect())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(ArrayVec::new()),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

fn at_least_zero(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_is_told_apart() {
        for what in [Watched::Events, Watched::Completions(0), Watched::Asynchronous(u32::MAX)] {
            assert_eq!(Watched::from_bits(what.to_bits()), what);
        }
    }
}
