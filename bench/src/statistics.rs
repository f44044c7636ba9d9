//! Medians, and how sure of them one can be.
//!
//! Pure: numbers in, numbers out. Randomness comes from a seed, so a report can be computed again from
//! its own per-round figures.

/// How often a sample is drawn again for an interval.
pub const RESAMPLES: usize = 10_000;

/// A median with its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Median of the sample.
    pub median: f64,
    /// 2.5th percentile of the medians of the resamples.
    pub low: f64,
    /// 97.5th percentile of the medians of the resamples.
    pub high: f64,
}

/// Median of a sample: the middle value, or the mean of the two middle ones. `None` if it is empty.
#[must_use]
pub fn median(sample: &[f64]) -> Option<f64> {
    let mut scratch = sample.to_vec();
    median_in_place(&mut scratch)
}

/// Estimates the median of a sample with a 95% interval by the percentile bootstrap: the sample is
/// drawn again with replacement [`RESAMPLES`] times, and the interval holds the middle 95% of the
/// medians. `None` if the sample is empty.
#[must_use]
pub fn bootstrap_median(sample: &[f64], seed: u64) -> Option<Estimate> {
    let median = median(sample)?;
    let mut random = SplitMix64::new(seed);
    let mut scratch = vec![0.0; sample.len()];
    let mut medians = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        for drawn in &mut scratch {
            *drawn = sample[random.below(sample.len())];
        }
        medians.extend(median_in_place(&mut scratch));
    }
    medians.sort_unstable_by(f64::total_cmp);
    let low = medians[percentile_index(RESAMPLES, 0.025)];
    let high = medians[percentile_index(RESAMPLES, 0.975)];
    Some(Estimate { median, low, high })
}

/// Ratios of two series, round by round. The series are as long as the shorter one.
#[must_use]
pub fn paired_ratios(numerators: &[f64], denominators: &[f64]) -> Vec<f64> {
    numerators.iter().zip(denominators).map(|(numerator, denominator)| numerator / denominator).collect()
}

/// Rounds to three digits after the point, which of a time in microseconds is whole nanoseconds.
#[must_use]
pub fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// A small seeded generator (Steele, Lea and Flood 2014): enough for orders and resamples, and the same
/// on every machine.
#[derive(Debug, Clone)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// Starts the sequence of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, or 0 if that is 0. The bias of the multiplication is below `bound` in
    /// 2^64, far under what a report could show.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// Puts `items` in random order (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// The nearest rank of a quantile in a sorted sample; `None` if it is empty.
#[must_use]
pub fn percentile(sorted: &[f64], quantile: f64) -> Option<f64> {
    if sorted.is_empty() { None } else { Some(sorted[percentile_index(sorted.len(), quantile)]) }
}

/// Nearest-rank index of a quantile in a sorted sample of `count`, which is not empty.
fn percentile_index(count: usize, quantile: f64) -> usize {
    let rank = (quantile * count as f64).ceil() as usize;
    rank.clamp(1, count) - 1
}

fn median_in_place(sample: &mut [f64]) -> Option<f64> {
    if sample.is_empty() {
        return None;
    }
    sample.sort_unstable_by(f64::total_cmp);
    let middle = sample.len() / 2;
    let is_odd = sample.len() % 2 == 1;
    Some(if is_odd { sample[middle] } else { f64::midpoint(sample[middle - 1], sample[middle]) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_even_single_and_empty_samples() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[]), None);
        assert_eq!(bootstrap_median(&[], 1), None);
    }

    #[test]
    fn nearest_rank_percentiles() {
        assert_eq!(percentile_index(10_000, 0.025), 249);
        assert_eq!(percentile_index(10_000, 0.975), 9_749);
        assert_eq!(percentile_index(1, 0.975), 0);
        assert_eq!(percentile_index(4, 0.5), 1);
    }

    #[test]
    fn a_constant_sample_has_an_interval_of_no_width() {
        let estimate = bootstrap_median(&[1.25; 15], 9);
        assert_eq!(estimate, Some(Estimate { median: 1.25, low: 1.25, high: 1.25 }));
    }

    /// For 11 distinct values the bootstrap distribution of the median is known: the resampled median is
    /// at most the k-th value if at least 6 of 11 draws are, a binomial tail with p = k/11. That tail is
    /// 0.007 at k = 2 and 0.051 at k = 3, so the 2.5th percentile is the third value and the 97.5th, by
    /// symmetry, the ninth.
    #[test]
    fn interval_of_eleven_distinct_values_is_the_third_to_the_ninth() {
        let tail = |k: f64| -> f64 {
            let chance = |hits: i32| (k / 11.0).powi(hits) * (1.0 - k / 11.0).powi(11 - hits);
            (6..=11).map(|hits| choose(11, hits) * chance(hits)).sum()
        };
        assert!(tail(2.0) < 0.01 && tail(3.0) > 0.05, "the premise: {} {}", tail(2.0), tail(3.0));
        let sample: Vec<f64> = (1..=11).map(f64::from).collect();
        for seed in 0..5 {
            let estimate = bootstrap_median(&sample, seed);
            assert_eq!(estimate, Some(Estimate { median: 6.0, low: 3.0, high: 9.0 }), "seed {seed}");
        }
    }

    fn choose(from: i32, take: i32) -> f64 {
        (0..take).map(|i| f64::from(from - i) / f64::from(i + 1)).product()
    }

    #[test]
    fn the_same_seed_gives_the_same_interval() {
        let sample: Vec<f64> = (0..14).map(|i| f64::from(i * i % 11)).collect();
        assert_eq!(bootstrap_median(&sample, 4), bootstrap_median(&sample, 4));
    }

    #[test]
    fn pairing_removes_what_both_share() {
        let floor = [10.0, 20.0, 40.0, 80.0];
        let system: Vec<f64> = floor.iter().map(|p50| p50 * 1.5).collect();
        assert_eq!(paired_ratios(&system, &floor), vec![1.5; 4]);
    }

    #[test]
    fn shuffling_keeps_all_and_moves_some() {
        let mut random = SplitMix64::new(3);
        let mut seen_first = [false; 4];
        for _ in 0..100 {
            let mut order = [0, 1, 2, 3];
            random.shuffle(&mut order);
            seen_first[order[0]] = true;
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2, 3]);
        }
        assert_eq!(seen_first, [true; 4]);
    }
}
