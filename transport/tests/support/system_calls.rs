//! Counts the system calls of a thread, whoever makes them: this library, the C library, a device's provider.
//!
//! A seccomp filter traps every system call of the thread but those that come from one instruction, which is here. The
//! handler of the trap counts the call and makes it from there, so all goes on as if nothing were. A filter cannot be
//! taken off again: it stays for as long as the thread lives, and its children would have it without the handler, so
//! such a thread starts no process.

#![cfg(target_arch = "x86_64")]

use std::cell::Cell;
use std::sync::Once;

std::arch::global_asm!(
    ".globl underlay_counted_call",
    "underlay_counted_call:",
    "mov rax, rdi",
    "mov rdi, rsi",
    "mov rsi, rdx",
    "mov rdx, rcx",
    "mov r10, r8",
    "mov r8, r9",
    "mov r9, [rsp + 8]",
    "syscall",
    ".globl underlay_counted_call_end",
    "underlay_counted_call_end:",
    "ret",
);

unsafe extern "C" {
    /// The system call of this number, with these arguments, as the kernel answers it.
    fn underlay_counted_call(number: i64, a: i64, b: i64, c: i64, d: i64, e: i64, f: i64) -> i64;
    /// Where the kernel sees it come from.
    fn underlay_counted_call_end();
}

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
    /// The numbers of the first ones, for reports.
    static NUMBERS: Cell<[i32; 16]> = const { Cell::new([-1; 16]) };
    static IS_WATCHED: Cell<bool> = const { Cell::new(false) };
}

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Calls {
    pub(crate) count: u64,
    /// The numbers of the first 16, as in `asm/unistd_64.h`; -1 behind the last.
    pub(crate) numbers: [i32; 16],
}

/// The system calls that this thread makes in `act`.
pub(crate) fn system_calls_of(act: impl FnOnce()) -> Calls {
    if !IS_WATCHED.replace(true) {
        handle_traps();
        trap_this_thread();
    }
    CALLS.set(0);
    NUMBERS.set([-1; 16]);
    act();
    Calls { count: CALLS.get(), numbers: NUMBERS.get() }
}

extern "C" fn on_trap(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes the context in which the signal came, which is this thread's.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let at = |register: libc::c_int| registers[register as usize];
    let number = at(libc::REG_RAX);
    let seen = CALLS.get();
    CALLS.set(seen + 1);
    let mut numbers = NUMBERS.get();
    if let Some(place) = numbers.get_mut(seen as usize) {
        *place = number as i32;
    }
    NUMBERS.set(numbers);
    let [a, b, c, d, e, f] =
        [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX, libc::REG_R10, libc::REG_R8, libc::REG_R9].map(at);
    // SAFETY: it is the call that was about to be made, with its own arguments.
    let outcome = unsafe { underlay_counted_call(number, a, b, c, d, e, f) };
    registers[libc::REG_RAX as usize] = outcome;
}

fn handle_traps() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: zeros are a valid action, to which the handler and its flags are added; the handler touches nothing
        // but cells of its thread.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_trap as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
            assert_eq!(libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()), 0);
        }
    });
}

/// A statement of a filter.
fn statement(code: u32, value: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k: value }
}

/// A statement that goes on if what was loaded is `value`, and otherwise leaves `skipped` out.
fn unless_equal(value: u32, skipped: u8) -> libc::sock_filter {
    let code = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    libc::sock_filter { code: code as u16, jt: 0, jf: skipped, k: value }
}

fn trap_this_thread() {
    // Of `struct seccomp_data`: the number, and the two halves of the instruction's address.
    const NUMBER_AT: u32 = 0;
    const INSTRUCTION_AT: u32 = 8;
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let end = libc::BPF_RET | libc::BPF_K;
    let from = underlay_counted_call_end as *const () as u64;
    let mut filter = [
        statement(load, NUMBER_AT),
        unless_equal(libc::SYS_rt_sigreturn as u32, 1),
        statement(end, libc::SECCOMP_RET_ALLOW),
        statement(load, INSTRUCTION_AT),
        unless_equal(from as u32, 3),
        statement(load, INSTRUCTION_AT + 4),
        unless_equal((from >> 32) as u32, 1),
        statement(end, libc::SECCOMP_RET_ALLOW),
        statement(end, libc::SECCOMP_RET_TRAP),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program is valid during the calls, and the handler is there.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let outcome = libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program);
        assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
    }
}
