//! How other threads hand work to a driver: a bounded queue with many ends to push and one to pop.
//!
//! It is Vyukov's ring of numbered cells, with one thread that pops. A push takes its place by moving the tail, writes
//! its cell, and then shows it by the cell's number. If a producer is descheduled between the two, those behind it
//! can go on, and the consumer finds nothing at that place: it never waits, because each push that completes is
//! followed by a wake.
//!
//! Closing sets a bit in the tail itself. So a push that races with it either has its place before, and then the
//! consumer is not done until it has popped it ([`Submissions::is_drained`]), or gets its item back. Nothing is
//! stranded between the two.

use super::{Arc, AtomicU64, Ordering, UnsafeCell, Wakeup};
use std::fmt;
use std::mem::MaybeUninit;
use thiserror::Error;

/// The consumer's end, which belongs to the driver. Dropping it closes the queue; what has arrived is dropped with
/// it, and what a push is just writing is dropped with the last [`Submitter`].
pub(crate) struct Submissions<T: Send> {
    ring: Arc<Ring<T>>,
    /// The number of pops, which is the position of the next one.
    head: u64,
}

/// A producer's end, for any thread; cheap to clone.
pub(crate) struct Submitter<T: Send> {
    ring: Arc<Ring<T>>,
    wakeup: std::sync::Arc<Wakeup>,
}

impl<T: Send> Submissions<T> {
    /// A queue of at least `items_max` items (rounded up to a power of two, at least 2), whose consumer sleeps by
    /// `wakeup`. All memory is allocated here.
    pub(crate) fn new(items_max: usize, wakeup: std::sync::Arc<Wakeup>) -> (Self, Submitter<T>) {
        let ring = Arc::new(Ring::new(items_max));
        (Self { ring: ring.clone(), head: 0 }, Submitter { ring, wakeup })
    }

    /// The oldest item, if there is one; does not wait.
    ///
    /// `None` can also mean that a producer is just writing the oldest one: it wakes the consumer when it is done. So
    /// the consumer may sleep then, after it has announced that and looked once more.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<T> {
        // SAFETY: there is one consumer, borrowed mutably, and its head counts the pops.
        let item = unsafe { self.ring.pop(self.head) }?;
        self.head += 1;
        Some(item)
    }

    /// Refuses whatever is pushed from now on. What was accepted before stays to be popped.
    pub(crate) fn close(&mut self) {
        self.ring.close();
    }

    /// True if the queue is closed and every item that it accepted was popped. While it is not true after closing,
    /// an item is there or a wake is to come.
    pub(crate) fn is_drained(&self) -> bool {
        self.ring.is_closed_at(self.head)
    }
}

impl<T: Send> Drop for Submissions<T> {
    fn drop(&mut self) {
        self.close();
        while self.pop().is_some() {}
    }
}

impl<T: Send> fmt::Debug for Submissions<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submissions").field("head", &self.head).field("ring", &self.ring).finish()
    }
}

impl<T: Send> Submitter<T> {
    /// Hands an item to the consumer and wakes it if it sleeps. Neither waits nor allocates; a system call only if
    /// the consumer sleeps.
    ///
    /// # Errors
    /// [`SubmitRefused`] with the item, when the queue is full or closed.
    #[inline]
    pub(crate) fn push(&self, item: T) -> Result<(), SubmitRefused<T>> {
        self.ring.push(item)?;
        self.wakeup.wake();
        Ok(())
    }
}

impl<T: Send> Clone for Submitter<T> {
    fn clone(&self) -> Self {
        Self { ring: self.ring.clone(), wakeup: self.wakeup.clone() }
    }
}

impl<T: Send> fmt::Debug for Submitter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submitter").field("ring", &self.ring).finish()
    }
}

/// Why an item was not accepted; it comes back.
#[derive(Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum SubmitRefused<T> {
    /// As many items as fit wait for the driver.
    #[error(
        "{limit} submissions wait for the driver, as many as its queue holds: try again, or enlarge the queue"
    )]
    Full {
        /// What was to be pushed.
        item: T,
        /// How many items fit.
        limit: usize,
    },
    /// The driver has stopped.
    #[error("the driver has stopped and takes no more submissions")]
    Closed {
        /// What was to be pushed.
        item: T,
    },
}

