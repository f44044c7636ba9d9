//! Numbers from a seed (SplitMix64).

pub(super) struct Random {
    state: Option<u64>,
    turn: usize,
}

impl Random {
    /// Without a seed, choices go in turn.
    pub(super) fn new(seed: Option<u64>) -> Self {
        Self { state: seed, turn: 0 }
    }

    /// One of so many.
    pub(super) fn choose(&mut self, count: usize) -> usize {
        match self.number() {
            Some(number) => (number % count as u64) as usize,
            None => {
                self.turn = self.turn.wrapping_add(1);
                self.turn % count
            }
        }
    }

    /// True one time in so many; never without a seed.
    pub(super) fn one_in(&mut self, count: u64) -> bool {
        count > 0 && self.number().is_some_and(|number| number % count == 0)
    }

    fn number(&mut self) -> Option<u64> {
        let state = self.state.as_mut()?;
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Some(mixed ^ (mixed >> 31))
    }
}
