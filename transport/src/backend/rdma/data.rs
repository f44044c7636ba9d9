//! The data path: gather lists into work requests, completions into events.

use super::credit::WINDOW_MIN;
use super::engine::{Engine, Link, Phase, State};
use super::receives::Arrived;
use super::sending::{Flight, Planned, Sizes};
use super::verbs::{Completion, Operation, Part, Request, Verbs};
use super::work::{Kind, Work};
use crate::backend::{Channel, ChannelEnd, SendRefused, WireEvent};
use crate::pool::{GatherList, Pool};
use arrayvec::ArrayVec;
use std::io;

/// The most work requests that are posted with one call.
const LIST_MAX: usize = 16;

impl<V: Verbs> Engine<V> {
    pub(super) fn send(&mut self, channel: Channel, gather: &mut GatherList) -> Result<(), SendRefused> {
        let Some(State { phase: Phase::Open, link: Some(link), .. }) = self.channels.at(channel) else {
            return Err(SendRefused::NotOpen);
        };
        if link.sending.flight != Flight::Idle {
            return Err(SendRefused::InFlight);
        }
        if gather.is_empty() {
            link.sending.end(Flight::Done);
            self.make_busy(channel);
            return Ok(());
        }
        link.sending.begin(gather);
        self.send_more(channel);
        Ok(())
    }

    /// Posts as much of what a channel is sending as credit and the send queue allow.
    pub(super) fn send_more(&mut self, channel: Channel) {
        loop {
            match self.post_list(channel) {
                Ok(Progress::All) => return,
                Ok(Progress::Waits) => return,
                Ok(Progress::More) => {}
                Ok(Progress::TryAgain) => return self.make_busy(channel),
                Err(error) => return self.fail(channel, ChannelEnd::Broken(error)),
            }
        }
    }

    fn post_list(&mut self, channel: Channel) -> io::Result<Progress> {
        let Some(State { phase: Phase::Open, identifier: Some(identifier), link: Some(link), .. }) =
            self.channels.at(channel)
        else {
            return Ok(Progress::All);
        };
        if !link.sending.has_more() {
            return Ok(Progress::All);
        }
        let room = (link.outgoing.room().min(link.queue.room()) as usize).min(LIST_MAX);
        if room == 0 {
            return Ok(Progress::Waits);
        }
        let device = &mut self.devices[link.device];
        self.parts.clear();
        let mut planned = ArrayVec::<Planned, LIST_MAX>::new();
        plan(link, &mut planned, room, &mut self.parts, |segment| {
            device.memory.key(segment, &mut self.verbs, &mut self.budget)
        })?;
        // One that is all inline is done when it is posted: it needs no completion, and nothing waits for it.
        let is_done_at_once = planned.len() == 1 && planned[0].is_inline && !link.sending.is_begun();
        let is_last = |index: usize| index + 1 == planned.len();
        let is_whole = link.sending.is_covered_by(&planned);
        let immediate = device.shares.promise(&mut link.incoming);
        let mut requests = ArrayVec::<Request<'_>, LIST_MAX>::new();
        let mut signaled = link.queue;
        for (index, plan) in planned.iter().enumerate() {
            let position = signaled.position(index as u32);
            let ends_the_list = is_last(index) && is_whole && !is_done_at_once;
            let is_signaled = ends_the_list || signaled.must_signal(position);
            if is_signaled {
                signaled.signaled(position);
            }
            requests.push(Request {
                work: Work::new(Kind::Send, channel, position).encode(),
                operation: Operation::Send { immediate },
                parts: &self.parts[plan.parts.clone()],
                is_signaled,
                is_inline: plan.is_inline,
            });
        }
        // SAFETY: the parts lie in segments that the channel's `sending` holds until a completion says that they are
        // done, or the queue pair is destroyed.
        let posted = unsafe { self.verbs.post(*identifier, &requests) };
        for (request, plan) in requests.iter().zip(&planned).take(posted.count) {
            link.queue.posted(1);
            if request.is_signaled {
                link.queue.signaled(link.queue.last_position());
            }
            link.outgoing.sent(1);
            link.sending.posted(plan);
        }
        drop(requests);
        if !link.sending.has_more() {
            if is_done_at_once {
                link.sending.end(Flight::Done);
                self.make_busy(channel);
            } else {
                link.sending.flight = Flight::Posted(link.queue.last_position());
            }
            return Ok(Progress::All);
        }
        match posted.error {
            None => Ok(Progress::More),
            // The device counts differently; there is room again when something is done, which need not be told.
            Some(error) if error.raw_os_error() == Some(libc::ENOMEM) => Ok(Progress::TryAgain),
            Some(error) => Err(io::Error::new(error.kind(), format!("posting a send failed: {error}"))),
        }
    }

