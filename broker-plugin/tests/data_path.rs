//! What a message costs on its way through the broker: no allocation, no copy of its body.

#[path = "../../transport/tests/support/rdma.rs"]
mod devices;
mod support;

use devices::Devices;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Instant;
use support::{ClientDriver, PATIENCE, PLENTY, World, client_config, identity};
use underlay::backend::inproc::InprocNetwork;
use underlay::backend::tcp::EngineChoice;
use underlay::driver::{Address, Driver, DriverConfig};
use underlay::proto::record::MessageKind;
use underlay::proto::{LinkId, ReplyAddress, ReplySecret};
use underlay_broker::config::{ListenerSettings, QueueSettings};
use underlay_broker::{Broker, Config};

/// Counts what this thread allocates while it is told to.
struct Counting;

thread_local! {
    static COUNTED: Cell<Option<u64>> = const { Cell::new(None) };
}

fn count() {
    // A thread that is ending has no cell any more, and is not counted.
    let _ = COUNTED.try_with(|counted| counted.set(counted.get().map(|count| count + 1)));
}

// SAFETY: every call is handed to the system's allocator as it came; counting touches a cell and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) };
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `act` allocates.
fn allocations(act: impl FnOnce()) -> u64 {
    COUNTED.set(Some(0));
    act();
    COUNTED.take().unwrap_or(0)
}

const SECRET: ReplySecret = ReplySecret([3; 32]);

/// A broker, a requester and a service that echoes, on one thread, over TCP or `inproc`.
struct Relay {
    broker: Driver<Broker>,
    requester: ClientDriver,
    service: ClientDriver,
    link: LinkId,
    /// What the broker's turns have allocated.
    allocated: u64,
}

impl Relay {
    fn new(address: Address, engine: EngineChoice) -> Self {
        Self::of_clients(address, engine, client_config())
    }

    fn of_clients(address: Address, engine: EngineChoice, clients: DriverConfig) -> Self {
        let config = Config::builder()
            .listener(ListenerSettings::tcp("127.0.0.1:0"))
            .queue(QueueSettings::named("work"))
            .build()
            .unwrap();
        let network = InprocNetwork::new();
        let mut driver_config = config.driver_config();
        driver_config.tcp.engine = engine;
        let broker = Broker::new(&config);
        let mut broker = Driver::on_network(driver_config, identity(0), network.clone(), broker).unwrap();
        let (_, address) = broker.parts().0.listen(&address).unwrap();
        let requester = ClientDriver::connect(clients.clone(), 1, network.clone(), &address);
        let service = ClientDriver::connect(clients, 2, network, &address);
        let link = LinkId::FIRST;
        let mut relay = Self { broker, requester, service, link, allocated: 0 };
        relay.until(|relay| {
            relay.requester.state().connection.is_some() && relay.service.state().connection.is_some()
        });
        relay.service.state().echoes = true;
        relay.service.ask(underlay::proto::control::LinkRole::Consumer, "work", PLENTY);
        let none = underlay::connection::LinkRoom { messages: 0, bytes: 0 };
        relay.link = relay.requester.ask(underlay::proto::control::LinkRole::Producer, "work", none);
        relay.requester.ask_reply(&SECRET, PLENTY);
        relay.until(|relay| {
            relay.requester.state().attached.len() == 2 && !relay.service.state().attached.is_empty()
        });
        relay
    }

    fn turn(&mut self) {
        let broker = &mut self.broker;
        self.allocated += allocations(|| {
            broker.turn().unwrap();
        });
        self.service.driver.turn().unwrap();
        self.requester.driver.turn().unwrap();
    }

    fn until(&mut self, mut is_done: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_done(self) {
            self.turn();
            assert!(Instant::now() < end, "it did not come to that");
        }
    }

    /// Asks with `body` so many times, `in_flight` at a time, and checks each reply.
    fn ask(&mut self, body: &[u8], times: usize, in_flight: usize) {
        for _ in 0..times / in_flight {
            for _ in 0..in_flight {
                let mut request = self.requester.message(self.link, MessageKind::Request, body);
                request.head.reply_address = Some(ReplyAddress::of(&SECRET));
                request.head.deadline_us = Some(u32::MAX);
                assert!(self.requester.send_message(request));
            }
            self.until(|relay| relay.requester.state().received.len() == in_flight);
            for reply in self.requester.state().received.drain(..) {
                assert!(reply.body == *body, "the reply is another");
            }
        }
    }
}

fn body(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at / 3) as u8).collect()
}

const SIZES: [usize; 7] = [0, 1, 100, 2048, 4096, 65_536, 131_072];

fn nothing_is_allocated(address: Address, engine: EngineChoice) {
    nothing_is_allocated_by(&mut Relay::new(address, engine), &SIZES);
}

fn nothing_is_allocated_by(relay: &mut Relay, sizes: &[usize]) {
    let round = |relay: &mut Relay, times: usize| {
        for &bytes in sizes {
            relay.ask(&body(bytes), times, 1);
            relay.ask(&body(bytes), times, 8);
        }
    };
    round(relay, 160);
    relay.allocated = 0;
    round(relay, 160);
    let messages = 160 * 4 * sizes.len();
    assert_eq!(relay.allocated, 0, "allocations of the broker on the way of {messages} messages");
    let stats = relay.broker.parts().1.stats();
    assert_eq!(stats.replies_routed, messages as u64);
    assert_eq!(stats.delivered, stats.replies_routed);
}

