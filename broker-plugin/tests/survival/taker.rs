//! A consumer that takes and settles messages on a bare session, which may change wires: the process that answers nobody.

use crate::body;
use crate::part::{Log, Part, QUEUE, goes_on_as_told};
use crate::support::{identity, room};
use underlay::connection::{AttachRequest, CloseReason, Deliveries};
use underlay::driver::{ConnectionId, Core, DetachedByPeer, Driver, Handler, Resumed};
use underlay::message::Message;
use underlay::proto::LinkId;
use underlay::proto::control::{Address as LinkAddress, LinkRole, Outcome};
use underlay::proto::handshake::Negotiated;
use underlay::proto::text::Name;

/// What it grants at a time.
const ROOM: u64 = 256;

/// Takes whatever comes, for ever, and says so of each message before it settles it.
pub(crate) fn take(part: &Part) {
    let log = Log::open(part);
    goes_on_as_told();
    let identity = identity(200 + part.number as u8);
    let mut driver = Driver::new(part.driver_config(), identity, Taker { log }).unwrap();
    driver.parts().0.connect_by(&part.addresses()).unwrap();
    driver.run_until(None, |_, _| false).unwrap();
}

struct Taker {
    log: Log,
}

impl Handler for Taker {
    fn opened(&mut self, core: &mut Core, connection: ConnectionId, _: &Negotiated) {
        let queue = LinkAddress::Named(Name::new(QUEUE).unwrap());
        core.attach(connection, LinkRole::SettlingConsumer, queue, room(ROOM)).unwrap();
    }

    fn attach_requested(&mut self, _: &mut Core, _: ConnectionId, request: AttachRequest) {
        panic!("a broker asks for no links, but for {request:?}");
    }

    fn attached(&mut self, _: &mut Core, _: ConnectionId, _: LinkId) {
        self.log.line("ready");
    }

    fn detached(&mut self, _: &mut Core, _: ConnectionId, detached: DetachedByPeer) {
        panic!("the link of the consumer has ended: {detached:?}");
    }

    fn message(&mut self, core: &mut Core, connection: ConnectionId, message: Message) {
        let (producer, number) = body::request_of(&message.body.to_vec());
        let mark = u8::from(message.head.redelivered);
        self.log.line(format_args!("handled {producer} {number} {mark} 0"));
        let link = message.head.link.unwrap();
        core.settle(connection, &Deliveries::of(&message).unwrap(), Outcome::Accepted).unwrap();
        core.set_link_room(connection, link, room(ROOM)).unwrap();
    }

    fn writable(&mut self, _: &mut Core, _: ConnectionId, _: LinkId) {}

    fn interrupted(&mut self, _: &mut Core, _: ConnectionId, reason: &CloseReason) {
        self.log.line(format_args!("event interrupted: {reason}"));
    }

    fn resumed(&mut self, _: &mut Core, _: ConnectionId, resumed: &Resumed) {
        self.log.line(format_args!("event resumed over {}", resumed.wire));
    }

    fn closed(&mut self, _: &mut Core, _: ConnectionId, reason: &CloseReason) {
        panic!("the session of the consumer has ended: {reason}");
    }
}
