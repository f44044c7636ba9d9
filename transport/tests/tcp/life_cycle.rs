//! How channels and listeners come up and go down, and what they leave behind: nothing.

use crate::end::{End, Pair, Random, Reason, accepted, config, is_own_process, narrow, with_plain_peer};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use underlay::backend::tcp::EngineChoice;
use underlay::backend::{Channel, SendRefused, Wire, WireEvent};
use underlay::pool::GatherList;

crate::on_both_engines!(
    both_ends_know_the_way,
    it_speaks_ipv6,
    a_peer_that_does_not_read_holds_one_send_and_closing_frees_it,
    the_end_of_the_peer_comes_after_its_bytes,
    the_end_of_the_peer_cancels_the_send_in_flight,
    a_reset_breaks_the_channel,
    what_came_before_a_reset_is_not_lost_to_a_failing_send,
    closing_ends_both_ends_once,
    a_connection_that_nobody_takes_is_refused,
    a_connection_can_be_given_up,
    names_are_looked_up,
    a_stopped_listener_refuses_and_frees_its_port,
    dropping_the_wire_frees_everything,
);

fn sent(event: &WireEvent) -> Option<()> {
    matches!(event, WireEvent::Sent { .. }).then_some(())
}

fn both_ends_know_the_way(engine: EngineChoice) {
    let (mut client, mut server) = (End::open(config(engine)), End::open(config(engine)));
    let (_, address) = server.listen();
    let near = client.wire.connect(&address).unwrap();
    assert_eq!(client.wire.send(near, &mut GatherList::new()), Err(SendRefused::NotOpen));
    let path = client.until(|event| match event {
        WireEvent::Connected { path, .. } => Some(path.clone()),
        _ => None,
    });
    assert_eq!(path.peer, address);
    assert!((536..65_536).contains(&path.packet_bytes), "{path:?}");
    let path = server.until(|event| match event {
        WireEvent::Accepted { path, .. } => Some(path.clone()),
        _ => None,
    });
    assert!(path.peer.starts_with("127.0.0.1:") && path.packet_bytes >= 536, "{path:?}");
}

fn it_speaks_ipv6(engine: EngineChoice) {
    let (mut client, mut server) = (End::open(config(engine)), End::open(config(engine)));
    let address = match server.wire.listen("[::1]:0") {
        Ok(listening) => listening.address,
        Err(error) => return eprintln!("skipped: it_speaks_ipv6: {error}"),
    };
    assert!(address.starts_with("[::1]:") && !address.ends_with(":0"), "{address}");
    let near = client.wire.connect(&address).unwrap();
    client.until(|event| matches!(event, WireEvent::Connected { .. }).then_some(()));
    let far = server.until(accepted);
    client.send(near, b"over v6");
    while server.take_received(far) != b"over v6" {
        client.poll();
        server.poll();
    }
}

/// Sends until the peer's side is full, and returns the number of sends that were done.
fn fill(end: &mut End, channel: Channel) -> usize {
    for done in 0..100 {
        end.send(channel, &[1; 200_000]);
        let refused = end.wire.send(channel, &mut GatherList::new());
        assert_eq!(refused, Err(SendRefused::InFlight));
        for _ in 0..300 {
            end.poll();
        }
        if end.take(sent).is_none() {
            return done;
        }
    }
    panic!("the sockets take everything");
}

fn a_peer_that_does_not_read_holds_one_send_and_closing_frees_it(engine: EngineChoice) {
    let mut end = End::open(narrow(engine));
    let resting = end.buffers_out();
    let (channel, peer) = with_plain_peer(&mut end);
    fill(&mut end, channel);
    assert!(end.buffers_out() > resting);
    let mut gather = end.gather(b"more", || 4);
    assert_eq!(end.wire.send(channel, &mut gather), Err(SendRefused::InFlight));
    assert_eq!(gather.len(), 4, "what is refused stays the caller's");
    end.wire.close(channel);
    assert_eq!(end.until_closed(channel), Reason::Local);
    assert_eq!(end.wire.send(channel, &mut gather), Err(SendRefused::NotOpen));
    drop(gather);
    assert_eq!(end.buffers_out(), resting);
    drop(peer);
}

