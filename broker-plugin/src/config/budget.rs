//! How large the buffer pool must be, term by term.

use super::{Config, Transport};
use std::fmt;
use underlay::pool::{BUFFER_BYTES_MAX, BUFFER_CLASSES, PoolConfig};

/// Bytes of buffers that something may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetTerm {
    /// What holds them.
    pub name: String,
    /// How many bytes.
    pub bytes: u64,
    /// How that comes about.
    pub reason: String,
}

/// The pool's budget: the sum of its terms, unless `pool_bytes_max` says otherwise.
///
/// The sum is what the limits of the configuration allow to be held all at once, but for what is bounded apart: a lane
/// of a connection keeps at most `send_queue_bytes_max`, of which only what waits to be sent is in the sum, and only up to
/// where deliveries stop. Replies behind that are not, nor is what was sent until its peer acknowledges it, which a peer
/// that lives does within its acknowledgement delay. Bodies that are unsettled as well are in their queue's term. Buffers are mapped when they are
/// needed first, so a broker with little to do maps little, whatever its budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolBudget {
    terms: Vec<BudgetTerm>,
    given: Option<u64>,
}

/// A retained body keeps at least a quarter of its buffers alive, or it is compacted.
const HELD_PER_BYTE: u64 = 4;

/// Heads of frames are written into a buffer of this size for each connection.
const HEADS_BUFFER_BYTES: u64 = 16 << 10;

/// Two buffers, of 16 KiB and of 1 KiB, for each receive request of the rdma wire.
const RDMA_RECEIVE_BYTES: u64 = 17 << 10;

impl PoolBudget {
    /// The budget of a configuration.
    pub fn of(config: &Config) -> Self {
        let settings = config.settings();
        let (broker, limits) = (&settings.broker, &settings.limits);
        let mut terms = Vec::new();
        let mut add = |name: &str, bytes: u64, reason: String| {
            terms.push(BudgetTerm { name: name.to_owned(), bytes, reason });
        };
        let (count, buffer_bytes) = (broker.receive_buffers, broker.receive_buffer_bytes);
        add(
            "receive buffers",
            2 * count * buffer_bytes,
            format!(
                "receive_buffers {count} x receive_buffer_bytes {buffer_bytes}, twice: one set with the kernel, one being parsed"
            ),
        );
        if settings.listener.iter().any(|listener| listener.transport == Transport::Rdma) {
            let slots = settings.rdma.receive_slots_max;
            add(
                "rdma receive requests",
                slots * RDMA_RECEIVE_BYTES,
                format!("rdma.receive_slots_max {slots} x {RDMA_RECEIVE_BYTES}, for one device"),
            );
        }
        let connection = limits.frame_bytes_max + 2 * buffer_bytes + HEADS_BUFFER_BYTES;
        add(
            "connections",
            broker.connections_max * connection,
            format!(
                "connections_max {} x {connection}: an incomplete frame (frame_bytes_max), a buffer before and \
                 behind it, {HEADS_BUFFER_BYTES} for heads",
                broker.connections_max
            ),
        );
        add(
            "waiting to be sent",
            broker.connections_max.saturating_mul(limits.congestion_bytes),
            format!(
                "connections_max {} x congestion_bytes {}: where deliveries to a connection stop; what was sent and is not \
                 acknowledged is not in it, but bounded apart, with what waits: send_queue_bytes_max {} a lane",
                broker.connections_max, limits.congestion_bytes, limits.send_queue_bytes_max
            ),
        );
        let small = BUFFER_CLASSES[0] as u64;
        let held =
            limits.held_reply_bytes_max * HELD_PER_BYTE + limits.held_replies_max.saturating_mul(small * 2);
        add(
            "held replies",
            broker.connections_max.saturating_mul(held),
            format!(
                "connections_max {} x {held}: held_reply_bytes_max {} x {HELD_PER_BYTE}, as for queues, and \
                 held_replies_max {} x 2 of the smallest buffers",
                broker.connections_max, limits.held_reply_bytes_max, limits.held_replies_max
            ),
        );
        add(
            "long messages",
            limits.long_messages_expected.saturating_mul(limits.message_bytes_max),
            format!(
                "long_messages_expected {} x message_bytes_max {}: a long body is forwarded when all of it is there",
                limits.long_messages_expected, limits.message_bytes_max
            ),
        );
        let message = BUFFER_CLASSES[0] as u64 + limits.head_bytes_max;
        for queue in &settings.queue {
            let bytes = queue.bytes_max * HELD_PER_BYTE + queue.messages_max.saturating_mul(message);
            let reason = format!(
                "bytes_max {} x {HELD_PER_BYTE}, as a retained body keeps at least a quarter of its buffers alive, \
                 and messages_max {} x {message}: the smallest buffer and the longest extensions",
                queue.bytes_max, queue.messages_max
            );
            add(&format!("queue '{}'", queue.name), bytes, reason);
        }
        // A slab holds buffers of one size, so one of each size may be nearly empty.
        let slabs = (BUFFER_CLASSES.len() * PoolConfig::default().slab_bytes) as u64;
        add("slabs", slabs, format!("one slab for each of the {} sizes of buffers", BUFFER_CLASSES.len()));
        Self { terms, given: broker.pool_bytes_max }
    }

    /// The terms, in the order of a message's way.
    pub fn terms(&self) -> &[BudgetTerm] {
        &self.terms
    }

    /// Their sum.
    pub fn derived_bytes(&self) -> u64 {
        self.terms.iter().fold(0, |sum, term| sum.saturating_add(term.bytes))
    }

    /// `pool_bytes_max`, if it was given and is below the sum: then the limits together allow more than the pool has,
    /// and connections may wait for each other's buffers.
    pub fn shortfall(&self) -> Option<u64> {
        self.given.filter(|given| *given < self.derived_bytes())
    }

    /// The most bytes that the pool may map, in whole slabs.
    pub fn bytes_max(&self) -> usize {
        let bytes = self.given.unwrap_or_else(|| self.derived_bytes()).min(usize::MAX as u64 / 2);
        (bytes as usize).next_multiple_of(BUFFER_BYTES_MAX)
    }
}

impl fmt::Display for PoolBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for BudgetTerm { name, bytes, reason } in &self.terms {
            writeln!(f, "{:>10} MiB  {name}: {reason}", mebibytes(*bytes))?;
        }
        write!(f, "{:>10} MiB  in all", mebibytes(self.derived_bytes()))?;
        match (self.given, self.shortfall()) {
            (Some(given), Some(_)) => write!(
                f,
                "\n{:>10} MiB  is what pool_bytes_max allows: connections may wait for each other's buffers",
                mebibytes(given)
            ),
            (Some(given), None) => write!(f, "\n{:>10} MiB  is what pool_bytes_max allows", mebibytes(given)),
            (None, _) => Ok(()),
        }
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}
