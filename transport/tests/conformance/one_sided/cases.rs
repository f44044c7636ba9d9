//! The cases.

use super::bench::{HERE, Subject, THERE};
use super::{Bench, Going};

fn content(tag: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at as u8).wrapping_mul(31).wrapping_add(tag)).collect()
}

/// Bodies of all sizes, several at a time; each read ends once.
pub(crate) fn what_is_exposed_is_read_as_it_is<S: Subject>(bench: impl Fn(Going) -> Bench<S>) {
    let mut bench = bench(Going::Well);
    let channels = bench.connect(0);
    for round in 0..8 {
        let sizes = [1, 4_096, 65_536 + round, 300_000];
        let bodies = sizes.map(|size| content(round as u8, size));
        let reads = bodies.each_ref().map(|bytes| {
            let body = bench.body(bytes);
            let (exposure, descriptor) = bench.expose(0, channels[HERE], &body);
            (exposure, bench.read(0, channels[THERE], &descriptor, bytes.len() as u64))
        });
        for ((exposure, read), bytes) in reads.into_iter().zip(&bodies) {
            let found = bench.wait_for_outcome(read).expect("what is exposed can be read");
            assert!(found == *bytes, "a read of {} bytes has brought other bytes", bytes.len());
            bench.withdraw(0, channels[HERE], exposure);
        }
        (0..20).for_each(|_| bench.go_on());
    }
    bench.is_clean();
}

/// Never is a part of a body taken for it.
pub(crate) fn a_read_that_fails_half_way_says_so_or_ends_its_channel<S: Subject>(
    bench: impl Fn(Going) -> Bench<S>,
) {
    let mut bench = bench(Going::Wrong);
    for _ in 0..16 {
        let channels = bench.connect(0);
        let body = bench.body(&content(1, 10_000));
        let (exposure, descriptor) = bench.expose(0, channels[HERE], &body);
        let read = bench.read(0, channels[THERE], &descriptor, 10_000);
        let has_ended =
            move |bench: &Bench<S>| bench.outcome(read).is_some() || bench.has_closed(0, channels);
        bench.wait("the end of a read", has_ended);
        assert!(!matches!(bench.outcome(read), Some(Ok(_))), "a read that had to fail was done");
        if !bench.has_closed(0, channels) {
            bench.withdraw(0, channels[HERE], exposure);
            bench.close(0, channels);
        }
    }
    bench.is_clean();
}

/// Whoever waits for it can give it up by closing, and hears no more of it.
pub(crate) fn a_read_that_never_ends_ends_with_its_channel<S: Subject>(bench: impl Fn(Going) -> Bench<S>) {
    let mut bench = bench(Going::Nowhere);
    let channels = bench.connect(0);
    let body = bench.body(&content(2, 10_000));
    let (_, descriptor) = bench.expose(0, channels[HERE], &body);
    drop(body);
    let read = bench.read(0, channels[THERE], &descriptor, 10_000);
    (0..200).for_each(|_| bench.go_on());
    assert!(bench.outcome(read).is_none(), "it was to end never");
    bench.close(0, channels);
    (0..200).for_each(|_| bench.go_on());
    bench.is_clean();
}

/// Before a read has begun, and while it is under way: then it may have been quicker.
pub(crate) fn what_is_withdrawn_is_read_no_more<S: Subject>(bench: impl Fn(Going) -> Bench<S>) {
    let mut bench = bench(Going::Well);
    let mut channels = bench.connect(0);
    let body = bench.body(&content(3, 10_000));
    let (exposure, descriptor) = bench.expose(0, channels[HERE], &body);
    drop(body);
    let read = bench.read(0, channels[THERE], &descriptor, 10_000);
    bench.withdraw(0, channels[HERE], exposure);
    let found = bench.wait_for_outcome(read);
    assert!(found.is_err() || found == Ok(content(3, 10_000)), "a body that was never exposed");
    if found.is_err() && bench.has_failed(0, channels) {
        channels = bench.connect(0);
    }
    // Again, and one that never was: nothing happens.
    bench.withdraw(0, channels[HERE], exposure);
    bench.withdraw(0, channels[HERE], exposure + 1_000);

    let body = bench.body(&content(4, 10_000));
    let (exposure, descriptor) = bench.expose(0, channels[HERE], &body);
    bench.withdraw(0, channels[HERE], exposure);
    drop(body);
    let read = bench.read(0, channels[THERE], &descriptor, 10_000);
    bench.wait("the end of a read", move |bench| {
        bench.outcome(read).is_some() || bench.has_closed(0, channels)
    });
    assert!(!matches!(bench.outcome(read), Some(Ok(_))), "a body was read after it was withdrawn");
    bench.is_clean();
}

