//! Wires that are broken on purpose, and the proof that a case finds them out.

use crate::bench::{Bench, GENEROUS, SHORT};
use crate::subject::{Subject, WireUnderTest, open, skip};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use underlay::backend::{
    Channel, ChannelEnd, ConnectError, ListenError, Listener, Listening, Path, SendRefused, WaitPoint, Wire,
    WireEvent,
};
use underlay::pool::{GatherList, Pool, Segment};

/// What is wrong with a wire. Each is what a plausible bug in a wire would look like from above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// None: the case has to pass, so it is the fault that makes it fail, and not the wrapper.
    Nothing,
    DropsASegment,
    DropsASegmentLate,
    DuplicatesASegment,
    SwapsTwoSegments,
    FlipsAByte,
    IsDeafWhileSending,
    MixesTwoChannels,
    CutsLongLists,
    WritesIntoReceivedBuffers,
    CopiesBodies,
    TakesASecondSend,
    EmptiesRefusedLists,
    LosesASent,
    SaysSentTwice,
    SaysSentEarly,
    ReleasesEarly,
    NeverReleases,
    ForgetsBlockedSends,
    BlocksAllForOne,
    TakesSendsOnClosedChannels,
    IgnoresClose,
    NeverClosesThePeer,
    ClosesTwice,
    CallsEveryEndAPeers,
    LosesTheTail,
    ReceivesAfterClosed,
    IgnoresGenerations,
    KeepsASegment,
    EndsChannelsWithTheirListener,
    KeepsListening,
    ConnectsToNobody,
    FailsSilently,
    TakesAnyAddress,
    SharesAddresses,
    SleepsThrough,
    ForgetsWatchedDescriptors,
    Oversleeps,
    NeverSleeps,
}

/// Runs a case against the wire as it is within the wrapper, which has to pass, and then with each fault, which has to
/// fail with a message that contains the text beside it.
pub(crate) fn see_it_fail<S: Subject>(case: fn(&mut Bench<Broken<S::Wire>>), faults: &[(Fault, &str)]) {
    match open::<S, _>(|wire| Broken::new(wire, Fault::Nothing), GENEROUS) {
        Ok(mut bench) => case(&mut bench),
        Err(reason) => return skip(S::NAME, &reason),
    }
    for &(fault, expected) in faults {
        let mut bench = open::<S, _>(|wire| Broken::new(wire, fault), SHORT).expect("it opened just now");
        match catch_unwind(AssertUnwindSafe(|| case(&mut bench))) {
            Ok(()) => panic!("{fault:?} was not found"),
            Err(panic) => {
                let message = text_of(&*panic);
                assert!(
                    message.contains(expected),
                    "{fault:?} made the case fail for another reason: {message}\nexpected: {expected}"
                );
            }
        }
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text,
        (None, None) => "a panic without a text",
    }
}

/// A wire with a fault.
pub(crate) struct Broken<W> {
    inner: W,
    fault: Fault,
    /// Open channels by slot.
    open: BTreeMap<u32, Channel>,
    /// Sends in flight, and the polls since they began.
    flying: HashMap<Channel, u32>,
    was_flying: bool,
    received: usize,
    received_bytes: usize,
    sent: usize,
    held_back: HashMap<Channel, Segment>,
    kept: Vec<Segment>,
    to_be_changed: Option<Segment>,
    postponed: Vec<(Channel, Vec<u8>)>,
}

/// Polls after which a send counts as blocked.
const BLOCKED_POLLS: u32 = 20;

impl<W: WireUnderTest> Broken<W> {
    pub(crate) fn new(inner: W, fault: Fault) -> Self {
        Self {
            inner,
            fault,
            open: BTreeMap::new(),
            flying: HashMap::new(),
            was_flying: false,
            received: 0,
            received_bytes: 0,
            sent: 0,
            held_back: HashMap::new(),
            kept: Vec::new(),
            to_be_changed: None,
            postponed: Vec::new(),
        }
    }

    fn pass(&mut self, event: WireEvent, pool: &mut Pool, events: &mut Vec<WireEvent>) {
        match event {
            WireEvent::Accepted { channel, .. } | WireEvent::Connected { channel, .. } => {
                self.open.insert(channel.slot, channel);
                events.push(event);
            }
            WireEvent::Received { channel, segment } => self.pass_received(channel, segment, pool, events),
            WireEvent::Sent { channel } => self.pass_sent(channel, events),
            WireEvent::Closed { channel, reason } => {
                self.open.remove(&channel.slot);
                self.flying.remove(&channel);
                self.held_back.remove(&channel).into_iter().for_each(drop);
                self.pass_closed(channel, reason, pool, events);
            }
            other => events.push(other),
        }
    }

