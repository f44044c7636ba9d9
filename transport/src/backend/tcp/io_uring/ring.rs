//! The pair of rings by which operations go to the kernel and completions come back.

use ::io_uring::types::{SubmitArgs, Timespec};
use ::io_uring::{EnterFlags, IoUring, Submitter, cqueue, squeue};
use std::collections::VecDeque;
use std::io;
use std::time::Duration;

/// An io_uring, and what did not fit into its submission queue.
pub(super) struct Ring {
    ring: IoUring,
    backlog: VecDeque<squeue::Entry>,
}

impl Ring {
    pub(super) fn new(ring: IoUring) -> Self {
        Self { ring, backlog: VecDeque::new() }
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
            let flags = EnterFlags::GETEVENTS.bits();
            // SAFETY: no argument is passed; what the entries point to was vouched for when they were pushed.
            let outcome = unsafe { self.ring.submitter().enter::<libc::sigset_t>(count, 0, flags, None) };
            let submitted = unless_temporary(outcome)?;
            if self.backlog.is_empty() || submitted == 0 {
                return Ok(());
            }
            self.take_from_backlog();
        }
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

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring({} in the backlog)", self.backlog.len())
    }
}
