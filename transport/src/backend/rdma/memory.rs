//! Which memory a device knows: pools' slabs, each registered once, when the first buffer of it is to travel.

use super::verbs::{Device, Identifier, Region, Verbs};
use crate::pool::{BufferMut, Mapping, MappingHold, Segment};
use std::collections::HashMap;
use std::io;
use std::mem::ManuallyDrop;
use thiserror::Error;

/// The slabs that one device knows.
///
/// A slab is kept mapped as long as it is registered, also when its pool is gone: the device has its pages, and
/// another mapping at the same address must not be taken for it. Each device holds each pool that it knows slabs of
/// once; a hold tells when the pool and all its buffers are gone, whoever else holds it. Then each device lets go of its
/// slabs by itself: [`Memory::forget_abandoned`].
///
/// What a device does not let go of is kept until it is closed ([`Memory::closed`]), and never given back otherwise: the
/// device may reach it as long as there is one.
#[derive(Debug)]
pub(super) struct Memory {
    device: Device,
    /// The last slabs that were asked for, by the low bits of their number: what the data path looks at.
    recent: [(u64, u32); RECENT],
    registered: HashMap<u64, Registered>,
    /// Whose these are.
    pools: Vec<KnownPool>,
    stuck: ManuallyDrop<Stuck>,
}

const RECENT: usize = 16;

#[derive(Debug)]
struct Registered {
    region: Region,
    bytes: usize,
}

/// A pool, and the numbers of its slabs that are registered.
#[derive(Debug)]
struct KnownPool {
    hold: MappingHold,
    slabs: Vec<u64>,
}

/// What could not be deregistered.
#[derive(Debug, Default)]
struct Stuck {
    bytes: usize,
    _pools: Vec<MappingHold>,
    _segments: Vec<Segment>,
}

/// What all devices of a wire may pin together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    pub(super) bytes_max: usize,
    pub(super) pinned_bytes: usize,
}

/// Something whose memory a device is to touch.
pub(super) trait Buffer {
    fn mapping(&self) -> &Mapping;
    fn hold(&self) -> MappingHold;
}

impl Buffer for Segment {
    #[inline]
    fn mapping(&self) -> &Mapping {
        self.mapping()
    }

    fn hold(&self) -> MappingHold {
        self.hold_mapping()
    }
}

impl Buffer for BufferMut {
    #[inline]
    fn mapping(&self) -> &Mapping {
        self.mapping()
    }

    fn hold(&self) -> MappingHold {
        self.hold_mapping()
    }
}

impl Memory {
    pub(super) fn new(device: Device) -> Self {
        let (registered, pools, stuck) = Default::default();
        Self { device, recent: [(u64::MAX, 0); RECENT], registered, pools, stuck }
    }

    /// The key by which the device knows a buffer's memory; registers it, which takes a system call and pins it, the
    /// first time.
    #[inline]
    pub(super) fn key(
        &mut self,
        buffer: &impl Buffer,
        verbs: &mut impl Verbs,
        budget: &mut Budget,
    ) -> Result<u32, PinError> {
        let number = buffer.mapping().number;
        let (recent, key) = self.recent[number as usize % RECENT];
        if recent == number {
            return Ok(key);
        }
        self.region(buffer, verbs, budget).map(|region| region.key)
    }

    /// The same, as a region.
    pub(super) fn region(
        &mut self,
        buffer: &impl Buffer,
        verbs: &mut impl Verbs,
        budget: &mut Budget,
    ) -> Result<Region, PinError> {
        let mapping = *buffer.mapping();
        let region = match self.registered.get(&mapping.number) {
            Some(known) => known.region,
            None => self.register(&mapping, buffer.hold(), verbs, budget)?,
        };
        self.recent[mapping.number as usize % RECENT] = (mapping.number, region.key);
        Ok(region)
    }

    #[cold]
    fn register(
        &mut self,
        mapping: &Mapping,
        hold: MappingHold,
        verbs: &mut impl Verbs,
        budget: &mut Budget,
    ) -> Result<Region, PinError> {
        self.forget_abandoned(verbs, budget);
        let Mapping { number, address, bytes } = *mapping;
        // SAFETY: the hold keeps it mapped, and is dropped only after the region is gone.
        let region = unsafe { Self::register_alone(self.device, address, bytes, verbs, budget) }?;
        self.registered.insert(number, Registered { region, bytes });
        match self.pools.iter_mut().find(|pool| pool.hold.is_of_the_pool_of(&hold)) {
            Some(pool) => pool.slabs.push(number),
            None => self.pools.push(KnownPool { hold, slabs: vec![number] }),
        }
        Ok(region)
    }

    /// Makes memory known that lies in a slab, apart from it, so that windows on it are bounded by it.
    ///
    /// # Safety
    /// It must stay mapped until [`Memory::deregister_alone`].
    pub(super) unsafe fn register_alone(
        device: Device,
        address: u64,
        bytes: usize,
        verbs: &mut impl Verbs,
        budget: &mut Budget,
    ) -> Result<Region, PinError> {
        // SAFETY: the caller says so.
        budget.pin(bytes, || unsafe { verbs.register(device, address, bytes) })
    }

