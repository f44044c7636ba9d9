//! Listening and connecting.

use crate::bench::Bench;
use crate::subject::WireUnderTest;
use underlay::backend::{ChannelEnd, ConnectError, ListenError};

pub(crate) fn a_stopped_listener_keeps_its_channels_and_takes_no_more<W: WireUnderTest>(
    bench: &mut Bench<W>,
) {
    let (near, far) = bench.connect();
    let listening = bench.listening();
    bench.right.wire.stop_listening(listening.listener);
    bench.settle();
    let is_closed = bench.left.is_closed(near) || bench.right.is_closed(far);
    assert!(!is_closed, "stopping the listener closed its channel");
    bench.transfer(near, far, bench.seed, 50_000);
    let late = bench.left.connect(&listening.address);
    bench.until("the end of the late channel", |bench| {
        assert!(bench.right.accepted.is_empty(), "a channel was accepted after the listener was stopped");
        bench.left.is_closed(late)
    });
    assert!(!bench.left.record(late).is_open, "connected after the listener was stopped");
    assert!(matches!(bench.left.record(late).end, Some(ChannelEnd::ConnectFailed(_))));
    // The address is free again.
    let again = bench.right.wire.listen(&listening.address).unwrap();
    let third = bench.left.connect(&again.address);
    bench.until("a channel at the listener that came after it", |bench| {
        bench.left.record(third).is_open
            && bench.right.accepted.front().is_some_and(|(by, _)| *by == again.listener)
    });
}

pub(crate) fn connecting_to_nobody_fails_with_an_event<W: WireUnderTest>(bench: &mut Bench<W>) {
    for _ in 0..3 {
        let nobody = bench.site.nobody.clone();
        let channel = bench.left.connect(&nobody);
        bench.until("Closed", |bench| {
            assert!(!bench.left.record(channel).is_open, "connected to nobody");
            bench.left.is_closed(channel)
        });
        let reason = bench.left.record(channel).end.as_ref().unwrap();
        let ChannelEnd::ConnectFailed(error) = reason else { panic!("not a failure to connect: {reason}") };
        assert!(!error.to_string().is_empty());
    }
    // A connection that is given up before it can fail ends once, too.
    let nobody = bench.site.nobody.clone();
    let channel = bench.left.connect(&nobody);
    bench.left.wire.close(channel);
    bench.until("Closed", |bench| bench.left.is_closed(channel));
    bench.settle();
}

pub(crate) fn bad_addresses_are_refused<W: WireUnderTest>(bench: &mut Bench<W>) {
    let addresses = bench.site.bad_addresses;
    assert!(!addresses.is_empty(), "a wire has addresses that make no sense");
    for address in addresses {
        match bench.left.wire.connect(address) {
            Err(error @ ConnectError::Address { .. }) => explains(&error.to_string(), address),
            Err(other) => panic!("connecting to '{address}' failed for another reason: {other}"),
            Ok(_) => panic!("'{address}' was taken"),
        }
        match bench.left.wire.listen(address) {
            Err(error @ ListenError::Address { .. }) => explains(&error.to_string(), address),
            Err(other) => panic!("listening at '{address}' failed for another reason: {other}"),
            Ok(_) => panic!("'{address}' was taken"),
        }
    }
    let (near, far) = bench.connect();
    bench.transfer(near, far, bench.seed, 1_000);
}

pub(crate) fn an_address_in_use_is_refused<W: WireUnderTest>(bench: &mut Bench<W>) {
    let listening = bench.listening();
    for end in [&mut bench.left, &mut bench.right] {
        match end.wire.listen(&listening.address) {
            Err(ListenError::InUse { address }) => assert_eq!(address, listening.address),
            Err(other) => panic!("listening at an address in use failed for another reason: {other}"),
            Ok(_) => panic!("'{}' is listened at twice", listening.address),
        }
    }
    let (near, far) = bench.connect();
    bench.transfer(near, far, bench.seed, 1_000);
}

/// A message names the address and the form that it should have.
fn explains(message: &str, address: &str) {
    assert!(message.contains(address) && message.contains("expected"), "{message}");
}
