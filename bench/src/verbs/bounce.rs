//! The ends over the driver: what an application without a broker would be, with nothing above the session.
//!
//! One handler is both ends. The end that connects asks for a link in each direction; the other one answers every
//! message: a short one with its own body, a long one with an empty body, which says that it is there. So the same two
//! ends bounce one message for its latency and count many for their throughput.

use std::time::{Duration, Instant};

use underlay::connection::{AttachRequest, CloseReason, LinkRoom};
use underlay::driver::{Address, ConnectionId, Core, DetachedByPeer, Driver, Handler};
use underlay::message::Message;
use underlay::pool::Body;
use underlay::proto::LinkId;
use underlay::proto::control::{Address as LinkAddress, LinkRole};
use underlay::proto::handshake::Negotiated;
use underlay::proto::record::MessageKind;
use underlay::proto::text::Name;
use underlay::rpc::ReplyDestination;

use super::end::{ANSWERED_WHOLE_BYTES_MAX, EndSetting};
use crate::error::BenchError;
use crate::payload::{Payload, PayloadMismatch, WINDOWS};
use crate::plan::REPLY_TIMEOUT;
use crate::underlay::{bodies, driver_config, failed};

/// Room that is never used up: what bounds a run is how many messages are on their way.
const PLENTY: LinkRoom = LinkRoom { messages: 1 << 40, bytes: 1 << 50 };
const NONE: LinkRoom = LinkRoom { messages: 0, bytes: 0 };

/// A driver's end of a test.
pub(super) struct Bouncer {
    is_client: bool,
    connection: Option<ConnectionId>,
    /// On which this end sends.
    link: Option<LinkId>,
    /// Answers that could not leave yet.
    waiting: Vec<Message>,
    answers: u64,
    last_answer: Option<Message>,
    fault: Option<String>,
}

impl Bouncer {
    fn driver(setting: &EndSetting, is_client: bool) -> Result<Driver<Self>, BenchError> {
        let mut config = driver_config(underlay::backend::tcp::EngineChoice::Auto, setting.wait);
        config.rdma.source = setting.source;
        // Pages that a round touches for the first time would be part of it.
        config.pool.huge_pages = true;
        let identity = ReplyDestination::of_process().identity(if is_client { "client" } else { "service" });
        let bouncer = Self {
            is_client,
            connection: None,
            link: None,
            waiting: Vec::new(),
            answers: 0,
            last_answer: None,
            fault: None,
        };
        Driver::new(config, identity, bouncer).map_err(|error| failed("driver")(error.into()))
    }

    fn fails(&mut self, fault: impl ToString) {
        self.fault.get_or_insert(fault.to_string());
    }

    fn send(&mut self, core: &mut Core, connection: ConnectionId, message: Message) {
        let Some(link) = self.link else { return self.waiting.push(message) };
        let mut message = message;
        message.head.link = Some(link);
        if let Err((_, message)) = core.send(connection, message) {
            self.waiting.push(message);
        }
    }

    fn send_waiting(&mut self, core: &mut Core, connection: ConnectionId) {
        for message in std::mem::take(&mut self.waiting) {
            self.send(core, connection, message);
        }
    }
}

impl Handler for Bouncer {
    fn opened(&mut self, core: &mut Core, connection: ConnectionId, _: &Negotiated) {
        self.connection = Some(connection);
        if !self.is_client {
            return;
        }
        for (role, name, room) in [(LinkRole::Consumer, "back", PLENTY), (LinkRole::Producer, "forth", NONE)]
        {
            let asked = Name::new(name).map_err(|violation| violation.to_string()).and_then(|name| {
                let address = LinkAddress::Named(name);
                core.attach(connection, role, address, room).map_err(|error| error.to_string())
            });
            match asked {
                Ok(link) if role == LinkRole::Producer => self.link = Some(link),
                Ok(_) => {}
                Err(fault) => self.fails(fault),
            }
        }
    }

    fn attach_requested(&mut self, core: &mut Core, connection: ConnectionId, request: AttachRequest) {
        let produces = request.role == LinkRole::Producer;
        if !produces {
            self.link = Some(request.link);
        }
        if let Err(error) = core.accept_link(connection, request.link, if produces { PLENTY } else { NONE }) {
            self.fails(error);
        }
    }

    fn attached(&mut self, _: &mut Core, _: ConnectionId, _: LinkId) {}

    fn detached(&mut self, _: &mut Core, _: ConnectionId, detached: DetachedByPeer) {
        self.fails(format!("a link was ended: {}", detached.text));
    }

    #[inline]
    fn message(&mut self, core: &mut Core, connection: ConnectionId, message: Message) {
        if self.is_client {
            self.answers += 1;
            self.last_answer = Some(message);
            return;
        }
        let is_short = message.body.len() <= ANSWERED_WHOLE_BYTES_MAX;
        let body = if is_short { message.body } else { Body::new() };
        self.send(core, connection, Message::new(MessageKind::Message, body));
    }

