//! The state machine of one connection: its phases, its timeouts, and how it ends.

use super::greeting::{Greeted, Greeting, refused};
use super::open::Open;
use super::streams::Streams;
use super::times::{Times, acknowledge_timeout};
use super::{ChannelTraits, CloseReason, ConnectionConfig, ConnectionEvent, Identity, ReadFailure};
use crate::message::Message;
use crate::packing::InboxError;
use crate::pool::{GatherList, Pool, PoolError, Segment};
use crate::proto::control::{Close, CloseCode, Control, RefusalCode};
use crate::proto::handshake::{
    AwaitClientHello, AwaitServerHello, LocalEnd, LocalFault, Negotiated, Proposal,
};
use crate::proto::hello::{Capabilities, SessionTerms};
use crate::proto::text::ReasonText;
use crate::proto::{Lane, Parameters};
use crate::time::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// The most bytes of control records that may wait for the peer. An honest one has some hundred links at most that are
/// answered at a time.
const CONTROL_BYTES_WAITING_MAX: usize = 1 << 20;

/// The most bytes of control records that the peer may leave unacknowledged. An honest one acknowledges at once what is
/// beyond 1 MiB; the rest is what may be on its way meanwhile.
const CONTROL_BYTES_KEPT_MAX: usize = 8 << 20;

/// One end of a connection, from the first byte of its hello to its end.
///
/// What it sends and where it puts what it receives are the [`Streams`] of its session, which whoever drives it passes
/// in. Of several connections of a session, only the one that `is_current` sends the streams.
#[derive(Debug)]
pub(crate) struct Connection {
    config: ConnectionConfig,
    pub(super) phase: Phase,
    /// A hello, or a refusal, that is to be sent.
    hello: Option<Vec<u8>>,
    events: VecDeque<ConnectionEvent>,
    ending: Ending,
    /// So many bodies can be exposed on its channel at a time.
    exposures_max: usize,
    /// The channel has ended, for this reason; what arrived before is still to be looked at.
    channel_end: Option<String>,
    pub(super) times: Times,
}

#[derive(Debug)]
pub(super) enum Phase {
    Greeting(Option<Box<Greeting>>),
    /// The client's hello is here, and whoever has this connection decides about it.
    Proposed(Option<(Box<Proposal>, Segment)>),
    Open(Box<Open>),
}

/// How far its end has come.
#[derive(Debug)]
enum Ending {
    /// Not at all.
    Running,
    /// Closed here; what waits is sent first.
    Flushing { code: CloseCode, text: String },
    /// The `Closed` event was given; a last frame may still have to leave.
    Ended { since: Timestamp, then: Then },
}

/// What is still to come after the `Closed` event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Nothing, once what waits has left.
    Nothing,
    /// The peer ends the channel when it has read why. If this end closed it at once, what the peer has sent meanwhile
    /// would meet a closed socket, whose answer (a reset) destroys what the peer has not read yet.
    ChannelEnd,
    /// The same, or the peer closes in order at the same time and waits for this end to do it.
    PeerClose,
}

/// Its beginning.
impl Connection {
    /// The connecting end, of a session with these terms.
    ///
    /// # Errors
    /// [`LocalFault`] if the configuration cannot be said in a hello.
    pub(crate) fn client(
        config: ConnectionConfig,
        identity: &Identity,
        channel: ChannelTraits,
        terms: SessionTerms,
        now: Timestamp,
    ) -> Result<Self, LocalFault> {
        let local = local_end(&config.parameters, identity, channel);
        let (state, hello) = AwaitServerHello::start(local, terms)?;
        Ok(Self::new(config, Greeting::client(state), Some(hello), channel, now))
    }

    /// The end that was connected to.
    ///
    /// # Errors
    /// As [`Connection::client`].
    pub(crate) fn server(
        config: ConnectionConfig,
        identity: &Identity,
        channel: ChannelTraits,
        now: Timestamp,
    ) -> Result<Self, LocalFault> {
        let state = AwaitClientHello::new(local_end(&config.parameters, identity, channel))?;
        Ok(Self::new(config, Greeting::server(state), None, channel, now))
    }

    fn new(
        config: ConnectionConfig,
        greeting: Greeting,
        hello: Option<Vec<u8>>,
        channel: ChannelTraits,
        now: Timestamp,
    ) -> Self {
        Self {
            config,
            phase: Phase::Greeting(Some(Box::new(greeting))),
            hello,
            events: VecDeque::new(),
            ending: Ending::Running,
            exposures_max: channel.exposures_max,
            channel_end: None,
            times: Times::new(now),
        }
    }
}

