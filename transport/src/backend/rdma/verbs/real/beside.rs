//! Queue pairs beside that of a connection, which are brought up by hand (`ibv_modify_qp(3)`).
//!
//! What the connection manager found out about the way to the peer is taken from the connection's own queue pair, by
//! `ibv_query_qp(3)`: that suffices on InfiniBand and RoCE. On iWARP a connection is TCP's, and there are none.

use super::super::{Beside, QueuePairName, QueuePairSizes};
use super::check::{check_number, check_pointer, invalid};
use super::device::Queues;
use rdma_sys::{
    ibv_access_flags, ibv_alloc_pd, ibv_create_qp, ibv_dealloc_pd, ibv_destroy_qp, ibv_modify_qp, ibv_pd,
    ibv_qp, ibv_qp_attr, ibv_qp_attr_mask, ibv_qp_cap, ibv_qp_init_attr, ibv_qp_state, ibv_qp_type,
    ibv_query_qp, ibv_transport_type,
};
use std::ffi::c_int;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::mem;
use std::ptr::{self, NonNull};

/// Packets are counted in 24 bits.
const PACKET_MASK: u32 = 0xFF_FFFF;

/// What is taken over from the connection's own queue pair.
const TAKEN_OVER: u32 = ibv_qp_attr_mask::IBV_QP_STATE.0
    | ibv_qp_attr_mask::IBV_QP_AV.0
    | ibv_qp_attr_mask::IBV_QP_PATH_MTU.0
    | ibv_qp_attr_mask::IBV_QP_PKEY_INDEX.0
    | ibv_qp_attr_mask::IBV_QP_PORT.0
    | ibv_qp_attr_mask::IBV_QP_TIMEOUT.0
    | ibv_qp_attr_mask::IBV_QP_RETRY_CNT.0
    | ibv_qp_attr_mask::IBV_QP_RNR_RETRY.0;

const TO_INITIAL: u32 = ibv_qp_attr_mask::IBV_QP_STATE.0
    | ibv_qp_attr_mask::IBV_QP_PKEY_INDEX.0
    | ibv_qp_attr_mask::IBV_QP_PORT.0
    | ibv_qp_attr_mask::IBV_QP_ACCESS_FLAGS.0;

const TO_RECEIVING: u32 = ibv_qp_attr_mask::IBV_QP_STATE.0
    | ibv_qp_attr_mask::IBV_QP_AV.0
    | ibv_qp_attr_mask::IBV_QP_PATH_MTU.0
    | ibv_qp_attr_mask::IBV_QP_DEST_QPN.0
    | ibv_qp_attr_mask::IBV_QP_RQ_PSN.0
    | ibv_qp_attr_mask::IBV_QP_MAX_DEST_RD_ATOMIC.0
    | ibv_qp_attr_mask::IBV_QP_MIN_RNR_TIMER.0;

const TO_SENDING: u32 = ibv_qp_attr_mask::IBV_QP_STATE.0
    | ibv_qp_attr_mask::IBV_QP_TIMEOUT.0
    | ibv_qp_attr_mask::IBV_QP_RETRY_CNT.0
    | ibv_qp_attr_mask::IBV_QP_RNR_RETRY.0
    | ibv_qp_attr_mask::IBV_QP_SQ_PSN.0
    | ibv_qp_attr_mask::IBV_QP_MAX_QP_RD_ATOMIC.0;

/// A protection domain of one peer's. What was registered in it must be gone before it.
struct Domain(NonNull<ibv_pd>);

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: it exists, and nobody has it any more. With memory in it, it stays, and says so to nobody.
        unsafe { ibv_dealloc_pd(self.0.as_ptr()) };
    }
}

/// A queue pair. Dropping it destroys it, then its domain.
pub(super) struct QueuePairBeside {
    beside: Beside,
    queue_pair: NonNull<ibv_qp>,
    first_packet: u32,
    domain: Option<Domain>,
}