/// Says nothing of the item, so that any item will do.
impl<T> fmt::Debug for SubmitRefused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { limit, .. } => f.debug_struct("Full").field("limit", limit).finish_non_exhaustive(),
            Self::Closed { .. } => f.debug_struct("Closed").finish_non_exhaustive(),
        }
    }
}

#[cfg(test)]
impl<T> SubmitRefused<T> {
    /// The item.
    pub(crate) fn into_item(self) -> T {
        match self {
            Self::Full { item, .. } | Self::Closed { item } => item,
        }
    }
}

/// Set in `Ring::tail` when the queue is closed; positions are above it.
const CLOSED: u64 = 1;

/// One step of the tail.
const POSITION: u64 = 2;

/// The queue without its wakeup, which is what the models check. Positions count pushes; at a thousand million a
/// second they would last for centuries.
struct Ring<T> {
    /// A power of two of them, at least 2, or "written" could not be told from "free for the next lap".
    cells: Box<[Cell<T>]>,
    /// Twice the position of the next push, and the bit `CLOSED`.
    tail: AtomicU64,
}

struct Cell<T> {
    /// `position` when it is free for the push at that position, `position + 1` when that item is in it.
    number: AtomicU64,
    item: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: a cell's item is accessed by the producer that took its position and then by the consumer, as its number
// rules; items move between threads, which `Send` allows.
unsafe impl<T: Send> Sync for Ring<T> {}

impl<T> Ring<T> {
    fn new(items_max: usize) -> Self {
        let cell = |position| Cell {
            number: AtomicU64::new(position),
            item: UnsafeCell::new(MaybeUninit::uninit()),
        };
        let cells = items_max.next_power_of_two().max(2) as u64;
        Self { cells: (0..cells).map(cell).collect(), tail: AtomicU64::new(0) }
    }

    #[inline]
    fn cell(&self, position: u64) -> &Cell<T> {
        &self.cells[position as usize & (self.cells.len() - 1)]
    }

    #[inline]
    fn push(&self, item: T) -> Result<(), SubmitRefused<T>> {
        // Relaxed: only a guess, which the exchange verifies.
        let mut tail = self.tail.load(Ordering::Relaxed);
        loop {
            if tail & CLOSED != 0 {
                return Err(SubmitRefused::Closed { item });
            }
            let position = tail / POSITION;
            let cell = self.cell(position);
            // Acquire: pairs with the Release in `pop`, so that the write below comes after the last item was read.
            let number = cell.number.load(Ordering::Acquire);
            if number < position {
                // Its last item was not popped yet, so as many as fit are waiting.
                return Err(SubmitRefused::Full { item, limit: self.cells.len() });
            }
            if number > position {
                // Another producer was here: the guess is old.
                tail = self.tail.load(Ordering::Relaxed);
                continue;
            }
            // Relaxed: it only takes the position; the item is published by the cell's number.
            match self.tail.compare_exchange_weak(tail, tail + POSITION, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => {
                    // SAFETY: the position is this producer's, and its cell is free.
                    cell.item.with_mut(|cell| unsafe { (*cell).write(item) });
                    // Release: pairs with the Acquire in `pop`.
                    cell.number.store(position + 1, Ordering::Release);
                    return Ok(());
                }
                Err(now) => tail = now,
            }
        }
    }

    /// The item at `head`, if it was written.
    ///
    /// # Safety
    /// By one thread at a time, with `head` the number of items that were popped.
    #[inline]
    unsafe fn pop(&self, head: u64) -> Option<T> {
        let cell = self.cell(head);
        // Acquire: pairs with the Release in `push`.
        if cell.number.load(Ordering::Acquire) != head + 1 {
            return None;
        }
        // SAFETY: the item was written, and no producer touches the cell before its number says that it is free.
        let item = cell.item.with_mut(|cell| unsafe { (*cell).assume_init_read() });
        // Release: pairs with the Acquire in `push`.
        cell.number.store(head + self.cells.len() as u64, Ordering::Release);
        Some(item)
    }

