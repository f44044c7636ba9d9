//! What the rdma wire's descriptors look like, for tests that have them say something else.

use underlay::backend::Descriptor;

/// Where the address of the first run lies: behind a head of 4 bytes; its key and its length follow.
const ADDRESS: std::ops::Range<usize> = 4..12;
const BYTES: std::ops::Range<usize> = 16..20;

/// Descriptors of as many bytes, that lie elsewhere.
pub(crate) fn beyond(descriptor: &[u8]) -> Vec<Descriptor> {
    let address = u64::from_le_bytes(descriptor[ADDRESS].try_into().expect("eight bytes"));
    let bytes = i64::from(u32::from_le_bytes(descriptor[BYTES].try_into().expect("four bytes")));
    let moved = [1, -1, bytes, -bytes].map(|by| {
        let mut moved: Descriptor = descriptor.iter().copied().collect();
        moved[ADDRESS].copy_from_slice(&address.wrapping_add_signed(by).to_le_bytes());
        moved
    });
    moved.to_vec()
}

/// The same with another key.
pub(crate) fn with_another_key(descriptor: &[u8]) -> Descriptor {
    let mut other: Descriptor = descriptor.iter().copied().collect();
    other[ADDRESS.end] ^= 1;
    other
}
