use super::*;
use crate::backend::tcp::EngineChoice;
use crate::driver::{Address, DriverConfig};
use crate::pool::Body;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

fn driver(engine: EngineChoice) -> DriverConfig {
    let mut driver = DriverConfig::default();
    driver.tcp.engine = engine;
    driver
}

/// A service in a thread that answers until this is dropped.
struct Served {
    address: Address,
    stop: Arc<AtomicBool>,
    wakeup: Arc<crate::Wakeup>,
    thread: Option<thread::JoinHandle<ServiceStats>>,
}

impl Served {
    fn start<F>(engine: EngineChoice, answer: F) -> Self
    where
        F: FnMut(&mut Request<'_>) -> Result<Body, ServiceError> + Send + 'static,
    {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = std::sync::mpsc::channel();
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let config = ServiceConfig { driver: driver(engine), ..ServiceConfig::default() };
            let (mut service, address) =
                Service::listen(&Address::tcp("127.0.0.1:0"), "echo", config, answer).unwrap();
            sender.send((address, service.wakeup())).unwrap();
            service.run_until(Some(LIMIT), || stopped.load(Ordering::Acquire)).unwrap();
            service.stats()
        });
        let (address, wakeup) = receiver.recv().unwrap();
        Self { address, stop, wakeup, thread: Some(thread) }
    }

    fn stop(mut self) -> ServiceStats {
        self.stop.store(true, Ordering::Release);
        self.wakeup.wake();
        self.thread.take().unwrap().join().unwrap()
    }
}

fn echo(request: &mut Request<'_>) -> Result<Body, ServiceError> {
    Ok(request.take_body())
}

fn config(engine: EngineChoice) -> ClientConfig {
    ClientConfig { driver: driver(engine), ..ClientConfig::default() }
}

#[test]
fn a_call_brings_its_bytes_back_whatever_their_number() {
    for engine in [EngineChoice::IoUring, EngineChoice::Epoll] {
        let served = Served::start(engine, echo);
        let mut client = Client::connect(&served.address, config(engine)).unwrap();
        for bytes in [0, 1, 100, 1024, 2048, 4096, 16_384, 65_536, 131_072, 1_000_003] {
            let body: Vec<u8> = (0..bytes).map(|index: u32| (index * 7 >> 2) as u8).collect();
            let reply = client.call("echo", &body, LIMIT).unwrap();
            assert!(*reply.body() == body[..], "{bytes} bytes over {engine:?}");
        }
        drop(client);
        assert_eq!(served.stop().requests, 10);
    }
}

/// A function that answers, as a type with a name.
type Answer = fn(&mut Request<'_>) -> Result<Body, ServiceError>;

/// Turns a client, and a service if there is one, until the call has ended.
fn turn_until_ended(
    client: &mut Client,
    mut service: Option<&mut Service<Answer>>,
    mut call: CallFuture,
) -> Result<Reply, CallError> {
    for _ in 0..1000 {
        client.turn().unwrap();
        if let Some(outcome) = call.try_take() {
            return outcome;
        }
        if let Some(service) = &mut service {
            service.turn().unwrap();
        }
    }
    panic!("the call has not ended after 1000 turns");
}

#[test]
fn both_ends_can_be_turned_by_one_thread() {
    let place = Address::inproc("both_ends_can_be_turned_by_one_thread");
    let answer: Answer = echo;
    let (mut service, address) = Service::listen(&place, "echo", ServiceConfig::default(), answer).unwrap();
    let mut client = Client::begin_connect(&address, ClientConfig::default()).unwrap();
    let body = client.body(b"before the connection is up").unwrap();
    let call = client.start("echo", body, Lane::Normal, LIMIT);
    let reply = turn_until_ended(&mut client, Some(&mut service), call).unwrap();
    assert!(*reply.body() == b"before the connection is up"[..]);
}

#[test]
fn a_call_that_waits_for_a_connection_ends_with_it() {
    let place = Address::inproc("a_call_that_waits_for_a_connection_ends_with_it");
    let (service, address) = Service::listen(&place, "echo", ServiceConfig::default(), echo).unwrap();
    let mut client = Client::begin_connect(&address, ClientConfig::default()).unwrap();
    let call = client.start("echo", Body::new(), Lane::Normal, LIMIT);
    drop(service);
    let error = turn_until_ended(&mut client, None, call).unwrap_err();
    assert!(matches!(error, CallError::NotConnected { .. }), "{error}");
}
