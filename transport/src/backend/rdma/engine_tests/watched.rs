//! An end of the fake network that keeps count of what is asked of it.

use super::allocations::ALLOCATIONS;
use crate::backend::rdma::verbs::fake::FakeVerbs;
use crate::backend::rdma::verbs::*;
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

/// What was asked of the device.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Calls that posted sends, and the requests that they took.
    pub(super) posts: usize,
    pub(super) requests: usize,
    /// The parts of what was posted to send queues.
    pub(super) parts: Vec<Part>,
    /// Calls that brought completions, and these.
    pub(super) takes: usize,
    pub(super) completions: Vec<Completion>,
    /// Calls that looked for events of the connection manager: system calls on a real device.
    pub(super) event_looks: usize,
    /// Memory that was registered, and how often.
    pub(super) registrations: usize,
    /// What the fake, and this count, have allocated while something was posted or polled: no business of the engine.
    pub(super) allocations: u64,
    /// Identifiers that were destroyed.
    pub(super) destroyed: Vec<Identifier>,
}

/// [`FakeVerbs`], watched.
#[derive(Debug)]
pub(super) struct Watched {
    verbs: FakeVerbs,
    asked: Rc<RefCell<Asked>>,
}

impl Watched {
    pub(super) fn new(verbs: FakeVerbs) -> (Self, Rc<RefCell<Asked>>) {
        let asked = Rc::new(RefCell::new(Asked::default()));
        (Self { verbs, asked: Rc::clone(&asked) }, asked)
    }

    /// Does what the engine asks for, and keeps apart what that allocates.
    fn apart<T>(&mut self, act: impl FnOnce(&mut FakeVerbs, &mut Asked) -> T) -> T {
        let before = ALLOCATIONS.get();
        let mut asked = self.asked.borrow_mut();
        let outcome = act(&mut self.verbs, &mut asked);
        asked.allocations += ALLOCATIONS.get() - before;
        outcome
    }
}

