//! How a channel gives back what it has of its device, and the queue pairs that outlive their channels.
//!
//! A queue pair may fail in the middle of receiving a message, and then it has a receive request in hand. Its device gives
//! that back, flushed, some time later, and says by an event that this was all (`QP_LAST_WQE_REACHED`; InfiniBand
//! Architecture Specification, 10.3.1). A queue pair that is destroyed before may take the receive request with it, which
//! is then neither filled nor free for ever; and nothing that can be posted comes behind it, as the last request of a send
//! queue comes behind the others, for the receive requests are all connections' together.
//!
//! So it is destroyed when that event has come. But nobody waits: when what a channel was sending has come back and its
//! windows are closed, no memory of its own is in the device's hands, and the user hears that it has ended, at once as
//! ever. The queue pair lingers by itself, in the error state, where it does nothing. It keeps one receive request of what
//! its channel was promised, because that one may not be there for others; it can have no more than one in hand, for the
//! messages of a connection come one after the other.
//!
//! It does not linger where there is nothing to wait for: when its peer was promised nothing; when it was
//! not accepted, and no answer of the peer was taken (from then on it receives, though the answer may be nonsense, or not
//! be looked at before the channel is closed); when a receive request of its has come back with an error,
//! which is the one that it had; when its device is gone, or cannot tell. Nor with regions of its own beneath its windows, as soft-RoCE needs them, which can go only after it: its channel
//! ends when a request that was posted after it failed is flushed, and soft-RoCE flushes what it has in hand before that.
//!
//! And it cannot linger while its device still has what was posted after `close_timeout`, for only with the queue pair does
//! that let go of the memory. Unless the receive request that such a queue pair may have had comes back all the same, it
//! counts as gone with it: better one fewer is promised than one that is not there.
//!
//! Some devices never say it, `rxe` of Linux 6.1 among them; and events are the whole process's, so that another user of
//! the device may take one. So the lingering ends after 100 ms in any case, as long as the device has not said it of any
//! queue pair, and after ten seconds from then on. Who needs the place earlier, takes it from the one that lingers longest.

use super::engine::{DeviceState, Engine, Link};
use super::one_sided::Remains;
use super::verbs::{Device, Event, Identifier, Verbs};
use super::work::Work;
use crate::backend::Channel;
use std::time::{Duration, Instant};

/// How long a queue pair lingers on a device that has never said that one was done.
const LINGER_UNTOLD: Duration = Duration::from_millis(100);

/// And on one that has, where it comes within a millisecond unless the device is in trouble.
const LINGER_MAX: Duration = Duration::from_secs(10);

/// A queue pair in the error state, which may have a receive request in hand. One that is promised is kept for it.
#[derive(Debug)]
pub(super) struct Lingering {
    identifier: Identifier,
    device: Device,
    queue_pair: u32,
    since: Instant,
    /// The receive request that it had has come back.
    is_over: bool,
}

impl<V: Verbs> Engine<V> {
    /// Gives back what a channel has of its device. From here on no device touches what it was sending.
    pub(super) fn release(&mut self, channel: Channel) {
        let Some(state) = self.channels.at(channel) else { return };
        let (identifier, link) = (state.identifier.take(), state.link.take());
        let Some(identifier) = identifier else { return };
        self.set_owner(identifier, None);
        let Some(mut link) = link else { return self.destroy(identifier) };
        // First, so that none of its completions is handed to a queue pair that gets the same number.
        self.devices[link.device].queue_pairs.remove(&link.queue_pair.number);
        link.is_last_received |= self.take_last_completions(link.device, link.queue_pair.number);
        let state = &mut self.devices[link.device];
        let has_regions = link.one_sided.has_regions();
        // Windows before their queue pair, which some devices keep as long as one is open; their regions after it.
        let remains = link.one_sided.free(state, &mut self.verbs, &mut self.budget);
        if lingers(state, &link, &remains) {
            // Its peer hears of it now. As a rule it did before, and then this fails.
            let _ = self.verbs.disconnect(identifier);
            state.shares.linger(&link.incoming);
            let (device, queue_pair) = (state.device, link.queue_pair.number);
            let lingering =
                Lingering { identifier, device, queue_pair, since: Instant::now(), is_over: false };
            self.lingering.push(lingering);
        } else {
            state.shares.leave(&link.incoming);
            self.destroy(identifier);
            let has_come = !may_have_one(&link) || link.has_nothing_posted() && has_regions;
            if !has_come && !self.take_last_completions(link.device, link.queue_pair.number) {
                // Its device may have taken it along: it counts as gone, so that nobody is promised what is not there.
                self.devices[link.device].shares.lost();
            }
        }
        self.forget_remains(link.device, remains);
    }

