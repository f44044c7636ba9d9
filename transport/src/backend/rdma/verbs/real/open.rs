//! Why RDMA cannot be used at all, for whoever has to mend it.

use std::fs::OpenOptions;
use std::io;
use thiserror::Error;

/// Through which processes talk to the connection manager in the kernel.
const DEVICE_FILE: &str = "/dev/infiniband/rdma_cm";

/// Why RDMA cannot be used.
///
/// That there is no device is not among them: one may be added later. Until then whoever listens or connects is told
/// `ENODEV`.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(in crate::backend::rdma) enum OpenError {
    /// The kernel's part of the connection manager is not there.
    #[error(
        "there is no {DEVICE_FILE}: load the kernel's modules with `modprobe -a rdma_cm rdma_ucm ib_uverbs`; \
         in a container, pass the device files in /dev/infiniband to it"
    )]
    NoConnectionManager,
    /// It is there, and not for this user.
    #[error(
        "no permission to read and write {DEVICE_FILE}: as a rule it is open to everybody (mode 0666); \
         in a container, allow the character devices in /dev/infiniband"
    )]
    Forbidden,
    /// Something else.
    #[error("the RDMA connection manager cannot be used: {0}")]
    System(#[source] io::Error),
}

/// Finds the reason behind the error of the library, which reports a missing module as `EPERM`.
pub(super) fn explain(error: io::Error) -> OpenError {
    match OpenOptions::new().read(true).write(true).open(DEVICE_FILE) {
        Err(found) if found.kind() == io::ErrorKind::NotFound => OpenError::NoConnectionManager,
        // What a file without its driver says.
        Err(found) if matches!(found.raw_os_error(), Some(libc::ENXIO | libc::ENODEV)) => {
            OpenError::NoConnectionManager
        }
        Err(found) if found.kind() == io::ErrorKind::PermissionDenied => OpenError::Forbidden,
        _ => OpenError::System(error),
    }
}
