//! Sessions over real wires: lost connections, changes of wire in mid-stream, the way back.

mod ends;
mod proxy;

use ends::{Pair, drivers_config};
use proxy::Proxy;
use std::time::Duration;
use underlay::backend::WireKind;
use underlay::backend::tcp::EngineChoice;
use underlay::driver::Address;

const ENGINES: [EngineChoice; 2] = [EngineChoice::IoUring, EngineChoice::Epoll];
const COUNT: u64 = 2_000;

/// The engines that this machine has.
fn engines() -> impl Iterator<Item = EngineChoice> {
    ENGINES.into_iter().filter(|&engine| match ends::can_open(engine) {
        Ok(()) => true,
        Err(reason) => {
            println!("SKIPPED: {engine:?}: {reason}");
            false
        }
    })
}

#[test]
fn a_session_moves_between_tcp_and_inproc_in_mid_stream() {
    for engine in engines() {
        let mut pair = Pair::new(drivers_config(engine));
        let (tcp, inproc) =
            (pair.listen(&Address::tcp("127.0.0.1:0")), pair.listen(&Address::inproc("there")));
        pair.connect(std::slice::from_ref(&tcp));
        for (part, address) in [&inproc, &tcp, &inproc, &tcp].into_iter().enumerate() {
            pair.send_up_to((part as u64 + 1) * COUNT / 5);
            pair.move_to(address);
            // Traffic goes on while it moves.
            pair.send_up_to((part as u64 + 1) * COUNT / 5 + COUNT / 10);
            pair.until("it has moved", |pair| pair.moves().len() == part + 1);
        }
        pair.send_up_to(COUNT);
        pair.until_all_arrived();
        let wires = pair.moves();
        assert_eq!(wires, [WireKind::Inproc, WireKind::Tcp, WireKind::Inproc, WireKind::Tcp], "{engine:?}");
        assert_eq!(pair.interruptions(), 0, "the new connection was there before the old one went");
        pair.close();
    }
}

#[test]
fn a_session_survives_connections_that_are_cut_at_any_time() {
    for engine in engines() {
        let mut pair = Pair::new(drivers_config(engine));
        let broker = pair.listen(&Address::tcp("127.0.0.1:0"));
        let proxy = Proxy::to(broker.place());
        pair.connect(&[Address::tcp(proxy.address())]);
        for cut in 0..20 {
            // In the midst of what is on its way, a little later each time.
            pair.send_up_to((cut + 1) * COUNT / 25);
            (0..cut).for_each(|_| pair.turn());
            proxy.cut();
            pair.until("it was interrupted", |pair| pair.interruptions() > cut);
        }
        pair.send_up_to(COUNT);
        pair.until_all_arrived();
        assert!(pair.interruptions() >= 20, "{engine:?}: {}", pair.interruptions());
        pair.close();
    }
}

#[test]
fn a_wire_that_fails_is_left_and_returned_to() {
    for engine in engines() {
        let mut pair = Pair::new(drivers_config(engine));
        let (tcp, inproc) =
            (pair.listen(&Address::tcp("127.0.0.1:0")), pair.listen(&Address::inproc("there")));
        let proxy = Proxy::to(tcp.place());
        pair.connect(&[Address::tcp(proxy.address()), inproc]);
        pair.send_up_to(COUNT / 4);
        proxy.refuse(true);
        proxy.cut();
        pair.until("it goes on over the other wire", |pair| pair.moves() == [WireKind::Inproc]);
        pair.send_up_to(COUNT / 2);
        pair.until_all_arrived();
        proxy.refuse(false);
        pair.until("it is back on the better wire", |pair| pair.moves() == [WireKind::Inproc, WireKind::Tcp]);
        assert_eq!(pair.interruptions(), 1, "the way back interrupts nothing");
        pair.send_up_to(COUNT);
        pair.until_all_arrived();
        pair.close();
    }
}

#[test]
fn a_peer_that_stays_away_ends_the_session_when_it_expires() {
    let mut config = drivers_config(EngineChoice::Auto);
    config.session.expiry = Duration::from_millis(300);
    let mut pair = Pair::new(config);
    let broker = pair.listen(&Address::tcp("127.0.0.1:0"));
    let proxy = Proxy::to(broker.place());
    pair.connect(&[Address::tcp(proxy.address())]);
    pair.send_up_to(100);
    pair.until_all_arrived();
    proxy.refuse(true);
    proxy.cut();
    pair.until("both ends have given it up", |pair| pair.closed() == ["expired", "expired"]);
}
