//! What each option may be: one table for the checks, for the errors, and for the test that the example names all.

use std::fmt;
use underlay::proto::text::NAME_BYTES_MAX;
use underlay::proto::{FRAME_BYTES_MAX, FRAME_BYTES_MIN, FRAME_SLOTS_MAX, HEAD_BYTES_MAX};

/// An option, and what it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionRule {
    /// Its table: `broker`, `limits`, `rdma`, `listener`, `queue`, `exchange` or `exchange.bindings`.
    pub section: &'static str,
    /// Its name in that table.
    pub key: &'static str,
    /// What it may be.
    pub allowed: Allowed,
}

/// What an option may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// A whole number within bounds, which are allowed too.
    Number {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
        /// Of what.
        unit: &'static str,
    },
    /// One of these numbers.
    OneOfNumbers(&'static [u64]),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A text, described in words.
    Text(&'static str),
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number { min, max, unit } => write!(f, "a number of {unit} from {min} to {max}"),
            Self::OneOfNumbers(numbers) => write!(f, "one of {numbers:?}"),
            Self::OneOf(words) => write!(f, "one of {words:?}"),
            Self::Text(about) => f.write_str(about),
        }
    }
}

/// The rule of an option, if there is such an option.
pub(super) fn rule(section: &str, key: &str) -> Option<&'static OptionRule> {
    OPTIONS.iter().find(|rule| rule.section == section && rule.key == key)
}

/// The options of a table, for one that was misspelt.
pub(super) fn keys(section: &str) -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().filter(move |rule| rule.section == section).map(|rule| rule.key)
}

const DAY_MS: u64 = 86_400_000;
/// A peer keeps what is not acknowledged, and is pushed back when that is too much.
const ACKNOWLEDGEMENT_DELAY_MS_MAX: u64 = 10_000;
/// More than any machine has, and far below where sums would overflow.
const BYTES_MAX: u64 = 1 << 50;
const MESSAGES_MAX: u64 = 1 << 32;

const fn number(
    section: &'static str,
    key: &'static str,
    unit: &'static str,
    min: u64,
    max: u64,
) -> OptionRule {
    OptionRule { section, key, allowed: Allowed::Number { min, max, unit } }
}

const fn text(section: &'static str, key: &'static str, about: &'static str) -> OptionRule {
    OptionRule { section, key, allowed: Allowed::Text(about) }
}

const fn one_of(section: &'static str, key: &'static str, words: &'static [&'static str]) -> OptionRule {
    OptionRule { section, key, allowed: Allowed::OneOf(words) }
}

const NAME: &str = "a text of 1 to 255 bytes without '/' and control characters";

/// The longest name of a destination, in bytes.
pub(super) const DESTINATION_BYTES_MAX: usize = NAME_BYTES_MAX;