impl Verbs for Watched {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.verbs.descriptor()
    }

    fn listen(&mut self, address: SocketAddr, backlog: u32) -> io::Result<(Identifier, SocketAddr)> {
        self.verbs.listen(address, backlog)
    }

    fn resolve(
        &mut self,
        address: SocketAddr,
        source: Option<SocketAddr>,
        timeout: Duration,
    ) -> io::Result<Identifier> {
        self.verbs.resolve(address, source, timeout)
    }

    fn set_acknowledgement_timeout(&mut self, identifier: Identifier, doublings: u8) -> io::Result<()> {
        self.verbs.set_acknowledgement_timeout(identifier, doublings)
    }

    fn resolve_route(&mut self, identifier: Identifier, timeout: Duration) -> io::Result<()> {
        self.verbs.resolve_route(identifier, timeout)
    }

    fn connect(
        &mut self,
        identifier: Identifier,
        parameters: &ConnectParameters,
        greeting: &[u8],
    ) -> io::Result<()> {
        self.verbs.connect(identifier, parameters, greeting)
    }

    fn accept(
        &mut self,
        identifier: Identifier,
        parameters: &ConnectParameters,
        greeting: &[u8],
    ) -> io::Result<()> {
        self.verbs.accept(identifier, parameters, greeting)
    }

    fn reject(&mut self, identifier: Identifier, reason: &[u8]) -> io::Result<()> {
        self.verbs.reject(identifier, reason)
    }

    fn disconnect(&mut self, identifier: Identifier) -> io::Result<()> {
        self.verbs.disconnect(identifier)
    }

    fn destroy(&mut self, identifier: Identifier) {
        self.asked.borrow_mut().destroyed.push(identifier);
        self.verbs.destroy(identifier);
    }

    fn take_event(&mut self) -> io::Result<Option<Event>> {
        self.apart(|verbs, asked| {
            asked.event_looks += 1;
            verbs.take_event()
        })
    }

    fn has_let_go_of_receives(&mut self, identifier: Identifier) -> bool {
        self.verbs.has_let_go_of_receives(identifier)
    }

    fn peer(&self, identifier: Identifier) -> Option<SocketAddr> {
        self.verbs.peer(identifier)
    }

    fn limits(&mut self, identifier: Identifier) -> io::Result<DeviceLimits> {
        self.verbs.limits(identifier)
    }

    fn device(&mut self, identifier: Identifier, sizes: &DeviceSizes) -> io::Result<Device> {
        self.verbs.device(identifier, sizes)
    }

    fn device_in_use(&mut self, identifier: Identifier) -> Option<Device> {
        self.verbs.device_in_use(identifier)
    }

    fn close_device(&mut self, device: Device) {
        self.verbs.close_device(device);
    }

    fn unwatch(&mut self, device: Device) {
        self.verbs.unwatch(device);
    }

    fn let_go(&mut self) -> Option<Duration> {
        self.verbs.let_go()
    }

    fn packet_bytes(&mut self, identifier: Identifier) -> io::Result<u32> {
        self.verbs.packet_bytes(identifier)
    }

    fn create_queue_pair(&mut self, identifier: Identifier, sizes: &QueuePairSizes) -> io::Result<QueuePair> {
        self.verbs.create_queue_pair(identifier, sizes)
    }

    fn create_beside(
        &mut self,
        identifier: Identifier,
        beside: Beside,
        sizes: &QueuePairSizes,
    ) -> io::Result<QueuePairName> {
        self.verbs.create_beside(identifier, beside, sizes)
    }

    fn destroy_beside(&mut self, identifier: Identifier) {
        self.verbs.destroy_beside(identifier);
    }

    fn connect_beside(
        &mut self,
        identifier: Identifier,
        beside: Beside,
        peer: QueuePairName,
        reads: u8,
    ) -> io::Result<()> {
        self.verbs.connect_beside(identifier, beside, peer, reads)
    }

    unsafe fn register_for_peer(
        &mut self,
        identifier: Identifier,
        address: u64,
        bytes: usize,
    ) -> io::Result<Region> {
        self.asked.borrow_mut().registrations += 1;
        // SAFETY: as the caller says.
        unsafe { self.verbs.register_for_peer(identifier, address, bytes) }
    }

    unsafe fn post_beside(&mut self, identifier: Identifier, requests: &[Request<'_>]) -> Posted {
        // SAFETY: as the caller says.
        unsafe { self.verbs.post_beside(identifier, requests) }
    }

    unsafe fn register(&mut self, device: Device, address: u64, bytes: usize) -> io::Result<Region> {
        self.asked.borrow_mut().registrations += 1;
        // SAFETY: as the caller says.
        unsafe { self.verbs.register(device, address, bytes) }
    }

    fn deregister(&mut self, region: Region) -> io::Result<()> {
        self.verbs.deregister(region)
    }

    fn allocate_window(&mut self, device: Device) -> io::Result<Window> {
        self.verbs.allocate_window(device)
    }

    fn free_window(&mut self, window: Window) -> io::Result<()> {
        self.verbs.free_window(window)
    }

    unsafe fn post(&mut self, identifier: Identifier, requests: &[Request<'_>]) -> Posted {
        self.apart(|verbs, asked| {
            // SAFETY: as the caller says.
            let posted = unsafe { verbs.post(identifier, requests) };
            asked.posts += 1;
            asked.requests += posted.count;
            let parts = requests[..posted.count].iter().flat_map(|request| request.parts);
            asked.parts.extend(parts);
            posted
        })
    }

    unsafe fn post_receives(&mut self, device: Device, receives: &[Receive<'_>]) -> Posted {
        // SAFETY: as the caller says.
        self.apart(|verbs, _| unsafe { verbs.post_receives(device, receives) })
    }

    fn take_completions(&mut self, device: Device, into: &mut [Completion]) -> io::Result<usize> {
        self.apart(|verbs, asked| {
            let count = verbs.take_completions(device, into)?;
            asked.takes += usize::from(count > 0);
            asked.completions.extend(&into[..count]);
            Ok(count)
        })
    }

    fn arm(&mut self, device: Device) -> io::Result<()> {
        self.verbs.arm(device)
    }
}
