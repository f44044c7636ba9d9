//! A device that is in use: its domain, its queues, and what it tells.
//!
//! The `ibv_context` is the one that `librdmacm` opened, and that all of the process share: queue pairs that it makes
//! must be on it. It is held by an identifier that is bound to the device, or else the library would close it with the
//! last connection on a device that was removed, and what was made on it would point nowhere. The same identifier is told
//! when the device is to go, also when there is no connection over it. (A list of devices would hold it, too, and with
//! it all others: nobody could remove those.)

use super::super::{DeviceLimits, DeviceSizes};
use super::check::{check_number, check_pointer, make_nonblocking};
use super::connection::Connection;
use super::last_receive;
use super::watch::{Watch, Watched};
use rdma_sys::{
    ibv_ack_async_event, ibv_ack_cq_events, ibv_alloc_pd, ibv_async_event, ibv_comp_channel, ibv_context,
    ibv_cq, ibv_create_comp_channel, ibv_create_cq, ibv_create_srq, ibv_dealloc_pd, ibv_destroy_comp_channel,
    ibv_destroy_cq, ibv_destroy_srq, ibv_device_attr, ibv_device_cap_flags, ibv_get_async_event,
    ibv_get_cq_event, ibv_get_device_name, ibv_pd, ibv_port_attr, ibv_query_device, ibv_query_port,
    ibv_req_notify_cq, ibv_srq, ibv_srq_attr, ibv_srq_init_attr, rdma_free_devices, rdma_get_devices,
};
use std::ffi::{CStr, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};

/// `vendor_id` of soft-RoCE (`RXE_VENDOR_ID` in the kernel's `rxe_param.h`).
const SOFT_ROCE_VENDOR: u32 = 0xFF_FFFF;

/// Notifications are acknowledged so many at a time, because that takes a lock; and all of them before the queue goes.
const ACKNOWLEDGED_AT_A_TIME: u32 = 64;

/// What queue pairs and memory are made on.
pub(super) struct Queues {
    pub(super) domain: *mut ibv_pd,
    pub(super) completions: *mut ibv_cq,
    pub(super) receives: *mut ibv_srq,
}

/// A device in use. Queue pairs, regions and windows on it must be gone before it is.
pub(super) struct OpenDevice {
    context: NonNull<ibv_context>,
    has_windows: bool,
    queues: Queues,
    channel: *mut ibv_comp_channel,
    /// Was the next completion asked for, and its notification not taken yet?
    is_armed: bool,
    unacknowledged: u32,
    /// Holds the context; dropped after all that is on it.
    _holder: Connection,
}

