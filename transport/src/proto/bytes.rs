//! Little-endian loads and stores at fixed offsets.
//!
//! Callers hand in arrays, or slices whose length they have checked, so that the bounds checks vanish
//! where they are inlined; an offset past the end is a bug in this module, never a peer's doing.

use super::PeerMisbehaved;

#[inline]
pub(super) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

#[inline]
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

#[inline]
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

#[inline]
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

#[inline]
pub(super) fn put<const N: usize>(out: &mut [u8], at: usize, value: [u8; N]) {
    out[at..at + N].copy_from_slice(&value);
}

/// Padding must be zero: it may not carry anything past a check, and later versions can use it.
#[inline]
pub(super) fn check_zero(bytes: &[u8], first_offset: usize) -> Result<(), PeerMisbehaved> {
    // Without an early exit the loop is a few vector instructions; padding is short and mostly right.
    if bytes.iter().fold(0, |seen, byte| seen | byte) == 0 {
        return Ok(());
    }
    let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
    Err(PeerMisbehaved::PaddingNotZero { offset: (first_offset + zeros) as u32 })
}

/// As [`check_zero`], for a reserved field of a fixed layout.
#[inline]
pub(super) fn check_reserved(bytes: &[u8], at: usize, count: usize) -> Result<(), PeerMisbehaved> {
    if bytes[at..at + count].iter().all(|&byte| byte == 0) {
        return Ok(());
    }
    Err(PeerMisbehaved::ReservedNotZero { offset: at as u32 })
}
