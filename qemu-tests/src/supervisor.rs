//! The rig's background process: it owns the namespaces and everything in them.
//!
//! Two stages of the same program. The outer one, in the user's own namespaces, opens the API server's port on 127.0.0.1, makes the
//! namespaces and waits. The inner one is PID 1 of a fresh PID namespace: bridge, control plane, DHCP, SNTP, registry and VMs are its
//! threads and children. When either dies, for whatever reason, the kernel kills the rest: nothing can leak.
//!
//! Callers talk over a unix socket ([`protocol`]); [`client`] is their side.
//! Absent: mounts, and names in `ip netns`: nothing is visible or left outside.

pub mod client;
mod forward;
mod machines;
mod monitor;
pub mod ns;
pub mod protocol;
mod run;
mod serve;
mod services;

pub use serve::default_address;
pub use services::{DECOY_PORT, REGISTRY_PORT};

use std::fs::{self, File};
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use crate::controlplane::{ControlPlane, plan};
use crate::dhcp::Leases;
use crate::dirs::Dirs;
use crate::pki::write_private;
use crate::registry::Shelf;

/// What a supervisor is told to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// Directory of the upstream programs.
    pub binaries: PathBuf,
    /// OCI layouts by image name, served to the nodes.
    pub images: Vec<PathBuf>,
}

/// What a running supervisor says of itself, in `run.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Running {
    pub pid: u32,
    /// The API server on 127.0.0.1.
    pub port: u16,
}

/// Everything the inner stage's threads share. Short critical sections only; nothing waits while holding it.
pub(crate) struct State {
    pub dirs: Dirs,
    pub control_plane: ControlPlane,
    pub machines: machines::Machines,
    pub leases: Leases,
    /// What the registry serves, and the layouts it began with.
    pub shelf: Shelf,
    pub images: Vec<PathBuf>,
    /// Machines that get no answer to SNTP.
    pub without_time: Vec<Ipv4Addr>,
    /// What happened that nobody asked for, oldest first.
    pub events: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<State>>);

impl Shared {
    /// A thread that panicked left values, not half-done pointers: the others go on.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The preferred port on 127.0.0.1; another is taken when it is in use.
const PREFERRED_PORT: u16 = 16443;

/// The outer stage. Returns when the inner one has ended.
pub fn outer(dirs: &Dirs) -> Result<()> {
    // Fails only for a process-group leader, which is a session of its own already or was started by hand.
    let _ = nix::unistd::setsid();
    let lock =
        File::create(dirs.lock()).with_context(|| format!("open {}", dirs.lock().display()))?;
    let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
        bail!("another rig cluster runs from {}", dirs.root.display());
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PREFERRED_PORT))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("open a port on 127.0.0.1")?;
    let port = listener
        .local_addr()
        .context("ask for the port on 127.0.0.1")?
        .port();
    let running = Running {
        pid: std::process::id(),
        port,
    };
    write_private(
        &dirs.run(),
        &serde_json::to_string(&running).context("write run.json")?,
    )?;
    let program = std::env::current_exe().context("find the rig's own program")?;
    // The write end lives exactly as long as this process: the inner stage does not inherit it.
    let (lifeline, _alive) = std::io::pipe().context("make a pipe")?;
    ns::enter()?;
    let mut inner = Command::new(program)
        .args(["supervise", "--inner", "--dir"])
        .arg(&dirs.root)
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::from(lifeline))
        .spawn()
        .context("start the inner supervisor")?;
    let status = wait(&mut inner, std::io::stdin()).context("wait for the inner supervisor");
    for file in [dirs.run(), dirs.control()] {
        // Best effort: a next `up` deletes them too.
        let _ = fs::remove_file(file);
    }
    match status? {
        status if status.success() => Ok(()),
        status => bail!("the inner supervisor ended with {status}"),
    }
}

/// The inner stage: PID 1 of its namespace. Descriptor 0 is the listening socket, descriptor 1 the lifeline.
pub fn inner(dirs: &Dirs) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .context("tie to the outer supervisor")?;
    let listener = TcpListener::from(
        std::io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .context("take the listening socket")?,
    );
    let lifeline = File::from(
        std::io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .context("take the lifeline")?,
    );
    std::thread::spawn(move || die_with(lifeline));
    ns::configure()?;
    let text = fs::read(dirs.spec()).with_context(|| format!("read {}", dirs.spec().display()))?;
    let spec: Spec = serde_json::from_slice(&text)
        .with_context(|| format!("parse {}", dirs.spec().display()))?;
    let programs = plan::programs(&dirs.pki(), &dirs.data(), &dirs.config());
    let shared = Shared(Arc::new(Mutex::new(State {
        dirs: dirs.clone(),
        control_plane: ControlPlane::new(programs.clone(), &spec.binaries, &dirs.logs()),
        machines: machines::Machines::default(),
        leases: Leases::default(),
        shelf: Shelf::default(),
        images: spec.images.clone(),
        without_time: Vec::new(),
        events: Vec::new(),
    })));
    forward::start(listener)?;
    services::start(&shared, &spec)?;
    // Those that are nothing without a ready API server give up when it takes long: they are started by whoever sees it ready.
    for program in programs
        .iter()
        .filter(|program| !plan::AFTER_READY.contains(&program.name))
    {
        shared.lock().control_plane.start(program.name, &[])?;
    }
    monitor::start(shared.clone())?;
    serve::run(&shared)
}

/// What a client says once it has hold of the cluster: from then on its connection decides.
const HELD: u8 = b'h';
/// How often the inner stage is looked at until then.
const TICK_MS: u8 = 100;

/// Waits for the inner stage, which is killed when `pipe`, from whoever started this process, is closed before it said [`HELD`]: that one was
/// killed in between, and nobody would ever end what runs. Without a thread: none can be made here any more (`clone(2)`, `CLONE_NEWPID`).
fn wait(inner: &mut Child, mut pipe: impl Read + AsFd) -> Result<ExitStatus> {
    loop {
        if let Some(status) = inner.try_wait().context("wait")? {
            return Ok(status);
        }
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(TICK_MS)) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error).context("watch the pipe"),
        }
        let mut byte = [0];
        if pipe.read_exact(&mut byte).is_ok() && byte == [HELD] {
            return inner.wait().context("wait");
        }
        eprintln!("supervisor: whoever started it is gone; the cluster ends");
        inner.kill().context("kill")?;
        return inner.wait().context("wait");
    }
}

/// Ends this process, and with it the whole PID namespace, when the outer stage is gone.
fn die_with(mut lifeline: File) {
    let mut byte = [0];
    // Nobody writes: a return means the other end is closed.
    let _ = lifeline.read(&mut byte);
    std::process::exit(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn shell(words: &str) -> Child {
        Command::new("sh").args(["-c", words]).spawn().unwrap()
    }

    #[test]
    fn a_client_that_was_killed_before_it_took_hold_ends_the_cluster() {
        let (pipe, client) = std::io::pipe().unwrap();
        drop(client);
        let status = wait(&mut shell("exec sleep 600"), pipe).unwrap();
        assert_eq!(status.code(), None);
    }

    #[test]
    fn a_client_that_took_hold_may_go() {
        let (pipe, mut client) = std::io::pipe().unwrap();
        client.write_all(&[HELD]).unwrap();
        drop(client);
        let status = wait(&mut shell("sleep 0.3; exit 3"), pipe).unwrap();
        assert_eq!(status.code(), Some(3));
        let (pipe, _client) = std::io::pipe().unwrap();
        let status = wait(&mut shell("exit 4"), pipe).unwrap();
        assert_eq!(status.code(), Some(4));
    }
}
