//! A stack that any thread may push to and that only its owner empties, all at once.
//!
//! This is Treiber's stack without its `pop`: since the owner takes the whole chain with one swap, no node can
//! leave and come back between the load and the exchange of a `push`, so the ABA problem cannot arise.

use super::{AtomicPtr, Ordering};
use std::ptr::{self, NonNull};

/// Something that can be chained to others of its kind.
///
/// # Safety
/// `link` must return the same field for the same node each time, and nobody but the stack may use that field
/// while the node is on it.
pub(crate) unsafe trait Linked: Sized {
    /// The field that holds the next node.
    fn link(&self) -> &AtomicPtr<Self>;
}

/// The stack itself: the head of a chain of nodes that it does not own.
#[derive(Debug)]
pub(crate) struct ReturnStack<N: Linked> {
    head: AtomicPtr<N>,
}

impl<N: Linked> ReturnStack<N> {
    /// An empty stack.
    pub(crate) fn new() -> Self {
        Self { head: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Pushes a node, from any thread, without waiting for any other.
    ///
    /// # Safety
    /// The node must be on no stack, must be the caller's alone, and must stay valid until it was taken.
    #[inline]
    pub(crate) unsafe fn push(&self, node: NonNull<N>) {
        // SAFETY: the caller vouches that the node is valid and its own.
        let link = unsafe { node.as_ref() }.link();
        // Relaxed: the value is only a guess that the exchange below verifies.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // Relaxed: published by the exchange below.
            link.store(head, Ordering::Relaxed);
            // Release: pairs with the Acquire of `take_all`, so that the owner sees the link and the node's content.
            match self.head.compare_exchange_weak(head, node.as_ptr(), Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
    }

    /// True when a `take_all` would find something; a hint, as another thread may push right after.
    #[inline]
    pub(crate) fn has_some(&self) -> bool {
        !self.head.load(Ordering::Relaxed).is_null()
    }

    /// Takes all nodes off, the newest first. Only the owner calls this.
    #[inline]
    pub(crate) fn take_all(&self) -> Taken<N> {
        // Acquire: pairs with the Release of every `push` in the chain (each exchange continues the release
        // sequence of the one before it).
        Taken { next: self.head.swap(ptr::null_mut(), Ordering::Acquire) }
    }
}

/// The nodes that were taken off a stack.
pub(crate) struct Taken<N: Linked> {
    next: *mut N,
}

impl<N: Linked> Iterator for Taken<N> {
    type Item = NonNull<N>;

    #[inline]
    fn next(&mut self) -> Option<NonNull<N>> {
        let node = NonNull::new(self.next)?;
        // SAFETY: the chain was taken off as a whole, so its nodes are the owner's alone, and `push` required them
        // to stay valid. Relaxed: ordered by the Acquire of `take_all`.
        self.next = unsafe { node.as_ref() }.link().load(Ordering::Relaxed);
        Some(node)
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use crate::sync::ReferenceCount;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;

    struct Node {
        holders: ReferenceCount,
        next: AtomicPtr<Node>,
        content: UnsafeCell<u32>,
    }

    // SAFETY: `link` always names the field `next`, which nothing else uses.
    unsafe impl Linked for Node {
        fn link(&self) -> &AtomicPtr<Node> {
            &self.next
        }
    }

    struct Shared {
        stack: ReturnStack<Node>,
        nodes: Vec<Box<Node>>,
    }
    // SAFETY: the models pass nodes between threads only through the stack; loom checks the content's accesses.
    unsafe impl Send for Shared {}
    // SAFETY: as above.
    unsafe impl Sync for Shared {}

    fn shared(holders: &[usize]) -> Arc<Shared> {
        let node = |&holders: &usize| {
            Box::new(Node {
                holders: ReferenceCount::new(holders),
                next: AtomicPtr::new(ptr::null_mut()),
                content: UnsafeCell::new(0),
            })
        };
        Arc::new(Shared { stack: ReturnStack::new(), nodes: holders.iter().map(node).collect() })
    }

    fn let_go(shared: &Shared, index: usize) {
        let node = &shared.nodes[index];
        // SAFETY: a holder may read.
        node.content.with(|content| assert_eq!(unsafe { *content }, 0));
        if node.holders.release() {
            // SAFETY: the last holder owns the node, which is on no stack and lives as long as `shared`.
            unsafe { shared.stack.push(NonNull::from(&**node)) };
        }
    }

    /// A node with two holders and one with one, let go on two threads while the owner empties the stack: each comes
    /// back exactly once, and its owner may write into it at once.
    #[test]
    fn loom_every_node_comes_back_once() {
        loom::model(|| {
            let shared = shared(&[2, 1]);
            let first = shared.clone();
            let second = shared.clone();
            let threads = [
                loom::thread::spawn(move || {
                    let_go(&first, 0);
                    let_go(&first, 1);
                }),
                loom::thread::spawn(move || let_go(&second, 0)),
            ];
            let mut came_back = take(&shared);
            for thread in threads {
                thread.join().unwrap();
            }
            came_back += take(&shared);
            assert_eq!(came_back, 2);
            assert_eq!(shared.stack.take_all().count(), 0);
        });

        fn take(shared: &Shared) -> usize {
            let reuse = |node: NonNull<Node>| {
                // SAFETY: taken nodes are the owner's alone; loom reports any access that is concurrent.
                unsafe { node.as_ref() }.content.with_mut(|content| unsafe { *content += 1 });
            };
            shared.stack.take_all().map(reuse).count()
        }
    }
}