/// What comes in.
impl Connection {
    /// Takes bytes that arrived. What they mean is asked of [`Connection::poll_event`].
    #[inline]
    pub(crate) fn handle_segment(&mut self, segment: Segment, now: Timestamp) {
        self.times.received = now;
        if let (Ending::Running, Phase::Open(open)) = (&self.ending, &mut self.phase) {
            return open.inbox.push(segment);
        }
        self.handle_other_segment(segment, now);
    }

    /// Of a connection that comes up or ends.
    #[inline(never)]
    fn handle_other_segment(&mut self, segment: Segment, now: Timestamp) {
        if let Ending::Ended { then, .. } = self.ending
            && then != Then::PeerClose
        {
            return;
        }
        match &mut self.phase {
            Phase::Open(open) => open.inbox.push(segment),
            Phase::Greeting(greeting) => match greeting.take().map(|greeting| greeting.take(segment)) {
                Some(Ok(unfinished)) => *greeting = Some(Box::new(unfinished)),
                Some(Err(Greeted::Failed { reason, answer })) => self.fail_greeting(reason, answer, now),
                Some(Err(Greeted::Done { negotiated, rest })) => self.open(negotiated, rest),
                Some(Err(Greeted::Proposed { proposal, rest })) => {
                    self.phase = Phase::Proposed(Some((proposal, rest)));
                }
                None => {}
            },
            // A client sends nothing behind its hello before it is answered; if it does, it is not understood.
            Phase::Proposed(..) => {}
        }
    }

    /// Refuses the handshake, whatever the peer will say. For the end that was connected to, before it has answered.
    pub(crate) fn refuse(&mut self, code: RefusalCode, text: &str, now: Timestamp) {
        let refused = match &mut self.phase {
            Phase::Greeting(greeting) => greeting.take().and_then(|greeting| greeting.refuse(code, text)),
            Phase::Proposed(proposed) => {
                proposed.take().map(|(proposal, _)| refused(proposal.refuse(code, text)))
            }
            Phase::Open(_) => None,
        };
        if let Some(Greeted::Failed { reason, answer }) = refused {
            self.fail_greeting(reason, answer, now);
        }
    }

    /// What a client proposes that waits for a decision.
    pub(crate) fn proposal(&self) -> Option<&Proposal> {
        match &self.phase {
            Phase::Proposed(proposed) => proposed.as_ref().map(|(proposal, _)| &**proposal),
            _ => None,
        }
    }

    /// Does not take these capabilities, whatever the client offers. For a client that waits for a decision.
    pub(crate) fn withhold(&mut self, capabilities: Capabilities) {
        if let Phase::Proposed(Some((proposal, _))) = &mut self.phase {
            proposal.withhold(capabilities);
        }
    }

    /// Accepts what a client proposes, with these terms of the session.
    pub(crate) fn accept(&mut self, terms: SessionTerms) {
        let Phase::Proposed(proposed) = &mut self.phase else { return };
        let Some((proposal, rest)) = proposed.take() else { return };
        let (negotiated, answer) = proposal.accept(terms);
        self.hello = Some(answer);
        self.open(Box::new(negotiated), rest);
    }

    fn fail_greeting(&mut self, reason: CloseReason, answer: Option<Vec<u8>>, now: Timestamp) {
        let then = if answer.is_some() { Then::ChannelEnd } else { Then::Nothing };
        self.hello = answer;
        self.end_then(reason, then, now);
    }

    fn open(&mut self, negotiated: Box<Negotiated>, rest: Segment) {
        let mut open = Box::new(Open::new(&negotiated, self.exposures_max));
        if !rest.is_empty() {
            open.inbox.push(rest);
        }
        self.phase = Phase::Open(open);
        self.events.push_back(ConnectionEvent::Opened(negotiated));
    }

