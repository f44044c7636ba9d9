//! What breaks: connections, ways, hosts.

use super::weather::Effect;
use super::{EndRef, EndState, Event, Far, HostId, MILLISECOND, Network, Piece, SECOND, State, What};
use underlay::backend::WireKind;

/// How a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Both ends hear of it soon.
    BothEnds,
    /// One end hears of it soon, the other one late, or never.
    HalfOpen,
}

/// A cut that waits for bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct ArmedCut {
    /// So many more of one end, and it happens: at any byte.
    pub(super) after_bytes: u64,
    pub(super) cut: Cut,
    /// They are the first bytes of their connection.
    pub(super) is_ambush: bool,
}

/// How many connections were cut, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Damage {
    /// So that both ends heard of it.
    pub both_ends: u64,
    /// So that one end heard of it late or never.
    pub half_open: u64,
    /// In their first bytes.
    pub in_handshake: u64,
}

impl Damage {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.both_ends + self.half_open + self.in_handshake
    }
}

/// Doing damage.
impl Network {
    /// Something is wrong until then: on this kind of wire or on all, on the ways of this host or on all.
    pub fn trouble(&self, effect: Effect, kind: Option<WireKind>, host: Option<HostId>, until: u64) {
        let mut state = self.state();
        let now = state.now;
        state.weather.forget(now);
        state.weather.begin(effect, kind, host, until);
        state.trace.say(now, || {
            format!("*** {effect:?} on {kind:?} of {host:?} until {}", crate::trace::Moment(until))
        });
    }

    /// Nothing is wrong any more, as far as the ways are concerned.
    pub fn clear_up(&self) {
        let mut state = self.state();
        state.weather.clear_up();
        state.mend_reads();
        state.ambush = None;
        for end in &mut state.ends {
            end.cut = None;
        }
    }

    /// When the next trouble ends.
    pub fn next_change(&self) -> u64 {
        self.state().weather.next_change()
    }

    /// Cuts one of the open connections of this kind, or of any: when one of its ends has sent so many bytes more. False
    /// if there is none.
    pub fn cut_some(&self, kind: Option<WireKind>, after_bytes: u64, cut: Cut) -> bool {
        let mut state = self.state();
        let is_fit = |end: &super::End| {
            end.state == EndState::Open
                && end.cut.is_none()
                && matches!(end.far, Far::There(_))
                && kind.is_none_or(|kind| kind == end.kind)
        };
        let fit = state.ends.iter().filter(|end| is_fit(end)).count();
        if fit == 0 {
            return false;
        }
        let chosen = state.random.place(fit);
        if let Some(end) = state.ends.iter_mut().filter(|end| is_fit(end)).nth(chosen) {
            end.cut = Some(ArmedCut { after_bytes, cut, is_ambush: false });
        }
        true
    }

    /// Cuts the next connection that comes up, when one of its ends has sent so many bytes.
    pub fn ambush(&self, after_bytes: u64, cut: Cut) {
        self.state().ambush = Some(ArmedCut { after_bytes, cut, is_ambush: true });
    }

    /// Breaks every connection of a kind at once.
    pub fn break_all(&self, kind: WireKind) {
        let mut state = self.state();
        for place in 0..state.ends.len() {
            let end = &state.ends[place];
            if end.kind == kind && end.state == EndState::Open {
                let end = EndRef { place, generation: end.generation };
                let now = state.now;
                state.sever(end, Cut::BothEnds, now);
            }
        }
    }

    /// What was cut so far, all connections of a kind that were broken together left out.
    pub fn damage(&self) -> Damage {
        self.state().damage
    }

    /// The process of a host dies without a word. Call it before its driver is dropped. Its peers hear of it soon, as
    /// from a kernel that lives on, or late or never, as of a host that has lost its power.
    pub fn crash(&self, host: HostId, is_silent: bool) {
        self.state().crash(host, is_silent);
    }

    /// The host may have a process again.
    pub fn revive(&self, host: HostId) {
        self.state().hosts[host.0].is_up = true;
    }
}

