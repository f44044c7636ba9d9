//! What one channel is sending.

use super::socket::check_bytes;
use crate::pool::{GATHER_SEGMENTS_MAX, GatherList};
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::ptr;

/// The send in flight: the segments that it holds, and their addresses in the form that the kernel takes.
///
/// The memory that the kernel is pointed to stays where it is for the life of the channel, and is allocated once.
pub(super) struct Outgoing {
    gather: GatherList,
    parts: Box<[libc::iovec; GATHER_SEGMENTS_MAX]>,
    header: Box<libc::msghdr>,
    /// The part to go on with, and where the parts end.
    next: usize,
    end: usize,
    in_flight: bool,
}

/// What is left to send, in the cheapest form.
pub(super) enum Rest {
    /// One piece of memory.
    One(*const u8, usize),
    /// A list of them.
    Many(*const libc::msghdr),
}

impl Outgoing {
    pub(super) fn new() -> Self {
        let nothing = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        // SAFETY: all zero is a valid header: no name, no control data, no parts. (Its padding is private in libc, so
        // it cannot be written out.)
        let header = unsafe { std::mem::zeroed() };
        Self {
            gather: GatherList::new(),
            parts: Box::new([nothing; GATHER_SEGMENTS_MAX]),
            header: Box::new(header),
            next: 0,
            end: 0,
            in_flight: false,
        }
    }

    #[inline]
    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight
    }

    /// Takes over what `gather` holds, and leaves it an empty list of the same room.
    #[inline]
    pub(super) fn start(&mut self, gather: &mut GatherList) {
        std::mem::swap(&mut self.gather, gather);
        for (part, segment) in self.parts.iter_mut().zip(self.gather.segments()) {
            part.iov_base = segment.as_ptr().cast_mut().cast();
            part.iov_len = segment.len();
        }
        (self.next, self.end) = (0, self.gather.segments().len());
        self.in_flight = true;
    }

    /// True when no byte is left to send.
    #[inline]
    pub(super) fn is_done(&self) -> bool {
        self.next == self.end
    }

    /// What is left; its memory stays valid and unchanged until [`Outgoing::advance`] or [`Outgoing::finish`]. Not to be
    /// called when nothing is left.
    #[inline]
    pub(super) fn rest(&mut self) -> Rest {
        let parts = &mut self.parts[self.next..self.end];
        if let [part] = parts {
            return Rest::One(part.iov_base.cast_const().cast(), part.iov_len);
        }
        self.header.msg_iov = parts.as_mut_ptr();
        self.header.msg_iovlen = parts.len() as _;
        Rest::Many(&raw const *self.header)
    }

    /// Writes to a socket that does not block what it takes of the rest, and says how much that was; to be followed by
    /// [`Outgoing::advance`].
    ///
    /// # Errors
    /// The kernel's.
    #[inline]
    pub(super) fn write_to(&mut self, descriptor: RawFd) -> io::Result<usize> {
        let sent = match self.rest() {
            // SAFETY: the bytes lie in segments that this list holds.
            Rest::One(start, bytes) => unsafe {
                libc::send(descriptor, start.cast(), bytes, libc::MSG_NOSIGNAL)
            },
            // SAFETY: the header's parts lie in segments that this list holds.
            Rest::Many(header) => unsafe { libc::sendmsg(descriptor, header, libc::MSG_NOSIGNAL) },
        };
        check_bytes(sent)
    }

    /// The kernel took `bytes` bytes. Call it only when it does not look at [`Outgoing::rest`] any more.
    #[inline]
    pub(super) fn advance(&mut self, mut bytes: usize) {
        while self.next < self.end {
            let part = &mut self.parts[self.next];
            if bytes < part.iov_len {
                part.iov_base = part.iov_base.wrapping_byte_add(bytes);
                part.iov_len -= bytes;
                return;
            }
            bytes -= part.iov_len;
            self.next += 1;
        }
    }

    /// Lets go of the segments. Call it only when the kernel can touch them no more.
    #[inline]
    pub(super) fn finish(&mut self) {
        self.gather.clear();
        (self.next, self.end, self.in_flight) = (0, 0, false);
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outgoing(part {} of {}, {} bytes)", self.next, self.end, self.gather.len())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::pool::{Pool, PoolConfig};

    /// What is left, as bytes.
    fn content(outgoing: &Outgoing) -> Vec<u8> {
        let parts = &outgoing.parts[outgoing.next..outgoing.end];
        // SAFETY: the parts lie in the segments that the list holds.
        let slice = |part: &libc::iovec| unsafe {
            std::slice::from_raw_parts(part.iov_base.cast_const().cast::<u8>(), part.iov_len)
        };
        parts.iter().flat_map(slice).copied().collect()
    }

    #[test]
    fn it_goes_on_where_the_kernel_stopped_wherever_that_is() {
        let mut pool = Pool::new(PoolConfig::edge()).unwrap();
        let mut outgoing = Outgoing::new();
        for step in 1..12 {
            let mut gather = GatherList::new();
            for part in ["abc", "d", "efghi", "jk"] {
                let mut buffer = pool.buffer(16).unwrap();
                buffer.put_slice(part.as_bytes());
                gather.push(buffer.split());
            }
            outgoing.start(&mut gather);
            assert!(gather.is_empty() && gather.room() == GATHER_SEGMENTS_MAX && outgoing.is_in_flight());
            let all = b"abcdefghijk";
            for sent in (0..all.len()).step_by(step) {
                assert!(!outgoing.is_done());
                assert_eq!(content(&outgoing), all[sent..]);
                match outgoing.rest() {
                    Rest::One(_, bytes) => assert!(sent + bytes == all.len() && bytes <= 2),
                    // SAFETY: the header is the list's own, and nobody writes to it meanwhile.
                    Rest::Many(header) => assert!(unsafe { (*header).msg_iovlen } > 1),
                }
                outgoing.advance(step.min(all.len() - sent));
            }
            assert!(outgoing.is_done());
            outgoing.finish();
            assert!(!outgoing.is_in_flight());
        }
        pool.reclaim();
        assert_eq!(pool.stats().buffers_out, 0);
    }
}
