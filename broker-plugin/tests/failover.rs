//! Real brokers that stop and come back, with real clients and a service behind both, over TCP.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use support::{PATIENCE, client_config};
use underlay::driver::Address;
use underlay::rpc::{
    BackgroundClient, BackgroundService, CallError, CallOptions, Class, Client, ClientConfig, EventListener,
    ReplyDestination, ServiceConfig,
};
use underlay_broker::config::{Engine, ListenerSettings, QueueSettings};
use underlay_broker::{Config, Server};

/// A broker on a thread of its own.
struct Broker {
    address: Address,
    dies: Arc<AtomicBool>,
    wakeup: Arc<underlay::Wakeup>,
    thread: JoinHandle<()>,
}

impl Broker {
    fn start(place: &str) -> Self {
        let listener = ListenerSettings { engine: Engine::Epoll, ..ListenerSettings::tcp(place) };
        let config =
            Config::builder().listener(listener).queue(QueueSettings::named("work")).build().unwrap();
        let (sender, started) = mpsc::channel();
        let dies = Arc::new(AtomicBool::new(false));
        let is_dead = dies.clone();
        let thread = std::thread::spawn(move || {
            let mut server = Server::start(&config).unwrap();
            let wakeup = server.driver().parts().0.wakeup().clone();
            sender.send((server.addresses()[0].clone(), wakeup)).unwrap();
            // It says no good-bye: its sockets end with it, as those of a process that is killed.
            server.driver().run_until(None, |_, _| is_dead.load(Ordering::Acquire)).unwrap();
        });
        let (address, wakeup) = started.recv().unwrap();
        Self { address, dies, wakeup, thread }
    }

    /// Ends it; says where it was.
    fn die(self) -> String {
        self.dies.store(true, Ordering::Release);
        self.wakeup.wake();
        self.thread.join().unwrap();
        self.address.place().to_owned()
    }
}

fn quick() -> ClientConfig {
    ClientConfig {
        failover_after: Duration::from_millis(200),
        return_after: Duration::from_millis(100),
        driver: client_config(),
        ..ClientConfig::default()
    }
}

/// Echoes, and counts how often it has seen each body.
fn service(addresses: &[Address], seen: &Arc<Mutex<BTreeMap<Vec<u8>, u32>>>) -> BackgroundService {
    let seen = seen.clone();
    let (sender, both) = mpsc::channel();
    let events = EventListener::new(move |event| {
        if let underlay::rpc::Event::Attached { address, .. } = event {
            let _ = sender.send((*address).clone());
        }
    });
    let config = ServiceConfig {
        driver: client_config(),
        return_after: Duration::from_millis(100),
        events: Some(events),
        ..ServiceConfig::default()
    };
    let service = BackgroundService::connect_any(addresses, "work", config, move |request| {
        *seen.lock().unwrap().entry(request.body().to_vec()).or_default() += 1;
        Ok(request.take_body())
    })
    .unwrap();
    for _ in addresses {
        both.recv_timeout(PATIENCE).expect("it is attached to every broker");
    }
    service
}

