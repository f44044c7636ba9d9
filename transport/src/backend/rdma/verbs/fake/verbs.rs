//! One end: [`Verbs`] over its part of the network.

use super::super::*;
use super::connecting::{Message, Stage, padded};
use super::faults::Fault;
use super::state::{
    Connection, Context, Key, LastReceive, QueuePairStage, QueuePairState, RegionState, State, WindowState,
    errno,
};
use super::{EndName, Shared};
use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

/// One end of a [`FakeNetwork`](super::FakeNetwork). Dropping it is what the death of a process is.
pub(in crate::backend::rdma) struct FakeVerbs {
    pub(super) shared: Shared,
    pub(super) end: usize,
    pub(super) descriptor: Rc<OwnedFd>,
}

impl FakeVerbs {
    /// By which the test names it to the network.
    pub(in crate::backend::rdma) fn name(&self) -> EndName {
        EndName(self.end)
    }

    fn with<T>(&self, call: impl FnOnce(&mut State, usize) -> T) -> T {
        let mut state = self.shared.borrow_mut();
        let result = call(&mut state, self.end);
        state.show_readable();
        result
    }

    fn with_key<T>(
        &self,
        identifier: Identifier,
        call: impl FnOnce(&mut State, Key) -> io::Result<T>,
    ) -> io::Result<T> {
        self.with(|state, end| {
            let key = state.key(end, identifier)?;
            call(state, key)
        })
    }
}

impl Verbs for FakeVerbs {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    fn listen(&mut self, address: SocketAddr, backlog: u32) -> io::Result<(Identifier, SocketAddr)> {
        self.with(|state, end| {
            state.connection_manager_works(end)?;
            let key = state.listen(end, address, backlog)?;
            let listener = &state.connections[&key];
            Ok((listener.identifier, listener.local))
        })
    }

    fn resolve(
        &mut self,
        address: SocketAddr,
        source: Option<SocketAddr>,
        _: Duration,
    ) -> io::Result<Identifier> {
        self.with(|state, end| {
            state.connection_manager_works(end)?;
            let key = state.resolve(end, address, source)?;
            Ok(state.connections[&key].identifier)
        })
    }

    fn set_acknowledgement_timeout(&mut self, identifier: Identifier, doublings: u8) -> io::Result<()> {
        self.with_key(identifier, |state, key| {
            let connection = &state.connections[&key];
            // Once the route is known, or the peer has its answer, it comes too late.
            let is_early =
                matches!(connection.stage, Stage::Resolving | Stage::AddressResolved | Stage::Requested);
            let fault = state.take_fault(connection.end, |fault| match fault {
                Fault::AcknowledgementTimeoutFails(error) => Some(*error),
                _ => None,
            });
            if let Some(error) = fault.or((!is_early || doublings > 31).then_some(libc::EINVAL)) {
                return Err(errno(error));
            }
            state.connections.get_mut(&key).expect("it is there").acknowledgement_doublings = Some(doublings);
            Ok(())
        })
    }

    fn resolve_route(&mut self, identifier: Identifier, _: Duration) -> io::Result<()> {
        self.with_key(identifier, |state, key| {
            state.advance(key, Stage::AddressResolved, Stage::Routing)?;
            state.messages.push_back(Message::Route(key));
            Ok(())
        })
    }

    fn connect(
        &mut self,
        identifier: Identifier,
        parameters: &ConnectParameters,
        greeting: &[u8],
    ) -> io::Result<()> {
        self.with_key(identifier, |state, from| {
            let greeting = padded(greeting, GREETING_BYTES_MAX)?;
            state.connection_manager_works(state.connections[&from].end)?;
            state.check_parameters(from, parameters)?;
            state.advance(from, Stage::RouteResolved, Stage::Connecting)?;
            state.connections.get_mut(&from).expect("it moved on").parameters = Some(*parameters);
            state.messages.push_back(Message::Request { from, greeting });
            Ok(())
        })
    }

    fn accept(
        &mut self,
        identifier: Identifier,
        parameters: &ConnectParameters,
        greeting: &[u8],
    ) -> io::Result<()> {
        self.with_key(identifier, |state, key| state.accept(key, parameters, greeting))
    }

    fn reject(&mut self, identifier: Identifier, reason: &[u8]) -> io::Result<()> {
        self.with_key(identifier, |state, key| state.reject(key, reason))
    }

    fn disconnect(&mut self, identifier: Identifier) -> io::Result<()> {
        self.with_key(identifier, State::disconnect)
    }

    fn destroy(&mut self, identifier: Identifier) {
        // The seam has nothing to say to a number that names nothing.
        let _ = self.with_key(identifier, |state, key| {
            state.destroy(key);
            Ok(())
        });
    }

