//! The caller's end of a call.

use super::calls::{Cancellation, Submission};
use super::destination::Outcome;
use super::error::CallError;
use crate::message::Message;
use crate::pool::Body;
use crate::sync::{SlotTicket, Submitter};
use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// What a service answered.
#[derive(Debug)]
pub struct Reply {
    message: Message,
}

impl Reply {
    pub(super) fn new(message: Message) -> Self {
        Self { message }
    }

    /// The bytes, as the segments in which they arrived.
    pub fn body(&self) -> &Body {
        &self.message.body
    }

    /// The bytes in one piece; see [`Body::to_bytes`] for what that allocates and copies.
    pub fn to_bytes(&self) -> Bytes {
        self.message.body.to_bytes()
    }

    /// The whole message: head, extensions, body.
    pub fn into_message(self) -> Message {
        self.message
    }
}

/// A call in flight; resolves to the reply, under any executor.
///
/// Dropping it gives the call up: its slot is free at once, and a late reply is counted and discarded.
#[derive(Debug)]
#[must_use = "a call that is dropped is given up"]
pub struct CallFuture {
    state: State,
}

#[derive(Debug)]
enum State {
    /// The client's driver knows of the call, or will.
    Waiting {
        ticket: SlotTicket<Outcome>,
        submitter: Submitter<Submission>,
    },
    /// It ended before it began.
    Failed(CallError),
    Done,
}

impl CallFuture {
    pub(super) fn waiting(ticket: SlotTicket<Outcome>, submitter: Submitter<Submission>) -> Self {
        Self { state: State::Waiting { ticket, submitter } }
    }

    pub(super) fn failed(error: CallError) -> Self {
        Self { state: State::Failed(error) }
    }

    /// The outcome if there is one already, once; does not wait.
    pub fn try_take(&mut self) -> Option<Result<Reply, CallError>> {
        let outcome = match &mut self.state {
            State::Waiting { ticket, .. } => ticket.try_take(),
            State::Failed(error) => Some(Err(error.clone())),
            State::Done => None,
        };
        if outcome.is_some() {
            self.state = State::Done;
        }
        outcome
    }

    /// Blocks this thread until the outcome is there; `None` if it is not there after `timeout`, or was taken before.
    ///
    /// For threads other than the one that turns the client's driver: that one uses [`super::Client::wait`].
    pub fn wait(&mut self, timeout: Option<Duration>) -> Option<Result<Reply, CallError>> {
        if matches!(self.state, State::Done) {
            return None;
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let waker = Waker::from(Arc::new(ThreadSignal(thread::current())));
        loop {
            if let Poll::Ready(outcome) = Pin::new(&mut *self).poll(&mut Context::from_waker(&waker)) {
                return Some(outcome);
            }
            match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return None,
                Some(left) => thread::park_timeout(left),
                None => thread::park(),
            }
        }
    }
}

struct ThreadSignal(Thread);

impl Wake for ThreadSignal {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Future for CallFuture {
    type Output = Result<Reply, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = match &mut self.state {
            State::Waiting { ticket, .. } => std::task::ready!(ticket.poll(context)),
            State::Failed(error) => Err(error.clone()),
            State::Done => return Poll::Pending,
        };
        self.state = State::Done;
        Poll::Ready(outcome)
    }
}

impl Drop for CallFuture {
    fn drop(&mut self) {
        if let State::Waiting { ticket, submitter } = std::mem::replace(&mut self.state, State::Done) {
            let correlation = ticket.correlation();
            if ticket.abandon() {
                // If the queue is full the driver forgets the call when its time is over; nothing else is lost.
                let _ = submitter.push(Submission::Cancel(Cancellation { correlation }));
            }
        }
    }
}
