//! What a message costs over real devices, counted: system calls, allocations and copies of two drivers that are turned
//! on this thread.
//!
//! Soft-RoCE's provider makes a system call to ring its doorbell, so posting is counted apart from polling, of which it
//! makes none. Hardware has its doorbell in memory.

use crate::allocations::ALLOCATIONS;
use crate::config;
use crate::devices::Devices;
use crate::turned::Turned;
use underlay::driver::DriverStats;

/// One poll in so many asks the connection manager whether anything has happened to the channel.
const POLLS_UNTIL_LOOK: u64 = 256;

/// What that takes: one wait point has the descriptors of both.
const CALLS_OF_A_LOOK: u64 = 1;

fn sum(stats: &[DriverStats; 2], figure: fn(&DriverStats) -> u64) -> u64 {
    stats.iter().map(figure).sum()
}

/// What both did between the two.
fn more(before: &[DriverStats; 2], after: &[DriverStats; 2], figure: fn(&DriverStats) -> u64) -> u64 {
    sum(after, figure) - sum(before, figure)
}

#[cfg(target_arch = "x86_64")]
#[test]
fn polling_makes_no_system_call_and_a_message_is_one_post() {
    use crate::system_calls::system_calls_of;

    let Some(devices) = Devices::find("polling_makes_no_system_call_and_a_message_is_one_post") else {
        return;
    };
    for bytes in [64, 4096, 16_384] {
        let mut ends = Turned::open(&devices.any_port(), &config(&devices), bytes, 100);
        for (calls, turns) in [(200, 0), (0, 4 * POLLS_UNTIL_LOOK)] {
            let before = ends.stats();
            let made = system_calls_of(|| {
                (0..calls).for_each(|_| ends.call());
                (0..turns).for_each(|_| ends.turn());
            });
            let after = ends.stats();
            let (sends, turns) =
                (more(&before, &after, |stats| stats.sends), more(&before, &after, |stats| stats.turns));
            // Each of the two may be about to look.
            let looks = CALLS_OF_A_LOOK * (turns / POLLS_UNTIL_LOOK + 2);
            eprintln!("{bytes} bytes, {calls} round trips: {made:?}, {sends} sends, {turns} turns");
            assert!(sends <= 2 * calls + 2, "a message is a send, and now and then an acknowledgement is");
            assert!(made.count <= sends + looks, "{made:?} for {sends} sends in {turns} turns");
        }
    }
}

#[test]
fn messages_allocate_nothing_after_warm_up() {
    let Some(devices) = Devices::find("messages_allocate_nothing_after_warm_up") else { return };
    for bytes in [64, 1024, 16_384] {
        let mut ends = Turned::open(&devices.any_port(), &config(&devices), bytes, 300);
        let before = ALLOCATIONS.get();
        (0..200).for_each(|_| ends.call());
        assert_eq!(ALLOCATIONS.get() - before, 0, "{bytes} bytes");
    }
}

#[test]
fn no_body_of_4_kib_or_more_is_copied() {
    let Some(devices) = Devices::find("no_body_of_4_kib_or_more_is_copied") else { return };
    for bytes in [4096, 16_384, 65_536, 1 << 20] {
        let mut ends = Turned::open(&devices.any_port(), &config(&devices), bytes, 4);
        let before = ends.stats();
        (0..20).for_each(|_| ends.call());
        let after = ends.stats();
        assert_eq!(more(&before, &after, |stats| stats.pool.body_copies), 0, "{bytes} bytes");
        assert_eq!(more(&before, &after, |stats| stats.packing.bodies_beside_head), 0, "{bytes} bytes");
        let left = more(&before, &after, |stats| stats.packing.bodies_by_reference + stats.packing.offers);
        assert_eq!(left, 40, "{bytes} bytes: each is named where it lies, or read by its receiver");
    }
}
