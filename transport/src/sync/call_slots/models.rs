//! What loom checks of the whole: tickets, completers and the free list together.

use super::*;
use loom::sync::Notify;
use loom::thread;
use std::sync::atomic::AtomicUsize as Counter;
use std::task::Wake;

/// A waker that ends the model's sleep.
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.notify();
    }
}

fn bell() -> (std::sync::Arc<Bell>, Waker) {
    let bell = std::sync::Arc::new(Bell(Notify::new()));
    (bell.clone(), Waker::from(bell))
}

/// An outcome that says where it was dropped.
struct Outcome {
    number: u32,
    drops: std::sync::Arc<Counter>,
}

impl Drop for Outcome {
    fn drop(&mut self) {
        self.drops.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

fn outcome(number: u32) -> (Outcome, std::sync::Arc<Counter>) {
    let drops = std::sync::Arc::new(Counter::new(0));
    (Outcome { number, drops: drops.clone() }, drops)
}

fn count(drops: &Counter) -> usize {
    drops.load(std::sync::atomic::Ordering::Relaxed)
}

fn wait<T: Send>(ticket: &mut SlotTicket<T>) -> T {
    let (bell, waker) = bell();
    loop {
        match ticket.poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(outcome) => return outcome,
            Poll::Pending => {
                bell.0.wait();
                thread::yield_now();
            }
        }
    }
}

/// The outcome arrives while the waiter polls and leaves: one side drops it, the peer is told or the outcome was
/// there, and the slot is free again once, under another generation.
#[test]
fn loom_an_outcome_and_a_drop_agree() {
    loom::model(|| {
        let slots = CallSlots::new(7, 1).unwrap();
        let mut ticket = slots.reserve().unwrap();
        let correlation = ticket.correlation();
        let (sent, drops) = outcome(1);
        let completer = slots.clone();
        let thread = thread::spawn(move || completer.complete(correlation, sent).is_ok());
        let (_, waker) = bell();
        let (taken, told) = match ticket.poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(_) => (true, ticket.abandon()),
            Poll::Pending => (false, ticket.abandon()),
        };
        let accepted = thread.join().unwrap();
        assert_eq!(count(&drops), 1);
        assert_eq!(told, !accepted, "the peer is told of a cancellation, or the outcome was accepted");
        assert!(!(taken && told));
        assert_eq!(slots.in_flight(), 0);
        let again = slots.reserve().unwrap();
        assert_ne!(again.correlation(), correlation);
        assert_eq!(slots.reserve().unwrap_err(), SlotsFull { limit: 1 });
    });
}

/// A waiter that sleeps, and before that was polled by another task, is woken: a lost waker is a deadlock.
#[test]
fn loom_no_waker_is_lost() {
    loom::model(|| {
        let slots = CallSlots::new(0, 1).unwrap();
        let mut ticket = slots.reserve().unwrap();
        let correlation = ticket.correlation();
        let completer = slots.clone();
        let thread = thread::spawn(move || completer.complete(correlation, 5).unwrap());
        let (_, first) = bell();
        let outcome = match ticket.poll(&mut Context::from_waker(&first)) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => wait(&mut ticket),
        };
        assert_eq!(outcome, 5);
        thread.join().unwrap();
    });
}

/// Two replies with one correlation: one is accepted, and it is the one that the waiter gets.
#[test]
fn loom_of_two_replies_one_wins() {
    loom::model(|| {
        let slots = CallSlots::new(0, 1).unwrap();
        let mut ticket = slots.reserve().unwrap();
        let correlation = ticket.correlation();
        let other = slots.clone();
        let thread = thread::spawn(move || other.complete(correlation, 1).err());
        let refused_here = slots.complete(correlation, 2).err();
        let outcome: u32 = wait(&mut ticket);
        let refused_there = thread.join().unwrap();
        let refused = refused_here.or(refused_there);
        assert_eq!(refused, Some(3 - outcome));
        assert!(refused_here.is_none() || refused_there.is_none());
    });
}

/// A reply that is late, while its slot is given to the next call: the next call never sees it.
#[test]
fn loom_a_late_reply_misses_the_next_call() {
    loom::model(|| {
        let slots = CallSlots::new(0, 1).unwrap();
        let ticket = slots.reserve().unwrap();
        let correlation = ticket.correlation();
        let (late, drops) = outcome(1);
        let completer = slots.clone();
        let thread = thread::spawn(move || drop(completer.complete(correlation, late)));
        drop(ticket);
        // While the late reply is being stored, its thread has the slot and gives it back.
        if let Ok(mut next) = slots.reserve() {
            assert!(next.try_take().is_none());
            let (mine, _) = outcome(2);
            assert!(slots.complete(next.correlation(), mine).is_ok());
            assert_eq!(next.try_take().map(|outcome| outcome.number), Some(2));
        }
        thread.join().unwrap();
        assert_eq!((count(&drops), slots.in_flight()), (1, 0));
        assert!(slots.reserve().is_ok());
    });
}

/// A peer that guesses the correlation of the next call, while the slot is still being used and given on: if it hits,
/// its outcome comes after all that the last call did in the slot.
#[test]
fn loom_a_guess_waits_its_turn() {
    loom::model(|| {
        let slots = CallSlots::new(0, 1).unwrap();
        let mut ticket = slots.reserve().unwrap();
        let guess = Correlation::unpack(ticket.correlation().pack() + 1);
        let guesser = slots.clone();
        let thread = thread::spawn(move || guesser.complete(guess, 2).is_ok());
        slots.complete(ticket.correlation(), 1).unwrap();
        assert_eq!(ticket.try_take(), Some(1));
        let mut next = slots.reserve().unwrap();
        assert_eq!(next.correlation(), guess);
        let hit = thread.join().unwrap();
        assert_eq!(next.try_take(), hit.then_some(2));
    });
}

/// Two threads use a new table at once: they get different slots of a chunk that exists once, and with both taken the
/// table is full.
#[test]
fn loom_fresh_slots_are_had_by_one() {
    loom::model(|| {
        let slots = CallSlots::<u32>::new(0, 2).unwrap();
        let other = slots.clone();
        let thread = thread::spawn(move || other.reserve().unwrap());
        let here = slots.reserve().unwrap();
        let there = thread.join().unwrap();
        assert_ne!(here.correlation(), there.correlation());
        assert!(slots.reserve().is_err());
        assert!(slots.complete(there.correlation(), 1).is_ok());
    });
}
