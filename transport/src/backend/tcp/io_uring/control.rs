//! How channels and listeners come up and go down.

use super::super::super::raw_address::RawAddress;
use super::super::super::{Channel, ChannelEnd, ConnectError, ListenError, Listener, Listening, WireEvent};
use super::super::accept::{AcceptState, AcceptTrouble};
use super::super::address;
use super::super::outgoing::Outgoing;
use super::super::socket;
use super::super::token::{Operation, Token};
use super::{ListenerState, Phase, State, UringEngine};
use ::io_uring::opcode;
use ::io_uring::types::{CancelBuilder, Fd};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};

impl UringEngine {
    pub(super) fn start_listening(&mut self, text: &str) -> Result<Listening, ListenError> {
        let addresses = address::resolve(text).map_err(|bad| bad.into_listen(text))?;
        self.try_listen(&addresses).map_err(|error| socket::listen_error(text, error))
    }

    fn try_listen(&mut self, addresses: &[SocketAddr]) -> io::Result<Listening> {
        let socket = socket::listen(addresses, &self.config)?;
        let address = socket.local_addr()?.to_string();
        let number = self.listeners_made;
        self.listeners_made += 1;
        self.listeners.push(ListenerState {
            number,
            socket,
            accept: AcceptState::default(),
            is_armed: false,
            is_cancelling: false,
            is_stopped: false,
        });
        self.arm_accept(self.listeners.len() - 1);
        Ok(Listening { listener: Listener(number), address })
    }

    fn arm_accept(&mut self, place: usize) {
        let listener = &mut self.listeners[place];
        listener.is_armed = true;
        let token = Token::numbered(Operation::Accept, listener.number);
        let entry = opcode::AcceptMulti::new(Fd(listener.socket.as_raw_fd()))
            .flags(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK);
        // SAFETY: accepting without an address writes to no memory of ours; the socket stays open while `is_armed`.
        unsafe { self.ring.push(entry.build().user_data(token.to_bits())) };
    }

    /// Accepting brought a connection, or an error.
    pub(super) fn accepted(&mut self, number: u32, result: i32, more: bool) {
        let stream = (result >= 0).then(|| {
            // SAFETY: the kernel has just made this descriptor for us.
            unsafe { TcpStream::from_raw_fd(result) }
        });
        let place = self.listeners.iter().position(|listener| listener.number == number);
        let Some(place) = place else { return };
        let listener = &mut self.listeners[place];
        listener.is_armed = more;
        if listener.is_stopped {
            return self.forget_if_stopped(place);
        }
        match stream {
            Some(stream) => {
                listener.accept.succeeded();
                self.admit(Listener(number), stream);
            }
            None => {
                let error = io::Error::from_raw_os_error(-result);
                if listener.accept.failed(&error) == AcceptTrouble::Report {
                    let listener = Listener(number);
                    self.events.push(WireEvent::AcceptFailed { listener, error });
                }
            }
        }
        let listener = &self.listeners[place];
        if !listener.is_armed && !listener.accept.is_waiting() {
            self.arm_accept(place);
        }
    }

    fn admit(&mut self, listener: Listener, stream: TcpStream) {
        // An error means that the peer is gone already: nobody has to know.
        let Ok(path) = stream.set_nodelay(true).and_then(|()| socket::path(&stream)) else { return };
        let nowhere = RawAddress::from(&SocketAddr::from(([0, 0, 0, 0], 0)));
        let channel = self.insert(stream, nowhere, Phase::Open);
        self.to_arm.push_back(channel);
        self.events.push(WireEvent::Accepted { listener, channel, path });
    }

    pub(super) fn retry_accepting(&mut self) {
        for place in 0..self.listeners.len() {
            let listener = &mut self.listeners[place];
            if listener.accept.is_due() && !listener.is_armed && !listener.is_stopped {
                self.arm_accept(place);
            }
        }
    }

    pub(super) fn stop_accepting(&mut self, listener: Listener) {
        let place = self.listeners.iter().position(|state| state.number == listener.0);
        let Some(place) = place else { return };
        let state = &mut self.listeners[place];
        if std::mem::replace(&mut state.is_stopped, true) {
            return;
        }
        let descriptor = state.socket.as_raw_fd();
        // Peers are refused from here on, and the port is free.
        socket::shut_down(descriptor);
        if state.is_armed {
            state.is_cancelling = true;
            let token = Token::numbered(Operation::CancelAccept, listener.0);
            let what = CancelBuilder::fd(Fd(descriptor)).all();
            let entry = opcode::AsyncCancel2::new(what).build();
            // SAFETY: cancelling touches no memory of ours; the socket stays open while `is_cancelling`.
            unsafe { self.ring.push(entry.user_data(token.to_bits())) };
        }
        self.forget_if_stopped(place);
    }