    /// Tells a channel's peer of its credit, if there is enough to tell and nothing else has.
    pub(super) fn tell_credit(&mut self, channel: Channel) {
        let Some(State { phase: Phase::Open, identifier: Some(identifier), link: Some(link), .. }) =
            self.channels.at(channel)
        else {
            return;
        };
        let shares = &mut self.devices[link.device].shares;
        if !shares.is_news(&link.incoming) {
            // Too few are posted just now; whoever brings buffers back tells nobody, so it is looked at again.
            if link.incoming.outstanding() <= WINDOW_MIN / 2 {
                self.make_busy(channel);
            }
            return;
        }
        if !link.outgoing.has_reserve() {
            return;
        }
        if link.queue.room() == 0 {
            // What makes room need not be what makes the channel busy.
            return self.make_busy(channel);
        }
        let position = link.queue.position(0);
        let is_signaled = link.queue.must_signal(position);
        // It is promised when the peer is told.
        let (mut promised_shares, mut promised) = (*shares, link.incoming);
        let request = Request {
            work: Work::new(Kind::Send, channel, position).encode(),
            operation: Operation::Send { immediate: promised_shares.promise(&mut promised) },
            parts: &[],
            is_signaled,
            is_inline: true,
        };
        // SAFETY: it names no memory.
        let posted = unsafe { self.verbs.post(*identifier, &[request]) };
        if posted.count == 1 {
            (*shares, link.incoming) = (promised_shares, promised);
            link.queue.posted(1);
            link.outgoing.sent(1);
            if is_signaled {
                link.queue.signaled(position);
            }
        } else if let Some(error) = posted.error {
            if error.raw_os_error() == Some(libc::ENOMEM) {
                return self.make_busy(channel);
            }
            let error = io::Error::new(error.kind(), format!("posting credit failed: {error}"));
            self.fail(channel, ChannelEnd::Broken(error));
        }
    }

    /// Takes note of a completion.
    #[inline]
    pub(super) fn completed(
        &mut self,
        device: usize,
        completion: &Completion,
        pool: &mut Pool,
    ) -> io::Result<()> {
        if Work::decode(completion.work).is_some() {
            self.send_completed(completion);
            return Ok(());
        }
        self.received(device, completion, pool)
    }

    /// A work request of a send queue is done, or will never be.
    pub(super) fn send_completed(&mut self, completion: &Completion) {
        let Some(work) = Work::decode(completion.work) else { return };
        let Some(channel) = self.channel_of(&work) else { return };
        let Some(State { phase, link: Some(link), .. }) = self.channels.at(channel) else { return };
        let mut read_beside = None;
        if work.kind == Kind::Beside {
            read_beside = link.one_sided.take_beside(work.position);
        } else {
            link.queue.retire(work.position);
        }
        match (phase, completion.status.is_success()) {
            (Phase::Draining(_), _) if link.has_nothing_posted() => self.finish(channel),
            (Phase::Draining(_), _) => {}
            (Phase::Flushing, true) if work.kind == Kind::Last => self.flushed(channel),
            (_, true) => {
                if work.kind == Kind::OneSided {
                    self.one_sided_done(channel);
                } else if let Some(read) = read_beside {
                    self.read_beside_done(channel, read);
                }
                self.sent(channel);
            }
            (_, false) => {
                let error = io::Error::other(format!("a send failed: {}", completion.status));
                self.broke(channel, error);
            }
        }
    }

