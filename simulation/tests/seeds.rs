//! A few seeds in every run of the tests; `ci/simulation` runs thousands.

use underlay_simulation::runner;
use underlay_simulation::world::{FAULTS_MIN, MESSAGES_MIN};

#[test]
fn nothing_is_lost_twice_out_of_order_or_left_over() {
    let seeds: Vec<u64> = (0..16).collect();
    let summary = runner::run_all(&seeds, 2, || {});
    assert_eq!(summary.failed, []);
    assert_eq!(summary.coverage.seeds, 16);
    assert!(summary.coverage.messages >= 16 * MESSAGES_MIN);
    assert!(summary.coverage.faults() >= 16 * FAULTS_MIN);
}

#[test]
fn the_same_seed_goes_the_same_way() {
    for seed in 1_000..1_004 {
        let (first, second) = (runner::run(seed, false), runner::run(seed, false));
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.coverage.events, second.coverage.events, "seed {seed}");
        assert_ne!(first.hash, runner::run(seed + 1, false).hash);
    }
}
