//! The engine that asks which sockets are ready and reads and writes them itself.
//!
//! Readiness is level-triggered: what was not read is reported again, in turn with the others, so that no channel is
//! forgotten and none starves the rest. A send is tried at once, and waits for the socket only if that did not take
//! everything. With few channels, a poll does not ask but tries their sockets, which saves a system call a message.
//!
//! Life cycle is here; moving bytes is in `data`, the buffers to receive into in `stock`, the kernel's interface in
//! `readiness`.

mod data;
mod readiness;
mod stock;

use super::super::{
    Channel, ChannelEnd, ConnectError, ListenError, Listener, Listening, SendRefused, WaitPoint, Wire,
    WireEvent,
};
use super::accept::{AcceptState, AcceptTrouble};
use super::outgoing::Outgoing;
use super::slots::Slots;
use super::socket::{self, RawAddress};
use super::token::{Operation, Token};
use super::{OpenError, TcpConfig, address};
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

/// Every so many polls of that kind, listeners and the like are looked at as well.
const POLLS_UNTIL_LOOK: u32 = 16;

/// How many connections one listener takes in a row.
const ACCEPTS_PER_POLL: usize = 16;

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
            events: Vec::new(),
        })
    }

    fn try_listen(&mut self, addresses: &[SocketAddr]) -> io::Result<Listening> {
        let socket = socket::listen(addresses, &self.config)?;
        let address = socket.local_addr()?.to_string();
        let number = self.listeners_made;
        let token = Token::numbered(Operation::Accept, number);
        self.readiness.add(socket.as_raw_fd(), libc::EPOLLIN, token)?;
        self.listeners_made += 1;
        self.listeners.push(ListenerState { number, socket, accept: AcceptState::default() });
        Ok(Listening { listener: Listener(number), address })
    }

    fn insert(&mut self, stream: TcpStream, phase: Phase) -> Channel {
        let outgoing = Outgoing::new();
        self.waiting_for_room += usize::from(!matches!(phase, Phase::Open));
        let state = State { stream, phase, outgoing, residue: 0, is_wide: false, broken: None };
        let channel = self.channels.insert(state);
        self.list_the_few();
        channel
    }

    /// Ends a channel: closes its socket, lets go of what it was sending, and says so.
    fn end(&mut self, channel: Channel, reason: ChannelEnd) {
        let Some(state) = self.channels.remove(channel) else { return };
        self.waiting_for_room -= usize::from(!matches!(state.phase, Phase::Open));
        drop(state);
        self.list_the_few();
        self.events.push(WireEvent::Closed { channel, reason });
        self.listeners.iter_mut().for_each(|listener| listener.accept.hope());
    }

    fn list_the_few(&mut self) {
        self.few.clear();
        if self.channels.len() <= FEW_CHANNELS {
            self.few.extend(self.channels.names());
        }
    }

    /// Starts to connect the channel's socket to `address`.
    fn start_connecting(&mut self, channel: Channel, address: &SocketAddr) -> io::Result<()> {
        let Some(state) = self.channels.at(channel) else { return Ok(()) };
        let descriptor = state.stream.as_raw_fd();
        let address = RawAddress::from(address);
        // SAFETY: the address is valid for its length.
        let outcome = unsafe { libc::connect(descriptor, address.as_ptr(), address.bytes()) };
        match socket::check(outcome) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        // Whatever comes of it, also at once, is reported as room to send.
        let token = Token::of_channel(Operation::Receive, channel);
        self.readiness.add(descriptor, libc::EPOLLOUT, token)
    }

    /// Goes on with the next address, or ends the channel if there is none.
    fn connecting_failed(&mut self, channel: Channel, mut error: io::Error) {
        loop {
            let Some(state) = self.channels.at(channel) else { return };
            let Phase::Connecting(others) = &mut state.phase else { return };
            let Some(address) = others.next() else {
                return self.end(channel, ChannelEnd::ConnectFailed(error));
            };
            let outcome = match socket::stream(&address, &self.config) {
                Ok(stream) => {
                    state.stream = stream;
                    self.start_connecting(channel, &address)
                }
                Err(failed) => Err(failed),
            };
            match outcome {
                Ok(()) => return,
                Err(failed) => error = failed,
            }
        }
    }

    /// The socket of a connecting channel has news.
    fn connecting_ended(&mut self, channel: Channel) {
        let Some(state) = self.channels.at(channel) else { return };
        let descriptor = state.stream.as_raw_fd();
        let token = Token::of_channel(Operation::Receive, channel);
        let outcome = match state.stream.take_error() {
            Ok(None) => socket::path(&state.stream),
            Ok(Some(error)) | Err(error) => Err(error),
        };
        let outcome = outcome.and_then(|path| {
            self.readiness.change(descriptor, libc::EPOLLIN, token)?;
            Ok(path)
        });
        match outcome {
            Ok(path) => {
                state.phase = Phase::Open;
                self.waiting_for_room -= 1;
                self.events.push(WireEvent::Connected { channel, path });
            }
            Err(error) => self.connecting_failed(channel, error),
        }
    }

    /// Takes what waits at a listener, as much as is fair.
    fn accept(&mut self, number: u32) {
        let Some(place) = self.listeners.iter().position(|listener| listener.number == number) else {
            return;
        };
        for _ in 0..ACCEPTS_PER_POLL {
            match self.listeners[place].socket.accept() {
                Ok((stream, _)) => self.accepted(place, stream),
                // The kernel looks for a descriptor first: nothing to accept means that there was one.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.accept_works(place);
                    return;
                }
                Err(error) => {
                    if self.accept_failed(place, error) {
                        return;
                    }
                }
            }
        }
    }

    fn accepted(&mut self, place: usize, stream: TcpStream) {
        self.accept_works(place);
        let descriptor = stream.as_raw_fd();
        let prepared = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
        // An error means that the peer is gone already: nobody has to know.
        let Ok(path) = prepared.and_then(|()| socket::path(&stream)) else { return };
        let channel = self.insert(stream, Phase::Open);
        let listener = Listener(self.listeners[place].number);
        self.events.push(WireEvent::Accepted { listener, channel, path });
        let token = Token::of_channel(Operation::Receive, channel);
        if let Err(error) = self.readiness.add(descriptor, libc::EPOLLIN, token) {
            self.end(channel, ChannelEnd::Broken(error));
        }
    }

    fn accept_works(&mut self, place: usize) {
        let listener = &mut self.listeners[place];
        if listener.accept.is_failing() {
            listener.accept.succeeded();
            self.expect_connections(place, libc::EPOLLIN);
        }
    }

    /// True if the listener has to wait.
    fn accept_failed(&mut self, place: usize, error: io::Error) -> bool {
        let listener = &mut self.listeners[place];
        match listener.accept.failed(&error) {
            AcceptTrouble::OneConnection => return false,
            AcceptTrouble::Known => {}
            AcceptTrouble::Report => {
                let listener = Listener(listener.number);
                self.events.push(WireEvent::AcceptFailed { listener, error });
            }
        }
        // Or else it would be reported as ready over and over.
        self.expect_connections(place, 0);
        true
    }

    fn expect_connections(&mut self, place: usize, interest: libc::c_int) {
        let listener = &self.listeners[place];
        let token = Token::numbered(Operation::Accept, listener.number);
        // Changing what is registered already needs no memory, and so cannot fail.
        let _ = self.readiness.change(listener.socket.as_raw_fd(), interest, token);
    }

    fn retry_accepting(&mut self) {
        for place in 0..self.listeners.len() {
            if self.listeners[place].accept.is_due() {
                self.accept(self.listeners[place].number);
            }
        }
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
        let addresses = address::resolve(address).map_err(|bad| bad.to_listen(address))?;
        self.try_listen(&addresses).map_err(|error| socket::listen_error(address, error))
    }

    fn connect(&mut self, address: &str) -> Result<Channel, ConnectError> {
        let addresses = address::resolve_peer(address).map_err(|bad| bad.to_connect(address))?;
        let first = addresses[0];
        let stream = socket::stream(&first, &self.config);
        let stream = stream.map_err(|error| socket::connect_error(address, error))?;
        let mut others = addresses.into_iter();
        others.next();
        let channel = self.insert(stream, Phase::Connecting(others));
        if let Err(error) = self.start_connecting(channel, &first) {
            self.connecting_failed(channel, error);
        }
        Ok(channel)
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
        self.stock.replenish(pool);
        self.retry_accepting();
        if self.tries_sockets() {
            self.polls_since_look += 1;
            for channel in self.few.clone() {
                self.receive(channel);
            }
        } else {
            self.polls_since_look = 0;
            self.look()?;
        }
        self.stock.replenish(pool);
        events.append(&mut self.events);
        Ok(())
    }
}

impl EpollEngine {
    fn tries_sockets(&self) -> bool {
        self.readiness.is_empty()
            && !self.few.is_empty()
            && self.waiting_for_room == 0
            && self.polls_since_look < POLLS_UNTIL_LOOK
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
        if !self.events.is_empty() || !self.readiness.is_empty() {
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
