//! The five system calls of the sandbox process, by number (`arch/*/include/generated/uapi/asm/unistd_64.h`).
//!
//! In: plain integers. Out: plain integers; an error is what leads to trying again.

use core::arch::asm;

/// The outcome of one attempt to reap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaped {
    /// An orphan is gone; there may be more.
    One,
    /// None has ended.
    None,
}

#[cfg(target_arch = "x86_64")]
mod number {
    pub const RT_SIGPROCMASK: usize = 14;
    pub const WAIT4: usize = 61;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    #[cfg(all(bare, not(test)))]
    pub const EXIT_GROUP: usize = 231;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub const RT_SIGPROCMASK: usize = 135;
    pub const WAIT4: usize = 260;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    #[cfg(all(bare, not(test)))]
    pub const EXIT_GROUP: usize = 94;
}

/// Size of the kernel's signal set, which every call with a set wants to hear.
const SET_BYTES: usize = 8;

/// Blocks the signals of `set`, so that they wait for [`wait`].
pub fn block(set: u64) {
    const SIG_BLOCK: usize = 0;
    let set = &raw const set;
    // SAFETY: `set` points to a live u64, as long as the size says; the kernel only reads it, and writes no old set.
    unsafe {
        call(
            number::RT_SIGPROCMASK,
            [SIG_BLOCK, set as usize, 0, SET_BYTES],
        )
    };
}

/// Waits for one of the signals of `set` and gives its number; 0 when the wait was interrupted.
pub fn wait(set: u64) -> u32 {
    let set = &raw const set;
    // SAFETY: `set` points to a live u64, as long as the size says; no information is asked for and no time-out given.
    let signal = unsafe { call(number::RT_SIGTIMEDWAIT, [set as usize, 0, 0, SET_BYTES]) };
    u32::try_from(signal).unwrap_or(0)
}

/// Reaps one ended child of any kind, without waiting.
pub fn reap() -> Reaped {
    const ANY: usize = usize::MAX;
    const WNOHANG: usize = 1;
    // SAFETY: both result pointers are null, which the kernel takes as "not wanted".
    if unsafe { call(number::WAIT4, [ANY, 0, WNOHANG, 0]) } > 0 {
        Reaped::One
    } else {
        Reaped::None
    }
}

/// Ends the program with code 0.
#[cfg(all(bare, not(test)))]
pub fn exit() -> ! {
    loop {
        // SAFETY: takes no pointers and does not return.
        unsafe { call(number::EXIT_GROUP, [0; 4]) };
    }
}

/// One system call with up to four arguments.
///
/// # Safety
/// The arguments must be what the call with this number expects; pointers must stay valid across it.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, arguments: [usize; 4]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention: number in rax, arguments in rdi, rsi, rdx, r10; it changes rax, rcx and r11
    // and leaves the stack alone. Memory effects are the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// One system call with up to four arguments.
///
/// # Safety
/// The arguments must be what the call with this number expects; pointers must stay valid across it.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, arguments: [usize; 4]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention: number in x8, arguments in x0 to x3, result in x0; it leaves the stack
    // alone. Memory effects are the caller's promise.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") arguments[0] => result,
            in("x1") arguments[1],
            in("x2") arguments[2],
            in("x3") arguments[3],
            options(nostack),
        );
    }
    result
}
