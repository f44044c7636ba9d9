//! What the connection manager says, in the words of the seam.

use super::super::{Event, Identifier};
use super::RealVerbs;
use super::channel::TakenEvent;
use rdma_sys::rdma_cm_event_type as kind;
use std::io;

impl RealVerbs {
    /// The next event that means something here. Each is acknowledged before this returns.
    pub(super) fn next_event(&mut self) -> io::Result<Option<Event>> {
        loop {
            let Some(channel) = &self.channel else { return Ok(None) };
            let Some(taken) = channel.take()? else { return Ok(None) };
            if let Some(event) = self.translate(taken) {
                return Ok(Some(event));
            }
        }
    }

    fn translate(&mut self, mut taken: TakenEvent) -> Option<Event> {
        let identifier = Identifier(taken.number());
        Some(match taken.kind() {
            kind::RDMA_CM_EVENT_ADDR_RESOLVED => Event::AddressResolved(identifier),
            kind::RDMA_CM_EVENT_ROUTE_RESOLVED => Event::RouteResolved(identifier),
            kind::RDMA_CM_EVENT_CONNECT_REQUEST => {
                let mut connection = taken.take_requested()?;
                let greeting = taken.private_data();
                let requested = self.connections.insert_with(|number| {
                    connection.set_number(number);
                    connection
                });
                Event::Requested { listener: identifier, identifier: Identifier(requested), greeting }
            }
            kind::RDMA_CM_EVENT_ESTABLISHED => {
                // At the end that connected; at the other this was done when it accepted, and does no harm.
                if let Some(connection) = self.connections.at(identifier.0) {
                    connection.set_receiver_not_ready_wait();
                }
                Event::Established { identifier, greeting: taken.private_data() }
            }
            kind::RDMA_CM_EVENT_REJECTED => {
                Event::Rejected { identifier, status: taken.status(), reason: taken.private_data() }
            }
            kind::RDMA_CM_EVENT_ADDR_ERROR
            | kind::RDMA_CM_EVENT_ROUTE_ERROR
            | kind::RDMA_CM_EVENT_CONNECT_ERROR
            | kind::RDMA_CM_EVENT_UNREACHABLE => Event::Failed { identifier, error: taken.error() },
            kind::RDMA_CM_EVENT_DISCONNECTED => Event::Disconnected(identifier),
            kind::RDMA_CM_EVENT_DEVICE_REMOVAL => Event::DeviceRemoved(identifier),
            // The end of a wait that only the kernel has to know of (TIMEWAIT_EXIT); an address that moved to other
            // hardware (ADDR_CHANGE), after which the connection breaks, or does not.
            other => {
                tracing::debug!(
                    identifier = identifier.0,
                    event = other,
                    "the RDMA connection manager reports"
                );
                return None;
            }
        })
    }
}
