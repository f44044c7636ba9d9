//! Many seeds, on a few threads.

use crate::coverage::Coverage;
use crate::world::{self, Outcome};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A seed whose run went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Which.
    pub seed: u64,
    /// What was wrong.
    pub what: String,
}

/// What came of many runs.
#[derive(Debug, Default)]
pub struct Summary {
    /// What they met together.
    pub coverage: Coverage,
    /// Those that went wrong, in order; no more than the first few.
    pub failed: Vec<Failed>,
}

/// After so many failures the others are not run any more: they will have the same cause.
const FAILED_MAX: usize = 10;

/// Runs one seed; a panic of the code under test is a failure like any other.
pub fn run(seed: u64, is_printed: bool) -> Outcome {
    panic::catch_unwind(AssertUnwindSafe(|| world::run(seed, is_printed))).unwrap_or_else(|cause| {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("without a text");
        let coverage = Coverage::of_one_seed();
        Outcome { coverage, hash: 0, failure: Some(format!("panic: {text}")) }
    })
}

/// Runs these seeds on so many threads. `each` is called on entering each of the threads.
pub fn run_all(seeds: &[u64], threads: usize, each: impl Fn() + Sync) -> Summary {
    let next = AtomicU64::new(0);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                each();
                let mut coverage = Coverage::default();
                // Relaxed: only the number counts.
                while let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let outcome = run(seed, false);
                    coverage.add(&outcome.coverage);
                    if let Some(what) = outcome.failure {
                        let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                        summary.failed.push(Failed { seed, what });
                        if summary.failed.len() >= FAILED_MAX {
                            break;
                        }
                    }
                }
                summary.lock().unwrap_or_else(PoisonError::into_inner).coverage.add(&coverage);
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.failed.sort_unstable_by_key(|failed| failed.seed);
    summary
}
