//! The test's side of the network: what it makes go wrong, and what it asks at the end.

use super::super::Event;
use super::super::{Device, Identifier};
use super::FakeNetwork;
use super::faults::Fault;
use super::state::{Context, DeviceKind, Port, State};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

/// Names an end, also when it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend::rdma) struct EndName(pub(super) usize);

/// What an end has and will have to give back; at a dead one, what it had when it was dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::backend::rdma) struct Left {
    pub(in crate::backend::rdma) identifiers: usize,
    pub(in crate::backend::rdma) queue_pairs: usize,
    pub(in crate::backend::rdma) regions: usize,
    pub(in crate::backend::rdma) windows: usize,
}

impl FakeNetwork {
    /// A fault for the next opportunity of an end.
    pub(in crate::backend::rdma) fn inject(&self, end: EndName, fault: Fault) {
        self.shared.borrow_mut().ends[end.0].faults.push(fault);
    }

    /// Disturbs one in so many calls, by the seed, in a way that a program has to bear: fewer completions than there
    /// are, an event that comes later, a readable descriptor without reason, a full queue that is not full.
    pub(in crate::backend::rdma) fn disturb(&self, one_in: u64) {
        self.shared.borrow_mut().disturbed_one_in = one_in;
    }

    /// Changes what a device is, which is seen by whoever asks later.
    pub(in crate::backend::rdma) fn change_device(
        &self,
        end: EndName,
        address: &str,
        change: impl FnOnce(&mut DeviceKind),
    ) {
        let address: IpAddr = address.parse().expect("an IP address");
        let mut state = self.shared.borrow_mut();
        let port = state.ends[end.0].ports.iter_mut().find(|port| port.address == address);
        change(&mut port.expect("the end has a device there").kind);
    }

    /// Keeps events back until [`FakeNetwork::release_events`].
    pub(in crate::backend::rdma) fn hold_events(&self, end: EndName) {
        self.change(|state| state.ends[end.0].events_held = true);
    }

    pub(in crate::backend::rdma) fn release_events(&self, end: EndName) {
        self.change(|state| state.ends[end.0].events_held = false);
    }

    /// Keeps completions back until they are released, one at a time or all at once.
    pub(in crate::backend::rdma) fn hold_completions(&self, end: EndName, device: Device) {
        self.change(|state| state.opened(end, device).completions_held = true);
    }

    /// Lets so many through, with one notification.
    pub(in crate::backend::rdma) fn let_through(&self, end: EndName, device: Device, count: usize) {
        self.change(|state| {
            let context = state.opened(end, device);
            let count = count.min(context.hidden);
            context.hidden -= count;
            if count > 0 {
                state.notify(end.0, device.0);
            }
        });
    }

    /// Lets all through and holds no more.
    pub(in crate::backend::rdma) fn release_completions(&self, end: EndName, device: Device) {
        self.let_through(end, device, usize::MAX);
        self.change(|state| state.opened(end, device).completions_held = false);
    }

    /// From now on a call takes no more completions than this.
    pub(in crate::backend::rdma) fn take_at_most(&self, end: EndName, device: Device, count: usize) {
        self.change(|state| state.opened(end, device).taken_at_once_max = count);
    }

    /// Makes the descriptor readable although there is nothing, until it is looked for.
    pub(in crate::backend::rdma) fn notify_without_reason(&self, end: EndName) {
        self.change(|state| state.ends[end.0].is_readable_without_reason = true);
    }

    /// Puts a queue pair into the error state, as a device does that has found a fault.
    pub(in crate::backend::rdma) fn break_queue_pair(&self, end: EndName, identifier: Identifier) {
        self.change(|state| {
            let key = state.key(end.0, identifier).expect("an identifier of this end");
            state.fail_queue_pair(key);
        });
    }

    /// Carries out nothing more of a queue pair's requests, as on a network that is busy, until
    /// [`FakeNetwork::release_sends`]; failing flushes them all the same.
    pub(in crate::backend::rdma) fn hold_sends(&self, end: EndName, identifier: Identifier) {
        self.set_held(end, identifier, true);
    }

