//! The exposing end: windows on a body, open for one peer, until it is withdrawn.

use super::beside::Regions;
use super::descriptor::{RUN_BYTES, RUNS_DIRECT_MAX, RUNS_MAX, Run, of_runs, of_table};
use crate::backend::rdma::engine::{DeviceState, Engine, Phase, State};
use crate::backend::rdma::memory::{Budget, Memory, PinError};
use crate::backend::rdma::verbs::{Device, Operation, Region, Request, Verbs, Window};
use crate::backend::rdma::work::{Kind, Work};
use crate::backend::{Channel, ChannelEnd, Descriptor, ExposeRefused};
use crate::pool::{Body, Pool, PoolConfig, Segment};
use arrayvec::ArrayVec;
use std::io;

/// The most bodies that a channel has exposed at a time.
pub(super) const EXPOSURES_MAX: usize = 16;

/// Windows of one body: on its runs, and on the table of these.
const WINDOWS_MAX: usize = RUNS_MAX + 1;

/// Requests of the send queue that exposing leaves for what goes through it.
const ROOM_LEFT: u32 = 16;

/// Where tables of runs lie: one for each exposed body in many pieces.
const TABLES: PoolConfig = PoolConfig { bytes_max: 4 << 20, slab_bytes: 64 << 10, huge_pages: false };

/// What one channel exposes.
#[derive(Debug, Default)]
pub(super) struct Exposures {
    all: Vec<Exposure>,
}

/// One exposed body. Its memory belongs to the device until every window on it is known to be closed.
#[derive(Debug)]
pub(super) struct Exposure {
    pub(super) number: u64,
    pub(super) stage: Stage,
    pub(super) windows: Vec<OpenWindow>,
    /// What it is exposed by where there are no windows.
    pub(super) regions: Regions,
    pub(super) held: Vec<Segment>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Open,
    /// So many of its windows are being closed. The requests for the others wait for room.
    Withdrawn {
        closing: usize,
    },
    /// The request that closes the last one is at this position.
    Closing(u32),
}

/// A window, and the region that was made for it where the device checks only that.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenWindow {
    window: Window,
    region: Option<(Region, usize)>,
}

impl Exposure {
    /// What is left of one that is exposed by regions of the peer's alone.
    pub(super) fn of_no_window(self) -> Remains {
        Remains { regions: self.regions.to_vec(), is_open: false, held: self.held }
    }
}

/// What is left of an exposure whose channel has ended: its regions, which go after the queue pair, and its memory.
#[derive(Debug)]
pub(in crate::backend::rdma) struct Remains {
    regions: Vec<(Region, usize)>,
    /// A window could not be given back.
    is_open: bool,
    held: Vec<Segment>,
}

impl Remains {
    /// Lets go of it, but for memory that the device may still reach: that is kept.
    /// False if there is any.
    pub(super) fn forget(self, memory: &mut Memory, verbs: &mut impl Verbs, budget: &mut Budget) -> bool {
        let stuck_bytes = deregister(self.regions, verbs, budget);
        let is_gone = !self.is_open && stuck_bytes == 0;
        if !is_gone {
            memory.keep(stuck_bytes, self.held);
        }
        is_gone
    }
}

/// Undoes regions; says how many bytes are in those that could not be.
fn deregister(
    regions: impl IntoIterator<Item = (Region, usize)>,
    verbs: &mut impl Verbs,
    budget: &mut Budget,
) -> usize {
    let stuck = |(region, bytes): (Region, usize)| {
        if Memory::deregister_alone(region, bytes, verbs, budget) { 0 } else { bytes }
    };
    regions.into_iter().map(stuck).sum()
}

/// Windows of a device that are not open.
#[derive(Debug, Default)]
pub(in crate::backend::rdma) struct Windows {
    free: Vec<Window>,
    /// How many there are, open ones among them.
    count: u32,
}

impl Windows {
    /// A window that is not open, with the key to open it by. That is another one each time, as devices demand it; and
    /// who still has an earlier one reads nothing by it.
    fn take(&mut self, device: Device, max: u32, verbs: &mut impl Verbs) -> Option<Window> {
        let window = match self.free.pop() {
            Some(window) => window,
            None if self.count >= max => return None,
            None => {
                let window = verbs.allocate_window(device).ok()?;
                self.count += 1;
                window
            }
        };
        let key = window.key & !0xFF | u32::from((window.key as u8).wrapping_add(1));
        Some(Window { key, ..window })
    }
}

