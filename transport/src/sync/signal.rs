//! One bit for a driver's thread, from any other: "look again", or "stop".

use super::{AtomicBool, Ordering, Wakeup};

/// A flag that is raised by any thread and seen by the driver of a wakeup, which does not sleep through it.
///
/// It is published before the wakeup is signalled, so it is work in the sense of the model of
/// [`Wakeup`]: a driver that announces its sleep and then looks at the flag cannot miss it.
#[derive(Debug)]
pub(crate) struct Signal {
    is_raised: AtomicBool,
    wakeup: std::sync::Arc<Wakeup>,
}

impl Signal {
    /// A signal for the owner of this wakeup, not raised.
    pub(crate) fn new(wakeup: std::sync::Arc<Wakeup>) -> Self {
        Self { is_raised: AtomicBool::new(false), wakeup }
    }

    /// Raises it, from any thread, and ends the owner's sleep.
    pub(crate) fn raise(&self) {
        // Release: what was done before is seen by whoever sees the flag.
        self.is_raised.store(true, Ordering::Release);
        self.wakeup.wake();
    }

    /// Whether it is raised; stays so.
    #[inline]
    pub(crate) fn is_raised(&self) -> bool {
        // Acquire: pairs with the Release of `raise`.
        self.is_raised.load(Ordering::Acquire)
    }

    /// Whether it was raised, and lowers it. Only the owner does.
    #[inline]
    pub(crate) fn take(&self) -> bool {
        // The exchange costs a cache line in exclusive state, so it is tried only when there is something to take.
        self.is_raised() && self.is_raised.swap(false, Ordering::Acquire)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_taken_once_and_ends_a_sleep() {
        let wakeup = std::sync::Arc::new(Wakeup::new().unwrap());
        let signal = Signal::new(wakeup.clone());
        assert!(!signal.take());
        wakeup.about_to_sleep();
        signal.raise();
        let mut poll = [readable(&wakeup)];
        // SAFETY: one valid entry, no waiting.
        assert_eq!(unsafe { libc::poll(poll.as_mut_ptr(), 1, 0) }, 1, "the owner was about to sleep");
        wakeup.awake();
        assert!(signal.is_raised() && signal.take() && !signal.take());
    }

    fn readable(wakeup: &Wakeup) -> libc::pollfd {
        use std::os::fd::AsRawFd;
        libc::pollfd { fd: wakeup.descriptor().as_raw_fd(), events: libc::POLLIN, revents: 0 }
    }
}
