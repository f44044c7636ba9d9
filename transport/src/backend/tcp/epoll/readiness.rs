//! The kernel's list of sockets that are ready.

use super::super::socket::check;
use super::super::token::Token;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// How many sockets are looked at in one go. The kernel takes turns if more are ready.
const READY_MAX: usize = 64;

/// An epoll instance, and what it reported last.
pub(super) struct Readiness {
    epoll: OwnedFd,
    ready: Box<[libc::epoll_event; READY_MAX]>,
    /// The part of `ready` that was not looked at yet.
    next: usize,
    end: usize,
    /// Whether `epoll_pwait2` exists, which Linux 5.11 brought and some seccomp profiles do not know.
    has_fine_timeout: bool,
}

impl Readiness {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: it touches no memory.
        let descriptor = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor is new and nobody else's.
        let epoll = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let ready = Box::new([libc::epoll_event { events: 0, u64: 0 }; READY_MAX]);
        Ok(Self { epoll, ready, next: 0, end: 0, has_fine_timeout: true })
    }

    /// Reports on `descriptor` under `token` from now on, until it is closed.
    pub(super) fn add(&mut self, descriptor: RawFd, interest: libc::c_int, token: Token) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, descriptor, interest, token)
    }

    /// Changes what is reported on `descriptor`.
    pub(super) fn change(
        &mut self,
        descriptor: RawFd,
        interest: libc::c_int,
        token: Token,
    ) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, descriptor, interest, token)
    }

    fn control(
        &mut self,
        operation: libc::c_int,
        descriptor: RawFd,
        interest: libc::c_int,
        token: Token,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest as u32, u64: token.to_bits() };
        // SAFETY: the kernel reads the event, which is valid during the call.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, descriptor, &mut event) })?;
        Ok(())
    }

    /// Was everything that was reported looked at?
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.next == self.end
    }

    /// The next socket with news, and what they are.
    #[inline]
    pub(super) fn next(&mut self) -> Option<(Token, u32)> {
        while self.next < self.end {
            let event = self.ready[self.next];
            self.next += 1;
            if let Some(token) = Token::from_bits(event.u64) {
                return Some((token, event.events));
            }
        }
        None
    }

    /// Asks what is ready now.
    pub(super) fn look(&mut self) -> io::Result<()> {
        let epoll = self.epoll.as_raw_fd();
        // SAFETY: there is room for the number of events that is passed.
        let count = unsafe { libc::epoll_wait(epoll, self.ready.as_mut_ptr(), READY_MAX as _, 0) };
        self.reported(check(count))
    }

    /// Sleeps until something is ready, or `timeout` is over.
    pub(super) fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if self.has_fine_timeout {
            match self.sleep_finely(timeout) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                    self.has_fine_timeout = false;
                }
                outcome => return self.reported(outcome),
            }
        }
        let epoll = self.epoll.as_raw_fd();
        // Rounded up, or else the last millisecond would be a busy loop.
        let milliseconds = timeout.map_or(-1, |timeout| {
            libc::c_int::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
        });
        // SAFETY: there is room for the number of events that is passed.
        let count = unsafe { libc::epoll_wait(epoll, self.ready.as_mut_ptr(), READY_MAX as _, milliseconds) };
        self.reported(check(count))
    }

    fn sleep_finely(&mut self, timeout: Option<Duration>) -> io::Result<libc::c_int> {
        let timeout = timeout.map(to_timespec);
        let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let no_mask = std::ptr::null::<libc::sigset_t>();
        // By number, because not every C library that this is linked with has a function for it.
        // SAFETY: there is room for the number of events that is passed; the timeout is valid or null; no mask.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.as_raw_fd(),
                self.ready.as_mut_ptr(),
                READY_MAX as libc::c_int,
                timeout,
                no_mask,
                0_usize,
            )
        };
        check(count as libc::c_int)
    }

    fn reported(&mut self, outcome: io::Result<libc::c_int>) -> io::Result<()> {
        let count = unless_interrupted(outcome)?;
        (self.next, self.end) = (0, count as usize);
        Ok(())
    }
}

/// Sleeps until one of `watched` is readable, or `timeout` is over.
pub(super) fn sleep_on(watched: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.map(to_timespec);
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let count = watched.len() as libc::nfds_t;
    // SAFETY: there are as many entries as is said; the timeout is valid or null; no mask.
    let outcome = unsafe { libc::ppoll(watched.as_mut_ptr(), count, timeout, std::ptr::null()) };
    unless_interrupted(check(outcome)).map(drop)
}

fn unless_interrupted(outcome: io::Result<libc::c_int>) -> io::Result<libc::c_int> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        outcome => outcome,
    }
}

fn to_timespec(duration: Duration) -> libc::timespec {
    let seconds = libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX);
    libc::timespec { tv_sec: seconds, tv_nsec: duration.subsec_nanos() as _ }
}

impl std::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Readiness({} to look at)", self.end - self.next)
    }
}
