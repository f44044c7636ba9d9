//! The ring of pool buffers that the kernel receives into.

use super::super::{LINE_BYTES, TcpConfig};
use super::ring::Ring;
use crate::pool::{BufferMut, Pool, Segment};
use crate::sync::{Ordering, fence};
use ::io_uring::types::BufRingEntry;
use std::io;
use std::ptr::{self, NonNull};

/// The one group of buffers that there is.
pub(super) const GROUP: u16 = 0;

/// Buffers that belong to the kernel until a completion names them.
///
/// The buffer at place `i` of the ring has the number `i`. The kernel takes them in order of their places, so those of
/// a completion that spans several follow each other; and a place is filled again only when its buffer was taken off,
/// whatever the order of completions.
///
/// A buffer that was written to at most half goes back to the ring: whole if nobody holds a segment of it any more,
/// else with its rest, from the next line on; smaller rests would cut messages in pieces. So small messages that are
/// kept share buffers instead of keeping one each. The kernel could do the same (`IOU_PBUF_RING_INC`, Linux 6.12), but
/// it goes on at the next byte, which puts bodies off the lines that they are meant to lie on.
#[derive(Debug)]
pub(super) struct ProvidedBuffers {
    /// As many entries as `buffers` has, page-aligned, shared with the kernel.
    entries: NonNull<BufRingEntry>,
    /// The place to fill next, counted on.
    tail: u16,
    buffers: Box<[Option<BufferMut>]>,
    available: usize,
    /// Written in part, to be offered again.
    rests: Vec<BufferMut>,
    buffer_bytes: usize,
}

impl ProvidedBuffers {
    /// An empty ring of buffers that is known to the kernel.
    ///
    /// # Errors
    /// Why the kernel does not take it.
    pub(super) fn open(config: &TcpConfig, ring: &Ring) -> Result<Self, String> {
        let count = config.receive_buffers;
        let fail = |error: io::Error| format!("a ring of provided buffers (Linux 5.19): {error}");
        let buffers = Self {
            entries: map_entries(usize::from(count)).map_err(fail)?,
            tail: 0,
            buffers: (0..count).map(|_| None).collect(),
            available: 0,
            rests: Vec::with_capacity(usize::from(count)),
            buffer_bytes: config.receive_buffer_bytes,
        };
        let address = buffers.entries.as_ptr() as u64;
        // SAFETY: the entries stay mapped until the group is withdrawn, or for ever.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, count, GROUP, 0) }.map_err(fail)?;
        Ok(buffers)
    }

    /// How many buffers the kernel has, including those that it has filled but not reported yet.
    #[inline]
    pub(super) fn available(&self) -> usize {
        self.available
    }

    /// Has the kernel no more than half of the buffers that it is to have?
    #[inline]
    pub(super) fn is_low(&self) -> bool {
        self.available <= self.buffers.len() / 2
    }

    /// Fills the empty places with buffers from the pool, as many as it has.
    #[inline]
    pub(super) fn refill(&mut self, pool: &mut Pool) {
        if self.available == self.buffers.len() {
            return;
        }
        if self.available + self.rests.len() < self.buffers.len() {
            // What was let go last is used first: it is in the cache, while the pool may have more that was never touched.
            pool.reclaim();
        }
        let before = self.tail;
        loop {
            let place = self.place(self.tail);
            if self.buffers[place].is_some() {
                break;
            }
            let rest = self.rests.pop().map(prepare);
            let Some(mut buffer) = rest.or_else(|| pool.buffer(self.buffer_bytes).ok()) else { break };
            let target = buffer.spare_mut();
            // SAFETY: the place lies in the ring, and the kernel does not look at it before the tail has passed it.
            let entry = unsafe { self.entries.add(place).as_mut() };
            entry.set_addr(target.as_mut_ptr() as u64);
            entry.set_len(target.len() as u32);
            entry.set_bid(place as u16);
            self.buffers[place] = Some(buffer);
            self.available += 1;
            self.tail = self.tail.wrapping_add(1);
        }
        if self.tail != before {
            self.publish();
        }
    }

    /// Takes off the buffers that a completion of `bytes` bytes covers, from number `first` on, and delivers what was
    /// written to them.
    #[inline]
    pub(super) fn take(&mut self, first: u16, bytes: usize, mut deliver: impl FnMut(Segment)) {
        let (mut number, mut left) = (first, bytes);
        loop {
            let place = self.place(number);
            let Some(mut buffer) = self.buffers[place].take() else { return };
            self.available -= 1;
            // Of a buffer that was not offered whole, the kernel notes the length in its entry.
            // SAFETY: the place lies in the ring; it was consumed, so the kernel does not look at it any more.
            let offered = unsafe { self.entries.add(place).as_ref() }.len() as usize;
            let part = left.min(offered);
            if part > 0 {
                // SAFETY: the kernel reports to have written them, filling each buffer before the next.
                unsafe { buffer.assume_written(part) };
                deliver(buffer.split());
            }
            if buffer.spare() >= self.buffer_bytes / 2 {
                // There are never more than places in the ring, so this does not allocate.
                self.rests.push(buffer);
            }
            left -= part;
            if left == 0 || part == 0 {
                return;
            }
            number = number.wrapping_add(1);
        }
    }

    /// Takes the ring back from the kernel. No operation may be under way that could use it.
    pub(super) fn withdraw(&mut self, ring: &Ring) {
        // An error would mean that the kernel does not know it, which is as good.
        let _ = ring.submitter().unregister_buf_ring(GROUP);
    }

