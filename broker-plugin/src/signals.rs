//! Signals, taken by a thread that waits for them.
//!
//! They are blocked everywhere, so that no handler runs in the middle of anything and no system call of the driver is
//! interrupted; `sigwait(3)` takes them one by one, as ordinary work of an ordinary thread.

use nix::sys::signal::{SigSet, Signal};
use underlay_broker::Control;

/// Keeps the signals that are obeyed from this thread, and from all that it starts.
pub(crate) fn block() -> nix::Result<()> {
    obeyed().thread_block()
}

/// Waits for signals and does what they say, for ever.
pub(crate) fn obey(control: &Control) {
    let signals = obeyed();
    loop {
        match signals.wait() {
            Ok(Signal::SIGUSR1) => {
                if let Some(report) = control.report() {
                    eprint!("{report}");
                }
            }
            Ok(signal) => {
                tracing::info!(%signal, "told to stop");
                control.shut_down();
            }
            // The set is valid, so there is no other error than an interruption.
            Err(_) => {}
        }
    }
}

fn obeyed() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1].into_iter().collect()
}
