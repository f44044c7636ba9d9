//! The engine that hands its work to the kernel's io_uring.
//!
//! Receives are multishot: armed once for each channel, they take buffers of the pool out of a ring that all channels
//! share (`provided`) for as long as there are some. Sends leave with the next poll or sleep: one alone is
//! written directly, several in the one system call that also runs the kernel's side of what has arrived; a poll without
//! work makes none.
//!
//! The rule that keeps memory safe: an operation counts from the moment it is queued until its final completion, and a
//! channel's socket, addresses and segments are let go only when its count is zero. Ending a channel therefore shuts
//! its socket down, cancels what is under way, and waits for the completions.
//!
//! Life cycle is in `control`, moving bytes in `data`, the two rings in `ring` and `provided`, and what must be there
//! before any of it is used in `probe`.

mod control;
mod data;
mod probe;
mod provided;
mod ring;

use super::super::raw_address::RawAddress;
use super::super::{
    Channel, ChannelEnd, ConnectError, ListenError, Listener, Listening, SendRefused, WaitPoint, Wire,
    WireEvent,
};
use super::accept::AcceptState;
use super::outgoing::Outgoing;
use super::slots::Slots;
use super::token::{Operation, Token};
use super::{OpenError, TcpConfig};
use crate::pool::{GatherList, Pool};
use ::io_uring::{cqueue, opcode, types};
use provided::ProvidedBuffers;
use ring::Ring;
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

/// The most completions that one poll takes.
const COMPLETIONS_PER_POLL: usize = 128;

/// The longest sleep while a listener waits for a descriptor.
const FAILING_SLEEP_MAX: Duration = Duration::from_millis(100);

/// The longest sleep while receiving waits for a buffer, which another thread may give back without a word.
const STARVED_SLEEP_MAX: Duration = Duration::from_millis(2);

/// How often, and how long each time, a wire that is dropped waits for the kernel to let go.
const DROP_ROUNDS: usize = 100;
const DROP_ROUND: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct UringEngine {
    config: TcpConfig,
    channels: Slots<State>,
    listeners: Vec<ListenerState>,
    listeners_made: u32,
    watches: Vec<Watch>,
    /// Channels that are to receive as soon as there are buffers.
    to_arm: VecDeque<Channel>,
    /// Channels whose send was asked for since the last poll or sleep.
    to_send: Vec<Channel>,
    /// What happened, in order, and was not taken by a poll yet.
    events: Vec<WireEvent>,
    has_bundles: bool,
    buffers: ProvidedBuffers,
    ring: Ring,
}

/// A channel. None of it may be dropped while `operations` is above zero.
#[derive(Debug)]
struct State {
    stream: TcpStream,
    phase: Phase,
    /// What was queued for the kernel and has not completed for good.
    operations: u32,
    outgoing: Outgoing,
    /// Where it connects to; the kernel reads it.
    address: Box<RawAddress>,
    /// Why sending failed; the channel ends when what has come before was received.
    broken: Option<io::Error>,
}

#[derive(Debug)]
enum Phase {
    /// Connecting; if that fails, there are other addresses to try.
    Connecting(std::vec::IntoIter<SocketAddr>),
    Open,
    /// Ending, for that reason, as soon as the kernel has let go.
    Ending(ChannelEnd),
}

/// A listener. It may be dropped only when neither flag is set.
#[derive(Debug)]
struct ListenerState {
    number: u32,
    socket: TcpListener,
    accept: AcceptState,
    is_armed: bool,
    is_cancelling: bool,
    is_stopped: bool,
}

/// A descriptor of somebody else that ends sleeps.
#[derive(Debug)]
struct Watch {
    descriptor: RawFd,
    is_armed: bool,
}

impl UringEngine {
    pub(super) fn open(config: TcpConfig, pool: &mut Pool) -> Result<Self, OpenError> {
        let refuse = |reason| OpenError::IoUring { reason };
        let mut ring = probe::open_ring().map_err(refuse)?;
        let mut buffers = ProvidedBuffers::open(&config, &ring).map_err(refuse)?;
        // One must be there, or nothing could ever be received.
        drop(pool.buffer(config.receive_buffer_bytes).map_err(OpenError::Pool)?);
        buffers.refill(pool);
        let has_bundles = ring.has_bundles();
        probe::try_receiving(&mut ring, &mut buffers, has_bundles).map_err(refuse)?;
        buffers.refill(pool);
        Ok(Self {
            config,
            channels: Slots::new(),
            listeners: Vec::new(),
            listeners_made: 0,
            watches: Vec::new(),
            to_arm: VecDeque::new(),
            to_send: Vec::new(),
            events: Vec::new(),
            has_bundles,
            buffers,
            ring,
        })
    }

