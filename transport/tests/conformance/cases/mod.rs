//! The cases, and which faults each of them has to find.

pub(crate) mod ending;
pub(crate) mod naming;
pub(crate) mod sending;
pub(crate) mod transfer;
pub(crate) mod waiting;

/// Calls `$then` with `[$args]` and every case, as `group::case => fault: message that it must fail with, ...;`.
///
/// A case without a fault does not fit the pattern, and a fault that no case finds is dead code, so the compiler keeps
/// this table whole.
macro_rules! for_each_case {
    ($then:ident, $($args:tt)*) => {
        $then! { [$($args)*]
            transfer::bytes_arrive_in_order_and_unchanged =>
                DropsASegment: "wrong at byte",
                DuplicatesASegment: "wrong at byte",
                SwapsTwoSegments: "wrong at byte",
                FlipsAByte: "wrong at byte";
            transfer::both_directions_flow_at_once => IsDeafWhileSending: "wrong at byte";
            transfer::many_channels_do_not_mix => MixesTwoChannels: "wrong at byte";
            transfer::the_largest_gather_list_arrives_whole => CutsLongLists: "waited in vain";
            transfer::a_large_amount_goes_through_small_pools => DropsASegmentLate: "wrong at byte";
            transfer::received_segments_never_change => WritesIntoReceivedBuffers: "has changed";
            transfer::no_body_is_copied => CopiesBodies: "was copied";

            sending::one_send_in_flight_is_enforced =>
                TakesASecondSend: "a second send was taken",
                EmptiesRefusedLists: "stays as it was";
            sending::sent_comes_once_for_each_send =>
                LosesASent: "waited in vain",
                SaysSentTwice: "Sent without a send in flight";
            sending::after_sent_the_next_send_is_taken => SaysSentEarly: "was refused after Sent";
            sending::segments_are_held_until_sent_and_released_afterwards =>
                ReleasesEarly: "are held while the send is in flight",
                NeverReleases: "waited in vain";
            sending::a_blocked_send_goes_on_when_the_peer_reads => ForgetsBlockedSends: "waited in vain";
            sending::a_peer_that_never_reads_blocks_only_its_own_channel => BlocksAllForOne: "waited in vain";

            ending::sends_on_closed_and_unknown_channels_are_refused => TakesSendsOnClosedChannels: "was taken";
            ending::a_close_is_seen_once_at_both_ends_behind_what_was_sent =>
                IgnoresClose: "waited in vain",
                NeverClosesThePeer: "waited in vain",
                ClosesTwice: "after Closed",
                CallsEveryEndAPeers: "closed by this end",
                LosesTheTail: "before the close";
            ending::nothing_comes_after_closed => ReceivesAfterClosed: "after Closed";
            ending::old_names_touch_no_newer_channel => IgnoresGenerations: "an old name";
            ending::all_buffers_come_back => KeepsASegment: "buffers are out";
            ending::a_dropped_wire_ends_its_channels => NeverClosesThePeer: "waited in vain";

            naming::a_stopped_listener_keeps_its_channels_and_takes_no_more =>
                EndsChannelsWithTheirListener: "closed its channel",
                KeepsListening: "after the listener was stopped";
            naming::connecting_to_nobody_fails_with_an_event =>
                ConnectsToNobody: "connected to nobody",
                FailsSilently: "waited in vain";
            naming::bad_addresses_are_refused => TakesAnyAddress: "was taken";
            naming::an_address_in_use_is_refused => SharesAddresses: "listened at twice";

            waiting::a_sleep_ends_with_data => SleepsThrough: "slept through";
            waiting::a_sleep_ends_with_a_new_channel => SleepsThrough: "slept through";
            waiting::a_sleep_ends_with_a_watched_descriptor => ForgetsWatchedDescriptors: "slept through";
            waiting::a_sleep_ends_with_its_timeout => Oversleeps: "overslept";
            waiting::an_idle_wire_sleeps => NeverSleeps: "busy";
        }
    };
}
