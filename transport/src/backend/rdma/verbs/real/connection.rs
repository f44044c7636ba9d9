//! One identifier of the connection manager, with its queue pair if it has one.
//!
//! The steps are those of `rdma_cm(7)`. `librdmacm` moves the queue pair through its states: to receive and send when a
//! request is accepted or a response is taken from the channel, to the error state when the connection ends.

use super::super::{
    Beside, ConnectParameters, GREETING_BYTES_MAX, QueuePair, QueuePairName, QueuePairSizes,
    REJECTION_BYTES_MAX,
};
use super::beside::QueuePairBeside;
use super::channel::EventChannel;
use super::check::{check, check_number, check_pointer, invalid};
use super::device::Queues;
use super::last_receive;
use crate::backend::raw_address::RawAddress;
use arrayvec::ArrayVec;
use rdma_sys::{
    ibv_context, ibv_modify_qp, ibv_qp, ibv_qp_attr, ibv_qp_attr_mask, ibv_qp_cap, ibv_qp_init_attr,
    ibv_qp_state, ibv_qp_type, rdma_accept, rdma_bind_addr, rdma_cm_id, rdma_conn_param, rdma_connect,
    rdma_create_id, rdma_create_qp, rdma_destroy_id, rdma_destroy_qp, rdma_disconnect, rdma_get_src_port,
    rdma_listen, rdma_port_space, rdma_reject, rdma_resolve_addr, rdma_resolve_route, rdma_set_option,
};
use std::ffi::c_int;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::ptr::{self, NonNull};
use std::time::Duration;

/// How long a peer waits that found no receive request: 0.64 ms (`min_rnr_timer` of `ibv_modify_qp(3)`). The connection
/// manager leaves it at 0, which means 655 ms.
const RECEIVER_NOT_READY_WAIT: u8 = 12;

/// `RDMA_OPTION_ID` and `RDMA_OPTION_ID_ACK_TIMEOUT` of `<rdma/rdma_cma.h>`, which are nameless enumerations there, and so
/// not in the bindings. Their numbers are part of the kernel's interface (`<rdma/rdma_user_cm.h>`).
const OPTION_ID: c_int = 0;
const OPTION_ID_ACK_TIMEOUT: c_int = 3;

/// Dropping it destroys the queue pairs, then the identifier; a peer that is connected is told.
pub(super) struct Connection {
    id: NonNull<rdma_cm_id>,
    besides: ArrayVec<QueuePairBeside, 2>,
}

impl Connection {
    pub(super) fn create(channel: &EventChannel) -> io::Result<Self> {
        let mut id = ptr::null_mut();
        let space = rdma_port_space::RDMA_PS_TCP;
        // SAFETY: the channel is open, and the target is valid.
        check(unsafe { rdma_create_id(channel.as_ptr(), &raw mut id, ptr::null_mut(), space) })?;
        Ok(Self { id: check_pointer(id)?, besides: ArrayVec::new() })
    }

    /// Takes over what came with a request to connect.
    pub(super) fn adopt(id: *mut rdma_cm_id) -> Option<Self> {
        NonNull::new(id).map(|id| Self { id, besides: ArrayVec::new() })
    }

    fn id(&self) -> &rdma_cm_id {
        // SAFETY: it exists until this is dropped, and the library changes it only in calls that are made for it.
        unsafe { self.id.as_ref() }
    }

    /// By which events name it from now on.
    pub(super) fn set_number(&mut self, number: u32) {
        // SAFETY: as above; the field is for the library's user.
        unsafe { self.id.as_mut().context = ptr::without_provenance_mut(number as usize) };
    }

    /// Listens, and says where.
    pub(super) fn listen(&mut self, address: SocketAddr, backlog: u32) -> io::Result<SocketAddr> {
        let raw = RawAddress::from(&address);
        // SAFETY: the address is valid; the library copies it.
        check(unsafe { rdma_bind_addr(self.id.as_ptr(), raw.as_ptr().cast_mut()) })?;
        let backlog = c_int::try_from(backlog).unwrap_or(c_int::MAX);
        // SAFETY: the identifier exists.
        check(unsafe { rdma_listen(self.id.as_ptr(), backlog) })?;
        // SAFETY: as above.
        let port = unsafe { rdma_get_src_port(self.id.as_ptr()) };
        let mut bound = address;
        bound.set_port(u16::from_be(port));
        Ok(bound)
    }

    /// Binds to the address that another one has at this end, at a port of its own, and so to that one's device.
    pub(super) fn bind_beside(&mut self, other: &Self) -> io::Result<()> {
        let address = (&raw const other.id().route.addr.src_addr_union).cast();
        // SAFETY: the library keeps room for any address there, with zeros for none.
        let mut address = unsafe { RawAddress::read(address) }.ok_or_else(invalid)?;
        address.set_port(0);
        let raw = RawAddress::from(&address);
        // SAFETY: the address is valid; the library copies it.
        check(unsafe { rdma_bind_addr(self.id.as_ptr(), raw.as_ptr().cast_mut()) })
    }

