//! The reading end: bodies of the peer's on their way into buffers of this end.

use super::descriptor::{Described, RUN_BYTES, Run, decode, make_up, runs_in};
use crate::backend::rdma::engine::{Engine, Phase, State};
use crate::backend::rdma::verbs::{Operation, Part, Request, Verbs};
use crate::backend::rdma::work::{Kind, Work};
use crate::backend::{Channel, ChannelEnd, ReadRefused, WireEvent};
use crate::pool::{BUFFER_BYTES_MAX, Body, BufferMut, Pool};
use std::collections::VecDeque;
use std::io;

/// The most bodies that a channel reads at a time; beyond that, reads are refused as busy.
const READINGS_MAX: usize = 16;

/// The most bytes of one request. A body of a few of them has several in flight, and the last is not late by much.
const REQUEST_BYTES_MAX: u32 = 256 << 10;

/// What one channel reads.
#[derive(Debug, Default)]
pub(super) struct Readings {
    /// In the order in which they were begun, in which they are also done.
    all: VecDeque<Reading>,
    /// Requests that are posted and not done.
    in_flight: usize,
    /// So many the device can have in flight, and the peer's can answer.
    pub(super) in_flight_max: usize,
    /// The last position in the queue pair beside the channel's own.
    posted: u32,
}

/// One body that is read.
#[derive(Debug)]
struct Reading {
    read: u64,
    bytes: u64,
    /// Where the runs are found; `None` once they are known.
    table: Option<Table>,
    runs: Vec<Run>,
    /// Buffers for the body, with the device's keys to them.
    buffers: Vec<(BufferMut, u32)>,
    cursor: Cursor,
    /// Requests that are posted and not done.
    in_flight: usize,
    failed: Option<io::Error>,
}

#[derive(Debug)]
struct Table {
    buffer: BufferMut,
    key: u32,
    run: Run,
    count: usize,
    is_posted: bool,
}

/// The first byte that is not asked for: at the peer, and where it is to lie.
#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    run: usize,
    run_offset: u32,
    buffer: usize,
    buffer_offset: usize,
}

impl Reading {
    /// Whether nothing of it is left to be posted, now.
    fn is_posted(&self) -> bool {
        match &self.table {
            Some(table) => table.is_posted,
            None => self.failed.is_some() || self.cursor.run == self.runs.len(),
        }
    }

    fn is_done(&self) -> bool {
        self.in_flight == 0 && self.table.is_none() && self.is_posted()
    }

    /// Plans the next request, of up to `parts_max` parts: where at the peer, and how far that comes.
    fn plan(&mut self, parts_max: usize, parts: &mut Vec<Part>) -> (Run, Cursor) {
        parts.clear();
        if let Some(Table { buffer, key, run, .. }) = &mut self.table {
            let address = buffer.spare_mut().as_mut_ptr() as u64;
            parts.push(Part { address, bytes: run.bytes, key: *key });
            return (*run, self.cursor);
        }
        let run = self.runs[self.cursor.run];
        let mut after = self.cursor;
        let mut left = (run.bytes - after.run_offset).min(REQUEST_BYTES_MAX);
        let mut bytes = 0;
        while left > 0 && parts.len() < parts_max {
            let (buffer, key) = &mut self.buffers[after.buffer];
            let spare = &mut buffer.spare_mut()[after.buffer_offset..];
            let count = left.min(spare.len() as u32);
            parts.push(Part { address: spare.as_mut_ptr() as u64, bytes: count, key: *key });
            after.buffer_offset += count as usize;
            if count as usize == spare.len() {
                (after.buffer, after.buffer_offset) = (after.buffer + 1, 0);
            }
            left -= count;
            bytes += count;
        }
        let address = run.address.wrapping_add(after.run_offset.into());
        after.run_offset += bytes;
        if after.run_offset == run.bytes {
            (after.run, after.run_offset) = (after.run + 1, 0);
        }
        (Run { address, bytes, ..run }, after)
    }

    /// The table has come: reads it.
    fn take_table(&mut self) {
        let Some(Table { mut buffer, run, count, .. }) = self.table.take() else { return };
        // SAFETY: the completion of its read says that so many bytes are there.
        unsafe { buffer.assume_written(run.bytes as usize) };
        if make_up(runs_in(buffer.written()), self.bytes) {
            self.runs = runs_in(buffer.written()).take(count).collect();
        } else {
            let error = format!("the peer describes other than the {} bytes that it offers", self.bytes);
            self.failed = Some(io::Error::new(io::ErrorKind::InvalidData, error));
        }
    }

    /// The body, all of which is there.
    fn finish(self, pool: &mut Pool) -> io::Result<Box<Body>> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let mut body = Box::new(Body::new());
        let mut left = self.bytes;
        for (mut buffer, _) in self.buffers {
            let count = left.min(buffer.capacity() as u64);
            left -= count;
            // SAFETY: the completions of all its reads say that these bytes are there.
            unsafe { buffer.assume_written(count as usize) };
            body.push(buffer.split(), pool).map_err(io::Error::other)?;
        }
        Ok(body)
    }
}

impl Readings {
    /// Whether there is something to post, and it may be posted.
    pub(super) fn can_go_on(&self) -> bool {
        self.in_flight < self.in_flight_max && self.all.iter().any(|reading| !reading.is_posted())
    }
}

