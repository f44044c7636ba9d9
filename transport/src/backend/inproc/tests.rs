//! What is this wire's own; what all wires share is in the conformance suite.

use super::data::EVENTS_PER_POLL_MAX;
use super::*;
use crate::backend::{ChannelEnd, WaitPoint};
use crate::pool::PoolConfig;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

struct End {
    wire: InprocWire,
    pool: Pool,
    wakeup: Arc<Wakeup>,
    wait: InprocWaitPoint,
}

impl End {
    fn new(network: &InprocNetwork) -> Self {
        let wakeup = Arc::new(Wakeup::new().unwrap());
        let config = PoolConfig { bytes_max: 1 << 20, slab_bytes: 65_536, huge_pages: false };
        Self {
            wire: InprocWire::new(network.clone(), wakeup.clone()),
            pool: Pool::new(config).unwrap(),
            wait: InprocWaitPoint::new(wakeup.clone()),
            wakeup,
        }
    }

    fn poll(&mut self) -> Vec<WireEvent> {
        let mut events = Vec::new();
        self.wire.poll(&mut self.pool, &mut events).unwrap();
        events
    }

    /// The next events, slept for in the way that a driver does; fails after ten seconds without one.
    fn sleep_for_events(&mut self) -> Vec<WireEvent> {
        let begin = Instant::now();
        loop {
            self.wakeup.about_to_sleep();
            let events = self.poll();
            if events.is_empty() {
                self.wait.sleep(Some(Duration::from_secs(10))).unwrap();
            }
            self.wakeup.awake();
            if !events.is_empty() {
                return events;
            }
            assert!(begin.elapsed() < Duration::from_secs(10), "nothing ended the sleep");
        }
    }

    /// A list of `count` references to one byte each, not joinable.
    fn gather(&mut self, count: usize) -> GatherList {
        let mut buffer = self.pool.buffer(1).unwrap();
        buffer.put_slice(b"x");
        let segment = buffer.split();
        let mut gather = GatherList::new();
        (0..count).for_each(|_| gather.push(segment.clone()));
        gather
    }
}

fn ends() -> (End, End) {
    let network = InprocNetwork::new();
    (End::new(&network), End::new(&network))
}

/// Two ends on one thread with a channel between them.
fn connected() -> (End, Channel, End, Channel) {
    let (mut left, mut right) = ends();
    right.wire.listen("right").unwrap();
    let near = left.wire.connect("right").unwrap();
    let accepted = right.poll();
    let [WireEvent::Accepted { channel: far, path, .. }] = &accepted[..] else { panic!("{accepted:?}") };
    assert_eq!((path.packet_bytes, &path.peer[..]), (65_536, "inproc wire 1, channel 0.0"));
    let connected = left.poll();
    assert!(matches!(&connected[..], [WireEvent::Connected { .. }]), "{connected:?}");
    (left, near, right, *far)
}

fn failure(events: &[WireEvent]) -> (ErrorKind, String) {
    match events {
        [WireEvent::Closed { reason: ChannelEnd::ConnectFailed(error), .. }] => {
            (error.kind(), error.to_string())
        }
        other => panic!("{other:?}"),
    }
}

