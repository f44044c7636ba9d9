//! A client and a service on one thread, turned one after the other: nothing happens but what a test asks for.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::time::{Duration, Instant};
use underlay::driver::{Address, DriverConfig, DriverStats};
use underlay::pool::Body;
use underlay::proto::Lane;
use underlay::rpc::{Client, ClientConfig, Request, Service, ServiceConfig, ServiceError};

/// Longer than any call takes on the slowest machine.
const LIMIT: Duration = Duration::from_secs(60);

type Echo = fn(&mut Request<'_>) -> Result<Body, ServiceError>;

/// The two ends, and what is asked.
pub(crate) struct Turned {
    client: Client,
    service: Service<Echo>,
    body: Body,
}

impl Turned {
    /// Connected, and warm after so many calls.
    pub(crate) fn open(place: &Address, driver: &DriverConfig, body_bytes: usize, calls: usize) -> Self {
        let echo: Echo = |request| Ok(request.take_body());
        let config = ServiceConfig { driver: driver.clone(), ..ServiceConfig::default() };
        let (service, address) = Service::listen(place, "echo", config, echo).unwrap();
        let config = ClientConfig { driver: driver.clone(), ..ClientConfig::default() };
        let mut client = Client::begin_connect(&address, config).unwrap();
        let body = client.body(&vec![7; body_bytes]).unwrap();
        let mut ends = Self { client, service, body };
        (0..calls).for_each(|_| ends.call());
        ends
    }

    /// A request and its reply.
    pub(crate) fn call(&mut self) {
        let started = Instant::now();
        let body = self.client.share(&self.body).unwrap();
        let mut call = self.client.start("echo", body, Lane::Normal, LIMIT);
        loop {
            match call.try_take() {
                Some(reply) => return assert_eq!(reply.unwrap().body().len(), self.body.len()),
                None => self.turn(),
            }
            assert!(started.elapsed() < LIMIT);
        }
    }

    /// A turn of each.
    pub(crate) fn turn(&mut self) {
        self.client.turn().unwrap();
        self.service.turn().unwrap();
    }

    /// What both drivers did.
    pub(crate) fn stats(&self) -> [DriverStats; 2] {
        [self.client.driver_stats(), self.service.driver_stats()]
    }
}
