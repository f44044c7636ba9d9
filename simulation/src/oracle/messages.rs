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
    /// Somebody has it, or has said that it is done with.
    was_delivered: bool,
    /// It was given out, perhaps to somebody who has lost it since.
    was_given: bool,
    holding: Holding,
}

/// Who has a message, by reception.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holding {
    /// Nobody, or somebody who keeps it for good.
    Free,
    Held {
        reception: u32,
    },
    /// It was settled, and comes again only if nobody heard of that.
    Settled {
        reception: u32,
    },
}

/// How a consumer settles what it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settling {
    /// It is done with.
    Accepted,
    /// Nobody is to have it.
    Rejected,
    /// Somebody else is to have it.
    Released,
}

/// One session over which a process is given messages, and how far each sender has come on it.
#[derive(Debug)]
pub(super) struct Reception {
    actor: ActorId,
    broker: ActorId,
    began_at: u64,
    /// What it is given it settles.
    settles: bool,
    has_ended: bool,
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
        let message = OneWay {
            sender: sender as u32,
            lane,
            sequence,
            bytes: bytes as u32,
            sent_at: self.now,
            was_delivered: false,
            was_given: false,
            holding: Holding::Free,
        };
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
    pub fn reception(&mut self, actor: ActorId, broker: ActorId, settles: bool) -> usize {
        let (began_at, has_ended, least) = (self.now, false, Vec::new());
        self.receptions.push(Reception { actor, broker, began_at, settles, has_ended, least });
        self.receptions.len() - 1
    }

    /// An application has settled a message that it was given on a reception.
    pub fn settled(&mut self, reception: usize, number: u64, settling: Settling) {
        let actor = self.receptions[reception].actor;
        {
            let Self { trace, names, now, .. } = self;
            trace.event(*now, actor.0 as u64, 105, number, || {
                format!("{:<9} settles {number}: {settling:?}", names[actor.0])
            });
        }
        self.coverage.transition(match settling {
            Settling::Accepted => Transition::Accepted,
            Settling::Rejected => Transition::Rejected,
            Settling::Released => Transition::Released,
        });
        let reception = reception as u32;
        let Some(&OneWay { holding, .. }) = self.messages.get(number as usize) else { return };
        let has_it = matches!(holding, Holding::Held { reception: its } if its == reception);
        let is_heard = has_it || self.may_come_again(holding);
        let message = &mut self.messages[number as usize];
        match settling {
            // Another one has it and is there, so the broker has ended this session and hears nothing of it.
            Settling::Accepted | Settling::Rejected if !is_heard => {}
            Settling::Accepted | Settling::Rejected => {
                self.missing -= usize::from(!std::mem::replace(&mut message.was_delivered, true));
                message.holding = Holding::Settled { reception };
            }
            // Unless others have it meanwhile, who were given it when the session had ended at its other end.
            Settling::Released if has_it => {
                self.missing += usize::from(std::mem::replace(&mut message.was_delivered, false));
                message.holding = Holding::Free;
            }
            Settling::Released => {}
        }
    }

    /// The session of a reception has ended: what it had not settled is to come again.
    pub fn reception_ended(&mut self, reception: usize) {
        self.receptions[reception].has_ended = true;
        for message in &mut self.messages {
            if matches!(message.holding, Holding::Held { reception: its } if its as usize == reception) {
                self.missing += usize::from(std::mem::replace(&mut message.was_delivered, false));
            }
        }
    }

    /// A process has died, with its receptions.
    pub(super) fn receptions_ended(&mut self, actor: ActorId) {
        for reception in 0..self.receptions.len() {
            let Reception { actor: its, has_ended, .. } = self.receptions[reception];
            if its == actor && !has_ended {
                self.reception_ended(reception);
            }
        }
    }

    /// Whether a message may be given out again: the session of whoever has it may be over at the broker.
    fn may_come_again(&self, holding: Holding) -> bool {
        match holding {
            Holding::Free => true,
            Holding::Held { reception } | Holding::Settled { reception } => {
                self.may_be_over(reception as usize)
            }
        }
    }

