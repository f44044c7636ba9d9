//! The buffers that the sockets are read into.

use super::super::super::Channel;
use super::super::socket::check_bytes;
use super::super::{LINE_BYTES, TcpConfig};
use crate::pool::{BufferMut, Pool, PoolError, Segment};
use arrayvec::ArrayVec;
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

/// The most buffers that one read fills. So many entries the kernel takes without allocating.
const BUFFERS_MAX: usize = 8;

/// The rest of a buffer is used for the next receive of the same channel if there are so many bytes left.
const REST_BYTES_MIN: usize = 4096;

/// A few buffers for all channels together: none is tied to a channel that receives nothing.
#[derive(Debug)]
pub(super) struct Stock {
    /// The front one may be filled in part.
    buffers: VecDeque<BufferMut>,
    buffer_bytes: usize,
    count: usize,
    /// Whose bytes were received last.
    last: Option<Channel>,
}

impl Stock {
    pub(super) fn new(config: &TcpConfig, pool: &mut Pool) -> Result<Self, PoolError> {
        let mut stock = Self {
            buffers: VecDeque::with_capacity(BUFFERS_MAX),
            buffer_bytes: config.receive_buffer_bytes,
            count: BUFFERS_MAX.min(usize::from(config.receive_buffers)),
            last: None,
        };
        stock.buffers.push_back(pool.buffer(stock.buffer_bytes)?);
        stock.replenish(pool);
        Ok(stock)
    }

    /// Takes as many buffers from the pool as are missing and to be had.
    #[inline]
    pub(super) fn replenish(&mut self, pool: &mut Pool) {
        if self.buffers.len() < self.count {
            self.take_more(pool);
        }
    }

