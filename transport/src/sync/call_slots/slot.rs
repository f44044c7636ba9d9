//! One slot: where the waiter of a call and its outcome meet.
//!
//! One word holds the slot's generation and its phase. Two sides move it: the *waiter*, which has the ticket and of
//! which there is one, and *completers*, of which one at a time can win.
//!
//! ```text
//!                      waiter registers its waker
//!                  ┌───────────────────────────────────┐
//!        open      │                                   ▼          the old waker is replaced
//!   Free ──────▶ Waiting ─────────────┐          Registering ◀──────────────────────┐
//!    ▲             │                  │                │ └──────────────────────▶ Listening
//!    │             │ claim            │                │ claim                      │ claim, takes the waker
//!    │ abandon     ▼                  │                ▼                            ▼
//!    ├── (of the three above)         └────────▶  Completing ◀──────────────────────┘
//!    │                                           │           │
//!    │            the outcome is stored: publish │           │ abandon
//!    │  take, abandon                            ▼           ▼
//!    ├──────────────────────────────────────── Done      Abandoned
//!    │  close, by the completer                              │
//!    └───────────────────────────────────────────────────────┘
//! ```
//!
//! Each arrow back to Free counts the generation up, so that whoever comes with the old one is refused by the same
//! comparison that finds the slot waiting. Who may touch what:
//!
//! - The waker's cell is the waiter's, but for Listening: then it belongs to whoever moves the slot on, back to
//!   Registering (the waiter) or to Completing (the completer, which takes the waker out before it publishes, since
//!   from then on the slot may be used again at any time).
//! - The outcome's cell is the completer's in Completing, the waiter's in Done.
//! - In Abandoned both are the completer's, which then is the one to free the slot.
//!
//! No waker is lost: a completer that claims a Registering slot finds none to wake, but the waiter cannot move on to
//! Listening any more, sees that, and looks for the outcome itself.

use super::super::{AtomicU32, AtomicU64, Ordering, UnsafeCell};
use std::mem::MaybeUninit;
use std::task::Waker;

const FREE: u32 = 0;
const WAITING: u32 = 1;
const REGISTERING: u32 = 2;
const LISTENING: u32 = 3;
const COMPLETING: u32 = 4;
const ABANDONED: u32 = 5;
const DONE: u32 = 6;

