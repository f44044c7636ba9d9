//! The data path: segments into the peer's ring, segments out of the own one.

use super::InprocWire;
use super::duct::EndedBy;
use super::endpoint::MAILBOX;
use super::table::{Flight, Open, State};
use crate::backend::{Channel, ChannelEnd, SendRefused, WireEvent};
use crate::pool::{GatherList, Segment};

/// The most events of one poll, beyond which the rest waits for the next one.
pub(super) const EVENTS_PER_POLL_MAX: usize = 256;

/// The most segments that one channel hands out before the next one has its turn.
const RECEIVED_PER_TURN_MAX: usize = 64;

impl InprocWire {
    pub(super) fn start_sending(
        &mut self,
        channel: Channel,
        gather: &mut GatherList,
    ) -> Result<(), SendRefused> {
        let Some(State::Open(open)) = self.table.state_mut(channel) else {
            return Err(SendRefused::NotOpen);
        };
        if open.flight != Flight::Idle {
            return Err(SendRefused::InFlight);
        }
        for segment in gather.drain() {
            open.send(segment);
        }
        open.bell.ring();
        open.flight = open.flight_after_sending();
        if open.flight == Flight::Done {
            self.schedule(channel.slot);
            self.endpoint.wake();
        }
        Ok(())
    }

    pub(super) fn take_events(&mut self, events: &mut Vec<WireEvent>) {
        let events_max = events.len() + EVENTS_PER_POLL_MAX;
        let mut has_mail = false;
        let (table, scheduled) = (&mut self.table, &mut self.scheduled);
        self.endpoint.take_ready(|place| {
            if place == MAILBOX {
                has_mail = true;
            } else if table.schedule(place) {
                scheduled.push_back(place);
            }
        });
        if has_mail {
            self.read_mail(events, events_max);
        }
        // Each channel that is scheduled now has one turn; those that have more to do queue up again behind the others.
        for _ in 0..self.scheduled.len() {
            if events.len() >= events_max {
                break;
            }
            let Some(slot) = self.scheduled.pop_front() else { break };
            self.table.unschedule(slot);
            self.take_turn(slot, events, events_max);
        }
        // What is left over rings no bell again, so the owner must not fall asleep on it.
        if !self.scheduled.is_empty() {
            self.endpoint.wake();
        }
    }

    /// Looks at a slot in the next poll.
    #[inline]
    pub(super) fn schedule(&mut self, slot: u32) {
        if self.table.schedule(slot) {
            self.scheduled.push_back(slot);
        }
    }

    fn take_turn(&mut self, slot: u32, events: &mut Vec<WireEvent>, events_max: usize) {
        let Some((channel, state)) = self.table.present_mut(slot) else { return };
        match state {
            State::Open(open) => match open.take_turn(channel, events, events_max) {
                Turn::Over => {}
                Turn::MoreToDo => self.schedule(slot),
                Turn::Ended(reason) => {
                    self.table.remove(slot).end(EndedBy::Close);
                    events.push(WireEvent::Closed { channel, reason });
                }
            },
            State::Ended(_) => {
                if let State::Ended(reason) = self.table.remove(slot) {
                    events.push(WireEvent::Closed { channel, reason });
                }
            }
            // Rung for a channel that is gone, or whose mail was read just now or is about to be.
            State::Free | State::Connecting(_) => {}
        }
    }
}

/// What a turn of a channel came to.
enum Turn {
    /// The channel waits for its bell.
    Over,
    /// It has more than one turn allows.
    MoreToDo,
    /// The peer has ended it, and everything that it sent was handed out.
    Ended(ChannelEnd),
}

impl Open {
    /// Moves a segment towards the peer, behind those that wait.
    #[inline]
    fn send(&mut self, segment: Segment) {
        if !self.unsent.is_empty() {
            return self.unsent.push_back(segment);
        }
        if let Err(segment) = self.end.push(segment) {
            self.unsent.push_back(segment);
        }
    }

    fn flight_after_sending(&self) -> Flight {
        if self.unsent.is_empty() { Flight::Done } else { Flight::Blocked }
    }

    fn take_turn(&mut self, channel: Channel, events: &mut Vec<WireEvent>, events_max: usize) -> Turn {
        // First of all: what was sent before the peer ended is in the ring by now.
        let peer_ended = self.end.peer_ended();
        if self.flight == Flight::Blocked {
            self.send_more();
        }
        if self.flight == Flight::Done {
            self.flight = Flight::Idle;
            events.push(WireEvent::Sent { channel });
        }
        let count_max = events_max.saturating_sub(events.len()).min(RECEIVED_PER_TURN_MAX);
        let count = self.receive(channel, events, count_max);
        if count == count_max {
            return Turn::MoreToDo;
        }
        peer_ended.map_or(Turn::Over, |ended| Turn::Ended(ended.into()))
    }

    /// Goes on with a send that was blocked.
    fn send_more(&mut self) {
        let before = self.unsent.len();
        while let Some(segment) = self.unsent.pop_front() {
            if let Err(segment) = self.end.push(segment) {
                self.unsent.push_front(segment);
                break;
            }
        }
        if self.unsent.len() < before {
            self.bell.ring();
        }
        self.flight = self.flight_after_sending();
    }

    /// Hands out at most `count_max` segments, and says how many.
    fn receive(&mut self, channel: Channel, events: &mut Vec<WireEvent>, count_max: usize) -> usize {
        let mut count = 0;
        while count < count_max
            && let Some(segment) = self.end.pop()
        {
            events.push(WireEvent::Received { channel, segment });
            count += 1;
        }
        if count > 0 && self.end.made_room() {
            self.bell.ring();
        }
        count
    }
}
