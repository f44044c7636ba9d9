//! A real service behind the broker, which settles what it has answered; and what a session without a connection is
//! given. On one thread, over `inproc`.

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;
use support::{ClientDriver, PATIENCE, PLENTY, client_config, identity, room};
use underlay::backend::WireKind;
use underlay::backend::inproc::InprocNetwork;
use underlay::connection::{AttachRequest, CloseReason};
use underlay::driver::{Address, ConnectionId, Core, DetachedByPeer, Driver, Handler, Resumed, Settled};
use underlay::message::Message;
use underlay::pool::Body;
use underlay::proto::control::LinkRole;
use underlay::proto::handshake::Negotiated;
use underlay::proto::record::MessageKind;
use underlay::proto::{CorrelationId, LinkId, ReplyAddress, ReplySecret};
use underlay::rpc::{Request, Service, ServiceConfig, ServiceError};
use underlay_broker::config::{ListenerSettings, QueueSettings};
use underlay_broker::{Broker, Config, QueueStats, Server};

const SECRET: ReplySecret = ReplySecret([7; 32]);

/// A broker in this process, and somebody who asks.
struct Scene {
    server: Server,
    asker: ClientDriver,
    address: Address,
    link: LinkId,
}

type Echo = Box<dyn FnMut(&mut Request<'_>) -> Result<Body, ServiceError>>;

impl Scene {
    fn new(name: &str) -> Self {
        let builder = Config::builder().listener(ListenerSettings::inproc(name));
        let config = builder.queue(QueueSettings::named("work")).build().unwrap();
        let mut server = Server::start(&config).unwrap();
        let address = Address::inproc(name);
        let mut asker = ClientDriver::connect(client_config(), 1, InprocNetwork::global(), &address);
        turn_until(|| {
            server.driver().turn().unwrap();
            asker.driver.turn().unwrap();
            asker.state().connection.is_some()
        });
        let link = asker.ask(LinkRole::Producer, "work", room(0));
        asker.ask_reply(&SECRET, PLENTY);
        turn_until(|| {
            server.driver().turn().unwrap();
            asker.driver.turn().unwrap();
            asker.state().attached.len() == 2
        });
        Self { server, asker, address, link }
    }

    /// A service that sends back what it is sent, and counts what is marked as redelivered.
    fn service(&mut self, config: ServiceConfig, redelivered: &Rc<Cell<u64>>) -> Service<Echo> {
        let count = redelivered.clone();
        let echo: Echo = Box::new(move |request| {
            count.set(count.get() + u64::from(request.is_redelivered()));
            Ok(request.take_body())
        });
        let mut service = Service::begin_connect(&self.address, "work", config, echo).unwrap();
        let before = self.queue().consumers;
        turn_until(|| {
            service.turn().unwrap();
            self.server.driver().turn().unwrap();
            self.queue().consumers == before + 1
        });
        service.turn().unwrap();
        service
    }

    fn ask(&mut self, number: u64) {
        let mut request = self.asker.message(self.link, MessageKind::Request, &[7; 2000]);
        request.head.reply_address = Some(ReplyAddress::of(&SECRET));
        request.head.correlation_id = CorrelationId(number);
        assert!(self.asker.send_message(request));
    }

    fn turn(&mut self) {
        self.server.driver().turn().unwrap();
        self.asker.driver.turn().unwrap();
    }

    fn answered(&mut self) -> Vec<u64> {
        self.asker.state().received.iter().map(|reply| reply.head.correlation_id.0).collect()
    }

    fn queue(&mut self) -> QueueStats {
        self.server.driver().parts().1.stats().queues[0].clone()
    }
}

fn turn_until(mut is_done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_done() {
        assert!(Instant::now() < end, "it does not come to that");
    }
}

fn config() -> ServiceConfig {
    ServiceConfig { driver: client_config(), ..ServiceConfig::default() }
}

/// One send for each reply, as before: what settles the request is in it.
#[test]
fn a_service_settles_in_the_frame_of_its_reply() {
    let mut scene = Scene::new("settles-in-the-frame");
    let redelivered = Rc::new(Cell::new(0));
    let mut service = scene.service(config(), &redelivered);
    let sends = service.driver_stats().sends;
    for number in 0..20 {
        scene.ask(number);
        turn_until(|| {
            scene.turn();
            service.turn().unwrap();
            scene.answered().len() as u64 == number + 1
        });
        let queue = scene.queue();
        assert_eq!((queue.settled, queue.unsettled, queue.bytes), (number + 1, 0, 0));
    }
    assert_eq!(service.driver_stats().sends, sends + 20);
    assert_eq!(redelivered.get(), 0);
    assert_eq!(scene.server.driver().stats().pool.body_copies, 0, "what is kept is shared");
}

/// A message that asks for nothing is settled, too.
#[test]
fn what_needs_no_reply_is_settled_when_it_was_handled() {
    let mut scene = Scene::new("needs-no-reply");
    let mut service = scene.service(config(), &Rc::new(Cell::new(0)));
    let link = scene.link;
    (0..5).for_each(|_| assert!(scene.asker.send(link, MessageKind::Message, b"told")));
    turn_until(|| {
        scene.turn();
        service.turn().unwrap();
        scene.queue().settled == 5
    });
    assert_eq!(scene.queue().unsettled, 0);
}

/// A request whose reply waits is not settled; when the service goes, another answers it, and each is answered once.
#[test]
fn a_request_whose_reply_waits_goes_to_another_service() {
    let mut scene = Scene::new("reply-waits");
    let mut tight = config();
    tight.driver.connection.send_queue_messages_max = 3;
    let redelivered = Rc::new(Cell::new(0));
    let mut service = scene.service(tight, &redelivered);
    (0..20).for_each(|number| scene.ask(number));
    scene.turn();
    // All of them are handled, and three replies are handed over.
    while service.stats().requests < 20 {
        service.turn().unwrap();
        scene.server.driver().turn().unwrap();
    }
    scene.turn();
    scene.turn();
    let (queue, answered) = (scene.queue(), scene.answered().len() as u64);
    assert_eq!((queue.settled, queue.unsettled), (answered, 20 - answered));
    assert!((1..20).contains(&answered), "{answered} were answered, so this shows nothing");
    drop(service);
    turn_until(|| {
        scene.turn();
        scene.queue().consumers == 0
    });
    let mut other = scene.service(config(), &redelivered);
    turn_until(|| {
        scene.turn();
        other.turn().unwrap();
        scene.answered().len() == 20
    });
    let mut answered_by = scene.answered();
    answered_by.sort_unstable();
    assert_eq!(answered_by, (0..20).collect::<Vec<_>>());
    assert_eq!((scene.queue().settled, scene.queue().unsettled), (20, 0));
    assert_eq!(redelivered.get(), other.stats().requests, "all that the other got is marked");
}

/// A broker that tells of the connections that it has, so that a test can say what becomes of their sessions.
struct Watched {
    broker: Broker,
    opened: Vec<ConnectionId>,
}

impl Handler for Watched {
    fn opened(&mut self, core: &mut Core, connection: ConnectionId, peer: &Negotiated) {
        self.opened.push(connection);
        self.broker.opened(core, connection, peer);
    }
    fn attach_requested(&mut self, core: &mut Core, connection: ConnectionId, request: AttachRequest) {
        self.broker.attach_requested(core, connection, request);
    }
    fn attached(&mut self, core: &mut Core, connection: ConnectionId, link: LinkId) {
        self.broker.attached(core, connection, link);
    }
    fn detached(&mut self, core: &mut Core, connection: ConnectionId, detached: DetachedByPeer) {
        self.broker.detached(core, connection, detached);
    }
    fn message(&mut self, core: &mut Core, connection: ConnectionId, message: Message) {
        self.broker.message(core, connection, message);
    }
    fn writable(&mut self, core: &mut Core, connection: ConnectionId, link: LinkId) {
        self.broker.writable(core, connection, link);
    }
    fn closed(&mut self, core: &mut Core, connection: ConnectionId, reason: &CloseReason) {
        self.broker.closed(core, connection, reason);
    }
    fn settled(&mut self, core: &mut Core, connection: ConnectionId, settled: Settled) {
        self.broker.settled(core, connection, settled);
    }
    fn take_submissions(&mut self, core: &mut Core) -> bool {
        self.broker.take_submissions(core)
    }
    fn timer(&mut self, core: &mut Core, key: usize) {
        self.broker.timer(core, key);
    }
}

/// A session that has lost its connection keeps what it was given, and gets no more before it has another.
#[test]
fn others_are_preferred_while_a_session_is_interrupted() {
    let network = InprocNetwork::new();
    let config = Config::builder().queue(QueueSettings::named("q")).listener(ListenerSettings::inproc("b"));
    let broker = Broker::new(&config.build().unwrap());
    let watched = Watched { broker, opened: Vec::new() };
    let mut driver = Driver::on_network(client_config(), identity(0), network.clone(), watched).unwrap();
    let address = Address::inproc("b");
    driver.parts().0.listen(&address).unwrap();
    let mut clients: Vec<_> = Vec::new();
    let settle = |driver: &mut Driver<Watched>, clients: &mut Vec<ClientDriver>| {
        for _ in 0..20 {
            driver.turn().unwrap();
            for client in &mut *clients {
                client.driver.turn().unwrap();
            }
        }
    };
    for number in 1..=3 {
        clients.push(ClientDriver::connect(client_config(), number, network.clone(), &address));
        settle(&mut driver, &mut clients);
    }
    let link = clients[0].ask(LinkRole::Producer, "q", room(0));
    settle(&mut driver, &mut clients);
    clients[1].ask(LinkRole::SettlingConsumer, "q", PLENTY);
    settle(&mut driver, &mut clients);
    clients[2].ask(LinkRole::SettlingConsumer, "q", room(3));
    settle(&mut driver, &mut clients);
    let send = |driver: &mut Driver<Watched>, clients: &mut Vec<ClientDriver>, count: usize| {
        assert_eq!(clients[0].send_all(link, b"x", count), count);
        settle(driver, clients);
        [1, 2].map(|client| clients[client].state().received.len())
    };
    assert_eq!(send(&mut driver, &mut clients, 2), [1, 1], "they take turns");
    let (core, watched) = driver.parts();
    let first = watched.opened[1];
    let reason = CloseReason::Channel("cut by the test".to_owned());
    watched.broker.interrupted(core, first, &reason);
    // The other takes what it has credit for, and the rest waits.
    assert_eq!(send(&mut driver, &mut clients, 4), [1, 3]);
    let (core, watched) = driver.parts();
    let queue = watched.broker.stats().queues[0].clone();
    assert_eq!((queue.unsettled, queue.depth), (4, 2), "what it was given is its own");
    let resumed =
        Resumed { wire: WireKind::Inproc, peer: String::new(), interrupted_for: Default::default() };
    watched.broker.resumed(core, first, &resumed);
    assert_eq!(send(&mut driver, &mut clients, 1), [4, 3]);
}

/// A service says goodbye even while it panics, and that is no orderly end: a request that makes its services panic
/// does not do so for ever.
#[test]
fn a_request_that_makes_services_panic_is_dropped_in_the_end() {
    let mut scene = Scene::new("settlement-panics");
    scene.ask(1);
    turn_until(|| {
        scene.turn();
        scene.queue().depth == 1
    });
    // Each of redeliveries_max, 5, and the first.
    for round in 1..=6 {
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let poisoned: Echo = Box::new(|_| panic!("for a test"));
            let mut service = Service::begin_connect(&scene.address, "work", config(), poisoned).unwrap();
            turn_until(|| {
                service.turn().unwrap();
                scene.server.driver().turn().unwrap();
                false
            });
        }));
        assert!(panicked.is_err());
        turn_until(|| {
            scene.turn();
            scene.queue().consumers == 0
        });
        assert_eq!(scene.queue().depth, u64::from(round < 6), "round {round}");
    }
    assert_eq!(scene.server.driver().parts().1.stats().redeliveries_exhausted, 1);
}
