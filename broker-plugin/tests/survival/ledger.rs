//! The books: what clients sent and know, against what services handled.

use crate::body::{self, Request};
use crate::part::{Calls, Outcome};
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// Each request of a play, from its client's log and the services'. It does not count on either to be right.
pub(crate) struct Ledger {
    name: &'static str,
    calls: Calls,
    sent: u64,
    outcomes: HashMap<Request, Outcome>,
    /// By request, in the order of each service.
    handled: HashMap<Request, Vec<Handled>>,
    /// How often which events came.
    events: BTreeMap<&'static str, u64>,
    /// Requests of a client that a service handled after a later one of the same client.
    out_of_order: u64,
    /// Why requests were not sent, or are in doubt.
    reasons: BTreeMap<String, u64>,
}

/// That a service has handled a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Handled {
    pub(crate) service: u32,
    /// It was marked as perhaps handled before.
    pub(crate) is_redelivered: bool,
    /// It was marked as one of several copies.
    pub(crate) has_copies: bool,
}

impl Ledger {
    pub(crate) fn new(name: &'static str, calls: Calls) -> Self {
        Self {
            name,
            calls,
            sent: 0,
            outcomes: HashMap::new(),
            handled: HashMap::new(),
            events: BTreeMap::new(),
            out_of_order: 0,
            reasons: BTreeMap::new(),
        }
    }

    /// Adds what a client says of the requests that it was told to send.
    pub(crate) fn add_client(&mut self, client: u32, told: u32, log: &str) {
        self.sent += u64::from(told);
        for line in log.lines() {
            let mut words = line.splitn(3, ' ');
            let word = words.next().unwrap_or_default();
            let Some(outcome) = Outcome::parse(word) else {
                self.count_event(line);
                continue;
            };
            let number = words.next().and_then(|word| word.parse().ok()).expect("it says which");
            assert!((1..=told).contains(&number), "client {client} was not told to send {number}");
            let before = self.outcomes.insert((client, number), outcome);
            assert_eq!(before, None, "request {number} of client {client} ended twice");
            if matches!(outcome, Outcome::NotSent | Outcome::Unknown) {
                let reason = format!("{word}: {}", words.next().unwrap_or_default());
                *self.reasons.entry(reason).or_default() += 1;
            }
        }
    }

    /// Adds what a service says that it has handled.
    pub(crate) fn add_service(&mut self, service: u32, log: &str) {
        let mut last: HashMap<u32, u32> = HashMap::new();
        for line in log.lines() {
            let Some(handled) = line.strip_prefix("handled ") else {
                self.count_event(line);
                continue;
            };
            let numbers: Vec<u32> = handled.split(' ').map(|word| word.parse().unwrap()).collect();
            let &[client, number, redelivered, copies] = numbers.as_slice() else { panic!("{line}") };
            let last = last.entry(client).or_default();
            self.out_of_order += u64::from(number < *last);
            *last = (*last).max(number);
            let handled = Handled { service, is_redelivered: redelivered == 1, has_copies: copies == 1 };
            self.handled.entry((client, number)).or_default().push(handled);
        }
    }

    fn count_event(&mut self, line: &str) {
        const KINDS: [(&str, &str); 6] = [
            ("interrupted", ": interrupted: "),
            ("resumed", ": resumed over "),
            ("lost", ": lost: "),
            ("failed over", ": calls go here now instead of "),
            ("returned", ": calls go here again instead of "),
            ("races won", ": answered a gold call first"),
        ];
        for (kind, text) in KINDS {
            if line.starts_with("event ") && line.contains(text) {
                *self.events.entry(kind).or_default() += 1;
            }
        }
    }

