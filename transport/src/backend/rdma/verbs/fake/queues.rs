//! The data path: posting, carrying out, completing.

use super::super::{
    Completion, ConnectParameters, Operation, Part, Posted, Receive, Request, Status, Window,
};
use super::faults::Fault;
use super::memory::{gather, length, poison, scatter};
use super::schedule::Outlook;
use super::state::{
    Connection, Entry, Key, LastReceive, Opening, QueuePairStage, QueuePairState, Queued, ReceiveEntry, State,
};
use super::state::{WindowState, errno};
use std::io;

const LOCAL_LENGTH: Status = Status(1);
const LOCAL_OPERATION: Status = Status(2);
const BINDING: Status = Status(6);
const REMOTE_INVALID: Status = Status(9);
const REMOTE_OPERATION: Status = Status(11);
const NOT_READY: Status = Status(13);

/// What is in a completion that says nothing there, for those who look all the same.
const MEANINGLESS: u32 = 0xDBDB_DBDB;

/// Again and again, for ever.
const RETRIES_ENDLESS: u8 = 7;

/// Why a request is not done.
enum Trouble {
    Failed(Status),
    NotReady,
    /// It has come in part.
    Begun,
}

impl From<Status> for Trouble {
    fn from(status: Status) -> Self {
        Trouble::Failed(status)
    }
}

