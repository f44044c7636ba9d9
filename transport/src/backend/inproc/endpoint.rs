//! What other threads may touch of a wire: its bells, its mailbox and its wakeup.

use super::duct::DuctEnd;
use super::{BACKLOG_MAX, CHANNELS_MAX};
use crate::Wakeup;
use crate::backend::{Channel, Listener};
use crate::sync::ReadySet;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The place in the ready set that stands for the mailbox; those below it are the channels' slots.
pub(super) const MAILBOX: u32 = CHANNELS_MAX as u32;

/// The shared part of a wire.
#[derive(Debug)]
pub(super) struct Endpoint {
    number: u64,
    ready: ReadySet,
    wakeup: Arc<Wakeup>,
    mailbox: Mutex<Mailbox>,
}

#[derive(Debug, Default)]
struct Mailbox {
    mail: VecDeque<Mail>,
    closed: bool,
}

/// What wires tell each other while a channel comes up.
#[derive(Debug)]
pub(super) enum Mail {
    /// A connection for a listener.
    Knock(Knock),
    /// The connection is accepted.
    Welcome { channel: Channel, bell: Bell, peer: String },
    /// The connection is not accepted.
    Refused { channel: Channel, reason: io::Error },
}

/// A connection that waits to be accepted.
#[derive(Debug)]
pub(super) struct Knock {
    pub(super) listener: Listener,
    /// The acceptor's end of the channel.
    pub(super) end: DuctEnd,
    /// The connector's channel, and its bell.
    pub(super) channel: Channel,
    pub(super) bell: Bell,
}

impl Knock {
    /// Tells the connector that nothing will come of it.
    pub(super) fn refuse(self, reason: io::Error) {
        // A connector that is gone needs no answer.
        let _ = self.bell.endpoint.post(Mail::Refused { channel: self.channel, reason });
    }
}

/// How one end of a channel tells the other to look at it.
#[derive(Debug, Clone)]
pub(super) struct Bell {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) slot: u32,
}

impl Bell {
    /// Call it after the work was published.
    #[inline]
    pub(super) fn ring(&self) {
        self.endpoint.ready.add(self.slot);
        self.endpoint.wakeup.wake();
    }
}

/// Why a mailbox took nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotPosted {
    /// Its wire is gone.
    Gone,
    /// Too many connections wait.
    BacklogFull,
}

impl Endpoint {
    pub(super) fn new(number: u64, wakeup: Arc<Wakeup>) -> Self {
        Self { number, ready: ReadySet::new(CHANNELS_MAX + 1), wakeup, mailbox: Mutex::default() }
    }

    /// The name of one of its channels in other wires' logs.
    pub(super) fn describe(&self, channel: Channel) -> String {
        format!("inproc wire {}, channel {}.{}", self.number, channel.slot, channel.generation)
    }

    /// The places that were rung since the last time.
    #[inline]
    pub(super) fn take_ready(&self, each: impl FnMut(u32)) {
        self.ready.take(each);
    }

    /// Keeps the own driver from falling asleep over an event that this wire made for itself.
    #[inline]
    pub(super) fn wake(&self) {
        self.wakeup.wake();
    }

    /// Leaves mail for this wire and wakes it. Answers are bounded by the slots that wait for one; connections by
    /// [`BACKLOG_MAX`].
    pub(super) fn post(&self, mail: Mail) -> Result<(), NotPosted> {
        {
            let mut mailbox = self.lock();
            if mailbox.closed {
                return Err(NotPosted::Gone);
            }
            if matches!(mail, Mail::Knock(_)) && mailbox.mail.len() >= BACKLOG_MAX {
                return Err(NotPosted::BacklogFull);
            }
            mailbox.mail.push_back(mail);
        }
        self.ring_mailbox();
        Ok(())
    }

    /// The oldest piece of mail.
    pub(super) fn take_mail(&self) -> Option<Mail> {
        self.lock().mail.pop_front()
    }

    /// Makes the wire look into its mailbox.
    pub(super) fn ring_mailbox(&self) {
        self.ready.add(MAILBOX);
        self.wakeup.wake();
    }

    /// Takes no more mail; returns what nobody has read.
    pub(super) fn close_mailbox(&self) -> VecDeque<Mail> {
        let mut mailbox = self.lock();
        mailbox.closed = true;
        std::mem::take(&mut mailbox.mail)
    }

    fn lock(&self) -> MutexGuard<'_, Mailbox> {
        // A thread that panicked here left the queue whole: every change is one call of it.
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
