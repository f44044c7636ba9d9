//! Anything that two applications could do, in any order, against a plain oracle.

use super::pair::*;
use crate::connection::{ConnectionConfig, LinkRoom};
use crate::proto::control::{DetachCode, LinkRole};
use crate::proto::record::MessageKind;
use crate::proto::{Lane, LinkId, Parameters};
use std::collections::VecDeque;
use std::time::Duration;

const LANES: [Lane; 3] = [Lane::Urgent, Lane::Normal, Lane::Bulk];

/// A message's link, tag and length.
type Sent = (Option<LinkId>, u64, usize);

/// What each end has sent and the other must get, by lane.
#[derive(Default)]
struct Oracle {
    sent: [[VecDeque<Sent>; 3]; 2],
    tags: u64,
    /// Of each end, the links on which it may send, and those on which it receives.
    sends: [Vec<LinkId>; 2],
    takes: [Vec<LinkId>; 2],
}

impl Oracle {
    fn send(&mut self, pair: &mut Pair, from: usize, random: &mut Random) {
        let link = match random.below(self.sends[from].len() + 1) {
            0 => None,
            number => Some(self.sends[from][number - 1]),
        };
        let lane = random.below(3);
        let bytes_max = [10, 300, 3000, 17_000, 50_000][random.below(5)];
        let bytes = random.below(bytes_max);
        let kind = if link.is_some() { MessageKind::Message } else { MessageKind::Reply };
        let end = &mut pair.ends[from];
        self.tags += 1;
        let message = message(kind, LANES[lane], link, self.tags, bytes, &mut end.pool);
        // Without credit, or on a link that the other end has detached, it is refused and never counts.
        if end.connection.send(message, &mut end.pool).is_ok() {
            self.sent[from][lane].push_back((link, self.tags, bytes));
        }
    }

    /// Takes what has arrived: the next of its lane, whole, and on its link.
    fn take(&mut self, pair: &mut Pair) {
        for to in [CLIENT, SERVER] {
            while let Some(message) = pair.ends[to].messages.pop_front() {
                let head = &message.head;
                let expected = self.sent[1 - to][head.lane.index()].pop_front();
                assert_eq!(Some((head.link, head.correlation_id.0, message.body.len())), expected);
            }
        }
    }

    fn step(&mut self, pair: &mut Pair, random: &mut Random) {
        let end = random.below(2);
        match random.below(24) {
            0..12 => self.send(pair, end, random),
            12 if self.sends[end].len() + self.takes[end].len() < 12 => self.attach(pair, end, random),
            13 => self.detach(pair, end, random),
            14..17 => {
                let room = LinkRoom { messages: random.below(6) as u64, bytes: random.below(9000) as u64 };
                for link in &self.takes[end] {
                    let _ = pair.ends[end].connection.set_link_room(*link, room);
                }
            }
            17..21 => {
                pair.turn();
                pair.now = pair.now + Duration::from_micros(random.below(30) as u64);
            }
            21 => pair.settle(),
            _ => {}
        }
        self.note_links(pair);
        self.take(pair);
    }

    fn attach(&mut self, pair: &mut Pair, end: usize, random: &mut Random) {
        let role = [LinkRole::Producer, LinkRole::Consumer][random.below(2)];
        let room = LinkRoom { messages: random.below(4) as u64, bytes: random.below(5000) as u64 };
        let name = crate::proto::control::Address::Named(crate::proto::text::Name::new("q").unwrap());
        // Numbers that still wait for the answer to a detach may make it one too many.
        if let Ok(link) = pair.ends[end].connection.attach(role, name, room)
            && role == LinkRole::Consumer
        {
            self.takes[end].push(link);
        }
    }

    fn detach(&mut self, pair: &mut Pair, end: usize, random: &mut Random) {
        let count = self.sends[end].len() + self.takes[end].len();
        if count > 0 {
            let at = random.below(count);
            let sends = self.sends[end].len();
            let link =
                if at < sends { self.sends[end].remove(at) } else { self.takes[end].remove(at - sends) };
            pair.ends[end].connection.detach_link(link, DetachCode::Normal, "enough");
        }
    }

    /// Keeps up with what the ends have been told.
    fn note_links(&mut self, pair: &mut Pair) {
        for index in [CLIENT, SERVER] {
            let end = &mut pair.ends[index];
            for (link, ..) in end.detached.drain(..) {
                self.sends[index].retain(|other| *other != link);
                self.takes[index].retain(|other| *other != link);
            }
            for request in end.requested.drain(..) {
                match request.role {
                    LinkRole::Producer => self.takes[index].push(request.link),
                    LinkRole::Consumer | LinkRole::SettlingConsumer => self.sends[index].push(request.link),
                }
            }
            for link in end.attached.drain(..) {
                if !self.takes[index].contains(&link) {
                    self.sends[index].push(link);
                }
            }
        }
    }
}

fn configs(random: &mut Random) -> [ConnectionConfig; 2] {
    [0; 2].map(|_| match random.below(3) {
        0 => with(usual()),
        1 => with(Parameters { message_bytes_max: 1 << 20, ..least() }),
        _ => with(Parameters { frame_slots: 8 + random.below(9) as u32, control_slots: 4, ..usual() }),
    })
}

/// Nothing is lost or changed, each lane keeps its order, no credit is exceeded (either end would close over it), and
/// whatever waits when all is quiet waits for nothing but a link's credit, which `send` has taken before it queued.
#[test]
fn any_sequence_of_calls_moves_what_was_sent() {
    for seed in 0..80 {
        let mut random = Random::new(seed);
        let [client, server] = configs(&mut random);
        let mut pair = Pair::seeded(client, server, seed);
        for end in &mut pair.ends {
            end.knobs.piece_bytes_max = [1 + random.below(100), 2000, 20_000, usize::MAX][random.below(4)];
            end.knobs.latency = Duration::from_micros(random.below(50) as u64);
            end.knobs.sent_delay = Duration::from_micros(random.below(200) as u64);
            end.grants =
                Some(LinkRoom { messages: 1 + random.below(5) as u64, bytes: 1 + random.below(9000) as u64 });
        }
        pair.settle();
        let mut oracle = Oracle::default();
        for _ in 0..300 {
            oracle.step(&mut pair, &mut random);
        }
        pair.settle();
        oracle.note_links(&mut pair);
        oracle.take(&mut pair);
        for end in &pair.ends {
            assert_eq!(end.closed, [], "seed {seed}");
            assert_eq!(end.waiting(), 0, "seed {seed}: messages wait though all is quiet");
        }
        for lost in oracle.sent.iter().flatten() {
            assert!(lost.is_empty(), "seed {seed}: lost {lost:?}");
        }
        let now = pair.now;
        for end in &mut pair.ends {
            end.connection.close(crate::proto::control::CloseCode::Normal, "enough", now);
        }
        pair.settle();
        for end in &mut pair.ends {
            assert_eq!(end.closed.len(), 1, "seed {seed}");
            assert!(end.connection.is_finished(), "seed {seed}");
        }
    }
}
