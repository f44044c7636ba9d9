use super::*;
#[derive(Debug)]
pub(in crate::backend::rdma) struct RealVerbs;
impl RealVerbs {
    pub(in crate::backend::rdma) fn open() -> Result<Self, crate::backend::rdma::RdmaOpenError> {
        todo!()
    }
}
impl Verbs for RealVerbs {
    fn descriptor(&self) -> BorrowedFd<'_> {
        todo!()
    }

    fn listen(&mut self, address: SocketAddr, backlog: u32) -> io::Result<(Identifier, SocketAddr)> {
        todo!()
    }

    fn resolve(
        &mut self,
        address: SocketAddr,
        source: Option<SocketAddr>,
        timeout: Duration,
    ) -> io::Result<Identifier> {
        todo!()
    }

    fn resolve_route(&mut self, identifier: Identifier, timeout: Duration) -> io::Result<()> {
        todo!()
    }

    fn connect(
        &mut self,
        identifier: Identifier,
        parameters: &ConnectParameters,
        greeting: &[u8],
    ) -> io::Result<()> {
        todo!()
    }

    fn accept(
        &mut self,
        identifier: Identifier,
        parameters: &ConnectParameters,
        greeting: &[u8],
    ) -> io::Result<()> {
        todo!()
    }

    fn reject(&mut self, identifier: Identifier, reason: &[u8]) -> io::Result<()> {
        todo!()
    }

    fn disconnect(&mut self, identifier: Identifier) -> io::Result<()> {
        todo!()
    }

    fn destroy(&mut self, identifier: Identifier) {
        todo!()
    }

    fn take_event(&mut self) -> io::Result<Option<Event>> {
        todo!()
    }

    fn peer(&self, identifier: Identifier) -> Option<SocketAddr> {
        todo!()
    }

    fn limits(&mut self, identifier: Identifier) -> io::Result<DeviceLimits> {
        todo!()
    }

    fn device(&mut self, identifier: Identifier, sizes: &DeviceSizes) -> io::Result<Device> {
        todo!()
    }

    fn packet_bytes(&mut self, identifier: Identifier) -> io::Result<u32> {
        todo!()
    }

    fn create_queue_pair(&mut self, identifier: Identifier, sizes: &QueuePairSizes) -> io::Result<QueuePair> {
        todo!()
    }

    unsafe fn register(&mut self, device: Device, address: u64, bytes: usize) -> io::Result<Region> {
        todo!()
    }

    fn deregister(&mut self, region: Region) -> io::Result<()> {
        todo!()
    }

    fn allocate_window(&mut self, device: Device) -> io::Result<Window> {
        todo!()
    }

    fn free_window(&mut self, window: Window) -> io::Result<()> {
        todo!()
    }

    unsafe fn post(&mut self, identifier: Identifier, requests: &[Request<'_>]) -> Posted {
        todo!()
    }

    unsafe fn post_receives(&mut self, device: Device, receives: &[Receive<'_>]) -> Posted {
        todo!()
    }

    fn take_completions(&mut self, device: Device, into: &mut [Completion]) -> io::Result<usize> {
        todo!()
    }

    fn arm(&mut self, device: Device) -> io::Result<()> {
        todo!()
    }
}
