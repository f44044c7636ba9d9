//! The RDMA devices that tests use.

use std::env;
use std::net::IpAddr;

/// Two addresses with a comma, such as those of the machine that `ci/soft-roce` boots: `10.77.0.1,10.77.0.2`.
const VARIABLE: &str = "UNDERLAY_RDMA_ADDRESSES";

/// The addresses of two devices, as the environment names them, or why there are none.
pub(crate) fn of_devices() -> Result<[IpAddr; 2], String> {
    let list = env::var(VARIABLE).unwrap_or_default();
    let addresses: Result<Vec<IpAddr>, _> = list.split(',').map(|text| text.trim().parse()).collect();
    addresses
        .ok()
        .and_then(|addresses| addresses.try_into().ok())
        .ok_or_else(|| format!("{VARIABLE} does not name two addresses of RDMA devices (it is '{list}')"))
}
