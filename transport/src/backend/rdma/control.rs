//! The control path: how channels and listeners come up.

use super::config::doublings;
use super::credit::{Incoming, Outgoing, Shares, WINDOW_MIN, connections_max};
use super::engine::{COMPLETIONS_PER_CALL, DeviceState, Engine, Link, Owner, Phase, State};
use super::greeting::{self, Greeting};
use super::memory::Memory;
use super::one_sided::{ReadsAtOnce, Sides, Windows};
use super::receives::{self, Receives, SLOT_BYTES};
use super::sending::{SendQueue, Sending};
use super::verbs::{
    Completion, ConnectParameters, DeviceLimits, DeviceSizes, Event, Identifier, PrivateData, QueuePairSizes,
    REJECTION_BYTES_MAX, Verbs,
};
use super::work::CHANNELS_MAX;
use crate::backend::{
    Channel, ChannelEnd, ConnectError, ListenError, Listener, Listening, WireEvent, WireKind, host_port,
};
use crate::pool::Pool;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

/// The most parts of one send. Frames have few; the rest of a long list goes into the next send.
pub(super) const PARTS_MAX: u32 = 8;

/// One such part of its pool may a device fill with receive requests.
const POOL_PARTS: usize = 2;

/// The queue pairs of a connection that has two beside its own for reads.
const QUEUE_PAIRS_WITH_BESIDE: u32 = 3;

/// Reads in flight on one connection, each way, as far as the devices allow.
pub(super) const READS_MAX: u32 = 16;

/// The status of a rejection by the application, with its reason beside it (`IB_CM_REJ_CONSUMER_DEFINED`).
const REJECTED_BY_APPLICATION: i32 = 28;

impl<V: Verbs> Engine<V> {
    pub(super) fn listen(&mut self, address: &str) -> Result<Listening, ListenError> {
        let addresses =
            host_port::resolve(address).map_err(|bad| bad.into_listen(WireKind::Rdma, address))?;
        let mut failed = io::Error::from(io::ErrorKind::InvalidInput);
        for place in addresses {
            match self.verbs.listen(place, self.config.backlog) {
                Ok((identifier, place)) => {
                    let listener = Listener(self.listeners_made);
                    self.listeners_made += 1;
                    self.add_listener(listener, identifier, place);
                    return Ok(Listening { listener, address: place.to_string() });
                }
                Err(error) => failed = error,
            }
        }
        Err(match failed.raw_os_error() {
            Some(libc::ENODEV) => ListenError::NoWire {
                address: address.to_owned(),
                wire: WireKind::Rdma,
                reason: no_device(failed).to_string(),
            },
            _ => host_port::listen_error(address, failed),
        })
    }

    pub(super) fn add_listener(&mut self, listener: Listener, identifier: Identifier, place: SocketAddr) {
        self.listeners.push((listener, identifier, place));
        self.set_owner(identifier, Some(Owner::Listener(listener)));
    }

    /// Where a listener listens, unless it was stopped.
    pub(super) fn listening_at(&self, listener: Listener) -> Option<SocketAddr> {
        self.listeners.iter().find(|(other, ..)| *other == listener).map(|(.., place)| *place)
    }

    pub(super) fn stop_listening(&mut self, listener: Listener) {
        self.removal.listeners.retain(|(other, _)| *other != listener);
        if let Some(index) = self.listeners.iter().position(|(other, ..)| *other == listener) {
            let (_, identifier, _) = self.listeners.swap_remove(index);
            self.set_owner(identifier, None);
            self.verbs.destroy(identifier);
            self.forget_events(identifier);
        }
    }

    pub(super) fn connect(&mut self, address: &str) -> Result<Channel, ConnectError> {
        let addresses =
            host_port::resolve_peer(address).map_err(|bad| bad.into_connect(WireKind::Rdma, address))?;
        if self.channels.len() == CHANNELS_MAX {
            let error =
                io::Error::other(format!("this wire has {CHANNELS_MAX} channels, which is its limit"));
            return Err(ConnectError::System { address: address.to_owned(), error });
        }
        let phase = Phase::Connecting(addresses.into_iter());
        let channel =
            self.insert(State { identifier: None, phase, link: None, is_known: true, peer_has_left: false });
        self.try_next(channel, io::Error::from(io::ErrorKind::AddrNotAvailable));
        Ok(channel)
    }

