//! Orders from other threads, and how a broker stops.
//!
//! A broker that is told to stop asks its peers to leave, listens no more, refuses links and grants no credit. Then it waits, at most
//! `drain_timeout_ms`, until its queues are empty as far as somebody consumes from them, until what it delivered is settled where that is done, until the requests that it
//! delivered are answered (as far as their service has not ended its consuming links), and until nobody is owed a reply that is held. Then it closes all connections, each after
//! what waits to be sent on it, and ends its driver's loop. A second order stops it at once.

use super::{Broker, stats};
use std::sync::{Arc, mpsc};
use underlay::Wakeup;
use underlay::driver::Core;
use underlay::proto::control::CloseCode;
use underlay::time::Timestamp;

/// Stops a broker, or asks it for its figures, from another thread. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Control {
    commands: mpsc::Sender<Command>,
    wakeup: Arc<Wakeup>,
}

#[derive(Debug)]
pub(super) enum Command {
    ShutDown,
    Report(mpsc::Sender<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    /// Waits for what is under way, until then.
    Draining {
        until: Timestamp,
    },
    /// Waits for its connections to end, until then.
    Closing {
        until: Timestamp,
    },
    Stopped,
}

impl Control {
    pub(super) fn new(commands: mpsc::Sender<Command>, wakeup: Arc<Wakeup>) -> Self {
        Self { commands, wakeup }
    }

    /// Starts an orderly shutdown; the second call ends it at once.
    pub fn shut_down(&self) {
        self.order(Command::ShutDown);
    }

    /// All figures, one a line. Waits for the broker's thread, which answers within a turn; `None` if it has ended.
    pub fn report(&self) -> Option<String> {
        let (answer, answered) = mpsc::channel();
        self.order(Command::Report(answer));
        answered.recv().ok()
    }

    fn order(&self, command: Command) {
        // A broker that is gone needs no orders.
        if self.commands.send(command).is_ok() {
            self.wakeup.wake();
        }
    }
}

impl Broker {
    pub(super) fn is_stopping(&self) -> bool {
        self.phase != Phase::Running
    }

    pub(super) fn take_commands(&mut self, core: &mut Core) -> bool {
        let mut found = false;
        while let Ok(command) = self.commands.1.try_recv() {
            found = true;
            match command {
                Command::ShutDown => self.shut_down(core),
                // Whoever asked may have given up.
                Command::Report(answer) => drop(answer.send(stats::report(&core.stats(), &self.stats()))),
            }
        }
        found
    }

    /// Starts to stop; the second time, stops.
    pub fn shut_down(&mut self, core: &mut Core) {
        match self.phase {
            Phase::Running => {
                tracing::info!(drain_timeout = ?self.rules.drain_timeout, "shutting down");
                core.ask_all_to_leave(self.rules.drain_timeout, "the broker is shutting down");
                for (address, listener) in self.listeners.drain(..) {
                    core.stop_listening(&address, listener);
                }
                let until = core.now() + self.rules.drain_timeout;
                self.phase = Phase::Draining { until };
                core.set_timer(self.shutdown_timer(), until);
                self.advance_shutdown(core);
            }
            Phase::Draining { .. } | Phase::Closing { .. } | Phase::Stopped => {
                tracing::info!("told again to shut down: stopping at once");
                self.stop(core);
            }
        }
    }

    /// Goes on to the next step of stopping when the present one is done or has taken too long; true if it did.
    pub(super) fn advance_shutdown(&mut self, core: &mut Core) -> bool {
        let now = core.now();
        match self.phase {
            Phase::Running | Phase::Stopped => false,
            Phase::Draining { until } if now < until && self.has_work() => false,
            Phase::Draining { until } => {
                let waiting: usize = self.queues.iter().map(|queue| queue.entries.len()).sum();
                let unsettled: u64 = self.queues.iter().map(|queue| queue.unsettled).sum();
                if waiting > 0 || unsettled > 0 {
                    tracing::warn!(
                        waiting,
                        unsettled,
                        "messages are lost: nobody took, or settled, them in time"
                    );
                }
                core.close_all(CloseCode::ShuttingDown, "the broker is shutting down");
                let until = until.max(now) + self.rules.close_timeout;
                self.phase = Phase::Closing { until };
                core.set_timer(self.shutdown_timer(), until);
                true
            }
            Phase::Closing { until } => {
                let is_over = core.connections() == 0 || now >= until;
                if is_over {
                    self.stop(core);
                }
                is_over
            }
        }
    }

    fn stop(&mut self, core: &mut Core) {
        self.phase = Phase::Stopped;
        core.stop();
    }

    fn has_work(&self) -> bool {
        let consumed =
            |queue: &super::Queue| queue.consumers > 0 && (!queue.entries.is_empty() || queue.unsettled > 0);
        self.queues.iter().any(consumed) || self.addresses.any_held() || self.peers.any_reply_awaited()
    }
}
