//! A proxy of the tests' own between processes and their broker, which breaks connections as it is told.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Passes bytes on between clients and one address, over any number of connections, until it is dropped.
pub(crate) struct Proxy {
    pub(crate) address: String,
    shared: Arc<Mutex<State>>,
}

/// How connections fare now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// What comes is passed on.
    Passes,
    /// New connections are closed at once.
    Refuses,
    /// New connections are accepted, and nothing is passed on: neither on them nor on the old ones.
    Hangs,
    /// The proxy has gone.
    Over,
}

struct State {
    fate: Fate,
    /// Grows by one with each cut. A connection belongs to the time in which it was made.
    cuts: u64,
    /// Both sides of each connection.
    connections: Vec<[TcpStream; 2]>,
    random: u64,
}

impl State {
    /// A number below `limit`; the same ones in each run (SplitMix64).
    fn draw(&mut self, limit: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % limit
    }
}

impl Proxy {
    /// In front of this address.
    pub(crate) fn start(target: &str) -> Self {
        let target: SocketAddr = target.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared =
            Arc::new(Mutex::new(State { fate: Fate::Passes, cuts: 0, connections: Vec::new(), random: 1 }));
        let accepting = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { continue };
                match accepting.lock().unwrap().fate {
                    Fate::Over => return,
                    Fate::Refuses => continue,
                    Fate::Passes | Fate::Hangs => {}
                }
                if let Ok(server) = TcpStream::connect(target) {
                    join(client, server, &accepting);
                }
            }
        });
        Self { address, shared }
    }

    pub(crate) fn set(&self, fate: Fate) {
        self.shared.lock().unwrap().fate = fate;
    }

    /// Ends every connection there is, wherever in the stream it is: those that carry something lose a part of it.
    pub(crate) fn cut(&self) {
        // Time for what is on its way to be cut in the middle; what is silent is cut then.
        const MIDDLE: Duration = Duration::from_millis(2);
        self.shared.lock().unwrap().cuts += 1;
        thread::sleep(MIDDLE);
        for stream in self.shared.lock().unwrap().connections.drain(..).flatten() {
            // One that has ended by itself meanwhile is as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.set(Fate::Over);
        self.cut();
        // So that it stops listening.
        drop(TcpStream::connect(&self.address));
    }
}

fn join(client: TcpStream, server: TcpStream, shared: &Arc<Mutex<State>>) {
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let twins = |stream: &TcpStream| (stream.try_clone().unwrap(), stream.try_clone().unwrap());
    let ((from_client, to_client), (from_server, to_server)) = (twins(&client), twins(&server));
    let cuts = {
        let mut state = shared.lock().unwrap();
        state.connections.push([client, server]);
        state.cuts
    };
    for (from, to) in [(from_client, to_server), (from_server, to_client)] {
        let shared = shared.clone();
        thread::spawn(move || pump(from, to, cuts, &shared));
    }
}

/// Passes on until an end is reached or made.
fn pump(mut from: TcpStream, mut to: TcpStream, cuts: u64, shared: &Mutex<State>) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let bytes = match from.read(&mut buffer) {
            Ok(bytes @ 1..) => bytes,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Ok(_) | Err(_) => break,
        };
        let passed = passed(bytes, cuts, shared);
        if to.write_all(&buffer[..passed]).is_err() || passed < bytes {
            break;
        }
    }
    for stream in [from, to] {
        // The other direction may have done so before.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// How many of so many bytes get through. Waits while nothing does.
fn passed(bytes: usize, cuts: u64, shared: &Mutex<State>) -> usize {
    loop {
        let mut state = shared.lock().unwrap();
        if state.cuts != cuts || state.fate == Fate::Over {
            return state.draw(bytes);
        }
        if state.fate != Fate::Hangs {
            return bytes;
        }
        drop(state);
        thread::sleep(Duration::from_millis(5));
    }
}
