//! Who may send how much: the arithmetic that keeps receiver-not-ready from ever happening.
//!
//! Each send takes one receive request of the peer's, which must be there. So each end tells the other up to which
//! *position* it may send, counted in sends since the connection came up; the position travels as the four bytes beside
//! every send, so it costs nothing while there is traffic both ways, and a send without content carries it when there
//! is none. Positions are absolute and only grow, modulo 2^32.
//!
//! Such a send takes a receive request as well. [`RESERVED`] of them are kept for it that data can never take. Two
//! would do: an end that has used its reserve tells of `WINDOW_MIN / 2` or more requests each time, so the peer, to use
//! up what it was told last but one, must have received all but the last of these, and says so in what it sends. The
//! third is for what cannot be thought of.
//!
//! The receive requests are those of a queue that all connections of a device share. What was promised and is not used
//! yet, over all of them, never exceeds what is posted there ([`Shares`]). A promise cannot be taken back, so half of
//! the queue is kept for what every connection is promised, those that are yet to come among them; the other half goes
//! to those that use up what they have. A connection's window starts at [`WINDOW_MIN`] and doubles when the peer has
//! used half of it before it was told of more.

/// Receive requests of the peer's that only a send without content takes.
const RESERVED: u32 = 3;

/// The fewest receive requests that a connection is promised; with [`RESERVED`] taken off, data must still be able to
/// reach the half of them at which the next promise is due.
pub(super) const WINDOW_MIN: u32 = 8;

/// What this end may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outgoing {
    sent: u32,
    limit: u32,
}

impl Outgoing {
    /// The peer has promised so many receive requests to begin with.
    pub(super) fn new(limit: u32) -> Self {
        Self { sent: 0, limit }
    }

    /// How many sends of data may leave.
    #[inline]
    pub(super) fn room(&self) -> u32 {
        (self.limit.wrapping_sub(self.sent)).saturating_sub(RESERVED)
    }

    /// Whether a send without content may leave.
    #[inline]
    pub(super) fn has_reserve(&self) -> bool {
        self.limit != self.sent
    }

    #[inline]
    pub(super) fn sent(&mut self, count: u32) {
        self.sent = self.sent.wrapping_add(count);
    }

    /// Takes the position that the peer says. A position that goes back, or further than anyone promises, is refused:
    /// it is a peer that breaks the protocol, and following it would end in receiver-not-ready.
    #[inline]
    pub(super) fn allow(&mut self, limit: u32) -> Result<(), BadLimit> {
        let by = limit.wrapping_sub(self.limit);
        if by == 0 {
            return Ok(());
        }
        if limit.wrapping_sub(self.sent) > WINDOW_LIMIT || by > WINDOW_LIMIT {
            return Err(BadLimit { given: limit, before: self.limit, sent: self.sent });
        }
        self.limit = limit;
        Ok(())
    }
}

/// The most receive requests that one connection is promised.
pub(super) const WINDOW_LIMIT: u32 = 1 << 16;

/// A position that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer allows sends up to {given}, after it had allowed {before}, of which {sent} are sent")]
pub(super) struct BadLimit {
    given: u32,
    before: u32,
    sent: u32,
}

/// What the peer of one connection may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Incoming {
    received: u32,
    told: u32,
    /// How much it is to be promised.
    window: u32,
}

/// The receive requests of one device and what was promised of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shares {
    /// The most for one connection.
    window_max: u32,
    connections_max: u32,
    /// The most that may be promised beyond [`WINDOW_MIN`] for each connection.
    extra_max: u32,
    /// Posted, and not used.
    posted: u32,
    /// Promised, and not used.
    promised: u32,
    /// What of that is beyond [`WINDOW_MIN`] for a connection.
    extra: u32,
    connections: u32,
}

impl Shares {
    /// # Panics
    /// Not with a configuration that was checked: `window_max` is between [`WINDOW_MIN`] and [`WINDOW_LIMIT`], and
    /// `depth` at least [`WINDOW_MIN`].
    pub(super) fn new(depth: u32, window_max: u32) -> Self {
        debug_assert!((WINDOW_MIN..=WINDOW_LIMIT).contains(&window_max) && depth >= WINDOW_MIN);
        let connections_max = connections_max(depth);
        Self {
            window_max,
            connections_max,
            extra_max: depth - connections_max * WINDOW_MIN,
            posted: 0,
            promised: 0,
            extra: 0,
            connections: 0,
        }
    }

