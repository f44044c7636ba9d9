//! One reply destination, many clients.

use super::rig::{LIMIT, Peer, Rig, fresh_address, text};
use crate::rpc::{Client, ClientConfig, ClientError, ReplyDestination};

#[test]
fn replies_find_their_calls_also_over_another_clients_connection() {
    let destination = ReplyDestination::new(8);
    let rig = || Rig::with(destination.clone(), ClientConfig::default(), Peer::default());
    let (mut left, mut right) = (rig(), rig());
    let (mut to_left, mut to_right) =
        (left.start("echo", b"left", LIMIT), right.start("echo", b"right", LIMIT));
    let (of_left, of_right) = (left.requests().remove(0), right.requests().remove(0));
    assert_eq!(of_left.head.reply_address, of_right.head.reply_address);
    assert_ne!(of_left.head.correlation_id, of_right.head.correlation_id);
    // As a broker may do it that has both connections: each reply over the other one.
    right.reply(&of_left.head, b"for the left", |_| {});
    left.reply(&of_right.head, b"for the right", |_| {});
    assert_eq!(text(&to_left.try_take().unwrap().unwrap()), "for the left");
    assert_eq!(text(&to_right.try_take().unwrap().unwrap()), "for the right");
    // What the left client still knows of its call is no more than its slot's next call replaces.
    let mut again = left.start("echo", b"again", LIMIT);
    let request = left.requests().remove(0);
    left.reply(&request.head, b"to the next", |_| {});
    assert_eq!(text(&again.try_take().unwrap().unwrap()), "to the next");
    let Rig { client, peer } = left;
    drop((client, peer));
}

#[test]
fn a_reply_of_a_dropped_clients_call_does_not_reach_the_next_client_with_its_shard() {
    let destination = ReplyDestination::new(1);
    let mut first = Rig::with(destination.clone(), ClientConfig::default(), Peer::default());
    let call = first.start("echo", b"x", LIMIT);
    let late = first.requests().remove(0);
    let Rig { client, peer } = first;
    drop((client, peer, call));
    let mut second = Rig::with(destination, ClientConfig::default(), Peer::default());
    let mut call = second.start("echo", b"y", LIMIT);
    let request = second.requests().remove(0);
    assert_eq!(
        late.head.correlation_id.0 >> 32,
        request.head.correlation_id.0 >> 32,
        "the same shard and slot"
    );
    second.reply(&late.head, b"late", |_| {});
    assert!(call.try_take().is_none());
    assert_eq!(second.client.call_stats().late_replies, 1);
}

#[test]
fn there_are_256_shards_and_each_is_used_again() {
    let destination = ReplyDestination::new(4);
    let mut shards: Vec<_> = (0..256).map(|_| destination.shard().unwrap()).collect();
    let full = Client::connect_as(&destination, &fresh_address(), ClientConfig::default());
    assert!(matches!(full, Err(ClientError::TooManyClients)), "{full:?}");
    // A clone keeps it, as a handle does that outlives its client.
    let clone = shards[100].clone();
    drop(shards.remove(100));
    assert!(destination.shard().is_none());
    drop(clone);
    let again = destination.shard().unwrap();
    assert_eq!(again.slots.reserve().unwrap().correlation().shard(), 100);
}

#[test]
fn clients_that_come_and_go_use_no_shard_up() {
    let destination = ReplyDestination::new(4);
    let nobody = fresh_address();
    for _ in 0..257 {
        let mut config = ClientConfig::default();
        config.driver.tcp.engine = crate::backend::tcp::EngineChoice::Epoll;
        config.connect_timeout = std::time::Duration::from_micros(100);
        let refused = Client::connect_as(&destination, &nobody, config);
        assert!(matches!(refused, Err(ClientError::NotConnected { .. })), "{refused:?}");
    }
}
