//! Processes of a run: started where they belong, never left behind.
//!
//! A child says that it is ready by one line on its standard output. Its standard input is a pipe that
//! is held open by its starter and carries nothing: when the starter ends, however it ends, the pipe
//! closes and the child exits ([`exit_when_orphaned`]). Dropping a [`ChildProcess`] kills that one
//! process, by its id, and waits for it.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::BenchError;
use crate::placement::Layout;
use crate::subject::{Pid, Role};

/// How long a child may take to say that it is ready.
pub const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest ready line in bytes.
const READY_LINE_BYTES_MAX: usize = 4096;

/// A running child. Dropping it kills the process and waits until it is gone.
#[derive(Debug)]
pub struct ChildProcess {
    child: Child,
    role: Role,
}

impl ChildProcess {
    /// Starts `command` at the place that `layout` gives to `role`, waits for its first line of output
    /// and returns it beside the process, without its end. Its standard error stays ours.
    ///
    /// # Errors
    /// The program cannot be started, or does not print a line within [`READY_TIMEOUT`].
    pub fn start(mut command: Command, role: Role, layout: &Layout) -> Result<(Self, String), BenchError> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = {
            let _pinned = layout.enter(role)?;
            command.spawn().map_err(|source| BenchError::Spawn {
                role,
                program: command.get_program().into(),
                source,
            })?
        };
        let mut process = Self { child, role };
        let line = process.ready_line()?;
        Ok((process, line))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.child.id()
    }

    /// Kills it with SIGKILL and does not wait until it is gone.
    ///
    /// # Errors
    /// It was waited for before.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()
    }

    /// Role and process id, as [`crate::subject::Subject::processes`] wants them.
    #[must_use]
    pub fn identity(&self) -> (Role, Pid) {
        (self.role, self.pid())
    }

    fn ready_line(&mut self) -> Result<String, BenchError> {
        let Some(mut output) = self.child.stdout.take() else { return Ok(String::new()) };
        let deadline = Instant::now() + READY_TIMEOUT;
        let mut printed = Vec::new();
        while !printed.ends_with(b"\n") && printed.len() < READY_LINE_BYTES_MAX {
            if !read_byte(&mut output, &mut printed, deadline).map_err(BenchError::io("read a ready line"))? {
                let printed = String::from_utf8_lossy(&printed).into_owned();
                return Err(BenchError::NotReady { role: self.role, waited: READY_TIMEOUT, printed });
            }
        }
        self.child.stdout = Some(output);
        Ok(String::from_utf8_lossy(&printed).trim_end().to_owned())
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // Fails only if it has exited already; it is waited for either way, so no zombie stays.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes this process exit when its standard input ends, that is when whoever started it is gone.
/// Starts one thread that sleeps until then.
///
/// # Errors
/// The thread cannot be started.
pub fn exit_when_orphaned() -> Result<(), BenchError> {
    let wait_for_end = || {
        let mut ignored = [0; 256];
        let mut input = io::stdin().lock();
        loop {
            match input.read(&mut ignored) {
                Ok(0) => std::process::exit(0),
                Err(error) if error.kind() != io::ErrorKind::Interrupted => std::process::exit(0),
                Ok(_) | Err(_) => {}
            }
        }
    };
    let thread = std::thread::Builder::new().name("orphan-watch".to_owned());
    thread.spawn(wait_for_end).map_err(BenchError::io("start the thread that watches standard input"))?;
    Ok(())
}

/// Reads one byte; false at the end of the stream or after the deadline. Byte by byte, so that what
/// follows the line is left unread; a ready line is short and comes once.
fn read_byte(output: &mut ChildStdout, into: &mut Vec<u8>, deadline: Instant) -> io::Result<bool> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    let mut interest = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
    if poll(&mut interest, timeout)? == 0 {
        return Ok(false);
    }
    let mut byte = [0];
    let count = output.read(&mut byte)?;
    into.extend_from_slice(&byte[..count]);
    Ok(count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Placement;
    use crate::plan::Topology;

    fn unpinned() -> Layout {
        Layout::new(Placement::Unpinned, Topology::Broker, &[0]).unwrap()
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn the_ready_line_is_returned_and_the_child_dies_with_its_handle() {
        let (process, line) =
            ChildProcess::start(shell("echo ready 127.0.0.1:1; exec cat"), Role::Broker, &unpinned())
                .unwrap();
        assert_eq!(line, "ready 127.0.0.1:1");
        let entry = format!("/proc/{}", process.pid());
        assert!(std::path::Path::new(&entry).exists());
        drop(process);
        assert!(!std::path::Path::new(&entry).exists(), "killed and reaped");
    }

    #[test]
    fn a_child_that_ends_without_a_ready_line_is_reported_with_what_it_printed() {
        let error = ChildProcess::start(shell("printf half"), Role::Service, &unpinned()).unwrap_err();
        assert!(
            matches!(&error, BenchError::NotReady { role: Role::Service, printed, .. } if printed == "half")
        );
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let error =
            ChildProcess::start(Command::new("/nowhere/at-all"), Role::Broker, &unpinned()).unwrap_err();
        assert!(error.to_string().contains("cannot start the broker (/nowhere/at-all)"), "{error}");
    }
}