    fn take_more(&mut self, pool: &mut Pool) {
        // What was let go last is used first: it is in the cache, while the pool may have more that was never touched.
        pool.reclaim();
        while self.buffers.len() < self.count {
            let Ok(buffer) = pool.buffer(self.buffer_bytes) else { return };
            self.buffers.push_back(buffer);
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }

    /// Reads once from a channel's socket: into one buffer, or if `is_wide`, into as many as there are. Returns the
    /// bytes that came, and whether they filled what was offered or at least one buffer.
    ///
    /// # Errors
    /// The kernel's; also `WouldBlock` when there is no buffer.
    pub(super) fn receive(
        &mut self,
        descriptor: RawFd,
        channel: Channel,
        residue: usize,
        is_wide: bool,
        deliver: impl FnMut(Segment),
    ) -> io::Result<(usize, bool)> {
        self.prepare(channel, residue);
        let Some(front) = self.buffers.front_mut() else { return Err(io::ErrorKind::WouldBlock.into()) };
        let front_bytes = front.spare();
        let bytes = if is_wide { self.read_many(descriptor)? } else { read_one(descriptor, front)? };
        self.last = Some(channel);
        self.cut(bytes, deliver);
        Ok((bytes, bytes >= front_bytes))
    }

    /// Puts a buffer to the front that can go on with this channel's stream, aligned like it.
    fn prepare(&mut self, channel: Channel, residue: usize) {
        let Some(front) = self.buffers.front_mut() else { return };
        if !front.restart() {
            if self.last == Some(channel) && front.spare() >= REST_BYTES_MIN {
                return;
            }
            self.buffers.pop_front();
        }
        let Some(front) = self.buffers.front_mut() else { return };
        front.put_zeros(residue % LINE_BYTES);
        drop(front.split());
    }

    fn read_many(&mut self, descriptor: RawFd) -> io::Result<usize> {
        let mut parts = ArrayVec::<libc::iovec, BUFFERS_MAX>::new();
        for buffer in &mut self.buffers {
            let spare = buffer.spare_mut();
            parts.push(libc::iovec { iov_base: spare.as_mut_ptr().cast(), iov_len: spare.len() });
        }
        // SAFETY: the parts are the unwritten ends of buffers that this stock owns.
        check_bytes(unsafe { libc::readv(descriptor, parts.as_ptr(), parts.len() as libc::c_int) })
    }

    /// Cuts off what the last read wrote.
    fn cut(&mut self, mut bytes: usize, mut deliver: impl FnMut(Segment)) {
        while bytes > 0
            && let Some(front) = self.buffers.front_mut()
        {
            let part = bytes.min(front.spare());
            // SAFETY: the kernel wrote `bytes` bytes to the ends of the buffers in order, filling each before the next.
            unsafe { front.assume_written(part) };
            deliver(front.split());
            bytes -= part;
            if front.spare() == 0 {
                self.buffers.pop_front();
            }
        }
    }
}

fn read_one(descriptor: RawFd, buffer: &mut BufferMut) -> io::Result<usize> {
    let spare = buffer.spare_mut();
    // SAFETY: the target is the unwritten end of a buffer that nobody else writes to.
    check_bytes(unsafe { libc::recv(descriptor, spare.as_mut_ptr().cast(), spare.len(), 0) })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::pool::PoolConfig;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    struct Fixture {
        pool: Pool,
        stock: Stock,
        writer: UnixStream,
        reader: UnixStream,
    }

    const FIRST: Channel = Channel { slot: 0, generation: 0 };
    const SECOND: Channel = Channel { slot: 1, generation: 0 };

    fn fixture() -> Fixture {
        let mut pool = Pool::new(PoolConfig::edge()).unwrap();
        let config = TcpConfig { receive_buffer_bytes: 16_384, ..TcpConfig::default() };
        let stock = Stock::new(&config, &mut pool).unwrap();
        let (writer, reader) = UnixStream::pair().unwrap();
        Fixture { pool, stock, writer, reader }
    }

    impl Fixture {
        fn pass(&mut self, channel: Channel, bytes: &[u8], residue: usize, is_wide: bool) -> Vec<Segment> {
            self.writer.write_all(bytes).unwrap();
            let mut segments = Vec::new();
            let (count, _) = self
                .stock
                .receive(self.reader.as_raw_fd(), channel, residue, is_wide, |segment| segments.push(segment))
                .unwrap();
            assert_eq!(count, segments.iter().map(|segment| segment.len()).sum());
            let came: Vec<u8> = segments.iter().flat_map(|segment| segment.iter().copied()).collect();
            assert_eq!(came, bytes[..count]);
            self.stock.replenish(&mut self.pool);
            segments
        }
    }

    #[test]
    fn what_was_let_go_is_used_again_at_once() {
        let mut fixture = fixture();
        let first = fixture.pass(FIRST, b"some", 0, false)[0].as_ptr();
        assert_eq!(fixture.pass(SECOND, b"more", 0, false)[0].as_ptr(), first);
    }

    #[test]
    fn a_channel_goes_on_in_its_own_rest_and_another_does_not() {
        let mut fixture = fixture();
        let one = fixture.pass(FIRST, b"some", 0, false);
        let two = fixture.pass(FIRST, b"more", 4, false);
        assert!(one[0].is_followed_by(&two[0]));
        let three = fixture.pass(SECOND, b"else", 0, false);
        assert!(!three[0].shares_buffer_with(&two[0]));
        let four = fixture.pass(FIRST, b"again", 8, false);
        assert!(!four[0].shares_buffer_with(&three[0]));
        assert_eq!(four[0].as_ptr() as usize % LINE_BYTES, 8, "aligned as in the stream");
    }

    #[test]
    fn a_wide_read_fills_several_buffers() {
        let mut fixture = fixture();
        let bytes: Vec<u8> = (0..40_000).map(|index| (index / 7) as u8).collect();
        let segments = fixture.pass(FIRST, &bytes, 65, true);
        let sizes: Vec<_> = segments.iter().map(|segment| segment.len()).collect();
        assert_eq!(sizes, [16_383, 16_384, 7_233]);
    }
}