impl OpenDevice {
    pub(super) fn open(
        context: NonNull<ibv_context>,
        sizes: &DeviceSizes,
        watch: &Watch,
        number: u32,
        holder: Connection,
    ) -> io::Result<Self> {
        let limits = limits(context)?;
        if limits.receives_max == 0 {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        let mut device = Self {
            context,
            has_windows: limits.windows_max > 0,
            queues: Queues {
                domain: ptr::null_mut(),
                completions: ptr::null_mut(),
                receives: ptr::null_mut(),
            },
            channel: ptr::null_mut(),
            is_armed: false,
            unacknowledged: 0,
            _holder: holder,
        };
        // Dropped half done, it destroys what there is.
        device.create_queues(sizes)?;
        device.watch(watch, number)?;
        Ok(device)
    }

    fn create_queues(&mut self, sizes: &DeviceSizes) -> io::Result<()> {
        let context = self.context.as_ptr();
        // SAFETY: the context is open.
        self.queues.domain = check_pointer(unsafe { ibv_alloc_pd(context) })?.as_ptr();
        // SAFETY: as above.
        self.channel = check_pointer(unsafe { ibv_create_comp_channel(context) })?.as_ptr();
        let entries = to_int(sizes.completions);
        // SAFETY: context and channel are open.
        let completions = unsafe { ibv_create_cq(context, entries, ptr::null_mut(), self.channel, 0) };
        self.queues.completions = check_pointer(completions)?.as_ptr();
        let mut attributes = ibv_srq_init_attr {
            srq_context: ptr::null_mut(),
            attr: ibv_srq_attr { max_wr: sizes.receives, max_sge: sizes.receive_parts, srq_limit: 0 },
        };
        // SAFETY: the domain exists, and the attributes are valid.
        let receives = unsafe { ibv_create_srq(self.queues.domain, &raw mut attributes) };
        self.queues.receives = check_pointer(receives)?.as_ptr();
        Ok(())
    }

    fn watch(&self, watch: &Watch, number: u32) -> io::Result<()> {
        // SAFETY: context and channel are open.
        let (completions, asynchronous) = unsafe { ((*self.channel).fd, self.context.as_ref().async_fd) };
        make_nonblocking(completions)?;
        make_nonblocking(asynchronous)?;
        watch.add(completions, Watched::Completions(number))?;
        match watch.add(asynchronous, Watched::Asynchronous(number)) {
            // Left by a device that could not be opened: the descriptor is the context's, and outlives it.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            outcome => outcome,
        }
    }

    pub(super) fn is_of(&self, context: NonNull<ibv_context>) -> bool {
        self.context == context
    }

    pub(super) fn context(&self) -> NonNull<ibv_context> {
        self.context
    }

    /// Undoes [`OpenDevice::watch`].
    pub(super) fn unwatch(&self, watch: &Watch) {
        // SAFETY: context and channel are open.
        let (completions, asynchronous) = unsafe { ((*self.channel).fd, self.context.as_ref().async_fd) };
        watch.remove(completions);
        watch.remove(asynchronous);
    }

    #[inline]
    pub(super) fn queues(&self) -> &Queues {
        &self.queues
    }

    pub(super) fn has_windows(&self) -> bool {
        self.has_windows
    }

    /// Asks for a notification of the next completion.
    ///
    /// That of the last time is taken here, and nowhere else: whoever armed a queue and looks at it once more before
    /// sleeping must not lose what came in between. If none came, the queue is armed still.
    pub(super) fn arm(&mut self) -> io::Result<()> {
        if self.is_armed && !self.take_notification()? {
            return Ok(());
        }
        // SAFETY: the queue exists. 0: for any completion.
        check_number(unsafe { ibv_req_notify_cq(self.queues.completions, 0) })?;
        self.is_armed = true;
        Ok(())
    }

    fn take_notification(&mut self) -> io::Result<bool> {
        let (mut queue, mut user) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the channel is open, and both targets are valid.
        if unsafe { ibv_get_cq_event(self.channel, &raw mut queue, &raw mut user) } != 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(false),
                _ => Err(error),
            };
        }
        self.is_armed = false;
        self.unacknowledged += 1;
        if self.unacknowledged == ACKNOWLEDGED_AT_A_TIME {
            self.acknowledge();
        }
        Ok(true)
    }

    fn acknowledge(&mut self) {
        // SAFETY: the queue exists, and so many notifications of it were taken.
        unsafe { ibv_ack_cq_events(self.queues.completions, self.unacknowledged) };
        self.unacknowledged = 0;
    }

    /// Takes what the device says of itself, and passes it on to the log: what it means for a connection, its
    /// completions and the connection manager say as well, but for one thing, of which `last_receive` takes note. All of
    /// the process share these events, so that another thread's may be among them, and one's own may have gone to another.
    pub(super) fn take_asynchronous(&self) {
        let mut event = MaybeUninit::<ibv_async_event>::uninit();
        // SAFETY: the context is open, and the target has room for an event.
        while unsafe { ibv_get_async_event(self.context.as_ptr(), event.as_mut_ptr()) } == 0 {
            // Read as a number, because a kernel may know more kinds than the enumeration.
            // SAFETY: the event was filled in.
            let kind = unsafe { (&raw const (*event.as_ptr()).event_type).cast::<u32>().read() };
            if kind == LAST_RECEIVE {
                // SAFETY: it was filled in, and an event of this kind is of a queue pair.
                let queue_pair = unsafe { (*event.as_ptr()).element.qp };
                // Before it is acknowledged, until when it is not destroyed and its address nobody else's.
                last_receive::reached(queue_pair);
            }
            // SAFETY: the event was taken from the context, and is acknowledged once.
            unsafe { ibv_ack_async_event(event.as_mut_ptr()) };
            log(&name(self.context), kind);
        }
    }
}

impl Drop for OpenDevice {
    fn drop(&mut self) {
        let Queues { domain, completions, receives } = self.queues;
        if self.unacknowledged > 0 {
            self.acknowledge();
        }
        // SAFETY: what there is of them exists, is the device's own, and goes in the opposite order of its making; what
        // holds the context goes last, after this.
        unsafe {
            if !receives.is_null() {
                ibv_destroy_srq(receives);
            }
            if !completions.is_null() {
                ibv_destroy_cq(completions);
            }
            if !self.channel.is_null() {
                ibv_destroy_comp_channel(self.channel);
            }
            if !domain.is_null() {
                ibv_dealloc_pd(domain);
            }
        }
    }
}

/// Has the library look which devices there are, whereupon it closes those that are gone and that nobody holds. Says which
/// it has open then: all that there are, since looking opens them (`rdma_get_devices`), and those that go and are held.
pub(super) fn kept() -> Vec<NonNull<ibv_context>> {
    let mut count = 0;
    // SAFETY: the target is valid.
    let list = unsafe { rdma_get_devices(&raw mut count) };
    // No list: there is no device at all any more.
    let Some(list) = NonNull::new(list) else { return Vec::new() };
    // SAFETY: the list has so many entries.
    let contexts = unsafe { std::slice::from_raw_parts(list.as_ptr(), usize::try_from(count).unwrap_or(0)) };
    let kept = contexts.iter().copied().filter_map(NonNull::new).collect();
    // SAFETY: the list is not used any more.
    unsafe { rdma_free_devices(list.as_ptr()) };
    kept
}