    /// Asks the connection manager what there is, and takes note of who has left, and of who may receive from now on.
    pub(super) fn fetch_connection_events(&mut self) -> io::Result<()> {
        while let Some(event) = self.verbs.take_event()? {
            if let Some(Owner::Channel(channel)) = self.owner(event.whose())
                && let Some(state) = self.channels.at(channel)
            {
                state.peer_has_left |= matches!(event, Event::Disconnected(_));
                // With the answer the queue pair was made ready just now, even if what followed has failed.
                let is_answer = matches!(event, Event::Established { .. } | Event::Failed { .. });
                if let Some(link) = state.link.as_mut().filter(|_| is_answer) {
                    link.may_receive = true;
                }
            }
            self.pending.push_back(event);
        }
        Ok(())
    }

    pub(super) fn take_connection_events(&mut self, pool: &mut Pool) -> io::Result<()> {
        self.fetch_connection_events()?;
        while let Some(event) = self.pending.pop_front() {
            self.connection_event(event, pool);
        }
        Ok(())
    }

    fn connection_event(&mut self, event: Event, pool: &mut Pool) {
        match event {
            Event::AddressResolved(identifier) => self.each_step(identifier, Self::address_resolved),
            Event::RouteResolved(identifier) => {
                self.each_step(identifier, |engine, channel, identifier| {
                    engine.route_resolved(channel, identifier, pool)
                });
            }
            Event::Requested { listener, identifier, greeting } => {
                self.requested(listener, identifier, &greeting, pool);
            }
            Event::Established { identifier, greeting } => {
                self.each_step(identifier, |engine, channel, _| engine.established(channel, &greeting));
            }
            Event::Rejected { identifier, status, reason } => {
                self.did_not_come_up(identifier, rejection(status, &reason));
            }
            Event::Failed { identifier, error } => self.did_not_come_up(identifier, error),
            Event::Disconnected(identifier) => {
                // What it had sent before may be among the completions that nobody has looked at.
                if let Some(Owner::Channel(channel)) = self.owner(identifier) {
                    self.leaving.push(channel);
                }
            }
            Event::DeviceRemoved(identifier) => self.device_removed(identifier),
        }
    }

    /// Takes a step of a channel that comes up; its failure is that of this attempt.
    fn each_step(
        &mut self,
        identifier: Identifier,
        step: impl FnOnce(&mut Self, Channel, Identifier) -> io::Result<()>,
    ) {
        let Some(Owner::Channel(channel)) = self.owner(identifier) else { return };
        if let Err(error) = step(self, channel, identifier) {
            self.did_not_come_up(identifier, error);
        }
    }

    fn address_resolved(&mut self, _channel: Channel, identifier: Identifier) -> io::Result<()> {
        let limits = self.verbs.limits(identifier)?;
        self.check_device(&limits)?;
        self.set_acknowledgement_timeout(identifier)?;
        self.verbs.resolve_route(identifier, self.config.resolve_timeout)
    }

    fn route_resolved(
        &mut self,
        channel: Channel,
        identifier: Identifier,
        pool: &mut Pool,
    ) -> io::Result<()> {
        let mut link = self.make_link(channel, identifier, pool)?;
        link.one_sided.beside = self.create_beside(identifier, link.device);
        let parameters = self.parameters(link.device);
        let greeting = our_greeting(&link, &parameters);
        if let Some(state) = self.channels.at(channel) {
            state.link = Some(link);
        }
        self.verbs.connect(identifier, &parameters, &greeting)
    }

