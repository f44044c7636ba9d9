//! What the broker counts, and how it is printed.

use std::collections::BTreeMap;
use std::fmt;
use underlay::backend::WireKind;
use underlay::connection::CloseReason;
use underlay::driver::{Address, DriverStats};
use underlay::proto::handshake::RefusalReason;

/// What a broker did since it started. `docs/operating.md` says what each figure means and what to do about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerStats {
    /// Messages of any kind that arrived.
    pub messages_in: u64,
    /// Messages and requests that were given to a consumer's connection.
    pub delivered: u64,
    /// Of these, without waiting in a queue.
    pub delivered_at_once: u64,
    /// Replies that were given to a requester's connection.
    pub replies_routed: u64,
    /// Replies that had to wait for their requester to take them.
    pub replies_held: u64,
    /// Replies dropped because nobody has their address.
    pub replies_for_nobody: u64,
    /// Replies dropped because their sender had no request to answer.
    pub replies_unsolicited: u64,
    /// Replies dropped because as much was held for their address, or their connection, as `held_replies_max` and
    /// `held_reply_bytes_max` allow.
    pub replies_overflowed: u64,
    /// Replies dropped because their requester cannot take one so long.
    pub replies_too_long: u64,
    /// Messages given back by their consumer, for anybody.
    pub released: u64,
    /// Messages dropped because their consumer rejected them.
    pub rejected: u64,
    /// Messages that went back to their queue because their consumer had gone without settling them.
    pub redelivered: u64,
    /// Of those that would have, dropped because they had lost `redeliveries_max` consumers before.
    pub redeliveries_exhausted: u64,
    /// Messages dropped because their deadline was over.
    pub expired: u64,
    /// Messages dropped because they had `hops_max` hops behind them.
    pub hop_limit: u64,
    /// Messages dropped because their link was ended before they arrived.
    pub late: u64,
    /// Shares of a message for one of several queues that were dropped because the pool was empty.
    pub shares_dropped: u64,
    /// Links that were granted.
    pub links_attached: u64,
    /// Links that were refused: no such destination, a limit, or a broker that is stopping.
    pub links_refused: u64,
    /// Reply links whose address had another one.
    pub addresses_shared: u64,
    /// Consumers detached because they cannot take messages as long as their queue's.
    pub consumers_too_small: u64,
    /// Times that a connection became congested: it took less than was sent to it.
    pub congestions: u64,
    /// Connections closed because the peer broke the protocol, by the name of the violation.
    pub misbehaved: BTreeMap<String, u64>,
    /// Handshakes refused for another reason, by its name.
    pub refused: BTreeMap<String, u64>,
    /// Listeners that are on another wire than they were to be, each for as long as it listens.
    pub fallbacks: Vec<ListenerFallback>,
    /// Each queue.
    pub queues: Vec<QueueStats>,
}

/// A listener on another wire than it was to be, because the machine lacks that one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerFallback {
    /// Which listener, from 0, in the order of the configuration.
    pub listener: usize,
    /// The wire that it was to be on.
    pub missing: WireKind,
    /// Where it listens.
    pub address: Address,
    /// What is missing, and what to do.
    pub reason: String,
}

/// What happened at one queue, and how it is now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStats {
    /// Its name.
    pub name: String,
    /// Messages that wait now.
    pub depth: u64,
    /// The most that ever waited.
    pub depth_max: u64,
    /// Bytes of bodies that wait now, those that are unsettled included.
    pub bytes: u64,
    /// Messages that producers may still send, by what they were granted.
    pub granted: u64,
    /// Messages that came to it.
    pub messages_in: u64,
    /// Of these, those that had to wait.
    pub queued: u64,
    /// Messages that its consumers were given.
    pub delivered: u64,
    /// Messages that its consumers have accepted, of those that settle.
    pub settled: u64,
    /// Messages that its consumers were given and have not settled now.
    pub unsettled: u64,
    /// Times that a producer was left short because the queue had no room to grant.
    pub full_pushes: u64,
    /// Producers now.
    pub producers: u64,
    /// Consumers now.
    pub consumers: u64,
}

impl BrokerStats {
    pub(super) fn count_closed(&mut self, reason: &CloseReason) {
        let (counters, name) = match reason {
            CloseReason::Misbehaved(violation)
            | CloseReason::HandshakeRefused(RefusalReason::Misbehaved(violation)) => {
                (&mut self.misbehaved, variant_name(violation))
            }
            CloseReason::HandshakeRefused(reason) => (&mut self.refused, variant_name(reason)),
            _ => return,
        };
        *counters.entry(name).or_default() += 1;
    }

