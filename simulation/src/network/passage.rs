//! The way of bytes: sent, cut, delayed, delivered.

use super::weather::{Cutting, Effect, Way};
use super::{End, EndRef, EndState, Event, Far, HostId, Incoming, MICROSECOND, Piece, State, What};
use underlay::backend::{Channel, SendRefused, WireKind};
use underlay::pool::{GatherList, Segment};

/// A send is not done while the peer has more than this before it that it has not taken: what sockets hold at both
/// ends together.
const WINDOW_BYTES: usize = 256 << 10;

/// The most pieces of one send; what is left is the last one.
const PIECES_MAX: usize = 48;

impl State {
    pub(super) fn send(
        &mut self,
        host: HostId,
        kind: WireKind,
        channel: Channel,
        gather: &mut GatherList,
    ) -> Result<(), SendRefused> {
        let from = self.find(host, kind, channel).ok_or(SendRefused::NotOpen)?;
        let end = &mut self.ends[from.place];
        match end.state {
            EndState::Open if end.is_sending => return Err(SendRefused::InFlight),
            EndState::Open => {}
            EndState::Free | EndState::Connecting | EndState::Ended => return Err(SendRefused::NotOpen),
        }
        let bytes = gather.len();
        end.is_sending = true;
        end.flight_bytes = bytes;
        end.in_the_air += bytes;
        end.flight.extend(gather.drain());
        self.trace(from, What::Sends, bytes as u64);
        let way = self.way(from);
        let done = self.now + self.weather.send_time(way);
        self.at(done, Event::SendDone(from));
        self.carry(from, way);
        Ok(())
    }

    /// Sends the flight of an end on its way.
    fn carry(&mut self, from: EndRef, way: Way) {
        let to = match self.ends[from.place].far {
            Far::There(to) => to,
            Far::Lost { host, says_so } => {
                if says_so && self.hosts[host.0].is_up && self.weather.until(way, Effect::Holds).is_none() {
                    let heard = self.now + 2 * self.weather.latency(way);
                    self.at(heard, Event::Break { end: from, why: "connection reset by peer" });
                }
                return;
            }
            Far::Unknown => return,
        };
        let mut left = self.bytes_before_a_cut(from);
        let cutting = self.weather.cutting(way);
        let end = &mut self.ends[from.place];
        let mut due = end.last_arrival.max(self.now + self.weather.latency(way));
        let flight = std::mem::take(&mut end.flight);
        let mut pieces = 0;
        'all: for segment in &flight {
            let mut rest = segment.clone();
            while !rest.is_empty() {
                let mut bytes = match cutting {
                    Cutting::UpTo(most) if pieces < PIECES_MAX => rest.len().min(most),
                    _ => rest.len(),
                };
                bytes = bytes.min(usize::try_from(left).unwrap_or(usize::MAX));
                if bytes == 0 {
                    break 'all;
                }
                left -= bytes as u64;
                self.ends[to.place].pieces.push_back((due, Piece::Bytes(rest.split_to(bytes))));
                self.at(due, Event::Arrive(to));
                pieces += 1;
                // Pieces of one send are close together, and sometimes at once.
                due += self.random.within(0..2) * self.random.within(0..20) * MICROSECOND;
            }
        }
        self.ends[from.place].flight = flight;
        self.ends[from.place].last_arrival = due;
        if left == 0 {
            self.strike(from, due);
        }
    }

    /// How many bytes of the flight get through, and counts them against the cut that waits for them.
    fn bytes_before_a_cut(&mut self, from: EndRef) -> u64 {
        let end = &mut self.ends[from.place];
        let bytes = end.flight_bytes as u64;
        match &mut end.cut {
            Some(cut) if cut.after_bytes <= bytes => std::mem::take(&mut cut.after_bytes),
            Some(cut) => {
                cut.after_bytes -= bytes;
                u64::MAX
            }
            None => u64::MAX,
        }
    }

    /// Delivers what has arrived at an end, unless the way is closed for a while.
    pub(super) fn arrive(&mut self, to: EndRef) {
        if self.end(to).is_none() {
            return;
        }
        let way = self.way(to);
        if let Some(until) = self.weather.until(way, Effect::Holds) {
            let later = until + self.weather.latency(way);
            return self.at(later, Event::Arrive(to));
        }
        while let Some((due, _)) = self.ends[to.place].pieces.front()
            && *due <= self.now
        {
            match self.ends[to.place].pieces.pop_front() {
                Some((_, Piece::Bytes(segment))) => self.deliver(to, segment),
                Some((_, Piece::End)) => return self.peer_closed(to),
                None => {}
            }
        }
    }

    fn deliver(&mut self, to: EndRef, segment: Segment) {
        self.trace(to, What::Arrived, segment.len() as u64);
        let End { host, kind, channel, far, .. } = self.ends[to.place];
        let from = match far {
            Far::There(from) => from,
            // Whoever sent it is gone; nobody waits for room.
            Far::Unknown | Far::Lost { .. } => EndRef { place: usize::MAX, generation: 0 },
        };
        let inbox = &mut self.hosts[host.0].wires[kind.index()].inbox;
        inbox.push_back(Incoming::Bytes { channel, from, segment });
    }

    pub(super) fn send_done(&mut self, from: EndRef) {
        let Some(end) = self.end(from) else { return };
        if end.in_the_air > WINDOW_BYTES {
            end.is_blocked = true;
            return;
        }
        self.finish_send(from);
    }

    /// A driver was given bytes of this end.
    pub(super) fn taken(&mut self, from: EndRef, bytes: usize) {
        let Some(end) = self.end(from) else { return };
        end.in_the_air = end.in_the_air.saturating_sub(bytes);
        if end.is_blocked && end.in_the_air <= WINDOW_BYTES {
            end.is_blocked = false;
            self.finish_send(from);
        }
    }

    fn finish_send(&mut self, from: EndRef) {
        let end = &mut self.ends[from.place];
        end.is_sending = false;
        end.flight.clear();
        let (host, kind, channel) = (end.host, end.kind, end.channel);
        self.hosts[host.0].wires[kind.index()].inbox.push_back(Incoming::Sent { channel });
    }

    /// The way between an end and the host at its other end.
    pub(super) fn way(&self, end: EndRef) -> Way {
        let End { host, kind, far, .. } = &self.ends[end.place];
        let far = match far {
            Far::There(far) => self.ends[far.place].host,
            Far::Lost { host, .. } => *host,
            Far::Unknown => *host,
        };
        Way { kind: *kind, hosts: [*host, far], now: self.now }
    }
}
