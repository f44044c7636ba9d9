//! A buffer while it is filled, and the views of it that are handed out.

#[cfg(feature = "rdma")]
use super::Shared;
use super::slab::Header;
#[cfg(feature = "rdma")]
use super::slab::Mapping;
use std::fmt;
use std::mem::MaybeUninit;
use std::ops::{Deref, Range};
use std::ptr::NonNull;

/// A buffer that one owner fills from the front.
///
/// [`BufferMut::split`] freezes what was written since the last split as a [`Segment`]; the rest can be filled
/// further while those segments are on their way. Dropping it leaves them valid.
pub struct BufferMut {
    header: NonNull<Header>,
    /// The frozen part ends here.
    start: u32,
    /// The written part ends here.
    end: u32,
}

// SAFETY: the bytes from `start` on are this owner's alone; the header's shared parts are atomics.
unsafe impl Send for BufferMut {}
// SAFETY: a shared reference allows only reads of bytes that nobody changes meanwhile.
unsafe impl Sync for BufferMut {}

impl BufferMut {
    /// Takes a free buffer into use.
    ///
    /// # Safety
    /// No segment or buffer may refer to `header`, it must be on no list, and the caller must have counted one
    /// holder of its pool's shared part for it.
    #[inline]
    pub(super) unsafe fn take(header: NonNull<Header>) -> Self {
        // SAFETY: the caller vouches that the header is valid and unused.
        unsafe { header.as_ref() }.holders().restart();
        Self { header, start: 0, end: 0 }
    }

    /// The size of the whole buffer, in bytes.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.header().capacity()
    }

    /// How many bytes can still be written.
    #[inline]
    pub fn spare(&self) -> usize {
        self.capacity() - self.end as usize
    }

    /// What was written since the last split.
    #[inline]
    pub fn written(&self) -> &[u8] {
        // SAFETY: the bytes up to `end` were written, and lie in the buffer.
        unsafe { std::slice::from_raw_parts(self.at(self.start), (self.end - self.start) as usize) }
    }

    /// What was written since the last split, to be changed.
    #[inline]
    pub fn written_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `written`; no segment covers bytes from `start` on, so they are this owner's alone.
        unsafe { std::slice::from_raw_parts_mut(self.at(self.start), (self.end - self.start) as usize) }
    }

    /// The part that is not written yet.
    #[inline]
    pub fn spare_mut(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: these bytes lie in the buffer, and no segment covers them.
        unsafe { std::slice::from_raw_parts_mut(self.at(self.end).cast(), self.spare()) }
    }

    /// Declares the next `bytes` bytes of the spare part as written.
    ///
    /// # Safety
    /// They must have been written, by whom ever.
    ///
    /// # Panics
    /// If there is no room for them, which would be memory corruption already.
    #[inline]
    pub unsafe fn assume_written(&mut self, bytes: usize) {
        assert!(bytes <= self.spare(), "more was written than the buffer holds");
        self.end += bytes as u32;
    }

    /// Appends a copy of `bytes`, as much as there is room for, and says how much that was.
    #[inline]
    pub fn put_slice(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.spare());
        // SAFETY: the target has room for `count` bytes, is this owner's alone, and so cannot overlap the source.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(self.end), count) };
        self.end += count as u32;
        count
    }

    /// Appends `count` zero bytes, as many as there is room for.
    #[inline]
    pub fn put_zeros(&mut self, count: usize) {
        let count = count.min(self.spare());
        // SAFETY: the target has room for `count` bytes and is this owner's alone.
        unsafe { std::ptr::write_bytes(self.at(self.end), 0, count) };
        self.end += count as u32;
    }

    /// Appends `count` zero bytes and lends them, to be written over. `None`, and nothing is appended, if there is no
    /// room for so many.
    #[inline]
    pub fn lend_zeros(&mut self, count: usize) -> Option<&mut [u8]> {
        if count > self.spare() {
            return None;
        }
        let at = self.at(self.end);
        self.end += count as u32;
        // SAFETY: there is room for `count` bytes, which are this owner's alone, and are written before they are lent.
        unsafe {
            std::ptr::write_bytes(at, 0, count);
            Some(std::slice::from_raw_parts_mut(at, count))
        }
    }

    /// Freezes what was written since the last split.
    #[inline]
    pub fn split(&mut self) -> Segment {
        self.header().holders().acquire();
        let segment = Segment { header: self.header, start: self.start, bytes: self.end - self.start };
        self.start = self.end;
        segment
    }

    /// Empties the buffer, to be filled from the front again, if no segment of it is left; otherwise returns false.
    #[inline]
    pub fn restart(&mut self) -> bool {
        let alone = self.header().holders().is_unique();
        if alone {
            (self.start, self.end) = (0, 0);
        }
        alone
    }

    /// The memory that the buffer lies in.
    #[cfg(feature = "rdma")]
    #[inline]
    pub(crate) fn mapping(&self) -> &Mapping {
        self.header().mapping()
    }

    /// Keeps that memory mapped.
    #[cfg(feature = "rdma")]
    pub(crate) fn hold_mapping(&self) -> MappingHold {
        MappingHold::of(self.header())
    }

    /// The address of the buffer's first byte.
    pub(super) fn front(&self) -> *const u8 {
        self.at(0)
    }

    fn at(&self, offset: u32) -> *mut u8 {
        // SAFETY: every caller passes an offset within the buffer.
        unsafe { self.header().data().as_ptr().add(offset as usize) }
    }

    fn header(&self) -> &Header {
        // SAFETY: this buffer is a holder, so its header is alive.
        unsafe { self.header.as_ref() }
    }
}