    fn requested(
        &mut self,
        listening: Identifier,
        identifier: Identifier,
        greeting: &PrivateData,
        pool: &mut Pool,
    ) {
        let Some(Owner::Listener(listener)) = self.owner(listening) else {
            return self.reject(identifier, "the listener was stopped before it accepted");
        };
        let channel = self.insert(State {
            identifier: Some(identifier),
            phase: Phase::Accepting(listener),
            link: None,
            is_known: false,
            peer_has_left: false,
        });
        self.set_owner(identifier, Some(Owner::Channel(channel)));
        if let Err(error) = self.accept(channel, identifier, greeting, pool) {
            // The identifier lives until the peer was told.
            let _ = self.verbs.reject(identifier, rejection_text(&error.to_string()));
            self.finish(channel);
            self.events.push(WireEvent::AcceptFailed { listener, error });
        }
    }

    fn accept(
        &mut self,
        channel: Channel,
        identifier: Identifier,
        greeting: &PrivateData,
        pool: &mut Pool,
    ) -> io::Result<()> {
        let theirs = Greeting::decode(greeting).map_err(io::Error::other)?;
        let limits = self.verbs.limits(identifier)?;
        self.check_device(&limits)?;
        self.set_acknowledgement_timeout(identifier)?;
        let mut link = self.make_link(channel, identifier, pool)?;
        if theirs.beside.is_some() {
            link.one_sided.beside = self.create_beside(identifier, link.device);
        }
        let mut parameters = self.parameters(link.device);
        link.hear(&theirs, reads_at_once(&parameters));
        parameters.reads_answered = parameters.reads_answered.min(theirs.reads.started);
        parameters.reads_started = parameters.reads_started.min(theirs.reads.answered);
        let greeting = our_greeting(&link, &parameters);
        // It is ready before the answer leaves, which may fail.
        link.may_receive = true;
        if let Some(state) = self.channels.at(channel) {
            state.link = Some(link);
        }
        self.verbs.accept(identifier, &parameters, &greeting)?;
        self.connect_beside(channel, theirs.beside)
    }

    pub(super) fn reject(&mut self, identifier: Identifier, reason: &str) {
        // A peer that is gone needs no answer.
        let _ = self.verbs.reject(identifier, rejection_text(reason));
        self.verbs.destroy(identifier);
        // Its number may be given again.
        self.pending.retain(|event| event.whose() != identifier);
    }

    /// The connection manager says that a channel is up.
    fn established(&mut self, channel: Channel, greeting: &PrivateData) -> io::Result<()> {
        let ours = match self.channels.at(channel) {
            Some(State { link: Some(link), .. }) => {
                let device = link.device;
                reads_at_once(&self.parameters(device))
            }
            _ => return Ok(()),
        };
        let Some(State { phase, link: Some(link), .. }) = self.channels.at(channel) else { return Ok(()) };
        match phase {
            Phase::Connecting(_) => {
                let theirs = Greeting::decode(greeting).map_err(io::Error::other)?;
                link.hear(&theirs, ours);
                self.connect_beside(channel, theirs.beside)?;
                self.open(channel);
            }
            Phase::Accepting(_) => self.open(channel),
            Phase::Open | Phase::Flushing | Phase::Draining(_) => {}
        }
        Ok(())
    }

    /// A channel is open: reports it, and then what came earlier.
    pub(super) fn open(&mut self, channel: Channel) {
        let Some(State { identifier: Some(identifier), .. }) = self.channels.at(channel) else { return };
        let identifier = *identifier;
        let path = self.path(identifier);
        let Some(state) = self.channels.at(channel) else { return };
        let event = match std::mem::replace(&mut state.phase, Phase::Open) {
            Phase::Accepting(listener) => WireEvent::Accepted { listener, channel, path },
            _ => WireEvent::Connected { channel, path },
        };
        state.is_known = true;
        self.unsettled -= 1;
        self.events.push(event);
        if let Some(link) = &mut state.link {
            let early = link.early.drain(..);
            self.events.extend(early.map(|segment| WireEvent::Received { channel, segment }));
        }
        self.make_busy(channel);
    }

    /// Whether something arrived for a channel of which the connection manager has not said yet that it is open. For the
    /// end that accepted, what arrives says so itself.
    pub(super) fn is_early(&mut self, channel: Channel) -> bool {
        match self.channels.at(channel).map(|state| &state.phase) {
            Some(Phase::Accepting(_)) => {
                self.open(channel);
                false
            }
            Some(Phase::Connecting(_)) => true,
            _ => false,
        }
    }

