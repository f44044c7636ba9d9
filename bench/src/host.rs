//! The machine that figures were taken on.
//!
//! Reads what decides over latencies: the processor, the kernel, whether io_uring may be used, the
//! clock, huge pages, and whether somebody keeps the cores from sleeping deeply. What cannot be read is
//! reported as unknown, never guessed.

use std::fs;
use std::io::Read;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::{placement, underlay};

/// What is known about this machine and this build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Model of the processor.
    pub cpu_model: String,
    /// Cores that are online.
    pub cores: usize,
    /// Cores that this process may run on.
    pub cores_allowed: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// `allowed`, or `refused: ` with the reason that the wire gives when it is opened on it.
    pub io_uring: String,
    /// The kernel's clock source.
    pub clock_source: String,
    /// Mode of transparent huge pages.
    pub transparent_huge_pages: String,
    /// `held at N us` if some process keeps `/dev/cpu_dma_latency` open below its default, which wakes
    /// cores sooner; `not held`; or `unknown` if the device cannot be read.
    pub cpu_dma_latency: String,
    /// When the run began, in UTC (RFC 3339).
    pub date: String,
    /// Commit of the build, with `+changes` if the tree had any; `None` if it is not known.
    pub commit: Option<String>,
    /// Profile of the build: figures from `debug` mean nothing.
    pub build: String,
    /// Engines that the run left out because this machine refuses them.
    #[serde(default)]
    pub skipped_engines: Vec<SkippedEngine>,
}

/// An engine that was to be measured and could not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedEngine {
    /// Its name.
    pub engine: String,
    /// Why the machine refuses it.
    pub reason: String,
}

/// How [`Host::io_uring`] begins where it is refused; the reason follows.
const REFUSED: &str = "refused: ";

impl Host {
    /// Looks at this machine. Opens the wire on io_uring and closes it, to see whether that is allowed and the
    /// kernel has all that the wire needs.
    #[must_use]
    pub fn inspect() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self {
            cpu_model: cpu_model(&read("/proc/cpuinfo")),
            cores: cores_in_list(&read("/sys/devices/system/cpu/online")),
            cores_allowed: placement::cores_allowed().len(),
            kernel: known(read("/proc/sys/kernel/osrelease")),
            io_uring: io_uring(),
            clock_source: known(read("/sys/devices/system/clocksource/clocksource0/current_clocksource")),
            transparent_huge_pages: selected(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
            cpu_dma_latency: cpu_dma_latency(),
            date: rfc3339(now),
            commit: option_env!("UNDERLAY_BENCH_COMMIT").map(str::to_owned),
            build: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            skipped_engines: Vec::new(),
        }
    }

    /// Why io_uring may not be used here; `None` if it may.
    #[must_use]
    pub fn io_uring_refusal(&self) -> Option<&str> {
        self.io_uring.strip_prefix(REFUSED)
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn known(text: String) -> String {
    if text.is_empty() { "unknown".to_owned() } else { text }
}

fn cpu_model(cpuinfo: &str) -> String {
    let line = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    known(
        line.and_then(|line| line.split_once(':'))
            .map_or(String::new(), |(_, model)| model.trim().to_owned()),
    )
}

/// Counts the cores of a list such as `0-3,6`; 0 if it is empty or not such a list.
fn cores_in_list(list: &str) -> usize {
    list.split(',').filter_map(cores_in_range).sum()
}

fn cores_in_range(range: &str) -> Option<usize> {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
    Some((last + 1).saturating_sub(first))
}

/// The option in brackets, as in `always [madvise] never`.
fn selected(options: &str) -> String {
    let inside = options.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    known(inside.map_or(String::new(), |(option, _)| option.to_owned()))
}

fn io_uring() -> String {
    match underlay::io_uring_refusal() {
        None => "allowed".to_owned(),
        Some(reason) => format!("{REFUSED}{reason}"),
    }
}

/// Reading the device gives the bound in force, in microseconds, as a native 32-bit integer; opening it
/// makes a request of its own at the default, which changes nothing
/// (Documentation/power/pm_qos_interface.rst).
fn cpu_dma_latency() -> String {
    /// `PM_QOS_CPU_LATENCY_DEFAULT_VALUE`.
    const DEFAULT_US: i32 = 2_000_000_000;
    let mut value = [0; 4];
    let outcome = fs::File::open("/dev/cpu_dma_latency").and_then(|mut device| device.read_exact(&mut value));
    match outcome.map(|()| i32::from_ne_bytes(value)) {
        Ok(latency_us) if latency_us < DEFAULT_US => format!("held at {latency_us} us"),
        Ok(_) => "not held".to_owned(),
        Err(error) => format!("unknown: {error}"),
    }
}

/// Seconds since 1970 as a date in UTC, by Howard Hinnant's `civil_from_days`.
fn rfc3339(seconds: u64) -> String {
    let (days, in_day) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (in_day / 3_600, in_day / 60 % 60, in_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_known_seconds() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(951_868_800), "2000-03-01T00:00:00Z");
        assert_eq!(rfc3339(1_767_225_599), "2025-12-31T23:59:59Z");
    }

    #[test]
    fn lists_of_cores() {
        assert_eq!(cores_in_list("0-3,6"), 5);
        assert_eq!(cores_in_list("0"), 1);
        assert_eq!(cores_in_list(""), 0);
    }

    #[test]
    fn the_selected_option() {
        assert_eq!(selected("always [madvise] never"), "madvise");
        assert_eq!(selected(""), "unknown");
    }

    #[test]
    fn the_model_of_the_processor() {
        assert_eq!(cpu_model("vendor_id\t: X\nmodel name\t: Some CPU @ 2 GHz\n"), "Some CPU @ 2 GHz");
        assert_eq!(cpu_model(""), "unknown");
    }

    #[test]
    fn this_machine_has_a_kernel_and_a_core() {
        let host = Host::inspect();
        assert_ne!(host.kernel, "unknown");
        assert!(host.cores >= 1 && host.cores_allowed >= 1, "{host:?}");
    }
}
