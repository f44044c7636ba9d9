//! A count of holders that says who was the last.

use super::{AtomicUsize, Ordering, fence};

/// Counts the holders of a thing that is given back, rather than freed, when the last of them lets go.
///
/// It differs from `Arc` in that the counted memory is not its own: the pool's buffers outlive every count.
#[derive(Debug)]
pub(crate) struct ReferenceCount(AtomicUsize);

impl ReferenceCount {
    /// A count that starts with `holders`.
    pub(crate) fn new(holders: usize) -> Self {
        Self(AtomicUsize::new(holders))
    }

    /// One more holder. The caller must be one itself, or otherwise know that the count cannot reach zero meanwhile.
    #[inline]
    pub(crate) fn acquire(&self) {
        // Relaxed: whoever adds a holder already holds one, so nothing has to be ordered; as in `Arc::clone`.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One holder less; true for the last, which then sees everything that the others did.
    #[inline]
    #[must_use = "the last holder has to give the thing back"]
    pub(crate) fn release(&self) -> bool {
        // Release: what this holder did to the thing happens before the last one gives it back; the fence is the
        // other half of that pair. As in `Arc::drop`.
        if self.0.fetch_sub(1, Ordering::Release) != 1 {
            return false;
        }
        fence(Ordering::Acquire);
        true
    }

    /// True when the caller is the only holder, and sees everything that earlier holders did.
    #[inline]
    pub(crate) fn is_unique(&self) -> bool {
        self.0.load(Ordering::Acquire) == 1
    }

    /// True when the last holder has let go, and then the caller sees everything that they did.
    #[cfg(feature = "rdma")]
    pub(crate) fn is_over(&self) -> bool {
        // Acquire: pairs with the release of each holder.
        self.0.load(Ordering::Acquire) == 0
    }

    /// Starts again at one holder. Only for a thing that nobody holds.
    #[inline]
    pub(crate) fn restart(&self) {
        // Relaxed: the thing was taken out of its owner's free list, so no other thread can see the count.
        self.0.store(1, Ordering::Relaxed);
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::ReferenceCount;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;

    /// Two holders on two threads: exactly one is the last, and it may write what the other has read.
    #[test]
    fn loom_the_last_holder_is_alone() {
        loom::model(|| {
            let shared = Arc::new((ReferenceCount::new(2), UnsafeCell::new(7_u32)));
            let other = shared.clone();
            let thread = loom::thread::spawn(move || let_go(&other));
            let here = let_go(&shared);
            let there = thread.join().unwrap();
            assert!(here ^ there, "exactly one holder is the last");
        });

        fn let_go(shared: &(ReferenceCount, UnsafeCell<u32>)) -> bool {
            // SAFETY: reading is allowed to every holder; loom reports a write that is concurrent with it.
            shared.1.with(|value| assert_eq!(unsafe { *value }, 7));
            let last = shared.0.release();
            if last {
                // SAFETY: the last holder is alone; loom reports any other access that is concurrent.
                shared.1.with_mut(|value| unsafe { *value = 8 });
            }
            last
        }
    }
}
