//! Devices that go away, and may come back: `rdma link delete`, a driver that is unloaded, a card that is reset.
//!
//! What was posted on such a device never comes back, and whoever removes it waits until every process has let go of
//! it. So its channels end at once, and it is given back as soon as they have. Listeners of its addresses stay listed,
//! and listen again when a device has their address.

use super::engine::{DeviceState, Engine, Owner, State};
use super::verbs::{Identifier, Verbs};
use crate::backend::{Channel, Listener, WireEvent};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How often is looked whether a device has gone, or is back. Each look takes some system calls.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What waits for devices to go, or to come.
#[derive(Debug, Default)]
pub(super) struct Removal {
    /// Listeners without a device, and where they listened.
    pub(super) listeners: Vec<(Listener, SocketAddr)>,
    /// When to look whether devices have gone: one was given back, or more are open than are used.
    look_after: Option<Duration>,
    looked: Option<Instant>,
}

impl Removal {
    /// How long a sleep may last, if anything waits.
    pub(super) fn sleep_max(&self) -> Option<Duration> {
        if self.listeners.is_empty() { self.look_after } else { Some(LOOK_EVERY) }
    }

    fn is_due(&self) -> bool {
        let is_over = |after| self.looked.is_none_or(|looked| looked.elapsed() >= after);
        self.sleep_max().is_some_and(is_over)
    }
}

impl<V: Verbs> Engine<V> {
    /// The connection manager says of something on a device that it goes away.
    pub(super) fn device_removed(&mut self, identifier: Identifier) {
        if let Some(device) = self.verbs.device_in_use(identifier)
            && let Some(state) = self.devices.iter_mut().find(|state| state.device == device)
            && !std::mem::replace(&mut state.is_gone, true)
        {
            tracing::warn!(device = state.limits.name, "an RDMA device was removed");
            state.is_broken = true;
            for channel in state.queue_pairs.values().copied().collect::<Vec<_>>() {
                self.end_at_once(channel, removed());
            }
        }
        match self.owner(identifier) {
            Some(Owner::Channel(channel)) => self.end_at_once(channel, removed()),
            Some(Owner::Listener(listener)) => {
                if let Some(place) = self.listening_at(listener) {
                    self.stop_listening(listener);
                    self.removal.listeners.push((listener, place));
                    self.events.push(WireEvent::AcceptFailed { listener, error: removed() });
                }
            }
            None => {}
        }
    }

    /// Gives back the devices that go away. Nobody is in the midst of using one.
    pub(super) fn close_gone_devices(&mut self) {
        while let Some(place) = self.devices.iter().position(|state| state.is_gone) {
            let DeviceState { device, memory, receives, .. } = self.devices.swap_remove(place);
            if let Some(moved) = self.devices.get(place) {
                for channel in moved.queue_pairs.values().copied().collect::<Vec<Channel>>() {
                    if let Some(State { link: Some(link), .. }) = self.channels.at(channel) {
                        link.device = place;
                    }
                }
            }
            self.verbs.close_device(device);
            // Now no device touches their buffers any more.
            self.budget.pinned_bytes -= memory.closed();
            drop(receives);
            self.removal.look_after = Some(LOOK_EVERY);
        }
    }

    /// Looks whether what was given back is gone, and whether listeners have a device again.
    pub(super) fn look_for_devices(&mut self) {
        if !self.removal.is_due() {
            return;
        }
        self.removal.looked = Some(Instant::now());
        self.removal.look_after = self.verbs.let_go();
        for (listener, place) in std::mem::take(&mut self.removal.listeners) {
            match self.verbs.listen(place, self.config.backlog) {
                Ok((identifier, place)) => {
                    tracing::info!(%place, "an RDMA device is back, and a listener with it");
                    self.add_listener(listener, identifier, place);
                }
                Err(_) => self.removal.listeners.push((listener, place)),
            }
        }
    }
}

fn removed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the RDMA device was removed")
}
