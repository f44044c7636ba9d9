//! The control path: names, connecting, accepting, ending.

use super::duct::{DuctEnd, EndedBy};
use super::endpoint::{Bell, Knock, Mail, NotPosted};
use super::network::Place;
use super::table::{Open, State};
use super::{BACKLOG_MAX, CHANNELS_MAX, InprocWire, LISTENERS_MAX, NAME_BYTES_MAX, PACKET_BYTES};
use crate::backend::{
    Channel, ChannelEnd, ConnectError, ListenError, Listener, Listening, Path, WireEvent, WireKind,
};
use std::io;
use std::sync::Arc;

const NAME_FORM: &str = "a name of 1 to 255 bytes";

impl InprocWire {
    pub(super) fn start_listening(&mut self, address: &str) -> Result<Listening, ListenError> {
        check_name(address).map_err(|reason| ListenError::Address {
            address: address.to_owned(),
            wire: WireKind::Inproc,
            reason,
            expected: NAME_FORM,
        })?;
        if self.listeners.len() == LISTENERS_MAX {
            let error = io::Error::other(format!(
                "this wire listens at {LISTENERS_MAX} names, which is its limit; stop one, or use another wire"
            ));
            return Err(ListenError::System { address: address.to_owned(), error });
        }
        // Never used again, so that a connection that is on its way to a stopped listener meets no other one.
        let listener = Listener(self.listeners_made);
        let name: Arc<str> = address.into();
        if !self.network.enter(name.clone(), Place { endpoint: self.endpoint.clone(), listener }) {
            return Err(ListenError::InUse { address: address.to_owned() });
        }
        self.listeners_made += 1;
        self.listeners.push((listener, name));
        Ok(Listening { listener, address: address.to_owned() })
    }

    pub(super) fn forget_listener(&mut self, listener: Listener) {
        if let Some(index) = self.listeners.iter().position(|(other, _)| *other == listener) {
            let (_, name) = self.listeners.swap_remove(index);
            self.network.leave(&name);
            // Connections that wait for it are refused when the mailbox is read.
            self.endpoint.ring_mailbox();
        }
    }

    pub(super) fn start_connecting(&mut self, address: &str) -> Result<Channel, ConnectError> {
        check_name(address).map_err(|reason| ConnectError::Address {
            address: address.to_owned(),
            wire: WireKind::Inproc,
            reason,
            expected: NAME_FORM,
        })?;
        let [end, far_end] = DuctEnd::pair();
        let Some(channel) = self.table.insert(State::Connecting(end)) else {
            let error = io::Error::other(format!(
                "this wire has {CHANNELS_MAX} channels, which is its limit; close one, or use another wire"
            ));
            return Err(ConnectError::System { address: address.to_owned(), error });
        };
        let bell = Bell { endpoint: self.endpoint.clone(), slot: channel.slot };
        if let Err(reason) = self.knock(address, channel, far_end, bell) {
            self.end_with(channel, ChannelEnd::ConnectFailed(reason));
        }
        Ok(channel)
    }

    fn knock(&self, name: &str, channel: Channel, end: DuctEnd, bell: Bell) -> io::Result<()> {
        let Place { endpoint, listener } = self.network.find(name).ok_or_else(|| {
            let reason =
                format!("nobody in this process listens at '{name}'; start the listener before connecting");
            io::Error::new(io::ErrorKind::NotFound, reason)
        })?;
        endpoint.post(Mail::Knock(Knock { listener, end, channel, bell })).map_err(|not_posted| {
            let reason = match not_posted {
                NotPosted::Gone => format!("the wire that listened at '{name}' was dropped"),
                NotPosted::BacklogFull => {
                    format!(
                        "{BACKLOG_MAX} connections wait for the wire that listens at '{name}'; is it polled?"
                    )
                }
            };
            io::Error::new(io::ErrorKind::ConnectionRefused, reason)
        })
    }

    /// Reads mail as long as there is room for its events.
    pub(super) fn read_mail(&mut self, events: &mut Vec<WireEvent>, events_max: usize) {
        while events.len() < events_max {
            match self.endpoint.take_mail() {
                Some(Mail::Knock(knock)) => self.accept(knock, events),
                Some(Mail::Welcome { channel, bell, peer }) => self.welcomed(channel, bell, peer, events),
                Some(Mail::Refused { channel, reason }) => {
                    if let Some(State::Connecting(_)) = self.table.state_mut(channel) {
                        self.end_with(channel, ChannelEnd::ConnectFailed(reason));
                    }
                }
                None => return,
            }
        }
        self.endpoint.ring_mailbox();
    }