    /// Whether one more connection can be promised [`WINDOW_MIN`].
    pub(super) fn has_room(&self) -> bool {
        self.connections < self.connections_max
    }

    /// The most for each connection when there are so many, and all use what they have.
    fn share(&self, connections: u32) -> u32 {
        WINDOW_MIN + (self.extra_max / connections.max(1)).min(self.window_max - WINDOW_MIN)
    }

    /// How many have to be posted so that one more connection has its share.
    pub(super) fn wanted(&self) -> u32 {
        let connections = self.connections + 1;
        (connections * self.share(connections)).max(self.promised + WINDOW_MIN)
    }

    /// Receive requests were posted.
    #[inline]
    pub(super) fn posted(&mut self, count: u32) {
        self.posted += count;
    }

    /// A receive request was used by nobody that is known any more.
    #[inline]
    pub(super) fn lost(&mut self) {
        self.posted = self.posted.saturating_sub(1);
    }

    /// A new connection, with what it is promised: `None` if too few are posted.
    pub(super) fn join(&mut self) -> Option<Incoming> {
        if self.free() < WINDOW_MIN {
            return None;
        }
        self.connections += 1;
        self.promised += WINDOW_MIN;
        Some(Incoming { received: 0, told: WINDOW_MIN, window: WINDOW_MIN })
    }

    /// A connection is gone, and its receive requests are free.
    pub(super) fn leave(&mut self, incoming: &Incoming) {
        self.promised -= incoming.outstanding();
        self.extra -= incoming.extra();
        self.connections -= 1;
    }

    /// A connection is gone, but its queue pair lingers with one of the receive requests that it was promised.
    pub(super) fn linger(&mut self, incoming: &Incoming) {
        self.leave(incoming);
        self.promised += 1;
    }

    /// Such a queue pair is gone.
    pub(super) fn lingered(&mut self) {
        self.promised -= 1;
    }

    /// The peer of a connection has used a receive request. Refused if it had no right to.
    #[inline]
    pub(super) fn received(&mut self, incoming: &mut Incoming) -> Result<(), Overrun> {
        self.posted = self.posted.saturating_sub(1);
        if incoming.outstanding() == 0 {
            return Err(Overrun { told: incoming.told });
        }
        self.extra -= u32::from(incoming.extra() > 0);
        self.promised -= 1;
        incoming.received = incoming.received.wrapping_add(1);
        Ok(())
    }

    /// Promises a connection what it may have now, and returns the position to tell, which is the old one if there is
    /// nothing more to promise.
    #[inline]
    pub(super) fn promise(&mut self, incoming: &mut Incoming) -> u32 {
        if incoming.outstanding() <= incoming.window / 2 {
            incoming.window = incoming.window.saturating_mul(2);
        }
        incoming.window = incoming.window.min(self.share(self.connections));
        let more = self.reachable(incoming).saturating_sub(incoming.outstanding()).min(self.free());
        self.extra -= incoming.extra();
        incoming.told = incoming.told.wrapping_add(more);
        self.extra += incoming.extra();
        self.promised += more;
        incoming.told
    }

    /// Whether the peer should be told by a send of its own: it has used half of what it can be promised, and that can
    /// be promised anew.
    #[inline]
    pub(super) fn is_news(&self, incoming: &Incoming) -> bool {
        let reachable = self.reachable(incoming);
        reachable.saturating_sub(incoming.outstanding()).min(self.free()) >= reachable.div_ceil(2)
    }

    /// Posted, and not promised, for tests.
    #[cfg(all(test, not(loom)))]
    pub(super) fn free_now(&self) -> u32 {
        self.free()
    }

    /// Posted, and not promised.
    #[inline]
    fn free(&self) -> u32 {
        self.posted.saturating_sub(self.promised)
    }

