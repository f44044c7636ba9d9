//! The simulation finds bugs: each of those that were built in makes some seed fail.

use underlay::sabotage::{self, Bug};
use underlay_simulation::runner;

/// So many seeds are run with a bug before it counts as not found.
const SEEDS: u64 = 200;

#[test]
fn every_deliberate_bug_is_found() {
    let seeds: Vec<u64> = (0..SEEDS).collect();
    for bug in Bug::ALL {
        // A few at a time: most bugs are found by the first ones.
        let found = seeds.chunks(4).find_map(|seeds| {
            let summary = runner::run_all(seeds, 2, || sabotage::begin(Some(bug)));
            summary.failed.into_iter().next()
        });
        let Some(first) = found else { panic!("{bug:?}: {SEEDS} seeds went as if it were not there") };
        println!("{bug:?}: seed {}: {}", first.seed, first.what);
    }
}
