//! Buffers: where every byte that travels lives from its arrival to its departure.
//!
//! A [`Pool`] belongs to one thread and carves buffers of five sizes out of page-aligned slabs. It hands out a
//! [`BufferMut`], which one owner fills from the front; what was filled is split off as a [`Segment`], a
//! reference-counted view that nobody can change any more. A message's [`Body`] is a short list of segments. A
//! segment may be cloned, sliced and dropped on any thread; the last drop sends its buffer back to the pool that it
//! came from by a lock-free stack, which the pool empties when it runs short.
//!
//! What it promises: after the slabs that the load needs were mapped, no call allocates from the heap and none makes
//! a system call; no buffer is reused while a segment, and so an operation of the kernel, can still see it; the
//! mapped bytes never exceed the budget, and what would exceed it is refused with an error that names it.
//!
//! What it must never know: what a frame or a message is, and who sends it.

mod body;
mod gather;
mod segment;
mod slab;

pub(crate) use body::join_short_segments;
pub use body::{Body, BodyReader, SEGMENTS_MAX};
pub use gather::{GATHER_SEGMENTS_MAX, GatherList};
#[cfg(feature = "rdma")]
pub(crate) use segment::MappingHold;
pub use segment::{BufferMut, Segment};
#[cfg(feature = "rdma")]
pub(crate) use slab::Mapping;

use crate::sabotage::{self, Bug};
use crate::sync::{AtomicU64, Ordering, ReferenceCount, ReturnStack};
use slab::{Header, Slab};
use std::ptr::NonNull;
use thiserror::Error;

/// The sizes of buffers, in bytes. Each is four times the one before, so at most three quarters of a buffer that was
/// chosen to fit is empty: the bound below which a retained body is compacted.
pub const BUFFER_CLASSES: [usize; 5] = [256, 1024, 4096, 16_384, 65_536];

/// The largest buffer, in bytes.
pub const BUFFER_BYTES_MAX: usize = BUFFER_CLASSES[BUFFER_CLASSES.len() - 1];

/// Bodies of at least this many bytes are passed on by reference; smaller ones are cheaper to copy beside their
/// header than to name as one more entry of a gather list.
pub const COPY_BREAK_BYTES: usize = 2048;

/// How much a pool may map, and in what pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolConfig {
    /// The budget: the most bytes that this pool maps. Default 256 MiB.
    pub bytes_max: usize,
    /// What is mapped at a time, for buffers of one size; a multiple of 64 KiB. Default 2 MiB, a huge page.
    pub slab_bytes: usize,
    /// Asks for huge pages: explicit ones where the machine reserves some, else transparent ones. Default true.
    /// Without any, slabs lie on ordinary pages, which costs some address translations and nothing else.
    pub huge_pages: bool,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { bytes_max: 256 << 20, slab_bytes: 2 << 20, huge_pages: true }
    }
}

impl PoolConfig {
    /// A small pool, for a thread that only makes bodies for another one to send: slabs of 256 KiB.
    pub fn edge() -> Self {
        Self { slab_bytes: 256 << 10, ..Self::default() }
    }
}

/// Why a pool gave no buffer.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolError {
    /// The budget is used up and no buffer has come back.
    #[error(
        "the pool's budget is used up: {mapped_bytes} of {bytes_max} bytes are mapped and every buffer of \
         {buffer_bytes} bytes is held; raise pool bytes_max, or hold fewer messages"
    )]
    BudgetExceeded {
        /// The size of the buffer that was asked for.
        buffer_bytes: usize,
        /// What is mapped already.
        mapped_bytes: usize,
        /// The budget.
        bytes_max: usize,
    },
    /// No buffer is that large.
    #[error("a buffer of {asked_bytes} bytes was asked for; the largest is {largest_bytes}: use several")]
    TooLarge {
        /// The size that was asked for.
        asked_bytes: usize,
        /// The largest size there is.
        largest_bytes: usize,
    },
    /// A body has more segments than its list can hold.
    #[error("a body is limited to {segments_max} segments; compact it, or send it as several messages")]
    TooManySegments {
        /// The most segments of one body.
        segments_max: usize,
    },
    /// The kernel refused to map a slab.
    #[error("mapping a slab of {slab_bytes} bytes failed: {reason} (is memory or RLIMIT_AS short?)")]
    Map {
        /// The size of the slab.
        slab_bytes: usize,
        /// What the kernel said.
        reason: String,
    },
    /// The configuration cannot work.
    #[error(
        "pool slab_bytes is {slab_bytes}; it must be a multiple of {BUFFER_BYTES_MAX}, and at least that"
    )]
    SlabBytes {
        /// The value that was given.
        slab_bytes: usize,
    },
}

