//! The data path: work requests to a device, and completions from it.
//!
//! Requests are put into the libraries' form on the stack, some at a time, and given to the device as a list with one
//! call; their parts stay where they are. Nothing is allocated. A list that a device did not take as a whole tells which
//! request was the first that it left (`bad_wr`), and that is where the caller goes on later.

use super::super::{Completion, Operation, Part, Posted, Receive, Request, Status};
use super::check::{check_number, invalid};
use super::memory::{MemoryRegion, MemoryWindow};
use super::table::Table;
use arrayvec::ArrayVec;
use rdma_sys::{
    bind_mw_t, bind_mw_tso_union_t, ibv_access_flags, ibv_cq, ibv_mw, ibv_mw_bind_info, ibv_poll_cq,
    ibv_post_send, ibv_post_srq_recv, ibv_qp, ibv_qp_state, ibv_recv_wr, ibv_send_flags, ibv_send_wr,
    ibv_sge, ibv_srq, ibv_wc, ibv_wc_flags, ibv_wr_opcode, imm_data_invalidated_rkey_union_t, qp_type_t,
    rdma_t, wr_t, xrc_t,
};
use std::ffi::c_int;
use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::ptr::{self, NonNull};

/// The most requests that one call of the device is given: 2 KiB of stack. A longer list takes several.
const POSTED_AT_A_TIME: usize = 16;

/// The most completions that one call of the device is asked for.
const TAKEN_AT_A_TIME: usize = 16;

// Parts are handed to the device where they are.
const _: () = assert!(
    size_of::<Part>() == size_of::<ibv_sge>()
        && align_of::<Part>() == align_of::<ibv_sge>()
        && offset_of!(Part, address) == offset_of!(ibv_sge, addr)
        && offset_of!(Part, bytes) == offset_of!(ibv_sge, length)
        && offset_of!(Part, key) == offset_of!(ibv_sge, lkey)
);

// These were written by hand in `rdma-sys`, and not taken from the header: their sizes in C.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<ibv_send_wr>() == 128 && size_of::<ibv_wc>() == 48);

/// What requests to bind refer to.
pub(super) struct Memory<'a> {
    pub(super) regions: &'a Table<MemoryRegion>,
    pub(super) windows: &'a Table<MemoryWindow>,
}

