//! The contract of the seam over the devices of this machine, between two addresses that have one each:
//! `UNDERLAY_RDMA_ADDRESSES=10.77.0.1,10.77.0.2`. Without, nothing is tested, and that is said; or it is a failure, where
//! `UNDERLAY_REQUIRE_WIRES` names `rdma`.

use super::super::contract::{Ends, contract};
use super::RealVerbs;
use std::env;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

const ADDRESSES: &str = "UNDERLAY_RDMA_ADDRESSES";
const REQUIRED: &str = "UNDERLAY_REQUIRE_WIRES";

/// How long one look waits for the next.
const TURN: Duration = Duration::from_micros(200);

fn ends() -> Option<Ends<RealVerbs>> {
    let Ok(given) = env::var(ADDRESSES) else {
        let missing = format!("{ADDRESSES} does not name two addresses of RDMA devices, 'address,address'");
        let required = env::var(REQUIRED).unwrap_or_default();
        assert!(!required.split(',').any(|wire| wire.trim() == "rdma"), "{REQUIRED}={required}, but {missing}");
        eprintln!("skipped: {missing}");
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