    fn pass_received(
        &mut self,
        mut channel: Channel,
        mut segment: Segment,
        pool: &mut Pool,
        events: &mut Vec<WireEvent>,
    ) {
        self.received += 1;
        let bytes_before = self.received_bytes;
        self.received_bytes += segment.len();
        match (self.fault, self.received) {
            (Fault::DropsASegment, 2) | (Fault::DropsASegmentLate, 100) => return,
            (Fault::IsDeafWhileSending, 2..) if self.was_flying => return,
            (Fault::DuplicatesASegment, 2) => {
                events.push(WireEvent::Received { channel, segment: segment.clone() })
            }
            (Fault::SwapsTwoSegments, 2) => {
                self.held_back.insert(channel, segment);
                return;
            }
            (Fault::SwapsTwoSegments, 3) => {
                events.push(WireEvent::Received { channel, segment });
                segment = self.held_back.remove(&channel).expect("the one before was held back");
            }
            (Fault::FlipsAByte, 2) => segment = flipped(&segment, pool),
            (Fault::MixesTwoChannels, 3) => {
                channel = *self.open.values().find(|&&other| other != channel).expect("several are open");
            }
            (Fault::CopiesBodies, _) => {
                let copy = pool.copy_body(&segment).unwrap();
                events.extend(
                    copy.segments().map(|part| WireEvent::Received { channel, segment: part.clone() }),
                );
                return;
            }
            // The case holds what comes behind the first 100,000 bytes, and goes on for long after that.
            (Fault::WritesIntoReceivedBuffers, _) => {
                if bytes_before == 100_000 {
                    self.to_be_changed = Some(segment.clone());
                } else if bytes_before > 1_000_000 {
                    self.to_be_changed.take().iter().for_each(overwrite);
                }
            }
            (Fault::LosesTheTail, _) => match self.held_back.insert(channel, segment) {
                Some(before) => segment = before,
                None => return,
            },
            (Fault::KeepsASegment, _) if self.kept.len() < self.received / 10 => {
                self.kept.push(segment.clone())
            }
            _ => {}
        }
        events.push(WireEvent::Received { channel, segment });
    }

    fn pass_sent(&mut self, channel: Channel, events: &mut Vec<WireEvent>) {
        self.sent += 1;
        let polls = self.flying.remove(&channel).unwrap_or(0);
        match self.fault {
            Fault::LosesASent if self.sent == 2 => return,
            Fault::SaysSentEarly => return,
            Fault::ForgetsBlockedSends if polls > BLOCKED_POLLS => return,
            Fault::SaysSentTwice => events.push(WireEvent::Sent { channel }),
            _ => {}
        }
        events.push(WireEvent::Sent { channel });
    }

    fn pass_closed(
        &mut self,
        channel: Channel,
        reason: ChannelEnd,
        pool: &mut Pool,
        events: &mut Vec<WireEvent>,
    ) {
        match (self.fault, &reason) {
            (Fault::NeverClosesThePeer, ChannelEnd::Peer | ChannelEnd::Broken(_)) => {}
            (Fault::FailsSilently, ChannelEnd::ConnectFailed(_)) => {}
            (Fault::ConnectsToNobody, ChannelEnd::ConnectFailed(_)) => {
                let path = Path { peer: "nobody".to_owned(), packet_bytes: 1 };
                events.push(WireEvent::Connected { channel, path });
            }
            (Fault::CallsEveryEndAPeers, _) => {
                events.push(WireEvent::Closed { channel, reason: ChannelEnd::Peer })
            }
            (Fault::ClosesTwice, _) => {
                events.push(WireEvent::Closed { channel, reason });
                events.push(WireEvent::Closed { channel, reason: ChannelEnd::Local });
            }
            (Fault::ReceivesAfterClosed, _) => {
                events.push(WireEvent::Closed { channel, reason });
                events.push(WireEvent::Received { channel, segment: copied(b"late", pool) });
            }
            _ => events.push(WireEvent::Closed { channel, reason }),
        }
    }

    /// What a name means to a wire that looks at the slot alone.
    fn meant(&self, channel: Channel) -> Channel {
        match self.fault {
            Fault::IgnoresGenerations => self.open.get(&channel.slot).copied().unwrap_or(channel),
            _ => channel,
        }
    }

    fn send_postponed(&mut self, pool: &mut Pool) {
        for (channel, bytes) in self.postponed.drain(..) {
            let mut gather = GatherList::new();
            gather.push(copied(&bytes, pool));
            self.inner.send(channel, &mut gather).unwrap();
        }
    }
}