    fn did_not_come_up(&mut self, identifier: Identifier, error: io::Error) {
        let Some(Owner::Channel(channel)) = self.owner(identifier) else { return };
        match self.channels.at(channel).map(|state| &state.phase) {
            Some(Phase::Connecting(_)) => self.try_next(channel, error),
            Some(Phase::Accepting(_)) => self.drain_with(channel, ChannelEnd::Broken(error)),
            Some(Phase::Open | Phase::Flushing) => self.broke(channel, error),
            Some(Phase::Draining(_)) | None => {}
        }
    }

    /// Goes on with the next address, or ends the channel if there is none.
    fn try_next(&mut self, channel: Channel, mut error: io::Error) {
        loop {
            self.release(channel);
            let Some(State { phase: Phase::Connecting(others), .. }) = self.channels.at(channel) else {
                return;
            };
            let Some(address) = others.next() else {
                let reason = ChannelEnd::ConnectFailed(error);
                return self.end(channel, reason);
            };
            match self.verbs.resolve(address, self.source_for(&address), self.config.resolve_timeout) {
                Ok(identifier) => {
                    self.set_owner(identifier, Some(Owner::Channel(channel)));
                    if let Some(state) = self.channels.at(channel) {
                        state.identifier = Some(identifier);
                    }
                    return;
                }
                Err(failed) if failed.raw_os_error() == Some(libc::ENODEV) => error = no_device(failed),
                Err(failed) => error = failed,
            }
        }
    }

    /// The configured address of this end, if it can be one for that peer.
    fn source_for(&self, peer: &SocketAddr) -> Option<SocketAddr> {
        let source = self.config.source.filter(|source| source.is_ipv4() == peer.is_ipv4())?;
        Some(SocketAddr::new(source, 0))
    }

    fn check_device(&self, limits: &DeviceLimits) -> io::Result<()> {
        match &self.config.device {
            Some(device) if *device != limits.name => Err(io::Error::other(format!(
                "the way there is over the RDMA device '{}', and the configuration asks for '{device}': choose it by \
                 an address of its own (rdma source, or where to listen)",
                limits.name
            ))),
            _ => Ok(()),
        }
    }

    fn set_acknowledgement_timeout(&mut self, identifier: Identifier) -> io::Result<()> {
        let Some(timeout) = self.config.acknowledgement_timeout else { return Ok(()) };
        self.verbs.set_acknowledgement_timeout(identifier, doublings(timeout)).map_err(|error| {
            let text = format!(
                "this system cannot set how long acknowledgements are waited for ({error}): Linux 5.2 or later can; or \
                 set rdma acknowledgement_timeout to none (0 for a broker)"
            );
            io::Error::new(error.kind(), text)
        })
    }

    fn parameters(&self, device: usize) -> ConnectParameters {
        let limits = &self.devices[device].limits;
        ConnectParameters {
            retry_count: self.config.retry_count,
            rnr_retry_count: self.config.receiver_not_ready_retry_count,
            // Without windows nothing is read there.
            reads_answered: if limits.windows_max > 0 {
                limits.reads_answered_max.min(READS_MAX) as u8
            } else {
                0
            },
            reads_started: limits.reads_started_max.min(READS_MAX) as u8,
        }
    }