    pub(super) fn resolve(
        &mut self,
        address: SocketAddr,
        source: Option<SocketAddr>,
        timeout: Duration,
    ) -> io::Result<()> {
        let address = RawAddress::from(&address);
        let source = source.as_ref().map(RawAddress::from);
        let source = source.as_ref().map_or(ptr::null(), RawAddress::as_ptr).cast_mut();
        let (id, address) = (self.id.as_ptr(), address.as_ptr().cast_mut());
        // SAFETY: the addresses are valid, or null for any source; the library copies them.
        check(unsafe { rdma_resolve_addr(id, source, address, to_milliseconds(timeout)) })
    }

    pub(super) fn set_acknowledgement_timeout(&mut self, mut doublings: u8) -> io::Result<()> {
        let value = (&raw mut doublings).cast();
        // SAFETY: the identifier exists, and the value is one byte, which the library copies.
        check(unsafe { rdma_set_option(self.id.as_ptr(), OPTION_ID, OPTION_ID_ACK_TIMEOUT, value, 1) })
    }

    pub(super) fn resolve_route(&mut self, timeout: Duration) -> io::Result<()> {
        // SAFETY: the identifier exists.
        check(unsafe { rdma_resolve_route(self.id.as_ptr(), to_milliseconds(timeout)) })
    }

    pub(super) fn connect(&mut self, parameters: &ConnectParameters, greeting: &[u8]) -> io::Result<()> {
        self.queue_pair()?;
        let mut parameters = to_raw(parameters, greeting, GREETING_BYTES_MAX)?;
        // SAFETY: the parameters are valid, and so is the greeting in them; the library copies them.
        check(unsafe { rdma_connect(self.id.as_ptr(), &raw mut parameters) })
    }

    pub(super) fn accept(&mut self, parameters: &ConnectParameters, greeting: &[u8]) -> io::Result<()> {
        self.queue_pair()?;
        let mut parameters = to_raw(parameters, greeting, GREETING_BYTES_MAX)?;
        // SAFETY: the parameters are valid, and so is the greeting in them; the library copies them.
        check(unsafe { rdma_accept(self.id.as_ptr(), &raw mut parameters) })?;
        self.set_receiver_not_ready_wait();
        Ok(())
    }

    pub(super) fn reject(&mut self, reason: &[u8]) -> io::Result<()> {
        let length = length_of(reason, REJECTION_BYTES_MAX)?;
        // SAFETY: the reason is valid for its length; the library copies it.
        check(unsafe { rdma_reject(self.id.as_ptr(), reason.as_ptr().cast(), length) })
    }

    pub(super) fn disconnect(&mut self) -> io::Result<()> {
        self.besides.iter().for_each(QueuePairBeside::stop);
        // SAFETY: the identifier exists.
        check(unsafe { rdma_disconnect(self.id.as_ptr()) })
    }

    pub(super) fn peer(&self) -> Option<SocketAddr> {
        let address = (&raw const self.id().route.addr.dst_addr_union).cast();
        // SAFETY: the library keeps room for any address there, with zeros for none.
        unsafe { RawAddress::read(address) }
    }

