//! Connecting, and what can go wrong at each step of it; closing in each phase of it.

use super::memory::REGISTRATIONS;
use super::*;
use crate::backend::rdma::verbs::fake::Fault;

/// Memory that may not be registered is looked for elsewhere some times.
fn inject(rig: &Rig, end: usize, fault: Fault) {
    let times = if matches!(fault, Fault::RegisterFails(_)) { REGISTRATIONS } else { 1 };
    (0..times).for_each(|_| rig.network.inject(rig.ends[end].name, fault));
}

#[test]
fn each_step_of_connecting_can_fail_and_leaves_nothing() {
    let here = [
        (Fault::AddressFails(libc::EHOSTUNREACH), "No route to host"),
        (Fault::RouteFails(libc::ETIMEDOUT), "timed out"),
        (Fault::ConnectFails(libc::ETIMEDOUT), "timed out"),
        (Fault::ConnectRejected(10), "stale connection"),
        (Fault::ConnectRejected(8), "nobody accepts"),
        (Fault::ConnectionManagerFails(libc::EADDRNOTAVAIL), "assign requested address"),
        (Fault::DeviceFails(libc::ENOMEM), "Cannot allocate memory"),
        (Fault::CreateQueuePairFails(libc::ENOMEM), "no queue pair could be made"),
        (Fault::RegisterFails(libc::ENOMEM), "memlock"),
        (Fault::ReceivesRefused { after: 3 }, "posting a receive request failed"),
    ];
    for (fault, word) in here {
        let mut rig = Rig::new(FakeNetwork::in_turn(), 2);
        let place = rig.ends[1].listen().1;
        inject(&rig, 0, fault);
        let channel = rig.ends[0].engine().connect(&place).unwrap();
        assert_not_connected(&rig.end_of(0, channel), word);
        rig.rounds(3);
        // The next one comes up.
        let (near, far) = rig.connect(0, 1, &place);
        rig.pass((0, near), (1, far), &content(50_000));
        rig.ends[0].engine().close(near);
        rig.end_of(0, near);
        rig.end_of(1, far);
        rig.assert_empty();
    }
}

#[test]
fn each_step_of_accepting_can_fail_and_both_ends_say_why() {
    let there = [
        (Fault::DeviceFails(libc::ENOMEM), "Cannot allocate memory"),
        (Fault::CreateQueuePairFails(libc::ENOMEM), "no queue pair could be made"),
        (Fault::RegisterFails(libc::ENOMEM), "pin no"),
        (Fault::ReceivesRefused { after: 0 }, "posting a receive request failed"),
    ];
    for (fault, word) in there {
        let mut rig = Rig::new(FakeNetwork::in_turn(), 2);
        let place = rig.ends[1].listen().1;
        inject(&rig, 1, fault);
        let channel = rig.ends[0].engine().connect(&place).unwrap();
        assert_not_connected(&rig.end_of(0, channel), word);
        let failed = |event: &WireEvent| match event {
            WireEvent::AcceptFailed { error, .. } => error.to_string().contains(word),
            _ => false,
        };
        assert!(rig.ends[1].said.iter().any(failed), "{:?}", rig.ends[1].said);
        rig.ends[1].said.clear();
        rig.connect(0, 1, &place);
    }
}

#[test]
fn where_nobody_listens_connecting_says_so() {
    let mut rig = Rig::new(FakeNetwork::in_turn(), 2);
    let channel = rig.ends[0].engine().connect("10.0.0.2:7").unwrap();
    assert_not_connected(&rig.end_of(0, channel), "nobody accepts RDMA connections there");
    let channel = rig.ends[0].engine().connect("10.99.0.1:7").unwrap();
    assert_not_connected(&rig.end_of(0, channel), "No route to host");
    rig.assert_empty();
}

/// After any number of steps: one end closes, and everything is as before.
#[test]
fn a_close_at_any_time_while_it_comes_up_leaves_nothing() {
    for steps in 0..30 {
        let mut rig = Rig::new(FakeNetwork::in_turn(), 2);
        let place = rig.ends[1].listen().1;
        let channel = rig.ends[0].engine().connect(&place).unwrap();
        for step in 0..steps {
            match step % 3 {
                0 => rig.ends[0].poll(),
                1 => rig.ends[1].poll(),
                _ => drop(rig.network.step()),
            }
        }
        rig.ends[0].engine().close(channel);
        assert!(matches!(rig.end_of(0, channel), ChannelEnd::Local));
        rig.rounds(5);
        let accepted = rig.ends[1].said.iter().find_map(|event| match event {
            WireEvent::Accepted { channel, .. } => Some(*channel),
            _ => None,
        });
        // Who was told of a channel is told of its end.
        if let Some(far) = accepted {
            assert!(matches!(rig.end_of(1, far), ChannelEnd::Peer), "after {steps} steps");
        }
        rig.assert_empty();
    }
}

