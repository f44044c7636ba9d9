//! What happens where system calls are forbidden, for real: by a seccomp filter, as containers have it.

use crate::end::{End, Pair, config, io_uring_is_usable, is_own_process};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::time::Duration;
use underlay::backend::tcp::{Engine, EngineChoice, OpenError, TcpConfig, TcpWire};
use underlay::backend::{WaitPoint, Wire};
use underlay::pool::{Pool, PoolConfig};

/// From now on, this system call fails with EPERM on this thread.
fn forbid(system_call: libc::c_long) {
    let filter = SeccompFilter::new(
        [(system_call, Vec::new())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

#[test]
fn without_io_uring_auto_is_epoll_and_says_why() {
    if !is_own_process("refusal::without_io_uring_auto_is_epoll_and_says_why") {
        return;
    }
    forbid(libc::SYS_io_uring_setup);
    let Pair { mut client, mut server, near, far } = Pair::open(config(EngineChoice::Auto));
    assert_eq!(client.wire.engine(), Engine::Epoll);
    let reason = client.wire.engine_reason().unwrap().to_owned();
    assert!(reason.contains("io_uring_setup") && reason.contains("seccomp"), "{reason}");
    client.send(near, b"works all the same");
    while server.take_received(far) != b"works all the same" {
        client.poll();
        server.poll();
    }

    let mut pool = Pool::new(PoolConfig::edge()).unwrap();
    let error = TcpWire::open(config(EngineChoice::IoUring), &mut pool).unwrap_err();
    let OpenError::IoUring { reason: same } = &error else { panic!("{error}") };
    assert_eq!(*same, reason);
    assert!(error.to_string().contains("'epoll'"), "it names the way out: {error}");
}

#[test]
fn with_io_uring_auto_takes_it() {
    if io_uring_is_usable("with_io_uring_auto_takes_it") {
        let end = End::open(config(EngineChoice::Auto));
        assert_eq!((end.wire.engine(), end.wire.engine_reason()), (Engine::IoUring, None));
        let end = End::open(config(EngineChoice::Epoll));
        assert_eq!((end.wire.engine(), end.wire.engine_reason()), (Engine::Epoll, None));
    }
}

#[test]
fn half_an_io_uring_is_none() {
    if !is_own_process("refusal::half_an_io_uring_is_none") {
        return;
    }
    for system_call in [libc::SYS_io_uring_register, libc::SYS_io_uring_enter] {
        std::thread::spawn(move || {
            forbid(system_call);
            let end = End::open(config(EngineChoice::Auto));
            assert_eq!(end.wire.engine(), Engine::Epoll);
        })
        .join()
        .unwrap();
    }
}

/// The system call fails if it is made: a poll that has nothing to do must not make it.
#[test]
fn an_idle_poll_of_io_uring_makes_no_system_call() {
    let test = "refusal::an_idle_poll_of_io_uring_makes_no_system_call";
    if !is_own_process(test) || !io_uring_is_usable(test) {
        return;
    }
    let Pair { mut client, mut server, .. } = Pair::open(config(EngineChoice::IoUring));
    for _ in 0..100 {
        client.poll();
        server.poll();
    }
    forbid(libc::SYS_io_uring_enter);
    for _ in 0..2000 {
        client.poll();
        server.poll();
    }
    let broken = client.wire.sleep(Some(Duration::from_millis(1))).unwrap_err();
    assert_eq!(broken.raw_os_error(), Some(libc::EPERM), "the filter works");
    // Nor can the wire be taken down in order: what the kernel may still write to is kept.
    let End { mut pool, wire, .. } = client;
    drop(wire);
    pool.reclaim();
    let given = usize::from(TcpConfig::default().receive_buffers);
    assert_eq!(pool.stats().buffers_out, given, "nothing was freed under the kernel");
}

/// An old profile that does not know `epoll_pwait2`.
#[test]
fn epoll_sleeps_without_fine_timeouts_as_well() {
    if !is_own_process("refusal::epoll_sleeps_without_fine_timeouts_as_well") {
        return;
    }
    forbid(libc::SYS_epoll_pwait2);
    let mut end = End::open(config(EngineChoice::Epoll));
    let started = std::time::Instant::now();
    end.wire.sleep(Some(Duration::from_micros(1500))).unwrap();
    assert!(started.elapsed() >= Duration::from_micros(1500));
    end.wire.poll(&mut end.pool, &mut end.events).unwrap();
}
