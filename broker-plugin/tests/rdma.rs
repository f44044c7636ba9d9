//! The broker over the `rdma` wire, between the devices that `UNDERLAY_RDMA_ADDRESSES` names; without, each test is
//! skipped by name (`ci/soft-roce` boots a machine that has them).

#[path = "../../transport/tests/support/rdma.rs"]
mod devices;
mod support;

use devices::{Devices, INTERFACES};
use std::thread::JoinHandle;
use std::time::Duration;
use support::{Client as Seen, ClientDriver, PLENTY, client_config, identity, room};
use underlay::backend::WireKind;
use underlay::driver::{Address, Driver, DriverConfig};
use underlay::proto::control::LinkRole;
use underlay::proto::record::MessageKind;
use underlay::rpc::{BackgroundService, Client, ClientConfig, ServiceConfig};
use underlay::session::SessionConfig;
use underlay_broker::config::{ListenerSettings, QueueSettings};
use underlay_broker::{Config, Control, Server};

/// Longer than anything takes on the slowest machine.
const LIMIT: Duration = Duration::from_secs(30);

/// A broker on a thread of this process, on both wires.
struct Embedded {
    rdma: Address,
    tcp: Address,
    control: Control,
    thread: Option<JoinHandle<()>>,
}

impl Embedded {
    fn start(devices: &Devices) -> Self {
        let config = Config::builder()
            .listener(ListenerSettings::rdma(devices.any_port().place()))
            .listener(ListenerSettings::tcp("127.0.0.1:0"))
            .queue(QueueSettings::named("work"))
            .build()
            .unwrap();
        let (answer, started) = std::sync::mpsc::channel();
        // It belongs to the thread that starts it.
        let thread = std::thread::spawn(move || {
            let mut server = Server::start(&config).unwrap();
            answer.send((server.addresses().to_vec(), server.control())).unwrap();
            server.run().unwrap();
        });
        let (addresses, control) = started.recv().unwrap();
        let [rdma, tcp] = &addresses[..] else { panic!("{addresses:?}") };
        Self { rdma: rdma.clone(), tcp: tcp.clone(), control, thread: Some(thread) }
    }

    fn figures(&self) -> String {
        self.control.report().unwrap()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // The second time it stops at once.
        self.control.shut_down();
        self.control.shut_down();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the broker's thread panicked");
        }
    }
}

/// Connects from the second device, and finds out at once about a send that has no receive request.
fn driver_config(devices: &Devices) -> DriverConfig {
    let mut config = DriverConfig { session: SessionConfig::default(), ..client_config() };
    config.rdma.source = Some(devices.connecting);
    config.rdma.receiver_not_ready_retry_count = 0;
    config.session.reconnect_spread = Duration::from_millis(5);
    config.session.return_after = Duration::from_millis(200);
    config
}

/// Calls of several sizes, from one wire to another.
fn calls_are_answered(devices: &Devices, broker: &Embedded, service_at: &Address, client_at: &Address) {
    let service_config = ServiceConfig { driver: driver_config(devices), ..ServiceConfig::default() };
    let echo = |request: &mut underlay::rpc::Request<'_>| Ok(request.take_body());
    let service = BackgroundService::connect(service_at, "work", service_config, echo).unwrap();
    let client_config = ClientConfig { driver: driver_config(devices), ..ClientConfig::default() };
    let mut client = Client::connect(client_at, client_config).unwrap();
    for bytes in [1, 1000, 16_384, 100_000, 1 << 20] {
        let body: Vec<u8> = (0..bytes).map(|at: usize| (at * 31 + bytes) as u8).collect();
        let reply = client.call("work", &body, LIMIT).unwrap();
        assert!(
            reply.to_bytes()[..] == body[..],
            "{service_at} {client_at}: {bytes} bytes came back changed"
        );
    }
    let figures = broker.figures();
    assert!(figures.contains("sessions.interrupted 0\n"), "{figures}");
    assert!(!figures.contains("fallback"), "{figures}");
    service.stop().unwrap();
}

#[test]
fn clients_and_services_meet_whatever_wire_each_is_on() {
    let Some(devices) = Devices::find("clients_and_services_meet_whatever_wire_each_is_on") else { return };
    let broker = Embedded::start(&devices);
    assert_eq!((broker.rdma.wire(), broker.tcp.wire()), (WireKind::Rdma, WireKind::Tcp));
    calls_are_answered(&devices, &broker, &broker.rdma, &broker.rdma);
    calls_are_answered(&devices, &broker, &broker.rdma, &broker.tcp);
    calls_are_answered(&devices, &broker, &broker.tcp, &broker.rdma);
}

/// A producer whose session may use both wires, rdma first.
fn producer(devices: &Devices, broker: &Embedded) -> ClientDriver {
    let mut driver = Driver::new(driver_config(devices), identity(1), Seen::default()).unwrap();
    let connection = driver.parts().0.connect_by(&[broker.rdma.clone(), broker.tcp.clone()]).unwrap();
    let mut producer = ClientDriver { driver, connection };
    producer.run_until(|client| client.connection.is_some());
    producer
}

/// Sends numbers, each when the one before has reached the consumer.
fn send_numbers(
    producer: &mut ClientDriver,
    consumer: &mut ClientDriver,
    link: underlay::proto::LinkId,
    numbers: std::ops::Range<u32>,
) {
    for number in numbers {
        assert!(producer.send(link, MessageKind::Message, &number.to_le_bytes()));
        let end = std::time::Instant::now() + LIMIT;
        while consumer.state().received.len() <= number as usize {
            assert!(std::time::Instant::now() < end, "{number}: {:?}", producer.state().resumed);
            producer.driver.turn().unwrap();
            consumer.driver.turn().unwrap();
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_session_with_the_broker_goes_on_over_tcp_while_the_link_is_cut() {
    const TEST: &str = "a_session_with_the_broker_goes_on_over_tcp_while_the_link_is_cut";
    let Some(devices) = Devices::find(TEST) else { return };
    let Some(network) = devices.link(TEST) else { return };
    let broker = Embedded::start(&devices);
    let mut consumer = ClientDriver::connect(
        client_config(),
        2,
        underlay::backend::inproc::InprocNetwork::new(),
        &broker.tcp,
    );
    consumer.run_until(|client| client.connection.is_some());
    consumer.attach_and_wait(LinkRole::Consumer, "work", PLENTY);
    let mut producer = producer(&devices, &broker);
    let link = producer.attach_and_wait(LinkRole::Producer, "work", room(0));
    send_numbers(&mut producer, &mut consumer, link, 0..50);
    assert_eq!(producer.state().resumed, []);
    network.cut(INTERFACES[1]);
    send_numbers(&mut producer, &mut consumer, link, 50..100);
    assert_eq!(producer.state().resumed, [WireKind::Tcp]);
    network.restore();
    producer.run_until(|client| client.resumed.len() == 2);
    assert_eq!(producer.state().resumed, [WireKind::Tcp, WireKind::Rdma], "it is back on the better wire");
    send_numbers(&mut producer, &mut consumer, link, 100..150);
    let bodies = consumer.state().received.iter().map(|message| message.body.to_vec());
    assert!(bodies.eq((0..150_u32).map(|number| number.to_le_bytes().to_vec())), "each once, and in order");
}
