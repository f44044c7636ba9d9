//! Bodies that differ from message to message, and the check of each reply.
//!
//! Every system under test, floor or not, sends these bodies and checks its replies with this code,
//! so that neither cost nor strictness of the check differs between them. A body is a window into one
//! pattern, moved by 64 bytes from message to message: nothing is filled in per message, and a check
//! is a comparison of memory (all of it: a single wrong byte is found). Windows repeat after
//! [`WINDOWS`] messages; bodies whose numbers lie closer than that differ from their first byte on.

use crate::aligned::AlignedBytes;

/// How many messages in a row have bodies that differ from each other.
pub const WINDOWS: u64 = 64;

/// Distance of two windows in bytes: keeps every body at 64 bytes relative to its page.
const STRIDE_BYTES: usize = 64;

/// The bodies of one size.
#[derive(Debug)]
pub struct Payload {
    pattern: AlignedBytes,
    size: usize,
}

/// A reply that is not the body that was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadMismatch {
    /// The reply has another length than the request.
    #[error(
        "reply to message {number} has {got} bytes instead of {expected}: the service must echo the body"
    )]
    Length {
        /// Number of the message.
        number: u64,
        /// Bytes sent.
        expected: usize,
        /// Bytes received.
        got: usize,
    },
    /// A byte of the reply differs.
    #[error(
        "reply to message {number} differs at byte {offset} (expected {expected:#04x}, got {got:#04x}): \
         the body was damaged or belongs to another message"
    )]
    Byte {
        /// Number of the message.
        number: u64,
        /// Offset of the first byte that differs.
        offset: usize,
        /// The byte sent.
        expected: u8,
        /// The byte received.
        got: u8,
    },
}

impl Payload {
    /// Prepares the bodies of `size` bytes. Allocates `size` and 4 KiB, once.
    #[must_use]
    pub fn new(size: usize) -> Self {
        let mut pattern = AlignedBytes::zeroed(size + STRIDE_BYTES * (WINDOWS as usize - 1));
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for (offset, byte) in pattern.iter_mut().enumerate() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // The first byte of a window is the window's own number, so that bodies of one byte differ.
            let is_first = offset % STRIDE_BYTES == 0;
            *byte = if is_first { (offset / STRIDE_BYTES) as u8 } else { (state >> 56) as u8 };
        }
        Self { pattern, size }
    }

    /// Length of each body in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// All that the bodies are windows into.
    #[must_use]
    pub fn pattern(&self) -> &[u8] {
        &self.pattern
    }

    /// Where in the pattern the body of message `number` begins.
    #[must_use]
    pub fn offset(number: u64) -> usize {
        (number % WINDOWS) as usize * STRIDE_BYTES
    }

    /// The body of message `number`; it lies at a multiple of 64 bytes relative to its page.
    #[must_use]
    pub fn body(&self, number: u64) -> &[u8] {
        let start = Self::offset(number);
        &self.pattern[start..start + self.size]
    }

    /// Checks that `reply` is the body of message `number`.
    ///
    /// # Errors
    /// Names the first difference.
    pub fn check(&self, number: u64, reply: &[u8]) -> Result<(), PayloadMismatch> {
        self.check_parts(number, std::iter::once(reply))
    }

    /// Checks that the parts, one after the other, are the body of message `number`. Does not allocate.
    ///
    /// # Errors
    /// Names the first difference.
    pub fn check_parts<'a>(
        &self,
        number: u64,
        parts: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), PayloadMismatch> {
        let expected = self.body(number);
        let mut got = 0;
        for part in parts {
            let end = (got + part.len()).min(expected.len());
            let wanted = &expected[got.min(end)..end];
            let common = &part[..wanted.len()];
            if common != wanted {
                return Err(first_difference(number, got, wanted, common));
            }
            got += part.len();
        }
        if got != expected.len() {
            return Err(PayloadMismatch::Length { number, expected: expected.len(), got });
        }
        Ok(())
    }
}

/// Where two slices of equal length, known to differ, differ first.
fn first_difference(number: u64, start: usize, expected: &[u8], got: &[u8]) -> PayloadMismatch {
    let at = expected.iter().zip(got).position(|(left, right)| left != right).unwrap_or(0);
    PayloadMismatch::Byte { number, offset: start + at, expected: expected[at], got: got[at] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_neighbouring_messages_differ_at_every_size() {
        for size in [1, 100, 4096] {
            let payload = Payload::new(size);
            for first in 0..WINDOWS {
                for second in first + 1..WINDOWS {
                    assert_ne!(payload.body(first), payload.body(second), "{first} and {second} of {size}");
                }
            }
        }
    }

    #[test]
    fn every_byte_is_checked() {
        let payload = Payload::new(300);
        let mut reply = payload.body(7).to_vec();
        assert_eq!(payload.check(7, &reply), Ok(()));
        for offset in 0..reply.len() {
            reply[offset] ^= 1;
            let mismatch = payload.check(7, &reply).unwrap_err();
            assert!(matches!(mismatch, PayloadMismatch::Byte { number: 7, offset: at, .. } if at == offset));
            reply[offset] ^= 1;
        }
    }

    #[test]
    fn parts_are_checked_wherever_they_are_cut() {
        let payload = Payload::new(100);
        let body = payload.body(3).to_vec();
        for cut in 0..=body.len() {
            let (head, tail) = body.split_at(cut);
            assert_eq!(payload.check_parts(3, [head, tail].into_iter()), Ok(()));
        }
    }

    #[test]
    fn a_reply_that_is_too_short_or_too_long_is_refused() {
        let payload = Payload::new(10);
        let body = payload.body(0).to_vec();
        let short = payload.check(0, &body[..9]).unwrap_err();
        assert_eq!(short, PayloadMismatch::Length { number: 0, expected: 10, got: 9 });
        let parts = [&body[..], &body[..3]];
        let long = payload.check_parts(0, parts.into_iter()).unwrap_err();
        assert_eq!(long, PayloadMismatch::Length { number: 0, expected: 10, got: 13 });
    }
}
