//! Verbs over the devices of this machine, by `libibverbs` and `librdmacm`.
//!
//! Control path: `connection` has one identifier of the connection manager and its queue pair, `beside` the two that may
//! stand beside that one, `channel` where its news come from, `events` what they mean; `device` what is made once a device,
//! `memory` what a device knows of it; `last_receive` what devices say of queue pairs that have failed; `open` and `fork`
//! what concerns the process. Data path: `data`.
//!
//! Whatever the libraries made belongs to a type here that destroys it when it is dropped. They insist on an order,
//! which [`RealVerbs`] keeps: queue pairs are stopped, so that no peer reads any more; windows are closed, which a queue
//! pair may not have when it is destroyed; then go queue pairs and identifiers, regions, queues, the channel.
//!
//! Nothing here knows what is sent, or why. Numbers that name nothing end in `EINVAL`, and a machine without devices in
//! `ENODEV`, for as long as it has none.

mod beside;
mod channel;
mod check;
mod connection;
mod data;
mod device;
mod events;
mod fork;
mod last_receive;
mod memory;
mod open;
mod table;
#[cfg(all(test, not(loom)))]
mod tests;
mod watch;

use super::{
    Beside, Completion, ConnectParameters, Device, DeviceLimits, DeviceSizes, Event, Identifier, Posted,
    QueuePair, QueuePairName, QueuePairSizes, Receive, Region, Request, Verbs, Window,
};
use crate::backend::rdma::config::RdmaOpenError;
use channel::EventChannel;
use check::invalid;
use connection::Connection;
use data::Memory;
use device::OpenDevice;
use memory::{MemoryRegion, MemoryWindow};
use rdma_sys::ibv_context;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::time::Duration;
use table::Table;
use watch::{Watch, Watched};

/// Identifiers from here on stand for devices. There are never so many others.
const HOLDERS: u32 = 1 << 31;

/// How often is looked whether the library has let go of a device that was closed. The next device may have the same
/// context, so that this has to end.
const LOOKS_MAX: u32 = 600;

/// When to look again while a device that was closed is still there.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The same while the library holds a device that nobody here uses: whoever removes that one waits for so long.
const LOOK_AFTER_UNUSED: Duration = Duration::from_secs(1);

/// One thread's access to the devices of this machine.
pub(in crate::backend::rdma) struct RealVerbs {
    connections: Table<Connection>,
    windows: Table<MemoryWindow>,
    regions: Table<MemoryRegion>,
    /// Those that were closed leave their place.
    devices: Vec<Option<OpenDevice>>,
    /// Of devices that were closed because they go away, until the library has let go of them: only compared; and how
    /// often that is still looked at.
    departing: Vec<(NonNull<ibv_context>, u32)>,
    /// `None` as long as there is no device, without which the library does not open it.
    channel: Option<EventChannel>,
    watch: Watch,
}

// SAFETY: the objects behind the pointers belong to this alone, but for contexts, on which the libraries lock
// themselves; neither of them cares which thread calls.
unsafe impl Send for RealVerbs {}

impl RealVerbs {
    /// Opens the connection manager. Devices are opened when they are used.
    pub(in crate::backend::rdma) fn open() -> Result<Self, RdmaOpenError> {
        fork::make_safe();
        let mut verbs = Self {
            connections: Table::new(),
            windows: Table::new(),
            regions: Table::new(),
            devices: Vec::new(),
            departing: Vec::new(),
            channel: None,
            watch: Watch::new().map_err(RdmaOpenError::System)?,
        };
        match verbs.open_channel() {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(verbs),
            Err(error) => Err(open::explain(error)),
            Ok(_) => Ok(verbs),
        }
    }

    /// The channel, which is opened now if there was no device before.
    fn open_channel(&mut self) -> io::Result<&EventChannel> {
        let channel = match self.channel.take() {
            Some(channel) => channel,
            None => {
                let channel = EventChannel::open()?;
                self.watch.add(channel.descriptor(), Watched::Events)?;
                channel
            }
        };
        Ok(self.channel.insert(channel))
    }

