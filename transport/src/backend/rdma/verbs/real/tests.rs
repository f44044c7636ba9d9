//! The contract of the seam over the devices of this machine, between two addresses that have one each:
//! `UNDERLAY_RDMA_ADDRESSES=10.77.0.1,10.77.0.2`. Without, nothing is tested, and that is said; or it is a failure, where
//! `UNDERLAY_REQUIRE_WIRES` names `rdma`.

#[path = "../../../../../tests/support/addresses.rs"]
mod addresses;

use super::super::contract::{ACCEPTING, CONNECTING, Ends, World, contract, send};
use super::super::{Operation, Status};
use super::RealVerbs;
use rdma_sys::{IBV_FORK_UNNEEDED, ibv_is_fork_initialized};
use std::env;
use std::io;
use std::thread;
use std::time::Duration;

const REQUIRED: &str = "UNDERLAY_REQUIRE_WIRES";

/// How long one look waits for the next.
const TURN: Duration = Duration::from_micros(200);

fn ends() -> Option<Ends<RealVerbs>> {
    let addresses = match addresses::of_devices() {
        Ok(addresses) => addresses,
        Err(missing) => {
            let required = env::var(REQUIRED).unwrap_or_default();
            assert!(
                !required.split(',').any(|wire| wire.trim() == "rdma"),
                "{REQUIRED}={required}, but {missing}"
            );
            eprintln!("skipped: {missing}");
            return None;
        }
    };
    Some(Ends {
        verbs: [RealVerbs::open().unwrap(), RealVerbs::open().unwrap()],
        addresses,
        pass: Box::new(|| {
            thread::sleep(TURN);
            true
        }),
    })
}

contract!(ends().into_iter());

/// What the parent registered, the child has as it was at the fork; and the parent and its devices go on with the same
/// pages, whoever writes to them first. Where the kernel does not see to it, the child does not have them (`fork`), and
/// only the parent's half is looked at.
#[test]
fn a_fork_leaves_registered_memory_to_the_parent_and_a_copy_to_the_child() {
    let Some(ends) = ends() else { return };
    let (mut world, link) = World::connected(ends);
    let [source, target] = [CONNECTING, ACCEPTING].map(|side| world.part(side, 0, 64));
    world.memory[CONNECTING].write(0, &[1; 128]);
    world.memory[ACCEPTING].write(0, &[2; 128]);
    // Posted before the fork, and written to by the device after it.
    world.receive(ACCEPTING, 1, &[target]);
    // SAFETY: it takes nothing.
    let has_child_memory = unsafe { ibv_is_fork_initialized() } == IBV_FORK_UNNEEDED;
    let child = Child::fork(|| {
        let is_as_it_was = |side: usize, byte: u8| {
            (0..128).all(|offset| {
                // SAFETY: registered and mapped, and the child's own copy: no device and no thread writes to it.
                unsafe { (world.memory[side].address(offset) as *const u8).read_volatile() == byte }
            })
        };
        !has_child_memory || (is_as_it_was(CONNECTING, 1) && is_as_it_was(ACCEPTING, 2))
    });
    // The parent writes first, then its devices read and write the same pages.
    world.memory[CONNECTING].write(0, &[3; 64]);
    world.memory[ACCEPTING].write(64, &[4; 64]);
    world.post_all(CONNECTING, &link, &[send(1, 0, &[source])]);
    assert_eq!(world.completion(CONNECTING).status, Status::SUCCESS);
    assert_eq!(world.completion(ACCEPTING).status, Status::SUCCESS);
    assert_eq!(world.memory[ACCEPTING].read(0, 64), [3; 64]);
    assert_eq!(world.memory[ACCEPTING].read(64, 64), [4; 64]);
    assert!(child.looks_and_is_content(), "the child does not have the memory as it was at the fork");
    // That it has ended takes nothing from the parent.
    let flushed = world.done(CONNECTING, &link, Operation::Flush, &[]);
    assert_eq!(flushed.status, Status::SUCCESS);
}

/// A forked process that looks at something when it is told to, and ends.
struct Child {
    process: libc::pid_t,
    /// Says that it is to look, by being closed.
    waits: Option<io::PipeWriter>,
}

impl Child {
    /// `look` may neither allocate nor lock nor panic: other threads may have been in the midst of that.
    fn fork(look: impl FnOnce() -> bool) -> Self {
        let (mut told, waits) = io::pipe().unwrap();
        // SAFETY: the child calls nothing but what is safe to call from a signal handler, and ends without unwinding.
        let process = unsafe { libc::fork() };
        assert!(process >= 0, "{}", io::Error::last_os_error());
        if process > 0 {
            return Self { process, waits: Some(waits) };
        }
        drop(waits);
        let is_told = io::Read::read(&mut told, &mut [0]).is_ok();
        let is_content = is_told && look();
        // SAFETY: it ends the child at once, and destroys nothing that is the parent's.
        unsafe { libc::_exit(if is_content { 0 } else { 1 }) }
    }

    fn looks_and_is_content(mut self) -> bool {
        self.waits = None;
        let mut status = 0;
        // SAFETY: the process is a child that nobody else waits for; the target is valid.
        let ended = unsafe { libc::waitpid(self.process, &raw mut status, 0) };
        // One that was ended by a signal is not content either.
        ended == self.process && status == 0
    }
}
