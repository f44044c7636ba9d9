//! The receive requests of one device: which buffers it may fill.
//!
//! Each request has two buffers: one of 16 KiB, in which nearly every frame fits, and behind it one of 1 KiB, into
//! which only the end of a frame reaches that carries a message of 16 KiB and its head. So one such frame is one send
//! and one receive request, at 17 KiB instead of the 64 that the next size of buffer would take; the second buffer
//! stays where it is when it was not reached.

use super::memory::{Budget, Memory, PinError};
use super::verbs::{Device, Part, Posted, Receive, Verbs};
use crate::pool::{BufferMut, Pool, PoolError, Segment};
use arrayvec::ArrayVec;
use std::io;
use thiserror::Error;

const FIRST_BYTES: usize = 16_384;
const SECOND_BYTES: usize = 1024;

/// The parts of a receive request.
pub(super) const PARTS: u32 = 2;

/// The most bytes that one send can carry to this end.
pub(super) const SLOT_BYTES: u32 = (FIRST_BYTES + SECOND_BYTES) as u32;

/// The most requests that are posted in one list.
const LIST_MAX: usize = 32;

/// The most buffers that are looked at to find one that may be pinned: more than a slab has.
pub(super) const REFUSED_MAX: usize = 8;

/// All receive requests of a device.
#[derive(Debug, Default)]
pub(super) struct Receives {
    slots: Vec<Slot>,
    /// Slots that are not posted.
    idle: Vec<u32>,
}

/// Two buffers; those that are there belong to the device while the slot is posted.
#[derive(Debug, Default)]
struct Slot {
    first: Option<BufferMut>,
    second: Option<BufferMut>,
    is_posted: bool,
}

/// Why no further receive request can be posted.
#[derive(Debug, Error)]
pub(super) enum PostError {
    /// There are no buffers just now, or none at all.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The device does not get to know them.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The device refuses.
    #[error("posting a receive request failed: {0}")]
    Device(#[source] io::Error),
}

impl Receives {
    /// Makes slots until there are so many.
    pub(super) fn grow(&mut self, count: usize) {
        while self.slots.len() < count {
            self.idle.push(self.slots.len() as u32);
            self.slots.push(Slot::default());
        }
    }

    #[inline]
    pub(super) fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    /// Posts every slot that is not, in few lists; says how many were. What cannot be posted now stays idle.
    pub(super) fn post(
        &mut self,
        device: Device,
        verbs: &mut impl Verbs,
        memory: &mut Memory,
        budget: &mut Budget,
        pool: &mut Pool,
    ) -> (u32, Result<(), PostError>) {
        let mut count = 0;
        while !self.idle.is_empty() {
            match self.post_list(device, verbs, memory, budget, pool) {
                Ok(posted) => count += posted,
                Err((posted, error)) => return (count + posted, Err(error)),
            }
        }
        (count, Ok(()))
    }

