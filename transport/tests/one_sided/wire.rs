//! A wire with one-sided reads, made of the one between wires of a process: what is exposed lies in a table that all
//! of them can see.

use crate::forwarding::{Change, Changed};
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex};
use underlay::Wakeup;
use underlay::backend::inproc::{InprocNetwork, InprocWire};
use underlay::backend::{Channel, Descriptor, ExposeRefused, ReadRefused, Wire, WireEvent};
use underlay::pool::{Body, Pool, Segment};

/// What the wires share.
#[derive(Default)]
pub(crate) struct Memory {
    exposed: HashMap<u64, Vec<Segment>>,
    next_key: u64,
    /// What happened.
    pub(crate) exposures: usize,
    pub(crate) reads: usize,
    pub(crate) withdrawn: usize,
    /// All reads fail from here on.
    pub(crate) fails_from: Option<usize>,
    /// So many reads are refused at first, for want of buffers or because the device is busy.
    pub(crate) busy: usize,
    /// Channels on which something was exposed and that have closed.
    pub(crate) closed_with_exposures: usize,
}

impl Memory {
    /// Bodies that are exposed now.
    pub(crate) fn exposed(&self) -> usize {
        self.exposed.len()
    }
}

pub(crate) type SharingWire = Changed<InprocWire, Shares>;

pub(crate) fn sharing(network: InprocNetwork, memory: Arc<Mutex<Memory>>) -> SharingWire {
    let wakeup = Arc::new(Wakeup::new().expect("an eventfd"));
    let shares = Shares { memory, keys: HashMap::new(), done: Vec::new(), gone: HashSet::new() };
    Changed::new(Box::new(InprocWire::new(network, wakeup)), shares)
}

/// What it does beyond a wire between wires of a process.
pub(crate) struct Shares {
    memory: Arc<Mutex<Memory>>,
    /// By channel and number, the keys of this end's exposures.
    keys: HashMap<(Channel, u64), u64>,
    /// Reads that are done, to be told of.
    done: Vec<WireEvent>,
    gone: HashSet<Channel>,
}

impl Shares {
    fn closed(&mut self, channel: Channel) {
        let mut memory = self.memory.lock().expect("nobody panicked");
        let before = self.keys.len();
        self.keys.retain(|(of, _), key| {
            if *of == channel {
                memory.exposed.remove(key);
            }
            *of != channel
        });
        memory.closed_with_exposures += usize::from(before > self.keys.len());
        self.gone.insert(channel);
    }
}

impl Change<InprocWire> for Shares {
    fn poll(
        &mut self,
        wire: &mut InprocWire,
        pool: &mut Pool,
        events: &mut Vec<WireEvent>,
    ) -> io::Result<()> {
        let from = events.len();
        wire.poll(pool, events)?;
        let closed: Vec<Channel> = events[from..]
            .iter()
            .filter_map(|event| match event {
                WireEvent::Closed { channel, .. } => Some(*channel),
                _ => None,
            })
            .collect();
        closed.into_iter().for_each(|channel| self.closed(channel));
        let gone = &self.gone;
        self.done.retain(|event| !matches!(event, WireEvent::Read { channel, .. } if gone.contains(channel)));
        events.append(&mut self.done);
        Ok(())
    }

    fn exposures_max(&mut self, _: &mut InprocWire, _: Channel) -> usize {
        4
    }

    fn expose(
        &mut self,
        _: &mut InprocWire,
        channel: Channel,
        exposure: u64,
        body: &Body,
    ) -> Result<Descriptor, ExposeRefused> {
        let mut memory = self.memory.lock().expect("nobody panicked");
        let key = memory.next_key;
        memory.next_key += 1;
        memory.exposures += 1;
        memory.exposed.insert(key, body.segments().cloned().collect());
        assert!(self.keys.insert((channel, exposure), key).is_none(), "a number that was used before");
        Ok(key.to_le_bytes().into_iter().collect())
    }

    fn withdraw(&mut self, _: &mut InprocWire, channel: Channel, exposure: u64) {
        if let Some(key) = self.keys.remove(&(channel, exposure)) {
            let mut memory = self.memory.lock().expect("nobody panicked");
            memory.exposed.remove(&key);
            memory.withdrawn += 1;
        }
    }

    fn read(
        &mut self,
        _: &mut InprocWire,
        channel: Channel,
        read: u64,
        descriptor: &[u8],
        bytes: u64,
        pool: &mut Pool,
    ) -> Result<(), ReadRefused> {
        let mut memory = self.memory.lock().expect("nobody panicked");
        if memory.busy > 0 {
            memory.busy -= 1;
            return Err(ReadRefused::Busy);
        }
        memory.reads += 1;
        let refused = ReadRefused::Descriptor { bytes: descriptor.len() };
        let key = u64::from_le_bytes(descriptor.try_into().map_err(|_| refused)?);
        let fails = memory.fails_from.is_some_and(|from| memory.reads > from);
        let outcome = match memory.exposed.get(&key).filter(|_| !fails) {
            None => Err(io::Error::other("remote access error")),
            Some(segments) => {
                let content: Vec<u8> = segments.iter().flat_map(|segment| segment.iter().copied()).collect();
                assert_eq!(content.len() as u64, bytes);
                let mut body = Body::new();
                for piece in content.chunks(16 << 10) {
                    let mut buffer = pool.buffer(piece.len())?;
                    buffer.put_slice(piece);
                    body.push(buffer.split(), pool)?;
                }
                Ok(Box::new(body))
            }
        };
        self.done.push(WireEvent::Read { channel, read, outcome });
        Ok(())
    }
}
