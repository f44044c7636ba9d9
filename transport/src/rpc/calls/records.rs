//! What is known of each call in flight, by its slot.

use super::super::error::CallError;
use crate::pool::Body;
use crate::proto::Lane;
use crate::sync::Correlation;
use crate::time::Timestamp;
use std::time::Duration;

/// The calls that the driver knows of. Memory grows with the largest slot, and so up to `calls_max`.
#[derive(Debug, Default)]
pub(super) struct Records {
    records: Vec<Option<Record>>,
}

#[derive(Debug)]
pub(super) struct Record {
    correlation: Correlation,
    pub(super) timeout: Duration,
    pub(super) stage: Stage,
}

/// How far a call has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// It waits for its destination's link, or for credit.
    Waiting(Request),
    /// The connection has it; whether the peer has, nobody knows.
    Sent,
}

/// What is to be sent.
#[derive(Debug)]
pub(super) struct Request {
    /// The place of the destination.
    pub(super) target: usize,
    pub(super) body: Body,
    pub(super) lane: Lane,
    pub(super) deadline: Timestamp,
}

impl Records {
    /// Remembers a call; the one that had the slot before, if the driver has not heard of its end yet.
    pub(super) fn insert(
        &mut self,
        correlation: Correlation,
        timeout: Duration,
        request: Request,
    ) -> Option<Record> {
        let slot = correlation.slot();
        if self.records.len() <= slot {
            self.records.resize_with(slot + 1, || None);
        }
        self.records[slot].replace(Record { correlation, timeout, stage: Stage::Waiting(request) })
    }

    /// Forgets a call, unless it has ended before.
    pub(super) fn remove(&mut self, correlation: Correlation) -> Option<Record> {
        self.records.get_mut(correlation.slot())?.take_if(|record| record.correlation == correlation)
    }

    /// The call that has this slot.
    pub(super) fn at(&self, slot: usize) -> Option<Correlation> {
        Some(self.records.get(slot)?.as_ref()?.correlation)
    }

    /// Whether a call waits to be sent.
    pub(super) fn is_waiting(&self, correlation: Correlation) -> bool {
        let record = self.records.get(correlation.slot()).and_then(Option::as_ref);
        record.is_some_and(|record| {
            record.correlation == correlation && matches!(record.stage, Stage::Waiting(_))
        })
    }

    /// Takes what is to be sent, which counts as sent unless it is put back.
    pub(super) fn take_request(&mut self, correlation: Correlation) -> Option<Request> {
        let record = self.records.get_mut(correlation.slot())?.as_mut()?;
        if record.correlation != correlation || matches!(record.stage, Stage::Sent) {
            return None;
        }
        match std::mem::replace(&mut record.stage, Stage::Sent) {
            Stage::Waiting(request) => Some(request),
            Stage::Sent => None,
        }
    }

    /// Puts back what could not be sent.
    pub(super) fn put_back(&mut self, correlation: Correlation, request: Request) {
        let record = self.records.get_mut(correlation.slot()).and_then(Option::as_mut);
        if let Some(record) = record.filter(|record| record.correlation == correlation) {
            record.stage = Stage::Waiting(request);
        }
    }

    /// Forgets all calls.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (Correlation, Record)> + use<> {
        std::mem::take(&mut self.records).into_iter().flatten().map(|record| (record.correlation, record))
    }
}

impl Record {
    /// Whether the peer may have the request.
    pub(super) fn was_sent(&self) -> bool {
        matches!(self.stage, Stage::Sent)
    }

    /// What the caller is told when the connection is gone.
    pub(super) fn lost(&self, reason: &str) -> CallError {
        let reason = reason.to_owned();
        if self.was_sent() {
            CallError::OutcomeUnknown { reason }
        } else {
            CallError::NotConnected { reason }
        }
    }
}
