//! One-way messages: once, in the order of their lane, with the bytes that were sent.

use super::{ActorId, Ledger, Sender};
use crate::coverage::Transition;
use std::sync::OnceLock;
use underlay::pool::Body;
use underlay::proto::{LANES, Lane};

/// A message as its sender knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct OneWay {
    sender: u32,
    lane: Lane,
    sequence: u32,
    bytes: u32,
    sent_at: u64,
    was_delivered: bool,
}

/// One session over which a process is given messages, and how far each sender has come on it.
#[derive(Debug)]
pub(super) struct Reception {
    actor: ActorId,
    broker: ActorId,
    /// By sender: the next sequence number that may come in each lane.
    least: Vec<[u32; LANES]>,
}

/// The shortest body: its number.
pub const BODY_BYTES_MIN: usize = 8;

/// The longest body that can be expected.
const BODY_BYTES_MAX: usize = 1 << 18;

/// What a body of this number and this length says.
pub fn expected_bytes(number: u64, bytes: usize) -> impl Iterator<Item = u8> {
    let pattern = &pattern()[shift(number)..];
    number.to_le_bytes().into_iter().chain(pattern.iter().copied()).take(bytes)
}

/// Appends what a body of this number and this length says.
pub(crate) fn write_body(number: u64, bytes: usize, into: &mut Vec<u8>) {
    into.clear();
    into.extend_from_slice(&number.to_le_bytes());
    into.extend_from_slice(&pattern()[shift(number)..][..bytes.saturating_sub(BODY_BYTES_MIN)]);
}

/// The number that a body begins with.
pub(crate) fn number_of(body: &Body) -> Option<u64> {
    let mut number = [0; 8];
    let mut filled = 0;
    for segment in body.segments() {
        let count = segment.len().min(number.len() - filled);
        number[filled..filled + count].copy_from_slice(&segment[..count]);
        filled += count;
    }
    (filled == number.len()).then(|| u64::from_le_bytes(number))
}

/// Whether a body says what one of this number must.
pub(crate) fn is_body_of(body: &Body, number: u64) -> bool {
    let mut at = 0;
    let head = number.to_le_bytes();
    let pattern = &pattern()[shift(number)..];
    body.segments().all(|segment| {
        let (of_head, of_pattern) = segment.split_at(segment.len().min(BODY_BYTES_MIN.saturating_sub(at)));
        let is_same = head[at.min(BODY_BYTES_MIN)..].starts_with(of_head) && {
            let from = (at + of_head.len()).saturating_sub(BODY_BYTES_MIN);
            pattern[from..].starts_with(of_pattern)
        };
        at += segment.len();
        is_same
    })
}

fn shift(number: u64) -> usize {
    (number % 251) as usize
}

fn pattern() -> &'static [u8] {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    PATTERN.get_or_init(|| {
        let mut random = crate::random::Random::new(0);
        (0..BODY_BYTES_MAX + 256).map(|_| random.number() as u8).collect()
    })
}

/// What senders say.
impl Ledger {
    /// A session came up over which a process will send to a broker; says its number.
    pub fn sender(&mut self, actor: ActorId, broker: ActorId) -> usize {
        self.senders.push(Sender { actor, broker, next: [0; LANES] });
        self.senders.len() - 1
    }

    /// The number that the next message will have.
    pub fn next_message(&self) -> u64 {
        self.messages.len() as u64
    }

    /// The next message was accepted for sending.
    pub fn sent(&mut self, sender: usize, lane: Lane, bytes: usize) {
        let Sender { actor, next, .. } = &mut self.senders[sender];
        let (actor, sequence) = (*actor, next[lane.index()]);
        next[lane.index()] += 1;
        let number = self.messages.len() as u64;
        let (sent_at, was_delivered) = (self.now, false);
        let message =
            OneWay { sender: sender as u32, lane, sequence, bytes: bytes as u32, sent_at, was_delivered };
        self.messages.push(message);
        self.missing += 1;
        self.coverage.messages += 1;
        let Self { trace, names, now, .. } = self;
        trace.event(*now, actor.0 as u64, 100, number, || {
            format!(
                "{:<9} sent {number}: {bytes} bytes, {lane:?} {sequence} of its sender {sender}",
                names[actor.0]
            )
        });
    }
}

/// What receivers say.
impl Ledger {
    /// A session came up over which a process will be given messages by a broker; says its number.
    pub fn reception(&mut self, actor: ActorId, broker: ActorId) -> usize {
        self.receptions.push(Reception { actor, broker, least: Vec::new() });
        self.receptions.len() - 1
    }