/// What a pool has done since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Bytes that are mapped, at most the budget.
    pub mapped_bytes: usize,
    /// Bytes of these that lie on huge pages that were reserved for this; transparent ones the kernel does not tell.
    pub huge_bytes: usize,
    /// Buffers that are out: not in the free lists, and not known to have come back.
    pub buffers_out: usize,
    /// Copies of bodies in user space: into the pool at the application's edge, out of it, joining and compacting.
    pub body_copies: u64,
    /// The bytes of those copies.
    pub body_copied_bytes: u64,
    /// Bodies among them that were copied because they kept less than a quarter of their buffers alive.
    pub compactions: u64,
}

/// A pool of buffers for one thread.
///
/// It can be moved to another thread, not shared. Dropping it keeps the slabs mapped until the last segment is gone.
#[derive(Debug)]
pub struct Pool {
    config: PoolConfig,
    shared: NonNull<Shared>,
    free: [Vec<NonNull<Header>>; BUFFER_CLASSES.len()],
    slabs: usize,
    huge_bytes: usize,
    buffers_out: usize,
    compactions: u64,
}

// SAFETY: the raw pointers lead to `Shared` and its slabs, which live until the last holder is gone; whatever other
// threads do to them goes through atomics, and the free lists are this owner's alone.
unsafe impl Send for Pool {}

/// What a pool and the buffers that are out share, so that a buffer can come back from any thread, even after its
/// pool was dropped.
#[derive(Debug)]
struct Shared {
    /// The pool, and each buffer that is out. When the last is gone, nobody can become one any more.
    holders: ReferenceCount,
    /// What keeps the slabs mapped: the holders, all of them as one, and each device that knows a slab.
    keepers: ReferenceCount,
    returned: ReturnStack<Header>,
    body_copies: AtomicU64,
    body_copied_bytes: AtomicU64,
    /// Kept only to be unmapped with the last holder.
    slabs: std::sync::Mutex<Vec<Slab>>,
}

impl Pool {
    /// An empty pool; nothing is mapped yet.
    ///
    /// # Errors
    /// [`PoolError::SlabBytes`] when the slabs could not hold whole buffers.
    pub fn new(config: PoolConfig) -> Result<Self, PoolError> {
        if config.slab_bytes == 0 || !config.slab_bytes.is_multiple_of(BUFFER_BYTES_MAX) {
            return Err(PoolError::SlabBytes { slab_bytes: config.slab_bytes });
        }
        let shared = Box::new(Shared {
            holders: ReferenceCount::new(1),
            keepers: ReferenceCount::new(1),
            returned: ReturnStack::new(),
            body_copies: AtomicU64::new(0),
            body_copied_bytes: AtomicU64::new(0),
            slabs: std::sync::Mutex::new(Vec::new()),
        });
        Ok(Self {
            config,
            shared: NonNull::from(Box::leak(shared)),
            free: Default::default(),
            slabs: 0,
            huge_bytes: 0,
            buffers_out: 0,
            compactions: 0,
        })
    }

    /// An empty buffer for at least `bytes` bytes.
    ///
    /// Maps a slab, a system call of some hundred microseconds, when no buffer of that size is free.
    ///
    /// # Errors
    /// [`PoolError::TooLarge`] above [`BUFFER_BYTES_MAX`]; [`PoolError::BudgetExceeded`] or [`PoolError::Map`] when
    /// no buffer is free and none can be made.
    #[inline]
    pub fn buffer(&mut self, bytes: usize) -> Result<BufferMut, PoolError> {
        let class = BUFFER_CLASSES
            .iter()
            .position(|&class_bytes| bytes <= class_bytes)
            .ok_or(PoolError::TooLarge { asked_bytes: bytes, largest_bytes: BUFFER_BYTES_MAX })?;
        // The buffer that came back last is the one whose bytes are still in the cache, so it goes out first: going
        // round all buffers of a slab instead makes every copy into one of them miss.
        if self.shared().returned.has_some() {
            self.reclaim();
        }
        let header = match self.free[class].pop() {
            Some(header) => header,
            None => self.refill(class)?,
        };
        self.buffers_out += 1;
        self.shared().holders.acquire();
        // SAFETY: the header came from a free list, so no segment refers to its buffer, and its slab is mapped as
        // long as `Shared` has a holder, which this buffer now is.
        Ok(unsafe { BufferMut::take(header) })
    }

    /// A body with a copy of `bytes`, each part at the start of a buffer; counted as one copy.
    ///
    /// # Errors
    /// As [`Pool::buffer`], and [`PoolError::TooManySegments`] for a body beyond what its list can name.
    pub fn copy_body(&mut self, bytes: &[u8]) -> Result<Body, PoolError> {
        let mut body = Body::new();
        for part in bytes.chunks(BUFFER_BYTES_MAX) {
            let mut buffer = self.buffer(part.len())?;
            buffer.put_slice(part);
            body.push(buffer.split(), self)?;
        }
        self.count_copy(bytes.len());
        Ok(body)
    }

