//! A million messages to a peer that is away: they are not taken, and memory stays bounded.

use crate::part::{QUEUE, Times, over_rdma};
use crate::process::Process;
use crate::stage::Stage;
use crate::support::{ClientDriver, PATIENCE, PLENTY, client_config, room};
use std::collections::BTreeMap;
use std::time::Instant;
use underlay::backend::inproc::InprocNetwork;
use underlay::driver::Address;
use underlay::message::Message;
use underlay::proto::LinkId;
use underlay::proto::control::LinkRole;
use underlay::proto::record::MessageKind;

/// Nobody notices in the time of the test that the other one is silent.
const TIMES: Times = Times { idle_timeout_ms: 600_000, session_expiry_ms: 60_000, failover_after_ms: 1_000 };

const OFFERED: u32 = 1_000_000;
/// What is taken at most: what may wait in the queue, on its way to the consumer, and with the producer.
const TAKEN_MAX: u64 = QUEUED_MAX + 8_192 + 1_024;
/// As many wait in a queue, unless it is told otherwise.
const QUEUED_MAX: u64 = 10_000;
const BODY_BYTES: usize = 1_000;
/// Twice what the bodies take, and then some for everything else.
const BYTES_MAX: u64 = 2 * TAKEN_MAX * BODY_BYTES as u64 + (32 << 20);

pub(crate) fn messages_to_a_peer_that_is_away_are_pushed_back(stage: &Stage) {
    let offers = stage.messages(OFFERED);
    let broker = stage.broker(TIMES);
    let Some(way) = stage.way(&broker) else { return };
    let mut consumer = connect(stage, 1, &way.address());
    consumer.attach_and_wait(LinkRole::Consumer, QUEUE, PLENTY);
    let mut producer = connect(stage, 2, &broker.addresses[0]);
    let link = producer.attach_and_wait(LinkRole::Producer, QUEUE, room(0));
    // Nothing gets through, and nobody turns the consumer's driver.
    way.hang();
    let before = resident_bytes(&broker);
    let (mut taken, mut refused) = (0_u64, BTreeMap::new());
    // A slow machine takes longer to fill the queue. At the end it has been pushed back, and so is told when it may go on.
    let (mut offered, mut is_pushed_back, end) = (0, false, Instant::now() + PATIENCE);
    while offered < offers || ((taken <= QUEUED_MAX || !is_pushed_back) && Instant::now() < end) {
        let outcome = offer(&mut producer, link, taken);
        is_pushed_back = outcome.is_err();
        match outcome {
            Ok(()) => taken += 1,
            Err(reason) => *refused.entry(reason).or_insert(0_u64) += 1,
        }
        offered += 1;
        if offered % 64 == 0 {
            producer.driver.turn().unwrap();
        }
    }
    let after = resident_bytes(&broker);
    println!("ledger of messages to a peer that is away");
    println!("  offered       {offered} = taken {taken} + pushed back {refused:?}");
    println!("  broker holds  {before} bytes before, {after} after");
    assert_eq!(taken + refused.values().sum::<u64>(), u64::from(offered));
    assert!(taken > QUEUED_MAX && taken <= TAKEN_MAX, "{taken}");
    assert!(after <= before + BYTES_MAX, "it keeps what it has not taken");
    producer.state().writable.clear();
    // The peer is back: what was taken comes, once and in order, and nothing else.
    way.pass();
    arrive(&mut producer, &mut consumer, taken);
    for (number, message) in consumer.state().received.iter().enumerate() {
        assert_eq!(message.body.to_vec()[..8], (number as u64).to_le_bytes());
    }
    producer.run_until(|client| !client.writable.is_empty());
    offer(&mut producer, link, taken).unwrap();
    arrive(&mut producer, &mut consumer, taken + 1);
}

/// Until so many have arrived. The producer goes on, too: some of it may wait there still.
fn arrive(producer: &mut ClientDriver, consumer: &mut ClientDriver, messages: u64) {
    let end = Instant::now() + PATIENCE;
    loop {
        let arrived = consumer.state().received.len() as u64;
        if arrived >= messages {
            return;
        }
        assert!(Instant::now() < end, "of {messages} have arrived {arrived}");
        producer.driver.turn().unwrap();
        consumer.driver.turn().unwrap();
        std::thread::yield_now();
    }
}

fn connect(stage: &Stage, number: u8, address: &str) -> ClientDriver {
    let mut config = client_config();
    if stage.is_rdma() {
        over_rdma(&mut config, stage.source());
        // What it keeps lies in the buffers that it was received into, of 16 KiB each.
        config.pool.bytes_max = 512 << 20;
    }
    config.connection.parameters.idle_timeout_ms = TIMES.idle_timeout_ms;
    let mut client =
        ClientDriver::connect(config, number, InprocNetwork::new(), &address.parse::<Address>().unwrap());
    client.run_until(|client| client.connection.is_some());
    client
}

/// Offers the next message once.
fn offer(producer: &mut ClientDriver, link: LinkId, number: u64) -> Result<(), String> {
    let mut bytes = [0; BODY_BYTES];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    let message: Message = producer.message(link, MessageKind::Message, &bytes);
    let connection = producer.connection;
    producer.core().send(connection, message).map_err(|(error, _)| error.to_string())
}

fn resident_bytes(broker: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
