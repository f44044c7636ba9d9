//! The engine that asks which sockets are ready and reads and writes them itself.
//!
//! Readiness is level-triggered: what was not read is reported again, in turn with the others, so that no channel is
//! forgotten and none starves the rest. A send is tried at once, and waits for the socket only if that did not take
//! everything; either way it is in flight, and holds its segments, until a poll reports it. With few channels, a poll
//! does not ask but tries their sockets, which saves a system call a message. Without a channel it asks now and then, for
//! the listeners' sake, and without listeners never: a driver whose channels are all on other wires pays nothing.
//!
//! Life cycle is in `control`, moving bytes in `data`, the buffers to receive into in `stock`, the kernel's interface in
//! `readiness`.

mod control;
mod data;
mod readiness;
mod stock;

use super::super::{
    Channel, ChannelEnd, ConnectError, ListenError, Listener, Listening, SendRefused, WaitPoint, Wire,
    WireEvent,
};
use super::accept::AcceptState;
use super::outgoing::Outgoing;
use super::token::{Operation, Token};
use super::{OpenError, TcpConfig};
use crate::backend::slots::Slots;
use crate::pool::{GatherList, Pool};
use arrayvec::ArrayVec;
use readiness::Readiness;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;
use stock::Stock;

/// Up to so many channels, a poll tries each socket instead of asking which is ready.
const FEW_CHANNELS: usize = 4;

/// Every so many polls of that kind, or without a channel, listeners and the like are looked at as well.
const POLLS_UNTIL_LOOK: u32 = 16;

/// The longest sleep while a listener waits for a descriptor.
const FAILING_SLEEP_MAX: Duration = Duration::from_millis(100);

/// The longest sleep while receiving waits for a buffer, which another thread may give back without a word.
const STARVED_SLEEP_MAX: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(super) struct EpollEngine {
    config: TcpConfig,
    readiness: Readiness,
    stock: Stock,
    channels: Slots<State>,
    listeners: Vec<ListenerState>,
    listeners_made: u32,
    watched: Vec<libc::pollfd>,
    /// The channels, if they are few.
    few: ArrayVec<Channel, FEW_CHANNELS>,
    polls_since_look: u32,
    /// Channels that connect, or wait for room to send: their news come by readiness alone.
    waiting_for_room: usize,
    /// Channels whose send was written as a whole, which no poll has reported yet.
    written: Vec<Channel>,
    /// What happened, in order, and was not taken by a poll yet.
    events: Vec<WireEvent>,
}

/// A channel.
#[derive(Debug)]
struct State {
    stream: TcpStream,
    phase: Phase,
    outgoing: Outgoing,
    /// How many bytes have come, modulo a line of 64.
    residue: usize,
    /// Is more expected than one buffer takes?
    is_wide: bool,
    /// Why sending failed; the channel ends when what has come before was received.
    broken: Option<io::Error>,
}

#[derive(Debug)]
enum Phase {
    /// Connecting; if that fails, there are other addresses to try.
    Connecting(std::vec::IntoIter<SocketAddr>),
    Open,
    /// Open, with a send that waits for room.
    Blocked,
}

#[derive(Debug)]
struct ListenerState {
    number: u32,
    socket: TcpListener,
    accept: AcceptState,
}

impl EpollEngine {
    pub(super) fn open(config: TcpConfig, pool: &mut Pool) -> Result<Self, OpenError> {
        let stock = Stock::new(&config, pool).map_err(OpenError::Pool)?;
        Ok(Self {
            config,
            readiness: Readiness::new().map_err(OpenError::Epoll)?,
            stock,
            channels: Slots::new(),
            listeners: Vec::new(),
            listeners_made: 0,
            watched: Vec::new(),
            few: ArrayVec::new(),
            polls_since_look: 0,
            waiting_for_room: 0,
            written: Vec::new(),
            events: Vec::new(),
        })
    }

