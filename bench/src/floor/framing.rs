//! The floor's messages: a header of 64 bytes, then the body.
//!
//! ```text
//!  0        8                16               24                      64
//!  | magic  | body length    | message number | zero                  | body ...
//! ```
//!
//! All little-endian. The header has 64 bytes so that a body that is received behind it lies at a
//! multiple of 64 from the start of its page, like the body it was copied from.

use std::io::{self, IoSlice, Read, Write};

use crate::aligned::AlignedBytes;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 64;

/// Largest body in bytes.
pub const BODY_BYTES_MAX: usize = 16 << 20;

/// First eight bytes of every message.
const MAGIC: [u8; 8] = *b"floor\0\0\x01";

/// How much an inbox asks for before it knows how large messages are.
const FIRST_READ_BYTES: usize = 4096;

/// What stands before a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Length of the body in bytes.
    pub body_bytes: usize,
    /// Number of the message.
    pub number: u64,
}

/// Bytes that are no message of the floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FramingError {
    /// The magic is missing.
    #[error("what came is no floor message (it begins with {got:02x?}): is something else listening there?")]
    Magic {
        /// The first eight bytes.
        got: [u8; 8],
    },
    /// The body is too long.
    #[error("a floor message announces {got} bytes and {BODY_BYTES_MAX} is the limit: use smaller --sizes")]
    TooLong {
        /// The length announced.
        got: u64,
    },
}

impl Header {
    /// Writes the header into the first [`HEADER_BYTES`] of `into`, which must have them.
    pub fn encode(self, into: &mut [u8]) {
        into[..HEADER_BYTES].fill(0);
        into[..8].copy_from_slice(&MAGIC);
        into[8..16].copy_from_slice(&(self.body_bytes as u64).to_le_bytes());
        into[16..24].copy_from_slice(&self.number.to_le_bytes());
    }

    /// Reads a header from the first [`HEADER_BYTES`] of `from`, which must have them.
    ///
    /// # Errors
    /// It is none, or announces too long a body.
    pub fn decode(from: &[u8]) -> Result<Self, FramingError> {
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&from[at..at + 8]);
            bytes
        };
        if word(0) != MAGIC {
            return Err(FramingError::Magic { got: word(0) });
        }
        let body_bytes = u64::from_le_bytes(word(8));
        if body_bytes > BODY_BYTES_MAX as u64 {
            return Err(FramingError::TooLong { got: body_bytes });
        }
        Ok(Self { body_bytes: body_bytes as usize, number: u64::from_le_bytes(word(16)) })
    }

    /// Bytes of the whole message.
    #[must_use]
    pub fn message_bytes(self) -> usize {
        HEADER_BYTES + self.body_bytes
    }
}

/// Collects one message from a stream, in one buffer that begins on a page.
///
/// It asks for as many bytes as the message before had, so that, sizes being equal, it takes one read a
/// message and never reads into the next.
#[derive(Debug)]
pub struct Inbox {
    buffer: AlignedBytes,
    filled: usize,
    expected_bytes: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { buffer: AlignedBytes::zeroed(FIRST_READ_BYTES), filled: 0, expected_bytes: FIRST_READ_BYTES }
    }
}

impl Inbox {
    /// Reads once. Returns how many bytes came; 0 is the end of the stream. Allocates only if a message
    /// is larger than all before.
    ///
    /// # Errors
    /// Those of the stream, and `InvalidData` with a [`FramingError`] inside.
    pub fn read_once(&mut self, stream: &mut impl Read) -> io::Result<usize> {
        let wanted = match self.header().map_err(io::Error::other)? {
            Some(header) => header.message_bytes(),
            None => self.expected_bytes.max(HEADER_BYTES),
        };
        self.grow(wanted);
        let count = stream.read(&mut self.buffer[self.filled..wanted])?;
        self.filled += count;
        Ok(count)
    }

    /// The whole message, header included, once all of it is there.
    ///
    /// # Errors
    /// What came is no message.
    pub fn message(&self) -> Result<Option<(Header, &[u8])>, FramingError> {
        let header = self.header()?;
        let complete = header.filter(|header| self.filled >= header.message_bytes());
        Ok(complete.map(|header| (header, &self.buffer[..header.message_bytes()])))
    }

