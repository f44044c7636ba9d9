//! A service behind several brokers, which die, refuse it, ask to be left, and bring the same request twice.

use super::brokers::{listening, small_driver};
use super::rig::{Answer, LIMIT, Peer, fresh_address};
use crate::driver::{Address, Driver, Handler, Leaving};
use crate::message::Message;
use crate::pool::Body;
use crate::proto::control::DetachCode;
use crate::proto::record::MessageKind;
use crate::proto::{CorrelationId, MessageNumber, Origin, ReplyAddress, ReplySecret};
use crate::rpc::{EventListener, Request, Service, ServiceConfig, ServiceError, ServiceFailure};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

type Function = Box<dyn FnMut(&mut Request<'_>) -> Result<Body, ServiceError>>;

struct Scene {
    service: Service<Function>,
    peers: Vec<Option<Driver<Peer>>>,
    addresses: Vec<Address>,
    events: Arc<Mutex<Vec<String>>>,
}

fn quick() -> ServiceConfig {
    ServiceConfig {
        failover_after: Duration::from_millis(50),
        reconnect_min: Duration::from_millis(2),
        reconnect_max: Duration::from_millis(10),
        return_after: Duration::from_millis(20),
        driver: small_driver(),
        ..ServiceConfig::default()
    }
}

impl Scene {
    /// A service behind these brokers, `None` being dead ones. It answers with how many requests it has handled.
    fn new(peers: Vec<Option<Peer>>, mut config: ServiceConfig) -> Self {
        let addresses: Vec<_> = peers.iter().map(|_| fresh_address()).collect();
        let listen = |(peer, address): (Option<Peer>, &Address)| peer.map(|peer| listening(address, peer));
        let peers: Vec<_> = peers.into_iter().zip(&addresses).map(listen).collect();
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = events.clone();
        config.events = Some(EventListener::new(move |event| heard.lock().unwrap().push(event.to_string())));
        let mut handled = 0_u8;
        let count: Function = Box::new(move |request| {
            handled += 1;
            request.reply(&[handled; 100])
        });
        let service = Service::begin_connect_any(&addresses, "count", config, count).unwrap();
        let mut scene = Self { service, peers, addresses, events };
        scene.pump();
        scene
    }

    fn alive(count: usize, config: ServiceConfig) -> Self {
        Self::new((0..count).map(|_| Some(Peer::default())).collect(), config)
    }

    fn pump(&mut self) {
        let mut quiet = 0;
        while quiet < 3 {
            let mut found = self.service.turn().unwrap();
            for peer in self.peers.iter_mut().flatten() {
                found |= peer.turn().unwrap();
            }
            quiet = if found { 0 } else { quiet + 1 };
        }
    }

    fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let began = Instant::now();
        loop {
            self.pump();
            if is_so(self) {
                return;
            }
            assert!(began.elapsed() < LIMIT, "it does not come to that: {what}; {:#?}", self.events);
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    fn peer(&mut self, place: usize) -> &mut Peer {
        self.peers[place].as_mut().unwrap().parts().1
    }

    fn is_attached(&mut self, place: usize) -> bool {
        self.peers[place].as_mut().is_some_and(|peer| {
            let peer = peer.parts().1;
            !peer.links.is_empty() && peer.closed.is_none()
        })
    }

    fn kill(&mut self, place: usize) {
        self.peers[place] = None;
        self.pump();
    }

    fn revive(&mut self, place: usize, peer: Peer) {
        self.peers[place] = Some(listening(&self.addresses[place], peer));
        self.pump();
    }

    /// Sends a request by a broker, which has not left then; says which attempt it is.
    fn begin(&mut self, place: usize, number: u64, change: impl FnOnce(&mut Message)) -> u8 {
        let (core, peer) = self.peers[place].as_mut().unwrap().parts();
        let mut request = Message::new(MessageKind::Request, Body::new());
        request.head.link = Some(peer.links[0].1);
        (request.head.origin, request.head.message_number) = (Origin(5), MessageNumber(number));
        request.head.correlation_id = CorrelationId(number);
        request.head.reply_address = Some(ReplyAddress::of(&ReplySecret([3; 32])));
        change(&mut request);
        let attempt = request.head.attempt;
        core.send(peer.connection.unwrap(), request).unwrap();
        attempt
    }

    /// Sends a request by a broker; says what was answered.
    fn ask(&mut self, place: usize, number: u64, change: impl FnOnce(&mut Message)) -> Option<u8> {
        let attempt = self.begin(place, number, change);
        self.pump();
        let reply = self.peer(place).requests.pop()?;
        assert_eq!((reply.head.correlation_id, reply.head.attempt), (CorrelationId(number), attempt));
        assert_eq!(reply.body.len(), 100);
        Some(reply.body.to_vec()[0])
    }

    /// What the driver says when a broker asks to be left.
    fn ask_to_leave(&mut self, place: usize) {
        let (core, answers) = self.service.parts();
        let session = answers.brokers.as_ref().and_then(|brokers| brokers.session(place)).unwrap();
        answers.leaving(core, session, &Leaving { within: LIMIT, text: "maintenance".to_owned() });
    }

    fn heard(&self, place: usize, text: &str) -> bool {
        let start = format!("{}: {text}", self.addresses[place]);
        self.events.lock().unwrap().iter().any(|event| event.starts_with(&start))
    }
}

#[test]
fn it_is_attached_to_as_many_as_it_shall_be_and_returns_to_the_first_of_them() {
    let mut scene = Scene::alive(3, quick());
    scene.until("two have it", |scene| scene.is_attached(0) && scene.is_attached(1));
    assert!(scene.peer(2).connection.is_none());
    scene.kill(0);
    scene.until("the third takes over", |scene| scene.is_attached(2));
    assert!(scene.is_attached(1) && (scene.heard(0, "lost") || scene.heard(0, "interrupted")));
    scene.revive(0, Peer::default());
    scene.until("the first has it again", |scene| scene.is_attached(0));
    scene.until("the third is left", |scene| scene.peer(2).closed.is_some());
    assert!(scene.is_attached(1) && scene.heard(2, "left"));
    assert_eq!(scene.ask(0, 1, |_| {}), Some(1));
    assert_eq!(scene.ask(1, 2, |_| {}), Some(2));
}

#[test]
fn it_survives_the_restart_of_its_only_broker() {
    let mut scene = Scene::alive(1, quick());
    for number in 1..4 {
        assert_eq!(scene.ask(0, number.into(), |_| {}), Some(number));
        scene.kill(0);
        scene.revive(0, Peer::default());
        scene.until("it is back", |scene| scene.is_attached(0));
    }
}

#[test]
fn refused_by_every_broker_before_it_ever_served_it_ends_with_the_reasons() {
    let refusing = |text| {
        Some(Peer { consumers: Answer::Refuse(text), producers: Answer::Refuse(text), ..Peer::default() })
    };
    let mut scene = Scene::new(vec![refusing("not here"), refusing("nor here")], quick());
    let began = Instant::now();
    let ended = loop {
        scene.pump();
        match scene.service.run_until(Some(Duration::from_millis(1)), || false) {
            Err(ended) => break ended,
            Ok(_) => assert!(began.elapsed() < LIMIT),
        }
    };
    assert!(matches!(ended, ServiceFailure::Ended { .. }), "{ended}");
    let text = ended.to_string();
    assert!(text.contains("not here") && text.contains("nor here") && text.contains("'count'"), "{text}");
}

#[test]
fn refused_by_one_it_serves_the_other_and_refused_later_it_tries_again() {
    let refusing = || Peer { producers: Answer::Refuse("not here"), ..Peer::default() };
    let mut scene = Scene::new(vec![Some(refusing()), Some(Peer::default())], quick());
    scene.until("the other has it", |scene| scene.is_attached(1));
    scene.kill(1);
    scene.revive(1, refusing());
    scene
        .until("it is refused", |scene| scene.heard(1, "the link to 'count' was refused or ended: not here"));
    scene.kill(1);
    scene.revive(1, Peer::default());
    scene.until("it is attached again", |scene| scene.is_attached(1));
}

#[test]
fn a_link_that_the_broker_ends_is_asked_for_again() {
    let mut scene = Scene::alive(1, quick());
    assert_eq!(scene.ask(0, 1, |_| {}), Some(1));
    let (core, peer) = scene.peers[0].as_mut().unwrap().parts();
    let link = peer.links.pop().unwrap().1;
    core.detach_link(peer.connection.unwrap(), link, DetachCode::DestinationDeleted, "deleted");
    scene.until("it is attached again", |scene| !scene.peer(0).links.is_empty());
    assert_eq!(scene.ask(0, 2, |_| {}), Some(2));
}

#[test]
fn copies_are_handled_once_and_answered_where_they_came_from() {
    let mut scene = Scene::alive(2, quick());
    scene.until("both have it", |scene| scene.is_attached(0) && scene.is_attached(1));
    let copy = |request: &mut Message| request.head.copies = true;
    assert_eq!(scene.ask(0, 1, copy), Some(1));
    assert_eq!(scene.ask(1, 1, copy), Some(1), "the same answer, by the other broker");
    let again = |request: &mut Message| (request.head.copies, request.head.attempt) = (true, 1);
    assert_eq!(scene.ask(1, 1, again), Some(1), "recognised by the later attempt");
    assert_eq!(scene.ask(0, 1, |request| request.head.redelivered = true), Some(1));
    assert_eq!(scene.ask(0, 2, copy), Some(2));
    let other = |request: &mut Message| (request.head.copies, request.head.origin) = (true, Origin(6));
    assert_eq!(scene.ask(0, 2, other), Some(3), "another origin is another request");
    let stats = scene.service.stats();
    assert_eq!((stats.requests, stats.duplicates, stats.duplicates_answered), (3, 3, 3));
    // Without a mark there are no copies, whatever the numbers are.
    assert_eq!((scene.ask(0, 9, |_| {}), scene.ask(0, 9, |_| {})), (Some(4), Some(5)));
    assert_eq!(scene.service.stats().duplicates, 3);
}

#[test]
fn a_copy_whose_answer_is_not_kept_is_counted_and_dropped() {
    let copy = |request: &mut Message| request.head.copies = true;
    let mut scene = Scene::alive(1, ServiceConfig { duplicate_reply_bytes_max: 0, ..quick() });
    assert_eq!((scene.ask(0, 1, copy), scene.ask(0, 1, copy)), (Some(1), None));
    let stats = scene.service.stats();
    assert_eq!((stats.requests, stats.duplicates, stats.duplicates_answered), (1, 1, 0));
    let mut scene = Scene::alive(1, ServiceConfig { duplicate_window: 1, ..quick() });
    let answers = [1, 1, 2, 1].map(|number| scene.ask(0, number, copy));
    assert_eq!(answers, [Some(1), Some(1), Some(2), Some(3)], "the window has room for one");
}

/// What the broker has sent before it heard that the link is ended cannot be settled any more: it stays with the broker,
/// which gives it to another consumer. What was given before is answered.
#[test]
fn a_broker_that_asks_to_be_left_gets_its_answers_and_is_left() {
    let mut scene = Scene::alive(2, ServiceConfig { attach_to: 1, ..quick() });
    scene.until("one has it", |scene| scene.is_attached(0));
    assert_eq!(scene.ask(0, 5, |_| {}), Some(1));
    scene.ask_to_leave(0);
    // It serves on until the other one has it. The first one is not turned, and so does not hear of that.
    let began = Instant::now();
    while !scene.heard(0, "left") {
        assert!(began.elapsed() < LIMIT);
        scene.service.turn().unwrap();
        scene.peers[1].as_mut().unwrap().turn().unwrap();
    }
    assert_eq!(scene.ask(0, 6, |_| {}), None);
    assert!(scene.peer(0).closed.is_none(), "more may come");
    scene.until("it is closed", |scene| scene.peer(0).closed.is_some());
    let stats = scene.service.stats();
    assert_eq!((stats.requests, stats.replies_dropped), (1, 0));
    assert_eq!(scene.ask(1, 6, |_| {}), Some(2), "as the other broker may give it out again");
}

/// Otherwise the broker would give what was answered to another service as well.
#[test]
fn answers_that_still_wait_are_settled_before_the_link_ends() {
    let mut config = quick();
    config.driver.connection.send_queue_messages_max = 2;
    let mut scene = Scene::alive(2, config);
    scene.until("both have it", |scene| scene.is_attached(0) && scene.is_attached(1));
    for number in 1..=6 {
        scene.begin(0, number, |_| {});
    }
    let began = Instant::now();
    while scene.service.stats().requests < 6 {
        assert!(began.elapsed() < LIMIT);
        scene.peers[0].as_mut().unwrap().turn().unwrap();
        scene.service.turn().unwrap();
    }
    assert!(scene.service.stats().reply_waits > 0);
    scene.ask_to_leave(0);
    scene.until("it is closed", |scene| scene.peer(0).closed.is_some());
    let peer = scene.peer(0);
    assert_eq!((peer.requests.len(), peer.settled), (6, 6));
    assert_eq!(scene.service.stats().replies_dropped, 0);
}

/// Without a connection, closing would drop what its broker has not got.
#[test]
fn a_session_is_not_closed_before_its_broker_has_acknowledged_everything() {
    let mut scene = Scene::alive(2, quick());
    scene.until("both have it", |scene| scene.is_attached(0) && scene.is_attached(1));
    scene.begin(0, 1, |_| {});
    scene.peers[0].as_mut().unwrap().turn().unwrap();
    let mut first = scene.peers[0].take();
    scene.until("it is handled", |scene| scene.service.stats().requests == 1);
    scene.ask_to_leave(0);
    let began = Instant::now();
    scene.until("time passes", |_| began.elapsed() > Duration::from_millis(150));
    let (core, answers) = scene.service.parts();
    let brokers = answers.brokers.as_ref().unwrap();
    let session = brokers.session(0).unwrap();
    assert!(core.unacknowledged(session) > 0 && brokers.is_leaving(session), "it was closed");
    scene.peers[0] = first.take();
    scene.until("it is closed", |scene| scene.peer(0).closed.is_some());
    assert_eq!(scene.peer(0).settled, 1);
}

#[test]
fn dead_addresses_are_each_named() {
    let dead = [fresh_address(), fresh_address()];
    let config = ServiceConfig { connect_timeout: Duration::from_millis(50), ..quick() };
    let refused =
        Service::connect_any(&dead, "count", config, |request| Ok(request.take_body())).unwrap_err();
    assert!(
        matches!(&refused, ServiceFailure::NotConnected { failures, .. } if failures.len() == 2),
        "{refused}"
    );
    assert!(dead.iter().all(|address| refused.to_string().contains(&address.to_string())), "{refused}");
}