fn breakage(events: &[WireEvent]) -> String {
    match events {
        [WireEvent::Closed { reason: ChannelEnd::Broken(error), .. }] => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_threads_exchange_a_hundred_thousand_segments_and_sleep_in_between() {
    const SENDS: usize = 2_000;
    const SEGMENTS: usize = 50;
    let network = InprocNetwork::new();
    let mut right = End::new(&network);
    right.wire.listen("right").unwrap();
    let receiver = std::thread::spawn(move || {
        let mut received = 0;
        loop {
            for event in right.sleep_for_events() {
                match event {
                    WireEvent::Received { segment, .. } => received += segment.len(),
                    WireEvent::Closed { reason, .. } => {
                        assert!(matches!(reason, ChannelEnd::Peer), "{reason}");
                        return received;
                    }
                    _ => {}
                }
            }
        }
    });
    let mut left = End::new(&network);
    let channel = left.wire.connect("right").unwrap();
    let mut sent = 0;
    loop {
        for event in left.sleep_for_events() {
            match event {
                WireEvent::Connected { .. } => {}
                WireEvent::Sent { .. } => sent += 1,
                other => panic!("{other:?}"),
            }
        }
        if sent == SENDS {
            break;
        }
        let mut gather = left.gather(SEGMENTS);
        left.wire.send(channel, &mut gather).unwrap();
    }
    left.wire.close(channel);
    assert_eq!(receiver.join().unwrap(), SENDS * SEGMENTS);
    left.pool.reclaim();
    assert_eq!(left.pool.stats().buffers_out, 0);
}

#[test]
fn a_blocked_sender_sleeps_until_the_receiver_has_made_room() {
    let (mut left, near, mut right, _) = connected();
    for _ in 0..2 {
        let mut gather = left.gather(200);
        left.wire.send(near, &mut gather).unwrap();
        left.poll();
    }
    let mut gather = left.gather(1);
    assert_eq!(left.wire.send(near, &mut gather), Err(SendRefused::InFlight), "400 do not fit into 256");
    let reader = std::thread::spawn(move || {
        let mut received = 0;
        while received < 400 {
            received += right.sleep_for_events().len();
        }
        right
    });
    let events = left.sleep_for_events();
    assert!(matches!(events[..], [WireEvent::Sent { .. }]), "{events:?}");
    reader.join().unwrap();
    left.pool.reclaim();
    assert_eq!(left.pool.stats().buffers_out, 1, "only the gather list that was refused");
}

#[test]
fn a_dropped_wire_and_a_panicked_thread_are_told_apart_and_leak_nothing() {
    for panics in [false, true] {
        let (mut left, near, mut right, far) = connected();
        for _ in 0..2 {
            let mut gather = left.gather(250);
            left.wire.send(near, &mut gather).unwrap();
            left.poll();
        }
        let mut gather = right.gather(3);
        right.wire.send(far, &mut gather).unwrap();
        let thread = std::thread::spawn(move || {
            right.poll();
            assert!(!panics, "on purpose");
        });
        assert_eq!(thread.join().is_err(), panics);
        let mut events = left.poll();
        let received = events.extract_if(.., |event| matches!(event, WireEvent::Received { .. })).count();
        assert_eq!(received, 3, "what had arrived before is handed out");
        // The room that the end made lets the blocked send through.
        events.retain(|event| !matches!(event, WireEvent::Sent { .. }));
        let expected = if panics { "the peer's thread panicked" } else { "wire was dropped" };
        assert!(breakage(&events).contains(expected));
        assert!(left.poll().is_empty());
        left.pool.reclaim();
        assert_eq!(left.pool.stats().buffers_out, 0, "the wire let go of them, not only the dropped peer");
    }
}

#[test]
fn a_connection_that_nobody_takes_fails_with_the_reason() {
    let (mut left, mut right) = ends();
    left.wire.connect("right").unwrap();
    let (kind, text) = failure(&left.poll());
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(text.contains("nobody in this process listens at 'right'"), "{text}");

    let listening = right.wire.listen("right").unwrap();
    left.wire.connect("right").unwrap();
    right.wire.stop_listening(listening.listener);
    assert!(right.poll().is_empty());
    assert!(failure(&left.poll()).1.contains("stopped before it accepted"));

    right.wire.listen("right").unwrap();
    left.wire.connect("right").unwrap();
    drop(right);
    assert!(failure(&left.poll()).1.contains("dropped before it accepted"));
    left.wire.connect("right").unwrap();
    assert_eq!(failure(&left.poll()).0, ErrorKind::NotFound, "the name went with its wire");
}

#[test]
fn a_connector_that_goes_before_it_is_accepted_is_not_accepted() {
    let (mut left, mut right) = ends();
    right.wire.listen("right").unwrap();
    let channel = left.wire.connect("right").unwrap();
    left.wire.close(channel);
    assert!(matches!(left.poll()[..], [WireEvent::Closed { reason: ChannelEnd::Local, .. }]));
    assert!(right.poll().is_empty());
    // Accepted, and gone before it has read that.
    let channel = left.wire.connect("right").unwrap();
    assert_eq!(right.poll().len(), 1);
    left.wire.close(channel);
    assert!(matches!(left.poll()[..], [WireEvent::Closed { reason: ChannelEnd::Local, .. }]));
    assert!(matches!(right.poll()[..], [WireEvent::Closed { reason: ChannelEnd::Peer, .. }]));
    // The same, with the whole wire gone.
    left.wire.connect("right").unwrap();
    assert_eq!(right.poll().len(), 1);
    drop(left);
    assert!(breakage(&right.poll()).contains("wire was dropped"));
}

#[test]
fn every_table_has_its_limit_and_names_it() {
    let network = InprocNetwork::new();
    let (mut left, mut right, mut third) = (End::new(&network), End::new(&network), End::new(&network));
    right.wire.listen("right").unwrap();
    for _ in 0..CHANNELS_MAX {
        left.wire.connect("right").unwrap();
    }
    let refused = left.wire.connect("right").unwrap_err().to_string();
    assert!(refused.contains("this wire has 1024 channels"), "{refused}");
    // The backlog is as long as that, too.
    third.wire.connect("right").unwrap();
    assert!(failure(&third.poll()).1.contains("1024 connections wait"));
    let mut accepted = 0;
    while accepted < CHANNELS_MAX {
        let events = right.poll();
        assert!(!events.is_empty() && events.len() <= EVENTS_PER_POLL_MAX, "{}", events.len());
        accepted += events.len();
    }
    third.wire.connect("right").unwrap();
    assert!(matches!(right.poll()[..], [WireEvent::AcceptFailed { .. }]));
    assert!(failure(&third.poll()).1.contains("1024 channels, which is its limit"));
    for number in 0..LISTENERS_MAX - 1 {
        right.wire.listen(&format!("name {number}")).unwrap();
    }
    assert!(right.wire.listen("one more").unwrap_err().to_string().contains("listens at 256 names"));
}

#[test]
fn one_poll_hands_out_a_bounded_number_of_events_and_every_channel_has_its_turn() {
    let (mut left, near, mut right, _) = connected();
    let other = left.wire.connect("right").unwrap();
    right.poll();
    left.poll();
    for channel in [near, other] {
        let mut gather = left.gather(256);
        left.wire.send(channel, &mut gather).unwrap();
    }
    let mut counts = Vec::new();
    loop {
        let events = right.poll();
        if events.is_empty() {
            break;
        }
        assert!(events.len() <= EVENTS_PER_POLL_MAX);
        let first = events
            .iter()
            .filter(|event| matches!(event, WireEvent::Received { channel, .. } if channel.slot == 0));
        counts.push((first.count(), events.len()));
    }
    assert_eq!(counts, [(64, 128), (64, 128), (64, 128), (64, 128)]);
}

#[test]
fn the_global_network_is_one_and_others_are_apart() {
    let mut here = End::new(&InprocNetwork::global());
    here.wire.listen("the only one in this test").unwrap();
    let mut there = End::new(&InprocNetwork::global());
    assert!(matches!(there.wire.listen("the only one in this test"), Err(ListenError::InUse { .. })));
    End::new(&InprocNetwork::new()).wire.listen("the only one in this test").unwrap();
}

/// Events that one poll had no place for keep the owner awake, also when it takes a finished send for no news.
#[test]
fn what_a_poll_leaves_over_ends_the_next_sleep() {
    let (mut left, mut right) = ends();
    right.wire.listen("right").unwrap();
    let channels: Vec<_> =
        (0..EVENTS_PER_POLL_MAX + 1).map(|_| left.wire.connect("right").unwrap()).collect();
    while !right.poll().is_empty() {}
    while !left.poll().is_empty() {}
    for &channel in &channels {
        let mut gather = left.gather(1);
        left.wire.send(channel, &mut gather).unwrap();
    }
    left.wakeup.about_to_sleep();
    assert_eq!(left.poll().len(), EVENTS_PER_POLL_MAX);
    let slept = Instant::now();
    left.wait.sleep(Some(Duration::from_secs(10))).unwrap();
    left.wakeup.awake();
    assert!(slept.elapsed() < Duration::from_secs(9), "it fell asleep on a send that was done");
    assert_eq!(left.poll().len(), 1);
}
