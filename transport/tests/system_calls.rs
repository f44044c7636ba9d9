//! What polling costs in system calls, counted: none for what the driver has no use for at the time.
//!
//! A client and a service on one thread, connected within the process, with TCP open and nothing on it.

#[cfg(target_arch = "x86_64")]
#[path = "support/system_calls.rs"]
mod system_calls;
#[cfg(target_arch = "x86_64")]
#[path = "support/turned.rs"]
mod turned;

#[cfg(target_arch = "x86_64")]
mod turns {
    use super::system_calls::{Calls, system_calls_of};
    use super::turned::Turned;
    use underlay::backend::tcp::{EngineChoice, TcpConfig};
    use underlay::connection::{AttachRequest, CloseReason};
    use underlay::driver::{Address, ConnectionId, Core, DetachedByPeer, Driver, DriverConfig, Handler};
    use underlay::message::Message;
    use underlay::pool::PoolConfig;
    use underlay::proto::LinkId;
    use underlay::proto::handshake::Negotiated;
    use underlay::rpc::ReplyDestination;

    fn driver(engine: EngineChoice) -> DriverConfig {
        DriverConfig {
            pool: PoolConfig { bytes_max: 16 << 20, slab_bytes: 1 << 20, huge_pages: false },
            tcp: TcpConfig { engine, ..TcpConfig::default() },
            ..DriverConfig::default()
        }
    }

    /// What a thousand round trips, and as many turns that find nothing, take.
    fn calls(engine: EngineChoice, place: &str) -> [Calls; 2] {
        let mut ends = Turned::open(&Address::inproc(place), &driver(engine), 64, 100);
        let busy = system_calls_of(|| (0..1000).for_each(|_| ends.call()));
        let idle = system_calls_of(|| (0..1000).for_each(|_| ends.turn()));
        [busy, idle]
    }

    fn is_usable(engine: EngineChoice) -> bool {
        let mut pool = underlay::pool::Pool::new(PoolConfig::edge()).unwrap();
        let config = TcpConfig { engine, ..TcpConfig::default() };
        match underlay::backend::tcp::TcpWire::open(config, &mut pool) {
            Err(error) => {
                eprintln!("SKIPPED: {engine:?}: {error}");
                false
            }
            Ok(_) => true,
        }
    }

    #[test]
    fn a_driver_without_tcp_makes_none() {
        for (engine, place) in [(EngineChoice::Epoll, "no-tcp-epoll"), (EngineChoice::IoUring, "no-tcp-ring")]
        {
            if is_usable(engine) {
                for calls in calls(engine, place) {
                    assert_eq!(calls.count, 0, "{engine:?}: {calls:?}");
                }
            }
        }
    }

    /// Answers nothing.
    struct Nobody;

    impl Handler for Nobody {
        fn opened(&mut self, _: &mut Core, _: ConnectionId, _: &Negotiated) {}
        fn attach_requested(&mut self, _: &mut Core, _: ConnectionId, _: AttachRequest) {}
        fn attached(&mut self, _: &mut Core, _: ConnectionId, _: LinkId) {}
        fn detached(&mut self, _: &mut Core, _: ConnectionId, _: DetachedByPeer) {}
        fn message(&mut self, _: &mut Core, _: ConnectionId, _: Message) {}
        fn writable(&mut self, _: &mut Core, _: ConnectionId, _: LinkId) {}
        fn closed(&mut self, _: &mut Core, _: ConnectionId, _: &CloseReason) {}
    }

    /// As a broker has it whose clients are all on other wires.
    #[test]
    fn a_tcp_listener_alone_is_looked_at_now_and_then() {
        for (engine, looks) in [(EngineChoice::Epoll, 1000_u64 / 16), (EngineChoice::IoUring, 0)] {
            if !is_usable(engine) {
                continue;
            }
            let identity = ReplyDestination::of_process().identity("nobody");
            let mut driver = Driver::new(driver(engine), identity, Nobody).unwrap();
            driver.parts().0.listen(&Address::tcp("127.0.0.1:0")).unwrap();
            let mut turns = |count| (0..count).for_each(|_| assert!(!driver.turn().unwrap()));
            // What listening has queued for the kernel leaves.
            turns(100);
            let calls = system_calls_of(|| turns(1000));
            assert!((looks..=looks + u64::from(looks > 0)).contains(&calls.count), "{engine:?}: {calls:?}");
        }
    }

    #[test]
    fn a_system_call_would_be_seen() {
        let calls = system_calls_of(std::thread::yield_now);
        assert_eq!((calls.count, calls.numbers[0]), (1, libc::SYS_sched_yield as i32));
        let written = system_calls_of(|| drop(std::fs::read("/proc/self/status").unwrap()));
        assert!(written.count >= 3, "it is opened, read and closed, and all of it works: {written:?}");
    }
}