    fn take_event(&mut self) -> io::Result<Option<Event>> {
        self.with(|state, end| {
            state.move_by_itself();
            let is_late = state.is_disturbed();
            state.look_at_last_receives(end);
            let this = &mut state.ends[end];
            if this.events_held || is_late {
                return Ok(None);
            }
            let Some((key, event)) = this.events.pop_front() else {
                this.is_readable_without_reason = false;
                return Ok(None);
            };
            state.taken(key, &event);
            Ok(Some(event))
        })
    }

    fn has_let_go_of_receives(&mut self, identifier: Identifier) -> bool {
        let is_said = |queue_pair: &QueuePairState| queue_pair.last_receive == LastReceive::Said;
        let asked = self.with_key(identifier, |state, key| {
            Ok(state.connections[&key].queue_pair.as_ref().is_some_and(is_said))
        });
        asked.unwrap_or(false)
    }

    fn peer(&self, identifier: Identifier) -> Option<SocketAddr> {
        self.with_key(identifier, |state, key| Ok(state.connections[&key].remote)).ok().flatten()
    }

    fn limits(&mut self, identifier: Identifier) -> io::Result<DeviceLimits> {
        self.with_key(identifier, |state, key| Ok(state.live_port(key)?.kind.limits.clone()))
    }

    fn device(&mut self, identifier: Identifier, sizes: &DeviceSizes) -> io::Result<Device> {
        self.with_key(identifier, |state, key| state.open_device(key, sizes))
    }

    fn device_in_use(&mut self, identifier: Identifier) -> Option<Device> {
        self.with(|state, end| {
            let key = state.key(end, identifier).ok()?;
            let port = state.connections[&key].port?;
            let place = state.ends[end].contexts.iter().position(|context| context.port == port)?;
            Some(Device(place as u32))
        })
    }

    fn unwatch(&mut self, device: Device) {
        self.with(|state, end| {
            state.ends[end].contexts[device.0 as usize].is_unwatched = true;
            state.show_readable();
        });
    }

    fn close_device(&mut self, device: Device) {
        self.with(|state, end| {
            let this = &mut state.ends[end];
            this.contexts[device.0 as usize].receives.clear();
            this.regions.retain(|_, region| region.device != device.0);
            this.windows.retain(|_, window| window.device != device.0);
        });
    }

    fn let_go(&mut self) -> Option<Duration> {
        None
    }

    fn packet_bytes(&mut self, identifier: Identifier) -> io::Result<u32> {
        self.with_key(identifier, |state, key| Ok(state.live_port(key)?.kind.packet_bytes))
    }

    fn create_queue_pair(&mut self, identifier: Identifier, sizes: &QueuePairSizes) -> io::Result<QueuePair> {
        self.with_key(identifier, |state, key| state.create_queue_pair(key, sizes))
    }

    fn create_beside(
        &mut self,
        identifier: Identifier,
        beside: Beside,
        sizes: &QueuePairSizes,
    ) -> io::Result<QueuePairName> {
        self.with_key(identifier, |state, key| state.create_beside(key, beside, sizes))
    }

    fn destroy_beside(&mut self, identifier: Identifier) {
        // One that is not there has none.
        let _ = self.with_key(identifier, |state, key| {
            state.destroy_besides(key);
            Ok(())
        });
    }

    fn connect_beside(
        &mut self,
        identifier: Identifier,
        beside: Beside,
        peer: QueuePairName,
        reads: u8,
    ) -> io::Result<()> {
        self.with_key(identifier, |state, key| state.connect_beside(key, beside, peer, reads))
    }

    unsafe fn register_for_peer(
        &mut self,
        identifier: Identifier,
        address: u64,
        bytes: usize,
    ) -> io::Result<Region> {
        self.with_key(identifier, |state, key| state.register_for_peer(key, address, bytes as u64))
    }