/// Every option there is.
pub const OPTIONS: &[OptionRule] = &[
    text("broker", "name", "a text of up to 64 bytes without control characters"),
    one_of("broker", "wait", &["adaptive", "spin", "sleep"]),
    number("broker", "spin_us_max", "microseconds", 0, 1_000_000),
    number("broker", "yield_us_max", "microseconds", 0, 1_000_000),
    number("broker", "connections_max", "connections", 1, 1_000_000),
    number("broker", "pool_bytes_max", "bytes", 4 << 20, BYTES_MAX),
    number("broker", "drain_timeout_ms", "milliseconds", 0, DAY_MS),
    OptionRule {
        section: "broker",
        key: "receive_buffer_bytes",
        allowed: Allowed::OneOfNumbers(&[256, 1024, 4096, 16_384, 65_536]),
    },
    OptionRule {
        section: "broker",
        key: "receive_buffers",
        allowed: Allowed::OneOfNumbers(&[
            1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768,
        ]),
    },
    number("broker", "backlog", "connections", 1, 65_535),
    one_of("listener", "transport", &["tcp", "rdma", "inproc"]),
    text("listener", "address", "host:port for tcp and rdma (such as \"127.0.0.1:5700\"), a name for inproc"),
    one_of("listener", "fallback", &["tcp"]),
    one_of("listener", "engine", &["auto", "io_uring", "epoll"]),
    text("queue", "name", NAME),
    number("queue", "messages_max", "messages", 1, MESSAGES_MAX),
    number("queue", "bytes_max", "bytes", 1, BYTES_MAX),
    number("queue", "producers_max", "producers", 1, 1_000_000),
    number("queue", "consumers_max", "consumers", 1, 1_000_000),
    number("queue", "unsettled_max", "messages", 1, MESSAGES_MAX),
    number("queue", "redeliveries_max", "redeliveries", 0, 1_000_000),
    text("exchange", "name", NAME),
    one_of("exchange", "type", &["direct"]),
    text("exchange", "bindings", "a list of { key = \"...\", queue = \"...\" }"),
    text(
        "exchange.bindings",
        "key",
        "a text of 1 byte up, with the exchange's name and '/' at most 255 bytes",
    ),
    text("exchange.bindings", "queue", "the name of a [[queue]]"),
    text("rdma", "device", "the name of a device, as ibv_devices lists it"),
    number("rdma", "pinned_bytes_max", "bytes", 1 << 20, BYTES_MAX),
    number("rdma", "receive_slots_max", "receive requests", 8, 1 << 20),
    number("rdma", "window_max", "sends", 8, 1024),
    number("rdma", "sends_max", "work requests", 16, 4096),
    number("rdma", "inline_bytes", "bytes", 0, 4096),
    number("rdma", "retry_count", "repetitions", 0, 6),
    number("rdma", "acknowledgement_timeout_ms", "milliseconds", 0, 8_000),
    number("rdma", "receiver_not_ready_retry_count", "repetitions", 0, 6),
    number("limits", "packet_bytes", "bytes", 256, FRAME_BYTES_MAX as u64),
    number("limits", "frame_bytes_max", "bytes", FRAME_BYTES_MIN as u64, FRAME_BYTES_MAX as u64),
    number("limits", "eager_bytes_max", "bytes", 256, FRAME_BYTES_MAX as u64),
    number("limits", "chunk_bytes_max", "bytes", 256, FRAME_BYTES_MAX as u64),
    number("limits", "message_bytes_max", "bytes", 1, BYTES_MAX),
    number("limits", "frame_slots", "frames", 5, FRAME_SLOTS_MAX as u64),
    number("limits", "control_slots", "frames", 4, u16::MAX as u64),
    number("limits", "keep_alive_ms", "milliseconds", 1, DAY_MS),
    number("limits", "idle_timeout_ms", "milliseconds", 2, DAY_MS),
    number("limits", "links_max", "links", 1, 1_000_000),
    number("limits", "head_bytes_max", "bytes", 512, HEAD_BYTES_MAX as u64),
    number("limits", "handshake_timeout_ms", "milliseconds", 1, DAY_MS),
    number("limits", "frame_timeout_ms", "milliseconds", 1, DAY_MS),
    number("limits", "bulk_timeout_ms", "milliseconds", 1, DAY_MS),
    number("limits", "send_timeout_ms", "milliseconds", 1, DAY_MS),
    number("limits", "close_timeout_ms", "milliseconds", 1, DAY_MS),
    number("limits", "acknowledgement_delay_ms", "milliseconds", 0, ACKNOWLEDGEMENT_DELAY_MS_MAX),
    number("limits", "session_expiry_max_ms", "milliseconds", 0, DAY_MS),
    number("limits", "session_resumes_max", "resumptions", 1, 1_000_000),
    number("limits", "send_queue_messages_max", "messages", 1, MESSAGES_MAX),
    number("limits", "send_queue_bytes_max", "bytes", 1, BYTES_MAX),
    number("limits", "congestion_messages", "messages", 2, MESSAGES_MAX),
    number("limits", "congestion_bytes", "bytes", 2, BYTES_MAX),
    number("limits", "link_messages_max", "messages", 1, MESSAGES_MAX),
    number("limits", "link_bytes_max", "bytes", 1, BYTES_MAX),
    number("limits", "held_replies_max", "messages", 0, MESSAGES_MAX),
    number("limits", "held_reply_bytes_max", "bytes", 0, BYTES_MAX),
    number("limits", "hops_max", "hops", 1, 255),
    number("limits", "long_messages_expected", "messages", 0, 1_000_000),
];
