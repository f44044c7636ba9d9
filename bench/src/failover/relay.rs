//! Passes bytes on between a client and a broker, over connections that can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::error::BenchError;

/// Listens until the program ends; what it passes on ends with the connections.
pub(super) struct Relay {
    pub(super) place: String,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    /// In front of the broker at this address.
    pub(super) fn start(broker: &str) -> Result<Self, BenchError> {
        let failed = || BenchError::io("listen for the client whose connections are cut");
        let listener = TcpListener::bind("127.0.0.1:0").map_err(failed())?;
        let place = listener.local_addr().map_err(failed())?.to_string();
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (broker, accepted) = (broker.to_owned(), connections.clone());
        let accept = move || {
            for client in listener.incoming().flatten() {
                // Whoever connects sees the end of a connection that cannot be passed on, and tries again.
                if let Ok(pumps) = join(client, &broker, &accepted) {
                    for (from, to) in pumps {
                        thread::spawn(move || pump(from, to));
                    }
                }
            }
        };
        thread::Builder::new().name("relay".to_owned()).spawn(accept).map_err(failed())?;
        Ok(Self { place, connections })
    }

    /// Ends all connections that there are.
    pub(super) fn cut(&self) {
        for stream in self.connections.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // One that has ended by itself is as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Both directions of a new connection.
fn join(
    client: TcpStream,
    broker: &str,
    connections: &Mutex<Vec<TcpStream>>,
) -> std::io::Result<[(TcpStream, TcpStream); 2]> {
    let server = TcpStream::connect(broker)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let back = (server.try_clone()?, client.try_clone()?);
    connections
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .extend([client.try_clone()?, server.try_clone()?]);
    Ok([(client, server), back])
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        // The other direction may have done so.
        let _ = stream.shutdown(Shutdown::Both);
    }
}