    /// One report of the kernel.
    #[inline]
    fn complete(&mut self, completion: &cqueue::Entry) {
        let Some(token) = Token::from_bits(completion.user_data()) else { return };
        let (result, flags) = (completion.result(), completion.flags());
        match token.operation {
            Operation::Receive => self.received(token.channel, result, flags),
            Operation::Send => self.sent(token.channel, result),
            Operation::Connect => self.connecting_ended(token.channel, result),
            Operation::Cancel => self.operation_ended(token.channel),
            Operation::Accept => {
                self.accepted(token.channel.generation, result, cqueue::more(flags));
            }
            Operation::CancelAccept => self.accept_was_cancelled(token.channel.generation),
            Operation::Watch => {
                if let Some(watch) = self.watches.get_mut(token.channel.generation as usize) {
                    watch.is_armed = false;
                }
            }
        }
    }

    fn complete_some(&mut self) {
        for _ in 0..COMPLETIONS_PER_POLL {
            let Some(completion) = self.ring.next_completion() else { return };
            self.complete(&completion);
        }
    }

    /// Gives the kernel buffers again, and lets channels receive that wait for them. No more channels than there are
    /// buffers: those behind would only find none, and each attempt costs an entry of the ring.
    #[inline]
    fn replenish(&mut self, pool: &mut Pool) {
        self.buffers.refill(pool);
        for _ in 0..self.buffers.available() {
            let Some(channel) = self.to_arm.pop_front() else { return };
            self.arm_receive(channel);
        }
    }

    /// How long a sleep may be, given what nobody will wake it for.
    fn sleep_max(&self, timeout: Option<Duration>) -> Option<Duration> {
        let is_failing = self.listeners.iter().any(|listener| listener.accept.is_waiting());
        let can_arm = !self.to_arm.is_empty() && self.buffers.available() > 0;
        let limit = if !self.events.is_empty() || can_arm {
            Duration::ZERO
        } else if !self.to_arm.is_empty() || self.buffers.available() == 0 {
            STARVED_SLEEP_MAX
        } else if is_failing {
            FAILING_SLEEP_MAX
        } else {
            return timeout;
        };
        Some(timeout.map_or(limit, |timeout| timeout.min(limit)))
    }

    /// A watch fires once and is armed again before the next sleep: so it also sees what is readable already.
    fn arm_watches(&mut self) {
        for (number, watch) in self.watches.iter_mut().enumerate() {
            if !std::mem::replace(&mut watch.is_armed, true) {
                let token = Token::numbered(Operation::Watch, number as u32);
                let entry = opcode::PollAdd::new(types::Fd(watch.descriptor), libc::POLLIN as u32);
                // SAFETY: polling touches no memory of ours.
                unsafe { self.ring.push(entry.build().user_data(token.to_bits())) };
            }
        }
    }
}

impl Wire for UringEngine {
    fn listen(&mut self, address: &str) -> Result<Listening, ListenError> {
        self.start_listening(address)
    }

    fn connect(&mut self, address: &str) -> Result<Channel, ConnectError> {
        self.start_connecting(address)
    }

    #[inline]
    fn send(&mut self, channel: Channel, gather: &mut GatherList) -> Result<(), SendRefused> {
        self.start_sending(channel, gather)
    }

    fn close(&mut self, channel: Channel) {
        self.end(channel, ChannelEnd::Local);
    }

    fn stop_listening(&mut self, listener: Listener) {
        self.stop_accepting(listener);
    }

    fn poll(&mut self, pool: &mut Pool, events: &mut Vec<WireEvent>) -> io::Result<()> {
        self.retry_accepting();
        self.replenish(pool);
        self.start_sends();
        if self.ring.wants_enter() {
            self.ring.enter()?;
        }
        self.complete_some();
        // Otherwise at the next poll, when what has arrived may have been let go, so that its buffers are used again.
        if self.buffers.is_low() || !self.to_arm.is_empty() {
            self.replenish(pool);
        }
        events.append(&mut self.events);
        Ok(())
    }
}

impl WaitPoint for UringEngine {
    fn watch(&mut self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.watches.push(Watch { descriptor: descriptor.as_raw_fd(), is_armed: false });
        Ok(())
    }

    fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.arm_watches();
        self.queue_sends();
        let timeout = self.sleep_max(timeout);
        self.ring.wait(timeout)?;
        self.listeners.iter_mut().for_each(|listener| listener.accept.hope());
        Ok(())
    }
}

impl Drop for UringEngine {
    fn drop(&mut self) {
        for number in 0..self.listeners_made {
            self.stop_accepting(Listener(number));
        }
        for channel in self.channels.names() {
            self.end(channel, ChannelEnd::Local);
        }
        for _ in 0..DROP_ROUNDS {
            if self.channels.len() == 0 && self.listeners.is_empty() {
                self.buffers.withdraw(&self.ring);
                return;
            }
            if self.ring.wait(Some(DROP_ROUND)).is_err() {
                break;
            }
            while let Some(completion) = self.ring.next_completion() {
                self.complete(&completion);
            }
        }
        // Closing the ring would cancel the rest, but in the background, with nobody to say when it is done.
        tracing::error!(
            channels = self.channels.len(),
            "the kernel has not let go of a dropped tcp wire within a second; its buffers are leaked"
        );
        self.buffers.leak();
        std::mem::forget(std::mem::replace(&mut self.channels, Slots::new()));
        std::mem::forget(std::mem::take(&mut self.listeners));
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
