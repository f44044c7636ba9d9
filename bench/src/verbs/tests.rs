use clap::Parser;
use underlay::backend::tcp::{EngineChoice, TcpConfig, TcpWire};
use underlay::driver::Address;

use super::*;
use crate::cli::{Cli, Command as BenchCommand};

fn options(arguments: &[&str]) -> VerbsOptions {
    let words = ["underlay-bench", "verbs"].iter().chain(arguments);
    match Cli::try_parse_from(words).unwrap().command {
        BenchCommand::Verbs(options) => *options,
        other => panic!("{other:?}"),
    }
}

const SETTING: EndSetting = EndSetting { wait: Wait::Adaptive, source: None };

/// Starts an end on a thread, and says where it listens. TCP stands in for rdma: these ends are made of the same calls.
fn started<T: Send + 'static>(
    serve: impl FnOnce(&mut dyn FnMut(&str) -> Result<(), BenchError>) -> T + Send + 'static,
) -> (String, std::thread::JoinHandle<T>) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        serve(&mut |place: &str| {
            sender.send(place.to_owned()).unwrap();
            Ok(())
        })
    });
    (receiver.recv_timeout(Duration::from_secs(10)).unwrap(), thread)
}

#[test]
fn messages_are_bounced_and_streamed_over_the_driver() {
    let serve = |ready: &mut dyn FnMut(&str) -> Result<(), BenchError>| {
        bounce::serve(&SETTING, &Address::tcp("127.0.0.1:0"), ready).is_ok()
    };
    let (place, thread) = started(serve);
    let mut client = BounceClient::connect(&SETTING, &Address::tcp(place.as_str()), 4096).unwrap();
    assert_eq!(client.bounce(70, true).unwrap().len(), 70);
    drop(client);
    assert!(thread.join().unwrap(), "the service ends with its connection");
}

#[test]
fn long_messages_are_answered_by_their_arrival() {
    let serve = |ready: &mut dyn FnMut(&str) -> Result<(), BenchError>| {
        bounce::serve(&SETTING, &Address::tcp("127.0.0.1:0"), ready).is_ok()
    };
    let (place, thread) = started(serve);
    let size = end::ANSWERED_WHOLE_BYTES_MAX + 1;
    let mut client = BounceClient::connect(&SETTING, &Address::tcp(place.as_str()), size).unwrap();
    assert!(client.stream(20, 4).unwrap() > Duration::ZERO);
    assert!(client.bounce(1, true).is_err(), "an empty answer is not the body");
    drop(client);
    assert!(thread.join().unwrap());
}

fn tcp(pool: &mut underlay::pool::Pool) -> Result<TcpWire, BenchError> {
    let config = TcpConfig { engine: EngineChoice::Epoll, ..TcpConfig::default() };
    Ok(TcpWire::open(config, pool).unwrap())
}

#[test]
fn bytes_are_bounced_over_a_bare_wire() {
    let serve = |ready: &mut dyn FnMut(&str) -> Result<(), BenchError>| {
        BareEnd::open(Wait::Adaptive, tcp).unwrap().serve("127.0.0.1:0", ready).is_ok()
    };
    let (place, thread) = started(serve);
    let mut client = BareEnd::open(Wait::Adaptive, tcp).unwrap();
    client.connect(&place).unwrap();
    assert_eq!(client.bounce(&Payload::new(4096), 70, true).unwrap().len(), 70);
    drop(client);
    assert!(thread.join().unwrap());
}

#[test]
fn every_size_has_its_tests() {
    let groups = plan(&options(&["--sizes", "64,1k", "--beside-sizes", "64,64k"]));
    let names = |at: usize| groups[at].iter().map(|job| job.subject.name()).collect::<Vec<_>>();
    let beside = ["rstream", "ucx_perftest am_lat", "ucx_perftest tag_lat", "fi_pingpong"];
    assert_eq!(names(0), [&["driver", "wire", "ib_send_lat"], &beside[..]].concat());
    assert_eq!(names(1), ["driver", "wire", "ib_send_lat"]);
    assert_eq!(names(2), [&["driver"], &beside[..]].concat());
    assert_eq!(names(3), ["driver", "ib_send_bw", "ib_read_bw"]);
    let sizes: Vec<usize> = groups.iter().map(|group| group[0].size).collect();
    assert_eq!(sizes, [64, 1024, 65_536, 1 << 20]);
}

#[test]
fn what_gives_no_figures_is_refused() {
    for (arguments, wanted) in [
        (&["--rounds", "0"], "--rounds 0"),
        (&["--sizes", "512k"], "--sizes 524288"),
        (&["--sizes", "0"], "--sizes 0"),
        (&["--bulk-size", "64k"], "--bulk-size 65536"),
        (&["--bulk-in-flight", "0"], "--bulk-in-flight 0"),
    ] {
        let error = check(&options(arguments)).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
    check(&options(&[])).unwrap();
}

#[test]
fn one_way_is_half_of_there_and_back() {
    let times = [10, 20, 90].map(Duration::from_micros);
    let figures = one_way(&times);
    assert_eq!((figures.p50_us, figures.mean_us), (Some(10.0), Some(20.0)));
}
