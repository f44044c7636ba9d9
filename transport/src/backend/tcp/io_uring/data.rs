//! Moving bytes: each of these runs once for a message, or more often.

use super::super::super::{Channel, ChannelEnd, SendRefused, WireEvent};
use super::super::outgoing::Rest;
use super::super::socket;
use super::super::token::{Operation, Token};
use super::{Phase, UringEngine, probe};
use crate::pool::GatherList;
use ::io_uring::types::Fd;
use ::io_uring::{cqueue, opcode};
use std::io;
use std::os::fd::AsRawFd;

/// No signal for a peer that is gone; and the kernel goes on by itself after it sent a part.
const SEND_FLAGS: libc::c_int = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

/// Up to so many sends of one poll are written directly.
const DIRECT_SENDS_MAX: usize = 1;

impl UringEngine {
    #[inline]
    pub(super) fn start_sending(
        &mut self,
        channel: Channel,
        gather: &mut GatherList,
    ) -> Result<(), SendRefused> {
        let state = self.channels.at(channel).ok_or(SendRefused::NotOpen)?;
        if !matches!(state.phase, Phase::Open) {
            return Err(SendRefused::NotOpen);
        }
        if state.outgoing.is_in_flight() {
            return Err(SendRefused::InFlight);
        }
        state.outgoing.start(gather);
        self.to_send.push(channel);
        Ok(())
    }

    /// Starts the sends that were asked for since the last time. Few are written directly, which costs half a
    /// microsecond less each than an entry of the ring and its completion; more share one system call.
    #[inline]
    pub(super) fn start_sends(&mut self) {
        if self.to_send.len() > DIRECT_SENDS_MAX {
            return self.queue_sends();
        }
        for place in 0..self.to_send.len() {
            self.write_directly(self.to_send[place]);
        }
        self.to_send.clear();
    }

    /// Queues the sends that were asked for since the last time.
    #[inline]
    pub(super) fn queue_sends(&mut self) {
        for place in 0..self.to_send.len() {
            let channel = self.to_send[place];
            if self.channels.at(channel).is_some_and(|state| matches!(state.phase, Phase::Open)) {
                self.go_on_sending(channel);
            }
        }
        self.to_send.clear();
    }

    /// Writes what the socket takes at once; the ring waits until it takes the rest.
    #[inline]
    fn write_directly(&mut self, channel: Channel) {
        let Some(state) = self.channels.at(channel) else { return };
        if !matches!(state.phase, Phase::Open) {
            return;
        }
        if state.outgoing.is_done() {
            return self.go_on_sending(channel);
        }
        let result = match state.outgoing.write_to(state.stream.as_raw_fd()) {
            Ok(bytes) => i32::try_from(bytes).unwrap_or(i32::MAX),
            Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
        };
        self.send_came_to(channel, result);
    }

    /// Queues what is left to send, or reports that nothing is.
    #[inline]
    fn go_on_sending(&mut self, channel: Channel) {
        let Some(state) = self.channels.at(channel) else { return };
        if state.outgoing.is_done() {
            state.outgoing.finish();
            self.events.push(WireEvent::Sent { channel });
            return;
        }
        state.operations += 1;
        let descriptor = Fd(state.stream.as_raw_fd());
        let entry = match state.outgoing.rest() {
            Rest::One(start, bytes) => {
                opcode::Send::new(descriptor, start, bytes as u32).flags(SEND_FLAGS).build()
            }
            Rest::Many(header) => opcode::SendMsg::new(descriptor, header).flags(SEND_FLAGS as u32).build(),
        };
        let token = Token::of_channel(Operation::Send, channel);
        // SAFETY: what the entry points to is `outgoing`'s, which neither changes nor moves nor is dropped while the
        // operation counts.
        unsafe { self.ring.push(entry.user_data(token.to_bits())) };
    }

    #[inline]
    pub(super) fn sent(&mut self, channel: Channel, result: i32) {
        let Some(state) = self.channels.at(channel) else { return };
        state.operations -= 1;
        if matches!(state.phase, Phase::Ending(_)) {
            return self.finish(channel);
        }
        self.send_came_to(channel, result);
    }

    /// The kernel has sent so many bytes, or says why not.
    #[inline]
    fn send_came_to(&mut self, channel: Channel, result: i32) {
        let Some(state) = self.channels.at(channel) else { return };
        match result {
            0.. => state.outgoing.advance(result as usize),
            _ if is_temporary(result) => {}
            _ => {
                // What the peer sent before comes first: receiving ends by itself after this, and then the channel.
                state.broken = Some(io::Error::from_raw_os_error(-result));
                return socket::shut_down(state.stream.as_raw_fd());
            }
        }
        self.go_on_sending(channel);
    }

    /// Queues a receive that goes on as long as there are buffers.
    pub(super) fn arm_receive(&mut self, channel: Channel) {
        let Some(state) = self.channels.at(channel) else { return };
        if !matches!(state.phase, Phase::Open) {
            return;
        }
        state.operations += 1;
        let descriptor = state.stream.as_raw_fd();
        let token = Token::of_channel(Operation::Receive, channel);
        let entry = probe::receive_entry(descriptor, self.has_bundles);
        // SAFETY: it writes only to provided buffers, which belong to the kernel until a completion names them; the
        // socket stays open while the operation counts.
        unsafe { self.ring.push(entry.user_data(token.to_bits())) };
    }

    #[inline]
    pub(super) fn received(&mut self, channel: Channel, result: i32, flags: u32) {
        let state = self.channels.at(channel);
        let is_open = state.as_ref().is_some_and(|state| matches!(state.phase, Phase::Open));
        if let Some(first) = cqueue::buffer_select(flags) {
            let events = &mut self.events;
            self.buffers.take(first, result.max(0) as usize, |segment| {
                if is_open {
                    events.push(WireEvent::Received { channel, segment });
                }
            });
        }
        if cqueue::more(flags) && result > 0 {
            return;
        }
        let Some(state) = state else { return };
        state.operations -= u32::from(!cqueue::more(flags));
        if !is_open {
            return self.finish(channel);
        }
        match result {
            0 => self.receiving_ended(channel, ChannelEnd::Peer),
            // Out of buffers, or the kernel let others go first.
            _ if result > 0 || is_temporary(result) || result == -libc::ENOBUFS => {
                self.to_arm.push_back(channel);
            }
            _ => {
                let error = io::Error::from_raw_os_error(-result);
                self.receiving_ended(channel, ChannelEnd::Broken(error));
            }
        }
    }

    fn receiving_ended(&mut self, channel: Channel, reason: ChannelEnd) {
        let broken = self.channels.at(channel).and_then(|state| state.broken.take());
        self.end(channel, broken.map_or(reason, ChannelEnd::Broken));
    }
}

fn is_temporary(result: i32) -> bool {
    matches!(-result, libc::EAGAIN | libc::EINTR)
}
