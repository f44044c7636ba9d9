//! What starts calls from any thread.

use super::super::calls::{Call, Submission};
use super::super::destination::{Outcome, Shard};
use super::super::error::CallError;
use super::super::future::{CallFuture, Reply};
use super::super::options::CallOptions;
use super::CALL_TIMEOUT_MAX;
use crate::pool::{Body, Pool};
use crate::proto::Lane;
use crate::sync::{SlotTicket, SubmitRefused, Submitter};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Starts calls from any thread, under any executor; cheap to clone.
#[derive(Debug, Clone)]
pub struct CallHandle {
    pub(super) shard: Shard,
    pub(super) submitter: Submitter<Submission>,
    /// Where bodies are made on threads that are not the driver's; the copy into it is the one at the application's
    /// edge, so a lock for its length costs little beside it.
    pub(super) pool: Arc<Mutex<Pool>>,
}

impl CallHandle {
    /// Sends a request with a copy of `bytes`; resolves to the reply. Does not block.
    pub fn call(&self, destination: &str, bytes: &[u8], timeout: Duration) -> CallFuture {
        self.call_with_options(destination, bytes, CallOptions::new(timeout))
    }

    /// As [`CallHandle::call`], with a class, and perhaps to be sent again when a session is lost.
    pub fn call_with_options(&self, destination: &str, bytes: &[u8], options: CallOptions) -> CallFuture {
        let body = self.pool.lock().unwrap_or_else(PoisonError::into_inner).copy_body(bytes);
        match body {
            Ok(body) => self.call_body(destination, body, options),
            Err(error) => CallFuture::failed(error.into()),
        }
    }

    /// Sends a request with this body in this lane; resolves to the reply. Does not block.
    pub fn call_with(&self, destination: &str, body: Body, lane: Lane, timeout: Duration) -> CallFuture {
        self.call_body(destination, body, CallOptions::new(timeout).class(lane.into()))
    }

    /// Sends a request with this body, with a class, and perhaps to be sent again when a session is lost.
    pub fn call_body(&self, destination: &str, body: Body, options: CallOptions) -> CallFuture {
        let ticket = match self.reserve(options.timeout) {
            Ok(ticket) => ticket,
            Err(error) => return CallFuture::failed(error),
        };
        let correlation = ticket.correlation();
        let call = Call { correlation, destination: destination.into(), body, options };
        match self.submitter.push(Submission::Call(call)) {
            Ok(()) => CallFuture::waiting(ticket, self.submitter.clone()),
            Err(SubmitRefused::Full { limit, .. }) => {
                CallFuture::failed(CallError::QueueFull { submissions_max: limit })
            }
            Err(_) => {
                CallFuture::failed(CallError::NotConnected { reason: "the client was dropped".to_owned() })
            }
        }
    }

    /// Sends a request and blocks this thread until the reply is there. Not for the driver's own thread.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call_blocking(
        &self,
        destination: &str,
        bytes: &[u8],
        timeout: Duration,
    ) -> Result<Reply, CallError> {
        // Without a limit of its own it ends when the call does, which has one.
        let lost = || Err(CallError::TimedOut(timeout));
        self.call(destination, bytes, timeout).wait(None).unwrap_or_else(lost)
    }

    pub(super) fn reserve(&self, timeout: Duration) -> Result<SlotTicket<Outcome>, CallError> {
        if timeout > CALL_TIMEOUT_MAX {
            return Err(CallError::TimeoutTooLong(timeout, CALL_TIMEOUT_MAX));
        }
        self.shard.slots.reserve().map_err(|full| CallError::TooManyCalls { calls_max: full.limit })
    }
}
