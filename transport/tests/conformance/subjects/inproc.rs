//! `inproc`: three wires of one network on one thread.

use crate::subject::{Subject, WireUnderTest};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;
use underlay::Wakeup;
use underlay::backend::inproc::{InprocNetwork, InprocWaitPoint, InprocWire};
use underlay::backend::{
    Channel, ConnectError, ListenError, Listener, Listening, SendRefused, WaitPoint, Wire, WireEvent,
};
use underlay::pool::{GatherList, Pool};

pub(crate) struct Inproc {
    network: InprocNetwork,
}

impl Subject for Inproc {
    type Wire = InprocEnd;
    const NAME: &'static str = "inproc";
    const PASSES_REFERENCES: bool = true;
    // The second one has 256 bytes.
    const BAD_ADDRESSES: &'static [&'static str] = &["", {
        const LONG: [u8; 256] = [b'n'; 256];
        match std::str::from_utf8(&LONG) {
            Ok(name) => name,
            Err(_) => unreachable!(),
        }
    }];

    fn new() -> Self {
        Self { network: InprocNetwork::new() }
    }

    fn open(&self, _pool: &mut Pool) -> Result<InprocEnd, String> {
        let wakeup = Arc::new(Wakeup::new().map_err(|error| error.to_string())?);
        let wire = InprocWire::new(self.network.clone(), wakeup.clone());
        Ok(InprocEnd { wire, wait: InprocWaitPoint::new(wakeup.clone()), wakeup })
    }

    fn addresses(&self) -> [String; 2] {
        ["right".to_owned(), "third".to_owned()]
    }

    fn nobody(&self) -> String {
        "nobody".to_owned()
    }
}

/// The wire with its wait point.
pub(crate) struct InprocEnd {
    wire: InprocWire,
    wait: InprocWaitPoint,
    wakeup: Arc<Wakeup>,
}

impl WireUnderTest for InprocEnd {
    fn about_to_sleep(&mut self) {
        self.wakeup.about_to_sleep();
    }

    fn awake(&mut self) {
        self.wakeup.awake();
    }
}

impl Wire for InprocEnd {
    fn listen(&mut self, address: &str) -> Result<Listening, ListenError> {
        self.wire.listen(address)
    }

    fn connect(&mut self, address: &str) -> Result<Channel, ConnectError> {
        self.wire.connect(address)
    }

    fn send(&mut self, channel: Channel, gather: &mut GatherList) -> Result<(), SendRefused> {
        self.wire.send(channel, gather)
    }

    fn close(&mut self, channel: Channel) {
        self.wire.close(channel);
    }

    fn stop_listening(&mut self, listener: Listener) {
        self.wire.stop_listening(listener);
    }

    fn poll(&mut self, pool: &mut Pool, events: &mut Vec<WireEvent>) -> io::Result<()> {
        self.wire.poll(pool, events)
    }
}

impl WaitPoint for InprocEnd {
    fn watch(&mut self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.wait.watch(descriptor)
    }

    fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.wait.sleep(timeout)
    }
}
