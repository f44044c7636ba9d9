//! Round-trip benchmarks for Underlay.
//!
//! What lives here: the orchestration of rounds between systems, the floor (bare relays over plain
//! sockets that say what this machine allows), the statistics and the reports. What is under test is
//! behind [`subject::Subject`]; nothing but the implementations of that trait knows what a system is
//! made of.
//!
//! What it promises: rounds are interleaved, ratios are paired by round, warm-up is apart, every
//! reply's payload is checked, and each figure names the placement of its processes on cores.
//!
//! What it must never know: Underlay's insides. It measures what any application could.
//!
//! # Layout
//!
//! | module | what it is |
//! | --- | --- |
//! | [`cli`], [`plan`] | options as typed in, and the plan that they amount to once validated |
//! | [`subject`] | the thing under test, and what a round asks of it |
//! | [`floor`] | the relays that share no code with Underlay |
//! | [`underlay`] | the system under test: client, broker and service |
//! | [`payload`], [`aligned`] | bodies, and the check that every system does on each reply |
//! | [`child`], [`placement`], [`cpu_time`] | processes: started, pinned, accounted for, never left behind |
//! | [`roundtrip`], [`statistics`] | the run: rounds in seeded order, medians, paired bootstrap intervals |
//! | [`counts`] | round trips on one thread, to be counted rather than timed |
//! | [`sans_io`] | messages between two ends without a wire, for the same purpose |
//! | [`failover`] | how long calls take to go on when something breaks |
//! | [`verbs`] | ours beside the raw programs on the same RDMA devices |
//! | [`report`], [`host`] | table, JSON and chart, and the machine they were taken on |

#![forbid(unsafe_code)]

pub mod aligned;
pub mod child;
pub mod cli;
pub mod counts;
pub mod cpu_time;
pub mod error;
pub mod failover;
pub mod floor;
pub mod host;
pub mod payload;
pub mod placement;
pub mod plan;
pub mod rdma;
pub mod report;
pub mod roundtrip;
pub mod sans_io;
pub mod statistics;
pub mod subject;
pub mod underlay;
pub mod verbs;