    /// A message was given to an application.
    pub fn received(&mut self, reception: usize, body: &Body, is_redelivered: bool) {
        let number = number_of(body).unwrap_or(u64::MAX);
        let actor = self.receptions[reception].actor;
        {
            let Self { trace, names, now, .. } = self;
            trace.event(*now, actor.0 as u64, 101, number, || {
                format!("{:<9} received {number} on its reception {reception}", names[actor.0])
            });
        }
        if let Err(wrong) = self.check_received(reception, number, body, is_redelivered) {
            let name = self.name(actor).to_owned();
            self.fail(format!("{name} was given message {number}: {wrong}"));
        }
    }

    fn check_received(
        &mut self,
        reception: usize,
        number: u64,
        body: &Body,
        is_redelivered: bool,
    ) -> Result<(), String> {
        let Some(message) = self.messages.get_mut(number as usize) else {
            return Err("nobody has sent it".to_owned());
        };
        if body.len() != message.bytes as usize || !is_body_of(body, number) {
            return Err(format!("its {} bytes are not the {} that were sent", body.len(), message.bytes));
        }
        if message.was_delivered && !is_redelivered {
            return Err("it was given out before".to_owned());
        }
        if !std::mem::replace(&mut message.was_delivered, true) {
            self.missing -= 1;
        }
        let (sender, lane, sequence) = (message.sender as usize, message.lane, message.sequence);
        let least = &mut self.receptions[reception].least;
        if least.len() <= sender {
            least.resize(sender + 1, [0; LANES]);
        }
        let least = &mut least[sender][lane.index()];
        if is_redelivered {
            self.coverage.transition(Transition::Redelivered);
        } else if sequence < *least {
            return Err(format!("{lane:?} {sequence} of sender {sender} comes after {}", *least - 1));
        } else {
            *least = sequence + 1;
        }
        if body.len() > 4096 {
            self.coverage.transition(Transition::Bulk);
        }
        Ok(())
    }
}

/// At the end.
impl Ledger {
    /// How many messages may still come, or be missed: those that were not delivered and have no excuse.
    pub fn unexcused(&self) -> usize {
        if self.missing == 0 {
            return 0;
        }
        self.missing().filter(|(_, message)| !self.is_excused(message)).count()
    }

    /// Every message was delivered, or has an excuse.
    pub(super) fn check_messages(&mut self) {
        let lost: Vec<String> = self
            .missing()
            .filter(|(_, message)| !self.is_excused(message))
            .map(|(number, message)| {
                let sender = self.name(self.senders[message.sender as usize].actor);
                format!("{number} ({sender}, {:?} {})", message.lane, message.sequence)
            })
            .collect();
        let excused = self.missing - lost.len();
        (0..excused).for_each(|_| self.coverage.transition(Transition::Lost));
        if !lost.is_empty() {
            let few = lost.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
            self.fail(format!("{} messages were lost between ends that lived: {few}", lost.len()));
        }
    }

    fn missing(&self) -> impl Iterator<Item = (usize, &OneWay)> {
        self.messages.iter().enumerate().filter(|(_, message)| !message.was_delivered)
    }

    /// It may have been on its way over a session that has ended, or with a process that has died.
    fn is_excused(&self, message: &OneWay) -> bool {
        let Sender { actor, broker, .. } = self.senders[message.sender as usize];
        self.have_parted_since(actor, broker, message.sent_at)
            || self
                .receptions
                .iter()
                .filter(|reception| reception.broker == broker)
                .any(|reception| self.have_parted_since(reception.actor, broker, message.sent_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use underlay::pool::{Pool, PoolConfig};

    fn pool() -> Pool {
        Pool::new(PoolConfig { slab_bytes: 64 << 10, huge_pages: false, ..PoolConfig::default() }).unwrap()
    }

    #[test]
    fn a_body_is_known_by_its_bytes_however_it_is_cut() {
        let mut pool = pool();
        let mut bytes = Vec::new();
        for length in [8, 9, 100, 5_000] {
            write_body(77, length, &mut bytes);
            assert!(expected_bytes(77, length).eq(bytes.iter().copied()));
            for cut in [1, 7, 8, length - 1] {
                let mut body = pool.copy_body(&bytes[..cut]).unwrap();
                for segment in pool.copy_body(&bytes[cut..]).unwrap().segments() {
                    body.push(segment.clone(), &mut pool).unwrap();
                }
                assert_eq!(number_of(&body), Some(77));
                assert!(is_body_of(&body, 77));
                assert!(!is_body_of(&body, 78));
            }
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            assert!(!is_body_of(&pool.copy_body(&bytes).unwrap(), 77), "length {length}");
        }
    }
}