/// Where a body lies: pieces of memory that are registered, and so can have one window each.
fn pieces(body: &Body) -> Option<ArrayVec<(&Segment, usize), RUNS_MAX>> {
    let mut pieces = ArrayVec::<(&Segment, usize), RUNS_MAX>::new();
    for segment in body.segments() {
        match pieces.last_mut() {
            Some((first, bytes))
                if first.mapping().number == segment.mapping().number
                    && first.as_ptr() as usize + *bytes == segment.as_ptr() as usize =>
            {
                *bytes += segment.len();
            }
            _ => pieces.try_push((segment, segment.len())).ok()?,
        }
    }
    Some(pieces)
}

/// What is needed to open windows.
struct Opening<'a, V> {
    verbs: &'a mut V,
    budget: &'a mut Budget,
    device: &'a mut DeviceState,
    opened: Vec<OpenWindow>,
    requests: ArrayVec<Operation, WINDOWS_MAX>,
    /// In regions for which there was no window.
    spare: Option<(Region, usize)>,
}

impl<V: Verbs> Opening<'_, V> {
    /// Plans a window on memory that begins with a segment's; the key that it will have.
    fn plan(&mut self, first: &Segment, bytes: usize) -> Option<Run> {
        let address = first.as_ptr() as u64;
        let region = self.region(first, address, bytes).ok()?;
        let DeviceState { device, windows, limits, .. } = &mut *self.device;
        let Some(window) = windows.take(*device, limits.windows_max, self.verbs) else {
            self.spare = region.1;
            return None;
        };
        self.opened.push(OpenWindow { window, region: region.1 });
        let bind =
            Operation::Bind { window, key: window.key, region: region.0, address, bytes: bytes as u64 };
        self.requests.push(bind);
        Some(Run { address, key: window.key, bytes: bytes as u32 })
    }

    /// The region to open a window on: that of the slab, or one of exactly these bytes.
    fn region(
        &mut self,
        first: &Segment,
        address: u64,
        bytes: usize,
    ) -> Result<(Region, Option<(Region, usize)>), PinError> {
        let DeviceState { device, memory, limits, .. } = &mut *self.device;
        if limits.windows_have_bounds {
            return memory.region(first, self.verbs, self.budget).map(|region| (region, None));
        }
        // SAFETY: the exposure holds the segments, and so their slab, until the region is gone.
        let region = unsafe { Memory::register_alone(*device, address, bytes, self.verbs, self.budget) }?;
        Ok((region, Some((region, bytes))))
    }

    /// Gives back what was planned and not posted.
    fn undo(self, held: Vec<Segment>) {
        self.device.windows.free.extend(self.opened.iter().map(|open| open.window));
        let regions = self.opened.iter().filter_map(|open| open.region).chain(self.spare).collect();
        Remains { regions, is_open: false, held }.forget(&mut self.device.memory, self.verbs, self.budget);
    }
}

/// What the peer is told of runs: the runs themselves, or where a table of them lies, which `plan` has to expose, too.
pub(super) fn describe(
    runs: &[Run],
    mut plan: impl FnMut(&Segment, usize) -> Option<Run>,
    tables: &mut Option<Pool>,
    held: &mut Vec<Segment>,
) -> Option<Descriptor> {
    if runs.len() <= RUNS_DIRECT_MAX {
        return Some(of_runs(runs));
    }
    let tables = match tables {
        Some(tables) => tables,
        None => tables.insert(Pool::new(TABLES).ok()?),
    };
    let mut buffer = tables.buffer(RUNS_MAX * RUN_BYTES).ok()?;
    for run in runs {
        buffer.put_slice(&run.encode());
    }
    let table = buffer.split();
    held.push(table.clone());
    let run = plan(&table, table.len())?;
    Some(of_table(run, runs.len()))
}

impl Exposures {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn push(&mut self, exposure: Exposure) {
        self.all.push(exposure);
    }

    pub(super) fn has_withdrawn(&self) -> bool {
        self.all.iter().any(|exposure| matches!(exposure.stage, Stage::Withdrawn { .. }))
    }

    pub(super) fn has_regions(&self) -> bool {
        self.all.iter().flat_map(|exposure| &exposure.windows).any(|open| open.region.is_some())
    }

    /// The first that was withdrawn, if windows of it are not being closed yet.
    fn withdrawn(&mut self) -> Option<&mut Exposure> {
        self.all.iter_mut().find(|exposure| matches!(exposure.stage, Stage::Withdrawn { .. }))
    }

