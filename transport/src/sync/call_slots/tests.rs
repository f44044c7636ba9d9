use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize as Counter, Ordering};
use std::sync::mpsc;
use std::task::Wake;
use std::thread;

#[derive(Default)]
struct Bell(Counter);

impl Wake for Bell {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Bell {
    fn rings(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

fn bell() -> (std::sync::Arc<Bell>, Waker) {
    let bell = std::sync::Arc::new(Bell::default());
    (bell.clone(), Waker::from(bell))
}

#[test]
fn the_waker_of_the_last_poll_is_woken_once_and_none_is_kept() {
    let slots = CallSlots::new(0, 4).unwrap();
    let mut ticket = slots.reserve().unwrap();
    let (first, first_waker) = bell();
    let (second, second_waker) = bell();
    for waker in [&first_waker, &first_waker, &second_waker, &second_waker] {
        assert!(ticket.poll(&mut Context::from_waker(waker)).is_pending());
    }
    assert_eq!(std::sync::Arc::strong_count(&first), 2, "the replaced waker is gone");
    slots.complete(ticket.correlation(), "reply").unwrap();
    assert_eq!((first.rings(), second.rings()), (0, 1));
    assert_eq!(std::sync::Arc::strong_count(&second), 2, "the woken waker is gone");
    assert_eq!(ticket.poll(&mut Context::from_waker(&first_waker)), Poll::Ready("reply"));
    assert_eq!(ticket.poll(&mut Context::from_waker(&first_waker)), Poll::Pending, "taken before");
    let mut ticket = slots.reserve().unwrap();
    assert!(ticket.poll(&mut Context::from_waker(&first_waker)).is_pending());
    drop(ticket);
    assert_eq!(std::sync::Arc::strong_count(&first), 2, "the abandoned waker is gone");
}

#[test]
fn a_spent_ticket_leaves_the_next_call_alone() {
    let slots = CallSlots::new(0, 1).unwrap();
    let mut spent = slots.reserve().unwrap();
    slots.complete(spent.correlation(), 1).unwrap();
    assert_eq!(spent.try_take(), Some(1));
    let mut next = slots.reserve().unwrap();
    assert_eq!(spent.try_take(), None);
    assert!(!spent.abandon());
    slots.complete(next.correlation(), 2).unwrap();
    assert_eq!(next.try_take(), Some(2));
}

#[test]
fn abandoning_says_whether_the_call_still_waited() {
    let slots = CallSlots::new(0, 2).unwrap();
    let waiting = slots.reserve().unwrap();
    let correlation = waiting.correlation();
    assert!(waiting.abandon());
    let late = std::sync::Arc::new(());
    let refused = slots.complete(correlation, late.clone()).unwrap_err();
    assert!(std::sync::Arc::ptr_eq(&refused, &late));
    drop(refused);
    let completed = slots.reserve().unwrap();
    slots.complete(completed.correlation(), late.clone()).unwrap();
    assert!(slots.complete(completed.correlation(), late.clone()).is_err(), "a duplicate");
    assert!(!completed.abandon());
    assert_eq!(std::sync::Arc::strong_count(&late), 1, "the outcome was dropped");
    assert_eq!(slots.in_flight(), 0);
}

#[test]
fn a_full_table_refuses_until_a_slot_is_free() {
    // More than a chunk, and no multiple of one.
    let slots = CallSlots::<u32>::new(3, 1500).unwrap();
    let mut tickets: Vec<_> = (0..1500).map(|_| slots.reserve().unwrap()).collect();
    assert_eq!(slots.reserve().unwrap_err(), SlotsFull { limit: 1500 });
    assert_eq!(slots.in_flight(), 1500);
    for (number, ticket) in tickets.iter().enumerate() {
        slots.complete(ticket.correlation(), number as u32).unwrap();
    }
    assert!(slots.reserve().is_err(), "outcomes that nobody took have their slots");
    for (number, ticket) in tickets.iter_mut().enumerate() {
        assert_eq!(ticket.try_take(), Some(number as u32));
    }
    assert_eq!(slots.in_flight(), 0);
    let again: Vec<_> = (0..1500).map(|_| slots.reserve().unwrap()).collect();
    assert!(slots.reserve().is_err());
    drop((slots, again, tickets));
}

#[test]
fn a_size_that_cannot_be_named_is_refused() {
    for calls_max in [0, CALLS_MAX + 1] {
        assert_eq!(CallSlots::<()>::new(0, calls_max).unwrap_err(), CallsMaxInvalid { calls_max });
    }
    assert!(CallSlots::<()>::new(0, CALLS_MAX).unwrap().reserve().is_ok());
}

/// A waker that panics when the last handle to it goes.
struct Spiteful;

impl Wake for Spiteful {
    fn wake(self: std::sync::Arc<Self>) {}
}

impl Drop for Spiteful {
    fn drop(&mut self) {
        panic!("as it does");
    }
}

#[test]
fn a_waker_that_panics_harms_only_its_caller() {
    let slots = CallSlots::new(0, 1).unwrap();
    for complete in [true, false] {
        let mut ticket = slots.reserve().unwrap();
        let spiteful = Waker::from(std::sync::Arc::new(Spiteful));
        assert!(ticket.poll(&mut Context::from_waker(&spiteful)).is_pending());
        catch_unwind(|| drop(spiteful)).unwrap();
        let (bell, waker) = bell();
        let polled = catch_unwind(AssertUnwindSafe(|| ticket.poll(&mut Context::from_waker(&waker))));
        assert!(polled.is_err(), "replacing the spiteful one panics");
        if complete {
            assert!(ticket.poll(&mut Context::from_waker(&waker)).is_pending());
            slots.complete(ticket.correlation(), 5).unwrap();
            assert_eq!((ticket.try_take(), bell.rings()), (Some(5), 1));
        } else {
            assert!(ticket.abandon());
        }
        assert_eq!(std::sync::Arc::strong_count(&bell), 2);
        assert_eq!(slots.in_flight(), 0);
    }
}

proptest! {
    #[test]
    fn a_correlation_survives_its_packing(packed: u64) {
        prop_assert_eq!(Correlation::unpack(packed).pack(), packed);
        prop_assert_eq!(u64::from(Correlation::unpack(packed).shard()), packed >> 56);
    }

    /// Whatever number comes back, it completes a call only if it is that call's; the near misses are tried too.
    #[test]
    fn numbers_that_were_made_up_complete_nothing(random: u64, flipped in 0..64_u32) {
        let slots = CallSlots::new(9, 1100).unwrap();
        let tickets: Vec<_> = (0..3).map(|_| slots.reserve().unwrap()).collect();
        let packed: Vec<_> = tickets.iter().map(|ticket| ticket.correlation().pack()).collect();
        prop_assert!(!packed.contains(&0));
        for forged in packed.iter().map(|packed| packed ^ (1 << flipped)).chain([random, 0, u64::MAX]) {
            if !packed.contains(&forged) {
                prop_assert_eq!(slots.complete(Correlation::unpack(forged), forged), Err(forged));
            }
        }
    }
}

/// Two threads that call and two that reply, with duplicates, late replies and calls given up at any time: each call
/// that is not given up gets its own outcome, each outcome is dropped once, and in the end all slots are free.
#[test]
fn calls_and_replies_on_many_threads_never_mix() {
    const CALLS: usize = 20_000;
    let slots = CallSlots::new(1, 64).unwrap();
    let alive = std::sync::Arc::new(());
    let (send, receive): (Vec<_>, Vec<_>) = (0..2).map(|_| mpsc::channel::<Correlation>()).unzip();
    let repliers: Vec<_> = receive
        .into_iter()
        .map(|receive| {
            let (slots, alive) = (slots.clone(), alive.clone());
            thread::spawn(move || {
                for correlation in receive {
                    drop(slots.complete(correlation, (correlation, alive.clone())));
                }
            })
        })
        .collect();
    let callers: Vec<_> = (0..2)
        .map(|caller| {
            let (slots, send) = (slots.clone(), send.clone());
            thread::spawn(move || {
                let mut waiting: VecDeque<SlotTicket<_>> = VecDeque::new();
                let mut taken = 0;
                for call in 0..CALLS {
                    if let Ok(ticket) = slots.reserve() {
                        // Each third reply comes twice, from both threads.
                        for replier in 0..=usize::from(call % 3 == 0) {
                            send[(caller + replier) % 2].send(ticket.correlation()).unwrap();
                        }
                        waiting.push_back(ticket);
                    }
                    if call % 5 == 0 {
                        waiting.pop_back();
                    }
                    if waiting.len() >= 24
                        && let Some(ticket) = waiting.pop_front()
                    {
                        block_on(ticket);
                        taken += 1;
                    }
                }
                taken += waiting.len();
                waiting.into_iter().for_each(block_on);
                taken
            })
        })
        .collect();
    drop(send);
    let taken: usize = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
    repliers.into_iter().for_each(|replier| replier.join().unwrap());
    assert!(taken > CALLS, "{taken} calls were waited for");
    assert_eq!(slots.in_flight(), 0);
    assert_eq!(std::sync::Arc::strong_count(&alive), 1);
    let all: Vec<_> = (0..64).map(|_| slots.reserve().unwrap()).collect();
    assert!(slots.reserve().is_err());
    drop(all);
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for the outcome, which has to be the ticket's own.
fn block_on(mut ticket: SlotTicket<(Correlation, std::sync::Arc<()>)>) {
    let waker = Waker::from(std::sync::Arc::new(Unpark(thread::current())));
    loop {
        match ticket.poll(&mut Context::from_waker(&waker)) {
            Poll::Ready((correlation, _)) => return assert_eq!(correlation, ticket.correlation()),
            Poll::Pending => thread::park(),
        }
    }
}
