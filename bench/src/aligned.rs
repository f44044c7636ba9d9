//! Buffers that begin on a page.
//!
//! A copy of 4 KiB or more whose destination lies a few bytes past its source modulo the page size is
//! slowed down twentyfold by the processor's store-to-load checks, the kernel's socket copies
//! included. Everything the bench sends or receives therefore lies at a multiple of 64 bytes from the
//! start of a page.

use std::ops::{Deref, DerefMut};

/// The page size that alignment is relative to, in bytes.
const PAGE_BYTES: usize = 4096;

/// A fixed number of bytes that begin on a page boundary.
#[derive(Debug)]
pub struct AlignedBytes {
    storage: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBytes {
    /// Allocates `length` zero bytes. The pages are not touched until they are written.
    #[must_use]
    pub fn zeroed(length: usize) -> Self {
        let storage = vec![0; length + PAGE_BYTES];
        let start = storage.as_ptr().align_offset(PAGE_BYTES);
        // `align_offset` may refuse (it does under Miri); alignment is for speed, not for soundness.
        Self { start: if start < PAGE_BYTES { start } else { 0 }, storage, length }
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.length]
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_on_a_page_and_stays_there_when_moved() {
        for length in [1, 64, 4096, 131_136] {
            let bytes = AlignedBytes::zeroed(length);
            let before = bytes.as_ptr();
            let moved = Box::new(bytes);
            assert_eq!(moved.as_ptr(), before);
            assert_eq!(before as usize % PAGE_BYTES, 0);
            assert_eq!(moved.len(), length);
        }
    }
}
