//! The pair of rings by which operations go to the kernel and completions come back.

use super::super::socket::check_bytes;
use ::io_uring::types::{SubmitArgs, Timespec};
use ::io_uring::{EnterFlags, IoUring, Submitter, cqueue, squeue};
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// An io_uring, and what did not fit into its submission queue.
pub(super) struct Ring {
    ring: IoUring,
    /// The ring's place in this thread's table of rings, which spares each call the look-up of its descriptor.
    registered: Option<libc::c_int>,
    backlog: VecDeque<squeue::Entry>,
}

impl Ring {
    pub(super) fn new(ring: IoUring) -> Self {
        // Linux 5.18. Without it, or with too many rings on this thread, the descriptor does.
        let registered = register(&ring).ok();
        Self { ring, registered, backlog: VecDeque::new() }
    }

    pub(super) fn submitter(&self) -> Submitter<'_> {
        self.ring.submitter()
    }

    /// Can one completion of a receive span several buffers? (Linux 6.10)
    pub(super) fn has_bundles(&self) -> bool {
        self.ring.params().is_feature_recvsend_bundle()
    }

    /// Queues an operation; it starts with the next [`Ring::enter`] or [`Ring::wait`], or earlier.
    ///
    /// # Safety
    /// The descriptor and the memory that the entry names must stay valid, and the memory must not be changed nor
    /// read where the kernel writes, until the final completion of the operation was taken.
    #[inline]
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: the caller vouches for what the entry points to.
        if !self.backlog.is_empty() || unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.backlog.push_back(entry);
        }
    }

    /// Is there something to do in the kernel: to submit, to run what has arrived, to fetch what overflowed?
    #[inline]
    pub(super) fn wants_enter(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Submits what was queued and runs what has arrived, without waiting.
    #[inline]
    pub(super) fn enter(&mut self) -> io::Result<()> {
        loop {
            let count = self.ring.submission().len() as u32;
            // Without asking for events the kernel would not run what it has deferred.
            let submitted = unless_temporary(self.enter_with(count, EnterFlags::GETEVENTS))?;
            if self.backlog.is_empty() || submitted == 0 {
                return Ok(());
            }
            self.take_from_backlog();
        }
    }

    /// The system call itself. The crate's own would not use the registration: it keeps that in a [`Submitter`], which
    /// borrows the ring.
    #[inline]
    fn enter_with(&self, count: u32, flags: EnterFlags) -> io::Result<usize> {
        let (descriptor, flags) = match self.registered {
            Some(place) => (place, flags | EnterFlags::REGISTERED_RING),
            None => (self.ring.as_raw_fd(), flags),
        };
        let nothing = std::ptr::null::<libc::c_void>();
        // SAFETY: no argument is passed; what the entries point to was vouched for when they were pushed.
        let outcome = unsafe {
            libc::syscall(libc::SYS_io_uring_enter, descriptor, count, 0, flags.bits(), nothing, 0_usize)
        };
        check_bytes(outcome as libc::ssize_t)
    }

    /// As [`Ring::enter`], but waits until there is a completion, or `timeout` is over.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if !self.backlog.is_empty() || timeout == Some(Duration::ZERO) {
            return self.enter();
        }
        let outcome = match timeout {
            None => self.ring.submitter().submit_and_wait(1),
            Some(timeout) => {
                let timeout = Timespec::from(timeout);
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout))
            }
        };
        unless_temporary(outcome).map(drop)
    }

    #[inline]
    pub(super) fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    fn take_from_backlog(&mut self) {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: whoever pushed it to the backlog vouched for what it points to.
            if unsafe { queue.push(entry) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }
}

/// Enters the ring into this thread's table of rings, and says at which place. It leaves the table when the thread
/// ends or [`Ring`] is dropped.
fn register(ring: &IoUring) -> io::Result<libc::c_int> {
    let mut update = RingUpdate { place: u32::MAX, reserved: 0, descriptor: ring.as_raw_fd() as u64 };
    change_registration(ring, REGISTER_RING_FDS, &mut update)?;
    Ok(update.place as libc::c_int)
}

fn change_registration(ring: &IoUring, operation: libc::c_uint, update: &mut RingUpdate) -> io::Result<()> {
    let update = std::ptr::from_mut(update);
    // SAFETY: the kernel reads and writes one update, which has the layout that it expects.
    let outcome =
        unsafe { libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), operation, update, 1) };
    check_bytes(outcome as libc::ssize_t).map(drop)
}

/// `IORING_REGISTER_RING_FDS` and `IORING_UNREGISTER_RING_FDS` of the kernel's `io_uring.h`.
const REGISTER_RING_FDS: libc::c_uint = 20;
const UNREGISTER_RING_FDS: libc::c_uint = 21;

/// `struct io_uring_rsrc_update`: `u32::MAX` asks for any place, and is replaced by it.
#[repr(C)]
struct RingUpdate {
    place: u32,
    reserved: u32,
    descriptor: u64,
}

/// A signal, the end of a timeout, completions that must be taken first, a shortage of memory: in each case what was
/// not submitted stays queued for the next time.
fn unless_temporary(outcome: io::Result<usize>) -> io::Result<usize> {
    match outcome {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN)
            ) =>
        {
            Ok(0)
        }
        outcome => outcome,
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The table holds a reference, so without this the ring would live, and its place be taken, as long as the thread.
        if let Some(place) = self.registered {
            let mut update = RingUpdate { place: place as u32, reserved: 0, descriptor: 0 };
            let _ = change_registration(&self.ring, UNREGISTER_RING_FDS, &mut update);
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring({} in the backlog)", self.backlog.len())
    }
}
