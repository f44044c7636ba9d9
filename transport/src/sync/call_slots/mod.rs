//! The table by which a reply finds the future that waits for it, without a lock or a hash.
//!
//! A call takes a slot and puts the slot's place and generation into its correlation. The reply brings the
//! correlation back, the place is looked up in an array, and if the generation is still the same and the slot still
//! waits, the outcome is stored and the waiter woken. Everything else that may come (a late reply, a second one, a
//! number that somebody made up) does not match, and is handed back to be counted.
//!
//! Three files, from the inside out: `slot` is the state machine of one slot, with a diagram; `free_list` knows which
//! slots are free; `chunks` holds the slots, a thousand at a time. This one puts them together and gives each
//! waiter a [`SlotTicket`], whose drop gives the slot back, however that falls together with a reply.
//!
//! No operation waits for another thread. Memory is taken when more calls are in flight than ever before, never after.

mod chunks;
mod free_list;
#[cfg(all(test, loom))]
mod models;
mod slot;
#[cfg(all(test, not(loom)))]
mod tests;

use super::{Arc, AtomicU32, AtomicUsize, Ordering};
use chunks::Chunks;
use free_list::FreeList;
use slot::{Abandoned, Completion, Slot};
use std::fmt;
use std::task::{Context, Poll, Waker};
use thiserror::Error;

/// The most slots that one table can have: what 24 bits of a correlation can name.
pub(crate) const CALLS_MAX: u32 = 1 << SLOT_BITS;

const SLOT_BITS: u32 = 24;

/// Names one call of one table: the table's shard, the slot, and how often the slot was used before.
///
/// It stays unique until one and the same slot was used 2^32 times. No correlation of a table is zero when packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Correlation {
    shard: u8,
    /// Below `CALLS_MAX`, since there is no other way to make one than the two below.
    slot: u32,
    generation: u32,
}

impl Correlation {
    /// As it travels: from the top, 8 bits of shard, 24 of slot, 32 of generation.
    #[inline]
    pub(crate) const fn pack(self) -> u64 {
        (self.shard as u64) << (SLOT_BITS + u32::BITS)
            | (self.slot as u64) << u32::BITS
            | self.generation as u64
    }

    /// What a peer sent back: any number is one, though perhaps not one that was ever given out.
    #[inline]
    pub(crate) const fn unpack(packed: u64) -> Self {
        Self {
            shard: (packed >> (SLOT_BITS + u32::BITS)) as u8,
            slot: (packed >> u32::BITS) as u32 % CALLS_MAX,
            generation: packed as u32,
        }
    }

    /// The place in its table.
    #[inline]
    pub(crate) const fn slot(self) -> usize {
        self.slot as usize
    }

    /// Which of a process's tables it belongs to.
    #[inline]
    pub(crate) const fn shard(self) -> u8 {
        self.shard
    }
}

/// A table of calls in flight; a handle, cheap to clone, for any thread.
pub(crate) struct CallSlots<T: Send>(Arc<Table<T>>);

struct Table<T> {
    shard: u8,
    calls_max: u32,
    chunks: Chunks<T>,
    /// Slots that were used before, the last one first, so that a table touches no more memory than it has to.
    free: FreeList,
    /// How many slots were ever used; those above are fresh, and on no list.
    used: AtomicU32,
    in_flight: AtomicUsize,
}

impl<T: Send> CallSlots<T> {
    /// A table for up to `calls_max` calls at a time, whose correlations carry `shard`.
    ///
    /// It allocates eight bytes for each thousand slots; the slots themselves follow when they are needed.
    ///
    /// # Errors
    /// [`CallsMaxInvalid`] if `calls_max` is zero or above [`CALLS_MAX`].
    pub(crate) fn new(shard: u8, calls_max: u32) -> Result<Self, CallsMaxInvalid> {
        if calls_max == 0 || calls_max > CALLS_MAX {
            return Err(CallsMaxInvalid { calls_max });
        }
        Ok(Self(Arc::new(Table {
            shard,
            calls_max,
            chunks: Chunks::new(calls_max),
            free: FreeList::new(),
            used: AtomicU32::new(0),
            in_flight: AtomicUsize::new(0),
        })))
    }

    /// Takes a free slot, from any thread. Allocates when more calls are in flight than ever before, up to a
    /// thousand slots at once.
    ///
    /// # Errors
    /// [`SlotsFull`] when as many calls are in flight as the table was made for.
    #[inline]
    pub(crate) fn reserve(&self) -> Result<SlotTicket<T>, SlotsFull> {
        let table = &*self.0;
        let (index, slot) = table.free_slot().ok_or(SlotsFull { limit: table.calls_max })?;
        // Relaxed: a figure, which orders nothing.
        table.in_flight.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the slot was taken out of the free list, or is fresh, so nobody else has it.
        let generation = unsafe { slot.open() };
        Ok(SlotTicket { table: self.0.clone(), index, generation, held: true })
    }

    /// Stores the outcome of a call and wakes whoever waits for it, from any thread; usually a driver's, whose wires
    /// bring the replies. Calls the waiter's `Waker`, and so its executor.
    ///
    /// # Errors
    /// The outcome itself, if nobody waits for it: the call was abandoned, has its outcome already, or never was.
    #[inline]
    pub(crate) fn complete(&self, correlation: Correlation, outcome: T) -> Result<(), T> {
        let table = &*self.0;
        if correlation.shard != table.shard || correlation.slot >= table.calls_max {
            return Err(outcome);
        }
        let Some(slot) = table.chunks.slot(correlation.slot) else { return Err(outcome) };
        match slot.complete(correlation.generation, outcome) {
            Completion::Stored(waker) => {
                if let Some(waker) = waker {
                    waker.wake();
                }
                Ok(())
            }
            Completion::Refused(outcome) => Err(outcome),
            Completion::Abandoned(outcome, waker) => {
                // SAFETY: the waiter has left the slot to this thread, which has closed it.
                unsafe { table.give_back(correlation.slot, slot) };
                drop(waker);
                Err(outcome)
            }
        }
    }

