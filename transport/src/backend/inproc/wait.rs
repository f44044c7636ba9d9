//! Where a driver sleeps that has no wire with a wait point of its own.

use crate::Wakeup;
use crate::backend::WaitPoint;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// A wait point over the driver's [`Wakeup`] and any watched descriptors, by `ppoll(2)`.
///
/// As with every wait point, the `inproc` wire ends a sleep only while its driver is known to be about to sleep:
/// between [`Wakeup::about_to_sleep`], after which the driver polls once more, and [`Wakeup::awake`].
#[derive(Debug)]
pub struct InprocWaitPoint {
    /// Owns the first of the descriptors.
    _wakeup: Arc<Wakeup>,
    descriptors: Vec<libc::pollfd>,
}

impl InprocWaitPoint {
    /// A wait point that watches nothing but `wakeup`.
    pub fn new(wakeup: Arc<Wakeup>) -> Self {
        let descriptors = vec![readable(wakeup.descriptor())];
        Self { _wakeup: wakeup, descriptors }
    }
}

impl WaitPoint for InprocWaitPoint {
    fn watch(&mut self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.descriptors.push(readable(descriptor));
        Ok(())
    }

    /// # Errors
    /// The kernel's, and [`io::ErrorKind::InvalidInput`] if a watched descriptor was closed: every sleep would end at
    /// once.
    fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let limit = timeout.map(|timeout| libc::timespec {
            // A time beyond what the kernel's type can say is for ever.
            tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let count = self.descriptors.len() as libc::nfds_t;
        // SAFETY: the entries are `count` valid ones of our own, the limit is null or lives until the call returns, and
        // no signal mask is given.
        let result = unsafe { libc::ppoll(self.descriptors.as_mut_ptr(), count, limit, std::ptr::null()) };
        if result < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        match self.descriptors.iter().find(|entry| entry.revents & libc::POLLNVAL != 0) {
            Some(entry) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the watched descriptor {} was closed; watch only what stays open", entry.fd),
            )),
            None => Ok(()),
        }
    }
}

fn readable(descriptor: BorrowedFd<'_>) -> libc::pollfd {
    libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_watched_descriptor_that_was_closed_is_named() {
        let mut wait = InprocWaitPoint::new(Arc::new(Wakeup::new().unwrap()));
        wait.sleep(Some(Duration::ZERO)).unwrap();
        // The tests beside this one use closed numbers again at once, so this one is a number that none can have.
        wait.descriptors.push(libc::pollfd { fd: i32::MAX, events: libc::POLLIN, revents: 0 });
        let error = wait.sleep(None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("2147483647 was closed"), "{error}");
    }
}
