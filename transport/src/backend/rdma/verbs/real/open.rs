//! Why RDMA cannot be used at all, for whoever has to mend it.

use crate::backend::rdma::config::{RDMA_CM_FILE, RdmaOpenError};
use std::fs::OpenOptions;
use std::io;

/// Finds the reason behind the error of the library, which reports a missing module as `EPERM`.
///
/// That there is no device is none: one may be added later, and until then whoever listens or connects is told `ENODEV`.
pub(super) fn explain(error: io::Error) -> RdmaOpenError {
    match OpenOptions::new().read(true).write(true).open(RDMA_CM_FILE) {
        Err(found) if found.kind() == io::ErrorKind::NotFound => RdmaOpenError::NoConnectionManager,
        // What a file without its driver says.
        Err(found) if matches!(found.raw_os_error(), Some(libc::ENXIO | libc::ENODEV)) => {
            RdmaOpenError::NoConnectionManager
        }
        Err(found) if found.kind() == io::ErrorKind::PermissionDenied => RdmaOpenError::Forbidden,
        _ => RdmaOpenError::System(error),
    }
}
