//! What is refused, and how it is said.

use crate::end::{End, accepted, config, io_uring_is_usable, is_own_process};
use std::fs::File;
use std::net::TcpStream;
use underlay::backend::tcp::{EngineChoice, OpenError, TcpConfig, TcpWire};
use underlay::backend::{ConnectError, ListenError, WaitPoint, Wire, WireEvent};
use underlay::pool::{Pool, PoolConfig};

crate::on_both_engines!(
    a_port_in_use_is_named,
    an_address_of_another_machine_is_named,
    addresses_that_make_no_sense_are_named,
    a_pool_without_a_buffer_is_named,
);

fn a_port_in_use_is_named(engine: EngineChoice) {
    let mut end = End::open(config(engine));
    let (_, address) = end.listen();
    let error = end.wire.listen(&address).unwrap_err();
    assert!(matches!(&error, ListenError::InUse { address: named } if *named == address), "{error}");
}

fn an_address_of_another_machine_is_named(engine: EngineChoice) {
    let mut end = End::open(config(engine));
    // 192.0.2.0/24 is for documentation (RFC 5737).
    let error = end.wire.listen("192.0.2.1:0").unwrap_err();
    assert!(matches!(error, ListenError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("192.0.2.1:0"), "{error}");
}

fn addresses_that_make_no_sense_are_named(engine: EngineChoice) {
    let mut end = End::open(config(engine));
    for address in ["", "localhost", "::1:80", "127.0.0.1:99999", "127.0.0.1:"] {
        let error = end.wire.listen(address).unwrap_err();
        assert!(matches!(error, ListenError::Address { .. }), "{error}");
        let error = end.wire.connect(address).unwrap_err();
        assert!(matches!(error, ConnectError::Address { .. }), "{error}");
        assert!(error.to_string().contains("expected host:port"), "{error}");
    }
    let error = end.wire.connect("127.0.0.1:0").unwrap_err();
    assert!(matches!(error, ConnectError::Address { .. }), "{error}");
}

fn a_pool_without_a_buffer_is_named(engine: EngineChoice) {
    let mut pool =
        Pool::new(PoolConfig { bytes_max: 65_536, slab_bytes: 65_536, huge_pages: false }).unwrap();
    let other = pool.buffer(65_536).unwrap();
    let error = TcpWire::open(config(engine), &mut pool).unwrap_err();
    assert!(matches!(error, OpenError::Pool(_)), "{error}");
    assert!(error.to_string().contains("budget"), "{error}");
    drop(other);
}

#[test]
fn a_configuration_that_cannot_work_is_named() {
    let mut pool = Pool::new(PoolConfig::edge()).unwrap();
    let bytes = TcpConfig { receive_buffer_bytes: 5000, ..TcpConfig::default() };
    let error = TcpWire::open(bytes, &mut pool).unwrap_err();
    assert!(matches!(error, OpenError::ReceiveBufferBytes { given_bytes: 5000 }), "{error}");
    for given in [0, 3, 100, 65_535] {
        let count = TcpConfig { receive_buffers: given, ..TcpConfig::default() };
        let error = TcpWire::open(count, &mut pool).unwrap_err();
        assert!(matches!(error, OpenError::ReceiveBuffers { .. }), "{error}");
    }
}

/// Allows this process few descriptors.
fn limit_descriptors() {
    let limit = libc::rlimit { rlim_cur: 64, rlim_max: 64 };
    // SAFETY: the limit is valid.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}

/// Uses up every descriptor that the process may have.
fn use_up_descriptors() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

fn descriptors_run_out(engine: EngineChoice) {
    // Before anything is accepted: io_uring goes by the limit at the time when accepting was armed.
    limit_descriptors();
    let mut end = End::open(config(engine));
    let (listener, address) = end.listen();
    let first = TcpStream::connect(&address).unwrap();
    let channel = end.until(accepted);
    let waiting = TcpStream::connect(&address).unwrap();
    let mut files = use_up_descriptors();

    let failed = |event: &WireEvent| match event {
        WireEvent::AcceptFailed { listener, error } => Some((*listener, error.raw_os_error())),
        _ => None,
    };
    assert_eq!(end.until(failed), (listener, Some(libc::EMFILE)));
    for _ in 0..5000 {
        end.poll();
    }
    end.wire.sleep(None).unwrap(); // which ends although nothing happens
    end.poll();
    assert!(end.events.is_empty(), "it is reported once: {:?}", end.events);
    let error = end.wire.listen("127.0.0.1:0").unwrap_err();
    assert!(matches!(error, ListenError::DescriptorLimit { .. }), "{error}");
    let error = end.wire.connect(&address).unwrap_err();
    assert!(matches!(error, ConnectError::DescriptorLimit { .. }), "{error}");

    // Freed by somebody else: tried again after some polls.
    files.pop();
    let second = end.until(accepted);

    // Freed by the end of a channel: tried again at once.
    drop(files.pop());
    let third = TcpStream::connect(&address).unwrap();
    assert_eq!(end.until(failed).1, Some(libc::EMFILE), "a new episode is reported again");
    end.wire.close(channel);
    let mut polls = 0;
    while end.take(accepted).is_none() {
        end.poll();
        polls += 1;
        assert!(polls < 500, "it waits longer than it has to");
    }
    end.wire.close(second);
    drop((first, waiting, third));
}

#[test]
fn descriptors_run_out_on_io_uring() {
    if is_own_process("limits::descriptors_run_out_on_io_uring") && io_uring_is_usable("descriptors") {
        descriptors_run_out(EngineChoice::IoUring);
    }
}

#[test]
fn descriptors_run_out_on_epoll() {
    if is_own_process("limits::descriptors_run_out_on_epoll") {
        descriptors_run_out(EngineChoice::Epoll);
    }
}