    pub(crate) fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes.values().filter(|&&it| it == outcome).count() as u64
    }

    pub(crate) fn events(&self, kind: &str) -> u64 {
        self.events.get(kind).copied().unwrap_or_default()
    }

    pub(crate) fn out_of_order(&self) -> u64 {
        self.out_of_order
    }

    /// Requests that were handled so often, by how often.
    fn times(&self) -> BTreeMap<usize, u64> {
        let mut times = BTreeMap::new();
        for handled in self.handled.values() {
            *times.entry(handled.len()).or_default() += 1;
        }
        times
    }

    /// Those that were handled more than once.
    pub(crate) fn repeated(&self) -> impl Iterator<Item = (Request, &[Handled])> {
        self.handled
            .iter()
            .filter(|(_, handled)| handled.len() > 1)
            .map(|(request, handled)| (*request, &handled[..]))
    }

    /// Those whose outcome nobody knows, and who has handled them.
    pub(crate) fn in_doubt(&self) -> impl Iterator<Item = (Request, &[Handled])> {
        let unknown = self.outcomes.iter().filter(|(_, outcome)| **outcome == Outcome::Unknown);
        unknown.map(|(request, _)| (*request, self.handled.get(request).map_or(&[][..], Vec::as_slice)))
    }

    /// What holds whatever has happened: it adds up, and nothing was made up.
    pub(crate) fn adds_up(&self) {
        let ended: u64 = OUTCOMES.iter().map(|&(outcome, _)| self.count(outcome)).sum();
        assert_eq!(self.sent, ended, "each request has ended once");
        for (&request, &outcome) in &self.outcomes {
            let times = self.handled.get(&request).map_or(0, Vec::len);
            match outcome {
                Outcome::Answered | Outcome::Failed => {
                    assert!(times > 0, "{request:?} was answered, and handled by nobody");
                    assert_eq!(outcome == Outcome::Failed, body::fails(request), "{request:?}");
                }
                Outcome::NotSent => assert_eq!(times, 0, "{request:?} was handled, and not sent"),
                Outcome::Unknown => {
                    assert!(!self.calls.is_idempotent(request.1), "{request:?} could have been sent again");
                }
            }
        }
        for (request, handled) in &self.handled {
            assert!(self.outcomes.contains_key(request), "{request:?} was handled, and nobody sent it");
            for (place, it) in handled.iter().enumerate() {
                let is_twice = handled[..place].iter().any(|before| before.service == it.service);
                assert!(!is_twice, "{request:?} was handled twice by service {}: {handled:?}", it.service);
            }
        }
    }

    /// Nothing was handled twice, and everything has an answer.
    pub(crate) fn is_as_if_nothing_had_happened(&self) {
        self.adds_up();
        let (unknown, not_sent) = (self.count(Outcome::Unknown), self.count(Outcome::NotSent));
        assert_eq!((unknown, not_sent), (0, 0), "in doubt, and not sent");
        assert_eq!(self.repeated().count(), 0, "handled twice");
    }
}

const OUTCOMES: [(Outcome, &str); 4] = [
    (Outcome::Answered, "answered"),
    (Outcome::Failed, "failed by the service"),
    (Outcome::NotSent, "not sent"),
    (Outcome::Unknown, "outcome unknown"),
];

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum: Vec<String> =
            OUTCOMES.iter().map(|&(outcome, name)| format!("{name} {}", self.count(outcome))).collect();
        writeln!(f, "ledger of {}", self.name)?;
        writeln!(f, "  sent          {} = {}", self.sent, sum.join(" + "))?;
        let times: Vec<String> =
            self.times().iter().map(|(times, count)| format!("{count} x {times}")).collect();
        writeln!(f, "  handled       {} requests: {}", self.handled.len(), times.join(" + "))?;
        let unknown = self.outcomes.iter().filter(|(_, outcome)| **outcome == Outcome::Unknown);
        let (handled, not): (Vec<_>, Vec<_>) =
            unknown.partition(|(request, _)| self.handled.contains_key(*request));
        writeln!(
            f,
            "  in doubt      {} = handled {} + not handled {}",
            handled.len() + not.len(),
            handled.len(),
            not.len()
        )?;
        let all = || self.handled.values().flatten();
        let redelivered = all().filter(|it| it.is_redelivered).count();
        let copies = all().filter(|it| it.has_copies).count();
        writeln!(f, "  marked        {redelivered} redelivered, {copies} with copies")?;
        if self.calls == Calls::Once {
            writeln!(f, "  out of order  {}", self.out_of_order)?;
        }
        let events: Vec<String> = self.events.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        writeln!(f, "  sessions      {}", events.join(", "))?;
        for (reason, count) in &self.reasons {
            writeln!(f, "  {count:>6} x {reason}")?;
        }
        Ok(())
    }
}
