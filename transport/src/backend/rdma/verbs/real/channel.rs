//! The connection manager's event channel.

use super::super::PrivateData;
use super::check::{check, check_pointer, make_nonblocking};
use super::connection::Connection;
use rdma_sys::{
    rdma_ack_cm_event, rdma_cm_event, rdma_cm_event_type, rdma_create_event_channel,
    rdma_destroy_event_channel, rdma_event_channel, rdma_get_cm_event,
};
use std::io;
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};

/// An event channel. Each [`Connection`] that was made on it must be gone before it is.
pub(super) struct EventChannel(NonNull<rdma_event_channel>);

impl EventChannel {
    /// `ENODEV` if there is no device, on which the library insists.
    pub(super) fn open() -> io::Result<Self> {
        // SAFETY: it takes nothing.
        let channel = Self(check_pointer(unsafe { rdma_create_event_channel() })?);
        make_nonblocking(channel.descriptor())?;
        Ok(channel)
    }

    pub(super) fn descriptor(&self) -> RawFd {
        // SAFETY: the channel is open as long as this is.
        unsafe { self.0.as_ref().fd }
    }

    pub(super) fn as_ptr(&self) -> *mut rdma_event_channel {
        self.0.as_ptr()
    }

    /// The next event, if there is one.
    pub(super) fn take(&self) -> io::Result<Option<TakenEvent>> {
        let mut event = ptr::null_mut();
        // SAFETY: the channel is open, and the target is valid.
        let outcome = check(unsafe { rdma_get_cm_event(self.0.as_ptr(), &raw mut event) });
        match outcome {
            // The library's own steps leave their reason there, and -1 in the event.
            Ok(()) => check_pointer(event)
                .map(|event| Some(TakenEvent { event, errno: io::Error::last_os_error() })),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for EventChannel {
    fn drop(&mut self) {
        // SAFETY: whoever has the channel has dropped what was made on it.
        unsafe { rdma_destroy_event_channel(self.0.as_ptr()) };
    }
}

/// An event, which is acknowledged when it is dropped: destroying an identifier waits for that.
pub(super) struct TakenEvent {
    event: NonNull<rdma_cm_event>,
    errno: io::Error,
}

impl TakenEvent {
    fn event(&self) -> &rdma_cm_event {
        // SAFETY: the event is the library's, which does not touch it before it is acknowledged.
        unsafe { self.event.as_ref() }
    }

    pub(super) fn kind(&self) -> rdma_cm_event_type::Type {
        self.event().event
    }

    pub(super) fn status(&self) -> i32 {
        self.event().status
    }

    /// The number of the connection that it is about; for a request to connect, of the listener.
    pub(super) fn number(&self) -> u32 {
        let id = if self.is_request() { self.event().listen_id } else { self.event().id };
        // SAFETY: an event is about identifiers that exist.
        unsafe { (*id).context.addr() as u32 }
    }

    /// The connection that a request is for, which is the caller's from then on: to be called once.
    pub(super) fn take_requested(&mut self) -> Option<Connection> {
        if !self.is_request() {
            return None;
        }
        // SAFETY: a request comes with an identifier of its own. It is taken out, so that nobody has it twice.
        let id = unsafe { ptr::replace(&raw mut self.event.as_mut().id, ptr::null_mut()) };
        Connection::adopt(id)
    }

    fn is_request(&self) -> bool {
        self.kind() == rdma_cm_event_type::RDMA_CM_EVENT_CONNECT_REQUEST
    }

    /// What the peer says.
    pub(super) fn private_data(&self) -> PrivateData {
        // SAFETY: events of connections have this part, and those that say nothing have zeros in it.
        let parameters = unsafe { &self.event().param.conn };
        let length = usize::from(parameters.private_data_len);
        let mut said = PrivateData::new();
        if !parameters.private_data.is_null() && length > 0 {
            // SAFETY: the library vouches for so many bytes, until the event is acknowledged.
            let bytes = unsafe { std::slice::from_raw_parts(parameters.private_data.cast::<u8>(), length) };
            said.extend(bytes.iter().copied().take(said.capacity()));
        }
        said
    }

    /// Why something failed.
    pub(super) fn error(&self) -> io::Error {
        match self.status() {
            -1 => io::Error::from_raw_os_error(self.errno.raw_os_error().unwrap_or(libc::EIO)),
            ..-1 => io::Error::from_raw_os_error(-self.status()),
            // The connection manager gave up without an error of the system's.
            _ => io::Error::from_raw_os_error(libc::ECONNABORTED),
        }
    }
}

impl Drop for TakenEvent {
    fn drop(&mut self) {
        // SAFETY: it is acknowledged once, here. Nothing refers to it any more.
        unsafe { rdma_ack_cm_event(self.event.as_ptr()) };
    }
}
