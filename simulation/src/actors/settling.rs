//! What a consumer has taken and not settled yet.

use crate::oracle::{Ledger, Settling, number_of};
use crate::random::Random;
use underlay::connection::Deliveries;
use underlay::driver::{ConnectionId, Core};
use underlay::message::Message;
use underlay::proto::control::Outcome;

/// Deliveries of one session, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Unsettled(Vec<(Deliveries, u64)>);

impl Unsettled {
    pub(crate) fn add(&mut self, message: &Message) {
        if let (Some(deliveries), Some(number)) = (Deliveries::of(message), number_of(&message.body)) {
            self.0.push((deliveries, number));
        }
    }

    /// Settles some of them, in any order and in any way; mostly they are accepted.
    pub(crate) fn settle_some(
        &mut self,
        core: &mut Core,
        connection: ConnectionId,
        random: &mut Random,
        (reception, ledger): (usize, &mut Ledger),
    ) {
        let count = random.within(1..self.0.len() as u64 + 1);
        for _ in 0..count.min(self.0.len() as u64) {
            let place = if random.once_in(4) { random.place(self.0.len()) } else { 0 };
            let (deliveries, number) = self.0.remove(place);
            let (outcome, settling) = match random.within(0..24) {
                0 => (Outcome::Rejected, Settling::Rejected),
                1 => (Outcome::Released, Settling::Released),
                _ => (Outcome::Accepted, Settling::Accepted),
            };
            // It fails if the link has ended meanwhile, and the session is about to.
            if core.settle(connection, &deliveries, outcome).is_ok() {
                ledger.settled(reception, number, settling);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The session has ended.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}
