//! How much a queue can still take, and how much of that its producers have been promised.
//!
//! A grant cannot be taken back: a producer that was granted a hundred messages may send them next year. So what was
//! granted and has not arrived counts as taken, and the ledger keeps, for messages and for bytes alike,
//!
//! ```text
//! stored + outstanding <= capacity
//! ```
//!
//! where `outstanding` is the sum over all producers. (In bytes a message may begin while one byte is left, so each
//! producer may exceed it by one message; that is a rule of the protocol.)
//!
//! Producers that hold their grants and send nothing must not keep the others from theirs. So half of the capacity is
//! set apart in `producers_max` equal shares, one for each producer that is there or may come, and only what is left
//! beyond all shares is lent, half of what is left at a time. It follows that an empty queue can give every producer
//! its share, whatever the others hold; a queue that is full gives what its consumers make free, in turn.

use underlay::connection::LinkRoom;

/// A number of messages and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

impl Amount {
    pub(super) fn new(messages: u64, bytes: u64) -> Self {
        Self { messages, bytes }
    }

    /// One message with a body of so many bytes.
    pub(super) fn of_message(bytes: u64) -> Self {
        Self::new(1, bytes)
    }

    pub(super) fn each(self, other: Self, join: impl Fn(u64, u64) -> u64) -> Self {
        Self::new(join(self.messages, other.messages), join(self.bytes, other.bytes))
    }

    pub(super) fn plus(self, other: Self) -> Self {
        self.each(other, u64::saturating_add)
    }

    /// Without `other`, at least zero.
    pub(super) fn less(self, other: Self) -> Self {
        self.each(other, u64::saturating_sub)
    }

    pub(super) fn min(self, other: Self) -> Self {
        self.each(other, u64::min)
    }

    pub(super) fn max(self, other: Self) -> Self {
        self.each(other, u64::max)
    }

    fn times(self, count: u64) -> Self {
        Self::new(self.messages.saturating_mul(count), self.bytes.saturating_mul(count))
    }

    pub(super) fn half(self) -> Self {
        Self::new(self.messages / 2, self.bytes / 2)
    }

    fn half_rounded_up(self) -> Self {
        Self::new(self.messages.div_ceil(2), self.bytes.div_ceil(2))
    }

    /// A sender with so much credit can send nothing.
    pub(super) fn is_blocking(self) -> bool {
        self.messages == 0 || self.bytes == 0
    }

    /// At most `mark` in either respect.
    pub(super) fn is_at_most_in_one(self, mark: Self) -> bool {
        self.messages <= mark.messages || self.bytes <= mark.bytes
    }
}

impl From<Amount> for LinkRoom {
    fn from(amount: Amount) -> Self {
        Self { messages: amount.messages, bytes: amount.bytes }
    }
}

/// The room of one queue.
#[derive(Debug)]
pub(super) struct Ledger {
    capacity: Amount,
    /// The share that is set apart for each producer.
    share: Amount,
    producers_max: u64,
    producers: u64,
    stored: Amount,
    outstanding: Amount,
    /// Over the producers that are there, the larger of what each holds and its share.
    set_apart: Amount,
}

impl Ledger {
    /// An empty queue of this capacity; `window` is the most that a producer is ever granted.
    pub(super) fn new(capacity: Amount, producers_max: u64, window: Amount) -> Self {
        let producers_max = producers_max.max(1);
        let part = |whole: u64| (whole / 2 / producers_max).max(1);
        let share = Amount::new(part(capacity.messages), part(capacity.bytes)).min(window);
        let zero = Amount::default();
        Self {
            capacity,
            share,
            producers_max,
            producers: 0,
            stored: zero,
            outstanding: zero,
            set_apart: zero,
        }
    }

    pub(super) fn stored(&self) -> Amount {
        self.stored
    }

    pub(super) fn outstanding(&self) -> Amount {
        self.outstanding
    }

    pub(super) fn producers(&self) -> u64 {
        self.producers
    }

    pub(super) fn is_open_to_producers(&self) -> bool {
        self.producers < self.producers_max
    }

    /// A producer comes, with nothing granted yet.
    pub(super) fn join(&mut self) {
        self.producers += 1;
        self.set_apart = self.set_apart.plus(self.share);
    }

    /// A producer goes, and what it was granted is free again.
    pub(super) fn leave(&mut self, granted: Amount) {
        self.producers -= 1;
        self.outstanding = self.outstanding.less(granted);
        self.set_apart = self.set_apart.less(granted.max(self.share));
    }

    /// What a producer holds changes, by a grant or by a message that arrived.
    pub(super) fn change(&mut self, from: Amount, to: Amount) {
        self.outstanding = self.outstanding.less(from).plus(to);
        self.set_apart = self.set_apart.less(from.max(self.share)).plus(to.max(self.share));
    }

    pub(super) fn store(&mut self, amount: Amount) {
        self.stored = self.stored.plus(amount);
    }