    /// A new identifier, which `prepare` is done with first; if that fails, it is gone.
    fn create<T>(
        &mut self,
        prepare: impl FnOnce(&mut Connection) -> io::Result<T>,
    ) -> io::Result<(Identifier, T)> {
        let mut connection = Connection::create(self.open_channel()?)?;
        let number = self.connections.insert_with(|number| {
            connection.set_number(number);
            connection
        });
        let identifier = Identifier(number);
        match self.connection(identifier).and_then(prepare) {
            Ok(outcome) => Ok((identifier, outcome)),
            Err(error) => {
                self.destroy(identifier);
                Err(error)
            }
        }
    }

    fn connection(&mut self, identifier: Identifier) -> io::Result<&mut Connection> {
        self.connections.at_mut(identifier.0).ok_or_else(invalid)
    }

    #[inline]
    fn open_device(&mut self, device: Device) -> io::Result<&mut OpenDevice> {
        self.devices.get_mut(device.0 as usize).and_then(Option::as_mut).ok_or_else(invalid)
    }

    /// An identifier that is bound to the device of another one, and stands for it.
    fn holder(&mut self, identifier: Identifier, device: u32) -> io::Result<Connection> {
        let mut holder = Connection::create(self.open_channel()?)?;
        holder.set_number(HOLDERS | device);
        let connection = self.connection(identifier)?;
        holder.bind_beside(connection)?;
        // An address that has moved to another device meanwhile.
        if holder.context()? == connection.context()? { Ok(holder) } else { Err(invalid()) }
    }

    fn place_of(&self, context: NonNull<ibv_context>) -> Option<usize> {
        self.devices.iter().position(|device| device.as_ref().is_some_and(|device| device.is_of(context)))
    }
}

impl Verbs for RealVerbs {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    fn listen(&mut self, address: SocketAddr, backlog: u32) -> io::Result<(Identifier, SocketAddr)> {
        self.create(|connection| connection.listen(address, backlog))
    }

    fn resolve(
        &mut self,
        address: SocketAddr,
        source: Option<SocketAddr>,
        timeout: Duration,
    ) -> io::Result<Identifier> {
        self.create(|connection| connection.resolve(address, source, timeout))
            .map(|(identifier, ())| identifier)
    }

    fn set_acknowledgement_timeout(&mut self, identifier: Identifier, doublings: u8) -> io::Result<()> {
        self.connection(identifier)?.set_acknowledgement_timeout(doublings)
    }

    fn resolve_route(&mut self, identifier: Identifier, timeout: Duration) -> io::Result<()> {
        self.connection(identifier)?.resolve_route(timeout)
    }

    fn connect(
        &mut self,
        identifier: Identifier,
        parameters: &ConnectParameters,
        greeting: &[u8],
    ) -> io::Result<()> {
        self.connection(identifier)?.connect(parameters, greeting)
    }

    fn accept(
        &mut self,
        identifier: Identifier,
        parameters: &ConnectParameters,
        greeting: &[u8],
    ) -> io::Result<()> {
        self.connection(identifier)?.accept(parameters, greeting)
    }

    fn reject(&mut self, identifier: Identifier, reason: &[u8]) -> io::Result<()> {
        self.connection(identifier)?.reject(reason)
    }

    fn disconnect(&mut self, identifier: Identifier) -> io::Result<()> {
        self.connection(identifier)?.disconnect()
    }

    fn destroy(&mut self, identifier: Identifier) {
        drop(self.connections.remove(identifier.0));
    }

    fn take_event(&mut self) -> io::Result<Option<Event>> {
        let ready = self.watch.look()?;
        let mut has_events = false;
        for watched in ready {
            match watched {
                Watched::Events => has_events = true,
                Watched::Asynchronous(number) => {
                    if let Some(Some(device)) = self.devices.get(number as usize) {
                        device.take_asynchronous();
                    }
                }
                // Stays until the queue is armed again.
                Watched::Completions(_) => {}
            }
        }
        if has_events { self.next_event() } else { Ok(None) }
    }

    fn has_let_go_of_receives(&mut self, identifier: Identifier) -> bool {
        self.connections.at(identifier.0).is_some_and(Connection::has_let_go_of_receives)
    }

