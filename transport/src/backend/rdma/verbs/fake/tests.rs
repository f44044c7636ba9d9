//! That the fake does what devices do, and does wrong what it is told to.
//!
//! `contract` is what whoever implements the seam must do; `queues`, `windows` and `connecting` are where the fake is
//! stricter or surer than any one device; `faults` shows that each fault happens, once, where it was meant to. Nothing
//! here knows of the wire above the seam.

mod connecting;
mod contract;
mod faults;
mod queues;
mod windows;

use super::super::contract::{ACCEPTING, CONNECTING, Ends, Link, World, request, send};
use super::super::*;
use super::{FakeNetwork, FakeVerbs};
use std::net::IpAddr;

const ADDRESSES: [&str; 2] = ["10.0.0.1", "10.0.0.2"];

fn ends(network: &FakeNetwork) -> Ends<FakeVerbs> {
    let passing = network.clone();
    Ends {
        verbs: ADDRESSES.map(|address| network.end(&[address])),
        addresses: ADDRESSES.map(|address| address.parse::<IpAddr>().unwrap()),
        pass: Box::new(move || passing.step()),
    }
}

/// Two ends with a connection, nothing of which is on its way.
fn connected() -> (FakeNetwork, World<FakeVerbs>, Link) {
    connected_with([super::super::contract::PARAMETERS; 2])
}

fn connected_with(parameters: [ConnectParameters; 2]) -> (FakeNetwork, World<FakeVerbs>, Link) {
    let network = FakeNetwork::in_turn();
    let (world, link) = World::connected_with(ends(&network), parameters);
    assert_eq!(network.run_until_quiet(), 0);
    network.assert_clean();
    (network, world, link)
}

/// Everything that is there.
fn taken(world: &mut World<FakeVerbs>, side: usize) -> Vec<Completion> {
    let mut into = [Completion::NONE; 64];
    let count = world.verbs[side].take_completions(world.devices[side], &mut into).unwrap();
    into[..count].to_vec()
}

/// The number of each, and how it went.
fn outcomes(world: &mut World<FakeVerbs>, side: usize) -> Vec<(u64, Status)> {
    taken(world, side).iter().map(|completion| (completion.work, completion.status)).collect()
}

fn error_of(posted: &Posted) -> Option<i32> {
    posted.error.as_ref().and_then(io::Error::raw_os_error)
}

fn flush(work: u64, is_signaled: bool) -> Request<'static> {
    Request { is_signaled, ..request(work, Operation::Flush, &[]) }
}
