//! The memory of a table: slots in chunks, allocated by whoever needs the next one, at the same place ever after.

use super::super::{AtomicPtr, Ordering};
use super::slot::Slot;
use std::ptr;

/// Slots that are allocated at once. The models have two, so that they cross from chunk to chunk.
const CHUNK_SLOTS: usize = if cfg!(loom) { 2 } else { 1024 };

pub(super) struct Chunks<T> {
    /// The first slot of each chunk; null until it is needed. Published once and never changed after.
    chunks: Box<[AtomicPtr<Slot<T>>]>,
}

// SAFETY: owns its slots, which may be sent and shared.
unsafe impl<T: Send> Send for Chunks<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Chunks<T> {}

impl<T> Chunks<T> {
    /// Room for `slots` slots, of which none is there yet.
    pub(super) fn new(slots: u32) -> Self {
        let chunks = (slots as usize).div_ceil(CHUNK_SLOTS);
        Self { chunks: (0..chunks).map(|_| AtomicPtr::new(ptr::null_mut())).collect() }
    }

    /// The slot at `index`, if it is within a chunk that is there.
    #[inline]
    pub(super) fn slot(&self, index: u32) -> Option<&Slot<T>> {
        let index = index as usize;
        // Acquire: pairs with the Release in `allocate`, to see slots that are made.
        let first = self.chunks.get(index / CHUNK_SLOTS)?.load(Ordering::Acquire);
        // SAFETY: a chunk has CHUNK_SLOTS slots, and lives as long as `self`.
        (!first.is_null()).then(|| unsafe { &*first.add(index % CHUNK_SLOTS) })
    }

    /// The slot at `index`, which is below what `new` was given; allocates its chunk if need be.
    #[inline]
    pub(super) fn slot_or_allocate(&self, index: u32) -> &Slot<T> {
        match self.slot(index) {
            Some(slot) => slot,
            None => self.allocate(index as usize),
        }
    }

    #[cold]
    fn allocate(&self, index: usize) -> &Slot<T> {
        let made = into_raw((0..CHUNK_SLOTS).map(|_| Slot::new()).collect());
        // Release: pairs with the Acquire in `slot`. Acquire on failure, to see what the other thread has made.
        let published = self.chunks[index / CHUNK_SLOTS].compare_exchange(
            ptr::null_mut(),
            made,
            Ordering::Release,
            Ordering::Acquire,
        );
        let first = match published {
            Ok(_) => made,
            Err(theirs) => {
                // SAFETY: just made, and nobody else has seen it.
                drop(unsafe { from_raw(made) });
                theirs
            }
        };
        // SAFETY: a chunk has CHUNK_SLOTS slots, and lives as long as `self`.
        unsafe { &*first.add(index % CHUNK_SLOTS) }
    }
}

impl<T> Drop for Chunks<T> {
    fn drop(&mut self) {
        for chunk in &self.chunks {
            // Relaxed: whoever drops is alone, and sees what the others did.
            let first = chunk.load(Ordering::Relaxed);
            if !first.is_null() {
                // SAFETY: published by `allocate`, and nobody can reach it any more.
                drop(unsafe { from_raw(first) });
            }
        }
    }
}

fn into_raw<T>(chunk: Box<[Slot<T>]>) -> *mut Slot<T> {
    Box::into_raw(chunk).cast()
}

/// # Safety
/// `first` came from `into_raw` with a chunk of `CHUNK_SLOTS` slots, and nobody uses it any more.
unsafe fn from_raw<T>(first: *mut Slot<T>) -> Box<[Slot<T>]> {
    // SAFETY: as the caller vouches.
    unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(first, CHUNK_SLOTS)) }
}