    /// How many slots are taken: calls that wait, and outcomes that nobody has fetched yet. A figure for display,
    /// which other threads may have changed meanwhile.
    pub(crate) fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::Relaxed)
    }
}

impl<T: Send> Clone for CallSlots<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Send> fmt::Debug for CallSlots<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallSlots")
            .field("shard", &self.0.shard)
            .field("calls_max", &self.0.calls_max)
            .field("in_flight", &self.in_flight())
            .finish()
    }
}

impl<T> Table<T> {
    /// A slot that nobody has: one that was used before, else a fresh one, else none.
    fn free_slot(&self) -> Option<(u32, &Slot<T>)> {
        // Whatever is on the free list was used before, so its chunk is there.
        if let Some(index) = self.free.pop(|index| self.chunks.slot(index).map(Slot::link)) {
            return Some((index, self.chunks.slot(index)?));
        }
        // Relaxed: only the number counts; what it stands for is published by `chunks`.
        let fresh = |used| (used < self.calls_max).then_some(used + 1);
        let index = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fresh).ok()?;
        Some((index, self.chunks.slot_or_allocate(index)))
    }

    /// Puts a slot on the free list.
    ///
    /// # Safety
    /// The slot is this table's at `index`, closed, and the caller's alone.
    unsafe fn give_back(&self, index: u32, slot: &Slot<T>) {
        // Relaxed: a figure, which orders nothing. Before the push, so that it never counts a slot twice.
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: the caller's alone, and so on no list.
        unsafe { self.free.push(index, slot.link()) };
    }
}

/// A taken slot: the waiter's end of a call. It belongs to one future, or to one thread that blocks.
///
/// Dropping it abandons the call: the slot is free again under another generation, and an outcome that has arrived,
/// or is arriving just then, is dropped by exactly one of the two sides.
pub(crate) struct SlotTicket<T: Send> {
    table: Arc<Table<T>>,
    index: u32,
    generation: u32,
    /// False once the outcome was taken or the call abandoned; from then on the slot may be another ticket's.
    held: bool,
}

impl<T: Send> SlotTicket<T> {
    /// What the peer has to send back with its reply.
    #[inline]
    pub(crate) fn correlation(&self) -> Correlation {
        Correlation { shard: self.table.shard, slot: self.index, generation: self.generation }
    }

    /// The outcome, once; or the task is woken when there is one. After the outcome was taken it is pending for ever.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<T> {
        if let Some(outcome) = self.try_take() {
            return Poll::Ready(outcome);
        }
        let Some(slot) = self.slot() else { return Poll::Pending };
        // SAFETY: the ticket holds the slot, under its generation, and is borrowed mutably.
        if unsafe { slot.listen(self.generation, context.waker()) } {
            return Poll::Pending;
        }
        // The outcome arrives, or has arrived, just now.
        match self.try_take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                // The other thread is between its first and its last step: a few instructions, unless it was
                // descheduled. To wait for it is up to the executor.
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    /// The outcome, once, if there is one; does not wait.
    #[inline]
    pub(crate) fn try_take(&mut self) -> Option<T> {
        // SAFETY: the ticket holds the slot, under its generation, and is borrowed mutably.
        let (outcome, waker) = unsafe { self.slot()?.take(self.generation) }?;
        self.free();
        drop(waker);
        Some(outcome)
    }

    /// Gives the call up, as dropping does; true if it still waited, so that the peer should be told.
    pub(crate) fn abandon(mut self) -> bool {
        self.leave()
    }

    fn leave(&mut self) -> bool {
        let Some(slot) = self.slot() else { return false };
        // SAFETY: the ticket holds the slot, under its generation, and is borrowed mutably.
        match unsafe { slot.abandon(self.generation) } {
            Abandoned::Waiting(waker) => {
                // First the slot, then what may run code of others and panic.
                self.free();
                drop::<Option<Waker>>(waker);
                true
            }
            Abandoned::Completed(outcome, waker) => {
                self.free();
                drop((outcome, waker));
                false
            }
            Abandoned::Completing => {
                self.held = false;
                true
            }
        }
    }

    /// The slot, while this ticket holds it.
    fn slot(&self) -> Option<&Slot<T>> {
        if self.held { self.table.chunks.slot(self.index) } else { None }
    }

    /// Lets go of the slot, which was closed.
    fn free(&mut self) {
        let held = std::mem::replace(&mut self.held, false);
        debug_assert!(held, "a slot is given back once");
        if let Some(slot) = self.table.chunks.slot(self.index) {
            // SAFETY: closed by the caller, and nobody else's before it is on the list.
            unsafe { self.table.give_back(self.index, slot) };
        }
    }
}

impl<T: Send> Drop for SlotTicket<T> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<T: Send> fmt::Debug for SlotTicket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotTicket")
            .field("correlation", &self.correlation())
            .field("held", &self.held)
            .finish()
    }
}

/// All slots are taken.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("{limit} calls are in flight, as many as calls_max allows: wait for replies, or raise calls_max")]
pub(crate) struct SlotsFull {
    /// The table's size.
    pub(crate) limit: u32,
}

/// A table of that size cannot be made.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("calls_max is {calls_max}; allowed are 1 to {CALLS_MAX}, what 24 bits of a correlation can name")]
pub(crate) struct CallsMaxInvalid {
    /// What was asked for.
    pub(crate) calls_max: u32,
}