#[test]
fn the_counting_allocator_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
    assert_eq!(allocations(|| {}), 0);
}

#[test]
fn nothing_is_allocated_over_inproc() {
    nothing_is_allocated(Address::inproc("broker"), EngineChoice::Epoll);
}

#[test]
fn nothing_is_allocated_over_tcp_on_epoll() {
    nothing_is_allocated(Address::tcp("127.0.0.1:0"), EngineChoice::Epoll);
}

/// On io_uring where it is allowed; elsewhere the same as the one above, and it says so.
#[test]
fn nothing_is_allocated_over_tcp_on_the_best_engine() {
    nothing_is_allocated(Address::tcp("127.0.0.1:0"), EngineChoice::Auto);
}

/// Between the devices that `UNDERLAY_RDMA_ADDRESSES` names.
mod rdma {
    use super::*;

    /// What travels in frames: a body that is read by its receiver is told of in a box.
    #[test]
    fn nothing_is_allocated() {
        let Some(devices) = Devices::find("rdma::nothing_is_allocated") else { return };
        nothing_is_allocated_by(&mut relay(&devices), &[0, 1, 100, 2048, 4096, 16_384]);
    }

    #[test]
    fn no_body_is_copied() {
        let Some(devices) = Devices::find("rdma::no_body_is_copied") else { return };
        let mut relay = relay(&devices);
        for bytes in [4096, 16_384, 65_536, 131_072] {
            relay.ask(&body(bytes), 100, 1);
        }
        let stats = relay.broker.stats();
        assert_eq!((stats.pool.body_copies, stats.pool.compactions), (0, 0), "{:?}", stats.pool);
        assert_eq!(stats.packing.bodies_by_reference + stats.packing.offers, 800);
        assert_eq!(stats.packing.bodies_beside_head, 0);
    }

    fn relay(devices: &Devices) -> Relay {
        let mut clients = client_config();
        clients.rdma.source = Some(devices.connecting);
        clients.rdma.receiver_not_ready_retry_count = 0;
        Relay::of_clients(devices.any_port(), EngineChoice::Epoll, clients)
    }
}

fn no_body_is_copied(engine: EngineChoice) {
    let mut relay = Relay::new(Address::tcp("127.0.0.1:0"), engine);
    for bytes in [4096, 65_536, 131_072] {
        relay.ask(&body(bytes), 1000, 1);
    }
    let stats = relay.broker.stats();
    assert_eq!(stats.pool.body_copies, 0, "{:?}", stats.pool);
    assert_eq!(stats.pool.compactions, 0);
    assert_eq!(stats.packing.bodies_by_reference, 6000);
    assert_eq!(stats.packing.bodies_beside_head, 0);
}

#[test]
fn no_body_is_copied_over_tcp_on_epoll() {
    no_body_is_copied(EngineChoice::Epoll);
}

#[test]
fn no_body_is_copied_over_tcp_on_the_best_engine() {
    no_body_is_copied(EngineChoice::Auto);
}

/// Over `inproc` a segment is handed on as it is, so what arrives behind the broker lies where the sender put it.
#[test]
fn a_body_leaves_the_broker_at_the_addresses_at_which_it_came() {
    let mut world = World::new(Config::builder().queue(QueueSettings::named("q")));
    let (sender, receiver) = (world.client(), world.client());
    let link = world.producer(sender, "q");
    world.consumer(receiver, "q", PLENTY);
    for bytes in [2048, 4096, 16_384, 65_536, 131_072] {
        let message = world.clients[sender].message(link, MessageKind::Message, &body(bytes));
        let first = message.body.segments().next().unwrap().as_ptr();
        let end = message.body.segments().last().map(|last| last.as_ptr().wrapping_add(last.len())).unwrap();
        assert!(world.clients[sender].send_message(message));
        world.settle();
        let received = world.state(receiver).received.pop().unwrap();
        assert!(received.body == body(bytes)[..]);
        assert_eq!(received.body.segments().next().unwrap().as_ptr(), first, "{bytes} bytes");
        let received_end = received.body.segments().last().map(|last| last.as_ptr().wrapping_add(last.len()));
        assert_eq!(received_end, Some(end), "{bytes} bytes");
    }
    assert_eq!(world.broker.stats().pool.body_copies, 0);
}

/// A message that has to wait is not copied either, if it uses a quarter of its buffers or more.
#[test]
fn only_what_keeps_much_for_little_is_compacted_when_it_waits() {
    let mut world = World::new(Config::builder().queue(QueueSettings::named("q")));
    let sender = world.client();
    let link = world.producer(sender, "q");
    assert!(world.clients[sender].send(link, MessageKind::Message, &body(65_536)));
    world.settle();
    assert_eq!(world.broker.stats().pool.body_copies, 0);
    assert!(world.clients[sender].send(link, MessageKind::Message, &body(100)));
    world.settle();
    let pool = world.broker.stats().pool;
    assert_eq!((pool.body_copies, pool.compactions, pool.body_copied_bytes), (1, 1, 100));
}