impl State {
    /// The bytes that a cut waited for are on their way; it happens when the last of them has arrived.
    pub(super) fn strike(&mut self, from: EndRef, when: u64) {
        let Some(ArmedCut { cut, is_ambush, .. }) = self.ends[from.place].cut.take() else { return };
        let count = match cut {
            _ if is_ambush => &mut self.damage.in_handshake,
            Cut::BothEnds => &mut self.damage.both_ends,
            Cut::HalfOpen => &mut self.damage.half_open,
        };
        *count += 1;
        self.sever(from, cut, when);
    }

    /// Takes the two ends of a connection apart; what is not beyond the cut still arrives.
    pub(super) fn sever(&mut self, end: EndRef, cut: Cut, when: u64) {
        let Far::There(far) = self.ends[end.place].far else { return };
        self.trace(end, What::Cut, cut as u64);
        // What was on its way back is lost from some byte on.
        let coming_back = self.bytes_on_the_way(end);
        self.truncate(end, coming_back);
        let first_is_near = self.random.once_in(2);
        for (one, other, is_first) in [(end, far, first_is_near), (far, end, !first_is_near)] {
            let host = self.ends[other.place].host;
            if let Some(found) = self.end(one) {
                found.far = Far::Lost { host, says_so: cut == Cut::BothEnds };
            }
            let soon = when + self.random.within(1..5 * MILLISECOND);
            let heard = match cut {
                Cut::BothEnds => Some(soon),
                Cut::HalfOpen if is_first => Some(soon),
                Cut::HalfOpen => {
                    let late = when + self.random.within(SECOND..30 * SECOND);
                    self.random.once_in(2).then_some(late)
                }
            };
            if let Some(heard) = heard {
                self.at(heard, Event::Break { end: one, why: "connection reset by peer" });
            }
        }
    }

    /// Loses a random number of the last bytes that are on their way to an end, at most so many.
    pub(super) fn truncate(&mut self, to: EndRef, bytes_max: usize) {
        let mut left = self.random.within(0..bytes_max as u64 + 1) as usize;
        let Some(end) = self.end(to) else { return };
        while left > 0 {
            match end.pieces.back_mut() {
                Some((_, Piece::Bytes(segment))) if segment.len() > left => {
                    let kept = segment.len() - left;
                    *segment = segment.slice(0..kept);
                    left = 0;
                }
                Some((_, Piece::Bytes(segment))) => {
                    left -= segment.len();
                    end.pieces.pop_back();
                }
                Some((_, Piece::End)) | None => break,
            }
        }
    }

    fn bytes_on_the_way(&self, to: EndRef) -> usize {
        let bytes = |(_, piece): &(u64, Piece)| match piece {
            Piece::Bytes(segment) => segment.len(),
            Piece::End => 0,
        };
        self.ends[to.place].pieces.iter().map(bytes).sum()
    }

    fn crash(&mut self, host: HostId, is_silent: bool) {
        for place in 0..self.ends.len() {
            let end = &self.ends[place];
            if end.host != host || end.state == EndState::Free {
                continue;
            }
            if let Far::There(far) = end.far {
                self.bereave(far, host, is_silent);
            }
            self.free_end(place);
        }
        let host = &mut self.hosts[host.0];
        host.life += 1;
        host.is_up = false;
        host.wires = Default::default();
    }

    /// The other end of a connection is gone with its process.
    fn bereave(&mut self, end: EndRef, host: HostId, is_silent: bool) {
        let on_the_way = self.bytes_on_the_way(end);
        self.truncate(end, on_the_way);
        let Some(found) = self.end(end) else { return };
        found.far = Far::Lost { host, says_so: true };
        let heard = match (is_silent, self.random.once_in(2)) {
            (false, _) => Some(self.random.within(1..5 * MILLISECOND)),
            (true, true) => Some(self.random.within(SECOND..60 * SECOND)),
            (true, false) => None,
        };
        if let Some(after) = heard {
            self.at(self.now + after, Event::Break { end, why: "connection reset by peer" });
        }
    }
}