    /// A queue pair for a channel, with receive requests posted that the peer can be promised.
    fn make_link(
        &mut self,
        channel: Channel,
        identifier: Identifier,
        pool: &mut Pool,
    ) -> io::Result<Box<Link>> {
        let place = self.device_of(identifier, pool)?;
        let state = &mut self.devices[place];
        if state.is_broken {
            return Err(io::Error::other(format!(
                "the completions of the RDMA device '{}' could not be taken any more; restart this program to use it",
                state.limits.name
            )));
        }
        if !state.shares.has_room() || state.queue_pairs.len() >= state.queue_pairs_max {
            return Err(io::Error::other(format!(
                "the RDMA device '{}' has {} connections, which is its limit here: raise rdma receive_slots_max ({}), \
                 pool bytes_max ({}), or lower rdma sends_max ({}) if the device has too few completions",
                state.limits.name,
                state.queue_pairs.len(),
                self.config.receive_slots_max,
                pool.bytes_max(),
                self.config.sends_max,
            )));
        }
        state.receives.grow(state.shares.wanted() as usize);
        let (count, posted) =
            state.receives.post(state.device, &mut self.verbs, &mut state.memory, &mut self.budget, pool);
        state.shares.posted(count);
        let Some(incoming) = self.join(place) else {
            let reason = posted.err().map_or_else(|| "none are free".to_owned(), |error| error.to_string());
            return Err(io::Error::other(format!("no receive requests could be posted: {reason}")));
        };
        let state = &mut self.devices[place];
        let sends = self.config.sends_max.min(state.limits.sends_max);
        let parts = PARTS_MAX.min(state.limits.parts_max);
        let mut sizes = QueuePairSizes { sends, parts, inline_bytes: state.inline_bytes };
        let mut made = self.verbs.create_queue_pair(identifier, &sizes);
        // A device refuses to take more inline than it can, and does not say how much that is.
        while sizes.inline_bytes > 0
            && made.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
        {
            sizes.inline_bytes /= 2;
            made = self.verbs.create_queue_pair(identifier, &sizes);
        }
        match made {
            Ok(queue_pair) => {
                state.inline_bytes = sizes.inline_bytes;
                state.queue_pairs.insert(queue_pair.number, channel);
                Ok(Box::new(Link {
                    device: place,
                    queue_pair,
                    slot_bytes: 0,
                    outgoing: Outgoing::new(0),
                    incoming,
                    queue: SendQueue::new(sends),
                    sending: Sending::new(),
                    one_sided: Sides::default(),
                    early: Vec::new(),
                    is_busy: false,
                    is_last_posted: false,
                    is_last_received: false,
                    may_receive: false,
                }))
            }
            Err(error) => {
                state.shares.leave(&incoming);
                Err(io::Error::new(error.kind(), format!("no queue pair could be made: {error}")))
            }
        }
    }

    /// A share of a device's receive requests for one connection more, if need be that of queue pairs which linger.
    fn join(&mut self, place: usize) -> Option<Incoming> {
        let limits = &self.devices[place].limits;
        let places = (limits.queue_pairs_max / queue_pairs_each(limits)) as usize;
        loop {
            let state = &mut self.devices[place];
            let connections = state.queue_pairs.len();
            let device = state.device;
            if connections + self.lingering_on(device) < places
                && let Some(incoming) = self.devices[place].shares.join()
            {
                return Some(incoming);
            }
            if !self.hurry_lingering(place) {
                return None;
            }
        }
    }

