//! Memory that a device knows: regions, and windows on them.

use super::super::{Region, Window};
use super::check::{check_number, check_pointer};
use super::device::OpenDevice;
use rdma_sys::{
    ibv_access_flags, ibv_alloc_mw, ibv_dealloc_mw, ibv_dereg_mr, ibv_mr, ibv_mw, ibv_mw_type, ibv_pd,
    ibv_reg_mr,
};
use std::ffi::{c_int, c_uint};
use std::io;
use std::mem;
use std::ptr::{self, NonNull};

/// A region. Dropping it makes the device forget it, and unpins it.
pub(super) struct MemoryRegion(NonNull<ibv_mr>, Reach);

/// Who reaches a region.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// The device for this end, and peers by windows on it.
    Here,
    /// The peer in whose protection domain it is.
    Peer,
}

impl MemoryRegion {
    /// `ENOMEM` is either a lack of memory or, far more often, the limit of memory that may be pinned (`memlock`).
    ///
    /// # Safety
    /// The memory must stay mapped as long as this lives.
    pub(super) unsafe fn register(device: &OpenDevice, address: u64, bytes: usize) -> io::Result<Self> {
        let mut access = ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0;
        // Peers reach none of it but through a window.
        if device.has_windows() {
            access |= ibv_access_flags::IBV_ACCESS_MW_BIND.0;
        }
        // SAFETY: the device's domain exists, and the caller vouches for the memory.
        unsafe { Self::register_in(device.queues().domain, address, bytes, access, Reach::Here) }
    }

    /// In a protection domain of one peer's, for it to read.
    ///
    /// # Safety
    /// The domain exists. The memory must stay mapped as long as this lives, which must be shorter than the domain.
    pub(super) unsafe fn register_for_peer(
        domain: *mut ibv_pd,
        address: u64,
        bytes: usize,
    ) -> io::Result<Self> {
        let access = ibv_access_flags::IBV_ACCESS_REMOTE_READ.0;
        // SAFETY: the caller says so.
        unsafe { Self::register_in(domain, address, bytes, access, Reach::Peer) }
    }

    /// # Safety
    /// As for the two above.
    unsafe fn register_in(
        domain: *mut ibv_pd,
        address: u64,
        bytes: usize,
        access: c_uint,
        reach: Reach,
    ) -> io::Result<Self> {
        let address = ptr::with_exposed_provenance_mut(address as usize);
        // SAFETY: the domain exists; the kernel checks that the memory does, and the caller vouches for it afterwards.
        let region = unsafe { ibv_reg_mr(domain, address, bytes, access as c_int) };
        check_pointer(region).map(|region| Self(region, reach))
    }

    /// Whether a peer has it in a domain of its own.
    pub(super) fn is_for_peer(&self) -> bool {
        self.1 == Reach::Peer
    }

    /// By what the peer names it.
    pub(super) fn remote_key(&self) -> u32 {
        // SAFETY: it exists until this is dropped.
        unsafe { self.0.as_ref().rkey }
    }

    pub(super) fn named(&self, number: u32) -> Region {
        // SAFETY: it exists until this is dropped.
        Region { number, key: unsafe { self.0.as_ref().lkey } }
    }

    pub(super) fn as_ptr(&self) -> *mut ibv_mr {
        self.0.as_ptr()
    }

    /// Whether the device knows it, in whatever domain. Its context is what it is undone by, so that it goes before that.
    pub(super) fn is_of(&self, device: &OpenDevice) -> bool {
        // SAFETY: it exists until this is dropped.
        unsafe { self.0.as_ref().context == device.context().as_ptr() }
    }

    /// Undoes it, or gives it back with the reason: `EBUSY` while a window is open on it.
    pub(super) fn deregister(self) -> Result<(), (Self, io::Error)> {
        // SAFETY: it exists, and is dropped nowhere else if this succeeds.
        match check_number(unsafe { ibv_dereg_mr(self.0.as_ptr()) }) {
            Ok(()) => {
                mem::forget(self);
                Ok(())
            }
            Err(error) => Err((self, error)),
        }
    }
}

impl Drop for MemoryRegion {
    fn drop(&mut self) {
        // SAFETY: it exists, and nobody has it any more.
        unsafe { ibv_dereg_mr(self.0.as_ptr()) };
    }
}

/// A type 2 window. Dropping it closes it.
pub(super) struct MemoryWindow(NonNull<ibv_mw>);

impl MemoryWindow {
    pub(super) fn allocate(device: &OpenDevice) -> io::Result<Self> {
        if !device.has_windows() {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        // SAFETY: the domain exists.
        let window = unsafe { ibv_alloc_mw(device.queues().domain, ibv_mw_type::IBV_MW_TYPE_2) };
        check_pointer(window.unwrap_or(ptr::null_mut())).map(Self)
    }

    pub(super) fn named(&self, number: u32) -> Window {
        // SAFETY: it exists until this is dropped.
        Window { number, key: unsafe { self.0.as_ref().rkey } }
    }

    pub(super) fn as_ptr(&self) -> *mut ibv_mw {
        self.0.as_ptr()
    }

    pub(super) fn is_of(&self, device: &OpenDevice) -> bool {
        // SAFETY: it exists until this is dropped.
        unsafe { self.0.as_ref().pd == device.queues().domain }
    }

    /// Gives it back to the device, or here again with the reason.
    pub(super) fn free(self) -> Result<(), (Self, io::Error)> {
        // SAFETY: it exists, and is dropped nowhere else if this succeeds.
        match check_number(unsafe { ibv_dealloc_mw(self.0.as_ptr()) }) {
            Ok(()) => {
                mem::forget(self);
                Ok(())
            }
            Err(error) => Err((self, error)),
        }
    }
}

impl Drop for MemoryWindow {
    fn drop(&mut self) {
        // SAFETY: it exists, and nobody has it any more.
        unsafe { ibv_dealloc_mw(self.0.as_ptr()) };
    }
}