    fn close(&self) {
        // Relaxed: an item is published by its cell's number, and no push succeeds on a tail with the bit.
        self.tail.fetch_or(CLOSED, Ordering::Relaxed);
    }

    /// True if closed with exactly `pushes` pushes.
    fn is_closed_at(&self, pushes: u64) -> bool {
        // Relaxed: the thread that closes asks, and after that the tail does not change.
        self.tail.load(Ordering::Relaxed) == (pushes * POSITION) | CLOSED
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        for (index, cell) in self.cells.iter().enumerate() {
            // Relaxed: whoever drops is alone, and sees what the others did.
            let number = cell.number.load(Ordering::Relaxed) as usize;
            let is_free = number & (self.cells.len() - 1) == index;
            if !is_free {
                // SAFETY: its number is one past a position of this cell, so an item was written and not popped.
                cell.item.with_mut(|cell| unsafe { (*cell).assume_init_drop() });
            }
        }
    }
}

impl<T> fmt::Debug for Ring<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tail = self.tail.load(Ordering::Relaxed);
        f.debug_struct("Ring")
            .field("items_max", &self.cells.len())
            .field("pushes", &(tail / POSITION))
            .field("closed", &(tail & CLOSED != 0))
            .finish()
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::super::wakeup::SleepFlag;
    use super::*;
    use loom::sync::Notify;
    use loom::thread;

    fn push_two_threads(ring: &Arc<Ring<Box<u32>>>) -> [thread::JoinHandle<Option<u32>>; 2] {
        [1, 2].map(|item| {
            let ring = ring.clone();
            thread::spawn(move || ring.push(Box::new(item)).err().map(|refused| *refused.into_item()))
        })
    }