    /// Gives every window back, whose queue pair is not used any more, and every region that the peer could read. What
    /// needs no more than that is let go of.
    pub(super) fn free(
        &mut self,
        device: &mut DeviceState,
        verbs: &mut impl Verbs,
        budget: &mut Budget,
    ) -> Vec<Remains> {
        let mut remains = Vec::new();
        for exposure in self.all.drain(..) {
            if exposure.windows.is_empty() {
                exposure.of_no_window().forget(&mut device.memory, verbs, budget);
                continue;
            }
            let Exposure { windows, held, .. } = exposure;
            let regions: Vec<_> = windows.iter().filter_map(|open| open.region).collect();
            let mut is_open = false;
            for OpenWindow { window, .. } in windows {
                device.windows.count -= 1;
                if let Err(error) = verbs.free_window(window) {
                    let device = &device.limits.name;
                    tracing::warn!(%error, device, "a memory window could not be given back; its memory is kept");
                    is_open = true;
                }
            }
            if is_open || !regions.is_empty() {
                remains.push(Remains { regions, is_open, held });
            }
        }
        remains
    }
}

impl<V: Verbs> Engine<V> {
    pub(super) fn expose_body(
        &mut self,
        channel: Channel,
        exposure: u64,
        body: &Body,
    ) -> Result<Descriptor, ExposeRefused> {
        let Some(State { phase: Phase::Open, link: Some(link), .. }) = self.channels.at(channel) else {
            return Err(ExposeRefused::NotOpen);
        };
        let pieces = pieces(body)
            .filter(|pieces| !pieces.is_empty())
            .ok_or_else(|| ExposeRefused::Scattered { segments: body.segment_count() })?;
        let exposures = link.one_sided.exposures.len();
        let limit = ExposeRefused::Limit { exposures };
        if exposures >= link.one_sided.exposures_max {
            return Err(limit);
        }
        if link.one_sided.reads_beside {
            return self.expose_beside(channel, exposure, body, &pieces);
        }
        if link.queue.room() < pieces.len() as u32 + ROOM_LEFT {
            return Err(limit);
        }
        let device = &mut self.devices[link.device];
        let (verbs, budget) = (&mut self.verbs, &mut self.budget);
        let (opened, requests) = (Vec::new(), ArrayVec::new());
        let mut opening = Opening { verbs, budget, device, opened, requests, spare: None };
        let mut held: Vec<Segment> = body.segments().cloned().collect();
        let runs: Option<ArrayVec<Run, RUNS_MAX>> =
            pieces.iter().map(|(first, bytes)| opening.plan(first, *bytes)).collect();
        let descriptor = runs.and_then(|runs| {
            let plan = |first: &Segment, bytes| opening.plan(first, bytes);
            describe(&runs, plan, &mut self.tables, &mut held)
        });
        let Some(descriptor) = descriptor else {
            opening.undo(held);
            return Err(limit);
        };
        let (windows, requests) = (opening.opened, opening.requests);
        link.one_sided.exposures.all.push(Exposure {
            number: exposure,
            stage: Stage::Open,
            windows,
            regions: Regions::new(),
            held,
        });
        match self.post_one_sided(channel, &requests, false) {
            Some(count) if count == requests.len() => Ok(descriptor),
            Some(count) => {
                self.expose_no_further(channel, count);
                Err(limit)
            }
            None => Err(ExposeRefused::NotOpen),
        }
    }

    /// The device had no room to open more than so many windows of the last exposure, which nobody is told of.
    fn expose_no_further(&mut self, channel: Channel, opened: usize) {
        let Some(State { link: Some(link), .. }) = self.channels.at(channel) else { return };
        let all = &mut link.one_sided.exposures.all;
        let Some(exposure) = all.last_mut() else { return };
        exposure.stage = Stage::Withdrawn { closing: 0 };
        let unopened = exposure.windows.split_off(opened);
        let held = exposure.held.clone();
        if opened == 0 {
            all.pop();
        }
        let device = &mut self.devices[link.device];
        device.windows.free.extend(unopened.iter().map(|open| open.window));
        let regions = unopened.iter().filter_map(|open| open.region).collect();
        let remains = Remains { regions, is_open: false, held };
        remains.forget(&mut device.memory, &mut self.verbs, &mut self.budget);
        self.make_busy(channel);
    }

