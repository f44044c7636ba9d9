//! What a wire under test has to bring along, and what becomes of one that the machine lacks.

use crate::bench::{Bench, GENEROUS, Patience, Site};
use std::collections::HashSet;
use std::io::Write;
use std::sync::Mutex;
use underlay::backend::{WaitPoint, Wire};
use underlay::pool::{Pool, PoolConfig};

/// A wire together with the place where its driver sleeps.
pub(crate) trait WireUnderTest: Wire + WaitPoint {
    /// Before the last poll in front of a sleep; needed by wires that are woken by other threads.
    fn about_to_sleep(&mut self) {}

    /// After the sleep.
    fn awake(&mut self) {}
}

/// A kind of wire, as a few lines in `subjects/`. A value of it is what the three ends of one bench share.
pub(crate) trait Subject {
    type Wire: WireUnderTest;

    /// As in `UNDERLAY_REQUIRE_WIRES`.
    const NAME: &'static str;

    /// True where the receiver gets the very segments that were sent.
    const PASSES_REFERENCES: bool;

    /// Addresses that cannot be meant.
    const BAD_ADDRESSES: &'static [&'static str];

    fn new() -> Self;

    /// Opens one end.
    ///
    /// # Errors
    /// Why this machine has no such wire.
    fn open(&self, pool: &mut Pool) -> Result<Self::Wire, String>;

    /// Where the right end and the third one can listen.
    fn addresses(&self) -> [String; 2];

    /// An address of the right form at which nobody listens.
    fn nobody(&self) -> String;

    /// Pools that are small beside what the cases send: 8 MiB.
    fn pool(&self) -> PoolConfig {
        PoolConfig { bytes_max: 8 << 20, slab_bytes: 64 << 10, huge_pages: false }
    }
}

/// Three ends of `S`, each wrapped by `wrap`.
pub(crate) fn open<S: Subject, W: WireUnderTest>(
    wrap: impl Fn(S::Wire) -> W,
    patience: Patience,
) -> Result<Bench<W>, String> {
    let subject = S::new();
    let end = || {
        let mut pool = Pool::new(subject.pool()).expect("the pool's configuration is a valid one");
        Ok::<_, String>((wrap(subject.open(&mut pool)?), pool))
    };
    let [right_address, third_address] = subject.addresses();
    let site = Site {
        right_address,
        third_address,
        nobody: subject.nobody(),
        bad_addresses: S::BAD_ADDRESSES,
        passes_references: S::PASSES_REFERENCES,
    };
    Ok(Bench::new([end()?, end()?, end()?], site, patience))
}

/// Runs a case, or says that it is skipped.
pub(crate) fn run<S: Subject>(case: fn(&mut Bench<S::Wire>)) {
    match open::<S, _>(|wire| wire, GENEROUS) {
        Ok(mut bench) => case(&mut bench),
        Err(reason) => skip(S::NAME, &reason),
    }
}

/// Reports a wire that is not there, once.
///
/// # Panics
/// If the wire is required.
pub(crate) fn skip(name: &'static str, reason: &str) {
    static REPORTED: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    let report = skipped(name, reason, &required()).unwrap_or_else(|failure| panic!("{failure}"));
    let mut reported = REPORTED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if reported.get_or_insert_default().insert(name) {
        // Not by `println!`, which the test harness keeps to itself when a test passes.
        let _ = writeln!(std::io::stderr(), "{report}");
    }
}

/// The report of a skipped wire, or the failure that it is.
fn skipped(name: &str, reason: &str, required: &[String]) -> Result<String, String> {
    if required.iter().any(|required| required == name) {
        return Err(format!("UNDERLAY_REQUIRE_WIRES names {name}, which this machine lacks: {reason}"));
    }
    Ok(format!("SKIPPED: every case for the wire {name}: {reason}"))
}

#[test]
fn a_missing_wire_is_skipped_by_name_unless_it_is_required() {
    let reason = "no such device";
    let report = skipped("rdma", reason, &["inproc".to_owned()]).unwrap();
    assert_eq!(report, "SKIPPED: every case for the wire rdma: no such device");
    let failure = skipped("rdma", reason, &["inproc".to_owned(), "rdma".to_owned()]).unwrap_err();
    assert!(failure.contains("names rdma") && failure.contains(reason));
}

/// Fails when a wire is required that this suite does not know, which would make the requirement hold for nothing.
pub(crate) fn check_required(known: &[&str]) {
    for name in required() {
        assert!(
            known.contains(&&*name),
            "UNDERLAY_REQUIRE_WIRES names '{name}'; this suite has {}",
            known.join(", ")
        );
    }
}

fn required() -> Vec<String> {
    let list = std::env::var("UNDERLAY_REQUIRE_WIRES").unwrap_or_default();
    list.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}