    /// Two producers race with the closing consumer: each has its item back, or the drain finds it. Bounded to three
    /// preemptions, which takes a second.
    #[test]
    fn loom_no_item_is_stranded_by_closing() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let ring = Arc::new(Ring::new(2));
            let mut submissions = Submissions { ring: ring.clone(), head: 0 };
            let producers = push_two_threads(&ring);
            submissions.close();
            let mut seen = Vec::new();
            while !submissions.is_drained() {
                match submissions.pop() {
                    Some(item) => seen.push(*item),
                    None => thread::yield_now(),
                }
            }
            assert_eq!(submissions.pop(), None);
            seen.extend(producers.into_iter().filter_map(|producer| producer.join().unwrap()));
            seen.sort_unstable();
            assert_eq!(seen, [1, 2], "each once");
        });
    }

    /// A ring that is full in between: nothing is overwritten and nothing seen twice, and the order is kept.
    #[test]
    fn loom_a_cell_is_used_again_only_when_it_was_read() {
        loom::model(|| {
            let ring = Arc::new(Ring::new(2));
            let mut submissions = Submissions { ring: ring.clone(), head: 0 };
            let producer =
                thread::spawn(move || (1..=3).filter(|&item| ring.push(item).is_ok()).collect::<Vec<u32>>());
            let mut popped: Vec<u32> = (0..2).filter_map(|_| submissions.pop()).collect();
            let pushed = producer.join().unwrap();
            popped.extend(std::iter::from_fn(|| submissions.pop()));
            assert_eq!(popped, pushed);
        });
    }

    /// A consumer that sleeps between the items: the push that it cannot see yet wakes it. A lost wakeup leaves it
    /// asleep for ever, which loom reports as a deadlock. Three preemptions are enough to lose one, and all that can
    /// be tried in seconds.
    #[test]
    fn loom_a_push_ends_the_sleep() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let shared = Arc::new((SleepFlag::new(), Notify::new()));
            let ring = Arc::new(Ring::new(2));
            let mut submissions = Submissions { ring: ring.clone(), head: 0 };
            let producers = [1_u32, 2].map(|item| {
                let (ring, shared) = (ring.clone(), shared.clone());
                thread::spawn(move || {
                    ring.push(item).unwrap();
                    if shared.0.lower() {
                        shared.1.notify();
                    }
                })
            });
            let mut sum = 0;
            while sum < 3 {
                shared.0.raise();
                match submissions.pop() {
                    Some(item) => sum += item,
                    None => shared.1.wait(),
                }
                shared.0.lower();
            }
            for producer in producers {
                producer.join().unwrap();
            }
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::thread;

    fn queue<T: Send>(items_max: usize) -> (Submissions<T>, Submitter<T>, std::sync::Arc<Wakeup>) {
        let wakeup = std::sync::Arc::new(Wakeup::new().unwrap());
        let (submissions, submitter) = Submissions::new(items_max, wakeup.clone());
        (submissions, submitter, wakeup)
    }

    fn sleep(wakeup: &Wakeup) {
        let mut poll = libc::pollfd { fd: wakeup.descriptor().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid entry.
        let ready = unsafe { libc::poll(&mut poll, 1, 10_000) };
        assert_eq!(ready, 1, "slept for ten seconds, so a wakeup was lost");
    }

    #[test]
    fn a_full_queue_gives_the_item_back_and_names_its_limit() {
        for (items_max, limit) in [(0, 2), (1, 2), (2, 2), (3, 4), (8, 8)] {
            let (mut submissions, submitter, _) = queue(items_max);
            for lap in 0..3 {
                for item in 0..limit {
                    submitter.push(item + lap).unwrap();
                }
                assert_eq!(submitter.push(99).unwrap_err(), SubmitRefused::Full { item: 99, limit });
                for item in 0..limit {
                    assert_eq!(submissions.pop(), Some(item + lap));
                }
                assert_eq!(submissions.pop(), None);
            }
        }
    }

    #[test]
    fn closing_refuses_what_comes_and_keeps_what_came() {
        let (mut submissions, submitter, _) = queue(4);
        submitter.push(1).unwrap();
        assert!(!submissions.is_drained());
        submissions.close();
        assert_eq!(submitter.clone().push(2).unwrap_err(), SubmitRefused::Closed { item: 2 });
        assert!(!submissions.is_drained());
        assert_eq!((submissions.pop(), submissions.pop()), (Some(1), None));
        assert!(submissions.is_drained());
    }

    #[test]
    fn what_nobody_pops_is_dropped_once() {
        let item = std::sync::Arc::new(());
        let (mut submissions, submitter, wakeup) = queue(4);
        for _ in 0..4 {
            submitter.push(item.clone()).unwrap();
        }
        submissions.pop();
        submitter.push(item.clone()).unwrap();
        drop(submissions);
        assert_eq!(std::sync::Arc::strong_count(&item), 1, "the consumer's drop drains");
        drop(submitter.push(item.clone()).unwrap_err().into_item());
        let ring = Ring::new(4);
        for _ in 0..6 {
            drop(ring.push(item.clone()));
        }
        // SAFETY: one thread, first pop.
        drop(unsafe { ring.pop(0) });
        assert_eq!(std::sync::Arc::strong_count(&item), 4);
        drop((ring, wakeup));
        assert_eq!(std::sync::Arc::strong_count(&item), 1, "the ring's drop takes the rest");
    }

    /// Two producers against a consumer that sleeps whenever it finds nothing: all items arrive, each producer's in
    /// its order.
    #[test]
    fn items_from_many_threads_arrive_in_order_and_wake_the_consumer() {
        const ITEMS: u32 = 20_000;
        let (mut submissions, submitter, wakeup) = queue(64);
        let producers = [0, 1].map(|producer| {
            let submitter = submitter.clone();
            thread::spawn(move || {
                for number in 0..ITEMS {
                    while submitter.push((producer, number)).is_err() {
                        thread::yield_now();
                    }
                }
            })
        });
        let mut next = [0; 2];
        while next != [ITEMS; 2] {
            wakeup.about_to_sleep();
            match submissions.pop() {
                Some((producer, number)) => {
                    assert_eq!(number, next[producer]);
                    next[producer] += 1;
                }
                None => sleep(&wakeup),
            }
            wakeup.awake();
        }
        for producer in producers {
            producer.join().unwrap();
        }
    }
}
