//! A client with a thread of its own.

use super::super::calls::Submission;
use super::super::destination::ReplyDestination;
use super::{CallHandle, Client, ClientConfig, ClientError};
use crate::driver::Address;
use crate::sync::SubmitRefused;
use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

/// A client whose driver runs in a thread of its own. Calls are started by its handles, from any thread.
///
/// Dropping it stops the thread; calls in flight end as [`OutcomeUnknown`](crate::rpc::CallError::OutcomeUnknown).
#[derive(Debug)]
pub struct BackgroundClient {
    handle: CallHandle,
    thread: Option<JoinHandle<()>>,
}

impl BackgroundClient {
    /// Starts the thread and connects. Blocks until calls can be sent. See [`Client::connect`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(address: &Address, config: ClientConfig) -> Result<Self, ClientError> {
        Self::connect_any(std::slice::from_ref(address), config)
    }

    /// As [`BackgroundClient::connect`], by whichever of several brokers works. See [`Client::connect_any`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect_any(addresses: &[Address], config: ClientConfig) -> Result<Self, ClientError> {
        Self::connect_any_as(&ReplyDestination::of_process(), addresses, config)
    }

    /// As [`BackgroundClient::connect`], with another reply destination than the process's.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect_as(
        destination: &ReplyDestination,
        address: &Address,
        config: ClientConfig,
    ) -> Result<Self, ClientError> {
        Self::connect_any_as(destination, std::slice::from_ref(address), config)
    }

    /// As [`BackgroundClient::connect_any`], with another reply destination than the process's.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect_any_as(
        destination: &ReplyDestination,
        addresses: &[Address],
        config: ClientConfig,
    ) -> Result<Self, ClientError> {
        let (sender, receiver) = mpsc::channel();
        let (destination, addresses) = (destination.clone(), addresses.to_vec());
        let body = move || match Client::connect_any_as(&destination, &addresses, config) {
            Ok(mut client) => {
                // Whoever asked may have given up; then the handle is gone with the message.
                let _ = sender.send(Ok(client.handle()));
                if let Err(error) = client.driver.run() {
                    tracing::error!(%error, "a client's driver failed; its calls end");
                }
            }
            Err(error) => drop(sender.send(Err(error))),
        };
        let thread = thread::Builder::new().name("underlay-client".to_owned()).spawn(body)?;
        let lost = || Err(ClientError::Io(io::Error::other("the driver's thread ended at once")));
        let handle = receiver.recv().unwrap_or_else(|_| lost())?;
        Ok(Self { handle, thread: Some(thread) })
    }

    /// A handle, for any thread.
    pub fn handle(&self) -> CallHandle {
        self.handle.clone()
    }
}

impl Drop for BackgroundClient {
    fn drop(&mut self) {
        // A full queue empties, a closed one belongs to a thread that has ended.
        while let Err(SubmitRefused::Full { .. }) = self.handle.submitter.push(Submission::Stop) {
            thread::yield_now();
        }
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed when it happened.
            let _ = thread.join();
        }
    }
}
