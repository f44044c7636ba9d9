//! What a wire with one-sided reads promises (`underlay::backend::OneSided`), case by case, and each case seen to fail.
//!
//! As in the suite around it, a case knows nothing of the wire but its contract. It stands on a [`Bench`]: two ends, with a
//! pool each, and two ways between them, so that what cannot be read on one can be offered again on the other. How reads
//! are to go is asked of the wire under test, a [`Subject`]; one that cannot have its reads fail or hang cannot be shown to
//! be right about that. The table of [`for_each_case`] names the faults that each case has to find, as
//! `conformance/cases/mod.rs` does, and [`Broken`](broken::Broken) has them.
//!
//! A crate whose tests have such a wire includes this file and says `for_each_case!(tests_of, Its)`.

mod bench;
mod broken;
pub(crate) mod cases;
#[path = "../../support/forwarding.rs"]
pub(crate) mod forwarding;

pub(crate) use bench::{Bench, Subject};
pub(crate) use broken::{Fault, see_it_fail};

/// How the reads of a wire under test go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Going {
    /// All are done.
    Well,
    /// Each fails when it has begun: it says so, or takes its channel along.
    Wrong,
    /// None ever ends.
    Nowhere,
}

macro_rules! for_each_case {
    ($then:ident, $($args:tt)*) => {
        $then! { [$($args)*]
            what_is_exposed_is_read_as_it_is =>
                FlipsAByte: "other bytes",
                LosesReads: "waited in vain",
                SaysReadsTwice: "was told of before";
            a_read_that_fails_half_way_says_so_or_ends_its_channel =>
                HidesFailures: "was done",
                LosesReads: "waited in vain",
                KeepsBodies: "buffers are out";
            a_read_that_never_ends_ends_with_its_channel =>
                ReadsAfterClosed: "has closed",
                KeepsBodies: "buffers are out";
            what_is_withdrawn_is_read_no_more =>
                IgnoresWithdrawals: "was read after",
                KeepsBodies: "buffers are out";
            what_was_offered_to_another_is_not_read =>
                ReadsWhateverIsAsked: "was offered to another";
            beyond_what_was_offered_nothing_is_read =>
                ReadsWhateverIsAsked: "beyond what was offered";
            what_could_not_be_read_is_offered_again_on_another_wire =>
                FlipsAByte: "other bytes",
                KeepsBodies: "buffers are out";
            a_body_that_is_dropped_early_is_held_as_long_as_it_is_exposed =>
                LetsGoEarly: "was not read",
                KeepsBodies: "buffers are out";
        }
    };
}
pub(crate) use for_each_case;

macro_rules! tests_of {
    ([$subject:ty] $($case:ident => $($fault:ident: $text:literal),+;)+) => {
        $(
            #[test]
            fn $case() {
                if let Some(reason) = <$subject as suite::Subject>::missing() {
                    return suite::skip(&reason);
                }
                suite::cases::$case(|going| suite::Bench::<$subject>::new(going, None));
            }
        )+

        mod each_case_is_seen_to_fail {
            use super::suite;

            $(
                #[test]
                fn $case() {
                    if let Some(reason) = <$subject as suite::Subject>::missing() {
                        return suite::skip(&reason);
                    }
                    let faults = [$((suite::Fault::$fault, $text)),+];
                    let case = |fault| suite::cases::$case(
                        move |going| suite::Bench::<$subject>::new(going, fault),
                    );
                    suite::see_it_fail(case, &faults);
                }
            )+
        }
    };
}
pub(crate) use tests_of;

/// A wire that this machine lacks. Where `UNDERLAY_REQUIRE_WIRES` is set, nothing may be skipped.
pub(crate) fn skip(reason: &str) {
    let required = std::env::var("UNDERLAY_REQUIRE_WIRES").unwrap_or_default();
    assert!(required.is_empty(), "UNDERLAY_REQUIRE_WIRES is '{required}', and {reason}");
    eprintln!("SKIPPED: one-sided reads: {reason}");
}