    fn post_list(
        &mut self,
        device: Device,
        verbs: &mut impl Verbs,
        memory: &mut Memory,
        budget: &mut Budget,
        pool: &mut Pool,
    ) -> Result<u32, (u32, PostError)> {
        let mut parts = ArrayVec::<[Part; PARTS as usize], LIST_MAX>::new();
        let mut failure = None;
        for slot in self.idle.iter().rev().take(LIST_MAX) {
            match self.slots[*slot as usize].parts(verbs, memory, budget, pool) {
                Ok(found) => parts.push(found),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let list = parts.iter().zip(self.idle.iter().rev());
        let list: ArrayVec<Receive<'_>, LIST_MAX> =
            list.map(|(parts, slot)| Receive { work: u64::from(*slot), parts }).collect();
        let Posted { count, error } = if list.is_empty() {
            Posted { count: 0, error: None }
        } else {
            // SAFETY: the buffers lie in the slots, which are marked as posted below and then keep them until their
            // completion; and the wire drops the seam before the slots.
            unsafe { verbs.post_receives(device, &list) }
        };
        for slot in self.idle.drain(self.idle.len() - count..) {
            self.slots[slot as usize].is_posted = true;
        }
        match error.map(PostError::Device).or(failure) {
            None => Ok(count as u32),
            Some(error) => Err((count as u32, error)),
        }
    }

    /// How many buffers it holds.
    #[cfg(all(test, not(loom)))]
    pub(super) fn buffers(&self) -> usize {
        self.slots
            .iter()
            .map(|slot| usize::from(slot.first.is_some()) + usize::from(slot.second.is_some()))
            .sum()
    }

    /// How many slots are posted.
    #[cfg(all(test, not(loom)))]
    pub(super) fn posted(&self) -> usize {
        self.slots.iter().filter(|slot| slot.is_posted).count()
    }

    /// Takes what arrived in a slot, which is idle from now on; `None` if it is none that was posted.
    #[inline]
    pub(super) fn take(&mut self, work: u64, bytes: u32) -> Option<Arrived> {
        let index = u32::try_from(work).ok()?;
        let slot = self.slots.get_mut(index as usize)?;
        if !std::mem::replace(&mut slot.is_posted, false) {
            return None;
        }
        self.idle.push(index);
        let bytes = bytes as usize;
        let first = filled(&mut slot.first, bytes.min(FIRST_BYTES));
        let second = filled(&mut slot.second, bytes.saturating_sub(FIRST_BYTES).min(SECOND_BYTES));
        Some(Arrived { first, second })
    }
}

/// What a send brought, in one piece or two.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) first: Option<Segment>,
    pub(super) second: Option<Segment>,
}

/// Takes a buffer that the device has written to, if it has.
#[inline]
fn filled(buffer: &mut Option<BufferMut>, bytes: usize) -> Option<Segment> {
    if bytes == 0 {
        return None;
    }
    let mut buffer = buffer.take()?;
    // SAFETY: its completion says that the device has written so many bytes, at most what it was given.
    unsafe { buffer.assume_written(bytes) };
    Some(buffer.split())
}

impl Slot {
    /// The memory of both buffers, taken from the pool where it is missing.
    #[inline]
    fn parts(
        &mut self,
        verbs: &mut impl Verbs,
        memory: &mut Memory,
        budget: &mut Budget,
        pool: &mut Pool,
    ) -> Result<[Part; PARTS as usize], PostError> {
        let first = part(&mut self.first, FIRST_BYTES, verbs, memory, budget, pool)?;
        let second = part(&mut self.second, SECOND_BYTES, verbs, memory, budget, pool)?;
        Ok([first, second])
    }
}

#[inline]
fn part(
    place: &mut Option<BufferMut>,
    bytes: usize,
    verbs: &mut impl Verbs,
    memory: &mut Memory,
    budget: &mut Budget,
    pool: &mut Pool,
) -> Result<Part, PostError> {
    let buffer = match place {
        Some(buffer) => buffer,
        None => place.insert(pool.buffer(bytes)?),
    };
    match memory.key(buffer, verbs, budget) {
        Ok(key) => Ok(Part { address: buffer.spare_mut().as_mut_ptr() as u64, bytes: bytes as u32, key }),
        Err(error) => another_part(place, bytes, error, verbs, memory, budget, pool),
    }
}

/// Looks for a buffer that the device knows, where the first one may not be pinned. The pool gives out first what came
/// back last, so those that are of no use are kept until the search is over.
#[cold]
fn another_part(
    place: &mut Option<BufferMut>,
    bytes: usize,
    mut error: PinError,
    verbs: &mut impl Verbs,
    memory: &mut Memory,
    budget: &mut Budget,
    pool: &mut Pool,
) -> Result<Part, PostError> {
    let mut refused = ArrayVec::<BufferMut, REFUSED_MAX>::new();
    while !refused.is_full() {
        refused.extend(place.take());
        let Ok(buffer) = pool.buffer(bytes) else { break };
        let buffer = place.insert(buffer);
        match memory.key(buffer, verbs, budget) {
            Ok(key) => {
                return Ok(Part {
                    address: buffer.spare_mut().as_mut_ptr() as u64,
                    bytes: bytes as u32,
                    key,
                });
            }
            Err(again) => error = again,
        }
    }
    *place = None;
    drop(refused);
    // Now, so that what is let go of from here on lies above these, and is drawn first.
    pool.reclaim();
    Err(error.into())
}