fn the_end_of_the_peer_comes_after_its_bytes(engine: EngineChoice) {
    let mut end = End::open(config(engine));
    let resting = end.buffers_out();
    let (channel, mut peer) = with_plain_peer(&mut end);
    let bytes = Random::seeded(8).bytes(300_000);
    let all = bytes.clone();
    let writer = std::thread::spawn(move || peer.write_all(&all).unwrap());
    assert_eq!(end.until_closed(channel), Reason::Peer);
    assert!(end.take_received(channel) == bytes);
    assert_eq!(end.buffers_out(), resting);
    writer.join().unwrap();
}

fn the_end_of_the_peer_cancels_the_send_in_flight(engine: EngineChoice) {
    let mut end = End::open(narrow(engine));
    let resting = end.buffers_out();
    let (channel, peer) = with_plain_peer(&mut end);
    fill(&mut end, channel);
    peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end.until_closed(channel), Reason::Peer);
    assert_eq!(end.buffers_out(), resting);
}

/// Closes a socket so that its peer sees a reset.
fn reset(peer: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let bytes = std::mem::size_of_val(&linger) as libc::socklen_t;
    let source = (&raw const linger).cast();
    // SAFETY: the source is a linger of that size.
    let outcome =
        unsafe { libc::setsockopt(peer.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, source, bytes) };
    assert_eq!(outcome, 0);
}

fn a_reset_breaks_the_channel(engine: EngineChoice) {
    let mut end = End::open(config(engine));
    let (channel, peer) = with_plain_peer(&mut end);
    reset(peer);
    assert_eq!(end.until_closed(channel), Reason::Broken(libc::ECONNRESET));
}

fn what_came_before_a_reset_is_not_lost_to_a_failing_send(engine: EngineChoice) {
    let mut end = End::open(config(engine));
    let resting = end.buffers_out();
    let (channel, mut peer) = with_plain_peer(&mut end);
    // So that receiving waits already, and the send fails first.
    (0..10).for_each(|_| end.poll());
    peer.write_all(b"last words").unwrap();
    reset(peer);
    end.send(channel, b"too late");
    let reason = end.until_closed(channel);
    assert!(matches!(reason, Reason::Broken(_)), "{reason:?}");
    assert_eq!(end.take_received(channel), b"last words");
    assert_eq!(end.buffers_out(), resting);
}

fn closing_ends_both_ends_once(engine: EngineChoice) {
    let Pair { mut client, mut server, near, far } = Pair::open(config(engine));
    client.send(near, b"bye");
    client.until(sent);
    client.wire.close(near);
    client.wire.close(near);
    assert_eq!(client.until_closed(near), Reason::Local);
    client.wire.close(near);
    assert_eq!(server.until_closed(far), Reason::Peer);
    assert_eq!(server.take_received(far), b"bye");
    server.wire.close(far);
    server.wire.close(Channel { slot: 1_000_000, generation: 3 });
    for _ in 0..100 {
        client.poll();
        server.poll();
    }
    assert!(client.events.is_empty() && server.events.is_empty());
}

fn port_without_listener() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn a_connection_that_nobody_takes_is_refused(engine: EngineChoice) {
    let mut end = End::open(config(engine));
    let channel = end.wire.connect(&format!("127.0.0.1:{}", port_without_listener())).unwrap();
    assert_eq!(end.until_closed(channel), Reason::ConnectFailed(libc::ECONNREFUSED));
}

fn a_connection_can_be_given_up(engine: EngineChoice) {
    // A listener whose queue is full lets connections wait.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // SAFETY: it touches no memory.
    unsafe { libc::listen(listener.as_raw_fd(), 0) };
    let address = listener.local_addr().unwrap().to_string();
    let mut end = End::open(config(engine));
    let channels: Vec<_> = (0..4).map(|_| end.wire.connect(&address).unwrap()).collect();
    for _ in 0..100 {
        end.poll();
    }
    let open = end.events.len();
    assert!(open < channels.len(), "none waits: {:?}", end.events);
    for channel in channels {
        end.wire.close(channel);
        end.events.retain(|event| !matches!(event, WireEvent::Connected { .. }));
        assert_eq!(end.until_closed(channel), Reason::Local);
    }
}

fn names_are_looked_up(engine: EngineChoice) {
    let (mut client, mut server) = (End::open(config(engine)), End::open(config(engine)));
    let (_, address) = server.listen();
    let port = address.rsplit_once(':').unwrap().1;
    // Where `localhost` is ::1 as well, that is refused first.
    client.wire.connect(&format!("localhost:{port}")).unwrap();
    client.until(|event| matches!(event, WireEvent::Connected { .. }).then_some(()));
    server.until(accepted);
    let channel = client.wire.connect(&format!("localhost:{}", port_without_listener())).unwrap();
    assert_eq!(client.until_closed(channel), Reason::ConnectFailed(libc::ECONNREFUSED));
}