    /// The window of a connection, or as much of it as others have left.
    #[inline]
    fn reachable(&self, incoming: &Incoming) -> u32 {
        incoming.window.min(WINDOW_MIN + incoming.extra() + self.extra_max - self.extra)
    }
}

/// The most connections among which so many receive requests are shared.
pub(super) fn connections_max(depth: u32) -> u32 {
    (depth / (2 * WINDOW_MIN)).max(1)
}

impl Incoming {
    /// Promised, and not used.
    #[inline]
    pub(super) fn outstanding(&self) -> u32 {
        self.told.wrapping_sub(self.received)
    }

    /// What of that is beyond what every connection is promised.
    #[inline]
    fn extra(&self) -> u32 {
        self.outstanding().saturating_sub(WINDOW_MIN)
    }

    /// What the peer is told when the connection comes up.
    pub(super) fn told(&self) -> u32 {
        self.told
    }
}

/// A send that the peer had no right to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent beyond position {told}, up to which it was allowed to")]
pub(super) struct Overrun {
    told: u32,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn data_leaves_the_reserve_alone() {
        let mut outgoing = Outgoing::new(8);
        assert_eq!(outgoing.room(), 5);
        outgoing.sent(5);
        assert!(outgoing.room() == 0 && outgoing.has_reserve());
        outgoing.sent(3);
        assert!(!outgoing.has_reserve());
        outgoing.allow(12).unwrap();
        assert_eq!(outgoing.room(), 1);
    }

    #[test]
    fn a_position_that_makes_no_sense_is_refused() {
        let mut outgoing = Outgoing::new(u32::MAX - 2);
        outgoing.sent(u32::MAX - 5);
        outgoing.allow(4).unwrap();
        assert_eq!(outgoing.room(), 10 - RESERVED);
        let back = outgoing.allow(3).unwrap_err();
        assert!(back.to_string().contains("up to 3, after it had allowed 4"), "{back}");
        outgoing.allow(4 + WINDOW_LIMIT).unwrap_err();
    }

    #[test]
    fn connections_share_what_is_posted() {
        // Four connections at most, and 32 beyond what each of them is promised.
        let mut shares = Shares::new(64, 32);
        assert_eq!((shares.wanted(), shares.join()), (32, None));
        shares.posted(64);
        let mut busy = shares.join().unwrap();
        assert_eq!((busy.told(), shares.is_news(&busy)), (8, false));
        // Whoever uses up what it has is promised more, up to its share.
        let mut told = Vec::new();
        for _ in 0..4 {
            for _ in 0..busy.outstanding() {
                shares.received(&mut busy).unwrap();
            }
            assert!(shares.is_news(&busy));
            told.push(shares.promise(&mut busy) - busy.received);
            shares.posted(64 - shares.posted);
        }
        assert_eq!(told, [16, 32, 32, 32]);
        // Nobody can take what is kept for others.
        let idle: Vec<Incoming> = (0..3).map(|_| shares.join().unwrap()).collect();
        assert!(!shares.has_room());
        assert!(idle.iter().all(|idle| idle.outstanding() == 8));
        assert_eq!((shares.posted, shares.promised, shares.extra), (64, 56, 24));
        // As the connection uses what it was promised, its share is that of one among four.
        for _ in 0..30 {
            shares.received(&mut busy).unwrap();
        }
        shares.posted(30);
        shares.promise(&mut busy);
        assert_eq!(busy.outstanding(), 16);
        shares.leave(&busy);
        assert!(shares.has_room());
        idle.iter().for_each(|idle| shares.leave(idle));
        assert_eq!((shares.promised, shares.extra, shares.connections), (0, 0, 0));
    }

    #[test]
    fn a_peer_that_asks_and_waits_is_promised_no_more_than_all_others() {
        let mut shares = Shares::new(64, 32);
        shares.posted(64);
        let mut incoming = shares.join().unwrap();
        for _ in 0..100 {
            shares.received(&mut incoming).unwrap();
            shares.posted(1);
            shares.promise(&mut incoming);
            assert_eq!(incoming.outstanding(), WINDOW_MIN);
        }
    }

