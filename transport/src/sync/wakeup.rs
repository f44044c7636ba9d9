//! How one thread wakes another that may be asleep, without a system call while it is awake.

use super::{AtomicBool, Ordering, fence};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A flag that says "I am about to sleep" and an `eventfd` that ends the sleep.
///
/// The sleeper raises the flag, looks once more for work, and sleeps on the descriptor only if there is none. A waker
/// publishes its work first, then looks at the flag. One of the two always sees the other, because each has a
/// sequentially consistent fence between its write and its read. Whoever lowers the flag writes to the descriptor,
/// so that a sleeper is woken once, and an awake one costs its peers no system call.
#[derive(Debug)]
pub struct Wakeup {
    flag: SleepFlag,
    event: OwnedFd,
}

impl Wakeup {
    /// A wakeup whose owner is awake.
    ///
    /// # Errors
    /// The kernel's, from `eventfd(2)`: usually that the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: `eventfd` touches no memory of ours.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let event = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Self { flag: SleepFlag::new(), event })
    }

    /// Ends the owner's sleep, or keeps it from falling asleep. Call it after the work was published.
    ///
    /// A fence and a load while the owner is awake; one system call if it sleeps.
    #[inline]
    pub fn wake(&self) {
        if self.flag.lower() {
            self.signal();
        }
    }

    /// Says that the owner is about to sleep: it must look for work once more before it does.
    #[inline]
    pub fn about_to_sleep(&self) {
        self.flag.raise();
    }

    /// Says that the owner is awake again, and empties the descriptor if it was written to.
    #[inline]
    pub fn awake(&self) {
        if self.flag.lower() {
            return;
        }
        let mut count = [0_u8; 8];
        // SAFETY: the target has the eight bytes that an eventfd yields. Nothing to read (EAGAIN) is as good: a waker
        // has lowered the flag and is about to write; the next sleep then ends at once, which costs a round, no loss.
        unsafe { libc::read(self.event.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }

    /// The descriptor that becomes readable when the sleep is to end.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    #[cold]
    fn signal(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: the source has the eight bytes that an eventfd takes. It fails only when the counter is full
        // (EAGAIN), and then the descriptor is readable anyway.
        unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

/// The flag alone, which is what the models check. It also serves where a thread does not sleep but waits for one
/// condition, such as room in a ring, and wants to be told.
#[derive(Debug)]
pub(crate) struct SleepFlag(AtomicBool);

impl SleepFlag {
    /// A flag that is down.
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// By the sleeper, before it looks for work the last time.
    pub(crate) fn raise(&self) {
        // An exchange rather than a store: reading the last change, it comes after it in everybody's eyes. (By C++'s
        // rules a store would do, but loom does not see that.) It is about to sleep, so it has the time.
        self.0.swap(true, Ordering::Relaxed);
        // Pairs with the fence in `lower`: either the sleeper's last look sees the work, or the waker sees the flag.
        fence(Ordering::SeqCst);
    }

    /// By a waker after it published its work, or by the sleeper itself; true if the flag was up.
    #[inline]
    pub(crate) fn lower(&self) -> bool {
        fence(Ordering::SeqCst);
        // The exchange costs a cache line in exclusive state, so it is tried only when there is something to lower.
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use crate::sync::AtomicUsize;
    use loom::sync::{Arc, Notify};

    /// Two wakers each publish a piece of work; the sleeper must find both, sleeping as often as it likes. A lost
    /// wakeup leaves it asleep for ever, which loom reports as a deadlock. Three preemptions are enough to lose one,
    /// and all that can be tried in seconds.
    #[test]
    fn loom_no_wakeup_is_lost() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let shared = Arc::new((SleepFlag::new(), AtomicUsize::new(0), Notify::new()));
            let wakers: Vec<_> = (0..2)
                .map(|_| {
                    let shared = shared.clone();
                    loom::thread::spawn(move || {
                        shared.1.fetch_add(1, Ordering::Relaxed);
                        if shared.0.lower() {
                            shared.2.notify();
                        }
                    })
                })
                .collect();
            while shared.1.load(Ordering::Relaxed) < 2 {
                shared.0.raise();
                if shared.1.load(Ordering::Relaxed) < 2 {
                    shared.2.wait();
                }
                shared.0.lower();
            }
            for waker in wakers {
                waker.join().unwrap();
            }
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn is_readable(wakeup: &Wakeup) -> bool {
        let mut poll = libc::pollfd { fd: wakeup.descriptor().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid entry, no waiting.
        unsafe { libc::poll(&mut poll, 1, 0) == 1 }
    }

    #[test]
    fn only_a_sleeper_is_signalled_and_only_once() {
        let wakeup = Wakeup::new().unwrap();
        wakeup.wake();
        assert!(!is_readable(&wakeup), "the owner is awake");
        wakeup.about_to_sleep();
        wakeup.wake();
        wakeup.wake();
        assert!(is_readable(&wakeup));
        wakeup.awake();
        assert!(!is_readable(&wakeup), "one read empties it");
        wakeup.wake();
        assert!(!is_readable(&wakeup));
    }
}