#[test]
fn a_listener_that_stops_refuses_who_has_asked() {
    for is_fetched in [false, true] {
        let mut rig = Rig::new(FakeNetwork::in_turn(), 2);
        let (listener, place) = rig.ends[1].listen();
        let channel = rig.ends[0].engine().connect(&place).unwrap();
        for _ in 0..6 {
            rig.ends[0].poll();
            rig.network.run_until_quiet();
        }
        if is_fetched {
            rig.ends[1].engine().fetch_connection_events().unwrap();
            assert_eq!(rig.ends[1].engine().pending.len(), 1);
        }
        rig.ends[1].engine().stop_listening(listener);
        // Its number is used again by another.
        rig.ends[1].listen();
        let ChannelEnd::ConnectFailed(_) = rig.end_of(0, channel) else { panic!("it cannot come up") };
        rig.rounds(3);
        assert!(rig.ends[1].said.is_empty(), "{:?}", rig.ends[1].said);
        rig.assert_empty();
    }
}

#[test]
fn a_device_that_is_not_the_configured_one_is_refused_by_name() {
    let other = RdmaConfig { device: Some("mlx5_7".to_owned()), ..config() };
    let mut rig = Rig::with(FakeNetwork::in_turn(), &[other, config()]);
    let place = rig.ends[1].listen().1;
    let channel = rig.ends[0].engine().connect(&place).unwrap();
    assert_not_connected(&rig.end_of(0, channel), "'fake0', and the configuration asks for 'mlx5_7'");
    rig.assert_empty();
}

#[test]
fn more_connections_than_a_device_takes_are_refused_with_the_way_out() {
    let few = RdmaConfig { receive_slots_max: 64, ..config() };
    let mut rig = Rig::with(FakeNetwork::in_turn(), &[config(), few]);
    let place = rig.ends[1].listen().1;
    let channels: Vec<_> = (0..4).map(|_| rig.connect(0, 1, &place)).collect();
    let refused = rig.ends[0].engine().connect(&place).unwrap();
    assert_not_connected(&rig.end_of(0, refused), "has 4 connections, which is its limit here: raise rdma");
    rig.ends[1].said.clear();
    for (near, far) in &channels {
        rig.pass((0, *near), (1, *far), &content(30_000));
    }
    rig.ends[0].engine().close(channels[0].0);
    rig.end_of(1, channels[0].1);
    rig.connect(0, 1, &place);
}

#[test]
fn how_long_acknowledgements_are_waited_for_is_set_at_both_ends() {
    let timeouts = [Some(Duration::from_millis(16)), None];
    for order in [[0, 1], [1, 0]] {
        let configs = order.map(|index| RdmaConfig { acknowledgement_timeout: timeouts[index], ..config() });
        let mut rig = Rig::with(FakeNetwork::in_turn(), &configs);
        let place = rig.ends[1].listen().1;
        let (near, far) = rig.connect(0, 1, &place);
        for ((end, channel), index) in [(0, near), (1, far)].into_iter().zip(order) {
            let identifier = rig.ends[end].identifier(channel);
            let set = rig.network.acknowledgement_doublings(rig.ends[end].name, identifier);
            // 4.096 us doubled twelve times are 16.8 ms.
            assert_eq!(set, timeouts[index].map(|_| 12), "end {end}");
        }
    }
}

#[test]
fn a_system_that_cannot_set_it_is_named_with_the_way_out() {
    for poor in [0, 1] {
        let config = RdmaConfig { acknowledgement_timeout: Some(Duration::from_millis(16)), ..config() };
        let mut rig = Rig::with(FakeNetwork::in_turn(), &[config.clone(), config]);
        rig.network.inject(rig.ends[poor].name, Fault::AcknowledgementTimeoutFails(libc::ENOSYS));
        let place = rig.ends[1].listen().1;
        let channel = rig.ends[0].engine().connect(&place).unwrap();
        let reason = rig.end_of(0, channel);
        assert_not_connected(&reason, "cannot set how long acknowledgements are waited for");
        if poor == 0 {
            assert_not_connected(&reason, "set rdma acknowledgement_timeout to none");
        }
        rig.rounds(3);
        rig.connect(0, 1, &place);
    }
}