    /// The next event, or `None` until more has arrived. A message is written to `arrived`.
    ///
    /// # Errors
    /// As [`Pool::buffer`]: nothing is lost, and the same call may succeed when buffers have come back.
    #[inline]
    pub(crate) fn poll_event(
        &mut self,
        streams: Option<&mut Streams>,
        now: Timestamp,
        pool: &mut Pool,
        arrived: &mut Option<Message>,
    ) -> Result<Option<ConnectionEvent>, PoolError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        let Some(streams) = streams else { return Ok(None) };
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            let Phase::Open(open) = &mut self.phase else { return Ok(None) };
            if let Ending::Ended { then, .. } = &mut self.ending {
                if *then == Then::PeerClose && open.finds_close(pool) {
                    *then = Then::Nothing;
                }
                return Ok(None);
            }
            let polled = open.poll(streams, now, pool, &mut self.events, arrived);
            if matches!(polled, Ok(true)) {
                // What is behind it is still to be looked at, and what that leaves unfinished is noted then.
                return Ok(Some(ConnectionEvent::Message));
            }
            self.times.note_unfinished(open.unfinished_frame(), now);
            let awaits_chunks = open.inbox.has_unfinished() && !open.is_full();
            self.times.note_bulk(awaits_chunks, open.chunks_received(), now);
            match polled {
                Ok(_) => {
                    if let Some(text) = control_past_limit(streams) {
                        self.end(CloseReason::ResourceLimit(text), now);
                    }
                }
                Err(InboxError::Peer(violation)) => self.end(violation.into(), now),
                // No waiting would help.
                Err(InboxError::Pool(
                    error @ (PoolError::TooManySegments { .. } | PoolError::TooLarge { .. }),
                )) => self.end(CloseReason::ResourceLimit(error.to_string()), now),
                Err(InboxError::Pool(error)) => return Err(error),
            }
            self.notice_close(now);
            if self.events.is_empty() {
                match self.channel_end.take() {
                    Some(reason) => self.end(CloseReason::Channel(reason), now),
                    None => return Ok(None),
                }
            }
        }
    }

    /// Whether [`Connection::poll_event`] has an event to give for which nothing that arrived has to be looked at.
    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The peer's close ends this end, too.
    fn notice_close(&mut self, now: Timestamp) {
        if let Phase::Open(open) = &mut self.phase
            && let Some(reason) = open.closed_by_peer.take()
        {
            // The answer, by which a peer that waits for it knows that its own was read.
            self.end(reason, now);
        }
    }
}