/// Posts requests to a send queue.
///
/// # Safety
/// The queue pair exists. For memory, see [`Verbs::post`](super::super::Verbs::post).
pub(super) unsafe fn post(
    queue_pair: NonNull<ibv_qp>,
    memory: &Memory<'_>,
    requests: &[Request<'_>],
) -> Posted {
    // Before it can send, some providers take requests all the same, refuse them, and send them later.
    // SAFETY: the queue pair exists.
    if unsafe { queue_pair.as_ref().state } < ibv_qp_state::IBV_QPS_RTS {
        return Posted { count: 0, error: Some(invalid()) };
    }
    let mut count = 0;
    while count < requests.len() {
        // SAFETY: the caller vouches for it.
        let posted = unsafe { post_batch(queue_pair, memory, &requests[count..]) };
        count += posted.count;
        if posted.error.is_some() {
            return Posted { count, ..posted };
        }
    }
    Posted { count, error: None }
}

/// Posts requests from the front, as many as one call of the device takes: one at least, or there is an error.
///
/// # Safety
/// As [`post`].
#[inline]
unsafe fn post_batch(queue_pair: NonNull<ibv_qp>, memory: &Memory<'_>, requests: &[Request<'_>]) -> Posted {
    let mut list = ArrayVec::<ibv_send_wr, POSTED_AT_A_TIME>::new();
    let mut refused = None;
    for request in requests.iter().take(POSTED_AT_A_TIME) {
        match to_raw(queue_pair, memory, request) {
            // A library reads a window's key while it takes the list, so a second binding comes with the next one.
            Ok(raw) if bound(&raw).is_some_and(|(window, _)| binds(&list, window)) => break,
            Ok(raw) => list.push(raw),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let first = list.as_mut_ptr();
    for place in 1..list.len() {
        // SAFETY: both are within the list.
        unsafe { (*first.add(place - 1)).next = first.add(place) };
    }
    if list.is_empty() {
        return Posted { count: 0, error: refused };
    }
    let mut left = ptr::null_mut();
    // SAFETY: the queue pair exists, the list is valid and ends with null, and so do the parts that it refers to. The
    // library does not write to them. The caller vouches for the memory.
    let outcome = check_number(unsafe { ibv_post_send(queue_pair.as_ptr(), first, &raw mut left) });
    let taken = taken(outcome, first, left, list.len());
    for (window, key) in list[..taken.count].iter().filter_map(bound) {
        // SAFETY: the window exists: it was looked up for this list.
        unsafe { (*window.as_ptr()).rkey = key };
    }
    Posted { error: taken.error.or(refused), ..taken }
}

/// The window that a request binds, and the key that it has from then on.
///
/// Nobody but the program keeps `ibv_mw.rkey` true when a window is bound by `ibv_post_send(3)`; and it must be, because
/// that is how providers tell the device which window is meant (`rxe` refuses any other key).
#[inline]
fn bound(raw: &ibv_send_wr) -> Option<(NonNull<ibv_mw>, u32)> {
    if raw.opcode != ibv_wr_opcode::IBV_WR_BIND_MW {
        return None;
    }
    // SAFETY: that is the member that was filled in for this operation.
    let bind = unsafe { &raw.bind_mw_tso_union.bind_mw };
    NonNull::new(bind.mw).map(|window| (window, bind.rkey))
}

fn binds(list: &[ibv_send_wr], window: NonNull<ibv_mw>) -> bool {
    list.iter().filter_map(bound).any(|(other, _)| other == window)
}

/// Posts requests to a shared receive queue.
///
/// # Safety
/// The queue exists. For memory, see [`Verbs::post_receives`](super::super::Verbs::post_receives).
pub(super) unsafe fn post_receives(queue: *mut ibv_srq, receives: &[Receive<'_>]) -> Posted {
    let mut count = 0;
    for batch in receives.chunks(POSTED_AT_A_TIME) {
        // SAFETY: the caller vouches for it.
        let posted = unsafe { post_receive_batch(queue, batch) };
        count += posted.count;
        if posted.error.is_some() {
            return Posted { count, ..posted };
        }
    }
    Posted { count, error: None }
}

/// # Safety
/// As [`post_receives`]; no more than [`POSTED_AT_A_TIME`].
#[inline]
unsafe fn post_receive_batch(queue: *mut ibv_srq, receives: &[Receive<'_>]) -> Posted {
    let mut list: ArrayVec<ibv_recv_wr, POSTED_AT_A_TIME> = receives
        .iter()
        .map(|receive| ibv_recv_wr {
            wr_id: receive.work,
            next: ptr::null_mut(),
            sg_list: parts_of(receive.parts),
            num_sge: receive.parts.len() as c_int,
        })
        .collect();
    let first = list.as_mut_ptr();
    for place in 1..list.len() {
        // SAFETY: both are within the list.
        unsafe { (*first.add(place - 1)).next = first.add(place) };
    }
    let mut left = ptr::null_mut();
    // SAFETY: the queue exists, the list is valid, has an entry and ends with null, and so do the parts that it refers
    // to. The library does not write to them. The caller vouches for the memory.
    let outcome = check_number(unsafe { ibv_post_srq_recv(queue, first, &raw mut left) });
    taken(outcome, first, left, list.len())
}

/// How far a list got, of which `left` was not taken.
#[inline]
fn taken<T>(outcome: io::Result<()>, first: *mut T, left: *mut T, all: usize) -> Posted {
    let Err(error) = outcome else { return Posted { count: all, error: None } };
    // Without a request to blame, the queue has them all, and it was telling the device that failed.
    let count = if left.is_null() { all } else { (left.addr() - first.addr()) / size_of::<T>() };
    Posted { count: count.min(all), error: Some(error) }
}

#[inline]
fn parts_of(parts: &[Part]) -> *mut ibv_sge {
    parts.as_ptr().cast::<ibv_sge>().cast_mut()
}

#[inline]
fn to_raw(
    queue_pair: NonNull<ibv_qp>,
    memory: &Memory<'_>,
    request: &Request<'_>,
) -> io::Result<ibv_send_wr> {
    let mut raw = ibv_send_wr {
        wr_id: request.work,
        next: ptr::null_mut(),
        sg_list: parts_of(request.parts),
        num_sge: request.parts.len() as c_int,
        opcode: ibv_wr_opcode::IBV_WR_SEND_WITH_IMM,
        send_flags: flags(request),
        imm_data_invalidated_rkey_union: imm_data_invalidated_rkey_union_t { imm_data: 0 },
        wr: wr_t { rdma: rdma_t { remote_addr: 0, rkey: 0 } },
        qp_type: qp_type_t { xrc: xrc_t { remote_srqn: 0 } },
        bind_mw_tso_union: bind_mw_tso_union_t { bind_mw: NO_BINDING },
    };
    match request.operation {
        Operation::Send { immediate } => {
            raw.imm_data_invalidated_rkey_union.imm_data = immediate.to_be();
        }
        Operation::Flush => raw.opcode = ibv_wr_opcode::IBV_WR_RDMA_WRITE,
        Operation::Read { address, key } => {
            raw.opcode = ibv_wr_opcode::IBV_WR_RDMA_READ;
            raw.wr.rdma = rdma_t { remote_addr: address, rkey: key };
        }
        Operation::Bind { window, key, region, address, bytes } => {
            let window = memory.windows.at(window.number).ok_or_else(invalid)?.as_ptr();
            let region = memory.regions.at(region.number).ok_or_else(invalid)?.as_ptr();
            // SAFETY: all three exist.
            if unsafe { (*window).pd != (*region).pd || (*window).pd != queue_pair.as_ref().pd } {
                return Err(invalid());
            }
            let mw_access_flags = ibv_access_flags::IBV_ACCESS_REMOTE_READ.0;
            let bind_info = ibv_mw_bind_info { mr: region, addr: address, length: bytes, mw_access_flags };
            raw.opcode = ibv_wr_opcode::IBV_WR_BIND_MW;
            raw.bind_mw_tso_union.bind_mw = bind_mw_t { mw: window, rkey: key, bind_info };
        }
        Operation::Invalidate { key } => {
            raw.opcode = ibv_wr_opcode::IBV_WR_LOCAL_INV;
            raw.imm_data_invalidated_rkey_union.invalidated_rkey = key;
        }
    }
    Ok(raw)
}

const NO_BINDING: bind_mw_t = bind_mw_t {
    mw: ptr::null_mut(),
    rkey: 0,
    bind_info: ibv_mw_bind_info { mr: ptr::null_mut(), addr: 0, length: 0, mw_access_flags: 0 },
};

#[inline]
fn flags(request: &Request<'_>) -> u32 {
    let signaled = if request.is_signaled { ibv_send_flags::IBV_SEND_SIGNALED.0 } else { 0 };
    let inline = if request.is_inline { ibv_send_flags::IBV_SEND_INLINE.0 } else { 0 };
    signaled | inline
}

/// Takes completions, until `into` is full or there are no more.
///
/// # Safety
/// The queue exists.
#[inline]
pub(super) unsafe fn take_completions(queue: *mut ibv_cq, into: &mut [Completion]) -> io::Result<usize> {
    let mut raw = [const { MaybeUninit::<ibv_wc>::uninit() }; TAKEN_AT_A_TIME];
    let mut count = 0;
    for places in into.chunks_mut(TAKEN_AT_A_TIME) {
        // SAFETY: the queue exists, and there is room for as many as there are places.
        let taken = unsafe { ibv_poll_cq(queue, places.len() as c_int, raw.as_mut_ptr().cast()) };
        // An overrun, or a device that is gone. What was taken before is not lost: the next call says it again.
        let Ok(taken) = usize::try_from(taken) else {
            return if count > 0 { Ok(count) } else { Err(io::Error::from_raw_os_error(libc::EIO)) };
        };
        for (place, raw) in places.iter_mut().zip(&raw[..taken.min(TAKEN_AT_A_TIME)]) {
            // SAFETY: so many were filled in.
            *place = to_completion(unsafe { raw.assume_init_ref() });
        }
        count += taken;
        if taken < places.len() {
            break;
        }
    }
    Ok(count)
}

#[inline]
fn to_completion(raw: &ibv_wc) -> Completion {
    let has_immediate = raw.wc_flags & ibv_wc_flags::IBV_WC_WITH_IMM.0 != 0;
    // SAFETY: both forms are four bytes, any of which are valid.
    let immediate = unsafe { raw.imm_data_invalidated_rkey_union.imm_data };
    Completion {
        work: raw.wr_id,
        queue_pair: raw.qp_num,
        status: Status(raw.status),
        bytes: raw.byte_len,
        immediate: if has_immediate { u32::from_be(immediate) } else { 0 },
    }
}
