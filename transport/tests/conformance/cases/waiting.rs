//! What ends a sleep, and what does not.

use crate::bench::{Bench, End, Patience};
use crate::subject::WireUnderTest;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

pub(crate) fn a_sleep_ends_with_data<W: WireUnderTest>(bench: &mut Bench<W>) {
    let (near, far) = bench.connect();
    for number in 0..10 {
        bench.settle();
        bench.right.wire.about_to_sleep();
        bench.right.poll();
        bench.left.send_bytes(near, &[number; 100]);
        bench.left.poll();
        let patience = bench.patience;
        sleep_until(&mut bench.right, patience, |right| right.received_bytes(far).len() >= 100);
        assert_eq!(bench.right.received_bytes(far), [number; 100]);
        bench.right.record(far).received.clear();
        bench.until("Sent", |bench| !bench.left.is_in_flight(near));
    }
}

pub(crate) fn a_sleep_ends_with_a_new_channel<W: WireUnderTest>(bench: &mut Bench<W>) {
    let address = bench.listening().address;
    bench.settle();
    bench.right.wire.about_to_sleep();
    bench.right.poll();
    let near = bench.left.connect(&address);
    bench.left.poll();
    // A wire may take several polls of the end that connects, and its other end sleeps meanwhile.
    let begin = Instant::now();
    while bench.right.accepted.is_empty() {
        let slept = Instant::now();
        bench.right.wire.sleep(Some(NAP)).unwrap();
        if slept.elapsed() < NAP {
            bench.right.wire.awake();
            bench.right.wire.about_to_sleep();
            bench.right.poll();
        }
        bench.left.poll();
        assert!(begin.elapsed() < limit(bench.patience), "slept through the event");
    }
    bench.right.wire.awake();
    bench.until("Connected", |bench| bench.left.record(near).is_open);
}

pub(crate) fn a_sleep_ends_with_a_watched_descriptor<W: WireUnderTest>(bench: &mut Bench<W>) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    bench.right.wire.watch(reader.as_fd()).unwrap();
    bench.connect();
    bench.settle();
    // Readable, and left so: a sleep ends also if what it waits for came before it.
    writer.write_all(b"!").unwrap();
    for _ in 0..3 {
        let begin = Instant::now();
        bench.right.wire.about_to_sleep();
        bench.right.poll();
        bench.right.wire.sleep(Some(limit(bench.patience))).unwrap();
        bench.right.wire.awake();
        assert!(begin.elapsed() < limit(bench.patience), "slept through a watched descriptor");
    }
}

pub(crate) fn a_sleep_ends_with_its_timeout<W: WireUnderTest>(bench: &mut Bench<W>) {
    bench.connect();
    bench.settle();
    for timeout in [Duration::ZERO, Duration::from_micros(300), Duration::from_millis(20)] {
        let begin = Instant::now();
        bench.right.wire.about_to_sleep();
        bench.right.poll();
        bench.right.wire.sleep(Some(timeout)).unwrap();
        bench.right.wire.awake();
        assert!(begin.elapsed() < limit(bench.patience), "overslept a timeout of {timeout:?}");
    }
}

pub(crate) fn an_idle_wire_sleeps<W: WireUnderTest>(bench: &mut Bench<W>) {
    let (near, far) = bench.connect();
    bench.transfer(near, far, bench.seed, 10_000);
    bench.settle();
    // A sleep may end early now and then; one that always does would come back tens of thousands of times.
    let begin = Instant::now();
    let mut sleeps = 0;
    while begin.elapsed() < Duration::from_millis(200) {
        bench.right.wire.about_to_sleep();
        bench.right.poll();
        bench.right.wire.sleep(Some(Duration::from_millis(50))).unwrap();
        bench.right.wire.awake();
        sleeps += 1;
        assert!(sleeps < 100, "an idle wire is busy: its sleeps last no time");
    }
}

/// Sleeps until `done`; the first sleep follows an `about_to_sleep` and a poll by the caller.
fn sleep_until<W: WireUnderTest>(end: &mut End<W>, patience: Patience, done: impl Fn(&mut End<W>) -> bool) {
    let begin = Instant::now();
    while !done(end) {
        end.wire.sleep(Some(limit(patience))).unwrap();
        end.wire.awake();
        assert!(begin.elapsed() < limit(patience), "slept through the event");
        end.wire.about_to_sleep();
        end.poll();
    }
    end.wire.awake();
}

/// A sleep in which nothing has happened if it lasts as long as this.
const NAP: Duration = Duration::from_millis(20);

/// A time that no sleep takes whose end is due; the timeout for those that have to end by something else.
fn limit(patience: Patience) -> Duration {
    patience.time * 2
}
