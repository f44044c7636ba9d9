//! Which races were decided while the other answer was still to come.

use crate::sync::Correlation;

/// As many as are remembered at a time.
const RACES: usize = 1024;

/// A table of fixed size, each race at one place: a later one at the same place takes it over, and the late answer to
/// the earlier one then counts as any other late reply does. It is allocated with the first race.
#[derive(Debug, Default)]
pub(super) struct Races {
    places: Vec<Option<Correlation>>,
}

impl Races {
    /// A race is decided.
    pub(super) fn insert(&mut self, correlation: Correlation) {
        self.places.resize(RACES, None);
        self.places[place(correlation)] = Some(correlation);
    }

    /// Whether a reply is the other answer of a race, which there is one of.
    pub(super) fn take(&mut self, correlation: Correlation) -> bool {
        let found = self.places.get_mut(place(correlation));
        found.is_some_and(|found| found.take_if(|its| *its == correlation).is_some())
    }
}

/// By a multiplicative hash (Knuth), since slots and generations are small numbers.
fn place(correlation: Correlation) -> usize {
    (correlation.pack().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - RACES.ilog2())) as usize
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_race_is_found_once_and_many_find_a_place() {
        let mut races = Races::default();
        let call = |number: u64| Correlation::unpack((number % 7) << 32 | number);
        assert!(!races.take(call(1)));
        (0..100).for_each(|number| races.insert(call(number)));
        let found = (0..100).filter(|&number| races.take(call(number))).count();
        assert!(found > 90, "{found} of 100 were still known");
        assert!(!(0..100).any(|number| races.take(call(number))));
    }
}
