//! Moving bytes: each of these runs once for a message, or more often.

use super::super::super::{Channel, ChannelEnd, SendRefused, WireEvent};
use super::super::outgoing::Outgoing;
use super::super::socket;
use super::super::token::{Operation, Token};
use super::{EpollEngine, Phase};
use crate::pool::GatherList;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

impl EpollEngine {
    #[inline]
    pub(super) fn start_sending(
        &mut self,
        channel: Channel,
        gather: &mut GatherList,
    ) -> Result<(), SendRefused> {
        let state = self.channels.at(channel).ok_or(SendRefused::NotOpen)?;
        if matches!(state.phase, Phase::Connecting(_)) {
            return Err(SendRefused::NotOpen);
        }
        if state.outgoing.is_in_flight() {
            return Err(SendRefused::InFlight);
        }
        state.outgoing.start(gather);
        if self.go_on_sending(channel) {
            // Said by the next poll; until then it counts as in flight, and holds its segments.
            self.written.push(channel);
        }
        Ok(())
    }

    /// Reports the sends whose bytes the sockets have taken since the last poll.
    #[inline]
    pub(super) fn report_written(&mut self) {
        for place in 0..self.written.len() {
            self.sent(self.written[place]);
        }
        self.written.clear();
    }

    #[inline]
    fn sent(&mut self, channel: Channel) {
        // If it has ended meanwhile, that was its last event.
        let Some(state) = self.channels.at(channel) else { return };
        state.outgoing.finish();
        self.events.push(WireEvent::Sent { channel });
    }

    /// The socket of a channel whose send waits has room again.
    pub(super) fn room_to_send(&mut self, channel: Channel) {
        let Some(state) = self.channels.at(channel) else { return };
        if matches!(state.phase, Phase::Blocked) {
            state.phase = Phase::Open;
            self.waiting_for_room -= 1;
            let token = Token::of_channel(Operation::Receive, channel);
            // Changing what is registered already needs no memory, and so cannot fail.
            let _ = self.readiness.change(state.stream.as_raw_fd(), libc::EPOLLIN, token);
            if self.go_on_sending(channel) {
                self.sent(channel);
            }
        }
    }

    /// Writes what the socket takes; true if that was all.
    #[inline]
    fn go_on_sending(&mut self, channel: Channel) -> bool {
        let Some(state) = self.channels.at(channel) else { return false };
        let descriptor = state.stream.as_raw_fd();
        match transmit(descriptor, &mut state.outgoing) {
            Ok(()) => return true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                state.phase = Phase::Blocked;
                self.waiting_for_room += 1;
                let token = Token::of_channel(Operation::Receive, channel);
                let _ = self.readiness.change(descriptor, libc::EPOLLIN | libc::EPOLLOUT, token);
            }
            Err(error) => {
                // What the peer sent before comes first: receiving ends by itself after this, and then the channel.
                state.broken = Some(error);
                socket::shut_down(descriptor);
            }
        }
        false
    }

    /// Reads once from a channel, if there is a buffer to read into.
    #[inline]
    pub(super) fn receive(&mut self, channel: Channel) {
        let Some(state) = self.channels.at(channel) else { return };
        let events = &mut self.events;
        let deliver = |segment| events.push(WireEvent::Received { channel, segment });
        let descriptor = state.stream.as_raw_fd();
        let outcome = self.stock.receive(descriptor, channel, state.residue, state.is_wide, deliver);
        match outcome {
            Ok((0, _)) => self.receiving_ended(channel, ChannelEnd::Peer),
            Ok((bytes, has_filled)) => {
                state.residue = (state.residue + bytes) % 64;
                state.is_wide = has_filled;
            }
            Err(error) if is_temporary(&error) => {}
            Err(error) => self.receiving_ended(channel, ChannelEnd::Broken(error)),
        }
    }

    fn receiving_ended(&mut self, channel: Channel, reason: ChannelEnd) {
        let broken = self.channels.at(channel).and_then(|state| state.broken.take());
        self.end(channel, broken.map_or(reason, ChannelEnd::Broken));
    }
}

/// Writes until all is written, or the socket takes no more.
#[inline]
fn transmit(descriptor: RawFd, outgoing: &mut Outgoing) -> io::Result<()> {
    while !outgoing.is_done() {
        match outgoing.write_to(descriptor) {
            Ok(bytes) => outgoing.advance(bytes),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
