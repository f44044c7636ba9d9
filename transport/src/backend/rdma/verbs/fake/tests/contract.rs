//! The contract of all, with things happening in turn and in orders of many seeds.

use super::super::super::contract::{Ends, contract};
use super::super::{FakeNetwork, FakeVerbs};
use super::ends;

fn networks() -> impl Iterator<Item = Ends<FakeVerbs>> {
    let seeded = (0..50).map(|seed| {
        eprintln!("seed {seed}");
        FakeNetwork::seeded(seed)
    });
    std::iter::once(FakeNetwork::in_turn()).chain(seeded).map(|network| ends(&network))
}

contract!(networks());
