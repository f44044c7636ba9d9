//! A smoke of fuzzing: the vectors, changed in all the ways that break parsers, for a bounded number
//! of rounds from a printed seed.
//!
//! `UNDERLAY_FUZZ_ITERATIONS` sets the rounds, `UNDERLAY_FUZZ_SEED` where they start: a failure names
//! the seed that repeats it in one round.

#[path = "proto/support.rs"]
#[allow(dead_code)]
mod support;
#[path = "proto/vector_file.rs"]
#[allow(dead_code)]
mod vector_file;

use std::collections::HashSet;
use std::mem::discriminant;
use std::panic::{AssertUnwindSafe, catch_unwind};

use underlay::proto::handshake::{AwaitClientHello, AwaitServerHello, LocalEnd, RefusalReason};
use underlay::proto::hello::{ClientHello, Refusal, ServerHello, SessionTerms};
use underlay::proto::{Limits, PeerMisbehaved};

/// `splitmix64`: enough to choose changes by, and the whole state is the seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Numbers at which lengths and counters go wrong.
const EDGES: [u64; 14] =
    [0, 1, 7, 8, 31, 32, 63, 64, 65, 4096, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, u64::MAX];

/// Changes `bytes` in one way.
fn change(bytes: &mut Vec<u8>, vectors: &[Vec<u8>], random: &mut Random) {
    if bytes.is_empty() {
        bytes.push(random.next() as u8);
    }
    let at = random.below(bytes.len());
    match random.below(8) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next() as u8,
        2 | 3 => {
            let value = EDGES[random.below(EDGES.len())].to_le_bytes();
            let width = [1, 2, 4, 8][random.below(4)];
            let aligned = at - at % width;
            for (byte, value) in bytes[aligned..].iter_mut().zip(&value[..width]) {
                *byte = *value;
            }
        }
        4 => bytes.truncate(at),
        5 => bytes.resize(bytes.len() + random.below(130), 0),
        6 => {
            // A piece of another vector, at a multiple of 8 as records and extensions are.
            let other = &vectors[random.below(vectors.len())];
            let from = random.below(other.len()) & !7;
            let piece = &other[from..(from + 8 * (1 + random.below(16))).min(other.len())];
            let at = at & !7;
            for (byte, value) in bytes[at..].iter_mut().zip(piece) {
                *byte = *value;
            }
        }
        _ => {
            let by = bytes[at].wrapping_add(if random.below(2) == 0 { 8 } else { 0xf8 });
            bytes[at] = by;
        }
    }
}

/// What a round came to.
#[derive(Default)]
struct Outcome {
    accepted: bool,
    violations: Vec<PeerMisbehaved>,
}

impl Outcome {
    /// Notes what a parser said; what it accepted must have this one encoding.
    fn note(&mut self, input: &[u8], parsed: Result<Vec<u8>, PeerMisbehaved>) {
        match parsed {
            Ok(encoded) => {
                assert!(encoded == input, "it was accepted and encodes differently: {encoded:02x?}");
                self.accepted = true;
            }
            Err(violation) => {
                assert!(!violation.to_string().is_empty());
                self.violations.push(violation);
            }
        }
    }
}

fn local() -> LocalEnd {
    let hello = ClientHello::parse(&vector_file::bytes("client-hello")).expect("right");
    LocalEnd {
        capabilities: hello.body.capabilities,
        process: hello.body.process,
        parameters: hello.body.parameters,
        securities: vec![],
        wires: vec![],
        name: None,
    }
}

/// Gives the bytes to all parsers and to both ends of a handshake.
fn feed(bytes: &[u8], limits: &Limits, local: &LocalEnd) -> Outcome {
    let mut outcome = Outcome::default();
    outcome.note(bytes, support::rewrite(bytes, limits));
    outcome.note(bytes, ClientHello::parse(bytes).map(|hello| hello.encode()));
    outcome.note(bytes, ServerHello::parse(bytes).map(|hello| hello.encode()));
    outcome.note(bytes, Refusal::parse(bytes).map(|refusal| refusal.encode()));
    let server = AwaitClientHello::new(local.clone()).expect("possible");
    match server.handle(bytes) {
        Ok(proposal) => {
            let (_, answer) = proposal.accept(SessionTerms::default());
            ServerHello::parse(&answer).expect("what a server accepts it answers rightly");
        }
        Err(refused) if !refused.reply.is_empty() => {
            let told = Refusal::parse(&refused.reply).expect("what a server refuses it refuses rightly");
            assert_eq!(told.code, refused.reason.code());
        }
        Err(refused) => assert!(matches!(refused.reason, RefusalReason::Misbehaved(_))),
    }
    let (client, _) = AwaitServerHello::start(local.clone(), SessionTerms::default()).expect("possible");
    let _ = client.handle(bytes);
    outcome
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable}={text} is no number: {error}")))
}

#[test]
fn changed_vectors_are_refused_or_read_for_what_they_say() {
    let default = if cfg!(debug_assertions) { 20_000 } else { 400_000 };
    let rounds = number_from("UNDERLAY_FUZZ_ITERATIONS").unwrap_or(default);
    let first_seed = number_from("UNDERLAY_FUZZ_SEED").unwrap_or(0);
    let vectors: Vec<_> = vector_file::names().iter().map(|name| vector_file::bytes(name)).collect();
    let (limits, local) = (support::limits(), local());
    let mut accepted = 0_u64;
    let mut kinds = HashSet::new();
    for seed in first_seed..first_seed.saturating_add(rounds) {
        let mut random = Random(seed);
        let mut bytes = vectors[random.below(vectors.len())].clone();
        for _ in 0..=random.below(3) {
            change(&mut bytes, &vectors, &mut random);
        }
        match catch_unwind(AssertUnwindSafe(|| feed(&bytes, &limits, &local))) {
            Ok(outcome) => {
                accepted += u64::from(outcome.accepted);
                kinds.extend(outcome.violations.iter().map(discriminant));
            }
            Err(_) => {
                panic!("UNDERLAY_FUZZ_SEED={seed} UNDERLAY_FUZZ_ITERATIONS=1 repeats this with {bytes:02x?}")
            }
        }
    }
    println!(
        "{rounds} rounds from seed {first_seed}: {accepted} accepted, {} kinds of violation",
        kinds.len()
    );
    // Rounds that reach nothing prove nothing.
    if rounds >= 10_000 {
        assert!(accepted > rounds / 100, "only {accepted} of {rounds} were accepted");
        assert!(kinds.len() >= 35, "only {} kinds of violation were reached", kinds.len());
    }
}
