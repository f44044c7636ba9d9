//! A wire whose one-sided reads are broken on purpose, and the proof that a case finds that out.

use super::forwarding::{Change, Changed, one_sided};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use underlay::backend::{Channel, Descriptor, ExposeRefused, ReadRefused, Wire, WireEvent};
use underlay::pool::{Body, Pool, Segment};

/// What is wrong with it. Each is what a plausible bug would look like from above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    FlipsAByte,
    /// The end of a read is told to nobody.
    LosesReads,
    SaysReadsTwice,
    /// A read that failed counts as done.
    HidesFailures,
    ReadsAfterClosed,
    IgnoresWithdrawals,
    /// The other end's memory is open to everybody.
    ReadsWhateverIsAsked,
    /// A body is not held for as long as it is exposed.
    LetsGoEarly,
    /// What was exposed is held for ever.
    KeepsBodies,
}

/// A wire with a fault, or with none.
pub(crate) type Broken = Changed<dyn Wire, Breaks>;

pub(crate) fn broken(wire: Box<dyn Wire>, fault: Option<Fault>) -> Broken {
    Changed::new(wire, Breaks { fault, ..Breaks::default() })
}

#[derive(Default)]
pub(crate) struct Breaks {
    fault: Option<Fault>,
    kept: Vec<Segment>,
    exposed: Vec<(Channel, u64)>,
    /// Reads that did not happen, and are said to.
    pretended: Vec<(Channel, u64)>,
    /// Reads that have begun.
    begun: Vec<(Channel, u64)>,
}

impl Breaks {
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// What becomes of an event.
    fn pass_on(&mut self, event: WireEvent, pool: &mut Pool, events: &mut Vec<WireEvent>) {
        match event {
            WireEvent::Read { .. } if self.has(Fault::LosesReads) => {}
            WireEvent::Read { channel, read, outcome } => {
                self.begun.retain(|(_, other)| *other != read);
                let outcome = match outcome {
                    Ok(body) if self.has(Fault::FlipsAByte) => {
                        let mut bytes = body.to_vec();
                        *bytes.last_mut().expect("no body is empty") ^= 1;
                        Ok(Box::new(pool.copy_body(&bytes).expect("the pool has room")))
                    }
                    Err(_) if self.has(Fault::HidesFailures) => Ok(Box::new(Body::new())),
                    outcome => outcome,
                };
                events.push(WireEvent::Read { channel, read, outcome });
                if self.has(Fault::SaysReadsTwice) {
                    let outcome = Ok(Box::new(Body::new()));
                    events.push(WireEvent::Read { channel, read, outcome });
                }
            }
            // Where a read that fails takes its channel along, that is how its end is told.
            WireEvent::Closed { channel, .. }
                if self.has(Fault::LosesReads) && self.begun.iter().any(|(of, _)| *of == channel) => {}
            WireEvent::Closed { channel, reason } => {
                if self.has(Fault::HidesFailures) {
                    for (_, read) in self.begun.extract_if(.., |(of, _)| *of == channel) {
                        events.push(WireEvent::Read { channel, read, outcome: Ok(Box::new(Body::new())) });
                    }
                }
                events.push(WireEvent::Closed { channel, reason });
                if self.has(Fault::ReadsAfterClosed) {
                    for (_, read) in self.begun.extract_if(.., |(of, _)| *of == channel) {
                        let outcome = Err(io::Error::other("its channel is gone"));
                        events.push(WireEvent::Read { channel, read, outcome });
                    }
                }
            }
            event => events.push(event),
        }
    }
}

impl Change<dyn Wire> for Breaks {
    fn poll(
        &mut self,
        wire: &mut (dyn Wire + 'static),
        pool: &mut Pool,
        events: &mut Vec<WireEvent>,
    ) -> io::Result<()> {
        if self.has(Fault::LetsGoEarly) {
            for (channel, exposure) in std::mem::take(&mut self.exposed) {
                one_sided(wire).withdraw(channel, exposure);
            }
        }
        for (channel, read) in self.pretended.drain(..) {
            events.push(WireEvent::Read { channel, read, outcome: Ok(Box::new(Body::new())) });
        }
        let mut found = Vec::new();
        wire.poll(pool, &mut found)?;
        found.into_iter().for_each(|event| self.pass_on(event, pool, events));
        Ok(())
    }

    fn expose(
        &mut self,
        wire: &mut (dyn Wire + 'static),
        channel: Channel,
        exposure: u64,
        body: &Body,
    ) -> Result<Descriptor, ExposeRefused> {
        let descriptor = one_sided(wire).expose(channel, exposure, body)?;
        self.exposed.push((channel, exposure));
        if self.has(Fault::KeepsBodies) {
            self.kept.extend(body.segments().cloned());
        }
        Ok(descriptor)
    }

    fn withdraw(&mut self, wire: &mut (dyn Wire + 'static), channel: Channel, exposure: u64) {
        if !self.has(Fault::IgnoresWithdrawals) {
            one_sided(wire).withdraw(channel, exposure);
        }
    }

    fn read(
        &mut self,
        wire: &mut (dyn Wire + 'static),
        channel: Channel,
        read: u64,
        descriptor: &[u8],
        bytes: u64,
        pool: &mut Pool,
    ) -> Result<(), ReadRefused> {
        if self.has(Fault::ReadsWhateverIsAsked) {
            self.pretended.push((channel, read));
            return Ok(());
        }
        one_sided(wire).read(channel, read, descriptor, bytes, pool)?;
        self.begun.push((channel, read));
        Ok(())
    }
}

/// Runs a case without a fault, which has to pass, and with each of these, which has to fail with its message.
pub(crate) fn see_it_fail(case: impl Fn(Option<Fault>), faults: &[(Fault, &str)]) {
    case(None);
    for (fault, expected) in faults {
        let failed = catch_unwind(AssertUnwindSafe(|| case(Some(*fault))));
        let cause = failed.expect_err(&format!("{fault:?} was not found"));
        let text = cause.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or_default();
        assert!(text.contains(expected), "{fault:?} was found by another message: {text}");
    }
}