pub(super) fn limits(context: NonNull<ibv_context>) -> io::Result<DeviceLimits> {
    let mut attributes = MaybeUninit::<ibv_device_attr>::zeroed();
    // SAFETY: the context is open, and the target has room.
    check_number(unsafe { ibv_query_device(context.as_ptr(), attributes.as_mut_ptr()) })?;
    // SAFETY: it was filled in, and zeros were valid before.
    let attributes = unsafe { attributes.assume_init() };
    let windows = ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW_TYPE_2A.0
        | ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW_TYPE_2B.0;
    let has_windows = attributes.device_cap_flags & windows != 0;
    let has_receives = attributes.max_srq > 0;
    Ok(DeviceLimits {
        name: name(context),
        queue_pairs_max: from_int(attributes.max_qp),
        sends_max: from_int(attributes.max_qp_wr),
        parts_max: from_int(attributes.max_sge),
        completions_max: from_int(attributes.max_cqe),
        receives_max: if has_receives { from_int(attributes.max_srq_wr) } else { 0 },
        receive_parts_max: from_int(attributes.max_srq_sge),
        reads_started_max: from_int(attributes.max_qp_init_rd_atom),
        reads_answered_max: from_int(attributes.max_qp_rd_atom),
        windows_max: if has_windows { from_int(attributes.max_mw) } else { 0 },
        windows_have_bounds: attributes.vendor_id != SOFT_ROCE_VENDOR,
    })
}

/// The active MTU of a port.
pub(super) fn packet_bytes(context: NonNull<ibv_context>, port: u8) -> io::Result<u32> {
    let mut attributes = MaybeUninit::<ibv_port_attr>::zeroed();
    // SAFETY: the context is open; the function fills in the front part of the structure, which it calls by another name.
    check_number(unsafe { ibv_query_port(context.as_ptr(), port, attributes.as_mut_ptr().cast()) })?;
    // SAFETY: it was filled in, and zeros were valid before.
    let mtu = unsafe { attributes.assume_init() }.active_mtu;
    // 1 stands for 256 bytes, and each next number for twice as many.
    1_u32.checked_shl(mtu + 7).ok_or_else(|| io::Error::from_raw_os_error(libc::EPROTO))
}

fn name(context: NonNull<ibv_context>) -> String {
    // SAFETY: the context is open, its device is known as long, and its name ends with a zero.
    let name = unsafe { CStr::from_ptr(ibv_get_device_name(context.as_ref().device)) };
    name.to_string_lossy().into_owned()
}

/// `enum ibv_event_type`, in the words of `ibv_get_async_event(3)`.
const EVENTS: [&str; 20] = [
    "CQ_ERR",
    "QP_FATAL",
    "QP_REQ_ERR",
    "QP_ACCESS_ERR",
    "COMM_EST",
    "SQ_DRAINED",
    "PATH_MIG",
    "PATH_MIG_ERR",
    "DEVICE_FATAL",
    "PORT_ACTIVE",
    "PORT_ERR",
    "LID_CHANGE",
    "PKEY_CHANGE",
    "SM_CHANGE",
    "SRQ_ERR",
    "SRQ_LIMIT_REACHED",
    "QP_LAST_WQE_REACHED",
    "CLIENT_REREGISTER",
    "GID_CHANGE",
    "WQ_FATAL",
];

/// The place of `QP_LAST_WQE_REACHED` there.
const LAST_RECEIVE: u32 = 16;

fn log(device: &str, kind: u32) {
    let event = EVENTS.get(kind as usize).copied().unwrap_or("UNKNOWN");
    match event {
        "CQ_ERR" | "SRQ_ERR" | "DEVICE_FATAL" => {
            tracing::error!(
                device,
                event,
                "an RDMA device has lost one of its queues: its connections will end"
            );
        }
        "PORT_ERR" => tracing::warn!(device, event, "the link of an RDMA device is down"),
        "QP_FATAL" | "QP_REQ_ERR" | "QP_ACCESS_ERR" => {
            tracing::warn!(device, event, "a connection is broken")
        }
        "PORT_ACTIVE" => tracing::info!(device, event, "the link of an RDMA device is up"),
        _ => tracing::debug!(device, event, kind, "an RDMA device reports"),
    }
}

fn from_int(value: c_int) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

fn to_int(value: u32) -> c_int {
    c_int::try_from(value).unwrap_or(c_int::MAX)
}