    fn peer(&self, identifier: Identifier) -> Option<SocketAddr> {
        self.connections.at(identifier.0)?.peer()
    }

    fn limits(&mut self, identifier: Identifier) -> io::Result<DeviceLimits> {
        device::limits(self.connection(identifier)?.context()?)
    }

    fn device(&mut self, identifier: Identifier, sizes: &DeviceSizes) -> io::Result<Device> {
        let context = self.connection(identifier)?.context()?;
        let number = match self.place_of(context) {
            Some(place) => place as u32,
            None => {
                let number = self.devices.len() as u32;
                let holder = self.holder(identifier, number)?;
                self.devices.push(Some(OpenDevice::open(context, sizes, &self.watch, number, holder)?));
                number
            }
        };
        Ok(Device(number))
    }

    fn device_in_use(&mut self, identifier: Identifier) -> Option<Device> {
        if identifier.0 & HOLDERS != 0 {
            return Some(Device(identifier.0 & !HOLDERS));
        }
        let context = self.connection(identifier).and_then(|connection| connection.context()).ok()?;
        self.place_of(context).map(|place| Device(place as u32))
    }

    fn close_device(&mut self, device: Device) {
        let Some(device) = self.devices.get_mut(device.0 as usize).and_then(Option::take) else { return };
        self.departing.push((device.context(), LOOKS_MAX));
        device.unwatch(&self.watch);
        self.windows.drop_if(|window| window.is_of(&device));
        // Those in a peer's domain, too, which have stayed if they could not be undone before their connection went. What
        // undoes them is the context, and the library closes it soon, with the domain that stayed for them.
        self.regions.drop_if(|region| region.is_of(&device));
    }

    fn unwatch(&mut self, device: Device) {
        if let Some(Some(device)) = self.devices.get(device.0 as usize) {
            device.unwatch(&self.watch);
        }
    }

    fn let_go(&mut self) -> Option<Duration> {
        let kept = device::kept();
        self.departing.retain_mut(|(context, looks)| {
            *looks -= 1;
            kept.contains(context) && *looks > 0
        });
        // A device that only looking has opened tells nobody that it is to go.
        let is_unused = |context: &NonNull<ibv_context>| self.place_of(*context).is_none();
        match self.departing.is_empty() {
            false => Some(LOOK_AGAIN),
            true => kept.iter().any(is_unused).then_some(LOOK_AFTER_UNUSED),
        }
    }

    fn packet_bytes(&mut self, identifier: Identifier) -> io::Result<u32> {
        let connection = self.connection(identifier)?;
        device::packet_bytes(connection.context()?, connection.port())
    }

    fn create_queue_pair(&mut self, identifier: Identifier, sizes: &QueuePairSizes) -> io::Result<QueuePair> {
        let connection = self.connections.at_mut(identifier.0).ok_or_else(invalid)?;
        let context = connection.context()?;
        let mut devices = self.devices.iter().flatten();
        let device = devices.find(|device| device.is_of(context)).ok_or_else(invalid)?;
        connection.create_queue_pair(device.queues(), sizes)
    }

    fn create_beside(
        &mut self,
        identifier: Identifier,
        beside: Beside,
        sizes: &QueuePairSizes,
    ) -> io::Result<QueuePairName> {
        let connection = self.connections.at_mut(identifier.0).ok_or_else(invalid)?;
        let context = connection.context()?;
        let mut devices = self.devices.iter().flatten();
        let device = devices.find(|device| device.is_of(context)).ok_or_else(invalid)?;
        connection.create_beside(device.queues(), beside, sizes)
    }

    fn destroy_beside(&mut self, identifier: Identifier) {
        if let Some(connection) = self.connections.at_mut(identifier.0) {
            connection.destroy_beside();
        }
    }

    fn connect_beside(
        &mut self,
        identifier: Identifier,
        beside: Beside,
        peer: QueuePairName,
        reads: u8,
    ) -> io::Result<()> {
        self.connection(identifier)?.connect_beside(beside, peer, reads)
    }