    /// Destroys the queue pairs that have lingered long enough.
    pub(super) fn end_lingering(&mut self) {
        let mut place = 0;
        while place < self.lingering.len() {
            if self.has_lingered(place) {
                self.stop_lingering(place);
            } else {
                place += 1;
            }
        }
    }

    /// Destroys the one that has lingered longest on a device; false if there is none.
    pub(super) fn hurry_lingering(&mut self, device: usize) -> bool {
        let device = self.devices[device].device;
        let Some(place) = self.lingering.iter().position(|it| it.device == device) else { return false };
        self.stop_lingering(place);
        true
    }

    /// How many linger on a device.
    pub(super) fn lingering_on(&self, device: Device) -> usize {
        self.lingering.iter().filter(|lingering| lingering.device == device).count()
    }

    /// A receive request of a queue pair whose channel is gone has come back, whole or not.
    #[cold]
    pub(super) fn lingering_received(&mut self, device: usize, queue_pair: u32, is_whole: bool) {
        let state = &mut self.devices[device];
        state.shares.lost();
        let device = state.device;
        let mut lingering = self.lingering.iter_mut();
        if let Some(found) = lingering.find(|it| it.device == device && it.queue_pair == queue_pair) {
            found.is_over |= !is_whole;
        }
    }

    fn has_lingered(&mut self, place: usize) -> bool {
        let Lingering { identifier, device, since, is_over, .. } = self.lingering[place];
        let Some(state) = self.devices.iter_mut().find(|state| state.device == device) else { return true };
        let is_said = self.verbs.has_let_go_of_receives(identifier);
        state.says_last_receive |= is_said;
        let linger_max = if state.says_last_receive { LINGER_MAX } else { LINGER_UNTOLD };
        is_said || is_over || state.is_broken || since.elapsed() >= linger_max
    }

    fn stop_lingering(&mut self, place: usize) {
        // In its order: the longest first.
        let Lingering { identifier, device, queue_pair, .. } = self.lingering.remove(place);
        if let Some(device) = self.devices.iter().position(|state| state.device == device) {
            self.take_last_completions(device, queue_pair);
            self.devices[device].shares.lingered();
        }
        self.destroy(identifier);
    }

    /// Takes the completions of a queue pair that nobody has any more, and its receive requests with them; says whether one
    /// of these came back with an error, and so was its last. Some devices forget those that were not taken when it is
    /// destroyed (`mlx5_cq_clean` of `libmlx5`), and these receive requests would never be posted again, though they count
    /// as posted. Completions of others are looked at by the next poll.
    fn take_last_completions(&mut self, device: usize, queue_pair: u32) -> bool {
        while self.fetch_completions(device) > 0 {}
        let DeviceState { unseen, receives, shares, .. } = &mut self.devices[device];
        let mut is_last_received = false;
        unseen.retain(|completion| {
            let is_its = completion.queue_pair == queue_pair;
            if is_its
                && Work::decode(completion.work).is_none()
                && receives.take(completion.work, 0).is_some()
            {
                shares.lost();
                is_last_received |= !completion.status.is_success();
            }
            !is_its
        });
        is_last_received
    }

    fn destroy(&mut self, identifier: Identifier) {
        self.verbs.destroy(identifier);
        self.forget_events(identifier);
    }

    /// Forgets what was told of an identifier that is gone: its number may be given again.
    pub(super) fn forget_events(&mut self, identifier: Identifier) {
        let mut requests = Vec::new();
        self.pending.retain(|event| {
            if let Event::Requested { listener, identifier: request, .. } = event
                && *listener == identifier
            {
                requests.push(*request);
            }
            event.whose() != identifier
        });
        for request in requests {
            self.reject(request, "the listener was stopped before it accepted");
        }
    }
}

/// Whether a queue pair may have a receive request in hand.
fn may_have_one(link: &Link) -> bool {
    link.may_receive && link.incoming.outstanding() > 0 && !link.is_last_received
}

/// Whether a queue pair may have a receive request in hand that its device will give back.
fn lingers(device: &DeviceState, link: &Link, remains: &[Remains]) -> bool {
    // What is posted and not known to be done is let go of only when its queue pair is gone.
    let is_idle = link.has_nothing_posted() && remains.is_empty();
    may_have_one(link) && is_idle && !device.is_broken
}
