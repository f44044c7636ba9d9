//! Many seeds, on a few threads.

use crate::coverage::Coverage;
use crate::world::{self, Outcome};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

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
const FAILED_MAX: usize = 20;

/// A seed that takes some thousand times as long as usual will not end at all.
const HANGS_AFTER: Duration = Duration::from_secs(60);

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
///
/// A loop without an end in the code under test cannot be left from outside: after a minute the seed is printed
/// and the whole process ends.
pub fn run_all(seeds: &[u64], threads: usize, each: impl Fn() + Sync) -> Summary {
    let runs = Runs {
        seeds,
        next: AtomicUsize::new(0),
        present: Mutex::new(vec![None; threads]),
        summary: Mutex::default(),
    };
    let (done, is_done) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (runs, each, done) = (&runs, &each, done.clone());
            scope.spawn(move || {
                each();
                runs.work(thread);
                drop(done);
            });
        }
        drop(done);
        // Nobody ever says anything: the channel ends with the last thread.
        while is_done.recv_timeout(Duration::from_secs(1)) == Err(mpsc::RecvTimeoutError::Timeout) {
            runs.look_for_hanging();
        }
    });
    let mut summary = runs.summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.failed.sort_unstable_by_key(|failed| failed.seed);
    summary
}

struct Runs<'a> {
    seeds: &'a [u64],
    next: AtomicUsize,
    /// By thread, the seed that it runs, and since when.
    present: Mutex<Vec<Option<(u64, Instant)>>>,
    summary: Mutex<Summary>,
}

impl Runs<'_> {
    fn work(&self, thread: usize) {
        let mut coverage = Coverage::default();
        // Relaxed: only the number counts.
        while let Some(&seed) = self.seeds.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            locked(&self.present)[thread] = Some((seed, Instant::now()));
            let outcome = run(seed, false);
            coverage.add(&outcome.coverage);
            if let Some(what) = outcome.failure {
                locked(&self.summary).failed.push(Failed { seed, what });
            }
            if locked(&self.summary).failed.len() >= FAILED_MAX {
                break;
            }
        }
        locked(&self.present)[thread] = None;
        locked(&self.summary).coverage.add(&coverage);
    }

    fn look_for_hanging(&self) {
        let present = locked(&self.present);
        for (seed, since) in present.iter().flatten() {
            if since.elapsed() > HANGS_AFTER {
                println!("seed {seed} FAILED: it has not ended after {HANGS_AFTER:?}");
                println!("    {}", replay(*seed));
                std::process::exit(1);
            }
        }
    }
}

/// The command that runs a seed again.
pub fn replay(seed: u64) -> String {
    format!("replay: cargo run --profile checked -p underlay-simulation -- run --seed {seed} --trace")
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
