//! Drivers whose pool runs dry.

use super::stage::*;
use crate::driver::DriverConfig;
use crate::message::Message;
use crate::pool::{BUFFER_CLASSES, Body, PoolConfig};
use crate::proto::control::CloseCode;
use crate::proto::record::MessageKind;

/// A pool of so many slabs.
fn tight(slabs: usize) -> DriverConfig {
    let slab_bytes = 64 << 10;
    DriverConfig {
        pool: PoolConfig { bytes_max: slabs * slab_bytes, slab_bytes, huge_pages: false },
        ..config()
    }
}

/// Takes everything that the pool of a driver has, after it has got a slab of each size: a size that has none when the
/// budget is used up never gets one.
fn drain(stage: &mut Stage, number: usize) -> Vec<crate::pool::BufferMut> {
    let pool = stage.core(number).pool();
    BUFFER_CLASSES.iter().for_each(|size| drop(pool.buffer(*size).unwrap()));
    BUFFER_CLASSES
        .iter()
        .flat_map(|size| std::iter::from_fn(|| pool.buffer(*size).ok()).collect::<Vec<_>>())
        .collect()
}

#[test]
fn what_waited_for_buffers_arrives_when_they_come_back() {
    let mut stage = Stage::with([config(), tight(30)]);
    let id = stage.connect(0, 1);
    let held = drain(&mut stage, 1);
    assert!(!held.is_empty());
    // Bodies of many segments need a list, which is a buffer of the receiver.
    for tag in 0..100 {
        stage.send(0, id, None, &content(tag, 150_000 * (tag % 2) + tag)).unwrap();
    }
    for _ in 0..300 {
        stage.turn();
    }
    assert!(stage.drivers[1].stats().pool_stalls > 0, "the pool was never short");
    assert!(stage.recorder(1).messages.len() < 100);
    drop(held);
    stage.until(|stage| stage.recorder(1).messages.len() == 100);
    for (tag, (_, message)) in std::mem::take(&mut stage.recorder(1).messages).into_iter().enumerate() {
        assert!(message.body == content(tag, 150_000 * (tag % 2) + tag)[..], "message {tag}");
    }
}

/// The retries cost the same each turn, however long the shortage lasts.
#[test]
fn a_shortage_costs_each_turn_the_same() {
    let mut stage = Stage::with([config(), tight(30)]);
    let id = stage.connect(0, 1);
    let held = drain(&mut stage, 1);
    (0..50).for_each(|tag| stage.send(0, id, None, &content(tag, 150_000)).unwrap());
    for _ in 0..100 {
        stage.turn();
    }
    let before = stage.drivers[1].stats().pool_stalls;
    for _ in 0..100 {
        stage.drivers[1].turn().unwrap();
    }
    let stalls = stage.drivers[1].stats().pool_stalls - before;
    assert!((100..=400).contains(&stalls), "{stalls} in 100 turns");
    drop(held);
}

/// The peer closes, and its channel with it, while what it sent still waits for buffers.
#[test]
fn what_a_peer_sent_before_it_closed_outlasts_a_shortage() {
    let mut stage = Stage::with([config(), tight(30)]);
    let id = stage.connect(0, 1);
    let held = drain(&mut stage, 1);
    // In more pieces than a body names without a list, which is a buffer, and without the chunks that wait for grants.
    let core = stage.core(0);
    let mut body = Body::new();
    for part in content(7, 9000).chunks(1000) {
        let mut buffer = core.pool().buffer(4096).unwrap();
        buffer.put_slice(part);
        body.push(buffer.split(), core.pool()).unwrap();
    }
    core.send(id, Message::new(MessageKind::Reply, body)).map_err(|(error, _)| error).unwrap();
    core.close(id, CloseCode::Normal, "done");
    for _ in 0..300 {
        stage.turn();
    }
    assert_eq!(stage.recorder(1).said, ["opened"]);
    // The end that closed gives up waiting for the other's answer, so that the channel is gone before the buffers come.
    stage.until(|stage| stage.core(0).connections() == 0);
    stage.settle();
    drop(held);
    stage.until(|stage| (0..2).all(|number| stage.core(number).connections() == 0));
    let (_, message) = stage.recorder(1).messages.pop_front().unwrap();
    assert!(message.body == content(7, 9000)[..]);
    assert_eq!(stage.recorder(1).said, ["opened", "message", "closed: peer"]);
}
