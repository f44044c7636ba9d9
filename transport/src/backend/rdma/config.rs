//! What can be chosen about the wire, term by term, and why it does not open.

use std::io;
use std::net::IpAddr;
use std::time::Duration;
use thiserror::Error;

/// What can be chosen about the `rdma` wire.
///
/// What it pins is `receive_slots_max` times 17 KiB for each device that is used, and the slabs of pools that it sends
/// from; all together at most `pinned_bytes_max`, and at most what the system allows (`ulimit -l`, `LimitMEMLOCK=`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RdmaConfig {
    /// The address of this end from which to connect. It chooses the device, its port and, on RoCE, its GID, whose
    /// version 2 is the IP address itself. Default `None`: as the routing table says. A listener chooses by the address
    /// that it listens at.
    pub source: Option<IpAddr>,
    /// The device that must be used, by its name in `ibv_devices(1)`: a connection that would go over another is
    /// refused. Default `None`: any.
    pub device: Option<String>,
    /// The most receive requests that are posted on a device for all its connections together. Default 2,048, and
    /// never more than fill half of the pool. Each pins 17 KiB, from when connections need it. Every connection is
    /// promised 8 of them, and those that use these up share the other half: so a sixteenth of this is the most
    /// connections that a device takes.
    pub receive_slots_max: u32,
    /// The most sends that a peer may have on their way to this end, on one connection: 8 to 1,024. Default 64, of
    /// 16 KiB each: a megabyte. It starts with 8, and more are promised as they are used.
    pub window_max: u32,
    /// The work requests that a connection's send queue holds: 16 to 4,096. Default 128. Cut to what the device has.
    pub sends_max: u32,
    /// Up to how many bytes a send shall travel inside its work request, which saves the device from fetching
    /// them and this end from waiting for it. Default 256; what the device gives is used, which may be more or less.
    pub inline_bytes: u32,
    /// The most memory that is registered, and so pinned, over all devices, in bytes. Default 1 GiB.
    pub pinned_bytes_max: usize,
    /// Whether bodies are opened to a peer's reads by memory windows, where the device has them. Default `true`. With
    /// `false` it is as on a device without: each connection has two queue pairs more and a protection domain of its own,
    /// if the peer does so too, and each offered body is registered by itself. It costs more, and is no more secure; it
    /// serves for comparison, and against a device whose windows are broken.
    pub memory_windows: bool,
    /// How often a packet is sent again that nobody acknowledges, 0 to 6. Default 6. (7 would mean for ever on some devices.)
    pub retry_count: u8,
    /// How long this end waits for an acknowledgement until it sends a packet again: 1 ms to 8 s, rounded up to the next
    /// 4.096 us times a power of two, which is what devices know. After `retry_count` + 1 such times it is reported
    /// that the network is gone; devices may take longer. With 128 ms, which are 134, that is a second. Default `None`: what
    /// the connection manager has, from the subnet's manager on InfiniBand, and on RoCE from the kernel: 2.1 s until
    /// Linux 6.2 and 0.5 s since, so that 4 to 15 s pass, unless the session's idle timeout is shorter. It is the
    /// default because less loads a network that is slow at times with packets that were not lost, and ends
    /// connections that were whole. Where the system cannot set it (Linux before 5.2), connections are refused with that
    /// reason.
    pub acknowledgement_timeout: Option<Duration>,
    /// How often a send is tried again for which the peer has no receive request, 0 to 6. Default 6. It never happens
    /// unless one of the ends miscounts: with 0, as in tests, such an end is found out at once.
    pub receiver_not_ready_retry_count: u8,
    /// How long the resolution of an address, and that of the route to it, may take. Default 2 s each.
    pub resolve_timeout: Duration,
    /// How long a channel that is closed, or that has failed, waits until its device has done what was posted, or says
    /// that it does not. 1 ms to 600 s. Default 5 s: what was sent may still have to be acknowledged. After it, the channel
    /// ends all the same, as broken if it was closed, and what the peer has not got by then it does not get.
    pub close_timeout: Duration,
    /// How many connections may wait to be accepted, for each listener. Default 1,024; the kernel cuts it to its
    /// own limit (`net.rdma_ucm.max_backlog`).
    pub backlog: u32,
}

impl Default for RdmaConfig {
    fn default() -> Self {
        Self {
            source: None,
            device: None,
            receive_slots_max: 2048,
            window_max: 64,
            sends_max: 128,
            inline_bytes: 256,
            pinned_bytes_max: 1 << 30,
            memory_windows: true,
            retry_count: 6,
            acknowledgement_timeout: None,
            receiver_not_ready_retry_count: 6,
            resolve_timeout: Duration::from_secs(2),
            close_timeout: Duration::from_secs(5),
            backlog: 1024,
        }
    }
}