    /// Gives the buffers up for ever.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.buffers));
    }

    /// Makes the entries up to the tail visible to the kernel.
    #[inline]
    fn publish(&self) {
        // SAFETY: the first entry is valid; its tail field is this side's to write.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) }.cast_mut();
        // Pairs with the kernel's acquiring load of the tail: it sees the entries that the tail has passed.
        fence(Ordering::Release);
        // SAFETY: as above. Volatile, because the kernel reads it.
        unsafe { tail.write_volatile(self.tail) };
    }

    #[inline]
    fn place(&self, number: u16) -> usize {
        usize::from(number) & (self.buffers.len() - 1)
    }
}

impl Drop for ProvidedBuffers {
    fn drop(&mut self) {
        if self.buffers.is_empty() {
            return; // leaked
        }
        let bytes = self.buffers.len() * size_of::<BufRingEntry>();
        // SAFETY: the mapping is this ring's own. (The kernel holds its pages until the group or its ring is gone.)
        unsafe { libc::munmap(self.entries.as_ptr().cast(), bytes) };
    }
}

/// A buffer as it is offered again: from the front if nobody holds any of it, else from the next line on.
fn prepare(mut rest: BufferMut) -> BufferMut {
    if !rest.restart() {
        rest.put_zeros(rest.spare() % LINE_BYTES);
        drop(rest.split());
    }
    rest
}

fn map_entries(count: usize) -> io::Result<NonNull<BufRingEntry>> {
    let bytes = count * size_of::<BufRingEntry>();
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory of ours.
    let base = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::probe;
    use super::*;
    use crate::pool::PoolConfig;
    use std::mem::MaybeUninit;

    /// Eight buffers with their numbers in each byte, of which the kernel takes `bytes` bytes from `first` on: the
    /// sizes of the pieces, and how many buffers are left.
    fn taken(
        buffers: &mut ProvidedBuffers,
        pool: &mut Pool,
        first: u16,
        bytes: usize,
    ) -> (Vec<usize>, usize) {
        buffers.refill(pool);
        for (number, buffer) in buffers.buffers.iter_mut().enumerate() {
            buffer.as_mut().unwrap().spare_mut().fill(MaybeUninit::new(number as u8));
        }
        let mut sizes = Vec::new();
        buffers.take(first, bytes, |segment| {
            let number = (usize::from(first) + sizes.len()) as u8 % 8;
            assert!(segment.iter().all(|&byte| byte == number));
            sizes.push(segment.len());
        });
        (sizes, buffers.available())
    }

    #[test]
    fn a_completion_covers_buffers_in_their_order_around_the_end() {
        let mut pool = Pool::new(PoolConfig::edge()).unwrap();
        let ring = match probe::open_ring() {
            Ok(ring) => ring,
            Err(reason) => return eprintln!("skipped: {reason}"),
        };
        let config = TcpConfig { receive_buffers: 8, receive_buffer_bytes: 16_384, ..TcpConfig::default() };
        let mut buffers = ProvidedBuffers::open(&config, &ring).unwrap();
        let mut check = |first, bytes| taken(&mut buffers, &mut pool, first, bytes);
        assert_eq!(check(0, 100), (vec![100], 7));
        assert_eq!(check(1, 0), (vec![], 7));
        assert_eq!(check(2, 16_384), (vec![16_384], 7));
        assert_eq!(check(3, 3 * 16_384), (vec![16_384; 3], 5));
        assert_eq!(check(6, 40_000), (vec![16_384, 16_384, 7_232], 5));
    }

    #[test]
    fn a_place_is_filled_only_after_those_before_it() {
        let mut pool = Pool::new(PoolConfig::edge()).unwrap();
        let ring = match probe::open_ring() {
            Ok(ring) => ring,
            Err(reason) => return eprintln!("skipped: {reason}"),
        };
        let config = TcpConfig { receive_buffers: 8, receive_buffer_bytes: 16_384, ..TcpConfig::default() };
        let mut buffers = ProvidedBuffers::open(&config, &ring).unwrap();
        buffers.refill(&mut pool);
        buffers.take(1, 10, drop);
        buffers.refill(&mut pool);
        assert_eq!(buffers.available(), 7, "the kernel took place 0 first, which is not reported yet");
        buffers.take(0, 10, drop);
        buffers.refill(&mut pool);
        assert_eq!(buffers.available(), 8);
    }
    #[test]
    fn a_buffer_is_offered_again_as_far_as_nobody_holds_it() {
        let mut pool = Pool::new(PoolConfig::edge()).unwrap();
        let ring = match probe::open_ring() {
            Ok(ring) => ring,
            Err(reason) => return eprintln!("skipped: {reason}"),
        };
        let config = TcpConfig { receive_buffers: 2, receive_buffer_bytes: 16_384, ..TcpConfig::default() };
        let mut buffers = ProvidedBuffers::open(&config, &ring).unwrap();
        buffers.refill(&mut pool);
        let spare_at = |buffers: &mut ProvidedBuffers, place: usize| {
            let spare = buffers.buffers[place].as_mut().unwrap().spare_mut();
            (spare.as_ptr() as usize, spare.len())
        };
        let first = spare_at(&mut buffers, 0).0;
        let mut held = Vec::new();
        buffers.take(0, 100, |segment| held.push(segment));
        buffers.refill(&mut pool);
        assert_eq!(spare_at(&mut buffers, 0), (first + 128, 16_384 - 128), "from the next line on");
        let second = spare_at(&mut buffers, 1).0;
        buffers.take(1, 100, drop);
        buffers.refill(&mut pool);
        assert_eq!(spare_at(&mut buffers, 1), (second, 16_384), "whole, since nobody holds it");
        buffers.take(0, 10_000, |segment| held.push(segment));
        buffers.refill(&mut pool);
        let (third, bytes) = spare_at(&mut buffers, 0);
        assert!(!(first..first + 16_384).contains(&third), "what is left would cut messages in pieces");
        assert_eq!(bytes, 16_384);
    }
}