/// What goes out.
impl Connection {
    /// Appends what may be sent now to `gather`; true if there is anything. To be called when no send is in flight;
    /// a true result starts one, which [`Connection::handle_sent`] ends.
    ///
    /// # Errors
    /// As [`Pool::buffer`]; what was appended may be sent, the rest stays queued.
    pub(crate) fn poll_transmit(
        &mut self,
        streams: Option<&mut Streams>,
        is_current: bool,
        now: Timestamp,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<bool, PoolError> {
        if let Some(hello) = &self.hello {
            let mut buffer = pool.buffer(hello.len())?;
            buffer.put_slice(hello);
            gather.push(buffer.split());
            self.hello = None;
        }
        let filled = match (&mut self.phase, streams) {
            (Phase::Open(open), Some(streams)) => {
                let mut filled = open.fill(streams, is_current, pool, gather);
                let (is_starved, limit) = open.waits_for_frames(streams, is_current);
                self.times.note_frames(is_starved, limit, now);
                let (is_starved, limit) = open.waits_for_chunks(streams, is_current);
                self.times.note_chunks(is_starved, limit, now);
                if is_current {
                    note_acknowledged(&mut self.times, open, streams, now);
                }
                if open.has_one_sided() {
                    self.times.note_offers(open.offers_outstanding() > 0, open.offers_taken(), now);
                }
                if filled.is_ok() && self.stages_close(streams, is_current, now) {
                    filled = self.fill_close(streams, is_current, pool, gather);
                }
                filled
            }
            _ => Ok(()),
        };
        if !gather.is_empty() {
            self.times.sent = now;
            self.times.send_began = Some(now);
        }
        filled.map(|()| !gather.is_empty())
    }

    /// The send in flight is done.
    pub(crate) fn handle_sent(&mut self) {
        self.times.send_began = None;
    }

    /// Whether [`Connection::poll_transmit`] would find something, as far as can be known without trying.
    pub(crate) fn wants_transmit(&self, streams: Option<&Streams>, is_current: bool) -> bool {
        self.hello.is_some()
            || match (&self.phase, streams) {
                (Phase::Open(open), Some(streams)) => {
                    open.wants_transmit(streams, is_current) || self.may_stage_close(streams, is_current)
                }
                _ => false,
            }
    }

    /// True when nothing more is to be sent or received: the channel may be closed.
    pub(crate) fn is_finished(&self) -> bool {
        let nothing_left = match &self.phase {
            Phase::Open(open) => !open.has_close(),
            Phase::Greeting(_) | Phase::Proposed(..) => true,
        };
        matches!(self.ending, Ending::Ended { then: Then::Nothing, .. })
            && self.hello.is_none()
            && self.times.send_began.is_none()
            && nothing_left
    }

    /// Closing in order, and everything that waited has been packed, and read if it was offered.
    fn may_stage_close(&self, streams: &Streams, is_current: bool) -> bool {
        matches!(self.ending, Ending::Flushing { .. })
            && (!is_current || streams.outbox.waiting_messages() == 0)
            && self.open_part().is_none_or(|open| open.offers_outstanding() == 0)
    }

    /// Ends it, if everything that waited has been packed; its close is to follow.
    fn stages_close(&mut self, streams: &Streams, is_current: bool, now: Timestamp) -> bool {
        if !self.may_stage_close(streams, is_current) {
            return false;
        }
        if let Ending::Flushing { code, text } = std::mem::replace(&mut self.ending, Ending::Running) {
            self.end_then(CloseReason::Local { code, text }, Then::PeerClose, now);
        }
        true
    }

    fn fill_close(
        &mut self,
        streams: &mut Streams,
        is_current: bool,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<(), PoolError> {
        match &mut self.phase {
            Phase::Open(open) => open.fill(streams, is_current, pool, gather),
            Phase::Greeting(_) | Phase::Proposed(..) => Ok(()),
        }
    }
}

/// Time, and the end.
impl Connection {
    /// When [`Connection::handle_timeout`] wants to be called. A call at that time moves it forward, or ends the
    /// connection.
    pub(crate) fn next_timeout(&self, streams: Option<&Streams>) -> Timestamp {
        let (times, config) = (&self.times, &self.config);
        match (&self.ending, &self.phase) {
            _ if self.is_finished() => Timestamp::NEVER,
            (Ending::Ended { since, .. }, _) => *since + config.close_timeout,
            (_, Phase::Greeting(_) | Phase::Proposed(..)) => times.started + config.handshake_timeout,
            (_, Phase::Open(open)) => {
                // One that is owed already leaves as soon as it can; until then there is nothing to wake up for.
                let keep_alive =
                    if open.owes_keep_alive { Timestamp::NEVER } else { times.sent + open.keep_alive };
                let acknowledgement = match streams {
                    Some(streams) if !open.owes_acknowledgement => {
                        streams.acknowledgement_due(config.acknowledgement_delay)
                    }
                    _ => Timestamp::NEVER,
                };
                (times.received + open.idle_timeout)
                    .min(keep_alive)
                    .min(acknowledgement)
                    .min(times.trouble_due(config))
                    .min(self.one_sided_due(open))
            }
        }
    }

    /// Does what is due: a keep-alive, or the end of the connection for a reason of time.
    pub(crate) fn handle_timeout(&mut self, streams: Option<&Streams>, now: Timestamp) {
        if let (Phase::Open(open), Some(streams)) = (&self.phase, streams) {
            note_acknowledged(&mut self.times, open, streams, now);
        }
        let (times, config) = (&self.times, &self.config);
        let reason = match (&self.ending, &mut self.phase) {
            (Ending::Ended { since, .. }, _) => {
                if now >= *since + config.close_timeout {
                    self.let_go();
                }
                return;
            }
            (_, Phase::Greeting(_) | Phase::Proposed(..))
                if now >= times.started + config.handshake_timeout =>
            {
                CloseReason::HandshakeTimeout(config.handshake_timeout)
            }
            (_, Phase::Greeting(_) | Phase::Proposed(..)) => return,
            (_, Phase::Open(_)) if now >= times.progress_due(config.send_timeout) => {
                CloseReason::PeerNotReading(config.send_timeout)
            }
            (_, Phase::Open(_)) if now >= times.acknowledged_due(acknowledge_timeout(config)) => {
                CloseReason::NotAcknowledged(acknowledge_timeout(config))
            }
            (_, Phase::Open(_)) if now >= times.frame_due(config.frame_timeout) => {
                CloseReason::FrameTimeout(config.frame_timeout)
            }
            (_, Phase::Open(_)) if now >= times.bulk_due(config.bulk_timeout) => {
                CloseReason::BulkTimeout(config.bulk_timeout)
            }
            (_, Phase::Open(open))
                if open.has_one_sided() && now >= times.offers_due(offers_timeout(config)) =>
            {
                CloseReason::OffersNotTaken(offers_timeout(config))
            }
            (_, Phase::Open(open)) if open.overdue_read(config.bulk_timeout, now).is_some() => {
                let lane = open.overdue_read(config.bulk_timeout, now).unwrap_or(Lane::Bulk);
                CloseReason::ReadFailed { lane, failure: ReadFailure::Overdue(config.bulk_timeout) }
            }
            (_, Phase::Open(open)) if now >= times.received + open.idle_timeout => {
                CloseReason::PeerSilent(open.idle_timeout)
            }
            (_, Phase::Open(open)) => {
                open.owes_keep_alive |= now >= times.sent + open.keep_alive;
                open.owes_acknowledgement |= streams
                    .is_some_and(|streams| now >= streams.acknowledgement_due(config.acknowledgement_delay));
                return;
            }
        };
        let reason = self.channel_end.take().map_or(reason, CloseReason::Channel);
        self.end(reason, now);
    }

    /// When a read, or an offer, has taken too long.
    #[inline]
    fn one_sided_due(&self, open: &Open) -> Timestamp {
        if !open.has_one_sided() {
            return Timestamp::NEVER;
        }
        let read_due =
            open.oldest_read().map_or(Timestamp::NEVER, |(_, since)| since + self.config.bulk_timeout);
        read_due.min(self.times.offers_due(offers_timeout(&self.config)))
    }

    /// Closes the connection in order: what was queued is sent, then the reason, then the channel may be closed.
    pub(crate) fn close(&mut self, code: CloseCode, text: &str, now: Timestamp) {
        match (&self.ending, &self.phase) {
            (Ending::Running, Phase::Open(_)) => {
                self.ending = Ending::Flushing { code, text: text.to_owned() };
            }
            (Ending::Running, Phase::Greeting(_) | Phase::Proposed(..)) => {
                self.end(CloseReason::Local { code, text: text.to_owned() }, now)
            }
            _ => {}
        }
    }

    /// Ends a connection in whose place there is a newer one, with the reason `SessionTaken`, and leaves it to the peer
    /// to close the channel first: whoever closes first keeps the port for a while. After `close_timeout` this end
    /// closes it.
    pub(crate) fn retire(&mut self, now: Timestamp) {
        let reason = CloseReason::Local {
            code: CloseCode::SessionTaken,
            text: "a newer connection has taken its place".to_owned(),
        };
        self.end_then(reason, Then::ChannelEnd, now);
    }

    /// Gives up on its channel, which is to be closed at once.
    pub(crate) fn let_go_of_channel(&mut self, now: Timestamp) {
        self.retire(now);
        self.let_go();
    }

    /// The channel has ended by itself. What arrived before is still given by [`Connection::poll_event`], and then the
    /// end.
    pub(crate) fn handle_channel_end(&mut self, reason: &str, now: Timestamp) {
        match &self.phase {
            Phase::Open(_) if !self.is_ended() => self.channel_end = Some(reason.to_owned()),
            _ => self.end(CloseReason::Channel(reason.to_owned()), now),
        }
        self.let_go();
    }

    /// Ends the connection at once, for a bound of this end's own.
    pub(crate) fn abort(&mut self, reason: CloseReason, now: Timestamp) {
        self.end(reason, now);
    }

    /// Ends the connection at once, for a reason that an open connection tells its peer.
    fn end(&mut self, reason: CloseReason, now: Timestamp) {
        let then = match (&reason, &self.phase) {
            (CloseReason::Peer { .. } | CloseReason::Channel(_), _)
            | (_, Phase::Greeting(_) | Phase::Proposed(..)) => Then::Nothing,
            _ => Then::ChannelEnd,
        };
        self.end_then(reason, then, now);
    }

    /// Gives the one `Closed` event, and leaves nothing to be sent but the reason.
    fn end_then(&mut self, reason: CloseReason, then: Then, now: Timestamp) {
        if self.is_ended() {
            return;
        }
        if let Phase::Open(open) = &mut self.phase {
            let text = match &reason {
                CloseReason::Local { text, .. } => text.clone(),
                CloseReason::Peer { .. } => String::new(),
                other => other.to_string(),
            };
            open.stop(
                &Control::Close(Close { code: reason.code(), text: ReasonText::of(&text) }),
                then == Then::PeerClose,
            );
        }
        let is_gone = self.channel_end.is_some() || matches!(reason, CloseReason::Channel(_));
        self.ending = Ending::Ended { since: now, then };
        self.events.push_back(ConnectionEvent::Closed(reason));
        if is_gone {
            self.let_go();
        }
    }

    /// Gives up what has not been sent, and what is still awaited: it cannot come to anything any more.
    fn let_go(&mut self) {
        self.hello = None;
        self.times.send_began = None;
        if let Phase::Open(open) = &mut self.phase {
            open.close = Some(Vec::new());
        }
        if let Ending::Ended { then, .. } = &mut self.ending {
            *then = Then::Nothing;
        }
    }

    /// Whether its end has been given as an event, or is about to be.
    pub(crate) fn is_ended(&self) -> bool {
        matches!(self.ending, Ending::Ended { .. })
    }

    /// True between the handshake and the end.
    pub(crate) fn is_open(&self) -> bool {
        matches!((&self.phase, &self.ending), (Phase::Open(_), Ending::Running)) && self.channel_end.is_none()
    }

    /// What it consists of between its handshake and its end, and a little longer.
    #[inline]
    pub(super) fn open_part(&self) -> Option<&Open> {
        match &self.phase {
            Phase::Open(open) => Some(open),
            Phase::Greeting(_) | Phase::Proposed(..) => None,
        }
    }

    pub(super) fn open_part_mut(&mut self) -> Option<&mut Open> {
        match &mut self.phase {
            Phase::Open(open) => Some(open),
            Phase::Greeting(_) | Phase::Proposed(..) => None,
        }
    }

    /// Whether a frame of the peer has arrived: it has understood what it was told in the hello.
    pub(crate) fn has_received_frame(&self) -> bool {
        matches!(&self.phase, Phase::Open(open) if open.has_received())
    }
}

/// What to tell a peer that asks and asks without taking the answers, or without ever acknowledging them.
#[inline]
fn control_past_limit(streams: &Streams) -> Option<String> {
    let (waiting, kept) = streams.outbox.control_bytes();
    let is_past = waiting > CONTROL_BYTES_WAITING_MAX || kept > CONTROL_BYTES_KEPT_MAX;
    is_past.then(|| past_limit_text(waiting, kept))
}

#[cold]
fn past_limit_text(waiting: usize, kept: usize) -> String {
    if waiting > CONTROL_BYTES_WAITING_MAX {
        return format!("{waiting} bytes of answers wait for the peer ({CONTROL_BYTES_WAITING_MAX})");
    }
    format!("the peer has not acknowledged {kept} bytes of control records ({CONTROL_BYTES_KEPT_MAX})")
}

/// The peer may take its time for a read, and then tell of it.
fn offers_timeout(config: &ConnectionConfig) -> Duration {
    config.bulk_timeout + config.send_timeout
}

/// What is offered for one-sided reads has a time of its own.
fn note_acknowledged(times: &mut Times, open: &Open, streams: &Streams, now: Timestamp) {
    let is_kept = !open.has_one_sided() && streams.outbox.unacknowledged() > 0;
    // Up to where matters only for what is kept.
    let acknowledged = if is_kept { streams.outbox.acknowledged() } else { 0 };
    times.note_acknowledged(is_kept, acknowledged, now);
}

fn local_end(parameters: &Parameters, identity: &Identity, channel: ChannelTraits) -> LocalEnd {
    let ChannelTraits { packet_bytes, exposures_max } = channel;
    let one_sided = if exposures_max > 0 { Capabilities::ONE_SIDED_READS } else { Capabilities::default() };
    // A packet above what a chunk may hold could not be kept whole; one below the protocol's least is rounded up.
    let packet_bytes =
        packet_bytes.clamp(256, parameters.packet_bytes.max(256)).min(parameters.chunk_bytes_max);
    LocalEnd {
        capabilities: Capabilities::SETTLEMENT.and(one_sided),
        process: identity.process,
        parameters: Parameters { packet_bytes, ..*parameters },
        securities: Vec::new(),
        wires: Vec::new(),
        name: (!identity.name.is_empty()).then(|| identity.name.clone()),
    }
}
