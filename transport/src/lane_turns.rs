//! In which order the lanes have their turns when a frame is packed: urgent before normal before bulk.
//!
//! That is a promise about time and about nothing else. Between lanes there is no order, so whatever is right only as long
//! as urgent messages come first is wrong. To see whether anything is, a simulation has the order drawn anew for each frame
//! ([`during`]), and how many messages each lane may add to it. Order within a lane stays, and so does what keeps control
//! records and messages apart, which is planned before any lane and by positions in all of them.
//!
//! Without the feature `simulation` the order is a constant, and nothing of it is compiled.

use crate::proto::{LANES, Lane};

/// The turns of the lanes in one frame.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Turns {
    #[cfg(feature = "simulation")]
    drawn: Option<drawn::Turns>,
}

#[cfg(not(feature = "simulation"))]
impl Turns {
    /// Whether the lanes have their turns as always.
    #[inline(always)]
    pub(crate) const fn are_constant() -> bool {
        true
    }

    /// As always.
    #[inline(always)]
    pub(crate) fn of_next_frame(_: impl FnOnce() -> bool) -> Self {
        Self {}
    }

    /// Who comes first.
    #[inline(always)]
    pub(crate) const fn lanes(self) -> [Lane; LANES] {
        Lane::ALL
    }

    /// The most messages of a lane.
    #[inline(always)]
    pub(crate) const fn messages_max(self, _: Lane) -> u64 {
        u64::MAX
    }

    /// So many messages of each lane share the frame.
    #[inline(always)]
    pub(crate) const fn taken(self, _: &[usize; LANES]) {}
}

#[cfg(feature = "simulation")]
pub use drawn::during;

#[cfg(feature = "simulation")]
mod drawn {
    use super::{LANES, Lane};
    use std::cell::Cell;

    /// What was drawn for a frame.
    #[derive(Debug, Clone, Copy)]
    pub(super) struct Turns {
        lanes: [Lane; LANES],
        messages_max: u64,
    }

    /// What the next draw follows from, and how many frames had their lanes in another order than always.
    #[derive(Debug, Clone, Copy)]
    struct Drawing {
        state: u64,
        frames: u64,
    }

    thread_local! {
        static DRAWING: Cell<Option<Drawing>> = const { Cell::new(None) };
    }

    /// Does this while the lanes have their turns on this thread as a seed will have it, or as always without one. Says in
    /// how many frames messages went before others that would always have gone before them.
    pub fn during<T>(seed: Option<u64>, act: impl FnOnce() -> T) -> (T, u64) {
        DRAWING.set(seed.map(|state| Drawing { state, frames: 0 }));
        let done = act();
        (done, DRAWING.take().map_or(0, |drawing| drawing.frames))
    }

    impl Drawing {
        /// A number below `end`, which is small. The generator is Knuth's (MMIX); its low bits are bad, and not used.
        fn below(&mut self, end: u64) -> usize {
            self.state =
                self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.state >> 33) % end) as usize
        }
    }

    impl super::Turns {
        /// Whether the lanes have their turns as always: not while they are drawn.
        #[inline]
        pub(crate) fn are_constant() -> bool {
            DRAWING.get().is_none()
        }

        /// Those of the next frame. If `must_be_whole`, whoever has queued something relies on it that all that waits leaves
        /// in one frame, so no lane leaves any of it to the next.
        pub(crate) fn of_next_frame(must_be_whole: impl FnOnce() -> bool) -> Self {
            let Some(mut drawing) = DRAWING.get() else { return Self::default() };
            let mut lanes = Lane::ALL;
            for place in (1..LANES).rev() {
                lanes.swap(place, drawing.below(place as u64 + 1));
            }
            let messages_max = [1, 2, u64::MAX, u64::MAX][drawing.below(4)];
            DRAWING.set(Some(drawing));
            let messages_max = if must_be_whole() { u64::MAX } else { messages_max };
            Self { drawn: Some(Turns { lanes, messages_max }) }
        }

        /// Who comes first.
        #[inline]
        pub(crate) fn lanes(self) -> [Lane; LANES] {
            self.drawn.map_or(Lane::ALL, |drawn| drawn.lanes)
        }

        /// The most messages of a lane. Never none: what could leave leaves.
        #[inline]
        pub(crate) fn messages_max(self, _: Lane) -> u64 {
            self.drawn.map_or(u64::MAX, |drawn| drawn.messages_max)
        }

        /// So many messages of each lane share the frame.
        pub(crate) fn taken(self, shared: &[usize; LANES]) {
            let Some(mut drawing) = DRAWING.get() else { return };
            let taken = self.lanes().into_iter().filter(|lane| shared[lane.index()] > 0);
            if !taken.is_sorted_by_key(|lane| lane.index()) {
                drawing.frames += 1;
                DRAWING.set(Some(drawing));
            }
        }
    }
}
