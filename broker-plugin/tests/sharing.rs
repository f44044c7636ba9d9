//! Several clients of one process at one broker: real clients, over TCP.

mod support;

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use support::client_config;
use underlay::driver::Address;
use underlay::rpc::{
    BackgroundClient, BackgroundService, Client, ClientConfig, ReplyDestination, ServiceConfig,
};
use underlay_broker::config::{Engine, ListenerSettings, QueueSettings};
use underlay_broker::{Config, Control, Server};

const TIMEOUT: Duration = Duration::from_secs(30);

/// A broker on a thread of its own, and a service behind it that echoes.
struct Scene {
    address: Address,
    control: Control,
    thread: JoinHandle<()>,
    service: BackgroundService,
    process: ReplyDestination,
}

impl Scene {
    fn start() -> Self {
        let (sender, started) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let listener = ListenerSettings { engine: Engine::Epoll, ..ListenerSettings::tcp("127.0.0.1:0") };
            let config = Config::builder().listener(listener).queue(QueueSettings::named("work"));
            let mut server = Server::start(&config.build().unwrap()).unwrap();
            sender.send((server.addresses()[0].clone(), server.control())).unwrap();
            server.run().unwrap();
        });
        let (address, control) = started.recv().unwrap();
        let config = ServiceConfig { driver: client_config(), ..ServiceConfig::default() };
        let echo = BackgroundService::connect(&address, "work", config, |request| Ok(request.take_body()));
        let service = echo.unwrap();
        Self { address, control, thread, service, process: ReplyDestination::new(64) }
    }

    fn config(&self) -> ClientConfig {
        ClientConfig { driver: client_config(), ..ClientConfig::default() }
    }

    fn client(&self) -> Client {
        Client::connect_as(&self.process, &self.address, self.config()).unwrap()
    }

    fn background(&self) -> BackgroundClient {
        BackgroundClient::connect_as(&self.process, &self.address, self.config()).unwrap()
    }

    fn stop(self) {
        self.service.stop().unwrap();
        self.control.shut_down();
        self.thread.join().unwrap();
    }
}

fn call(client: &mut Client, text: &str) {
    let reply = client.call("work", text.as_bytes(), TIMEOUT).unwrap();
    assert_eq!(reply.to_bytes(), text.as_bytes());
}

#[test]
fn two_clients_of_one_process_call_in_turn_and_one_may_go() {
    let scene = Scene::start();
    let (mut left, mut right) = (scene.client(), scene.client());
    for number in 0..50 {
        // While the one calls, nobody polls the other: each must get its own replies.
        call(&mut left, &format!("left {number}"));
        call(&mut right, &format!("right {number}"));
    }
    assert_eq!((left.call_stats().replies, right.call_stats().replies), (50, 50));
    drop(right);
    for number in 50..100 {
        call(&mut left, &format!("left {number}"));
    }
    let mut another = scene.client();
    call(&mut another, "another");
    call(&mut left, "left at last");
    drop((left, another));
    scene.stop();
}

#[test]
fn two_background_clients_of_one_process_call_at_once_and_one_may_go() {
    let scene = Scene::start();
    let (left, right) = (scene.background(), scene.background());
    let (stays, goes) = (left.handle(), right.handle());
    let round = |handles: &[&underlay::rpc::CallHandle]| {
        let calls: Vec<_> = (0..8)
            .flat_map(|number| {
                handles.iter().enumerate().map(move |(at, it)| (format!("{at} {number}"), *it))
            })
            .map(|(text, handle)| (handle.call("work", text.as_bytes(), TIMEOUT), text))
            .collect();
        for (mut call, text) in calls {
            let reply = call.wait(Some(TIMEOUT)).expect("the reply is late").unwrap();
            assert_eq!(reply.to_bytes(), text.as_bytes());
        }
    };
    (0..20).for_each(|_| round(&[&stays, &goes]));
    // It goes while calls of both are under way.
    let mut under_way: Vec<_> = (0..16).map(|_| stays.call("work", b"on", TIMEOUT)).collect();
    let _lost: Vec<_> = (0..16).map(|_| goes.call("work", b"lost", TIMEOUT)).collect();
    drop(right);
    for call in &mut under_way {
        assert_eq!(call.wait(Some(TIMEOUT)).expect("the reply is late").unwrap().to_bytes(), b"on"[..]);
    }
    (0..20).for_each(|_| round(&[&stays]));
    drop(left);
    scene.stop();
}
