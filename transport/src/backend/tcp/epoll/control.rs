//! How channels and listeners come up and go down.

use super::super::super::raw_address::RawAddress;
use super::super::super::{Channel, ChannelEnd, ConnectError, ListenError, Listener, Listening, WireEvent};
use super::super::accept::{AcceptState, AcceptTrouble};
use super::super::address;
use super::super::outgoing::Outgoing;
use super::super::socket;
use super::super::token::{Operation, Token};
use super::{EpollEngine, FEW_CHANNELS, ListenerState, Phase, State};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

/// How many connections one listener takes in a row.
const ACCEPTS_PER_POLL: usize = 16;

impl EpollEngine {
    pub(super) fn start_listening(&mut self, address: &str) -> Result<Listening, ListenError> {
        let addresses = address::resolve(address).map_err(|bad| bad.into_listen(address))?;
        self.try_listen(&addresses).map_err(|error| socket::listen_error(address, error))
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

    pub(super) fn start_connecting(&mut self, address: &str) -> Result<Channel, ConnectError> {
        let addresses = address::resolve_peer(address).map_err(|bad| bad.into_connect(address))?;
        self.connect_to_any(addresses).map_err(|error| socket::connect_error(address, error))
    }

    /// Starts to connect to the first of `addresses`, with the others to fall back on.
    pub(in super::super) fn connect_to_any(&mut self, addresses: Vec<SocketAddr>) -> io::Result<Channel> {
        let mut others = addresses.into_iter();
        let first = others.next().ok_or(io::ErrorKind::InvalidInput)?;
        let stream = socket::stream(&first, &self.config)?;
        let channel = self.insert(stream, Phase::Connecting(others));
        if let Err(error) = self.try_connecting(channel, &first) {
            self.connecting_failed(channel, error);
        }
        Ok(channel)
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
    pub(super) fn end(&mut self, channel: Channel, reason: ChannelEnd) {
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
    fn try_connecting(&mut self, channel: Channel, address: &SocketAddr) -> io::Result<()> {
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
                    self.try_connecting(channel, &address)
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
    pub(super) fn connecting_ended(&mut self, channel: Channel) {
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
    pub(super) fn accept(&mut self, number: u32) {
        let Some(place) = self.listeners.iter().position(|listener| listener.number == number) else {
            return;
        };
        for turn in 0..ACCEPTS_PER_POLL {
            match self.listeners[place].socket.accept() {
                Ok((stream, _)) => self.accepted(place, stream),
                // The kernel looks for a descriptor first: nothing to accept means that there was one.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.accept_works(place);
                    return;
                }
                // For the same reason, a lack of one does not mean that anybody waits; it is reported as ready if so.
                Err(_) if turn > 0 => return,
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

    pub(super) fn retry_accepting(&mut self) {
        for place in 0..self.listeners.len() {
            if self.listeners[place].accept.is_due() {
                self.accept(self.listeners[place].number);
            }
        }
    }
}
