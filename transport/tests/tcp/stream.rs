//! What goes in comes out: in order, whole, unchanged.

use crate::end::{End, Pair, Random, config, narrow, with_plain_peer};
use std::collections::VecDeque;
use std::io::Write;
use underlay::backend::tcp::{EngineChoice, TcpConfig};
use underlay::backend::{Channel, Wire, WireEvent};
use underlay::pool::{GATHER_SEGMENTS_MAX, GatherList, PoolConfig, Segment};

crate::on_both_engines!(
    random_data_comes_back_whatever_its_cuts,
    a_full_gather_list_is_one_send,
    an_empty_send_is_done_at_once,
    receiving_pauses_without_loss_when_the_pool_is_empty,
    many_channels_share_few_buffers,
    received_bytes_lie_where_the_kernel_put_them,
    one_channel_takes_all_that_others_send_in_between,
);

/// Sends back whatever comes, by reference.
struct Echo {
    channel: Channel,
    waiting: VecDeque<Segment>,
    is_sending: bool,
}

impl Echo {
    fn step(&mut self, end: &mut End) {
        end.poll();
        for event in end.events.drain(..) {
            match event {
                WireEvent::Received { segment, .. } => self.waiting.push_back(segment),
                WireEvent::Sent { .. } => self.is_sending = false,
                other => panic!("{other:?}"),
            }
        }
        if !self.is_sending && !self.waiting.is_empty() {
            let mut gather = GatherList::new();
            while gather.room() > 0
                && let Some(segment) = self.waiting.pop_front()
            {
                gather.push(segment);
            }
            end.wire.send(self.channel, &mut gather).unwrap();
            self.is_sending = true;
        }
    }
}

fn random_data_comes_back_whatever_its_cuts(engine: EngineChoice) {
    for (seed, config) in [(1, config(engine)), (2, config(engine)), (3, narrow(engine))] {
        let Pair { mut client, mut server, near, far } = Pair::open(config);
        let mut random = Random::seeded(seed);
        let mut echo = Echo { channel: far, waiting: VecDeque::new(), is_sending: false };
        let mut expected = Vec::new();
        let mut came = Vec::new();
        for round in 0..60 {
            let most = [10, 2_000, 20_000, 300_000][round % 4];
            let count = 1 + random.below(most);
            let bytes = random.bytes(count);
            let part = 1 + random.below(most.min(60_000));
            let mut gather = client.gather(&bytes, || 1 + random.below(part));
            client.wire.send(near, &mut gather).unwrap();
            expected.extend_from_slice(&bytes);
            let mut sent = false;
            while !sent || came.len() < expected.len() {
                echo.step(&mut server);
                client.poll();
                came.extend(client.take_received(near));
                sent |= client.take(|event| matches!(event, WireEvent::Sent { .. }).then_some(())).is_some();
            }
            assert!(came == expected, "seed {seed}, round {round}");
        }
        assert!(client.events.is_empty(), "{:?}", client.events);
    }
}

fn a_full_gather_list_is_one_send(engine: EngineChoice) {
    let Pair { mut client, mut server, near, far } = Pair::open(config(engine));
    let bytes = Random::seeded(4).bytes(GATHER_SEGMENTS_MAX * 700);
    let mut gather = client.gather(&bytes, || 700);
    assert_eq!((gather.segments().len(), gather.room()), (GATHER_SEGMENTS_MAX, 0));
    client.wire.send(near, &mut gather).unwrap();
    assert_eq!(gather.room(), GATHER_SEGMENTS_MAX, "the caller can fill the list again");
    let mut came = Vec::new();
    while came.len() < bytes.len() {
        client.poll();
        server.poll();
        came.extend(server.take_received(far));
    }
    assert!(came == bytes);
    client.until(|event| matches!(event, WireEvent::Sent { .. }).then_some(()));
    assert!(client.events.is_empty(), "one send, one Sent: {:?}", client.events);
}

fn an_empty_send_is_done_at_once(engine: EngineChoice) {
    let Pair { mut client, near, server: _server, .. } = Pair::open(config(engine));
    client.wire.send(near, &mut GatherList::new()).unwrap();
    client.until(|event| matches!(event, WireEvent::Sent { .. }).then_some(()));
}

/// Four buffers of 16 KiB, and not one more.
fn four_buffers(engine: EngineChoice) -> End {
    let pool = PoolConfig { bytes_max: 65_536, slab_bytes: 65_536, huge_pages: false };
    End::with_pool(TcpConfig { receive_buffers: 4, receive_buffer_bytes: 16_384, ..config(engine) }, pool)
}

