//! The ends over the bare wire: bytes there and back, without frames, sessions or drivers. What the driver's ends take
//! beyond this is what the layers above the wire cost.

use std::time::{Duration, Instant};

use underlay::backend::{Channel, Wire, WireEvent};
use underlay::pool::{GatherList, Pool, PoolConfig, Segment};

use crate::error::BenchError;
use crate::payload::{Payload, WINDOWS};
use crate::plan::{REPLY_TIMEOUT, Wait};
use crate::underlay::failed;

/// After so many polls that found nothing the end looks at the clock.
const POLLS_UNTIL_LOOK: u32 = 4096;

/// One channel of a wire, with what it has received and what it has to send.
pub(super) struct BareEnd<W> {
    wire: W,
    pool: Pool,
    wait: Wait,
    events: Vec<WireEvent>,
    channel: Option<Channel>,
    is_sending: bool,
    to_send: Vec<Segment>,
    gather: GatherList,
    received: Vec<Segment>,
    end: Option<String>,
}

impl<W: Wire> BareEnd<W> {
    /// An end on the wire that `open` gives.
    pub(super) fn open(
        wait: Wait,
        open: impl FnOnce(&mut Pool) -> Result<W, BenchError>,
    ) -> Result<Self, BenchError> {
        let mut pool = Pool::new(PoolConfig::default()).map_err(|error| failed("wire")(error.into()))?;
        let wire = open(&mut pool)?;
        Ok(Self {
            wire,
            pool,
            wait,
            events: Vec::new(),
            channel: None,
            is_sending: false,
            to_send: Vec::new(),
            gather: GatherList::new(),
            received: Vec::new(),
            end: None,
        })
    }

    /// Listens, says where, and sends back whatever arrives until its one channel has ended.
    pub(super) fn serve(
        mut self,
        address: &str,
        mut ready: impl FnMut(&str) -> Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        let listening = self.wire.listen(address).map_err(|error| failed("wire")(error.into()))?;
        ready(&listening.address)?;
        while self.end.is_none() {
            if !self.poll()? {
                self.pause();
            }
            self.to_send.append(&mut self.received);
            self.send()?;
        }
        Ok(())
    }

    /// Connects, and waits until the channel is open.
    pub(super) fn connect(&mut self, address: &str) -> Result<(), BenchError> {
        self.wire.connect(address).map_err(|error| failed("wire")(error.into()))?;
        self.until(0, |end| end.channel.is_some())
    }

    /// Bounces `count` messages, one at a time, and says how long each took there and back. With `is_checked` every
    /// byte is compared, else the length.
    pub(super) fn bounce(
        &mut self,
        payload: &Payload,
        count: u64,
        is_checked: bool,
    ) -> Result<Vec<Duration>, BenchError> {
        let bodies = crate::underlay::bodies(payload, &mut self.pool)?;
        let mut times = Vec::with_capacity(count as usize);
        for number in 0..count {
            self.received.clear();
            let begun = Instant::now();
            self.to_send.extend(bodies[(number % WINDOWS) as usize].segments().cloned());
            self.send()?;
            self.until(number, |end| bytes(&end.received) >= payload.size())?;
            times.push(begun.elapsed());
            if is_checked {
                payload.check_parts(number, self.received.iter().map(|segment| &**segment))?;
            }
        }
        self.received.clear();
        Ok(times)
    }

    fn until(&mut self, number: u64, is_done: impl Fn(&Self) -> bool) -> Result<(), BenchError> {
        let mut idle_polls = 0;
        let mut since = None;
        while !is_done(self) {
            if let Some(end) = self.end.take() {
                return Err(failed("wire")(end.into()));
            }
            if !self.poll()? {
                idle_polls += 1;
                if idle_polls % POLLS_UNTIL_LOOK == 0
                    && since.get_or_insert_with(Instant::now).elapsed() > REPLY_TIMEOUT
                {
                    return Err(BenchError::NoReply { number, waited: REPLY_TIMEOUT });
                }
                self.pause();
            }
            self.send()?;
        }
        Ok(())
    }

    fn pause(&self) {
        if self.wait == Wait::Spin { std::hint::spin_loop() } else { std::thread::yield_now() }
    }

    /// True if anything happened.
    fn poll(&mut self) -> Result<bool, BenchError> {
        self.wire.poll(&mut self.pool, &mut self.events).map_err(BenchError::io("poll the wire"))?;
        let found = !self.events.is_empty();
        for event in self.events.drain(..) {
            match event {
                WireEvent::Accepted { channel, .. } | WireEvent::Connected { channel, .. } => {
                    self.channel = Some(channel);
                }
                WireEvent::Received { segment, .. } => self.received.push(segment),
                WireEvent::Sent { .. } => self.is_sending = false,
                WireEvent::Closed { reason, .. } => self.end = Some(reason.to_string()),
                _ => {}
            }
        }
        Ok(found)
    }

    /// Sends what is to be sent, unless a send is in flight.
    fn send(&mut self) -> Result<(), BenchError> {
        let Some(channel) = self.channel.filter(|_| !self.is_sending && !self.to_send.is_empty()) else {
            return Ok(());
        };
        let count = self.to_send.len().min(self.gather.room());
        for segment in self.to_send.drain(..count) {
            self.gather.push(segment);
        }
        // A channel that has ended says so by its event.
        if self.wire.send(channel, &mut self.gather).is_ok() {
            self.is_sending = true;
        } else {
            self.gather.clear();
        }
        Ok(())
    }
}

fn bytes(segments: &[Segment]) -> usize {
    segments.iter().map(|segment| segment.len()).sum()
}
