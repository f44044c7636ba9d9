//! One-sided reads between devices without windows: queue pairs beside the channel's own.
//!
//! A region that peers may read can be read by every peer whose queue pair is in its protection domain and that has its key.
//! The channels of a device share one, because their receive requests are one queue, and devices look up the memory of
//! those in the domain of the queue pair (`send_data_in` of the kernel's `rxe_resp.c`). So a channel has two queue pairs
//! more that receive nothing: by one this end reads; by the other, in a protection domain of its own, the peer does. Each
//! piece of an exposed body is a region of that domain for as long as it is exposed, and of exactly its bytes.

use super::descriptor::{RUNS_DIRECT_MAX, Run};
use super::exposing::{Exposure, Stage, describe};
use super::{QueuePairsBeside, ReadsAtOnce};
use crate::backend::rdma::control::{PARTS_MAX, READS_MAX};
use crate::backend::rdma::engine::{Engine, Phase, State};
use crate::backend::rdma::memory::Memory;
use crate::backend::rdma::verbs::{Beside, Identifier, QueuePairSizes, Region, Verbs};
use crate::backend::{Channel, ChannelEnd, Descriptor, ExposeRefused};
use crate::pool::{Body, Segment};
use arrayvec::ArrayVec;
use std::io;

/// The most pieces of a body that is exposed like this. Each takes two system calls, and chunks take none.
const PIECES_MAX: usize = 8;

/// Those of them that a descriptor has no room for are listed in a table, which is a piece, too.
const REGIONS_MAX: usize = PIECES_MAX + 1;

/// What a body, or its table, is exposed by: each with its bytes.
pub(super) type Regions = ArrayVec<(Region, usize), REGIONS_MAX>;

impl<V: Verbs> Engine<V> {
    /// Makes both queue pairs of a channel, or none: then its bodies go in chunks.
    pub(in crate::backend::rdma) fn create_beside(
        &mut self,
        identifier: Identifier,
        device: usize,
    ) -> Option<QueuePairsBeside> {
        let limits = &self.devices[device].limits;
        if limits.windows_max > 0 || limits.reads_started_max == 0 || limits.reads_answered_max == 0 {
            return None;
        }
        let reads = ReadsAtOnce {
            started: limits.reads_started_max.min(READS_MAX) as u8,
            answered: limits.reads_answered_max.min(READS_MAX) as u8,
        };
        let parts = PARTS_MAX.min(limits.parts_max);
        let mut create = |beside, sends, parts| {
            let sizes = QueuePairSizes { sends, parts, inline_bytes: 0 };
            self.verbs.create_beside(identifier, beside, &sizes)
        };
        let made = create(Beside::Reading, READS_MAX, parts)
            .and_then(|reading| Ok((reading, create(Beside::Answering, 1, 1)?)));
        match made {
            Ok((reading, answering)) => Some(QueuePairsBeside { reading, answering, reads }),
            Err(error) => {
                // Alone, the first one would be of no use, and take a place.
                self.verbs.destroy_beside(identifier);
                tracing::warn!(%error, device = self.devices[device].limits.name,
                    "no queue pairs for one-sided reads could be made; bodies go in chunks");
                None
            }
        }
    }

    /// Connects them to the peer's, if both ends have them.
    pub(in crate::backend::rdma) fn connect_beside(
        &mut self,
        channel: Channel,
        theirs: Option<QueuePairsBeside>,
    ) -> io::Result<()> {
        let Some(State { identifier: Some(identifier), link: Some(link), .. }) = self.channels.at(channel)
        else {
            return Ok(());
        };
        let Some((ours, theirs)) = link.one_sided.beside.zip(theirs) else { return Ok(()) };
        let started = ours.reads.started.min(theirs.reads.answered);
        let answered = ours.reads.answered.min(theirs.reads.started);
        let mut connect = |beside, peer, reads| {
            self.verbs.connect_beside(*identifier, beside, peer, reads).map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("a queue pair for one-sided reads did not connect: {error}"),
                )
            })
        };
        connect(Beside::Reading, theirs.answering, started)?;
        connect(Beside::Answering, theirs.reading, answered)?;
        link.one_sided.agree_beside(started, answered);
        Ok(())
    }

    /// Lets the peer read a body, of which the pieces are given with their lengths.
    pub(super) fn expose_beside(
        &mut self,
        channel: Channel,
        exposure: u64,
        body: &Body,
        pieces: &[(&Segment, usize)],
    ) -> Result<Descriptor, ExposeRefused> {
        let Some(State { phase: Phase::Open, identifier: Some(identifier), link: Some(link), .. }) =
            self.channels.at(channel)
        else {
            return Err(ExposeRefused::NotOpen);
        };
        if pieces.len() > PIECES_MAX {
            return Err(ExposeRefused::Scattered { segments: body.segment_count() });
        }
        let (verbs, budget, identifier) = (&mut self.verbs, &mut self.budget, *identifier);
        let mut held: Vec<Segment> = body.segments().cloned().collect();
        let mut regions = Regions::new();
        let mut plan = |first: &Segment, bytes: usize| {
            let address = first.as_ptr() as u64;
            // SAFETY: the exposure holds the segments, and so their slab, until the region is gone. They are all that
            // the region covers, and the peer may read them.
            let region = unsafe { Memory::register_for_peer(identifier, address, bytes, verbs, budget) };
            let region = region.inspect_err(|error| tracing::debug!(%error, "a body goes in chunks")).ok()?;
            regions.push((region, bytes));
            Some(Run { address, key: region.key, bytes: bytes as u32 })
        };
        let runs: Option<ArrayVec<Run, PIECES_MAX>> =
            pieces.iter().map(|(first, bytes)| plan(first, *bytes)).collect();
        let descriptor = runs.and_then(|runs| describe(&runs, plan, &mut self.tables, &mut held));
        let exposures = link.one_sided.exposures.len();
        let made = Exposure { number: exposure, stage: Stage::Open, windows: Vec::new(), regions, held };
        match descriptor {
            Some(descriptor) => {
                link.one_sided.exposures.push(made);
                Ok(descriptor)
            }
            None => {
                // Nobody has been told of these keys.
                let memory = &mut self.devices[link.device].memory;
                made.of_no_window().forget(memory, &mut self.verbs, &mut self.budget);
                Err(ExposeRefused::Limit { exposures })
            }
        }
    }

    /// Ends an exposure: from here on nobody reads it.
    pub(super) fn withdraw_beside(&mut self, channel: Channel, exposure: Exposure) {
        let Some(State { link: Some(link), .. }) = self.channels.at(channel) else { return };
        let memory = &mut self.devices[link.device].memory;
        if !exposure.of_no_window().forget(memory, &mut self.verbs, &mut self.budget) {
            let error = io::Error::other("a body that was withdrawn could not be deregistered");
            self.fail(channel, ChannelEnd::Broken(error));
        }
    }
}

const _: () = assert!(REGIONS_MAX > RUNS_DIRECT_MAX, "a table has room");
