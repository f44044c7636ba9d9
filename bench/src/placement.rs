//! Which process runs on which core.
//!
//! Placement decides more than most code does: waking a process on another core that sleeps costs tens
//! of microseconds, on the same core a few. So every figure names its placement. Children are started
//! while the starting thread is pinned where they belong: they inherit its mask, and so does each
//! thread that they start later.

use std::io;

use clap::ValueEnum;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid as NixPid;

use crate::error::BenchError;
use crate::plan::Topology;
use crate::subject::Role;

/// How the processes of a run are placed on cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Placement {
    /// Wherever the scheduler puts them: what users run.
    Unpinned,
    /// All on the first core that this process may use.
    OneCore,
    /// Client and service on the first core, the broker on the second; without a broker, the client on
    /// the first and the service on the second.
    Split,
}

impl Placement {
    /// The name, as typed and as reported.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unpinned => "unpinned",
            Self::OneCore => "one-core",
            Self::Split => "split",
        }
    }
}

/// A placement on the cores of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    placement: Placement,
    topology: Topology,
    /// The cores that the placement uses; the same twice if it uses one.
    cores: Option<(usize, usize)>,
}

impl Layout {
    /// Lays a placement out on `allowed` cores (see [`cores_allowed`]).
    ///
    /// # Errors
    /// There are fewer cores than the placement needs.
    pub fn new(placement: Placement, topology: Topology, allowed: &[usize]) -> Result<Self, BenchError> {
        let cores = match (placement, allowed) {
            (Placement::Unpinned, _) => None,
            (Placement::OneCore, [first, ..]) => Some((*first, *first)),
            (Placement::Split, [first, second, ..]) => Some((*first, *second)),
            (Placement::OneCore | Placement::Split, _) => {
                return Err(BenchError::Option {
                    option: "placement",
                    value: placement.name().to_owned(),
                    limit: format!("needs two cores and this process may use {}", allowed.len()),
                    way_out: "use one-core or unpinned, or allow another core (taskset, cpuset)".to_owned(),
                });
            }
        };
        Ok(Self { placement, topology, cores })
    }

    /// The placement that is laid out.
    #[must_use]
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// The core that a role is pinned to; `None` if it is not pinned.
    #[must_use]
    pub fn core_of(&self, role: Role) -> Option<usize> {
        let (first, second) = self.cores?;
        let goes_second = match self.topology {
            Topology::Broker => role == Role::Broker,
            Topology::Direct => role == Role::Service,
        };
        Some(if goes_second { second } else { first })
    }

    /// Pins the calling thread, and what it starts from now on, to where `role` belongs, until the
    /// returned guard is dropped. Without a pinned placement nothing changes.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn enter(&self, role: Role) -> Result<Pinned, BenchError> {
        match self.core_of(role) {
            Some(core) => Pinned::to(core),
            None => Ok(Pinned { before: None }),
        }
    }
}

/// A thread pinned for a while; dropping it restores the mask from before.
#[derive(Debug)]
#[must_use = "the thread is pinned until this is dropped"]
pub struct Pinned {
    before: Option<CpuSet>,
}

impl Pinned {
    fn to(core: usize) -> Result<Self, BenchError> {
        let refused = |errno| BenchError::Pin { core, source: io::Error::from(errno) };
        let before = sched_getaffinity(THIS_THREAD).map_err(refused)?;
        let mut only = CpuSet::new();
        only.set(core).map_err(refused)?;
        sched_setaffinity(THIS_THREAD, &only).map_err(refused)?;
        Ok(Self { before: Some(before) })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Widening back to a mask that this thread had cannot be refused, unless the cpuset changed
            // meanwhile; then the kernel has moved the thread itself.
            let _ = sched_setaffinity(THIS_THREAD, before);
        }
    }
}

/// The cores that the calling thread may run on, lowest first; empty if the kernel does not say.
#[must_use]
pub fn cores_allowed() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(THIS_THREAD) else { return Vec::new() };
    (0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false)).collect()
}

/// To the scheduler's calls, zero is the calling thread.
const THIS_THREAD: NixPid = NixPid::from_raw(0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_puts_the_broker_apart_and_without_a_broker_the_service() {
        let broker = Layout::new(Placement::Split, Topology::Broker, &[4, 6, 7]).unwrap();
        let cores = [Role::Client, Role::Broker, Role::Service].map(|role| broker.core_of(role));
        assert_eq!(cores, [Some(4), Some(6), Some(4)]);
        let direct = Layout::new(Placement::Split, Topology::Direct, &[4, 6]).unwrap();
        assert_eq!([direct.core_of(Role::Client), direct.core_of(Role::Service)], [Some(4), Some(6)]);
    }

    #[test]
    fn one_core_and_unpinned() {
        let one = Layout::new(Placement::OneCore, Topology::Broker, &[3, 5]).unwrap();
        assert_eq!([Role::Client, Role::Broker, Role::Service].map(|role| one.core_of(role)), [Some(3); 3]);
        let unpinned = Layout::new(Placement::Unpinned, Topology::Broker, &[3]).unwrap();
        assert_eq!(unpinned.core_of(Role::Broker), None);
    }

    #[test]
    fn split_on_one_core_says_what_to_do() {
        let error = Layout::new(Placement::Split, Topology::Broker, &[0]).unwrap_err().to_string();
        assert!(error.contains("--placement split: needs two cores"), "{error}");
        assert!(error.contains("use one-core or unpinned"), "{error}");
    }

    #[test]
    fn a_pinned_thread_passes_its_core_on_to_children_and_gets_its_mask_back() {
        let before = cores_allowed();
        let last = *before.last().unwrap();
        let layout = Layout::new(Placement::OneCore, Topology::Broker, &[last]).unwrap();
        {
            let _pinned = layout.enter(Role::Client).unwrap();
            assert_eq!(cores_allowed(), [last]);
            let output = std::process::Command::new("grep")
                .args(["Cpus_allowed_list", "/proc/self/status"])
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            assert_eq!(text.split_whitespace().nth(1), Some(last.to_string().as_str()));
        }
        assert_eq!(cores_allowed(), before);
    }
}