    /// Looks at every socket that has news.
    fn look(&mut self) -> io::Result<()> {
        if self.readiness.is_empty() {
            self.readiness.look()?;
        }
        while let Some((token, flags)) = self.readiness.next() {
            match token.operation {
                Operation::Accept => self.accept(token.channel.generation),
                Operation::Receive => self.channel_is_ready(token.channel, flags),
                _ => {}
            }
        }
        Ok(())
    }

    fn channel_is_ready(&mut self, channel: Channel, flags: u32) {
        let Some(state) = self.channels.at(channel) else { return };
        if matches!(state.phase, Phase::Connecting(_)) {
            return self.connecting_ended(channel);
        }
        if flags & libc::EPOLLOUT as u32 != 0 {
            self.room_to_send(channel);
        }
        if flags & !(libc::EPOLLOUT as u32) != 0 {
            self.receive(channel);
        }
    }
}

impl Wire for EpollEngine {
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
        self.listeners.retain(|state| state.number != listener.0);
    }

    fn poll(&mut self, pool: &mut Pool, events: &mut Vec<WireEvent>) -> io::Result<()> {
        self.report_written();
        self.stock.replenish(pool);
        self.retry_accepting();
        match self.attention() {
            Attention::None => {}
            Attention::Channels => {
                self.polls_since_look += 1;
                for channel in self.few.clone() {
                    self.receive(channel);
                }
            }
            Attention::All => {
                self.polls_since_look = 0;
                self.look()?;
            }
        }
        self.stock.replenish(pool);
        events.append(&mut self.events);
        Ok(())
    }
}

/// What a poll looks at.
enum Attention {
    /// Nothing, so it makes no system call.
    None,
    /// The sockets of the channels.
    Channels,
    /// Whatever the kernel says is ready.
    All,
}

impl EpollEngine {
    fn attention(&mut self) -> Attention {
        // What a sleep has found is known already.
        if !self.readiness.is_empty() {
            return Attention::All;
        }
        if self.channels.len() == 0 {
            // Descriptors of others end sleeps; here they tell nothing.
            if self.listeners.is_empty() || self.polls_since_look + 1 < POLLS_UNTIL_LOOK {
                self.polls_since_look += u32::from(!self.listeners.is_empty());
                return Attention::None;
            }
            return Attention::All;
        }
        let tries_sockets =
            !self.few.is_empty() && self.waiting_for_room == 0 && self.polls_since_look < POLLS_UNTIL_LOOK;
        if tries_sockets { Attention::Channels } else { Attention::All }
    }

    /// How long a sleep may be, given what nobody will wake it for.
    fn sleep_max(&self, timeout: Option<Duration>) -> Option<Duration> {
        let is_failing = self.listeners.iter().any(|listener| listener.accept.is_waiting());
        let limit = if self.is_starved() {
            STARVED_SLEEP_MAX
        } else if is_failing {
            FAILING_SLEEP_MAX
        } else {
            return timeout;
        };
        Some(timeout.map_or(limit, |timeout| timeout.min(limit)))
    }

    fn is_starved(&self) -> bool {
        self.stock.is_empty() && self.channels.len() > 0
    }
}

impl WaitPoint for EpollEngine {
    fn watch(&mut self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let raw: RawFd = descriptor.as_raw_fd();
        self.readiness.add(raw, libc::EPOLLIN, Token::numbered(Operation::Watch, 0))?;
        self.watched.push(libc::pollfd { fd: raw, events: libc::POLLIN, revents: 0 });
        Ok(())
    }

    fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if !self.events.is_empty() || !self.written.is_empty() || !self.readiness.is_empty() {
            return Ok(());
        }
        let timeout = self.sleep_max(timeout);
        let outcome = if self.is_starved() {
            // Sockets that cannot be read now would end the sleep at once.
            readiness::sleep_on(&mut self.watched, timeout)
        } else {
            self.readiness.sleep(timeout)
        };
        self.listeners.iter_mut().for_each(|listener| listener.accept.hope());
        outcome
    }
}
