//! Real processes under load, and what becomes of their messages when processes die, stop, or lose their connections.
//!
//! Brokers are the real binary; services, clients and producers are this test binary, started again as a [`part`] of a
//! play. Each part writes what it did to a log of its own, line by line, so that a `kill -9` loses nothing of it. A
//! [`ledger`] adds the logs up: what was sent against what its sender knows, and against what services handled. It is
//! printed, whether the test passes or not (`--no-capture` shows it).
//!
//! The load of all tests together is 100,000 messages. Faults strike when so many outcomes are known, not after a time,
//! so they strike under load on any machine.

mod away;
mod body;
mod cast;
mod cuts;
mod deaths;
mod ledger;
mod one_way;
mod part;
#[path = "../support/process.rs"]
mod process;
mod producer;
mod proxy;
mod stops;
#[path = "../support/mod.rs"]
mod support;

/// Not a test: what a process does that another test has started. Without a part to play there is nothing to do.
#[test]
fn part_of_another_test() {
    if let Some(part) = part::Part::given() {
        part.play();
    }
}
