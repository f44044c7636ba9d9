//! Links: who may attach to what, and what is left behind when a link ends.

use super::Broker;
use super::ledger::Amount;
use super::queue::{Consumer, Producer};
use super::settlement::Ending;
use super::tables::LinkUse;
use super::unsettled::Unsettled;
use underlay::connection::{AttachRequest, LinkRoom, Target};
use underlay::driver::{ConnectionId, Core};
use underlay::proto::LinkId;
use underlay::proto::control::{DetachCode, LinkRole};
use underlay::sabotage::{self, Bug};

/// Why a link is refused, as a code and in words.
pub(super) struct Refusal(pub(super) DetachCode, pub(super) String);

impl Broker {
    pub(super) fn attach(&mut self, core: &mut Core, connection: ConnectionId, request: AttachRequest) {
        let AttachRequest { link, role, target } = request;
        let outcome = match (&target, role) {
            _ if self.is_stopping() => {
                Err(Refusal(DetachCode::ShuttingDown, "the broker is shutting down".to_owned()))
            }
            (Target::Named(name), LinkRole::Producer) => self.attach_producer(core, connection, link, name),
            (Target::Named(name), LinkRole::Consumer) => {
                self.attach_consumer(core, connection, link, name, None)
            }
            (Target::Named(name), LinkRole::SettlingConsumer) => {
                self.attach_consumer(core, connection, link, name, Some(Unsettled::default()))
            }
            (Target::Reply(address), LinkRole::Consumer) => {
                self.attach_reply(core, connection, link, *address)
            }
            (Target::Reply(_), LinkRole::SettlingConsumer) => {
                let text = "replies are not settled; attach to a reply address as a plain consumer";
                Err(Refusal(DetachCode::NotAllowed, text.to_owned()))
            }
            (Target::Reply(_), LinkRole::Producer) => {
                let text = "replies are sent without a link; a reply address is only consumed from";
                Err(Refusal(DetachCode::NotAllowed, text.to_owned()))
            }
        };
        match outcome {
            Ok(()) => self.stats.links_attached += 1,
            Err(Refusal(code, text)) => {
                super::count(&mut self.stats.links_refused, |refused| {
                    tracing::info!(%connection, peer = core.peer(connection), %link, ?code, refused, "a link was refused: {text}");
                });
                // If the connection has ended meanwhile, nobody wants to know.
                let _ = core.refuse_link(connection, link, code, &text);
            }
        }
    }

    fn attach_producer(
        &mut self,
        core: &mut Core,
        connection: ConnectionId,
        link: LinkId,
        name: &str,
    ) -> Result<(), Refusal> {
        let route = self.catalog.find(name).ok_or_else(|| self.no_such(name))?;
        for &index in self.catalog.route(route) {
            let queue = &self.queues[index];
            if !queue.ledger.is_open_to_producers() {
                let (name, count) = (&queue.name, queue.ledger.producers());
                let text = format!("queue '{name}' has {count} producers, its limit (producers_max)");
                return Err(Refusal(DetachCode::ResourceLimit, text));
            }
        }
        for &index in self.catalog.route(route) {
            self.queues[index].ledger.join();
        }
        let (held, refill_at) = (Amount::default(), Amount::default());
        let (is_short, is_starved) = (false, false);
        let producer = Producer { connection, link, route, held, refill_at, is_short, is_starved };
        let place = self.producers.insert(producer);
        let credit = self.first_credit(place);
        if core.accept_link(connection, link, credit.into()).is_err() {
            // The connection has ended meanwhile.
            self.forget_producer(core, place);
            return Ok(());
        }
        self.peers.set_link(connection, link, LinkUse::Producer(place));
        self.granted(place, credit);
        Ok(())
    }

    fn attach_consumer(
        &mut self,
        core: &mut Core,
        connection: ConnectionId,
        link: LinkId,
        name: &str,
        unsettled: Option<Unsettled>,
    ) -> Result<(), Refusal> {
        let route = self.catalog.find(name).ok_or_else(|| self.no_such(name))?;
        let Some(index) = self.catalog.queue_of(route) else {
            let text = format!("'{name}' is a routing key of an exchange; consume from a queue bound to it");
            return Err(Refusal(DetachCode::NotAllowed, text));
        };
        let queue = &mut self.queues[index];
        if queue.consumers >= queue.consumers_max {
            let text = format!("queue '{name}' has {} consumers, its limit (consumers_max)", queue.consumers);
            return Err(Refusal(DetachCode::ResourceLimit, text));
        }
        if core.accept_link(connection, link, LinkRoom { messages: 0, bytes: 0 }).is_err() {
            return Ok(());
        }
        queue.consumers += 1;
        let consumer = Consumer { connection, link, queue: index, is_ready: false, unsettled };
        let place = self.consumers.insert(consumer);
        self.peers.set_link(connection, link, LinkUse::Consumer(place));
        if let Some(peer) = self.peers.find(connection) {
            peer.consumers += 1;
        }
        self.consumer_ready(core, place);
        Ok(())
    }

    fn no_such(&self, name: &str) -> Refusal {
        let text = format!("there is no destination '{name}'{}", self.catalog.suggestion(name));
        Refusal(DetachCode::NoSuchDestination, text)
    }

    /// Undoes what a link was for. What it has brought stays queued, and what it had not settled is queued again: call
    /// [`Broker::pump_returned`] behind it.
    pub(super) fn forget_link(&mut self, core: &mut Core, what: LinkUse, ending: Ending) {
        match what {
            LinkUse::Unused => {}
            LinkUse::Producer(place) => self.forget_producer(core, place),
            LinkUse::Consumer(place) => self.forget_consumer(core, place, ending),
            LinkUse::Reply(place) => self.forget_reply(core, place),
        }
    }

    fn forget_producer(&mut self, core: &mut Core, place: usize) {
        let Some(producer) = self.producers.remove(place) else { return };
        for step in 0..self.catalog.route(producer.route).len() {
            let index = self.catalog.route(producer.route)[step];
            let queue = &mut self.queues[index];
            let is_wrong = sabotage::strikes(Bug::LeakCredit);
            queue.ledger.leave(if is_wrong { Amount::default() } else { producer.held });
            queue.short.retain(|short| *short != place);
            self.grant_short(core, index);
        }
    }

    pub(super) fn forget_consumer(&mut self, core: &mut Core, place: usize, ending: Ending) {
        let Some(consumer) = self.consumers.remove(place) else { return };
        if let Some(peer) = self.peers.find(consumer.connection) {
            peer.consumers -= 1;
        }
        let queue = &mut self.queues[consumer.queue];
        queue.consumers -= 1;
        queue.ready.retain(|ready| *ready != place);
        if let Some(unsettled) = consumer.unsettled {
            self.take_back(core, consumer.connection, consumer.queue, unsettled, ending);
        }
    }
}
