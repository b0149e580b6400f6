//! Long programs inside the namespace (`e2e.test`, `critest`), tied to the connection that asked for them.
//!
//! In: words, environment, a log file, the caller's socket. Out: the exit code. When the caller goes away, however it ends, the whole
//! process group is killed. Absent: input, and any limit of time: that is the caller's to decide by leaving.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::socket::{MsgFlags, recv};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How long killed processes are waited for: one that hangs in the kernel is left to the end of the namespace.
const REAP: Duration = Duration::from_secs(5);
/// How often the child and the caller are looked at.
const TICK_MS: u8 = 200;

/// Runs until the program ends or the caller leaves. -1: killed by a signal.
pub fn run(
    caller: &UnixStream,
    argv: &[String],
    env: &[(String, String)],
    log: &Path,
) -> Result<i32> {
    let (program, arguments) = argv.split_first().context("run: no program")?;
    let log_file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("open {}", log.display()))?;
    let mut child = Command::new(program)
        .args(arguments)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log_file.try_clone().context("share the log")?)
        .stderr(log_file)
        .process_group(0)
        .spawn()
        .with_context(|| format!("run {program}"))?;
    let group = Group(Pid::from_raw(
        i32::try_from(child.id()).context("a process id is too large")?,
    ));
    wait(&mut child, caller, &group).with_context(|| format!("run {program}"))
}

/// Killed when dropped: what a program leaves behind ends with it.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // Usually nothing is left to kill.
        let _ = killpg(self.0, Signal::SIGKILL);
        self.reap();
    }
}

impl Group {
    /// The supervisor is the first process of its namespace: whoever lost a parent is its child, and stays as a zombie until it is waited for.
    fn reap(&self) {
        let group = Pid::from_raw(-self.0.as_raw());
        let deadline = Instant::now() + REAP;
        while Instant::now() < deadline {
            match waitpid(group, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(10)),
                Ok(_) => {}
                // None of the group is ours.
                Err(_) => return,
            }
        }
    }
}

fn wait(child: &mut Child, caller: &UnixStream, group: &Group) -> Result<i32> {
    loop {
        if let Some(status) = child.try_wait().context("wait")? {
            return Ok(status.code().unwrap_or(-1));
        }
        if gone(caller)? {
            killpg(group.0, Signal::SIGKILL).context("kill what it left")?;
            child.wait().context("wait")?;
            bail!("the caller is gone");
        }
    }
}

/// Waits one tick for the caller to leave. It says nothing while its program runs.
fn gone(caller: &UnixStream) -> Result<bool> {
    let mut fds = [PollFd::new(caller.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::from(TICK_MS)) {
        Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(false),
        Ok(_) => {}
        Err(error) => return Err(error).context("watch the caller"),
    }
    let mut byte = [0];
    use std::os::fd::AsRawFd;
    match recv(caller.as_raw_fd(), &mut byte, MsgFlags::MSG_PEEK) {
        Ok(0) | Err(nix::errno::Errno::ECONNRESET) => Ok(true),
        Ok(_) => bail!("the caller spoke while its program ran"),
        Err(error) => Err(error).context("watch the caller"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        ["sh", "-c", line].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_program_writes_its_log_and_gives_its_code() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let (caller, _other) = UnixStream::pair().unwrap();
        let env = [("NAME".to_owned(), "value".to_owned())];
        let code = run(&caller, &words("echo $NAME; exit 3"), &env, &log).unwrap();
        assert_eq!(code, 3);
        assert_eq!(std::fs::read_to_string(log).unwrap(), "value\n");
    }

    #[test]
    fn when_the_caller_leaves_children_of_the_program_die_too() {
        // As the supervisor does: orphans are ours to wait for.
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let (caller, other) = UnixStream::pair().unwrap();
        let runner = std::thread::spawn({
            let log = log.clone();
            move || run(&caller, &words("sleep 600 & echo $!; wait"), &[], &log)
        });
        let pid = crate::wait::until("the pid", std::time::Duration::from_secs(20), || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            text.trim()
                .parse::<i32>()
                .map_err(|error| error.to_string())
        })
        .unwrap();
        drop(other);
        let error = runner.join().unwrap().unwrap_err();
        assert!(format!("{error:#}").contains("the caller is gone"));
        crate::wait::until(
            "the child's end",
            std::time::Duration::from_secs(20),
            || {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                crate::wait::check(stat.is_empty(), || stat.clone())
            },
        )
        .unwrap();
    }
}
