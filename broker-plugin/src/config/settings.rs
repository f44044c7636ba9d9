//! The options, each with its default, its unit, and what it costs.

use serde::{Deserialize, Serialize};
use underlay::backend::rdma::RdmaConfig;
use underlay::backend::tcp::TcpConfig;
use underlay::driver::WaitConfig;
use underlay::proto::Parameters;

/// Everything that may stand in `broker.toml`, with the same names. A key that is not named here is refused.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `[broker]`: the process as a whole.
    pub broker: BrokerSettings,
    /// `[limits]`: the bounds of connections and links.
    pub limits: LimitSettings,
    /// `[rdma]`: the `rdma` wire, for all its listeners together.
    pub rdma: RdmaSettings,
    /// `[[listener]]`: where clients reach it; at least one.
    pub listener: Vec<ListenerSettings>,
    /// `[[queue]]`: where messages wait; at least one.
    pub queue: Vec<QueueSettings>,
    /// `[[exchange]]`: which routing key leads to which queues.
    pub exchange: Vec<ExchangeSettings>,
}

/// `[broker]`: the process as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerSettings {
    /// A name for its peers' logs, up to 64 bytes. Default `"underlay-broker"`.
    pub name: String,
    /// How it waits for work. Default `"adaptive"`.
    pub wait: Wait,
    /// Microseconds for which `adaptive` polls without giving the core away. Default 3. More pays only where the
    /// broker has a core of its own.
    pub spin_us_max: u64,
    /// Microseconds for which `adaptive` polls and lets others run in between. Default 500. It pays when it exceeds
    /// the gap between messages, and costs at most that much CPU time in each wait that ends in a sleep all the same.
    pub yield_us_max: u64,
    /// Connections at once; one more is refused with that reason. Default 1,000. Each takes a file descriptor, and
    /// its share of the pool's budget.
    pub connections_max: u64,
    /// The budget of the buffer pool in bytes. Default: none given, and then the sum that `--check` prints. Buffers
    /// are mapped as they are needed and kept; a smaller budget makes connections wait for each other's buffers when
    /// it is used up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_bytes_max: Option<u64>,
    /// Milliseconds for which a broker that was told to stop waits for what is queued and for the replies to what it
    /// has delivered. Default 5,000. 0 stops at once.
    pub drain_timeout_ms: u64,
    /// Bytes of a receive buffer: 256, 1024, 4096, 16384 or 65536. Default 65,536. A larger one takes a long message
    /// in fewer pieces; a smaller one wastes less when short messages wait for long.
    pub receive_buffer_bytes: u64,
    /// Receive buffers that the kernel holds at a time for all connections together, a power of two up to 32,768.
    /// Default 8. More of them carry more bytes from one poll to the next, and are never used for anything else.
    pub receive_buffers: u64,
    /// Connections that may wait to be accepted at each listener. Default 1,024; the kernel cuts it to
    /// `net.core.somaxconn`.
    pub backlog: u64,
}

impl Default for BrokerSettings {
    fn default() -> Self {
        let (wait, tcp) = (WaitConfig::default(), TcpConfig::default());
        Self {
            name: "underlay-broker".to_owned(),
            wait: Wait::Adaptive,
            spin_us_max: wait.spin_us_max.into(),
            yield_us_max: wait.yield_us_max.into(),
            connections_max: 1_000,
            pool_bytes_max: None,
            drain_timeout_ms: 5_000,
            receive_buffer_bytes: tcp.receive_buffer_bytes as u64,
            receive_buffers: tcp.receive_buffers.into(),
            backlog: tcp.backlog.into(),
        }
    }
}

/// How the broker waits for work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// Polls while that has paid lately, else sleeps.
    #[default]
    Adaptive,
    /// Never sleeps: the lowest latency on a core of its own, and all of that core.
    Spin,
    /// Sleeps whenever nothing is there: the least CPU time, and each message pays for a wakeup.
    Sleep,
}

/// `[[listener]]`: a place where clients connect.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerSettings {
    /// The wire: `"tcp"`, `"rdma"`, or `"inproc"` for clients in the broker's own process.
    pub transport: Transport,
    /// `host:port` for `tcp` and `rdma` (IPv6 in brackets; port 0 takes any free one), a name for `inproc`. For `rdma` the
    /// host is the IP address of an RDMA device, which it chooses, or `0.0.0.0` or `[::]` for all of them.
    pub address: String,
    /// Where an `rdma` listener listens if this machine has no RDMA when the broker starts, or no device for its address:
    /// at the same address by TCP, until the broker ends. Default: none, and then the broker does not start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// What drives TCP. Default `"auto"`. All listeners of a broker that are on TCP, or may fall back to it, share one
    /// engine, so they must agree.
    #[serde(default)]
    pub engine: Engine,
}

