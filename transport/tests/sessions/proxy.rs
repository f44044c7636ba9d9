//! Something between two ends that cuts what passes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Forwards TCP connections to one address until it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    streams: Mutex<Vec<TcpStream>>,
    refuses: AtomicBool,
    is_over: AtomicBool,
}

impl Proxy {
    pub(crate) fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            streams: Mutex::new(Vec::new()),
            refuses: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        });
        let (target, of_thread) = (target.to_owned(), shared.clone());
        thread::spawn(move || {
            for accepted in listener.incoming() {
                if of_thread.is_over.load(Ordering::SeqCst) {
                    return;
                }
                // One that is refused is accepted by the kernel, and closed at once.
                if let (Ok(near), false) = (accepted, of_thread.refuses.load(Ordering::SeqCst)) {
                    of_thread.forward(near, &target);
                }
            }
        });
        Self { address, shared }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Cuts all connections that there are.
    pub(crate) fn cut(&self) {
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets no connection through from now on, or again.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.shared.refuses.store(refuses, Ordering::SeqCst);
    }
}

impl Shared {
    fn forward(&self, near: TcpStream, target: &str) {
        let Ok(far) = TcpStream::connect(target) else { return };
        for stream in [&near, &far] {
            stream.set_nodelay(true).unwrap();
        }
        let mut streams = self.streams.lock().unwrap();
        streams.extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
        drop(streams);
        for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
            thread::spawn(move || {
                let mut buffer = [0; 16_384];
                while let Ok(count @ 1..) = from.read(&mut buffer) {
                    if to.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
                // One direction that ends, ends both.
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            });
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}
