//! What there is to say when there is no connection.

use crate::support::{LIMIT, WAYS, Way, echo};
use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;
use underlay::backend::tcp::EngineChoice;
use underlay::backend::{ConnectError, ListenError};
use underlay::driver::Address;
use underlay::rpc::{
    BackgroundClient, BackgroundService, Client, ClientConfig, ClientError, Service, ServiceConfig,
    ServiceFailure,
};

const TCP: Way = Way::Tcp(EngineChoice::Epoll);

fn listener() -> (TcpListener, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::tcp(listener.local_addr().unwrap().to_string());
    (listener, address)
}

#[test]
fn where_nobody_listens_the_address_is_named() {
    for way in WAYS {
        let nobody = match way {
            Way::Tcp(_) => listener().1,
            Way::Inproc => way.address(),
        };
        let short = Duration::from_millis(40);
        let config = || ClientConfig { connect_timeout: short, ..way.client() };
        let refused = Client::connect(&nobody, config()).unwrap_err();
        let ClientError::NotConnected { failures, .. } = &refused else { panic!("{refused}") };
        assert!(failures.len() == 1 && failures[0].address == nobody && !failures[0].reason.is_empty());
        assert!(refused.to_string().contains(&nobody.to_string()), "{refused}");
        let refused = BackgroundClient::connect(&nobody, config()).unwrap_err();
        assert!(matches!(refused, ClientError::NotConnected { .. }), "{refused}");
        let config = ServiceConfig { connect_timeout: short, ..way.service_config() };
        let refused = Service::connect(&nobody, "echo", config, echo).unwrap_err();
        assert!(matches!(refused, ServiceFailure::NotConnected { .. }), "{refused}");
        assert!(refused.to_string().contains(&nobody.to_string()), "{refused}");
    }
}

#[test]
fn an_address_that_is_none_is_refused_at_once() {
    let refused = Client::connect(&Address::tcp("no port"), TCP.client()).unwrap_err();
    assert!(
        matches!(&refused, ClientError::Connect(ConnectError::Address { address, .. }) if address == "no port")
    );
}

/// The shorter one of the two limits holds, and is named.
#[test]
fn a_peer_that_says_nothing_is_given_up() {
    let (_silent, address) = listener();
    let short = Duration::from_millis(40);
    let config = ClientConfig { connect_timeout: short, ..TCP.client() };
    let refused = Client::connect(&address, config).unwrap_err();
    assert!(matches!(refused, ClientError::NotConnected { timeout, .. } if timeout == short), "{refused}");
    assert!(refused.to_string().contains("connect_timeout") && refused.to_string().contains("not answered"));
    let mut config = ClientConfig { connect_timeout: 5 * short, ..TCP.client() };
    config.driver.connection.handshake_timeout = short;
    let refused = Client::connect(&address, config).unwrap_err();
    assert!(refused.to_string().contains("handshake_timeout"), "{refused}");
    let config = ServiceConfig { connect_timeout: short, ..TCP.service_config() };
    let refused = Service::connect(&address, "echo", config, echo).unwrap_err();
    assert!(matches!(refused, ServiceFailure::NotConnected { timeout, .. } if timeout == short), "{refused}");
}

#[test]
fn a_peer_that_speaks_something_else_is_told_apart() {
    let (other, address) = listener();
    let answer = [b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice(), &[b' '; 200]].concat();
    // Answers every attempt, until the process ends. The client may be gone before it has heard all.
    std::thread::spawn(move || {
        other.incoming().for_each(|stream| drop(stream.and_then(|mut stream| stream.write_all(&answer))));
    });
    let config = ClientConfig { connect_timeout: Duration::from_millis(100), ..TCP.client() };
    let refused = Client::connect(&address, config).unwrap_err();
    assert!(refused.to_string().contains("protocol"), "{refused}");
}

#[test]
fn a_service_says_what_is_wrong_with_its_name_and_its_address() {
    for name in ["", "a\tb", &"x".repeat(256)] {
        let refused = Service::listen(&TCP.address(), name, TCP.service_config(), echo).unwrap_err();
        assert!(
            matches!(&refused, ServiceFailure::DestinationName { destination, .. } if destination == name)
        );
    }
    let (_taken, address) = listener();
    let refused = BackgroundService::listen(&address, "echo", TCP.service_config(), echo).unwrap_err();
    assert!(matches!(&refused, ServiceFailure::Listen(ListenError::InUse { .. })), "{refused}");
    assert!(refused.to_string().contains(address.place()), "{refused}");
    let refused = Service::listen(&Address::tcp("192.0.2.1:0"), "echo", TCP.service_config(), echo);
    assert!(matches!(refused, Err(ServiceFailure::Listen(ListenError::Unavailable { .. }))));
}

/// A service that consumes must find somebody who lets it: another service does not.
#[test]
fn a_service_that_is_refused_says_by_whom() {
    let listening = TCP.serve(echo);
    let refused = Service::connect(listening.address(), "echo", TCP.service_config(), echo).unwrap_err();
    assert!(refused.to_string().contains("nothing to consume"), "{refused}");
    assert_eq!(listening.stop().unwrap().requests, 0);
}

#[test]
fn clients_that_come_and_go_one_after_the_other_are_no_too_many() {
    let way = Way::Inproc;
    let service = way.serve(echo);
    for number in 0..257_u32 {
        let mut config = way.client();
        config.driver.tcp.engine = EngineChoice::Epoll;
        let mut client = Client::connect(service.address(), config).unwrap();
        let reply = client.call("echo", &number.to_le_bytes(), LIMIT).unwrap();
        assert_eq!(*reply.body(), number.to_le_bytes()[..]);
    }
}
