//! Which slots are free: a stack of their places, that any thread may push to and pop from.
//!
//! Treiber's stack, with the links in the slots. Its known trouble is that between the load and the exchange of a
//! `pop` the top may leave and come back with another one below it (ABA). So the head carries a number beside the
//! place, which each `pop` counts up: it would take 2^32 of them within those few instructions to be fooled.

use super::super::{AtomicU32, AtomicU64, Ordering};

/// No slot has this place: it is above what a correlation can name.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct FreeList {
    /// The number of pops in the upper half, the place of the top in the lower one.
    head: AtomicU64,
}

impl FreeList {
    /// An empty list.
    pub(super) fn new() -> Self {
        Self { head: AtomicU64::new(head(0, NONE)) }
    }

    /// Puts a slot on top; `link` is its own.
    ///
    /// # Safety
    /// The slot is on no list, and the caller's alone.
    #[inline]
    pub(super) unsafe fn push(&self, index: u32, link: &AtomicU32) {
        // Relaxed: only a guess, which the exchange verifies.
        let mut seen = self.head.load(Ordering::Relaxed);
        loop {
            let (pops, top) = parts(seen);
            // Relaxed: published by the exchange.
            link.store(top, Ordering::Relaxed);
            // Release: pairs with the Acquire of `pop`, which so sees the link and all that was done to the slot.
            match self.head.compare_exchange_weak(
                seen,
                head(pops, index),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Takes the top off; `link_of` finds the link of any slot that was pushed.
    #[inline]
    pub(super) fn pop<'link>(&self, link_of: impl Fn(u32) -> Option<&'link AtomicU32>) -> Option<u32> {
        // Acquire, here and where the exchange fails: pairs with the Release of the `push` that put this top there,
        // directly or through later exchanges, which all continue its release sequence. A head of the same value
        // was written by one `push` only, or by the `pop` that uncovered it, so the exchange itself needs nothing.
        let mut seen = self.head.load(Ordering::Acquire);
        loop {
            let (pops, top) = parts(seen);
            // Relaxed: ordered by the load above. If another thread has popped the slot meanwhile and pushes it
            // again, this is not its link any more, and the exchange fails.
            let below = link_of(top)?.load(Ordering::Relaxed);
            match self.head.compare_exchange_weak(
                seen,
                head(pops.wrapping_add(1), below),
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(top),
                Err(now) => seen = now,
            }
        }
    }
}

const fn head(pops: u32, top: u32) -> u64 {
    (pops as u64) << u32::BITS | top as u64
}

const fn parts(head: u64) -> (u32, u32) {
    ((head >> u32::BITS) as u32, head as u32)
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;

    struct Shared {
        list: FreeList,
        slots: Vec<(AtomicU32, UnsafeCell<u32>)>,
    }
    // SAFETY: the models touch a slot's content only while they have it; loom checks that.
    unsafe impl Sync for Shared {}

    fn pop(shared: &Shared) -> Option<u32> {
        let index = shared.list.pop(|index| shared.slots.get(index as usize).map(|slot| &slot.0))?;
        // SAFETY: who pops a slot is alone with it; loom reports any access that is concurrent.
        shared.slots[index as usize].1.with_mut(|uses| unsafe { *uses += 1 });
        Some(index)
    }

    fn push(shared: &Shared, index: u32) {
        // SAFETY: it was popped, or is fresh.
        unsafe { shared.list.push(index, &shared.slots[index as usize].0) };
    }

    /// One thread pops two and pushes the first back, which is ABA for the other one that pops meanwhile: no slot is
    /// ever had by two, and none is lost.
    #[test]
    fn loom_a_free_slot_is_had_by_one() {
        loom::model(|| {
            let slots = (0..2).map(|_| (AtomicU32::new(NONE), UnsafeCell::new(0))).collect();
            let shared = Arc::new(Shared { list: FreeList::new(), slots });
            push(&shared, 1);
            push(&shared, 0);
            let other = shared.clone();
            let thread = loom::thread::spawn(move || {
                let first = pop(&other);
                let second = pop(&other);
                if let Some(first) = first {
                    push(&other, first);
                }
                if let Some(second) = second {
                    push(&other, second);
                }
            });
            if let Some(index) = pop(&shared) {
                push(&shared, index);
            }
            thread.join().unwrap();
            let (first, second) = (pop(&shared), pop(&shared));
            assert_ne!(first, second);
            assert!(first.is_some() && second.is_some() && pop(&shared).is_none());
        });
    }
}