impl QueuePairBeside {
    pub(super) fn create(queues: &Queues, beside: Beside, sizes: &QueuePairSizes) -> io::Result<Self> {
        // SAFETY: the device's domain exists, and so do its context and its device as long.
        let (context, transport) = unsafe {
            let context = (*queues.domain).context;
            (context, (*(*context).device).transport_type)
        };
        if transport != ibv_transport_type::IBV_TRANSPORT_IB {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        let domain = match beside {
            Beside::Reading => None,
            // SAFETY: the context is open.
            Beside::Answering => Some(Domain(check_pointer(unsafe { ibv_alloc_pd(context) })?)),
        };
        // SAFETY: zeros are valid for it: null pointers, and numbers.
        let mut attributes: ibv_qp_init_attr = unsafe { mem::zeroed() };
        attributes.send_cq = queues.completions;
        attributes.recv_cq = queues.completions;
        attributes.qp_type = ibv_qp_type::IBV_QPT_RC;
        // One receive request that is never posted: not every provider makes a queue of none.
        attributes.cap = ibv_qp_cap {
            max_send_wr: sizes.sends,
            max_recv_wr: 1,
            max_send_sge: sizes.parts,
            max_recv_sge: 1,
            max_inline_data: sizes.inline_bytes,
        };
        let within = domain.as_ref().map_or(queues.domain, |domain| domain.0.as_ptr());
        // SAFETY: domain and queues exist and are of one device, and the attributes are valid.
        let queue_pair = check_pointer(unsafe { ibv_create_qp(within, &raw mut attributes) })?;
        let first_packet = RandomState::new().hash_one(attributes.cap.max_send_wr) as u32 & PACKET_MASK;
        Ok(Self { beside, queue_pair, first_packet, domain })
    }

    pub(super) fn name(&self) -> QueuePairName {
        // SAFETY: it exists until this is dropped.
        QueuePairName { number: unsafe { self.queue_pair.as_ref().qp_num }, first_packet: self.first_packet }
    }

    pub(super) fn is(&self, beside: Beside) -> bool {
        self.beside == beside
    }

    pub(super) fn queue_pair(&self) -> NonNull<ibv_qp> {
        self.queue_pair
    }

    /// Where what the peer may read is registered.
    pub(super) fn domain(&self) -> io::Result<*mut ibv_pd> {
        self.domain.as_ref().map(|domain| domain.0.as_ptr()).ok_or_else(invalid)
    }

    /// Connects it along the way that the connection's own queue pair goes, which can send.
    pub(super) fn connect(&self, own: NonNull<ibv_qp>, peer: QueuePairName, reads: u8) -> io::Result<()> {
        // SAFETY: zeros are valid for both: null pointers, and numbers.
        let (mut attributes, mut made): (ibv_qp_attr, ibv_qp_init_attr) = unsafe { mem::zeroed() };
        // SAFETY: the queue pair exists, and both targets are valid.
        check_number(unsafe {
            ibv_query_qp(own.as_ptr(), &raw mut attributes, TAKEN_OVER as c_int, &raw mut made)
        })?;
        if attributes.qp_state != ibv_qp_state::IBV_QPS_RTS {
            return Err(invalid());
        }
        let (started, answered) = if self.is(Beside::Reading) { (reads, 0) } else { (0, reads) };
        let access = if self.is(Beside::Answering) { ibv_access_flags::IBV_ACCESS_REMOTE_READ.0 } else { 0 };
        (attributes.max_rd_atomic, attributes.max_dest_rd_atomic) = (started, answered);
        attributes.qp_access_flags = access;
        (attributes.dest_qp_num, attributes.rq_psn) = (peer.number, peer.first_packet);
        attributes.sq_psn = self.first_packet;
        attributes.min_rnr_timer = 0;
        self.move_to(ibv_qp_state::IBV_QPS_INIT, &mut attributes, TO_INITIAL)?;
        self.move_to(ibv_qp_state::IBV_QPS_RTR, &mut attributes, TO_RECEIVING)?;
        self.move_to(ibv_qp_state::IBV_QPS_RTS, &mut attributes, TO_SENDING)
    }

    /// Puts it into the error state: nobody reads by it any more.
    pub(super) fn stop(&self) {
        // SAFETY: zeros are valid for it: numbers.
        let mut attributes: ibv_qp_attr = unsafe { mem::zeroed() };
        // It fails where it was never connected, and then there is nothing to stop.
        let _ = self.move_to(ibv_qp_state::IBV_QPS_ERR, &mut attributes, ibv_qp_attr_mask::IBV_QP_STATE.0);
    }

    fn move_to(&self, state: ibv_qp_state::Type, attributes: &mut ibv_qp_attr, mask: u32) -> io::Result<()> {
        attributes.qp_state = state;
        // SAFETY: the queue pair exists, and the mask names what is set.
        check_number(unsafe {
            ibv_modify_qp(self.queue_pair.as_ptr(), ptr::from_mut(attributes), mask as c_int)
        })
    }
}

impl Drop for QueuePairBeside {
    fn drop(&mut self) {
        // SAFETY: it exists, and nobody has it any more; its domain goes after it.
        unsafe { ibv_destroy_qp(self.queue_pair.as_ptr()) };
    }
}
