//! Memory as the kernel gives it, cut into buffers of one size, with a header for each.

use super::{BUFFER_CLASSES, PoolError, Shared};
use crate::sync::{AtomicPtr, Linked, ReferenceCount, unique_number};
use std::ptr::{self, NonNull};

/// What is known of one buffer. Headers lie apart from their buffers, so that these stay aligned to their size.
#[derive(Debug)]
pub(super) struct Header {
    holders: ReferenceCount,
    next: AtomicPtr<Header>,
    data: NonNull<u8>,
    class: u32,
    shared: NonNull<Shared>,
    #[cfg_attr(not(feature = "rdma"), expect(dead_code, reason = "only devices ask for it"))]
    mapping: NonNull<Mapping>,
}

/// The memory that a buffer lies in, as a device gets to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// No other mapping of this process has it, now or later.
    pub(crate) number: u64,
    /// Its first byte.
    pub(crate) address: u64,
    /// Its length.
    pub(crate) bytes: usize,
}

// SAFETY: `link` always names `next`, which nothing else uses.
unsafe impl Linked for Header {
    fn link(&self) -> &AtomicPtr<Header> {
        &self.next
    }
}

impl Header {
    pub(super) fn holders(&self) -> &ReferenceCount {
        &self.holders
    }

    pub(super) fn data(&self) -> NonNull<u8> {
        self.data
    }

    pub(super) fn class(&self) -> usize {
        self.class as usize
    }

    pub(super) fn capacity(&self) -> usize {
        BUFFER_CLASSES[self.class as usize]
    }

    pub(super) fn shared(&self) -> NonNull<Shared> {
        self.shared
    }

    #[cfg(feature = "rdma")]
    pub(super) fn mapping(&self) -> &Mapping {
        // SAFETY: it was leaked from a box in `Slab::map`, and lives as long as the slab and this header.
        unsafe { self.mapping.as_ref() }
    }

    /// Ends one holding of the buffer; the last one sends it back to its pool.
    ///
    /// # Safety
    /// The caller must be a holder of the buffer, and must not use it afterwards.
    #[inline]
    pub(super) unsafe fn let_go(this: NonNull<Header>) {
        // SAFETY: the caller holds the buffer, so the slab with its header is alive.
        let header = unsafe { this.as_ref() };
        if !header.holders.release() {
            return;
        }
        let shared = header.shared;
        // SAFETY: the last holder has the header to itself; it is on no stack, and its slab lives until `Shared` has
        // no holder left, of which this buffer is one until the next line.
        unsafe {
            shared.as_ref().returned.push(this);
            Shared::let_go(shared);
        }
    }
}

/// One mapping, cut into buffers of one size.
#[derive(Debug)]
pub(super) struct Slab {
    base: NonNull<u8>,
    bytes: usize,
    huge: bool,
    /// The slab's own, but as a pointer: buffers point to their headers while the slab itself is moved about.
    headers: NonNull<[Header]>,
    /// As above.
    mapping: NonNull<Mapping>,
}

// SAFETY: a slab owns its mapping; the headers' shared parts are atomics.
unsafe impl Send for Slab {}

impl Slab {
    /// Maps and touches `bytes` bytes: a page fault costs 2 us, which must not fall on the data path.
    pub(super) fn map(
        bytes: usize,
        class: usize,
        shared: NonNull<Shared>,
        huge_pages: bool,
    ) -> Result<Self, PoolError> {
        let (base, huge) = map_pages(bytes, huge_pages)?;
        let buffer_bytes = BUFFER_CLASSES[class];
        let mapping = Mapping { number: unique_number(), address: base.as_ptr() as u64, bytes };
        let mapping = NonNull::from(Box::leak(Box::new(mapping)));
        let header = |index: usize| Header {
            holders: ReferenceCount::new(0),
            next: AtomicPtr::new(ptr::null_mut()),
            // SAFETY: `index` is below the number of whole buffers in the mapping.
            data: unsafe { base.add(index * buffer_bytes) },
            class: class as u32,
            shared,
            mapping,
        };
        let headers: Box<[Header]> = (0..bytes / buffer_bytes).map(header).collect();
        Ok(Self { base, bytes, huge, headers: NonNull::from(Box::leak(headers)), mapping })
    }

    pub(super) fn headers(&self) -> &[Header] {
        // SAFETY: they were leaked from a box in `map`, and live until this slab is dropped.
        unsafe { self.headers.as_ref() }
    }

    pub(super) fn is_huge(&self) -> bool {
        self.huge
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // A slab is dropped only when nobody refers to a buffer of it, nor to its header.
        unmap(self.base, self.bytes);
        // SAFETY: both were leaked from boxes in `map`, and are used no more.
        unsafe {
            drop(Box::from_raw(self.headers.as_ptr()));
            drop(Box::from_raw(self.mapping.as_ptr()));
        }
    }
}

const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Reserved huge pages first, then ordinary ones with the request to make them huge.
fn map_pages(bytes: usize, huge_pages: bool) -> Result<(NonNull<u8>, bool), PoolError> {
    let whole_huge_pages = huge_pages && bytes.is_multiple_of(HUGE_PAGE_BYTES);
    if whole_huge_pages && let Some(base) = map_anonymous(bytes, libc::MAP_HUGETLB) {
        return Ok((base, true));
    }
    let base = if whole_huge_pages { map_aligned(bytes) } else { map_anonymous(bytes, 0) };
    let base = base.ok_or_else(|| PoolError::Map {
        slab_bytes: bytes,
        reason: std::io::Error::last_os_error().to_string(),
    })?;
    if whole_huge_pages {
        // SAFETY: advice on our own mapping; a refusal changes nothing.
        unsafe { libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
    }
    // Touched only now, after the advice, so that the first touch already brings a huge page where there is one.
    // SAFETY: the mapping is our own, private and writable. MADV_POPULATE_WRITE needs Linux 5.14; without it the pages
    // are touched at first use.
    unsafe { libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_POPULATE_WRITE) };
    Ok((base, false))
}

/// A mapping that begins where a huge page can: without that the kernel has no place for one.
fn map_aligned(bytes: usize) -> Option<NonNull<u8>> {
    let whole = map_anonymous(bytes + HUGE_PAGE_BYTES, 0)?;
    let before = whole.as_ptr().align_offset(HUGE_PAGE_BYTES);
    // SAFETY: at most a huge page further, and so within the mapping.
    let base = unsafe { whole.add(before) };
    unmap(whole, before);
    // SAFETY: the end of what is kept lies within the mapping.
    unmap(unsafe { base.add(bytes) }, HUGE_PAGE_BYTES - before);
    Some(base)
}

fn unmap(base: NonNull<u8>, bytes: usize) {
    if bytes > 0 {
        // SAFETY: callers name whole pages of a mapping of theirs that nothing refers to. The result does not matter:
        // it fails only when the kernel has no room to split a mapping, and then the pages stay, unused.
        unsafe { libc::munmap(base.as_ptr().cast(), bytes) };
    }
}

fn map_anonymous(bytes: usize, flags: libc::c_int) -> Option<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory of ours.
    let base =
        unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if base == libc::MAP_FAILED { None } else { NonNull::new(base.cast()) }
}