    unsafe fn post_beside(&mut self, identifier: Identifier, requests: &[Request<'_>]) -> Posted {
        let posted = self.with_key(identifier, |state, key| {
            let reading = state.beside(key, Beside::Reading)?;
            // SAFETY: as the caller says.
            Ok(unsafe { state.post(reading, requests) })
        });
        posted.unwrap_or_else(|error| Posted { count: 0, error: Some(error) })
    }

    unsafe fn register(&mut self, device: Device, address: u64, bytes: usize) -> io::Result<Region> {
        self.with(|state, end| state.register(end, device.0, address, bytes as u64))
    }

    fn deregister(&mut self, region: Region) -> io::Result<()> {
        self.with(|state, end| {
            let fault = state.take_fault(end, |fault| match fault {
                Fault::DeregisterFails(error) => Some(*error),
                _ => None,
            });
            fault.map_or(Ok(()), |error| Err(errno(error)))?;
            state.deregister(end, region.number)
        })
    }

    fn allocate_window(&mut self, device: Device) -> io::Result<Window> {
        self.with(|state, end| state.allocate_window(end, device.0))
    }

    fn free_window(&mut self, window: Window) -> io::Result<()> {
        self.with(|state, end| state.free_window(end, window.number))
    }

    unsafe fn post(&mut self, identifier: Identifier, requests: &[Request<'_>]) -> Posted {
        // SAFETY: as the caller says.
        let posted = self.with_key(identifier, |state, key| Ok(unsafe { state.post(key, requests) }));
        posted.unwrap_or_else(|error| Posted { count: 0, error: Some(error) })
    }

    unsafe fn post_receives(&mut self, device: Device, receives: &[Receive<'_>]) -> Posted {
        // SAFETY: as the caller says.
        self.with(|state, end| unsafe { state.post_receives(end, device.0, receives) })
    }

    fn take_completions(&mut self, device: Device, into: &mut [Completion]) -> io::Result<usize> {
        self.with(|state, end| {
            state.move_by_itself();
            state.take_completions(end, device.0, into)
        })
    }

    fn arm(&mut self, device: Device) -> io::Result<()> {
        self.with(|state, end| {
            let injected = state.take_fault(end, |fault| match fault {
                Fault::ArmFails(error) => Some(*error),
                _ => None,
            });
            if let Some(error) = injected {
                return Err(errno(error));
            }
            let context = state.context(end, device.0)?;
            context.is_armed = true;
            context.is_notified = false;
            state.before_sleep();
            Ok(())
        })
    }
}

impl fmt::Debug for FakeVerbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FakeVerbs(end {})", self.end)
    }
}

impl Drop for FakeVerbs {
    fn drop(&mut self) {
        self.with(|state, end| state.end_of_process(end));
    }
}

impl State {
    fn connection_manager_works(&mut self, end: usize) -> io::Result<()> {
        let fault = self.take_fault(end, |fault| match fault {
            Fault::ConnectionManagerFails(error) => Some(*error),
            _ => None,
        });
        fault.map_or(Ok(()), |error| Err(errno(error)))
    }

    /// What the devices of an end have said of their queue pairs is taken.
    fn look_at_last_receives(&mut self, end: usize) {
        let of_end = self.connections.values_mut().filter(|connection| connection.end == end);
        for queue_pair in of_end.filter_map(|connection| connection.queue_pair.as_mut()) {
            if queue_pair.last_receive == LastReceive::OnItsWay {
                queue_pair.last_receive = LastReceive::Said;
            }
        }
    }

    fn open_device(&mut self, key: Key, sizes: &DeviceSizes) -> io::Result<Device> {
        let limits = &self.live_port(key)?.kind.limits;
        let fits = (1..=limits.completions_max).contains(&sizes.completions)
            && (1..=limits.receives_max).contains(&sizes.receives)
            && (1..=limits.receive_parts_max).contains(&sizes.receive_parts);
        let connection = &self.connections[&key];
        let (end, port) = (connection.end, connection.port.expect("it is there"));
        if let Some(opened) = self.ends[end].contexts.iter().position(|context| context.port == port) {
            return Ok(Device(opened as u32));
        }
        let fault = self.take_fault(end, |fault| match fault {
            Fault::DeviceFails(error) => Some(*error),
            _ => None,
        });
        if let Some(error) = fault.or((!fits).then_some(libc::EINVAL)) {
            return Err(errno(error));
        }
        let contexts = &mut self.ends[end].contexts;
        contexts.push(Context {
            port,
            sizes: *sizes,
            completions: VecDeque::new(),
            hidden: 0,
            completions_held: false,
            taken_at_once_max: usize::MAX,
            is_armed: false,
            is_notified: false,
            is_unwatched: false,
            receives: VecDeque::new(),
            receives_used: 0,
            overflows: 0,
            is_overrun: false,
            not_ready: 0,
            receives_lost: 0,
        });
        Ok(Device(contexts.len() as u32 - 1))
    }