    /// Lets the peer of a connection read memory that lies in a slab.
    ///
    /// # Safety
    /// It must stay mapped, and hold nothing but what the peer may read, until [`Memory::deregister_alone`].
    pub(super) unsafe fn register_for_peer(
        identifier: Identifier,
        address: u64,
        bytes: usize,
        verbs: &mut impl Verbs,
        budget: &mut Budget,
    ) -> Result<Region, PinError> {
        // SAFETY: the caller says so.
        budget.pin(bytes, || unsafe { verbs.register_for_peer(identifier, address, bytes) })
    }

    /// Undoes [`Memory::register_alone`] or [`Memory::register_for_peer`]. If it cannot be undone, which this says, the
    /// device may still reach that memory, and it is to be [kept](Memory::keep).
    #[must_use = "memory that is registered must stay what it is"]
    pub(super) fn deregister_alone(
        region: Region,
        bytes: usize,
        verbs: &mut impl Verbs,
        budget: &mut Budget,
    ) -> bool {
        match verbs.deregister(region) {
            Ok(()) => {
                budget.pinned_bytes -= bytes;
                true
            }
            Err(error) => {
                tracing::warn!(%error, bytes, "memory could not be deregistered; it stays pinned, and its buffers out");
                false
            }
        }
    }

    /// Keeps segments until the device is closed, with so many bytes that are registered still.
    pub(super) fn keep(&mut self, bytes: usize, segments: Vec<Segment>) {
        self.stuck.bytes += bytes;
        self.stuck._segments.extend(segments);
    }

    /// The device is closed, and reaches nothing any more: how many bytes are pinned no longer.
    pub(super) fn closed(self) -> usize {
        let stuck = ManuallyDrop::into_inner(self.stuck);
        self.registered.values().map(|slab| slab.bytes).sum::<usize>() + stuck.bytes
    }

    /// Lets go of the slabs of pools that are gone. Looks at one count for each pool that it knows.
    pub(super) fn forget_abandoned(&mut self, verbs: &mut impl Verbs, budget: &mut Budget) {
        for KnownPool { hold, slabs } in self.pools.extract_if(.., |pool| pool.hold.is_abandoned()) {
            let mut stuck_bytes = 0;
            for number in slabs {
                let Some(Registered { region, bytes }) = self.registered.remove(&number) else { continue };
                self.recent[number as usize % RECENT] = (u64::MAX, 0);
                if !Self::deregister_alone(region, bytes, verbs, budget) {
                    stuck_bytes += bytes;
                }
            }
            if stuck_bytes > 0 {
                self.stuck.bytes += stuck_bytes;
                self.stuck._pools.push(hold);
            }
        }
    }
}

/// Why memory is not made known to a device.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PinError {
    /// The configuration does not allow it.
    #[error(
        "{bytes} bytes more would have to be pinned for RDMA, and {pinned_bytes} of the {bytes_max} that \
         pinned_bytes_max allows are: raise it, or lower receive_slots_max or the pools' bytes_max"
    )]
    Budget {
        /// What was asked for.
        bytes: usize,
        /// What is pinned.
        pinned_bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The system does not allow it.
    #[error(
        "the system lets this process pin no {bytes} bytes more for RDMA ({error}), after {pinned_bytes}; its limit \
         (RLIMIT_MEMLOCK) is {limit}: raise it with ulimit -l, memlock in /etc/security/limits.conf, or \
         LimitMEMLOCK= of the systemd unit"
    )]
    Memlock {
        /// What was asked for.
        bytes: usize,
        /// What is pinned by this wire.
        pinned_bytes: usize,
        /// The limit, in words.
        limit: String,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// Another error of the system.
    #[error("registering {bytes} bytes for RDMA failed: {error}")]
    System {
        /// What was asked for.
        bytes: usize,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

impl Budget {
    /// Counts what is registered, if that may be and succeeds.
    fn pin(
        &mut self,
        bytes: usize,
        register: impl FnOnce() -> io::Result<Region>,
    ) -> Result<Region, PinError> {
        let Self { bytes_max, pinned_bytes } = *self;
        if pinned_bytes.saturating_add(bytes) > bytes_max {
            return Err(PinError::Budget { bytes, pinned_bytes, bytes_max });
        }
        let region = register().map_err(|error| PinError::of_system(error, bytes, self))?;
        self.pinned_bytes += bytes;
        Ok(region)
    }
}

impl PinError {
    fn of_system(error: io::Error, bytes: usize, budget: &Budget) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOMEM | libc::EAGAIN) => {
                let pinned_bytes = budget.pinned_bytes;
                Self::Memlock { bytes, pinned_bytes, limit: memlock_limit(), error }
            }
            _ => Self::System { bytes, error },
        }
    }
}

impl From<PinError> for io::Error {
    fn from(error: PinError) -> Self {
        Self::new(io::ErrorKind::OutOfMemory, error)
    }
}

/// `RLIMIT_MEMLOCK`, in words.
fn memlock_limit() -> String {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the target is one `rlimit` of our own.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) } != 0 {
        return "unknown".to_owned();
    }
    match limit.rlim_cur {
        libc::RLIM_INFINITY => "unlimited, so memory itself may be short".to_owned(),
        bytes => format!("{bytes} bytes"),
    }
}