    fn writable(&mut self, core: &mut Core, connection: ConnectionId, _: LinkId) {
        self.send_waiting(core, connection);
    }

    fn closed(&mut self, core: &mut Core, _: ConnectionId, reason: &CloseReason) {
        self.fails(reason);
        core.stop();
    }
}

/// Listens, says where, and answers until its one connection has ended.
pub(super) fn serve(
    setting: &EndSetting,
    address: &Address,
    mut ready: impl FnMut(&str) -> Result<(), BenchError>,
) -> Result<(), BenchError> {
    let mut driver = Bouncer::driver(setting, false)?;
    let listening = driver.parts().0.listen(address).map_err(|error| failed("driver")(error.into()))?.1;
    ready(listening.place())?;
    driver.run().map_err(BenchError::io("turn the service's driver"))
}

/// The end that asks.
pub(super) struct BounceClient {
    driver: Driver<Bouncer>,
    payload: Payload,
    bodies: Vec<Body>,
}

impl BounceClient {
    /// Connects to where [`serve`] listens.
    pub(super) fn connect(setting: &EndSetting, address: &Address, size: usize) -> Result<Self, BenchError> {
        let mut driver = Bouncer::driver(setting, true)?;
        let payload = Payload::new(size);
        let bodies = bodies(&payload, driver.parts().0.pool())?;
        driver.parts().0.connect(address).map_err(|error| failed("driver")(error.into()))?;
        let mut client = Self { driver, payload, bodies };
        client.run_until(0, |core, bouncer| {
            let (Some(connection), Some(link)) = (bouncer.connection, bouncer.link) else { return false };
            core.is_writable(connection, link)
        })?;
        Ok(client)
    }

    /// Bounces `count` messages, one at a time, and says how long each took there and back. With `is_checked` every
    /// byte of an answer is compared, else its length.
    pub(super) fn bounce(&mut self, count: u64, is_checked: bool) -> Result<Vec<Duration>, BenchError> {
        let mut times = Vec::with_capacity(count as usize);
        for number in 0..count {
            let answered = self.driver.parts().1.answers;
            let begun = Instant::now();
            self.send(number)?;
            self.run_until(number, |_, bouncer| bouncer.answers > answered)?;
            times.push(begun.elapsed());
            let answer = self.driver.parts().1.last_answer.take();
            let body = answer.map(|message| message.body).unwrap_or_default();
            check(&self.payload, number, &body, is_checked)?;
        }
        Ok(times)
    }

    /// Sends `count` messages with at most `in_flight` unanswered, and says how long all of them took.
    pub(super) fn stream(&mut self, count: u64, in_flight: u64) -> Result<Duration, BenchError> {
        let before = self.driver.parts().1.answers;
        let begun = Instant::now();
        for number in 0..count {
            let wanted = before + (number + 1).saturating_sub(in_flight);
            self.run_until(number, |_, bouncer| bouncer.answers >= wanted)?;
            self.send(number)?;
        }
        self.run_until(count, |_, bouncer| bouncer.answers >= before + count)?;
        Ok(begun.elapsed())
    }

    fn send(&mut self, number: u64) -> Result<(), BenchError> {
        let (core, bouncer) = self.driver.parts();
        let connection = bouncer.connection.ok_or_else(|| failed("driver")("not connected".into()))?;
        let body = self.bodies[(number % WINDOWS) as usize].share(core.pool());
        let body = body.map_err(|error| failed("driver")(error.into()))?;
        bouncer.send(core, connection, Message::new(MessageKind::Message, body));
        Ok(())
    }

    fn run_until(
        &mut self,
        number: u64,
        mut is_done: impl FnMut(&mut Core, &mut Bouncer) -> bool,
    ) -> Result<(), BenchError> {
        let turned = self
            .driver
            .run_until(Some(REPLY_TIMEOUT), |core, bouncer| bouncer.fault.is_some() || is_done(core, bouncer))
            .map_err(BenchError::io("turn the client's driver"))?;
        match self.driver.parts().1.fault.take() {
            Some(fault) => Err(failed("driver")(fault.into())),
            None if turned => Ok(()),
            None => Err(BenchError::NoReply { number, waited: REPLY_TIMEOUT }),
        }
    }
}

fn check(payload: &Payload, number: u64, body: &Body, is_checked: bool) -> Result<(), PayloadMismatch> {
    if is_checked {
        return payload.check_parts(number, body.segments().map(|segment| &**segment));
    }
    let (expected, got) = (payload.size(), body.len());
    if got == expected { Ok(()) } else { Err(PayloadMismatch::Length { number, expected, got }) }
}