    /// Something that was posted is done: perhaps the gather list is, or there is room for more of it.
    #[inline]
    fn sent(&mut self, channel: Channel) {
        let Some(State { link: Some(link), .. }) = self.channels.at(channel) else { return };
        match link.sending.flight {
            Flight::Posted(position) if link.queue.is_done(position) => {
                link.sending.end(Flight::Idle);
                let waits = link.one_sided.waits();
                self.events.push(WireEvent::Sent { channel });
                if waits {
                    self.make_busy(channel);
                }
            }
            Flight::Waiting => self.make_busy(channel),
            Flight::Posted(_) | Flight::Done | Flight::Idle if link.one_sided.waits() => {
                self.make_busy(channel)
            }
            Flight::Posted(_) | Flight::Done | Flight::Idle => {}
        }
    }

    fn received(&mut self, device: usize, completion: &Completion, pool: &mut Pool) -> io::Result<()> {
        let state = &mut self.devices[device];
        let bytes = if completion.status.is_success() { completion.bytes } else { 0 };
        let Some(arrived) = state.receives.take(completion.work, bytes) else { return Ok(()) };
        let Some(&channel) = state.queue_pairs.get(&completion.queue_pair) else {
            // Of a queue pair that lingers, or is gone.
            self.lingering_received(device, completion.queue_pair, completion.status.is_success());
            return Ok(());
        };
        if !completion.status.is_success() {
            state.shares.lost();
            if let Some(State { link: Some(link), .. }) = self.channels.at(channel) {
                link.is_last_received = true;
            }
            let error = io::Error::other(format!("receiving failed: {}", completion.status));
            self.broke(channel, error);
            return Ok(());
        }
        if self.is_early(channel) {
            // The connection manager knows already; it has only not been asked yet.
            self.take_connection_events(pool)?;
        }
        self.arrived(device, channel, arrived, completion.immediate);
        Ok(())
    }

    #[inline]
    fn arrived(&mut self, device: usize, channel: Channel, arrived: Arrived, limit: u32) {
        let shares = &mut self.devices[device].shares;
        let Some(State { phase, link: Some(link), .. }) = self.channels.at(channel) else {
            return shares.lost();
        };
        let is_allowed = shares.received(&mut link.incoming).map_err(io::Error::other);
        let outcome = is_allowed.and_then(|()| link.outgoing.allow(limit).map_err(io::Error::other));
        if let Err(error) = outcome {
            return self.fail(channel, ChannelEnd::Broken(error));
        }
        let segments = [arrived.first, arrived.second].into_iter().flatten();
        match phase {
            Phase::Open => {
                self.events.extend(segments.map(|segment| WireEvent::Received { channel, segment }));
                self.make_busy(channel);
            }
            Phase::Connecting(_) | Phase::Accepting(_) => link.early.extend(segments),
            // This end has closed, and wants no more.
            Phase::Flushing | Phase::Draining(_) => {}
        }
    }

    fn channel_of(&self, work: &Work) -> Option<Channel> {
        let place = work.slot as usize;
        let channel = (place < self.channels.places()).then(|| self.channels.name_at(place)).flatten()?;
        work.is_of(channel).then_some(channel)
    }
}

/// How far sending came.
enum Progress {
    /// There is nothing left to post.
    All,
    /// There is, and room for it.
    More,
    /// There is, and it waits for credit or for completions.
    Waits,
    /// There is, and the next poll tries again.
    TryAgain,
}

/// Plans up to `room` sends, whose parts go to `parts`.
#[inline]
fn plan(
    link: &Link,
    planned: &mut ArrayVec<Planned, LIST_MAX>,
    room: usize,
    parts: &mut Vec<Part>,
    mut key: impl FnMut(&crate::pool::Segment) -> Result<u32, super::memory::PinError>,
) -> io::Result<()> {
    let sizes = Sizes::new(link.slot_bytes, &link.queue_pair.sizes);
    let mut cursor = link.sending.cursor();
    while planned.len() < room
        && let Some(next) = link.sending.plan(&mut cursor, &sizes, parts, &mut key)?
    {
        planned.push(next);
    }
    Ok(())
}
