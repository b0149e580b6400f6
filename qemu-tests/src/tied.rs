//! Programs that end with the rig: those it runs outside of its namespaces, for minutes.
//!
//! In: a program. Out: a command that runs it under util-linux's `setpriv`, by which the kernel kills it when the thread that started it ends
//! without waiting, as in a `kill -9` of the rig (prctl(2), `PR_SET_PDEATHSIG`). Absent: its own children; a compiler that `go` or `cargo` has
//! started finishes the one file that it is at.

use std::ffi::OsStr;
use std::process::Command;

pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn a_program_ends_with_the_thread_that_started_it() {
        let started = std::thread::spawn(|| {
            let mut child = command("sh")
                .args(["-c", "echo; exec sleep 600"])
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            // It runs, so that the signal has been set.
            let mut line = [0];
            std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
            child
        });
        let mut child = started.join().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn words_and_the_exit_code_pass_through() {
        let output = command("sh")
            .args(["-c", "echo \"$0 $WORD\"; exit 3", "-a"])
            .env("WORD", "b")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(output.stdout, b"-a b\n");
    }
}