    pub(super) fn create_queue_pair(&mut self, key: Key, sizes: &QueuePairSizes) -> io::Result<QueuePair> {
        let kind = &self.live_port(key)?.kind;
        let fits = (1..=kind.limits.sends_max).contains(&sizes.sends)
            && (1..=kind.limits.parts_max).contains(&sizes.parts)
            && sizes.inline_bytes <= kind.inline_bytes_max;
        let queue_pairs_max = kind.limits.queue_pairs_max as usize;
        let (end, port) = (self.connections[&key].end, self.connections[&key].port);
        let device = self.ends[end].contexts.iter().position(|context| Some(context.port) == port);
        let fault = self.take_fault(end, |fault| match fault {
            Fault::CreateQueuePairFails(error) => Some(*error),
            _ => None,
        });
        let has_one = self.connections[&key].queue_pair.is_some();
        let device = match (fault, device.filter(|_| fits && !has_one)) {
            (Some(error), _) => return Err(errno(error)),
            (None, None) => return Err(errno(libc::EINVAL)),
            (None, Some(device)) => device as u32,
        };
        let is_of_it =
            |it: &&Connection| it.end == end && it.queue_pair.as_ref().is_some_and(|it| it.device == device);
        if self.connections.values().filter(is_of_it).count() >= queue_pairs_max {
            return Err(errno(libc::ENOMEM));
        }
        let smaller = self.take_fault(end, |fault| match fault {
            Fault::InlineSmaller { bytes } => Some(*bytes),
            _ => None,
        });
        let inline_bytes = smaller.map_or(sizes.inline_bytes, |bytes| bytes.min(sizes.inline_bytes));
        let sizes = QueuePairSizes { inline_bytes, ..*sizes };
        let number = self.draw_name();
        let queue_pair = QueuePairState {
            number,
            device,
            sizes,
            stage: QueuePairStage::Initial,
            entries: VecDeque::new(),
            posted: 0,
            retired: 0,
            last_signaled: None,
            is_held: false,
            in_hand: None,
            last_receive: LastReceive::NotYet,
        };
        self.connections.get_mut(&key).expect("it is there").queue_pair = Some(queue_pair);
        Ok(QueuePair { number, sizes })
    }

    pub(super) fn register(
        &mut self,
        end: usize,
        device: u32,
        address: u64,
        bytes: u64,
    ) -> io::Result<Region> {
        self.opened_and_there(end, device)?;
        let fault = self.take_fault(end, |fault| match fault {
            Fault::RegisterFails(error) => Some(*error),
            _ => None,
        });
        let is_range = bytes > 0 && address.checked_add(bytes).is_some();
        if let Some(error) = fault.or((!is_range).then_some(libc::EINVAL)) {
            return Err(errno(error));
        }
        let number = self.draw_name();
        let key = number << 8;
        self.ends[end].regions.insert(number, RegionState { device, key, address, bytes, domain: None });
        Ok(Region { number, key })
    }

    fn allocate_window(&mut self, end: usize, device: u32) -> io::Result<Window> {
        let most = self.opened_and_there(end, device)?;
        let fault = self.take_fault(end, |fault| match fault {
            Fault::WindowFails(error) => Some(*error),
            _ => None,
        });
        let count = self.ends[end].windows.values().filter(|window| window.device == device).count();
        let missing =
            if most == 0 { Some(libc::EOPNOTSUPP) } else { (count >= most).then_some(libc::ENOMEM) };
        if let Some(error) = fault.or(missing) {
            return Err(errno(error));
        }
        let number = self.draw_name();
        // The low byte may be anything at first, as it is on `rxe`: whoever opens it has to look at it.
        let key = number << 8 | (number.wrapping_mul(37) & 0xFF);
        self.ends[end].windows.insert(number, WindowState { device, key, open: None });
        Ok(Window { number, key })
    }

    fn free_window(&mut self, end: usize, number: u32) -> io::Result<()> {
        let window = self.ends[end].windows.remove(&number).ok_or_else(|| errno(libc::EINVAL))?;
        // That of a queue pair which has failed cannot be closed any more: requests to do so are flushed.
        let is_ready = |connection: &Connection| {
            connection.queue_pair.as_ref().is_some_and(|queue_pair| queue_pair.stage == QueuePairStage::Ready)
        };
        if window.open.is_some_and(|open| self.connections.get(&open.connection).is_some_and(is_ready)) {
            self.misuses
                .push(format!("end {end} freed a window (key {:#x}) that its peer reads", window.key));
        }
        Ok(())
    }

    /// The windows that a device has, if it is there.
    fn opened_and_there(&mut self, end: usize, device: u32) -> io::Result<usize> {
        let port = self.context(end, device)?.port;
        let port = &self.ends[end].ports[port];
        if port.is_removed { Err(errno(libc::ENODEV)) } else { Ok(port.kind.limits.windows_max as usize) }
    }

    fn end_of_process(&mut self, end: usize) {
        let left: Vec<Key> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.end == end && connection.of.is_none())
            .map(|(key, _)| *key)
            .collect();
        let had = self.left(end);
        // The kernel takes them in the right order.
        self.ends[end].regions.clear();
        for key in left {
            self.destroy(key);
        }
        let this = &mut self.ends[end];
        for context in &mut this.contexts {
            // With the process goes their queue.
            context.receives.clear();
            context.receives_lost = 0;
        }
        this.regions.clear();
        this.windows.clear();
        this.events.clear();
        this.left_at_death = Some(had);
        this.ports.iter_mut().for_each(|port| port.is_removed = true);
    }
}
