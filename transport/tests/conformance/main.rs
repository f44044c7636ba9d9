//! The conformance suite: what every wire promises, case by case, and each case seen to fail.
//!
//! A case is a function over a [`Bench`](bench::Bench): three ends of one wire with a pool each, on one thread. It knows
//! nothing of the wire but the contract in `underlay::backend`. The list at the bottom of `cases/mod.rs` names, for each
//! case, the faults that it must find; [`Broken`](broken::Broken) puts such a fault around the wire under test, and
//! the case has to fail with the message that the list gives. So a case cannot pass because it looks at nothing.
//!
//! A wire under test is a [`Subject`](subject::Subject) in `subjects/`, and one line of `instances!` below. A wire
//! that this machine lacks is reported as skipped, by name and with the reason; `UNDERLAY_REQUIRE_WIRES`, a list of
//! names with commas, makes that a failure. `UNDERLAY_SEED` repeats a run, whose seed a failure prints.

#[macro_use]
mod cases;
mod bench;
mod broken;
mod content;
mod subject;
mod subjects;

macro_rules! instances {
    ($($module:ident: $subject:ty),+ $(,)?) => {
        $(
            mod $module {
                for_each_case!(tests_of, $subject);
            }
        )+

        #[test]
        fn wires_that_are_required_are_in_this_suite() {
            subject::check_required(&[$(<$subject as subject::Subject>::NAME),+]);
        }
    };
}

macro_rules! tests_of {
    ([$subject:ty] $($group:ident::$case:ident => $($fault:ident: $text:literal),+;)+) => {
        $(
            #[test]
            fn $case() {
                crate::subject::run::<$subject>(crate::cases::$group::$case);
            }
        )+

        mod each_case_is_seen_to_fail {
            $(
                #[test]
                fn $case() {
                    let faults = [$((crate::broken::Fault::$fault, $text)),+];
                    crate::broken::see_it_fail::<$subject>(crate::cases::$group::$case, &faults);
                }
            )+
        }
    };
}

instances! {
    inproc: crate::subjects::inproc::Inproc,
    tcp_io_uring: crate::subjects::tcp::TcpIoUring,
    tcp_epoll: crate::subjects::tcp::TcpEpoll,
    rdma: crate::subjects::rdma::Rdma,
}
