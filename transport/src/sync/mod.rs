//! The only place that knows atomics.
//!
//! Everything lock-free lives here, small enough to be model-checked: each structure is written against the
//! atomics re-exported below, which loom replaces under `--cfg loom`, and has models beside it (`ci/loom` runs
//! them). What it promises: no lock is held while another thread can be descheduled in the middle of it, and every
//! ordering that is weaker than sequential consistency says which pair of accesses it orders.
//!
//! It must never know what the things are that it counts, queues or wakes.

mod call_slots;
#[cfg(not(loom))]
mod cell;
mod ready_set;
mod reference_count;
mod return_stack;
mod signal;
mod submissions;
mod unique;
mod wakeup;

pub(crate) use call_slots::{CallSlots, Correlation, SlotTicket};
pub(crate) use ready_set::ReadySet;
pub(crate) use reference_count::ReferenceCount;
pub(crate) use return_stack::{Linked, ReturnStack};
pub(crate) use signal::Signal;
pub(crate) use submissions::{Submissions, SubmitRefused, Submitter};
pub(crate) use unique::unique_number;
pub(crate) use wakeup::SleepFlag;
pub use wakeup::Wakeup;

#[cfg(not(loom))]
pub(crate) use cell::UnsafeCell;
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};

#[cfg(loom)]
pub(crate) use loom::{
    cell::UnsafeCell,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
    },
};
