//! A network of RDMA devices that exists within a test: [`Verbs`](super::Verbs) without a device, without time and
//! without chance.
//!
//! A [`FakeNetwork`] has ends, each of which stands for a process with devices of its own. Nothing happens by itself:
//! [`FakeNetwork::step`] does one thing, [`FakeNetwork::run_until_quiet`] all there is to do. A network that
//! [moves by itself](FakeNetwork::moving_by_itself) does a little whenever an end looks for events or completions, so
//! that code which polls gets on. What is next is taken in turn, or drawn from a seed.
//!
//! It behaves as reliably connected queue pairs do, and where devices differ, as the strictest of them: a place in a
//! send queue is free when a completion at or after it was taken, that of a receive request when its own was. It really
//! copies between the addresses that it is given, as late as it may, so that memory which is used again too early
//! shows. A [`Fault`] makes something go wrong once; links and devices can go away. It keeps account of what no
//! program may do, and of what was not given back ([`FakeNetwork::assert_clean`], [`FakeNetwork::left`]).
//!
//! What it must not know: anything about the wire above the seam.

mod beside;
mod connecting;
mod control;
mod faults;
mod memory;
mod queues;
mod random;
mod schedule;
mod state;
#[cfg(test)]
mod tests;
mod verbs;

pub(in crate::backend::rdma) use control::{EndName, Left};
pub(in crate::backend::rdma) use faults::Fault;
pub(in crate::backend::rdma) use state::DeviceKind;
pub(in crate::backend::rdma) use verbs::FakeVerbs;

use super::DeviceLimits;
use random::Random;
use state::{End, Port, State};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::os::fd::{FromRawFd, OwnedFd};
use std::rc::Rc;

type Shared = Rc<RefCell<State>>;

/// More steps than any test takes: whatever needs so many never ends.
const STEPS_MAX: usize = 10_000_000;

/// The devices of one test, and what connects them.
#[derive(Clone)]
pub(in crate::backend::rdma) struct FakeNetwork {
    shared: Shared,
}

impl FakeNetwork {
    /// One in which things happen in turn.
    pub(in crate::backend::rdma) fn in_turn() -> Self {
        Self::new(None)
    }

    /// One in which they happen in an order that a seed decides.
    pub(in crate::backend::rdma) fn seeded(seed: u64) -> Self {
        Self::new(Some(seed))
    }

    /// From now on each look for events or completions does a step, and arming does all there is to do, as a sleep
    /// would follow. No events or completions come between the last look and the sleep then: for that, use steps.
    pub(in crate::backend::rdma) fn moving_by_itself(self) -> Self {
        self.shared.borrow_mut().moves_by_itself = true;
        self
    }

    fn new(seed: Option<u64>) -> Self {
        let state = State {
            random: Random::new(seed),
            moves_by_itself: false,
            disturbed_one_in: 0,
            ends: Vec::new(),
            connections: BTreeMap::new(),
            messages: VecDeque::new(),
            next: 16,
            misuses: Vec::new(),
        };
        Self { shared: Rc::new(RefCell::new(state)) }
    }

    /// A new end, which has one device at each of these addresses. Several ends can share an address.
    pub(in crate::backend::rdma) fn end(&self, addresses: &[&str]) -> FakeVerbs {
        let mut state = self.shared.borrow_mut();
        let end = state.ends.len();
        let port = |(index, address): (usize, &&str)| Port {
            address: address.parse().expect("an IP address"),
            kind: device_kind(index),
            is_up: true,
            is_removed: false,
        };
        let descriptor = Rc::new(event_descriptor());
        state.ends.push(End {
            ports: addresses.iter().enumerate().map(port).collect(),
            contexts: Vec::new(),
            identifiers: Vec::new(),
            events: VecDeque::new(),
            events_held: false,
            regions: BTreeMap::new(),
            windows: BTreeMap::new(),
            faults: Vec::new(),
            descriptor: Rc::clone(&descriptor),
            is_readable: false,
            is_readable_without_reason: false,
            left_at_death: None,
        });
        FakeVerbs { shared: Rc::clone(&self.shared), end, descriptor }
    }

    /// Does one thing; false if there is none.
    pub(in crate::backend::rdma) fn step(&self) -> bool {
        let mut state = self.shared.borrow_mut();
        let did = state.step();
        state.show_readable();
        did
    }

    /// Does all there is to do; says how much it was.
    pub(in crate::backend::rdma) fn run_until_quiet(&self) -> usize {
        let steps = (0..STEPS_MAX).take_while(|_| self.step()).count();
        assert!(steps < STEPS_MAX, "the network does not come to rest");
        steps
    }
}

/// Like `rxe`, but small enough to run into its limits.
fn device_kind(index: usize) -> DeviceKind {
    let limits = DeviceLimits {
        name: format!("fake{index}"),
        queue_pairs_max: 4096,
        sends_max: 4096,
        parts_max: 32,
        completions_max: 32_767,
        receives_max: 8192,
        receive_parts_max: 27,
        reads_started_max: 128,
        reads_answered_max: 128,
        windows_max: 4096,
        windows_have_bounds: true,
    };
    DeviceKind {
        limits,
        inline_bytes_max: 512,
        packet_bytes: 4096,
        forgets_completions: false,
        says_last_receive: true,
    }
}

impl fmt::Debug for FakeNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeNetwork").finish_non_exhaustive()
    }
}

fn event_descriptor() -> OwnedFd {
    // SAFETY: a system call without pointers.
    let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    assert!(descriptor >= 0, "eventfd: {}", std::io::Error::last_os_error());
    // SAFETY: it was just opened, and belongs to nobody else.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
