//! What a hostile or broken peer can do to the real broker: lose its own connection, for a named reason, while the
//! requests of another one go on.

#[path = "support/process.rs"]
mod process;
#[path = "support/raw.rs"]
mod raw;
mod support;

use process::{Process, figure, write_or_closed};
use raw::{RawPeer, drip, hello, read_to_end, record, socket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::{ClientDriver, PATIENCE, PLENTY, client_config, room};
use underlay::backend::inproc::InprocNetwork;
use underlay::connection::{ConnectionEvent, LinkRoom};
use underlay::driver::Address;
use underlay::message::Message;
use underlay::proto::control::{Address as LinkAddress, Control, DetachCode, LinkRole, Outcome, Settle};
use underlay::proto::record::MessageKind;
use underlay::proto::text::Name;
use underlay::proto::{Lane, ReplyAddress, ReplySecret};

const CONFIG: &str = r#"
[[listener]]
transport = "tcp"
address = "127.0.0.1:0"
[[queue]]
name = "work"
bytes_max = 536870912
[[queue]]
name = "small"
messages_max = 4
producers_max = 1
[limits]
handshake_timeout_ms = 1000
frame_timeout_ms = 1000
send_timeout_ms = 1500
link_bytes_max = 67108864
"#;

/// A requester and a service that go on asking and answering on a thread of their own.
struct GoodTraffic {
    answered: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl GoodTraffic {
    fn start(address: &str) -> Self {
        let (answered, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, over, address) = (answered.clone(), is_over.clone(), Address::tcp(address));
        let thread = std::thread::spawn(move || {
            let connect = |number| {
                let mut client =
                    ClientDriver::connect(client_config(), number, InprocNetwork::new(), &address);
                client.run_until(|client| client.connection.is_some());
                client
            };
            let (mut requester, mut service) = (connect(1), connect(2));
            service.attach_and_wait(LinkRole::Consumer, "work", PLENTY);
            service.state().echoes = true;
            let link = requester.attach_and_wait(LinkRole::Producer, "work", room(0));
            let secret = ReplySecret([1; 32]);
            let replies = requester.ask_reply(&secret, PLENTY);
            requester.run_until(|client| client.attached.contains(&replies));
            while !over.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed).to_string();
                let mut request = requester.message(link, MessageKind::Request, number.as_bytes());
                request.head.reply_address = Some(ReplyAddress::of(&secret));
                assert!(requester.send_message(request), "the good client is throttled");
                let end = Instant::now() + PATIENCE;
                while requester.state().received.is_empty() {
                    assert!(Instant::now() < end, "no reply for the good client");
                    service.driver.turn().unwrap();
                    requester.driver.turn().unwrap();
                    std::thread::yield_now();
                }
                let reply = requester.state().received.remove(0);
                assert!(reply.body == *number.as_bytes(), "the reply is another");
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(requester.state().closed.is_empty() && service.state().closed.is_empty());
        });
        let traffic = Self { answered, is_over, thread: Some(thread) };
        traffic.goes_on();
        traffic
    }

    /// Waits for so many more answers that all of them were asked for after now.
    fn goes_on(&self) {
        let (from, end) = (self.answered.load(Ordering::Relaxed), Instant::now() + PATIENCE);
        while self.answered.load(Ordering::Relaxed) < from + 5 {
            let thread = self.thread.as_ref().unwrap();
            assert!(!thread.is_finished() && Instant::now() < end, "the good client is disturbed");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stop(mut self) {
        self.goes_on();
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Runs an attack beside good traffic; the broker's log and report. An attack ends when its connection has ended.
fn attack(act: impl FnOnce(&Process, &GoodTraffic)) -> String {
    let process = Process::start(CONFIG, &[]);
    let traffic = GoodTraffic::start(&process.address);
    act(&process, &traffic);
    traffic.stop();
    let (status, log) = process.stop();
    assert!(status.success(), "{log}");
    log
}

/// The log names the reason, and the counters count it.
fn is_named(log: &str, text: &str, counters: &[(&str, u64)]) {
    assert!(log.contains(text), "no '{text}' in {log}");
    for (name, count) in counters {
        assert_eq!(figure(log, name), *count, "{name} in {log}");
    }
}

#[test]
fn random_bytes() {
    let log = attack(|process, traffic| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20 {
            let bytes: Vec<u8> = (0..20_000)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state as u8
                })
                .collect();
            let mut stream = socket(&process.address);
            write_or_closed(&mut stream, &bytes);
            read_to_end(&mut stream);
            traffic.goes_on();
        }
    });
    is_named(
        &log,
        "not this protocol: byte",
        &[("closed.handshake_refused", 20), ("misbehaved.NotUnderlay", 20)],
    );
}

#[test]
fn random_bytes_after_a_handshake() {
    let log = attack(|process, _| {
        let mut peer = RawPeer::connect(&process.address);
        write_or_closed(&mut peer.stream, &[0xa5; 20_000]);
        read_to_end(&mut peer.stream);
    });
    is_named(
        &log,
        "a frame of 2779096485 bytes",
        &[("closed.misbehaved", 1), ("misbehaved.FrameTooLong", 1)],
    );
}

#[test]
fn a_truncated_frame() {
    let log = attack(|process, traffic| {
        let mut peer = RawPeer::connect(&process.address);
        let link = peer.produce("work");
        let frame = peer.frame(0, 1, &record(link, 0, &[]));
        assert!(write_or_closed(&mut peer.stream, &frame[..frame.len() - 1]));
        traffic.goes_on();
        read_to_end(&mut peer.stream);
    });
    is_named(&log, "frame_timeout_ms", &[("closed.frame_timeout", 1)]);
}

#[test]
fn a_frame_that_ends_with_its_connection() {
    let log = attack(|process, _| {
        let mut peer = RawPeer::connect(&process.address);
        let frame = peer.frame(0, 1, &[0; 64]);
        assert!(write_or_closed(&mut peer.stream, &frame[..40]));
        drop(peer);
        process.wait_for_log("closed by the peer");
    });
    // The good clients end so, too, if they do before the broker.
    assert!(
        figure(&log, "closed.channel") >= 1 && log.contains("the channel ended: closed by the peer"),
        "{log}"
    );
}

#[test]
fn a_frame_longer_than_negotiated() {
    let log = attack(|process, _| {
        let mut peer = RawPeer::connect(&process.address);
        let frame = peer.frame(0, 1, &vec![0; 1 << 20]);
        write_or_closed(&mut peer.stream, &frame);
        read_to_end(&mut peer.stream);
    });
    is_named(&log, "163840 were negotiated", &[("closed.misbehaved", 1), ("misbehaved.FrameTooLong", 1)]);
}

#[test]
fn more_messages_than_were_granted() {
    let log = attack(|process, _| {
        let mut peer = RawPeer::connect(&process.address);
        let link = peer.produce("small");
        for number in 0..10 {
            let frame = peer.frame(number, 1, &record(link, number.into(), &[]));
            write_or_closed(&mut peer.stream, &frame);
        }
        read_to_end(&mut peer.stream);
    });
    is_named(&log, "is past the granted", &[("misbehaved.MessageCreditOverrun", 1)]);
    assert!(figure(&log, "queue.small.depth_max") <= 4, "{log}");
}

#[test]
fn a_settlement_of_what_was_never_delivered() {
    let log = attack(|process, traffic| {
        let mut peer = RawPeer::connect(&process.address);
        let link = peer.consume("small");
        let settle = Settle { link, lane: Lane::Normal, outcome: Outcome::Accepted, from: 0, to: 1 };
        let mut record = [0; 32];
        Control::Settle(settle).encode_into(&mut record).unwrap();
        let frame = peer.frame(0, 1, &record);
        write_or_closed(&mut peer.stream, &frame);
        read_to_end(&mut peer.stream);
        traffic.goes_on();
    });
    is_named(&log, "on which 0 were delivered", &[("misbehaved.SettledUndelivered", 1)]);
}

#[test]
fn an_unknown_version() {
    let log = attack(|process, _| {
        let mut hello = hello();
        hello[8..12].copy_from_slice(&[99, 0, 99, 0]);
        let mut stream = socket(&process.address);
        assert!(write_or_closed(&mut stream, &hello));
        let answer = read_to_end(&mut stream);
        assert!(String::from_utf8_lossy(&answer).contains("99"), "it is told why: {answer:?}");
    });
    is_named(
        &log,
        "the handshake was refused: ",
        &[("closed.handshake_refused", 1), ("refused.UnsupportedVersion", 1)],
    );
}

#[test]
fn a_name_over_its_limit() {
    let log = attack(|process, _| {
        let mut peer = RawPeer::connect(&process.address);
        let link = peer.produce("work");
        // A destination of 300 bytes, where 255 is the limit.
        let mut extension = vec![1, 0, 44, 1];
        extension.resize(304, b'x');
        let frame = peer.frame(0, 1, &record(link, 0, &extension));
        write_or_closed(&mut peer.stream, &frame);
        read_to_end(&mut peer.stream);
    });
    is_named(&log, "a destination has 300 bytes; the limit is 255", &[("misbehaved.TextTooLong", 1)]);
}

#[test]
fn a_link_that_was_never_attached() {
    let log = attack(|process, _| {
        let mut peer = RawPeer::connect(&process.address);
        let link = underlay::proto::LinkId::new(4001).unwrap();
        let frame = peer.frame(0, 1, &record(link, 0, &[]));
        write_or_closed(&mut peer.stream, &frame);
        read_to_end(&mut peer.stream);
    });
    is_named(&log, "4001", &[("misbehaved.LinkUnknown", 1)]);
}

/// It asks for what there is not, over and over: each is refused, and the counter says how many.
#[test]
fn destinations_that_there_are_not() {
    const TIMES: u64 = 200;
    let log = attack(|process, traffic| {
        let mut peer = RawPeer::connect(&process.address);
        for number in 0..TIMES {
            let role = if number % 2 == 0 { LinkRole::Producer } else { LinkRole::Consumer };
            let name = format!("wor{number}");
            let name = Name::new(&name).unwrap();
            let none = LinkRoom { messages: 0, bytes: 0 };
            let asked = peer.connection.attach(role, LinkAddress::Named(name), none).unwrap();
            peer.until(|event| match event {
                ConnectionEvent::Detached { link, code, text, .. } => {
                    assert_eq!((*link, *code), (asked, DetachCode::NoSuchDestination), "{text}");
                    true
                }
                event => panic!("{event:?}"),
            });
            if number % 50 == 0 {
                traffic.goes_on();
            }
        }
        // That is no fault for which it would lose its connection.
        peer.produce("work");
    });
    is_named(&log, "there is no destination 'wor0'", &[("broker.links_refused", TIMES)]);
    assert_eq!(figure(&log, "closed.misbehaved"), 0, "{log}");
    // The log grows with the logarithm of the attack.
    assert_eq!(log.matches("a link was refused").count(), 8, "{log}");
}

#[test]
fn one_that_connects_and_says_nothing() {
    let log = attack(|process, traffic| {
        let mut stream = socket(&process.address);
        traffic.goes_on();
        read_to_end(&mut stream);
    });
    is_named(&log, "handshake_timeout_ms", &[("closed.handshake_timeout", 1)]);
}

#[test]
fn one_that_sends_its_hello_byte_by_byte() {
    let log = attack(|process, _| {
        let mut stream = socket(&process.address);
        drip(&mut stream, &hello(), Duration::from_millis(50));
    });
    is_named(&log, "handshake_timeout_ms", &[("closed.handshake_timeout", 1)]);
}

#[test]
fn one_that_sends_a_frame_byte_by_byte() {
    let log = attack(|process, _| {
        let mut peer = RawPeer::connect(&process.address);
        let frame = peer.frame(0, 1, &[0; 1024]);
        drip(&mut peer.stream, &frame, Duration::from_millis(50));
    });
    is_named(&log, "frame_timeout_ms", &[("closed.frame_timeout", 1)]);
}

/// It asks as much as it may, and never reads an answer.
#[test]
fn one_that_never_reads() {
    let log = attack(|process, traffic| {
        let mut peer = RawPeer::connect(&process.address);
        // So that the kernel does not take all that is sent to it in its place.
        nix::sys::socket::setsockopt(&peer.stream, nix::sys::socket::sockopt::RcvBuf, &65_536).unwrap();
        let link = peer.produce("work");
        let secret = ReplySecret([9; 32]);
        let room = LinkRoom { messages: 1 << 30, bytes: 1 << 40 };
        peer.connection.attach(LinkRole::Consumer, LinkAddress::Reply(secret.clone()), room).unwrap();
        // As much as it may before it has read of more: 15 MB in all the frames that it was granted.
        loop {
            let body = peer.pool.copy_body(&[7; 15_000]).unwrap();
            let mut request = Message::new(MessageKind::Request, body);
            request.head.link = Some(link);
            request.head.reply_address = Some(ReplyAddress::of(&secret));
            if peer.connection.send(request, &mut peer.pool).is_err() {
                break;
            }
        }
        peer.flush();
        traffic.goes_on();
        process.wait_for_log("peer_not_reading");
    });
    is_named(&log, "the peer took nothing for 1.5s", &[("closed.peer_not_reading", 1)]);
    assert!(figure(&log, "broker.congestions") >= 1, "{log}");
}

/// A broker that has as many connections as it may tells one more so, and goes on.
#[test]
fn one_connection_more_than_there_may_be() {
    let config = format!("[broker]\nconnections_max = 3\n{CONFIG}");
    let process = Process::start(&config, &[]);
    let traffic = GoodTraffic::start(&process.address);
    let third = RawPeer::connect(&process.address);
    let mut stream = socket(&process.address);
    write_or_closed(&mut stream, &hello());
    let answer = read_to_end(&mut stream);
    assert!(String::from_utf8_lossy(&answer).contains("connections_max"), "{answer:?}");
    drop(third);
    traffic.stop();
    let (status, _) = process.stop();
    assert!(status.success());
}