impl ListenerSettings {
    /// A TCP listener at `host:port`, on the best engine there is.
    pub fn tcp(address: impl Into<String>) -> Self {
        Self { transport: Transport::Tcp, address: address.into(), ..Self::default() }
    }

    /// An RDMA listener at `host:port`, without a fallback.
    pub fn rdma(address: impl Into<String>) -> Self {
        Self { transport: Transport::Rdma, address: address.into(), ..Self::default() }
    }

    /// A listener of this name for the broker's own process.
    pub fn inproc(name: impl Into<String>) -> Self {
        Self { transport: Transport::Inproc, address: name.into(), ..Self::default() }
    }

    /// It is on TCP, or may come to be.
    pub(super) fn may_use_tcp(&self) -> bool {
        self.transport == Transport::Tcp || self.fallback == Some(Fallback::Tcp)
    }
}

/// The wire of a listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// RDMA verbs: InfiniBand, RoCE, soft-RoCE.
    Rdma,
    /// Rings of references within the process.
    Inproc,
}

/// The wire in place of one that the machine lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fallback {
    /// TCP, at the same host and port.
    Tcp,
}

/// `[rdma]`: the `rdma` wire, for all its listeners together. Without such a listener nothing of it is used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RdmaSettings {
    /// The device that must be used, by its name in `ibv_devices(1)`; a connection that comes by another is refused.
    /// Default: none given, and then any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Bytes of memory that may be registered, and so pinned, over all devices. Default 1 GiB. The system's own limit
    /// (`ulimit -l`, `LimitMEMLOCK=`) must allow as much.
    pub pinned_bytes_max: u64,
    /// Receive requests that are posted on a device for all its connections together. Default 2,048, and never more
    /// than fill half of the pool. Each pins 17 KiB, once connections need it. A sixteenth of it is the most connections
    /// that a device takes.
    pub receive_slots_max: u64,
    /// Sends of up to 16 KiB that a peer may have on their way to the broker, on one connection. Default 64. It begins
    /// with 8, and more are promised as they are used.
    pub window_max: u64,
    /// Work requests that a connection's send queue holds; cut to what the device has. Default 128.
    pub sends_max: u64,
    /// Bytes up to which a send shall travel inside its work request; the device may give more or less. Default 256.
    pub inline_bytes: u64,
    /// How often a packet is sent again that nobody acknowledges. Default 6, the most.
    pub retry_count: u64,
    /// Milliseconds until a packet is sent again that nobody has acknowledged, rounded up to what devices know. After
    /// `retry_count` + 1 such times the network counts as gone: with 128, a second. Default 0: what the connection manager
    /// has, with which that takes 4 to 15 s on RoCE.
    pub acknowledgement_timeout_ms: u64,
    /// How often a send is tried again for which the peer has no receive request. Default 6. It never happens unless an
    /// end miscounts, and with 0 such an end is found out at once.
    pub receiver_not_ready_retry_count: u64,
}

impl Default for RdmaSettings {
    fn default() -> Self {
        let rdma = RdmaConfig::default();
        Self {
            device: rdma.device,
            pinned_bytes_max: rdma.pinned_bytes_max as u64,
            receive_slots_max: rdma.receive_slots_max.into(),
            window_max: rdma.window_max.into(),
            sends_max: rdma.sends_max.into(),
            inline_bytes: rdma.inline_bytes.into(),
            retry_count: rdma.retry_count.into(),
            acknowledgement_timeout_ms: rdma
                .acknowledgement_timeout
                .map_or(0, |time| time.as_millis() as u64),
            receiver_not_ready_retry_count: rdma.receiver_not_ready_retry_count.into(),
        }
    }
}

/// What drives TCP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// io_uring where the kernel has it and nothing forbids it, else epoll, and the reason is printed.
    #[default]
    Auto,
    /// io_uring, or the broker does not start.
    IoUring,
    /// epoll.
    Epoll,
}

