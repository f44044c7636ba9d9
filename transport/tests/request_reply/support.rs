//! Services to call, and a foreign executor.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;
use underlay::backend::tcp::EngineChoice;
use underlay::driver::{Address, DriverConfig};
use underlay::pool::Body;
use underlay::rpc::{BackgroundService, ClientConfig, Request, ServiceConfig, ServiceError};

/// No call here takes this long unless something is wrong.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A way from a client to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Tcp(EngineChoice),
    Inproc,
}

pub(crate) const WAYS: [Way; 3] =
    [Way::Tcp(EngineChoice::IoUring), Way::Tcp(EngineChoice::Epoll), Way::Inproc];

impl Way {
    pub(crate) fn driver(self) -> DriverConfig {
        let mut driver = DriverConfig::default();
        if let Self::Tcp(engine) = self {
            driver.tcp.engine = engine;
        }
        driver
    }

    pub(crate) fn client(self) -> ClientConfig {
        ClientConfig { driver: self.driver(), ..ClientConfig::default() }
    }

    pub(crate) fn service_config(self) -> ServiceConfig {
        ServiceConfig { driver: self.driver(), ..ServiceConfig::default() }
    }

    /// An address where nothing listens yet.
    pub(crate) fn address(self) -> Address {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        match self {
            Self::Tcp(_) => Address::tcp("127.0.0.1:0"),
            Self::Inproc => {
                Address::inproc(format!("request-reply-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
            }
        }
    }

    pub(crate) fn serve<F>(self, answer: F) -> BackgroundService
    where
        F: FnMut(&mut Request<'_>) -> Result<Body, ServiceError> + Send + 'static,
    {
        BackgroundService::listen(&self.address(), "echo", self.service_config(), answer).unwrap()
    }
}

pub(crate) fn echo(request: &mut Request<'_>) -> Result<Body, ServiceError> {
    Ok(request.take_body())
}

/// Bytes that name their call.
pub(crate) fn named(number: u64, bytes: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut body = number.to_le_bytes().to_vec();
    body.resize_with(bytes.max(8), || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    body
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The whole of a foreign executor: polls when it is woken, and sleeps otherwise.
pub(crate) fn execute<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}