/// Calls of both kinds, while the first broker is killed and comes back three times. Each call ends once, none that is
/// idempotent is in doubt, none was handled that was reported as not sent, and the figures add up.
#[test]
fn the_ledger_adds_up_when_brokers_die_under_load() {
    let (mut first, second) = (Broker::start("127.0.0.1:0"), Broker::start("127.0.0.1:0"));
    let addresses = [first.address.clone(), second.address.clone()];
    let seen = Arc::default();
    let service = service(&addresses, &seen);
    let client = BackgroundClient::connect_any_as(&ReplyDestination::new(4096), &addresses, quick()).unwrap();
    let handle = client.handle();
    let (mut answered, mut in_doubt) = (0, 0);
    let mut number = 0_u32;
    for _ in 0..3 {
        let mut calls: Vec<_> = Vec::new();
        for step in 0..600 {
            number += 1;
            let options =
                CallOptions { idempotent: number.is_multiple_of(2), ..CallOptions::new(PATIENCE / 4) };
            calls.push((number, handle.call_with_options("work", &number.to_le_bytes(), options)));
            if step % 50 == 49 {
                std::thread::sleep(Duration::from_millis(1));
            }
            if step == 300 {
                let place = first.die();
                first = Broker::start(&place);
            }
        }
        for (number, mut call) in calls {
            match call.wait(Some(PATIENCE)).expect("each call ends") {
                Ok(reply) => {
                    assert_eq!(reply.to_bytes()[..], number.to_le_bytes());
                    answered += 1;
                }
                Err(CallError::OutcomeUnknown { .. }) => {
                    assert_eq!(number % 2, 1, "an idempotent call is sent again");
                    in_doubt += 1;
                }
                Err(error) => panic!("call {number}: {error}; {:?}", service.stop()),
            }
        }
    }
    assert_eq!(answered + in_doubt, number);
    let seen = seen.lock().unwrap().clone();
    let handled_twice = seen.values().filter(|&&times| times > 1).count();
    let never_handled =
        (1..=number).filter(|number| !seen.contains_key(&number.to_le_bytes()[..])).count() as u32;
    println!(
        "{number} calls: {answered} answered, {in_doubt} in doubt, of which {never_handled} were not handled"
    );
    assert_eq!(handled_twice, 0, "the service knows the copies");
    assert!(never_handled <= in_doubt, "what was not in doubt was handled");
    drop(client);
    let stats = service.stop().unwrap();
    assert_eq!(stats.duplicates, stats.duplicates_answered, "small replies are kept long enough: {stats:?}");
    first.die();
    second.die();
}

#[test]
fn a_gold_call_goes_by_both_brokers_and_is_handled_once() {
    let brokers = [Broker::start("127.0.0.1:0"), Broker::start("127.0.0.1:0")];
    let addresses = brokers.each_ref().map(|broker| broker.address.clone());
    let seen = Arc::default();
    let service = service(&addresses, &seen);
    let config = ClientConfig { standby: true, ..quick() };
    let mut client = Client::connect_any_as(&ReplyDestination::new(64), &addresses, config).unwrap();
    let gold = CallOptions::new(PATIENCE).class(Class::Gold);
    let mut number = 0_u32;
    let mut call = |client: &mut Client| {
        number += 1;
        let body = client.body(&number.to_le_bytes()).unwrap();
        let call = client.start_with_options("work", body, gold);
        assert_eq!(client.wait(call).unwrap().to_bytes()[..], number.to_le_bytes());
    };
    while client.call_stats().races < 100 {
        call(&mut client);
    }
    let [first, second] = brokers;
    first.die();
    (0..20).for_each(|_| call(&mut client));
    client.run_until(Some(Duration::from_millis(50)), || false).unwrap();
    let stats = client.call_stats();
    assert_eq!((stats.replies, stats.outcome_unknown), (number.into(), 0), "{stats:?}");
    assert!(stats.race_duplicates > 0 && stats.race_duplicates <= stats.races, "{stats:?}");
    assert!(seen.lock().unwrap().values().all(|&times| times == 1));
    drop(client);
    let stats = service.stop().unwrap();
    assert_eq!(stats.requests, number.into());
    assert!(stats.duplicates_answered == stats.duplicates && stats.duplicates > 0, "{stats:?}");
    second.die();
}

/// As on a restart for maintenance: calls wait for the only broker, and the service is back by itself.
#[test]
fn calls_survive_the_restart_of_the_only_broker() {
    let broker = Broker::start("127.0.0.1:0");
    let addresses = [broker.address.clone()];
    let seen = Arc::default();
    let service = service(&addresses, &seen);
    let mut client = Client::connect_any_as(&ReplyDestination::new(64), &addresses, quick()).unwrap();
    client.call("work", b"before", PATIENCE).unwrap();
    let broker = Broker::start(&broker.die());
    let body = client.body(b"after").unwrap();
    let call = client.start_with_options("work", body, CallOptions::new(PATIENCE).idempotent());
    assert_eq!(client.wait(call).unwrap().to_bytes()[..], b"after"[..]);
    drop(client);
    service.stop().unwrap();
    broker.die();
}