    fn accept(&mut self, knock: Knock, events: &mut Vec<WireEvent>) {
        if knock.end.peer_ended().is_some() {
            return;
        }
        let listener = knock.listener;
        if !self.listeners.iter().any(|(other, _)| *other == listener) {
            let reason = "the listener was stopped before it accepted";
            return knock.refuse(io::Error::new(io::ErrorKind::ConnectionRefused, reason));
        }
        if self.table.is_full() {
            let reason = format!("the listening wire has {CHANNELS_MAX} channels, which is its limit");
            let error = || io::Error::new(io::ErrorKind::ConnectionRefused, reason.clone());
            events.push(WireEvent::AcceptFailed { listener, error: error() });
            return knock.refuse(error());
        }
        let Knock { end, channel: far_channel, bell, .. } = knock;
        let far = bell.endpoint.clone();
        let Some(channel) = self.table.insert(State::Open(Open::new(end, bell))) else { return };
        let own_bell = Bell { endpoint: self.endpoint.clone(), slot: channel.slot };
        let peer = self.endpoint.describe(channel);
        // A connector that is gone meanwhile has ended its side, which the first look at the channel finds.
        let _ = far.post(Mail::Welcome { channel: far_channel, bell: own_bell, peer });
        let path = Path { peer: far.describe(far_channel), packet_bytes: PACKET_BYTES };
        events.push(WireEvent::Accepted { listener, channel, path });
        self.schedule(channel.slot);
    }

    fn welcomed(&mut self, channel: Channel, bell: Bell, peer: String, events: &mut Vec<WireEvent>) {
        match self.table.state_mut(channel) {
            Some(state @ State::Connecting(_)) => {
                let State::Connecting(end) = std::mem::replace(state, State::Free) else { return };
                *state = State::Open(Open::new(end, bell));
                events
                    .push(WireEvent::Connected { channel, path: Path { peer, packet_bytes: PACKET_BYTES } });
                // The peer may have sent, and rung, before this end was open.
                self.schedule(channel.slot);
            }
            // Closed meanwhile, without knowing whom to ring.
            _ => bell.ring(),
        }
    }

    pub(super) fn end_by_this_end(&mut self, channel: Channel) {
        if let Some(State::Connecting(_) | State::Open(_)) = self.table.state_mut(channel) {
            self.end_with(channel, ChannelEnd::Local);
        }
    }

    /// Ends a channel that has not ended, lets go of its buffers, and has its event reported by the next poll.
    pub(super) fn end_with(&mut self, channel: Channel, reason: ChannelEnd) {
        let Some(state) = self.table.state_mut(channel) else { return };
        std::mem::replace(state, State::Ended(reason)).end(EndedBy::Close);
        self.schedule(channel.slot);
        self.endpoint.wake();
    }
}

impl State {
    /// Ends this side of the channel and tells the peer.
    pub(super) fn end(self, by: EndedBy) {
        match self {
            State::Connecting(end) => end.end(by),
            State::Open(open) => {
                open.end.end(by);
                open.bell.ring();
            }
            State::Free | State::Ended(_) => {}
        }
    }
}

impl Drop for InprocWire {
    fn drop(&mut self) {
        for (_, name) in self.listeners.drain(..) {
            self.network.leave(&name);
        }
        let by = if std::thread::panicking() { EndedBy::Panic } else { EndedBy::Drop };
        self.table.drain().for_each(|state| state.end(by));
        // Only now, so that whoever finds the mailbox closed finds its channel ended too.
        for mail in self.endpoint.close_mailbox() {
            match mail {
                Mail::Knock(knock) => {
                    let reason = "the listening wire was dropped before it accepted";
                    knock.refuse(io::Error::new(io::ErrorKind::ConnectionRefused, reason));
                }
                Mail::Welcome { bell, .. } => bell.ring(),
                Mail::Refused { .. } => {}
            }
        }
    }
}

fn check_name(name: &str) -> Result<(), String> {
    match name.len() {
        0 => Err("it is empty".to_owned()),
        bytes if bytes > NAME_BYTES_MAX => Err(format!("it has {bytes} bytes")),
        _ => Ok(()),
    }
}