fn receiving_pauses_without_loss_when_the_pool_is_empty(engine: EngineChoice) {
    let mut end = four_buffers(engine);
    let (channel, mut peer) = with_plain_peer(&mut end);
    let bytes = Random::seeded(5).bytes(1 << 20);
    let all = bytes.clone();
    let writer = std::thread::spawn(move || peer.write_all(&all).map(|()| peer));
    let (mut came, mut pauses) = (Vec::new(), 0);
    while came.len() < bytes.len() {
        let mut quiet = 0;
        // All segments are kept until nothing comes any more.
        while quiet < 200 {
            let before = end.events.len();
            end.poll();
            quiet = if end.events.len() == before { quiet + 1 } else { 0 };
            std::thread::yield_now();
        }
        pauses += usize::from(end.pool.buffer(16_384).is_err());
        came.extend(end.take_received(channel));
    }
    assert!(came == bytes);
    assert!(pauses > 5, "the pool was empty {pauses} times");
    drop(writer.join().unwrap());
}

fn many_channels_share_few_buffers(engine: EngineChoice) {
    let mut end = four_buffers(engine);
    let mut others: Vec<_> = (0..12).map(|_| with_plain_peer(&mut end)).collect();
    let bytes = Random::seeded(6).bytes(12 * 100_000);
    let channels: Vec<_> = others.iter().map(|(channel, _)| *channel).collect();
    let mut came: Vec<Vec<u8>> = vec![Vec::new(); channels.len()];
    std::thread::scope(|scope| {
        for ((_, peer), part) in others.iter_mut().zip(bytes.chunks(100_000)) {
            scope.spawn(move || peer.write_all(part).unwrap());
        }
        while came.iter().map(Vec::len).sum::<usize>() < bytes.len() {
            end.poll();
            for (channel, came) in channels.iter().zip(&mut came) {
                came.extend(end.take_received(*channel));
            }
            std::thread::yield_now();
        }
    });
    assert!(came.concat() == bytes);
}

fn received_bytes_lie_where_the_kernel_put_them(engine: EngineChoice) {
    // The pool has four buffers, and here are their addresses.
    let pool_config = PoolConfig { bytes_max: 65_536, slab_bytes: 65_536, huge_pages: false };
    let mut pool = underlay::pool::Pool::new(pool_config).unwrap();
    let buffers: Vec<_> = (0..4).map(|_| pool.buffer(16_384).unwrap()).collect();
    let places: Vec<_> =
        buffers.iter().map(|buffer| buffer.written().as_ptr_range().start as usize).collect();
    drop(buffers);
    let config = TcpConfig { receive_buffers: 4, receive_buffer_bytes: 16_384, ..config(engine) };
    let wire = underlay::backend::tcp::TcpWire::open(config, &mut pool).unwrap();
    let mut end = End { pool, wire, events: Vec::new(), started: std::time::Instant::now() };
    let (channel, mut peer) = with_plain_peer(&mut end);
    peer.write_all(&[7; 5000]).unwrap();
    let mut came = 0;
    while came < 5000 {
        let segment = end.until(|event| match event {
            WireEvent::Received { segment, .. } => Some(segment.clone()),
            _ => None,
        });
        let start = segment.as_ptr() as usize;
        let inside = places.iter().any(|place| (*place..*place + 16_384).contains(&start));
        assert!(inside, "{start:x} is not in {places:x?}");
        came += segment.len();
    }
    assert_eq!(end.pool.stats().body_copies, 0);
    end.wire.close(channel);
}

fn joined(segments: &[Segment]) -> Vec<u8> {
    segments.iter().flat_map(|segment| segment.iter().copied()).collect()
}

/// Channels that send in turns use the same buffers; each must see its own bytes only.
fn one_channel_takes_all_that_others_send_in_between(engine: EngineChoice) {
    let mut end = End::open(config(engine));
    let mut peers: Vec<_> = (0..6).map(|_| with_plain_peer(&mut end)).collect();
    let mut random = Random::seeded(7);
    let mut kept = Vec::new();
    for round in 0..300_usize {
        let which = random.below(peers.len());
        let count = 1 + random.below(9000);
        let bytes = random.bytes(count);
        peers[which].1.write_all(&bytes).unwrap();
        let channel = peers[which].0;
        let mut segments: Vec<Segment> = Vec::new();
        while segments.iter().map(|segment| segment.len()).sum::<usize>() < bytes.len() {
            segments.push(end.until(|event| match event {
                WireEvent::Received { channel: from, segment } => {
                    assert_eq!(*from, channel, "round {round}");
                    Some(segment.clone())
                }
                _ => None,
            }));
        }
        kept.push((bytes, segments));
        if kept.len() > 20 {
            let (bytes, segments) = kept.remove(random.below(20));
            assert!(joined(&segments) == bytes, "round {round}: changed while it was kept");
        }
    }
}
