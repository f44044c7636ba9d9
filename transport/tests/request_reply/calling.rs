//! One client on its own thread.

use crate::support::{LIMIT, WAYS, echo, execute, named};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use underlay::rpc::{CallError, Client, Lane, ReplyDestination, ServiceError};

#[test]
fn a_call_brings_its_bytes_back_whatever_their_number_and_lane() {
    for way in WAYS {
        let service = way.serve(echo);
        let mut client = Client::connect(service.address(), way.client()).unwrap();
        for bytes in [0, 1, 8, 100, 1024, 2047, 2048, 4096, 16_384, 65_536, 131_072, 1_000_003] {
            for lane in Lane::ALL {
                let body = &named(bytes as u64, bytes)[..bytes];
                let body = client.body(body).unwrap();
                let call = client.start("echo", body, lane, LIMIT);
                let reply = client.wait(call).unwrap();
                assert!(*reply.body() == named(bytes as u64, bytes)[..bytes], "{bytes} bytes over {way:?}");
                assert_eq!(reply.into_message().head.lane, lane);
            }
        }
        assert_eq!(client.call_stats().replies, 36);
        drop(client);
        assert_eq!(service.stop().unwrap().requests, 36);
    }
}

#[test]
fn calls_may_be_awaited_in_any_order() {
    for way in WAYS {
        let service = way.serve(echo);
        let mut client = Client::connect(service.address(), way.client()).unwrap();
        let mut calls: Vec<_> = (0..200_u64)
            .map(|number| {
                let lane = Lane::ALL[number as usize % 3];
                let body = client.body(&named(number, 64 + (number as usize * 97) % 9000)).unwrap();
                (number, client.start("echo", body, lane, LIMIT))
            })
            .collect();
        calls.sort_by_key(|(number, _)| number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for (number, call) in calls {
            let reply = client.wait(call).unwrap();
            assert!(*reply.body() == named(number, 64 + (number as usize * 97) % 9000)[..]);
        }
        service.stop().unwrap();
    }
}

#[test]
fn futures_run_inside_block_on() {
    for way in WAYS {
        let service = way.serve(echo);
        let mut client = Client::connect(service.address(), way.client()).unwrap();
        let handle = client.handle();
        let sum = client
            .block_on(async {
                let mut sum = 0;
                for number in 0..50_u64 {
                    let (left, right) =
                        (handle.call("echo", &[1], LIMIT), handle.call("echo", &named(number, 9), LIMIT));
                    // Awaited against the order in which they were started.
                    assert_eq!(*right.await?.body(), named(number, 9)[..]);
                    sum += left.await?.body().len();
                }
                Ok::<_, CallError>(sum)
            })
            .unwrap();
        assert_eq!(sum, Ok(50));
    }
}

#[test]
fn block_on_is_woken_by_other_threads() {
    for way in WAYS {
        let service = way.serve(echo);
        let mut client = Client::connect(service.address(), way.client()).unwrap();
        let handle = client.handle();
        for number in 0..20 {
            let (sender, receiver) = mpsc::channel();
            let calling = handle.clone();
            // The call is started, and its future handed over, by a thread that is not the driver's.
            let other = thread::spawn(move || {
                thread::sleep(Duration::from_millis(number % 4));
                sender.send(calling.call("echo", &named(number, 8), LIMIT)).unwrap();
            });
            other.join().unwrap();
            let call = receiver.recv().unwrap();
            assert_eq!(*client.block_on(call).unwrap().unwrap().body(), named(number, 8)[..]);
        }
    }
}

#[test]
fn urgent_requests_are_handled_before_bulk_that_was_started_first() {
    for way in WAYS {
        let (sender, order) = mpsc::channel();
        let service = way.serve(move |request| {
            sender.send(request.head().lane).unwrap();
            Ok(request.take_body())
        });
        let mut client = Client::connect(service.address(), way.client()).unwrap();
        client.call("echo", b"attached", LIMIT).unwrap();
        order.recv().unwrap();
        let lanes = [Lane::Bulk, Lane::Bulk, Lane::Normal, Lane::Urgent];
        let calls = lanes.map(|lane| {
            let body = client.body(&[7; 300_000][..if lane == Lane::Bulk { 300_000 } else { 100 }]).unwrap();
            client.start("echo", body, lane, LIMIT)
        });
        for call in calls {
            client.wait(call).unwrap();
        }
        let order: Vec<_> = order.try_iter().collect();
        assert_eq!(order, [Lane::Urgent, Lane::Normal, Lane::Bulk, Lane::Bulk], "over {way:?}");
    }
}

#[test]
fn a_failing_service_says_what_is_wrong() {
    for way in WAYS {
        let service = way.serve(|request| match request.body().len() {
            0 => Err(ServiceError { code: 42, text: "nothing\nwas said".to_owned() }),
            _ => Err(ServiceError { code: u32::MAX, text: "é".repeat(1000) }),
        });
        let mut client = Client::connect(service.address(), way.client()).unwrap();
        let error = client.call("echo", b"", LIMIT).unwrap_err();
        let expected = ServiceError { code: 42, text: "nothing\nwas said".to_owned() };
        assert_eq!(error, CallError::Service(expected));
        let error = client.call("echo", b"x", LIMIT).unwrap_err();
        let CallError::Service(ServiceError { code: u32::MAX, text }) = error else { panic!("{error}") };
        assert_eq!(text, "é".repeat(512), "cut at a character");
        drop(client);
        assert_eq!(service.stop().unwrap().failures, 2);
    }
}

#[test]
fn a_service_that_is_late_leaves_a_timeout_and_a_reply_that_nobody_takes() {
    for way in WAYS {
        let service = way.serve(|request| {
            if request.body().len() == 4 {
                thread::sleep(Duration::from_millis(60));
            }
            Ok(request.take_body())
        });
        let destination = ReplyDestination::new(1);
        let mut client = Client::connect_as(&destination, service.address(), way.client()).unwrap();
        client.call("echo", b"x", LIMIT).unwrap();
        let timeout = Duration::from_millis(15);
        let error = client.call("echo", b"slow", timeout).unwrap_err();
        assert_eq!(error, CallError::TimedOut(timeout));
        // With one slot, this is the slot that the late reply is for.
        let reply = client.call("echo", b"quick", LIMIT).unwrap();
        assert_eq!(*reply.body(), b"quick"[..]);
        assert_eq!(client.call_stats().late_replies, 1);
    }
}

#[test]
fn another_name_than_the_services_is_refused_by_name() {
    let way = WAYS[1];
    let service = way.serve(echo);
    let mut client = Client::connect(service.address(), way.client()).unwrap();
    let error = client.call("ohce", b"x", LIMIT).unwrap_err();
    assert!(matches!(error, CallError::Refused { .. }) && error.is_safe_to_retry());
    assert!(error.to_string().contains("'ohce'") && error.to_string().contains("'echo'"), "{error}");
}

#[test]
fn two_clients_of_a_process_use_one_peer_and_two_peers() {
    for way in WAYS {
        let (left, right) = (way.serve(echo), way.serve(echo));
        let destination = ReplyDestination::new(64);
        let connect = |address| Client::connect_as(&destination, address, way.client()).unwrap();
        // Two to the same peer, which both attach the same reply address there; one to another.
        let mut clients = [left.address(), left.address(), right.address()].map(connect);
        for round in 0..20_u64 {
            let started: Vec<_> = clients
                .iter_mut()
                .enumerate()
                .map(|(index, client)| {
                    let body = client.body(&named(round * 3 + index as u64, 100)).unwrap();
                    client.start("echo", body, Lane::Normal, LIMIT)
                })
                .collect();
            for (index, call) in started.into_iter().enumerate() {
                let reply = clients[index].wait(call).unwrap();
                assert_eq!(*reply.body(), named(round * 3 + index as u64, 100)[..]);
            }
        }
        assert!(clients.iter_mut().all(|client| client.call_stats().replies == 20));
    }
}

#[test]
fn a_handle_of_a_client_that_is_gone_is_not_connected() {
    let way = WAYS[2];
    let service = way.serve(echo);
    let client = Client::connect(service.address(), way.client()).unwrap();
    let handle = client.handle();
    let started = handle.call("echo", b"never taken", LIMIT);
    drop(client);
    for call in [started, handle.call("echo", b"x", LIMIT)] {
        let error = execute(call).unwrap_err();
        assert!(matches!(error, CallError::NotConnected { .. }) && error.is_safe_to_retry(), "{error}");
    }
}