    pub(super) fn accept_was_cancelled(&mut self, number: u32) {
        let place = self.listeners.iter().position(|listener| listener.number == number);
        if let Some(place) = place {
            self.listeners[place].is_cancelling = false;
            self.forget_if_stopped(place);
        }
    }

    fn forget_if_stopped(&mut self, place: usize) {
        let listener = &self.listeners[place];
        if listener.is_stopped && !listener.is_armed && !listener.is_cancelling {
            self.listeners.remove(place);
        }
    }

    pub(super) fn start_connecting(&mut self, text: &str) -> Result<Channel, ConnectError> {
        let addresses = address::resolve_peer(text).map_err(|bad| bad.into_connect(text))?;
        self.connect_to_any(addresses).map_err(|error| socket::connect_error(text, error))
    }

    /// Starts to connect to the first of `addresses`, with the others to fall back on.
    pub(in super::super) fn connect_to_any(&mut self, addresses: Vec<SocketAddr>) -> io::Result<Channel> {
        let mut others = addresses.into_iter();
        let first = others.next().ok_or(io::ErrorKind::InvalidInput)?;
        let stream = socket::stream(&first, &self.config)?;
        let channel = self.insert(stream, RawAddress::from(&first), Phase::Connecting(others));
        self.push_connect(channel);
        Ok(channel)
    }

    fn insert(&mut self, stream: TcpStream, address: RawAddress, phase: Phase) -> Channel {
        let (outgoing, address) = (Outgoing::new(), Box::new(address));
        self.channels.insert(State { stream, phase, operations: 0, outgoing, address, broken: None })
    }

    fn push_connect(&mut self, channel: Channel) {
        let Some(state) = self.channels.at(channel) else { return };
        state.operations += 1;
        let token = Token::of_channel(Operation::Connect, channel);
        let descriptor = Fd(state.stream.as_raw_fd());
        let entry = opcode::Connect::new(descriptor, state.address.as_ptr(), state.address.bytes());
        // SAFETY: the address is boxed, and neither it nor the socket changes while the operation counts.
        unsafe { self.ring.push(entry.build().user_data(token.to_bits())) };
    }

    pub(super) fn connecting_ended(&mut self, channel: Channel, result: i32) {
        let Some(state) = self.channels.at(channel) else { return };
        state.operations -= 1;
        let Phase::Connecting(others) = &mut state.phase else { return self.finish(channel) };
        let outcome = if result == 0 {
            socket::path(&state.stream)
        } else {
            Err(io::Error::from_raw_os_error(-result))
        };
        match outcome {
            Ok(path) => {
                state.phase = Phase::Open;
                self.to_arm.push_back(channel);
                self.events.push(WireEvent::Connected { channel, path });
            }
            Err(error) => {
                let mut last_error = error;
                for address in others.by_ref() {
                    match socket::stream(&address, &self.config) {
                        Ok(stream) => {
                            // Nothing is under way: the operation before has completed.
                            (state.stream, *state.address) = (stream, RawAddress::from(&address));
                            return self.push_connect(channel);
                        }
                        Err(error) => last_error = error,
                    }
                }
                self.end(channel, ChannelEnd::ConnectFailed(last_error));
            }
        }
    }

    /// Begins to end a channel, unless that has begun.
    pub(super) fn end(&mut self, channel: Channel, reason: ChannelEnd) {
        let Some(state) = self.channels.at(channel) else { return };
        if matches!(state.phase, Phase::Ending(_)) {
            return;
        }
        state.phase = Phase::Ending(reason);
        if state.operations > 0 {
            let descriptor = state.stream.as_raw_fd();
            // Whatever is under way or yet to start comes to its end by this; cancelling also ends what waits for
            // something else than the socket.
            socket::shut_down(descriptor);
            state.operations += 1;
            let token = Token::of_channel(Operation::Cancel, channel);
            let entry = opcode::AsyncCancel2::new(CancelBuilder::fd(Fd(descriptor)).all()).build();
            // SAFETY: cancelling touches no memory of ours. It counts as an operation, so that the descriptor cannot
            // name another socket before it is carried out.
            unsafe { self.ring.push(entry.user_data(token.to_bits())) };
        }
        self.finish(channel);
    }

    /// An operation that needs no other attention has completed for good.
    pub(super) fn operation_ended(&mut self, channel: Channel) {
        if let Some(state) = self.channels.at(channel) {
            state.operations -= 1;
            self.finish(channel);
        }
    }

    /// Lets go of a channel that is ending if the kernel has.
    pub(super) fn finish(&mut self, channel: Channel) {
        let Some(state) = self.channels.at(channel) else { return };
        if state.operations > 0 || !matches!(state.phase, Phase::Ending(_)) {
            return;
        }
        let Some(State { phase: Phase::Ending(reason), .. }) = self.channels.remove(channel) else { return };
        self.events.push(WireEvent::Closed { channel, reason });
        self.listeners.iter_mut().for_each(|listener| listener.accept.hope());
    }
}