impl<V: Verbs> Engine<V> {
    pub(super) fn begin_reading(
        &mut self,
        channel: Channel,
        read: u64,
        descriptor: &[u8],
        bytes: u64,
        pool: &mut Pool,
    ) -> Result<(), ReadRefused> {
        let Some(State { phase: Phase::Open, link: Some(link), .. }) = self.channels.at(channel) else {
            return Err(ReadRefused::NotOpen);
        };
        let refused = ReadRefused::Descriptor { bytes: descriptor.len() };
        let can_read = link.one_sided.readings.in_flight_max > 0;
        let described = decode(descriptor, bytes).filter(|_| can_read).ok_or(refused)?;
        if link.one_sided.readings.all.len() >= READINGS_MAX {
            return Err(ReadRefused::Busy);
        }
        let device = &mut self.devices[link.device];
        let mut key = |buffer: &BufferMut| device.memory.key(buffer, &mut self.verbs, &mut self.budget);
        let mut reading = Reading {
            read,
            bytes,
            table: None,
            runs: Vec::new(),
            buffers: Vec::new(),
            cursor: Cursor::default(),
            in_flight: 0,
            failed: None,
        };
        let keyed = |outcome: Result<u32, _>, failed: &mut Option<io::Error>| match outcome {
            Ok(key) => key,
            Err(error) => {
                *failed = Some(io::Error::from(error));
                0
            }
        };
        let mut left = bytes;
        while left > 0 {
            let buffer = pool.buffer(left.min(BUFFER_BYTES_MAX as u64) as usize)?;
            left -= left.min(buffer.capacity() as u64);
            let key = keyed(key(&buffer), &mut reading.failed);
            reading.buffers.push((buffer, key));
        }
        match described {
            Described::Runs(runs) => reading.runs.extend(runs),
            Described::Table { run, count } => {
                let buffer = pool.buffer(count * RUN_BYTES)?;
                let key = keyed(key(&buffer), &mut reading.failed);
                reading.table = Some(Table { buffer, key, run, count, is_posted: false });
            }
        }
        if reading.failed.is_some() {
            // Nothing is asked of the peer; the next poll says why.
            reading.table = None;
        }
        link.one_sided.readings.all.push_back(reading);
        self.read_more(channel);
        self.make_busy(channel);
        Ok(())
    }

    /// Posts reads, as many as may be in flight.
    pub(in crate::backend::rdma) fn read_more(&mut self, channel: Channel) {
        while let Some(State { phase: Phase::Open, identifier: Some(identifier), link: Some(link), .. }) =
            self.channels.at(channel)
            && link.one_sided.readings.can_go_on()
            && (link.one_sided.reads_beside || link.queue.room() > 0)
        {
            let parts_max = link.queue_pair.sizes.parts as usize;
            let is_beside = link.one_sided.reads_beside;
            let (kind, position) = if is_beside {
                (Kind::Beside, link.one_sided.readings.posted.wrapping_add(1))
            } else {
                (Kind::OneSided, link.queue.position(0))
            };
            let readings = &mut link.one_sided.readings;
            let Some(reading) = readings.all.iter_mut().find(|reading| !reading.is_posted()) else { return };
            let (run, after) = reading.plan(parts_max, &mut self.parts);
            let request = Request {
                work: Work::new(kind, channel, position).encode(),
                operation: Operation::Read { address: run.address, key: run.key },
                parts: &self.parts,
                is_signaled: true,
                is_inline: false,
            };
            // SAFETY: the parts lie in buffers that the reading alone has, until all its requests are done or the queue
            // pair is destroyed.
            let posted = unsafe {
                if is_beside {
                    self.verbs.post_beside(*identifier, &[request])
                } else {
                    self.verbs.post(*identifier, &[request])
                }
            };
            match posted.error {
                None => {}
                // The device counts differently; there is room again when something is done.
                Some(error) if error.raw_os_error() == Some(libc::ENOMEM) => return self.make_busy(channel),
                Some(error) => {
                    let error = io::Error::new(error.kind(), format!("posting a read failed: {error}"));
                    return self.fail(channel, ChannelEnd::Broken(error));
                }
            }
            reading.cursor = after;
            reading.in_flight += 1;
            if let Some(table) = &mut reading.table {
                table.is_posted = true;
            }
            readings.in_flight += 1;
            link.one_sided.posted.push_back((position, reading.read));
            if is_beside {
                readings.posted = position;
            } else {
                link.queue.posted(1);
                link.queue.signaled(position);
            }
        }
    }

    /// A read is done.
    pub(super) fn read_done(&mut self, channel: Channel, read: u64) {
        let Some(State { link: Some(link), .. }) = self.channels.at(channel) else { return };
        let readings = &mut link.one_sided.readings;
        readings.in_flight -= 1;
        let Some(reading) = readings.all.iter_mut().find(|reading| reading.read == read) else { return };
        reading.in_flight -= 1;
        if reading.table.is_some() {
            reading.take_table();
        }
    }

    /// Reports bodies that are all there, and posts more.
    pub(in crate::backend::rdma) fn finish_readings(&mut self, channel: Channel, pool: &mut Pool) {
        while let Some(State { phase: Phase::Open, link: Some(link), .. }) = self.channels.at(channel)
            && let Some(place) = link.one_sided.readings.all.iter().position(Reading::is_done)
            && let Some(reading) = link.one_sided.readings.all.remove(place)
        {
            let read = reading.read;
            let outcome = reading.finish(pool);
            self.events.push(WireEvent::Read { channel, read, outcome });
        }
        self.read_more(channel);
    }
}
