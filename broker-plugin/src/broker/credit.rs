//! Producers' credit: granted from what their queues can take.

use super::Broker;
use super::ledger::Amount;
use underlay::driver::Core;

impl Broker {
    /// A message arrived: what its producer was granted has become less.
    pub(super) fn charge(&mut self, place: usize, amount: Amount) {
        let Some(producer) = self.producers.at(place) else { return };
        let rest = producer.held.less(amount);
        self.set_held(place, rest);
    }

    /// After a message: grants its producer more if that is due, and others what this has made free.
    pub(super) fn replenish(&mut self, core: &mut Core, place: usize) {
        let Some(producer) = self.producers.at(place) else { return };
        let (route, is_low) = (producer.route, producer.held.is_at_most_in_one(producer.refill_at));
        if is_low && !producer.is_short {
            self.grant(core, place);
        }
        for step in 0..self.catalog.route(route).len() {
            let index = self.catalog.route(route)[step];
            if !self.queues[index].short.is_empty() {
                self.grant_short(core, index);
            }
        }
    }

    /// Grants the producers that are short what has become free, in turn.
    pub(super) fn grant_short(&mut self, core: &mut Core, index: usize) {
        for _ in 0..self.queues[index].short.len() {
            if self.queues[index].ledger.free() == Amount::default() {
                break;
            }
            let Some(place) = self.queues[index].short.pop_front() else { break };
            if let Some(producer) = self.producers.at_mut(place) {
                producer.is_short = false;
                self.grant(core, place);
            }
        }
        self.watch_front(core, index);
    }

    /// Grants a producer as much as its queues can take now. If that is not worth telling, it is noted as short at the
    /// queue that has too little. A producer whose own connection does not take what is sent to it gets nothing, and
    /// is looked at again when it does.
    pub(super) fn grant(&mut self, core: &mut Core, place: usize) {
        let Some(producer) = self.producers.at(place) else { return };
        let (connection, link, held) = (producer.connection, producer.link, producer.held);
        if self.is_stopping() || self.is_congested(connection) {
            return;
        }
        let room = self.room(place);
        // A connection tells its peer of a grant when less than half of it is left; smaller steps would be kept back.
        let gains = |now: u64, then: u64| then > now && now <= then / 2;
        if gains(held.messages, room.messages) || gains(held.bytes, room.bytes) {
            if core.set_link_room(connection, link, room.into()).is_err() {
                return;
            }
            self.granted(place, room);
        } else {
            self.note_short(place);
        }
    }

    /// What a new producer may send at once.
    pub(super) fn first_credit(&mut self, place: usize) -> Amount {
        let connection = self.producers.at(place).map(|producer| producer.connection);
        let is_congested = connection.is_none_or(|connection| self.is_congested(connection));
        if is_congested { Amount::default() } else { self.room(place) }
    }

    /// A producer was told what it may send.
    pub(super) fn granted(&mut self, place: usize, room: Amount) {
        self.set_held(place, room);
        let Some(producer) = self.producers.at_mut(place) else { return };
        producer.refill_at = room.half();
        if !room.is_blocking() {
            producer.is_starved = false;
            return;
        }
        // One whose connection is congested is not short of a queue's room, and no queue would call it back: it is
        // granted when its connection is relieved, which passes over those that stand in a queue's list.
        let connection = producer.connection;
        if !self.is_congested(connection) {
            self.note_short(place);
        }
    }

    /// What a producer may hold, by the fullest of its queues.
    fn room(&self, place: usize) -> Amount {
        let Some(producer) = self.producers.at(place) else { return Amount::default() };
        let window = self.rules.window;
        let rooms = self
            .catalog
            .route(producer.route)
            .iter()
            .map(|&it| self.queues[it].ledger.room(producer.held, window));
        rooms.fold(window, Amount::min).max(producer.held)
    }

    fn note_short(&mut self, place: usize) {
        let window = self.rules.window;
        let Some(producer) = self.producers.at_mut(place) else { return };
        let (held, queues) = (producer.held, &self.queues);
        let by_messages = held.messages == 0;
        let scarcest = self.catalog.route(producer.route).iter().min_by_key(|&&index| {
            let room = queues[index].ledger.room(held, window);
            if by_messages { room.messages } else { room.bytes }
        });
        let Some(&index) = scarcest else { return };
        producer.is_short = true;
        let queue = &mut self.queues[index];
        queue.short.push_back(place);
        // Once, however often it is looked at again before it gets something.
        if held.is_blocking() && !std::mem::replace(&mut producer.is_starved, true) {
            queue.counts.full_pushes += 1;
        }
    }

    fn set_held(&mut self, place: usize, held: Amount) {
        let Some(producer) = self.producers.at_mut(place) else { return };
        let before = std::mem::replace(&mut producer.held, held);
        for &index in self.catalog.route(producer.route) {
            self.queues[index].ledger.change(before, held);
        }
    }

    /// While producers are short of a queue that nobody takes from, what expires at its front makes room.
    fn watch_front(&mut self, core: &mut Core, index: usize) {
        let queue = &self.queues[index];
        if !queue.short.is_empty()
            && queue.ready.is_empty()
            && let Some(front) = queue.entries.front()
        {
            core.set_timer(index, front.deadline());
        }
    }
}
