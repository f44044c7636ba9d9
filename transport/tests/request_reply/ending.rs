//! The service goes away while it is called.

use crate::support::{LIMIT, WAYS, echo};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use underlay::rpc::{BackgroundService, CallError, Client, Lane, Service, ServiceConfig};

#[test]
fn calls_in_flight_are_unknown_when_the_service_dies_and_the_others_wait_for_it() {
    for way in WAYS {
        let (sender, receiver) = mpsc::channel();
        // Takes one request and goes, driver and all, without having answered what came with it.
        let serving = thread::spawn(move || {
            let config = ServiceConfig { prefetch_messages: 4, ..way.service_config() };
            let mut handled = 0;
            let handled = &mut handled;
            let (mut service, address) = Service::listen(&way.address(), "echo", config, move |request| {
                *handled += 1;
                thread::sleep(Duration::from_millis(if *handled == 1 { 30 } else { 0 }));
                Ok(request.take_body())
            })
            .unwrap();
            sender.send(address).unwrap();
            while service.stats().requests == 0 {
                service.turn().unwrap();
            }
        });
        let mut client = Client::connect(&receiver.recv().unwrap(), way.client()).unwrap();
        let patience = Duration::from_millis(500);
        let calls: Vec<_> = (0..20)
            .map(|_| {
                let body = client.body(&[1; 3000]).unwrap();
                client.start("echo", body, Lane::Normal, patience)
            })
            .collect();
        let mut unsent = 0;
        for call in calls {
            match client.wait(call) {
                Ok(_) => {}
                Err(error @ CallError::OutcomeUnknown { .. }) => assert!(!error.is_safe_to_retry()),
                Err(error @ CallError::NotSentInTime { .. }) => {
                    assert!(error.is_safe_to_retry());
                    unsent += 1;
                }
                Err(error) => panic!("over {way:?}: {error}"),
            }
        }
        assert!(unsent > 0, "the service granted four, and four again");
        let error = client.call("echo", b"x", Duration::from_millis(30)).unwrap_err();
        assert!(error.to_string().contains("no broker is connected"), "{error}");
        serving.join().unwrap();
    }
}

#[test]
fn a_service_stops_when_it_is_told_to_and_another_takes_its_place() {
    for way in WAYS {
        let service = way.serve(echo);
        let address = service.address().clone();
        let mut client = Client::connect(&address, way.client()).unwrap();
        client.call("echo", b"x", LIMIT).unwrap();
        assert_eq!(service.stop().unwrap().requests, 1);
        let error = client.call("echo", b"x", Duration::from_millis(30)).unwrap_err();
        assert!(
            matches!(error, CallError::OutcomeUnknown { .. } | CallError::NotSentInTime { .. }),
            "{error}"
        );
        let _again = BackgroundService::listen(&address, "echo", way.service_config(), echo).unwrap();
        client.call("echo", b"x", LIMIT).unwrap();
    }
}

/// More bytes of replies than any queue takes: they wait for each other instead of being lost.
#[test]
fn a_small_request_may_bring_a_large_reply_many_times() {
    for way in WAYS {
        let mut config = way.service_config();
        config.driver.connection.send_queue_bytes_max = 1 << 20;
        let service =
            BackgroundService::listen(&way.address(), "echo", config, |request| request.reply(&[3; 200_000]))
                .unwrap();
        let mut config = way.client();
        config.reply_bytes_max = 1 << 20;
        let mut client = Client::connect(service.address(), config).unwrap();
        let calls: Vec<_> = (0..100)
            .map(|_| {
                let body = client.body(b"more").unwrap();
                client.start("echo", body, Lane::Normal, LIMIT)
            })
            .collect();
        for call in calls {
            assert_eq!(client.wait(call).unwrap().body().len(), 200_000);
        }
        let stats = service.stop().unwrap();
        assert_eq!((stats.requests, stats.replies_dropped), (100, 0), "over {way:?}");
    }
}
