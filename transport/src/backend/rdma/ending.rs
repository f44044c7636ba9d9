//! How channels end: what is posted comes back, done or flushed, and then what the channel had is given back.
//!
//! A channel that this end closes lets what was posted leave; one that has failed has it flushed. Either is waited for by
//! one last request behind everything else, and by the reads of the queue pair beside, which all come back flushed; and for
//! `close_timeout` at most: a device that neither does what was posted nor gives it back loses the queue pair, and with
//! that lets go of its memory.

use super::engine::{Engine, Link, Phase, State};
use super::verbs::{Operation, Request, Verbs};
use super::work::{Kind, Work};
use crate::backend::{Channel, ChannelEnd, WireEvent};
use std::io;
use std::time::Instant;

impl<V: Verbs> Engine<V> {
    /// Ends a channel that this end does not want any more; what it has sent still leaves.
    pub(super) fn close(&mut self, channel: Channel) {
        let Some(state) = self.channels.at(channel) else { return };
        match &mut state.phase {
            Phase::Open => {
                let is_empty = state.link.as_ref().is_none_or(|link| link.queue.is_empty());
                state.phase = Phase::Flushing;
                self.unsettled += 1;
                if is_empty {
                    self.flushed(channel);
                } else {
                    self.closing.push_back((Instant::now(), channel));
                    self.flush(channel);
                }
            }
            Phase::Connecting(_) | Phase::Accepting(_) => self.drain_with(channel, ChannelEnd::Local),
            Phase::Flushing | Phase::Draining(_) => {}
        }
    }

    /// A channel that this end has closed has sent everything.
    pub(super) fn flushed(&mut self, channel: Channel) {
        let Some(State { identifier: Some(identifier), phase, .. }) = self.channels.at(channel) else {
            return;
        };
        let identifier = *identifier;
        *phase = Phase::Draining(ChannelEnd::Local);
        // The peer learns of it; a connection that is gone by now needs no word.
        let _ = self.verbs.disconnect(identifier);
        self.wait_for_posted(channel);
    }

    /// A channel broke: by its peer's leaving, if that is known, and else by what was seen.
    pub(super) fn broke(&mut self, channel: Channel, error: io::Error) {
        // The first thing that a peer's leaving shows may be the failure of a send.
        if let Err(error) = self.fetch_connection_events() {
            tracing::warn!(%error, "the connection manager could not be asked");
        }
        let has_left = self.channels.at(channel).is_some_and(|state| state.peer_has_left);
        self.fail(channel, if has_left { ChannelEnd::Peer } else { ChannelEnd::Broken(error) });
    }

    /// Ends a channel that cannot go on.
    pub(super) fn fail(&mut self, channel: Channel, reason: ChannelEnd) {
        self.drain_with(channel, reason);
    }

    /// Ends a channel: what is posted comes back, flushed, and then it is gone.
    pub(super) fn drain_with(&mut self, channel: Channel, reason: ChannelEnd) {
        let Some(state) = self.channels.at(channel) else { return };
        let was_settled = state.is_settled();
        let reason = match std::mem::replace(&mut state.phase, Phase::Draining(ChannelEnd::Local)) {
            // It had ended already, and for that reason.
            Phase::Draining(earlier) => {
                state.phase = Phase::Draining(earlier);
                return;
            }
            Phase::Flushing => ChannelEnd::Local,
            _ => reason,
        };
        state.phase = Phase::Draining(reason);
        self.unsettled += usize::from(was_settled);
        let Some(identifier) = state.identifier else { return self.finish(channel) };
        // It fails when the peer has done so before, and then there is nothing left to do.
        let _ = self.verbs.disconnect(identifier);
        self.wait_for_posted(channel);
    }

    /// A channel that drains is gone when what its queue pair has is flushed, of which a last request tells the end, and
    /// when the reads are that the one beside has, each of which tells it. Both queue pairs have been put into the error
    /// state, so it comes; and if not, `close_timeout` does.
    fn wait_for_posted(&mut self, channel: Channel) {
        let Some(State { link, .. }) = self.channels.at(channel) else { return };
        // A queue pair with regions of its own does not linger, and is waited for in any case.
        let needs_last = |link: &Link| !link.queue.is_empty() || link.one_sided.has_regions();
        let needs_last = link.as_deref().is_some_and(needs_last);
        let has_reads_beside = link.as_deref().is_some_and(|link| link.one_sided.has_reads_beside());
        let cannot_wait = needs_last && self.post_last(channel).is_err();
        if cannot_wait || !needs_last && !has_reads_beside {
            self.finish(channel);
        } else {
            self.closing.push_back((Instant::now(), channel));
        }
    }