/// `[[queue]]`: where messages wait, first in, first out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueSettings {
    /// Its name, which is also the destination that producers and consumers attach to. No `/`.
    pub name: String,
    /// Messages that may wait, those that producers have been granted included. Default 10,000.
    #[serde(default = "QueueSettings::default_messages_max")]
    pub messages_max: u64,
    /// Bytes of bodies that may wait, in the same way. Default 64 MiB. A message may begin while one byte is left, so
    /// each producer may exceed it by at most one message.
    #[serde(default = "QueueSettings::default_bytes_max")]
    pub bytes_max: u64,
    /// Producers at once. Default 256. Half of the queue's room is kept for them in equal shares, so that a producer
    /// that does nothing with its credit cannot keep the others from theirs; more producers mean smaller shares.
    #[serde(default = "QueueSettings::default_producers_max")]
    pub producers_max: u64,
    /// Consumers at once. Default 256.
    #[serde(default = "QueueSettings::default_consumers_max")]
    pub consumers_max: u64,
    /// Messages that one consumer may have been given and not settled, if it settles. Default 1,024. They count as
    /// waiting. Less than the consumer's own credit makes it wait for its settlements to arrive. While an early one is
    /// open, it is given at most four times as many from that on, whatever it settles behind it.
    #[serde(default = "QueueSettings::default_unsettled_max")]
    pub unsettled_max: u64,
    /// How often a message is delivered again because its consumer was lost without settling it. Default 5; one more,
    /// and it is dropped and counted, so that a message that kills its consumers does not do so for ever. A consumer
    /// that goes in order, as in a restart, is not counted.
    #[serde(default = "QueueSettings::default_redeliveries_max")]
    pub redeliveries_max: u64,
}

impl QueueSettings {
    /// A queue of this name with the default bounds.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            messages_max: Self::default_messages_max(),
            bytes_max: Self::default_bytes_max(),
            producers_max: Self::default_producers_max(),
            consumers_max: Self::default_consumers_max(),
            unsettled_max: Self::default_unsettled_max(),
            redeliveries_max: Self::default_redeliveries_max(),
        }
    }

    fn default_messages_max() -> u64 {
        10_000
    }

    fn default_bytes_max() -> u64 {
        64 << 20
    }

    fn default_producers_max() -> u64 {
        256
    }

    fn default_consumers_max() -> u64 {
        256
    }

    fn default_unsettled_max() -> u64 {
        1_024
    }

    fn default_redeliveries_max() -> u64 {
        5
    }
}

/// `[[exchange]]`: names for sets of queues. A producer attaches to `<exchange>/<routing key>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExchangeSettings {
    /// Its name. No `/`.
    pub name: String,
    /// How it routes. Default `"direct"`: to the queues that are bound with exactly the routing key.
    #[serde(default, rename = "type")]
    pub kind: ExchangeType,
    /// Its bindings. Several with one key give each of their queues a share of the same bytes.
    pub bindings: Vec<BindingSettings>,
}

/// How an exchange routes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExchangeType {
    /// To the queues that are bound with exactly the routing key.
    #[default]
    Direct,
}

/// One binding of an exchange.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BindingSettings {
    /// The routing key, byte for byte.
    pub key: String,
    /// The name of a queue.
    pub queue: String,
}

impl BindingSettings {
    /// A binding of this key to this queue.
    pub fn new(key: impl Into<String>, queue: impl Into<String>) -> Self {
        Self { key: key.into(), queue: queue.into() }
    }
}

