//! What an owner of a driver says of deliveries, and of leaving.

use super::core::{ConnectionId, Core, find};
use crate::connection::{Deliveries, LinkError};
use crate::proto::control::Outcome;
use std::time::Duration;

impl Core {
    /// Says what became of deliveries that came on a link which this end attached as a consumer that settles
    /// ([`LinkRole::SettlingConsumer`](crate::proto::control::LinkRole)). Neither makes a system call nor a frame: it
    /// leaves at the end of the turn with what else does, neighbours with one outcome as one record. Saying it twice does
    /// no harm: the first time counts.
    ///
    /// # Errors
    /// [`LinkError::NotSettled`] if the link is none of that kind or has ended, [`LinkError::NotDelivered`] if one of
    /// them has not arrived.
    pub fn settle(
        &mut self,
        connection: ConnectionId,
        deliveries: &Deliveries,
        outcome: Outcome,
    ) -> Result<(), LinkError> {
        self.with_link(connection, deliveries.link, |connection| connection.settle(deliveries, outcome))
    }

    /// Asks the peer of a connection to go elsewhere: this end will be there for so long. Everything goes on as before
    /// until one of them closes. The peer hears of it by [`super::Handler::leaving`].
    pub fn ask_to_leave(&mut self, connection: ConnectionId, within: Duration, text: &str) {
        if let Some(found) = find(&mut self.entries, connection) {
            found.ask_to_leave(within, text);
            self.mark_dirty(connection.index() as u32);
        }
    }

    /// Asks the peers of all connections to go elsewhere, as [`Core::ask_to_leave`] does.
    pub fn ask_all_to_leave(&mut self, within: Duration, text: &str) {
        for index in 0..self.entries.len() as u32 {
            let id = self.id(index);
            self.ask_to_leave(id, within, text);
        }
    }
}
