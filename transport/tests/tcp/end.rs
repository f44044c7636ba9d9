//! One end of some channels: a wire, its pool, and what has happened.

use std::time::{Duration, Instant};
use underlay::backend::tcp::{EngineChoice, OpenError, TcpConfig, TcpWire};
use underlay::backend::{Channel, ChannelEnd, Listener, Wire, WireEvent};
use underlay::pool::{GatherList, Pool, PoolConfig};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct End {
    pub(crate) pool: Pool,
    pub(crate) wire: TcpWire,
    pub(crate) events: Vec<WireEvent>,
    pub(crate) started: Instant,
}

pub(crate) fn config(engine: EngineChoice) -> TcpConfig {
    TcpConfig { engine, ..TcpConfig::default() }
}

/// A configuration whose sockets take little, so that a peer that does not read is felt soon.
pub(crate) fn narrow(engine: EngineChoice) -> TcpConfig {
    let bytes = Some(16 << 10);
    TcpConfig { socket_send_bytes: bytes, socket_receive_bytes: bytes, ..config(engine) }
}

pub(crate) fn io_uring_is_usable(test: &str) -> bool {
    let mut pool = Pool::new(PoolConfig::edge()).unwrap();
    match TcpWire::open(config(EngineChoice::IoUring), &mut pool) {
        Err(OpenError::IoUring { reason }) => {
            eprintln!("skipped: {test} on io_uring: {reason}");
            false
        }
        outcome => outcome.is_ok(),
    }
}

impl End {
    pub(crate) fn open(config: TcpConfig) -> Self {
        Self::with_pool(config, PoolConfig::edge())
    }

    pub(crate) fn with_pool(config: TcpConfig, pool: PoolConfig) -> Self {
        let mut pool = Pool::new(pool).unwrap();
        let wire = TcpWire::open(config, &mut pool).unwrap();
        Self { pool, wire, events: Vec::new(), started: Instant::now() }
    }

    pub(crate) fn listen(&mut self) -> (Listener, String) {
        let listening = self.wire.listen("127.0.0.1:0").unwrap();
        (listening.listener, listening.address)
    }

    pub(crate) fn poll(&mut self) {
        assert!(self.started.elapsed() < PATIENCE, "nothing more happens; open events: {:?}", self.events);
        self.wire.poll(&mut self.pool, &mut self.events).unwrap();
    }

    /// Polls until an event is there that `pick` makes something of, and takes it out.
    pub(crate) fn until<T>(&mut self, mut pick: impl FnMut(&WireEvent) -> Option<T>) -> T {
        loop {
            if let Some(found) = self.take(&mut pick) {
                return found;
            }
            self.poll();
            std::thread::yield_now();
        }
    }

    pub(crate) fn take<T>(&mut self, mut pick: impl FnMut(&WireEvent) -> Option<T>) -> Option<T> {
        let (place, found) =
            self.events.iter().enumerate().find_map(|(place, event)| Some((place, pick(event)?)))?;
        self.events.remove(place);
        Some(found)
    }

    /// Takes what a channel has received.
    pub(crate) fn take_received(&mut self, of: Channel) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.events.retain(|event| match event {
            WireEvent::Received { channel, segment } if *channel == of => {
                assert!(!segment.is_empty());
                bytes.extend_from_slice(segment);
                false
            }
            _ => true,
        });
        bytes
    }

    /// A gather list of `bytes`, each part in a buffer of its own; the parts' sizes are taken from `sizes` in turn.
    pub(crate) fn gather(&mut self, bytes: &[u8], mut sizes: impl FnMut() -> usize) -> GatherList {
        let mut gather = GatherList::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let last = gather.room() == 1;
            let (part, others) = rest.split_at(if last { rest.len() } else { sizes().clamp(1, rest.len()) });
            let mut buffer = self.pool.buffer(part.len()).unwrap();
            buffer.put_slice(part);
            gather.push(buffer.split());
            rest = others;
        }
        gather
    }

    pub(crate) fn send(&mut self, channel: Channel, bytes: &[u8]) {
        let mut gather = self.gather(bytes, || 60_000);
        self.wire.send(channel, &mut gather).unwrap();
        assert!(gather.is_empty());
    }

    /// Polls until the channel has ended; nothing may come after that.
    pub(crate) fn until_closed(&mut self, of: Channel) -> Reason {
        let reason = self.until(|event| match event {
            WireEvent::Closed { channel, reason } if *channel == of => Some(Reason::from(reason)),
            _ => None,
        });
        for _ in 0..50 {
            self.poll();
        }
        let about = |event: &WireEvent| match event {
            WireEvent::Closed { channel, .. }
            | WireEvent::Sent { channel }
            | WireEvent::Connected { channel, .. } => *channel == of,
            _ => false,
        };
        assert!(!self.events.iter().any(about), "something came with or after the end: {:?}", self.events);
        reason
    }

    /// How many buffers are out of the pool, when all that came back was taken back.
    pub(crate) fn buffers_out(&mut self) -> usize {
        self.pool.reclaim();
        self.pool.stats().buffers_out
    }
}

/// [`ChannelEnd`], to be compared.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Local,
    Peer,
    ConnectFailed(i32),
    Broken(i32),
}

impl From<&ChannelEnd> for Reason {
    fn from(end: &ChannelEnd) -> Self {
        match end {
            ChannelEnd::Local => Reason::Local,
            ChannelEnd::Peer => Reason::Peer,
            ChannelEnd::ConnectFailed(error) => Reason::ConnectFailed(error.raw_os_error().unwrap_or(0)),
            ChannelEnd::Broken(error) => Reason::Broken(error.raw_os_error().unwrap_or(0)),
            other => panic!("unknown: {other}"),
        }
    }
}

pub(crate) fn accepted(event: &WireEvent) -> Option<Channel> {
    match event {
        WireEvent::Accepted { channel, .. } => Some(*channel),
        _ => None,
    }
}

/// Two ends with a channel between them.
pub(crate) struct Pair {
    pub(crate) client: End,
    pub(crate) server: End,
    pub(crate) near: Channel,
    pub(crate) far: Channel,
}

impl Pair {
    pub(crate) fn open(config: TcpConfig) -> Self {
        let (mut client, mut server) = (End::open(config.clone()), End::open(config));
        let (_, address) = server.listen();
        let near = client.wire.connect(&address).unwrap();
        client.until(|event| {
            matches!(event, WireEvent::Connected { channel, .. } if *channel == near).then_some(())
        });
        let far = server.until(accepted);
        Self { client, server, near, far }
    }
}

/// A channel of a wire whose other end is a plain socket.
pub(crate) fn with_plain_peer(end: &mut End) -> (Channel, std::net::TcpStream) {
    let (listener, address) = end.listen();
    let peer = std::net::TcpStream::connect(address).unwrap();
    let channel = end.until(accepted);
    end.wire.stop_listening(listener);
    (channel, peer)
}

/// Small, seeded and good enough to vary sizes (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }
}

/// Whether this is a process of its own for the test of that name. If not, runs it in one and checks that it passed.
///
/// For what is common to all threads of a process: limits, descriptors, system call filters.
pub(crate) fn is_own_process(test: &str) -> bool {
    const MARK: &str = "UNDERLAY_TEST_PROCESS";
    if std::env::var_os(MARK).is_some_and(|name| name == test) {
        return true;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(MARK, test)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{test} in a process of its own:\n{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    false
}
