//! The simulation finds bugs: each of those that were built in makes some seed fail.

use underlay::sabotage::{self, Bug};
use underlay_simulation::runner;

/// So many seeds are run with a bug before it counts as not found.
const SEEDS: u64 = 100;

#[test]
fn every_deliberate_bug_is_found() {
    let seeds: Vec<u64> = (0..SEEDS).collect();
    for bug in Bug::ALL {
        let summary = runner::run_all(&seeds, 2, || sabotage::begin(Some(bug)));
        let Some(first) = summary.failed.first() else {
            panic!("{bug:?}: {SEEDS} seeds went well as if it were not there");
        };
        println!("{bug:?}: {} failed, seed {}: {}", summary.failed.len(), first.seed, first.what);
    }
}
