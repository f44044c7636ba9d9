//! What must be there before the engine is used, looked at and tried, never assumed.

use super::provided::{GROUP, ProvidedBuffers};
use super::ring::Ring;
use ::io_uring::types::Fd;
use ::io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use std::ffi::CStr;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How many operations are queued before a system call is needed; a poll rarely queues more.
const SUBMISSIONS: u32 = 256;

/// How many completions there is room for; more of them wait in the kernel, which costs an allocation each.
const COMPLETIONS: u32 = 4096;

/// Operations that the engine uses, with their names.
const OPERATIONS: [(u8, &str); 7] = [
    (opcode::AcceptMulti::CODE, "accept"),
    (opcode::Connect::CODE, "connect"),
    (opcode::RecvMulti::CODE, "receive"),
    (opcode::Send::CODE, "send"),
    (opcode::SendMsg::CODE, "sendmsg"),
    (opcode::AsyncCancel2::CODE, "cancel"),
    (opcode::PollAdd::CODE, "poll"),
];

/// An io_uring as the engine needs it.
///
/// # Errors
/// The reason why there is none, for a person to read.
pub(super) fn open_ring() -> Result<Ring, String> {
    let ring = IoUring::builder()
        // One thread, whose calls run what the kernel has deferred: the cheapest completion there is.
        .setup_single_issuer()
        .setup_defer_taskrun()
        // A flag in shared memory says when there is something to run, so that an idle poll costs no system call.
        .setup_taskrun_flag()
        // One entry that is refused does not keep those behind it back.
        .setup_submit_all()
        .setup_cqsize(COMPLETIONS)
        .dontfork()
        .build(SUBMISSIONS)
        .map_err(|error| setup_reason(&error))?;
    let features = ring.params();
    if !features.is_feature_nodrop() || !features.is_feature_ext_arg() {
        return Err(missing("NODROP or EXT_ARG (Linux 5.11)"));
    }
    let mut probe = Probe::new();
    let probed = ring.submitter().register_probe(&mut probe);
    probed.map_err(|error| format!("asking for the operations that io_uring has: {error}"))?;
    match OPERATIONS.iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, name)) => Err(missing(&format!("the operation '{name}'"))),
        None => Ok(Ring::new(ring)),
    }
}

/// A multishot receive into provided buffers.
pub(super) fn receive_entry(descriptor: RawFd, has_bundles: bool) -> squeue::Entry {
    if has_bundles {
        opcode::RecvMultiBundle::new(Fd(descriptor), GROUP).build()
    } else {
        opcode::RecvMulti::new(Fd(descriptor), GROUP).build()
    }
}

/// Receives two pieces through a pair of sockets: no feature bit tells whether multishot receive is there.
///
/// # Errors
/// What was missing.
pub(super) fn try_receiving(
    ring: &mut Ring,
    buffers: &mut ProvidedBuffers,
    has_bundles: bool,
) -> Result<(), String> {
    let fail = |error: io::Error| format!("trying a multishot receive (Linux 6.0): {error}");
    let (mut writer, reader) = UnixStream::pair().map_err(fail)?;
    writer.write_all(b"?").map_err(fail)?;
    let entry = receive_entry(reader.as_raw_fd(), has_bundles);
    // SAFETY: it writes only to provided buffers; both stay until the final completion, or else are leaked.
    unsafe { ring.push(entry) };
    let Some(first) = one_completion(ring) else {
        return Err(give_up(reader, buffers));
    };
    let goes_on = cqueue::more(first.flags());
    let received = cqueue::buffer_select(first.flags()).map(|number| {
        let mut bytes = Vec::new();
        buffers.take(number, first.result().max(0) as usize, |segment| bytes.extend_from_slice(&segment));
        bytes
    });
    // A bundle that took the last buffer ends the receive; there, only its first piece can be tried.
    let has_more_buffers = buffers.available() > 0;
    drop(writer);
    if goes_on && one_completion(ring).is_none() {
        return Err(give_up(reader, buffers));
    }
    match received {
        Some(bytes) if bytes == b"?" && (goes_on || !has_more_buffers) => Ok(()),
        _ => Err(missing(&format!("multishot receive (it completed with {})", first.result()))),
    }
}

fn one_completion(ring: &mut Ring) -> Option<cqueue::Entry> {
    ring.wait(Some(Duration::from_secs(1))).ok()?;
    ring.next_completion()
}

/// The kernel did not complete, so it may still write: what it could write to is never freed.
fn give_up(reader: UnixStream, buffers: &mut ProvidedBuffers) -> String {
    std::mem::forget(reader);
    buffers.leak();
    missing("multishot receive (it did not complete)")
}

fn setup_reason(error: &io::Error) -> String {
    let hint = match error.raw_os_error() {
        Some(libc::EPERM) => "a seccomp profile forbids it, or kernel.io_uring_disabled is not 0".into(),
        Some(libc::ENOSYS) => format!("kernel {} was built without it", kernel_release()),
        Some(libc::EINVAL) => {
            format!("kernel {}; SINGLE_ISSUER and DEFER_TASKRUN need 6.1", kernel_release())
        }
        Some(libc::EMFILE | libc::ENFILE) => "no file descriptor is left; see ulimit -n".into(),
        Some(libc::ENOMEM) => "memory, or RLIMIT_MEMLOCK, is short".into(),
        _ => format!("kernel {}", kernel_release()),
    };
    format!("io_uring_setup: {error} ({hint})")
}

fn missing(what: &str) -> String {
    format!("kernel {} lacks {what}", kernel_release())
}

fn kernel_release() -> String {
    // SAFETY: all zero is a valid value: empty strings.
    let mut names: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: the target is valid.
    unsafe { libc::uname(&mut names) };
    // SAFETY: the kernel ends its strings with a zero within the field.
    unsafe { CStr::from_ptr(names.release.as_ptr()) }.to_string_lossy().into_owned()
}
