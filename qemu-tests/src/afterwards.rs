//! A command that runs when this process is done with something, however it ends: by return, by error, by `kill -9`.
//!
//! In: a command. A shell that waits holds the reading end of a pipe whose writing end is ours alone; when that closes, the shell becomes the
//! command. Out: nothing; what the command says is thrown away, and whoever needs its effect looks for it.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// Dropping it runs the command and waits for its end.
#[must_use]
pub struct Afterwards {
    shell: Child,
}

impl Afterwards {
    pub fn run(command: &Command) -> Result<Self> {
        let mut shell = Command::new("sh");
        shell
            // Nobody writes: the end of `read` is the end of the other side.
            .args(["-c", "read -r _; exec \"$@\" </dev/null", "sh"])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C in a terminal is for the others.
            .process_group(0);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let shell = shell
            .spawn()
            .with_context(|| format!("start a shell for {:?}", command.get_program()))?;
        Ok(Self { shell })
    }
}

impl Drop for Afterwards {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        // A command that failed has no one to tell.
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait;
    use std::time::Duration;

    #[test]
    fn the_command_runs_at_the_end_and_not_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mark");
        let mut command = Command::new("sh");
        command.args(["-c", "echo \"$WORD\" >\"$0\""]).arg(&path);
        command.env("WORD", "done");
        let mut afterwards = Afterwards::run(&command).unwrap();
        assert!(afterwards.shell.try_wait().unwrap().is_none() && !path.exists());
        drop(afterwards);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "done\n");
    }

    #[test]
    fn a_holder_that_is_killed_is_an_end_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mark");
        let mut command = Command::new("touch");
        command.arg(&path);
        let mut afterwards = Afterwards::run(&command).unwrap();
        // Another process takes over the pipe's only writing end, and is killed.
        let pipe = afterwards.shell.stdin.take().unwrap();
        let mut holder = Command::new("sleep")
            .arg("600")
            .stdout(Stdio::from(pipe))
            .spawn()
            .unwrap();
        assert!(afterwards.shell.try_wait().unwrap().is_none() && !path.exists());
        holder.kill().unwrap();
        holder.wait().unwrap();
        wait::until("the mark", Duration::from_secs(20), || {
            wait::check(path.exists(), || "not there".into())
        })
        .unwrap();
    }
}