/// `[limits]`: the bounds of connections and links. Of the first eleven the smaller of both ends' values holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Bytes that the network carries whole; packing aims at it, and at the path's own value if that is smaller.
    /// Default 65,536.
    pub packet_bytes: u64,
    /// Bytes of the longest frame. Default 163,840. Each connection may hold one that is incomplete.
    pub frame_bytes_max: u64,
    /// Bytes of the longest body that travels in one piece. Default 16,384. An urgent message waits behind one.
    pub eager_bytes_max: u64,
    /// Bytes of the longest chunk of a longer body. Default 131,072. An urgent message waits behind two; a shorter
    /// chunk costs a grant, and so a system call, more often.
    pub chunk_bytes_max: u64,
    /// Bytes of the longest body. Default 64 MiB. The broker forwards a body when all of it is there, so it holds
    /// this much for each that is under way.
    pub message_bytes_max: u64,
    /// Frames that a peer may send ahead. Default 256.
    pub frame_slots: u64,
    /// Of these, what only control may use. Default 8.
    pub control_slots: u64,
    /// Milliseconds of silence after which an end shows that it lives. Default 5,000.
    pub keep_alive_ms: u64,
    /// Milliseconds of silence after which a peer is given up. Default 20,000; at least twice `keep_alive_ms`.
    pub idle_timeout_ms: u64,
    /// Links of one connection. Default 4,096. A peer that uses them all costs some hundred KiB of tables.
    pub links_max: u64,
    /// Bytes of the longest head of a message, its extensions included. Default 4,096.
    pub head_bytes_max: u64,
    /// Milliseconds within which a hello must be complete. Default 5,000.
    pub handshake_timeout_ms: u64,
    /// Milliseconds within which a frame must be complete after its first byte. Default 10,000.
    pub frame_timeout_ms: u64,
    /// For the next chunk of a bulk message that has begun, milliseconds. Default 60,000; urgent messages may keep it
    /// back for long. What has arrived of it is held meanwhile.
    pub bulk_timeout_ms: u64,
    /// Milliseconds within which what waits to be sent must make progress. Default 10,000.
    pub send_timeout_ms: u64,
    /// Milliseconds that a peer has to take a close. Default 1,000.
    pub close_timeout_ms: u64,
    /// Milliseconds after which what a peer has sent is acknowledged, if nothing is sent to it before. Default 50. Until
    /// then the peer keeps it to send it again; less costs a frame more often.
    pub acknowledgement_delay_ms: u64,
    /// The longest that a session lives without a connection, in milliseconds; the client's own wish holds if it is
    /// shorter. Default 60,000. Meanwhile it counts as a connection, and keeps its links, what waits for it and what it
    /// has not settled. With 0, sessions end with their connections.
    pub session_expiry_max_ms: u64,
    /// How often in a row a session is resumed by a peer that takes nothing of what waits for it; once more, and it is
    /// given up. Default 16. Each costs a handshake and what is sent again.
    pub session_resumes_max: u64,
    /// Messages that each lane of a connection keeps, those that wait and those that were sent and are not acknowledged.
    /// Default 65,536. Replies may use all of it; deliveries from queues stop when `congestion_messages` wait.
    pub send_queue_messages_max: u64,
    /// The same in bytes. Default 64 MiB.
    pub send_queue_bytes_max: u64,
    /// Messages that wait on a connection from which on it counts as congested: it gets no deliveries from queues and
    /// its own producers get no credit, until half of that is left. Default 8,192.
    pub congestion_messages: u64,
    /// The same in bytes. Default 1 MiB.
    pub congestion_bytes: u64,
    /// Messages that a producer may be ahead, as far as its queue has room. Default 1,024. More keeps a distant
    /// producer busy; it costs room in the queue that nobody else can be granted.
    pub link_messages_max: u64,
    /// The same in bytes of bodies. Default 4 MiB.
    pub link_bytes_max: u64,
    /// Replies that are held for one reply address whose process takes no more for the moment. Default 1,024. Beyond
    /// it they are dropped and counted.
    pub held_replies_max: u64,
    /// The same in bytes of bodies and extensions. Default 1 MiB. A single reply may be longer. Both hold for one
    /// connection, too, whatever the number of its addresses.
    pub held_reply_bytes_max: u64,
    /// Hops that a message may have behind it; one with more is dropped and counted. Default 16.
    pub hops_max: u64,
    /// How many long messages (above `eager_bytes_max`) are expected to be under way at the same time. Default 8. It
    /// bounds nothing and only enters the pool's budget.
    pub long_messages_expected: u64,
}

impl Default for LimitSettings {
    fn default() -> Self {
        let parameters = Parameters::default();
        Self {
            packet_bytes: parameters.packet_bytes.into(),
            frame_bytes_max: parameters.frame_bytes_max.into(),
            eager_bytes_max: parameters.eager_bytes_max.into(),
            chunk_bytes_max: parameters.chunk_bytes_max.into(),
            message_bytes_max: parameters.message_bytes_max,
            frame_slots: parameters.frame_slots.into(),
            control_slots: parameters.control_slots.into(),
            keep_alive_ms: parameters.keep_alive_ms.into(),
            idle_timeout_ms: parameters.idle_timeout_ms.into(),
            links_max: parameters.links_max.into(),
            head_bytes_max: parameters.head_bytes_max.into(),
            handshake_timeout_ms: 5_000,
            frame_timeout_ms: 10_000,
            bulk_timeout_ms: 60_000,
            send_timeout_ms: 10_000,
            close_timeout_ms: 1_000,
            acknowledgement_delay_ms: 50,
            session_expiry_max_ms: 60_000,
            session_resumes_max: 16,
            send_queue_messages_max: 65_536,
            send_queue_bytes_max: 64 << 20,
            congestion_messages: 8_192,
            congestion_bytes: 1 << 20,
            link_messages_max: 1_024,
            link_bytes_max: 4 << 20,
            held_replies_max: 1_024,
            held_reply_bytes_max: 1 << 20,
            hops_max: 16,
            long_messages_expected: 8,
        }
    }
}