    pub(in crate::backend::rdma) fn release_sends(&self, end: EndName, identifier: Identifier) {
        self.set_held(end, identifier, false);
    }

    fn set_held(&self, end: EndName, identifier: Identifier, is_held: bool) {
        self.change(|state| {
            let key = state.key(end.0, identifier).expect("an identifier of this end");
            for key in state.besides(key).into_iter().chain([key]) {
                let connection = state.connections.get_mut(&key).expect("it has a name");
                connection.queue_pair.as_mut().expect("a queue pair").is_held = is_held;
            }
        });
    }

    /// Gives up a connection that waits for its peer's answer, as happens when none comes for a long time.
    pub(in crate::backend::rdma) fn time_out(&self, end: EndName, identifier: Identifier) {
        self.change(|state| {
            let key = state.key(end.0, identifier).expect("an identifier of this end");
            state.not_connected(key, libc::ETIMEDOUT);
        });
    }

    /// Takes a link down or up, at all ends that share its address.
    pub(in crate::backend::rdma) fn set_link(&self, address: &str, is_up: bool) {
        let address: IpAddr = address.parse().expect("an IP address");
        self.change(|state| {
            let ports = state.ends.iter_mut().flat_map(|end| &mut end.ports);
            ports.filter(|port| port.address == address).for_each(|port| port.is_up = is_up);
        });
    }

    /// Removes a device: each identifier on it is told, requests are taken as before, and nothing is ever done.
    pub(in crate::backend::rdma) fn remove_device(&self, end: EndName, address: &str) {
        let address: IpAddr = address.parse().expect("an IP address");
        self.change(|state| {
            let port = state.ends[end.0].ports.iter().position(|port| port.address == address);
            let port = port.expect("the end has a device there");
            state.ends[end.0].ports[port].is_removed = true;
            let on_it = state
                .connections
                .iter()
                .filter(|(_, connection)| connection.end == end.0 && connection.port == Some(port))
                .filter(|(_, connection)| connection.of.is_none());
            for key in on_it.map(|(key, _)| *key).collect::<Vec<_>>() {
                state.tell(key, Event::DeviceRemoved);
            }
        });
    }

    /// Puts a device back that was removed: another one, at the same address.
    pub(in crate::backend::rdma) fn return_device(&self, end: EndName, address: &str) {
        let address: IpAddr = address.parse().expect("an IP address");
        self.change(|state| {
            let ports = &mut state.ends[end.0].ports;
            let gone = ports.iter_mut().find(|port| port.address == address && port.is_removed);
            let gone = gone.expect("the end has lost its device there");
            // From now on nobody finds the old one by it.
            gone.address = IpAddr::V4(Ipv4Addr::BROADCAST);
            let kind = gone.kind.clone();
            ports.push(Port { address, kind, is_up: true, is_removed: false });
        });
    }

    /// Whether a send has come in part to a queue pair.
    pub(in crate::backend::rdma) fn is_receiving(&self, end: EndName, identifier: Identifier) -> bool {
        let state = self.shared.borrow();
        let key = state.key(end.0, identifier).expect("an identifier of this end");
        let queue_pair = state.connections[&key].queue_pair.as_ref();
        queue_pair.is_some_and(|queue_pair| queue_pair.in_hand.is_some())
    }

    /// How many windows of an end can be read by.
    pub(in crate::backend::rdma) fn open_windows(&self, end: EndName) -> usize {
        let state = self.shared.borrow();
        state.ends[end.0].windows.values().filter(|window| window.open.is_some()).count()
    }

    /// How long a connection waits for acknowledgements, if that was set: 4.096 us doubled so often.
    pub(in crate::backend::rdma) fn acknowledgement_doublings(
        &self,
        end: EndName,
        identifier: Identifier,
    ) -> Option<u8> {
        let state = self.shared.borrow();
        let key = state.key(end.0, identifier).expect("an identifier of this end");
        state.connections[&key].acknowledgement_doublings
    }

