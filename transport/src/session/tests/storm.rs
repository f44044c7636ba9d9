//! A thousand clients that are cut off at once.

use super::rig::{MILLISECOND, SECOND};
use crate::session::SessionConfig;
use crate::session::reconnect::Reconnect;
use crate::time::Timestamp;
use std::time::Duration;

const CLIENTS: u64 = 1_000;

/// So long a bin is.
const BIN: Duration = Duration::from_millis(10);

/// The broker is back after this time; attempts before it fail.
const AWAY: Duration = Duration::from_millis(300);

/// Attempts to connect, by bin, of clients whose connections are lost at the same moment, until all are back.
fn attempts(config: &SessionConfig, away: Duration) -> Vec<usize> {
    let cut_at = Timestamp::ZERO + 60 * SECOND;
    let mut bins = Vec::new();
    for seed in 0..CLIENTS {
        let mut client = Reconnect::new(1, config, seed);
        client.begin(0, Timestamp::ZERO);
        client.succeeded(config, Timestamp::ZERO);
        client.interrupted(false, config, cut_at);
        loop {
            let now = client.next_timeout(true, config);
            assert_eq!(client.poll(true, config, now), Some(0));
            let after = now.since(cut_at);
            let bin = (after.as_nanos() / BIN.as_nanos()) as usize;
            bins.resize(bins.len().max(bin + 1), 0);
            bins[bin] += 1;
            if after >= away {
                break;
            }
            client.failed(true, config, now);
        }
    }
    bins
}

fn chart(title: &str, bins: &[usize]) {
    println!("{title}");
    for (index, count) in bins.iter().enumerate() {
        let bar = "#".repeat(count.div_ceil(10));
        println!("{:>6} ms {count:>5} {:>7}/s {bar}", index * 10, count * 100);
    }
}

fn without_spread() -> SessionConfig {
    SessionConfig { reconnect_spread: Duration::ZERO, ..SessionConfig::default() }
}

#[test]
fn a_thousand_clients_cut_off_at_once_come_back_spread_out() {
    let (before, after) = (without_spread(), SessionConfig::default());
    let together = attempts(&before, Duration::ZERO);
    let spread = attempts(&after, Duration::ZERO);
    chart("connects without a spread (reconnect_spread 0):", &together);
    chart("connects with the defaults (reconnect_spread 100 ms):", &spread);
    assert_eq!(together, [1_000], "all at the same moment");
    assert_eq!(spread.iter().sum::<usize>(), 1_000);
    assert_eq!(spread.len(), 10, "all are back within the spread");
    assert!(spread.iter().all(|count| (60..=140).contains(count)), "{spread:?}");
}

/// The same when the broker is away for a while, so that attempts fail and are made again.
#[test]
fn a_thousand_clients_do_not_meet_again_by_their_retries() {
    let (before, after) = (without_spread(), SessionConfig::default());
    let (together, spread) = (attempts(&before, AWAY), attempts(&after, AWAY));
    chart("attempts without a spread, away for 300 ms:", &together);
    chart("attempts with the defaults, away for 300 ms:", &spread);
    assert!(together[0] == 1_000);
    assert!(spread.iter().all(|&count| count <= 250), "{spread:?}");
    let last = Duration::from_millis(10 * spread.len() as u64);
    assert!(last <= SECOND + 100 * MILLISECOND, "{last:?}");
}
