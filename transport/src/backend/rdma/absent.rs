//! What stands in for the wire in a build without it.

use super::{RdmaConfig, RdmaOpenError};
use crate::backend::{Channel, ConnectError, ListenError, Listener, Listening, SendRefused, Wire, WireEvent};
use crate::pool::{GatherList, Pool};
use std::convert::Infallible;
use std::io;
use std::os::fd::BorrowedFd;

/// The `rdma` wire of a build without the feature `rdma`: there is none.
#[derive(Debug)]
pub struct RdmaWire(Infallible);

impl RdmaWire {
    /// Never opens.
    ///
    /// # Errors
    /// [`RdmaOpenError::NotBuilt`].
    pub fn open(_config: RdmaConfig) -> Result<Self, RdmaOpenError> {
        Err(RdmaOpenError::NotBuilt)
    }

    /// Nothing calls it.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        match self.0 {}
    }
}

impl Wire for RdmaWire {
    fn listen(&mut self, _address: &str) -> Result<Listening, ListenError> {
        match self.0 {}
    }

    fn connect(&mut self, _address: &str) -> Result<Channel, ConnectError> {
        match self.0 {}
    }

    fn send(&mut self, _channel: Channel, _gather: &mut GatherList) -> Result<(), SendRefused> {
        match self.0 {}
    }

    fn close(&mut self, _channel: Channel) {
        match self.0 {}
    }

    fn stop_listening(&mut self, _listener: Listener) {
        match self.0 {}
    }

    fn poll(&mut self, _pool: &mut Pool, _events: &mut Vec<WireEvent>) -> io::Result<()> {
        match self.0 {}
    }
}