    /// The most bytes that are mapped, as it was configured.
    #[cfg(feature = "rdma")]
    pub(crate) fn bytes_max(&self) -> usize {
        self.config.bytes_max
    }

    /// What this pool has done so far.
    pub fn stats(&self) -> PoolStats {
        let shared = self.shared();
        PoolStats {
            mapped_bytes: self.slabs * self.config.slab_bytes,
            huge_bytes: self.huge_bytes,
            buffers_out: self.buffers_out,
            // Relaxed: counters that order nothing.
            body_copies: shared.body_copies.load(Ordering::Relaxed),
            body_copied_bytes: shared.body_copied_bytes.load(Ordering::Relaxed),
            compactions: self.compactions,
        }
    }

    /// Takes back the buffers that were let go since the last time, on whatever thread. [`Pool::buffer`] does this by
    /// itself; call it to learn the present [`PoolStats::buffers_out`].
    pub fn reclaim(&mut self) {
        let taken = self.shared().returned.take_all();
        for header in taken {
            if sabotage::strikes(Bug::LeakBuffer) {
                continue;
            }
            // SAFETY: a header on the stack belongs to a buffer that nobody refers to; its slab is still mapped.
            let class = unsafe { header.as_ref() }.class();
            self.free[class].push(header);
            self.buffers_out -= 1;
        }
    }

    fn count_copy(&mut self, bytes: usize) {
        self.shared().count_copy(bytes);
    }

    fn count_compaction(&mut self) {
        self.compactions += 1;
    }

    fn shared(&self) -> &Shared {
        // SAFETY: the pool is a holder, so `Shared` is alive; it is only ever referred to by shared reference.
        unsafe { self.shared.as_ref() }
    }

    #[cold]
    fn refill(&mut self, class: usize) -> Result<NonNull<Header>, PoolError> {
        self.reclaim();
        if let Some(header) = self.free[class].pop() {
            return Ok(header);
        }
        self.grow(class)?;
        self.free[class].pop().ok_or(PoolError::SlabBytes { slab_bytes: self.config.slab_bytes })
    }

    fn grow(&mut self, class: usize) -> Result<(), PoolError> {
        let mapped_bytes = self.slabs * self.config.slab_bytes;
        let buffer_bytes = BUFFER_CLASSES[class];
        if mapped_bytes + self.config.slab_bytes > self.config.bytes_max {
            return Err(PoolError::BudgetExceeded {
                buffer_bytes,
                mapped_bytes,
                bytes_max: self.config.bytes_max,
            });
        }
        let slab = Slab::map(self.config.slab_bytes, class, self.shared, self.config.huge_pages)?;
        // Room for every buffer of this size, so that taking buffers back never allocates.
        self.free[class].reserve(slab.headers().len() * (1 + self.slabs));
        self.free[class].extend(slab.headers().iter().rev().map(NonNull::from));
        self.huge_bytes += if slab.is_huge() { self.config.slab_bytes } else { 0 };
        self.slabs += 1;
        let mut slabs = self.shared().slabs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        slabs.push(slab);
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: this pool is a holder until here, and uses `Shared` no more.
        unsafe { Shared::let_go(self.shared) };
    }
}

impl Shared {
    fn count_copy(&self, bytes: usize) {
        // Relaxed: counters that order nothing.
        self.body_copies.fetch_add(1, Ordering::Relaxed);
        self.body_copied_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Ends one holding; the last one keeps the slabs mapped no longer.
    ///
    /// # Safety
    /// The caller must be a holder, and must not use `shared`, nor a buffer of its slabs, afterwards.
    #[inline]
    unsafe fn let_go(shared: NonNull<Shared>) {
        // SAFETY: the caller is a holder, so it is alive.
        if unsafe { shared.as_ref() }.holders.release() {
            // SAFETY: the holders together are a keeper, and the last of them has gone.
            unsafe { Self::stop_keeping(shared) };
        }
    }

    /// The last one unmaps the slabs.
    ///
    /// # Safety
    /// The caller must be a keeper, and must not use `shared` afterwards.
    #[cold]
    unsafe fn stop_keeping(shared: NonNull<Shared>) {
        // SAFETY: the caller is a keeper, so it is alive.
        if unsafe { shared.as_ref() }.keepers.release() {
            // SAFETY: it was leaked from a `Box` in `Pool::new`, and the last keeper is alone.
            drop(unsafe { Box::from_raw(shared.as_ptr()) });
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
