//! The sandbox process: holds a pod's namespaces, reaps orphans, ends on `SIGTERM` or `SIGINT`.
//!
//! In: nothing but signals. Out: exit code 0. 110 of these run on a node, so a release build for the target has neither
//! standard library nor C library: one page of code, one of stack. Any other build (tests, lints) is an ordinary program
//! over the same loop. Deliberately absent: signal handlers (signals are waited for, so none can interrupt), children of
//! its own.

#![cfg_attr(all(bare, not(test)), no_std, no_main)]
#![allow(
    unsafe_code,
    reason = "five raw system calls and the entry point are all this program is; linking kedge-sys would pull in the standard library"
)]

mod kernel;

use kernel::Reaped;

const SIGINT: u32 = 2;
const SIGTERM: u32 = 15;
const SIGCHLD: u32 = 17;

/// Signal sets are one bit per signal, from bit 0 for signal 1.
const WAITED: u64 = bit(SIGINT) | bit(SIGTERM) | bit(SIGCHLD);

const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Reap,
    End,
    Nothing,
}

fn asked(signal: u32) -> Asked {
    match signal {
        SIGCHLD => Asked::Reap,
        SIGINT | SIGTERM => Asked::End,
        _ => Asked::Nothing,
    }
}

/// Waits until told to end.
///
/// The signals are blocked first: one that arrives before the wait stays pending, so none is lost; and a blocked signal
/// reaches even PID 1 of a namespace, where unhandled ones are dropped.
fn run() {
    kernel::block(WAITED);
    loop {
        // Orphans may have ended before the signals were blocked, and several ends make one SIGCHLD.
        while kernel::reap() == Reaped::One {}
        if asked(kernel::wait(WAITED)) == Asked::End {
            return;
        }
    }
}

#[cfg(not(all(bare, not(test))))]
fn main() {
    run();
}

/// Where the kernel starts the program (`build.rs` makes it the entry). Its arguments are not used. The stack pointer is
/// aligned at entry, while a function expects the 8 bytes of a return address on top: hence a call.
#[cfg(all(bare, not(test)))]
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn kedge_pause_start() -> ! {
    #[cfg(target_arch = "x86_64")]
    core::arch::naked_asm!("xor ebp, ebp", "call {}", "ud2", sym start);
    #[cfg(target_arch = "aarch64")]
    core::arch::naked_asm!("mov x29, xzr", "mov x30, xzr", "b {}", sym start);
}

#[cfg(all(bare, not(test)))]
extern "C" fn start() -> ! {
    run();
    kernel::exit()
}

#[cfg(all(bare, not(test)))]
#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    kernel::exit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waited_signals_are_int_term_and_child() {
        assert_eq!(WAITED, 0b1_0100_0000_0000_0010);
        assert_eq!(asked(SIGCHLD), Asked::Reap);
        assert_eq!(asked(SIGTERM), Asked::End);
        assert_eq!(asked(SIGINT), Asked::End);
        assert_eq!(asked(0), Asked::Nothing, "an interrupted wait");
    }
}
