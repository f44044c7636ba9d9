//! Real processes under load, and what becomes of their messages when processes die, stop, or lose their connections.
//!
//! Brokers are the real binary; services, clients and producers are this test binary, started again as a [`part`] of a
//! play. Each part writes what it did to a log of its own, line by line, so that a `kill -9` loses nothing of it. A
//! [`ledger`] adds the logs up: what was sent against what its sender knows, and against what services handled. It is
//! printed, whether the test passes or not (`--no-capture` shows it).
//!
//! A play is a function of its [`stage`], which is one wire or the other, and a test on each: `tcp::` on any machine, and
//! `rdma::` between the devices that `UNDERLAY_RDMA_ADDRESSES` names, in the machine of `ci/soft-roce`.
//!
//! The load of all plays over TCP is 100,000 messages. Faults strike when so many outcomes are known, not after a time,
//! so they strike under load on any machine.

mod away;
mod body;
mod cast;
mod cuts;
mod deaths;
#[path = "../../../transport/tests/support/rdma.rs"]
mod devices;
mod ledger;
mod moves;
mod one_way;
mod part;
#[path = "../support/process.rs"]
mod process;
mod producer;
mod proxy;
mod stage;
mod stops;
#[path = "../support/mod.rs"]
mod support;
mod taker;

use stage::Stage;

/// Not a test: what a process does that another test has started. Without a part to play there is nothing to do.
#[test]
fn part_of_another_test() {
    if let Some(part) = part::Part::given() {
        part.play();
    }
}

/// A test of each play, named as the play is.
macro_rules! plays {
    ($($scene:ident::$play:ident;)*) => {
        /// Over TCP.
        mod tcp {
            $(#[test]
            fn $play() {
                crate::$scene::$play(&crate::Stage::tcp(stringify!($play)));
            })*
        }

        /// Over RDMA.
        mod rdma {
            $(#[test]
            fn $play() {
                crate::on_devices(stringify!($play), crate::$scene::$play);
            })*

            #[test]
            fn sessions_move_to_tcp_and_back_under_load() {
                let name = "sessions_move_to_tcp_and_back_under_load";
                crate::on_devices(name, crate::moves::sessions_move_to_tcp_and_back_under_load);
            }
        }
    };
}

plays! {
    away::messages_to_a_peer_that_is_away_are_pushed_back;
    cuts::connections_that_are_cut_leave_nothing_in_doubt;
    cuts::connections_killed_by_the_kernel_leave_nothing_in_doubt;
    deaths::brokers_that_are_killed_leave_in_doubt_only_what_was_on_its_way_through_them;
    deaths::services_that_are_killed_are_stood_in_for_by_others;
    one_way::what_was_produced_is_settled_whoever_dies;
    stops::a_service_that_is_stopped_for_a_moment_is_waited_for;
    stops::a_service_that_is_stopped_for_long_is_stood_in_for_and_comes_back;
    stops::a_broker_that_is_stopped_for_a_moment_is_waited_for;
    stops::a_broker_that_is_stopped_for_long_is_left_for_another;
}

fn on_devices(name: &'static str, play: impl FnOnce(&Stage)) {
    if let Some(stage) = Stage::rdma(name) {
        play(&stage);
    }
}