    unsafe fn register_for_peer(
        &mut self,
        identifier: Identifier,
        address: u64,
        bytes: usize,
    ) -> io::Result<Region> {
        let domain = self.connection(identifier)?.beside(Beside::Answering)?.domain()?;
        // SAFETY: the domain is as old as the connection, before which the caller deregisters; it vouches for the memory.
        let region = unsafe { MemoryRegion::register_for_peer(domain, address, bytes)? };
        let key = region.remote_key();
        Ok(Region { number: self.regions.insert_with(|_| region), key })
    }

    unsafe fn post_beside(&mut self, identifier: Identifier, requests: &[Request<'_>]) -> Posted {
        let memory = Memory { regions: &self.regions, windows: &self.windows };
        let connection = self.connections.at(identifier.0).ok_or_else(invalid);
        match connection.and_then(|connection| connection.beside(Beside::Reading)) {
            // SAFETY: the queue pair exists; the caller vouches for the memory.
            Ok(beside) => unsafe { data::post(beside.queue_pair(), &memory, requests) },
            Err(error) => Posted { count: 0, error: Some(error) },
        }
    }

    unsafe fn register(&mut self, device: Device, address: u64, bytes: usize) -> io::Result<Region> {
        // SAFETY: the caller vouches for the memory.
        let region = unsafe { MemoryRegion::register(self.open_device(device)?, address, bytes)? };
        let mut named = region.named(0);
        named.number = self.regions.insert_with(|_| region);
        Ok(named)
    }

    fn deregister(&mut self, region: Region) -> io::Result<()> {
        self.regions.try_remove(region.number, MemoryRegion::deregister).unwrap_or_else(|| Err(invalid()))
    }

    fn allocate_window(&mut self, device: Device) -> io::Result<Window> {
        let window = MemoryWindow::allocate(self.open_device(device)?)?;
        let mut named = window.named(0);
        named.number = self.windows.insert_with(|_| window);
        Ok(named)
    }

    fn free_window(&mut self, window: Window) -> io::Result<()> {
        self.windows.try_remove(window.number, MemoryWindow::free).unwrap_or_else(|| Err(invalid()))
    }

    #[inline]
    unsafe fn post(&mut self, identifier: Identifier, requests: &[Request<'_>]) -> Posted {
        let memory = Memory { regions: &self.regions, windows: &self.windows };
        let connection = self.connections.at(identifier.0);
        match connection.ok_or_else(invalid).and_then(Connection::queue_pair) {
            // SAFETY: the queue pair exists; the caller vouches for the memory.
            Ok(queue_pair) => unsafe { data::post(queue_pair, &memory, requests) },
            Err(error) => Posted { count: 0, error: Some(error) },
        }
    }

    #[inline]
    unsafe fn post_receives(&mut self, device: Device, receives: &[Receive<'_>]) -> Posted {
        match self.open_device(device) {
            // SAFETY: the queue exists; the caller vouches for the memory.
            Ok(device) => unsafe { data::post_receives(device.queues().receives, receives) },
            Err(error) => Posted { count: 0, error: Some(error) },
        }
    }

    #[inline]
    fn take_completions(&mut self, device: Device, into: &mut [Completion]) -> io::Result<usize> {
        let queue = self.open_device(device)?.queues().completions;
        // SAFETY: the queue exists.
        unsafe { data::take_completions(queue, into) }
    }

    fn arm(&mut self, device: Device) -> io::Result<()> {
        self.open_device(device)?.arm()
    }
}

impl Drop for RealVerbs {
    fn drop(&mut self) {
        self.connections.things().for_each(Connection::stop);
        self.windows.clear();
        // A domain that a peer has to itself goes with its connection, and must be empty by then; what else is registered
        // may be posted until its queue pair is gone.
        self.regions.drop_if(MemoryRegion::is_for_peer);
        self.connections.clear();
        self.regions.clear();
        self.devices.clear();
    }
}

impl fmt::Debug for RealVerbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RealVerbs({} connections, {} devices)",
            self.connections.things().count(),
            self.devices.iter().flatten().count()
        )
    }
}