    /// Whether a session has ended at one of its ends at least. The broker may be the first to know: then the consumer
    /// still takes what had reached it before, and what it says of that is not heard.
    fn may_be_over(&self, reception: usize) -> bool {
        let Reception { actor, broker, began_at, .. } = self.receptions[reception];
        self.have_parted_since(actor, broker, began_at)
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
        let Some(&OneWay { was_given, holding, .. }) = self.messages.get(number as usize) else {
            return Err("nobody has sent it".to_owned());
        };
        let settles = self.receptions[reception].settles;
        // Whoever was away for longer than its session lives finds what others were given meanwhile.
        let may_be_stale = settles && self.may_be_over(reception);
        let may_come_again = self.may_come_again(holding);
        let message = &mut self.messages[number as usize];
        if body.len() != message.bytes as usize || !is_body_of(body, number) {
            return Err(format!("its {} bytes are not the {} that were sent", body.len(), message.bytes));
        }
        if was_given && !may_be_stale {
            if !is_redelivered {
                return Err("it was given out before".to_owned());
            }
            if !may_come_again {
                return Err(format!("it is redelivered, and is {holding:?} by one that is there"));
            }
        }
        // Such a copy changes nothing of who has the message: others may have settled it, and then it is not lost when
        // this session ends; or have lost it, and then it must come again all the same.
        if !(was_given && may_be_stale) {
            message.was_given = true;
            if settles {
                message.holding = Holding::Held { reception: reception as u32 };
            }
            self.missing -= usize::from(!std::mem::replace(&mut message.was_delivered, true));
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
            || self.died[broker.0].is_some_and(|died| died >= message.sent_at)
            || self
                .receptions
                .iter()
                .filter(|reception| reception.broker == broker && !reception.settles)
                .any(|reception| self.have_parted_since(reception.actor, broker, message.sent_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::Oracle;
    use underlay::pool::{Pool, PoolConfig};

    fn pool() -> Pool {
        Pool::new(PoolConfig { slab_bytes: 64 << 10, huge_pages: false, ..PoolConfig::default() }).unwrap()
    }

    const PRODUCER: ActorId = ActorId(0);
    const BROKER: ActorId = ActorId(1);
    const AWAY: ActorId = ActorId(2);
    const OTHER: ActorId = ActorId(3);

    /// One message, number 0, and two consumers that settle: the broker has ended its session with the first one, which
    /// has not heard of that.
    fn while_one_is_away(then: impl FnOnce(&mut Ledger, &Body, usize, usize)) -> (Option<String>, usize) {
        let names = ["producer", "broker", "away", "other"].map(str::to_owned).to_vec();
        let oracle = Oracle::new(names, false);
        let mut ledger = oracle.ledger();
        let [away, other] = [AWAY, OTHER].map(|consumer| ledger.reception(consumer, BROKER, true));
        ledger.now = 1;
        ledger.part(BROKER, AWAY);
        ledger.now = 2;
        let sender = ledger.sender(PRODUCER, BROKER);
        ledger.sent(sender, Lane::Normal, 20);
        let mut bytes = Vec::new();
        write_body(0, 20, &mut bytes);
        then(&mut ledger, &pool().copy_body(&bytes).unwrap(), away, other);
        (ledger.failure().map(str::to_owned), ledger.unexcused())
    }

    #[test]
    fn what_another_one_has_settled_is_not_lost_with_one_that_was_away() {
        let outcome = while_one_is_away(|ledger, body, away, other| {
            ledger.received(other, body, true);
            ledger.settled(other, 0, Settling::Accepted);
            ledger.received(away, body, false);
            ledger.reception_ended(away);
        });
        assert_eq!(outcome, (None, 0));
    }

    #[test]
    fn what_another_one_had_and_lost_must_come_again_whatever_one_says_that_was_away() {
        let outcome = while_one_is_away(|ledger, body, away, other| {
            ledger.received(other, body, true);
            ledger.received(away, body, false);
            ledger.settled(away, 0, Settling::Accepted);
            ledger.reception_ended(other);
            ledger.reception_ended(away);
        });
        assert_eq!(outcome, (None, 1));
    }

    #[test]
    fn what_one_that_was_away_finds_first_may_be_given_to_another_one() {
        let outcome = while_one_is_away(|ledger, body, away, other| {
            ledger.received(away, body, false);
            ledger.received(other, body, true);
            ledger.reception_ended(away);
        });
        assert_eq!(outcome, (None, 0));
    }

    #[test]
    fn what_one_that_is_there_has_or_has_settled_comes_to_nobody_else() {
        for settles in [false, true] {
            let (failure, _) = while_one_is_away(|ledger, body, away, other| {
                ledger.received(other, body, true);
                ledger.received(away, body, false);
                if settles {
                    ledger.settled(other, 0, Settling::Accepted);
                }
                let third = ledger.reception(PRODUCER, BROKER, true);
                ledger.now = 3;
                ledger.received(third, body, true);
            });
            assert!(failure.is_some_and(|failure| failure.contains("by one that is there")));
        }
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