impl RdmaConfig {
    /// Checks each value against its limits.
    ///
    /// # Errors
    /// The first that cannot work.
    pub fn validate(&self) -> Result<(), RdmaConfigError> {
        let check = |name, given: u64, min: u64, max: u64| {
            if (min..=max).contains(&given) { Ok(()) } else { Err(RdmaConfigError { name, given, min, max }) }
        };
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        check("window_max", self.window_max.into(), 8, 1024)?;
        check("receive_slots_max", self.receive_slots_max.into(), self.window_max.into(), 1 << 20)?;
        check("sends_max", self.sends_max.into(), 16, 4096)?;
        check("inline_bytes", self.inline_bytes.into(), 0, 4096)?;
        check("retry_count", self.retry_count.into(), 0, 6)?;
        check("receiver_not_ready_retry_count", self.receiver_not_ready_retry_count.into(), 0, 6)?;
        if let Some(timeout) = self.acknowledgement_timeout {
            check("acknowledgement_timeout (ms)", milliseconds(timeout), 1, 8_000)?;
        }
        check("resolve_timeout (ms)", milliseconds(self.resolve_timeout), 1, 600_000)?;
        check("close_timeout (ms)", milliseconds(self.close_timeout), 1, 600_000)?;
        check("backlog", self.backlog.into(), 1, 1 << 16)
    }
}

/// A time as devices know it: the least number by which 4.096 us are doubled so often that they last as long
/// (InfiniBand Architecture Specification, 9.9.2.1.1).
#[cfg(feature = "rdma")]
pub(super) fn doublings(time: Duration) -> u8 {
    (0..31).find(|&doublings| Duration::from_nanos(4096 << doublings) >= time).unwrap_or(31)
}

/// A value of the configuration that cannot work.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("rdma {name} is {given}; choose from {min} to {max}")]
pub struct RdmaConfigError {
    /// The name of the value.
    pub name: &'static str,
    /// What was given.
    pub given: u64,
    /// The least.
    pub min: u64,
    /// The most.
    pub max: u64,
}

/// Why there is no `rdma` wire.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RdmaOpenError {
    /// The library was built without it.
    #[error("this program was built without RDMA: build it with the feature 'rdma'")]
    NotBuilt,
    /// A value of the configuration cannot work.
    #[error(transparent)]
    Config(#[from] RdmaConfigError),
    /// The kernel's part of the connection manager is not there.
    #[error(
        "there is no {RDMA_CM_FILE}: load the kernel's modules with `modprobe -a rdma_cm rdma_ucm ib_uverbs`; \
         in a container, pass the device files in /dev/infiniband to it"
    )]
    NoConnectionManager,
    /// It is there, and not for this user.
    #[error(
        "no permission to read and write {RDMA_CM_FILE}: as a rule it is open to everybody (mode 0666); \
         in a container, allow the character devices in /dev/infiniband"
    )]
    Forbidden,
    /// The connection manager cannot be used, for what the system said.
    #[error("the RDMA connection manager cannot be used: {0}")]
    System(#[source] io::Error),
}

/// Through which processes talk to the connection manager in the kernel.
pub(super) const RDMA_CM_FILE: &str = "/dev/infiniband/rdma_cm";

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn values_that_cannot_work_are_named_with_their_limits() {
        RdmaConfig::default().validate().unwrap();
        let bad = RdmaConfig { window_max: 7, ..RdmaConfig::default() }.validate().unwrap_err();
        assert_eq!(bad.to_string(), "rdma window_max is 7; choose from 8 to 1024");
        let bad = RdmaConfig { receive_slots_max: 63, ..RdmaConfig::default() }.validate().unwrap_err();
        assert_eq!((bad.name, bad.min), ("receive_slots_max", 64));
        let bad = RdmaConfig { retry_count: 7, ..RdmaConfig::default() }.validate().unwrap_err();
        assert_eq!((bad.name, bad.given), ("retry_count", 7));
        for (timeout, given) in [(Duration::ZERO, 0), (Duration::from_secs(9), 9000)] {
            let config = RdmaConfig { acknowledgement_timeout: Some(timeout), ..RdmaConfig::default() };
            let bad = config.validate().unwrap_err();
            assert_eq!((bad.name, bad.given, bad.max), ("acknowledgement_timeout (ms)", given, 8000));
        }
    }

    #[cfg(feature = "rdma")]
    #[test]
    fn times_are_rounded_up_to_what_devices_know() {
        for (us, expected) in
            [(1, 0), (5, 1), (1_000, 8), (1_048, 8), (1_049, 9), (16_000, 12), (8_000_000, 21)]
        {
            assert_eq!(doublings(Duration::from_micros(us)), expected, "{us} us");
        }
        assert_eq!(doublings(Duration::MAX), 31);
    }
}
