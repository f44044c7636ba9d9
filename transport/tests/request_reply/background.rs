//! Clients with a driver in the background, and many threads.

use crate::support::{LIMIT, WAYS, echo, execute, named};
use std::thread;
use std::time::Duration;
use underlay::rpc::{BackgroundClient, CallError, CallFuture, CallHandle};

const THREADS: u64 = 8;
const CALLS_A_THREAD: u64 = 1250;

/// Ten thousand calls from eight threads, each answered by its own reply, whatever the order they are waited for in.
#[test]
fn each_call_of_many_threads_has_its_own_reply() {
    for way in WAYS {
        let service = way.serve(echo);
        let client = BackgroundClient::connect(service.address(), way.client()).unwrap();
        let call_all = |thread: u64, handle: CallHandle| {
            for batch in (0..CALLS_A_THREAD).step_by(50) {
                let name = |number: u64| named(thread * CALLS_A_THREAD + number, 8 + number as usize % 300);
                let started: Vec<(u64, CallFuture)> = (batch..batch + 50)
                    .map(|number| (number, handle.call("echo", &name(number), LIMIT)))
                    .collect();
                for (number, call) in started.into_iter().rev() {
                    let reply = execute(call).unwrap();
                    assert!(*reply.body() == name(number)[..], "call {number} of thread {thread}");
                }
            }
        };
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let handle = client.handle();
                scope.spawn(move || call_all(thread, handle));
            }
        });
        drop(client);
        assert_eq!(service.stop().unwrap().requests, THREADS * CALLS_A_THREAD);
    }
}

#[test]
fn threads_may_block() {
    for way in WAYS {
        let service = way.serve(echo);
        let client = BackgroundClient::connect(service.address(), way.client()).unwrap();
        thread::scope(|scope| {
            for thread in 0..4 {
                let handle = client.handle();
                scope.spawn(move || {
                    for number in 0..50 {
                        let name = named(thread << 32 | number, 5000);
                        assert!(*handle.call_blocking("echo", &name, LIMIT).unwrap().body() == name[..]);
                    }
                });
            }
        });
    }
}

/// A future may be polled by one thread first and by another one later: the last one is woken.
#[test]
fn a_future_may_change_its_thread() {
    for way in WAYS {
        let service = way.serve(|request| {
            thread::sleep(Duration::from_millis(5));
            Ok(request.take_body())
        });
        let client = BackgroundClient::connect(service.address(), way.client()).unwrap();
        for number in 0..20 {
            let mut call = client.handle().call("echo", &named(number, 8), LIMIT);
            let mut call = thread::spawn(move || {
                assert!(call.wait(Some(Duration::from_micros(100))).is_none_or(|outcome| outcome.is_ok()));
                call
            })
            .join()
            .unwrap();
            if let Some(outcome) = call.wait(Some(LIMIT)) {
                assert_eq!(*outcome.unwrap().body(), named(number, 8)[..]);
            }
        }
    }
}

#[test]
fn dropping_the_client_ends_every_call_and_its_thread() {
    for way in WAYS {
        let (entered, has_entered) = std::sync::mpsc::channel();
        let service = way.serve(move |request| {
            entered.send(()).unwrap();
            thread::sleep(Duration::from_millis(50));
            Ok(request.take_body())
        });
        let client = BackgroundClient::connect(service.address(), way.client()).unwrap();
        let handle = client.handle();
        let calls: Vec<_> = (0..20).map(|_| handle.call("echo", b"x", LIMIT)).collect();
        has_entered.recv().unwrap();
        drop(client);
        for call in calls {
            match execute(call) {
                Ok(_) | Err(CallError::OutcomeUnknown { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let error = handle.call_blocking("echo", b"x", LIMIT).unwrap_err();
        assert!(matches!(error, CallError::NotConnected { .. }), "{error}");
    }
}
