//! What ends a sleep.

use crate::end::{End, Pair, config, with_plain_peer};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use underlay::Wakeup;
use underlay::backend::tcp::{EngineChoice, TcpConfig};
use underlay::backend::{WaitPoint, Wire, WireEvent};
use underlay::pool::{GatherList, PoolConfig};

crate::on_both_engines!(
    a_sleep_ends_with_its_time,
    a_sleep_ends_with_data,
    a_sleep_ends_with_a_connection,
    a_sleep_ends_with_a_watched_descriptor,
    a_wakeup_ends_every_sleep,
    a_sleep_submits_what_was_queued,
    a_sleep_ends_at_once_if_something_has_happened,
    a_sleep_without_buffers_is_short,
);

/// Longer than any sleep that ends as it should.
const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(20);

fn sleep_ends(end: &mut End) -> bool {
    let started = Instant::now();
    end.wire.sleep(Some(LONG)).unwrap();
    started.elapsed() < LONG
}

fn a_sleep_ends_with_its_time(engine: EngineChoice) {
    let mut end = End::open(config(engine));
    end.listen();
    (0..10).for_each(|_| end.poll());
    let started = Instant::now();
    while started.elapsed() < SHORT {
        assert!(started.elapsed() < LONG);
        end.wire.sleep(Some(SHORT)).unwrap();
        end.poll();
    }
    let started = Instant::now();
    end.wire.sleep(Some(SHORT)).unwrap();
    assert!(started.elapsed() >= SHORT, "nothing happens, so it sleeps all the time");
    assert!(end.events.is_empty());
}

fn a_sleep_ends_with_data(engine: EngineChoice) {
    let mut end = End::open(config(engine));
    let (channel, mut peer) = with_plain_peer(&mut end);
    (0..10).for_each(|_| end.poll());
    let writer = std::thread::spawn(move || {
        std::thread::sleep(SHORT);
        peer.write_all(b"up").map(|()| peer)
    });
    let mut came = Vec::new();
    while came.is_empty() {
        assert!(sleep_ends(&mut end));
        end.poll();
        came = end.take_received(channel);
    }
    assert_eq!(came, b"up");
    drop(writer.join().unwrap());
}

fn a_sleep_ends_with_a_connection(engine: EngineChoice) {
    let mut end = End::open(config(engine));
    let (_, address) = end.listen();
    (0..10).for_each(|_| end.poll());
    let peer = std::thread::spawn(move || {
        std::thread::sleep(SHORT);
        std::net::TcpStream::connect(address).unwrap()
    });
    while end.take(crate::end::accepted).is_none() {
        assert!(sleep_ends(&mut end));
        end.poll();
    }
    peer.join().unwrap();
}

fn a_sleep_ends_with_a_watched_descriptor(engine: EngineChoice) {
    let mut end = End::open(config(engine));
    let (mut writer, mut reader) = UnixStream::pair().unwrap();
    end.wire.watch(reader.as_fd()).unwrap();
    writer.write_all(b"1").unwrap();
    for _ in 0..3 {
        assert!(sleep_ends(&mut end), "it is readable, also before the sleep and after one");
        end.poll();
    }
    reader.read_exact(&mut [0]).unwrap();
    end.wire.sleep(Some(Duration::ZERO)).unwrap();
    end.poll();
    let started = Instant::now();
    end.wire.sleep(Some(SHORT)).unwrap();
    end.poll();
    end.wire.sleep(Some(SHORT)).unwrap();
    assert!(started.elapsed() >= SHORT, "it is not readable any more");
}

fn a_wakeup_ends_every_sleep(engine: EngineChoice) {
    let mut end = End::open(config(engine));
    let wakeup = std::sync::Arc::new(Wakeup::new().unwrap());
    end.wire.watch(wakeup.descriptor()).unwrap();
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let waker = {
        let (wakeup, done) = (wakeup.clone(), done.clone());
        std::thread::spawn(move || {
            std::thread::sleep(SHORT);
            done.store(true, std::sync::atomic::Ordering::SeqCst);
            wakeup.wake();
        })
    };
    while !done.load(std::sync::atomic::Ordering::SeqCst) {
        wakeup.about_to_sleep();
        if !done.load(std::sync::atomic::Ordering::SeqCst) {
            assert!(sleep_ends(&mut end));
        }
        wakeup.awake();
        end.poll();
    }
    waker.join().unwrap();
}

fn a_sleep_submits_what_was_queued(engine: EngineChoice) {
    let Pair { mut client, mut server, near, far } = Pair::open(config(engine));
    (0..10).for_each(|_| server.poll());
    client.send(near, b"asleep");
    client.wire.sleep(Some(SHORT)).unwrap();
    let mut came = Vec::new();
    while came != b"asleep" {
        server.poll();
        came.extend(server.take_received(far));
    }
}

fn a_sleep_ends_at_once_if_something_has_happened(engine: EngineChoice) {
    let Pair { mut client, near, server: _server, .. } = Pair::open(config(engine));
    (0..10).for_each(|_| client.poll());
    client.wire.send(near, &mut GatherList::new()).unwrap();
    assert!(sleep_ends(&mut client));
    client.until(|event| matches!(event, WireEvent::Sent { .. }).then_some(()));
    client.send(near, b"done?");
    assert!(sleep_ends(&mut client));
    client.until(|event| matches!(event, WireEvent::Sent { .. }).then_some(()));
    client.wire.close(near);
    assert!(sleep_ends(&mut client));
    client.until_closed(near);
}

/// Buffers may come back from another thread, which wakes nobody.
fn a_sleep_without_buffers_is_short(engine: EngineChoice) {
    let pool = PoolConfig { bytes_max: 65_536, slab_bytes: 65_536, huge_pages: false };
    let mut end = End::with_pool(
        TcpConfig { receive_buffers: 4, receive_buffer_bytes: 16_384, ..config(engine) },
        pool,
    );
    let (channel, mut peer) = with_plain_peer(&mut end);
    let writer = std::thread::spawn(move || peer.write_all(&[5; 400_000]).map(|()| peer));
    let mut bytes = 0;
    while bytes < 65_536 {
        end.poll();
        bytes = end
            .events
            .iter()
            .map(|event| match event {
                WireEvent::Received { segment, .. } => segment.len(),
                _ => 0,
            })
            .sum();
        if end.pool.buffer(1).is_err() && bytes > 40_000 {
            break;
        }
    }
    let started = Instant::now();
    for _ in 0..3 {
        end.wire.sleep(None).unwrap();
        end.poll();
    }
    assert!(started.elapsed() < LONG);
    let mut count = 0;
    while count < 400_000 {
        end.poll();
        count += end.take_received(channel).len();
    }
    drop(writer.join().unwrap());
}
