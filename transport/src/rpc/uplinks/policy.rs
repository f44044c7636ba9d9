//! Which sessions are in use, and what is to be done next.

use super::uplink::{Stage, Uplink};
use super::{Step, Uplinks};
use crate::time::Timestamp;

impl Uplinks {
    /// The next thing to do, or `None` until [`Uplinks::due`] or until something happens.
    pub(in crate::rpc) fn next_step(&mut self, now: Timestamp) -> Option<Step> {
        self.due = Timestamp::NEVER;
        if self.is_stopped {
            return None;
        }
        self.next_to_resend()
            .or_else(|| self.next_to_give_up(now))
            .or_else(|| self.next_to_drain())
            .or_else(|| self.next_to_connect(now).map(Step::Connect))
    }

    /// Chooses those that are in use: the first that work, and those that ask to be left only where there is no other.
    pub(super) fn choose(&mut self) {
        let usable = |leaving: bool| {
            let chosen = move |uplink: &Uplink| uplink.is_usable() && uplink.is_leaving == leaving;
            self.uplinks.iter().enumerate().filter(move |(_, it)| chosen(it)).map(|(place, _)| place)
        };
        let mut in_use: arrayvec::ArrayVec<_, _> = usable(false).take(self.wanted).collect();
        if in_use.is_empty() {
            in_use = usable(true).take(self.wanted).collect();
        }
        self.in_use = in_use;
        self.current =
            self.in_use.first().and_then(|&place| Some((place, self.uplinks[place].connection()?)));
        for &place in &self.in_use {
            self.uplinks[place].is_draining = false;
        }
    }

    fn next_to_resend(&mut self) -> Option<Step> {
        self.current?;
        let place = self.uplinks.iter().position(|it| it.interrupted_at.is_some() && !it.is_resent)?;
        self.uplinks[place].is_resent = true;
        Some(Step::Resend(place))
    }

    /// With one address there is nothing to fail over to, so what is in flight waits for the end of the session.
    fn next_to_give_up(&mut self, now: Timestamp) -> Option<Step> {
        if self.uplinks.len() < 2 {
            return None;
        }
        for (place, uplink) in self.uplinks.iter_mut().enumerate() {
            let Some(interrupted_at) = uplink.interrupted_at.filter(|_| !uplink.is_given_up) else {
                continue;
            };
            let give_up_at = interrupted_at + self.pace.failover_after;
            if give_up_at <= now {
                uplink.is_given_up = true;
                return Some(Step::GiveUp(place));
            }
            self.due = self.due.min(give_up_at);
        }
        None
    }

    /// One that works is not needed when there are enough better ones; one that asks to be left is not when there is any
    /// other. One that is interrupted stays until it comes back or ends: closed without a connection, its session would
    /// lose what the peer has not acknowledged.
    fn next_to_drain(&mut self) -> Option<Step> {
        let &worst = self.in_use.last()?;
        let are_enough = self.in_use.len() >= self.wanted;
        let stay = self.uplinks[worst].is_leaving;
        let is_spare = |(place, it): (usize, &Uplink)| {
            it.is_usable()
                && !it.is_draining
                && !self.in_use.contains(&place)
                && if it.is_leaving { !stay || are_enough } else { are_enough && place > worst }
        };
        let place = self.uplinks.iter().enumerate().position(is_spare)?;
        self.uplinks[place].is_draining = true;
        Some(Step::Drain(place))
    }

    /// An address to be tried now: as many at a time as sessions are missing, in order, and those before the worst
    /// that is in use every `return_after`.
    fn next_to_connect(&mut self, now: Timestamp) -> Option<usize> {
        let in_use = self.in_use.iter().filter(|&&place| !self.uplinks[place].is_leaving);
        let (count, worst) = (in_use.clone().count(), in_use.max().copied().unwrap_or(0));
        let missing = self.wanted.saturating_sub(count);
        // What does not answer for so long holds up no other.
        let mut pending = 0;
        for since in self.uplinks.iter().filter_map(Uplink::coming_up_since) {
            let patience_ends = since + self.pace.failover_after;
            if patience_ends > now {
                pending += 1;
                self.due = self.due.min(patience_ends);
            }
        }
        for (place, uplink) in self.uplinks.iter().enumerate() {
            if uplink.stage != Stage::Idle || (missing == 0 && place >= worst) {
                continue;
            }
            let mut try_at = uplink.retry_at;
            if missing == 0 {
                let failed_at = uplink.failed_at().unwrap_or(Timestamp::ZERO);
                try_at = try_at.max(failed_at + self.pace.return_after);
            }
            if try_at > now {
                self.due = self.due.min(try_at);
            } else if missing == 0 || pending < missing {
                return Some(place);
            }
        }
        None
    }
}