    pub(super) fn withdraw_body(&mut self, channel: Channel, exposure: u64) {
        let Some(State { link: Some(link), .. }) = self.channels.at(channel) else { return };
        let all = &mut link.one_sided.exposures.all;
        let is_it = |other: &Exposure| other.number == exposure && other.stage == Stage::Open;
        let Some(place) = all.iter().position(is_it) else { return };
        if link.one_sided.reads_beside {
            let exposure = all.swap_remove(place);
            return self.withdraw_beside(channel, exposure);
        }
        all[place].stage = Stage::Withdrawn { closing: 0 };
        self.close_windows(channel);
    }

    /// Closes the windows of what was withdrawn, as far as there is room: each one that is closed can be read no more,
    /// whether or not the others are.
    pub(in crate::backend::rdma) fn close_windows(&mut self, channel: Channel) {
        while let Some((windows, closing)) = self.windows_to_close(channel) {
            let Some(count) = self.post_one_sided(channel, &windows, true) else { return };
            let Some(State { link: Some(link), .. }) = self.channels.at(channel) else { return };
            let last = link.queue.last_position();
            if let Some(exposure) = link.one_sided.exposures.withdrawn() {
                let closing = closing + count;
                let is_last = closing == exposure.windows.len();
                exposure.stage = if is_last { Stage::Closing(last) } else { Stage::Withdrawn { closing } };
            }
            if count < windows.len() {
                // The device counts differently; there is room again when something is done.
                return self.make_busy(channel);
            }
        }
    }

    /// The requests that close windows of what was withdrawn first, as many as there is room for, and how many went before.
    fn windows_to_close(&mut self, channel: Channel) -> Option<(ArrayVec<Operation, WINDOWS_MAX>, usize)> {
        let Some(State { phase: Phase::Open, link: Some(link), .. }) = self.channels.at(channel) else {
            return None;
        };
        let room = link.queue.room() as usize;
        let exposure = link.one_sided.exposures.withdrawn().filter(|_| room > 0)?;
        let Stage::Withdrawn { closing } = exposure.stage else { return None };
        let left = exposure.windows[closing..].iter().take(room);
        Some((left.map(|open| Operation::Invalidate { key: open.window.key }).collect(), closing))
    }

    /// Something is done: perhaps windows are closed by now.
    pub(super) fn windows_closed(&mut self, channel: Channel) {
        let Some(State { link: Some(link), .. }) = self.channels.at(channel) else { return };
        let queue = link.queue;
        let device = &mut self.devices[link.device];
        let is_closed =
            |exposure: &mut Exposure| matches!(exposure.stage, Stage::Closing(at) if queue.is_done(at));
        for Exposure { windows, held, .. } in link.one_sided.exposures.all.extract_if(.., is_closed) {
            device.windows.free.extend(windows.iter().map(|open| open.window));
            let regions = windows.iter().filter_map(|open| open.region).collect();
            let remains = Remains { regions, is_open: false, held };
            remains.forget(&mut device.memory, &mut self.verbs, &mut self.budget);
        }
    }

    /// Posts requests for which there is room, and has the last one told of if that is asked for; says how many the device
    /// has taken, which are fewer only if it has no room. One that does not take them for another reason ends the channel.
    fn post_one_sided(&mut self, channel: Channel, operations: &[Operation], tell: bool) -> Option<usize> {
        let Some(State { identifier: Some(identifier), link: Some(link), .. }) = self.channels.at(channel)
        else {
            return None;
        };
        let mut signaled = link.queue;
        let mut requests = ArrayVec::<Request<'_>, WINDOWS_MAX>::new();
        for (index, operation) in operations.iter().enumerate() {
            let position = signaled.position(index as u32);
            let is_signaled = tell && index + 1 == operations.len() || signaled.must_signal(position);
            if is_signaled {
                signaled.signaled(position);
            }
            let work = Work::new(Kind::OneSided, channel, position).encode();
            requests.push(Request { work, operation: *operation, parts: &[], is_signaled, is_inline: false });
        }
        // SAFETY: they name no parts; the memory of a window is held until it is closed, or its queue pair is gone.
        let posted = unsafe { self.verbs.post(*identifier, &requests) };
        for request in &requests[..posted.count] {
            link.queue.posted(1);
            if request.is_signaled {
                link.queue.signaled(link.queue.last_position());
            }
        }
        match posted.error {
            Some(error) if error.raw_os_error() != Some(libc::ENOMEM) => {
                let error = io::Error::new(error.kind(), format!("posting a memory window failed: {error}"));
                self.fail(channel, ChannelEnd::Broken(error));
                None
            }
            _ => Some(posted.count),
        }
    }
}