    /// Ends channels that have waited too long for what is posted. Destroying the queue pair lets go of it.
    #[cold]
    pub(super) fn end_overdue(&mut self) {
        while let Some(&(since, channel)) = self.closing.front() {
            let is_over = self.channels.at(channel).is_none();
            if !is_over && since.elapsed() < self.config.close_timeout {
                return;
            }
            self.closing.pop_front();
            if !is_over {
                let timeout = self.config.close_timeout;
                tracing::warn!(
                    ?timeout,
                    "an RDMA channel ends with requests that its device neither does nor gives back"
                );
                let error = io::Error::other(format!(
                    "what was posted was neither done nor given back within rdma close_timeout ({timeout:?})"
                ));
                // What `Sent` was reported for may not have arrived, so the end is not as the user wished it.
                if let Some(State { phase: phase @ Phase::Flushing, .. }) = self.channels.at(channel) {
                    *phase = Phase::Draining(ChannelEnd::Broken(error));
                    self.finish(channel);
                } else {
                    self.end_at_once(channel, error);
                }
            }
        }
    }

    /// A device's completions cannot be taken: its queue has overflowed, or it is gone. Its channels end, and nobody
    /// waits for what they had posted.
    #[cold]
    pub(super) fn device_broke(&mut self, device: usize, error: &io::Error) {
        let state = &mut self.devices[device];
        (state.is_broken, state.is_short) = (true, false);
        // What it has to tell is not taken any more, and must end no sleep.
        self.verbs.unwatch(state.device);
        let text = format!(
            "the completions of the RDMA device '{}' cannot be taken ({error}): its queue of them has overflowed, or \
             it is gone; see the kernel's log, and restart this program to use it again",
            state.limits.name
        );
        tracing::error!(device = state.limits.name, %error, "an RDMA device cannot be used any more");
        let channels: Vec<Channel> = state.queue_pairs.values().copied().collect();
        for channel in channels {
            self.end_at_once(channel, io::Error::other(text.clone()));
        }
    }

    /// Posts the request behind which nothing more of a channel comes that this end has closed; it is tried again if
    /// the device has no room for it.
    pub(super) fn flush(&mut self, channel: Channel) {
        match self.channels.at(channel) {
            Some(State { phase: Phase::Flushing, link: Some(link), .. }) if !link.is_last_posted => {}
            _ => return,
        }
        match self.post_last(channel) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => self.make_busy(channel),
            Err(_) => self.flushed(channel),
        }
    }

    /// Posts the request behind which nothing more comes.
    fn post_last(&mut self, channel: Channel) -> io::Result<()> {
        let Some(State { identifier: Some(identifier), link: Some(link), .. }) = self.channels.at(channel)
        else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let request = Request {
            work: Work::new(Kind::Last, channel, link.queue.position(0)).encode(),
            operation: Operation::Flush,
            parts: &[],
            is_signaled: true,
            is_inline: false,
        };
        // SAFETY: it names no memory.
        let posted = unsafe { self.verbs.post(*identifier, &[request]) };
        link.queue.posted(posted.count as u32);
        link.is_last_posted |= posted.count == 1;
        posted.error.map_or(Ok(()), Err)
    }

    /// Ends a channel of which nothing that is posted comes back.
    pub(super) fn end_at_once(&mut self, channel: Channel, error: io::Error) {
        let Some(state) = self.channels.at(channel) else { return };
        let was_settled = state.is_settled();
        let reason = match std::mem::replace(&mut state.phase, Phase::Flushing) {
            Phase::Connecting(_) => ChannelEnd::ConnectFailed(error),
            Phase::Flushing => ChannelEnd::Local,
            Phase::Draining(reason) => reason,
            Phase::Accepting(_) | Phase::Open => ChannelEnd::Broken(error),
        };
        state.phase = Phase::Draining(reason);
        self.unsettled += usize::from(was_settled);
        if let Some(identifier) = state.identifier {
            // The queue pair may work all the same, and nobody is to read or write by it any more.
            let _ = self.verbs.disconnect(identifier);
        }
        self.finish(channel);
    }

    /// A channel that drains is gone.
    pub(super) fn finish(&mut self, channel: Channel) {
        let Some(state) = self.channels.at(channel) else { return };
        let reason = match std::mem::replace(&mut state.phase, Phase::Flushing) {
            Phase::Draining(reason) => reason,
            _ => ChannelEnd::Local,
        };
        self.end(channel, reason);
    }

    /// Forgets a channel and says so to those who knew it.
    pub(super) fn end(&mut self, channel: Channel, reason: ChannelEnd) {
        self.release(channel);
        let Some(state) = self.channels.remove(channel) else { return };
        self.unsettled -= usize::from(!state.is_settled());
        if state.is_known {
            self.events.push(WireEvent::Closed { channel, reason });
        }
    }
}