impl State {
    /// # Safety
    /// As for [`Verbs::post`](super::super::Verbs::post).
    pub(super) unsafe fn post(&mut self, key: Key, requests: &[Request<'_>]) -> Posted {
        let end = self.connections[&key].end;
        let refused_at = self.refused_at(end, key, requests.len());
        for (count, request) in requests.iter().enumerate() {
            let is_known = self.is_known(end, key, &request.operation);
            let queue_pair =
                self.connections.get_mut(&key).and_then(|connection| connection.queue_pair.as_mut());
            let checked = match queue_pair {
                _ if refused_at == Some(count) => Err(errno(libc::ENOMEM)),
                Some(queue_pair) if is_known => queue_pair.check(request).map(|()| queue_pair),
                _ => Err(errno(libc::EINVAL)),
            };
            match checked {
                // SAFETY: the memory of the request's parts is valid, says the caller.
                Ok(queue_pair) => unsafe { queue_pair.take(request) },
                Err(error) => return Posted { count, error: Some(error) },
            }
        }
        Posted { count: requests.len(), error: None }
    }

    /// Whether the numbers in a request name something of its device.
    fn is_known(&self, end: usize, key: Key, operation: &Operation) -> bool {
        let Operation::Bind { window, region, .. } = operation else { return true };
        let device = self.connections[&key].queue_pair.as_ref().map(|queue_pair| queue_pair.device);
        let (windows, regions) = (&self.ends[end].windows, &self.ends[end].regions);
        windows.get(&window.number).map(|window| window.device) == device
            && regions.get(&region.number).map(|region| region.device) == device
    }

    /// The request that is refused though there is room.
    fn refused_at(&mut self, end: usize, key: Key, count: usize) -> Option<usize> {
        let fault = self.take_fault(end, |fault| match fault {
            Fault::PostRefused { after } => Some(*after),
            _ => None,
        });
        if fault.is_some() {
            return fault;
        }
        let queue_pair = self.connections[&key].queue_pair.as_ref()?;
        // Only if a completion will come that tells the poster when to try again.
        let is_awaited = queue_pair.last_signaled.is_some_and(|place| place >= queue_pair.retired);
        let refuses = is_awaited && count > 0 && self.is_disturbed();
        refuses.then(|| self.random.choose(count))
    }

    /// # Safety
    /// As for [`Verbs::post_receives`](super::super::Verbs::post_receives).
    pub(super) unsafe fn post_receives(
        &mut self,
        end: usize,
        device: u32,
        receives: &[Receive<'_>],
    ) -> Posted {
        let refused_at = self.take_fault(end, |fault| match fault {
            Fault::ReceivesRefused { after } => Some(*after),
            _ => None,
        });
        let context = match self.context(end, device) {
            Ok(context) => context,
            Err(error) => return Posted { count: 0, error: Some(error) },
        };
        for (count, receive) in receives.iter().enumerate() {
            let error = if receive.parts.len() > context.sizes.receive_parts as usize {
                errno(libc::EINVAL)
            } else if context.receives_used == context.sizes.receives || refused_at == Some(count) {
                errno(libc::ENOMEM)
            } else {
                // SAFETY: their memory is the device's from now on, says the caller.
                unsafe { poison(receive.parts) };
                context.receives_used += 1;
                context
                    .receives
                    .push_back(ReceiveEntry { work: receive.work, parts: receive.parts.to_vec() });
                continue;
            };
            return Posted { count, error: Some(error) };
        }
        Posted { count: receives.len(), error: None }
    }

    pub(super) fn outlook(&self, key: Key) -> Outlook {
        let connection = &self.connections[&key];
        let Some(queue_pair) = &connection.queue_pair else { return Outlook::Waits };
        let Some(entry) = queue_pair.entries.front() else { return Outlook::Waits };
        let port = self.port(connection).expect("a queue pair has a device");
        if port.is_removed || queue_pair.stage == QueuePairStage::Initial {
            return Outlook::Waits;
        }
        let is_local = matches!(entry.operation, Operation::Bind { .. } | Operation::Invalidate { .. });
        if queue_pair.is_held && queue_pair.stage == QueuePairStage::Ready {
            return Outlook::Waits;
        }
        if queue_pair.stage == QueuePairStage::Failed || !port.is_up || is_local {
            return Outlook::Runs;
        }
        match self.peer_of(connection) {
            Some(peer)
                if peer.queue_pair.as_ref().is_some_and(|peer| peer.stage == QueuePairStage::Initial) =>
            {
                Outlook::Waits
            }
            Some(peer) if self.answers(peer) => {
                let is_refused = entry.not_ready > 0 && self.has_no_receive(peer);
                match self.agreed(peer).rnr_retry_count {
                    _ if !is_refused => Outlook::Runs,
                    RETRIES_ENDLESS => Outlook::Waits,
                    _ => Outlook::TimesOut,
                }
            }
            // What the connecting end has chosen holds for both (`rdma_accept(3)`).
            _ if self.agreed(connection).retry_count == RETRIES_ENDLESS => Outlook::Waits,
            _ => Outlook::TimesOut,
        }
    }

    fn peer_of(&self, connection: &Connection) -> Option<&Connection> {
        connection.peer.and_then(|peer| self.connections.get(&peer))
    }

    fn agreed(&self, connection: &Connection) -> ConnectParameters {
        connection.parameters.expect("it is connected")
    }

    fn answers(&self, peer: &Connection) -> bool {
        let is_ready = |queue_pair: &QueuePairState| queue_pair.stage == QueuePairStage::Ready;
        peer.queue_pair.as_ref().is_some_and(is_ready)
            && self.port(peer).is_some_and(|port| port.is_up && !port.is_removed)
    }

    fn has_no_receive(&self, peer: &Connection) -> bool {
        let Some(queue_pair) = &peer.queue_pair else { return true };
        queue_pair.in_hand.is_none()
            && self.ends[peer.end].contexts[queue_pair.device as usize].receives.is_empty()
    }

    /// The head of a send queue has its turn.
    pub(super) fn run(&mut self, key: Key) {
        let connection = &self.connections[&key];
        let end = connection.end;
        let queue_pair = connection.queue_pair.as_ref().expect("it has its turn");
        let entry = queue_pair.entries.front().expect("it has its turn").clone();
        if queue_pair.stage == QueuePairStage::Failed {
            return self.finish(key, Status::FLUSHED);
        }
        let injected = self.take_fault(end, |fault| match fault {
            Fault::CompletionFails(status) => Some(*status),
            _ => None,
        });
        match injected.map_or_else(|| self.execute(key, &entry), |status| Err(status.into())) {
            Ok(()) => self.finish(key, Status::SUCCESS),
            Err(Trouble::Failed(status)) => self.finish(key, status),
            Err(Trouble::NotReady) => self.not_ready(key),
            Err(Trouble::Begun) => {}
        }
    }

    /// The peer had no receive request. How often that is tried is what the *peer* has asked for (`rdma_connect(3)`).
    fn not_ready(&mut self, key: Key) {
        let peer = self.peer_of(&self.connections[&key]).expect("it answered that it is not ready");
        let retries = self.agreed(peer).rnr_retry_count;
        let (peer_end, device) = (peer.end, peer.queue_pair.as_ref().expect("it answered").device);
        self.ends[peer_end].contexts[device as usize].not_ready += 1;
        let queue_pair = self.connections.get_mut(&key).and_then(|connection| connection.queue_pair.as_mut());
        let entry = queue_pair.and_then(|queue_pair| queue_pair.entries.front_mut()).expect("it was tried");
        if retries != RETRIES_ENDLESS && entry.not_ready >= retries {
            self.finish(key, NOT_READY);
        } else {
            entry.not_ready = entry.not_ready.saturating_add(1);
        }
    }

    /// The head of a send queue is done. Any failure ends the queue pair.
    pub(super) fn finish(&mut self, key: Key, status: Status) {
        let connection = self.connections.get_mut(&key).expect("it has a send queue");
        let end = connection.end;
        let queue_pair = connection.queue_pair.as_mut().expect("it has a send queue");
        let entry = queue_pair.entries.pop_front().expect("something was done");
        let (device, number) = (queue_pair.device, queue_pair.number);
        if !status.is_success() {
            queue_pair.stage = QueuePairStage::Failed;
        }
        if entry.is_signaled || !status.is_success() {
            let bytes = if status.is_success() { 0 } else { MEANINGLESS };
            let completion =
                Completion { work: entry.work, queue_pair: number, status, bytes, immediate: bytes };
            self.complete(end, device, Queued { completion, sent: Some((key, entry.place)) });
        }
    }

    fn execute(&mut self, key: Key, entry: &Entry) -> Result<(), Trouble> {
        let connection = &self.connections[&key];
        let end = connection.end;
        let device = connection.queue_pair.as_ref().expect("it executes").device;
        match entry.operation {
            Operation::Bind { window, key: opening, region, address, bytes } => {
                let open = Opening { connection: key, region: region.number, address, bytes };
                return Ok(self.bind(end, device, window, opening, open)?);
            }
            Operation::Invalidate { key: opening } => return Ok(self.invalidate(end, device, key, opening)?),
            _ => {}
        }
        if self.port(connection).is_some_and(|port| !port.is_up) {
            return Err(LOCAL_OPERATION.into());
        }
        if entry.inline.is_none() {
            self.ends[end].check(device, &entry.parts)?;
        }
        let peer = connection.peer.expect("the outlook was good");
        match entry.operation {
            Operation::Send { immediate } => self.send(peer, entry, immediate),
            Operation::Read { address, key } => Ok(self.read(peer, &entry.parts, address, key)?),
            _ => Ok(()),
        }
    }

    fn send(&mut self, peer: Key, entry: &Entry, immediate: u32) -> Result<(), Trouble> {
        let receiving = &self.connections[&peer];
        let queue_pair = receiving.queue_pair.as_ref().expect("the outlook was good");
        let (end, device, number) = (receiving.end, queue_pair.device, queue_pair.number);
        let Some(receive) = self.begin_receiving(peer, length(&entry.parts)) else {
            let is_begun = self.in_hand(peer).is_some_and(|in_hand| in_hand.is_some());
            return Err(if is_begun { Trouble::Begun } else { Trouble::NotReady });
        };
        // SAFETY: the parts lie in registered memory, which stays mapped while it is registered; the caller checked.
        let bytes = entry.inline.clone().unwrap_or_else(|| unsafe { gather(&entry.parts) });
        let (status, answer) = if bytes.len() as u64 > length(&receive.parts) {
            (LOCAL_LENGTH, Err(REMOTE_INVALID.into()))
        } else if let Err(status) = self.ends[end].check(device, &receive.parts) {
            (status, Err(REMOTE_OPERATION.into()))
        } else {
            // SAFETY: registered, so mapped, and given to the device when it was posted.
            unsafe { scatter(&bytes, &receive.parts) };
            (Status::SUCCESS, Ok(()))
        };
        if answer.is_err() {
            self.fail_queue_pair(peer);
        }
        let (bytes, immediate) =
            if answer.is_ok() { (bytes.len() as u32, immediate) } else { (MEANINGLESS, MEANINGLESS) };
        let completion = Completion { work: receive.work, queue_pair: number, status, bytes, immediate };
        self.complete(end, device, Queued { completion, sent: None });
        answer
    }

    /// The receive request that a send goes into, if all of it has come. One of several packets comes in two steps.
    fn begin_receiving(&mut self, peer: Key, bytes: u64) -> Option<ReceiveEntry> {
        let connection = &self.connections[&peer];
        let packet_bytes = self.port(connection).map_or(0, |port| port.kind.packet_bytes);
        let (end, device) = (connection.end, connection.queue_pair.as_ref()?.device);
        if let Some(receive) = self.in_hand(peer)?.take() {
            return Some(receive);
        }
        let receive = self.ends[end].contexts[device as usize].receives.pop_front()?;
        if bytes <= u64::from(packet_bytes) {
            return Some(receive);
        }
        *self.in_hand(peer)? = Some(receive);
        None
    }

    fn in_hand(&mut self, key: Key) -> Option<&mut Option<ReceiveEntry>> {
        let queue_pair = self.connections.get_mut(&key)?.queue_pair.as_mut()?;
        Some(&mut queue_pair.in_hand)
    }

    /// A queue pair has failed: what it had begun to fill comes back, and then its device says that this was all.
    pub(super) fn let_go_of_receives(&mut self, key: Key) {
        let connection = self.connections.get_mut(&key).expect("it was found to have failed");
        let end = connection.end;
        let queue_pair = connection.queue_pair.as_mut().expect("it was found to have failed");
        let (device, number) = (queue_pair.device, queue_pair.number);
        let Some(receive) = queue_pair.in_hand.take() else {
            queue_pair.last_receive = LastReceive::OnItsWay;
            self.ends[end].is_readable_without_reason = true;
            return;
        };
        let completion = Completion {
            work: receive.work,
            queue_pair: number,
            status: Status::FLUSHED,
            bytes: MEANINGLESS,
            immediate: MEANINGLESS,
        };
        self.complete(end, device, Queued { completion, sent: None });
    }

    /// Whether there is something to do for [`State::let_go_of_receives`].
    pub(super) fn holds_receives(&self, connection: &Connection) -> bool {
        let Some(queue_pair) = &connection.queue_pair else { return false };
        let Some(port) = self.port(connection).filter(|port| !port.is_removed) else { return false };
        queue_pair.stage == QueuePairStage::Failed
            && (queue_pair.in_hand.is_some()
                || port.kind.says_last_receive && queue_pair.last_receive == LastReceive::NotYet)
    }

    fn read(&mut self, peer: Key, parts: &[Part], address: u64, key: u32) -> Result<(), Status> {
        let answering = &self.connections[&peer];
        let device = answering.queue_pair.as_ref().expect("the outlook was good").device;
        if self.agreed(answering).reads_answered == 0 {
            self.fail_queue_pair(peer);
            return Err(REMOTE_INVALID);
        }
        let bytes = length(parts);
        if bytes > 0 && !self.ends[answering.end].allows(device, peer, key, (address, bytes)) {
            self.fail_queue_pair(peer);
            return Err(Status::REMOTE_ACCESS);
        }
        let source = Part { address, bytes: bytes as u32, key };
        // SAFETY: the source lies in a window on registered memory; the parts were checked by the caller. Registered
        // memory is mapped.
        unsafe { scatter(&gather(&[source]), parts) };
        Ok(())
    }

    fn bind(&mut self, end: usize, device: u32, name: Window, key: u32, open: Opening) -> Result<(), Status> {
        let end = &mut self.ends[end];
        let region = end.regions.get(&open.region).ok_or(BINDING)?;
        let part = (open.address, open.bytes);
        let is_inside = part.0 >= region.address
            && part.0.checked_add(part.1).is_some_and(|last| last <= region.address + region.bytes);
        let window = end.windows.get_mut(&name.number).ok_or(BINDING)?;
        // Type 2 windows are opened when they are closed, with another key than before (InfiniBand Architecture
        // Specification, 10.6.7.2), and not on nothing (`rxe_check_bind_mw`).
        let is_fresh = window.open.is_none() && key != window.key && key & !0xFF == name.key & !0xFF;
        let is_here = region.device == device && window.device == device;
        if !(is_inside && is_fresh && is_here && part.1 > 0) {
            return Err(BINDING);
        }
        *window = WindowState { device, key, open: Some(open) };
        Ok(())
    }

    fn invalidate(&mut self, end: usize, device: u32, connection: Key, key: u32) -> Result<(), Status> {
        let is_it = |window: &&mut WindowState| {
            let open = window.open.as_ref();
            window.device == device
                && window.key == key
                && open.is_some_and(|open| open.connection == connection)
        };
        let Some(window) = self.ends[end].windows.values_mut().find(is_it) else {
            // It has crashed kernels (`rxe_do_invalidate_mw`, of a window that is not open).
            self.misuses.push(format!("end {end} closed a window (key {key:#x}) that is not open there"));
            return Err(LOCAL_OPERATION);
        };
        window.open = None;
        Ok(())
    }

    fn complete(&mut self, end: usize, device: u32, queued: Queued) {
        let injected = |fault: &Fault| matches!(fault, Fault::CompletionsOverflow).then_some(());
        let is_injected = self.take_fault(end, injected).is_some();
        let context = &mut self.ends[end].contexts[device as usize];
        if context.is_overrun
            || is_injected
            || context.completions.len() >= context.sizes.completions as usize
        {
            return self.overrun(end, device);
        }
        context.completions.push_back(queued);
        if context.completions_held {
            context.hidden += 1;
        } else {
            self.notify(end, device);
        }
    }

    /// A completion is lost. As on those devices that take it hardest, so are the queue pairs.
    fn overrun(&mut self, end: usize, device: u32) {
        let context = &mut self.ends[end].contexts[device as usize];
        context.overflows += 1;
        context.is_overrun = true;
        for connection in self.connections.values_mut().filter(|connection| connection.end == end) {
            if let Some(queue_pair) = connection.queue_pair.as_mut().filter(|it| it.device == device) {
                queue_pair.stage = QueuePairStage::Failed;
            }
        }
    }

    pub(super) fn notify(&mut self, end: usize, device: u32) {
        let context = &mut self.ends[end].contexts[device as usize];
        if !std::mem::take(&mut context.is_armed) {
            return;
        }
        let is_lost =
            self.take_fault(end, |fault| matches!(fault, Fault::NotificationLost).then_some(())).is_some();
        self.ends[end].contexts[device as usize].is_notified |= !is_lost;
    }

    pub(super) fn take_completions(
        &mut self,
        end: usize,
        device: u32,
        into: &mut [Completion],
    ) -> io::Result<usize> {
        let fault = self.take_fault(end, |fault| match fault {
            Fault::TakeCompletionsFails(error) => Some(*error),
            _ => None,
        });
        let is_disturbed = self.is_disturbed();
        let context = self.context(end, device)?;
        let overrun = (context.is_overrun && context.visible() == 0).then_some(libc::EIO);
        if let Some(error) = fault.or(overrun) {
            return Err(errno(error));
        }
        let most = if is_disturbed { 1 } else { context.taken_at_once_max };
        let count = into.len().min(context.visible()).min(most);
        let taken: Vec<Queued> = context.completions.drain(..count).collect();
        for (place, queued) in into.iter_mut().zip(taken) {
            *place = queued.completion;
            match queued.sent {
                None => self.context(end, device)?.receives_used -= 1,
                Some((key, place)) => {
                    let connection = self.connections.get_mut(&key);
                    if let Some(queue_pair) = connection.and_then(|connection| connection.queue_pair.as_mut())
                    {
                        // As drivers count (`wqe_head` of libmlx5): all up to this one are done.
                        queue_pair.retired = place + 1;
                    }
                }
            }
        }
        Ok(count)
    }
}

impl QueuePairState {
    fn check(&self, request: &Request<'_>) -> Result<(), io::Error> {
        let carries = matches!(request.operation, Operation::Send { .. });
        let is_plain =
            carries || matches!(request.operation, Operation::Read { .. }) || request.parts.is_empty();
        let is_valid = self.stage != QueuePairStage::Initial
            && is_plain
            && request.parts.len() <= self.sizes.parts as usize
            && (!request.is_inline || carries && length(request.parts) <= u64::from(self.sizes.inline_bytes));
        if !is_valid {
            Err(errno(libc::EINVAL))
        } else if self.posted - self.retired >= u64::from(self.sizes.sends) {
            Err(errno(libc::ENOMEM))
        } else {
            Ok(())
        }
    }

    /// # Safety
    /// The request's parts must be mapped.
    unsafe fn take(&mut self, request: &Request<'_>) {
        let place = self.posted;
        self.posted += 1;
        if request.is_signaled {
            self.last_signaled = Some(place);
        }
        self.entries.push_back(Entry {
            place,
            work: request.work,
            operation: request.operation,
            parts: request.parts.to_vec(),
            // SAFETY: as above.
            inline: request.is_inline.then(|| unsafe { gather(request.parts) }),
            is_signaled: request.is_signaled,
            not_ready: 0,
        });
    }
}