/// On a cache line of its own, since its neighbours are used by other threads.
#[repr(align(64))]
pub(super) struct Slot<T> {
    state: AtomicU64,
    /// The free list's.
    link: AtomicU32,
    waker: UnsafeCell<Option<Waker>>,
    outcome: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: the cells are accessed by one thread at a time, as the state machine rules, and nobody gets a reference
// into them; outcomes and wakers move between threads, which both allow.
unsafe impl<T: Send> Sync for Slot<T> {}

/// What became of an outcome.
pub(super) enum Completion<T> {
    /// The waiter will find it; wake it, if it has left a waker.
    Stored(Option<Waker>),
    /// Nobody waits for it.
    Refused(T),
    /// The waiter left just now. The slot is closed, and for the caller to give back.
    Abandoned(T, Option<Waker>),
}

/// What the waiter left behind. But for `Completing`, the slot is closed, and for the caller to give back.
pub(super) enum Abandoned<T> {
    /// No outcome had come.
    Waiting(Option<Waker>),
    /// It had come.
    Completed(T, Option<Waker>),
    /// It comes just now; the completer will close the slot and give it back.
    Completing,
}

impl<T> Slot<T> {
    /// A free slot. Its first generation is 1, so that no correlation is zero.
    pub(super) fn new() -> Self {
        Self {
            state: AtomicU64::new(state(1, FREE)),
            link: AtomicU32::new(0),
            waker: UnsafeCell::new(None),
            outcome: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// The field by which the free list chains the slot.
    #[inline]
    pub(super) fn link(&self) -> &AtomicU32 {
        &self.link
    }

    /// From Free to Waiting; the generation that the slot has from now on.
    ///
    /// # Safety
    /// The caller has taken the slot out of the free list, or is the first to use it.
    #[inline]
    pub(super) unsafe fn open(&self) -> u32 {
        // Relaxed: the free list has ordered what the last user did.
        let (generation, phase) = parts(self.state.load(Ordering::Relaxed));
        debug_assert_eq!(phase, FREE);
        // Release: pairs with the Acquire of `claim`, so that the completer's write to the outcome comes after what
        // the last user did with it, even if it has guessed the correlation.
        self.state.store(state(generation, WAITING), Ordering::Release);
        generation
    }

    /// By a completer, on any thread, with any generation.
    #[inline]
    pub(super) fn complete(&self, generation: u32, outcome: T) -> Completion<T> {
        let Some(claimed_from) = self.claim(generation) else { return Completion::Refused(outcome) };
        // SAFETY: Completing, by this thread: the outcome's cell is its own.
        self.outcome.with_mut(|cell| unsafe { (*cell).write(outcome) });
        let waker = if claimed_from == LISTENING {
            // SAFETY: Completing, claimed from Listening: the waker's cell came with it.
            self.waker.with_mut(|cell| unsafe { (*cell).take() })
        } else {
            None
        };
        // Release: pairs with the Acquire of `take`. Acquire on failure: pairs with the Release in `abandon`, to see
        // what the waiter did to the waker's cell.
        let published = self.state.compare_exchange(
            state(generation, COMPLETING),
            state(generation, DONE),
            Ordering::Release,
            Ordering::Acquire,
        );
        if published.is_ok() {
            return Completion::Stored(waker);
        }
        // Only the waiter moves a slot that is Completing, and only to Abandoned.
        // SAFETY: in Abandoned both cells are this thread's; the outcome was written above.
        let (outcome, left) = unsafe { self.empty() };
        self.close(generation);
        Completion::Abandoned(outcome, waker.or(left))
    }

    /// From one of the three waiting phases to Completing; which one it was, or `None` if it was none of them.
    #[inline]
    fn claim(&self, generation: u32) -> Option<u32> {
        // Relaxed: only a guess, which the exchange verifies.
        let mut seen = self.state.load(Ordering::Relaxed);
        loop {
            let (current, phase) = parts(seen);
            if current != generation || !is_waiting(phase) {
                return None;
            }
            // Acquire: pairs with the Release in `open` and in `listen`, to see the cells as they were left. It
            // retries only when the waiter has moved on.
            match self.state.compare_exchange_weak(
                seen,
                state(generation, COMPLETING),
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(phase),
                Err(now) => seen = now,
            }
        }
    }

    /// Leaves a waker to be woken when there is an outcome. False if one comes, or came, meanwhile: then nobody will
    /// wake it, and it is time to look.
    ///
    /// # Safety
    /// Only by the waiter, one call at a time.
    pub(super) unsafe fn listen(&self, generation: u32, waker: &Waker) -> bool {
        if !self.start_registering(generation) {
            return false;
        }
        // SAFETY: Registering: the cell is the waiter's.
        let same =
            self.waker.with_mut(|cell| unsafe { &*cell }.as_ref().is_some_and(|old| old.will_wake(waker)));
        if !same {
            // What runs code of others is outside the access: if it panics, the slot stays Registering, which is
            // as good as Waiting.
            let new = Some(waker.clone());
            // SAFETY: as above.
            drop(self.waker.with_mut(|cell| unsafe { std::mem::replace(&mut *cell, new) }));
        }
        // Release: pairs with the Acquire of `claim`, to show it the waker. Relaxed on failure: then nothing more is
        // touched here.
        self.state
            .compare_exchange(
                state(generation, REGISTERING),
                state(generation, LISTENING),
                Ordering::Release,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// From a waiting phase to Registering; false if the slot is none of them any more.
    fn start_registering(&self, generation: u32) -> bool {
        // Relaxed throughout: it takes the waker's cell back, which nobody but the waiter has touched, or else the
        // exchange fails. As an exchange it continues the release sequence that began with `open`.
        let mut seen = self.state.load(Ordering::Relaxed);
        loop {
            match parts(seen).1 {
                // Left by a waker that panicked.
                REGISTERING => return true,
                WAITING | LISTENING => {}
                _ => return false,
            }
            match self.state.compare_exchange_weak(
                seen,
                state(generation, REGISTERING),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
    }

    /// From Done to Free: the outcome, and a waker that was left over. The slot is for the caller to give back.
    ///
    /// # Safety
    /// Only by the waiter, one call at a time, and no more after it was taken.
    #[inline]
    pub(super) unsafe fn take(&self, generation: u32) -> Option<(T, Option<Waker>)> {
        // Acquire: pairs with the Release in `complete`, to see the outcome.
        if self.state.load(Ordering::Acquire) != state(generation, DONE) {
            return None;
        }
        // SAFETY: in Done both cells are the waiter's, and the outcome is there.
        let content = unsafe { self.empty() };
        self.close(generation);
        Some(content)
    }

    /// Gives up waiting, in whatever phase that falls.
    ///
    /// # Safety
    /// Only by the waiter, as its last call for this slot, and not after `take` has yielded the outcome.
    pub(super) unsafe fn abandon(&self, generation: u32) -> Abandoned<T> {
        // Acquire, here and where the exchange fails: pairs with the Release in `complete`, to see the outcome.
        let mut seen = self.state.load(Ordering::Acquire);
        loop {
            let phase = parts(seen).1;
            let next = match phase {
                DONE => {
                    // SAFETY: in Done both cells are the waiter's, and the outcome is there.
                    let (outcome, waker) = unsafe { self.empty() };
                    self.close(generation);
                    return Abandoned::Completed(outcome, waker);
                }
                COMPLETING => state(generation, ABANDONED),
                _ => state(next_generation(generation), FREE),
            };
            // Release: pairs with the Acquire in `complete`, where it fails to publish.
            match self.state.compare_exchange_weak(seen, next, Ordering::Release, Ordering::Acquire) {
                Ok(_) if phase == COMPLETING => return Abandoned::Completing,
                // SAFETY: Free, but on no list yet: the cell is the waiter's.
                Ok(_) => return Abandoned::Waiting(self.waker.with_mut(|cell| unsafe { (*cell).take() })),
                Err(now) => seen = now,
            }
        }
    }

    /// Takes what the cells hold.
    ///
    /// # Safety
    /// Both cells are the caller's, and the outcome was written and not taken.
    #[inline]
    unsafe fn empty(&self) -> (T, Option<Waker>) {
        // SAFETY: as the caller vouches.
        let outcome = self.outcome.with_mut(|cell| unsafe { (*cell).assume_init_read() });
        // SAFETY: as the caller vouches.
        let waker = self.waker.with_mut(|cell| unsafe { (*cell).take() });
        (outcome, waker)
    }

    /// To Free, under the next generation. Relaxed: the free list publishes what was done to the slot.
    #[inline]
    fn close(&self, generation: u32) {
        self.state.store(state(next_generation(generation), FREE), Ordering::Relaxed);
    }
}

const fn is_waiting(phase: u32) -> bool {
    matches!(phase, WAITING | REGISTERING | LISTENING)
}

/// Leaves out zero when it wraps.
const fn next_generation(generation: u32) -> u32 {
    if generation == u32::MAX { 1 } else { generation + 1 }
}

const fn state(generation: u32, phase: u32) -> u64 {
    (generation as u64) << u32::BITS | phase as u64
}

const fn parts(state: u64) -> (u32, u32) {
    ((state >> u32::BITS) as u32, state as u32)
}