    #[test]
    fn a_peer_that_sends_too_much_is_found_out() {
        let mut shares = Shares::new(8, 8);
        shares.posted(8);
        let mut incoming = shares.join().unwrap();
        for _ in 0..8 {
            shares.received(&mut incoming).unwrap();
        }
        assert_eq!(shares.received(&mut incoming), Err(Overrun { told: 8 }));
    }

    /// One end of a connection, with the data that it still has to send.
    struct End {
        shares: Shares,
        incoming: Incoming,
        outgoing: Outgoing,
        unsent: u32,
        /// Receive requests that were used and are not posted again yet.
        used: u32,
        updates: u32,
        received: u32,
    }

    impl End {
        fn receive(&mut self, (limit, is_data): (u32, bool)) {
            self.shares.received(&mut self.incoming).unwrap();
            self.outgoing.allow(limit).unwrap();
            self.used += 1;
            self.received += u32::from(is_data);
        }

        fn post(&mut self, count: u32) {
            let count = count.min(self.used);
            self.used -= count;
            self.shares.posted(count);
        }

        fn send(&mut self, wire: &mut VecDeque<(u32, bool)>, count: u32) {
            for _ in 0..count.min(self.unsent).min(self.outgoing.room()) {
                self.unsent -= 1;
                self.outgoing.sent(1);
                wire.push_back((self.shares.promise(&mut self.incoming), true));
            }
            if self.shares.is_news(&self.incoming) && self.outgoing.has_reserve() {
                self.outgoing.sent(1);
                self.updates += 1;
                wire.push_back((self.shares.promise(&mut self.incoming), false));
            }
        }
    }

    fn ends(depths: [u32; 2], unsent: [u32; 2]) -> [End; 2] {
        let mut told = [0; 2];
        let mut halves = Vec::new();
        for (told, depth) in told.iter_mut().zip(depths) {
            let mut shares = Shares::new(depth, depth);
            shares.posted(depth);
            let incoming = shares.join().unwrap();
            *told = incoming.told();
            halves.push((shares, incoming));
        }
        let mut limits = told.into_iter().rev();
        let mut unsent = unsent.into_iter();
        let ends: Vec<End> = halves
            .into_iter()
            .map(|(shares, incoming)| End {
                shares,
                incoming,
                outgoing: Outgoing::new(limits.next().unwrap()),
                unsent: unsent.next().unwrap(),
                used: 0,
                updates: 0,
                received: 0,
            })
            .collect();
        ends.try_into().ok().unwrap()
    }

    proptest! {
        /// Whatever the order in which the ends send, receive and post again: all data arrives, nobody ever sends
        /// what finds no receive request, and updates do not go to and fro for ever.
        #[test]
        fn credit_never_overruns_and_never_dries_up(
            depths in prop::array::uniform2(WINDOW_MIN..40),
            unsent in prop::array::uniform2(0_u32..300),
            steps in prop::collection::vec((0_usize..2, 0_u8..3, 1_u32..20), 0..400),
        ) {
            let mut ends = ends(depths, unsent);
            let mut wires = [VecDeque::new(), VecDeque::new()];
            let mut step = |(at, what, count): (usize, u8, u32)| match what {
                0 => ends[at].send(&mut wires[at], count),
                1 => {
                    let count = wires[1 - at].len().min(count as usize);
                    wires[1 - at].drain(..count).for_each(|message| ends[at].receive(message));
                }
                _ => ends[at].post(count),
            };
            steps.into_iter().for_each(&mut step);
            // Then everybody does everything, for as long as that could take.
            for _ in 0..2_000 {
                for at in 0..2 {
                    (0..3).for_each(|what| step((at, 2 - what, u32::MAX)));
                }
            }
            prop_assert!(wires.iter().all(VecDeque::is_empty), "updates go to and fro");
            for (at, end) in ends.iter().enumerate() {
                prop_assert_eq!((end.unsent, end.received), (0, unsent[1 - at]));
                prop_assert!(end.updates <= 1 + 2 * (unsent[0] + unsent[1]) / WINDOW_MIN, "{} updates", end.updates);
            }
        }
    }
}
