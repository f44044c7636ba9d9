//! How a work request went.

use std::fmt;

/// The status of a completion: `enum ibv_wc_status` of `<infiniband/verbs.h>`, whose numbers are part of the kernel's
/// interface.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(in super::super) struct Status(pub(super) u32);

/// Names, and what they mean to whoever has to do something about it (`ibv_poll_cq(3)`, and the InfiniBand
/// Architecture Specification, 11.6.2).
const MEANINGS: [(&str, &str); 22] = [
    ("SUCCESS", "done"),
    ("LOC_LEN_ERR", "more arrived than its receive request had room for"),
    ("LOC_QP_OP_ERR", "the device could not carry it out: is this end's link down?"),
    ("LOC_EEC_OP_ERR", "the device could not carry it out"),
    ("LOC_PROT_ERR", "it named memory that is not registered"),
    ("WR_FLUSH_ERR", "the queue pair had ended before"),
    ("MW_BIND_ERR", "the memory window could not be bound"),
    ("BAD_RESP_ERR", "the peer answered with something else"),
    ("LOC_ACCESS_ERR", "memory was registered without the right for it"),
    ("REM_INV_REQ_ERR", "the peer could not make sense of it"),
    ("REM_ACCESS_ERR", "the peer does not allow access to that memory"),
    ("REM_OP_ERR", "the peer could not carry it out"),
    ("RETRY_EXC_ERR", "the peer did not acknowledge it: is it, or the network between, gone?"),
    ("RNR_RETRY_EXC_ERR", "the peer had no receive request, which is a fault of one of the two ends"),
    ("LOC_RDD_VIOL_ERR", "reliable datagrams are not used here"),
    ("REM_INV_RD_REQ_ERR", "reliable datagrams are not used here"),
    ("REM_ABORT_ERR", "the peer gave it up"),
    ("INV_EECN_ERR", "reliable datagrams are not used here"),
    ("INV_EEC_STATE_ERR", "reliable datagrams are not used here"),
    ("FATAL_ERR", "the device has failed"),
    ("RESP_TIMEOUT_ERR", "the peer did not answer in time"),
    ("GENERAL_ERR", "the device gives no reason"),
];

impl Status {
    pub(in super::super) const SUCCESS: Self = Self(0);
    /// What follows the failure of another request.
    #[cfg(test)]
    pub(in super::super) const FLUSHED: Self = Self(5);
    /// The peer does not allow access to its memory.
    #[cfg(test)]
    pub(in super::super) const REMOTE_ACCESS: Self = Self(10);

    #[inline]
    pub(in super::super) fn is_success(self) -> bool {
        self == Self::SUCCESS
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match MEANINGS.get(self.0 as usize) {
            Some((name, meaning)) => write!(f, "{meaning} (IBV_WC_{name})"),
            None => write!(f, "a status that is not known (ibv_wc_status {})", self.0),
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match MEANINGS.get(self.0 as usize) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "status {}", self.0),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_a_name_and_a_meaning() {
        assert!(Status::SUCCESS.is_success() && !Status::FLUSHED.is_success());
        assert_eq!(format!("{:?}", Status::FLUSHED), "WR_FLUSH_ERR");
        assert!(Status(12).to_string().contains("(IBV_WC_RETRY_EXC_ERR)"), "{}", Status(12));
        assert!(Status::REMOTE_ACCESS.to_string().contains("does not allow"), "{}", Status::REMOTE_ACCESS);
        assert!(Status(99).to_string().contains("99"), "{}", Status(99));
    }
}