    pub(super) fn release(&mut self, amount: Amount) {
        self.stored = self.stored.less(amount);
    }

    /// What is neither stored nor promised.
    pub(super) fn free(&self) -> Amount {
        self.capacity.less(self.stored).less(self.outstanding)
    }

    /// What a producer that holds `held` may hold after the next grant, at most `window`; never less than `held`.
    pub(super) fn room(&self, held: Amount, window: Amount) -> Amount {
        let shares_to_come = self.share.times(self.producers_max.saturating_sub(self.producers));
        let lendable =
            self.capacity.less(self.stored).less(self.set_apart).less(shares_to_come).half_rounded_up();
        let most = held.plus(self.free());
        held.max(self.share).plus(lendable).min(most).min(window).max(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Amount = Amount { messages: 64, bytes: 64_000 };

    /// A queue with producers that hold grants, checked against the invariant after every step.
    struct Model {
        ledger: Ledger,
        held: Vec<Amount>,
        stored: Vec<Amount>,
    }

    impl Model {
        fn new(messages: u64, bytes: u64, producers_max: u64) -> Self {
            let ledger = Ledger::new(Amount::new(messages, bytes), producers_max, WINDOW);
            Self { ledger, held: Vec::new(), stored: Vec::new() }
        }

        fn join(&mut self) {
            self.ledger.join();
            self.held.push(Amount::default());
            self.grant(self.held.len() - 1);
        }

        fn grant(&mut self, index: usize) {
            let room = self.ledger.room(self.held[index], WINDOW);
            self.ledger.change(self.held[index], room);
            self.held[index] = room;
            self.check();
        }

        /// Sends one message as far as the grant allows; keeps it if `store`.
        fn send(&mut self, index: usize, bytes: u64, store: bool) -> bool {
            let held = self.held[index];
            if held.is_blocking() || bytes > held.bytes {
                return false;
            }
            let rest = held.less(Amount::of_message(bytes));
            self.ledger.change(held, rest);
            self.held[index] = rest;
            if store {
                self.ledger.store(Amount::of_message(bytes));
                self.stored.push(Amount::of_message(bytes));
            }
            self.check();
            true
        }

        fn check(&self) {
            let sum = |amounts: &[Amount]| amounts.iter().fold(Amount::default(), |sum, it| sum.plus(*it));
            assert_eq!(self.ledger.outstanding(), sum(&self.held));
            assert_eq!(self.ledger.stored(), sum(&self.stored));
            let taken = sum(&self.held).plus(sum(&self.stored));
            assert_eq!(taken.less(self.ledger.capacity), Amount::default(), "{taken:?} is past the capacity");
        }
    }

    #[test]
    fn idle_producers_leave_each_other_their_shares() {
        let mut model = Model::new(1000, 1_000_000, 10);
        for _ in 0..10 {
            model.join();
        }
        for held in &model.held {
            assert!(held.messages >= 50 && held.bytes >= 50_000, "{held:?} is less than the share");
        }
        assert!(model.held[0].messages > 50, "what no share needs is lent");
    }

    #[test]
    fn a_full_queue_grants_nothing_until_it_is_drained() {
        let mut model = Model::new(100, 1_000_000, 2);
        model.join();
        while model.send(0, 10, true) {
            model.grant(0);
        }
        assert!(model.held[0].is_blocking());
        assert!(model.stored.len() >= 75, "only {} were taken", model.stored.len());
        let drained = model.stored.drain(..).fold(Amount::default(), Amount::plus);
        model.ledger.release(drained);
        model.grant(0);
        assert!(model.held[0].messages >= 25);
    }

    #[test]
    fn a_newcomer_gets_its_share_of_a_queue_whose_room_others_sit_on() {
        let mut model = Model::new(8, 8_000, 4);
        for _ in 0..4 {
            model.join();
            (0..model.held.len()).for_each(|index| model.grant(index));
        }
        assert!(model.held.iter().all(|held| !held.is_blocking()), "{:?}", model.held);
    }

    /// Random sends, drains and departures, with a generator small enough to stand here.
    #[test]
    fn what_is_stored_and_promised_never_exceeds_the_capacity() {
        let mut state = 1_u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut model = Model::new(300, 100_000, 7);
        for step in 0..50_000 {
            match random(8) {
                0 if model.ledger.is_open_to_producers() => model.join(),
                1 if model.held.len() > 1 && step % 50 == 0 => {
                    let gone = model.held.swap_remove(random(model.held.len() as u64) as usize);
                    model.ledger.leave(gone);
                    model.check();
                }
                2 | 3 if !model.stored.is_empty() => {
                    let taken = model.stored.swap_remove(0);
                    model.ledger.release(taken);
                    model.check();
                }
                _ if !model.held.is_empty() => {
                    let index = random(model.held.len() as u64) as usize;
                    model.send(index, random(3000), random(2) == 0);
                    model.grant(index);
                }
                _ => {}
            }
        }
    }
}