    /// As [`Inbox::message`], to be changed in place.
    ///
    /// # Errors
    /// What came is no message.
    pub fn message_mut(&mut self) -> Result<Option<(Header, &mut [u8])>, FramingError> {
        let header = self.header()?;
        let complete = header.filter(|header| self.filled >= header.message_bytes());
        Ok(complete.map(|header| (header, &mut self.buffer[..header.message_bytes()])))
    }

    /// Forgets the message of `message_bytes` at the front and keeps what came after it.
    pub fn consume(&mut self, message_bytes: usize) {
        self.buffer.copy_within(message_bytes..self.filled, 0);
        self.filled -= message_bytes;
        self.expected_bytes = message_bytes;
    }

    fn header(&self) -> Result<Option<Header>, FramingError> {
        (self.filled >= HEADER_BYTES).then(|| Header::decode(&self.buffer)).transpose()
    }

    fn grow(&mut self, wanted: usize) {
        if self.buffer.len() < wanted {
            let mut larger = AlignedBytes::zeroed(wanted);
            larger[..self.filled].copy_from_slice(&self.buffer[..self.filled]);
            self.buffer = larger;
        }
    }
}

/// Writes once from where `sent` bytes of header and body have gone out already. Returns how many more
/// went; header and body go in one gathered write, so a body is not copied in between.
///
/// # Errors
/// Those of the stream.
pub fn write_once(stream: &mut impl Write, header: &[u8], body: &[u8], sent: usize) -> io::Result<usize> {
    let count = if sent < header.len() {
        stream.write_vectored(&[IoSlice::new(&header[sent..]), IoSlice::new(body)])?
    } else {
        stream.write(&body[sent - header.len()..])?
    };
    if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        Header { body_bytes: body.len(), number }.encode(&mut bytes);
        bytes.extend_from_slice(body);
        bytes
    }

    /// A stream that gives at most so many bytes a read.
    struct Slowly<'a>(&'a [u8], usize);

    impl Read for Slowly<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = into.len().min(self.1).min(self.0.len());
            into[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn messages_of_changing_sizes_come_out_whole_however_the_stream_is_cut() {
        let sizes = [1, 100, 5000, 0, 70_000, 3, 3, 64];
        let bytes: Vec<u8> =
            sizes.iter().enumerate().flat_map(|(i, &size)| message(i as u64, &vec![i as u8; size])).collect();
        for step in [1, 63, 64, 65, 4096, usize::MAX] {
            let mut stream = Slowly(&bytes, step);
            let mut inbox = Inbox::default();
            for (number, &size) in sizes.iter().enumerate() {
                while inbox.message().unwrap().is_none() {
                    assert_ne!(inbox.read_once(&mut stream).unwrap(), 0, "ended before message {number}");
                }
                let (header, whole) = inbox.message().unwrap().unwrap();
                assert_eq!(header, Header { body_bytes: size, number: number as u64 });
                assert!(whole[HEADER_BYTES..].iter().all(|&byte| byte == number as u8));
                let message_bytes = header.message_bytes();
                inbox.consume(message_bytes);
            }
            assert_eq!(inbox.read_once(&mut stream).unwrap(), 0);
        }
    }

    #[test]
    fn other_bytes_and_too_long_bodies_are_refused() {
        assert!(matches!(Header::decode(&[7; HEADER_BYTES]), Err(FramingError::Magic { got: [7, ..] })));
        let mut long = message(0, b"");
        long[8..16].copy_from_slice(&(BODY_BYTES_MAX as u64 + 1).to_le_bytes());
        let got = BODY_BYTES_MAX as u64 + 1;
        assert_eq!(Header::decode(&long), Err(FramingError::TooLong { got }));
    }

    #[test]
    fn a_message_written_in_pieces_is_the_same_message() {
        struct Three(Vec<u8>);
        impl Write for Three {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let count = bytes.len().min(3);
                self.0.extend_from_slice(&bytes[..count]);
                Ok(count)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let whole = message(5, b"a body");
        let mut output = Three(Vec::new());
        while output.0.len() < whole.len() {
            let sent = output.0.len();
            write_once(&mut output, &whole[..HEADER_BYTES], b"a body", sent).unwrap();
        }
        assert_eq!(output.0, whole);
    }
}
