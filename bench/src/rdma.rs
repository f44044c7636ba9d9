//! Where the ends of a run over `rdma` are: at addresses of RDMA devices, which loopback has none of.
//!
//! They are given (`--rdma-addresses`) or found among the devices of this machine. A machine without any is told what
//! it lacks before anything is started.

use std::net::IpAddr;

use underlay::backend::rdma::{RdmaConfig, RdmaDevice, RdmaWire};

use crate::error::BenchError;
use crate::plan::Wire;

/// Addresses of the ends of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RdmaEnds {
    /// Where the broker listens, or the service without one.
    pub listening: IpAddr,
    /// From where the others connect; as the routing table says, if it is not given.
    pub connecting: Option<IpAddr>,
}

impl RdmaEnds {
    /// The ends at the addresses that were given, one or two, or at those of this machine's devices.
    ///
    /// # Errors
    /// The machine cannot use RDMA, or has no device with an address, and what to do.
    pub fn find(given: &[IpAddr]) -> Result<Self, BenchError> {
        let refuse = |reason: String, way_out| BenchError::refuse("wire", Wire::Rdma.name(), reason, way_out);
        let without =
            "on a machine without RDMA, `ci/soft-roce run -- target/release/underlay-bench ...` has it";
        if let Some(reason) = RdmaDevice::none_because() {
            return Err(refuse(reason, without));
        }
        RdmaWire::open(RdmaConfig::default()).map_err(|error| refuse(error.to_string(), without))?;
        let devices = RdmaDevice::all().unwrap_or_default();
        ends(given, &devices).ok_or_else(|| {
            let names: Vec<&str> = devices.iter().map(|device| &*device.name).collect();
            refuse(
                format!("no address is known of the devices {names:?}"),
                "name one that is theirs, such as that of IPoIB: --rdma-addresses ADDRESS",
            )
        })
    }
}

/// Of the devices the first one listens. The others connect from the first other device that is on the same network, so
/// that traffic crosses a link, or from the same one.
fn ends(given: &[IpAddr], devices: &[RdmaDevice]) -> Option<RdmaEnds> {
    if let Some(&listening) = given.first() {
        return Some(RdmaEnds { listening, connecting: given.get(1).copied() });
    }
    let mut with_address = devices.iter().filter(|device| !device.addresses.is_empty());
    let listening = *with_address.next()?.addresses.first()?;
    let mut others = with_address.flat_map(|device| &device.addresses);
    let connecting = others.find(|other| are_neighbours(listening, **other)).copied();
    Some(RdmaEnds { listening, connecting: connecting.or(Some(listening)) })
}

/// In networks of the usual size, which a device does not tell.
fn are_neighbours(one: IpAddr, other: IpAddr) -> bool {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => one.octets()[..3] == other.octets()[..3],
        (IpAddr::V6(one), IpAddr::V6(other)) => one.octets()[..8] == other.octets()[..8],
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, addresses: &[&str]) -> RdmaDevice {
        let mut device = RdmaDevice::default();
        device.name = name.to_owned();
        device.addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        device
    }

    fn found(given: &[&str], devices: &[RdmaDevice]) -> Option<(String, Option<String>)> {
        let given: Vec<IpAddr> = given.iter().map(|text| text.parse().unwrap()).collect();
        ends(&given, devices)
            .map(|ends| (ends.listening.to_string(), ends.connecting.map(|at| at.to_string())))
    }

    #[test]
    fn two_devices_of_one_network_are_the_two_ends() {
        let both = |one: &str, other: &str| Some((one.to_owned(), Some(other.to_owned())));
        let ib = device("mlx5_0", &[]);
        let one = device("rxe0", &["10.77.0.1", "fd77::1"]);
        let far = device("rxe1", &["10.78.0.2", "fd78::2"]);
        let other = device("rxe2", &["10.77.0.2", "fd77::2"]);
        assert_eq!(
            found(&[], &[ib.clone(), one.clone(), far.clone(), other]),
            both("10.77.0.1", "10.77.0.2")
        );
        assert_eq!(
            found(&[], &[one.clone(), far]),
            both("10.77.0.1", "10.77.0.1"),
            "one device is both ends"
        );
        assert_eq!(found(&[], &[ib]), None);
        assert_eq!(
            found(&["10.1.0.1", "10.2.0.1"], std::slice::from_ref(&one)),
            both("10.1.0.1", "10.2.0.1")
        );
        assert_eq!(found(&["10.1.0.1"], &[one]), Some(("10.1.0.1".to_owned(), None)));
    }
}
