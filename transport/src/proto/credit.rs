//! Credit: how far a sender may go, counted in absolute positions.
//!
//! The same arithmetic serves frames and chunks of a connection, and messages and bytes of a link. A
//! grant says "up to position n", never "n more": one that is lost, repeated or overtaken by a newer
//! one changes nothing. A limit that has been granted is never taken back.

use super::serial::{expand, shorten};
use super::{LinkId, PeerMisbehaved};

/// An absolute limit that only rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CreditLimit(u64);

impl CreditLimit {
    /// Starts at `position`.
    pub const fn new(position: u64) -> Self {
        Self(position)
    }

    /// The limit: positions below it may be used.
    pub const fn position(self) -> u64 {
        self.0
    }

    /// Raises the limit; says whether it did. An older or repeated grant does not.
    pub const fn raise(&mut self, position: u64) -> bool {
        let raised = position > self.0;
        if raised {
            self.0 = position;
        }
        raised
    }

    /// As [`CreditLimit::raise`], from the low 32 bits.
    pub const fn raise_short(&mut self, low: u32) -> bool {
        self.raise(expand(low, self.0))
    }
}

/// The sender's side: what it has used, how far it may go, and what it keeps for control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendWindow {
    used: u64,
    limit: CreditLimit,
    reserve: u64,
}

impl SendWindow {
    /// Nothing used yet, positions below `limit` granted, the last `reserve` of them not for data.
    pub const fn new(limit: u64, reserve: u64) -> Self {
        Self { used: 0, limit: CreditLimit::new(limit), reserve }
    }

    /// The next position to be used.
    pub const fn used(&self) -> u64 {
        self.used
    }

    /// The limit as last granted.
    pub const fn limit(&self) -> u64 {
        self.limit.position()
    }

    /// What data may still use. It never eats into the reserve.
    pub const fn available(&self) -> u64 {
        self.available_with_reserve().saturating_sub(self.reserve)
    }

    /// What control may still use.
    pub const fn available_with_reserve(&self) -> u64 {
        self.limit.position().saturating_sub(self.used)
    }

    /// Uses `amount` for data if all of it is granted, and returns the first position of it.
    pub const fn take(&mut self, amount: u64) -> Option<u64> {
        if amount > self.available() {
            return None;
        }
        self.advance(amount)
    }

    /// Uses `amount` for control, from the reserve if need be.
    pub const fn take_with_reserve(&mut self, amount: u64) -> Option<u64> {
        if amount > self.available_with_reserve() {
            return None;
        }
        self.advance(amount)
    }

    const fn advance(&mut self, amount: u64) -> Option<u64> {
        let first = self.used;
        // At most `limit`, so it cannot overflow.
        self.used += amount;
        Some(first)
    }

    /// Takes a grant; says whether it allows more than before.
    pub const fn grant(&mut self, limit: u64) -> bool {
        self.limit.raise(limit)
    }

    /// As [`SendWindow::grant`], from the low 32 bits in a frame's header.
    pub const fn grant_short(&mut self, low: u32) -> bool {
        self.limit.raise_short(low)
    }
}

/// The receiver's side: what has arrived, what has been freed again, and what was granted.
///
/// The limit to grant is always "freed so far plus the window". Freed is what can be filled again: a
/// receive slot that is posted anew, a message that its queue has room to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveWindow {
    received: u64,
    released: u64,
    granted: CreditLimit,
    window: u64,
}

impl ReceiveWindow {
    /// `window` positions are granted from the start, as the hello or the attach said.
    pub const fn new(window: u64) -> Self {
        Self { received: 0, released: 0, granted: CreditLimit::new(window), window }
    }

    /// What has arrived.
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// What has arrived and not been released.
    pub const fn held(&self) -> u64 {
        self.received - self.released
    }

    /// The limit that the peer was last told.
    pub const fn granted(&self) -> u64 {
        self.granted.position()
    }

    /// Counts what has arrived.
    ///
    /// # Errors
    /// [`CreditOverrun`] if it lies past what was granted; nothing is counted then.
    pub const fn receive(&mut self, amount: u64) -> Result<(), CreditOverrun> {
        let position = self.received.saturating_add(amount);
        if position > self.granted.position() {
            return Err(CreditOverrun { position, limit: self.granted.position() });
        }
        self.received = position;
        Ok(())
    }

    /// Counts what can be filled again. More than is held counts as what is held.
    pub const fn release(&mut self, amount: u64) {
        let held = self.held();
        self.released += if amount < held { amount } else { held };
    }

    /// Another size for the window. A smaller one takes nothing back; it delays the next grants.
    pub const fn resize(&mut self, window: u64) {
        self.window = window;
    }

    /// Whether the peer should be told a new limit even if no frame leaves otherwise: half a window has
    /// been freed since the last grant, or the peer has nothing left and could have something.
    pub const fn due(&self) -> bool {
        let gain = self.target().saturating_sub(self.granted.position());
        gain > 0 && (gain >= self.window / 2 || self.received == self.granted.position())
    }

    /// The limit that [`ReceiveWindow::grant`] would tell.
    pub const fn next_grant(&self) -> u64 {
        let (target, granted) = (self.target(), self.granted.position());
        if target > granted { target } else { granted }
    }

    /// The limit to tell the peer now, which counts as granted from here on.
    pub const fn grant(&mut self) -> u64 {
        self.granted.raise(self.target());
        self.granted.position()
    }

    /// As [`ReceiveWindow::grant`], as its low 32 bits for a frame's header.
    pub const fn grant_short(&mut self) -> u32 {
        shorten(self.grant())
    }

    const fn target(&self) -> u64 {
        self.released.saturating_add(self.window)
    }
}

/// A sender went past its limit. What it is called depends on what was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("position {position} is past the credit limit of {limit}")]
pub struct CreditOverrun {
    /// How far the sender went.
    pub position: u64,
    /// How far it was allowed to go.
    pub limit: u64,
}

impl CreditOverrun {
    /// Frames of a connection were counted.
    pub const fn of_frames(self) -> PeerMisbehaved {
        PeerMisbehaved::FrameCreditOverrun { position: self.position, limit: self.limit }
    }

    /// Chunks of a connection were counted.
    pub const fn of_chunks(self) -> PeerMisbehaved {
        PeerMisbehaved::ChunkCreditOverrun { position: self.position, limit: self.limit }
    }

    /// Messages of a link were counted.
    pub const fn of_messages(self, link: LinkId) -> PeerMisbehaved {
        PeerMisbehaved::MessageCreditOverrun { link, position: self.position, limit: self.limit }
    }

    /// Bytes of a link were counted.
    pub const fn of_bytes(self, link: LinkId) -> PeerMisbehaved {
        PeerMisbehaved::ByteCreditOverrun { link, position: self.position, limit: self.limit }
    }
}