fn a_stopped_listener_refuses_and_frees_its_port(engine: EngineChoice) {
    let mut end = End::open(config(engine));
    for _ in 0..5 {
        let (listener, address) = end.listen();
        let mut peer = TcpStream::connect(&address).unwrap();
        let channel = end.until(accepted);
        end.wire.stop_listening(listener);
        end.wire.stop_listening(listener);
        end.poll();
        let error = TcpStream::connect(&address).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        let again = end.wire.listen(&address).unwrap();
        assert_ne!(again.listener, listener);
        end.wire.stop_listening(listener);
        drop(TcpStream::connect(&address).unwrap());
        end.until(accepted);
        end.send(channel, b"still here");
        end.poll();
        let mut bytes = [0; 10];
        peer.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"still here", "channels that were accepted stay");
        end.wire.stop_listening(again.listener);
    }
}

fn dropping_the_wire_frees_everything(engine: EngineChoice) {
    let mut end = End::open(narrow(engine));
    let (_, address) = end.listen();
    let (full, mut peer) = with_plain_peer(&mut end);
    fill(&mut end, full);
    let queued = end.wire.connect(&address).unwrap();
    let idle = with_plain_peer(&mut end);
    let End { mut pool, wire, events, .. } = end;
    drop((wire, events));
    pool.reclaim();
    assert_eq!(pool.stats().buffers_out, 0, "all segments and receive buffers are back");
    assert!(TcpStream::connect(&address).is_err());
    let mut rest = Vec::new();
    let ended = peer.read_to_end(&mut rest);
    assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    drop((queued, idle));
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Opens and closes channels at random, some with bytes under way, until 200 were open; nothing may be left of them.
fn churn(engine: EngineChoice) {
    let (mut client, mut server) = (End::open(config(engine)), End::open(config(engine)));
    let (_, address) = server.listen();
    for end in [&mut client, &mut server] {
        (0..20).for_each(|_| end.poll());
    }
    let before = (client.buffers_out(), server.buffers_out(), descriptors());
    let mut random = Random::seeded(9);
    let (mut asked, mut open) = (0, Vec::new());
    let (mut near_ends, mut far_ends) = (0, 0);
    while asked < 200 || !open.is_empty() || near_ends < 200 || far_ends < 200 {
        if asked < 200 && random.below(3) > 0 {
            open.push(client.wire.connect(&address).unwrap());
            asked += 1;
        } else if !open.is_empty() {
            let channel = open.swap_remove(random.below(open.len()));
            let mut gather = client.gather(&[3; 50_000], || 30_000);
            // Refused if it has not come up yet, which is as good.
            let _ = client.wire.send(channel, &mut gather);
            if random.below(2) == 0 {
                client.poll();
            }
            client.wire.close(channel);
        }
        client.poll();
        server.poll();
        near_ends += client.events.iter().filter(|event| matches!(event, WireEvent::Closed { .. })).count();
        client.events.clear();
        for event in server.events.drain(..) {
            match event {
                WireEvent::Accepted { channel, .. } if random.below(4) == 0 => server.wire.close(channel),
                WireEvent::Closed { .. } => far_ends += 1,
                _ => {}
            }
        }
        // A connection that was given up early may never be seen by the other end.
        if asked == 200 && open.is_empty() && near_ends == 200 {
            for _ in 0..2000 {
                server.poll();
                let is_end = |event: &&WireEvent| matches!(event, WireEvent::Closed { .. });
                far_ends += server.events.iter().filter(is_end).count();
                server.events.clear();
            }
            break;
        }
    }
    assert!(far_ends <= 200 && near_ends == 200, "{near_ends} and {far_ends} ends of 200 channels");
    assert_eq!((client.buffers_out(), server.buffers_out(), descriptors()), before);
}

#[test]
fn churn_leaves_nothing_on_io_uring() {
    if is_own_process("life_cycle::churn_leaves_nothing_on_io_uring")
        && crate::end::io_uring_is_usable("churn")
    {
        churn(EngineChoice::IoUring);
    }
}

#[test]
fn churn_leaves_nothing_on_epoll() {
    if is_own_process("life_cycle::churn_leaves_nothing_on_epoll") {
        churn(EngineChoice::Epoll);
    }
}