    /// What the end has.
    pub(in crate::backend::rdma) fn left(&self, end: EndName) -> Left {
        self.shared.borrow().left(end.0)
    }

    /// How many completions were dropped because a queue was full.
    pub(in crate::backend::rdma) fn overflows(&self, end: EndName) -> u64 {
        self.shared.borrow().ends[end.0].contexts.iter().map(|context| context.overflows).sum()
    }

    /// How many sends found no receive request at an end.
    pub(in crate::backend::rdma) fn not_ready(&self, end: EndName) -> u64 {
        self.shared.borrow().ends[end.0].contexts.iter().map(|context| context.not_ready).sum()
    }

    /// How many receive requests of an end went with their queue pair.
    pub(in crate::backend::rdma) fn receives_lost(&self, end: EndName) -> u64 {
        self.shared.borrow().ends[end.0].contexts.iter().map(|context| context.receives_lost).sum()
    }

    /// What was done that no program may do.
    pub(in crate::backend::rdma) fn misuses(&self) -> Vec<String> {
        self.shared.borrow().misuses.clone()
    }

    /// # Panics
    /// If something was done that no program may do, a completion queue was too small, a send found no receive
    /// request, or one was lost with its queue pair.
    pub(in crate::backend::rdma) fn assert_clean(&self) {
        let state = self.shared.borrow();
        assert!(state.misuses.is_empty(), "{}", state.misuses.join("\n"));
        for (end, context) in state
            .ends
            .iter()
            .enumerate()
            .flat_map(|(end, of)| of.contexts.iter().map(move |context| (end, context)))
        {
            assert_eq!(context.overflows, 0, "end {end}: completions that were dropped");
            assert_eq!(context.not_ready, 0, "end {end}: sends that found no receive request");
            assert_eq!(context.receives_lost, 0, "end {end}: receive requests that went with a queue pair");
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.shared.borrow_mut();
        change(&mut state);
        state.show_readable();
    }
}

impl State {
    fn opened(&mut self, end: EndName, device: Device) -> &mut Context {
        self.context(end.0, device.0).expect("a device that was opened")
    }

    pub(super) fn left(&self, end: usize) -> Left {
        let this = &self.ends[end];
        let connections = || self.connections.values().filter(|connection| connection.end == end);
        this.left_at_death.unwrap_or_else(|| Left {
            identifiers: connections().filter(|connection| connection.of.is_none()).count(),
            queue_pairs: connections().filter(|connection| connection.queue_pair.is_some()).count(),
            regions: this.regions.len(),
            windows: this.windows.len(),
        })
    }

    pub(super) fn move_by_itself(&mut self) {
        if self.moves_by_itself {
            self.step();
        }
        if self.is_disturbed() {
            let end = self.random.choose(self.ends.len());
            self.ends[end].is_readable_without_reason = true;
        }
    }

    pub(super) fn before_sleep(&mut self) {
        if self.moves_by_itself {
            let steps = (0..super::STEPS_MAX).take_while(|_| self.step()).count();
            assert!(steps < super::STEPS_MAX, "the network does not come to rest");
        }
    }

    /// Makes the descriptors of all ends say what is so.
    pub(super) fn show_readable(&mut self) {
        for end in &mut self.ends {
            let has_event = !end.events.is_empty() && !end.events_held;
            let is_notified = end.contexts.iter().any(|context| context.is_notified && !context.is_unwatched);
            let is_readable = has_event || is_notified || end.is_readable_without_reason;
            if is_readable == end.is_readable {
                continue;
            }
            end.is_readable = is_readable;
            let (descriptor, mut count) = (end.descriptor.as_raw_fd(), 1_u64);
            let bytes = std::ptr::from_mut(&mut count).cast();
            // SAFETY: eight bytes that live, for a descriptor that is open.
            let moved = unsafe {
                if is_readable { libc::write(descriptor, bytes, 8) } else { libc::read(descriptor, bytes, 8) }
            };
            assert_eq!(moved, 8, "an eventfd that was {}readable", if is_readable { "not " } else { "" });
        }
    }
}
