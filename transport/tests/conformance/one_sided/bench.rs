//! Two ends with two ways between them.

use super::broken::{Broken, broken};
use super::{Fault, Going};
use underlay::backend::{Channel, Descriptor, ReadRefused, Wire, WireEvent};
use underlay::pool::{Body, Pool, PoolConfig};

/// One of the two ways.
pub(crate) type Way = usize;

/// A wire under test.
pub(crate) trait Subject {
    /// Why this machine has no such wire.
    fn missing() -> Option<String> {
        None
    }

    /// One whose reads go like this.
    fn new(going: Going) -> Self;

    /// The wires of an end, 0 or 1, by way.
    fn wires(&self, end: usize) -> [Box<dyn Wire>; 2];

    /// Descriptors that reach beyond what one describes, by a byte and by more. None where a descriptor says nothing of
    /// where.
    fn beyond(&self, _descriptor: &[u8]) -> Vec<Descriptor> {
        Vec::new()
    }

    /// Has some time pass, so that what is under way comes on.
    fn pass(&mut self);
}

/// Waiting is in vain after the time has passed so often.
const PATIENCE: usize = 2_000;

/// Who exposes, and who reads.
pub(crate) const HERE: usize = 0;
pub(crate) const THERE: usize = 1;

struct End {
    wires: [Broken; 2],
    pool: Pool,
}

/// What the cases stand on. It checks what must hold in all of them: no read is told of twice, and none after its channel
/// has closed.
pub(crate) struct Bench<S> {
    subject: S,
    ends: [End; 2],
    next_number: u64,
    /// By end: channels that have opened and have closed, with their ways.
    opened: [Vec<(Way, Channel)>; 2],
    closed: [Vec<(Way, Channel)>; 2],
    /// Reads, with their ways and channels.
    begun: Vec<(u64, Way, Channel)>,
    outcomes: Vec<(u64, Result<Vec<u8>, String>)>,
    /// Buffers that the wires keep for what may arrive.
    kept_buffers: usize,
}

impl<S: Subject> Bench<S> {
    pub(crate) fn new(going: Going, fault: Option<Fault>) -> Self {
        let subject = S::new(going);
        let ends = [HERE, THERE].map(|end| {
            let wires = subject.wires(end).map(|wire| broken(wire, fault));
            let config = PoolConfig { bytes_max: 8 << 20, slab_bytes: 64 << 10, huge_pages: false };
            End { wires, pool: Pool::new(config).expect("the pool's configuration is a valid one") }
        });
        let (opened, closed) = (Default::default(), Default::default());
        let mut bench = Self {
            subject,
            ends,
            next_number: 0,
            opened,
            closed,
            begun: Vec::new(),
            outcomes: Vec::new(),
            kept_buffers: 0,
        };
        for way in [0, 1] {
            bench.ends[THERE].wires[way].listen("there").expect("nobody else listens");
        }
        bench
    }

    /// Opens a channel; its names at both ends.
    pub(crate) fn connect(&mut self, way: Way) -> [Channel; 2] {
        let before = self.opened.each_ref().map(Vec::len);
        let buffers_before = self.buffers_out();
        self.ends[HERE].wires[way].connect("there").expect("somebody listens");
        self.wait("a channel", |bench| (0..2).all(|end| bench.opened[end].len() > before[end]));
        self.kept_buffers += self.buffers_out() - buffers_before;
        [HERE, THERE].map(|end| self.opened[end][before[end]].1)
    }

    pub(crate) fn body(&mut self, bytes: &[u8]) -> Body {
        self.ends[HERE].pool.copy_body(bytes).expect("the pool has room")
    }

    /// Exposes a body; the number of the exposure, and where it is. A wire may refuse, now and then.
    pub(crate) fn expose(&mut self, way: Way, channel: Channel, body: &Body) -> (u64, Descriptor) {
        for _ in 0..PATIENCE {
            let number = self.number();
            let wire = self.ends[HERE].wires[way].one_sided().expect("a wire with one-sided reads");
            assert!(wire.exposures_max(channel) > 0, "an open channel without exposures");
            if let Ok(descriptor) = wire.expose(channel, number, body) {
                // The other end is told of it by something that is sent behind it.
                (0..20).for_each(|_| self.go_on());
                return (number, descriptor);
            }
        }
        panic!("every exposure was refused")
    }

    pub(crate) fn beyond(&self, descriptor: &[u8]) -> Vec<Descriptor> {
        self.subject.beyond(descriptor)
    }

