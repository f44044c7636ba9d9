//! A progress bar on a terminal, nothing elsewhere.
//!
//! It is drawn between turns and by no thread of its own: nothing of it runs while something is
//! measured.

use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::placement::Placement;
use crate::plan::Plan;
use crate::subject::Description;

/// Progress of one placement's run.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Starts a bar for all turns of a placement; hidden unless standard error is a terminal.
    pub(crate) fn new(plan: &Plan, placement: Placement, systems: usize) -> Self {
        let turns = plan.sizes.len() as u64 * u64::from(plan.rounds) * systems as u64;
        let target =
            if stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(turns), target);
        if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:40}] {pos}/{len}, {eta} left  {msg}")
        {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(placement.name());
        Self { bar }
    }

    /// A turn is over.
    pub(crate) fn advance(&mut self, size: usize, description: &Description) {
        if !self.bar.is_hidden() {
            self.bar.set_message(format!("{size} B, {}", description.name()));
            self.bar.inc(1);
        }
    }

    /// All turns are over; the bar goes away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
