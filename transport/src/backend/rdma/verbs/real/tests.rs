//! The contract of the seam over the devices of this machine, between two addresses that have one each:
//! `UNDERLAY_RDMA_ADDRESSES=10.77.0.1,10.77.0.2`. Without, nothing is tested, and that is said.

use super::super::contract::{Ends, contract};
use super::RealVerbs;
use std::env;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

const ADDRESSES: &str = "UNDERLAY_RDMA_ADDRESSES";

/// How long one look waits for the next.
const TURN: Duration = Duration::from_micros(200);

fn ends() -> Option<Ends<RealVerbs>> {
    let Ok(given) = env::var(ADDRESSES) else {
        eprintln!("skipped: {ADDRESSES} does not name two addresses of RDMA devices, 'address,address'");
        return None;
    };
    let mut addresses = given.split(',').map(|address| address.trim().parse::<IpAddr>().unwrap());
    let mut address = || addresses.next().expect("two addresses");
    Some(Ends {
        verbs: [RealVerbs::open().unwrap(), RealVerbs::open().unwrap()],
        addresses: [address(), address()],
        pass: Box::new(|| {
            thread::sleep(TURN);
            true
        }),
    })
}

contract!(ends().into_iter());
