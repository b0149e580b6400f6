//! The control plane as plain processes: what runs with which flags ([`plan`]), in which order it starts and stops ([`ControlPlane`]),
//! and the objects a fresh cluster needs ([`bootstrap`]).
//!
//! In: a directory with the upstream programs, the PKI, the addresses. Out: running processes and their log files.
//! Absent: restarts on failure. A control plane that dies is a finding, and the supervisor reports it.

pub mod bootstrap;
pub mod plan;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::api::Api;
use plan::Program;

/// How long an API server may take to write its last words. It is stopped before etcd: without etcd it needs over a minute.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
const READY_DEADLINE: Duration = Duration::from_secs(90);

pub struct ControlPlane {
    programs: Vec<Program>,
    running: Vec<(&'static str, Child)>,
    binaries: PathBuf,
    logs: PathBuf,
}

impl ControlPlane {
    pub fn new(programs: Vec<Program>, binaries: &Path, logs: &Path) -> Self {
        Self {
            programs,
            running: Vec::new(),
            binaries: binaries.to_owned(),
            logs: logs.to_owned(),
        }
    }

    /// Starts one program of the plan, with extra flags for a story that bends it.
    pub fn start(&mut self, name: &str, extra: &[String]) -> Result<()> {
        if self.running.iter().any(|(running, _)| *running == name) {
            bail!("start {name}: it runs already");
        }
        let program = self
            .programs
            .iter()
            .find(|program| program.name == name)
            .with_context(|| format!("start {name}: not in the plan"))?;
        let log_path = self.logs.join(format!("{name}.log"));
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .with_context(|| format!("open {}", log_path.display()))?;
        let child = Command::new(self.binaries.join(program.name))
            .args(&program.arguments)
            .args(extra)
            .stdin(Stdio::null())
            .stdout(
                log.try_clone()
                    .with_context(|| format!("open {}", log_path.display()))?,
            )
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {} from {}", program.name, self.binaries.display()))?;
        self.running.push((program.name, child));
        Ok(())
    }

    /// Hands over a running program, to be stopped with [`stop_child`] without holding anybody up.
    pub fn take(&mut self, name: &str) -> Result<Child> {
        let index = self
            .running
            .iter()
            .position(|(running, _)| *running == name)
            .with_context(|| format!("stop {name}: it does not run"))?;
        Ok(self.running.remove(index).1)
    }

    /// The API server first: it takes more than a minute to leave once etcd is gone.
    pub fn stop_all(&mut self) {
        for name in [
            "kube-scheduler",
            "kube-controller-manager",
            "kube-apiserver",
            "etcd",
        ] {
            let stopped = self.take(name).and_then(|mut child| stop_child(&mut child));
            if let Err(error) = stopped {
                eprintln!("control plane: stop {name}: {error:#}");
            }
        }
    }

    /// Programs that ended without being asked, with the last words of their logs. Each is told once.
    pub fn ended(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        let logs = self.logs.clone();
        self.running
            .retain_mut(|(name, child)| match child.try_wait() {
                Ok(Some(status)) => {
                    found.push(format!(
                        "{name} ended with {status}\n{}",
                        last_lines(&logs.join(format!("{name}.log")), 10)
                    ));
                    false
                }
                _ => true,
            });
        found
    }

    pub fn running(&self) -> Vec<String> {
        self.running
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect()
    }
}

/// Waits until the API server answers `/readyz`.
pub fn wait_ready(api: &Api, mut alive: impl FnMut() -> Vec<String>) -> Result<()> {
    let deadline = Instant::now() + READY_DEADLINE;
    loop {
        let refused = match api.text("/readyz") {
            Ok(_) => return Ok(()),
            Err(error) => format!("{error:#}"),
        };
        if let Some(ended) = alive().into_iter().next() {
            bail!("control plane: {ended}");
        }
        if Instant::now() > deadline {
            bail!(
                "control plane: not ready after {} s: {refused}",
                READY_DEADLINE.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// SIGTERM, then SIGKILL after a deadline.
pub fn stop_child(child: &mut Child) -> Result<()> {
    let pid = i32::try_from(child.id()).context("pid out of range")?;
    // The child may be gone already; waiting below tells.
    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    let deadline = Instant::now() + STOP_DEADLINE;
    while Instant::now() < deadline {
        if child.try_wait().context("wait")?.is_some() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().context("kill")?;
    child.wait().context("wait").map(drop)
}

/// The end of a log file, for messages. An unreadable file is said in place of its lines.
pub fn last_lines(path: &Path, count: usize) -> String {
    match fs::read(path) {
        Err(error) => format!("({}: {error})", path.display()),
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text
                .lines()
                .filter(|line| !line.trim().is_empty())
                .collect();
            lines[lines.len().saturating_sub(count)..].join("\n")
        }
    }
}
