//! The memory that the devices know, and the only place where they touch it.
//!
//! Every access is checked against the regions that are registered at that moment, as the device does by its keys:
//! memory that was deregistered, or that belongs to requests of a queue pair that was destroyed, is never touched.

use super::super::{Part, Status};
use super::state::{End, Key, State, errno};
use std::io;

pub(super) const LOCAL_PROTECTION: Status = Status(4);

/// What a receive request is filled with when it is posted: its memory is the device's from then on, and whoever still
/// reads there shall notice.
const POISON: u8 = 0xDB;

impl End {
    /// Whether all parts lie in registered memory of a device.
    pub(super) fn check(&self, device: u32, parts: &[Part]) -> Result<(), Status> {
        let is_known = |part: &Part| {
            part.bytes == 0
                || self.regions.values().any(|region| {
                    region.device == device
                        && region.domain.is_none()
                        && region.key == part.key
                        && covers((region.address, region.bytes), (part.address, u64::from(part.bytes)))
                })
        };
        if parts.iter().all(is_known) { Ok(()) } else { Err(LOCAL_PROTECTION) }
    }

    /// Whether the peer of a connection may read a range by a key.
    pub(super) fn allows(&self, device: u32, connection: Key, key: u32, range: (u64, u64)) -> bool {
        let is_in_its_domain = self.regions.values().any(|region| {
            region.domain == Some(connection)
                && region.key == key
                && covers((region.address, region.bytes), range)
        });
        let is_windowed = self.windows.values().any(|window| {
            window.device == device
                && window.key == key
                && window.open.as_ref().is_some_and(|open| {
                    open.connection == connection
                        && covers((open.address, open.bytes), range)
                        // Cannot be missing: a region is not deregistered below a window.
                        && self.regions.contains_key(&open.region)
                })
        });
        is_in_its_domain || is_windowed
    }
}

impl State {
    pub(super) fn deregister(&mut self, end: usize, number: u32) -> io::Result<()> {
        let region = self.ends[end].regions.get(&number).ok_or_else(|| errno(libc::EINVAL))?;
        let (device, key) = (region.device, region.key);
        let is_windowed = |open: &super::state::Opening| open.region == number;
        if self.ends[end].windows.values().any(|window| window.open.as_ref().is_some_and(is_windowed)) {
            // What `rxe` says (`rxe_dereg_mr`): its memory windows are to be invalidated or freed first.
            return Err(errno(libc::EINVAL));
        }
        let is_named = |parts: &[Part]| parts.iter().any(|part| part.key == key);
        let queues = self.connections.values().filter(|connection| connection.end == end);
        let is_sent = queues.filter_map(|connection| connection.queue_pair.as_ref()).any(|queue_pair| {
            let is_in_hand = queue_pair.in_hand.as_ref().is_some_and(|receive| is_named(&receive.parts));
            let mut entries = queue_pair.entries.iter().filter(|entry| entry.inline.is_none());
            queue_pair.device == device && (is_in_hand || entries.any(|entry| is_named(&entry.parts)))
        });
        let context = &self.ends[end].contexts[device as usize];
        if is_sent || context.receives.iter().any(|receive| is_named(&receive.parts)) {
            self.misuses.push(format!("end {end} deregistered memory (key {key:#x}) that is posted"));
        }
        self.ends[end].regions.remove(&number);
        Ok(())
    }
}

/// Whether a range (address, bytes) lies in another.
fn covers(outer: (u64, u64), inner: (u64, u64)) -> bool {
    let offset = inner.0.wrapping_sub(outer.0);
    offset <= outer.1 && inner.1 <= outer.1 - offset
}

/// Total length.
pub(super) fn length(parts: &[Part]) -> u64 {
    parts.iter().map(|part| u64::from(part.bytes)).sum()
}

/// Takes the bytes that parts describe.
///
/// # Safety
/// They must be mapped.
pub(super) unsafe fn gather(parts: &[Part]) -> Vec<u8> {
    let mut bytes = Vec::<u8>::with_capacity(length(parts) as usize);
    for part in parts.iter().filter(|part| part.bytes > 0) {
        let length = part.bytes as usize;
        bytes.reserve(length);
        // SAFETY: the caller says that the source is mapped; `reserve` made room for as many bytes behind the
        // content, which is a new allocation and so apart from the source.
        unsafe {
            let end = bytes.as_mut_ptr().add(bytes.len());
            std::ptr::copy_nonoverlapping(part.address as *const u8, end, length);
            bytes.set_len(bytes.len() + length);
        }
    }
    bytes
}

/// Lays bytes into parts, one after the other, as far as the bytes go.
///
/// # Safety
/// They must be mapped, and nobody else's to use.
pub(super) unsafe fn scatter(mut bytes: &[u8], parts: &[Part]) {
    for part in parts {
        let (now, later) = bytes.split_at(bytes.len().min(part.bytes as usize));
        if !now.is_empty() {
            // SAFETY: mapped and the device's alone, as the caller says; the source is a copy of the fake's own.
            unsafe { std::ptr::copy_nonoverlapping(now.as_ptr(), part.address as *mut u8, now.len()) };
        }
        bytes = later;
    }
}

/// Fills memory that now belongs to the device.
///
/// # Safety
/// As for [`scatter`].
pub(super) unsafe fn poison(parts: &[Part]) {
    for part in parts.iter().filter(|part| part.bytes > 0) {
        // SAFETY: mapped and the device's alone, as the caller says.
        unsafe { std::ptr::write_bytes(part.address as *mut u8, POISON, part.bytes as usize) };
    }
}