    /// The device that it is on: `ENODEV` before the address was resolved, and for a listener of all devices.
    pub(super) fn context(&self) -> io::Result<NonNull<ibv_context>> {
        NonNull::new(self.id().verbs).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    pub(super) fn port(&self) -> u8 {
        self.id().port_num
    }

    pub(super) fn create_queue_pair(
        &mut self,
        queues: &Queues,
        sizes: &QueuePairSizes,
    ) -> io::Result<QueuePair> {
        // What is not said is not wanted: receive requests come from the shared queue.
        // SAFETY: zeros are valid for it: null pointers, and numbers.
        let mut attributes: ibv_qp_init_attr = unsafe { mem::zeroed() };
        attributes.send_cq = queues.completions;
        attributes.recv_cq = queues.completions;
        attributes.srq = queues.receives;
        attributes.qp_type = ibv_qp_type::IBV_QPT_RC;
        attributes.cap = ibv_qp_cap {
            max_send_wr: sizes.sends,
            max_recv_wr: 0,
            max_send_sge: sizes.parts,
            max_recv_sge: 0,
            max_inline_data: sizes.inline_bytes,
        };
        // SAFETY: identifier, domain and queues exist, and the attributes are valid. That they belong to one device is
        // checked by the library.
        check(unsafe { rdma_create_qp(self.id.as_ptr(), queues.domain, &raw mut attributes) })?;
        let given = attributes.cap;
        let queue_pair = self.queue_pair()?;
        last_receive::expect_of(queue_pair);
        // SAFETY: there is a queue pair now.
        let number = unsafe { queue_pair.as_ref().qp_num };
        let sizes = QueuePairSizes {
            sends: given.max_send_wr,
            parts: given.max_send_sge,
            inline_bytes: given.max_inline_data,
        };
        Ok(QueuePair { number, sizes })
    }

    pub(super) fn create_beside(
        &mut self,
        queues: &Queues,
        beside: Beside,
        sizes: &QueuePairSizes,
    ) -> io::Result<QueuePairName> {
        self.queue_pair()?;
        if self.beside(beside).is_ok() {
            return Err(invalid());
        }
        let made = QueuePairBeside::create(queues, beside, sizes)?;
        let name = made.name();
        self.besides.try_push(made).map_err(|_| invalid())?;
        Ok(name)
    }

    pub(super) fn destroy_beside(&mut self) {
        self.besides.clear();
    }

    pub(super) fn connect_beside(
        &mut self,
        beside: Beside,
        peer: QueuePairName,
        reads: u8,
    ) -> io::Result<()> {
        self.beside(beside)?.connect(self.queue_pair()?, peer, reads)
    }

    /// The queue pair of a kind beside its own; `EINVAL` if it has none.
    #[inline]
    pub(super) fn beside(&self, beside: Beside) -> io::Result<&QueuePairBeside> {
        self.besides.iter().find(|other| other.is(beside)).ok_or_else(invalid)
    }

    /// `EINVAL` if it has none.
    #[inline]
    pub(super) fn queue_pair(&self) -> io::Result<NonNull<ibv_qp>> {
        NonNull::new(self.id().qp).ok_or_else(invalid)
    }

    /// Whether its device has said that the queue pair takes no receive request any more.
    pub(super) fn has_let_go_of_receives(&self) -> bool {
        self.queue_pair().is_ok_and(last_receive::has_reached)
    }

    /// Puts the queue pairs into the error state: from then on, no peer reaches this end's memory through them.
    pub(super) fn stop(&self) {
        self.besides.iter().for_each(QueuePairBeside::stop);
        let Ok(queue_pair) = self.queue_pair() else { return };
        // SAFETY: zeros are valid for it: numbers.
        let mut attributes: ibv_qp_attr = unsafe { mem::zeroed() };
        attributes.qp_state = ibv_qp_state::IBV_QPS_ERR;
        // SAFETY: the queue pair exists, and the mask names what is set.
        unsafe {
            ibv_modify_qp(queue_pair.as_ptr(), &raw mut attributes, ibv_qp_attr_mask::IBV_QP_STATE.0 as c_int)
        };
    }

    /// Once the queue pair can send, which is when this may be changed. That it fails is worth a word, and no more: it
    /// matters only to a peer that sends what nobody asked for.
    pub(super) fn set_receiver_not_ready_wait(&self) {
        let Ok(queue_pair) = self.queue_pair() else { return };
        // SAFETY: zeros are valid for it: numbers.
        let mut attributes: ibv_qp_attr = unsafe { mem::zeroed() };
        attributes.qp_state = ibv_qp_state::IBV_QPS_RTS;
        attributes.min_rnr_timer = RECEIVER_NOT_READY_WAIT;
        let mask = ibv_qp_attr_mask::IBV_QP_STATE.0 | ibv_qp_attr_mask::IBV_QP_MIN_RNR_TIMER.0;
        // SAFETY: the queue pair exists, and the mask names what is set.
        let outcome = unsafe { ibv_modify_qp(queue_pair.as_ptr(), &raw mut attributes, mask as c_int) };
        if let Err(error) = check_number(outcome) {
            tracing::debug!(%error, "the wait of a peer that is not expected could not be set");
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Ok(queue_pair) = self.queue_pair() {
            last_receive::forget(queue_pair);
        }
        self.besides.clear();
        // SAFETY: the identifier exists, and nobody has it any more. Each event of it that was taken is acknowledged.
        unsafe {
            if !self.id().qp.is_null() {
                rdma_destroy_qp(self.id.as_ptr());
            }
            rdma_destroy_id(self.id.as_ptr());
        }
    }
}

fn to_raw(parameters: &ConnectParameters, greeting: &[u8], bytes_max: usize) -> io::Result<rdma_conn_param> {
    Ok(rdma_conn_param {
        private_data: greeting.as_ptr().cast(),
        private_data_len: length_of(greeting, bytes_max)?,
        responder_resources: parameters.reads_answered,
        initiator_depth: parameters.reads_started,
        // The network's own control of congestion, which reliable connections have in any case.
        flow_control: 1,
        retry_count: parameters.retry_count,
        rnr_retry_count: parameters.rnr_retry_count,
        // The library knows these two of the queue pair.
        srq: 0,
        qp_num: 0,
    })
}

fn length_of(bytes: &[u8], bytes_max: usize) -> io::Result<u8> {
    u8::try_from(bytes.len()).ok().filter(|&length| usize::from(length) <= bytes_max).ok_or_else(invalid)
}

/// Not 0, which would mean that there is no time at all.
fn to_milliseconds(timeout: Duration) -> c_int {
    c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX).max(1)
}