    pub(crate) fn withdraw(&mut self, way: Way, channel: Channel, exposure: u64) {
        self.ends[HERE].wires[way].one_sided().expect("as before").withdraw(channel, exposure);
    }

    /// Begins to read at the other end; the number of the read.
    pub(crate) fn read(&mut self, way: Way, channel: Channel, descriptor: &[u8], bytes: u64) -> u64 {
        for _ in 0..PATIENCE {
            let read = self.number();
            let End { wires, pool } = &mut self.ends[THERE];
            let wire = wires[way].one_sided().expect("a wire with one-sided reads");
            match wire.read(channel, read, descriptor, bytes, pool) {
                Ok(()) => {
                    self.begun.push((read, way, channel));
                    return read;
                }
                Err(ReadRefused::Busy | ReadRefused::Pool(_)) => self.go_on(),
                Err(refused) => panic!("a read was refused: {refused}"),
            }
        }
        panic!("every read was refused")
    }

    /// What came of a read, once it is told.
    pub(crate) fn outcome(&self, read: u64) -> Option<&Result<Vec<u8>, String>> {
        self.outcomes.iter().find(|(number, _)| *number == read).map(|(_, outcome)| outcome)
    }

    /// The same, or that its channel has ended before.
    pub(crate) fn wait_for_outcome(&mut self, read: u64) -> Result<Vec<u8>, String> {
        let (_, way, channel) = *self.begun.iter().find(|(other, ..)| *other == read).expect("it has begun");
        let has_closed = move |bench: &Self| bench.closed[THERE].contains(&(way, channel));
        self.wait("the outcome of a read", |bench| bench.outcome(read).is_some() || has_closed(bench));
        self.outcome(read).cloned().unwrap_or_else(|| Err("its channel has closed".to_owned()))
    }

    pub(crate) fn close(&mut self, way: Way, channels: [Channel; 2]) {
        self.ends[HERE].wires[way].close(channels[HERE]);
        self.wait("the end of a channel", |bench| bench.has_closed(way, channels));
    }

    /// Whether both ends know that a channel has closed.
    pub(crate) fn has_closed(&self, way: Way, channels: [Channel; 2]) -> bool {
        (0..2).all(|end| self.closed[end].contains(&(way, channels[end])))
    }

    /// Whether a channel has closed at the end that reads; then it does at both.
    pub(crate) fn has_failed(&mut self, way: Way, channels: [Channel; 2]) -> bool {
        let has_failed = self.closed[THERE].contains(&(way, channels[THERE]));
        if has_failed {
            self.wait("the end of a channel", |bench| bench.has_closed(way, channels));
        }
        has_failed
    }

    /// All buffers of both ends come back.
    pub(crate) fn is_clean(&mut self) {
        for _ in 0..PATIENCE {
            self.go_on();
            if self.buffers_out() == self.kept_buffers {
                return;
            }
        }
        panic!("{} buffers are out that no wire keeps", self.buffers_out() as i64 - self.kept_buffers as i64);
    }

    fn buffers_out(&mut self) -> usize {
        let out = |end: &mut End| {
            end.pool.reclaim();
            end.pool.stats().buffers_out
        };
        self.ends.iter_mut().map(out).sum()
    }

    pub(crate) fn wait(&mut self, what: &str, is_there: impl Fn(&Self) -> bool) {
        for _ in 0..PATIENCE {
            if is_there(self) {
                return;
            }
            self.go_on();
        }
        panic!("waited in vain for {what}");
    }

    /// A while goes by, and everybody looks what has happened.
    pub(crate) fn go_on(&mut self) {
        self.subject.pass();
        for end in [HERE, THERE] {
            for way in [0, 1] {
                let mut events = Vec::new();
                let End { wires, pool } = &mut self.ends[end];
                wires[way].poll(pool, &mut events).expect("the wire is whole");
                events.into_iter().for_each(|event| self.take(end, way, event));
            }
        }
    }

    fn take(&mut self, end: usize, way: Way, event: WireEvent) {
        match event {
            WireEvent::Accepted { channel, .. } | WireEvent::Connected { channel, .. } => {
                self.opened[end].push((way, channel));
            }
            WireEvent::Closed { channel, .. } => self.closed[end].push((way, channel)),
            WireEvent::Read { channel, read, outcome } => {
                assert!(!self.closed[end].contains(&(way, channel)), "a read ended whose channel has closed");
                assert!(self.outcome(read).is_none(), "the end of read {read} was told of before");
                let outcome = outcome.map(|body| body.to_vec()).map_err(|error| error.to_string());
                self.outcomes.push((read, outcome));
            }
            other => panic!("nobody sends anything, and there is {other:?}"),
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}
