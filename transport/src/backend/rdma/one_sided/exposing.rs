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
    /// The requests that close its windows wait for room.
    Withdrawn,
    /// The request that closes the last one is at this position.
    Closing(u32),
}

/// A window, and the region that was made for it where the device checks only that.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenWindow {
    window: Window,
    region: Option<(Region, usize)>,
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
}

impl<V: Verbs> Opening<'_, V> {
    /// Plans a window on memory that begins with a segment's; the key that it will have.
    fn plan(&mut self, first: &Segment, bytes: usize) -> Option<Run> {
        let address = first.as_ptr() as u64;
        let region = self.region(first, address, bytes).ok()?;
        let DeviceState { device, windows, limits, .. } = &mut *self.device;
        let Some(window) = windows.take(*device, limits.windows_max, self.verbs) else {
            self.undo_region(region.1);
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

    fn undo_region(&mut self, region: Option<(Region, usize)>) {
        if let Some((region, bytes)) = region {
            Memory::deregister_alone(region, bytes, self.verbs, self.budget);
        }
    }

    /// Gives back what was planned and not posted.
    fn undo(mut self) {
        for OpenWindow { window, region } in std::mem::take(&mut self.opened) {
            self.undo_region(region);
            self.device.windows.free.push(window);
        }
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
    let run = plan(&table, table.len())?;
    held.push(table);
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
        self.all.iter().any(|exposure| exposure.stage == Stage::Withdrawn)
    }

    /// Gives every window back, whose queue pair is not used any more, and every region that the peer could read.
    pub(super) fn free(
        &mut self,
        device: &mut DeviceState,
        verbs: &mut impl Verbs,
        budget: &mut Budget,
    ) -> Vec<(Region, usize)> {
        for exposure in self.all.extract_if(.., |exposure| !exposure.regions.is_empty()) {
            exposure.deregister(verbs, budget);
        }
        let open = self.all.iter_mut().flat_map(|exposure| exposure.windows.drain(..));
        let mut regions = Vec::new();
        for OpenWindow { window, region } in open {
            regions.extend(region);
            device.windows.count -= 1;
            if let Err(error) = verbs.free_window(window) {
                tracing::warn!(%error, device = device.limits.name, "a memory window could not be given back");
            }
        }
        regions
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
        let mut opening = Opening { verbs, budget, device, opened, requests };
        let mut held: Vec<Segment> = body.segments().cloned().collect();
        let runs: Option<ArrayVec<Run, RUNS_MAX>> =
            pieces.iter().map(|(first, bytes)| opening.plan(first, *bytes)).collect();
        let descriptor = runs.and_then(|runs| {
            let plan = |first: &Segment, bytes| opening.plan(first, bytes);
            describe(&runs, plan, &mut self.tables, &mut held)
        });
        let Some(descriptor) = descriptor else {
            opening.undo();
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
        self.post_one_sided(channel, &requests, false)
            .map_or(Err(ExposeRefused::NotOpen), |()| Ok(descriptor))
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
        all[place].stage = Stage::Withdrawn;
        self.close_windows(channel);
    }

    /// Closes the windows of what was withdrawn, as far as there is room.
    pub(in crate::backend::rdma) fn close_windows(&mut self, channel: Channel) {
        while let Some(State { phase: Phase::Open, link: Some(link), .. }) = self.channels.at(channel)
            && let Some(exposure) =
                link.one_sided.exposures.all.iter_mut().find(|exposure| exposure.stage == Stage::Withdrawn)
            && link.queue.room() >= exposure.windows.len() as u32
        {
            let requests: ArrayVec<Operation, WINDOWS_MAX> =
                exposure.windows.iter().map(|open| Operation::Invalidate { key: open.window.key }).collect();
            exposure.stage = Stage::Closing(link.queue.position(0).wrapping_add(requests.len() as u32 - 1));
            if self.post_one_sided(channel, &requests, true).is_none() {
                return;
            }
        }
    }

    /// Something is done: perhaps windows are closed by now.
    pub(super) fn windows_closed(&mut self, channel: Channel) {
        let Some(State { link: Some(link), .. }) = self.channels.at(channel) else { return };
        let queue = link.queue;
        let is_closed =
            |exposure: &mut Exposure| matches!(exposure.stage, Stage::Closing(at) if queue.is_done(at));
        for exposure in link.one_sided.exposures.all.extract_if(.., is_closed) {
            for OpenWindow { window, region } in exposure.windows {
                if let Some((region, bytes)) = region {
                    Memory::deregister_alone(region, bytes, &mut self.verbs, &mut self.budget);
                }
                self.devices[link.device].windows.free.push(window);
            }
        }
    }

    /// Posts requests for which there is room, and has the last one told of if that is asked for. A device that does
    /// not take them ends the channel.
    fn post_one_sided(&mut self, channel: Channel, operations: &[Operation], tell: bool) -> Option<()> {
        let Some(State { identifier: Some(identifier), link: Some(link), .. }) = self.channels.at(channel)
        else {
            return None;
        };
        let mut queue = link.queue;
        let mut requests = ArrayVec::<Request<'_>, WINDOWS_MAX>::new();
        for (index, operation) in operations.iter().enumerate() {
            let position = queue.position(index as u32);
            let is_signaled = tell && index + 1 == operations.len() || queue.must_signal(position);
            if is_signaled {
                queue.signaled(position);
            }
            let work = Work::new(Kind::OneSided, channel, position).encode();
            requests.push(Request { work, operation: *operation, parts: &[], is_signaled, is_inline: false });
        }
        // SAFETY: they name no parts; the memory of a window is held until it is closed, or its queue pair is gone.
        let posted = unsafe { self.verbs.post(*identifier, &requests) };
        queue.posted(posted.count as u32);
        link.queue = queue;
        match posted.error {
            None => Some(()),
            Some(error) => {
                let error = io::Error::new(error.kind(), format!("posting a memory window failed: {error}"));
                self.fail(channel, ChannelEnd::Broken(error));
                None
            }
        }
    }
}