/// A key is good for one peer, however another one came by it.
pub(crate) fn what_was_offered_to_another_is_not_read<S: Subject>(bench: impl Fn(Going) -> Bench<S>) {
    let mut bench = bench(Going::Well);
    let (one, another) = (bench.connect(0), bench.connect(0));
    let body = bench.body(&content(7, 10_000));
    let (_, descriptor) = bench.expose(0, one[HERE], &body);
    let read = bench.read(0, another[THERE], &descriptor, 10_000);
    let found = bench.wait_for_outcome(read);
    assert!(found.is_err(), "a body was read that was offered to another peer");
    // The one that it was offered to may still have it.
    let read = bench.read(0, one[THERE], &descriptor, 10_000);
    assert!(bench.wait_for_outcome(read) == Ok(content(7, 10_000)), "others have disturbed an offer");
}

/// Also not what lies in the same memory.
pub(crate) fn beyond_what_was_offered_nothing_is_read<S: Subject>(bench: impl Fn(Going) -> Bench<S>) {
    let mut bench = bench(Going::Well);
    let bodies = [8, 9, 10].map(|tag| bench.body(&content(tag, 16_384)));
    let mut channels = bench.connect(0);
    let (_, descriptor) = bench.expose(0, channels[HERE], &bodies[1]);
    for index in 0..bench.beyond(&descriptor).len() {
        channels = bench.connect(0);
        let (_, descriptor) = bench.expose(0, channels[HERE], &bodies[1]);
        let beyond = bench.beyond(&descriptor).swap_remove(index);
        let read = bench.read(0, channels[THERE], &beyond, 16_384);
        let found = bench.wait_for_outcome(read);
        assert!(found.is_err(), "something was read beyond what was offered ({index})");
    }
    if bench.beyond(&descriptor).is_empty() {
        // Nothing can be said that is not in the descriptor; a longer body than the one that was offered can.
        let read = bench.read(0, channels[THERE], &descriptor, 16_385);
        let found = bench.wait_for_outcome(read);
        assert!(found.is_err(), "something was read beyond what was offered");
    }
}

/// A session that changes its wire offers the same body anew; what was said of it on the old one is worth nothing.
pub(crate) fn what_could_not_be_read_is_offered_again_on_another_wire<S: Subject>(
    bench: impl Fn(Going) -> Bench<S>,
) {
    let mut bench = bench(Going::Well);
    let old = bench.connect(0);
    let bytes = content(5, 100_000);
    let body = bench.body(&bytes);
    let (_, stale) = bench.expose(0, old[HERE], &body);
    bench.read(0, old[THERE], &stale, bytes.len() as u64);
    // It ends with its channel, if it was not quicker.
    bench.close(0, old);
    let new = bench.connect(1);
    let (exposure, descriptor) = bench.expose(1, new[HERE], &body);
    let read = bench.read(1, new[THERE], &descriptor, bytes.len() as u64);
    let found = bench.wait_for_outcome(read).expect("what is exposed can be read");
    assert!(found == bytes, "the second offer has brought other bytes");
    bench.withdraw(1, new[HERE], exposure);
    drop(body);
    bench.is_clean();
}

/// Its buffers are not used again for something else meanwhile.
pub(crate) fn a_body_that_is_dropped_early_is_held_as_long_as_it_is_exposed<S: Subject>(
    bench: impl Fn(Going) -> Bench<S>,
) {
    let mut bench = bench(Going::Well);
    let channels = bench.connect(0);
    let bytes = content(6, 100_000);
    let body = bench.body(&bytes);
    let (exposure, descriptor) = bench.expose(0, channels[HERE], &body);
    drop(body);
    bench.go_on();
    // Whatever was free is written to.
    let others: Vec<_> = (0..20).map(|tag| bench.body(&content(tag, 100_000))).collect();
    let read = bench.read(0, channels[THERE], &descriptor, bytes.len() as u64);
    let found = bench.wait_for_outcome(read);
    assert!(found.is_ok(), "a body that was exposed was not read: {found:?}");
    assert!(found == Ok(bytes), "a body that was dropped has brought other bytes");
    bench.withdraw(0, channels[HERE], exposure);
    drop(others);
    bench.is_clean();
}