impl Drop for BufferMut {
    fn drop(&mut self) {
        // SAFETY: this buffer is a holder until here.
        unsafe { Header::let_go(self.header) };
    }
}

impl fmt::Debug for BufferMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferMut({} of {} bytes written, {} frozen)", self.end, self.capacity(), self.start)
    }
}

/// A view of bytes in a buffer that nobody can change any more.
///
/// It dereferences to `[u8]`. Cloning, slicing and dropping touch one atomic counter and may happen on any thread;
/// the buffer goes back to its pool with the last view. A view keeps its whole buffer alive: see [`super::Body::compact`].
pub struct Segment {
    header: NonNull<Header>,
    start: u32,
    bytes: u32,
}

// SAFETY: the bytes of a segment never change; the header's shared parts are atomics.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// A view of a part of this one.
    ///
    /// # Panics
    /// If the range does not lie within this segment, as slicing a slice does.
    #[inline]
    pub fn slice(&self, range: Range<usize>) -> Segment {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} of {} bytes", self.len());
        let mut part = self.clone();
        part.start += range.start as u32;
        part.bytes = (range.end - range.start) as u32;
        part
    }

    /// Takes the first `bytes` bytes off as a segment of their own.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline]
    pub fn split_to(&mut self, bytes: usize) -> Segment {
        let front = self.slice(0..bytes);
        self.advance(bytes);
        front
    }

    /// Forgets the first `bytes` bytes.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline]
    pub fn advance(&mut self, bytes: usize) {
        assert!(bytes <= self.len(), "{bytes} of {} bytes", self.len());
        self.start += bytes as u32;
        self.bytes -= bytes as u32;
    }

    /// The size of the buffer that this view keeps alive, in bytes.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        self.header().capacity()
    }

    /// True if both are views of one buffer.
    #[inline]
    pub fn shares_buffer_with(&self, other: &Segment) -> bool {
        self.header == other.header
    }

    /// True if `next` lies right behind this segment in the same buffer, so that both can be one entry of a gather list.
    #[inline]
    pub fn is_followed_by(&self, next: &Segment) -> bool {
        self.header == next.header && self.start + self.bytes == next.start
    }

    /// Grows over `next` if [`Segment::is_followed_by`] is true for it; says whether it did.
    #[inline]
    pub fn try_join(&mut self, next: &Segment) -> bool {
        let follows = self.is_followed_by(next);
        if follows {
            self.bytes += next.bytes;
        }
        follows
    }

    /// The memory that the buffer lies in.
    #[cfg(feature = "rdma")]
    #[inline]
    pub(crate) fn mapping(&self) -> &Mapping {
        self.header().mapping()
    }

    /// Keeps that memory mapped.
    #[cfg(feature = "rdma")]
    pub(crate) fn hold_mapping(&self) -> MappingHold {
        MappingHold::of(self.header())
    }

    /// Counts a copy of `bytes` bytes out of this segment at its pool.
    pub(super) fn count_copy(&self, bytes: usize) {
        // SAFETY: the segment is a holder of its buffer, which is one of the pool's shared part.
        unsafe { self.header().shared().as_ref() }.count_copy(bytes);
    }

    fn header(&self) -> &Header {
        // SAFETY: this segment is a holder, so its header is alive.
        unsafe { self.header.as_ref() }
    }
}

impl Clone for Segment {
    #[inline]
    fn clone(&self) -> Self {
        self.header().holders().acquire();
        Self { header: self.header, start: self.start, bytes: self.bytes }
    }
}

impl Drop for Segment {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this segment is a holder until here.
        unsafe { Header::let_go(self.header) };
    }
}

impl Deref for Segment {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let data = self.header().data().as_ptr();
        // SAFETY: these bytes were written before the segment was made, lie in the buffer, and are never changed
        // while a segment covers them.
        unsafe { std::slice::from_raw_parts(data.add(self.start as usize), self.bytes as usize) }
    }
}

impl AsRef<[u8]> for Segment {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Keeps the memory of one pool mapped, whether or not the pool and its buffers are still there.
#[cfg(feature = "rdma")]
#[derive(Debug)]
pub(crate) struct MappingHold {
    shared: NonNull<Shared>,
}

// SAFETY: it is a count in `Shared`, whose shared parts are atomics.
#[cfg(feature = "rdma")]
unsafe impl Send for MappingHold {}

#[cfg(feature = "rdma")]
impl MappingHold {
    fn of(header: &Header) -> Self {
        let shared = header.shared();
        // SAFETY: the header's buffer is a holder, so `Shared` is alive.
        unsafe { shared.as_ref() }.keepers.acquire();
        Self { shared }
    }

    /// True if both are of one pool.
    pub(crate) fn is_of_the_pool_of(&self, other: &Self) -> bool {
        self.shared == other.shared
    }

    /// True when neither the pool nor a buffer of it is left, and then for ever.
    pub(crate) fn is_abandoned(&self) -> bool {
        // SAFETY: this is a keeper, so `Shared` is alive.
        unsafe { self.shared.as_ref() }.holders.is_over()
    }
}

#[cfg(feature = "rdma")]
impl Drop for MappingHold {
    fn drop(&mut self) {
        // SAFETY: this is a keeper until here.
        unsafe { Shared::stop_keeping(self.shared) };
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({} bytes at {} of {})", self.bytes, self.start, self.held_bytes())
    }
}