impl<W: WireUnderTest> Wire for Broken<W> {
    fn listen(&mut self, address: &str) -> Result<Listening, ListenError> {
        let listening = self.inner.listen(address);
        let is_excused = match &listening {
            Err(ListenError::InUse { .. }) => self.fault == Fault::SharesAddresses,
            Err(ListenError::Address { .. }) => self.fault == Fault::TakesAnyAddress,
            _ => false,
        };
        let pretended = Listening { listener: Listener(u32::MAX), address: address.to_owned() };
        if is_excused { Ok(pretended) } else { listening }
    }

    fn connect(&mut self, address: &str) -> Result<Channel, ConnectError> {
        match self.inner.connect(address) {
            Err(_) if self.fault == Fault::TakesAnyAddress => {
                Ok(Channel { slot: u32::MAX, generation: u32::MAX })
            }
            other => other,
        }
    }

    fn send(&mut self, channel: Channel, gather: &mut GatherList) -> Result<(), SendRefused> {
        let channel = self.meant(channel);
        match self.fault {
            Fault::CutsLongLists if gather.segments().len() > 100 => {
                let kept: Vec<_> = gather.drain().take(100).collect();
                kept.into_iter().for_each(|segment| gather.push(segment));
            }
            Fault::NeverReleases => self.kept.extend(gather.segments().iter().cloned()),
            Fault::ReleasesEarly => {
                self.postponed.push((channel, gather.drain().flat_map(|segment| segment.to_vec()).collect()));
                return Ok(());
            }
            Fault::BlocksAllForOne if self.flying.values().any(|&polls| polls > BLOCKED_POLLS) => {
                gather.clear();
                return Ok(());
            }
            _ => {}
        }
        let result = self.inner.send(channel, gather);
        match (self.fault, result) {
            (_, Ok(())) => {
                self.flying.insert(channel, 0);
            }
            (Fault::TakesASecondSend, Err(SendRefused::InFlight))
            | (Fault::TakesSendsOnClosedChannels, Err(SendRefused::NotOpen)) => {
                gather.clear();
                return Ok(());
            }
            (Fault::EmptiesRefusedLists, Err(_)) => gather.clear(),
            _ => {}
        }
        result
    }

    fn close(&mut self, channel: Channel) {
        if self.fault != Fault::IgnoresClose {
            self.inner.close(self.meant(channel));
        }
    }

    fn stop_listening(&mut self, listener: Listener) {
        if self.fault == Fault::EndsChannelsWithTheirListener {
            self.open.values().for_each(|&channel| self.inner.close(channel));
        }
        if self.fault != Fault::KeepsListening {
            self.inner.stop_listening(listener);
        }
    }

    fn poll(&mut self, pool: &mut Pool, events: &mut Vec<WireEvent>) -> io::Result<()> {
        self.send_postponed(pool);
        self.was_flying = !self.flying.is_empty();
        for (&channel, polls) in &mut self.flying {
            if self.fault == Fault::SaysSentEarly && *polls == 0 {
                events.push(WireEvent::Sent { channel });
            }
            *polls += 1;
        }
        let mut seen = Vec::new();
        self.inner.poll(pool, &mut seen)?;
        seen.into_iter().for_each(|event| self.pass(event, pool, events));
        Ok(())
    }
}

impl<W: WireUnderTest> WaitPoint for Broken<W> {
    fn watch(&mut self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        match self.fault {
            Fault::ForgetsWatchedDescriptors => Ok(()),
            _ => self.inner.watch(descriptor),
        }
    }

    fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match (self.fault, timeout) {
            (Fault::SleepsThrough, Some(timeout)) => std::thread::sleep(timeout),
            (Fault::Oversleeps, Some(timeout)) => std::thread::sleep(timeout + Duration::from_millis(400)),
            (Fault::NeverSleeps, _) => {}
            _ => return self.inner.sleep(timeout),
        }
        Ok(())
    }
}

impl<W: WireUnderTest> WireUnderTest for Broken<W> {
    fn about_to_sleep(&mut self) {
        self.inner.about_to_sleep();
    }

    fn awake(&mut self) {
        self.inner.awake();
    }
}

fn copied(bytes: &[u8], pool: &mut Pool) -> Segment {
    let mut buffer = pool.buffer(bytes.len()).unwrap();
    buffer.put_slice(bytes);
    buffer.split()
}

fn flipped(segment: &Segment, pool: &mut Pool) -> Segment {
    let mut bytes = segment.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    copied(&bytes, pool)
}

/// Changes a byte of a buffer behind the back of whoever holds it, as a kernel does that still owns it.
fn overwrite(segment: &Segment) {
    let memory = std::fs::File::options().write(true).open("/proc/self/mem").unwrap();
    memory.write_all_at(&[!segment[0]], segment.as_ptr() as u64).unwrap();
}
