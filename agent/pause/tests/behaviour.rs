//! The program itself, started as a process: it reaps what others left, and ends when told to.
#![expect(
    clippy::disallowed_methods,
    reason = "the test starts a process as its subject; the ban is for programs that run on the node"
)]

use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

/// Starts the program from a shell that leaves it a child (shell's `&` before `exec`).
fn start(left_behind: &str) -> Guard {
    let script = format!("{left_behind} exec {}", env!("CARGO_BIN_EXE_kedge-pause"));
    let shell = Command::new("/bin/sh").args(["-c", &script]).spawn();
    Guard(shell.expect("a shell"))
}

/// Waits up to 10 s for `value` to give something.
fn eventually<T>(what: &str, mut value: impl FnMut() -> Option<T>) -> T {
    for _ in 0..1000 {
        if let Some(found) = value() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}: not within 10 s");
}

/// Ends the program when a test fails before it does.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // It may have ended already; there is nobody left to tell.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waiting for signals: from here on none can be lost. (Its blocked signals do not show: the wait unblocks them.)
fn wait_until_ready(child: &Guard) {
    const RT_SIGTIMEDWAIT: &str = if cfg!(target_arch = "x86_64") {
        "128 "
    } else {
        "137 "
    };
    let proc = format!("/proc/{}", child.0.id());
    eventually("ready", || {
        let name = std::fs::read_to_string(format!("{proc}/comm")).ok()?;
        let call = std::fs::read_to_string(format!("{proc}/syscall")).ok()?;
        (name.trim() == "kedge-pause" && call.starts_with(RT_SIGTIMEDWAIT)).then_some(())
    });
}

fn end(mut child: Guard, signal: &str) -> ExitStatus {
    let killed = Command::new("kill")
        .args([signal, &child.0.id().to_string()])
        .status()
        .expect("kill");
    assert!(killed.success());
    eventually("exit", || child.0.try_wait().expect("wait"))
}

#[test]
fn term_and_int_end_it_with_code_0() {
    for signal in ["-TERM", "-INT"] {
        let child = start("");
        wait_until_ready(&child);
        assert_eq!(end(child, signal).code(), Some(0), "{signal}");
    }
}

#[test]
fn children_it_did_not_start_are_reaped() {
    // The first has ended before the program starts, or not; the second ends when its input does.
    let child = start("true & cat /dev/null &");
    wait_until_ready(&child);
    let id = child.0.id();
    eventually("no children", || {
        let list = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        list.trim().is_empty().then_some(())
    });
    assert_eq!(end(child, "-TERM").code(), Some(0));
}
