//! The `inproc` wire: two drivers of one process, on the same thread or on different ones.
//!
//! A channel is a pair of bounded rings of references, one for each direction. What is sent is moved into the ring and
//! comes out at the other end as the very same segments, so no byte is copied, and the bytes stay charged to the
//! *sender's* pool until the receiver lets go of them. Names take the place of addresses: an [`InprocNetwork`] knows
//! which wire listens at which name.
//!
//! What it promises beyond the contract of all wires:
//!
//! - [`WireEvent::Sent`] means that the last segment has entered the peer's ring: this end
//!   needs the gather list no more. The peer may not have looked at it yet, so the buffers may still be out.
//! - A send that does not fit into the ring stays in flight and goes on as the peer empties it, which wakes this end.
//!   A peer that never polls holds at most [`RING_SEGMENTS`] segments, and the rest of one send.
//! - What entered the ring before a close is received by the peer before its `Closed`.
//! - A wire that is dropped, also because its thread panics, ends the peers' channels with
//!   [`ChannelEnd::Broken`](super::ChannelEnd::Broken) and the reason.
//! - The data path takes no lock, makes no system call while the peer is awake, and allocates nothing but, once for a
//!   channel, the room for what did not fit into the ring.
//!
//! `endpoint` is what other threads may touch of a wire, `duct` is what the two ends of a channel share; `control` is
//! how channels come and go, `data` how segments move, `wait` where a driver sleeps that has no other wire.
//!
//! What it must never know: which thread it is on.

mod control;
mod data;
mod duct;
mod endpoint;
mod network;
mod table;
#[cfg(all(test, not(loom)))]
mod tests;
mod wait;

pub use network::InprocNetwork;
pub use wait::InprocWaitPoint;

use super::{Channel, ConnectError, ListenError, Listener, Listening, SendRefused, Wire, WireEvent};
use crate::Wakeup;
use crate::pool::{GatherList, Pool};
use endpoint::Endpoint;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use table::Table;

/// What a path says about its packets, in bytes: nothing is cut on the way, so it is as much as the largest buffer holds,
/// and packing still has an end to aim at.
pub const PACKET_BYTES: u32 = 65_536;

/// The most segments in a ring, for each direction of a channel: as many as the largest gather list has, so that one
/// send fits when the peer has kept up.
pub const RING_SEGMENTS: usize = crate::pool::GATHER_SEGMENTS_MAX;

/// The most channels of one wire.
pub const CHANNELS_MAX: usize = 1024;

/// The most names at which one wire listens.
pub const LISTENERS_MAX: usize = 256;

/// The most connections that wait until a wire accepts them, over all its listeners.
pub const BACKLOG_MAX: usize = 1024;

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// One thread's end of the `inproc` wire; see the [module](self).
///
/// Addresses are names of 1 to [`NAME_BYTES_MAX`] bytes. It may be moved to another thread.
#[derive(Debug)]
pub struct InprocWire {
    network: InprocNetwork,
    endpoint: Arc<Endpoint>,
    table: Table,
    listeners: Vec<(Listener, Arc<str>)>,
    listeners_made: u32,
    /// Slots to look at in the next poll, each at most once.
    scheduled: VecDeque<u32>,
}

impl InprocWire {
    /// A wire whose peers are the other wires of `network`, and which they wake by `wakeup`: the one that its driver
    /// sleeps on.
    ///
    /// The driver calls [`Wakeup::about_to_sleep`], polls once more, sleeps until the wakeup's descriptor is readable
    /// if nothing happened, and calls [`Wakeup::awake`].
    pub fn new(network: InprocNetwork, wakeup: Arc<Wakeup>) -> Self {
        let endpoint = Arc::new(Endpoint::new(network.next_number(), wakeup));
        Self {
            network,
            endpoint,
            table: Table::new(),
            listeners: Vec::new(),
            listeners_made: 0,
            scheduled: VecDeque::with_capacity(CHANNELS_MAX),
        }
    }
}

impl Wire for InprocWire {
    fn listen(&mut self, address: &str) -> Result<Listening, ListenError> {
        self.start_listening(address)
    }

    fn connect(&mut self, address: &str) -> Result<Channel, ConnectError> {
        self.start_connecting(address)
    }

    fn send(&mut self, channel: Channel, gather: &mut GatherList) -> Result<(), SendRefused> {
        self.start_sending(channel, gather)
    }

    fn close(&mut self, channel: Channel) {
        self.end_by_this_end(channel);
    }

    fn stop_listening(&mut self, listener: Listener) {
        self.forget_listener(listener);
    }

    /// Never fails, and needs nothing of the pool.
    fn poll(&mut self, _pool: &mut Pool, events: &mut Vec<WireEvent>) -> io::Result<()> {
        // A driver that never used this wire should not pay for this one at every turn.
        if self.listeners_made > 0 || !self.table.is_unused() {
            self.take_events(events);
        }
        Ok(())
    }
}