    /// The place of an identifier's device, which is made ready the first time.
    fn device_of(&mut self, identifier: Identifier, pool: &Pool) -> io::Result<usize> {
        let mut limits = self.verbs.limits(identifier)?;
        if !self.config.memory_windows {
            limits.windows_max = 0;
        }
        let affordable = pool.bytes_max() / POOL_PARTS / SLOT_BYTES as usize;
        let receives =
            (affordable.min(self.config.receive_slots_max as usize) as u32).min(limits.receives_max);
        if receives < WINDOW_MIN || limits.receive_parts_max < receives::PARTS {
            return Err(io::Error::other(format!(
                "the RDMA device '{}' has {receives} receive requests for this wire, which needs {WINDOW_MIN} or more, of {} \
                 parts each, in a queue that connections share (it has {} parts): raise pool bytes_max ({}), or use \
                 another device",
                limits.name,
                receives::PARTS,
                limits.receive_parts_max,
                pool.bytes_max(),
            )));
        }
        let sends = self.config.sends_max.min(limits.sends_max);
        // A completion that finds no room is lost, so there is room for all: in error every request has one.
        let signaled = if has_beside(&limits) { sends + READS_MAX } else { sends };
        let connections = (limits.queue_pairs_max / queue_pairs_each(&limits)).min(connections_max(receives));
        let completions =
            receives.saturating_add(signaled.saturating_mul(connections)).min(limits.completions_max);
        let queue_pairs_max = (completions.saturating_sub(receives) / signaled).min(connections) as usize;
        let sizes = DeviceSizes { completions, receives, receive_parts: receives::PARTS };
        let device = self.verbs.device(identifier, &sizes)?;
        if let Some(place) = self.devices.iter().position(|state| state.device == device) {
            return Ok(place);
        }
        tracing::info!(
            device = limits.name,
            receives,
            completions,
            queue_pairs_max,
            "an RDMA device is in use"
        );
        self.devices.push(DeviceState {
            device,
            limits,
            memory: Memory::new(device),
            receives: Receives::default(),
            shares: Shares::new(receives, self.config.window_max),
            windows: Windows::default(),
            inline_bytes: self.config.inline_bytes,
            queue_pairs: Default::default(),
            queue_pairs_max,
            is_short: false,
            says_last_receive: false,
            unseen: VecDeque::with_capacity(COMPLETIONS_PER_CALL),
            taken: Box::new([Completion::NONE; COMPLETIONS_PER_CALL]),
            is_broken: false,
            is_gone: false,
        });
        Ok(self.devices.len() - 1)
    }

    fn insert(&mut self, state: State) -> Channel {
        self.unsettled += usize::from(!state.is_settled());
        self.channels.insert(state)
    }
}

impl Link {
    /// Whether all that was posted has come back, done or flushed; reads on the channel's own queue pair are in its queue.
    pub(super) fn has_nothing_posted(&self) -> bool {
        self.queue.is_empty() && !self.one_sided.has_reads_beside()
    }

    /// Takes note of what the peer says of itself.
    fn hear(&mut self, theirs: &Greeting, ours: ReadsAtOnce) {
        (self.slot_bytes, self.outgoing) = (theirs.slot_bytes, Outgoing::new(theirs.limit));
        self.one_sided.agree(ours, theirs.reads);
    }
}

/// What this end says of itself.
fn our_greeting(link: &Link, parameters: &ConnectParameters) -> [u8; greeting::BYTES] {
    let reads = reads_at_once(parameters);
    let beside = link.one_sided.beside;
    Greeting { slot_bytes: SLOT_BYTES, limit: link.incoming.told(), reads, beside }.encode()
}

/// Whether the connections of a device have queue pairs beside their own.
fn has_beside(limits: &DeviceLimits) -> bool {
    limits.windows_max == 0
}

/// The most queue pairs that a connection has, also while it lingers.
fn queue_pairs_each(limits: &DeviceLimits) -> u32 {
    if has_beside(limits) { QUEUE_PAIRS_WITH_BESIDE } else { 1 }
}

fn reads_at_once(parameters: &ConnectParameters) -> ReadsAtOnce {
    ReadsAtOnce { started: parameters.reads_started, answered: parameters.reads_answered }
}

/// The reason for a rejection, as far as the connection manager carries it.
fn rejection_text(reason: &str) -> &[u8] {
    &reason.as_bytes()[..reason.floor_char_boundary(REJECTION_BYTES_MAX)]
}

/// Why a peer did not accept, in words.
fn rejection(status: i32, reason: &[u8]) -> io::Error {
    let end = reason.iter().position(|&byte| byte == 0).unwrap_or(reason.len());
    let text = match (status, String::from_utf8_lossy(&reason[..end])) {
        (REJECTED_BY_APPLICATION, said) if !said.is_empty() => format!("the peer refuses: {said}"),
        (10, _) => "the peer's RDMA stack still knows an earlier connection from this one's address (stale \
                   connection); it forgets it within seconds"
            .to_owned(),
        _ => format!("nobody accepts RDMA connections there (rejection {status})"),
    };
    io::Error::new(io::ErrorKind::ConnectionRefused, text)
}

fn no_device(error: io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!(
            "no RDMA device has this address ({error}): see ibv_devices and rdma link, and load its driver"
        ),
    )
}
