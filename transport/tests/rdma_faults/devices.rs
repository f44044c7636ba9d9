//! Devices that are removed, and made again.

use crate::link::goes_on;
use crate::machine::Machine;
use crate::pair::Pair;

#[test]
fn devices_that_are_removed_under_load_end_their_channels_by_name_and_sessions_go_on_when_they_are_back() {
    let Some(machine) = Machine::of_test("devices that are removed under load") else { return };
    let mut pair = Pair::connected("devices that are removed under load, each end's once");
    pair.until_under_load("there is traffic", |pair| pair.sent() > 300);
    for (place, wires) in [(0, &["rdma"][..]), (1, &["rdma", "rdma"])] {
        renew_device(&machine, &mut pair, place);
        goes_on(&mut pair, wires);
    }
    let ledger = pair.close();
    let is_named = |reason: &String| reason.contains("the RDMA device was removed");
    assert!(ledger.losses.keys().any(is_named), "{:?}", ledger.losses);
    ledger.lost_nothing();
}

/// Removes both devices, which every process has to let go of, and makes them again.
pub(crate) fn renew_devices(machine: &Machine, pair: &mut Pair) {
    for place in [0, 1] {
        renew_device(machine, pair, place);
    }
}

fn renew_device(machine: &Machine, pair: &mut Pair, place: usize) {
    let mut removal = machine.remove_device(place);
    pair.until_under_load("it has let go of the device", |_| {
        removal.try_wait().expect("it can be asked").is_some_and(|status| {
            assert!(status.success(), "{status}");
            true
        })
    });
    machine.add_device(place);
}
