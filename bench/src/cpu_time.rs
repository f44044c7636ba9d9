//! CPU time of processes, from outside.
//!
//! Each process has a CPU clock that others may read (`clock_getcpuclockid(3)`). It has nanosecond
//! resolution and counts user and kernel time of all threads, those that run at this moment included;
//! `/proc/PID/stat` counts in ticks of 10 ms, far too coarse for a round of some milliseconds. Time
//! that the kernel spends for a process in interrupts is not in it.

use std::io;
use std::time::Duration;

use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};

use crate::error::BenchError;
use crate::subject::{Pid, Role};

/// The CPU clocks of the processes of one system.
#[derive(Debug)]
pub struct CpuClocks {
    clocks: Vec<(Role, Pid, ClockId)>,
}

impl CpuClocks {
    /// Finds the clocks of `processes`.
    ///
    /// # Errors
    /// A process does not exist, or is not ours to see.
    pub fn of(processes: &[(Role, Pid)]) -> Result<Self, BenchError> {
        let clock_of = |&(role, pid): &(Role, Pid)| {
            let clock = clock_getcpuclockid(nix::unistd::Pid::from_raw(pid as i32))
                .map_err(|errno| unreadable(role, pid, errno))?;
            Ok((role, pid, clock))
        };
        Ok(Self { clocks: processes.iter().map(clock_of).collect::<Result<_, BenchError>>()? })
    }

    /// The CPU time that all of them together have used so far. One system call each.
    ///
    /// # Errors
    /// A process has exited.
    pub fn total(&self) -> Result<Duration, BenchError> {
        let mut total = Duration::ZERO;
        for &(role, pid, clock) in &self.clocks {
            let time = clock_gettime(clock).map_err(|errno| unreadable(role, pid, errno))?;
            total += Duration::from(time);
        }
        Ok(total)
    }
}

fn unreadable(role: Role, pid: Pid, errno: nix::errno::Errno) -> BenchError {
    BenchError::CpuClock { role, pid, source: io::Error::from(errno) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_clock_advances_with_work_and_counts_finer_than_ticks() {
        let clocks = CpuClocks::of(&[(Role::Client, std::process::id())]).unwrap();
        let before = clocks.total().unwrap();
        let mut sum = 0_u64;
        while clocks.total().unwrap() == before {
            sum = std::hint::black_box(sum + 1);
        }
        let step = clocks.total().unwrap() - before;
        assert!(!step.subsec_nanos().is_multiple_of(10_000_000), "whole ticks: {step:?}");
    }

    #[test]
    fn a_process_that_does_not_exist_is_named() {
        // Above the largest pid that Linux ever gives (PID_MAX_LIMIT, 2^22).
        let error = CpuClocks::of(&[(Role::Service, 1 << 23)]).unwrap_err().to_string();
        assert!(error.contains("service (pid 8388608)"), "{error}");
    }
}
