use super::*;
use crate::pool::PoolConfig;
use ::io_uring::opcode::Nop;
use std::io::Write;

/// An engine, or `None` where io_uring cannot be used.
fn engine(pool: &mut Pool) -> Option<UringEngine> {
    match UringEngine::open(TcpConfig { receive_buffers: 8, ..TcpConfig::default() }, pool) {
        Err(OpenError::IoUring { reason }) => {
            eprintln!("skipped: {reason}");
            None
        }
        outcome => Some(outcome.unwrap()),
    }
}

#[test]
fn more_operations_than_the_rings_hold_are_all_done_once() {
    let mut pool = Pool::new(PoolConfig::edge()).unwrap();
    let Some(mut engine) = engine(&mut pool) else { return };
    let ring = &mut engine.ring;
    let mut seen = vec![0; 10_000];
    for number in 0..seen.len() {
        // SAFETY: it does nothing.
        unsafe { ring.push(Nop::new().build().user_data(number as u64)) };
    }
    for _ in 0..100 {
        if ring.wants_enter() {
            ring.enter().unwrap();
        }
        while let Some(completion) = ring.next_completion() {
            seen[completion.user_data() as usize] += 1;
        }
    }
    assert!(seen.iter().all(|&times| times == 1));
    assert!(!ring.wants_enter());
}

/// Kernels before 6.10 complete each buffer by itself.
#[test]
fn without_bundles_it_receives_as_well() {
    let mut pool = Pool::new(PoolConfig::edge()).unwrap();
    let Some(mut engine) = engine(&mut pool) else { return };
    engine.has_bundles = false;
    let listening = engine.listen("127.0.0.1:0").unwrap();
    let mut peer = TcpStream::connect(&listening.address).unwrap();
    let bytes: Vec<u8> = (0..700_000_usize).map(|index| (index / 13) as u8).collect();
    let all = bytes.clone();
    let writer = std::thread::spawn(move || peer.write_all(&all).map(|()| peer));
    let (mut came, mut events) = (Vec::new(), Vec::new());
    while came.len() < bytes.len() {
        engine.sleep(Some(Duration::from_secs(1))).unwrap();
        engine.poll(&mut pool, &mut events).unwrap();
        for event in events.drain(..) {
            if let WireEvent::Received { segment, .. } = event {
                came.extend_from_slice(&segment);
            }
        }
    }
    assert!(came == bytes);
    drop(writer.join().unwrap());
}

#[test]
fn names_that_are_out_of_date_are_ignored() {
    let mut pool = Pool::new(PoolConfig::edge()).unwrap();
    let Some(mut engine) = engine(&mut pool) else { return };
    let listening = engine.listen("127.0.0.1:0").unwrap();
    let _peer = TcpStream::connect(&listening.address).unwrap();
    let mut events = Vec::new();
    let channel = loop {
        engine.poll(&mut pool, &mut events).unwrap();
        if let Some(WireEvent::Accepted { channel, .. }) = events.pop() {
            break channel;
        }
    };
    let old = Channel { generation: channel.generation.wrapping_sub(1), ..channel };
    engine.sent(old, 5);
    engine.received(old, 0, 0);
    engine.connecting_ended(old, -libc::ECONNREFUSED);
    engine.operation_ended(old);
    engine.poll(&mut pool, &mut events).unwrap();
    assert!(events.is_empty(), "{events:?}");
    assert_eq!(engine.channels.at(channel).unwrap().operations, 1, "it still receives");
    engine.close(channel);
    assert!(engine.channels.at(channel).is_some(), "kept until the kernel has let go");
    while events.is_empty() {
        engine.poll(&mut pool, &mut events).unwrap();
    }
    assert!(matches!(events[..], [WireEvent::Closed { reason: ChannelEnd::Local, .. }]), "{events:?}");
    assert!(engine.channels.at(channel).is_none());
}
