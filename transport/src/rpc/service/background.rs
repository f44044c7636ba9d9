//! A service with a thread of its own.

use super::super::error::ServiceError;
use super::{Request, Service, ServiceConfig, ServiceFailure, ServiceStats};
use crate::driver::Address;
use crate::pool::Body;
use crate::sync::Signal;
use std::io;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

/// A [`Service`] that runs in a thread of its own until it is stopped or dropped.
#[derive(Debug)]
pub struct BackgroundService {
    address: Address,
    stop: Arc<Signal>,
    thread: Option<JoinHandle<Result<ServiceStats, ServiceFailure>>>,
}

type Started = (Address, Arc<Signal>);

impl BackgroundService {
    /// As [`Service::listen`], in a new thread.
    ///
    /// # Errors
    /// [`ServiceFailure`].
    pub fn listen<F>(
        address: &Address,
        destination: &str,
        config: ServiceConfig,
        answer: F,
    ) -> Result<Self, ServiceFailure>
    where
        F: FnMut(&mut Request<'_>) -> Result<Body, ServiceError> + Send + 'static,
    {
        let (address, destination) = (address.clone(), destination.to_owned());
        Self::start(move || Service::listen(&address, &destination, config, answer))
    }

    /// As [`Service::connect`], in a new thread.
    ///
    /// # Errors
    /// [`ServiceFailure`].
    pub fn connect<F>(
        address: &Address,
        destination: &str,
        config: ServiceConfig,
        answer: F,
    ) -> Result<Self, ServiceFailure>
    where
        F: FnMut(&mut Request<'_>) -> Result<Body, ServiceError> + Send + 'static,
    {
        Self::connect_any(std::slice::from_ref(address), destination, config, answer)
    }

    /// As [`Service::connect_any`], in a new thread.
    ///
    /// # Errors
    /// [`ServiceFailure`].
    pub fn connect_any<F>(
        addresses: &[Address],
        destination: &str,
        config: ServiceConfig,
        answer: F,
    ) -> Result<Self, ServiceFailure>
    where
        F: FnMut(&mut Request<'_>) -> Result<Body, ServiceError> + Send + 'static,
    {
        let (addresses, destination) = (addresses.to_vec(), destination.to_owned());
        Self::start(move || {
            let service = Service::connect_any(&addresses, &destination, config, answer)?;
            // An empty list is refused before.
            let first = addresses.into_iter().next().unwrap_or_else(|| Address::inproc(""));
            Ok((service, first))
        })
    }

    /// Where it listens, with the port that the system chose; or the first broker's address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Stops it, waits for its thread, and says what it did.
    ///
    /// # Errors
    /// As [`Service::run`], if it had ended before.
    pub fn stop(mut self) -> Result<ServiceStats, ServiceFailure> {
        self.join()
    }

    fn start<F>(
        make: impl FnOnce() -> Result<(Service<F>, Address), ServiceFailure> + Send + 'static,
    ) -> Result<Self, ServiceFailure>
    where
        F: FnMut(&mut Request<'_>) -> Result<Body, ServiceError>,
    {
        let (sender, receiver) = mpsc::channel::<Result<Started, ServiceFailure>>();
        // A driver stays on the thread that made it.
        let body = move || {
            let (mut service, address) = match make() {
                Ok(made) => made,
                Err(failure) => {
                    drop(sender.send(Err(failure)));
                    return Ok(ServiceStats::default());
                }
            };
            let stop = Arc::new(Signal::new(service.wakeup()));
            // Whoever asked waits for it, or has ended with its whole process.
            drop(sender.send(Ok((address, stop.clone()))));
            service.run_until(None, || stop.is_raised())?;
            Ok(service.stats())
        };
        let thread = thread::Builder::new().name("underlay-service".to_owned()).spawn(body)?;
        let (address, stop) = receiver.recv().unwrap_or_else(|_| Err(thread_died()))?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    fn join(&mut self) -> Result<ServiceStats, ServiceFailure> {
        self.stop.raise();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(ended)) => ended,
            // A panic of the thread was printed when it happened.
            Some(Err(_)) => Err(thread_died()),
            None => Ok(ServiceStats::default()),
        }
    }
}

impl Drop for BackgroundService {
    fn drop(&mut self) {
        if let Err(failure) = self.join() {
            tracing::warn!(%failure, "a service had ended before it was stopped");
        }
    }
}

fn thread_died() -> ServiceFailure {
    ServiceFailure::Io(io::Error::other("the service's thread panicked"))
}
