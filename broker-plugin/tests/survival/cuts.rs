//! Connections are cut while all processes live: nobody notices, but for the time it takes.

use crate::cast::{Cast, Fault, figures};
use crate::devices::{INTERFACES, Link};
use crate::part::{Calls, Role, Times};
use crate::process::Process;
use crate::proxy::{Fate, Proxy};
use crate::stage::{Stage, Way};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

/// Silence is noticed within the test, and no session expires in it.
const TIMES: Times = Times { idle_timeout_ms: 1_000, session_expiry_ms: 30_000, failover_after_ms: 500 };

/// Longer than any of them keeps silent.
const SILENCE: Duration = Duration::from_millis(1_600);

/// Of a link that loses everything: about as long as a device sends it again before it gives up.
const MOMENT: Duration = Duration::from_millis(60);

/// Nothing in doubt, nothing twice, each client's requests in order; and the faults were faults.
fn is_unharmed(cast: &mut Cast, broker: Process, interruptions_least: u64) {
    cast.actors().for_each(|actor| actor.wait_for_connection(true));
    let ledger = cast.ledger();
    let names = [
        "sessions.interrupted",
        "sessions.resumed",
        "sessions.duplicates",
        "sessions.expired",
        "broker.redelivered",
    ];
    let [_, resumed, _, expired, redelivered] = figures(broker, names);
    ledger.is_as_if_nothing_had_happened();
    assert_eq!(ledger.out_of_order(), 0);
    assert!(ledger.events("resumed") >= interruptions_least, "the connections were not cut");
    assert!(resumed >= interruptions_least, "{resumed}");
    assert_eq!((ledger.events("lost"), expired, redelivered), (0, 0, 0));
}

pub(crate) fn connections_that_are_cut_leave_nothing_in_doubt(stage: &Stage) {
    let times = stage.times(TIMES);
    let broker = stage.broker(times);
    let Some(way) = stage.way(&broker) else { return };
    let mut cast = cast("connections that are cut", stage, &way.address(), times);
    let cuts = match &way {
        Way::Proxied(proxy) => cut_by(proxy, &mut cast),
        Way::Linked(link, _) => cut_at(link, &way, &mut cast),
    };
    is_unharmed(&mut cast, broker, cuts);
}

/// By a proxy, which can be cut at any byte, refuse, and keep silent.
fn cut_by(proxy: &Proxy, cast: &mut Cast) -> u64 {
    let cut = |_: &mut Cast| proxy.cut();
    let refuse = |_: &mut Cast| {
        proxy.set(Fate::Refuses);
        proxy.cut();
        sleep(Duration::from_millis(300));
        proxy.set(Fate::Passes);
    };
    // What was on its way comes late, when the connection has been given up for another one, or just before.
    let hang = |_: &mut Cast| {
        proxy.set(Fate::Hangs);
        sleep(SILENCE);
        proxy.set(Fate::Passes);
    };
    let hang_and_cut = |_: &mut Cast| {
        proxy.set(Fate::Hangs);
        sleep(SILENCE);
        proxy.cut();
        proxy.set(Fate::Passes);
    };
    for _ in 0..12 {
        cast.under_load(400, &[&cut as Fault<'_>]);
    }
    for _ in 0..2 {
        cast.under_load(4_800, &[&cut, &refuse, &cut, &hang, &cut, &hang_and_cut]);
    }
    cast.under_load(600, &[]);
    20
}

/// At the link of two devices, which loses all packets: for longer than they are sent again, or for a moment, which may
/// pass unnoticed; and for one way only, so that what is sent arrives and is never acknowledged.
fn cut_at(link: &Link, way: &Way, cast: &mut Cast) -> u64 {
    let cut = |cast: &mut Cast| way.cut(cast.actors());
    let lose = |interface: &'static str, time: Duration| {
        move |_: &mut Cast| {
            link.cut(interface);
            sleep(time);
            link.restore(interface);
        }
    };
    let (there, back) = (lose(INTERFACES[1], MOMENT), lose(INTERFACES[0], MOMENT));
    let half_there = lose(INTERFACES[0], SILENCE);
    cast.under_load(600, &[&cut, &there, &cut, &back, &half_there]);
    cast.under_load(100, &[]);
    // The cuts, which all three have to notice.
    6
}

pub(crate) fn connections_killed_by_the_kernel_leave_nothing_in_doubt(stage: &Stage) {
    if !stage.is_rdma()
        && let Err(reason) = kill_connections_of_a_try()
    {
        println!("SKIPPED connections killed by the kernel (ss -K): {reason}");
        return;
    }
    let times = stage.times(TIMES);
    let broker = stage.broker(times);
    let Some(way) = stage.way(&broker) else { return };
    let mut cast = cast("connections killed by the kernel", stage, &broker.addresses[0], times);
    let least = match &way {
        Way::Proxied(_) => {
            let port = broker.address.rsplit_once(':').unwrap().1;
            let kill = |_: &mut Cast| kill_connections(port).unwrap();
            for _ in 0..5 {
                cast.under_load(1_000, &[&kill, &kill]);
            }
            10
        }
        Way::Linked(link, _) => {
            // Of the broker, of the others, and again.
            let [listening, connecting] = [0, 1].map(|place| {
                move |cast: &mut Cast| {
                    cast.actors().for_each(|actor| actor.wait_for_connection(true));
                    link.renew_device(place);
                }
            });
            cast.under_load(600, &[&listening, &connecting, &listening, &connecting]);
            12
        }
    };
    is_unharmed(&mut cast, broker, least);
}

fn cast(name: &'static str, stage: &Stage, address: &str, times: Times) -> Cast {
    let mut cast = Cast::new(name, stage, &[address], times, Calls::Once);
    cast.service();
    cast.client(Role::Client);
    cast.client(Role::Client);
    cast
}

/// Destroys the sockets of connections to this port of 127.0.0.1.
fn kill_connections(port: &str) -> Result<(), String> {
    let filter = ["-K", "-t", "-n", "dst", "127.0.0.1", "dport", "=", &format!(":{port}")].map(str::to_owned);
    let output = Command::new("ss").args(filter).output().map_err(|error| format!("ss: {error}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    if output.status.success() && error.is_empty() { Ok(()) } else { Err(error.trim().to_owned()) }
}

/// Whether that can be done here: it needs the right to, and a kernel with CONFIG_INET_DIAG_DESTROY.
fn kill_connections_of_a_try() -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    kill_connections(&address.port().to_string())?;
    match stream.read(&mut [0]) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            Err("the kernel kept the connection (no CONFIG_INET_DIAG_DESTROY, or no CAP_NET_ADMIN)"
                .to_owned())
        }
        _ => Ok(()),
    }
}
