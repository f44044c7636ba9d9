//! What both engines do when a listener cannot accept.

use std::io;

/// After so many polls without a reason to hope, a listener that failed tries again.
const POLLS_UNTIL_RETRY: u32 = 1024;

/// Whether a listener accepts, or waits because it could not.
///
/// There is no clock here: it tries again when a channel has closed, which frees a descriptor; after a sleep, which
/// the wire bounds meanwhile; or after a number of polls. One episode of failing is reported once.
#[derive(Debug, Default)]
pub(super) struct AcceptState {
    failing: bool,
    /// Polls to go; 0 if it does not wait.
    polls_left: u32,
}

/// What to do about an error of `accept`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AcceptTrouble {
    /// Only that one connection failed: go on.
    OneConnection,
    /// Wait, and report it.
    Report,
    /// Wait; it was reported before.
    Known,
}

impl AcceptState {
    /// A connection came in: the episode, if there was one, is over.
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Accepting failed.
    pub(super) fn failed(&mut self, error: &io::Error) -> AcceptTrouble {
        if concerns_one_connection(error) {
            // Within an episode nothing else would make it go on.
            self.polls_left = u32::from(self.failing);
            return AcceptTrouble::OneConnection;
        }
        self.polls_left = POLLS_UNTIL_RETRY;
        if std::mem::replace(&mut self.failing, true) { AcceptTrouble::Known } else { AcceptTrouble::Report }
    }

    /// Has it failed since it last succeeded?
    pub(super) fn is_failing(&self) -> bool {
        self.failing
    }

    /// Is it waiting to try again?
    pub(super) fn is_waiting(&self) -> bool {
        self.polls_left > 0
    }

    /// There is reason to hope: the next poll tries again.
    pub(super) fn hope(&mut self) {
        self.polls_left = self.polls_left.min(1);
    }

    /// Counts one poll; true if it is time to try again.
    pub(super) fn is_due(&mut self) -> bool {
        if self.polls_left == 0 {
            return false;
        }
        self.polls_left -= 1;
        self.polls_left == 0
    }
}

/// `accept(2)`: pending network errors of the new connection are passed on as errors of `accept`, and are to be
/// treated like there was nothing to accept.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EAGAIN
                | libc::EINTR
                | libc::ECONNABORTED
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
                | libc::EOPNOTSUPP
        )
    )
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_episode_is_reported_once_and_retried_now_and_then() {
        let no_descriptor = io::Error::from_raw_os_error(libc::EMFILE);
        let mut state = AcceptState::default();
        assert!(!state.is_due(), "nothing is wrong");
        assert_eq!(state.failed(&no_descriptor), AcceptTrouble::Report);
        assert_eq!((1..=POLLS_UNTIL_RETRY).find(|_| state.is_due()), Some(POLLS_UNTIL_RETRY));
        assert_eq!(state.failed(&no_descriptor), AcceptTrouble::Known);
        state.hope();
        assert!(state.is_due() && !state.is_due());
        state.succeeded();
        assert_eq!(state.failed(&no_descriptor), AcceptTrouble::Report, "a new episode");
    }

    #[test]
    fn a_connection_that_broke_before_it_was_accepted_is_no_trouble() {
        let mut state = AcceptState::default();
        let error = io::Error::from_raw_os_error(libc::ECONNABORTED);
        assert_eq!(state.failed(&error), AcceptTrouble::OneConnection);
        assert!(!state.is_waiting());
    }
}