    fn named(&self) -> [(&'static str, u64); 22] {
        [
            ("messages_in", self.messages_in),
            ("delivered", self.delivered),
            ("delivered_at_once", self.delivered_at_once),
            ("replies_routed", self.replies_routed),
            ("replies_held", self.replies_held),
            ("replies_for_nobody", self.replies_for_nobody),
            ("replies_unsolicited", self.replies_unsolicited),
            ("replies_overflowed", self.replies_overflowed),
            ("replies_too_long", self.replies_too_long),
            ("released", self.released),
            ("rejected", self.rejected),
            ("redelivered", self.redelivered),
            ("redeliveries_exhausted", self.redeliveries_exhausted),
            ("expired", self.expired),
            ("hop_limit", self.hop_limit),
            ("late", self.late),
            ("shares_dropped", self.shares_dropped),
            ("links_attached", self.links_attached),
            ("links_refused", self.links_refused),
            ("addresses_shared", self.addresses_shared),
            ("consumers_too_small", self.consumers_too_small),
            ("congestions", self.congestions),
        ]
    }
}

impl fmt::Display for BrokerStats {
    /// One figure a line: `broker.<name> <number>`, `queue.<queue>.<name> <number>`, `misbehaved.<violation> <number>`,
    /// `refused.<reason> <number>`; of a listener on another wire than it was to be `listener.<index>.fallback 1`, and in
    /// words `listener.<index>.fallback_reason <text>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in self.named() {
            writeln!(f, "broker.{name} {count}")?;
        }
        for (name, count) in &self.misbehaved {
            writeln!(f, "misbehaved.{name} {count}")?;
        }
        for (name, count) in &self.refused {
            writeln!(f, "refused.{name} {count}")?;
        }
        self.fallbacks.iter().try_for_each(|fallback| fallback.fmt(f))?;
        self.queues.iter().try_for_each(|queue| queue.fmt(f))
    }
}

impl fmt::Display for ListenerFallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listener, missing, address, reason } = self;
        writeln!(f, "listener.{listener}.fallback 1")?;
        writeln!(f, "listener.{listener}.fallback_reason {address} in place of {missing}: {reason}")
    }
}

impl fmt::Display for QueueStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = [
            ("depth", self.depth),
            ("depth_max", self.depth_max),
            ("bytes", self.bytes),
            ("granted", self.granted),
            ("messages_in", self.messages_in),
            ("queued", self.queued),
            ("delivered", self.delivered),
            ("settled", self.settled),
            ("unsettled", self.unsettled),
            ("full_pushes", self.full_pushes),
            ("producers", self.producers),
            ("consumers", self.consumers),
        ];
        figures.iter().try_for_each(|(name, figure)| writeln!(f, "queue.{}.{name} {figure}", self.name))
    }
}

/// The name of a variant, which is how its `Debug` begins.
fn variant_name(variant: &impl fmt::Debug) -> String {
    let text = format!("{variant:?}");
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

/// What [`CloseReason::Expired`] is called among the reasons.
const SESSION_EXPIRED: &str = "expired";

/// Everything that is counted, one figure a line.
pub(crate) fn report(driver: &DriverStats, broker: &BrokerStats) -> String {
    let (packing, pool, wait, sessions) = (&driver.packing, &driver.pool, &driver.wait, &driver.sessions);
    let expired = driver.closed.get(SESSION_EXPIRED).copied().unwrap_or_default();
    let mut lines = String::new();
    let figures = [
        ("driver.connections", driver.connections),
        ("driver.connections_opened", driver.connections_opened),
        ("driver.messages_received", driver.messages_received),
        ("driver.messages_sent", driver.messages_sent),
        ("driver.sends", driver.sends),
        ("driver.pool_stalls", driver.pool_stalls),
        ("driver.accepts_failed", driver.accepts_failed),
        ("driver.turns", driver.turns),
        ("sessions.interrupted", sessions.interrupted),
        ("sessions.resumed", sessions.resumed),
        ("sessions.moved", sessions.moved),
        ("sessions.duplicates", sessions.duplicates),
        ("sessions.expired", expired),
        ("packing.frames", packing.frames),
        ("packing.frame_bytes", packing.frame_bytes),
        ("packing.packed_frames", packing.packed_frames),
        ("packing.packed_bytes", packing.packed_bytes),
        ("packing.messages", packing.messages),
        ("packing.outgrew", packing.outgrew),
        ("packing.outgrew_bytes", packing.outgrew_bytes),
        ("packing.chunks", packing.chunks),
        ("packing.offers", packing.offers),
        ("packing.bodies_by_reference", packing.bodies_by_reference),
        ("packing.bodies_beside_head", packing.bodies_beside_head),
        ("pool.mapped_bytes", pool.mapped_bytes as u64),
        ("pool.huge_bytes", pool.huge_bytes as u64),
        ("pool.buffers_out", pool.buffers_out as u64),
        ("pool.body_copies", pool.body_copies),
        ("pool.body_copied_bytes", pool.body_copied_bytes),
        ("pool.compactions", pool.compactions),
        ("wait.waits", wait.waits),
        ("wait.sleeps", wait.sleeps),
        ("wait.yields", wait.yields),
    ];
    for (name, figure) in figures {
        lines.push_str(&format!("{name} {figure}\n"));
    }
    for (reason, count) in &driver.closed {
        lines.push_str(&format!("closed.{reason} {count}\n"));
    }
    lines.push_str(&broker.to_string());
    lines
}
